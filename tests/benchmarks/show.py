"""What looking costs: drawing runs of many sizes, watching one, and listing ten thousand.

    python tests/benchmarks/show.py [--threads 10000] [--tasks 500]

Targets: 200 tasks drawn in less than 50 ms and 2,000 in less than 1 s, each picture by itself; watching a run of 500
tasks costs less than 3 % of its time; ``runs list`` with 10,000 threads in the database less than 300 ms on SQLite.
Beside them: Graphviz's ``dot`` on the same graph, where it is installed; LangGraph's Mermaid text, which is not yet a
picture; and the only way to list threads that LangGraph's own SQLite saver has, which is to read every checkpoint.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from orchestra import Agent, Assignment, Orchestra, Plan, Result, RunInfo, RunState, Status, Task, Workflow
from orchestra.show import layout, live
from orchestra.show.graph import plan_svg, workflow_svg
from orchestra.show.progress import Progress
from orchestra.show.report import report
from orchestra.show.timeline import timeline_svg
from orchestra.snapshots import past_events
from orchestra.tasks import Attempt

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def some_run(size: int, seed: int = 1) -> RunInfo:
    """A finished run: tasks that need some of the twelve before them, and take a second or so."""
    chance = random.Random(seed)
    tasks: list[Task] = []
    results: dict[str, Any] = {}
    ends: dict[str, datetime] = {}
    for i in range(size):
        earlier = [f"task_{j}" for j in range(max(0, i - 12), i)]
        needs = tuple(chance.sample(earlier, min(len(earlier), chance.choice((0, 1, 1, 2, 3)))))
        task = Task(id=f"task_{i}", agent=f"agent_{i}", needs=needs, instruction="Do it.")
        start = max((ends[need] for need in needs), default=T0)
        seconds = chance.uniform(0.1, 2.0)
        ends[task.id] = start + timedelta(seconds=seconds)
        attempt = Attempt(agent=f"agent_{i}", number=1, started=start, seconds=seconds)
        result = Result(
            task=task.id,
            status=Status.SUCCEEDED,
            agent=f"agent_{i}",
            output={"found": [f"fact {n} of {task.id}" for n in range(5)]},
            attempts=(attempt,),
            started=start,
            ended=ends[task.id],
        )
        tasks.append(task)
        results[task.id] = result.model_dump(mode="json")
    return RunInfo(
        thread_id="t",
        workflow="w",
        state=RunState.DONE,
        request="Do all of it.",
        turn=1,
        asked=T0,
        since=max(ends.values()),
        plan=Plan(tasks=tuple(tasks)),
        raw=results,
        answer="Done.",
    )


def as_workflow(plan: Plan) -> Workflow:
    """The same graph as a declared workflow."""

    async def work(task: Assignment) -> str:
        return task.task.id

    flow = Workflow("w", agents=[Agent(task.id, work, description="Does it.") for task in plan.tasks])
    for task in plan.tasks:
        for need in task.needs:
            flow.add_edge(need, task.id)
    return flow


def best(work: Callable[[], Any], times: int = 3) -> float:
    """Milliseconds, the best of a few: what it takes when nobody else is in the way."""
    taken: list[float] = []
    for _ in range(times):
        layout._arrange.cache_clear()  # which watching lives on, but a first picture does not have
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1000)
    return min(taken)


def dot(plan: Plan) -> float | None:
    """Milliseconds of Graphviz for the same graph, process and all; `None` without it."""
    if shutil.which("dot") is None:
        return None
    boxes = "".join(f'{task.id}[shape=box,label="{task.id}"];' for task in plan.tasks)
    lines = "".join(f"{need}->{task.id};" for task in plan.tasks for need in task.needs)
    try:
        return best(
            lambda: subprocess.run(
                ["dot", "-Tsvg"],
                input=f"digraph{{{boxes}{lines}}}".encode(),
                capture_output=True,
                check=True,
                timeout=60,
            ),
            times=1,
        )
    except subprocess.TimeoutExpired:
        return float("inf")


def drawing(sizes: Iterable[int]) -> None:
    print("## Drawing: ms, best of 3\n")
    print("| tasks | workflow | plan of a run | timeline | report (all of it) | dot -Tsvg | LangGraph, Mermaid text |")
    print("|---|---|---|---|---|---|---|")
    for size in sizes:
        info = some_run(size)
        assert info.plan is not None
        flow = as_workflow(info.plan)
        graph = flow.compile()
        followed = Progress.of(past_events(info))
        peer = dot(info.plan)
        cells = [
            best(lambda flow=flow: workflow_svg(flow)),
            best(lambda followed=followed: plan_svg(followed)),
            best(lambda followed=followed: timeline_svg(followed)),
            best(lambda info=info: report(info)),
        ]
        shown = "not installed" if peer is None else "over 60,000" if peer == float("inf") else f"{peer:,.0f}"
        mermaid = best(lambda graph=graph: graph.get_graph().draw_mermaid(), times=1)
        print(f"| {size:,} | {' | '.join(f'{cell:,.1f}' for cell in cells)} | {shown} | {mermaid:,.0f} |")
    print()


async def watching(tasks: int, rounds: int) -> None:
    """A run of many tasks, watched in a notebook's cell and not watched, in turns."""
    chance = random.Random(2)

    async def work(task: Assignment) -> str:
        await asyncio.sleep(0.02 + random.Random(task.task.id).random() * 0.2)  # the same in every round
        return task.task.id

    class Layers:
        def plan(self, request: str, *, agents: Any, messages: Any) -> Plan:
            made = [
                Task(id=f"t{i}", agent="worker", needs=tuple({f"t{chance.randrange(i - 40, i)}"}) if i >= 40 else ())
                for i in range(tasks)
            ]
            return Plan(tasks=tuple(made))

    flow = Workflow("many", agents=[Agent("worker", work)], planner=Layers())
    frames = 0
    sent = 0

    def show(formats: dict[str, Any]) -> None:
        nonlocal frames, sent
        frames += 1
        sent += sum(map(len, formats.values()))

    async def one(*, watched: bool) -> tuple[float, float]:
        """Seconds until the run ended, and until the last picture was drawn."""
        chance.seed(3)
        with tempfile.TemporaryDirectory() as folder:
            async with Orchestra(f"sqlite:///{folder}/runs.db") as orchestra:
                began = time.perf_counter()
                run = await orchestra.start(flow, "go")
                ends: list[float] = []
                run._task.add_done_callback(lambda _: ends.append(time.perf_counter()))
                await (run.watch() if watched else run)
                return ends[0] - began, time.perf_counter() - began

    cell = live._cell
    live._cell = lambda: show  # a kernel's cell would send what this counts
    try:
        pairs = [(await one(watched=False), await one(watched=True)) for _ in range(rounds)]
    finally:
        live._cell = cell
    alone = statistics.median(before[0] for before, _ in pairs)
    seen = statistics.median(after[0] for _, after in pairs)
    ratio = statistics.median(after[0] / before[0] for before, after in pairs)
    last = statistics.median(after[1] - after[0] for _, after in pairs)
    print(f"## Watching a run of {tasks} tasks: median of {rounds} pairs\n")
    print("| not watched | watched | cost | then the last picture | pictures per run | kB per picture |")
    print("|---|---|---|---|---|---|")
    cells = (f"{alone:.2f} s", f"{seen:.2f} s", f"{(ratio - 1) * 100:+.1f} %", f"{last * 1000:.0f} ms")
    print(f"| {' | '.join(cells)} | {frames / rounds:.0f} | {sent / max(1, frames) / 1000:,.0f} |\n")


async def listing(threads: int) -> None:
    """Many threads in one database, and the newest of them."""

    async def work(task: Assignment) -> str:
        return task.request

    flow = Workflow("small", agents=[Agent("one", work), Agent("two", work)])
    with tempfile.TemporaryDirectory() as folder:
        ours, peers = f"sqlite:///{folder}/ours.db", f"{folder}/peers.db"
        async with Orchestra(ours) as orchestra:
            await (await orchestra.start(flow, "What is there to do?", thread_id="t"))
            steps = [step async for step in orchestra.saver.alist({"configurable": {"thread_id": "t"}})]
            await _in_turn(orchestra.saver.acopy_thread("t", f"t{i}") for i in range(threads - 1))
        command = [sys.executable, "-m", "orchestra", "runs", "list", "--db", ours]
        whole = best(lambda: subprocess.run(command, capture_output=True, check=True), times=5)
        imports = [sys.executable, "-c", "import orchestra.commands.looking"]
        nothing = best(lambda: subprocess.run(imports, capture_output=True, check=True), times=5)
        async with Orchestra(ours) as orchestra:
            newest = await _timed(lambda: orchestra.runs(limit=20))
            chosen = await _timed(lambda: orchestra.runs(state="waiting", limit=20))
        async with AsyncSqliteSaver.from_conn_string(peers) as saver:
            await saver.setup()
            await saver.conn.execute("PRAGMA synchronous=OFF")  # only while it is filled
            for i in range(threads):
                for step in reversed(steps):
                    place = {"configurable": {"thread_id": f"t{i}", "checkpoint_ns": ""}}
                    await saver.aput(place, step.checkpoint, step.metadata, {})

            async def heads() -> dict[str, Any]:
                found: dict[str, Any] = {}
                async for step in saver.alist(None):
                    found.setdefault(step.config["configurable"]["thread_id"], step)
                return found

            read = await _timed(heads, times=1)
    print(f"## Listing, {threads:,} threads in a SQLite file: ms\n")
    print("| runs(limit=20) | runs(state=waiting), which reads all | `orchestra runs list`, of which imports |")
    print("| --- | --- | --- |")
    print(f"| {newest:,.0f} | {chosen:,.0f} | {whole:,.0f}, of which {nothing:,.0f} |\n")
    print(f"AsyncSqliteSaver, reading every checkpoint to find the newest of each thread: {read:,.0f} ms\n")


async def _in_turn(copies: Iterable[Any], at_once: int = 64) -> None:
    places = asyncio.Semaphore(at_once)

    async def one(copy: Any) -> None:
        async with places:
            await copy

    await asyncio.gather(*(one(copy) for copy in copies))


async def _timed(work: Callable[[], Any], times: int = 3) -> float:
    taken: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - began) * 1000)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    drawing((10, 200, 2000))
    asyncio.run(watching(options.tasks, options.rounds))
    if options.threads:
        asyncio.run(listing(options.threads))


if __name__ == "__main__":
    main()
