"""How bytes that leave the database are encrypted: segments' blocks and blobs, each in a *box*.

A box is closed with AES-256-GCM: who does not have the key learns its length and nothing else, and can alter nothing
unnoticed. It is bound to a `context`, the place where it stands, so that one box cannot be put in another's place. The
database itself is encrypted by its driver (`eventstore.sqlite.driver`), and holds the key of the boxes: so changing
the database's key leaves every box as it is.

A box, format 1: the byte 0x01, a nonce of 12 random bytes, the ciphertext, a tag of 16 bytes; the associated data are
the first byte and the context. Nonces are drawn at random, so a key is good for 2^32 boxes (NIST SP 800-38D).
"""

from __future__ import annotations

import hmac
import os
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from eventstore.errors import CannotOpen

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
OVERHEAD = 1 + 12 + 16
"""Bytes by which a box is longer than what is in it."""
_FORMAT = b"\x01"
_NONCE = slice(1, 13)
_SEALED = 13


class DamagedBox(ValueError):
    """A box that does not open: altered, cut short, put in another's place, or closed under another key.

    Its text says why. Who keeps the box tells which one it is.
    """


class Cipher(Protocol):
    """What closes and opens boxes; None stands for plain bytes wherever one may be given."""

    def seal(self, data: bytes, context: bytes) -> bytes:
        """A box of these bytes; another one each time.

        Args:
            data: what is to be kept.
            context: where the box will stand; the same is needed to open it.
        """

    def open(self, box: bytes, context: bytes) -> bytes:
        """What is in a box.

        Raises:
            DamagedBox: it is not as it was closed, or not of this place.
        """

    def name(self, digest: str) -> str:
        """The name of what has this SHA-256, in 64 hex digits: the same each time, and telling nothing without the key.

        A file named by the plain digest would tell whoever has a guess whether it is right.
        """


class AES256GCM:
    """The cipher of an encrypted store; its keys are made of one of 32 bytes.

    The package `cryptography` is imported for the first box: it takes as long as opening a store.

    Args:
        key: 32 random bytes.
        owner: the store that it belongs to, for the error's words.

    Raises:
        CannotOpen: for the first box, if that package is not installed.
    """

    def __init__(self, key: bytes, owner: str) -> None:
        # A key of its own for each purpose, so that a name can never be mistaken for a part of a box.
        self._sealing = _derived(key, b"runfold/1 box")
        naming = _derived(key, b"runfold/1 name").ljust(sha256().block_size, b"\0")
        self._inner, self._outer = (sha256(bytes(byte ^ pad for byte in naming)) for pad in (0x36, 0x5C))
        self._owner = owner

    @cached_property
    def _aead(self) -> AESGCM:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - see above
        except ImportError as error:
            reason = "it is encrypted, and cryptography is not installed; pip install 'runfold[encryption]'"
            raise CannotOpen(self._owner, reason) from error
        return AESGCM(self._sealing)

    def seal(self, data: bytes, context: bytes) -> bytes:
        """See `Cipher`."""
        nonce = os.urandom(12)
        return _FORMAT + nonce + self._aead.encrypt(nonce, data, _FORMAT + context)

    def open(self, box: bytes, context: bytes) -> bytes:
        """See `Cipher`."""
        if len(box) < OVERHEAD:
            raise DamagedBox("it is cut short")
        if box[:1] != _FORMAT:
            raise DamagedBox("it is not encrypted in a way that this release knows")
        try:
            return self._aead.decrypt(box[_NONCE], box[_SEALED:], _FORMAT + context)
        except Exception as error:
            if type(error).__name__ != "InvalidTag":  # of `cryptography`, which is no more than an extra
                raise
            raise DamagedBox("it was altered, is not of this place, or was encrypted under another key") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AES256GCM) and hmac.compare_digest(self._sealing, other._sealing)

    def __hash__(self) -> int:
        return hash(self._sealing)

    def name(self, digest: str) -> str:
        """See `Cipher`. It is HMAC-SHA-256 (RFC 2104), whose two hashes are begun once: a collector names millions."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(digest.encode())
        outer.update(inner.digest())
        return outer.hexdigest()


def _derived(key: bytes, purpose: bytes) -> bytes:
    return hmac.digest(key, purpose, "sha256")
