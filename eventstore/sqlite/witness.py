"""The witness file of one database: looked at before the head when opening, written over after each commit.

Ahead of the log, it proves that something acknowledged is gone. Behind, absent, foreign or damaged it proves nothing:
several processes may write it out of order, and a power cut may tear it, so that it is only ever weaker.
"""

from __future__ import annotations

import hmac
import logging
import time
from typing import TYPE_CHECKING

from eventstore.errors import DamagedSegment, SegmentMissing
from eventstore.integrity import Witness
from eventstore.log import Loss

if TYPE_CHECKING:
    from pathlib import Path

    from eventstore.files import Files, Held
    from eventstore.log import Entry, Head
    from eventstore.sqlite.driver import Synchronous
    from eventstore.sqlite.transaction import SQLiteTransaction

_LOG = logging.getLogger("runfold")
_MOMENT = 0.005
"""Seconds in which a witness is written that another process has just made."""


class WitnessFile:
    """The file beside the database, `agent.db-witness`."""

    def __init__(self, database: Path, files: Files, synchronous: Synchronous, boot_id: str) -> None:
        self._path = database.with_name(database.name + "-witness")
        self._files = files
        self._synchronous = synchronous
        self._boot_id = boot_id
        self._held: Held | None = None
        self._overruled = False
        """Whether the file tells of entries that are gone, which somebody accepted."""
        self.remarks: tuple[str, ...] = ()
        """Why nothing can be told by it, if so."""
        self._veil: bytes | None = None

    def veil(self, data_key: bytes | None) -> None:
        """Beside an encrypted log no hash is written as it is: it would tell whose guess at the last entry is right."""
        self._veil = data_key and hmac.digest(data_key, b"runfold/1 witness", "sha256")

    def _told(self, digest: bytes) -> bytes:
        return digest if self._veil is None else hmac.digest(self._veil, digest, "sha256")

    def read(self) -> Witness | None:
        """What it says; None, with a warning where something is there, if it says nothing."""
        try:
            data = self._files.read(self._path)
            if data == b"":  # made, and written next: or it would pass for one that a power cut emptied
                time.sleep(_MOMENT)
                data = self._files.read(self._path)
        except OSError as error:
            self._useless(f"cannot be read ({error})")
            return None
        if data is None:
            self._useless("is not there", logging.DEBUG)  # as beside each new database
            return None
        if (witness := Witness.decode(data)) is None:
            self._useless("is damaged")
        return witness

    def _useless(self, why: str, level: int = logging.WARNING) -> None:
        words = f"the witness {self._path} {why}: a tail that was lost before this opening would not have been noticed"
        _LOG.log(level, words)
        self.remarks = (f"{words}; the next append writes a new one",)

    def loss(self, witness: Witness, log_id: str, reading: SQLiteTransaction) -> Loss | None:
        """What is gone, by this witness; None if nothing is, or if it is another log's."""
        if witness.log_id != log_id:
            self._useless("is another log's")
            return None
        try:
            found = reading.hash_at(witness.position)
        except (SegmentMissing, DamagedSegment):  # so far behind that its entry was archived: the tail is beyond it
            return None
        if found is not None and self._told(found) == witness.hash:
            return None
        head: Head = reading.head()
        self._overruled = True
        promised = self._may_lose(witness) and head.position < witness.position
        return Loss(witness.position, witness.hash.hex(), head.position, promised)

    def all_gone(self, witness: Witness) -> Loss:
        """What is gone where the witness stands beside a database that does not even hold a log."""
        self._overruled = True
        return Loss(witness.position, witness.hash.hex(), 0, self._may_lose(witness))

    def _may_lose(self, witness: Witness) -> bool:
        rebooted = bool(self._boot_id) and witness.boot_id != self._boot_id
        return witness.synchronous == "NORMAL" and rebooted

    def saw(self, log_id: str, entry: Entry) -> None:
        """An entry was committed. A disk that does not take this much costs no fact: the log has it already."""
        witness = Witness(log_id, entry.position, self._told(entry.hash), self._synchronous, self._boot_id)
        try:
            if self._held is None:
                self._held = self._files.hold(self._path)
            self._held.overwrite(witness.encode())
            if self._overruled:
                # Or a power cut brings the old words back when the log has grown past them: a tail that nobody lost.
                self._held.sync()
                self._overruled = False
        except OSError as error:
            _LOG.warning("%s cannot be written (%s): a lost tail would be noticed less surely", self._path, error)

    def close(self) -> None:
        """Sync what was written, and let go."""
        held, self._held = self._held, None
        if held is None:
            return
        try:
            held.sync()
            held.close()
        except OSError as error:
            _LOG.warning("%s cannot be synced: %s", self._path, error)
