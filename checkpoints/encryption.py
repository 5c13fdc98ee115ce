"""Encryption of everything a saver stores, apart from the ids that rows are found by.

AES-GCM (NIST SP 800-38D): 256-bit keys, a random 96-bit nonce for each value. The ids of the row are authenticated with
it, so that a value that was copied into another row, thread or table does not decrypt there.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any

from checkpoints.errors import CheckpointsError

_NONCE = 12


class Encryption:
    """The keys of a saver.

    A key can encrypt about 2**32 values before random nonces may repeat; add a new one before that.

    Args:
        key: 32 random bytes, such as ``secrets.token_bytes(32)``; all that is written is encrypted with it.
        older: Earlier keys, so that what they encrypted can be read.
        accept_plaintext: Whether rows that were stored without encryption may be read too. Only for as long as
            there are some: with it, whoever can write to the database can add rows of their own.

    Raises:
        ValueError: A key is not 32 bytes long.
        CheckpointsError: The package ``cryptography`` is not installed.
    """

    def __init__(self, key: bytes, *older: bytes, accept_plaintext: bool = False) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - it is an extra
        except ImportError as error:
            raise CheckpointsError(
                "encryption needs the package cryptography: pip install 'orchestra-engine[encryption]'"
            ) from error
        for each in (key, *older):
            if len(each) != 32:
                raise ValueError(f"an encryption key has 32 bytes, this one has {len(each)}: secrets.token_bytes(32)")
        self.accept_plaintext = accept_plaintext
        self.key_id = _key_id(key)
        self._keys = (key, *older)
        self._ciphers: dict[str, Any] = {_key_id(each): AESGCM(each) for each in (key, *older)}

    def encrypt(self, plain: bytes, bound_to: bytes) -> bytes:
        """Encrypt; it decrypts only together with the same ``bound_to``."""
        nonce = os.urandom(_NONCE)
        return nonce + self._ciphers[self.key_id].encrypt(nonce, plain, bound_to)

    def decrypt(self, key_id: str, sealed: bytes, bound_to: bytes) -> bytes:
        """Decrypt.

        Raises:
            ValueError: There is no such key, or the bytes or what they are bound to have changed.
        """
        if key_id not in self._ciphers:
            raise ValueError(f"it is encrypted with a key that this saver was not given (id {key_id})")
        try:
            return self._ciphers[key_id].decrypt(sealed[:_NONCE], sealed[_NONCE:], bound_to)
        except Exception as error:
            raise ValueError("it does not decrypt: it was changed, or belongs to another row") from error

    def blind(self, text: str) -> list[str]:
        """Stand-ins, by each key, for a text that rows are found by; all they tell is whether two texts are equal."""
        return [hmac.new(key, text.encode(), hashlib.sha256).hexdigest() for key in self._keys]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(key_id={self.key_id!r})"


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"checkpoints key id" + key).hexdigest()[:8]
