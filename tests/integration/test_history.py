"""The moments of a thread, and where two of them differ.

Every agent counts its calls and puts the count into its output, so that what was kept can be told from what ran again.
"""

import asyncio

import pytest

from orchestra import (
    Assignment,
    Orchestra,
    RunState,
    Status,
    ThreadError,
    Workflow,
)
from tests.integration.desk import (
    Desk,
    Planning,
    asks,
    chain,
    diamond,
    find,
    kinds,
    noting,
    table,
)

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
