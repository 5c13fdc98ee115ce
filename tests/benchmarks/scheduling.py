"""How close to the critical path: random plans with uneven durations, Orchestra beside plain LangGraph.

    python tests/benchmarks/scheduling.py [--plans 200] [--at-once 2] [--mean 0.2]

The same plan is a workflow here and a `StateGraph` with one node per task and joined edges there. Both use a SQLite
file through the same saver. A figure is the makespan divided by the critical path (the longest chain of durations);
1.00 is the best there can be; the column "asyncio" is the same plan as bare coroutines without any engine or
storage, which tells how much of the rest is the event loop's own timer. Durations are lognormal, so that some tasks
take many times the mean.
"""

from __future__ import annotations

import argparse
import asyncio
import operator
import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from checkpoints import SQLAlchemySaver
from orchestra import Agent, Assignment, Workflow


@dataclass
class Shape:
    name: str
    seconds: dict[str, float]
    needs: dict[str, list[str]]

    @property
    def critical_path(self) -> float:
        ends: dict[str, float] = {}
        for task, seconds in self.seconds.items():  # in topological order
            ends[task] = seconds + max((ends[need] for need in self.needs[task]), default=0.0)
        return max(ends.values())


def random_shape(seed: int, mean: float) -> Shape:
    chance = random.Random(seed)
    names = [f"t{i}" for i in range(chance.randint(6, 30))]
    sigma = 0.9
    seconds = {name: chance.lognormvariate(0, sigma) * mean / 1.5 for name in names}  # e^(sigma^2/2) is about 1.5
    needs = {name: chance.sample(names[:i], min(i, chance.choice((0, 1, 1, 2, 3)))) for i, name in enumerate(names)}
    return Shape(f"random {seed}", seconds, needs)


def by_hand(mean: float) -> list[Shape]:
    def shape(name: str, rows: dict[str, tuple[float, list[str]]]) -> Shape:
        return Shape(name, {t: s * mean for t, (s, _) in rows.items()}, {t: n for t, (_, n) in rows.items()})

    chain = {f"c{i}": (1.0, [f"c{i - 1}"] if i else []) for i in range(8)}
    wide: dict[str, tuple[float, list[str]]] = {f"w{i}": (0.2 + 0.05 * i, []) for i in range(40)}
    wide["join"] = (1.0, list(wide))
    ladder: dict[str, tuple[float, list[str]]] = {}
    for i in range(6):  # two chains whose slow steps alternate: each wave waits for the slow one
        ladder[f"a{i}"] = (3.0 if i % 2 else 0.3, [f"a{i - 1}"] if i else [])
        ladder[f"b{i}"] = (0.3 if i % 2 else 3.0, [f"b{i - 1}"] if i else [])
    diamond = {"s": (0.5, []), "x": (4.0, ["s"]), "y": (0.5, ["s"]), "y2": (0.5, ["y"]), "y3": (0.5, ["y2"])}
    return [
        shape("chain of 8", chain),
        shape("fan of 40, then a join", wide),
        shape("two chains, slow steps alternating", ladder),
        shape("long arm beside a short chain", {**diamond, "end": (0.5, ["x", "y3"])}),
    ]


def orchestra_graph(shape: Shape, saver: Any) -> Any:
    def worker(name: str) -> Agent:
        async def run(task: Assignment) -> str:
            await asyncio.sleep(shape.seconds[name])
            return name

        return Agent(name, run)

    flow = Workflow("bench", agents=[worker(name) for name in shape.seconds])
    for task, needs in shape.needs.items():
        for need in needs:
            flow.add_edge(need, task)
    return flow.compile(checkpointer=saver)


class State(TypedDict):
    request: str
    results: Annotated[list[str], operator.add]


def plain_graph(shape: Shape, saver: Any) -> Any:
    def worker(name: str) -> Any:
        async def run(state: State) -> dict[str, Any]:
            await asyncio.sleep(shape.seconds[name])
            return {"results": [name]}

        return run

    graph = StateGraph(State)
    for task in shape.seconds:
        graph.add_node(task, worker(task))
    for task, needs in shape.needs.items():
        graph.add_edge(needs if len(needs) > 1 else (needs or [START])[0], task)
    return graph.compile(checkpointer=saver)


async def makespan(graph: Any, thread: str) -> float:
    began = time.perf_counter()
    await graph.ainvoke({"request": "go"}, {"configurable": {"thread_id": thread}})
    return time.perf_counter() - began


async def floor(shape: Shape) -> float:
    done = {task: asyncio.Event() for task in shape.seconds}

    async def run(task: str) -> None:
        for need in shape.needs[task]:
            await done[need].wait()
        await asyncio.sleep(shape.seconds[task])
        done[task].set()

    began = time.perf_counter()
    await asyncio.gather(*(run(task) for task in shape.seconds))
    return time.perf_counter() - began


async def measure(shapes: list[Shape], at_once: int) -> list[tuple[Shape, float, float, float]]:
    gate = asyncio.Semaphore(at_once)
    with tempfile.TemporaryDirectory() as folder:
        async with SQLAlchemySaver(f"sqlite:///{Path(folder) / 'bench.db'}") as saver:
            await makespan(orchestra_graph(Shape("warm", {"a": 0.01}, {"a": []}), saver), "warm up")

            async def one(shape: Shape) -> tuple[Shape, float, float, float]:
                async with gate:
                    ours = await makespan(orchestra_graph(shape, saver), f"ours {shape.name}")
                    plain = await makespan(plain_graph(shape, saver), f"plain {shape.name}")
                    bare = await floor(shape)
                best = shape.critical_path
                return shape, ours / best, plain / best, bare / best

            return await asyncio.gather(*(one(shape) for shape in shapes))


def row(name: str, ours: list[float], plain: list[float], bare: list[float]) -> str:
    def side(values: list[float]) -> str:
        ordered = sorted(values)
        return f"{statistics.median(values):7.3f} {ordered[int(0.9 * (len(values) - 1))]:7.3f} {ordered[-1]:7.3f}"

    return f"{name:<36} {side(ours)}   {side(plain)}   {statistics.median(bare):7.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=2, help="plans measured at the same time")
    parser.add_argument("--mean", type=float, default=0.2, help="mean seconds of a task")
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}; mean task {args.mean * 1000:.0f} ms; SQLite file")
    print(f"{'makespan / critical path':<36} {'Orchestra':<23}   {'LangGraph':<23}   asyncio")
    print(f"{'':<36} {'median    90 %   worst':>23}   {'median    90 %   worst':>23}    median")
    for shape, ours, plain, bare in asyncio.run(measure(by_hand(args.mean), 1)):
        print(row(shape.name, [ours], [plain], [bare]), flush=True)
    measured = asyncio.run(measure([random_shape(seed, args.mean) for seed in range(args.plans)], args.at_once))
    ours, plain, bare = ([m[side] for m in measured] for side in (1, 2, 3))
    print(row(f"{args.plans} random plans of 6 to 30 tasks", ours, plain, bare))
    met = statistics.median(ours) <= 1.02 and max(ours) <= 1.10
    worst = max(measured, key=lambda m: m[1])[0]
    print(
        f"target at a mean of 200 ms: median <= 1.02, worst <= 1.10: {'met' if met else 'missed'} "
        f"(worst: {worst.name}, critical path {worst.critical_path:.2f} s)"
    )


if __name__ == "__main__":
    main()
