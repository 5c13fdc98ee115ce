from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestra import Plan, Result, Status, Task
from orchestra.dataflow import Board, Call, Deferred, Stored, Suspended, Turn, Unsettled
from orchestra.tasks import now


def result(task: str) -> Result:
    return Result(task=task, status=Status.SUCCEEDED, output=task, agent="a", started=now(), ended=now())


def turn(*tasks: Task) -> Turn:
    return Turn(id="turn", request="r", plan=Plan(tasks=tasks))


PAIR = (Task(id="a"), Task(id="b", needs=("a",)))


@settings(max_examples=50)
@given(st.lists(st.sampled_from([result("a"), *Unsettled]), min_size=2, max_size=4))
def test_a_board_never_resolves_twice(outcomes: list[Any]) -> None:
    board = Board(turn(*PAIR))
    board.post("a", outcomes[0])
    for outcome in outcomes[1:]:
        with pytest.raises(RuntimeError, match="settled twice"):
            board.post("a", outcome)
    assert asyncio.run(board.outcome("a")) == outcomes[0]


async def test_needs_arrive_when_they_are_posted_and_a_cancelled_waiter_harms_nobody() -> None:
    board = Board(turn(*PAIR))
    first, second = (asyncio.create_task(board.needs_of(PAIR[1])) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    board.post("a", result("a"))
    assert (await second)["a"].output == "a"


async def test_a_deferred_need_defers_even_beside_a_suspended_one() -> None:
    tasks = (Task(id="a"), Task(id="b"), Task(id="c", needs=("a", "b")))
    board = Board(turn(*tasks))
    board.post("a", Unsettled.SUSPENDED)
    board.post("b", Unsettled.DEFERRED)
    with pytest.raises(Deferred):
        await board.needs_of(tasks[2])
    board = Board(turn(*tasks))
    board.post("a", result("a"))
    board.post("b", Unsettled.SUSPENDED)
    with pytest.raises(Suspended):
        await board.needs_of(tasks[2])


async def test_refilling_reads_once_and_knows_what_runs_now() -> None:
    tasks = (Task(id="a"), Task(id="b"), Task(id="c"), Task(id="d", needs=("a", "b", "c")))
    reads: list[int] = []

    async def load() -> Stored:
        reads.append(1)
        return Stored(turn=turn(*tasks), results={"a": result("a"), "b": result("b")}, questions={}, notes=())

    call = Call(key="k")
    boards = await asyncio.gather(*(call.board("checkpoint", task, load) for task in ("b", "d")))
    assert len(reads) == 1
    board = boards[0]
    assert board is boards[1]
    assert (await board.outcome("a")).output == "a"  # type: ignore[union-attr]
    assert await board.outcome("c") is Unsettled.DEFERRED  # neither stored nor running: it was left behind
    board.post("b", result("b"))  # stored too, but it runs again, so the stored copy does not count


async def test_a_failed_refill_reaches_everyone_who_waits() -> None:
    async def load() -> Stored:
        raise OSError("database gone")

    call = Call(key="k")
    found = await asyncio.gather(*(call.board("c", task, load) for task in "abc"), return_exceptions=True)
    assert [str(error) for error in found] == ["database gone"] * 3
