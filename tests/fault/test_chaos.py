"""The short form of `chaos.py`: some seeds, two of them in processes that are killed, and every invariant held.

Besides, what long runs of it, and the search for what they can't reach, have found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestra import Agent, Assignment, Breaker, Plan, Task, Workflow
from tests.fault.chaos import INVARIANTS, campaign, table


def test_invariants_hold_while_agents_fall_sick_and_processes_are_killed(tmp_path: Path) -> None:
    tally = campaign(tmp_path, range(2, 17), jobs=2, pairs=0)
    print(f"\n{table(tally)}")
    assert not tally.violations, "\n\n".join(tally.violations)
    assert all(tally.checks[invariant] for invariant in INVARIANTS), "an invariant was never put to the test"
    assert tally.count["kills"], "no process was killed"
    assert len(tally.faults) >= 6, "too few kinds of faults were met"


class Fixed:
    """A planner with one plan."""

    def __init__(self, *tasks: Task) -> None:
        self.tasks = tasks

    def plan(self, request: str, *, agents: Sequence[Agent], messages: Sequence[Any]) -> Plan:
        return Plan(tasks=self.tasks)


async def test_nobody_waits_in_line_for_a_trial_that_hangs() -> None:
    calls: list[str] = []

    async def sick(task: Assignment) -> str:
        calls.append(f"{task.task.id} sick")
        if len(calls) > 2:
            await asyncio.sleep(60)
        raise ValueError("dead")

    async def well(task: Assignment) -> str:
        calls.append(f"{task.task.id} well")
        return "done"

    async def clock(task: Assignment) -> str:
        await asyncio.sleep(float(task.task.instruction))
        return "late"

    tasks = [
        Task(id="opens", capability="work"),
        Task(id="soon", capability="clock", instruction="0.2"),
        Task(id="trial", capability="work", needs=("soon",)),
        Task(id="later", capability="clock", instruction="0.5"),
        Task(id="next", capability="work", needs=("later",)),
    ]
    breaker = Breaker(failures=1, cool_down=0.1)
    agents = [
        Agent("a", sick, capabilities="work", timeout=1.5, max_concurrency=1, breaker=breaker),
        Agent("b", well, capabilities="work", max_concurrency=1),
        Agent("c", clock, capabilities="clock"),
    ]
    await Workflow("trial", agents=agents, planner=Fixed(*tasks)).compile().ainvoke({"request": "go"})
    assert calls == ["opens sick", "opens well", "trial sick", "next well", "trial well"]


async def test_a_replica_whose_agent_opens_is_replaced_by_a_spare_at_once() -> None:
    async def well(task: Assignment) -> str:
        return "done"

    async def sick(task: Assignment) -> str:
        raise ConnectionError("dead")

    agents = [
        Agent("a", well, capabilities="work"),
        Agent("b", sick, capabilities="work", breaker=Breaker(failures=1, cool_down=3)),
        Agent("c", well, capabilities="work"),
    ]
    flow = Workflow("replicas", agents=agents, planner=Fixed(Task(id="t", capability="work", replicas=2)))
    result = (await flow.compile().ainvoke({"request": "go"}))["results"]["t"]
    assert [(each.agent, each.outcome) for each in result.attempts] == [("a", "ok"), ("b", "error"), ("c", "ok")]
