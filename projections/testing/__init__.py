"""The testing kit of the read side, as `runfold[testing]`: daemons that die at every point, and table backends.

`DaemonMachine` is a Hypothesis state machine that drives a real store with several workers, kills, restarts, zombies
and a clock that jumps, against a plain model; subclass it for your own log, world or projections. `MortalLog` is the
handle it kills, useful alone where one certain death is to be told. `TablesContract` is what a table backend promises.

Nothing here is needed to run a store; only this package and `eventstore.testing` import Hypothesis.
"""

from projections.testing.daemon import DaemonMachine
from projections.testing.mortal import Killed, MortalLog
from projections.testing.tables import TablesContract

__all__ = ["DaemonMachine", "Killed", "MortalLog", "TablesContract"]
