"""Databases with a key: the driver (SQLCipher), what a key may be, and refusing a wrong one before anything is touched.

SQLCipher encrypts each page with AES-256 and proves it by an HMAC, in the database and in its WAL alike. A raw key is
used as it is. A passphrase is stretched with the salt in the file's first 16 bytes, just as SQLCipher itself does
(PBKDF2-HMAC-SHA512, 256,000 rounds: a quarter of a second), but once for a store and not for each of its connections.
Its database therefore opens with any SQLCipher tool.

The salt is asked of SQLCipher: the file is never read by other means, for that would drop SQLite's locks.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attrs import field, frozen

from eventstore.ciphers import KEY_BYTES
from eventstore.errors import CannotOpen, InvalidArgument, WrongKey
from eventstore.sqlite.driver import (
    NO_DATABASE,
    PLAIN,
    SQLCIPHER,
    Access,
    Connection,
    Driver,
    closing,
    explained,
    failures,
    not_ours,
    opened,
)

Key = bytes | str

_ROUNDS = 256_000
_PLAIN = b"SQLite format 3\0"
"""What stands in a plain database where an encrypted one has its salt."""
_WAL_HEADER = 32
"""Bytes of a WAL that holds no page."""
_QUIET = "PRAGMA cipher_log_level = NONE"  # or SQLCipher tells stderr of each page that a wrong key does not open
_SETTINGS = (
    # Its defaults of today, said aloud: a later SQLCipher's would not open what stands.
    "PRAGMA cipher_page_size = 4096",
    "PRAGMA cipher_use_hmac = ON",
    "PRAGMA cipher_plaintext_header_size = 0",
    "PRAGMA cipher_hmac_algorithm = HMAC_SHA512",
    "PRAGMA cipher_kdf_algorithm = PBKDF2_HMAC_SHA512",
    # Wiping whatever SQLite frees hides nothing that Python's own memory does not hold as well.
    "PRAGMA cipher_memory_security = OFF",
    "PRAGMA temp_store = MEMORY",  # what is sorted or set aside never reaches a disk
)

SECRETS = """
-- In encrypted databases only: the random key of segments and blobs, which stand beside it. Changing the database's own
-- key leaves this one, and so every file, as it is.
CREATE TABLE secrets(data_key BLOB NOT NULL) STRICT
"""


@frozen
class Secret:
    """A key that no repr shows."""

    key: Key | None = field(repr=False)

    @classmethod
    def checked(cls, key: Key | None, url: str) -> Secret:
        """Refuse what can be no key, without ever showing it, and any where there is nothing to encrypt with.

        Raises:
            InvalidArgument: it is neither 32 bytes nor a text.
            CannotOpen: the extra is not installed.
        """
        if key is not None:
            raw = isinstance(key, bytes) and len(key) == KEY_BYTES
            if not (raw or (isinstance(key, str) and key and key.isprintable())):
                raise InvalidArgument("key", "…", "must be 32 random bytes, or a passphrase: a text of one line")
            sqlcipher(url)
        return cls(key)

    @classmethod
    def renewed(cls, key: Key, url: str, access: Access) -> Secret:
        """As `checked`, of a key that a database is to have from now on, which is opened like this.

        Raises:
            InvalidArgument: it can be no key, or the database has none.
        """
        if access.driver is PLAIN:
            remedy = "back it up, and `runfold restore --new-key-file` encrypts it"
            raise InvalidArgument("key", "…", f"cannot be given to {url}: it is plain; {remedy}")
        return cls.checked(key, url)


def access_to(path: Path, url: str, key: Key | None, timeout: float) -> Access:
    """How this database is opened with this key, or without one; nothing is touched if it is not to be.

    Args:
        path: the database file; it may be empty.
        url: its name, for errors.
        key: 32 bytes or a passphrase; None for a plain database.
        timeout: seconds to wait for a lock.

    Raises:
        WrongKey: it does not open with this key.
        CannotOpen: it does not open without a key, or the extra is not installed.
    """
    if key is None:
        if _has_wal(path) and not _opens(path, url, Access(), timeout):
            raise CannotOpen(url, NO_DATABASE)
        return Access()
    driver = sqlcipher(url)
    young = not path.stat().st_size
    salt = _salt(path, url, driver, timeout)
    if salt == _PLAIN:
        raise WrongKey(url, "it is not encrypted; open it without a key, nothing was changed")
    access = _access(driver, _stretched(key, salt), salt)
    if path.stat().st_size and not _opens(path, url, access, timeout):
        if young:  # another process made it between these looks, and its salt is not the one that we were given
            return access_to(path, url, key, timeout)
        raise WrongKey(url, "it has another key, is no database, or is damaged; check the key, nothing was changed")
    return access


def begun(path: Path, url: str, key: Key | None, timeout: float) -> Access:
    """As `access_to`, for writing: an empty file gets its first page, with the salt that everybody goes by from now on.

    Of several processes that open a new file at once only one makes that page; the others take over its salt.
    """
    while True:
        young = not path.stat().st_size  # looked at before its salt is asked for: an empty one has none to keep
        access = access_to(path, url, key, timeout)
        if key is None or not young:
            return access
        if path.stat().st_size:  # the salt may be its own by now: what is written below would undo another's work
            continue
        try:
            connection = opened(path, url, mode="rw", timeout=timeout, access=access)
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("PRAGMA user_version = 0")
                connection.execute("COMMIT")
            finally:
                connection.close()
        except failures() as error:
            if not not_ours(error):  # else another process made it first
                raise explained(error, url, timeout) from error


def make_data_key(connection: Connection, given: bytes | None) -> None:
    """See to it that an encrypted database holds a key for what stands beside it: this one, or a random one."""
    if connection.access.driver is PLAIN or data_key(connection) is not None:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if data_key(connection) is None:  # another process may have been first
            connection.execute(SECRETS)
            connection.execute("INSERT INTO secrets VALUES (?)", (bytearray(given or os.urandom(KEY_BYTES)),))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def needed_data_key(connection: Connection, url: str) -> bytes | None:
    """As `data_key`, of a database that was opened and made whole.

    Raises:
        CannotOpen: it is encrypted and has none.
    """
    found = data_key(connection)
    if found is None and connection.access.driver is not PLAIN:
        raise CannotOpen(url, "it was cut off when it was made; open it once for writing")
    return found


def data_key(connection: Connection) -> bytes | None:
    """The key for what stands beside an encrypted database; None in a plain one."""
    if connection.access.driver is PLAIN:
        return None
    made = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'secrets'").fetchone()
    row = connection.execute("SELECT data_key FROM secrets").fetchone() if made else None
    return None if row is None else bytes(row[0])


def begins_to_read(connection: Connection) -> bool:
    """Take a snapshot of an encrypted database; False, and the connection is closed, if it has another key by now."""
    try:
        connection.run("BEGIN")
        connection.run("PRAGMA user_version").fetchone()  # opens the first page, so nothing can come between any more
    except failures() as error:
        if not_ours(error):
            connection.close()
            return False
        if connection.in_transaction:  # whoever reads on is told of it
            connection.run("ROLLBACK")
    return True


def change(connection: Connection, secret: Secret, path: Path, url: str, timeout: float) -> Access | None:
    """Give a database another key, and tell how it is opened from now on; None if it still is as before.

    SQLCipher writes every page anew in one transaction of the WAL, so whatever a kill leaves opens with the one key or
    the other. The salt stays: it is read from the file, where what stands in the WAL would not show.

    Args:
        connection: opened for this, and for nothing else ever after: when it failed it goes on to write with the new
            key, and such a page no key opens any more.
        secret: the new key.
        path: the database file.
        url: its name, for errors.
        timeout: seconds to wait for a lock, before what opens the file is taken for unknown.
    """
    salt = bytes.fromhex(connection.execute("PRAGMA cipher_salt").fetchone()[0])
    access = _access(connection.access.driver, _stretched(secret.key or "", salt), salt)
    with suppress(*failures()):  # it says the same whatever the reason; what counts is what opens the file now
        connection.execute(access.unlock[1].replace("PRAGMA key", "PRAGMA rekey"))
    return access if _looks(path, url, access, timeout, "") else None


def sqlcipher(url: str) -> Driver:
    """The driver for databases with a key.

    Raises:
        CannotOpen: it is not installed, or is no SQLCipher: another SQLite would write plain text, and say nothing.
    """
    remedy = "pip install 'runfold[encryption]'"
    for package in (SQLCIPHER.partition(".")[0], "cryptography"):  # that is imported when the first file is written
        if find_spec(package) is None:
            raise CannotOpen(url, f"it is to be opened with a key, and {package} is not installed; {remedy}")
    driver = _loaded()
    if driver is None:
        raise CannotOpen(url, f"the sqlcipher3 that is installed does not encrypt; {remedy} again, from a wheel")
    return driver


@cache
def _loaded() -> Driver | None:
    module = import_module(SQLCIPHER)
    probe = module.connect(":memory:")
    version = probe.execute("PRAGMA cipher_version").fetchone()
    probe.close()
    ours = {"__slots__": Connection.__slots__, "close": closing(module.Connection)}
    kept: Any = type("Connection", (module.Connection,), ours)
    return version and Driver(f"SQLCipher {version[0]}", module.sqlite_version_info, module.connect, kept)


def _salt(path: Path, url: str, driver: Driver, timeout: float) -> bytes:
    """The salt of a file, asked of SQLCipher with no matter which key; a new one, for an empty file."""
    access = Access(driver, (_QUIET, f"PRAGMA key = \"x'{'00' * KEY_BYTES}'\""))
    try:
        connection = opened(path, url, mode="ro", timeout=timeout, access=access)
        try:
            return bytes.fromhex(connection.execute("PRAGMA cipher_salt").fetchone()[0])
        finally:
            connection.close()
    except failures() as error:
        raise explained(error, url, timeout) from error


def _access(driver: Driver, key: bytes, salt: bytes) -> Access:
    return Access(driver, (_QUIET, f"PRAGMA key = \"x'{key.hex()}{salt.hex()}'\"", *_SETTINGS))


def _stretched(key: Key, salt: bytes) -> bytes:
    if isinstance(key, bytes):
        return key
    import hashlib  # noqa: PLC0415 - for passphrases only

    return hashlib.pbkdf2_hmac("sha512", key.encode(), salt, _ROUNDS, KEY_BYTES)


def _opens(path: Path, url: str, access: Access, timeout: float) -> bool:
    """Whether the first page can be read, by connections that write nothing, not even by being closed.

    Closed as the last one, any other would move the WAL into the database. Where there is a WAL it has the last word:
    a power cut may have torn the page in the database, and a change of the key may stand in the WAL alone. (Where its
    index, `-shm`, is gone, SQLite then makes a new one, which nobody could tell from one that was there.)
    """
    if _has_wal(path) and access.driver is not PLAIN:  # a plain one has no key to change, and its first bytes stay
        index = "&readonly_shm=1" if path.with_name(path.name + "-shm").exists() else ""
        if (told := _looks(path, url, access, timeout, index)) is not None:
            return told
    elif path.with_name(path.name + "-journal").exists():
        return True  # cut off before it was in WAL mode: SQLite undoes that first, which does no harm with a wrong key
    return _looks(path, url, access, timeout, "&immutable=1") is not False


def _looks(path: Path, url: str, access: Access, timeout: float, options: str) -> bool | None:
    """Whether the first page opens; None if something else than the key is in the way."""
    try:
        connection = opened(path, url, mode="ro", timeout=timeout, access=access, options=options)
        try:
            connection.execute("PRAGMA user_version").fetchone()
        finally:
            connection.close()
    except failures() as error:
        return False if not_ours(error) else None
    return True


def _has_wal(path: Path) -> bool:
    try:
        return os.stat(f"{path}-wal").st_size > _WAL_HEADER  # noqa: PTH116 - at each opening
    except OSError:
        return False
