"""Branches that are refused, cut off half-way, or seen with plain LangGraph.

Every agent counts its calls and puts the count into its output, so that what was kept can be told from what ran again.
"""

import asyncio
from typing import Any

import pytest

from checkpoints import SQLAlchemySaver
from orchestra import (
    Orchestra,
    RequestError,
    RunState,
    ThreadBusy,
    ThreadError,
    ThreadNotFound,
    WorkflowError,
)
from tests.integration.desk import (
    THREAD,
    Desk,
    asks,
    chain,
    diamond,
    find,
    nothing_stored,
    old_branch_untouched,
    stop_amid,
    until,
)

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
