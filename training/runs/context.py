"""The run context: the only way a job touches the world."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from models.registry.store import ArtifactStore
from training.runs.checkpoint import Checkpoint


class Publish(Protocol):
    """Publish an artifact; see `models.registry.store.ArtifactStore.publish` for the manifest fields."""

    def __call__(self, name: str, kind: str, files: Mapping[str, bytes | Path], **fields: Any) -> str:
        """Return the reference ``name@version`` of the published artifact."""
        ...


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a job gets.

    ``directory`` takes figures and other files. ``log({"step": step, "loss": loss})`` appends a line to
    ``metrics.jsonl``. A long job asks ``should_stop()`` before every step; told to stop, it calls ``save(checkpoint)``
    and leaves (by returning or by `training.runs.stopping.RunInterruptedError`), and the run counts as interrupted.
    ``restore()`` is None on a fresh run and the last checkpoint on a resumed one. ``store`` resolves existing
    artifacts; ``publish(name, kind, files, ...)`` adds one, fills in what produced it, and returns ``name@version``.
    """

    directory: Path
    device: torch.device
    log: Callable[[Mapping[str, float]], None]
    should_stop: Callable[[], bool]
    save: Callable[[Checkpoint], None]
    restore: Callable[[], Checkpoint | None]
    store: ArtifactStore
    publish: Publish

    def with_store(self, root: Path | None) -> RunContext:
        """The same run that resolves artifacts of another store; itself where there is none."""
        return self if root is None else replace(self, store=ArtifactStore(root))


class MetricsFile:
    """``metrics.jsonl``: one JSON object per line."""

    def __init__(self, path: Path, *, echo: Callable[[str], None] | None = None) -> None:
        """Open the file; ``echo`` also gets each line as text."""
        self._path = path
        self._echo = echo
        path.touch()

    def __call__(self, values: Mapping[str, float]) -> None:
        """Append a line."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({name: _plain(value) for name, value in values.items()}) + "\n")
        if self._echo is not None:
            self._echo(" ".join(f"{name}={value:.6g}" for name, value in values.items()))

    def cut(self, size: int) -> None:
        """Drop everything after the first ``size`` bytes."""
        os.truncate(self._path, size)


def _plain(value: float) -> float | str:
    """JSON has no infinity and no NaN; they become the texts that ``float`` reads back."""
    if isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else str(float(value))
