"""Branches of threads that wait, were stopped or failed; what becomes of state, messages and plans.

Every agent counts its calls and puts the count into its output, so that what was kept can be told from what ran again.
"""

import asyncio

import pytest
from langchain_core.messages import HumanMessage

from orchestra import (
    Assignment,
    Orchestra,
    RequestError,
    RunState,
    Status,
    ThreadError,
    Workflow,
)
from tests.integration.desk import (
    THREAD,
    Desk,
    Planning,
    asks,
    chain,
    diamond,
    find,
    noting,
    old_branch_untouched,
    stop_amid,
    texts,
    until,
)

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
