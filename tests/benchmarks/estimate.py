"""How far off the estimate of the time left is: random plans, run by the engine, asked on their way.

    python tests/benchmarks/estimate.py [--plans 120] [--at-once 30] [--mean 0.4]

Each agent has a usual time of its own; what a task takes is lognormal around it, with a spread of 0.3 (usual for code
that computes) or 0.6 (usual for models that write). What the estimate knows of an agent are 20 past attempts: their
mean, or their median. When a run has ended, it is asked how it stood at 25, 50 and 75 % of its time, from the events
up to then, and the answer is compared with the time that it really took from there.

A figure is the difference relative to the real time left. Beside it stands what can be said without a graph: the time
so far, times the tasks left, divided by the tasks ended. "within ±" is the part of estimates that were off by no more
than the margin told with them, which should be some 68 %. "simulated" is the same without the engine, on many more
plans: what of the error is not the engine's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from orchestra import Agent, Assignment, Attempt, Orchestra, Plan, Result, Status, Task, Workflow
from orchestra.events import Event, PlanReady, TaskEnded, TaskStarted
from orchestra.standing import standing_of

PAST = 20
MOMENTS = (0.25, 0.5, 0.75)
T0 = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Program:
    """A plan with the usual time of each of its agents, what they took in the past, and what they take this time."""

    needs: dict[str, tuple[str, ...]]
    past: dict[str, list[float]]
    seconds: dict[str, float]

    def typical(self, how: Callable[[Sequence[float]], float]) -> dict[str, float]:
        return {name: how(past) for name, past in self.past.items()}


def program(seed: int, mean: float, spread: float) -> Program:
    """The plans of `scheduling.py`: 6 to 30 tasks whose usual times differ widely."""
    chance = random.Random(seed)
    names = [f"t{i}" for i in range(chance.randint(6, 30))]
    usual = {name: chance.lognormvariate(0, 0.9) * mean / 1.5 for name in names}
    needs = {n: tuple(chance.sample(names[:i], min(i, chance.choice((0, 1, 1, 2, 3))))) for i, n in enumerate(names)}

    def takes(name: str) -> float:
        return usual[name] * chance.lognormvariate(0, spread)

    past = {name: [takes(name) for _ in range(PAST)] for name in names}
    return Program(needs, past, {name: takes(name) for name in names})


async def run_it(made: Program, orchestra: Orchestra, thread: str) -> Sequence[Event]:
    """Run it by the engine."""

    def worker(name: str) -> Agent:
        async def work(task: Assignment) -> str:
            await asyncio.sleep(made.seconds[name])
            return name

        return Agent(name, work)

    flow = Workflow("bench", agents=[worker(name) for name in made.seconds])
    for task, needs in made.needs.items():
        for need in needs:
            flow.add_edge(need, task)
    run = await orchestra.start(flow, "go", thread_id=thread)
    await run
    return run.seen


def simulated(made: Program) -> Sequence[Event]:
    """What an engine that costs nothing would tell."""
    plan = Plan(tasks=tuple(Task(id=name, agent=name, needs=needs) for name, needs in made.needs.items()))
    events: list[Event] = []
    ends: dict[str, datetime] = {}
    for name, needs in made.needs.items():
        begin = max((ends[need] for need in needs), default=T0)
        ends[name] = end = begin + timedelta(seconds=made.seconds[name])
        tried = (Attempt(agent=name, number=1, started=begin, seconds=made.seconds[name]),)
        ended = Result(task=name, status=Status.SUCCEEDED, agent=name, attempts=tried, started=begin, ended=end)
        events += [TaskStarted(task=name, agent=name, attempt=1, at=begin), TaskEnded(task=name, result=ended, at=end)]
    return [PlanReady(plan=plan, at=T0), *sorted(events, key=lambda event: event.at)]


@dataclass
class Errors:
    """Relative errors at one moment of many runs."""

    ours: list[float]
    naive: list[float]
    within: list[bool]


def errors(
    runs: Sequence[tuple[Program, Sequence[Event]]], how: Callable[..., float]
) -> Iterator[tuple[float, Errors]]:
    for share in MOMENTS:
        found = Errors([], [], [])
        for made, events in runs:
            begin, end = events[0].at, max(event.at for event in events if isinstance(event, TaskEnded))
            at = begin + (end - begin) * share
            truth, passed = (end - at).total_seconds(), (at - begin).total_seconds()
            told = [event for event in events if event.at <= at]
            standing = standing_of(told, typical=made.typical(how), at=at)
            assert standing.left is not None
            found.ours.append(abs(standing.left - truth) / truth)
            if standing.margin is not None:
                found.within.append(abs(standing.left - truth) <= standing.margin)
            ended = sum(isinstance(event, TaskEnded) for event in told)
            if ended:  # else it can't tell
                found.naive.append(abs(passed * (len(made.needs) - ended) / ended - truth) / truth)
        yield share, found


def table(title: str, runs: Sequence[tuple[Program, Sequence[Event]]]) -> None:
    for name, how in (("mean", statistics.fmean), ("median", statistics.median)):
        for share, found in errors(runs, how):
            within = f"{statistics.fmean(found.within):6.0%}" if found.within else "     -"
            print(
                f"{title:<24} {name:<7} {share:4.0%}   {middle(found.ours)}   {middle(found.naive)}   {within}",
                flush=True,
            )


def middle(values: Sequence[float]) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered):7.1%} {ordered[int(0.9 * (len(ordered) - 1))]:7.1%}"


async def real(programs: Sequence[Program], at_once: int) -> list[tuple[Program, Sequence[Event]]]:
    gate = asyncio.Semaphore(at_once)
    with tempfile.TemporaryDirectory() as folder:
        async with Orchestra(f"sqlite:///{Path(folder) / 'bench.db'}") as orchestra:

            async def one(number: int, made: Program) -> tuple[Program, Sequence[Event]]:
                async with gate:
                    return made, await run_it(made, orchestra, f"run {number}")

            return await asyncio.gather(*(one(number, made) for number, made in enumerate(programs)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", type=int, default=120, help="plans run by the engine, for each spread")
    parser.add_argument("--at-once", type=int, default=30, help="runs at the same time")
    parser.add_argument("--mean", type=float, default=0.4, help="mean usual seconds of a task")
    args: Any = parser.parse_args()
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} cores, load {load:.2f}, Python {sys.version.split()[0]}; mean task {args.mean:g} s; SQLite"
    )
    print(f"{'relative error of':<24} {'':<7} {'':>4}   {'the estimate':>15}   {'naive':>15}")
    print(f"{'the time left':<24} {'usual':<7} {'at':>4}   {'median    90 %':>15}   {'median    90 %':>15}   within ±")
    for spread in (0.3, 0.6):
        programs = [program(seed, args.mean, spread) for seed in range(args.plans)]
        table(f"engine, spread {spread}", asyncio.run(real(programs, args.at_once)))
        many = [program(seed, args.mean, spread) for seed in range(10 * args.plans)]
        table(f"simulated, spread {spread}", [(made, simulated(made)) for made in many])


if __name__ == "__main__":
    main()
