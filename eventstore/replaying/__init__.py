"""The machines over very many entries: each judged by as little of it as proves that it is legal.

`gate.admit` is the judge, with a state and a payload before it. Over a whole log that costs ten times the reading, and
nearly every entry is plainly legal: a table and a fence look at phase, attempt and type alone, and a guard that is
asked about a call id which nobody used before has nothing to refuse. So here streams are walked by *glances*, lists of
types and attempts; what is not plain is handed to the judge, on the part of the state that it looks at. Nothing is
accepted here that the judge refuses, nothing is refused but by the judge, and its words are what is told.

The rules are not written down a second time. Where a stream stands is a `_Cell`, made from the machine's own table and
fence when first entered, and a dict from then on.
"""

from eventstore.replaying.opening import Opening
from eventstore.replaying.replay import STRETCH, Ahead, Replay

__all__ = ["STRETCH", "Ahead", "Opening", "Replay"]
