"""How large payloads stand in a log: compressed, or as what differs from an earlier one of their stream."""

from eventstore.packing.bases import LOOKBACK, PACKED_FROM, Bases, Rows, pack, unpack
from eventstore.packing.forms import Compression, DamagedForm, plain_length

__all__ = ["LOOKBACK", "PACKED_FROM", "Bases", "Compression", "DamagedForm", "Rows", "pack", "plain_length", "unpack"]
