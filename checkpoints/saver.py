"""The saver: LangGraph's checkpointer interface, sync and async, over one database."""

from __future__ import annotations

import copy
import random
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from checkpoints import history, upkeep
from checkpoints.codec import Codec, address, make_config
from checkpoints.database import Database, Options
from checkpoints.keeping import Keeping
from checkpoints.leases import Leasing
from checkpoints.reader import Heads, Reader, Search
from checkpoints.serializer import StrictSerializer
from checkpoints.writer import Rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Generator, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self, Unpack

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        DeltaChannelHistory,
    )
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from sqlalchemy import URL

    from checkpoints.database import Step
    from checkpoints.dialects import Synchronous
    from checkpoints.encryption import Encryption
    from checkpoints.leases import Lease
    from checkpoints.writer import Call, Fence


class Wanted(TypedDict, total=False):
    """Which heads are wanted; see `SQLAlchemySaver.heads`."""

    limit: int | None
    thread_id: str | None
    filter: Mapping[str, Any]
    before: CheckpointTuple | None
    nested: bool
    written: str | None
    channels: Collection[str] | None


def _heads(wanted: Wanted) -> Heads:
    last = wanted.get("before")
    where = last.config.get("configurable", {}) if last else {}
    return Heads(
        limit=wanted.get("limit"),
        thread_id=wanted.get("thread_id"),
        filter=wanted.get("filter") or {},
        before=(where["checkpoint_id"], where["thread_id"]) if last else None,
        nested=wanted.get("nested", False),
        written=wanted.get("written"),
        channels=frozenset(channels) if (channels := wanted.get("channels")) is not None else None,
    )


class SQLAlchemySaver(Leasing, Keeping, BaseCheckpointSaver[str]):
    """A LangGraph checkpointer that stores in SQLite, PostgreSQL, MariaDB or MySQL.

    Sync and async methods are two faces of the same code and may be used at once, from any number of
    threads and event loops. A method that writes returns when its rows are committed. Writes are committed
    in the order in which they were asked for, many of them in one transaction. A value is stored once per
    version, as its difference to an earlier one where that is shorter.

    Opening does nothing to the database: the first use creates the tables. Close the saver with `close`,
    `aclose` or a ``with`` block; one that nobody closes is closed when it is collected or the interpreter
    leaves.

    Args:
        url: An SQLAlchemy URL: ``"sqlite:///runs.db"``, ``"postgresql://user@host/database"``,
            ``"mysql://user@host/database"``. ``"sqlite://"`` or ``":memory:"`` is a database in memory, which
            its users take in turn and which is gone when the saver is closed.
        allowed_types: Types of your own that may be built from what is stored, besides LangGraph's list of
            safe ones. Nothing is ever unpickled.
        renamed_types: Where types are now that were stored under another name:
            ``{"old.module:OldName": NewType}``.
        serde: Another serializer, instead of the one that the two above are about.
        encryption: Keys to encrypt all that is stored with, but for ids and names of channels and nodes.
        fall_back: Whether a thread whose newest checkpoint is damaged goes on from the newest readable one
            before it (and a warning is logged), or is an error.
        prefix: What the names of the tables begin with.
        schema: The schema they are in (in MySQL and MariaDB: the database), made if it is not there.
        synchronous: SQLite only. ``"FULL"``: what is committed survives a power cut. ``"NORMAL"``: it survives
            a crash of the process; a power cut may take the last commits.
        timeout: Seconds to keep trying while the database is locked by another process, restarting or out of
            reach.
        max_queued: Writes that wait for the next transaction; callers beyond it stand in line.
        memory: Bytes of recent values that are remembered, to store the next ones as differences.

    Raises:
        UnsupportedDatabase: The URL names a database or driver that can't be used.
        ValueError: The prefix or schema can't be part of a name; or types are given with a serializer.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        allowed_types: Iterable[type] = (),
        renamed_types: Mapping[str, type] | None = None,
        serde: SerializerProtocol | None = None,
        encryption: Encryption | None = None,
        fall_back: bool = False,
        prefix: str = "orchestra_",
        schema: str | None = None,
        synchronous: Synchronous = "FULL",
        timeout: float = 10.0,
        max_queued: int = 5000,
        memory: int = 64 << 20,
    ) -> None:
        allowed = tuple(allowed_types)
        if serde is not None and (allowed or renamed_types):
            raise ValueError("allowed_types and renamed_types are for the default serializer: set them on yours")
        super().__init__(serde=serde or StrictSerializer(allowed, renamed_types))
        # Shared with the clones that `with_allowlist` and `fenced` make of this saver.
        self._database = Database(
            url,
            Options(
                prefix=prefix,
                schema=schema,
                encryption=encryption,
                synchronous=synchronous,
                timeout=timeout,
                max_queued=max_queued,
                memory=memory,
            ),
        )
        self._fall_back = fall_back
        self._fence: Fence | None = None

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
        return f"{type(self).__name__}({self._database.place!r})"

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
            filter: What the metadata must hold; the value None also matches a missing key. The database sorts out
                what does not match, so a checkpoint whose metadata is damaged may be passed over.
            before: Only checkpoints older than the one this config names.
            limit: How many at most.
        """
        search = Search(self._reader, config, filter_=filter, before=before, limit=limit)
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
        search = Search(self._reader, config, filter_=filter, before=before, limit=limit)
        while not search.done:
            for found in await self._database.aread(search.page):
                yield found

    def heads(self, **wanted: Unpack[Wanted]) -> Sequence[CheckpointTuple]:
        """The newest checkpoint of each thread's root namespace, newest thread first.

        Args:
            wanted: ``limit``, how many at most; ``thread_id``, only this thread; ``filter``, what their metadata must
                hold; ``before``, the head (as it was returned) after which the list goes on; ``nested=True`` for the
                namespaces below the root one instead; ``written``, only those among whose writes there is one of this
                channel; ``channels``, only the values and writes of these.
        """
        return self._database.read(partial(self._reader.heads, wanted=_heads(wanted)))

    async def aheads(self, **wanted: Unpack[Wanted]) -> Sequence[CheckpointTuple]:
        """`heads` without blocking the event loop."""
        return await self._database.aread(partial(self._reader.heads, wanted=_heads(wanted)))

    def steps(
        self, thread_id: str, *, channels: Collection[str] | None = None, lenient: bool = False
    ) -> Iterator[CheckpointTuple]:
        """The checkpoints of a thread's root namespace, newest first, for looking at them.

        Args:
            thread_id: The thread.
            channels: Only the values and writes of these channels.
            lenient: Whether values of types that can't be built are left out, instead of raising.
        """
        search = self._steps(thread_id, channels, lenient=lenient)
        while not search.done:
            yield from self._database.read(search.page)

    async def asteps(
        self, thread_id: str, *, channels: Collection[str] | None = None, lenient: bool = False
    ) -> AsyncIterator[CheckpointTuple]:
        """`steps` without blocking the event loop."""
        search = self._steps(thread_id, channels, lenient=lenient)
        while not search.done:
            for found in await self._database.aread(search.page):
                yield found

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Each channel's nearest stored value among a checkpoint's ancestors, and the writes since."""
        return self._database.snapshot(self._history(config, channels)) if channels else {}

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """`get_delta_channel_history` without blocking the event loop."""
        return await self._database.asnapshot(self._history(config, channels)) if channels else {}

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
        self._database.frames.forget([str(thread_id)])  # a program that seeds `random` makes the same versions again

    async def adelete_thread(self, thread_id: str) -> None:
        """`delete_thread` without blocking the event loop."""
        await self._database.awrite(self._delete_thread(thread_id))
        self._database.frames.forget([str(thread_id)])

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete what runs stored, in all threads, by the ``run_id`` in the metadata.

        A delta channel of a later checkpoint that is rebuilt from these runs' writes loses them.
        """
        while self._database.write(self._delete_for_runs(run_ids)):
            pass

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """`delete_for_runs` without blocking the event loop."""
        while await self._database.awrite(self._delete_for_runs(run_ids)):
            pass

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread with its whole history.

        Raises:
            ThreadExists: The target has checkpoints.
        """
        self._database.run(self._copy_thread(str(source_thread_id), str(target_thread_id)))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """`copy_thread` without blocking the event loop."""
        await self._database.arun(self._copy_thread(str(source_thread_id), str(target_thread_id)))

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002 - LangGraph's
        """A version that sorts after the current one.

        Two branches of a fork count on from the same version; the random part keeps their values apart.
        """
        count = 0 if current is None else int(str(current).split(".", maxsplit=1)[0])
        return f"{count + 1:010}.{random.getrandbits(48):012x}"

    def fenced(self, lease: Lease) -> Self:
        """This saver, for the owner of a lease: it writes only while the lease is in force.

        The lease is checked in the transaction of each write, and can't be taken over before that is committed.
        A process that was stopped, lost its lease and goes on can't write into what its successor does.

        Args:
            lease: From `acquire_lease`.

        Raises:
            Fenced: From the methods that write, when another owner has had the thread since, or it was released.
        """
        clone = copy.copy(self)
        clone._fence = (lease.thread_id, lease.owner, lease.epoch)  # noqa: SLF001 - it is one of us
        return clone

    # The one implementation behind both faces: what to do, ready to be handed to the database.

    @property
    def _codec(self) -> Codec:
        return Codec(self._database.schema, self._database.sealer, self.serde)

    @property
    def _reader(self) -> Reader:
        return Reader(self._codec, self._database.frames, fall_back=self._fall_back)

    def _steps(self, thread_id: str, channels: Collection[str] | None, *, lenient: bool) -> Search:
        reader = Reader(self._codec, self._database.frames, fall_back=self._fall_back, lenient=lenient)
        wanted = None if channels is None else frozenset(channels)
        return Search(reader, {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}, channels=wanted)

    def _history(self, config: RunnableConfig, channels: Sequence[str]) -> Any:
        return partial(history.delta_history, self._reader, config, channels)

    def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> tuple[Rows, RunnableConfig]:
        row, values = self._codec.checkpoint_row(config, checkpoint, metadata, new_versions)
        thread_id, checkpoint_ns, _ = address(config)
        statement = self._database.schema.put_checkpoint
        return Rows([(statement, [row])], values, self._fence), make_config(thread_id, checkpoint_ns, checkpoint["id"])

    def _put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> Rows:
        schema = self._database.schema
        rows, replace = self._codec.write_rows(config, writes, task_id, task_path)
        return Rows([(schema.put_write if replace else schema.add_write, rows)], fence=self._fence)

    def _delete_thread(self, thread_id: str) -> Call:
        return partial(upkeep.delete_thread, self._codec, str(thread_id))

    def _delete_for_runs(self, run_ids: Sequence[str]) -> Call:
        return partial(upkeep.delete_for_runs, self._codec, [str(run) for run in run_ids])

    def _copy_thread(self, source: str, target: str) -> Generator[Step, Any, None]:
        copied = yield "snapshot", partial(upkeep.rows_for_copy, self._codec, source, target)
        yield "write", upkeep.Paste(self._codec, source, target, copied)
