"""Fork and "again from X" under kill: real processes, killed with SIGKILL while they fork a thread or run the branch.

A thread is brought to its end, or stopped half-way. A process forks it in a random way and is killed: while it forks,
as soon as a checkpoint of the branch is there, or after a random number of its agents' starts and ends. A new process
resumes the branch, or, if nothing of it is stored, forks again. Then

- every row that the old branch had in the database is there, byte for byte;
- every result of the new branch is what a reference, which does not know the product, computes;
- no task ran again whose result was kept, or was stored on the new branch at the moment of the kill;
- no agent had started before the fork was stored.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from checkpoints import SQLAlchemySaver
from orchestra import History, Orchestra, RunInfo, RunState
from tests.fault import fork_program
from tests.fault.fork_program import SIZE, THREAD
from tests.fault.nursery import Child, nursery

PROGRAM = "from tests.fault.fork_program import main\nmain(*argv)"
TABLES = ("orchestra_checkpoints", "orchestra_values", "orchestra_writes")

Rows = dict[str, set[tuple[Any, ...]]]


@dataclass
class Told:
    """What all kills have shown."""

    not_forked: int = 0
    bare: int = 0
    half_way: int = 0
    late: int = 0
    kept: int = 0
    stored: int = 0
    repeated: int = 0
    rows: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Way:
    """A way to fork, and what should come of it."""

    how: dict[str, Any]
    kept: frozenset[str]
    results: Mapping[str, str]

    @property
    def edits(self) -> Mapping[str, str]:
        """What a person puts in place of outputs."""
        return self.how.get("results", {})

    @property
    def again(self) -> set[str]:
        """What is to run, and nothing else."""
        return {task for task in self.results if task not in self.kept and task not in self.edits}


def rows(path: Path) -> Rows:
    connection = sqlite3.connect(path)
    try:
        return {table: set(connection.execute(f"SELECT * FROM {table}")) for table in TABLES}
    finally:
        connection.close()


def look(database: str) -> tuple[RunInfo, History]:
    async def read() -> tuple[RunInfo, History]:
        async with Orchestra(database) as orchestra:
            return await orchestra.info(THREAD), await orchestra.history(THREAD)

    return asyncio.run(read())


def with_dependants(needs: Mapping[str, list[str]], changed: Iterable[str], held: Iterable[str] = ()) -> set[str]:
    """Some tasks and all that depends on them, but for what is held and for what depends on them through that alone."""
    found = set(changed)
    for task, wanted in needs.items():  # in order
        if task not in held and found & set(wanted):
            found.add(task)
    return found


def expected(needs: Mapping[str, list[str]], kept: Iterable[str], edits: Mapping[str, str]) -> dict[str, str]:
    first: dict[str, str] = {}
    for task, wanted in needs.items():
        first[task] = fork_program.output(task, "first", {need: first[need] for need in wanted})
    second: dict[str, str] = {}
    for task, wanted in needs.items():
        rerun = fork_program.output(task, "second", {need: second[need] for need in wanted})
        second[task] = edits[task] if task in edits else first[task] if task in kept else rerun
    return second


def choose(chance: random.Random, needs: Mapping[str, list[str]], history: History) -> Way:
    """A random way to fork."""
    settled, edits, changed = set(history[-1].settled), dict[str, str](), set[str]()
    how: dict[str, Any] = {}
    if chance.random() < 0.5 or len(settled) < SIZE:
        moment = chance.choice([moment for moment in history if len(moment.settled) < SIZE])
        how["at"], settled = moment.number, set(moment.settled)
        assert all(set(needs[task]) <= settled for task in settled)
    if "at" not in how or (chance.random() < 0.5 and history[how["at"]].what != "asked"):  # there it has no plan yet
        kind = chance.choice(("again", "results", "both"))
        if kind != "again":
            needed = sorted({need for wanted in needs.values() for need in wanted})
            edits = {task: f"edited {chance.random()}" for task in chance.sample(needed, chance.randint(1, 2))}
            how["results"] = edits
        if kind != "results":
            changed = set(chance.sample(sorted(set(needs) - set(edits)), chance.randint(1, 2)))
            how["again"] = sorted(changed)
    lost = with_dependants(needs, changed | set(edits), edits)
    kept = frozenset(settled - lost - set(edits))
    return Way(how, kept, expected(needs, kept, edits))


def starts(log: Path) -> Counter[str]:
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.removeprefix("start ") for line in lines if line.startswith("start "))


def wait(process: Child, true: Callable[[], bool], pause: float) -> None:
    """Return when something is so, or the process has ended."""
    deadline = time.monotonic() + 30
    while not true() and process.poll() is None:
        assert time.monotonic() < deadline, process.output
        time.sleep(pause)


@dataclass
class Trial:
    """A thread that was brought to its end, or stopped, and a way to fork it."""

    folder: Path
    seed: int
    way: Way = field(init=False)
    past: History = field(init=False)
    before: Rows = field(init=False)
    forked: bool = False
    """Whether the branch was there when the process was killed."""
    stored: set[str] = field(default_factory=set)
    """The tasks with a result on the branch when the process was killed."""
    began: Counter[str] = field(default_factory=Counter)
    """How often each agent had been started by then."""
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.path = self.folder / "runs.db"
        self.database = f"sqlite:///{self.path}"
        self.chance = random.Random(self.seed + 1)
        stop_at = self.chance.choice((SIZE, SIZE, self.chance.randint(1, SIZE - 2)))
        asyncio.run(fork_program.begin(self.database, self.folder / "log0", self.seed, stop_at))
        _, self.past = look(self.database)
        self.way = choose(self.chance, fork_program.random_needs(self.seed), self.past)
        self.before = rows(self.path)

    def start(self, life: int) -> tuple[Child, Path]:
        log = self.folder / f"log{life}"
        given = (self.database, log, self.seed, json.dumps(self.way.how))
        return nursery().start(PROGRAM, *given, out=self.folder / f"out{life}"), log

    def kill(self, when: str) -> None:
        """Start a process and kill it at a random moment."""
        process, log = self.start(1)

        def lines() -> int:
            return log.read_text().count("\n") if log.exists() else 0

        wait(process, lambda: lines() > 0, 0.0005)  # "ready"
        if when == "while it forks":
            time.sleep(self.chance.uniform(0, 0.03))
        elif when == "at its first checkpoint":
            connection = sqlite3.connect(self.path)
            count, deadline = "SELECT count(*) FROM orchestra_checkpoints", time.monotonic() + 10
            while connection.execute(count).fetchone() == (len(self.before["orchestra_checkpoints"]),):
                assert time.monotonic() < deadline, process.output
            connection.close()
            time.sleep(self.chance.choice((0, 0, self.chance.uniform(0, 0.01))))
        else:
            some = self.chance.randint(1, 2 * len(self.way.again))
            wait(process, lambda: lines() > some, 0.0005)
            time.sleep(self.chance.uniform(0, 0.004))
        process.kill()
        self._look_at_what_is_left(process, log)

    def _look_at_what_is_left(self, process: Child, log: Path) -> None:
        if "Traceback" in process.output:
            self.wrong.append(process.output)
        info, history = look(self.database)
        self.forked = history.current > 1
        self.stored = set(info.raw) if self.forked else set()
        self.began = starts(log)
        if self.began and not self.forked:
            self.wrong.append(f"{sorted(self.began)} started before the branch was stored")
        if strays := set(self.began) - self.way.again:
            self.wrong.append(f"{sorted(strays)} ran, though not asked to")
        if self.forked and not self.stored >= self.way.kept:
            self.wrong.append(f"the branch was stored without {sorted(self.way.kept - self.stored)}")

    def go_on(self) -> set[str]:
        """Have a new process finish; return what ran again though it was stored."""
        process, log = self.start(2)
        if process.wait(60) != 0:
            self.wrong.append("it could not be gone on with: " + process.output.strip().splitlines()[-1])
        again = starts(log)
        repeated = set(again) & (self.stored | self.way.kept)
        if repeated:
            self.wrong.append(f"{sorted(repeated)} ran again")
        if strays := set(again) - self.way.again - repeated:
            self.wrong.append(f"{sorted(strays)} ran, though not asked to")
        if twice := [task for began in (self.began, again) for task, times in began.items() if times > 1]:
            self.wrong.append(f"{twice} ran twice in one process")
        return repeated

    def verify(self) -> None:
        """The old branch and the new one."""
        after, (info, history) = rows(self.path), look(self.database)
        changed = {table: len(self.before[table] - after[table]) for table in TABLES}
        if any(changed.values()):
            self.wrong.append(f"rows of the old branch were changed or deleted: {changed}")
        if history.moments[: len(self.past)] != self.past.moments or set(history.branches) != {1, 2}:
            self.wrong.append(f"the history was changed: {[moment.what for moment in history]}")
        results = {task: raw.get("output") for task, raw in info.raw.items()}
        if info.state is not RunState.DONE or results != self.way.results:
            odd = sorted(task for task in self.way.results if results.get(task) != self.way.results[task])
            self.wrong.append(f"{info.state}; wrong results: {odd}")
        if {task for task, raw in info.raw.items() if raw.get("edited")} != set(self.way.edits):
            self.wrong.append("the wrong results are marked as edited")
        with SQLAlchemySaver(self.database) as saver:
            self.wrong += [str(problem) for problem in saver.check()]


def one_kill(folder: Path, seed: int, when: str, told: Told) -> None:
    trial = Trial(folder, seed)
    trial.kill(when)
    told.repeated += len(trial.go_on())
    trial.verify()
    mine = trial.stored & trial.way.again
    told.not_forked += not trial.forked
    told.bare += trial.forked and not mine
    told.half_way += bool(mine) and mine != trial.way.again
    told.late += mine == trial.way.again
    told.kept += len(trial.way.kept)
    told.stored += len(mine)
    told.rows += sum(map(len, trial.before.values()))
    told.wrong += [f"seed {seed}, {when}, {trial.way.how}: {what}" for what in trial.wrong]


def campaign(folder: Path, kills: int, seed: int, *, progress: bool) -> None:
    told = Told()
    moments = ("amid its work", "at its first checkpoint", "amid its work", "while it forks")
    began = time.monotonic()
    for trial in range(kills):
        when = moments[trial % len(moments)]
        one_kill(folder / f"kill{trial}", seed + 2 * trial, when, told)
        if progress:
            seconds = time.monotonic() - began
            print(f"\r{trial + 1} of {kills} kills, {seconds / (trial + 1):.2f} s each ", end="", flush=True)
    print(
        f"\n{kills} kills of forks: {told.not_forked} before the branch was stored, {told.bare} before it had a result "
        f"of its own, {told.half_way} half-way, {told.late} after its last; {told.kept} results were kept and "
        f"{told.stored} stored on the new branches, {told.repeated} of them ran again; {told.rows} rows of the old "
        f"branches are byte-identical; {len(told.wrong)} things were wrong"
    )
    assert not told.wrong, "\n".join(told.wrong)
    assert told.half_way >= kills // 5, "the kills came too early or too late to mean anything"
    assert told.late < kills // 2
    assert told.kept
    assert told.stored


def test_forks_survive_kill_nine(tmp_path: Path) -> None:
    campaign(tmp_path, 5, seed=2, progress=False)


@pytest.mark.long
def test_fifty_kills_of_forks(tmp_path: Path) -> None:
    campaign(tmp_path, 50, seed=random.getrandbits(32), progress=True)
