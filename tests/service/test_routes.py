"""The contract of every route, with the verdict vocabulary and the releases as they really are."""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import parse_qs, urlsplit

import pytest

from models.pictures import decode_picture

pytestmark = pytest.mark.anyio


async def test_retrieve_returns_verified_pictures_with_their_verdicts(service, pictures):
    await service.put_item("party", pictures.draw(pictures.red), "people at a party", year=2020)
    await service.put_item("lake", pictures.draw(pictures.gray), "a lake")
    response = await service.post("/v1/retrieve", {"query": {"text": "people at a party"}, "top_k": 2}, "read")
    body = response.json()
    assert response.status_code == 200, body
    first = body["results"][0]
    assert (first["id"], first["rank"], first["payload"]) == ("party", 1, {"year": 2020})
    assert first["privacy"]["status"] == "anonymized"
    assert first["privacy"]["faces"][0]["threshold"] == 0.4
    data = base64.b64decode(first["image"]["data"])
    assert hashlib.sha256(data).hexdigest() == first["image"]["sha256"]
    assert decode_picture(data).shape == (32, 48, 3)
    assert body["results"][1]["privacy"]["status"] == "no_face"
    assert (body["withheld_count"], body["partial"]) == (0, False)
    assert body["policy"]["thresholds"] == {"dlib": 0.4}
    assert {"embed", "search", "detect", "verify", "total"} <= body["took_ms"].keys()
    assert [model["name"] for model in body["models"]] == ["face-generator", "oracle-thresholds"]
    assert body["request_id"] == response.headers["x-request-id"]


async def test_the_alias_answers_like_the_versioned_route(service, pictures):
    await service.put_item("a", pictures.draw(), "a lake")
    answers = [(await service.post(path, {"query": {"text": "lake"}})).json() for path in ("/retrieve", "/v1/retrieve")]
    assert answers[0]["results"] == answers[1]["results"]


async def test_withheld_and_failed_pictures_leave_no_bytes_and_no_neighbor_is_harmed(service, pictures):
    await service.put_item("good", pictures.draw(pictures.red), "good")
    await service.put_item("withheld", pictures.draw(pictures.blue), "good good")
    await service.put_item("broken", pictures.draw(pictures.green), "good goodd")
    body = (await service.post("/v1/retrieve", {"query": {"text": "good"}, "top_k": 3})).json()
    found = {result["id"]: result for result in body["results"]}
    assert found["good"]["privacy"]["status"] == "anonymized"
    assert found["withheld"]["image"] is None
    assert found["withheld"]["privacy"] == {"status": "withheld", "reason": "leftover_face", "faces": []}
    assert found["broken"]["image"] is None
    assert found["broken"]["privacy"]["reason"] == "internal_error"
    assert (body["withheld_count"], body["partial"]) == (2, True)


async def test_links_lead_to_the_release_the_answer_describes(service, pictures):
    await service.put_item("party", pictures.draw(pictures.red), "party")
    body = (
        await service.post(
            "/v1/retrieve",
            {
                "query": {"text": "party"},
                "anonymize": {"steps": 2},
                "output": {"delivery": "link", "format": "png", "max_side": 512},
            },
        )
    ).json()
    image = body["results"][0]["image"]
    assert image["data"] is None
    response = await service.client.get(image["href"], headers=service.headers("read"))
    assert hashlib.sha256(response.content).hexdigest() == image["sha256"]
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-privacy-status"] == "anonymized"
    assert response.headers["cache-control"].startswith("private")
    again = await service.client.get(
        image["href"], headers=service.headers("read", **{"If-None-Match": response.headers["etag"]})
    )
    assert (again.status_code, again.content) == (304, b"")
    assert [policy.steps for policy in service.anonymizer.policies] == [2]


async def test_chat_parts_carry_captions_and_pictures_once(service, pictures):
    await service.put_item("party", pictures.draw(pictures.red), "party")
    await service.put_item("hidden", pictures.draw(pictures.blue), "party too")
    body = (
        await service.post("/v1/retrieve", {"query": {"text": "party"}, "output": {"delivery": "openai_parts"}})
    ).json()
    assert [part["type"] for part in body["openai_parts"]] == ["text", "image_url"]
    assert body["openai_parts"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert all(result["image"] is None or result["image"]["data"] is None for result in body["results"])


async def test_pictures_items_and_vectors_can_be_the_query(service, pictures):
    await service.put_item("red", pictures.draw(pictures.red), "one")
    await service.put_item("gray", pictures.draw(pictures.gray), "two")
    by_picture = await service.post("/v1/retrieve", {"query": {"image": pictures.encode(pictures.draw(pictures.red))}})
    assert by_picture.json()["results"][0]["id"] == "red"
    by_item = await service.post("/v1/retrieve", {"query": {"image_id": "red"}})
    assert [result["id"] for result in by_item.json()["results"]] == ["gray"]
    by_vector = await service.post("/v1/retrieve", {"query": {"vector": [1.0, 0.1, 0.1]}})
    assert by_vector.json()["results"][0]["id"] == "red"
    wrong = await service.post("/v1/retrieve", {"query": {"vector": [1.0, 0.1]}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "query-unsupported")


async def test_filters_in_qdrants_shape_reach_the_index(service, pictures):
    for year in (2019, 2020, 2021):
        await service.put_item(f"y{year}", pictures.draw(), "lake", year=year)
    query = {
        "query": {"text": "lake"},
        "filter": {"must": [{"key": "year", "range": {"gte": 2020}}], "must_not": [{"has_id": ["y2021"]}]},
        "with_payload": ["year"],
    }
    body = (await service.post("/v1/retrieve", query)).json()
    assert [(result["id"], result["payload"]) for result in body["results"]] == [("y2020", {"year": 2020})]


async def test_names_do_not_leave_with_a_picture(service, pictures):
    await service.put_item("p", pictures.draw(), "Erika at the lake", person="Erika Mustermann", year=2020)
    body = (await service.post("/v1/retrieve", {"query": {"text": "lake"}})).text
    item = (await service.client.get("/v1/collections/default/items/p", headers=service.headers("read"))).text
    assert "Erika" not in body
    assert "Erika" not in item
    assert "2020" in item


async def test_anonymize_takes_json_and_gives_the_verdict(service, pictures):
    uri = "data:image/png;base64," + pictures.encode(pictures.draw(pictures.red))
    response = await service.post("/v1/anonymize", {"image": uri, "anonymize": {"mode": "redact"}}, "read")
    body = response.json()
    assert response.status_code == 200, body
    assert (body["privacy"]["status"], body["privacy"]["reason"]) == ("redacted", "requested")
    assert body["image"]["media_type"] == "image/jpeg"
    assert body["policy"]["mode"] == "redact"


async def test_anonymize_takes_multipart_and_gives_bytes(service, pictures):
    response = await service.client.post(
        "/v1/anonymize",
        files={"image": ("x.png", pictures.draw(pictures.red), "image/png")},
        data={"options": '{"anonymize": {"scope": "pseudonym"}}'},
        headers=service.headers("read", Accept="image/webp"),
    )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/webp"
    assert response.headers["x-privacy-status"] == "pseudonymized"
    assert decode_picture(response.content).shape == (32, 48, 3)


async def test_a_withheld_picture_is_a_verdict_in_json_and_a_problem_as_bytes(service, pictures):
    body = {"image": pictures.encode(pictures.draw(pictures.blue))}
    as_json = await service.post("/v1/anonymize", body)
    assert as_json.status_code == 200
    assert as_json.json()["image"] is None
    as_bytes = await service.post("/v1/anonymize", body, Accept="image/*")
    assert as_bytes.status_code == 422
    assert (as_bytes.json()["code"], as_bytes.json()["reason"]) == ("anonymization-failed", "leftover_face")


async def test_items_are_stored_described_replaced_and_erased(service, pictures):
    created = await service.put_item("a", pictures.draw(), "one")
    assert (created.status_code, created.json()["status"]) == (201, "created")
    replaced = await service.put_item("a", pictures.draw(pictures.red), "two")
    assert (replaced.status_code, replaced.json()["status"]) == (200, "updated")
    assert replaced.json()["index_generation"] > created.json()["index_generation"]
    item = (await service.client.get("/v1/collections/default/items/a", headers=service.headers("read"))).json()
    assert (item["caption"], item["image_href"]) == ("two", "/v1/collections/default/items/a/image")
    image = await service.client.get(item["image_href"], headers=service.headers("read"))
    assert image.headers["x-privacy-status"] == "anonymized"
    erased = await service.client.delete("/v1/collections/default/items/a?wait=true", headers=service.headers("write"))
    assert (erased.json()["erased"], erased.json()["is_compacted"]) == (["a"], True)
    for path in ("/v1/collections/default/items/a", "/v1/collections/default/items/a/image"):
        assert (await service.client.get(path, headers=service.headers("read"))).json()["code"] == "item-not-found"
    again = await service.client.delete("/v1/collections/default/items/a", headers=service.headers("write"))
    assert again.status_code == 404


async def test_items_can_be_stored_as_multipart(service, pictures):
    response = await service.client.put(
        "/v1/collections/default/items/m",
        files={"image": ("x.png", pictures.draw(), "image/png")},
        data={"options": '{"caption": "a lake", "payload": {"year": 2020}}'},
        headers=service.headers("write"),
    )
    assert response.status_code == 201, response.text
    item = await service.client.get("/v1/collections/default/items/m", headers=service.headers("read"))
    assert (item.json()["caption"], item.json()["payload"]) == ("a lake", {"year": 2020})


async def test_a_batch_has_one_status_per_item(service, pictures):
    good = pictures.encode(pictures.draw())
    items = [
        {"id": "one", "image": good},
        {"id": "bad", "image": pictures.encode(b"not a picture at all")},
        {"id": "two", "image": good, "payload": {"year": 1}},
    ]
    body = (await service.post("/v1/collections/default/items:batch", {"items": items}, "write")).json()
    assert [(item["id"], item["status"]) for item in body["results"]] == [
        ("one", "created"),
        ("bad", "failed"),
        ("two", "created"),
    ]
    assert body["results"][1]["code"] == "image-undecodable"


async def test_an_idempotency_key_does_the_work_once(service, pictures):
    body = {"items": [{"id": "one", "image": pictures.encode(pictures.draw())}]}
    path = "/v1/collections/default/items:batch"
    key = {"Idempotency-Key": "k-1"}
    first = await service.post(path, body, "write", **key)
    second = await service.post(path, body, "write", **key)
    assert first.json() == second.json()
    assert second.json()["results"][0]["status"] == "created"
    other = {"items": [{"id": "two", "image": pictures.encode(pictures.draw())}]}
    assert (await service.post(path, other, "write", **key)).json()["code"] == "idempotency-key-reused"
    # another caller's key of the same name is another key
    assert (await service.post(path, other, "admin", **key)).status_code == 200


async def test_items_are_erased_by_id_and_by_filter(service, pictures):
    for number in range(4):
        await service.put_item(f"i{number}", pictures.draw(), "lake", number=number)
    path = "/v1/collections/default/items:delete"
    by_id = await service.post(path, {"ids": ["i0", "nobody"]}, "write")
    assert by_id.json()["erased"] == ["i0"]
    by_filter = await service.post(path, {"filter": {"must": [{"key": "number", "range": {"gt": 1}}]}}, "write")
    assert sorted(by_filter.json()["erased"]) == ["i2", "i3"]
    for body in ({}, {"ids": ["a"], "filter": {"must": [{"has_id": ["a"]}]}}, {"filter": {}}):
        assert (await service.post(path, body, "write")).status_code == 422


async def test_collections_are_created_listed_described_and_erased(service, pictures):
    path = "/v1/collections/other"
    headers = service.headers("admin")
    assert (await service.client.put(path, headers=headers)).status_code == 201
    assert (await service.client.put(path, json={}, headers=headers)).status_code == 200
    listed = (await service.client.get("/v1/collections", headers=headers)).json()["collections"]
    assert [info["name"] for info in listed] == ["default", "other"]
    info = (await service.client.get(path, headers=headers)).json()
    assert (info["num_items"], info["status"]) == (0, "green")
    assert (await service.client.delete(path, headers=headers)).status_code == 204
    assert (await service.client.get(path, headers=headers)).json()["code"] == "collection-not-found"


async def test_version_and_models_name_what_is_running(service):
    version = (await service.client.get("/v1/version", headers=service.headers("read"))).json()
    assert version["artifacts"]["face-generator"] == "0123456789abcdef"
    models = (await service.client.get("/v1/models", headers=service.headers("read"))).json()["models"]
    assert models[1]["thresholds"] == {"dlib": 0.4}


async def test_pages_need_no_key_and_load_nothing_from_elsewhere(service):
    page = await service.client.get("/")
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]
    script = await service.client.get("/static/demo.js")
    problem = await service.client.get("/problems/overloaded")
    assert problem.status_code == 200
    assert "queue is full" in problem.text
    docs = await service.client.get("/docs", headers=service.headers("read"))
    assert "/v1/retrieve" in docs.text
    for text in (page.text, script.text, problem.text, docs.text):
        assert "http://" not in text
        assert "https://" not in text


async def test_a_picture_is_treated_once_per_epoch_and_again_under_another_policy(service, pictures):
    body = {"image": pictures.encode(pictures.draw(pictures.red))}
    first = (await service.post("/v1/anonymize", body)).json()
    second = (await service.post("/v1/anonymize", body)).json()
    assert first["image"] == second["image"]
    assert service.anonymizer.batches == [1]
    await service.post("/v1/anonymize", {**body, "anonymize": {"steps": 1}})
    assert service.anonymizer.batches == [1, 1]
    assert service.metric("release_cache_requests_total", result="hit") == 1


async def test_a_level_reaches_the_policy_and_the_answer_names_it(service, pictures):
    await service.put_item("party", pictures.draw(pictures.red), "party")
    query, upload = {"query": {"text": "party"}}, {"image": pictures.encode(pictures.draw((230, 40, 40)))}
    for path, body in (("/v1/retrieve", query), ("/v1/anonymize", upload)):
        for level in ("strict", "faithful"):
            answer = (await service.post(path, {**body, "anonymize": {"level": level}})).json()
            assert answer["policy"]["level"] == level
        assert (await service.post(path, body)).json()["policy"]["level"] == "balanced"
    asked = [policy.level for policy in service.anonymizer.policies]
    assert asked == 2 * ["strict", "faithful", "balanced"]


async def test_a_link_leads_to_the_release_of_its_level(service, pictures):
    await service.put_item("party", pictures.draw(pictures.red), "party")
    body = {"query": {"text": "party"}, "output": {"delivery": "link"}}
    for options in ({"level": "strict"}, {"level": "faithful"}, {}):
        image = (await service.post("/v1/retrieve", {**body, "anonymize": options})).json()["results"][0]["image"]
        assert parse_qs(urlsplit(image["href"]).query)["level"] == [options.get("level", "balanced")]
        response = await service.client.get(image["href"], headers=service.headers("read"))
        assert hashlib.sha256(response.content).hexdigest() == image["sha256"]
    assert service.anonymizer.batches == [1, 1, 1]


async def test_a_kept_release_of_one_level_is_not_served_for_another(service, pictures):
    await service.put_item("a", pictures.draw(pictures.red))
    for level in ("?level=faithful", "?level=strict", "?level=balanced", "", "?level=strict"):
        path = f"/v1/collections/default/items/a/image{level}"
        response = await service.client.get(path, headers=service.headers("read"))
        assert response.status_code == 200
    assert [policy.level for policy in service.anonymizer.policies] == ["faithful", "strict", "balanced"]
    assert service.metric("release_cache_requests_total", result="hit") == 2
    assert len(service.runtime.cache) == 3


async def test_erasing_or_replacing_an_item_drops_its_releases(service, pictures):
    await service.put_item("a", pictures.draw(pictures.red))
    await service.client.get("/v1/collections/default/items/a/image", headers=service.headers("read"))
    assert len(service.runtime.cache) == 1
    await service.client.delete("/v1/collections/default/items/a", headers=service.headers("write"))
    assert len(service.runtime.cache) == 0


async def test_a_pseudonym_belongs_to_a_named_subject_within_its_scope(service, pictures):
    colors = [(230, shade, 20) for shade in range(5)]
    for name, color, payload in (("a", colors[0], {"subject": "s1"}), ("b", colors[1], {"subject": "s1"}),
                                 ("c", colors[2], {"subject": "s2"}), ("d", colors[3], {})):  # fmt: skip
        await service.put_item(name, pictures.draw(color), "x", **payload)
        path = f"/v1/collections/default/items/{name}/image?scope=pseudonym"
        assert (await service.client.get(path, headers=service.headers("read"))).status_code == 200
    upload = {"image": pictures.encode(pictures.draw(colors[4]))}
    await service.post("/v1/anonymize", {**upload, "anonymize": {"scope": "pseudonym", "subject": "s1"}})
    await service.post("/v1/anonymize", {**upload, "anonymize": {"scope": "fresh", "subject": "s1"}})
    first, same, other, unnamed, uploaded, fresh = service.anonymizer.scope_keys
    assert first == same
    assert len({first, other, uploaded}) == 3
    assert unnamed is None
    assert fresh is None
    found = await service.post("/v1/retrieve", {"query": {"text": "x"}})
    assert "subject" not in found.json()["results"][0]["payload"]
