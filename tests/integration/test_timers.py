"""Waiting for a date or a person: the run ends, nothing is held, and a tick, or whoever resumes it, goes on in time."""

from __future__ import annotations

import asyncio
import operator
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from orchestra import (
    Agent,
    Assignment,
    Orchestra,
    Plan,
    RunState,
    Task,
    ThreadWaiting,
    Ticked,
    Workflow,
    WorkflowNotFound,
    agent,
    ask,
    wait_for,
    wait_until,
)
from orchestra.events import TaskWaiting

THREAD: Any = {"configurable": {"thread_id": "t"}}
HOUR = timedelta(hours=1)


def now() -> datetime:
    return datetime.now(UTC)


class Planned:
    """Makes the same plan of every request."""

    def __init__(self, *tasks: Task) -> None:
        self.tasks = tasks

    def plan(self, request: str, *, agents: Any, messages: Any) -> Plan:
        return Plan(tasks=self.tasks)


def worker(name: str, work: Callable[[Assignment], Any] = lambda _: None, *, blocking: bool = False) -> Agent:
    """Does what it is to and says that, or else its name."""

    def run(task: Assignment) -> str:
        return work(task) or name

    async def arun(task: Assignment) -> str:
        return run(task)

    return Agent(name, run if blocking else arun)


def counted(runs: list[str], name: str, work: Callable[[Assignment], Any] = lambda _: None) -> Agent:
    def run(task: Assignment) -> Any:
        runs.append(name)
        return work(task)

    return worker(name, run)


def waiter(name: str, delay: timedelta = HOUR) -> Agent:
    return worker(name, lambda _: wait_for(delay))


def one(name: str, work: Callable[[Assignment], Any]) -> Workflow:
    return Workflow(name, agents=[worker(name, work)])


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


def about(moment: datetime | None, expected: datetime) -> bool:
    return moment is not None and abs(moment - expected) < timedelta(seconds=30)


WAYS: dict[str, tuple[Callable[[], Any], str]] = {
    "wait_for a timedelta": (lambda: wait_for(HOUR), "it"),
    "wait_for seconds": (lambda: wait_for(3600), "it"),
    "wait_until": (lambda: wait_until(now() + HOUR), "it"),
    "wait_until without a timezone": (lambda: wait_until((now() + HOUR).replace(tzinfo=None)), "it"),
    "wait_until in another timezone": (lambda: wait_until((now() + HOUR).astimezone(timezone(9 * HOUR))), "it"),
    "ask": (lambda: ask("who?", within=HOUR, otherwise="nobody"), "nobody"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["async", "blocking", "in a team"])
async def test_an_agent_waits_and_a_tick_goes_on_when_it_is_time(database: str, kind: str, way: str) -> None:
    wait, answer = WAYS[way]
    flow = Workflow("w", agents=[worker("it", lambda _: wait(), blocking=kind == "blocking")])
    if kind == "in a team":
        flow = Workflow("outer", agents=[Agent("team", Workflow("middle", agents=[Agent("inner", flow)]))])
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go", thread_id="t"))
        assert (outcome.state, outcome.answer) == (RunState.WAITING, None)
        assert about(outcome.due, now() + HOUR)
        assert [one.value for one in outcome.questions] == (["who?"] if way == "ask" else [])
        assert await orchestra.saver.aleases() == []
        with pytest.raises(ThreadWaiting):
            await orchestra.start(flow, "another", thread_id="t")
    async with Orchestra(database) as orchestra:  # nothing but the database is needed to know it
        info = await orchestra.info("t")
        assert (info.state, info.due, len(info.timers)) == (RunState.WAITING, outcome.due, int(way != "ask"))
        assert info.due is not None
        assert await orchestra.tick(workflow=flow) == []
        assert await orchestra.tick(workflow=flow, at=info.due - timedelta(microseconds=1)) == []
        (ticked,) = await orchestra.tick(workflow=flow, at=info.due)
        assert isinstance(ticked, Ticked)
        assert (ticked.thread_id, ticked.error) == ("t", None)
        assert ticked.outcome is not None
        assert (ticked.outcome.state, ticked.outcome.answer, ticked.outcome.due) == (RunState.DONE, answer, None)
        info = await orchestra.info("t")
        assert (info.state, info.due, info.timers) == (RunState.DONE, None, ())
        assert await orchestra.tick(workflow=flow, at=now() + 9 * HOUR) == []


async def test_a_waiting_run_in_every_database(any_url: str) -> None:
    runs: list[str] = []
    flow = Workflow(
        "w",
        agents=[
            counted(runs, "before"),
            counted(runs, "waits", lambda _: wait_for(HOUR)),
            counted(runs, "asks", lambda _: ask("who?", within=2 * HOUR, otherwise={"who": ["nobody", "é"]})["who"][1]),
            counted(runs, "after"),
        ],
    )
    flow.add_edge("before", "waits").add_edge("before", "asks").add_edge(["waits", "asks"], "after")
    async with Orchestra(any_url) as orchestra:
        first = await (await orchestra.start(flow, "go", thread_id="t"))
        assert {*first.results} == {"before"}
    async with Orchestra(any_url) as orchestra:
        (ticked,) = await orchestra.tick(workflow=flow, at=now() + 1.5 * HOUR)
        assert ticked.outcome is not None
        assert (ticked.outcome.state, {*ticked.outcome.results}) == (RunState.WAITING, {"before", "waits"})
        assert ticked.outcome.due is not None
        assert first.due is not None
        assert ticked.outcome.due > first.due
    async with Orchestra(any_url) as orchestra:
        (ticked,) = await orchestra.tick(workflow=flow, at=now() + 2.5 * HOUR)
        assert ticked.outcome is not None
        assert (ticked.outcome.state, ticked.outcome.results["asks"].output) == (RunState.DONE, "é")
    assert sorted(runs) == ["after", "asks", "asks", "before", "waits", "waits"]


async def test_timers_in_plain_langgraph_are_interrupts(any_saver: Any) -> None:
    flow = one("it", lambda _: wait_until(datetime(2040, 1, 1)) or ask("who?", within=HOUR, otherwise="nobody"))
    graph = flow.compile(checkpointer=any_saver)
    state = await graph.ainvoke({"request": "go"}, THREAD)
    assert state["__interrupt__"][0].value["due"] == "2040-01-01T00:00:00+00:00"
    state = await graph.ainvoke(Command(resume="it is time"), THREAD)
    assert state["__interrupt__"][0].value["question"] == "who?"
    assert (await graph.ainvoke(Command(resume="me"), THREAD))["answer"] == "me"


async def test_siblings_go_on_while_one_waits(database: str) -> None:
    flow = Workflow("w", agents=[waiter("waits"), worker("then"), worker("quick"), worker("next")])
    flow.add_edge("waits", "then").add_edge("quick", "next")
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(flow, "go", thread_id="t")
        outcome = await run
        assert {*outcome.results} == {"quick", "next"}
        assert {event.task for event in run.seen if isinstance(event, TaskWaiting)} == {"waits", "then"}
        assert (await orchestra.info("t")).waiting == ("waits",)


async def test_while_it_waits_another_handle_can_take_the_thread(database: str) -> None:
    flow = one("it", lambda _: ask("who?", within=HOUR, otherwise="nobody"))
    async with Orchestra(database) as one_, Orchestra(database) as other:
        outcome = await (await one_.start(flow, "go", thread_id="t"))
        assert await other.saver.alease_of("t") is None
        outcome = await (await other.resume("t", workflow=flow, answers={outcome.questions[0].id: "me"}))
        assert outcome.answer == "me"


@pytest.mark.parametrize(
    ("wait", "due"),
    [
        (HOUR, lambda: now() + HOUR),
        (timedelta(0), None),
        (-HOUR, None),
        (datetime(2040, 1, 1, 12), lambda: datetime(2040, 1, 1, 12, tzinfo=UTC)),
        (datetime(2040, 1, 1, 12, tzinfo=timezone(2 * HOUR)), lambda: datetime(2040, 1, 1, 10, tzinfo=UTC)),
        (datetime(2001, 1, 1), None),
        (datetime(2001, 1, 1, tzinfo=timezone(-2 * HOUR)), None),
        (None, None),
    ],
)
@pytest.mark.parametrize("needs", [(), ("before",)])
async def test_a_task_of_a_plan_waits(database: str, wait: Any, due: Any, needs: tuple[str, ...]) -> None:
    runs: list[str] = []
    tasks = [Task(id="before", agent="before"), Task(id="late", agent="late", needs=needs, wait=wait)]
    agents = [counted(runs, "before"), counted(runs, "late")]
    flow = Workflow("w", agents=agents, planner=Planned(*tasks))
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go", thread_id="t"))
        if due is None:
            assert (outcome.state, outcome.due, sorted(runs)) == (RunState.DONE, None, ["before", "late"])
            return
        assert (outcome.state, runs) == (RunState.WAITING, ["before"])  # who waits is not even called
        assert about(outcome.due, due())
        if needs and isinstance(wait, timedelta):
            assert outcome.due == outcome.results["before"].ended + wait
        assert outcome.due is not None
        assert await orchestra.tick(workflow=flow) == []
        (ticked,) = await orchestra.tick(workflow=flow, at=outcome.due)
        assert ticked.outcome is not None
        assert (ticked.outcome.state, runs) == (RunState.DONE, ["before", "late"])


async def test_a_task_that_waits_in_a_teams_plan_does_not_repeat_the_team(database: str) -> None:
    runs: list[str] = []
    tasks = [Task(id="first", agent="first"), Task(id="late", agent="late", needs=("first",), wait=HOUR)]
    team = Workflow("team", agents=[counted(runs, "first"), counted(runs, "late")], planner=Planned(*tasks))
    flow = Workflow("outer", agents=[Agent("team", team), counted(runs, "side")])
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go", thread_id="t"))
        assert (outcome.state, sorted(runs)) == (RunState.WAITING, ["first", "side"])
        info = await orchestra.info("t")
        assert (info.waiting, info.teams["team"].due) == (("team",), outcome.due)
    async with Orchestra(database) as orchestra:
        (ticked,) = await orchestra.tick(workflow=flow, at=outcome.due)
        assert ticked.outcome is not None
        assert ticked.outcome.state is RunState.DONE
    assert sorted(runs) == ["first", "late", "side"]


@pytest.mark.parametrize("within", [timedelta(0), timedelta(seconds=-9)])
async def test_what_is_due_already_is_not_waited_for(database: str, within: timedelta) -> None:
    def work(_: Assignment) -> str:
        wait_for(within)
        wait_until(datetime(2001, 1, 1))
        return ask("who?", within=within, otherwise="nobody")

    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(one("it", work), "go", thread_id="t"))
        assert (outcome.state, outcome.answer) == (RunState.DONE, "nobody")


async def test_a_timer_that_is_due_when_the_rest_is_done_needs_no_tick(database: str) -> None:
    dues: list[datetime] = []

    def waits(task: Assignment) -> None:
        dues.append(now() + timedelta(seconds=0.2))
        wait_until(dues[0])

    async def slow(task: Assignment) -> str:
        await until(lambda: dues and now() > dues[0])
        return "slow"

    flow = Workflow("w", agents=[worker("waits", waits), Agent("slow", slow), worker("then")])
    flow.add_edge("waits", "then")
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go", thread_id="t"))
        assert (outcome.state, {*outcome.results}) == (RunState.DONE, {"waits", "slow", "then"})
        assert outcome.results["waits"].ended > outcome.results["slow"].ended
        assert len((await orchestra.history("t")).branches) == 1


async def test_a_new_branch_that_waits_and_goes_on_at_once_stays_on_its_branch(database: str) -> None:
    flow = one("it", lambda task: wait_for(0) or task.request)
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(flow, "one", thread_id="t"))
        await (await orchestra.start(flow, "two", thread_id="t"))
        answered = next(moment for moment in await orchestra.history("t") if moment.what == "answered")
        outcome = await (await orchestra.fork("t", at=answered, request="three", workflow=flow))
        assert (outcome.state, outcome.answer) == (RunState.DONE, "three")
        assert (await orchestra.info("t")).answer == "three"


@pytest.mark.parametrize("otherwise", ["nobody", None, "", {}])
@pytest.mark.parametrize("how", ["tick", "resume", "at once"])
async def test_what_is_returned_when_nobody_answers(database: str, how: str, otherwise: Any) -> None:
    async def work(task: Assignment) -> Any:
        return [ask("who?", within=timedelta(0), otherwise=otherwise)]

    flow = Workflow("w", agents=[Agent("it", work)])
    async with Orchestra(database) as orchestra:
        if how == "at once":
            outcome = await (await orchestra.start(flow, "go", thread_id="t"))
        else:
            # In plain LangGraph nobody looks at the clock: the deadline has passed, and the question is open.
            graph = flow.compile(checkpointer=orchestra.saver)
            assert "__interrupt__" in await graph.ainvoke({"request": "go"}, THREAD)
        if how == "tick":
            (ticked,) = await orchestra.tick(workflow=flow)
            assert ticked.outcome is not None
            outcome = ticked.outcome
        elif how == "resume":
            outcome = await (await orchestra.resume("t", workflow=flow))
        assert outcome.state is RunState.DONE
        assert outcome.results["it"].output == [otherwise]


async def test_an_answer_in_time_counts_and_the_default_does_not(database: str) -> None:
    runs: list[str] = []

    def asker(name: str, within: timedelta) -> Agent:
        return counted(runs, name, lambda _: ask(name, within=within, otherwise="nobody"))

    flow = Workflow("w", agents=[asker("one", HOUR), asker("two", 2 * HOUR), waiter("waits", 3 * HOUR)])
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go", thread_id="t"))
        before = await orchestra.info("t")
        ids = {question.value: question.id for question in outcome.questions}
        assert about(before.due, now() + HOUR)
        outcome = await (await orchestra.resume("t", workflow=flow, answers={ids["one"]: "Ada"}))
        after = await orchestra.info("t")
        assert [question.id for question in after.questions] == [ids["two"]]  # the one is not asked again,
        assert after.timers == before.timers  # and the others are as they were
        assert [question for question in before.questions if question.id == ids["two"]] == [*after.questions]
        assert after.due == outcome.due
        assert about(after.due, now() + 2 * HOUR)
    async with Orchestra(database) as orchestra:
        assert await orchestra.tick(workflow=flow, at=now() + 1.5 * HOUR) == []
        await orchestra.tick(workflow=flow, at=now() + 2.5 * HOUR)
        assert about((await orchestra.info("t")).due, now() + 3 * HOUR)
        (ticked,) = await orchestra.tick(workflow=flow, at=now() + 3.5 * HOUR)
        assert ticked.outcome is not None
        assert {task: result.output for task, result in ticked.outcome.results.items()} == {
            "one": "Ada",
            "two": "nobody",
            "waits": "waits",
        }
    assert sorted(runs) == ["one", "one", "two", "two"]


@pytest.mark.parametrize(("answer", "beside"), [("Ada", False), (None, False), ("Ada", True)])
async def test_an_answer_survives_a_crash_of_the_work_after_it(database: str, answer: Any, beside: bool) -> None:
    hanging, answers = [True], list[Any]()

    async def asks(task: Assignment) -> str:
        answers.append(ask("who?", within=HOUR, otherwise="nobody"))
        if hanging:
            await asyncio.sleep(60)
        return "done"

    flow = Workflow("w", agents=[Agent("asks", asks), *([waiter("other", 2 * HOUR)] if beside else [])])
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go", thread_id="t"))
        run = await orchestra.resume("t", workflow=flow, answers={outcome.questions[0].id: answer})
        await until(lambda: answers)
        await run.cancel()
    hanging.clear()
    async with Orchestra(database) as orchestra:
        await orchestra.tick(workflow=flow, at=now() + 9 * HOUR)  # by then the deadline has passed
        outcome = await (await orchestra.resume("t", workflow=flow))
        assert outcome.results["asks"].output == "done"
    assert answers == [answer, answer]


async def test_of_several_timers_only_the_one_that_is_due_goes_on(database: str) -> None:
    runs: list[str] = []
    agents = [counted(runs, f"w{hours}", lambda _, hours=hours: wait_for(hours * HOUR)) for hours in (3, 1, 2)]
    flow = Workflow("w", agents=agents)
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go", thread_id="t"))
        assert about(outcome.due, now() + HOUR)
        for hours in (1, 2, 3):
            runs.clear()
            left = (await orchestra.info("t")).timers
            (ticked,) = await orchestra.tick(workflow=flow, at=now() + (hours + 0.5) * HOUR)
            assert runs == [f"w{hours}"]
            assert ticked.outcome is not None
            assert {*ticked.outcome.results} == {f"w{i}" for i in range(1, hours + 1)}
            now_left = (await orchestra.info("t")).timers
            assert len(now_left) == 3 - hours
            assert {timer.id for timer in now_left} < {timer.id for timer in left}
        assert ticked.outcome.state is RunState.DONE


async def test_an_agent_that_waits_twice(database: str) -> None:
    runs: list[str] = []
    flow = Workflow("w", agents=[counted(runs, "it", lambda _: wait_for(HOUR) or wait_for(2 * HOUR))])
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(flow, "go", thread_id="t"))
        (ticked,) = await orchestra.tick(workflow=flow, at=now() + 1.5 * HOUR)
        assert ticked.outcome is not None
        assert about(ticked.outcome.due, now() + 2 * HOUR)  # counted from when it was called
        (ticked,) = await orchestra.tick(workflow=flow, at=now() + 2.5 * HOUR)
        assert ticked.outcome is not None
        assert ticked.outcome.state is RunState.DONE
    assert len(runs) == 3


@pytest.mark.parametrize("kind", ["wait_for", "Task.wait", "Task.wait after another", "in a team"])
async def test_after_a_crash_the_date_is_the_same(database: str, kind: str) -> None:
    hanging, runs = [True], list[str]()

    async def slow(task: Assignment) -> str:
        if hanging:
            await asyncio.sleep(60)
        return "slow"

    wait = None if kind in ("wait_for", "in a team") else HOUR
    late = Task(id="late", agent="late", wait=wait, needs=("first",) if "after" in kind else ())
    agents = [
        counted(runs, "first"),
        counted(runs, "late", lambda _: None if wait else wait_for(HOUR)),
        Agent("slow", slow),
    ]
    tasks = [Task(id="first", agent="first"), late, Task(id="slow", agent="slow")]
    flow = Workflow("w", agents=agents, planner=Planned(*tasks))
    flow = Workflow("outer", agents=[Agent("team", flow)]) if kind == "in a team" else flow
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(flow, "go", thread_id="t")
        async with asyncio.timeout(10):
            while True:
                info = await orchestra.info("t")
                info = info.teams.get("team", info)
                if info.due is not None and "first" in info.raw:
                    break
                await asyncio.sleep(0.01)
        await run.cancel()
    due, times = info.due, len(runs)
    assert about(due, now() + HOUR)
    hanging.clear()
    async with Orchestra(database) as orchestra:
        assert (await orchestra.info("t")).state in (RunState.WAITING, RunState.STOPPED)
        outcome = await (await orchestra.resume("t", workflow=flow))
        assert (outcome.state, outcome.due) == (RunState.WAITING, due)
        assert len(runs) == times  # neither what is finished nor what waits ran again
        (ticked,) = await orchestra.tick(workflow=flow, at=due)
        assert ticked.outcome is not None
        assert ticked.outcome.state is RunState.DONE


async def test_a_tick_goes_on_with_what_is_due_and_nothing_else(database: str) -> None:
    ran: list[str] = []

    def work(task: Assignment) -> None:
        if task.request == "asks without a deadline":
            interrupt("who?")
        elif task.request == "asks":
            ask("who?", within=3 * HOUR, otherwise="nobody")
        elif task.request != "does not wait":
            wait_for(float(task.request) * HOUR)
        ran.append(task.request)

    flow = one("it", work)
    other = one("other", lambda _: wait_for(HOUR))
    requests = ["1", "2", "asks", "asks without a deadline", "does not wait"]
    async with Orchestra(database) as orchestra:
        for request in requests:
            await (await orchestra.start(flow, request, thread_id=request))
        await (await orchestra.start(other, "go", thread_id="other"))
        assert ran == ["does not wait"]
        assert await orchestra.tick(workflow=flow) == []
        for hours, names in ((1, ["1"]), (2, ["2"]), (3, ["asks"]), (99, [])):
            ran.clear()
            ticked = await orchestra.tick(workflow=flow, at=now() + (hours + 0.5) * HOUR)
            assert [one.thread_id for one in ticked] == ran == names
        (ticked,) = await orchestra.tick(workflow=other, at=now() + 9 * HOUR)
        assert ticked.thread_id == "other"
        states = {info.thread_id: info.state for info in await orchestra.runs()}
        assert [name for name, state in states.items() if state is RunState.WAITING] == ["asks without a deadline"]


async def test_a_tick_by_a_moment_without_a_timezone_goes_by_utc(database: str) -> None:
    flow = one("it", lambda _: wait_for(HOUR))
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(flow, "go", thread_id="t"))
        assert await orchestra.tick(workflow=flow, at=(now() + 0.5 * HOUR).replace(tzinfo=None)) == []
        (ticked,) = await orchestra.tick(workflow=flow, at=(now() + 1.5 * HOUR).replace(tzinfo=None))
        assert ticked.outcome is not None
        assert ticked.outcome.state is RunState.DONE


async def test_a_tick_tells_what_it_could_not_go_on_with_and_does_the_rest(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = tmp_path / "good_flow.py", tmp_path / "bad_flow.py"
    for file in (good, bad):
        file.write_text(
            "from orchestra import Assignment, Workflow, agent, wait_for\n"
            "@agent\n"
            "async def only(task: Assignment) -> str:\n"
            "    wait_for(3600)\n"
            "    return 'waited'\n"
            f"mine = Workflow('{file.stem}', agents=[only])\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    import bad_flow
    import good_flow

    local = one("local", lambda _: wait_for(HOUR))
    async with Orchestra(database) as orchestra:
        for thread, flow in (("lost", local), ("bad", bad_flow.mine), ("good", good_flow.mine)):
            await (await orchestra.start(flow, "go", thread_id=thread))
        bad.write_text("raise RuntimeError('moved')\n")
        ticked = {one.thread_id: one for one in await orchestra.tick(at=now() + 2 * HOUR)}
        assert {*ticked} == {"lost", "bad", "good"}
        for thread, message in (("lost", "not recorded: pass workflow="), ("bad", "moved")):
            assert ticked[thread].outcome is None
            assert isinstance(ticked[thread].error, WorkflowNotFound)
            assert message in str(ticked[thread].error)
        assert ticked["good"].error is None
        assert ticked["good"].outcome is not None
        assert ticked["good"].outcome.answer == "waited"
        (again,) = await orchestra.tick(at=now() + 2 * HOUR, workflow=local)
        assert (again.thread_id, again.error) == ("lost", None)
    for name in ("good_flow", "bad_flow"):
        sys.modules.pop(name)


async def test_a_tick_goes_on_with_the_rest_when_one_of_its_runs_is_cancelled(database: str) -> None:
    started: list[str] = []

    async def work(task: Assignment) -> str:
        wait_for(HOUR)
        started.append(task.request)
        if task.request == "cancelled":
            await asyncio.sleep(60)
        await until(lambda: cancelled)
        return "done"

    cancelled: list[bool] = []
    flow = Workflow("w", agents=[Agent("it", work)])
    async with Orchestra(database) as orchestra:
        for thread in ("cancelled", "other"):
            await (await orchestra.start(flow, thread, thread_id=thread))
        ticking = asyncio.create_task(orchestra.tick(at=now() + 2 * HOUR, workflow=flow))
        await until(lambda: len(started) == 2)
        assert await orchestra.cancel("cancelled")
        cancelled.append(True)
        ticked = {one.thread_id: one.outcome for one in await ticking}
        assert ticked["other"] is not None
        assert ticked["other"].answer == "done"
        assert (await orchestra.info("cancelled")).state is RunState.STOPPED


async def test_a_run_that_another_is_on_is_told_and_not_waited_for(database: str) -> None:
    flow = one("it", lambda _: wait_for(HOUR))
    async with Orchestra(database) as orchestra, Orchestra(database) as other:
        for thread in ("a", "b"):
            await (await orchestra.start(flow, "go", thread_id=thread))
        ticks = await asyncio.gather(
            *(handle.tick(at=now() + 2 * HOUR, workflow=flow) for handle in (orchestra, other))
        )
        done = [one.thread_id for ticked in ticks for one in ticked if one.outcome and one.outcome.answer == "it"]
        assert {*done} == {"a", "b"}
        assert {info.state for info in await orchestra.runs()} == {RunState.DONE}


async def test_resuming_applies_what_is_due_and_asks_nothing_else(database: str) -> None:
    runs: list[str] = []
    agents = [
        counted(runs, "past", lambda _: wait_until(datetime(2001, 1, 1))),
        counted(runs, "late", lambda _: ask("who?", within=-HOUR, otherwise="nobody")),
        counted(runs, "future", lambda _: wait_for(HOUR)),
        counted(runs, "asks", lambda _: interrupt("name?")),
    ]
    flow = Workflow("w", agents=agents)
    async with Orchestra(database) as orchestra:
        graph = flow.compile(checkpointer=orchestra.saver)
        assert len((await graph.ainvoke({"request": "go"}, THREAD))["__interrupt__"]) == 4
        runs.clear()
        outcome = await (await orchestra.resume("t", workflow=flow))
        assert (outcome.state, {*outcome.results}) == (RunState.WAITING, {"past", "late"})
        assert sorted(runs) == ["late", "past"]
        assert outcome.results["late"].output == "nobody"
        assert [question.value for question in outcome.questions] == ["name?"]
        assert about(outcome.due, now() + HOUR)


async def test_an_answer_given_with_a_resume_counts_more_than_the_clock(database: str) -> None:
    flow = one("it", lambda _: ask("who?", within=-HOUR, otherwise="nobody"))
    async with Orchestra(database) as orchestra:
        state = await flow.compile(checkpointer=orchestra.saver).ainvoke({"request": "go"}, THREAD)
        (question,) = state["__interrupt__"]
        outcome = await (await orchestra.resume("t", workflow=flow, answers={question.id: "me"}))
        assert outcome.answer == "me"


async def test_what_was_written_before_the_wait_is_there_after_it(database: str) -> None:
    class Notes(TypedDict):
        notes: Annotated[list[str], operator.add]

    seen: list[Any] = []

    @agent
    async def first(task: Assignment) -> tuple[int, Command]:
        return 1, Command(update={"notes": ["first"]})

    @agent
    async def late(x: int, task: Assignment) -> str:
        wait_for(HOUR)
        seen.append((task.state["notes"], task.user, task.preferences))
        return "late"

    flow = Workflow("w", agents=[first, late], state_schema=Notes)
    async with Orchestra(database) as orchestra:
        await orchestra.memory("ada").remember("tone", "dry")
        await (await orchestra.start(flow, "go", thread_id="t", user="ada"))
    async with Orchestra(database) as orchestra:
        await orchestra.tick(workflow=flow, at=now() + 2 * HOUR)
    assert seen == [(["first"], "ada", {"tone": "dry"})]
