"""What the routes need from the rest of the house, as protocols and plain records, and the service's own exceptions.

ServiceError
    NotReadyError, EngineFailedError, WorkerDownError, ShuttingDownError      503
    OverloadedError, RateLimitedError                                         429
    DeadlineExceededError                                                     504
    BodyTooLargeError, BodyTimeoutError                                       413, 408
    MediaTypeError, NotAcceptableError, MalformedBodyError                    415, 406, 400
    UnauthenticatedError, ForbiddenError                                      401, 403
    SeedNotAllowedError, WithheldError, IdempotencyKeyReusedError             422
    RequestInProgressError                                                    409
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from models.anonymizer.policy import Policy
from models.anonymizer.verdict import Reason, Release


class ServiceError(Exception):
    """Anything the service raises on purpose."""


class NotReadyError(ServiceError):
    """The models are still loading."""


class EngineFailedError(ServiceError):
    """The models could not be loaded."""


class WorkerDownError(ServiceError):
    """The inference thread has died."""


class ShuttingDownError(ServiceError):
    """The service is stopping."""


class OverloadedError(ServiceError):
    """The queue is full."""

    def __init__(self, retry_after_s: float) -> None:
        """Remember when to come back."""
        super().__init__(f"queue is full, retry after {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class RateLimitedError(OverloadedError):
    """The key has spent its requests."""


class DeadlineExceededError(ServiceError):
    """The caller's deadline passed."""


class BodyTooLargeError(ServiceError):
    """The body is larger than the limit."""


class BodyTimeoutError(ServiceError):
    """The body did not arrive in time."""


class MediaTypeError(ServiceError):
    """The content type is not one the route reads."""


class NotAcceptableError(ServiceError):
    """The route has no representation the caller accepts."""


class MalformedBodyError(ServiceError):
    """The body is not what its content type says."""


class UnauthenticatedError(ServiceError):
    """No key, or not a known one."""


class ForbiddenError(ServiceError):
    """The key lacks the scope."""


class SeedNotAllowedError(ServiceError):
    """The request fixes the random draws and the settings do not allow it."""


class WithheldError(ServiceError):
    """The picture is withheld and the caller asked for bytes."""

    def __init__(self, reason: str) -> None:
        """Remember the machine-readable reason."""
        super().__init__(reason)
        self.reason = reason


class IdempotencyKeyReusedError(ServiceError):
    """The same Idempotency-Key came with another body."""


class RequestInProgressError(ServiceError):
    """The first request with this Idempotency-Key has not ended."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture on its way to the anonymizer.

    Attributes:
        data: the encoded original; never shown in a repr.
        policy: what to do with every face.
        scope_key: names the subject of a pseudonym; None when nobody named one.
        deadline_s: on the clock of time.monotonic, or None.
        corpus_key: within what the subjects of a subject table keep their faces; None to not look there.
    """

    data: bytes = field(repr=False)
    policy: Policy
    scope_key: bytes | None = field(default=None, repr=False)
    deadline_s: float | None = None
    corpus_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """No release at all: nobody verified anything, so there are no bytes."""

    reason: Reason


Outcome = Release | Refusal


class Anonymizer(Protocol):
    """Treats every face of every picture."""

    def anonymize(self, pictures: Sequence[Picture]) -> Sequence[Release]:
        """Give one release per picture, in order."""
        ...


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """State of one collection; green is ready, yellow is being rebuilt, red is damaged."""

    name: str
    num_items: int
    num_tombstones: int
    generation: int
    dimension: int
    status: Literal["green", "yellow", "red"] = "green"


@dataclass(frozen=True, slots=True)
class NewItem:
    """A picture to store."""

    id: str
    data: bytes = field(repr=False)
    caption: str | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Item:
    """A stored picture's record, without its bytes."""

    id: str
    caption: str | None
    payload: Mapping[str, Any]
    generation: int


@dataclass(frozen=True, slots=True)
class Original:
    """A picture as it was given, for the anonymizer only, and the subject somebody named for pseudonyms.

    Only the faces of stored pictures are looked up in a subject table: what an upload looked like afterwards would tell
    whether its bytes are in somebody's folder.
    """

    data: bytes = field(repr=False)
    subject: str | None = field(default=None, repr=False)
    is_stored: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of one new item.

    Attributes:
        id: its id.
        status: `failed` leaves the store as it was.
        reason: slug of why it failed, or of why it has no image vector.
        image_vector: whether it can be found by a picture.
    """

    id: str
    status: Literal["created", "updated", "failed"]
    reason: str | None = None
    image_vector: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result."""

    item: Item
    score: float


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for; exactly one of the first four is set."""

    text: str | None = None
    data: bytes | None = field(default=None, repr=False)
    item_id: str | None = None
    vector: tuple[float, ...] | None = None
    top_k: int = 5
    offset: int = 0
    score_threshold: float | None = None
    filter: Mapping[str, Any] | None = None
    exact: bool = False
    ef: int | None = None
    nprobe: int | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Ranked hits, the index generation they came from, and seconds per stage."""

    hits: tuple[Hit, ...]
    generation: int
    timings_s: Mapping[str, float] = field(default_factory=dict)


class Corpus(Protocol):
    """The searchable picture store; it raises the family of retrieval.errors."""

    def collections(self) -> Sequence[CollectionInfo]:
        """List the collections by name."""
        ...

    def collection(self, name: str) -> CollectionInfo:
        """Describe one collection."""
        ...

    def create_collection(self, name: str) -> bool:
        """Create a collection; False when it is there already."""
        ...

    def delete_collection(self, name: str) -> None:
        """Erase a collection with its pictures."""
        ...

    def put(self, collection: str, item: NewItem) -> tuple[Stored, int]:
        """Store a picture, or raise what kept it out; give its status and the new generation."""
        ...

    def put_many(self, collection: str, items: Sequence[NewItem]) -> tuple[Sequence[Stored], int]:
        """Store pictures; give one status per item and the new generation."""
        ...

    def item(self, collection: str, item_id: str) -> Item:
        """Give an item's record."""
        ...

    def original(self, collection: str, item_id: str) -> Original:
        """Give an item's original, for the anonymizer only."""
        ...

    def delete(
        self, collection: str, ids: Sequence[str] | None, condition: Mapping[str, Any] | None
    ) -> tuple[Sequence[str], int]:
        """Erase items by id or filter; give the erased ids and the generation from which they are invisible."""
        ...

    def compact(self, collection: str) -> bool:
        """Remove the bytes and vectors of erased items; False while a reader still holds the old state."""
        ...

    def search(self, collection: str, query: Query) -> SearchResult:
        """Rank the items of a collection."""
        ...

    def check(self) -> None:
        """Raise when the store cannot answer."""
        ...

    def close(self) -> None:
        """Write what is pending and close the store."""
        ...


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One artifact in use."""

    role: str
    name: str
    version: str
    sha256: str
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Engine:
    """Everything behind the routes, built by service.wiring or by a test.

    Attributes:
        anonymizer: runs in the inference thread only.
        corpus: runs in the corpus thread only.
        models: the artifacts in use.
        check_models: raises when an oracle does not answer; runs in the inference thread.
        check_picture: raises models.pictures.PictureError when bytes are no acceptable picture.
        policy_version: names thresholds and gate settings; part of the cache key.
    """

    anonymizer: Anonymizer
    corpus: Corpus
    models: tuple[ModelInfo, ...]
    check_models: Callable[[], None]
    check_picture: Callable[[bytes], None]
    policy_version: str
