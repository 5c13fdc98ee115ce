"""Time travel: the moments of a thread, branches that start from them, and where two of them differ.

Every agent counts its calls and puts the count into its output, so that what was kept can be told from what ran again.
"""

from __future__ import annotations

import asyncio
import operator
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import HumanMessage
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from checkpoints import SQLAlchemySaver
from orchestra import (
    Agent,
    Assignment,
    Comparison,
    History,
    Moment,
    Orchestra,
    Plan,
    RequestError,
    RunState,
    Status,
    Task,
    ThreadBusy,
    ThreadError,
    ThreadNotFound,
    Workflow,
    WorkflowError,
    agent,
)

THREAD: Any = {"configurable": {"thread_id": "t"}}
TABLES = ("orchestra_checkpoints", "orchestra_values", "orchestra_writes")


@dataclass
class Desk:
    """Agents that count their calls, and what a test has them do besides."""

    calls: Counter[str] = field(default_factory=Counter)
    seen: dict[str, Assignment] = field(default_factory=dict)
    does: dict[str, Callable[[Assignment], Awaitable[Any]]] = field(default_factory=dict)
    constant: set[str] = field(default_factory=set)

    def agent(self, name: str, key: str = "") -> Agent:
        key = key or name

        async def run(task: Assignment) -> str:
            self.calls[key] += 1
            self.seen[key] = task
            said = await self.does[key](task) if key in self.does else None
            said = said if isinstance(said, str) else None
            count = "" if key in self.constant else self.calls[key]
            return f"{said or name}{count}({','.join(task.inputs[need] for need in sorted(task.inputs))})"

        return Agent(name, run)

    @contextmanager
    def reruns(self) -> Iterator[set[str]]:
        """The agents that are called meanwhile; each may be called once."""
        before, called = self.calls.copy(), set[str]()
        yield called
        again = self.calls - before
        assert set(again.values()) <= {1}, f"called more than once: {again}"
        called |= set(again)


AFTER = {"a": {"a", "c", "d", "e"}, "b": {"b", "d"}, "c": {"c", "d"}, "d": {"d"}, "e": {"e"}}
"""In the diamond: what a task takes with it when it runs again."""


def diamond(desk: Desk, **options: Any) -> Workflow:
    """c and e need a; d needs b and c."""
    flow = Workflow("diamond", agents=[desk.agent(name) for name in "abcde"], **options)
    return flow.add_edge("a", "c").add_edge(["b", "c"], "d").add_edge("a", "e")


def chain(desk: Desk) -> Workflow:
    flow = Workflow("chain", agents=[desk.agent(name) for name in "abc"])
    return flow.add_edge("a", "b").add_edge("b", "c")


async def asks(task: Assignment) -> Any:
    return interrupt("who?") if "ask" in task.request else None


@pytest.fixture
async def orchestra(database: str) -> AsyncIterator[Orchestra]:
    async with Orchestra(database) as opened:
        yield opened


@pytest.fixture
def desk() -> Desk:
    return Desk()


def rows(database: str) -> dict[str, set[tuple[Any, ...]]]:
    """All that is stored of threads, byte by byte, past the product."""
    path = database.removeprefix("sqlite:///")
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return {table: set(connection.execute(f"SELECT * FROM {table}")) for table in TABLES}
    finally:
        connection.close()


@contextmanager
def old_branch_untouched(database: str) -> Iterator[None]:
    """Rows are added; none is changed, none is gone."""
    before = rows(database)
    yield
    after = rows(database)
    for table in TABLES:
        assert not before[table] - after[table], f"{table}: rows were changed or deleted"
    assert len(after["orchestra_checkpoints"]) > len(before["orchestra_checkpoints"]), "nothing was stored"


@contextmanager
def nothing_stored(database: str) -> Iterator[None]:
    before = rows(database)
    yield
    assert rows(database) == before


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await true():
            await asyncio.sleep(0.005)


async def stop_amid(
    orchestra: Orchestra, flow: Workflow, desk: Desk, task: str, stored: set[str], **options: Any
) -> None:
    """Start a run on thread t, cancel it while a task is at work and others are stored."""
    desk.does[task] = lambda _: asyncio.sleep(60)
    run = await orchestra.start(flow, "go", thread_id="t", **options)

    async def there() -> bool:
        return desk.calls[task] == 1 and set((await orchestra.info("t")).raw) == stored

    await until(there)
    await run.cancel()
    del desk.does[task]
    assert (await orchestra.info("t")).state is RunState.STOPPED


def table(history: History) -> list[tuple[int, int, str, str | None]]:
    return [(moment.turn, moment.wave, moment.what, moment.task) for moment in history]


def find(history: History, what: str, task: str | None = None, **wanted: Any) -> Moment:
    """The first moment of a kind."""
    return next(
        moment
        for moment in history
        if (moment.what, moment.task) == (what, task)
        and all(getattr(moment, key) == value for key, value in wanted.items())
    )


async def texts(graph_or: Orchestra, flow: Workflow) -> list[str]:
    state = await flow.compile(checkpointer=graph_or.saver).aget_state(THREAD)
    return [message.text for message in state.values["messages"]]


def kinds(comparison: Comparison) -> dict[str, str]:
    return {change.task: change.kind for change in comparison.tasks}


# -- history


async def test_history_is_a_table_of_moments(orchestra: Orchestra, desk: Desk) -> None:
    await (await orchestra.start(chain(desk), "go", thread_id="t"))
    history = await orchestra.history("t")
    assert table(history) == [
        (1, 0, "asked", None),
        (1, 0, "planned", None),
        (1, 1, "finished", "a"),
        (1, 1, "finished", "b"),
        (1, 1, "finished", "c"),
        (1, 1, "answered", None),
    ]
    assert [moment.number for moment in history] == [1, 2, 3, 4, 5, 6]
    assert [sorted(moment.settled) for moment in history] == [[], [], ["a"], ["a", "b"], [*"abc"], [*"abc"]]
    assert [moment.status for moment in history] == [None, None, *[Status.SUCCEEDED] * 3, None]
    assert [moment.tip for moment in history] == [False] * 5 + [True]
    assert {(moment.branch, moment.request) for moment in history} == {(1, "go")}
    times = [moment.at for moment in history]
    assert times == sorted(times)
    assert (history.thread_id, history.current, len(history)) == ("t", 1, 6)
    assert history[3] is history.moments[2]
    assert history[-1] is history.moments[5]
    assert history.branches == {1: history[6]}
    for number in (0, 7, -7):
        with pytest.raises(IndexError, match="moments 1 to 6"):
            history[number]


async def test_a_failed_and_a_skipped_task_are_moments_too(orchestra: Orchestra, desk: Desk) -> None:
    async def fail(_: Assignment) -> None:
        raise ValueError("no")

    desk.does["b"] = fail
    await (await orchestra.start(chain(desk), "go", thread_id="t"))
    history = await orchestra.history("t")
    assert [(moment.task, moment.status) for moment in history if moment.what == "finished"] == [
        ("a", Status.SUCCEEDED),
        ("b", Status.FAILED),
        ("c", Status.SKIPPED),
    ]


async def test_turns_a_second_wave_and_a_superseded_turn(orchestra: Orchestra, desk: Desk) -> None:
    flow = chain(desk)
    await (await orchestra.start(flow, "first", thread_id="t"))

    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Assignment) -> None:
        started.set()
        await go_on.wait()

    desk.does["b"] = slow
    run = await orchestra.start(flow, "second", thread_id="t")
    await started.wait()
    run.drain()
    go_on.set()
    assert (await run).state is RunState.STOPPED
    await (await orchestra.resume("t", workflow=flow))

    desk.does["b"] = asks
    assert (await (await orchestra.start(flow, "ask", thread_id="t"))).state is RunState.WAITING
    await (await orchestra.start(flow, "last", thread_id="t", supersede=True))

    history = await orchestra.history("t")
    whole = ["asked", "planned", "a", "b", "c", "answered"]
    told = [(moment.turn, moment.wave, moment.task or moment.what) for moment in history]
    assert [each for each in told if each[0] == 1] == [*zip([1] * 6, [0, 0, 1, 1, 1, 1], whole, strict=True)]
    assert [each for each in told if each[0] == 2] == [*zip([2] * 6, [0, 0, 1, 1, 2, 2], whole, strict=True)]
    assert [each for each in told if each[0] == 3] == [*zip([3] * 3, [0, 0, 1], whole[:3], strict=True)]
    assert [each for each in told if each[0] == 4] == [*zip([4] * 6, [0, 0, 1, 1, 1, 1], whole, strict=True)]
    assert [moment.turn for moment in history] == sorted(moment.turn for moment in history)
    assert {moment.turn: moment.request for moment in history} == {1: "first", 2: "second", 3: "ask", 4: "last"}
    assert history.branches == {1: history[-1]}

    # a moment of the superseded turn: its question is open no more, and it can be taken up from there
    del desk.does["b"]
    with desk.reruns() as again:
        outcome = await (await orchestra.fork("t", at=find(history, "finished", "a", turn=3), workflow=flow))
    assert again == {"b", "c"}
    assert outcome.state is RunState.DONE
    assert (await orchestra.info("t")).turn == 3
    assert [turn["request"] for turn in await orchestra.turns("t")] == ["first", "second"]


async def test_numbers_stay_when_branches_and_turns_are_added(orchestra: Orchestra, desk: Desk) -> None:
    flow = diamond(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    first = await orchestra.history("t")
    await (await orchestra.fork("t", again="c", workflow=flow))
    second = await orchestra.history("t")
    assert second.moments[: len(first)] == first.moments
    assert [(moment.branch, moment.what) for moment in second][len(first)] == (2, "forked")
    assert second[len(first) + 1].settled == {"a", "b", "e"}
    assert {moment.task for moment in second if moment.branch == 2 and moment.what == "finished"} == {"c", "d"}
    assert (second.current, {branch: tip.what for branch, tip in second.branches.items()}) == (
        2,
        {1: "answered", 2: "answered"},
    )
    await (await orchestra.start(flow, "more", thread_id="t"))
    third = await orchestra.history("t")
    assert [moment.number for moment in third] == [*range(1, len(third) + 1)]
    assert [(m.number, m.what, m.task, m.checkpoint_id) for m in third][: len(second)] == [
        (m.number, m.what, m.task, m.checkpoint_id) for m in second
    ]
    assert {moment.branch for moment in third if moment.turn == 2} == {2}
    # also from the middle of the first branch, which is then no longer the newest
    await (await orchestra.fork("t", at=4, workflow=flow))
    fourth = await orchestra.history("t")
    assert fourth.moments[: len(third)] == third.moments
    assert fourth.current == 3


# -- again=


@pytest.mark.parametrize("task", sorted(AFTER))
async def test_again_runs_a_task_and_what_depends_on_it_and_nothing_else(
    database: str, orchestra: Orchestra, desk: Desk, task: str
) -> None:
    flow = diamond(desk)
    before = await (await orchestra.start(flow, "go", thread_id="t"))
    raw = (await orchestra.info("t")).raw
    with old_branch_untouched(database), desk.reruns() as again:
        outcome = await (await orchestra.fork("t", again=task, workflow=flow))
    assert again == AFTER[task]
    after = (await orchestra.info("t")).raw
    assert {name: after[name] for name in AFTER.keys() - again} == {name: raw[name] for name in AFTER.keys() - again}
    assert outcome.state is RunState.DONE
    assert list(outcome.results) != []
    for name in again:
        assert outcome.results[name].output != before.results[name].output
        assert not outcome.results[name].edited
    c = f"c{desk.calls['c']}(a{desk.calls['a']}())"
    assert outcome.results["d"].output == f"d{desk.calls['d']}(b{desk.calls['b']}(),{c})"


async def test_again_on_every_database(any_url: str, desk: Desk) -> None:
    flow = diamond(desk)
    async with Orchestra(any_url) as orchestra:
        await (await orchestra.start(flow, "go", thread_id="t"))
        raw = (await orchestra.info("t")).raw
    async with Orchestra(any_url) as orchestra:  # another process
        with desk.reruns() as again:
            outcome = await (await orchestra.fork("t", again="c", workflow=flow))
        after = await orchestra.info("t")
        assert again == {"c", "d"}
        assert {name: after.raw[name] for name in "abe"} == {name: raw[name] for name in "abe"}
        assert outcome.results["d"].output == "d2(b1(),c2(a1()))"
        history = await orchestra.history("t")
        assert (await orchestra.compare("t", history.branches[1], history.branches[2])).different == ["c", "d"]
        outcome = await (await orchestra.fork("t", at=history.branches[1], results={"c": "mine"}, workflow=flow))
        assert outcome.results["d"].output == "d3(b1(),mine)"
        outcome = await (await orchestra.fork("t", at=history.branches[1], request="next", workflow=flow))
        assert (await orchestra.info("t")).turn == 2
        assert await texts(orchestra, flow) == ["go", _answer("d1(b1(),c1(a1()))", "e1(a1())"), "next", outcome.answer]


def _answer(d: str, e: str) -> str:
    return f"## d\n\n{d}\n\n## e\n\n{e}"


@pytest.mark.parametrize("again", [["c", "e"], ("e", "c"), ["c", "d", "e"]])
async def test_several_tasks_again(orchestra: Orchestra, desk: Desk, again: Any) -> None:
    flow = diamond(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    with desk.reruns() as called:
        await (await orchestra.fork("t", again=again, workflow=flow))
    assert called == {"c", "d", "e"}


async def test_again_and_again(database: str, orchestra: Orchestra, desk: Desk) -> None:
    """A branch of a branch keeps what its own branch had, not what the first one had."""
    flow = diamond(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    await (await orchestra.fork("t", again="a", workflow=flow))
    for count in (3, 4, 5):
        with old_branch_untouched(database), desk.reruns() as again:
            outcome = await (await orchestra.fork("t", again="d", workflow=flow))
        assert again == {"d"}
        assert outcome.results["d"].output == f"d{count}(b1(),c2(a2()))"
    history = await orchestra.history("t")
    assert history.current == 5
    assert kinds(await orchestra.compare("t", history.branches[1], history.branches[5])) == {
        "a": "changed",
        "b": "kept",
        "c": "changed",
        "d": "changed",
        "e": "changed",
    }


def teams(desk: Desk) -> Workflow:
    """before -> left, right (teams of x -> y, and z) -> after (needs left only)."""

    def team(name: str) -> Agent:
        inner = Workflow(name, agents=[desk.agent(task, f"{name}/{task}") for task in "xyz"])
        return Agent(name, inner.add_edge("x", "y").add_edge("z", "y"))

    flow = Workflow("teams", agents=[desk.agent("before"), team("left"), team("right"), desk.agent("after")])
    return flow.add_edge("before", "left").add_edge("before", "right").add_edge("left", "after")


@pytest.mark.parametrize("again", ["left", "left/x", "left/z", ["left/x", "left/y", "left"]])
async def test_again_inside_a_team_restarts_the_whole_team_once_and_no_other(
    database: str, orchestra: Orchestra, desk: Desk, again: Any
) -> None:
    flow = teams(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    raw = (await orchestra.info("t")).raw
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", again=again, workflow=flow))
    assert called == {"left/x", "left/y", "left/z", "after"}
    assert outcome.results["after"].output == "after2(y2(x2(),z2()))"
    info = await orchestra.info("t")
    assert {task: info.raw[task] for task in ("before", "right")} == {task: raw[task] for task in ("before", "right")}
    assert set(info.teams["left"].results) == {"x", "y", "z"}
    assert info.teams["left"].results["x"].output == "x2()"


@pytest.mark.parametrize("turns", [1, 2])
async def test_a_branch_shows_the_teams_that_it_kept(orchestra: Orchestra, desk: Desk, turns: int) -> None:
    """Also if other branches, or later turns on them, were stored in between."""
    flow = teams(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    first = await orchestra.info("t")
    await (await orchestra.fork("t", again="left", workflow=flow))
    base = (await orchestra.history("t")).branches[1]
    if turns == 2:
        await (await orchestra.start(flow, "more", thread_id="t"))
    await (await orchestra.fork("t", at=base, again="after", workflow=flow))
    info = await orchestra.info("t")
    assert (info.turn, info.asked) == (1, first.asked)
    assert info.results["left"].output == "y1(x1(),z1())"
    assert info.teams["left"].results["x"].output == "x1()"
    assert info.teams["right"].results["x"].output == "x1()"


async def test_a_question_inside_a_team_is_asked_and_answered_on_the_branch(
    database: str, orchestra: Orchestra, desk: Desk
) -> None:
    flow = teams(desk)
    desk.does["left/z"] = asks
    outcome = await (await orchestra.start(flow, "ask", thread_id="t"))
    assert outcome.state is RunState.WAITING
    (old,) = outcome.questions
    with old_branch_untouched(database):
        with desk.reruns() as called:
            outcome = await (await orchestra.fork("t", again="left/x", workflow=flow))
        assert called == {"left/x", "left/z"}
        (question,) = outcome.questions
        assert question.id != old.id
        desk.calls.clear()
        outcome = await (await orchestra.resume("t", workflow=flow, answers={question.id: "Ada"}))
    assert desk.calls == {"left/z": 1, "left/y": 1, "after": 1}
    assert outcome.state is RunState.DONE
    assert outcome.results["after"].output == "after1(y1(x2(),Ada1()))"


# -- results=


class Price(BaseModel):
    amount: float
    currency: str = "EUR"


def shop(desk: Desk, got: list[Any]) -> Workflow:
    @agent
    async def quote(task: Assignment) -> Price:
        desk.calls["quote"] += 1
        return Price(amount=desk.calls["quote"])

    @agent
    async def rate(task: Assignment) -> float:
        desk.calls["rate"] += 1
        return desk.calls["rate"] + 0.5

    @agent
    async def bill(price: Price, rate: float) -> str:
        desk.calls["bill"] += 1
        got.append((price, rate))
        return f"{price.amount * rate:g} {price.currency}"

    return Workflow("shop", agents=[quote, rate, bill])


@pytest.mark.parametrize("edit", [Price(amount=10), {"amount": 10}])
async def test_an_edited_result_is_marked_and_typed_for_what_follows(
    database: str, orchestra: Orchestra, desk: Desk, edit: Any
) -> None:
    got: list[Any] = []
    flow = shop(desk, got)
    await (await orchestra.start(flow, "go", thread_id="t"))
    raw = (await orchestra.info("t")).raw
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", results={"quote": edit}, workflow=flow))
    assert called == {"bill"}
    assert got[-1] == (Price(amount=10), 1.5)
    assert type(got[-1][0]) is Price
    assert outcome.answer == "15 EUR"
    assert outcome.results["quote"].output == Price(amount=10)
    assert {task: result.edited for task, result in outcome.results.items()} == {
        "quote": True,
        "rate": False,
        "bill": False,
    }
    assert outcome.results["quote"].agent == "quote"
    info = await orchestra.info("t")
    assert info.raw["rate"] == raw["rate"]
    assert info.results["quote"].edited
    history = await orchestra.history("t")
    comparison = await orchestra.compare("t", history.branches[1], history.branches[2])
    assert kinds(comparison) == {"quote": "changed", "rate": "kept", "bill": "changed"}
    assert history.branches[2].settled == {"quote", "rate", "bill"}

    # what a person has put there stays on branches of the branch, and goes when its task runs again
    outcome = await (await orchestra.fork("t", again="rate", workflow=flow))
    assert outcome.answer == "25 EUR"
    assert outcome.results["quote"].edited
    outcome = await (await orchestra.fork("t", again="quote", workflow=flow))
    assert outcome.answer == "5 EUR"
    assert not outcome.results["quote"].edited


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"quote": "ten"}, "'quote'.*not a Price"),
        ({"quote": {"amount": "ten"}}, "'quote'.*amount"),
        ({"rate": "fast"}, "'rate'.*not a float"),
        ({"quote": {"amount": 1}, "rate": None}, "'rate'"),
        ({"nobody": 1}, "no task 'nobody'.*bill, quote, rate"),
    ],
)
async def test_a_result_of_the_wrong_type_is_refused_and_nothing_is_stored(
    database: str, orchestra: Orchestra, desk: Desk, results: Any, message: str
) -> None:
    flow = shop(desk, [])
    await (await orchestra.start(flow, "go", thread_id="t"))
    with nothing_stored(database), desk.reruns() as called, pytest.raises(RequestError, match=message):
        await orchestra.fork("t", results=results, workflow=flow)
    assert not called


async def test_editing_and_running_again_at_once(database: str, orchestra: Orchestra, desk: Desk) -> None:
    flow = diamond(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", again="a", results={"c": "mine"}, workflow=flow))
    assert called == {"a", "d", "e"}  # c depends on a, but what a person says holds
    assert {task: result.output for task, result in outcome.results.items()} == {
        "a": "a2()",
        "b": "b1()",
        "c": "mine",
        "d": "d2(b1(),mine)",
        "e": "e2(a2())",
    }
    with nothing_stored(database), pytest.raises(RequestError, match=r"'c'.*at once"):
        await orchestra.fork("t", again=["a", "c"], results={"c": "mine"}, workflow=flow)


async def test_a_last_task_is_edited_without_anybody_being_called(
    database: str, orchestra: Orchestra, desk: Desk
) -> None:
    flow = chain(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", results={"c": "the end"}, workflow=flow))
    assert not called
    assert (outcome.state, outcome.answer) == (RunState.DONE, "the end")
    assert (await orchestra.info("t")).answer == "the end"
    assert await texts(orchestra, flow) == ["go", "the end"]


async def test_a_result_in_place_of_a_failure_and_of_a_task_that_has_not_run(
    database: str, orchestra: Orchestra, desk: Desk
) -> None:
    async def fail(_: Assignment) -> None:
        raise ValueError("no")

    desk.does["b"] = fail
    flow = chain(desk)
    assert (await (await orchestra.start(flow, "go", thread_id="t"))).state is RunState.FAILED
    history = await orchestra.history("t")
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", results={"b": "mine"}, workflow=flow))
    assert called == {"c"}
    assert (outcome.state, outcome.answer) == (RunState.DONE, "c1(mine)")
    with desk.reruns() as called:
        outcome = await (await orchestra.fork("t", at=find(history, "planned"), results={"b": "yours"}, workflow=flow))
    assert called == {"a", "c"}
    assert outcome.answer == "c2(yours)"


async def test_a_teams_result_is_edited_like_any_other(orchestra: Orchestra, desk: Desk) -> None:
    flow = teams(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    with desk.reruns() as called:
        outcome = await (await orchestra.fork("t", results={"left": "mine"}, workflow=flow))
    assert called == {"after"}
    assert outcome.results["after"].output == "after2(mine)"


# -- at=


async def test_from_a_moment_in_the_middle(database: str, orchestra: Orchestra, desk: Desk) -> None:
    flow = chain(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    raw = (await orchestra.info("t")).raw
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", at=3, workflow=flow))  # a has finished
    assert called == {"b", "c"}
    assert outcome.answer == "c2(b2(a1()))"
    assert (await orchestra.info("t")).raw["a"] == raw["a"]
    moment = (await orchestra.history("t"))[4]  # b has finished
    with desk.reruns() as called:
        outcome = await (await orchestra.fork("t", at=moment, again="b", workflow=flow))
    assert called == {"b", "c"}
    assert outcome.answer == "c3(b3(a1()))"
    with desk.reruns() as called:
        outcome = await (await orchestra.fork("t", at=moment, results={"a": "mine"}, workflow=flow))
    assert called == {"b", "c"}
    assert outcome.answer == "c4(b4(mine))"


async def test_from_asked_planned_and_answered(database: str, orchestra: Orchestra, desk: Desk) -> None:
    flow = chain(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    for number, what in ((1, "asked"), (2, "planned")):
        assert (await orchestra.history("t"))[number].what == what
        with old_branch_untouched(database), desk.reruns() as called:
            outcome = await (await orchestra.fork("t", at=number, workflow=flow))
        assert called == {"a", "b", "c"}
        assert outcome.answer == f"c{desk.calls['c']}(b{desk.calls['b']}(a{desk.calls['a']}()))"
        assert (await orchestra.info("t")).turn == 1
        assert await texts(orchestra, flow) == ["go", outcome.answer]
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", at=6, again="c", workflow=flow))
    assert called == {"c"}
    assert outcome.answer == "c4(b1(a1()))"


async def test_from_moments_of_an_earlier_turn_and_of_another_branch(
    database: str, orchestra: Orchestra, desk: Desk
) -> None:
    flow = chain(desk)
    await (await orchestra.start(flow, "one", thread_id="t"))  # moments 1 to 6
    await (await orchestra.start(flow, "two", thread_id="t"))  # 7 to 12
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", at=4, workflow=flow))  # forked 13, c 14, answered 15
    assert called == {"c"}
    info = await orchestra.info("t")
    assert (info.turn, info.request, info.answer) == (1, "one", "c3(b1(a1()))")
    assert await orchestra.turns("t") == []
    assert await texts(orchestra, flow) == ["one", "c3(b1(a1()))"]
    history = await orchestra.history("t")
    assert table(history)[12:] == [
        (1, 0, "forked", None),
        (1, 1, "finished", "c"),
        (1, 1, "answered", None),
    ]
    # the first branch, which is not the current one, with its two turns
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", at=12, again="b", workflow=flow))
    assert called == {"b", "c"}
    assert outcome.answer == "c4(b3(a2()))"
    info = await orchestra.info("t")
    assert (info.turn, info.request) == (2, "two")
    assert [turn["answer"] for turn in await orchestra.turns("t")] == ["c1(b1(a1()))"]
    assert await texts(orchestra, flow) == ["one", "c1(b1(a1()))", "two", "c4(b3(a2()))"]
    # the second branch again, from its end
    with desk.reruns() as called:
        outcome = await (await orchestra.fork("t", at=15, again="b", workflow=flow))
    assert called == {"b", "c"}
    assert outcome.answer == "c5(b4(a1()))"
    assert (await orchestra.history("t")).current == 4


async def test_where_a_branch_began_is_a_moment_with_what_the_branch_kept(
    database: str, orchestra: Orchestra, desk: Desk
) -> None:
    flow = chain(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    await (await orchestra.fork("t", again="c", results={"a": "mine"}, at=5, workflow=flow))
    await (await orchestra.fork("t", again="c", workflow=flow))
    forked = [moment for moment in await orchestra.history("t") if moment.what == "forked"]
    assert [moment.settled for moment in forked] == [{"a"}, {"a", "b"}]
    comparison = await orchestra.compare("t", forked[0], forked[1])
    assert kinds(comparison) == {"a": "kept", "b": "added"}
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", at=forked[1], workflow=flow))
    assert called == {"c"}
    assert outcome.answer == f"c{desk.calls['c']}(b2(mine))"
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", at=forked[0], workflow=flow))
    assert called == {"b", "c"}
    assert outcome.answer == f"c{desk.calls['c']}(b3(mine))"
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", at=forked[1], results={"b": "yours"}, workflow=flow))
    assert called == {"c"}
    assert outcome.answer == f"c{desk.calls['c']}(yours)"


# -- request=


async def test_another_request_after_an_answer_is_the_next_turn(
    database: str, orchestra: Orchestra, desk: Desk
) -> None:
    flow = chain(desk)
    await (await orchestra.start(flow, "one", thread_id="t"))
    await (await orchestra.start(flow, "two", thread_id="t"))
    with old_branch_untouched(database):
        outcome = await (await orchestra.fork("t", at=6, request="other", workflow=flow))
    info = await orchestra.info("t")
    assert (info.turn, info.request) == (2, "other")
    assert [turn["request"] for turn in await orchestra.turns("t")] == ["one"]
    assert [turn["request"] for turn in desk.seen["a"].history] == ["one"]
    assert await texts(orchestra, flow) == ["one", "c1(b1(a1()))", "other", outcome.answer]
    history = await orchestra.history("t")
    assert {(moment.turn, moment.request) for moment in history if moment.branch == 2} == {(2, "other")}
    # the end of the current branch is no exception: what follows is on a branch of its own
    await (await orchestra.fork("t", at=history.branches[2], request="more", workflow=flow))
    assert (await orchestra.info("t")).turn == 3
    assert (await orchestra.history("t")).current == 3
    assert (await orchestra.history("t")).branches[2] == history.branches[2]
    # by default it takes the newest turn's place
    await (await orchestra.fork("t", request="else", workflow=flow))
    assert ((await orchestra.info("t")).turn, (await orchestra.info("t")).request) == (3, "else")
    assert [turn["request"] for turn in await orchestra.turns("t")] == ["one", "other"]


@pytest.mark.parametrize("what", ["asked", "planned", "finished"])
@pytest.mark.parametrize("turn", [1, 2])
async def test_another_request_elsewhere_takes_the_turns_place(
    database: str, orchestra: Orchestra, desk: Desk, what: str, turn: int
) -> None:
    flow = chain(desk)
    one = await (await orchestra.start(flow, "one", thread_id="t"))
    await (await orchestra.start(flow, "two", thread_id="t"))
    moment = next(each for each in await orchestra.history("t") if (each.turn, each.what) == (turn, what))
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", at=moment, request="other", workflow=flow))
    assert called == {"a", "b", "c"}
    info = await orchestra.info("t")
    assert (info.turn, info.request, info.answer) == (turn, "other", "c3(b3(a3()))")
    before = ["one", one.answer] if turn == 2 else []
    assert await texts(orchestra, flow) == [*before, "other", outcome.answer]
    assert [turn["request"] for turn in await orchestra.turns("t")] == before[:1]
    new = [moment for moment in await orchestra.history("t") if moment.branch == 2]
    assert [(each.turn, each.what) for each in new] == [
        (turn, kind) for kind in ("asked", "planned", "finished", "finished", "finished", "answered")
    ]


async def test_another_request_on_a_branch_takes_the_branchs_place(orchestra: Orchestra, desk: Desk) -> None:
    flow = chain(desk)
    await (await orchestra.start(flow, "one", thread_id="t"))
    await (await orchestra.fork("t", again="c", workflow=flow))
    forked = find(await orchestra.history("t"), "forked")
    outcome = await (await orchestra.fork("t", at=forked, request="other", workflow=flow))
    assert outcome.answer == "c3(b2(a2()))"
    assert (await orchestra.info("t")).turn == 1
    assert await texts(orchestra, flow) == ["other", outcome.answer]


# -- from threads that are not done


async def test_from_a_waiting_thread(database: str, orchestra: Orchestra, desk: Desk) -> None:
    flow = diamond(desk)
    desk.does["c"] = asks
    outcome = await (await orchestra.start(flow, "ask", thread_id="t"))
    assert outcome.state is RunState.WAITING
    (old,) = outcome.questions
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", again="e", workflow=flow))
    assert called == {"c", "e"}  # c has no result: on the branch it asks again
    assert outcome.state is RunState.WAITING
    (new,) = outcome.questions
    assert new.id != old.id
    assert (await orchestra.info("t")).questions == (new,)
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.resume("t", workflow=flow, answers={new.id: "Ada"}))
    assert called == {"c", "d"}
    assert outcome.results["d"].output == "d1(b1(),Ada3(a1()))"

    # the question of the first branch: answered by an edit
    first = (await orchestra.history("t")).branches[1]
    assert first.settled == {"a", "b", "e"}
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", at=first, results={"c": "mine"}, workflow=flow))
    assert called == {"d"}
    assert (outcome.state, outcome.questions) == (RunState.DONE, ())
    assert outcome.results["d"].output == "d2(b1(),mine)"
    assert (await orchestra.info("t")).questions == ()

    # or left, for another request
    with old_branch_untouched(database):
        outcome = await (await orchestra.fork("t", at=first, request="plain", workflow=flow))
    assert outcome.state is RunState.DONE
    assert (await orchestra.info("t")).turn == 1


async def test_another_request_while_a_question_is_open_needs_no_superseding(
    database: str, orchestra: Orchestra, desk: Desk
) -> None:
    """The question stays open on the old branch: nothing is dropped."""
    flow = diamond(desk)
    desk.does["c"] = asks
    one = await (await orchestra.start(flow, "one", thread_id="t"))
    await (await orchestra.start(flow, "ask", thread_id="t"))
    with old_branch_untouched(database):
        outcome = await (await orchestra.fork("t", request="other", workflow=flow))
    assert (await orchestra.info("t")).turn == 2
    assert await texts(orchestra, flow) == ["one", one.answer, "other", outcome.answer]
    assert [(turn["ended"], turn["dropped"]) for turn in await orchestra.turns("t")] == [("answered", [])]


async def test_from_a_stopped_thread(database: str, orchestra: Orchestra, desk: Desk) -> None:
    flow = diamond(desk)
    await stop_amid(orchestra, flow, desk, "c", {"a", "b", "e"})
    raw = (await orchestra.info("t")).raw
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", workflow=flow))  # nothing different but the branch
    assert called == {"c", "d"}
    assert outcome.results["d"].output == "d1(b1(),c2(a1()))"
    after = (await orchestra.info("t")).raw
    assert {name: after[name] for name in raw} == dict(raw)

    old = (await orchestra.history("t")).branches[1]
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", at=old, again="b", workflow=flow))
    assert called == {"b", "c", "d"}
    assert outcome.results["d"].output == "d2(b2(),c3(a1()))"
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", at=old, results={"c": "mine"}, workflow=flow))
    assert called == {"d"}
    with old_branch_untouched(database):
        await (await orchestra.fork("t", at=old, request="other", workflow=flow))
    assert (await orchestra.info("t")).turn == 1


async def test_from_a_stopped_branch(database: str, orchestra: Orchestra, desk: Desk) -> None:
    """A branch that was cancelled goes on by itself, and is itself a place to branch from."""
    flow = diamond(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    desk.does["d"] = lambda _: asyncio.sleep(60)
    run = await orchestra.fork("t", again="c", workflow=flow)

    async def there() -> bool:
        return desk.calls["d"] == 2 and "c" in (await orchestra.info("t")).raw

    await until(there)
    await run.cancel()
    del desk.does["d"]
    assert (await orchestra.info("t")).state is RunState.STOPPED
    assert (await orchestra.history("t")).branches[2].settled == {"a", "b", "c", "e"}
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", again="e", workflow=flow))
    assert called == {"d", "e"}
    assert outcome.results["d"].output == "d3(b1(),c2(a1()))"


async def test_from_a_drained_thread_with_a_second_wave(database: str, orchestra: Orchestra, desk: Desk) -> None:
    flow = chain(desk)
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Assignment) -> None:
        started.set()
        await go_on.wait()

    desk.does["b"] = slow
    run = await orchestra.start(flow, "go", thread_id="t")
    await started.wait()
    run.drain()
    go_on.set()
    await run
    await (await orchestra.resume("t", workflow=flow))
    assert desk.calls == {"a": 1, "b": 1, "c": 1}
    history = await orchestra.history("t")
    for task, called_again in (("c", {"c"}), ("b", {"b", "c"}), ("a", {"a", "b", "c"})):
        moment = find(history, "finished", "c")
        assert moment.wave == 2
        with old_branch_untouched(database), desk.reruns() as called:
            await (await orchestra.fork("t", at=moment, again=task, workflow=flow))
        assert called == called_again


async def test_a_failed_task_succeeds_the_second_time(database: str, orchestra: Orchestra, desk: Desk) -> None:
    async def fail(_: Assignment) -> None:
        raise ValueError("no")

    desk.does["c"] = fail
    flow = diamond(desk)
    outcome = await (await orchestra.start(flow, "go", thread_id="t"))
    assert outcome.state is RunState.FAILED
    assert outcome.results["d"].status is Status.SKIPPED
    del desk.does["c"]
    with old_branch_untouched(database), desk.reruns() as called:
        outcome = await (await orchestra.fork("t", again="c", workflow=flow))
    assert called == {"c", "d"}
    assert outcome.state is RunState.DONE
    assert outcome.results["d"].output == "d1(b1(),c2(a1()))"
    assert "Missing" not in (outcome.answer or "")


# -- the user's own state, messages, turns


class Notes(TypedDict):
    log: Annotated[list[str], operator.add]
    latest: str


def noting(desk: Desk, *, slow: str = "") -> Workflow:
    """a, b -> c; every agent adds to a key with a reducer and sets one without."""

    def taking(name: str) -> Agent:
        async def run(task: Assignment) -> tuple[str, Command[Any]]:
            desk.calls[name] += 1
            desk.seen[name] = task
            if name == slow:
                await asyncio.sleep(0.05)
            mark = f"{name}{desk.calls[name]}"
            return mark, Command(update={"log": [mark], "latest": mark})

        return Agent(name, run)

    flow = Workflow("noting", agents=[taking(name) for name in "abcd"], state_schema=Notes)
    return flow.add_edge(["a", "b"], "c").add_edge("c", "d")


async def own_state(orchestra: Orchestra, flow: Workflow) -> tuple[list[str], str]:
    values = (await flow.compile(checkpointer=orchestra.saver).aget_state(THREAD)).values
    return sorted(values["log"]), values["latest"]


async def test_own_state_after_a_fork_holds_exactly_what_the_kept_tasks_wrote(
    database: str, orchestra: Orchestra, desk: Desk
) -> None:
    flow = noting(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    assert await own_state(orchestra, flow) == (["a1", "b1", "c1", "d1"], "d1")
    with old_branch_untouched(database):
        await (await orchestra.fork("t", again="c", workflow=flow))
    assert sorted(desk.seen["c"].state["log"]) == ["a1", "b1"]
    assert sorted(desk.seen["d"].state["log"]) == ["a1", "b1", "c2"]
    assert desk.seen["d"].state["latest"] == "c2"
    assert await own_state(orchestra, flow) == (["a1", "b1", "c2", "d2"], "d2")
    # a branch of the branch: what was kept on the way to it was written on the first
    await (await orchestra.fork("t", again="d", workflow=flow))
    assert sorted(desk.seen["d"].state["log"]) == ["a1", "b1", "c2"]
    assert desk.seen["d"].state["latest"] == "c2"
    assert await own_state(orchestra, flow) == (["a1", "b1", "c2", "d3"], "d3")
    # what a person puts in place of an output has written nothing
    await (await orchestra.fork("t", results={"c": "mine"}, workflow=flow))
    assert sorted(desk.seen["d"].state["log"]) == ["a1", "b1"]
    assert await own_state(orchestra, flow) == (["a1", "b1", "d4"], "d4")
    # another branch altogether
    await (await orchestra.fork("t", at=2, workflow=flow))
    assert await own_state(orchestra, flow) == (["a2", "b2", "c3", "d5"], "d5")


async def test_own_state_that_was_written_in_two_waves(orchestra: Orchestra, desk: Desk) -> None:
    flow = noting(desk, slow="c")
    run = await orchestra.start(flow, "go", thread_id="t")

    async def at_work() -> bool:
        return desk.calls["c"] == 1

    await until(at_work)
    run.drain()
    assert (await run).state is RunState.STOPPED
    await (await orchestra.resume("t", workflow=flow))
    assert find(await orchestra.history("t"), "finished", "d").wave == 2
    await (await orchestra.fork("t", again="d", workflow=flow))
    assert sorted(desk.seen["d"].state["log"]) == ["a1", "b1", "c1"]
    assert desk.seen["d"].state["latest"] == "c1"
    assert await own_state(orchestra, flow) == (["a1", "b1", "c1", "d2"], "d2")


async def test_own_state_of_earlier_turns_stays_on_a_branch(orchestra: Orchestra, desk: Desk) -> None:
    flow = noting(desk)
    await (await orchestra.start(flow, "one", thread_id="t"))
    await (await orchestra.start(flow, "two", thread_id="t"))
    await (await orchestra.fork("t", again="d", workflow=flow))
    log = ["a1", "b1", "c1", "d1", "a2", "b2", "c2"]
    assert sorted(desk.seen["d"].state["log"]) == sorted(log)
    assert await own_state(orchestra, flow) == (sorted([*log, "d3"]), "d3")
    history = await orchestra.history("t")
    await (await orchestra.fork("t", at=find(history, "answered", turn=1), again="d", workflow=flow))
    assert await own_state(orchestra, flow) == (sorted(["a1", "b1", "c1", "d4"]), "d4")


@pytest.mark.parametrize("slow", ["a", "b"])
async def test_of_kept_writes_to_a_plain_key_the_plans_last_counts(orchestra: Orchestra, desk: Desk, slow: str) -> None:
    """As in the run before, whichever task took longer."""
    flow = noting(desk, slow=slow)
    await (await orchestra.start(flow, "go", thread_id="t"))
    first = desk.seen["c"].state
    assert (first["log"], first["latest"]) == (["a1", "b1"], "b1")
    await (await orchestra.fork("t", again="c", workflow=flow))
    assert desk.seen["c"].state == first


@pytest.mark.parametrize("task", ["a", "d"])
@pytest.mark.parametrize("most", [1, 2, 4, 5, 6])
async def test_pruning_does_not_falsify_the_state_of_a_branch(
    orchestra: Orchestra, desk: Desk, most: int, task: str
) -> None:
    """Where a branch would start, or what the tasks that it keeps have written, may be gone: that is said, or right."""
    flow = noting(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    await (await orchestra.fork("t", again="c", workflow=flow))
    await orchestra.saver.aclean(max_checkpoints=most)
    calls = desk.calls.copy()
    try:
        run = await orchestra.fork("t", again=task, workflow=flow)
    except ThreadError as error:
        assert "pruned" in str(error)  # noqa: PT017 -- raised or not, either is right
        assert desk.calls == calls
        return
    await run
    assert set(desk.calls - calls) == {"a": {"a", "c", "d"}, "d": {"d"}}[task]
    log = sorted(f"{name}{desk.calls[name]}" for name in "abcd")
    assert sorted(desk.seen["d"].state["log"]) == log[:3]
    assert await own_state(orchestra, flow) == (log, log[3])


async def test_messages_have_one_answer_and_the_next_turn_sees_the_branch(orchestra: Orchestra, desk: Desk) -> None:
    flow = chain(desk)
    await (await orchestra.start(flow, "one", thread_id="t"))
    await (await orchestra.fork("t", again="c", workflow=flow))
    await (await orchestra.fork("t", results={"b": "mine"}, workflow=flow))
    assert await texts(orchestra, flow) == ["one", "c3(mine)"]
    outcome = await (await orchestra.start(flow, "two", thread_id="t"))
    assert await texts(orchestra, flow) == ["one", "c3(mine)", "two", outcome.answer]
    (turn,) = desk.seen["a"].history
    assert (turn["request"], turn["answer"], turn["ended"]) == ("one", "c3(mine)", "answered")
    assert turn["results"]["b"]["output"] == "mine"
    assert [message.text for message in desk.seen["a"].messages] == ["one", "c3(mine)", "two"]
    assert [turn["answer"] for turn in await orchestra.turns("t")] == ["c3(mine)"]
    # the second turn again: its history is still that of the branch
    with desk.reruns() as called:
        outcome = await (await orchestra.fork("t", again="b", workflow=flow))
    assert called == {"b", "c"}
    assert [turn["answer"] for turn in desk.seen["b"].history] == ["c3(mine)"]
    assert await texts(orchestra, flow) == ["one", "c3(mine)", "two", outcome.answer]


async def test_messages_of_the_users_own_stay(orchestra: Orchestra, desk: Desk) -> None:
    flow = chain(desk)
    given = [HumanMessage("by the way"), HumanMessage("go")]
    await (await orchestra.start(flow, given, thread_id="t"))
    outcome = await (await orchestra.fork("t", again="a", workflow=flow))
    assert await texts(orchestra, flow) == ["by the way", "go", outcome.answer]


async def test_the_user_of_the_thread_is_the_user_of_the_branch(orchestra: Orchestra, desk: Desk) -> None:
    flow = chain(desk)
    await orchestra.memory("ada").remember("tone", "dry")
    await (await orchestra.start(flow, "one", thread_id="t", user="ada"))
    await (await orchestra.fork("t", again="c", workflow=flow))
    assert (desk.seen["c"].user, dict(desk.seen["c"].preferences)) == ("ada", {"tone": "dry"})
    assert [info.thread_id for info in await orchestra.runs(user="ada")] == ["t"]
    await (await orchestra.fork("t", at=1, workflow=flow))
    assert desk.seen["c"].user == "ada"
    await (await orchestra.fork("t", at=1, request="other", workflow=flow))
    assert desk.seen["c"].user == "ada"


# -- planners


@dataclass
class Planning:
    """Plans what the request names, and counts."""

    made: int = 0

    def plan(self, request: str, **_: Any) -> Plan:
        self.made += 1
        names = request.split()
        last = Task(id=f"end{self.made}", agent="c", needs=tuple(names))
        return Plan(tasks=(*(Task(id=name, agent=name) for name in names), last))


async def test_a_plan_that_was_made_for_the_request_is_kept(database: str, orchestra: Orchestra, desk: Desk) -> None:
    planner = Planning()
    flow = Workflow("planned", agents=[desk.agent(name) for name in "abc"], planner=planner)
    await (await orchestra.start(flow, "a b", thread_id="t"))
    plan = (await orchestra.info("t")).plan
    with old_branch_untouched(database), desk.reruns() as called:
        await (await orchestra.fork("t", again="b", workflow=flow))
    assert called == {"b", "c"}
    for moment in (find(await orchestra.history("t"), "planned"), find(await orchestra.history("t"), "forked")):
        await (await orchestra.fork("t", at=moment, workflow=flow))
        assert (await orchestra.info("t")).plan == plan
    assert planner.made == 1
    with pytest.raises(RequestError, match=r"no task 'c'.*a, b, end1"):
        await orchestra.fork("t", again="c", workflow=flow)
    # before it was planned there is no plan to keep
    with pytest.raises(RequestError, match="no plan yet"):
        await orchestra.fork("t", at=1, again="b", workflow=flow)
    with pytest.raises(RequestError, match="no plan yet"):
        await orchestra.fork("t", at=1, results={"b": "x"}, workflow=flow)
    await (await orchestra.fork("t", at=1, workflow=flow))
    assert planner.made == 2
    assert set((await orchestra.info("t")).raw) == {"a", "b", "end2"}
    await (await orchestra.fork("t", at=1, request="a", workflow=flow))
    assert planner.made == 3
    assert set((await orchestra.info("t")).raw) == {"a", "end3"}


# -- compare


async def test_compare_tells_kept_same_and_changed(orchestra: Orchestra, desk: Desk) -> None:
    desk.constant.add("e")
    flow = diamond(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    await (await orchestra.fork("t", again=["c", "e"], workflow=flow))
    history = await orchestra.history("t")
    comparison = await orchestra.compare("t", history.branches[1], history.branches[2].number)
    assert kinds(comparison) == {"a": "kept", "b": "kept", "c": "changed", "d": "changed", "e": "same"}
    assert comparison.different == ["c", "d"]
    (c,) = [change for change in comparison.tasks if change.task == "c"]
    assert c.before is not None
    assert c.after is not None
    assert (c.before.output, c.after.output) == ("c1(a1())", "c2(a1())")
    assert {change.key for change in comparison.values} == {"answer"}
    assert (comparison.before, comparison.after) == (history.branches[1], history.branches[2])
    nothing = await orchestra.compare("t", history[-1], history[-1])
    assert set(kinds(nothing).values()) == {"kept"}
    assert (nothing.different, nothing.values) == ([], ())


async def test_compare_tells_added_and_removed(orchestra: Orchestra, desk: Desk) -> None:
    flow = chain(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    assert kinds(await orchestra.compare("t", 3, 5)) == {"a": "kept", "b": "added", "c": "added"}
    assert kinds(await orchestra.compare("t", 4, 3)) == {"a": "kept", "b": "removed"}
    assert kinds(await orchestra.compare("t", 1, 2)) == {}
    for one, other in ((7, 1), (1, 7), (1, -8)):
        with pytest.raises(ThreadError, match="moments 1 to 6"):
            await orchestra.compare("t", one, other)


async def test_compare_tells_plans_and_requests_apart(orchestra: Orchestra, desk: Desk) -> None:
    flow = Workflow("planned", agents=[desk.agent(name) for name in "abc"], planner=Planning())
    await (await orchestra.start(flow, "a", thread_id="t"))
    await (await orchestra.fork("t", at=2, request="b", workflow=flow))
    history = await orchestra.history("t")
    comparison = await orchestra.compare("t", history.branches[1], history.branches[2])
    assert kinds(comparison) == {"a": "removed", "end1": "removed", "b": "added", "end2": "added"}
    values = {change.key: (change.before, change.after) for change in comparison.values}
    assert values == {"request": ("a", "b"), "answer": ("c1(a1())", "c2(b1())")}


async def test_compare_tells_the_users_own_keys(orchestra: Orchestra, desk: Desk) -> None:
    flow = noting(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    await (await orchestra.fork("t", again="d", workflow=flow))
    history = await orchestra.history("t")
    comparison = await orchestra.compare("t", history.branches[1], history.branches[2])
    values = {change.key: (change.before, change.after) for change in comparison.values}
    assert set(values) == {"answer", "log", "latest"}
    assert values["latest"] == ("d1", "d2")
    assert [sorted(log) for log in values["log"]] == [["a1", "b1", "c1", "d1"], ["a1", "b1", "c1", "d2"]]


# -- what is refused


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"again": "nobody"}, (RequestError, "no task 'nobody'.*a, b, c")),
        ({"again": ["a", "nobody/x"]}, (RequestError, "no task 'nobody'")),
        ({"at": 99, "again": "a"}, (ThreadError, "moments 1 to 6, not 99")),
        ({"at": 0, "again": "a"}, (ThreadError, "not 0")),
        ({}, (RequestError, "every task is finished.*again=.*results=")),
        ({"at": 5}, (RequestError, "every task is finished")),
        ({"again": "a", "request": "x"}, (RequestError, "without again= and results=")),
        ({"results": {"a": "x"}, "request": "x"}, (RequestError, "without again= and results=")),
        ({"request": " "}, (RequestError, "empty")),
    ],
)
async def test_what_fork_refuses(
    database: str, orchestra: Orchestra, desk: Desk, how: Any, why: tuple[type[Exception], str]
) -> None:
    flow = chain(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    with nothing_stored(database), desk.reruns() as called, pytest.raises(why[0], match=why[1]):
        await orchestra.fork("t", workflow=flow, **how)
    assert not called
    assert (await (await orchestra.fork("t", again="c", workflow=flow))).answer == "c2(b1(a1()))"


async def test_an_unknown_thread_and_the_wrong_workflow(orchestra: Orchestra, desk: Desk) -> None:
    for look in (orchestra.history("no"), orchestra.compare("no", 1, 2), orchestra.fork("no", again="a")):
        with pytest.raises(ThreadNotFound, match="'no'"):
            await look
    await (await orchestra.start(chain(desk), "go", thread_id="t"))
    with pytest.raises(WorkflowError, match="'chain', not of 'diamond'"):
        await orchestra.fork("t", again="a", workflow=diamond(desk))


async def test_a_pruned_base_is_told(any_url: str, desk: Desk) -> None:
    async with Orchestra(any_url) as orchestra:
        flow = chain(desk)
        await (await orchestra.start(flow, "go", thread_id="t"))
        old = await orchestra.history("t")
        orchestra.saver.clean(max_checkpoints=1)
        calls = desk.calls.copy()
        assert [moment.what for moment in await orchestra.history("t")][-1] == "answered"
        for how in ({"again": "c"}, {"results": {"c": "x"}}):
            with pytest.raises(ThreadError, match="pruned"):
                await orchestra.fork("t", workflow=flow, **how)
        for moment in (old[1], old[2], old[3]):
            with pytest.raises(ThreadError, match=f"Moment {moment.number} .*no longer stored"):
                await orchestra.fork("t", at=moment, workflow=flow)
            with pytest.raises(ThreadError, match="no longer stored"):
                await orchestra.compare("t", moment, -1)
        assert desk.calls == calls
        # what is left goes on
        outcome = await (await orchestra.fork("t", at=-1, request="more", workflow=flow))
        assert (outcome.state, (await orchestra.info("t")).turn) == (RunState.DONE, 2)
        assert (await (await orchestra.fork("t", again="c", workflow=flow))).answer == "c3(b2(a2()))"


@pytest.mark.parametrize("how", [{"again": "a"}, {"results": {"a": "x"}}, {"request": "x"}, {"at": 1}])
async def test_a_busy_thread_is_refused(database: str, orchestra: Orchestra, desk: Desk, how: Any) -> None:
    flow = chain(desk)
    await (await orchestra.start(flow, "one", thread_id="t"))
    go_on = asyncio.Event()
    desk.does["a"] = lambda _: go_on.wait()
    run = await orchestra.start(flow, "two", thread_id="t")

    async def at_work() -> bool:
        return desk.calls["a"] == 2 and (await orchestra.info("t")).state is RunState.RUNNING

    await until(at_work)
    async with Orchestra(database) as other:
        for handle in (orchestra, other):
            with nothing_stored(database), pytest.raises(ThreadBusy):
                await handle.fork("t", workflow=flow, **({"at": 6} | how))
    go_on.set()
    assert (await run).state is RunState.DONE
    assert (await orchestra.history("t")).current == 1


@pytest.mark.parametrize("delay", [0, 0.002, 0.004, 0.006, 0.008, 0.015])
async def test_of_two_forks_at_once_one_finds_the_thread_busy_and_the_other_gets_what_it_asked_for(
    database: str, orchestra: Orchestra, desk: Desk, delay: float
) -> None:
    flow = diamond(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    go_on = asyncio.Event()
    desk.does["d"] = lambda _: go_on.wait()
    base = (await orchestra.history("t")).branches[1]

    async def later(handle: Orchestra) -> Any:
        await asyncio.sleep(delay)
        return await handle.fork("t", at=base, again="e", results={"d": "mine"}, workflow=flow)

    async with Orchestra(database) as other:
        with old_branch_untouched(database):
            one, two = await asyncio.gather(
                orchestra.fork("t", at=base, again="b", workflow=flow), later(other), return_exceptions=True
            )
            go_on.set()
            if isinstance(one, BaseException):
                assert isinstance(one, ThreadBusy), one
                outcome = await two
                assert (outcome.results["d"].output, outcome.results["b"].output) == ("mine", "b1()")
            elif isinstance(two, BaseException):
                assert isinstance(two, ThreadBusy), two
                outcome = await one
                assert (outcome.results["d"].output, outcome.results["e"].output) == ("d2(b2(),c1(a1()))", "e1(a1())")
            else:  # one after the other, each whole
                assert {(await one).results["d"].output, (await two).results["d"].output} == {
                    "mine",
                    "d2(b2(),c1(a1()))",
                }
                return
        assert (await orchestra.history("t")).current == 2, "the one that was refused has stored a branch"


async def test_a_fork_runs_its_own_branch_also_if_another_comes_as_soon_as_the_thread_is_let_go(
    database: str, orchestra: Orchestra, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = diamond(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    release = SQLAlchemySaver.arelease_lease
    others: list[Any] = []

    async def another_comes(self: SQLAlchemySaver, *args: Any, **options: Any) -> Any:
        released = await release(self, *args, **options)
        if not others:
            others.append(None)
            others[0] = await (
                await other.fork("t", at=6, results={"d": "mine", "c": "mine"}, again="e", workflow=flow)
            )
        return released

    async with Orchestra(database) as other:
        monkeypatch.setattr(SQLAlchemySaver, "arelease_lease", another_comes)
        try:
            outcome = await (await orchestra.fork("t", again="b", workflow=flow))
        except ThreadBusy:
            assert (await orchestra.history("t")).current == 2, "the one that was refused has stored a branch"
        else:
            assert outcome.results["b"].output == "b2()"
            assert outcome.results["d"].output == "d2(b2(),c1(a1()))"
            assert outcome.results["e"].output == "e1(a1())"
    assert others[0].results["d"].output == "mine"


# -- cut off half-way, and plain LangGraph


class CutOff(Exception):
    pass


def cut_off_after(puts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so many checkpoints be stored, and then nothing more: as far as the database can tell, the process died."""
    left = [puts]
    put, put_writes = SQLAlchemySaver.aput, SQLAlchemySaver.aput_writes

    async def aput(self: SQLAlchemySaver, *args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise CutOff
        return await put(self, *args, **options)

    async def aput_writes(self: SQLAlchemySaver, *args: Any, **options: Any) -> Any:
        if left[0] < 0:
            raise CutOff
        return await put_writes(self, *args, **options)

    monkeypatch.setattr(SQLAlchemySaver, "aput", aput)
    monkeypatch.setattr(SQLAlchemySaver, "aput_writes", aput_writes)


async def fork_cut_off(database: str, puts: int, **how: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        async with Orchestra(database) as orchestra:
            cut_off_after(puts, patch)
            with pytest.raises(CutOff):
                await (await orchestra.fork("t", **how))


@pytest.mark.parametrize("base", ["done", "stopped"])
@pytest.mark.parametrize("puts", [0, 1, 2, 3])
async def test_a_fork_that_was_cut_off_is_there_whole_or_not_at_all(
    database: str, desk: Desk, puts: int, base: str
) -> None:
    flow = diamond(desk)
    async with Orchestra(database) as orchestra:
        if base == "done":
            await (await orchestra.start(flow, "go", thread_id="t", user="ada"))
        else:
            await stop_amid(orchestra, flow, desk, "d", {"a", "b", "c", "e"}, user="ada")
    with old_branch_untouched(database) if puts else nothing_stored(database):
        await fork_cut_off(database, puts, again="c", workflow=flow)
    calls = desk.calls.copy()
    async with Orchestra(database) as orchestra:
        info = await orchestra.info("t")
        assert (info.workflow, info.user) == ("diamond", "ada")
        assert [info.thread_id for info in await orchestra.runs(workflow="diamond", user="ada")] == ["t"]
        with old_branch_untouched(database):
            if (await orchestra.history("t")).current == 1:
                outcome = await (await orchestra.fork("t", again="c", workflow=flow))
            else:
                outcome = await (await orchestra.resume("t", workflow=flow))
        assert set(desk.calls - calls) <= {"c", "d"}, "what the branch was to keep has run again"
        d = f"d{desk.calls['d']}(b1(),c{desk.calls['c']}(a1()))"
        assert (outcome.state, outcome.results["d"].output) == (RunState.DONE, d)
        assert desk.calls["c"] > 1
        assert (await orchestra.history("t")).current == 2


@pytest.mark.parametrize(
    ("puts", "how"),
    [
        (1, {"at": 1}),
        (2, {"at": 1}),
        (2, {"at": 6, "request": "more"}),
        (3, {"at": 6, "request": "more"}),
        (2, {"at": 3, "request": "other"}),
        (3, {"at": 3, "request": "other"}),
    ],
)
async def test_a_new_turn_on_a_branch_that_was_cut_off_goes_on(database: str, desk: Desk, puts: int, how: Any) -> None:
    flow = chain(desk)
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(flow, "go", thread_id="t", user="ada"))
    with old_branch_untouched(database):
        await fork_cut_off(database, puts, workflow=flow, **how)
    async with Orchestra(database) as orchestra:
        info = await orchestra.info("t")
        assert (info.workflow, info.user, info.state) == ("chain", "ada", RunState.STOPPED)
        outcome = await (await orchestra.resume("t", workflow=flow))
        assert (outcome.state, outcome.answer) == (RunState.DONE, "c2(b2(a2()))")
        info = await orchestra.info("t")
        turn = 2 if how.get("request") == "more" else 1
        assert (info.turn, info.request) == (turn, how.get("request", "go"))


@pytest.mark.parametrize("base", ["done", "stopped"])
@pytest.mark.parametrize("puts", [1, 2])
async def test_plain_langgraph_resumes_a_fork_whose_process_died(
    database: str, desk: Desk, puts: int, base: str
) -> None:
    flow = diamond(desk)
    async with Orchestra(database) as orchestra:
        if base == "done":
            await flow.compile(checkpointer=orchestra.saver).ainvoke({"request": "go"}, THREAD)
        else:
            await stop_amid(orchestra, flow, desk, "d", {"a", "b", "c", "e"})
    await fork_cut_off(database, puts, again="c", workflow=flow)
    async with SQLAlchemySaver(database) as saver:
        graph = flow.compile(checkpointer=saver)
        with desk.reruns() as called, old_branch_untouched(database):
            state = await graph.ainvoke(None, THREAD)
    assert called <= {"c", "d"}
    assert state["results"]["d"].output == f"d{desk.calls['d']}(b1(),c{desk.calls['c']}(a1()))"


async def snapshots_of(graph: Any) -> dict[str, Any]:
    """What LangGraph shows of a thread, by checkpoint."""
    return {
        snapshot.config["configurable"]["checkpoint_id"]: snapshot
        async for snapshot in graph.aget_state_history(THREAD)
    }


async def test_plain_langgraph_reads_the_history_of_a_forked_thread(orchestra: Orchestra, desk: Desk) -> None:
    flow = diamond(desk)
    await (await orchestra.start(flow, "go", thread_id="t"))
    first = await orchestra.info("t")
    outcome = await (await orchestra.fork("t", again="c", workflow=flow))
    graph = flow.compile(checkpointer=orchestra.saver)
    snapshots = await snapshots_of(graph)
    answers = [snapshot.values.get("answer") for snapshot in snapshots.values()]
    assert answers[0] == outcome.answer
    assert {answer for answer in answers if answer} == {first.answer, outcome.answer}
    assert next(iter(snapshots.values())).next == ()
    for moment in await orchestra.history("t"):
        assert snapshots[moment.checkpoint_id].values["request"] == "go"
    # LangGraph's own way back to a branch that is not the current one
    old = snapshots[(await orchestra.history("t")).branches[1].checkpoint_id]
    assert (await graph.aget_state(old.config)).values["answer"] == first.answer


@pytest.mark.parametrize("base", ["done", "stopped", "waiting"])
async def test_plain_langgraph_sees_the_old_branch_as_it_was_and_can_replay_it(
    orchestra: Orchestra, desk: Desk, base: str
) -> None:
    flow = diamond(desk)
    if base == "stopped":
        await stop_amid(orchestra, flow, desk, "c", {"a", "b", "e"})
    else:
        desk.does["c"] = asks
        await (await orchestra.start(flow, "ask" if base == "waiting" else "go", thread_id="t"))
    graph = flow.compile(checkpointer=orchestra.saver)
    before = await snapshots_of(graph)
    moments = (await orchestra.history("t")).moments
    desk.does.pop("c", None)
    for count, how in enumerate(({"again": "b"}, {"results": {"c": "mine"}}, {"again": "a"}, {"again": ["b", "e"]})):
        await (await orchestra.fork("t", at=moments[-1], workflow=flow, **how))
        after = await snapshots_of(graph)
        assert {checkpoint: after[checkpoint] for checkpoint in before} == before
        assert (await orchestra.history("t")).moments[: len(moments)] == moments
        assert (await orchestra.history("t")).current == count + 2
    planned = before[find(await orchestra.history("t"), "planned").checkpoint_id]
    with desk.reruns() as called:
        state = await graph.ainvoke(None, planned.config)
    assert called == {"a", "b", "c", "d", "e"}
    a, b, c, d = (f"{name}{desk.calls[name]}" for name in "abcd")
    assert state["results"]["d"].output == f"{d}({b}(),{c}({a}()))"
