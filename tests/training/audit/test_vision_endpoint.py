"""An endpoint is asked in its own form, patiently, and is never given an original that it may not have."""

from __future__ import annotations

import base64
import json
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.pictures import decode_picture
from training.audit.endpoint_answers import Interview, endpoint_answers, endpoint_identity
from training.audit.questions import QUESTIONS, UNANSWERED, Question
from training.audit.vision_endpoint import (
    OriginalsRefusedError,
    Shown,
    VisionEndpoint,
    VisionEndpointError,
    check_url,
    parse_choice,
)

KEY = "sk-only-for-this-test"
QUESTION = Question("mouth open", "Is the mouth open?", ("no", "yes"))
RELEASE = Shown(np.full((6, 8, 3), 120, dtype=np.uint8), False)
ORIGINAL = Shown(np.full((6, 8, 3), 40, dtype=np.uint8), True)


@dataclass
class Canned:
    """What the server says next (the last one again and again), and what it was sent."""

    url: str
    replies: list[tuple[int, bytes]] = field(default_factory=list)
    seen: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)

    def say(self, *replies: str | int | bytes) -> None:
        for reply in replies:
            if isinstance(reply, int):
                self.replies.append((reply, b"{}"))
            else:
                said = {"choices": [{"message": {"role": "assistant", "content": reply}}]}
                self.replies.append((200, reply if isinstance(reply, bytes) else json.dumps(said).encode()))


@pytest.fixture
def canned() -> Iterator[Canned]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.seen.append((self.path, dict(self.headers), body))
            status, data = found.replies.pop(0) if len(found.replies) > 1 else found.replies[0]
            self.send_response(status)
            if status == 302:
                self.send_header("Location", f"{found.url}/elsewhere")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Canned(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def endpoint(canned: Canned, waits: list[float] | None = None, **settings: Any) -> VisionEndpoint:
    sleep = (lambda seconds: None) if waits is None else waits.append
    return VisionEndpoint(canned.url, "m", **{"key": KEY, "timeout": 20.0, "sleep": sleep, **settings})


def test_question_choices_and_picture_go_out_and_the_choice_comes_back(canned: Canned) -> None:
    canned.say("B")
    assert endpoint(canned).ask(QUESTION, [RELEASE]) == 1
    path, headers, body = canned.seen[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    (message,) = body["messages"]
    text, picture = message["content"]
    assert "Is the mouth open?\nA) no\nB) yes" in text["text"]
    sent = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
    assert np.abs(decode_picture(sent).astype(int) - RELEASE.pixels).max() <= 2


def test_a_large_picture_is_sent_smaller(canned: Canned) -> None:
    canned.say("A")
    endpoint(canned).ask(QUESTION, [Shown(np.full((512, 2048, 3), 9, dtype=np.uint8), False)])
    url = canned.seen[0][2]["messages"][0]["content"][1]["image_url"]["url"]
    assert decode_picture(base64.b64decode(url.partition(",")[2])).shape == (256, 1024, 3)


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("A", 0), (" b.\n", 1), ("(B)", 1), ("Yes", 1), ("**B) yes**", 1), ("B. yes\nbecause of the lips", 1),
        ("A) yes", UNANSWERED), ("C", UNANSWERED), ("", UNANSWERED), ("I cannot tell.", UNANSWERED),
        ("A person smiles", UNANSWERED), ("not yes", UNANSWERED),
    ],
)  # fmt: skip
def test_a_reply_is_one_of_the_choices_or_no_answer(reply: str, choice: int) -> None:
    assert parse_choice(reply, QUESTION.choices) == choice


def test_an_original_is_sent_only_where_that_is_allowed(canned: Canned) -> None:
    canned.say("A")
    with pytest.raises(OriginalsRefusedError, match="send_originals=true"):
        endpoint(canned).ask(QUESTION, [RELEASE, ORIGINAL])
    assert canned.seen == []
    assert endpoint(canned, sends_originals=True).ask(QUESTION, [RELEASE, ORIGINAL]) == 0


def test_a_passing_failure_is_tried_again_after_longer_and_longer_pauses(canned: Canned) -> None:
    canned.say(429, 503, "yes")
    waits: list[float] = []
    assert endpoint(canned, waits).ask(QUESTION, [RELEASE]) == 1
    assert waits == [1.0, 2.0]
    canned.replies.clear()
    canned.say(500)
    with pytest.raises(VisionEndpointError, match="after 3 tries: status 500"):
        endpoint(canned, retries=2).ask(QUESTION, [RELEASE])
    assert len(canned.seen) == 6


@pytest.mark.parametrize("status", [400, 401, 302])
def test_a_refusal_and_a_redirect_end_it_at_once_and_the_key_stays_out_of_it(canned: Canned, status: int) -> None:
    canned.say(status)
    asked = endpoint(canned)
    with pytest.raises(VisionEndpointError, match=f"status {status}") as caught:
        asked.ask(QUESTION, [RELEASE])
    assert len(canned.seen) == 1
    assert KEY not in repr(asked) + "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("reply", [b"<html>", b"[]", b'{"choices": []}', b"x" * (1 << 21)])
def test_a_reply_of_another_kind_is_an_error(canned: Canned, reply: bytes) -> None:
    canned.say(reply)
    with pytest.raises(VisionEndpointError, match=r"chat completion|larger than"):
        endpoint(canned).ask(QUESTION, [RELEASE])


def test_nobody_there_is_an_error_after_all_tries(canned: Canned) -> None:
    nobody = VisionEndpoint("http://127.0.0.1:9/v1", "m", retries=1, sleep=lambda seconds: None)
    with pytest.raises(VisionEndpointError, match="after 2 tries"):
        nobody.ask(QUESTION, [RELEASE])


@pytest.mark.parametrize(
    "url",
    ["http://host.example/v1", "https://name:word@host.example", "ftp://host.example", "host", "https://h/?key=1"],
)
def test_addresses_that_would_give_photos_or_keys_away_are_refused(url: str) -> None:
    with pytest.raises(VisionEndpointError, match="address of the endpoint"):
        check_url(url)
    check_url("https://host.example/v1")


def test_a_key_that_is_no_token_is_refused_without_being_told() -> None:
    with pytest.raises(VisionEndpointError, match="printable") as caught:
        VisionEndpoint("https://host.example", "m", "two\nlines")
    assert "lines" not in str(caught.value)


def photos(count: int) -> list[Any]:
    def one(number: int) -> Any:
        picture = np.full((6, 8, 3), 10 * number, dtype=np.uint8)
        return SimpleNamespace(original=picture, pixels=picture + 100, mate_photo=picture)

    return [one(number) for number in range(count)]


def test_without_leave_originals_are_answered_by_networks_and_only_releases_are_sent(canned: Canned) -> None:
    canned.say("A")
    offline = {question.name: np.array([0, 1]) for question in QUESTIONS}
    interview = Interview(endpoint(canned), lambda values: None)
    found = endpoint_answers(interview, photos(2), offline, sends_originals=False)
    assert len(canned.seen) == 2 * len(QUESTIONS)
    assert all(each.agreement[0].value == 0.5 and "networks" in each.source for each in found)
    shades = [
        decode_picture(base64.b64decode(body["messages"][0]["content"][1]["image_url"]["url"].partition(",")[2])).mean()
        for _, _, body in canned.seen
    ]
    assert min(shades) > 95


def test_with_leave_both_photos_are_asked_about_in_the_same_words(canned: Canned) -> None:
    canned.say("A")
    interview = Interview(endpoint(canned, sends_originals=True), lambda values: None)
    found = endpoint_answers(interview, photos(1), {}, sends_originals=True)
    texts = [body["messages"][0]["content"][0]["text"] for _, _, body in canned.seen]
    assert texts[::2] == texts[1::2]
    assert all(each.agreement[0].value == 1.0 for each in found)
    each = endpoint_identity(interview, photos(3), np.array([[0, 1, 2]]), np.array([0]))
    assert str(each.row()["right on the release"]).startswith("1.000")
    assert [part["text"] for part in canned.seen[-1][2]["messages"][0]["content"] if part["type"] == "text"][1:] == [
        "Picture 1:", "Picture 2:", "Picture 3:",
    ]  # fmt: skip


def test_after_a_failure_the_rest_is_unanswered_and_nobody_is_asked_again(canned: Canned) -> None:
    canned.say("A", 401)
    interview = Interview(endpoint(canned), lambda values: None)
    offline = {question.name: np.array([0, 0]) for question in QUESTIONS}
    found = endpoint_answers(interview, photos(2), offline, sends_originals=False)
    assert interview.has_failed
    assert len(canned.seen) == 2
    assert found[0].released.tolist() == [0, UNANSWERED]
    assert all((each.released == UNANSWERED).all() for each in found[1:])


def test_an_original_that_may_not_be_sent_ends_the_interview(canned: Canned) -> None:
    interview = Interview(endpoint(canned), lambda values: None)
    with pytest.raises(OriginalsRefusedError):
        endpoint_answers(interview, photos(1), {}, sends_originals=True)
    assert canned.seen == []
