"""Copies of a log in a folder, which grow with each backup; and making a log of one of them again.

    agent-backup/log.db          the entries: a log like any other, without tables, which every command reads
    agent-backup/backup.json     what was proved when the last backup ended; written last
    agent-backup/lock            held by whoever works in the folder

Entries are immutable and their order is total, so a copy is consistent by what it is: the entries up to a position. It
is taken page by page beside writers, as the log reads and not as its file stands, and each entry is proved by the chain
before it is written and after. Whatever a kill leaves is such a copy, a shorter one, and the next backup goes on.
"""

from eventstore.backups.backing_up import Backup, back_up
from eventstore.backups.restoring import Restored, restore

__all__ = ["Backup", "Restored", "back_up", "restore"]
