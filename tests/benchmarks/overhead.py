"""What Orchestra costs per task: a fan-out of no-op tasks, against plain LangGraph `Send` with the same saver.

    python tests/benchmarks/overhead.py [--sizes 100 1000 10000] [--repeat 5]

Plain LangGraph is the map-reduce of its documentation: a conditional edge that returns Sends, a worker with a reducer,
and an edge to a node that collects. Both sides run alternately on a fresh SQLite file each; the table gives medians.
"""

from __future__ import annotations

import argparse
import asyncio
import operator
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from checkpoints import SQLAlchemySaver
from orchestra import Assignment, Plan, Task, Workflow, agent


class FanOut:
    def __init__(self, size: int) -> None:
        self._plan = Plan(tasks=tuple(Task(id=f"t{i}", agent="noop") for i in range(size)))

    def plan(self, request: str, **_: Any) -> Plan:
        return self._plan


@agent
async def noop(task: Assignment) -> int:
    return len(task.task.id)


def orchestra_graph(size: int, saver: Any) -> Any:
    return Workflow("fan", agents=[noop], planner=FanOut(size)).compile(checkpointer=saver)


class State(TypedDict):
    request: str
    results: Annotated[list[Any], operator.add]
    answer: int


def plain_graph(size: int, saver: Any) -> Any:
    async def work(state: Any) -> dict[str, Any]:
        return {"results": [len(state["task"])]}

    async def collect(state: State) -> dict[str, Any]:
        return {"answer": len(state["results"])}

    graph = StateGraph(State)
    graph.add_node("work", work)
    graph.add_node("collect", collect)
    graph.add_conditional_edges(START, lambda _: [Send("work", {"task": f"t{i}"}) for i in range(size)], ["work"])
    graph.add_edge("work", "collect")
    graph.add_edge("collect", END)
    return graph.compile(checkpointer=saver)


async def once(make: Callable[[int, Any], Any], size: int, check: Callable[[Any], int]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        async with SQLAlchemySaver(f"sqlite:///{Path(folder) / 'bench.db'}") as saver:
            graph = make(size, saver)
            config = {"configurable": {"thread_id": "bench"}}
            began = time.perf_counter()
            state = await graph.ainvoke({"request": "go"}, config)
            seconds = time.perf_counter() - began
            assert check(state) == size
    return seconds


async def compare(size: int, repeat: int) -> tuple[float, float, float]:
    sides: list[tuple[Callable[[], Awaitable[float]], list[float]]] = [
        (lambda: once(orchestra_graph, size, lambda s: len(s["results"])), []),
        (lambda: once(plain_graph, size, lambda s: s["answer"]), []),
    ]
    for run, _ in sides:
        await run()  # warm up
    for _ in range(repeat):
        for run, times in sides:
            times.append(await run())
    ours, plain = (statistics.median(times) for _, times in sides)
    ratio = statistics.median(a / b for a, b in zip(sides[0][1], sides[1][1], strict=True))
    return ours / size * 1000, plain / size * 1000, ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}; SQLite file, synchronous=FULL; medians of runs")
    print(f"{'tasks':>8} {'Orchestra ms/task':>20} {'LangGraph ms/task':>20} {'ratio':>8}   target 1.25")
    for size in args.sizes:
        ours, plain, ratio = asyncio.run(compare(size, args.repeat if size < 10_000 else min(args.repeat, 3)))
        print(
            f"{size:>8} {ours:>20.3f} {plain:>20.3f} {ratio:>8.2f}   {'met' if ratio <= 1.25 else 'missed'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
