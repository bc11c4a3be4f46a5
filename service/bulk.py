"""Anonymizing files and folders: every file has its own outcome, and a run can be taken up again."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from models.anonymizer.policy import Media, Policy
from models.anonymizer.verdict import Reason, Release
from models.pictures import PictureError, PictureTooLargeError
from service.ports import Anonymizer, Picture

MANIFEST_NAME: Final = "manifest.jsonl"
SUFFIXES: Final[dict[str, Media]] = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the manifest: which file became what, under which policy. No hash of the source is kept."""

    source: str
    source_bytes: int
    source_mtime_ns: int
    output: str | None
    status: str
    reason: str | None
    sha256: str | None
    faces: list[dict[str, Any]] = field(default_factory=list)
    policy: str = ""  # digest

    @property
    def is_failed(self) -> bool:
        """Whether no picture was written."""
        return self.output is None


@dataclass(frozen=True, slots=True)
class Job:
    """One file to do."""

    source: Path
    name: str
    target: Path


def plan(source: Path, target: Path) -> list[Job]:
    """List the files to anonymize.

    Args:
        source: a file, or a folder that is searched at every depth; links are not followed.
        target: a file for a file, a folder for a folder.

    Returns:
        One job per picture, ordered by name. Outputs keep their relative path and their format.

    Raises:
        FileNotFoundError: if there is no source.
        ValueError: if outputs would take the place of sources.
    """
    if source.exists() and source.resolve() == target.resolve():
        raise ValueError(f"output must not be the source itself: {source}")
    if source.is_file():
        return [Job(source, source.name, target / source.name if target.is_dir() else target)]
    if not source.is_dir():
        raise FileNotFoundError(f"no such file or folder: {source}")
    inside = target.resolve()
    jobs = []
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(name for name in folders if (Path(folder) / name).resolve() != inside)
        for file in sorted(files):
            path = Path(folder) / file
            if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink():
                name = path.relative_to(source).as_posix()
                jobs.append(Job(path, name, target / name))
    return sorted(jobs, key=lambda job: job.name)


def read_manifest(path: Path) -> dict[str, Entry]:
    """Read the entries of an earlier run; the last line of a source counts, a torn last line is left out.

    Args:
        path: the manifest; may be missing.

    Returns:
        Source name to entry.
    """
    entries: dict[str, Entry] = {}
    if not path.is_file():
        return entries
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            # a run that was killed while it wrote leaves half a line; its file is simply done again
            continue
        entries[entry.source] = entry
    return entries


def is_done(job: Job, entry: Entry | None, policy: Policy) -> bool:
    """Tell whether a job's entry still holds.

    Args:
        job: the file.
        entry: what an earlier run did with it, if it did.
        policy: the policy of this run.

    Returns:
        Whether policy and source are the same and the output is the one that was verified.
    """
    if entry is None or entry.policy != policy.digest():
        return False
    stat = job.source.stat()
    if (stat.st_size, stat.st_mtime_ns) != (entry.source_bytes, entry.source_mtime_ns):
        return False
    if entry.output is None:
        return True
    return job.target.is_file() and sha256(job.target.read_bytes()).hexdigest() == entry.sha256


def anonymize_files(
    jobs: Sequence[Job],
    manifest: Path | None,
    policy: Policy,
    make_anonymizer: Callable[[], Anonymizer],
    check_picture: Callable[[bytes], None],
    *,
    num_workers: int = 1,
    keep_media: bool = True,
    scope_key: bytes | None = None,
) -> Iterator[Entry]:
    """Do the jobs that are not done yet.

    Args:
        jobs: what `plan` lists.
        manifest: where entries are appended, each after its output is safely on disk; None for no manifest.
        policy: treatment of faces.
        make_anonymizer: called once in each worker thread.
        check_picture: raises PictureError for bytes that are no acceptable picture.
        num_workers: threads, each with its own anonymizer.
        keep_media: encode each output in the format its suffix names, else in the policy's.
        scope_key: scope of pseudonyms.

    Yields:
        One entry per job, those of an earlier run included, in the order they are finished.

    Raises:
        BaseException: whatever `make_anonymizer` raises.
    """
    done = read_manifest(manifest) if manifest is not None else {}
    todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
    finished: queue.SimpleQueue[Entry | BaseException] = queue.SimpleQueue()
    waiting = 0

    def policy_of(job: Job) -> Policy:
        media = SUFFIXES.get(job.target.suffix.lower(), policy.media) if keep_media else policy.media
        return replace(policy, media=media)

    for job in jobs:
        entry = done.get(job.name)
        if entry is not None and is_done(job, entry, policy_of(job)):
            yield entry
        else:
            todo.put(job)
            waiting += 1

    def work() -> None:
        try:
            anonymizer = make_anonymizer()
            while True:
                try:
                    job = todo.get_nowait()
                except queue.Empty:
                    return
                own = policy_of(job)
                finished.put(replace(_do(job, own, anonymizer, check_picture, scope_key), policy=own.digest()))
        except BaseException as error:
            finished.put(error)

    for number in range(min(num_workers, waiting)):
        threading.Thread(target=work, name=f"bulk-{number}", daemon=True).start()
    for _ in range(waiting):
        entry_or_error = finished.get()
        if isinstance(entry_or_error, BaseException):
            raise entry_or_error
        if manifest is not None:
            _append(manifest, entry_or_error)
        yield entry_or_error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either whole or not there.

    Args:
        path: where; its folder is made.
        data: content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _do(
    job: Job,
    policy: Policy,
    anonymizer: Anonymizer,
    check_picture: Callable[[bytes], None],
    scope_key: bytes | None,
) -> Entry:
    size = mtime = 0
    try:
        stat = job.source.stat()
        size, mtime = stat.st_size, stat.st_mtime_ns
        data = job.source.read_bytes()
        check_picture(data)
        (release,) = anonymizer.anonymize([Picture(data, policy, scope_key)])
        released = release.image_bytes()
        if released is not None:
            write_atomically(job.target, released)
    except Exception as error:
        # whatever happens to one file, nothing is written for it and the others go on
        job.target.unlink(missing_ok=True)
        return Entry(job.name, size, mtime, None, "withheld", str(_reason(error)), None)
    return _entry(job, size, mtime, release, released)


def _entry(job: Job, size: int, mtime: int, release: Release, released: bytes | None) -> Entry:
    verdict = release.verdict
    if released is None:
        job.target.unlink(missing_ok=True)
    return Entry(
        source=job.name,
        source_bytes=size,
        source_mtime_ns=mtime,
        output=None if released is None else job.target.name,
        status=str(verdict.status),
        reason=None if verdict.reason is None else str(verdict.reason),
        sha256=None if released is None else verdict.digest,
        faces=[face.as_dict() for face in verdict.faces],
    )


def _reason(error: Exception) -> Reason:
    if isinstance(error, PictureTooLargeError):
        return Reason.PICTURE_TOO_LARGE
    if isinstance(error, PictureError):
        return Reason.UNDECODABLE
    if isinstance(error, MemoryError):
        return Reason.OUT_OF_MEMORY
    return Reason.INTERNAL_ERROR


def _append(manifest: Path, entry: Entry) -> None:
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with manifest.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(entry), sort_keys=True) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
