"""Items: store one or many, describe, fetch the anonymized picture, erase."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response

from models.encoder.levels import Level
from models.pictures import PictureError
from retrieval.errors import ItemNotFoundError
from service import problems
from service.auth import Principal, requires
from service.errors import problem_of
from service.limits import decode_image
from service.openapi import problem_responses
from service.ports import Corpus, NewItem, Stored
from service.presentation import image_href, make_policy
from service.routes.anonymize import picture_response
from service.routes.collections import CollectionPath
from service.runtime import Runtime, runtime_of
from service.schemas import (
    ITEM_PATTERN,
    AnonymizeOptions,
    BatchRequest,
    BatchResponse,
    DeleteRequest,
    DeleteResponse,
    ItemForm,
    ItemRequest,
    ItemResponse,
    ItemStatus,
    ItemStored,
    MaxSide,
    Media,
    OutputOptions,
    Steps,
    TimeoutMs,
)
from service.uploads import read_upload, upload_body

router = APIRouter(prefix="/v1/collections/{collection}", tags=["items"])

ItemPath = Annotated[str, Path(pattern=ITEM_PATTERN)]
Wait = Annotated[bool, Query(description="Answer only when bytes and vectors are gone too.")]
_KEY_PATTERN: Final = r"^[\x21-\x7e]{1,128}$"


@router.put(
    "/items/{item_id}",
    operation_id="put_item",
    openapi_extra=upload_body(ItemRequest, ItemForm),
    responses={
        201: {"model": ItemStored, "description": "Created."},
        **problem_responses(
            problems.BAD_REQUEST,
            problems.INVALID_JSON,
            problems.COLLECTION_NOT_FOUND,
            problems.UNSUPPORTED_MEDIA_TYPE,
            problems.INVALID_REQUEST,
            problems.IMAGE_UNDECODABLE,
        ),
    },
)
async def put_item(
    collection: CollectionPath,
    item_id: ItemPath,
    request: Request,
    response: Response,
    runtime: Annotated[Runtime, Depends(runtime_of)],
    principal: Annotated[Principal, requires("write")],
) -> ItemStored:
    """Store a picture under an id, in place of the one that may be there."""
    deadline = runtime.deadline(None)
    upload = await read_upload(
        request, ItemRequest, ItemForm, max_characters=runtime.settings.limits.max_base64_characters
    )
    await runtime.check_picture(upload.data, deadline)
    new = NewItem(item_id, upload.data, upload.options.caption, upload.options.payload)

    def put(corpus: Corpus) -> tuple[Stored, int, str | None]:
        replaced = _digest(corpus, collection, item_id)
        return *corpus.put(collection, new), replaced

    stored, generation, replaced = await runtime.with_corpus(put, deadline)
    _forget(runtime, [replaced])
    is_new = stored.status == "created"
    response.status_code = 201 if is_new else 200
    return ItemStored(
        id=item_id,
        status="created" if is_new else "updated",
        index_generation=generation,
        image_vector=stored.image_vector,
    )


@router.post(
    "/items:batch",
    operation_id="put_items",
    responses=problem_responses(
        problems.INVALID_JSON,
        problems.COLLECTION_NOT_FOUND,
        problems.REQUEST_IN_PROGRESS,
        problems.UNSUPPORTED_MEDIA_TYPE,
        problems.INVALID_REQUEST,
        problems.IDEMPOTENCY_KEY_REUSED,
    ),
)
async def put_items(
    collection: CollectionPath,
    body: BatchRequest,
    request: Request,
    runtime: Annotated[Runtime, Depends(runtime_of)],
    principal: Annotated[Principal, requires("write")],
    idempotency_key: Annotated[str | None, Header(pattern=_KEY_PATTERN)] = None,
) -> BatchResponse:
    """Store up to 100 pictures; each has its own status, and a bad one does not hold up the others."""

    async def act() -> BatchResponse:
        return await _put_items(runtime, collection, body)

    if idempotency_key is None:
        return await act()
    key = (principal.name, "items:batch", collection, idempotency_key)
    answer: BatchResponse = await runtime.answers.once(key, await request.body(), act)
    return answer


@router.get(
    "/items/{item_id}",
    operation_id="get_item",
    responses=problem_responses(problems.ITEM_NOT_FOUND, problems.INVALID_REQUEST),
)
async def get_item(
    collection: CollectionPath,
    item_id: ItemPath,
    runtime: Annotated[Runtime, Depends(runtime_of)],
    principal: Annotated[Principal, requires("read")],
) -> ItemResponse:
    """Give an item's record."""
    item = await runtime.with_corpus(lambda corpus: corpus.item(collection, item_id), runtime.deadline(None))
    return ItemResponse(
        id=item.id,
        collection=collection,
        caption=item.caption,
        payload=dict(item.payload),
        generation=item.generation,
        image_href=image_href(collection, item.id),
    )


@router.get(
    "/items/{item_id}/image",
    operation_id="get_item_image",
    response_class=Response,
    responses={
        200: {
            "description": "The anonymized picture.",
            "content": {"image/jpeg": {}, "image/png": {}, "image/webp": {}},
            "headers": {"X-Privacy-Status": {"schema": {"type": "string"}, "description": "Status of the picture."}},
        },
        304: {"description": "The caller has it already."},
        **problem_responses(problems.ITEM_NOT_FOUND, problems.INVALID_REQUEST, problems.ANONYMIZATION_FAILED),
    },
)
async def get_item_image(
    collection: CollectionPath,
    item_id: ItemPath,
    runtime: Annotated[Runtime, Depends(runtime_of)],
    principal: Annotated[Principal, requires("read")],
    mode: Annotated[str, Query(pattern="^(generate|redact)$")] = "generate",
    level: Annotated[Level, Query()] = "balanced",
    steps: Annotated[Steps, Query()] = 4,
    scope: Annotated[str, Query(pattern="^(fresh|pseudonym)$")] = "fresh",
    on_failure: Annotated[str, Query(pattern="^(redact|withhold)$")] = "redact",
    max_similarity: Annotated[float | None, Query(ge=-1, le=1, allow_inf_nan=False)] = None,
    format: Annotated[Media, Query()] = "jpeg",
    max_side: Annotated[MaxSide, Query()] = 4096,
    timeout_ms: Annotated[TimeoutMs | None, Query()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Give an item's picture, always anonymized."""
    deadline = runtime.deadline(timeout_ms)
    options = AnonymizeOptions.model_validate(
        {
            "mode": mode,
            "level": level,
            "steps": steps,
            "scope": scope,
            "on_failure": on_failure,
            "max_similarity": max_similarity,
        }
    )
    policy = make_policy(options, OutputOptions(format=format, max_side=max_side), allow_seed=False)
    original = await runtime.with_corpus(lambda corpus: corpus.original(collection, item_id), deadline)
    (outcome,) = await runtime.release([original], policy, scope=collection, deadline_s=deadline)
    response = picture_response(outcome, cache="private, no-cache")
    if if_none_match is not None and response.headers["etag"] in (tag.strip() for tag in if_none_match.split(",")):
        return Response(status_code=304, headers={"ETag": response.headers["etag"]})
    return response


@router.delete(
    "/items/{item_id}",
    operation_id="delete_item",
    responses=problem_responses(problems.ITEM_NOT_FOUND, problems.INVALID_REQUEST),
)
async def delete_item(
    collection: CollectionPath,
    item_id: ItemPath,
    runtime: Annotated[Runtime, Depends(runtime_of)],
    principal: Annotated[Principal, requires("write")],
    wait: Wait = False,
) -> DeleteResponse:
    """Erase an item: invisible to the next search; bytes and vector go at the next compaction, or with `wait` now."""
    response = await _erase(runtime, collection, DeleteRequest(ids=[item_id]), wait=wait)
    if not response.erased:
        raise ItemNotFoundError("there is no such item")
    return response


@router.post(
    "/items:delete",
    operation_id="delete_items",
    responses=problem_responses(
        problems.INVALID_JSON,
        problems.COLLECTION_NOT_FOUND,
        problems.UNSUPPORTED_MEDIA_TYPE,
        problems.INVALID_REQUEST,
    ),
)
async def delete_items(
    collection: CollectionPath,
    body: DeleteRequest,
    runtime: Annotated[Runtime, Depends(runtime_of)],
    principal: Annotated[Principal, requires("write")],
    wait: Wait = False,
) -> DeleteResponse:
    """Erase items by id or by filter; ids that do not exist are left out of the answer."""
    return await _erase(runtime, collection, body, wait=wait)


async def _put_items(runtime: Runtime, collection: str, body: BatchRequest) -> BatchResponse:
    deadline = runtime.deadline(None)
    results: dict[int, ItemStatus] = {}
    good: list[tuple[int, NewItem]] = []
    for position, entry in enumerate(body.items):
        try:
            data = decode_image(entry.image, runtime.settings.limits.max_base64_characters)
            await runtime.check_picture(data, deadline)
        except PictureError as error:
            problem = problem_of(error)
            results[position] = ItemStatus(id=entry.id, status="failed", code=problem.slug, detail=problem.detail)
        else:
            good.append((position, NewItem(entry.id, data, entry.caption, entry.payload)))

    def put(corpus: Corpus) -> tuple[Sequence[Stored], int, list[str | None]]:
        items = [item for _, item in good]
        replaced = [_digest(corpus, collection, item.id) for item in items]
        return *corpus.put_many(collection, items), replaced

    stored, generation, replaced = await runtime.with_corpus(put, deadline)
    _forget(runtime, replaced)
    for (position, _), status in zip(good, stored, strict=True):
        results[position] = ItemStatus(
            id=status.id, status=status.status, code=status.reason, image_vector=status.image_vector
        )
    return BatchResponse(results=[results[position] for position in sorted(results)], index_generation=generation)


async def _erase(runtime: Runtime, collection: str, body: DeleteRequest, *, wait: bool) -> DeleteResponse:
    condition = None if body.filter is None else body.filter.model_dump(exclude_defaults=True)

    def erase(corpus: Corpus) -> tuple[Sequence[str], int, list[str | None]]:
        replaced = [_digest(corpus, collection, item_id) for item_id in body.ids or ()]
        return *corpus.delete(collection, body.ids, condition), replaced

    erased, generation, replaced = await runtime.with_corpus(erase, runtime.deadline(None))
    # releases of erased pictures must not outlive them
    if body.ids is None:
        runtime.cache.clear()
    _forget(runtime, replaced)
    is_compacted = False
    if wait and erased:
        is_compacted = await runtime.with_corpus(lambda corpus: corpus.compact(collection), runtime.deadline(None))
    return DeleteResponse(erased=list(erased), index_generation=generation, is_compacted=is_compacted)


def _forget(runtime: Runtime, digests: Sequence[str | None]) -> None:
    for digest in digests:
        if digest is not None:
            runtime.cache.forget(digest)


def _digest(corpus: Corpus, collection: str, item_id: str) -> str | None:
    """Hash the picture that is about to be replaced or erased, so that its releases can be dropped."""
    try:
        return hashlib.sha256(corpus.original(collection, item_id).data).hexdigest()
    except ItemNotFoundError:
        return None
