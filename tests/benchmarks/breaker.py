"""What a breaker saves when one of three equal agents gets stuck, and what healing costs when nothing is wrong.

    python tests/benchmarks/breaker.py [--scale 0.4] [--tasks 200]

Three agents can do the same work, four tasks at a time each, in 0.2 s. After ten good calls one of them is stuck: it
never returns and is timed out after 5 s. Retries are as by default, three tries. `--scale` multiplies all these times;
at 0.4 the program takes about two minutes. Told are the makespan, the calls of the stuck agent and the tasks that got
no result, for tasks that want the capability and get whoever has a free place, and for tasks that name their agent, by
turns, the other two being its peers. "No breaker" is one that never opens: failures=1,000,000 in a row, or a rate of
1.0 among at least 500 attempts. Failures still make the agent degraded then, so that it comes behind healthy ones.

The peer is plain LangGraph: one `Send` for each task, to the three agents by turns, with the same limits and a
RetryPolicy of three tries that retries timeouts. There nobody takes a task over: those of the stuck agent fail in the
end, which the node catches, or the first one would end the run. All rows run at the same time, and mostly sleep.

What healing costs is measured on agents that do nothing: the time of an attempt that goes into `admit`, `record` and
the choice of the agent, and the makespan with and without probes and a store in which health is shared.
"""

from __future__ import annotations

import argparse
import asyncio
import operator
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy, Send
from typing_extensions import TypedDict

from checkpoints import SQLAlchemyStore
from orchestra import Agent, Assignment, Breaker, Plan, Probe, Task, Workflow
from orchestra import attempts as engine

NAMES = ("a", "b", "c")
STUCK, GOOD, AT_ONCE = "a", 10, 4
NEVER = Breaker(failures=1_000_000, rate=1.0, least=500)


class Times:
    def __init__(self, scale: float) -> None:
        self.work, self.timeout = 0.2 * scale, 5.0 * scale
        self.retry = RetryPolicy(initial_interval=0.5 * scale, max_interval=128 * scale)


class Tasks:
    """A planner: tasks for whoever can do them, or for each agent by turns."""

    def __init__(self, count: int, *, by_turns: bool = False) -> None:
        self.count, self.by_turns = count, by_turns

    def plan(self, request: str, *, agents: Any, messages: Any) -> Plan:
        who = [{"agent": name} if self.by_turns else {"capability": "work"} for name in NAMES]
        return Plan(tasks=tuple(Task(id=f"t{i}", instruction="Work.", **who[i % 3]) for i in range(self.count)))


async def with_orchestra(times: Times, count: int, breaker: Breaker, *, by_turns: bool) -> tuple[float, int, int]:
    calls = Counter[str]()

    def worker(name: str) -> Agent:
        async def work(task: Assignment) -> str:
            calls[name] += 1
            await asyncio.sleep(3600 if name == STUCK and calls[name] > GOOD else times.work)
            return name

        options: dict[str, Any] = {"timeout": times.timeout, "retry": times.retry, "max_concurrency": AT_ONCE}
        return Agent(name, work, capabilities=["work"], breaker=breaker, **options)

    planner = Tasks(count, by_turns=by_turns)
    flow = Workflow("bench", agents=[worker(name) for name in NAMES], planner=planner, max_tasks=count)
    began = time.perf_counter()
    state = await flow.compile().ainvoke({"request": "go"})
    failed = sum(not result.ok for result in state["results"].values())
    return time.perf_counter() - began, calls[STUCK], failed


class Done(TypedDict):
    done: Annotated[list[str], operator.add]


async def with_langgraph(times: Times, count: int) -> tuple[float, int, int]:
    calls, tries = Counter[str](), Counter[str]()
    places = {name: asyncio.Semaphore(AT_ONCE) for name in NAMES}

    def worker(name: str) -> Any:
        async def work(given: dict[str, str]) -> dict[str, list[str]]:
            tries[given["task"]] += 1
            try:
                async with places[name], asyncio.timeout(times.timeout):
                    calls[name] += 1
                    await asyncio.sleep(3600 if name == STUCK and calls[name] > GOOD else times.work)
            except TimeoutError:
                if tries[given["task"]] == times.retry.max_attempts:
                    return {"done": []}
                raise
            return {"done": [given["task"]]}

        return work

    graph = StateGraph(Done)
    policy = times.retry._replace(retry_on=TimeoutError)
    for name in NAMES:
        graph.add_node(name, worker(name), retry_policy=policy, input_schema=dict)
    graph.add_conditional_edges(
        START, lambda _: [Send(NAMES[i % 3], {"task": f"t{i}"}) for i in range(count)], list(NAMES)
    )
    began = time.perf_counter()
    state = await graph.compile().ainvoke({"done": []})
    return time.perf_counter() - began, calls[STUCK], count - len(state["done"])


async def when_stuck(times: Times, count: int) -> None:
    best = (count - GOOD) / (2 * AT_ONCE) * times.work
    print(f"{count} tasks of {times.work:g} s on three agents, {AT_ONCE} at a time each; timeout {times.timeout:g} s")
    print(f"{'':<40} {'seconds':>10} {'of best':>10} {'stuck calls':>12} {'failed tasks':>13}")
    kinds = [(by_turns, rule) for by_turns in (False, True) for rule in (Breaker(), NEVER)]
    rows = [with_orchestra(times, count, rule, by_turns=by_turns) for by_turns, rule in kinds]
    names = [
        f"Orchestra, {'by turns' if by_turns else 'whoever is free'}, {'no ' * (rule is NEVER)}breaker"
        for by_turns, rule in kinds
    ]
    measured = await asyncio.gather(*rows, with_langgraph(times, count))
    for name, (seconds, calls, failed) in zip([*names, "LangGraph, by turns"], measured, strict=True):
        print(f"{name:<40} {seconds:10.1f} {seconds / best:9.1f}x {calls:12d} {failed:13d}")
    print(f"the best is what the two others need without any engine: {best:.1f} s")


# What it costs when nothing is wrong


class Spent:
    """How long calls of some functions take, all together."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def of(self, function: Any) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def idle(probe: Probe | None = None) -> list[Agent]:
    async def work(task: Assignment) -> str:
        return "done"

    return [Agent(name, work, capabilities=["work"], max_concurrency=AT_ONCE, probe=probe) for name in NAMES]


async def makespan(agents: list[Agent], count: int, store: Any = None) -> tuple[float, float]:
    """Seconds, and seconds of CPU in all threads, which tell more on a busy machine."""
    flow = Workflow("bench", agents=agents, planner=Tasks(count), max_tasks=count)
    graph = flow.compile(store=store)
    began, used = time.perf_counter(), time.process_time()
    state = await graph.ainvoke({"request": "go"})
    assert all(result.ok for result in state["results"].values())
    return time.perf_counter() - began, time.process_time() - used


async def share_of_an_attempt(count: int) -> None:
    """The functions are replaced by timed ones, which themselves cost a little that is counted in."""
    spent, agents = Spent(), idle()
    for agent in agents:
        for name in ("admit", "record"):
            setattr(agent.health, name, spent.of(getattr(agent.health, name)))
    choose = engine._next
    engine._next = spent.of(choose)  # type: ignore[assignment]
    try:
        seconds, _ = await makespan(agents, count)
    finally:
        engine._next = choose
    each, whole = spent.seconds / count * 1e6, seconds / count * 1e6
    print(f"{count} tasks that do nothing: {each:.0f} of {whole:.0f} us a task go into admit, record and choosing,")
    print(f"  {each / whole:.1%} (target < 2 %: {met(each / whole)}); of a task of 0.2 s {each / 2e5:.3%}")


async def with_and_without(count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder, SQLAlchemyStore(f"sqlite:///{Path(folder) / 'bench.db'}") as store:
        probed = idle(Probe("hi", "done", every=0.5))
        await makespan(idle(), count)  # warm up
        pairs = [(await makespan(idle(), count), await makespan(probed, count, store)) for _ in range(rounds)]
    print(f"{count} tasks that do nothing, {rounds} pairs of runs: with probes every 0.5 s and health shared on SQLite")
    for side, what in enumerate(("makespan", "CPU time")):
        bare, cared = (statistics.median(each[side] for each in runs) for runs in zip(*pairs, strict=True))
        more = statistics.median(after[side] / before[side] - 1 for before, after in pairs)
        extra = (cared - bare) * 1000
        print(
            f"  {what} {bare:.3f} s, then {cared:.3f} s: {extra:+.0f} ms a run; {more:+.1%} (target < 2 %: {met(more)})"
        )


def met(share: float) -> str:
    return "met" if share < 0.02 else "missed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=0.4, help="multiplies all times, of 0.2 s of work and 5 s")
    parser.add_argument("--tasks", type=int, default=200)
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}; Python {platform.python_version()}; no saver")
    asyncio.run(when_stuck(Times(args.scale), args.tasks))
    print()
    asyncio.run(share_of_an_attempt(2000))
    asyncio.run(with_and_without(1000, 15))


if __name__ == "__main__":
    main()
