"""The past of delta channels: the writes since the nearest stored value, along one line of ancestors.

A delta channel's value is stored now and then only; between, LangGraph rebuilds it from the writes. The
line of ancestors follows parent links, so what another branch of a fork wrote does not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, literal, select

from checkpoints.codec import address
from checkpoints.errors import CorruptCheckpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import DeltaChannelHistory
    from sqlalchemy import Connection

    from checkpoints.reader import Reader
    from checkpoints.schema import Schema

# LangGraph's default is a stored value at every hundredth update: most walks take one or two steps.
_FIRST_STRIDE, _LONGEST_STRIDE = 64, 1024


def delta_history(
    reader: Reader, config: RunnableConfig, channels: Sequence[str], connection: Connection
) -> Mapping[str, DeltaChannelHistory]:
    """What ``get_delta_channel_history`` returns.

    Raises:
        CorruptCheckpoint: A value or a write is not as it was stored.
    """
    codec = reader.codec
    line: dict[str, set[str]] = {}  # ancestor -> the channels whose writes there count, nearest ancestor first
    seeds: dict[str, tuple[Any, str]] = {}  # channel -> the row and the version of its nearest stored value
    histories: dict[str, DeltaChannelHistory] = {channel: {"writes": []} for channel in channels}
    remaining = set(channels)
    for row in ancestors(codec.schema, connection, config):
        line[row.checkpoint_id] = set(remaining)  # also where the value is stored: it was stored before these writes
        stored = codec.open_checkpoint(row)
        for channel in remaining & stored.versions.keys():
            seeds[channel] = (row, stored.versions[channel])
        for channel in remaining & stored.checkpoint["channel_values"].keys():
            histories[channel]["seed"] = stored.checkpoint["channel_values"][channel]
        remaining -= stored.versions.keys() | stored.checkpoint["channel_values"].keys()
        if not remaining:
            break
    writes = _writes(codec.schema, connection, config, line)
    for checkpoint_id, counting in reversed(line.items()):
        for row in writes.get(checkpoint_id, []):
            content = codec.write_content(row)  # of all: a damaged name of a channel may have been one of these
            if row.channel in counting:
                histories[row.channel]["writes"].append(codec.load_write(row, content))
    values = reader.values(connection, ((row, {channel: version}) for channel, (row, version) in seeds.items()))
    for channel, (row, version) in seeds.items():
        histories[channel]["seed"] = reader.value(values, row, channel, version)
    return histories


def ancestors(schema: Schema, connection: Connection, config: RunnableConfig) -> Iterator[Any]:
    """Rows of the checkpoints table: parent, grandparent and so on, fetched in growing strides."""
    thread_id, checkpoint_ns, checkpoint_id = address(config)
    table = schema.checkpoints
    here = (table.c.thread_id == thread_id, table.c.checkpoint_ns == checkpoint_ns)
    start = select(table.c.parent_id).where(*here)
    if checkpoint_id:
        start = start.where(table.c.checkpoint_id == checkpoint_id)
    next_id = connection.scalar(start.order_by(table.c.checkpoint_id.desc()).limit(1))
    stride = _FIRST_STRIDE
    while next_id is not None:
        first = select(table.c.checkpoint_id, table.c.parent_id, literal(1).label("distance"))
        line = first.where(*here, table.c.checkpoint_id == next_id).cte("line", recursive=True)
        line = line.union_all(
            select(table.c.checkpoint_id, table.c.parent_id, line.c.distance + 1).where(
                *here, table.c.checkpoint_id == line.c.parent_id, line.c.distance < stride
            )
        )
        joined = select(table).join(line, and_(*here, table.c.checkpoint_id == line.c.checkpoint_id))
        rows = connection.execute(joined.order_by(line.c.distance)).all()
        if not rows:
            reason = "it is not stored any more, and later ones are rebuilt from it"
            raise CorruptCheckpoint(thread_id, checkpoint_ns, next_id, None, reason)
        yield from rows
        next_id = rows[-1].parent_id
        stride = min(stride * 4, _LONGEST_STRIDE)


def _writes(
    schema: Schema,
    connection: Connection,
    config: RunnableConfig,
    line: Mapping[str, set[str]],
) -> dict[str, list[Any]]:
    """The writes at each ancestor, in LangGraph's `writes_sort_key` order."""
    thread_id, checkpoint_ns, _ = address(config)
    c = schema.writes.c
    found: dict[str, list[Any]] = {}
    ids = list(line)
    for start in range(0, len(ids), _LONGEST_STRIDE):
        query = select(schema.writes).where(
            c.thread_id == thread_id,
            c.checkpoint_ns == checkpoint_ns,
            c.checkpoint_id.in_(ids[start : start + _LONGEST_STRIDE]),
        )
        for row in connection.execute(query.order_by(c.task_path, c.task_id, c.idx)):
            found.setdefault(row.checkpoint_id, []).append(row)
    return found
