"""Leases: the right to run a thread, which one owner has at a time.

Two runs on one thread at once lose each other's updates without an error. A run therefore takes a lease,
renews it while it works, and releases it at the end. The clock is the database's, so that machines need not
agree on the time.

A lease of a process that was killed would hold the thread until it expires. An owner's text tells on which
host which process holds it, so another process there can see that it is dead, and take the lease at once.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from checkpoints.errors import LeaseHeld, LeaseLost
from checkpoints.rows import check_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from checkpoints.database import Database
    from checkpoints.schema import Schema


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one owner to run a thread.

    Attributes:
        thread_id: The thread.
        owner: Who has it.
        expires: When it ends unless it is renewed (UTC, the database's clock).
        epoch: How many owners the thread has had, this one included. See `SQLAlchemySaver.fenced`.
    """

    thread_id: str
    owner: str
    expires: datetime
    epoch: int


def process_owner() -> str:
    """A new owner's text for this process: ``"host:pid:starttime:uuid"``.

    Each call gives another owner, so two runs in one process keep each other out too. The start time, with
    the process namespace where there is one, tells this process from a later one that gets the same pid.
    """
    return f"{_this_process(os.getpid())}:{uuid.uuid4()}"


@functools.cache
def _this_process(pid: int) -> str:
    return f"{_host()}:{pid}:{_start_time(pid) or '-'}@{_namespace() or '-'}"


class Leasing:
    """The saver's lease methods; `SQLAlchemySaver` has them all."""

    _database: Database

    def acquire_lease(self, thread_id: str, *, owner: str, ttl: float) -> Lease:
        """Take a thread that is free or the owner's already, or whose lease expired or owner is dead.

        Args:
            thread_id: The thread.
            owner: Who takes it; see `process_owner`.
            ttl: Seconds until it expires unless it is renewed.

        Raises:
            LeaseHeld: Another owner has it.
        """
        return self._database.write(partial(_acquire, self._database.schema, thread_id, owner, ttl))

    async def aacquire_lease(self, thread_id: str, *, owner: str, ttl: float) -> Lease:
        """`acquire_lease` without blocking the event loop."""
        return await self._database.awrite(partial(_acquire, self._database.schema, thread_id, owner, ttl))

    def renew_lease(self, thread_id: str, *, owner: str, ttl: float) -> Lease:
        """Keep a lease for another ``ttl`` seconds from now.

        Raises:
            LeaseLost: It expired and was taken, or it was released.
        """
        return self._database.write(partial(_renew, self._database.schema, thread_id, owner, ttl))

    async def arenew_lease(self, thread_id: str, *, owner: str, ttl: float) -> Lease:
        """`renew_lease` without blocking the event loop."""
        return await self._database.awrite(partial(_renew, self._database.schema, thread_id, owner, ttl))

    def release_lease(self, thread_id: str, *, owner: str) -> None:
        """Give a lease back. Does nothing if it is not the owner's."""
        self._database.write(partial(_release, self._database.schema, thread_id, owner))

    async def arelease_lease(self, thread_id: str, *, owner: str) -> None:
        """`release_lease` without blocking the event loop."""
        await self._database.awrite(partial(_release, self._database.schema, thread_id, owner))

    def lease_of(self, thread_id: str) -> Lease | None:
        """Who runs a thread now; None if nobody does."""
        found = self._database.read(partial(_live, self._database.schema, thread_id))
        return found[0] if found else None

    async def alease_of(self, thread_id: str) -> Lease | None:
        """`lease_of` without blocking the event loop."""
        found = await self._database.aread(partial(_live, self._database.schema, thread_id))
        return found[0] if found else None

    def leases(self) -> Sequence[Lease]:
        """Who runs what now, by thread."""
        return self._database.read(partial(_live, self._database.schema, None))

    async def aleases(self) -> Sequence[Lease]:
        """`leases` without blocking the event loop."""
        return await self._database.aread(partial(_live, self._database.schema, None))


def _acquire(schema: Schema, thread_id: str, owner: str, ttl: float, connection: Connection) -> Lease:
    check_key("thread_id", thread_id)
    check_key("owner", owner)
    c, dialect = schema.leases.c, schema.dialect
    # The row must be there to be locked: two that both find none would both get the thread.
    dialect.insert(connection, schema.add_lease, [(dialect.key(thread_id), dialect.key(""), 0, 0.0)])
    row = connection.execute(select(schema.leases).where(c.thread_id == thread_id).with_for_update()).one()
    now = _now(schema, connection)
    if row.owner not in {owner, ""} and row.expires > now and not _is_dead(row.owner):
        raise LeaseHeld(thread_id, row.owner, datetime.fromtimestamp(row.expires, UTC))
    epoch = row.epoch if row.owner == owner else row.epoch + 1
    mine = update(schema.leases).where(c.thread_id == thread_id)
    connection.execute(mine.values(owner=owner, epoch=epoch, expires=now + ttl))
    return Lease(thread_id, owner, datetime.fromtimestamp(now + ttl, UTC), epoch)


def _renew(schema: Schema, thread_id: str, owner: str, ttl: float, connection: Connection) -> Lease:
    c = schema.leases.c
    epoch = connection.scalar(select(c.epoch).where(c.thread_id == thread_id, c.owner == owner).with_for_update())
    if epoch is None or not owner:
        raise LeaseLost(thread_id, owner)
    expires = _now(schema, connection) + ttl
    connection.execute(update(schema.leases).where(c.thread_id == thread_id).values(expires=expires))
    return Lease(thread_id, owner, datetime.fromtimestamp(expires, UTC), epoch)


def _release(schema: Schema, thread_id: str, owner: str, connection: Connection) -> None:
    # The row stays, with its epoch: a later owner must not get the number of an earlier one.
    c = schema.leases.c
    mine = update(schema.leases).where(c.thread_id == thread_id, c.owner == owner)
    connection.execute(mine.values(owner="", expires=0.0))


def _live(schema: Schema, thread_id: str | None, connection: Connection) -> list[Lease]:
    table = schema.leases
    query = select(table).where(table.c.expires > schema.dialect.now(), table.c.owner != "")
    if thread_id is not None:
        query = query.where(table.c.thread_id == thread_id)
    rows: Sequence[Any] = connection.execute(query.order_by(table.c.thread_id)).all()
    return [
        Lease(row.thread_id, row.owner, datetime.fromtimestamp(row.expires, UTC), row.epoch)
        for row in rows
        if not _is_dead(row.owner)
    ]


def _now(schema: Schema, connection: Connection) -> float:
    return float(connection.execute(select(schema.dialect.now())).scalar_one())


def _is_dead(owner: str) -> bool:
    """Whether the owner surely was a process of this host and is gone; in doubt it is alive."""
    parts = owner.rsplit(":", 3)
    if len(parts) != 4 or parts[0] != _host() or not parts[1].isdecimal():
        return False
    pid = int(parts[1])
    started, _, namespace = parts[2].partition("@")
    if namespace not in {"", "-", _namespace()}:  # another container on this host: its pids mean nothing here
        return False
    found = _start_time(pid)
    if found is not None and started != "-":
        return found != started
    if sys.platform == "win32":  # there, signal 0 is not a question
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _host() -> str:
    return socket.gethostname()


def _start_time(pid: int) -> str | None:
    """When a process began, in ticks since the host did; None if that can't be told, "" if it ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and parentheses
    state, started = fields[0], fields[19]
    return "" if state in {"Z", "X"} else started  # a zombie has ended; only its parent has not looked yet


def _namespace() -> str | None:
    """The number of this process's pid namespace, which differs between containers."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return None
