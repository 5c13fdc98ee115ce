"""What makes a row proof: each has a checksum over all of its columns, and may be encrypted."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import ormsgpack

from checkpoints.errors import InvalidKey
from checkpoints.schema import LIMITS

if TYPE_CHECKING:
    from checkpoints.encryption import Encryption


class Damaged(Exception):
    """A row is not as it was stored; the message says how."""


Proof = tuple[str, str | None, int]
"""The columns ``type``, ``key_id`` and ``checksum``."""


class Sealer:
    """Seals what goes into rows, and opens what comes out of them.

    Args:
        encryption: What to encrypt with, if at all.
    """

    def __init__(self, encryption: Encryption | None) -> None:
        self.encryption = encryption

    def seal(self, table: str, columns: tuple[Any, ...], kind: str, content: bytes) -> tuple[Proof, bytes]:
        """The proof of a row, and the bytes to store in it.

        Args:
            table: The table, without prefix.
            columns: All other columns of the row.
            kind: The serializer's name for what the bytes are.
            content: The bytes.
        """
        key_id = None if self.encryption is None else self.encryption.key_id
        about = ormsgpack.packb((table, kind, key_id, *columns))
        if self.encryption is not None:
            content = self.encryption.encrypt(content, about)
        return (kind, key_id, zlib.crc32(content, zlib.crc32(about))), content

    def open(self, table: str, columns: tuple[Any, ...], row: Any, content: bytes) -> bytes:
        """The bytes that were sealed.

        Raises:
            Damaged: The row was changed since, or can't be decrypted, or is not encrypted and should be.
        """
        try:
            about = ormsgpack.packb((table, row.type, row.key_id, *columns))
        except Exception as error:
            raise Damaged(f"its row holds what was never stored ({error})") from error
        if zlib.crc32(content, zlib.crc32(about)) != row.checksum:
            raise Damaged("its checksum does not match: the row was changed or damaged")
        if row.key_id is None:
            if self.encryption is not None and not self.encryption.accept_plaintext:
                raise Damaged("it is not encrypted, and this saver reads only what is")
            return content
        if self.encryption is None:
            raise Damaged("it is encrypted: open the saver with encryption=Encryption(key)")
        try:
            return self.encryption.decrypt(row.key_id, content, about)
        except ValueError as error:
            raise Damaged(str(error)) from error


def check_key(name: str, text: str) -> str:
    """The text, if every database can hold it as this id.

    Raises:
        InvalidKey: It is too long, or not Unicode text.
    """
    limit = LIMITS[name]
    if len(text) <= limit and text.isascii():
        return text
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidKey(f"{name} {text[:60]!r} is not valid Unicode text: {error.reason}") from error
    if size > limit:
        raise InvalidKey(f"{name} {text[:60]!r}... has {size:,} bytes of UTF-8, at most {limit:,} can be stored")
    return text
