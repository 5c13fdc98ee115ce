"""The list of runs, what is told of one, and what is done to a run from outside: cancel it, delete its thread."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from langgraph.types import Command, RetryPolicy, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from checkpoints import SQLAlchemySaver
from orchestra import (
    Agent,
    Assignment,
    Orchestra,
    RunList,
    RunState,
    Status,
    ThreadBusy,
    ThreadNotFound,
    Workflow,
    WorkflowNotFound,
    agent,
    wait_for,
)
from orchestra.events import AttemptFailed, Event, PlanReady, TaskEnded, TaskStarted, TaskWaiting, TurnEnded

ROOT = Path(__file__).parents[2]


class Point(BaseModel):
    x: int


class State(TypedDict):
    point: Point


def worker(name: str, hanging: list[Any] | None = None, runs: list[str] | None = None) -> Agent:
    """Does what the request says; hangs as long as `hanging` holds something."""

    async def run(task: Assignment) -> str:
        if runs is not None:
            runs.append(name)
        if hanging:
            await asyncio.sleep(60)
        if task.request == "ask":
            return interrupt("who?")
        if task.request == "wait":
            wait_for(3600)
        if task.request == "fail":
            raise ValueError("no")
        return name

    return Agent(name, run)


def one(name: str, hanging: list[Any] | None = None) -> Workflow:
    return Workflow(name, agents=[worker("it", hanging)])


async def until(true: Any) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


async def five_states(orchestra: Orchestra, hanging: list[Any], user: str, name: str) -> None:
    """One thread in each state but running, and one that waits for a date."""
    flow = one(name, hanging)
    for request in ("done", "fail", "ask", "wait"):
        await (await orchestra.start(flow, request, thread_id=f"{name} {user} {request}", user=user))
    hanging.append(True)
    run = await orchestra.start(flow, "stop", thread_id=f"{name} {user} stop", user=user)
    await run.cancel()
    hanging.clear()


async def test_the_list_is_filtered_ordered_and_cut(any_url: str) -> None:
    async with Orchestra(any_url) as orchestra:
        assert not await orchestra.runs()
        hanging: list[Any] = []
        for name, user in (("red", "ada"), ("red", "bob"), ("blue", "ada"), ("blue", "")):
            await five_states(orchestra, hanging, user, name)
        hanging.append(True)
        running = await orchestra.start(one("red", hanging), "run", thread_id="red ada run", user="ada")

        everything = await orchestra.runs()
        assert isinstance(everything, RunList)
        assert len(everything) == 21
        names = [info.thread_id for info in everything]
        requests = ("stop", "wait", "ask", "fail", "done")
        assert names[:6] == ["red ada run", *(f"blue  {request}" for request in requests)]
        assert [info.since for info in everything] == sorted((info.since for info in everything), reverse=True)
        states = {"done": "done", "fail": "failed", "ask": "waiting", "wait": "waiting", "stop": "stopped"}
        for info in everything:
            workflow, user, request = info.thread_id.split(" ")
            assert (info.workflow, info.user, info.request) == (workflow, user, request)
            assert info.state == states.get(request, "running")
            assert (len(info.questions), len(info.timers)) == (request == "ask", request == "wait")

        for state in (None, *RunState):
            for workflow in (None, "red", "re"):
                for user in (None, "ada", "eve"):
                    wanted = {"state": state, "workflow": workflow, "user": user}
                    fitting = [
                        info.thread_id
                        for info in everything
                        if all(value is None or getattr(info, key) == value for key, value in wanted.items())
                    ]
                    for limit in (None, 2):
                        found = await orchestra.runs(**wanted, limit=limit)  # type: ignore[arg-type]
                        assert [info.thread_id for info in found] == fitting[:limit], (wanted, limit)
                        assert isinstance(found, RunList)
        assert len(await orchestra.runs(state="waiting", user="ada", workflow="blue")) == 2
        for limit in (0, 1, 21, 99):
            assert [info.thread_id for info in await orchestra.runs(limit=limit)] == names[:limit]
        await running.cancel()


async def test_the_list_of_those_that_are_nobodys(database: str) -> None:
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(one("red"), "x", thread_id="ada's", user="ada"))
        await (await orchestra.start(one("red"), "x", thread_id="nobody's"))
        assert [info.thread_id for info in await orchestra.runs(user="")] == ["nobody's"]


async def test_a_thread_moves_to_the_top_when_it_changes_and_is_there_once(database: str) -> None:
    async with Orchestra(database) as orchestra:
        for thread in ("a", "b", "c"):
            await (await orchestra.start(one("red"), "x", thread_id=thread))
        await (await orchestra.start(one("red"), "ask", thread_id="a", user="ada"))
        infos = await orchestra.runs()
        assert [(info.thread_id, info.turn, str(info.state)) for info in infos] == [
            ("a", 2, "waiting"),
            ("c", 1, "done"),
            ("b", 1, "done"),
        ]
        assert [info.thread_id for info in await orchestra.runs(state=RunState.DONE, limit=1)] == ["c"]
        # The newest turn counts, not an earlier one of another user or workflow.
        assert [info.thread_id for info in await orchestra.runs(user="ada")] == ["a"]
        question = infos[0].questions[0]
        await (await orchestra.resume("a", workflow=one("red"), answers={question.id: "me"}))
        await (await orchestra.start(one("red"), "x", thread_id="a", user="bob"))
        assert not await orchestra.runs(user="ada")


async def test_a_list_longer_than_a_page(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestra.looking._PAGE", 3)
    async with Orchestra(database) as orchestra:
        for number in range(8):
            request = "fail" if number in (0, 4, 7) else "done"
            await (await orchestra.start(one("red"), request, thread_id=str(number)))
        everything = [info.thread_id for info in await orchestra.runs()]
        assert everything == [*"76543210"]
        assert [info.thread_id for info in await orchestra.runs(limit=5)] == everything[:5]
        assert [info.thread_id for info in await orchestra.runs(state="failed")] == [*"740"]
        assert [info.thread_id for info in await orchestra.runs(state="failed", limit=2)] == [*"74"]


async def test_a_thread_that_cannot_be_read_hides_no_other_and_can_be_deleted(database: str) -> None:
    async def it(task: Assignment) -> Any:
        return "it", Command(update={"point": Point(x=1)})

    async with SQLAlchemySaver(database, allowed_types=[Point]) as saver, Orchestra(saver) as orchestra:
        flow = Workflow("typed", agents=[Agent("it", it)], state_schema=State)
        assert (await (await orchestra.start(flow, "go", thread_id="typed"))).state is RunState.DONE
    async with Orchestra(database) as orchestra:  # as the command line opens it, which knows no types
        await (await orchestra.start(one("red"), "wait", thread_id="plain"))
        assert "plain" in [info.thread_id for info in await orchestra.runs()]
        assert await orchestra.tick() == []
        await orchestra.delete("typed")
        assert [info.thread_id for info in await orchestra.runs()] == ["plain"]


def nested(runs: list[str] | None = None, hanging: list[Any] | None = None) -> Workflow:
    inner = Workflow("inner", agents=[worker("deep", None, runs), worker("asks", hanging, runs)])
    inner.add_edge("deep", "asks")
    middle = Workflow("middle", agents=[worker("shallow", None, runs), Agent("b", inner)])
    middle.add_edge("shallow", "b")
    outer = Workflow("outer", agents=[worker("first", None, runs), Agent("a", middle), worker("last", None, runs)])
    return outer.add_edge("first", "a").add_edge("a", "last")


async def test_teams_in_teams_are_told_with_the_run(any_url: str) -> None:
    inner = Workflow("inner", agents=[worker("deep"), worker("last")]).add_edge("deep", "last")
    middle = Workflow("middle", agents=[Agent("b", inner), Agent("c", Workflow("other", agents=[worker("x")]))])
    async with Orchestra(any_url) as orchestra:
        flow = Workflow("outer", agents=[Agent("a", middle), worker("side")])
        await (await orchestra.start(flow, "go", thread_id="t"))
        first = await orchestra.info("t")
        assert {task: {*team.teams} for task, team in first.teams.items()} == {"a": {"b", "c"}}
        team = first.teams["a"]
        assert (team.workflow, team.state, {*team.results}) == ("middle", RunState.DONE, {"b", "c"})
        inner = team.teams["b"]
        assert (inner.workflow, inner.state, inner.thread_id) == ("inner", RunState.DONE, "t")
        assert {task: result.output for task, result in inner.results.items()} == {"deep": "deep", "last": "last"}
        assert team.teams["c"].results["x"].output == "x"
        assert [info.teams for info in await orchestra.runs()] == [{}]
    async with Orchestra(any_url) as orchestra:
        waiting = Workflow("outer", agents=[Agent("a", one("middle"))])
        outcome = await (await orchestra.start(waiting, "ask", thread_id="t"))
        info = await orchestra.info("t")  # the newest turn's teams, and none of the first one's
        assert (info.state, info.waiting) == (RunState.WAITING, ("a",))
        assert {*info.teams} == {"a"}
        assert (info.teams["a"].state, info.teams["a"].waiting) == (RunState.WAITING, ("it",))
        assert info.teams["a"].teams == {}
        await (await orchestra.resume("t", workflow=waiting, answers={outcome.questions[0].id: "me"}))
        info = await orchestra.info("t")
        assert (info.teams["a"].state, info.teams["a"].results["it"].output) == (RunState.DONE, "me")


async def test_teams_of_a_run_that_goes_on_and_of_one_that_was_cut_off(database: str) -> None:
    runs: list[str] = []
    hanging: list[Any] = [True]
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(nested(runs, hanging), "go", thread_id="t")
        async with asyncio.timeout(10):
            while "asks" not in runs or "deep" not in (await orchestra.info("t")).teams["a"].teams["b"].raw:
                await asyncio.sleep(0.01)
        assert (await orchestra.info("t")).state is RunState.RUNNING
        await run.cancel()
        info = await orchestra.info("t")
        assert (info.state, {*info.raw}) == (RunState.STOPPED, {"first"})
        assert (info.teams["a"].state, {*info.teams["a"].raw}) == (RunState.STOPPED, {"shallow"})
        assert {*info.teams["a"].teams["b"].raw} == {"deep"}
        hanging.clear()
        await (await orchestra.resume("t", workflow=nested(runs, hanging)))
        info = await orchestra.info("t")
        assert {*info.teams["a"].teams["b"].raw} == {"deep", "asks"}
        assert info.teams["a"].state is info.teams["a"].teams["b"].state is RunState.DONE
    assert sorted(runs) == ["asks", "asks", "deep", "first", "last", "shallow"]


def told(events: list[Event]) -> list[tuple[Any, ...]]:
    """What can be told again of a run, without the order of what happened at the same time."""
    lines: list[tuple[Any, ...]] = []
    for event in events:
        match event:
            case PlanReady():
                lines.append((event.path, "plan", *(task.id for task in event.plan.tasks)))
            case TaskStarted():
                lines.append((event.path, "started", event.task, event.agent, event.attempt))
            case AttemptFailed():
                lines.append((event.path, "failed", event.task, event.attempt.model_dump_json()))
            case TaskEnded():
                lines.append((event.path, "ended", event.task, event.result.model_dump_json()))
            case TaskWaiting():
                lines.append((event.path, "waiting", event.task))
            case TurnEnded() if not event.path:  # a team's answer is its task's result
                lines.append((event.path, "answer", event.answer))
    return sorted(lines, key=repr)


def eventful() -> Workflow:
    """A team in a team, an attempt that fails, a backup, a task that fails and one that is skipped."""
    calls: list[str] = []

    async def shaky(task: Assignment) -> str:
        calls.append("shaky")
        if len(calls) < 3:
            raise ConnectionError("gone")
        return "shaky"

    async def bad(task: Assignment) -> str:
        raise ValueError("no")

    retry = RetryPolicy(max_attempts=3, initial_interval=0.001)
    inner = Workflow("inner", agents=[Agent("shaky", shaky, retry=retry), worker("quiet")])
    middle = Workflow("middle", agents=[Agent("b", inner), Agent("bad", bad), worker("lost")])
    middle.add_edge("bad", "lost")
    outer = Workflow("outer", agents=[Agent("a", middle), Agent("first", bad), worker("last")])
    outer.add_agent(worker("spare"), backup_for="first")
    return outer.add_edge("first", "last")


async def test_the_events_of_the_past_tell_what_those_of_the_present_told(any_url: str) -> None:
    async with Orchestra(any_url) as orchestra:
        run = await orchestra.start(eventful(), "go", thread_id="t")
        await run
        live = [event async for event in run.events()]
    async with Orchestra(any_url) as orchestra:
        past = await orchestra.events("t")
        info = await orchestra.info("t")
    assert told(past) == told(live)
    assert len([event for event in past if isinstance(event, AttemptFailed)]) == 4
    assert [event.at for event in past[:-1]] == sorted(event.at for event in past[:-1])
    assert isinstance(past[0], PlanReady)
    assert isinstance(past[-1], TurnEnded)
    for kind in (TaskStarted, TaskEnded):
        times = {(event.path, event.task): event.at for event in live if isinstance(event, kind)}
        for event in past:
            if isinstance(event, kind):
                assert abs((event.at - times[event.path, event.task]).total_seconds()) < 2
    # A task starts after what it needs has ended, told again too.
    order = [(type(event).__name__, event.task) for event in past if isinstance(event, TaskStarted | TaskEnded)]
    assert order.index(("TaskEnded", "first")) < order.index(("TaskStarted", "last"))
    assert info.teams["a"].results["lost"].status is Status.SKIPPED


async def test_the_events_of_a_run_that_waits_and_of_its_newest_turn_only(database: str) -> None:
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(eventful(), "go", thread_id="t"))
        flow = Workflow("w", agents=[worker("it"), worker("then")]).add_edge("it", "then")
        run = await orchestra.start(flow, "ask", thread_id="t")
        outcome = await run
        past = await orchestra.events("t")
        assert [type(event) for event in past] == [PlanReady, TaskWaiting]
        assert [event.task for event in past if isinstance(event, TaskWaiting)] == ["it"]
        await (await orchestra.resume("t", workflow=flow, answers={outcome.questions[0].id: "me"}))
        with pytest.raises(ThreadNotFound, match="'none'"):
            await orchestra.events("none")


async def test_agents_of_a_cancelled_run_hear_of_it_at_once(database: str) -> None:
    heard: dict[str, float] = {}
    working: list[str] = []

    def hearing(name: str) -> Agent:
        async def run(task: Assignment) -> str:
            working.append(name)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                heard[name] = time.monotonic()
                raise
            return name

        return Agent(name, run)

    inner = Workflow("inner", agents=[hearing("deep")])
    agents = [worker("quick"), hearing("slow"), Agent("a", Workflow("team", agents=[Agent("b", inner)]))]
    flow = Workflow("w", agents=agents)
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(flow, "go", thread_id="t")
        async with asyncio.timeout(10):
            while len(working) < 2 or "quick" not in (await orchestra.info("t")).raw:
                await asyncio.sleep(0.01)
        began = time.monotonic()
        assert await orchestra.cancel("t") is True
        assert {*heard} == {"slow", "deep"}
        assert max(heard.values()) - began < 0.5
        assert run.ended
        with pytest.raises(asyncio.CancelledError):
            await run
        info = await orchestra.info("t")
        assert (info.state, {*info.raw}) == (RunState.STOPPED, {"quick"})
        assert await orchestra.cancel("t") is False
        with pytest.raises(ThreadNotFound):
            await orchestra.cancel("none")
        assert await orchestra.saver.aleases() == []


async def test_cancelling_what_waits_or_is_done_cancels_nothing(database: str) -> None:
    async with Orchestra(database) as orchestra:
        for request in ("done", "ask"):
            await (await orchestra.start(one("w"), request, thread_id=request))
            before = await orchestra.info(request)
            assert await orchestra.cancel(request) is False
            assert await orchestra.info(request) == before


PROGRAM = """
import asyncio, sys
from pathlib import Path
from orchestra import Assignment, Orchestra, Workflow, agent, leases

leases._TTL = 6.0  # it looks every 2 s whether it still has the thread; test_cli_runs waits as long as a user does

HERE = Path(__file__).parent

def log(line):
    with (HERE / "log").open("a") as file:
        file.write(line + "\\n")

@agent
async def quick(task: Assignment) -> int:
    log("quick ran")
    return 1

@agent
async def slow(x: int) -> str:
    log("slow started")
    try:
        while not (HERE / "go").exists():
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        log("slow cancelled")
        raise
    log("slow ran")
    return "done"

flow = Workflow("far", agents=[quick, slow])

async def main():
    async with Orchestra(sys.argv[1]) as orchestra:
        run = await orchestra.start(flow, "go", thread_id="t", reference=f"{__file__}:flow")
        try:
            await run
        except Exception as error:
            log(f"{type(error).__name__}: {error}")

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_a_run_of_another_process_is_cancelled_and_can_be_resumed(database: str, tmp_path: Path) -> None:
    program = tmp_path / "far.py"
    program.write_text(PROGRAM)

    def log() -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (tmp_path / "log").read_text().splitlines()
        return []

    process = subprocess.Popen([sys.executable, str(program), database], cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    try:
        await until(lambda: "slow started" in log())
        async with Orchestra(database) as orchestra:
            async with asyncio.timeout(10):
                while "quick" not in (await orchestra.info("t")).raw:
                    await asyncio.sleep(0.02)
            assert (await orchestra.info("t")).state is RunState.RUNNING
            with pytest.raises(ThreadBusy):
                await orchestra.delete("t")
            began = time.monotonic()
            assert await orchestra.cancel("t") is True
            assert (await orchestra.info("t")).state is RunState.STOPPED  # from now on it can store nothing
            assert await orchestra.cancel("t") is False
            code = await asyncio.to_thread(process.wait, 20)
            assert (code, time.monotonic() - began < 8) == (0, True)
            assert log()[:3] == ["quick ran", "slow started", "slow cancelled"]
            assert log()[3].startswith("ThreadBusy: ")
            assert "cancelled from elsewhere" in log()[3]
            (tmp_path / "go").touch()
            outcome = await (await orchestra.resume("t"))
            assert (outcome.state, outcome.answer) == (RunState.DONE, "done")
            assert log()[4:] == ["slow started", "slow ran"]
    finally:
        process.kill()
        process.wait()


async def test_deleting_a_thread(any_url: str) -> None:
    hanging: list[Any] = [True]

    @agent
    async def learns(task: Assignment) -> str:
        task.remember("tone", "dry")
        return "learns"

    flow = Workflow("w", agents=[learns, Agent("team", one("team", hanging))])
    async with Orchestra(any_url) as orchestra, Orchestra(any_url) as other:
        await (await orchestra.start(one("w"), "x", thread_id="kept"))
        run = await orchestra.start(flow, "go", thread_id="t", user="ada")
        for handle in (orchestra, other):
            with pytest.raises(ThreadBusy, match="'t'"):
                await handle.delete("t")
        async with asyncio.timeout(10):
            while "learns" not in (await orchestra.info("t")).raw:
                await asyncio.sleep(0.01)
        await run.cancel()
        await other.delete("t")
        for what in (
            orchestra.info,
            orchestra.events,
            orchestra.history,
            orchestra.turns,
            orchestra.resume,
            orchestra.cancel,
            orchestra.delete,
        ):
            with pytest.raises(ThreadNotFound, match="'t'"):
                await what("t")
        assert [info.thread_id for info in await orchestra.runs()] == ["kept"]
        assert await orchestra.saver.aheads(thread_id="t", nested=True) == []
        assert [memo.key for memo in await orchestra.memory("ada").all()] == ["tone"]
        hanging.clear()
        outcome = await (await orchestra.start(flow, "go", thread_id="t", user="ada"))  # the name is free again
        assert (outcome.state, (await orchestra.info("t")).turn) == (RunState.DONE, 1)


async def test_a_thread_that_waits_can_be_deleted(database: str) -> None:
    async with Orchestra(database) as orchestra:
        for request in ("ask", "wait"):
            await (await orchestra.start(one("w"), request, thread_id=request))
            await orchestra.delete(request)
        assert not await orchestra.runs()


async def test_a_thread_of_a_workflow_that_is_gone_can_be_looked_at_and_deleted(database: str) -> None:
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(one("w"), "ask", thread_id="t"))
    async with Orchestra(database) as orchestra:
        assert (await orchestra.info("t")).questions[0].value == "who?"
        with pytest.raises(WorkflowNotFound):
            await orchestra.resume("t")
        await orchestra.delete("t")
        assert not await orchestra.runs()
