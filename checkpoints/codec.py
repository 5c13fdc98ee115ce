"""How checkpoints, metadata and values become rows, and rows become them again."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, cast

from langgraph.checkpoint.base import WRITES_IDX_MAP, get_serializable_checkpoint_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata
    from langgraph.checkpoint.serde.base import SerializerProtocol

Row = dict[str, Any]


def version_key(version: str | float) -> str:
    """A channel version as it stands in a key."""
    return version if isinstance(version, str) else str(version)


def is_json(value: Any) -> bool:
    """Whether JSON gives the value back as it was (a tuple counts: every serializer here makes it a list)."""
    match value:
        case None | bool() | int() | str():
            return True
        case float():
            return math.isfinite(value)
        case list() | tuple():
            return all(is_json(item) for item in cast("Sequence[Any]", value))
        case dict():
            items = cast("dict[Any, Any]", value).items()
            return all(isinstance(key, str) and is_json(item) for key, item in items)
        case _:
            return False


def encode_value(serde: SerializerProtocol, value: Any) -> Row:
    """The columns that hold one value."""
    kind, data = serde.dumps_typed(value)
    return {"type": kind, "value": bytes(data)}


def encode_checkpoint(
    serde: SerializerProtocol,
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    new_versions: ChannelVersions,
) -> tuple[Row, list[Row]]:
    """One checkpoint row, and a row for each channel value that is new.

    Values are stored once per version, so a value whose version is not new is there already. A value
    without any version has no row of its own to live in and stays in the checkpoint.
    """
    thread_id, checkpoint_ns, parent_id = address(config)
    values = checkpoint["channel_values"]
    versions = checkpoint["channel_versions"]
    key = {"thread_id": thread_id, "checkpoint_ns": checkpoint_ns}
    value_rows = [
        {**key, "channel": channel, "version": version_key(version), **encode_value(serde, values[channel])}
        for channel, version in new_versions.items()
        if channel in values
    ]
    loose = {channel: value for channel, value in values.items() if channel not in versions}
    described = dict(get_serializable_checkpoint_metadata(config, metadata))
    odd = {name: value for name, value in described.items() if not is_json(value)}
    plain = {name: value for name, value in described.items() if name not in odd}
    kind, body = serde.dumps_typed([{**checkpoint, "channel_values": loose}, odd])
    run_id = plain.get("run_id")
    row = {
        **key,
        "checkpoint_id": checkpoint["id"],
        "parent_id": parent_id,
        "run_id": None if run_id is None else str(run_id),
        "metadata": json.dumps(plain, sort_keys=True, separators=(",", ":")),
        "type": kind,
        "body": bytes(body),
    }
    return row, value_rows


def decode_body(serde: SerializerProtocol, row: Any) -> tuple[Checkpoint, dict[str, Any]]:
    """A checkpoint without the values stored beside it, and the metadata that JSON can't hold."""
    checkpoint, odd = serde.loads_typed((row.type, row.body))
    return checkpoint, odd


def decode_metadata(row: Any, odd: Mapping[str, Any]) -> CheckpointMetadata:
    """The metadata as it was given to ``put``."""
    return cast("CheckpointMetadata", {**json.loads(row.metadata), **odd})


def encode_writes(
    serde: SerializerProtocol,
    config: RunnableConfig,
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    task_path: str,
) -> tuple[list[Row], bool]:
    """The rows of one task's writes, and whether they replace what is stored.

    Errors, interrupts and resumes may change; an ordinary write is stored once and stays.
    """
    thread_id, checkpoint_ns, checkpoint_id = address(config)
    if checkpoint_id is None:
        raise ValueError(f"put_writes on thread {thread_id!r}: the config names no checkpoint_id to attach writes to")
    rows = [
        {
            "thread_id": thread_id,
            "checkpoint_ns": checkpoint_ns,
            "checkpoint_id": checkpoint_id,
            "task_id": task_id,
            "idx": WRITES_IDX_MAP.get(channel, position),
            "task_path": task_path,
            "channel": channel,
            **encode_value(serde, value),
        }
        for position, (channel, value) in enumerate(writes)
    ]
    return rows, all(channel in WRITES_IDX_MAP for channel, _ in writes)


def address(config: RunnableConfig) -> tuple[str, str, str | None]:
    """The thread, the namespace and (if any) the checkpoint that a config points to.

    Raises:
        ValueError: The config names no thread.
    """
    configurable = config.get("configurable", {})
    if "thread_id" not in configurable:
        raise ValueError('the config names no thread: pass {"configurable": {"thread_id": "..."}}')
    checkpoint_id = configurable.get("checkpoint_id")
    return (
        str(configurable["thread_id"]),
        configurable.get("checkpoint_ns") or "",
        None if checkpoint_id is None else str(checkpoint_id),
    )


def make_config(thread_id: str, checkpoint_ns: str, checkpoint_id: str) -> RunnableConfig:
    """The config that points to one checkpoint."""
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": checkpoint_ns,
            "checkpoint_id": checkpoint_id,
        }
    }
