"""Branches: a task again, a result put in, an earlier moment, another request.

Every agent counts its calls and puts the count into its output, so that what was kept can be told from what ran again.
"""

from typing import Any

import pytest
from pydantic import BaseModel

from orchestra import (
    Agent,
    Assignment,
    Orchestra,
    RequestError,
    RunState,
    Workflow,
    agent,
)
from tests.integration.desk import (
    AFTER,
    Desk,
    asks,
    chain,
    diamond,
    find,
    kinds,
    nothing_stored,
    old_branch_untouched,
    table,
    texts,
)

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
