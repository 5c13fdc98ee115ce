"""One process of a kill test: runs or resumes a seeded random plan and logs every start and finish.

    python program.py DATABASE LOG SEED flat|nested

Whether it starts or resumes is for the database to say. The log is independent of the product: one line per event,
appended with O_APPEND, so that a killed process leaves what it had written.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

from orchestra import Agent, Assignment, Orchestra, ThreadNotFound, Workflow

THREAD = "killed"


def logged(path: str, line: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def worker(name: str, log: str, seconds: float) -> Agent:
    async def run(task: Assignment) -> str:
        logged(log, f"start {name}")
        await asyncio.sleep(seconds)
        logged(log, f"end {name}")
        return f"{name}({','.join(sorted(task.inputs.values()))})"

    return Agent(name.rpartition("/")[2], run)


def random_flow(name: str, log: str, chance: random.Random, size: int, teams: dict[str, Workflow]) -> Workflow:
    """A workflow of `size` tasks; each needs up to three earlier ones."""
    prefix = "" if name == "top" else f"{name}/"
    flow = Workflow(name, max_tasks=100)
    names: list[str] = []
    for i in range(size):
        task = f"t{i}"
        if i in (size // 3, size // 2) and teams:
            key, team = teams.popitem()
            task = key
            flow.add_agent(Agent(key, team))
        else:
            flow.add_agent(worker(f"{prefix}{task}", log, chance.uniform(0.005, 0.06)))
        for need in chance.sample(names, min(len(names), chance.randint(0, 3))):
            flow.add_edge(need, task)
        names.append(task)
    return flow


def build(log: str, seed: int, kind: str) -> Workflow:
    chance = random.Random(seed)
    teams: dict[str, Workflow] = {}
    if kind == "nested":
        teams = {name: random_flow(name, log, chance, 8, {}) for name in ("red", "blue")}
    return random_flow("top", log, chance, 14, teams)


async def main(database: str, log: str, seed: int, kind: str) -> None:
    flow = build(log, seed, kind)
    async with Orchestra(database) as orchestra:
        try:
            run = await orchestra.resume(THREAD, workflow=flow)
        except ThreadNotFound:
            run = await orchestra.start(flow, "go", thread_id=THREAD)
        outcome = await run
    print(outcome.state, outcome.answer)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
