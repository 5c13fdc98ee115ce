"""The queries behind the reading methods: a few for each page of checkpoints, however many are on it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from langgraph.checkpoint.base import CheckpointTuple, PendingWrite, writes_sort_key
from sqlalchemy import and_, not_, or_, select, true, tuple_

from checkpoints.codec import address, corrupt, dump_json, is_json, make_config
from checkpoints.errors import CorruptCheckpoint, UnreadableType
from checkpoints.frames import Unframer
from checkpoints.rows import Damaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_core.runnables import RunnableConfig
    from sqlalchemy import Column, ColumnElement, Connection, Select

    from checkpoints.codec import Codec, StoredCheckpoint
    from checkpoints.frames import Frames

PAGE = 50
"""Checkpoints fetched at once by ``list``: few enough to hold, many enough to be quick."""

VALUE_KEY = ("thread_id", "checkpoint_ns", "channel", "version")
CHECKPOINT_KEY = ("thread_id", "checkpoint_ns", "checkpoint_id")

CheckpointKey = tuple[str, str, str]
"""Thread, namespace and id of a checkpoint."""

_log = logging.getLogger("checkpoints")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Which newest checkpoints are wanted.

    Attributes:
        limit: How many at most.
        thread_id: Of this thread only.
        filter: What their metadata must hold.
        before: Only those that come after this one in the list: its id and its thread's.
        nested: Of all namespaces but the root one, instead of the root one.
        written: Only those among whose writes there is one of this channel.
        channels: Only the values of these channels; None for all.
    """

    limit: int | None = None
    thread_id: str | None = None
    filter: Mapping[str, Any] = field(default_factory=dict[str, Any])
    before: tuple[str, str] | None = None
    nested: bool = False
    written: str | None = None
    channels: frozenset[str] | None = None


class Reader:
    """Reads checkpoints.

    Args:
        codec: What makes values of rows.
        frames: Told what the newest values are.
        fall_back: Whether a damaged newest checkpoint is passed over for its nearest readable ancestor.
        lenient: Whether values of types that can't be built are left out; for looking, never for going on.
    """

    def __init__(self, codec: Codec, frames: Frames, *, fall_back: bool, lenient: bool = False) -> None:
        self.codec = codec
        self._schema = codec.schema
        self._frames = frames
        self._fall_back = fall_back
        self._lenient = lenient

    def _patience(self) -> AbstractContextManager[Any]:
        """What a value that can't be built is met with."""
        return suppress(UnreadableType) if self._lenient else nullcontext()

    def get(self, connection: Connection, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint a config points to: the newest of its namespace if it names none."""
        thread_id, checkpoint_ns, checkpoint_id = address(config)
        table = self._schema.checkpoints
        if checkpoint_id:
            rows = self._schema.dialect.rows_by_key(
                connection, table, CHECKPOINT_KEY, [(thread_id, checkpoint_ns, checkpoint_id)]
            )
            return next(iter(self.assemble(connection, rows)), None)
        rows = self._schema.dialect.newest(connection, table, CHECKPOINT_KEY, (thread_id, checkpoint_ns))
        query = select(table).where(table.c.thread_id == thread_id, table.c.checkpoint_ns == checkpoint_ns)
        while rows:
            try:
                return self.assemble(connection, rows, newest=True)[0]
            except CorruptCheckpoint as error:
                if not self._fall_back:
                    raise
                _log.warning("passed over: %s", error)
                # Its parent, if the row can still tell which; else whatever came before it.
                before = query.where(table.c.checkpoint_id < rows[0].checkpoint_id)
                parent = connection.execute(before.where(table.c.checkpoint_id == rows[0].parent_id)).all()
                rows = parent or connection.execute(before.order_by(table.c.checkpoint_id.desc()).limit(1)).all()
        return None

    def heads(self, connection: Connection, wanted: Heads) -> list[CheckpointTuple]:
        """The newest checkpoint of each thread's root namespace, newest first; or of the namespaces below it."""
        table = self._schema.checkpoints
        newer = table.alias("newer")
        same = and_(newer.c.thread_id == table.c.thread_id, newer.c.checkpoint_ns == table.c.checkpoint_ns)
        newest = not_(select(newer.c.thread_id).where(same, newer.c.checkpoint_id > table.c.checkpoint_id).exists())
        query = (
            select(table)
            .where(table.c.checkpoint_ns != "" if wanted.nested else table.c.checkpoint_ns == "", newest)
            .order_by(table.c.checkpoint_id.desc(), table.c.thread_id.desc())
        )
        if wanted.thread_id is not None:
            query = query.where(table.c.thread_id == wanted.thread_id)
        if wanted.written is not None:
            w = self._schema.writes.c
            beside = [w[name] == table.c[name] for name in CHECKPOINT_KEY]
            query = query.where(select(w.channel).where(*beside, w.channel == wanted.written).exists())
        if self.codec.sealer.encryption is None:
            query = query.where(*(may_have(table.c.metadata, key, value) for key, value in wanted.filter.items()))
        found: list[CheckpointTuple] = []
        before = wanted.before
        while True:
            size = None if wanted.limit is None else wanted.limit - len(found)
            page = query if before is None else query.where(tuple_(table.c.checkpoint_id, table.c.thread_id) < before)
            rows = connection.execute(page.limit(size)).all()
            heads = self.assemble(connection, rows, channels=wanted.channels)
            found += [head for head in heads if matches(head.metadata, wanted.filter)]
            if size is None or len(rows) < size or len(found) == wanted.limit:
                return found
            before = (rows[-1].checkpoint_id, rows[-1].thread_id)

    def assemble(
        self,
        connection: Connection,
        rows: Sequence[Any],
        *,
        newest: bool = False,
        channels: frozenset[str] | None = None,
    ) -> list[CheckpointTuple]:
        """Rows of the checkpoints table, completed with their values and their writes.

        Args:
            connection: The database.
            rows: The rows.
            newest: Whether they are the newest of their threads, which are remembered.
            channels: Only the values and writes of these channels; None for all.

        Raises:
            CorruptCheckpoint: One of them is not as it was stored.
        """
        stored = [self.codec.open_checkpoint(row) for row in rows]
        if channels is not None:
            stored = [one.only(channels) for one in stored]
        values = self.values(connection, ((one.row, one.versions) for one in stored))
        writes = self._writes(connection, [checkpoint_key(row) for row in rows])
        if channels is not None:
            writes = {key: [one for one in mine if one.channel in channels] for key, mine in writes.items()}
        return [self._tuple(one, values, writes.get(checkpoint_key(one.row), []), newest=newest) for one in stored]

    def values(self, connection: Connection, wanted: Iterable[tuple[Any, Mapping[str, str]]]) -> Unframer:
        """Values of channels, by checkpoint row and versions."""
        keys = dict.fromkeys(
            (row.thread_id, row.checkpoint_ns, channel, version)
            for row, versions in wanted
            for channel, version in versions.items()
        )
        known = self._frames.recall(keys)
        missing = [key for key in keys if key not in known]
        rows = self._schema.dialect.chains_by_key(connection, self._schema.values, VALUE_KEY, missing)
        return Unframer(self.codec.sealer, rows, known)

    def value(self, values: Unframer, row: Any, channel: str, version: str, *, newest: bool = False) -> Any:
        """A channel's value at a checkpoint.

        Raises:
            CorruptCheckpoint: It is not there, or not as it was stored.
        """
        try:
            value, depth = values.value(row.thread_id, row.checkpoint_ns, channel, version)
        except Damaged as error:
            raise corrupt(row, channel, str(error)) from error
        if newest:
            self._frames.met(value, depth)
        return self.codec.load(value, row.checkpoint_id)

    def _tuple(
        self, stored: StoredCheckpoint, values: Unframer, writes: Sequence[Any], *, newest: bool
    ) -> CheckpointTuple:
        row, checkpoint = stored.row, stored.checkpoint
        for channel, version in stored.versions.items():
            with self._patience():
                checkpoint["channel_values"][channel] = self.value(values, row, channel, version, newest=newest)
        opened: list[PendingWrite] = []
        for write in writes:
            with self._patience():
                opened.append(self.codec.open_write(write))
        parent_id = row.parent_id
        return CheckpointTuple(
            config=make_config(*checkpoint_key(row)),
            checkpoint=checkpoint,
            metadata=stored.metadata,
            parent_config=make_config(row.thread_id, row.checkpoint_ns, parent_id) if parent_id else None,
            pending_writes=opened,
        )

    def _writes(self, connection: Connection, keys: Sequence[CheckpointKey]) -> dict[CheckpointKey, list[Any]]:
        rows = self._schema.dialect.rows_by_key(connection, self._schema.writes, CHECKPOINT_KEY, keys)
        found: dict[CheckpointKey, list[Any]] = {}
        for row in sorted(rows, key=lambda row: writes_sort_key(row.task_path, row.task_id, row.idx)):
            found.setdefault(checkpoint_key(row), []).append(row)
        return found


class Search:
    """One ``list``: finds a page at a time, newest first, and holds nothing in the database between pages.

    Args:
        reader: What makes checkpoints of rows.
        config: Where to look; None for all threads. Without a ``checkpoint_ns`` all namespaces count.
        filter_: What the metadata must hold.
        before: Only checkpoints older than the one this config names.
        limit: How many to find at most.
        channels: Only the values and writes of these channels; None for all.
    """

    def __init__(
        self,
        reader: Reader,
        config: RunnableConfig | None,
        *,
        filter_: Mapping[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
        channels: frozenset[str] | None = None,
    ) -> None:
        self._channels = channels
        self._table = reader.codec.schema.checkpoints
        self._reader = reader
        # As JSON gives it back: what is stored has lists for tuples.
        self._filter = {
            key: json.loads(dump_json(value)) if is_json(value) else value for key, value in (filter_ or {}).items()
        }
        self._query = self._build(config, before)
        self._remaining = limit
        self._last: CheckpointKey | None = None
        self.done = limit is not None and limit <= 0

    def page(self, connection: Connection) -> list[CheckpointTuple]:
        """The next checkpoints; sets `done` when there are no more."""
        c = self._table.c
        size = PAGE if self._remaining is None else min(PAGE, self._remaining)
        query = self._query.limit(size)
        if self._last is not None:
            thread_id, checkpoint_ns, checkpoint_id = self._last
            place = tuple_(c.checkpoint_id, c.thread_id, c.checkpoint_ns)
            query = query.where(place < (checkpoint_id, thread_id, checkpoint_ns))
        rows = connection.execute(query).all()
        steps = self._reader.assemble(connection, rows, channels=self._channels)
        found = [step for step in steps if matches(step.metadata, self._filter)]
        if rows:
            self._last = checkpoint_key(rows[-1])
        if self._remaining is not None:
            self._remaining -= len(found)
        self.done = len(rows) < size or self._remaining == 0
        return found

    def _build(self, config: RunnableConfig | None, before: RunnableConfig | None) -> Select[Any]:
        table = self._table
        query = select(table).order_by(
            table.c.checkpoint_id.desc(), table.c.thread_id.desc(), table.c.checkpoint_ns.desc()
        )
        if config is not None:
            thread_id, checkpoint_ns, checkpoint_id = address(config)
            query = query.where(table.c.thread_id == thread_id)
            if config.get("configurable", {}).get("checkpoint_ns") is not None:
                query = query.where(table.c.checkpoint_ns == checkpoint_ns)
            if checkpoint_id:
                query = query.where(table.c.checkpoint_id == checkpoint_id)
        before_id = before.get("configurable", {}).get("checkpoint_id") if before else None
        if before_id:
            query = query.where(table.c.checkpoint_id < before_id)
        if self._reader.codec.sealer.encryption is None:  # else the text tells nothing
            query = query.where(*(may_have(table.c.metadata, key, value) for key, value in self._filter.items()))
        return query


def matches(metadata: Any, wanted: Mapping[str, Any]) -> bool:
    """Whether metadata hold all that is wanted."""
    found = cast("Mapping[str, Any]", metadata)
    return all(found.get(key) == value for key, value in wanted.items())


def may_have(column: Column[str], key: str, value: Any) -> ColumnElement[bool]:
    """Whether the JSON text in a column may have this value under this key, for the database to sort out most rows.

    The texts are canonical, so one that has the entry contains it literally. So may a nested object.
    """
    if value is None or not is_json(value):  # an absent key counts as None; what JSON can't hold is elsewhere
        return true()
    texts = [dump_json(value)] if isinstance(value, str) else _equal_numbers(value)
    start = dump_json({key: None})[1:-5]
    return or_(*(column.contains(start + text, autoescape=True) for text in texts))


def _equal_numbers(value: Any) -> list[str]:
    """How a number can stand in JSON: 1, 1.0 and true are equal. Of anything else, nothing is said."""
    if not isinstance(value, (int, float)) or abs(value) > 2**53:
        return [""]
    same = {dump_json(value)}
    if value == int(value):
        same |= {dump_json(int(value)), dump_json(float(value))}
    if value in {0, 1}:
        same.add(dump_json(bool(value)))
    return sorted(same)


def checkpoint_key(row: Any) -> CheckpointKey:
    """Which checkpoint a row is, or belongs to."""
    return row.thread_id, row.checkpoint_ns, row.checkpoint_id
