"""From original bytes to outcomes: the cache, one draw for requests that come at the same time, then the worker."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Sequence

from models.anonymizer.policy import Policy
from models.anonymizer.verdict import Release
from service.cache import ReleaseCache, ReleaseKey
from service.metrics import Metrics
from service.ports import DeadlineExceededError, Original, Outcome, Picture
from service.worker import InferenceWorker


class ReleaseDesk:
    """Gives releases for pictures; the same picture under the same policy is treated once per key epoch."""

    def __init__(
        self,
        worker: InferenceWorker,
        cache: ReleaseCache,
        metrics: Metrics,
        *,
        master_key: bytes,
        epoch: str,
        version: str,
        has_subjects: bool = False,
    ) -> None:
        """Connect the parts.

        Args:
            worker: treats pictures.
            cache: keeps releases.
            metrics: counts look-ups.
            master_key: secret of this installation.
            epoch: changed by the operator to unlink new pseudonyms and draws from old ones.
            version: artifacts and policy version, part of every key.
            has_subjects: whether the worker can name the subjects of stored pictures.
        """
        self.worker = worker
        self.cache = cache
        self.metrics = metrics
        self.version = version
        self._master_key = master_key
        self._epoch = epoch
        self._has_subjects = has_subjects
        self._running: dict[ReleaseKey, asyncio.Future[Outcome]] = {}

    async def release(
        self, originals: Sequence[Original], policy: Policy, *, scope: str, deadline_s: float
    ) -> list[Outcome]:
        """Give one outcome per original.

        Args:
            originals: pictures and the subjects somebody named.
            policy: what to do with every face.
            scope: what pseudonyms are stable within, for instance a collection's name.
            deadline_s: on the clock of time.monotonic.

        Returns:
            The outcomes, in order.

        Raises:
            DeadlineExceededError: if the deadline passes first.
        """
        keys = [
            ReleaseKey(
                hashlib.sha256(original.data).hexdigest(),
                policy,
                self._scope_key(original, policy, scope),
                self._epoch,
                self.version,
                self._corpus_key(original, policy, scope),
            )
            for original in originals
        ]
        pictures = {
            key: Picture(original.data, policy, key.scope_key, corpus_key=key.corpus_key)
            for key, original in zip(keys, originals, strict=True)
        }
        found: dict[ReleaseKey, Outcome] = {}
        while len(found) < len(pictures):
            if time.monotonic() >= deadline_s:
                raise DeadlineExceededError("the deadline passed before every picture was treated")
            await self._advance(pictures, found, deadline_s)
        return [found[key] for key in keys]

    def _scope_key(self, original: Original, policy: Policy, scope: str) -> bytes | None:
        """Name a subject without its name; a picture without a subject, or with a fresh identity, has none."""
        if policy.scope != "pseudonym" or original.subject is None:
            return None
        # the length keeps (scope, subject) pairs apart
        label = f"subject|{len(scope)}|{scope}|{original.subject}|{self._epoch}"
        return hmac.digest(self._master_key, label.encode(), "sha256")

    def _corpus_key(self, original: Original, policy: Policy, scope: str) -> bytes | None:
        """Name what the subjects of a stored picture are stable within; None where nobody would look them up."""
        if policy.scope != "pseudonym" or not self._has_subjects or not original.is_stored:
            return None
        return hmac.digest(self._master_key, f"corpus|{len(scope)}|{scope}|{self._epoch}".encode(), "sha256")

    async def _advance(
        self, pictures: dict[ReleaseKey, Picture], found: dict[ReleaseKey, Outcome], deadline_s: float
    ) -> None:
        """Answer from the cache, treat what nobody treats yet, and wait for what others treat."""
        mine: dict[ReleaseKey, asyncio.Future[Outcome]] = {}
        others: dict[ReleaseKey, asyncio.Future[Outcome]] = {}
        loop = asyncio.get_running_loop()
        for key in pictures.keys() - found.keys():
            cached = self.cache.get(key)
            self.metrics.cache_requests.labels("miss" if cached is None else "hit").inc()
            if cached is not None:
                found[key] = cached
            elif key in self._running:
                others[key] = self._running[key]
            else:
                mine[key] = self._running[key] = loop.create_future()
        try:
            if mine:
                ordered = [key for key in pictures if key in mine]
                outcomes = await self.worker.anonymize([pictures[key] for key in ordered], deadline_s)
                for key, outcome in zip(ordered, outcomes, strict=True):
                    found[key] = outcome
                    self.metrics.observe_outcome(outcome)
                    mine[key].set_result(outcome)
                    if isinstance(outcome, Release):
                        self.cache.put(key, outcome)
                self.metrics.cache_bytes.set(self.cache.num_bytes)
        finally:
            for key, future in mine.items():
                del self._running[key]
                # whoever waited for a request that failed or was canceled tries again itself
                future.cancel()
        if others:
            done, _ = await asyncio.wait(others.values(), timeout=max(0.0, deadline_s - time.monotonic()))
            for key, future in others.items():
                if future in done and not future.cancelled():
                    found[key] = future.result()
