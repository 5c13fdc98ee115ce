"""What a process of the hierarchy's kill tests does: start a run of teams in teams, or go on with it.

Every level has a planner that never makes the same plan twice, so a plan that is made anew shows. The log is
independent of the product: one line per event, appended with O_APPEND, so that a killed process leaves what it wrote.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from langgraph.types import RetryPolicy

from orchestra import Agent, Assignment, Orchestra, Plan, Task, ThreadNotFound, Workflow
from orchestra.events import AttemptFailed

THREAD = "killed"


def logged(path: str, line: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{line}\n".encode())
    os.close(file)


class Drafting:
    """Plans so many tasks for the clerk, and one for each team, in some order and with some needs."""

    def __init__(self, place: str, log: str, teams: list[str], size: int) -> None:
        self.place, self.log, self.teams, self.size = place, log, teams, size

    async def plan(self, request: str) -> Plan:
        logged(self.log, f"plan {self.place}")
        await asyncio.sleep(random.uniform(0, 0.02))
        mark = random.randrange(10**6)
        names = [*(f"t{i}-{mark}" for i in range(self.size)), *self.teams]
        random.shuffle(names)
        tasks = [
            Task(
                id=name,
                agent=name if name in self.teams else "clerk",
                needs=tuple(random.sample(names[:at], min(at, random.randint(0, 2)))),
            )
            for at, name in enumerate(names)
        ]
        return Plan(tasks=tuple(tasks))


def clerk(place: str, log: str) -> Agent:
    async def run(task: Assignment) -> str:
        logged(log, f"start {place}{task.task.id}")
        await asyncio.sleep(random.uniform(0.005, 0.04))
        return f"{task.task.id}({len(task.inputs)})"

    return Agent("clerk", run)


def team(place: str, log: str, size: int, **inner: Workflow) -> Workflow:
    members = [clerk(place, log), *(Agent(name, flow) for name, flow in inner.items())]
    name = place.rstrip("/").rpartition("/")[2] or "company"
    return Workflow(name, agents=members, planner=Drafting(place, log, [*inner], size))


def company(log: str) -> Workflow:
    fraud = team("operations/fraud/", log, 5)
    operations = team("operations/", log, 5, fraud=fraud)
    return team("", log, 5, operations=operations, audit=team("audit/", log, 5))


def go_on(database: str, log: str) -> None:
    """Start the company's run, or resume it where the database has it."""
    outcome = asyncio.run(_go_on(database, company(log)))
    logged(log, f"over {outcome.state}")


async def _go_on(database: str, flow: Workflow) -> Any:
    async with Orchestra(database) as orchestra:
        try:
            run = await orchestra.resume(THREAD, workflow=flow)
        except ThreadNotFound:
            run = await orchestra.start(flow, "go", thread_id=THREAD)
        async for event in run.events():
            if isinstance(event, AttemptFailed) and event.retry_in:
                run.drain()
        return await run


# Poison


def poisoned(database: str, log: str, kind: str) -> None:
    """An agent takes the process down with it, until it is given up and another steps in.

    Args:
        database: Of the run.
        log: Of the agents.
        kind: Who is guarded: an "inner" agent of a team with a plan of its own, or the "team" that it is in.
    """

    async def deadly(task: Assignment) -> str:
        logged(log, f"start {task.task.agent}")
        await asyncio.sleep(0.1)  # the others are done and stored by then
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    def harmless(name: str) -> Callable[[Assignment], Awaitable[str]]:
        async def run(task: Assignment) -> str:
            logged(log, f"start {name}")
            return name

        return run

    guard: dict[str, Any] = {"max_crashes": 2}
    inner = Workflow("inner", agents=[Agent("brother", harmless("brother"))], planner=Named("bad", "brother"))
    inner.add_agent(Agent("bad", deadly, **(guard if kind == "inner" else {})))
    outer = Workflow("outer", agents=[Agent("sister", harmless("sister"))], planner=Named("team", "sister"))
    outer.add_agent(Agent("team", inner, **(guard if kind == "team" else {})))
    spared = inner if kind == "inner" else outer
    spared.add_agent(Agent("spare", harmless("spare")), backup_for="bad" if kind == "inner" else "team")
    outcome = asyncio.run(_go_on(database, outer))
    logged(log, f"over {outcome.state}")


def drained(database: str, log: str) -> None:
    """An agent of a team takes the process down, but at its second try: that fails, and the run is drained."""

    async def deadly(task: Assignment) -> str:
        logged(log, "start bad")
        if len(Path(log).read_text().splitlines()) == 2:
            raise ConnectionError("try again in a minute")
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    patient = RetryPolicy(initial_interval=60, max_interval=60)
    inner = Workflow("inner", agents=[Agent("bad", deadly, max_crashes=2, retry=patient)])
    logged(log, f"over {asyncio.run(_go_on(database, Workflow('outer', agents=[Agent('team', inner)]))).state}")


class Named:
    """Plans a task for each of some agents."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def plan(self, request: str) -> Plan:
        return Plan(tasks=tuple(Task(id=f"task-{name}", agent=name) for name in self.names))
