"""Deleting, copying and pruning: each function does its whole work in the writer's transaction."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, insert, literal, select, update

from checkpoints import sqlite
from checkpoints.codec import decode_body, make_config, version_key
from checkpoints.errors import ThreadExists
from checkpoints.history import ancestors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langgraph.checkpoint.serde.base import SerializerProtocol
    from sqlalchemy import Connection, Table

    from checkpoints.schema import Schema


def delete_thread(schema: Schema, thread_id: str, connection: Connection) -> None:
    """Delete all that is stored of a thread."""
    for table in (schema.writes, schema.values, schema.checkpoints):
        connection.execute(delete(table).where(table.c.thread_id == thread_id))


def delete_for_runs(schema: Schema, serde: SerializerProtocol, run_ids: Sequence[str], connection: Connection) -> None:
    """Delete what these runs stored, and values that only they used."""
    c = schema.checkpoints.c
    touched: dict[tuple[str, str], set[str]] = {}
    for run_id in dict.fromkeys(run_ids):
        query = select(c.thread_id, c.checkpoint_ns, c.checkpoint_id).where(c.run_id == run_id)
        for row in connection.execute(query):
            touched.setdefault((row.thread_id, row.checkpoint_ns), set()).add(row.checkpoint_id)
    for (thread_id, checkpoint_ns), doomed in touched.items():
        rows = _checkpoints(schema, connection, thread_id, checkpoint_ns)
        keep = {row.checkpoint_id for row in rows} - doomed
        _keep_only(schema, serde, connection, rows, keep)


def copy_thread(schema: Schema, source: str, target: str, connection: Connection) -> None:
    """Copy all that is stored of a thread: every checkpoint, so that each copy finds its ancestors."""
    c = schema.checkpoints.c
    if connection.execute(select(c.thread_id).where(c.thread_id == target).limit(1)).first() is not None:
        raise ThreadExists(f"can't copy thread {source!r} to {target!r}, which has checkpoints: delete it first")
    for table in (schema.checkpoints, schema.values, schema.writes):
        rest = [column for column in table.c if column.name != "thread_id"]
        rows = select(literal(target), *rest).where(table.c.thread_id == source)
        connection.execute(insert(table).from_select(["thread_id", *(column.name for column in rest)], rows))


def prune_thread(schema: Schema, serde: SerializerProtocol, thread_id: str, connection: Connection) -> None:
    """Keep each namespace's newest checkpoint, and the ancestors its delta channels are rebuilt from.

    A namespace that belongs to one call of a subgraph goes when the checkpoint that made the call goes:
    nothing can resume it any more.
    """
    namespaces = connection.scalars(
        select(schema.checkpoints.c.checkpoint_ns).where(schema.checkpoints.c.thread_id == thread_id).distinct()
    ).all()
    rows = {ns: _checkpoints(schema, connection, thread_id, ns) for ns in namespaces}
    saved = {(ns, row.checkpoint_id) for ns in namespaces for row in rows[ns]}
    kept: set[tuple[str, str]] = set()
    for ns in sorted(namespaces, key=lambda ns: ns.count("|") + bool(ns)):  # callers before those they call
        callers = set(_callers(rows[ns][-1], ns))
        abandoned = _is_one_call(ns) and (callers & saved) - kept
        keep = set[str]() if abandoned else _needed(schema, serde, connection, rows[ns][-1])
        kept |= {(ns, checkpoint_id) for checkpoint_id in keep}
        _keep_only(schema, serde, connection, rows[ns], keep)


def _checkpoints(schema: Schema, connection: Connection, thread_id: str, checkpoint_ns: str) -> Sequence[Any]:
    c = schema.checkpoints.c
    query = select(c.thread_id, c.checkpoint_ns, c.checkpoint_id, c.metadata)  # the bodies are the bulk
    here = (c.thread_id == thread_id, c.checkpoint_ns == checkpoint_ns)
    return connection.execute(query.where(*here).order_by(c.checkpoint_id)).all()


def _is_one_call(checkpoint_ns: str) -> bool:
    # "name:task" is one call of a subgraph, "name" a subgraph with a memory of its own across calls.
    return ":" in checkpoint_ns


def _callers(row: Any, checkpoint_ns: str) -> Iterable[tuple[str, str]]:
    parents: dict[str, str] = json.loads(row.metadata).get("parents") or {}
    return ((ns, checkpoint_id) for ns, checkpoint_id in parents.items() if ns != checkpoint_ns)


def _needed(schema: Schema, serde: SerializerProtocol, connection: Connection, head: Any) -> set[str]:
    """The head, and its ancestors back to one at which every delta channel has been seen stored.

    LangGraph counts, in the metadata, the steps since each delta channel was last stored; a channel without
    a count is stored at the head itself, or is not a delta channel.
    """
    missing = set(json.loads(head.metadata).get("counters_since_delta_snapshot") or {})
    needed = {head.checkpoint_id}
    if not missing:
        return needed
    c = schema.values.c
    stored_query = select(c.channel, c.version).where(
        c.thread_id == head.thread_id, c.checkpoint_ns == head.checkpoint_ns, c.channel.in_(missing)
    )
    stored = {(row.channel, row.version) for row in connection.execute(stored_query)}
    for row in ancestors(schema, connection, make_config(*head[:3])):
        needed.add(row.checkpoint_id)
        missing -= {channel for channel, _ in _versions(serde, row) & stored}
        if not missing:
            break
    return needed


def _versions(serde: SerializerProtocol, row: Any) -> set[tuple[str, str]]:
    """The channels of a checkpoint, each with its version."""
    checkpoint, _ = decode_body(serde, row)
    return {(channel, version_key(version)) for channel, version in checkpoint["channel_versions"].items()}


def _keep_only(
    schema: Schema, serde: SerializerProtocol, connection: Connection, rows: Sequence[Any], keep: set[str]
) -> None:
    """Delete a namespace's other checkpoints, their writes, and values no kept checkpoint refers to."""
    doomed = [row for row in rows if row.checkpoint_id not in keep]
    if not doomed:
        return
    thread_id, checkpoint_ns = doomed[0].thread_id, doomed[0].checkpoint_ns
    here = {"b_thread": thread_id, "b_ns": checkpoint_ns}
    keys = [{**here, "b_id": row.checkpoint_id} for row in doomed]
    for table in (schema.writes, schema.checkpoints):
        connection.execute(_in_namespace(table).where(table.c.checkpoint_id == bindparam("b_id")), keys)
    kept = [(thread_id, checkpoint_ns, row.checkpoint_id) for row in rows if row.checkpoint_id in keep]
    names = ("thread_id", "checkpoint_ns", "checkpoint_id")
    kept_rows = sqlite.rows_by_key(connection, schema.checkpoints, names, kept)
    used = set[tuple[str, str]]().union(*(_versions(serde, row) for row in kept_rows))
    c = schema.values.c
    stored = select(c.channel, c.version).where(c.thread_id == thread_id, c.checkpoint_ns == checkpoint_ns)
    unused = [
        {**here, "b_channel": row.channel, "b_version": row.version}
        for row in connection.execute(stored)
        if (row.channel, row.version) not in used
    ]
    if unused:
        one = (c.channel == bindparam("b_channel"), c.version == bindparam("b_version"))
        connection.execute(_in_namespace(schema.values).where(*one), unused)
    _forget_parents(schema, connection, here, {row.checkpoint_id for row in doomed})


def _in_namespace(table: Table) -> Any:
    return delete(table).where(table.c.thread_id == bindparam("b_thread"), table.c.checkpoint_ns == bindparam("b_ns"))


def _forget_parents(schema: Schema, connection: Connection, here: dict[str, str], deleted: set[str]) -> None:
    """A checkpoint whose parent is gone becomes a root: its ``parent_config`` must not lead nowhere."""
    table = schema.checkpoints
    statement = (
        update(table)
        .where(
            table.c.thread_id == bindparam("b_thread"),
            table.c.checkpoint_ns == bindparam("b_ns"),
            table.c.parent_id == bindparam("b_id"),
        )
        .values(parent_id=None)
    )
    connection.execute(statement, [{**here, "b_id": checkpoint_id} for checkpoint_id in deleted])
