"""The testing kit, as `runfold[testing]`: what proves a machine of your own, and a backend of your own.

`histories(MACHINE)` draws legal histories of any machine: lists of events that its table and guards let pass, from
the first event on, ending anywhere. Give them to whatever you built on the machine, and say what must hold of it.
`Rehearsal` is a stream that lives in no log, for looking at a machine alone, step by step. `json_values()` and
`texts()` are what can be stored, `events_of(EventClass)` what can be made of a class's fields. `LogContract` is what a
backend promises, as tests: subclass it, say how your log is opened and opened again, and run pytest.

Nothing here is needed to run a store; only this package imports Hypothesis.
"""

from eventstore.testing.contract import LogContract
from eventstore.testing.strategies import Rehearsal, events_of, histories, json_values, texts

__all__ = ["LogContract", "Rehearsal", "events_of", "histories", "json_values", "texts"]
