"""A stream's payloads in memory, packed and read back: what the tests of packing stand on."""

import hashlib
import random

import orjson

from eventstore.errors import MissingBlob
from eventstore.log import Entry
from eventstore.packing import Bases, pack, unpack
from eventstore.packing.bases import PACKED_FROM


class Payloads:
    """Rows of one stream, as a backend keeps them, without one."""

    def __init__(self, stream="run-1", kind="CheckpointSaved"):
        self.stream = stream
        self.kind = kind
        self.rows = {}
        self.blobs = {}
        self.asked = 0
        """How often a stored payload was looked at."""

    def glimpsed(self, stream, version):
        row = self.stored(stream, version)
        return row and (row[0], row[1][:64])

    def stored(self, stream, version):
        self.asked += 1
        row = self.rows.get(version) if stream == self.stream else None
        return row and (row.hash, row.data)

    def last_packed(self, stream, kind, before):
        for version in range(before - 1, 0, -1):
            row = self.rows.get(version)
            if row and stream == self.stream and row.type == kind and isinstance(row.data, bytes):
                return version, row.hash, row.data
        return None

    def write_blob(self, data):
        digest = hashlib.sha256(data).digest()
        self.blobs[digest] = data
        return digest

    def read_blob(self, digest):
        if digest not in self.blobs:
            raise MissingBlob(digest.hex())
        return self.blobs[digest]

    def save(self, text, bases=None, *, version=None, kind=None):
        """Pack the payload into the next row; its packed form."""
        version = version or max(self.rows, default=0) + 1
        digest = hashlib.sha256(f"{version}:{text}".encode()).digest()
        entry = Entry(version, self.stream, version, kind or self.kind, 0, None, None, None, digest, None, text)
        packed = pack(entry, self, Bases() if bases is None else bases)
        self.rows[version] = entry._replace(data=packed)
        return packed

    def load(self, version, bases=None):
        """The payload of a row."""
        row = self.rows[version]
        return row.data if isinstance(row.data, str) else unpack(row, row.data, self, bases or Bases())

    @property
    def bytes(self):
        """That all rows take."""
        return sum(len(row.data) for row in self.rows.values()) + sum(len(data) for data in self.blobs.values())


def words(chance, size):
    """Text of about so many bytes, as compressible as prose."""
    vocabulary = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(400)]
    return " ".join(chance.choices(vocabulary, k=max(1, size // 6)))


def states(steps, *, size=2_000, seed=1):
    """The JSON of a state that grows by so many bytes a step, in two places, with counters that change before them.

    The first is large enough to be packed.
    """
    chance = random.Random(seed)
    state = {"step": 0, "usage": {"tokens": 0}, "messages": [], "plan": words(chance, PACKED_FROM), "seen": []}
    for step in range(steps):
        state["step"] = step
        state["usage"]["tokens"] += chance.randint(1, 5_000)
        state["messages"].append({"role": "assistant", "id": f"m{step}", "content": words(chance, size * 3 // 4)})
        state["seen"].append(words(chance, size // 4))
        yield orjson.dumps(state).decode()
