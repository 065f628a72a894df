"""The write side of Runfold: an append-only log that speaks in events, and machines that refuse what may not happen."""

from eventstore.codec import Recorded, Upcaster
from eventstore.connecting import connect
from eventstore.errors import EventStoreError, Refused
from eventstore.log import Cursor
from eventstore.machine import Machine
from eventstore.notes import LogRecorded, MetaSet
from eventstore.payloads import Json
from eventstore.store import EventStore, Stream
from eventstore.workflow import RUN

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
