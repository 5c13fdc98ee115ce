"""What the processes of the fork kill test run: a seeded random plan, begun, forked, and gone on with after a kill.

An output is a function of the task, of the tag of the process that made it, and of the inputs: from it one can tell
what was kept from what ran again. Agents log their starts and ends to a file that the product does not know, with
O_APPEND, so that a killed process leaves what it had written.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestra import Agent, Assignment, Orchestra, RunState, Workflow

THREAD = "forked"
SIZE = 12


def note(log: str | Path, line: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def output(task: str, tag: str, inputs: Mapping[str, str]) -> str:
    """What a task delivers."""
    seen = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return f"{task}@{tag}:{seen[:16]}"


def random_needs(seed: int) -> dict[str, list[str]]:
    """The tasks, in an order in which they can be done, and up to three earlier ones that each needs."""
    chance = random.Random(seed)
    needs: dict[str, list[str]] = {}
    for i in range(SIZE):
        needs[f"t{i}"] = chance.sample(sorted(needs), min(len(needs), chance.choice((0, 1, 1, 2, 3))))
    return needs


def build(log: str | Path, seed: int, tag: str) -> Workflow:
    chance = random.Random(seed)

    def worker(name: str, seconds: float) -> Agent:
        async def run(task: Assignment) -> str:
            note(log, f"start {name}")
            await asyncio.sleep(seconds)
            note(log, f"end {name}")
            return output(name, tag, task.inputs)

        return Agent(name, run)

    needs = random_needs(seed)
    flow = Workflow("random", agents=[worker(name, chance.uniform(0.003, 0.03)) for name in needs])
    for name, wanted in needs.items():
        for need in wanted:
            flow.add_edge(need, name)
    return flow


async def begin(database: str, log: str | Path, seed: int, stop_at: int) -> None:
    """Bring a thread to its end, or stop it when so many of its tasks have a result."""
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(build(log, seed, "first"), "go", thread_id=THREAD)
        if stop_at == SIZE:
            await run
            return
        while len((await orchestra.info(THREAD)).raw) < stop_at:
            await asyncio.sleep(0)
        await run.cancel()


async def go_on(database: str, log: str, seed: int, how: dict[str, Any]) -> None:
    """Fork the thread; or, where that has been done, finish the branch."""
    flow = build(log, seed, "second")
    async with Orchestra(database) as orchestra:
        forked = (await orchestra.history(THREAD)).current > 1
        note(log, "ready")
        if not forked:
            run = await orchestra.fork(THREAD, workflow=flow, **how)
        elif (await orchestra.info(THREAD)).state is RunState.DONE:
            return
        else:
            run = await orchestra.resume(THREAD, workflow=flow)
        await run


def main(database: str, log: str, seed: str, how: str) -> None:
    """A process."""
    asyncio.run(go_on(database, log, int(seed), json.loads(how)))
