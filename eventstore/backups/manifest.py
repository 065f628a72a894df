"""`backup.json`: what a backup folder held, proved, when the last backup into it ended."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from attrs import asdict, frozen

if TYPE_CHECKING:
    from eventstore.files import Files
    from eventstore.log import Cursor, Log

DATABASE = "log.db"
MANIFEST = "backup.json"
LOCK = "lock"
_FORMAT = 1
_HASH = re.compile(r"[0-9a-f]{64}")


@frozen
class Manifest:
    """What one backup says of itself."""

    log: str
    """The id of the log that it is a copy of."""
    position: int
    """Of the last entry that was proved."""
    hash: str
    """The hash there, as hex; of an encrypted log as its cipher names it."""
    made_at: str
    """When the backup ended; ISO 8601, UTC."""
    format: int = _FORMAT

    @classmethod
    def of(cls, log: Log, head: Cursor, made_at: str) -> Manifest:
        """Of a copy of this log, proved up to here."""
        return cls(log.id, head.position, _told(log, head.hash), made_at)

    def tells_of(self, log: Log, digest: bytes | None) -> bool:
        """Whether it is of this log, with an entry of this hash at its position."""
        return self.log == log.id and digest is not None and self.hash == _told(log, digest)

    def encode(self) -> bytes:
        """The file's bytes, for people as well."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """What the bytes say.

        Raises:
            ValueError: they are damaged, or of a newer release; with the reason.
        """
        try:
            said: dict[str, Any] = orjson.loads(data)  # `json` fails otherwise on what is nested deeply
            if said["format"] != _FORMAT:
                raise ValueError(f"is of format {said['format']}, and this release reads {_FORMAT}; update Runfold")
            manifest = cls(**said)
            texts = all(isinstance(text, str) for text in (manifest.log, manifest.hash, manifest.made_at))
            place = type(manifest.position) is int and 0 <= manifest.position < 2**63
            if not (texts and place and _HASH.fullmatch(manifest.hash)):
                raise TypeError  # noqa: TRY301
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError("is damaged") from error
        return manifest


def _told(log: Log, digest: bytes) -> str:
    """As with the witness of an encrypted log: its hash would tell whose guess at the last entry is right."""
    cipher = log.blobs.cipher
    return digest.hex() if cipher is None else cipher.name(f"backup {digest.hex()}")


def manifest_in(files: Files, folder: Path) -> Manifest | None:
    """The manifest of a backup folder; None where no backup into it ever ended.

    Raises:
        ValueError: see `Manifest.decode`.
    """
    data = files.read(folder / MANIFEST)
    return None if data is None else Manifest.decode(data)
