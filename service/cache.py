"""Verified releases, kept by what they were made from, least recently used first to go."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from models.anonymizer.errors import VerdictForgedError
from models.anonymizer.policy import Policy
from models.anonymizer.verdict import Reason, Release

# outcomes of a bad moment rather than of the picture: the next request may do better
_PASSING = frozenset({Reason.DEADLINE, Reason.OUT_OF_MEMORY, Reason.INTERNAL_ERROR, Reason.MISCONFIGURED})


@dataclass(frozen=True, slots=True)
class ReleaseKey:
    """What a release depends on.

    A fresh identity is drawn once per picture, policy and key epoch and then reused: independent draws of one picture
    could be averaged against each other.
    """

    picture_sha256: str
    policy: Policy
    scope_key: bytes | None
    epoch: str
    version: str
    corpus_key: bytes | None = None


class ReleaseCache:
    """Releases within a budget of bytes; every read checks seal and digest again."""

    def __init__(self, max_bytes: int) -> None:
        """Start empty.

        Args:
            max_bytes: sum of the encoded pictures, at most; 0 keeps nothing.
        """
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[ReleaseKey, tuple[Release, int]] = OrderedDict()

    def __len__(self) -> int:
        """Count the releases."""
        return len(self._entries)

    def get(self, key: ReleaseKey) -> Release | None:
        """Give a release that still verifies.

        Args:
            key: what it was made from.

        Returns:
            The release, or None; one that fails its check is dropped.
        """
        entry = self._entries.get(key)
        if entry is None:
            return None
        release = entry[0]
        try:
            release.image_bytes()
        except VerdictForgedError:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return release

    def put(self, key: ReleaseKey, release: Release) -> bool:
        """Keep a release that holds bytes and was not the outcome of a bad moment.

        Args:
            key: what it was made from.
            release: what the anonymizer gave.

        Returns:
            Whether it was kept.
        """
        data = release.image_bytes()
        reasons = {release.verdict.reason, *(face.reason for face in release.verdict.faces)}
        if data is None or len(data) > self.max_bytes or reasons & _PASSING:
            return False
        self._drop(key)
        self._entries[key] = (release, len(data))
        self.num_bytes += len(data)
        while self.num_bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))
        return True

    def forget(self, picture_sha256: str) -> int:
        """Drop everything made from one picture, because the picture was erased.

        Args:
            picture_sha256: the original's hash.

        Returns:
            How many releases were dropped.
        """
        gone = [key for key in self._entries if key.picture_sha256 == picture_sha256]
        for key in gone:
            self._drop(key)
        return len(gone)

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self.num_bytes = 0

    def _drop(self, key: ReleaseKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.num_bytes -= entry[1]
