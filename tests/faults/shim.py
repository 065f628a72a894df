"""A VFS shim around the SQLite that the store uses: every write, sync, truncation and unlink passes a Python function.

SQLite lets a program register a file system of its own. This one is the default one with five methods wrapped through
ctypes, in the very library that the driver is linked with; so neither a compiler nor another SQLite is needed, and what
is recorded, or made to fail, is what the real driver does. Linux only, as the faults it stands for are.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from attrs import frozen

SQLITE_OK = 0
SQLITE_FULL = 13
SQLITE_IOERR_WRITE = 10 | (3 << 8)
SQLITE_IOERR_FSYNC = 10 | (4 << 8)
SQLITE_IOERR_TRUNCATE = 10 | (6 << 8)
SQLITE_IOERR_READ = 10 | (1 << 8)
SQLITE_IOERR_DELETE = 10 | (10 << 8)
SQLITE_CANTOPEN = 14
SHORT = -1
"""What a watcher answers to a write that the disk takes half of, and then is full."""


@frozen
class Operation:
    """One thing that SQLite asks of its disk. `kind` is open, write, truncate, sync, delete, dirsync or read."""

    kind: str
    path: str
    offset: int = 0
    """Of a write; the new size of a truncation; 1 for an open that made the file."""
    data: bytes = b""
    """Of a write."""


Watcher = Callable[[Operation], int]
"""Sees an operation before it happens; a code other than SQLITE_OK makes it fail instead."""

_P = ctypes.c_void_p
_I = ctypes.c_int
_L = ctypes.c_int64
_CLOSE = ctypes.CFUNCTYPE(_I, _P)
_READ = ctypes.CFUNCTYPE(_I, _P, _P, _I, _L)
_WRITE = ctypes.CFUNCTYPE(_I, _P, _P, _I, _L)
_TRUNCATE = ctypes.CFUNCTYPE(_I, _P, _L)
_SYNC = ctypes.CFUNCTYPE(_I, _P, _I)
_OPEN = ctypes.CFUNCTYPE(_I, _P, _P, _P, _I, ctypes.POINTER(_I))
_DELETE = ctypes.CFUNCTYPE(_I, _P, ctypes.c_char_p, _I)
_SET = ctypes.CFUNCTYPE(_I, _P, ctypes.c_char_p, _P)
_GET = ctypes.CFUNCTYPE(_P, _P, ctypes.c_char_p)
_OPEN_DIRECTORY = ctypes.CFUNCTYPE(_I, ctypes.c_char_p, ctypes.POINTER(_I))

_METHODS = (  # as sqlite3.h lists them
    "xClose xRead xWrite xTruncate xSync xFileSize xLock xUnlock xCheckReservedLock xFileControl xSectorSize "
    "xDeviceCharacteristics xShmMap xShmLock xShmBarrier xShmUnmap xFetch xUnfetch"
).split()


class _IoMethods(ctypes.Structure):
    _fields_ = [("iVersion", _I), *((name, _P) for name in _METHODS)]


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("iVersion", _I), ("szOsFile", _I), ("mxPathname", _I), ("pNext", _P), ("zName", ctypes.c_char_p),
        ("pAppData", _P), ("xOpen", _P), ("xDelete", _P), ("xAccess", _P), ("xFullPathname", _P), ("xDlOpen", _P),
        ("xDlError", _P), ("xDlSym", _P), ("xDlClose", _P), ("xRandomness", _P), ("xSleep", _P),
        ("xCurrentTime", _P), ("xGetLastError", _P), ("xCurrentTimeInt64", _P), ("xSetSystemCall", _P),
        ("xGetSystemCall", _P), ("xNextSystemCall", _P),
    ]  # fmt: skip


def _library(names: tuple[str, ...]) -> ctypes.CDLL:
    for name in names:
        with suppress(ImportError):
            return ctypes.CDLL(importlib.import_module(name).__file__)
    raise ImportError(" or ".join(names))


class Shim:
    """The wrapped file system, as SQLite's default one for the time of `installed`. One per process and library.

    SQLCipher encrypts above it: what passes here is what its disk gets.
    """

    def __init__(self, *libraries: str) -> None:
        self._library = _library(libraries or ("pysqlite3._sqlite3", "_sqlite3"))
        self._library.sqlite3_vfs_find.restype = _P
        self._library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
        self._library.sqlite3_vfs_register.argtypes = [_P, _I]
        self._library.sqlite3_vfs_unregister.argtypes = [_P]
        self._base = _Vfs.from_address(self._library.sqlite3_vfs_find(None))
        self._vfs = _Vfs.from_buffer_copy(self._base)
        self._vfs.zName = b"shim"
        self._wrapped: dict[int, _IoMethods] = {}
        self._paths: dict[int, str] = {}
        self._alive: list[object] = []  # callbacks must outlive the library's use of them
        self._base_open = _OPEN(self._base.xOpen)
        self._base_delete = _DELETE(self._base.xDelete)
        self._vfs.xOpen = self._keep(_OPEN(self._open))
        self._vfs.xDelete = self._keep(_DELETE(self._delete))
        self.watcher: Watcher = lambda _operation: SQLITE_OK
        set_call = _SET(self._base.xSetSystemCall)
        get_call = _GET(self._base.xGetSystemCall)
        self._base_directory = _OPEN_DIRECTORY(get_call(ctypes.addressof(self._base), b"openDirectory"))
        set_call(ctypes.addressof(self._base), b"openDirectory", self._keep(_OPEN_DIRECTORY(self._open_directory)))

    @contextmanager
    def installed(self, watcher: Watcher) -> Iterator[None]:
        """Pass what SQLite does through the watcher; connections opened inside must be closed inside."""
        self.watcher = watcher
        self._library.sqlite3_vfs_register(ctypes.addressof(self._vfs), 1)
        try:
            yield
        finally:
            self._library.sqlite3_vfs_unregister(ctypes.addressof(self._vfs))
            self._library.sqlite3_vfs_register(ctypes.addressof(self._base), 1)
            self.watcher = lambda _operation: SQLITE_OK

    def _keep(self, callback: object) -> int | None:
        self._alive.append(callback)
        return ctypes.cast(callback, _P).value  # type: ignore[arg-type]

    # --- the wrapped methods ------------------------------------------------------------------------------------

    def _open(self, _vfs: int, name: int, file: int, flags: int, out: object) -> int:
        path = "" if not name else ctypes.string_at(name).decode()
        made = bool(path) and not os.path.exists(path)  # noqa: PTH110 - called a thousand times a second
        if path and (code := self.watcher(Operation("open", path, int(made)))) != SQLITE_OK:
            ctypes.c_void_p.from_address(file).value = None
            return code
        code = self._base_open(ctypes.addressof(self._base), name, file, flags, out)
        if code == SQLITE_OK and path:
            self._paths[file] = path
            methods = ctypes.c_void_p.from_address(file)
            methods.value = ctypes.addressof(self._methods(methods.value or 0))
        return code

    def _delete(self, _vfs: int, name: bytes, sync: int) -> int:
        code = self.watcher(Operation("delete", name.decode())) if os.path.exists(name) else SQLITE_OK  # noqa: PTH110
        if code != SQLITE_OK:
            return code
        return self._base_delete(ctypes.addressof(self._base), name, sync)

    def _open_directory(self, name: bytes, out: object) -> int:
        # SQLite opens a folder for one purpose only: to sync it.
        self.watcher(Operation("dirsync", os.path.dirname(name.decode())))  # noqa: PTH120
        return self._base_directory(name, out)

    def _methods(self, base: int) -> _IoMethods:
        if base in self._wrapped:
            return self._wrapped[base]
        original = _IoMethods.from_address(base)
        wrapped = _IoMethods.from_buffer_copy(original)
        read, write = _READ(original.xRead), _WRITE(original.xWrite)
        truncate, sync, close = _TRUNCATE(original.xTruncate), _SYNC(original.xSync), _CLOSE(original.xClose)

        def on_read(file: int, buffer: int, size: int, offset: int) -> int:
            code = self.watcher(Operation("read", self._paths[file], offset))
            return code if code != SQLITE_OK else read(file, buffer, size, offset)

        def on_write(file: int, buffer: int, size: int, offset: int) -> int:
            data = ctypes.string_at(buffer, size)
            code = self.watcher(Operation("write", self._paths[file], offset, data))
            if code == SHORT:
                write(file, buffer, size // 2, offset)
                return SQLITE_FULL
            return code if code != SQLITE_OK else write(file, buffer, size, offset)

        def on_truncate(file: int, size: int) -> int:
            code = self.watcher(Operation("truncate", self._paths[file], size))
            return code if code != SQLITE_OK else truncate(file, size)

        def on_sync(file: int, flags: int) -> int:
            code = self.watcher(Operation("sync", self._paths[file]))
            return code if code != SQLITE_OK else sync(file, flags)

        def on_close(file: int) -> int:
            self._paths.pop(file, None)
            return close(file)

        wrapped.xRead = self._keep(_READ(on_read))
        wrapped.xWrite = self._keep(_WRITE(on_write))
        wrapped.xTruncate = self._keep(_TRUNCATE(on_truncate))
        wrapped.xSync = self._keep(_SYNC(on_sync))
        wrapped.xClose = self._keep(_CLOSE(on_close))
        self._wrapped[base] = wrapped
        return wrapped
