"""Every exception this package raises on purpose, in one tree.

::

    CheckpointsError
    ├── UnsupportedDatabase   the URL names a database this version cannot use
    ├── SchemaTooNew          the tables were made by a newer version of this package
    ├── SaverClosed           the saver was closed, or belongs to a process that forked
    ├── ReadFailed            the database could not be read; ``__cause__`` is its own error
    ├── WriteFailed           nothing of a call is stored; ``__cause__`` is the database's own error
    │   └── DatabaseBusy      another process kept the database locked for too long
    ├── ThreadExists          the target of a copy already has checkpoints
    └── LeaseError            about the right to run a thread
        ├── LeaseHeld         another owner has it
        └── LeaseLost         it is no longer yours
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


class CheckpointsError(Exception):
    """Base of everything this package raises on purpose."""


class UnsupportedDatabase(CheckpointsError):
    """The URL names a database this version cannot use."""


class SchemaTooNew(CheckpointsError):
    """The tables in the database were made by a newer version of this package."""


class SaverClosed(CheckpointsError):
    """The saver was closed, or belongs to a process that forked."""


class ReadFailed(CheckpointsError):
    """The database could not be read. ``__cause__`` is its own error."""


class WriteFailed(CheckpointsError):
    """Nothing of this call is stored. ``__cause__`` is the database's own error."""


class DatabaseBusy(WriteFailed):
    """Another process kept the database locked for longer than the saver was told to wait."""


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
