"""What a store measures, told through OpenTelemetry's API.

The API alone is used, never an SDK: which readers and exporters there are is the program's affair. It is looked for
when a store is opened, and only where the program has imported it or asks for it (see `instruments`), since importing
it takes longer than all of ours. Nothing here reaches the caller: an SDK that raises is told to the log of the
process, once, and costs neither a fact nor a read.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from weakref import WeakKeyDictionary, WeakSet, ref

from eventstore.errors import ForkedStore, InvalidArgument, Refused
from eventstore.watching import Instrument, Watch

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, MeterProvider

    from eventstore.store import EventStore

_LOG = logging.getLogger("runfold")
API = "opentelemetry.metrics"
_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

APPENDS = Instrument(
    "runfold.append.duration", "histogram", "s",
    "How long appends took, from the call to the answer; failed ones too, by the name of the error.",
    "error.type", _SECONDS,
)  # fmt: skip
REFUSALS = Instrument(
    "runfold.append.refusals", "counter", "{refusal}",
    "Appends that were refused, with nothing written: conflicts, fenced workers, illegal transitions …", "error.type",
)  # fmt: skip
ENTRIES = Instrument(
    "runfold.log.entries", "counter", "{entry}", "Entries committed, by the type of their event.", "runfold.event.type"
)
BATCHES = Instrument(
    "runfold.transaction.batch_size", "histogram", "{write}",
    "How many callers' writes shared a transaction.", bounds=_SIZES,
)  # fmt: skip
TRANSACTIONS = Instrument(
    "runfold.transaction.duration", "histogram", "s",
    "How long write transactions took: waiting for other processes' lock, writing, and the commit.", bounds=_SECONDS,
)  # fmt: skip
COMMITS = Instrument(
    "runfold.commit.duration", "histogram", "s",
    "How long commits took, which is the sync of the disk.", bounds=_SECONDS,
)  # fmt: skip
INSTRUMENTS = (APPENDS, REFUSALS, ENTRIES, BATCHES, TRANSACTIONS, COMMITS)

Observed: TypeAlias = Iterable[tuple[float, str | None]]
"""Values of a gauge, each with its attribute."""
Metrics: TypeAlias = "MeterProvider | bool | None"


class Gauges(Protocol):
    """What a store is asked for when its gauges are read."""

    def values(self, instrument: Instrument) -> Observed:
        """The values of one instrument, now; it writes nothing and waits for nobody."""


class Instruments:
    """The instruments of one provider, each made when it is first used, and the stores whose gauges it reads.

    One for all stores of a process, since an SDK keeps the first callbacks of a name and drops all later ones.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._observed: WeakSet[_Source] = WeakSet()

    def __getitem__(self, instrument: Instrument) -> Any:
        made = self._made.get(instrument.name)
        return self._make(instrument) if made is None else made

    def _make(self, instrument: Instrument) -> Any:
        words: dict[str, Any] = {"unit": instrument.unit, "description": instrument.description}
        with self._lock:
            if instrument.name not in self._made:
                match instrument.kind:
                    case "counter":
                        made: Any = self._meter.create_counter(instrument.name, **words)
                    case "histogram":
                        words["explicit_bucket_boundaries_advisory"] = instrument.bounds
                        made = self._meter.create_histogram(instrument.name, **words)
                    case _:
                        words["callbacks"] = [self._callback(instrument)]
                        made = self._meter.create_observable_gauge(instrument.name, **words)
                self._made[instrument.name] = made
            return self._made[instrument.name]

    def observe(self, source: _Source, instruments: Iterable[Instrument]) -> None:
        """Read these gauges of a store from now on, until it is forgotten."""
        self._observed.add(source)
        for instrument in instruments:
            self[instrument]

    def watch(self, store: EventStore, clock: Callable[[], float] = time.perf_counter) -> Watching:
        """Have a store told of from now on; several stores on one handle of a log tell as one."""
        standing = getattr(store.log, "watch", None)
        watching = standing if isinstance(standing, Watching) else Watching(self, store.log.url, clock)
        store.watch = store.gate.watch = store.log.watch = watching
        return watching

    def forget(self, source: _Source) -> None:
        """Read its gauges no more."""
        self._observed.discard(source)

    def _callback(self, instrument: Instrument) -> Callable[[Any], list[Any]]:
        from opentelemetry.metrics import Observation  # noqa: PLC0415 - see the module's paragraph

        def read(_options: Any) -> list[Any]:
            return [
                Observation(value, attributes)
                for source in self._sources()
                for value, attributes in source.read(instrument)
            ]

        return read

    def _sources(self) -> list[_Source]:
        """Those of now. No lock: a child that is forked while the exporter's thread holds it could open no store."""
        while True:
            try:
                return list(self._observed)
            except RuntimeError:  # a store was opened or closed meanwhile, in another thread
                continue


class _Source:
    """One store's gauges: what fails there is told once, and leaves the gauges of others alone."""

    def __init__(self, watching: Watching, gauges: Gauges) -> None:
        self._watching = watching
        self._gauges = gauges

    def read(self, instrument: Instrument) -> list[tuple[float, dict[str, str]]]:
        try:
            return [
                (value, self._watching.attributes(instrument, attribute))
                for value, attribute in self._gauges.values(instrument)
            ]
        except ForkedStore:  # the exporter lives on in a child process, where this store is nobody's
            return []
        except Exception:  # noqa: BLE001 - whatever it is, it is the exporter's thread that asks
            self._watching.failed(instrument)
            return []


class Watching(Watch):
    """What one store tells its provider's instruments. `Instruments.watch` makes it."""

    def __init__(self, instruments: Instruments, database: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._instruments = instruments
        self._database = database
        self._clock = clock
        self._kept: dict[tuple[str, str | None], dict[str, str]] = {}
        self._told: set[str] = set()
        self._placed: tuple[Any, Counter[str]] = (None, Counter())
        self._source: _Source | None = None

    def clock(self) -> float:
        """See `watching.Watch`."""
        return self._clock()

    def appending(self) -> AbstractContextManager[None]:
        """See `watching.Watch`."""
        return _Appending(self)

    def placed(self, transaction: Any, before: Any, recorded: Sequence[Any]) -> None:  # noqa: ARG002 - a fold's
        """See `watching.Watch`. What a transaction that failed had placed is forgotten with the next one."""
        if self._placed[0] is not transaction:
            self._placed = (transaction, Counter())
        self._placed[1].update([item.entry.type for item in recorded])

    def committed(self, transaction: Any, writes: int, begun: float, ready: float | None) -> None:
        """See `watching.Watch`."""
        now = self._clock()
        self.record(BATCHES, writes)
        self.record(TRANSACTIONS, now - begun)
        if ready is not None:
            self.record(COMMITS, now - ready)
        if self._placed[0] is transaction:
            types, self._placed = self._placed[1], (None, Counter())
            for kind, number in types.items():
                self.add(ENTRIES, number, kind)

    def add(self, instrument: Instrument, amount: int = 1, attribute: str | None = None) -> None:
        """See `watching.Watch`."""
        try:
            self._instruments[instrument].add(amount, self.attributes(instrument, attribute))
        except Exception:  # noqa: BLE001 - a measurement never costs what it measures
            self.failed(instrument)

    def record(self, instrument: Instrument, amount: float, attribute: str | None = None) -> None:
        """Put a value into a histogram."""
        try:
            self._instruments[instrument].record(amount, self.attributes(instrument, attribute))
        except Exception:  # noqa: BLE001 - as above
            self.failed(instrument)

    def observe(self, gauges: Gauges, instruments: Iterable[Instrument]) -> None:
        """Have these gauges of the store read, until it is closed."""
        self._source = _Source(self, gauges)
        try:
            self._instruments.observe(self._source, instruments)
        except Exception:  # noqa: BLE001 - as above
            self.failed(next(iter(instruments)))

    def close(self) -> None:
        """See `watching.Watch`."""
        if self._source is not None:
            self._instruments.forget(self._source)

    def attributes(self, instrument: Instrument, attribute: str | None) -> dict[str, str]:
        """What tells this store's series apart; made once for each, since many are asked for at each append."""
        kept = self._kept.get((instrument.name, attribute))
        if kept is None:
            kept = {"db.namespace": self._database}
            if instrument.attribute is not None and attribute is not None:
                kept[instrument.attribute] = attribute
            self._kept[instrument.name, attribute] = kept
        return kept

    def failed(self, instrument: Instrument) -> None:
        """Tell, once for each instrument, that measuring failed."""
        if instrument.name not in self._told:
            self._told.add(instrument.name)
            _LOG.exception("%s of %s cannot be measured; it is told once", instrument.name, self._database)


class _Appending(AbstractContextManager[None]):
    """One append. No generator: it would cost three times as much."""

    __slots__ = ("_begun", "_watching")

    def __init__(self, watching: Watching) -> None:
        self._watching = watching

    def __enter__(self) -> None:
        self._begun = self._watching.clock()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        watching = self._watching
        error = None if kind is None else kind.__name__
        watching.record(APPENDS, watching.clock() - self._begun, error)
        if kind is not None and issubclass(kind, Refused):
            watching.add(REFUSALS, 1, error)


# --- finding OpenTelemetry ----------------------------------------------------------------------------------------


class _Global:
    """Stands for the provider that the program set for all, or will yet set: its instruments are made once."""


_GLOBAL = _Global()
_OF_PROVIDERS: WeakKeyDictionary[Any, Instruments] = WeakKeyDictionary()
_MAKING = threading.Lock()


def instruments(metrics: Metrics) -> Instruments | None:
    """The instruments to tell, if any.

    Args:
        metrics: a `MeterProvider`; True for the one that the program set, or will yet set; None for the same where the
            program has imported OpenTelemetry's API; False for none.

    Raises:
        InvalidArgument: none of these, one that cannot be remembered, or True where the API is not installed.
    """
    if metrics is False or (metrics is None and API not in sys.modules):
        return None
    if metrics is None or metrics is True:
        try:
            from opentelemetry.metrics import get_meter_provider  # noqa: PLC0415 - see the module's paragraph

            return _of(_GLOBAL, get_meter_provider())
        except Exception as error:
            if metrics is None:  # it is there for some other library's sake, and of a kind that we do not know
                _LOG.warning("nothing is measured: OpenTelemetry's API cannot be used (%s)", error)
                return None
            reason = "needs OpenTelemetry's API, which is not installed; pip install 'runfold[metrics]'"
            raise InvalidArgument("metrics", metrics, reason) from error
    if not callable(getattr(metrics, "get_meter", None)):
        reason = "is no MeterProvider; give one, or True for the one that the program set, or False for none"
        raise InvalidArgument("metrics", repr(metrics), reason)
    try:
        hash(metrics), ref(metrics)
    except TypeError as error:
        reason = f"cannot be remembered ({error}); give a MeterProvider that is hashed by its identity, as the SDK's is"
        raise InvalidArgument("metrics", type(metrics).__name__, reason) from error
    api = sys.modules.get(API)
    everybodys = api is not None and metrics is api.get_meter_provider()
    return _of(_GLOBAL if everybodys else metrics, metrics)


def _of(key: Any, provider: Any) -> Instruments:
    with _MAKING:
        found = _OF_PROVIDERS.get(key)
        if found is None:
            found = _OF_PROVIDERS[key] = Instruments(provider.get_meter("runfold"))
        return found
