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
    from eventstore.facing import face

    __getattr__, __dir__ = face(
        "eventstore",
        {
            "codec": ("Recorded", "Upcaster"),
            "connecting": ("connect",),
            "errors": ("EventStoreError", "Refused"),
            "log": ("Cursor",),
            "machine": ("Machine",),
            "notes": ("LogRecorded", "MetaSet"),
            "payloads": ("Json",),
            "store": ("EventStore", "Stream"),
            "workflow": ("RUN",),
        },
    )


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
