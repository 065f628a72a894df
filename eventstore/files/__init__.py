"""File work: the port, the machine's own files behind it, and files in memory."""

from eventstore.files.disk import OperatingSystem, boot_id
from eventstore.files.memory import MemoryFiles
from eventstore.files.port import FILE_MODE, FOLDER_MODE, Files, Held, Stat, Writer

__all__ = [
    "FILE_MODE",
    "FOLDER_MODE",
    "Files",
    "Held",
    "MemoryFiles",
    "OperatingSystem",
    "Stat",
    "Writer",
    "boot_id",
]
