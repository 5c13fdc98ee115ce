"""The contenders of savers.py and what each of them is made to do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import operator
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import psycopg
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from typing_extensions import TypedDict

from checkpoints import SQLAlchemySaver
from tests import servers

Open = contextlib.AbstractAsyncContextManager[Any]


@dataclass(frozen=True)
class Contender:
    """One row of the tables.

    Attributes:
        name: What the row is called.
        place: Where it stores: "", "memory", "sqlite" or "postgres".
        connect: Opens a saver, given a file's path or a database's URL.
        twin: The contender that stores the very same bytes, if that is another one.
    """

    name: str
    place: str
    connect: Callable[[str], Open]
    twin: str = ""


@contextlib.asynccontextmanager
async def _nothing(_: str) -> AsyncIterator[None]:
    yield None


@contextlib.asynccontextmanager
async def _in_memory(_: str) -> AsyncIterator[InMemorySaver]:
    yield InMemorySaver()


@contextlib.asynccontextmanager
async def _one_connection(url: str) -> AsyncIterator[AsyncPostgresSaver]:
    async with AsyncPostgresSaver.from_conn_string(url) as saver:
        await saver.setup()
        yield saver


@contextlib.asynccontextmanager
async def _with_pool(url: str) -> AsyncIterator[AsyncPostgresSaver]:
    settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(url, max_size=10, kwargs=settings, open=False) as pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        yield saver


NOTHING = Contender("no saver", "", _nothing)
OURS_FULL = Contender("ours, SQLite FULL", "sqlite", lambda path: SQLAlchemySaver(f"sqlite:///{path}"))
OURS_NORMAL = Contender(
    "ours, SQLite NORMAL",
    "sqlite",
    lambda path: SQLAlchemySaver(f"sqlite:///{path}", synchronous="NORMAL"),
    twin=OURS_FULL.name,
)
# What the saver remembers to make differences of is full in the first round: what grows then is a leak.
OURS_SMALL = Contender(
    "ours, SQLite FULL, memory=8 MB",
    "sqlite",
    lambda path: SQLAlchemySaver(f"sqlite:///{path}", memory=8 << 20),
    twin=OURS_FULL.name,
)
IN_MEMORY = Contender("InMemorySaver", "memory", _in_memory)
THEIRS_SQLITE = Contender("AsyncSqliteSaver", "sqlite", AsyncSqliteSaver.from_conn_string)
OURS_POSTGRES = Contender("ours, PostgreSQL", "postgres", SQLAlchemySaver)
THEIRS_POSTGRES = Contender("AsyncPostgresSaver, 1 conn.", "postgres", _one_connection)
THEIRS_POOL = Contender("AsyncPostgresSaver, pool 10", "postgres", _with_pool, twin=THEIRS_POSTGRES.name)

CONTENDERS = (
    OURS_FULL,
    OURS_NORMAL,
    THEIRS_SQLITE,
    OURS_POSTGRES,
    THEIRS_POSTGRES,
    THEIRS_POOL,
    IN_MEMORY,
    NOTHING,
)


@contextlib.contextmanager
def fresh(contender: Contender) -> Iterator[str]:
    """A place that nothing was stored in; it is deleted afterwards."""
    if contender.place == "sqlite":
        with tempfile.TemporaryDirectory(prefix="savers-") as folder:
            yield str(Path(folder) / "bench.db")
    elif contender.place == "postgres":
        with servers.postgres() as url:
            yield url
    else:
        yield ""


@contextlib.asynccontextmanager
async def session(contender: Contender) -> AsyncIterator[Any]:
    """A saver on a fresh place."""
    with fresh(contender) as where:
        async with contender.connect(where) as saver:
            yield saver


def text500() -> str:
    """500 characters that hold 375 random bytes: no compressor makes much less of them."""
    return base64.b64encode(random.randbytes(375)).decode()


# Graphs


def extend(state: list[str] | None, writes: Sequence[list[str]]) -> list[str]:
    return [*(state or []), *(text for write in writes for text in write)]


def merge(state: dict[str, str] | None, write: dict[str, str]) -> dict[str, str]:
    return {**(state or {}), **write}


class GrowingList(TypedDict):
    items: Annotated[list[str], operator.add]


class GrowingDict(TypedDict):
    items: Annotated[dict[str, str], merge]


class LargeDocument(TypedDict):
    document: str
    count: Annotated[int, operator.add]


class DeltaList(TypedDict):
    items: Annotated[list[str], DeltaChannel(extend)]


@dataclass(frozen=True)
class Shape:
    """A state, how a step changes it, and how many steps it went through."""

    name: str
    schema: Any
    first: Callable[[], dict[str, Any]]
    again: Callable[[], dict[str, Any]]
    step: Callable[[Any], dict[str, Any]]
    count: Callable[[Any], int]


def _items(name: str, schema: Any, empty: Any, step: Callable[[Any], Any]) -> Shape:
    def start() -> dict[str, Any]:
        return {"items": empty}

    return Shape(name, schema, start, start, lambda s: {"items": step(s["items"])}, lambda s: len(s["items"]))


LIST = _items("growing list", GrowingList, [], lambda _: [text500()])
DICT = _items("growing dict", GrowingDict, {}, lambda items: {f"k{len(items):06}": text500()})
DELTA = _items("DeltaChannel list", DeltaList, [], lambda _: [text500()])
DOCUMENT = Shape(
    "constant document",
    LargeDocument,
    lambda: {"document": "".join(text500() for _ in range(400)), "count": 0},
    lambda: {"count": 0},
    lambda _: {"count": 1},
    lambda s: s["count"],
)
SHAPES = (LIST, DICT, DOCUMENT, DELTA)


class Loop:
    """A graph of one async node that runs again until the state went through `goal` steps."""

    def __init__(self, shape: Shape, saver: Any, goal: int) -> None:
        self.goal = goal
        self.stamps: list[float] = []
        self._shape = shape
        self._saver = saver

        async def work(state: Any) -> dict[str, Any]:
            self.stamps.append(time.perf_counter())
            return shape.step(state)

        graph = StateGraph(shape.schema)
        graph.add_node("work", work)
        graph.add_edge(START, "work")
        graph.add_conditional_edges("work", lambda s: END if shape.count(s) >= self.goal else "work", ["work", END])
        self._graph = graph.compile(checkpointer=saver)

    async def run(self, thread_id: str, durability: Any, *, again: bool = False) -> None:
        start = self._shape.again() if again else self._shape.first()
        config: Any = {"configurable": {"thread_id": thread_id}, "recursion_limit": 100_000}
        state = await self._graph.ainvoke(start, config, **({"durability": durability} if self._saver else {}))
        assert self._shape.count(state) == self.goal


async def loop_seconds(contender: Contender, runs: int, steps: int, durability: str) -> float:
    """How long so many concurrent runs take, on a fresh place that was warmed up with one short run.

    A single run is over so soon that it is the median of five, one after the other.
    """
    times: list[float] = []
    async with session(contender) as saver:
        await Loop(LIST, saver, 3).run("warm", durability)
        loop = Loop(LIST, saver, steps)
        for number in range(5 if runs == 1 else 1):
            gc.collect()
            began = time.perf_counter()
            await asyncio.gather(*(loop.run(f"run{number}-{i}", durability) for i in range(runs)))
            times.append(time.perf_counter() - began)
    return statistics.median(times)


# One long run


@dataclass
class Long:
    """One run of many steps that is over, and the saver that stored it, still open.

    Attributes:
        contender: Who stored it.
        where: The file or database.
        saver: The saver.
        gaps: Seconds from each step to the next of the last part.
        sizes: Bytes on disk, by steps.
    """

    contender: Contender
    where: str
    saver: Any
    gaps: list[float] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def long_run(contender: Contender, shape: Shape, marks: Sequence[int]) -> AsyncIterator[Long]:
    """Run as far as each of the marks in turn. Without a saver there is nothing to go on from: one run."""
    with fresh(contender) as where:
        async with contender.connect(where) as saver:
            long = Long(contender, where, saver)
            await Loop(LIST, saver, 3).run("warm", "sync")
            for number, mark in enumerate(marks if saver is not None else marks[-1:]):
                loop = Loop(shape, saver, mark)
                await loop.run("long", "sync", again=number > 0)
                long.gaps = [later - sooner for sooner, later in zip(loop.stamps, loop.stamps[1:], strict=False)]
                long.sizes[mark] = stored_bytes(contender, where)
            yield long


def stored_bytes(contender: Contender, where: str) -> int:
    """Bytes on disk while nobody writes: a SQLite file with its log moved into it, or all tables with their indexes."""
    if contender.place == "sqlite":
        with contextlib.closing(sqlite3.connect(where, timeout=10)) as connection:
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy
        return Path(where).stat().st_size
    if contender.place == "postgres":
        with psycopg.connect(where) as connection:
            sizes = connection.execute("SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables").fetchone()
        return int(sizes[0]) if sizes else 0
    return 0


# Single calls


def _config(thread_id: str) -> Any:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}


class Thread:
    """Stores one checkpoint after the other, without a graph."""

    def __init__(self, saver: Any, thread_id: str) -> None:
        self._saver = saver
        self._config = _config(thread_id)
        self._version: Any = None
        self._step = -1

    def put(self, value: Any) -> Awaitable[Any]:
        """Store a state of one channel that has this value; only its `aput` is in the coroutine."""
        self._version = self._saver.get_next_version(self._version, None)
        self._step += 1
        versions = {"items": self._version}
        checkpoint = {**empty_checkpoint(), "channel_values": {"items": value}, "channel_versions": versions}
        metadata: Any = {"source": "loop", "step": self._step, "parents": {}}
        return self._saver.aput(self._config, checkpoint, metadata, versions)

    async def call(self) -> float:
        """Milliseconds that one `aput` of a small state takes."""
        storing = self.put([text500()])
        began = time.perf_counter()
        self._config = await storing
        return (time.perf_counter() - began) * 1000


async def put_latencies(saver: Any, callers: int, calls: int) -> list[float]:
    """Milliseconds of each `aput`, with so many callers at once on a thread each."""

    async def caller() -> list[float]:
        thread = Thread(saver, f"put{random.getrandbits(60)}")
        return [await thread.call() for _ in range(calls)]

    gc.collect()
    return [ms for part in await asyncio.gather(*(caller() for _ in range(callers))) for ms in part]


class Ticker:
    """Wakes up every millisecond, and notes the longest time between two wake-ups."""

    async def __aenter__(self) -> Self:
        self.longest = 0.0
        self._task = asyncio.create_task(self._tick())
        await asyncio.sleep(0.005)
        self.longest = 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.005)  # it must wake up once more to see the last gap
        self._task.cancel()

    async def _tick(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last)
            last = now


async def stalls(saver: Any, strings: int) -> tuple[float, float]:
    """The longest gap in milliseconds while a state of so many strings is stored, and while it is read."""
    value = [text500() for _ in range(strings)]
    name = f"stall{random.getrandbits(60)}"
    storing = Thread(saver, name).put(value)
    gc.collect()
    async with Ticker() as put:
        await storing
    async with Ticker() as get:
        found = await saver.aget_tuple(_config(name))
    assert found.checkpoint["channel_values"]["items"] == value
    return put.longest * 1000, get.longest * 1000


def unblock(contender: Contender, where: str) -> None:
    """End the sessions of a saver that hangs, so that it can be closed."""
    if contender.place == "postgres":
        with psycopg.connect(where) as connection:
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")


async def idle_gap() -> float:
    """What the ticker sees in 200 ms of nothing."""
    async with Ticker() as ticker:
        await asyncio.sleep(0.2)
    return ticker.longest * 1000


# Reading back, pruning, copying


async def read_latest(saver: Any, thread_id: str = "long") -> float:
    """Milliseconds of one `aget_tuple`."""
    began = time.perf_counter()
    found = await saver.aget_tuple(_config(thread_id))
    ms = (time.perf_counter() - began) * 1000
    assert found is not None
    return ms


async def read_page(saver: Any, thread_id: str = "long") -> float:
    """Milliseconds to go through `alist(limit=100)`."""
    began = time.perf_counter()
    found = [one.checkpoint["id"] async for one in saver.alist(_config(thread_id), limit=100)]
    ms = (time.perf_counter() - began) * 1000
    assert thread_id == "warm" or len(found) == 100
    return ms


async def read_cold(long: Long, read: Callable[..., Awaitable[float]]) -> float:
    """The first such call for the long thread by a newly opened saver, after one for another thread."""
    async with long.contender.connect(long.where) as saver:
        await read(saver, "warm")
        gc.collect()
        return await read(saver)


async def copy_and_prune(long: Long, target: str) -> tuple[float | None, float | None]:
    """Milliseconds to copy the thread, and to prune the copy (or else the thread): None where it can't be done."""
    copied = await _timed(lambda: long.saver.acopy_thread("long", target))
    thread = "long" if copied is None else target
    return copied, await _timed(lambda: long.saver.aprune([thread], strategy="keep_latest"))


async def _timed(call: Callable[[], Awaitable[Any]]) -> float | None:
    gc.collect()
    began = time.perf_counter()
    try:
        await call()
    except NotImplementedError:
        return None
    return (time.perf_counter() - began) * 1000


def resident() -> float:
    """Megabytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def tens(gaps: Sequence[float]) -> list[float]:
    """Milliseconds, as the means of each ten of the last fifty."""
    last = gaps[-50:]
    return [1000 * statistics.mean(last[i : i + 10]) for i in range(0, len(last), 10)]


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
