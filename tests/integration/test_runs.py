"""Runs through the `Orchestra` handle."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph.types import interrupt

from checkpoints import SQLAlchemySaver
from orchestra import (
    Agent,
    Assignment,
    Orchestra,
    PlanError,
    RequestError,
    RunState,
    ThreadBusy,
    ThreadNotFound,
    ThreadWaiting,
    Workflow,
    WorkflowNotFound,
    agent,
)
from orchestra.events import PlanReady, TaskEnded, TaskStarted, TurnEnded


@agent
async def first(task: Assignment) -> int:
    return len(task.request)


@agent
async def second(x: int, task: Assignment) -> str:
    if "slow" in task.request:
        await asyncio.sleep(0.3)
    if "ask" in task.request:
        return f"{interrupt('who?')} {x}"
    if "fail" in task.request:
        raise ValueError("no")
    return f"{x} letters"


flow = Workflow("letters", agents=[first, second])


async def test_start_await_and_read_back(database: str) -> None:
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "abc", thread_id="t"))
        assert (outcome.state, outcome.answer) == (RunState.DONE, "3 letters")
        assert outcome.results["first"].output == 3
    async with Orchestra(database) as orchestra:
        info = await orchestra.info("t")
        assert (info.state, info.answer, info.workflow, info.turn) == (RunState.DONE, "3 letters", "letters", 1)
        assert info.results["first"].output == 3
        await (await orchestra.start(flow, "abcd", thread_id="t"))
        (info,) = await orchestra.runs()
        assert (info.turn, info.answer, info.request) == (2, "4 letters", "abcd")


async def test_the_list_is_newest_first_and_tells_states_apart(database: str) -> None:
    async with Orchestra(database) as orchestra:
        for thread, request in (("done", "x"), ("failed", "fail"), ("asks", "ask")):
            await (await orchestra.start(flow, request, thread_id=thread))
        stopped = await orchestra.start(flow, "slow", thread_id="stopped")
        await asyncio.sleep(0.1)
        assert (await orchestra.info("stopped")).state is RunState.RUNNING
        await stopped.cancel()
        infos = await orchestra.runs()
        assert [(info.thread_id, str(info.state)) for info in infos] == [
            ("stopped", "stopped"),
            ("asks", "waiting"),
            ("failed", "failed"),
            ("done", "done"),
        ]
        assert [question.value for question in infos[1].questions] == ["who?"]
        assert len(await orchestra.runs(limit=2)) == 2


async def test_events_reach_every_watcher_from_the_start(database: str) -> None:
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(flow, "slow")

        async def watch() -> list[str]:
            return [type(event).__name__ async for event in run.events()]

        early = asyncio.create_task(watch())
        await run
        late = await watch()
        assert await early == late
        kinds = [PlanReady, TaskStarted, TaskEnded, TaskStarted, TaskEnded, TurnEnded]
        assert late == [kind.__name__ for kind in kinds]


async def test_questions_are_answered_by_their_ids(database: str) -> None:
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "ask", thread_id="t"))
        assert outcome.state is RunState.WAITING
        with pytest.raises(ThreadWaiting):
            await orchestra.start(flow, "another", thread_id="t")
        (question,) = outcome.questions
        outcome = await (await orchestra.resume("t", workflow=flow, answers={question.id: "Ada"}))
        assert (outcome.state, outcome.answer) == (RunState.DONE, "Ada 3")


async def test_every_open_question_is_told_and_an_answered_one_is_not(database: str) -> None:
    def asker(name: str) -> Agent:
        async def run(task: Assignment) -> str:
            return f"{name} {interrupt(name)}"

        return Agent(name, run)

    both = Workflow("both", agents=[asker("one"), asker("two")])
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(both, "go", thread_id="t"))
        ids = {question.value: question.id for question in outcome.questions}
        assert set(ids) == {"one", "two"}
        outcome = await (await orchestra.resume("t", workflow=both, answers={ids["one"]: "A"}))
        assert [question.value for question in outcome.questions] == ["two"]
        assert [question.value for question in (await orchestra.info("t")).questions] == ["two"]
        outcome = await (await orchestra.resume("t", workflow=both, answers={ids["two"]: "B"}))
        assert {task: result.output for task, result in outcome.results.items()} == {"one": "one A", "two": "two B"}


async def test_a_thread_bound_with_with_config_is_held_too(database: str) -> None:
    async with Orchestra(database) as orchestra:
        graph = flow.compile(checkpointer=orchestra.saver).with_config(configurable={"thread_id": "t"})
        running = asyncio.create_task(graph.ainvoke({"request": "slow"}))
        await asyncio.sleep(0.1)
        with pytest.raises(ThreadBusy):
            await graph.ainvoke({"request": "x"})
        assert (await running)["answer"] == "4 letters"
        info = await orchestra.info("t")
        assert (info.workflow, info.state) == ("letters", RunState.DONE)


async def test_a_saver_that_was_given_stays_open(database: str) -> None:
    with SQLAlchemySaver(database) as saver:
        async with Orchestra(saver) as orchestra:
            await (await orchestra.start(flow, "abc", thread_id="t"))
        assert len(await saver.aheads()) == 1


async def test_a_cancelled_start_leaves_nothing_running_and_nothing_held(database: str) -> None:
    async with Orchestra(database) as orchestra:
        for _ in range(5):
            starting = asyncio.create_task(orchestra.start(flow, "slow", thread_id="t"))
            await asyncio.sleep(0.001)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
        assert (await (await orchestra.start(flow, "abc", thread_id="t"))).answer == "3 letters"


async def test_drain_and_resume(database: str) -> None:
    async with Orchestra(database) as orchestra:
        runs: list[str] = []

        @agent
        async def slow(task: Assignment) -> float:
            runs.append("slow")
            await asyncio.sleep(0.3)
            return 1.0

        @agent
        async def after(x: float) -> bytes:
            return b"x"

        late = Workflow("late", agents=[slow, after])
        run = await orchestra.start(late, "go", thread_id="t")
        while not runs:
            await asyncio.sleep(0.01)
        run.drain()
        outcome = await run
        assert outcome.state is RunState.STOPPED
        assert set(outcome.results) == {"slow"}
        outcome = await (await orchestra.resume("t", workflow=late))
        assert outcome.state is RunState.DONE
        assert runs == ["slow"]


async def test_what_start_and_resume_refuse(database: str) -> None:
    class Bad:
        def plan(self, request: str, **_: Any) -> Any:
            raise PlanError("no idea")

    async with Orchestra(database) as orchestra:
        with pytest.raises(RequestError):
            await orchestra.start(flow, " ")
        with pytest.raises(PlanError, match="no idea"):
            await orchestra.start(Workflow("w", agents=[first], planner=Bad()), "go")
        with pytest.raises(ThreadNotFound, match="'t9'"):
            await orchestra.resume("t9")
        local = Workflow("local", agents=[first])
        await (await orchestra.start(local, "go", thread_id="t"))
        with pytest.raises(WorkflowNotFound, match="not recorded: pass workflow="):
            await orchestra.resume("t")


async def test_another_handle_on_the_same_database_finds_the_thread_busy(database: str) -> None:
    async with Orchestra(database) as one, Orchestra(database) as other:
        run = await one.start(flow, "slow", thread_id="t")
        with pytest.raises(ThreadBusy):
            await other.start(flow, "x", thread_id="t")
        await run
        assert (await (await other.start(flow, "x", thread_id="t"))).state is RunState.DONE


async def test_leaving_the_handle_cancels_what_runs_and_it_can_be_resumed(database: str) -> None:
    async with Orchestra(database) as orchestra:
        await orchestra.start(flow, "slow", thread_id="t")
        await asyncio.sleep(0.1)
    async with Orchestra(database) as orchestra:
        assert (await orchestra.info("t")).state is RunState.STOPPED
        assert (await (await orchestra.resume("t", workflow=flow))).answer == "4 letters"


async def test_a_module_level_workflow_is_found_again_by_the_thread_alone(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_flow.py").write_text(
        "from orchestra import Assignment, Workflow, agent\n"
        "@agent\n"
        "async def only(task: Assignment) -> str:\n"
        "    return task.request.upper()\n"
        "mine = Workflow('mine', agents=[only])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_flow

    async with Orchestra(database) as orchestra:
        await (await orchestra.start(my_flow.mine, "go", thread_id="t"))
        info = await orchestra.info("t")
        assert info.reference == f"{tmp_path / 'my_flow.py'}:mine"
        outcome = await (await orchestra.resume("t"))
        assert outcome.answer == "GO"
    sys.modules.pop("my_flow")


async def test_an_answer_to_no_open_question_is_refused_and_the_question_stays(database: str) -> None:
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "ask", thread_id="t"))
        (question,) = outcome.questions
        with pytest.raises(RequestError, match=f"'mistyped' is no open question.*{question.id}"):
            await orchestra.resume("t", workflow=flow, answers={"mistyped": "Ada"})
        assert [one.id for one in (await orchestra.info("t")).questions] == [question.id]
        await (await orchestra.resume("t", workflow=flow, answers={question.id: "Ada"}))
        with pytest.raises(RequestError, match="open: none"):
            await orchestra.resume("t", workflow=flow, answers={question.id: "again"})


async def test_values_are_printed_as_short_texts(database: str) -> None:
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "abc", thread_id="t"))
        history = await orchestra.history("t")
        shown = [
            outcome,
            outcome.results["first"],
            await orchestra.info("t"),
            await orchestra.runs(),
            history,
            history[1],
        ]
        shown.append(await orchestra.compare("t", 3, 4))
    for value in shown:
        assert 0 < len(str(value)) < 1000
        assert "datetime" not in str(value)
