"""The queries behind the reading methods: a few for each page of checkpoints, however many are on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from langgraph.checkpoint.base import CheckpointTuple, writes_sort_key
from sqlalchemy import and_, not_, select, tuple_

from checkpoints import sqlite
from checkpoints.codec import address, decode_body, decode_metadata, is_json, make_config, version_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import Checkpoint, PendingWrite
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from sqlalchemy import Connection, Select

    from checkpoints.schema import Schema

PAGE = 50
"""Checkpoints fetched at once by ``list``: few enough to hold, many enough to be quick."""

ValueKey = tuple[str, str, str, str]
"""Thread, namespace, channel and version of a stored channel value."""

CheckpointKey = tuple[str, str, str]
"""Thread, namespace and id of a checkpoint."""


class Reader:
    """Reads checkpoints with one serializer.

    Args:
        schema: The tables to read.
        serde: What turns bytes into values.
    """

    def __init__(self, schema: Schema, serde: SerializerProtocol) -> None:
        self._schema = schema
        self._serde = serde

    def get(self, connection: Connection, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint a config points to: the newest of its namespace if it names none."""
        thread_id, checkpoint_ns, checkpoint_id = address(config)
        table = self._schema.checkpoints
        query = select(table).where(table.c.thread_id == thread_id, table.c.checkpoint_ns == checkpoint_ns)
        if checkpoint_id:
            query = query.where(table.c.checkpoint_id == checkpoint_id)
        else:
            query = query.order_by(table.c.checkpoint_id.desc()).limit(1)
        found = self.assemble(connection, connection.execute(query).all())
        return found[0] if found else None

    def heads(self, connection: Connection, limit: int | None, thread_id: str | None) -> list[CheckpointTuple]:
        """The newest checkpoint of each thread's root namespace, newest first."""
        table = self._schema.checkpoints
        newer = table.alias("newer")
        same_thread = and_(newer.c.thread_id == table.c.thread_id, newer.c.checkpoint_ns == "")
        query = (
            select(table)
            .where(
                table.c.checkpoint_ns == "",
                not_(
                    select(newer.c.thread_id).where(same_thread, newer.c.checkpoint_id > table.c.checkpoint_id).exists()
                ),
            )
            .order_by(table.c.checkpoint_id.desc(), table.c.thread_id)
            .limit(limit)
        )
        if thread_id is not None:
            query = query.where(table.c.thread_id == thread_id)
        return self.assemble(connection, connection.execute(query).all())

    def assemble(self, connection: Connection, rows: Sequence[Any]) -> list[CheckpointTuple]:
        """Rows of the checkpoints table, completed with their values and their writes."""
        bodies = [decode_body(self._serde, row) for row in rows]
        keys = [
            (row.thread_id, row.checkpoint_ns, channel, version_key(version))
            for row, (checkpoint, _) in zip(rows, bodies, strict=True)
            for channel, version in checkpoint["channel_versions"].items()
        ]
        values = self._values(connection, keys)
        writes = self._writes(connection, [_key(row) for row in rows])
        return [
            self._tuple(row, checkpoint, odd, values, writes.get(_key(row), []))
            for row, (checkpoint, odd) in zip(rows, bodies, strict=True)
        ]

    def _tuple(
        self,
        row: Any,
        checkpoint: Checkpoint,
        odd: Mapping[str, Any],
        values: Mapping[ValueKey, tuple[str, bytes]],
        writes: Sequence[Any],
    ) -> CheckpointTuple:
        for channel, version in checkpoint["channel_versions"].items():
            stored = values.get((row.thread_id, row.checkpoint_ns, channel, version_key(version)))
            if stored is not None:
                checkpoint["channel_values"][channel] = self._serde.loads_typed(stored)
        parent_id = row.parent_id
        return CheckpointTuple(
            config=make_config(*_key(row)),
            checkpoint=checkpoint,
            metadata=decode_metadata(row, odd),
            parent_config=make_config(row.thread_id, row.checkpoint_ns, parent_id) if parent_id else None,
            pending_writes=[self.pending_write(write) for write in writes],
        )

    def pending_write(self, row: Any) -> PendingWrite:
        """A row of the writes table as LangGraph wants it."""
        return row.task_id, row.channel, self._serde.loads_typed((row.type, row.value))

    def _values(self, connection: Connection, keys: Sequence[ValueKey]) -> dict[ValueKey, tuple[str, bytes]]:
        names = ("thread_id", "checkpoint_ns", "channel", "version")
        rows = sqlite.rows_by_key(connection, self._schema.values, names, list(dict.fromkeys(keys)))
        return {(row.thread_id, row.checkpoint_ns, row.channel, row.version): (row.type, row.value) for row in rows}

    def _writes(self, connection: Connection, keys: Sequence[CheckpointKey]) -> dict[CheckpointKey, list[Any]]:
        names = ("thread_id", "checkpoint_ns", "checkpoint_id")
        rows = sqlite.rows_by_key(connection, self._schema.writes, names, keys)
        found: dict[CheckpointKey, list[Any]] = {}
        for row in sorted(rows, key=lambda row: writes_sort_key(row.task_path, row.task_id, row.idx)):
            found.setdefault(_key(row), []).append(row)
        return found


class Search:
    """One ``list``: finds a page at a time, newest first, and holds nothing in the database between pages.

    Args:
        schema: The tables to search.
        serde: What turns bytes into values.
        config: Where to look; None for all threads. Without a ``checkpoint_ns`` all namespaces count.
        filter_: What the metadata must hold.
        before: Only checkpoints older than the one this config names.
        limit: How many to find at most.
    """

    def __init__(
        self,
        schema: Schema,
        serde: SerializerProtocol,
        config: RunnableConfig | None,
        *,
        filter_: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> None:
        self._schema = schema
        self._reader = Reader(schema, serde)
        self._filter = filter_ or {}
        self._query = self._build(config, before)
        self._remaining = limit
        self._last: CheckpointKey | None = None
        self.done = limit is not None and limit <= 0

    def page(self, connection: Connection) -> list[CheckpointTuple]:
        """The next checkpoints; sets `done` when there are no more."""
        c = self._schema.checkpoints.c
        size = PAGE if self._remaining is None else min(PAGE, self._remaining)
        query = self._query.limit(size)
        if self._last is not None:
            thread_id, checkpoint_ns, checkpoint_id = self._last
            place = tuple_(c.checkpoint_id, c.thread_id, c.checkpoint_ns)
            query = query.where(place < (checkpoint_id, thread_id, checkpoint_ns))
        rows = connection.execute(query).all()
        found = [item for item in self._reader.assemble(connection, rows) if self._matches(item.metadata)]
        if rows:
            self._last = _key(rows[-1])
        if self._remaining is not None:
            self._remaining -= len(found)
        self.done = len(rows) < size or self._remaining == 0
        return found

    def _build(self, config: RunnableConfig | None, before: RunnableConfig | None) -> Select[Any]:
        table = self._schema.checkpoints
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
        for key, value in self._filter.items():
            if is_json(value):
                query = query.where(sqlite.json_equals(table.c.metadata, key, value))
        return query

    def _matches(self, metadata: Any) -> bool:
        """Check what SQL could not: values that JSON can't hold, and keys that must be absent."""
        found = cast("Mapping[str, Any]", metadata)
        return all(
            found.get(key) == value for key, value in self._filter.items() if value is None or not is_json(value)
        )


def _key(row: Any) -> CheckpointKey:
    return row.thread_id, row.checkpoint_ns, row.checkpoint_id
