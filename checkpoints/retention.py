"""Keeping a database small: what is too old, too much or long unused is deleted, a bounded batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from checkpoints.codec import make_config
from checkpoints.history import ancestors
from checkpoints.upkeep import delete_checkpoints, delete_thread, delete_unused_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

    from checkpoints.codec import Codec

_CHECKPOINTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Keep:
    """Which checkpoints of a namespace are kept: its newest always, and those that all of these allow.

    Attributes:
        newest: At most so many.
        since: Only those stored since then, in milliseconds since 1970 (UTC).
    """

    newest: int | None = None
    since: int | None = None

    def choose(self, rows: Sequence[Any]) -> set[str]:
        """The ids to keep of rows that are sorted, oldest first."""
        kept = rows if self.newest is None else rows[-self.newest :]
        return {rows[-1].checkpoint_id} | {
            row.checkpoint_id for row in kept if self.since is None or row.created >= self.since
        }


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was deleted.

    Attributes:
        threads: How many threads, with all they had.
        checkpoints: How many checkpoints of threads that remain.
    """

    threads: int = 0
    checkpoints: int = 0

    def __add__(self, other: Pruned) -> Pruned:
        return Pruned(self.threads + other.threads, self.checkpoints + other.checkpoints)


def prune_thread(codec: Codec, thread_id: str, keep: Keep, connection: Connection) -> tuple[int, bool]:
    """Delete some of what is not to be kept; return how many checkpoints, and whether there is more to delete.

    What is kept is worked out anew each time, so that a run may go on between two batches.
    """
    doomed = _doomed(codec, connection, thread_id, keep)
    if doomed:
        delete_checkpoints(codec, connection, doomed[:_CHECKPOINTS_AT_ONCE])
        return len(doomed[:_CHECKPOINTS_AT_ONCE]), True
    v = codec.schema.values.c
    namespaces = connection.scalars(select(v.checkpoint_ns).where(v.thread_id == thread_id).distinct()).all()
    more = [delete_unused_values(codec, connection, thread_id, ns) for ns in namespaces]
    return 0, any(more)


def idle_threads(codec: Codec, before: int, connection: Connection) -> Sequence[str]:
    """The threads whose last checkpoint was stored before then (milliseconds since 1970, UTC)."""
    c = codec.schema.checkpoints.c
    return connection.scalars(select(c.thread_id).group_by(c.thread_id).having(func.max(c.created) < before)).all()


def delete_idle(codec: Codec, thread_id: str, before: int, connection: Connection) -> bool:
    """Delete a thread unless it has changed since; return whether it was deleted."""
    c = codec.schema.checkpoints.c
    changed = connection.scalar(select(func.max(c.created)).where(c.thread_id == thread_id))
    if changed is None or changed >= before:
        return False
    delete_thread(codec, thread_id, connection)
    return True


def all_threads(codec: Codec, connection: Connection) -> Sequence[str]:
    """The threads that have checkpoints."""
    c = codec.schema.checkpoints.c
    return connection.scalars(select(c.thread_id).distinct()).all()


def _doomed(codec: Codec, connection: Connection, thread_id: str, keep: Keep) -> list[Any]:
    """The checkpoints to delete, the oldest of each namespace first.

    A namespace that belongs to one call of a subgraph goes when the checkpoint that made the call goes:
    nothing can resume it any more.
    """
    c = codec.schema.checkpoints.c
    query = select(c.thread_id, c.checkpoint_ns, c.checkpoint_id, c.parent_id, c.created)
    rows: dict[str, list[Any]] = {}
    for row in connection.execute(query.where(c.thread_id == thread_id).order_by(c.checkpoint_id)):
        rows.setdefault(row.checkpoint_ns, []).append(row)
    saved = {(ns, row.checkpoint_id) for ns in rows for row in rows[ns]}
    kept: set[tuple[str, str]] = set()
    doomed: list[Any] = []
    for ns in sorted(rows, key=lambda ns: ns.count("|") + bool(ns)):  # callers before those they call
        head = _metadata(codec, connection, rows[ns][-1])
        abandoned = _is_one_call(ns) and (set(_callers(head, ns)) & saved) - kept
        keeping = set[str]() if abandoned else _with_ancestors(codec, connection, rows[ns], keep.choose(rows[ns]))
        kept |= {(ns, checkpoint_id) for checkpoint_id in keeping}
        doomed += [row for row in rows[ns] if row.checkpoint_id not in keeping]
    return doomed


def _is_one_call(checkpoint_ns: str) -> bool:
    # "name:task" is one call of a subgraph, "name" a subgraph with a memory of its own across calls.
    return ":" in checkpoint_ns


def _callers(metadata: dict[str, Any], checkpoint_ns: str) -> Iterable[tuple[str, str]]:
    parents: dict[str, str] = metadata.get("parents") or {}
    return ((ns, checkpoint_id) for ns, checkpoint_id in parents.items() if ns != checkpoint_ns)


def _metadata(codec: Codec, connection: Connection, row: Any) -> dict[str, Any]:
    table = codec.schema.checkpoints
    thread_id, checkpoint_ns, checkpoint_id = row[:3]
    here = (table.c.thread_id == thread_id, table.c.checkpoint_ns == checkpoint_ns)
    found = connection.execute(select(table).where(*here, table.c.checkpoint_id == checkpoint_id)).one()
    return dict(codec.open_checkpoint(found).metadata)


def _with_ancestors(codec: Codec, connection: Connection, rows: Sequence[Any], chosen: set[str]) -> set[str]:
    """The chosen ones, and the ancestors that their delta channels are rebuilt from."""
    needed = set(chosen)
    for row in rows:
        if row.checkpoint_id in chosen and row.parent_id is not None and row.parent_id not in chosen:
            needed |= _rebuilt_from(codec, connection, row)
    return needed


def _rebuilt_from(codec: Codec, connection: Connection, row: Any) -> set[str]:
    """A checkpoint's ancestors, back to one at which every delta channel has been seen stored.

    LangGraph counts, in the metadata, the steps since each delta channel was last stored; a channel without
    a count is stored at the checkpoint itself, or is not a delta channel.
    """
    missing = set(_metadata(codec, connection, row).get("counters_since_delta_snapshot") or {})
    needed: set[str] = set()
    if missing:
        for ancestor in ancestors(codec.schema, connection, make_config(*row[:3])):
            needed.add(ancestor.checkpoint_id)
            missing -= codec.open_checkpoint(ancestor).versions.keys()
            if not missing:
                break
    return needed
