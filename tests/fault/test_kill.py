"""Real processes, killed with SIGKILL at random moments and resumed by new ones.


The log that the agents write is independent of the product. After each kill the database is read, and then:
a task that was stored never starts again, every stored result has its inputs stored, and the answer is that of a run
that was never killed. That one is run in the test's own process.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from checkpoints import SQLAlchemySaver
from tests.fault import program
from tests.fault.nursery import Child, nursery

PROGRAM = "import asyncio; from tests.fault.program import main; asyncio.run(main(*argv[:2], int(argv[2]), argv[3]))"
THREAD = "killed"


@dataclass
class Killed:
    """What one kill showed."""

    stored: int = 0
    repeated: Counter[str] = field(default_factory=Counter)
    orphans: list[str] = field(default_factory=list)
    half_way: bool = False


def never_killed(folder: Path, seed: int, kind: str) -> str:
    """What the program prints if nobody kills it."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        asyncio.run(program.main(f"sqlite:///{folder / 'whole.db'}", str(folder / "whole"), seed, kind))
    return out.getvalue()


def start(folder: Path, seed: int, kind: str, life: int) -> Child:
    given = (f"sqlite:///{folder / 'runs.db'}", folder / "log", seed, kind)
    return nursery().start(PROGRAM, *given, out=folder / f"out{life}")


def starts(log: Path) -> Counter[str]:
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.removeprefix("start ") for line in lines if line.startswith("start "))


def stored(database: str) -> dict[str, dict[str, set[str]]]:
    """By namespace: stored tasks and what each needs."""
    found: dict[str, dict[str, set[str]]] = {}
    with SQLAlchemySaver(database) as saver:
        newest: dict[str, object] = {}
        for checkpoint in saver.list({"configurable": {"thread_id": THREAD}}):
            newest.setdefault(checkpoint.config["configurable"]["checkpoint_ns"], checkpoint)
        for namespace, checkpoint in newest.items():
            values = checkpoint.checkpoint["channel_values"]
            if "plan" not in values:
                continue
            needs = {task["id"]: set(task.get("needs", ())) for task in values["plan"]["tasks"]}
            done = set(values.get("results") or {})
            for _, channel, value in checkpoint.pending_writes:
                done |= set(value) if channel == "results" else set()
            prefix = namespace.partition(":")[0] + "/" if namespace else ""
            found[prefix] = {task: needs[task] for task in done}
    return found


def kill_and_resume(folder: Path, seed: int, kind: str, expected: str, seconds: float) -> Killed:
    database, log = f"sqlite:///{folder / 'runs.db'}", folder / "log"
    process = start(folder, seed, kind, 1)
    while not log.exists() and process.poll() is None:
        time.sleep(0.002)
    time.sleep(random.Random(seed * 7919 + len(kind)).uniform(0, seconds))
    process.kill()
    before, seen = starts(log), stored(database)
    assert start(folder, seed, kind, 2).succeed(60) == expected
    again = starts(log) - before
    shown = Killed()
    for prefix, tasks in seen.items():
        for task, needs in tasks.items():
            shown.stored += 1
            shown.orphans += [f"{prefix}{task} without {need}" for need in needs - set(tasks)]
            if again[f"{prefix}{task}"]:
                shown.repeated[f"{prefix}{task}"] += 1
    shown.half_way = bool(shown.stored) and bool(again)
    return shown


def campaign(folder: Path, kills: int) -> None:
    total = Killed()
    half_way = 0
    for trial in range(kills):
        kind = ("flat", "nested")[trial % 2]
        here = folder / f"kill{trial}"
        here.mkdir()
        whole = never_killed(here, trial, kind)
        assert whole.startswith("done ")
        shown = kill_and_resume(here, trial, kind, whole, seconds=0.4)
        total.stored += shown.stored
        total.repeated += shown.repeated
        total.orphans += shown.orphans
        half_way += shown.half_way
    print(
        f"\n{kills} kills, {half_way} of them half-way: {total.stored} results were stored at the moment of the kill, "
        f"{sum(total.repeated.values())} of them ran again, {len(total.orphans)} lacked a stored input"
    )
    assert not total.repeated
    assert not total.orphans
    assert half_way >= kills // 3, "the kills came too early or too late to mean anything"


def test_six_kills(tmp_path: Path) -> None:
    campaign(tmp_path, 6)


@pytest.mark.long
def test_a_hundred_kills(tmp_path: Path) -> None:
    campaign(tmp_path, 100)
