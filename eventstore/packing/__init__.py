"""How large payloads stand in a log: compressed, as what differs from an earlier one of their stream, or as a blob."""

from eventstore.packing.bases import BLOB_FROM, LOOKBACK, PACKED_FROM, Bases, Rows, pack, unpack
from eventstore.packing.forms import Compression, DamagedForm, back_of, plain_length, reference_of, reference_to

__all__ = [
    "BLOB_FROM",
    "LOOKBACK",
    "PACKED_FROM",
    "Bases",
    "Compression",
    "DamagedForm",
    "Rows",
    "back_of",
    "pack",
    "plain_length",
    "reference_of",
    "reference_to",
    "unpack",
]
