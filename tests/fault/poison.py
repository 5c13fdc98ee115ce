"""One process of the poison test: an agent that takes the whole process down until it is given up.

python poison.py DATABASE LOG
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from orchestra import Assignment, Orchestra, ThreadNotFound, Workflow, agent


async def main(database: str, log: Path) -> None:
    @agent(max_crashes=2)
    async def poisoned(task: Assignment) -> int:
        await asyncio.sleep(0.2)  # the other one is done and stored by then
        with log.open("a") as file:
            file.write("poisoned\n")
        os._exit(9)

    @agent
    async def healthy(task: Assignment) -> str:
        with log.open("a") as file:
            file.write("healthy\n")
        return "fine"

    flow = Workflow("w", agents=[poisoned, healthy])
    async with Orchestra(database) as orchestra:
        try:
            run = await orchestra.resume("t", workflow=flow)
        except ThreadNotFound:
            run = await orchestra.start(flow, "go", thread_id="t")
        outcome = await run
    result = outcome.results["poisoned"]
    print([attempt.outcome for attempt in result.attempts], result.error)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
