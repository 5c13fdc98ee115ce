"""How checkpoints, metadata and writes become rows, and rows become them again."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any, cast

import zstandard
from langgraph.checkpoint.base import WRITES_IDX_MAP, get_serializable_checkpoint_metadata

from checkpoints.errors import CorruptCheckpoint, UnreadableType
from checkpoints.frames import LARGEST_VALUE, Value
from checkpoints.rows import Damaged, check_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, PendingWrite
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from checkpoints.dialects import Row
    from checkpoints.rows import Sealer
    from checkpoints.schema import Schema

_COMPRESS_FROM = 4096  # bytes; below, zstd takes longer than the database needs for what it saves
_INLINE = 64  # characters
_ZSTD = "zstd:"  # before the serializer's name for the bytes


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


def dump_json(value: Any) -> str:
    """The one JSON text, in ASCII, that stands for a value: rows are searched for parts of it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


class StoredCheckpoint:
    """A row of the checkpoints table, opened.

    Attributes:
        row: The row.
        checkpoint: The checkpoint, without the values that have a row of their own.
        metadata: The metadata as it was given to ``put``.
        versions: Of each channel whose value has a row of its own: its version.
    """

    __slots__ = ("checkpoint", "metadata", "row", "versions")

    def __init__(self, row: Any, checkpoint: Checkpoint, metadata: CheckpointMetadata, without: Sequence[str]) -> None:
        self.row = row
        self.checkpoint = checkpoint
        self.metadata = metadata
        absent = set(without)
        self.versions = {
            channel: version_key(version)
            for channel, version in checkpoint["channel_versions"].items()
            if channel not in absent and channel not in checkpoint["channel_values"]
        }

    def only(self, channels: frozenset[str]) -> StoredCheckpoint:
        """The same, without the values of other channels that have a row of their own."""
        self.versions = {channel: version for channel, version in self.versions.items() if channel in channels}
        return self


class Codec:
    """Makes rows and reads them, with one serializer.

    Args:
        schema: The tables the rows are for.
        sealer: What seals the rows.
        serde: What turns values into bytes.
    """

    def __init__(self, schema: Schema, sealer: Sealer, serde: SerializerProtocol) -> None:
        self.schema = schema
        self.sealer = sealer
        self.serde = serde
        self._key = schema.dialect.key

    def checkpoint_row(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> tuple[Row, list[Value]]:
        """One row for a checkpoint, and the values of its channels that are new.

        Values are stored once per version, so a value whose version is not new is there already. A value that takes
        less room than a row of its own would, or has no version to be found by, stays in the checkpoint.
        """
        thread_id, checkpoint_ns, parent_id = address(config)
        checkpoint_id = check_key("checkpoint_id", checkpoint["id"])
        values = checkpoint["channel_values"]
        versions = checkpoint["channel_versions"]
        new = [
            self._value(thread_id, checkpoint_ns, channel, version, values[channel])
            for channel, version in new_versions.items()
            if channel in values and not _is_small(values[channel])
        ]
        loose = {channel: value for channel, value in values.items() if channel not in versions or _is_small(value)}
        without = [channel for channel in versions if channel not in values]
        described = dict(get_serializable_checkpoint_metadata(config, metadata))
        run_id = None if described.get("run_id") is None else str(described["run_id"])
        encryption = self.sealer.encryption
        plain = {name: value for name, value in described.items() if is_json(value)} if encryption is None else {}
        odd = {name: value for name, value in described.items() if name not in plain}
        if run_id is not None:
            run_id = check_key("run_id", run_id) if encryption is None else encryption.blind(run_id)[0]
        kind, body = self._pack([{**checkpoint, "channel_values": loose}, odd, without])
        text = dump_json(plain)
        created = time.time_ns() // 1_000_000
        columns = (thread_id, checkpoint_ns, checkpoint_id, parent_id, run_id, created, text)
        proof, stored = self.sealer.seal("checkpoints", columns, kind, body)
        row = (*self._keys(thread_id, checkpoint_ns, checkpoint_id, parent_id, run_id), created, *proof, text, stored)
        return row, new

    def open_checkpoint(self, row: Any) -> StoredCheckpoint:
        """The checkpoint of a row.

        Raises:
            CorruptCheckpoint: It is not as it was stored.
            UnreadableType: It holds a type that can't be built.
        """
        try:
            columns = (*row[:6], row.metadata)
            body = self.sealer.open("checkpoints", columns, row, row.body)
            checkpoint, odd, without = self._unpack(row.type, body)
            metadata = cast("CheckpointMetadata", {**json.loads(row.metadata), **odd})
            return StoredCheckpoint(row, checkpoint, metadata, without)
        except Damaged as error:
            raise corrupt(row, None, str(error)) from error
        except UnreadableType as error:
            raise _located(error, row[:3], "the metadata") from error
        except Exception as error:
            reason = f"it is not what a checkpoint looks like ({type(error).__name__}: {error})"
            raise corrupt(row, None, reason) from error

    def as_root(self, row: Any) -> Row:
        """The row of a checkpoint whose parent was deleted.

        Raises:
            CorruptCheckpoint: It is not as it was stored.
        """
        thread_id, checkpoint_ns, checkpoint_id, _, run_id, created = row[:6]
        try:
            columns = (*row[:6], row.metadata)
            body = self.sealer.open("checkpoints", columns, row, row.body)
        except Damaged as error:
            raise corrupt(row, None, str(error)) from error
        columns = (thread_id, checkpoint_ns, checkpoint_id, None, run_id, created, row.metadata)
        proof, stored = self.sealer.seal("checkpoints", columns, row.type, body)
        keys = self._keys(thread_id, checkpoint_ns, checkpoint_id, None, run_id)
        return (*keys, created, *proof, row.metadata, stored)

    def write_rows(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> tuple[list[Row], bool]:
        """The rows of one task's writes, and whether they replace what is stored.

        Errors, interrupts and resumes may change; an ordinary write is stored once and stays.
        """
        thread_id, checkpoint_ns, checkpoint_id = address(config)
        if checkpoint_id is None:
            raise ValueError(
                f"put_writes on thread {thread_id!r}: the config names no checkpoint_id to attach writes to"
            )
        check_key("task_id", task_id)
        check_key("task_path", task_path)
        start = self._keys(thread_id, checkpoint_ns, checkpoint_id, task_id)
        rows: list[Row] = []
        for position, (channel, value) in enumerate(writes):
            kind, content = self._pack(value)
            idx = WRITES_IDX_MAP.get(channel, position)
            check_key("channel", channel)
            columns = (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel)
            proof, stored = self.sealer.seal("writes", columns, kind, content)
            rows.append((*start, idx, *self._keys(task_path, channel), *proof, stored))
        return rows, all(channel in WRITES_IDX_MAP for channel, _ in writes)

    def open_write(self, row: Any) -> PendingWrite:
        """A row of the writes table as LangGraph wants it.

        Raises:
            CorruptCheckpoint: It is not as it was stored.
            UnreadableType: It is of a type that can't be built.
        """
        return self.load_write(row, self.write_content(row))

    def write_content(self, row: Any) -> bytes:
        """The bytes of a row of the writes table.

        Raises:
            CorruptCheckpoint: It is not as it was stored.
        """
        try:
            return self.sealer.open("writes", tuple(row[:7]), row, row.value)
        except Damaged as error:
            raise corrupt(row, row.channel, f"a pending write of it: {error}") from error

    def load_write(self, row: Any, content: bytes) -> PendingWrite:
        """The write that these bytes of a row are.

        Raises:
            CorruptCheckpoint: The serializer can't read it.
            UnreadableType: It is of a type that can't be built.
        """
        try:
            return row.task_id, row.channel, self._unpack(row.type, content)
        except Damaged as error:
            raise corrupt(row, row.channel, f"a pending write of it: {error}") from error
        except UnreadableType as error:
            raise _located(error, row[:3], f"channel {row.channel!r}") from error

    def load(self, value: Value, checkpoint_id: str) -> Any:
        """A channel's value from its bytes.

        Raises:
            CorruptCheckpoint: The serializer can't read it.
            UnreadableType: It is of a type that can't be built.
        """
        try:
            return self._loads(value.type, value.content)
        except Damaged as error:
            where = (value.thread_id, value.checkpoint_ns, checkpoint_id)
            raise CorruptCheckpoint(*where, channel=value.channel, reason=str(error)) from error
        except UnreadableType as error:
            where = (value.thread_id, value.checkpoint_ns, checkpoint_id)
            raise _located(error, where, f"channel {value.channel!r}") from error

    def _value(self, thread_id: str, checkpoint_ns: str, channel: str, version: str | float, value: Any) -> Value:
        key = check_key("version", version_key(version))
        kind, content = self.serde.dumps_typed(value)
        return Value(thread_id, checkpoint_ns, check_key("channel", channel), key, kind, bytes(content))

    def _keys(self, *texts: str | None) -> tuple[Any, ...]:
        key = self._key
        return tuple([None if text is None else key(text) for text in texts])

    def _pack(self, value: Any) -> tuple[str, bytes]:
        kind, content = self.serde.dumps_typed(value)
        if len(content) >= _COMPRESS_FROM:
            packed = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(content)
            if len(packed) < len(content):
                return _ZSTD + kind, packed
        return kind, bytes(content)

    def _unpack(self, kind: str, content: bytes) -> Any:
        if kind.startswith(_ZSTD):
            try:
                if zstandard.get_frame_parameters(content).content_size > LARGEST_VALUE:
                    raise Damaged("its frame says that it is larger than anything that can be stored")
                content = zstandard.ZstdDecompressor().decompress(content)
            except zstandard.ZstdError as error:
                raise Damaged(f"it can't be unpacked ({error})") from error
        return self._loads(kind.removeprefix(_ZSTD), content)

    def _loads(self, kind: str, content: bytes) -> Any:
        try:
            return self.serde.loads_typed((kind, content))
        except UnreadableType:
            raise
        except Exception as error:
            raise Damaged(f"the serializer can't read it ({type(error).__name__}: {error})") from error


def _is_small(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= _INLINE)


def address(config: RunnableConfig) -> tuple[str, str, str | None]:
    """The thread, the namespace and (if any) the checkpoint that a config points to.

    Raises:
        ValueError: The config names no thread.
        InvalidKey: One of them can't be stored.
    """
    configurable = config.get("configurable", {})
    if "thread_id" not in configurable:
        raise ValueError('the config names no thread: pass {"configurable": {"thread_id": "..."}}')
    checkpoint_id = configurable.get("checkpoint_id")
    return (
        check_key("thread_id", str(configurable["thread_id"])),
        check_key("checkpoint_ns", configurable.get("checkpoint_ns") or ""),
        None if checkpoint_id is None else check_key("checkpoint_id", str(checkpoint_id)),
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


def corrupt(row: Any, channel: str | None, reason: str) -> CorruptCheckpoint:
    """The error that names the checkpoint that a row is, or belongs to."""
    return CorruptCheckpoint(row.thread_id, row.checkpoint_ns, row.checkpoint_id, channel, reason)


def _located(error: UnreadableType, where: Sequence[str], what: str) -> UnreadableType:
    thread_id, checkpoint_ns, checkpoint_id = where
    return UnreadableType(
        error.type_name,
        f"thread {thread_id!r}, namespace {checkpoint_ns!r}, checkpoint {checkpoint_id!r}, {what}: {error}",
    )
