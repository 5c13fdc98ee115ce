"""Every exception this package raises on purpose, in one tree.

::

    CheckpointsError
    ├── UnsupportedDatabase   the URL names a database or a driver that can't be used
    ├── InvalidKey            an id is too long, or not text that a database can hold
    ├── SchemaTooNew          the tables were made by a newer version of this package
    ├── SchemaTooOld          they were made by an older one: upgrade them
    ├── SaverClosed           the saver was closed, or belongs to a process that forked
    ├── ReadFailed            the database could not be read; ``__cause__`` is its own error
    ├── WriteFailed           nothing of a call is stored; ``__cause__`` is the database's own error
    │   └── DatabaseBusy      it was locked, restarting or out of reach for too long
    ├── CorruptCheckpoint     what is stored is damaged, incomplete or encrypted
    ├── CorruptItem           the same, of an item of a store
    ├── UnreadableType        a value's type is not allowed, was moved or has changed
    ├── ThreadExists          the target of a copy already has checkpoints
    └── LeaseError            about the right to run a thread
        ├── LeaseHeld         another owner has it
        └── LeaseLost         it is no longer yours
            └── Fenced        so a write with it was refused
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


class CheckpointsError(Exception):
    """Base of everything this package raises on purpose."""


class UnsupportedDatabase(CheckpointsError):
    """The URL names a database or a driver that can't be used."""


class InvalidKey(CheckpointsError, ValueError):
    """An id is too long, or not text that a database can hold."""


class SchemaTooNew(CheckpointsError):
    """The tables in the database were made by a newer version of this package."""


class SchemaTooOld(CheckpointsError):
    """The tables in the database were made by an older version of this package, and must be upgraded."""


class SaverClosed(CheckpointsError):
    """The saver was closed, or belongs to a process that forked."""


class ReadFailed(CheckpointsError):
    """The database could not be read. ``__cause__`` is its own error."""


class WriteFailed(CheckpointsError):
    """Nothing of this call is stored. ``__cause__`` is the database's own error."""


class DatabaseBusy(WriteFailed):
    """The database was locked, restarting or out of reach for longer than the saver was told to wait.

    If the connection broke while it committed, the call may be stored; repeating it does no harm.
    """


class CorruptCheckpoint(CheckpointsError):
    """What is stored is damaged, incomplete, or can't be decrypted.

    Attributes:
        thread_id: The thread.
        checkpoint_ns: Its namespace; the root is ``""``.
        checkpoint_id: The checkpoint.
        channel: The channel whose value or write it is; None for the checkpoint itself.
    """

    def __init__(
        self, thread_id: str, checkpoint_ns: str, checkpoint_id: str, channel: str | None, reason: str
    ) -> None:
        what = "" if channel is None else f", channel {channel!r}"
        where = f"checkpoint {checkpoint_id!r} of thread {thread_id!r}, namespace {checkpoint_ns!r}{what}"
        super().__init__(
            f"{where}: {reason}. Restore it from a backup, go on from an earlier checkpoint, or open the saver "
            "with fall_back=True to have the newest readable one"
        )
        self.thread_id = thread_id
        self.checkpoint_ns = checkpoint_ns
        self.checkpoint_id = checkpoint_id
        self.channel = channel


class CorruptItem(CheckpointsError):
    """An item of the store is damaged, or can't be decrypted.

    Attributes:
        namespace: The item's namespace.
        key: Its key.
    """

    def __init__(self, namespace: tuple[str, ...], key: str, reason: str) -> None:
        super().__init__(
            f"item {key!r} of namespace {namespace!r}: {reason}. Restore it from a backup, put it again, or delete it"
        )
        self.namespace = namespace
        self.key = key


class UnreadableType(CheckpointsError):
    """A stored value is of a type that is not allowed, can't be found, or no longer fits.

    Attributes:
        type_name: The type as it was stored, ``"module:Name"``.
    """

    def __init__(self, type_name: str, reason: str) -> None:
        super().__init__(reason)
        self.type_name = type_name


class ThreadExists(CheckpointsError):
    """The target of a copy already has checkpoints."""


class LeaseError(CheckpointsError):
    """Base of what can go wrong with the right to run a thread."""


class LeaseHeld(LeaseError):
    """Another owner holds an unexpired lease on the thread.

    Attributes:
        thread_id: The thread that was asked for.
        owner: Who holds it, as given to ``acquire_lease``.
        expires: When the lease ends if its owner does not renew it (UTC).
    """

    def __init__(self, thread_id: str, owner: str, expires: datetime) -> None:
        super().__init__(
            f"thread {thread_id!r} is being run by {owner} until {expires:%Y-%m-%d %H:%M:%S} UTC: "
            "wait for it, or stop that run first"
        )
        self.thread_id = thread_id
        self.owner = owner
        self.expires = expires


class LeaseLost(LeaseError):
    """The lease is not the caller's any more: it expired and was taken, or was released.

    Attributes:
        thread_id: The thread of the lost lease.
        owner: Who asked to renew it.
    """

    def __init__(self, thread_id: str, owner: str) -> None:
        super().__init__(
            f"{owner} no longer holds the lease on thread {thread_id!r}: stop this run; another may own it"
        )
        self.thread_id = thread_id
        self.owner = owner


class Fenced(LeaseLost):
    """A write through a fenced saver whose lease is no longer the thread's: nothing of it is stored."""
