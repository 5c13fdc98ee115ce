"""Programs that agents start end with the attempt, and threads notice at their next safe point."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from orchestra import Agent, Assignment, Orchestra, Workflow, run_process, run_process_sync, safe_point

# The child starts a child of its own, and writes down both process ids.
TREE = ["sh", "-c", 'sleep 60 & echo $$ $! > "$PIDS"; wait']


def alive(pids: Path) -> list[int]:
    found: list[int] = []
    for pid in map(int, pids.read_text().split()):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        if "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
            found.append(pid)
    return found


async def until(happens) -> None:
    for _ in range(400):
        if happens():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not happen")


async def wait_async(pids: Path) -> str:
    return (await run_process(TREE, env={**os.environ, "PIDS": str(pids)})).stdout


def wait_sync(pids: Path) -> str:
    return run_process_sync(TREE, env={**os.environ, "PIDS": str(pids)}).stdout


def agent_of(kind: str, pids: Path, **options) -> Agent:
    async def a(task: Assignment) -> str:
        return await wait_async(pids)

    def b(task: Assignment) -> str:
        return wait_sync(pids)

    return Agent("starter", a if kind == "async" else b, **options)


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_a_program_ends_with_its_attempt(kind: str, how: str, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    starter = agent_of(kind, pids, timeout=0.5 if how == "timeout" else None)
    starter.retry = starter.retry._replace(max_attempts=1)
    async with Orchestra("sqlite:///:memory:") as orchestra:
        run = await orchestra.start(Workflow("w", agents=[starter]), "go")
        await until(lambda: pids.exists() and pids.read_text().strip())
        assert how == "timeout" or len(alive(pids)) == 2
        if how == "cancel":
            await run.cancel()
        else:
            assert "no output within 0.5 s" in str((await run).results["starter"].error)
        await until(lambda: not alive(pids))


async def test_what_it_says_and_how_it_ended(tmp_path: Path) -> None:
    command = ["sh", "-c", "cat; echo no >&2; exit 3"]
    for finished in (await run_process(command, input="ü"), run_process_sync(command, input="ü")):
        assert (finished.returncode, finished.stdout, finished.stderr) == (3, "ü", "no\n")
    with pytest.raises(FileNotFoundError):
        await run_process([str(tmp_path / "nothing")])


async def test_a_thread_stops_at_its_next_safe_point() -> None:
    rounds: list[float] = []

    def works(task: Assignment) -> str:
        while True:
            rounds.append(time.monotonic())
            time.sleep(0.01)
            safe_point()

    async with Orchestra("sqlite:///:memory:") as orchestra:
        run = await orchestra.start(Workflow("w", agents=[Agent("works", works)]), "go")
        await until(lambda: len(rounds) > 3)
        await run.cancel()
        await asyncio.sleep(0.1)
        count = len(rounds)
        await asyncio.sleep(0.1)
        assert len(rounds) == count
    safe_point()  # outside of any attempt nothing is over
