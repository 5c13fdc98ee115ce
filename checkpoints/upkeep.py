"""Deleting and copying: each function does its work in the writer's transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, select

from checkpoints.dialects import Key
from checkpoints.errors import CorruptCheckpoint, ThreadExists
from checkpoints.reader import CHECKPOINT_KEY, checkpoint_key
from checkpoints.rows import Damaged, check_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Table

    from checkpoints.codec import Codec
    from checkpoints.dialects import Row, Statement

Copied = list[tuple["Statement", list["Row"]]]
"""The rows of a copied thread, by statement."""

_ROWS_AT_ONCE = 500
_VALUES_AT_ONCE = 5000


def delete_thread(codec: Codec, thread_id: str, connection: Connection) -> None:
    """Delete all that is stored of a thread, but for the lease of one that is being run."""
    schema = codec.schema
    for table in (schema.writes, schema.checkpoints):
        connection.execute(delete(table).where(table.c.thread_id == thread_id))
    schema.dialect.delete_newest_first(connection, schema.values, thread_id)
    leases = schema.leases
    connection.execute(delete(leases).where(leases.c.thread_id == thread_id, leases.c.owner == ""))


def delete_for_runs(codec: Codec, run_ids: Sequence[str], connection: Connection) -> bool:
    """Delete what these runs stored, and values that only they used; return whether there is more to delete."""
    c = codec.schema.checkpoints.c
    encryption = codec.sealer.encryption
    stored = run_ids if encryption is None else [blind for run_id in run_ids for blind in encryption.blind(run_id)]
    query = select(c.thread_id, c.checkpoint_ns, c.checkpoint_id).where(c.run_id.in_(list(dict.fromkeys(stored))))
    doomed = connection.execute(query.order_by(*query.selected_columns).limit(_ROWS_AT_ONCE)).all()
    delete_checkpoints(codec, connection, doomed)
    for thread_id, checkpoint_ns in dict.fromkeys((row.thread_id, row.checkpoint_ns) for row in doomed):
        while delete_unused_values(codec, connection, thread_id, checkpoint_ns):
            pass
    return len(doomed) == _ROWS_AT_ONCE


def rows_for_copy(codec: Codec, source: str, target: str, connection: Connection) -> Copied:
    """The rows of a thread, as they are in another: every checkpoint, so that each copy finds its ancestors.

    Raises:
        CorruptCheckpoint: A row of the source is damaged.
    """
    schema = codec.schema
    check_key("thread_id", target)
    tables = (("values", schema.put_value), ("writes", schema.put_write), ("checkpoints", schema.put_checkpoint))
    copied: Copied = []
    for name, statement in tables:
        table = statement.table
        # In the order of the keys: a delta comes after what it is a delta of.
        rows = connection.execute(select(table).where(table.c.thread_id == source).order_by(*table.primary_key))
        copied.append((statement, [_moved(codec, name, statement, row, target) for row in rows]))
    return copied


class Paste:
    """Inserts the rows of a copy. Done again after the reply to the commit was lost, it does no harm.

    Args:
        codec: Whose tables.
        source: The thread that was copied, for the message.
        target: The thread to make.
        copied: Its rows.
    """

    def __init__(self, codec: Codec, source: str, target: str, copied: Copied) -> None:
        self._codec = codec
        self._source = source
        self._target = target
        self._copied = copied
        self._begun = False

    def __call__(self, connection: Connection) -> None:
        """Insert.

        Raises:
            ThreadExists: The target has checkpoints.
        """
        c = self._codec.schema.checkpoints.c
        taken = connection.execute(select(c.thread_id).where(c.thread_id == self._target).limit(1)).first()
        if taken is not None and not self._begun:
            raise ThreadExists(
                f"can't copy thread {self._source!r} to {self._target!r}, which has checkpoints: delete it first"
            )
        self._begun = True
        for statement, rows in self._copied:
            self._codec.schema.dialect.insert(connection, statement, rows)


def _moved(codec: Codec, name: str, statement: Statement, row: Any, thread_id: str) -> Row:
    """A row as it must be in another thread: sealed anew, since the seal covers the thread."""
    sealer, table = codec.sealer, statement.table
    proof = ("type", "key_id", "checksum")
    blob = list(table.c)[-1].name
    columns: dict[str, Any] = {column.name: value for column, value in zip(table.c, row, strict=True)}
    content, kind = columns.pop(blob), columns["type"]
    covered = {column: value for column, value in columns.items() if column not in proof}
    try:
        content = sealer.open(name, tuple(covered.values()), row, content)
    except Damaged as error:
        channel = columns.get("channel")
        where = (row.thread_id, row.checkpoint_ns, columns.get("checkpoint_id", "any"))
        raise CorruptCheckpoint(*where, channel=channel, reason=f"it can't be copied: {error}") from error
    covered["thread_id"] = thread_id
    sealed, stored = sealer.seal(name, tuple(covered.values()), kind, content)
    columns = {**columns, **covered, **dict(zip(proof, sealed, strict=True)), blob: stored}
    key = codec.schema.dialect.key
    return tuple(
        key(columns[column.name])
        if isinstance(column.type, Key) and columns[column.name] is not None
        else columns[column.name]
        for column in table.c
    )


def delete_checkpoints(codec: Codec, connection: Connection, doomed: Sequence[Any]) -> None:
    """Delete checkpoints with their writes; those whose parent they are become roots."""
    if not doomed:
        return
    schema = codec.schema
    for table in (schema.writes, schema.checkpoints):
        _delete(connection, table, CHECKPOINT_KEY, [checkpoint_key(row) for row in doomed])
    gone: dict[tuple[str, str], list[str]] = {}
    for row in doomed:
        gone.setdefault((row.thread_id, row.checkpoint_ns), []).append(row.checkpoint_id)
    c = schema.checkpoints.c
    for (thread_id, checkpoint_ns), ids in gone.items():
        here = select(schema.checkpoints).where(c.thread_id == thread_id, c.checkpoint_ns == checkpoint_ns)
        children = connection.execute(here.where(c.parent_id.in_(ids))).all()
        # A parent_config must not lead nowhere. The seal covers the parent, so the row is written anew.
        if children:
            schema.dialect.insert(connection, schema.put_checkpoint, [codec.as_root(row) for row in children])


def delete_unused_values(codec: Codec, connection: Connection, thread_id: str, checkpoint_ns: str) -> bool:
    """Delete values that no checkpoint refers to and no such value is a delta of; return whether there may be more."""
    schema = codec.schema
    c, v = schema.checkpoints.c, schema.values.c
    # The values first: one that another process adds between the two queries comes with the checkpoint that needs it.
    stored = select(v.channel, v.version, v.base).where(v.thread_id == thread_id, v.checkpoint_ns == checkpoint_ns)
    bases = {(row.channel, row.version): row.base for row in connection.execute(stored)}
    used: set[tuple[str, str]] = set()
    rows = select(schema.checkpoints).where(c.thread_id == thread_id, c.checkpoint_ns == checkpoint_ns)
    for row in connection.execute(rows):
        for channel, version in codec.open_checkpoint(row).versions.items():
            needed: str | None = version
            while needed is not None and (channel, needed) not in used:
                used.add((channel, needed))
                needed = bases.get((channel, needed))
    # The newest first: a delta goes before what it is a delta of.
    unused = sorted((key for key in bases if key not in used), key=lambda key: key[1], reverse=True)
    if unused:
        columns = ("thread_id", "checkpoint_ns", "channel", "version")
        keys = [(thread_id, checkpoint_ns, *key) for key in unused[:_VALUES_AT_ONCE]]
        _delete(connection, schema.values, columns, keys)
    return len(unused) > _VALUES_AT_ONCE


def _delete(connection: Connection, table: Table, columns: Sequence[str], keys: Sequence[tuple[str, ...]]) -> None:
    """Delete rows by key, in this order."""
    statement = delete(table).where(*(table.c[name] == bindparam(f"b_{name}") for name in columns))
    names = [f"b_{name}" for name in columns]
    connection.execute(statement, [dict[str, Any](zip(names, key, strict=True)) for key in keys])
