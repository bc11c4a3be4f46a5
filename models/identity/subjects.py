"""The subject table: which faces of a folder's pictures show one person, told to whoever has key, table and picture.

The offline job that looks at the pictures keeps no embedding, no name and no file name. Per picture one record is left:

    locator = HMAC-SHA256(key, "picture" | salt | digest)                       digest: sha256 of the picture's bytes
    record  = faces xor HMAC-SHA256(key, "faces" | salt | digest | 0) | HMAC-SHA256(.. | 1) | ...
    faces   = box as four 16 bit shares of width and height, token of 16 random bytes, and so on

Two faces with one token are one subject; a token says nothing else. Without the key a table shows how many pictures
there are and how many faces in each. The salt is drawn anew for every table, so that two tables of one folder cannot be
laid over each other. A seal, HMAC-SHA256 over everything, shows another key or a changed byte when the table is opened.
"""

import hmac
import json
import os
import re
import secrets
import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, Self

from models.faces.boxes import Box, clip, iou
from models.identity.errors import PseudonymKeyError, SubjectTableError
from models.identity.pseudonym import PseudonymKey

TOKEN_BYTES: Final = 16
MATCH_IOU: Final = 0.5
MAX_FACES: Final = 256
MAX_PICTURES: Final = 1_000_000
MAX_FILE_BYTES: Final = 256 * 2**20
FORMAT: Final = "doppel-subject-table"
VERSION: Final = 1

_FACE: Final = struct.Struct(f">4H{TOKEN_BYTES}s")
_STEPS: Final = 0xFFFF
_DIGEST_BYTES: Final = 32
_HEX: Final = re.compile(r"(?:[0-9a-f]{2})+")
_FIELDS: Final = frozenset({"format", "version", "salt", "pictures", "seal"})


@dataclass(frozen=True, slots=True)
class SubjectFace:
    """A face in a picture: its box in shares of width and height, each in [0, 1], and its subject's token."""

    box: Box
    token: bytes = field(repr=False)


def new_token() -> bytes:
    """Draw a token for a new subject."""
    return secrets.token_bytes(TOKEN_BYTES)


class SubjectTable:
    """Names the subjects of faces by where they are in which picture; the resolver of the scope `pseudonym`."""

    def __init__(self, key: bytes, salt: bytes, records: Mapping[bytes, bytes]) -> None:
        """Hold sealed records; `sealed` and `load` make tables.

        Args:
            key: at least 32 random bytes.
            salt: 16 bytes.
            records: locator -> record.

        Raises:
            SubjectTableError: the key is too short or obviously not random.
        """
        try:
            self._key = PseudonymKey(key)
        except PseudonymKeyError as error:
            raise SubjectTableError(f"the key of a subject table is a key of pseudonyms: {error}") from error
        self._salt = salt
        self._records = dict(records)

    def __repr__(self) -> str:
        return f"SubjectTable(pictures={len(self)})"

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self._records)

    @classmethod
    def sealed(cls, key: bytes, pictures: Mapping[bytes, Sequence[SubjectFace]]) -> Self:
        """Make a table.

        Args:
            key: at least 32 random bytes.
            pictures: sha256 of a picture's bytes -> its faces; a picture without one is left out.

        Returns:
            The table, with a new salt.

        Raises:
            SubjectTableError: the key is no key, a digest or token has another length, a box is no box inside the
                picture, or there are too many pictures or faces.
        """
        table = cls(key, secrets.token_bytes(16), {})
        if len(pictures) > MAX_PICTURES:
            raise SubjectTableError(f"a subject table holds at most {MAX_PICTURES} pictures, got {len(pictures)}")
        for digest, faces in pictures.items():
            if faces:
                table._records[table._locator(digest)] = table._masked(digest, b"".join(_packed(faces)))
        return table

    @classmethod
    def load(cls, path: Path, key: bytes) -> Self:
        """Open a table.

        Args:
            path: the file.
            key: the key it was made with.

        Returns:
            The table.

        Raises:
            SubjectTableError: the file is missing, too large, not a table of this version, or not sealed with this key.
        """
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise SubjectTableError(f"the subject table {path} cannot be read: {error.strerror}") from error
        if len(data) > MAX_FILE_BYTES:
            raise SubjectTableError(f"the subject table {path} has more than {MAX_FILE_BYTES} bytes")
        try:
            salt, records, seal = _parsed(data)
        except (ValueError, RecursionError) as error:
            detail = str(error) if isinstance(error, SubjectTableError) else "it is not such a JSON document"
            raise SubjectTableError(f"{path} is not a whole subject table: {detail}") from None
        table = cls(key, salt, records)
        if not hmac.compare_digest(table._seal(), seal):
            raise SubjectTableError(f"the subject table {path} was made with another key, or changed since")
        return table

    def save(self, path: Path) -> None:
        """Write the table, whole or not at all, readable by its owner only.

        Args:
            path: the file, in an existing folder.
        """
        payload = {
            "format": FORMAT,
            "version": VERSION,
            "salt": self._salt.hex(),
            "pictures": {locator.hex(): record.hex() for locator, record in sorted(self._records.items())},
            "seal": self._seal().hex(),
        }
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
        try:
            with os.fdopen(handle, "w", encoding="ascii") as temporary:
                temporary.write(json.dumps(payload, indent=0) + "\n")
                temporary.flush()
                os.fsync(temporary.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def faces(self, digest: bytes) -> tuple[SubjectFace, ...]:
        """Give the faces that are known of a picture.

        Args:
            digest: sha256 of its bytes.

        Returns:
            Its faces; none when the table does not know it.
        """
        record = self._records.get(self._locator(digest))
        if record is None:
            return ()
        return tuple(
            SubjectFace((x0 / _STEPS, y0 / _STEPS, x1 / _STEPS, y1 / _STEPS), token)
            for x0, y0, x1, y1, token in _FACE.iter_unpack(self._masked(digest, record))
        )

    def __call__(self, digest: bytes, box: Box) -> bytes | None:
        """Name the subject of a face.

        Args:
            digest: sha256 of the picture's bytes.
            box: of the face, in shares of width and height; what reaches beyond the picture does not count.

        Returns:
            The token of the known face whose box overlaps most, or None when no overlap is `MATCH_IOU` or more.
        """
        inside = clip(box, (1, 1))
        best = max(self.faces(digest), key=lambda face: iou(face.box, inside), default=None)
        return best.token if best is not None and iou(best.box, inside) >= MATCH_IOU else None

    def _locator(self, digest: bytes) -> bytes:
        if len(digest) != _DIGEST_BYTES:
            raise SubjectTableError(f"a picture's digest has {_DIGEST_BYTES} bytes, got {len(digest)}")
        return self._key.derive("picture", self._salt, digest)

    def _masked(self, digest: bytes, data: bytes) -> bytes:
        """Add the picture's own stream of bits; done twice it gives the data back."""
        stream = b""
        for block in count():
            if len(stream) >= len(data):
                break
            stream += self._key.derive("faces", self._salt, digest, block.to_bytes(8, "big"))
        return bytes(a ^ b for a, b in zip(data, stream, strict=False))

    def _seal(self) -> bytes:
        parts = (part for pair in sorted(self._records.items()) for part in pair)
        return self._key.derive(FORMAT, VERSION.to_bytes(8, "big"), self._salt, *parts)


def _packed(faces: Sequence[SubjectFace]) -> list[bytes]:
    if len(faces) > MAX_FACES:
        raise SubjectTableError(f"a subject table holds at most {MAX_FACES} faces of a picture, got {len(faces)}")
    rows = []
    for face in sorted(faces, key=lambda face: face.box):
        x0, y0, x1, y1 = face.box
        if len(face.token) != TOKEN_BYTES:
            raise SubjectTableError(f"a subject's token has {TOKEN_BYTES} bytes, got {len(face.token)}")
        if not (0.0 <= x0 < x1 <= 1.0 and 0.0 <= y0 < y1 <= 1.0):
            raise SubjectTableError("a face's box must be given in shares of the picture, corners in order")
        rows.append(_FACE.pack(*(round(value * _STEPS) for value in face.box), face.token))
    return rows


def _parsed(data: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """Read salt, records and seal; what is not exactly as `save` writes it is an error."""
    payload = json.loads(data.decode("ascii"), object_pairs_hook=_unique)
    if not isinstance(payload, dict) or set(payload) != _FIELDS or payload["format"] != FORMAT:
        raise SubjectTableError(f"it must be an object of {', '.join(sorted(_FIELDS))} with the format {FORMAT}")
    version = payload["version"]
    if type(version) is not int or version != VERSION:
        raise SubjectTableError(f"this code reads version {VERSION}")
    pictures = payload["pictures"]
    if not isinstance(pictures, dict) or len(pictures) > MAX_PICTURES:
        raise SubjectTableError(f"pictures must be an object of at most {MAX_PICTURES} records")
    records = {}
    for locator, record in pictures.items():
        sealed = _from_hex(record, None)
        if len(sealed) % _FACE.size or len(sealed) > MAX_FACES * _FACE.size:
            raise SubjectTableError(f"a record must hold 1 to {MAX_FACES} faces of {_FACE.size} bytes")
        records[_from_hex(locator, _DIGEST_BYTES)] = sealed
    return _from_hex(payload["salt"], 16), records, _from_hex(payload["seal"], _DIGEST_BYTES)


def _from_hex(text: Any, size: int | None) -> bytes:
    if not isinstance(text, str) or not _HEX.fullmatch(text) or (size is not None and len(text) != 2 * size):
        raise SubjectTableError(f"expected {'' if size is None else f'{size} bytes as '}lower-case hexadecimal digits")
    return bytes.fromhex(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise SubjectTableError("a name occurs twice")
    return found
