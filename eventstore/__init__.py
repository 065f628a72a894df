"""The write side of Runfold: an append-only log that speaks in events, and machines that refuse what may not happen."""

TYPE_CHECKING = False  # type checkers know better; `typing` itself would be the most of what this import costs
if TYPE_CHECKING:
    from eventstore.codec import Recorded, Upcaster
    from eventstore.connecting import connect
    from eventstore.errors import EventStoreError, Refused
    from eventstore.log import Cursor
    from eventstore.machine import Machine
    from eventstore.notes import LogRecorded, MetaSet
    from eventstore.payloads import Json
    from eventstore.store import EventStore, Stream
    from eventstore.workflow import RUN
else:
    # A name is imported when it is first asked for: attrs and orjson take longer to import than Python to start, and
    # who only wants an error, or imports us in case, need not wait for them.
    _ROOMS = {
        "codec": ("Recorded", "Upcaster"),
        "connecting": ("connect",),
        "errors": ("EventStoreError", "Refused"),
        "log": ("Cursor",),
        "machine": ("Machine",),
        "notes": ("LogRecorded", "MetaSet"),
        "payloads": ("Json",),
        "store": ("EventStore", "Stream"),
        "workflow": ("RUN",),
    }

    def __getattr__(name: str) -> object:
        from importlib import import_module  # noqa: PLC0415 - not before it is needed, as all else here

        for room, names in _ROOMS.items():
            if name in names:
                globals().update((each, getattr(import_module(f"eventstore.{room}"), each)) for each in names)
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "RUN",
    "Cursor",
    "EventStore",
    "EventStoreError",
    "Json",
    "LogRecorded",
    "Machine",
    "MetaSet",
    "Recorded",
    "Refused",
    "Stream",
    "Upcaster",
    "connect",
]
