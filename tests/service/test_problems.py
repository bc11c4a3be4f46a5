"""Every error of every route is a problem that quotes nothing of the request."""

from __future__ import annotations

import json

import pytest

from models.anonymizer.errors import AnonymizerError
from models.pictures import PictureError
from models.registry.manifest import ArtifactError
from retrieval.errors import PictureRefusedError, RetrievalError
from service import problems
from service.errors import TABLE, field_errors, problem_of
from service.ports import ServiceError

pytestmark = pytest.mark.anyio

IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
ITEMS = "/v1/collections/default/items"

# method, path, JSON body or raw bytes, extra headers, status, code
CASES = {
    "unknown path": ("GET", "/v1/nothing", None, {}, 404, "not-found"),
    "unknown static file": ("GET", "/static/nothing.js", None, {}, 404, "not-found"),
    "unknown problem": ("GET", "/problems/nothing", None, {}, 404, "not-found"),
    "retrieve by GET": ("GET", "/v1/retrieve", None, {}, 405, "method-not-allowed"),
    "alias by DELETE": ("DELETE", "/retrieve", None, {}, 405, "method-not-allowed"),
    "items by PATCH": ("PATCH", f"{ITEMS}/a", None, {}, 405, "method-not-allowed"),
    "retrieve without body": ("POST", "/v1/retrieve", None, {}, 422, "invalid-request"),
    "retrieve with broken JSON": ("POST", "/v1/retrieve", b'{"query": ', {}, 400, "invalid-json"),
    "retrieve with broken UTF-8": ("POST", "/v1/retrieve", b'{"query": "\xff"}', {}, 400, "bad-request"),
    "retrieve nested too deep": ("POST", "/v1/retrieve", b'{"a":' * 100_000, {}, 400, "bad-request"),
    "retrieve as text": ("POST", "/v1/retrieve", b"{}", {"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
    "retrieve with two queries": (
        "POST",
        "/v1/retrieve",
        {"query": {"text": "a", "image_id": "b"}},
        {},
        422,
        "invalid-request",
    ),
    "retrieve with no query": ("POST", "/v1/retrieve", {"query": {}}, {}, 422, "invalid-request"),
    "retrieve an unknown collection": (
        "POST",
        "/v1/retrieve",
        {"query": {"text": "a"}, "collection": "nope"},
        {},
        404,
        "collection-not-found",
    ),
    "retrieve like an unknown item": (
        "POST",
        "/v1/retrieve",
        {"query": {"image_id": "nope"}},
        {},
        404,
        "item-not-found",
    ),
    "retrieve by link": (
        "POST",
        "/v1/retrieve",
        {"query": {"image": "http://127.0.0.1/x.png"}},
        {},
        422,
        "invalid-request",
    ),
    "retrieve too many": ("POST", "/v1/retrieve", {"query": {"text": "a"}, "top_k": 51}, {}, 422, "invalid-request"),
    "retrieve true pictures": (
        "POST",
        "/v1/retrieve",
        {"query": {"text": "a"}, "top_k": True},
        {},
        422,
        "invalid-request",
    ),
    "retrieve with a seed": (
        "POST",
        "/v1/retrieve",
        {"query": {"text": "a"}, "anonymize": {"seed": 1}},
        {},
        422,
        "seed-not-allowed",
    ),
    "retrieve unchanged": (
        "POST",
        "/v1/retrieve",
        {"query": {"text": "a"}, "anonymize": {"mode": "none"}},
        {},
        422,
        "invalid-request",
    ),
    "retrieve at no level": (
        "POST",
        "/v1/retrieve",
        {"query": {"text": "a"}, "anonymize": {"level": "none"}},
        {},
        422,
        "invalid-request",
    ),
    "retrieve not a number": ("POST", "/v1/retrieve", b'{"query": {"vector": [NaN]}}', {}, 422, "invalid-request"),
    "anonymize as XML": (
        "POST",
        "/v1/anonymize",
        b"<a/>",
        {"Content-Type": "application/xml"},
        415,
        "unsupported-media-type",
    ),
    "anonymize broken JSON": ("POST", "/v1/anonymize", b"{", {}, 400, "invalid-json"),
    "anonymize broken multipart": (
        "POST",
        "/v1/anonymize",
        b"x",
        {"Content-Type": "multipart/form-data"},
        400,
        "bad-request",
    ),
    "anonymize to a film": ("POST", "/v1/anonymize", {"image": IMAGE}, {"Accept": "video/mp4"}, 406, "not-acceptable"),
    "anonymize bad base64": ("POST", "/v1/anonymize", {"image": "AAAAA"}, {}, 422, "image-undecodable"),
    "anonymize at no level": (
        "POST",
        "/v1/anonymize",
        {"image": IMAGE, "anonymize": {"level": "none"}},
        {},
        422,
        "invalid-request",
    ),
    "put an item into nothing": (
        "PUT",
        "/v1/collections/nope/items/a",
        {"image": IMAGE},
        {},
        404,
        "collection-not-found",
    ),
    "put a bad id": ("PUT", f"{ITEMS}/..%2f..%2fetc", {"image": IMAGE}, {}, 404, "not-found"),
    "put an id with NUL": ("PUT", f"{ITEMS}/a%00b", {"image": IMAGE}, {}, 422, "invalid-request"),
    "put a bad payload": ("PUT", f"{ITEMS}/a", {"image": IMAGE, "payload": {"a b": 1}}, {}, 422, "invalid-request"),
    "get no item": ("GET", f"{ITEMS}/nope", None, {}, 404, "item-not-found"),
    "get no image": ("GET", f"{ITEMS}/nope/image", None, {}, 404, "item-not-found"),
    "get a huge image": ("GET", f"{ITEMS}/a/image?max_side=99999", None, {}, 422, "invalid-request"),
    "get an image at no level": ("GET", f"{ITEMS}/a/image?level=none", None, {}, 422, "invalid-request"),
    "delete no item": ("DELETE", f"{ITEMS}/nope", None, {}, 404, "item-not-found"),
    "batch of none": ("POST", f"{ITEMS}:batch", {"items": []}, {}, 422, "invalid-request"),
    "delete nothing": ("POST", f"{ITEMS}:delete", {}, {}, 422, "invalid-request"),
    "no collection": ("GET", "/v1/collections/nope", None, {}, 404, "collection-not-found"),
    "bad collection name": ("PUT", "/v1/collections/UPPER", None, {}, 422, "invalid-request"),
    "delete no collection": ("DELETE", "/v1/collections/nope", None, {}, 404, "collection-not-found"),
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def ask(service, case):
    method, path, body, headers, *_ = case
    sent = {**service.headers("admin"), **headers}
    if isinstance(body, bytes):
        return await service.client.request(
            method, path, content=body, headers={"Content-Type": "application/json", **sent}
        )
    return await service.client.request(method, path, json=body, headers=sent)


async def test_every_error_is_the_problem_the_contract_names(service):
    for name, case in CASES.items():
        response = await ask(service, case)
        *_, status, code = case
        body = response.json()
        assert (response.status_code, body["code"]) == (status, code), (name, body)
        assert response.headers["content-type"] == "application/problem+json", name
        assert body["status"] == status
        assert body["type"] == f"/problems/{code}"
        assert body["instance"] == response.headers["x-request-id"]
        if status == 405:
            assert response.headers["allow"], name


async def test_no_problem_quotes_the_request(service, canary):
    planted = [
        {"query": {"text": canary * 200}},
        {"query": {"text": "a"}, canary: canary},
        {"query": {canary: canary}},
        {"query": {"image": f"{canary}!"}},
        {"query": {"image_id": f"{canary}/"}},
        {"query": {"text": "a"}, "collection": f"{canary}!"},
        {"query": {"text": "a"}, "collection": canary},
        {"query": {"text": "a"}, "anonymize": {"mode": canary}},
        {"query": {"text": "a"}, "anonymize": {"level": canary}},
        {"query": {"text": "a"}, "filter": {"must": [{"key": canary + " ", "match": {"value": canary}}]}},
        {"query": {"text": "a"}, "filter": {"must": [{"key": "person", "match": {"value": canary}}]}},
        {"query": {"text": "a"}, "with_payload": [f"{canary} "]},
        {"query": {"vector": [canary]}},
        canary,
    ]
    for body in planted:
        response = await service.post("/v1/retrieve", body)
        assert response.status_code in (404, 422), body
        assert canary not in response.text, response.text
        assert "input" not in response.json()
    for path in (f"/v1/{canary}", f"/problems/{canary}", f"{ITEMS}/{canary}", f"/v1/collections/{canary}"):
        response = await service.client.get(path, headers=service.headers())
        assert response.status_code == 404
        assert canary not in response.text
    assert canary not in service.log.getvalue()


async def test_an_unexpected_exception_is_a_bare_500_without_its_text(service, canary, monkeypatch):
    def explode(*_):
        raise RuntimeError(f"{canary} at /secret/path")

    monkeypatch.setattr(service.runtime, "engine", explode)
    for path in ("/v1/models", "/v1/version"):
        response = await service.client.get(path, headers=service.headers())
        assert response.status_code == 500
        assert set(response.json()) == {"type", "title", "status", "instance", "code"}
        assert response.headers["x-content-type-options"] == "nosniff"
    log = service.log.getvalue()
    assert "RuntimeError" in log
    assert canary not in log
    assert "/secret" not in log


def test_every_domain_exception_has_a_problem():
    def family(kind):
        yield kind
        for child in kind.__subclasses__():
            yield from family(child)

    for root in (*ServiceError.__subclasses__(), RetrievalError, AnonymizerError, ArtifactError, PictureError):
        for kind in family(root):
            listed = next((ancestor for ancestor in kind.__mro__ if ancestor in TABLE), None)
            assert listed is not None, kind
            assert TABLE[listed] is not problems.INTERNAL or root is AnonymizerError, kind


def test_a_picture_refused_for_its_size_is_too_large():
    assert problem_of(PictureRefusedError("", "too-large")) is problems.IMAGE_TOO_LARGE
    assert problem_of(PictureRefusedError("", "undecodable")) is problems.IMAGE_UNDECODABLE
    assert problem_of(RuntimeError()) is problems.INTERNAL


def test_every_problem_in_use_is_in_the_catalog():
    used = {*TABLE.values(), *problems.BY_STATUS.values()}
    assert used <= set(problems.CATALOG.values())
    assert all(slug == problem.slug for slug, problem in problems.CATALOG.items())


def test_pointers_name_schema_fields_only():
    details = [
        {"type": "extra_forbidden", "loc": ("body", "query", "secret"), "msg": "secret"},
        {"type": "union_tag_invalid", "loc": ("body", "query"), "msg": "Input tag 'secret' found"},
        {"type": "int_type", "loc": ("body", "items", 3, "top_k"), "msg": "Input should be a valid integer"},
    ]
    errors = field_errors(details, {"query", "items", "top_k"})
    assert [error["pointer"] for error in errors] == ["/query", "/query", "/items/3/top_k"]
    assert "secret" not in json.dumps(errors)
