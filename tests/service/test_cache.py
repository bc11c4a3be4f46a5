"""The cache of releases, and answers kept under an idempotency key."""

from __future__ import annotations

import asyncio

import pytest

from models.anonymizer.policy import Policy
from models.anonymizer.verdict import Reason, Release, Status, _issue
from service.cache import ReleaseCache, ReleaseKey
from service.idempotency import KEPT_S, IdempotentAnswers
from service.ports import IdempotencyKeyReusedError, RequestInProgressError

pytestmark = pytest.mark.anyio


def key(name: str, **policy) -> ReleaseKey:
    return ReleaseKey(name, Policy(**policy), b"s", "1", "v1")


def released(data: bytes, reason: Reason | None = None) -> Release:
    return Release(_issue(Status.NO_FACE, reason, (), data), data, media_type="image/png")


def test_a_release_is_found_under_all_that_it_depends_on():
    cache = ReleaseCache(1000)
    assert cache.put(key("a"), released(b"1"))
    assert cache.get(key("a")) is not None
    others = (
        key("b"),
        key("a", steps=1),
        key("a", level="strict"),
        key("a", level="faithful"),
        ReleaseKey("a", Policy(), b"t", "1", "v1"),
        ReleaseKey("a", Policy(), b"s", "2", "v1"),
    )
    assert all(cache.get(other) is None for other in others)
    assert cache.get(ReleaseKey("a", Policy(), b"s", "1", "v2")) is None


def test_bytes_are_bounded_and_the_least_recently_used_goes_first():
    cache = ReleaseCache(10)
    for name in "abc":
        cache.put(key(name), released(b"123"))
    cache.get(key("a"))
    cache.put(key("d"), released(b"123"))
    assert [cache.get(key(name)) is not None for name in "abcd"] == [True, False, True, True]
    assert cache.num_bytes == 9
    assert not cache.put(key("e"), released(b"x" * 11))
    cache.put(key("a"), released(b"1"))
    assert cache.num_bytes == 7


def test_withheld_and_unlucky_outcomes_are_not_kept():
    cache = ReleaseCache(100)
    withheld = Release(_issue(Status.WITHHELD, Reason.LEFTOVER_FACE, (), None), None, media_type="image/png")
    assert not cache.put(key("a"), withheld)
    assert not cache.put(key("a"), released(b"1", Reason.DEADLINE))
    assert len(cache) == 0


def test_a_release_that_no_longer_verifies_is_dropped():
    cache = ReleaseCache(100)
    release = released(b"verified bytes")
    cache.put(key("a"), release)
    release._data = b"other bytes"
    assert cache.get(key("a")) is None
    assert (len(cache), cache.num_bytes) == (0, 0)


def test_erasing_a_picture_drops_everything_made_from_it():
    cache = ReleaseCache(100)
    cache.put(key("a"), released(b"1"))
    cache.put(key("a", steps=1), released(b"2"))
    cache.put(key("b"), released(b"3"))
    assert cache.forget("a") == 2
    assert (len(cache), cache.num_bytes) == (1, 1)


async def test_an_answer_is_given_again_for_a_day():
    now = [0.0]
    answers = IdempotentAnswers(lambda: now[0])
    calls = []

    async def act():
        calls.append(1)
        return len(calls)

    assert await answers.once(("k",), b"body", act) == 1
    assert await answers.once(("k",), b"body", act) == 1
    with pytest.raises(IdempotencyKeyReusedError):
        await answers.once(("k",), b"other", act)
    now[0] = KEPT_S + 1
    assert await answers.once(("k",), b"other", act) == 2


async def test_a_running_request_is_not_done_twice_and_a_failed_one_can_be_repeated():
    answers = IdempotentAnswers()
    started = asyncio.Event()

    async def fail():
        started.set()
        await asyncio.sleep(0.05)
        raise RuntimeError

    first = asyncio.create_task(answers.once(("k",), b"", fail))
    await started.wait()
    with pytest.raises(RequestInProgressError):
        await answers.once(("k",), b"", fail)
    with pytest.raises(RuntimeError):
        await first

    async def succeed():
        return "done"

    assert await answers.once(("k",), b"", succeed) == "done"
