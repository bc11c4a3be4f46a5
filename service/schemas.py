"""Request and response bodies: strict, unknown fields refused, bounds that also show in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from models.encoder.levels import Level

COLLECTION_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
ITEM_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_IMAGE_PATTERN = r"^(data:image/(jpeg|png|webp);base64,)?[A-Za-z0-9+/]+={0,2}$"
_MAX_CONDITIONS = 32
_MAX_DEPTH = 4


def json_integer(value: object) -> object:
    """Turn 44.0 into 44, which JSON Schema counts as an integer; strict mode refuses everything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


CollectionName = Annotated[str, Field(pattern=COLLECTION_PATTERN)]
ItemId = Annotated[str, Field(pattern=ITEM_PATTERN)]
# the validator goes after Field, or the OpenAPI document loses minimum and maximum
TopK = Annotated[int, Field(ge=1, le=50), BeforeValidator(json_integer)]
Offset = Annotated[int, Field(ge=0, le=1000), BeforeValidator(json_integer)]
Steps = Annotated[int, Field(ge=1, le=4), BeforeValidator(json_integer)]
Seed = Annotated[int, Field(ge=0, le=2**53 - 1), BeforeValidator(json_integer)]
MaxSide = Annotated[int, Field(ge=64, le=4096), BeforeValidator(json_integer)]
TimeoutMs = Annotated[int, Field(ge=100, le=60_000), BeforeValidator(json_integer)]
Ef = Annotated[int, Field(ge=1, le=512), BeforeValidator(json_integer)]
NumProbes = Annotated[int, Field(ge=1, le=256), BeforeValidator(json_integer)]
EncodedImage = Annotated[
    str,
    Field(
        min_length=4,
        pattern=_IMAGE_PATTERN,
        description="Base64 of a JPEG, PNG or WebP picture, plain or as a data URI; links are never fetched.",
    ),
]
Text = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")]
Number = Annotated[int, Field(ge=-(2**53), le=2**53)] | float
Scalar = Text | Number | bool
PayloadKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$")]
FilterKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,63}){0,3}$")]
Payload = Annotated[
    dict[PayloadKey, Scalar | Annotated[list[Scalar], Field(max_length=64)] | None], Field(max_length=64)
]
Status = Literal["no_face", "anonymized", "pseudonymized", "redacted", "withheld"]
Media = Literal["jpeg", "png", "webp"]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class TextQuery(_Body):
    """Search by words."""

    text: Annotated[str, Field(min_length=1, max_length=2000)]


class ImageQuery(_Body):
    """Search by a picture."""

    image: EncodedImage


class ItemQuery(_Body):
    """Search by a stored picture."""

    image_id: ItemId


class VectorQuery(_Body):
    """Search by an embedding."""

    vector: Annotated[list[float], Field(min_length=1, max_length=4096)]


def _query_kind(value: object) -> str | None:
    return next((kind for kind in ("text", "image", "image_id", "vector") if _has(value, kind)), None)


QueryBody = Annotated[
    Annotated[TextQuery, Tag("text")]
    | Annotated[ImageQuery, Tag("image")]
    | Annotated[ItemQuery, Tag("image_id")]
    | Annotated[VectorQuery, Tag("vector")],
    Discriminator(_query_kind),
]


class MatchValue(_Body):
    """Equal to a value."""

    value: Scalar


class MatchAny(_Body):
    """Equal to one of several values."""

    any: Annotated[list[Scalar], Field(min_length=1, max_length=64)]


class Range(_Body):
    """Between bounds."""

    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


class MatchCondition(_Body):
    """A payload key equals something."""

    key: FilterKey
    match: MatchValue | MatchAny


class RangeCondition(_Body):
    """A payload key lies in a range."""

    key: FilterKey
    range: Range


class IdCondition(_Body):
    """The item is one of these."""

    has_id: Annotated[list[ItemId], Field(min_length=1, max_length=1000)]


class Filter(_Body):
    """Conditions on the payload, in Qdrant's shape; at most 4 levels and 32 conditions in all."""

    must: Annotated[list[Condition], Field(max_length=_MAX_CONDITIONS)] = []
    should: Annotated[list[Condition], Field(max_length=_MAX_CONDITIONS)] = []
    must_not: Annotated[list[Condition], Field(max_length=_MAX_CONDITIONS)] = []

    @model_validator(mode="after")
    def _is_bounded(self) -> Filter:
        depth, conditions = _measure(self)
        if depth > _MAX_DEPTH or conditions > _MAX_CONDITIONS:
            raise ValueError("too deep or too many conditions")
        return self


def _condition_kind(value: object) -> str:
    return next((kind for kind in ("match", "range", "has_id") if _has(value, kind)), "filter")


def _has(value: object, name: str) -> bool:
    # dictionaries come in, parsed models go out
    return name in value if isinstance(value, dict) else hasattr(value, name)


Condition = Annotated[
    Annotated[MatchCondition, Tag("match")]
    | Annotated[RangeCondition, Tag("range")]
    | Annotated[IdCondition, Tag("has_id")]
    | Annotated[Filter, Tag("filter")],
    Discriminator(_condition_kind),
]


def _measure(node: Filter) -> tuple[int, int]:
    depth, conditions = 1, 0
    for child in (*node.must, *node.should, *node.must_not):
        if isinstance(child, Filter):
            below, inside = _measure(child)
            depth, conditions = max(depth, 1 + below), conditions + inside
        else:
            conditions += 1
    return depth, conditions


class SearchOptions(_Body):
    """How the index is searched."""

    exact: bool = False
    ef: Ef | None = None
    nprobe: NumProbes | None = None


class AnonymizeOptions(_Body):
    """What happens to every face; no mode leaves a face as it is."""

    mode: Literal["generate", "redact"] = "generate"
    level: Annotated[
        Level,
        Field(
            description="What the drawn face may keep: `strict` light, pose and expression; `balanced` light and where "
            "brows, eyes, nose and mouth lie; `faithful` all that the attribute encoder reads."
        ),
    ] = "balanced"
    steps: Steps = 4
    scope: Literal["fresh", "pseudonym"] = "fresh"
    on_failure: Literal["redact", "withhold"] = "redact"
    max_similarity: Annotated[
        float | None, Field(ge=-1, le=1, description="May only tighten the server's thresholds.")
    ] = None
    seed: Annotated[Seed | None, Field(description="Accepted by demonstration servers only.")] = None


class UploadAnonymizeOptions(AnonymizeOptions):
    """What happens to every face of an uploaded picture."""

    subject: Annotated[
        ItemId | None,
        Field(
            description="Whose the only face of the picture is; with the scope `pseudonym` the same subject keeps its "
            "replacement. Stored items name theirs in the payload field `subject`, and a subject table names those of "
            "all their faces. Without one the identity is fresh."
        ),
    ] = None


class OutputOptions(_Body):
    """How a released picture is encoded."""

    format: Media = "jpeg"
    max_side: MaxSide = 4096


class DeliveryOptions(OutputOptions):
    """How released pictures are handed over: inside the answer, as links, or as chat message parts."""

    delivery: Literal["inline", "link", "openai_parts"] = "inline"


class RetrieveRequest(_Body):
    """A search whose pictures come back anonymized."""

    query: QueryBody
    collection: CollectionName | None = None
    top_k: TopK = 5
    offset: Offset = 0
    score_threshold: float | None = None
    filter: Filter | None = None
    search: SearchOptions = SearchOptions()
    with_payload: bool | Annotated[list[PayloadKey], Field(max_length=64)] = True
    anonymize: AnonymizeOptions = AnonymizeOptions()
    output: DeliveryOptions = DeliveryOptions()
    timeout_ms: TimeoutMs | None = None


class AnonymizeRequest(_Body):
    """One picture to anonymize."""

    image: EncodedImage
    anonymize: UploadAnonymizeOptions = UploadAnonymizeOptions()
    output: OutputOptions = OutputOptions()
    timeout_ms: TimeoutMs | None = None


class AnonymizeForm(_Body):
    """The fields of a multipart request beside the file `image`; `options` is JSON."""

    anonymize: UploadAnonymizeOptions = UploadAnonymizeOptions()
    output: OutputOptions = OutputOptions()
    timeout_ms: TimeoutMs | None = None


class ItemRequest(_Body):
    """A picture to store."""

    image: EncodedImage
    caption: Text | None = None
    payload: Payload = {}


class ItemForm(_Body):
    """The fields of a multipart request beside the file `image`; `options` is JSON."""

    caption: Text | None = None
    payload: Payload = {}


class BatchItem(ItemRequest):
    """A picture to store under an id."""

    id: ItemId


class BatchRequest(_Body):
    """Pictures to store."""

    items: Annotated[list[BatchItem], Field(min_length=1, max_length=100)]


class DeleteRequest(_Body):
    """Items to erase, by id or by filter."""

    ids: Annotated[list[ItemId], Field(min_length=1, max_length=1000)] | None = None
    filter: Filter | None = None

    @model_validator(mode="after")
    def _names_one(self) -> DeleteRequest:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("give ids or filter")
        if self.filter is not None and not (self.filter.must or self.filter.should or self.filter.must_not):
            raise ValueError("an empty filter would erase everything: delete the collection instead")
        return self


class CollectionRequest(_Body):
    """Settings of a new collection; none can be chosen yet."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class FaceReport(_Answer):
    """What was done to one face and what the gate measured on the released bytes."""

    box: Annotated[list[float], Field(min_length=4, max_length=4)]
    status: Status
    reason: str | None
    det_score: float
    attempts: int
    steps: int
    max_oracle_similarity: float | None
    landmark_deviation: float | None
    threshold: float | None
    margins: dict[str, float]
    passed: bool
    leaked_bits: float
    match_probability: Annotated[
        dict[str, float] | None,
        Field(
            description="Per recognizer, the probability that source and released face show one person, at equal "
            "priors and rounded to 0.05; for information, thresholds decide. Null without match calibrators."
        ),
    ]


class Privacy(_Answer):
    """The verdict on one picture."""

    status: Status
    reason: str | None
    faces: list[FaceReport]


class Image(_Answer):
    """A released picture: `data` (base64) or `href`."""

    media_type: str
    width: int
    height: int
    sha256: str
    data: str | None = None
    href: str | None = None


class Result(_Answer):
    """One search result."""

    id: str
    rank: int
    score: float
    caption: str | None
    payload: dict[str, Any]
    image: Image | None
    privacy: Privacy


class Model(_Answer):
    """One artifact in use."""

    role: str
    name: str
    version: str
    sha256: str


class PolicyReport(_Answer):
    """The policy the answer was made under."""

    mode: str
    level: str
    scope: str
    on_failure: str
    steps: int
    thresholds: dict[str, float]
    version: str


class RetrieveResponse(_Answer):
    """Ranked results; every picture was verified after it was encoded."""

    request_id: str
    collection: str
    index_generation: int
    results: list[Result]
    withheld_count: int
    partial: Annotated[bool, Field(description="Some picture could not be processed at all and is withheld.")]
    openai_parts: list[dict[str, Any]] | None = None
    took_ms: dict[str, float]
    models: list[Model]
    policy: PolicyReport


class AnonymizeResponse(_Answer):
    """One anonymized picture."""

    request_id: str
    image: Image | None
    privacy: Privacy
    took_ms: dict[str, float]
    models: list[Model]
    policy: PolicyReport


class ItemStatus(_Answer):
    """What became of one item."""

    id: str
    status: Literal["created", "updated", "failed"]
    code: str | None = None
    detail: str | None = None
    image_vector: Annotated[bool, Field(description="Whether the item can be found by a picture.")] = False


class ItemStored(_Answer):
    """A stored item."""

    id: str
    status: Literal["created", "updated"]
    index_generation: int
    image_vector: Annotated[bool, Field(description="Whether the item can be found by a picture.")]


class BatchResponse(_Answer):
    """One status per item, in order."""

    results: list[ItemStatus]
    index_generation: int


class ItemResponse(_Answer):
    """An item's record."""

    id: str
    collection: str
    caption: str | None
    payload: dict[str, Any]
    generation: int
    image_href: str


class DeleteResponse(_Answer):
    """What was erased, and the generation from which on it is invisible."""

    erased: list[str]
    index_generation: int
    is_compacted: Annotated[bool, Field(description="Bytes and vectors are gone too, not only invisible.")]


class CollectionResponse(_Answer):
    """State of a collection."""

    name: str
    num_items: int
    num_tombstones: int
    generation: int
    dimension: int
    status: Literal["green", "yellow", "red"]


class CollectionList(_Answer):
    """All collections."""

    collections: list[CollectionResponse]


class Health(_Answer):
    """State of the process."""

    status: Literal["ok", "starting", "not_ready"]
    checks: dict[str, str] = {}


class Version(_Answer):
    """Version of the service and of the policy it applies."""

    name: str
    version: str
    api: str
    policy_version: str
    artifacts: dict[str, str]


class ModelDetail(Model):
    """One artifact in use with the thresholds it carries."""

    thresholds: dict[str, float]


class ModelList(_Answer):
    """All artifacts in use."""

    models: list[ModelDetail]


class ProblemError(_Answer):
    """One field that does not match, as a JSON pointer."""

    pointer: str
    detail: str


class ProblemBody(_Answer):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    instance: str
    code: str
    detail: str | None = None
    errors: list[ProblemError] | None = None
    retry_after_s: float | None = None
    reason: str | None = None
