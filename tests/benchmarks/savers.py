"""What a checkpoint saver costs: ours beside LangGraph's own, on the same machine, in the same process.

    python tests/benchmarks/savers.py [--quick] [--only memory|latency|added|bytes|reads]

Tables: memory over rounds of 256 concurrent runs; latency of `aput` and how long it blocks the event loop; time that a
saver adds to a superstep; bytes on disk; time to read, copy and prune a thread of 1,000 steps. The contenders take
turns in every round, each on a fresh file or database that is warmed up first. A cell is the median of the rounds, with
the lowest and the highest in brackets. Long runs are made once, and serve several tables.

PostgreSQL is the server that ORCHESTRA_TEST_POSTGRES names, or one on this machine, or one started for this. Files are
in the default temporary folder (TMPDIR): put it on the disk that is meant. --quick has shorter runs, and judges only
the targets that it can. The exit code is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import servers
from tests.benchmarks.savers_workloads import (
    CONTENDERS,
    LIST,
    NOTHING,
    OURS_FULL,
    OURS_POSTGRES,
    OURS_SMALL,
    SHAPES,
    THEIRS_POOL,
    THEIRS_POSTGRES,
    THEIRS_SQLITE,
    Contender,
    Long,
    Loop,
    copy_and_prune,
    fresh,
    idle_gap,
    long_run,
    loop_seconds,
    percentile,
    put_latencies,
    read_cold,
    read_latest,
    read_page,
    resident,
    session,
    stalls,
    tens,
    unblock,
)

_PATIENCE = 60  # seconds for one call of 100 MB


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        added: Durability, concurrent runs and rounds.
        steps: Of each of these runs.
        marks: Steps of the long runs at which the bytes are counted; the last is how long they are.
        rounds: Of everything else.
        calls: Of `aput` by one caller in a round.
        huge: Strings of 500 bytes in the large state.
        memory: Concurrent runs, and rounds, of the memory table.
    """

    added: Sequence[tuple[str, int, int]] = (
        ("async", 1, 7),
        ("async", 32, 4),
        ("async", 256, 2),
        ("sync", 1, 7),
        ("sync", 32, 2),
    )
    steps: int = 40
    marks: Sequence[int] = (100, 400, 1000)
    rounds: int = 4
    calls: int = 200
    huge: int = 200_000
    memory: tuple[int, int] = (256, 5)


QUICK = Size(
    added=(("async", 1, 1), ("async", 32, 1)), marks=(20, 60, 110), rounds=1, calls=40, huge=10_000, memory=(32, 3)
)


@dataclass
class Table:
    """Values by row and column, and what they are."""

    title: str
    says: str
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, row: str, column: str, value: float) -> None:
        self.values.setdefault((row, column), []).append(value)

    def median(self, row: str, column: str) -> float | None:
        values = self.values.get((row, column))
        return statistics.median(values) if values else None

    def cell(self, row: str, column: str) -> str:
        failed = self.failures.get((row, column))
        values = self.values.get((row, column))
        if failed or not values:
            return failed or "-"
        spread = f" ({short(min(values))}..{short(max(values))})" if len(values) > 1 else ""
        return short(statistics.median(values)) + spread

    def show(self) -> None:
        keys = dict.fromkeys([*self.values, *self.failures])
        columns = list(dict.fromkeys(column for _, column in keys))
        rows = [name for name in dict.fromkeys(row for row, _ in keys) if name]
        names = [one.name for one in CONTENDERS]
        rows.sort(key=lambda row: names.index(row) if row in names else -1)
        lines = [["", *columns], *([row, *(self.cell(row, column) for column in columns)] for row in rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
        print(f"\n{self.title}\n{self.says}")
        for line in lines:
            cells = [text.rjust(width) for text, width in zip(line, widths, strict=True)]
            print("  ".join([line[0].ljust(widths[0]), *cells[1:]]))
        sys.stdout.flush()


def short(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


@dataclass(frozen=True)
class Target:
    what: str
    measured: float | None
    limit: float
    judged: bool = True

    @property
    def missed(self) -> bool:
        return self.judged and self.measured is not None and self.measured > self.limit

    def line(self) -> str:
        measured = "not measured" if self.measured is None else f"{self.measured:.3f}"
        verdict = "-" if self.measured is None else "MISSED" if self.missed else "met" if self.judged else "not judged"
        return f"  {verdict:>10}   {measured:>12}  (at most {self.limit:.3f})   {self.what}"


class Bench:
    """Runs the tables and gathers the targets."""

    def __init__(self, size: Size, contenders: Sequence[Contender], stack: contextlib.AsyncExitStack) -> None:
        self.size = size
        self.contenders = contenders
        self.targets: list[Target] = []
        self._stack = stack
        self._lists: dict[str, Long] = {}

    def turns(self, count: int) -> Iterator[Contender]:
        """The contenders, `count` times, each time in another order."""
        for number in range(count):
            start = number * 3 % len(self.contenders)
            yield from self.contenders[start:]
            yield from self.contenders[:start]

    async def lists(self) -> dict[str, Long]:
        """A long run of a growing list by each contender, made once; the savers stay open."""
        if not self._lists:
            for one in self.contenders:
                self._lists[one.name] = await self._stack.enter_async_context(long_run(one, LIST, self.size.marks))
        return self._lists

    def ratio(
        self, table: Table, column: str, ours: Contender, theirs: Contender, limit: float, *, judged: bool = True
    ) -> None:
        """Ours must not be more than so many times theirs."""
        mine, other = table.median(ours.name, column), table.median(theirs.name, column)
        measured = None if mine is None or not other else max(mine, 0.0) / other if other > 0 else float("inf")
        what = f"{table.title} | {column}: {ours.name} / {theirs.name}"
        if {ours, theirs} <= set(self.contenders):
            self.targets.append(Target(what, measured, limit, judged))

    async def memory(self) -> None:
        runs, rounds = self.size.memory
        title = f"MEMORY: {runs} concurrent runs, {rounds} rounds, {OURS_SMALL.name}"
        table = Table(title, "Resident memory of this process after each round of new threads, in MB.")
        errors = 0
        async with session(OURS_SMALL) as saver:
            for number in range(rounds):
                loop = Loop(LIST, saver, self.size.steps)
                work = (loop.run(f"{number}-{i}", "async") for i in range(runs))
                outcomes = await asyncio.gather(*work, return_exceptions=True)
                errors += sum(isinstance(outcome, BaseException) for outcome in outcomes)
                table.add(OURS_SMALL.name, f"round {number + 1}", resident())
        table.show()
        after = [table.values[OURS_SMALL.name, f"round {n + 1}"][0] for n in range(rounds)]
        self.targets.append(Target(f"{table.title} | runs that failed", errors, 0))
        grown = max(after[2:]) / after[1] - 1
        self.targets.append(Target(f"{table.title} | growth after the second round", grown, 0.05, runs == 256))

    async def latency(self) -> None:
        puts = Table(
            "LATENCY: aput, milliseconds",
            "From the call of `aput` to its return, for a checkpoint with one new value of 500 bytes; 32 callers have "
            "a thread each.",
        )
        gaps = Table(
            "STALL: longest gap of the event loop, milliseconds",
            f"The longest time between two wake-ups of a coroutine that sleeps 1 ms, while one state is stored or read "
            f"(a list of strings of 500 bytes: 2,000 are 1 MB, {self.size.huge:,} {self.size.huge / 2000:,.0f}).",
        )
        for one in self.turns(self.size.rounds):
            if one is NOTHING:
                gaps.add("(idle event loop)", "aput 1 MB", await idle_gap())
                continue
            async with session(one) as saver:
                await put_latencies(saver, 1, 10)  # warm up
                for callers, calls in ((1, self.size.calls), (32, self.size.calls // 5)):
                    times = await put_latencies(saver, callers, calls)
                    for percent in (50, 99):
                        label = f"{callers} caller{'s' if callers > 1 else ''} p{percent}"
                        puts.add(one.name, label, percentile(times, percent))
                stored, read = await stalls(saver, 2000)
                gaps.add(one.name, "aput 1 MB", stored)
                gaps.add(one.name, "aget_tuple 1 MB", read)
        puts.show()
        await self._huge(gaps)
        gaps.show()

    async def _huge(self, gaps: Table) -> None:
        columns = [f"{method} {self.size.huge / 2000:,.0f} MB" for method in ("aput", "aget_tuple")]
        for one in self.contenders:
            if one is NOTHING:
                continue
            with fresh(one) as where:
                async with one.connect(where) as saver:
                    await put_latencies(saver, 1, 3)
                    try:
                        both = await asyncio.wait_for(stalls(saver, self.size.huge), _PATIENCE)
                    except TimeoutError:
                        unblock(one, where)
                        gaps.failures[one.name, columns[0]] = f"hung for {_PATIENCE} s"
                        self.targets.append(Target(f"{gaps.title} | {columns[0]}: {one.name} hangs", 1, 0))
                        continue
                for column, value in zip(columns, both, strict=True):
                    gaps.add(one.name, column, value)

    async def added(self) -> None:
        steps, last = self.size.steps, self.size.marks[-1]
        table = Table(
            "ADDED: milliseconds that a saver adds to one superstep of one run",
            f"(time with the saver - time without one) / (runs x {steps}), of loop graphs that append 500 bytes a "
            f"step, taken within each round; 'step {last:,}' is the last 50 gaps between steps of one run, in means of "
            "ten, durability sync, less the same without a saver.",
        )
        for durability, runs, rounds in self.size.added:
            column = f"{runs} run{'s' if runs > 1 else ''}, {durability}"
            seconds: dict[str, list[float]] = {}
            for one in self.turns(rounds):
                try:
                    seconds.setdefault(one.name, []).append(await loop_seconds(one, runs, steps, durability))
                except Exception as error:  # any contender's failure is a result
                    table.failures[one.name, column] = f"failed: {type(error).__name__}"
            for name, times in seconds.items():
                for mine, none in zip(times, seconds[NOTHING.name], strict=False):
                    table.add(name, column, 1000 * (mine if name == NOTHING.name else mine - none) / runs / steps)
        column = f"step {last:,}"
        lists = await self.lists()
        none = statistics.median(tens(lists[NOTHING.name].gaps))
        for name, long in lists.items():
            for mean in tens(long.gaps):
                table.add(name, column, mean if name == NOTHING.name else mean - none)
        table.says += " The row 'no saver' is the whole time of a superstep."
        table.show()
        self._added_targets(table, column)

    def _added_targets(self, table: Table, at_last: str) -> None:
        self.ratio(table, "32 runs, async", OURS_FULL, THEIRS_SQLITE, 1 / 5)
        self.ratio(table, "1 run, async", OURS_FULL, THEIRS_SQLITE, 1 / 2)
        self.ratio(table, at_last, OURS_FULL, THEIRS_SQLITE, 1 / 4, judged=self.size.marks[-1] == 1000)
        self.ratio(table, "32 runs, async", OURS_POSTGRES, THEIRS_POOL, 1 / 3)
        self.ratio(table, "1 run, async", OURS_POSTGRES, THEIRS_POOL, 1)

    async def bytes(self) -> None:
        judged = self.size.marks[-1] == 1000
        for shape in SHAPES:
            table = Table(
                f"BYTES: {shape.name}, kilobytes on disk",
                "One run of a loop graph, durability sync: the SQLite file after its log was moved into it, or all "
                "PostgreSQL tables with indexes and TOAST.",
            )
            for one in self.contenders:
                if one.place not in {"sqlite", "postgres"} or one.twin:
                    continue
                if shape is LIST:
                    sizes = (await self.lists())[one.name].sizes
                else:
                    async with long_run(one, shape, self.size.marks) as long:
                        sizes = long.sizes
                for mark, size in sizes.items():
                    table.add(one.name, f"{mark:,} steps", size / 1000)
            table.show()
            if shape is LIST:
                column = f"{self.size.marks[-1]:,} steps"
                self.ratio(table, column, OURS_FULL, THEIRS_SQLITE, 1 / 50, judged=judged)
                self.ratio(table, column, OURS_POSTGRES, THEIRS_POSTGRES, 1 / 50, judged=judged)

    async def reads(self) -> None:
        lists = await self.lists()
        table = Table(
            f"READS: a thread of {self.size.marks[-1]:,} steps (growing list), milliseconds",
            "aget_tuple of the newest checkpoint and alist(limit=100), by the saver that wrote it (warm) and as first "
            "such call of a newly opened one that did the same for another thread (cold); acopy_thread; "
            "aprune(keep_latest) of the copy, or of the thread where it can't be copied.",
        )
        for one in self.turns(2 * self.size.rounds):
            long = lists[one.name]
            if one is NOTHING:
                continue
            for column, read in (("get", read_latest), ("list 100", read_page)):
                table.add(one.name, f"{column}, warm", await read(long.saver))
                if one.place in {"sqlite", "postgres"}:
                    table.add(one.name, f"{column}, cold", await read_cold(long, read))
        for one in self.turns(1):
            for number in range(min(self.size.rounds, 3) if one is not NOTHING else 0):
                copied, pruned = await copy_and_prune(lists[one.name], f"copy{number}")
                for column, ms in (("copy", copied), ("prune", pruned)):
                    if ms is not None and (copied is not None or number == 0):
                        table.add(one.name, column, ms)
        table.show()
        judged = self.size.marks[-1] == 1000
        for column in ("get, warm", "get, cold"):
            self.ratio(table, column, OURS_FULL, THEIRS_SQLITE, 1, judged=judged)
            self.ratio(table, column, OURS_POSTGRES, THEIRS_POSTGRES, 1, judged=judged)


def describe(url: str | None) -> None:
    packages = ("langgraph", "langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres", "sqlalchemy", "psycopg")
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f} at the start")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages))
    print(
        f"SQLite {sqlite3.sqlite_version}, write-ahead log; AsyncSqliteSaver has SQLite's default, synchronous=FULL;",
        end=" ",
    )
    print(f"files in {tempfile.gettempdir()}")
    if url is None:
        print("No PostgreSQL here: its rows are left out")
        return
    with psycopg.connect(url) as connection:
        names = ("server_version", "fsync", "synchronous_commit")
        shown = [connection.execute(f"SHOW {name}").fetchone() for name in names]
    print("PostgreSQL " + ", ".join(f"{n} {v[0]}" for n, v in zip(names, shown, strict=True) if v))


@contextlib.contextmanager
def postgres() -> Iterator[str | None]:
    """A server for all of the run, and the URL of an empty database of it."""
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(servers.postgres())
        except (pytest.skip.Exception, RuntimeError):
            yield None
            return
        plain = make_url(url).set(drivername="postgresql+psycopg", database="postgres")
        os.environ.setdefault("ORCHESTRA_TEST_POSTGRES", plain.render_as_string(hide_password=False))
        yield url


async def run(only: Sequence[str], size: Size, contenders: Sequence[Contender]) -> list[Target]:
    async with contextlib.AsyncExitStack() as stack:
        bench = Bench(size, contenders, stack)
        for name in only:
            await getattr(bench, name)()
        return bench.targets


def main() -> int:
    tables = ("memory", "latency", "added", "bytes", "reads")  # memory first, while this process is small
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=tables)
    args = parser.parse_args()
    with postgres() as url:
        describe(url)
        contenders = [one for one in CONTENDERS if one.place != "postgres" or url is not None]
        only = [args.only] if args.only else tables
        targets = asyncio.run(run(only, QUICK if args.quick else Size(), contenders))
    print(f"\nTARGETS (load {os.getloadavg()[0]:.2f} at the end)")
    for target in targets:
        print(target.line())
    return int(any(target.missed for target in targets))


if __name__ == "__main__":
    sys.exit(main())
