"""Looking over a database: how much is in it, and whether all of it can be read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, tuple_

from checkpoints.codec import corrupt
from checkpoints.errors import CorruptCheckpoint, UnreadableType
from checkpoints.frames import Unframer
from checkpoints.reader import CHECKPOINT_KEY, VALUE_KEY, checkpoint_key
from checkpoints.rows import Damaged

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

    from checkpoints.codec import Codec

_PAGE = 200


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is stored of a thread.

    Attributes:
        thread_id: The thread.
        checkpoints: How many checkpoints.
        versions: How many versions of channel values.
        writes: How many pending writes.
        bytes: Of what they hold, as stored, without keys and indexes.
        changed: When its last checkpoint was stored (UTC).
    """

    thread_id: str
    checkpoints: int
    versions: int
    writes: int
    bytes: int
    changed: datetime


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that can't be read.

    Attributes:
        thread_id: The thread.
        checkpoint_ns: Its namespace.
        checkpoint_id: The checkpoint.
        what: What is wrong with it.
    """

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str
    what: str


def statistics(codec: Codec, thread_id: str | None, connection: Connection) -> list[Statistics]:
    """Count, by thread."""
    schema = codec.schema
    checkpoints = _count(connection, schema.checkpoints, thread_id)
    values = _count(connection, schema.values, thread_id)
    writes = _count(connection, schema.writes, thread_id)
    c = schema.checkpoints.c
    query = select(c.thread_id, func.max(c.created)).group_by(c.thread_id)
    if thread_id is not None:
        query = query.where(c.thread_id == thread_id)
    found = [
        Statistics(
            thread_id=thread,
            checkpoints=checkpoints[thread][0],
            versions=values.get(thread, (0, 0))[0],
            writes=writes.get(thread, (0, 0))[0],
            bytes=sum(counted.get(thread, (0, 0))[1] for counted in (checkpoints, values, writes)),
            changed=datetime.fromtimestamp(changed / 1000, UTC),
        )
        for thread, changed in connection.execute(query)
    ]
    return sorted(found, key=lambda one: one.bytes, reverse=True)


def _count(connection: Connection, table: Table, thread_id: str | None) -> dict[str, tuple[int, int]]:
    query = select(table.c.thread_id, func.count(), func.sum(func.length(list(table.c)[-1]))).group_by(
        table.c.thread_id
    )
    if thread_id is not None:
        query = query.where(table.c.thread_id == thread_id)
    return {thread: (count, int(size or 0)) for thread, count, size in connection.execute(query)}


class Check:
    """Reads all checkpoints, a page at a time, and notes what can't be read.

    Args:
        codec: What opens rows. Types that it can't build are problems too.
        thread_id: Only this thread; None for all.
    """

    def __init__(self, codec: Codec, thread_id: str | None) -> None:
        self._codec = codec
        self._thread = thread_id
        self._last: tuple[str, str, str] | None = None
        self.problems: list[Problem] = []
        self.done = False

    def page(self, connection: Connection) -> None:
        """Check the next checkpoints; sets `done` when there are no more."""
        schema = self._codec.schema
        table = schema.checkpoints
        key = tuple_(*table.primary_key)
        query = select(table).order_by(*table.primary_key).limit(_PAGE)
        if self._thread is not None:
            query = query.where(table.c.thread_id == self._thread)
        if self._last is not None:
            query = query.where(key > self._last)
        rows = connection.execute(query).all()
        for row in rows:
            self._checkpoint(connection, row)
        found = schema.dialect.rows_by_key(
            connection, schema.writes, CHECKPOINT_KEY, [checkpoint_key(row) for row in rows]
        )
        for write in found:
            self._try(write, partial(self._codec.open_write, write))
        self.done = len(rows) < _PAGE
        if rows:
            self._last = checkpoint_key(rows[-1])

    def _checkpoint(self, connection: Connection, row: Any) -> None:
        stored = self._try(row, lambda: self._codec.open_checkpoint(row))
        if stored is None:
            return
        keys = [(row.thread_id, row.checkpoint_ns, *each) for each in stored.versions.items()]
        schema = self._codec.schema
        values = Unframer(self._codec.sealer, schema.dialect.chains_by_key(connection, schema.values, VALUE_KEY, keys))
        for key in keys:
            self._try(row, partial(self._load, values, key, row))

    def _load(self, values: Unframer, key: tuple[str, str, str, str], row: Any) -> None:
        try:
            value, _ = values.value(*key)
        except Damaged as error:
            raise corrupt(row, key[2], str(error)) from error
        self._codec.load(value, row.checkpoint_id)

    def _try(self, row: Any, work: Any) -> Any:
        try:
            return work()
        except (CorruptCheckpoint, UnreadableType) as error:
            self.problems.append(Problem(*checkpoint_key(row), what=str(error)))
            return None
