"""The saver: LangGraph's checkpointer interface, sync and async, over one database."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from checkpoints import history, upkeep
from checkpoints.codec import encode_checkpoint, encode_writes, make_config
from checkpoints.database import Database
from checkpoints.leases import Leasing
from checkpoints.reader import Reader, Search

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        DeltaChannelHistory,
    )
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from sqlalchemy import URL

    from checkpoints.sqlite import Synchronous
    from checkpoints.writer import Call, Rows


class SQLAlchemySaver(Leasing, BaseCheckpointSaver[str]):
    """A LangGraph checkpointer that stores in SQL, each channel value once per version.

    Sync and async methods are two faces of the same code and may be used at once, from any number of
    threads and event loops. A method that writes returns when its rows are committed. Writes are committed
    in the order in which they were asked for, many of them in one transaction.

    Opening does nothing to the database: the first use creates the tables. Close the saver with `close`,
    `aclose` or a ``with`` block; one that nobody closes is closed when it is collected or the interpreter
    leaves.

    Args:
        url: An SQLAlchemy URL such as ``"sqlite:///runs.db"``. ``"sqlite://"`` or ``":memory:"`` is a
            database in memory, which its users take in turn and which is gone when the saver is closed.
        serde: Turns values into bytes. The default builds only types on LangGraph's list of safe ones, and
            never unpickles; add types of your own with `with_allowlist`.
        prefix: What the names of the tables begin with.
        synchronous: ``"FULL"``: what is committed survives a power cut. ``"NORMAL"``: it survives a crash of
            the process; a power cut may take the last commits.
        busy_timeout: Seconds to wait for another process that is writing to the same file, before each of
            three attempts.
        max_queued: Writes that wait for the next transaction; callers beyond it stand in line.

    Raises:
        UnsupportedDatabase: The URL is not one of SQLite.
        ValueError: The prefix can't begin a table name.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        serde: SerializerProtocol | None = None,
        prefix: str = "orchestra_",
        synchronous: Synchronous = "FULL",
        busy_timeout: float = 10.0,
        max_queued: int = 5000,
    ) -> None:
        super().__init__(serde=serde or JsonPlusSerializer(allowed_msgpack_modules=None))
        # Shared with the clones that `with_allowlist` makes of this saver.
        self._database = Database(
            url, prefix=prefix, synchronous=synchronous, busy_timeout=busy_timeout, max_queued=max_queued
        )

    def close(self) -> None:
        """Commit all that is queued and close the database, for clones of this saver too."""
        self._database.close()

    async def aclose(self) -> None:
        """`close` without blocking the event loop."""
        await self._database.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._database.url!r})"

    # Reading

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint a config points to, or the newest of its thread and namespace, if there is one."""
        return self._database.read(partial(self._reader.get, config=config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """`get_tuple` without blocking the event loop."""
        return await self._database.aread(partial(self._reader.get, config=config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, newest first; nothing is locked while the caller works on one.

        Args:
            config: Where to look; None for all threads. Without a ``checkpoint_ns``, in all namespaces.
            filter: What the metadata must hold; the value None also matches a missing key.
            before: Only checkpoints older than the one this config names.
            limit: How many at most.
        """
        search = Search(self._database.schema, self.serde, config, filter_=filter, before=before, limit=limit)
        while not search.done:
            yield from self._database.read(search.page)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """`list` without blocking the event loop."""
        search = Search(self._database.schema, self.serde, config, filter_=filter, before=before, limit=limit)
        while not search.done:
            for found in await self._database.aread(search.page):
                yield found

    def heads(self, limit: int | None = None, thread_id: str | None = None) -> Sequence[CheckpointTuple]:
        """The newest checkpoint of each thread's root namespace, newest thread first.

        Args:
            limit: How many threads at most.
            thread_id: Only this thread.
        """
        return self._database.read(partial(self._reader.heads, limit=limit, thread_id=thread_id))

    async def aheads(self, limit: int | None = None, thread_id: str | None = None) -> Sequence[CheckpointTuple]:
        """`heads` without blocking the event loop."""
        return await self._database.aread(partial(self._reader.heads, limit=limit, thread_id=thread_id))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Each channel's nearest stored value among a checkpoint's ancestors, and the writes since."""
        return self._database.read(self._history(config, channels)) if channels else {}

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """`get_delta_channel_history` without blocking the event loop."""
        return await self._database.aread(self._history(config, channels)) if channels else {}

    # Writing. Values are turned into bytes at once, before the first await: the caller may change them
    # afterwards.

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint, whose parent the config names, and its values that have new versions.

        Raises:
            WriteFailed: It could not be committed.
            SaverClosed: The saver is closed.
        """
        rows, stored = self._put(config, checkpoint, metadata, new_versions)
        self._database.write(rows)
        return stored

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """`put` without blocking the event loop. Of a cancelled call all is stored or nothing."""
        rows, stored = self._put(config, checkpoint, metadata, new_versions)
        await self._database.awrite(rows)
        return stored

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what one task wrote. Only errors, interrupts and resumes replace what is stored.

        Raises:
            WriteFailed: It could not be committed.
            SaverClosed: The saver is closed.
        """
        if writes:
            self._database.write(self._put_writes(config, writes, task_id, task_path))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """`put_writes` without blocking the event loop. Of a cancelled call all is stored or nothing."""
        if writes:
            await self._database.awrite(self._put_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """Delete all checkpoints, writes and values of a thread."""
        self._database.write(self._delete_thread(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """`delete_thread` without blocking the event loop."""
        await self._database.awrite(self._delete_thread(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete what runs stored, in all threads, by the ``run_id`` in the metadata.

        A delta channel of a later checkpoint that is rebuilt from these runs' writes loses them.
        """
        self._database.write(self._delete_for_runs(run_ids))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """`delete_for_runs` without blocking the event loop."""
        await self._database.awrite(self._delete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread with its whole history.

        Raises:
            ThreadExists: The target has checkpoints.
        """
        self._database.write(self._copy_thread(source_thread_id, target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """`copy_thread` without blocking the event loop."""
        await self._database.awrite(self._copy_thread(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete the past of threads, one transaction a thread.

        Args:
            thread_ids: The threads.
            strategy: ``"keep_latest"`` keeps the newest checkpoint of each namespace, and the older ones that
                its delta channels are rebuilt from; these serve nothing else, and what else their own
                delta channels would need may be gone. ``"delete"`` keeps nothing.

        Raises:
            ValueError: Another strategy.
        """
        for work in self._prune(thread_ids, strategy):
            self._database.write(work)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """`prune` without blocking the event loop."""
        for work in self._prune(thread_ids, strategy):
            await self._database.awrite(work)

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002 - LangGraph's
        """A version that sorts after the current one.

        Two branches of a fork count on from the same version; the random part keeps their values apart.
        """
        count = 0 if current is None else int(str(current).split(".", maxsplit=1)[0])
        return f"{count + 1:010}.{random.getrandbits(48):012x}"

    # The one implementation behind both faces: what to do, ready to be handed to the database.

    @property
    def _reader(self) -> Reader:
        return Reader(self._database.schema, self.serde)

    def _history(self, config: RunnableConfig, channels: Sequence[str]) -> Any:
        return partial(history.delta_history, self._database.schema, self.serde, config, channels)

    def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> tuple[Rows, RunnableConfig]:
        schema = self._database.schema
        row, values = encode_checkpoint(self.serde, config, checkpoint, metadata, new_versions)
        stored = make_config(row["thread_id"], row["checkpoint_ns"], row["checkpoint_id"])
        rows: list[Any] = [(schema.put_value, values)] if values else []
        return [*rows, (schema.put_checkpoint, [row])], stored

    def _put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> Rows:
        schema = self._database.schema
        rows, replace = encode_writes(self.serde, config, writes, task_id, task_path)
        return [(schema.put_write if replace else schema.add_write, rows)]

    def _delete_thread(self, thread_id: str) -> Call:
        return partial(upkeep.delete_thread, self._database.schema, str(thread_id))

    def _delete_for_runs(self, run_ids: Sequence[str]) -> Call:
        return partial(upkeep.delete_for_runs, self._database.schema, self.serde, [str(run) for run in run_ids])

    def _copy_thread(self, source: str, target: str) -> Call:
        return partial(upkeep.copy_thread, self._database.schema, str(source), str(target))

    def _prune(self, thread_ids: Sequence[str], strategy: str) -> Sequence[Call]:
        if strategy == "delete":
            return [self._delete_thread(thread_id) for thread_id in thread_ids]
        if strategy != "keep_latest":
            raise ValueError(f"prune strategy {strategy!r}: use 'keep_latest' or 'delete'")
        schema = self._database.schema
        return [partial(upkeep.prune_thread, schema, self.serde, str(thread_id)) for thread_id in thread_ids]
