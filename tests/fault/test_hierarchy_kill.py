"""Teams in teams, each with a planner of its own, in real processes that are killed with SIGKILL at every level.

After each kill the database is read; then: what was stored, at any level, never starts again, a plan that was stored is
never made anew, and every stored result has its inputs stored.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from orchestra import Orchestra, RunInfo, RunState, ThreadNotFound
from tests.fault import hierarchy_program

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.fault.hierarchy_program"])
LEVELS = 3


@dataclass
class Campaign:
    """What some kills have shown."""

    levels: Counter[int] = field(default_factory=Counter)
    stored: Counter[int] = field(default_factory=Counter)
    plans: int = 0


def start(program: str, *arguments: str) -> ForkServerProcess:
    process = CONTEXT.Process(target=getattr(hierarchy_program, program), args=arguments, daemon=True)
    process.start()
    return process


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def read(database: str) -> RunInfo | None:
    async def info() -> RunInfo | None:
        async with Orchestra(database) as orchestra:
            try:
                return await orchestra.info(hierarchy_program.THREAD)
            except ThreadNotFound:
                return None

    return asyncio.run(info())


def boxes(info: RunInfo | None, place: str = "") -> Iterator[tuple[str, RunInfo]]:
    """A run and its teams, each with its place."""
    if info is not None:
        yield place, info
        for name, team in info.teams.items():
            yield from boxes(team, f"{place}{name}/")


def level(line: str) -> int:
    return line.count("/")


def killed(database: str, log: Path, chance: random.Random, wanted: int) -> None:
    """Go on with the run, and kill it soon after a task of some level has started there."""
    before, patience = len(lines(log)), chance.randint(0, 2)
    process = start("go_on", database, str(log))
    while process.is_alive():
        new = [line for line in lines(log)[before:] if line.startswith("start ") and level(line) == wanted]
        if len(new) > patience:
            break
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.03))
    process.kill()
    process.join(10)


def trial(database: str, log: Path, seed: int, kills: int, shown: Campaign) -> None:
    chance, seen = random.Random(seed), []
    for number in range(kills):
        killed(database, log, chance, wanted := (seed + number) % LEVELS)
        written, info = lines(log), read(database)
        if any(line.startswith("over") for line in written):
            break
        shown.levels[wanted] += 1
        seen.append((len(written), list(boxes(info))))
    process = start("go_on", database, str(log))
    process.join(60)
    written = lines(log)
    assert (process.exitcode, written[-1]) == (0, "over done"), written
    for number, teams in seen:
        again = written[number:]
        for place, team in teams:
            assert f"plan {place}" not in again or team.plan is None, f"{place or 'the run'} was planned anew"
            shown.plans += team.plan is not None
            for task in team.raw:
                assert f"start {place}{task}" not in again, f"{place}{task} was stored, and ran again"
                assert {*team.plan.by_id[task].needs} <= {*team.raw}, f"{place}{task} lacks a stored input"
                shown.stored[level(place)] += 1
    last = list(boxes(read(database)))
    assert [place for place, _ in last].count("operations/fraud/") == 1
    assert len(last) == LEVELS + 1
    for _, team in last:
        assert team.state is RunState.DONE
        for task, result in team.results.items():
            assert team.plan is not None
            if team.plan.by_id[task].agent == "clerk":
                assert result.output == f"{task}({len(team.plan.by_id[task].needs)})"


def campaign(folder: Path, trials: int, kills: int) -> None:
    shown = Campaign()
    for seed in range(trials):
        here = folder / str(seed)
        here.mkdir()
        trial(f"sqlite:///{here / 'runs.db'}", here / "log", seed, kills, shown)
    print(
        f"\n{shown.levels.total()} kills ({dict(sorted(shown.levels.items()))} by level): {shown.plans} plans and "
        f"{shown.stored.total()} results ({dict(sorted(shown.stored.items()))}) were stored; none was made again"
    )
    inner = shown.stored.total() - shown.stored[0]
    assert inner, "the kills came too early or too late to mean anything"
    assert len(shown.levels) > 1, "the kills all came at one level"


def test_kills_at_every_level(tmp_path: Path) -> None:
    campaign(tmp_path, trials=2, kills=3)


def test_kills_on_postgresql(tmp_path: Path, postgres_url: str) -> None:
    trial(postgres_url, tmp_path / "log", seed=1, kills=2, shown=Campaign())


@pytest.mark.long
def test_many_kills_at_every_level(tmp_path: Path) -> None:
    campaign(tmp_path, trials=40, kills=5)


@pytest.mark.parametrize("kind", ["inner", "team"])
def test_poison_inside_a_team_is_given_up_and_another_steps_in(tmp_path: Path, kind: str) -> None:
    log, codes = tmp_path / "log", []
    for _ in range(3):
        process = start("poisoned", f"sqlite:///{tmp_path / 'runs.db'}", str(log), kind)
        process.join(30)
        codes.append(process.exitcode)
    assert codes == [-9, -9, 0]
    ran = Counter(line.removeprefix("start ") for line in lines(log) if line.startswith("start"))
    assert ran == {"bad": 2, "spare": 1, "brother": 1, "sister": 1}
    info = read(f"sqlite:///{tmp_path / 'runs.db'}")
    assert info is not None
    box, name = (info.teams["task-team"], "task-bad") if kind == "inner" else (info, "task-team")
    result = box.results[name]
    assert (result.output, result.agent) == ("spare", "spare")
    assert [attempt.outcome for attempt in result.attempts] == ["crashed", "crashed", "ok"]
    assert info.state is RunState.DONE


def test_a_drain_between_two_deaths_is_no_reason_to_count_anew(tmp_path: Path) -> None:
    log, codes = tmp_path / "log", []
    for _ in range(4):
        process = start("drained", f"sqlite:///{tmp_path / 'runs.db'}", str(log))
        process.join(30)
        codes.append(process.exitcode)
    assert codes == [-9, 0, -9, 0]
    assert lines(log) == ["start bad", "start bad", "over stopped", "start bad", "over failed"]
