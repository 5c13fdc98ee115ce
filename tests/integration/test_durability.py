"""The durability page of the design: one test per row, on every kind of saver.

A crash is simulated by cancelling a run that has a second, fresh compilation of the same workflow go on from the same
saver; `tests/fault` does the same with real processes and SIGKILL.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.types import Command, Overwrite, interrupt
from pydantic import BaseModel

from orchestra import Agent, Assignment, RequestError, Review, ThreadWaiting, Workflow, WorkflowError, agent
from orchestra.events import PlanReady, TaskStarted

THREAD: Any = {"configurable": {"thread_id": "t"}}


async def crash(graph: Any, after: float, given: Any = None, once: Callable[[], Any] = lambda: True) -> None:
    """Run a graph and cut it off, some seconds after something has happened."""
    running = asyncio.create_task(graph.ainvoke(given or {"request": "go"}, THREAD))
    while not once():
        await asyncio.sleep(0.01)
    await asyncio.sleep(after)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def head(saver: Any, namespace: str = "") -> Any:
    return await saver.aget_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": namespace}})


def stored_tasks(tuple_: Any) -> set[str]:
    written = {task for _, channel, value in tuple_.pending_writes if channel == "results" for task in value}
    return written | set(tuple_.checkpoint["channel_values"].get("results", {}))


# -- a request accepted


async def test_a_request_is_stored_before_any_agent_starts(any_saver: Any) -> None:
    seen: list[Any] = []

    @agent
    async def first(task: Assignment) -> int:
        seen.append(await head(any_saver))
        return 1

    await Workflow("w", agents=[first]).compile(checkpointer=any_saver).ainvoke({"request": "go"}, THREAD)
    values = seen[0].checkpoint["channel_values"]
    assert values["request"] == "go"
    assert [task["id"] for task in values["plan"]["tasks"]] == ["first"]


async def test_a_refused_request_never_happened(any_saver: Any) -> None:
    def check(request: str) -> None:
        raise RequestError("no such file: x")

    @agent
    async def first(task: Assignment) -> int:
        raise AssertionError("must not run")

    graph = Workflow("w", agents=[first], check=check).compile(checkpointer=any_saver)
    with pytest.raises(RequestError, match="no such file"):
        await graph.ainvoke({"request": "go"}, THREAD)
    with pytest.raises(RequestError, match="empty"):
        await graph.ainvoke({"request": "  "}, THREAD)
    assert await head(any_saver) is None


# -- a task's output


def chain(runs: Counter[str], slow: float = 0.3) -> Workflow:
    """quick and slow start together, next needs quick, last needs all."""

    @agent
    async def quick(task: Assignment) -> int:
        runs["quick"] += 1
        return 1

    @agent
    async def sluggish(task: Assignment) -> str:
        runs["sluggish"] += 1
        await asyncio.sleep(slow)
        return "s"

    @agent
    async def next_(task: Assignment) -> int:
        runs["next_"] += 1
        return task.inputs["quick"] + 1

    @agent
    async def last(task: Assignment) -> str:
        runs["last"] += 1
        return f"{task.inputs['next_']} {task.inputs['sluggish']}"

    flow = Workflow("w", agents=[quick, sluggish, next_, last])
    flow.add_edge("quick", "next_").add_edge(["next_", "sluggish"], "last")
    return flow


async def test_a_finished_task_never_runs_again(any_saver: Any) -> None:
    runs: Counter[str] = Counter()
    await crash(
        chain(runs, slow=10).compile(checkpointer=any_saver),
        after=0.15,
        once=lambda: runs["next_"] and runs["sluggish"],
    )
    assert stored_tasks(await head(any_saver)) == {"quick", "next_"}
    state = await chain(runs).compile(checkpointer=any_saver).ainvoke(None, THREAD)
    assert runs == {"quick": 1, "next_": 1, "sluggish": 2, "last": 1}
    assert state["answer"] == "2 s"


async def test_a_resumed_run_tells_what_was_finished(any_saver: Any) -> None:
    runs: Counter[str] = Counter()
    await crash(
        chain(runs, slow=10).compile(checkpointer=any_saver),
        after=0.15,
        once=lambda: runs["next_"] and runs["sluggish"],
    )
    graph = chain(runs).compile(checkpointer=any_saver)
    events = [event async for event in graph.astream(None, THREAD, stream_mode="custom")]
    (plan,) = [event for event in events if isinstance(event, PlanReady)]
    assert set(plan.finished) == {"quick", "next_"}
    assert [event.task for event in events if isinstance(event, TaskStarted)] == ["sluggish", "last"]


async def test_resuming_with_the_heads_own_config_does_not_replay_it(any_saver: Any) -> None:
    runs: Counter[str] = Counter()
    graph = chain(runs).compile(checkpointer=any_saver)
    await crash(graph, after=0.15)
    snapshot = await graph.aget_state(THREAD)
    await graph.ainvoke(None, snapshot.config)
    assert runs["quick"] == 1


# -- what a dependant saw


async def test_a_stored_result_implies_stored_inputs(any_saver: Any) -> None:
    """Cut a chain at many moments: whatever is stored is closed under "needs"."""

    def step(name: str) -> Agent:
        async def run(task: Assignment) -> int:
            await asyncio.sleep(0.001)
            return sum(task.inputs.values()) + 1

        return Agent(name, run)

    names = [f"s{i}" for i in range(30)]
    flow = Workflow("w", agents=[step(name) for name in names])
    for before, after in itertools.pairwise(names):
        flow.add_edge(before, after)
    graph = flow.compile(checkpointer=any_saver)
    running = asyncio.create_task(graph.ainvoke({"request": "go"}, THREAD))
    seen: list[set[str]] = []
    while not running.done():
        if (found := await head(any_saver)) is not None and "plan" in found.checkpoint["channel_values"]:
            seen.append(stored_tasks(found))
        await asyncio.sleep(0)
    await running
    assert any(0 < len(stored) < 30 for stored in seen)
    for stored in seen:
        assert stored == set(names[: len(stored)])


async def test_a_dependant_receives_the_same_before_and_after_a_crash(any_saver: Any) -> None:
    class Money(BaseModel):
        amount: float

    received: list[Any] = []

    @agent
    async def source(task: Assignment) -> Money:
        return Money(amount=1.5)

    @agent
    async def sink(money: Money) -> str:
        received.append(money)
        await asyncio.sleep(0.6)
        return str(money.amount)

    flow = Workflow("w", agents=[source, sink])
    await crash(flow.compile(checkpointer=any_saver), after=0.3)
    await flow.compile(checkpointer=any_saver).ainvoke(None, THREAD)
    assert received == [Money(amount=1.5)] * 2
    assert all(type(money) is Money for money in received)


# -- an agent with side effects


@pytest.mark.parametrize("side_effects", [True, False])
async def test_an_agent_with_side_effects_starts_after_its_inputs_are_committed(
    any_saver: Any, side_effects: bool
) -> None:
    seen: list[set[str]] = []

    @agent
    async def source(task: Assignment) -> int:
        return 1

    @agent(side_effects=side_effects)
    async def mailer(x: int) -> str:
        seen.append(stored_tasks(await head(any_saver)))
        return "sent"

    await Workflow("w", agents=[source, mailer]).compile(checkpointer=any_saver).ainvoke({"request": "go"}, THREAD)
    if side_effects:
        assert seen == [{"source"}]


async def test_side_effects_wait_for_their_inputs_inside_a_team_too_and_refuse_to_store_at_the_end_only(
    any_saver: Any,
) -> None:
    seen: list[set[str]] = []

    @agent
    async def source(task: Assignment) -> int:
        return 1

    @agent(side_effects=True)
    async def mailer(task: Assignment) -> str:
        seen.append(stored_tasks(await head(any_saver)))
        return "sent"

    flow = Workflow("outer", agents=[source, Agent("team", Workflow("team", agents=[mailer]))])
    graph = flow.add_edge("source", "team").compile(checkpointer=any_saver)
    await graph.ainvoke({"request": "go"}, THREAD)
    assert seen == [{"source"}]
    with pytest.raises(WorkflowError, match="stores nothing before the end"):
        await graph.ainvoke({"request": "go"}, THREAD, durability="exit")


async def test_the_idempotency_key_is_the_same_at_every_attempt_and_differs_between_turns(
    any_saver: Any,
) -> None:
    keys: list[str] = []

    @agent
    async def flaky(task: Assignment) -> int:
        keys.append(task.idempotency_key)
        if len(keys) == 1:
            await asyncio.sleep(10)
        return 1

    @agent
    async def other(task: Assignment) -> float:
        keys.append(task.idempotency_key)
        return 1.0

    await crash(Workflow("w", agents=[flaky]).compile(checkpointer=any_saver), after=0.1)
    graph = Workflow("w", agents=[flaky]).compile(checkpointer=any_saver)
    await graph.ainvoke(None, THREAD)
    assert keys[0] == keys[1]
    await graph.ainvoke({"request": "next turn"}, THREAD)
    assert keys[2] != keys[1]
    await Workflow("w", agents=[flaky, other]).compile(checkpointer=any_saver).ainvoke({"request": "go"}, THREAD)
    assert len(set(keys[3:])) == 2


# -- an attempt (tests/fault/test_poison.py has the row with processes that really die)


async def test_neither_a_question_nor_a_cancelled_run_counts_as_a_crash(any_saver: Any) -> None:
    seconds = [10.0]

    @agent(max_crashes=1)
    async def guarded(task: Assignment) -> str:
        await asyncio.sleep(seconds[0])
        return interrupt("name?")

    flow = Workflow("w", agents=[guarded])
    await crash(flow.compile(checkpointer=any_saver), after=0.1)
    seconds[0] = 0
    await flow.compile(checkpointer=any_saver).ainvoke(None, THREAD)
    state = await flow.compile(checkpointer=any_saver).ainvoke(Command(resume="Ada"), THREAD)
    assert state["answer"] == "Ada"


# -- a question


def asking(runs: Counter[str]) -> Workflow:
    @agent
    async def base(task: Assignment) -> int:
        runs["base"] += 1
        return 1

    def asker(name: str) -> Agent:
        async def run(task: Assignment) -> str:
            runs[name] += 1
            return f"{name} says {interrupt({'ask': name})}"

        return Agent(name, run)

    @agent
    async def after_one(task: Assignment) -> str:
        runs["after_one"] += 1
        return task.inputs["one"]

    @agent
    async def end(task: Assignment) -> str:
        runs["end"] += 1
        return " and ".join(task.inputs.values())

    flow = Workflow("asking", agents=[base, asker("one"), asker("two"), after_one, end])
    flow.add_edge("base", "one").add_edge("base", "two").add_edge("one", "after_one")
    flow.add_edge(["after_one", "two"], "end")
    return flow


def nest(flow: Workflow, runs: Counter[str]) -> Workflow:
    @agent
    async def before(task: Assignment) -> float:
        runs["before"] += 1
        return 0.5

    @agent
    async def behind(task: Assignment) -> str:
        runs["behind"] += 1
        return task.inputs["team"]

    outer = Workflow("outer", agents=[before, Agent("team", flow), behind])
    return outer.add_edge("before", "team").add_edge("team", "behind")


@pytest.mark.parametrize("nested", [False, True])
async def test_questions_are_answered_one_by_one_without_repeating_work(any_saver: Any, nested: bool) -> None:
    runs: Counter[str] = Counter()

    def build() -> Any:
        flow = asking(runs)
        return (nest(flow, runs) if nested else flow).compile(checkpointer=any_saver)

    state = await build().ainvoke({"request": "go"}, THREAD)
    questions = {question.value["ask"]: question.id for question in state["__interrupt__"]}
    assert set(questions) == {"one", "two"}
    assert (runs["one"], runs["two"], runs["base"]) == (1, 1, 1)
    with pytest.raises(ThreadWaiting):
        await build().ainvoke({"request": "something else"}, THREAD)

    state = await build().ainvoke(Command(resume={questions["two"]: "B"}), THREAD)
    assert [question.value["ask"] for question in state["__interrupt__"]] == ["one"]
    assert (runs["one"], runs["two"], runs["base"]) == (1, 2, 1)

    state = await build().ainvoke(None, THREAD)  # a plain resume answers nothing and repeats nothing
    assert [question.value["ask"] for question in state["__interrupt__"]] == ["one"]
    assert (runs["one"], runs["two"], runs["after_one"]) == (1, 2, 0)

    state = await build().ainvoke(Command(resume="A"), THREAD)
    assert state["answer"] == "one says A and two says B"
    assert (runs["one"], runs["two"], runs["base"], runs["after_one"], runs["end"]) == (2, 2, 1, 1, 1)
    if nested:
        assert (runs["before"], runs["behind"]) == (1, 1)


async def test_an_answer_that_is_a_mapping_is_an_answer(any_saver: Any) -> None:
    @agent
    async def asks(task: Assignment) -> dict[str, bool]:
        return interrupt("approve?")

    graph = Workflow("w", agents=[asks]).compile(checkpointer=any_saver)
    await graph.ainvoke({"request": "go"}, THREAD)
    state = await graph.ainvoke(Command(resume={"approved": True}), THREAD)
    assert state["results"]["asks"].output == {"approved": True}


async def test_an_answer_survives_a_crash_before_the_agent_is_done_with_it(any_saver: Any) -> None:
    got: list[str] = []

    @agent
    async def asks(task: Assignment) -> str:
        got.append(interrupt("first?"))
        await asyncio.sleep(10 if len(got) == 1 else 0)
        return f"{got[-1]} {interrupt('second?')}"

    graph = Workflow("w", agents=[asks]).compile(checkpointer=any_saver)
    await graph.ainvoke({"request": "go"}, THREAD)
    await crash(graph, after=0.5, given=Command(resume="A"))
    state = await graph.ainvoke(None, THREAD)
    assert got == ["A", "A"]
    assert state["__interrupt__"][0].value == "second?"
    assert (await graph.ainvoke(None, THREAD))["__interrupt__"][0].value == "second?"  # not answered with "A"
    assert (await graph.ainvoke(Command(resume="B"), THREAD))["answer"] == "A B"


async def test_a_person_who_reviews_gets_the_draft_that_was_shown(any_saver: Any) -> None:
    drafts: list[str] = []

    @agent
    async def author(task: Assignment) -> str:
        drafts.append(f"draft {len(drafts) + 1}")
        return drafts[-1]

    @agent
    async def person(draft: str) -> Review:
        answer = interrupt(draft)
        return Review(approved=answer == "yes", reasons=(answer,))

    flow = Workflow("w", agents=[author, person]).add_review("author", by="person", rounds=2)
    graph = flow.compile(checkpointer=any_saver)
    state = await graph.ainvoke({"request": "go"}, THREAD)
    assert state["__interrupt__"][0].value == "draft 1"
    state = await graph.ainvoke(Command(resume="longer"), THREAD)
    assert state["__interrupt__"][0].value == "draft 2"
    state = await graph.ainvoke(Command(resume="yes"), THREAD)
    assert state["answer"] == "draft 2"
    assert drafts == ["draft 1", "draft 2"]
    assert [review.reasons for review in state["results"]["author"].reviews] == [("longer",), ("yes",)]


async def test_what_does_not_depend_on_a_question_goes_on(any_saver: Any) -> None:
    runs: Counter[str] = Counter()
    flow = asking(runs)

    @agent
    async def aside(task: Assignment) -> bytes:
        await asyncio.sleep(0.05)
        runs["aside"] += 1
        return b"done"

    flow.add_agent(aside)
    graph = flow.compile(checkpointer=any_saver)
    await graph.ainvoke({"request": "go"}, THREAD)
    assert runs["aside"] == 1
    assert (await graph.aget_state(THREAD)).values["results"]["aside"].output == b"done"


# -- a team's inner task


async def test_a_teams_finished_inner_tasks_do_not_run_again(any_saver: Any) -> None:
    runs: Counter[str] = Counter()
    await crash(
        nest(chain(runs, slow=10), runs).compile(checkpointer=any_saver),
        after=0.15,
        once=lambda: runs["next_"] and runs["sluggish"],
    )
    assert stored_tasks(await head(any_saver)) == {"before"}
    state = await nest(chain(runs), runs).compile(checkpointer=any_saver).ainvoke(None, THREAD)
    assert runs == {"before": 1, "quick": 1, "next_": 1, "sluggish": 2, "last": 1, "behind": 1}
    assert state["answer"] == "2 s"


async def test_three_levels(any_saver: Any) -> None:
    runs: Counter[str] = Counter()

    def build(slow: float = 0.01) -> Any:
        middle = Workflow("middle", agents=[Agent("inner", chain(runs, slow))])
        return Workflow("top", agents=[Agent("middle", middle)]).compile(checkpointer=any_saver)

    await crash(build(slow=10), after=0.2, once=lambda: runs["next_"] and runs["sluggish"])
    state = await build().ainvoke(None, THREAD)
    assert state["answer"] == "2 s"
    assert runs == {"quick": 1, "next_": 1, "sluggish": 2, "last": 1}


# -- a fork, "again from X"


async def test_again_from_a_task_keeps_what_does_not_depend_on_it(any_saver: Any) -> None:
    runs: Counter[str] = Counter()
    graph = chain(runs, slow=0.01).compile(checkpointer=any_saver)
    await graph.ainvoke({"request": "go"}, THREAD)
    done = await graph.aget_state(THREAD)
    kept = {task: result for task, result in done.values["results"].items() if task not in ("next_", "last")}
    branch = await graph.aupdate_state(done.config, {"results": Overwrite(as_json(kept))}, as_node="__start__")
    state = await graph.ainvoke(None, branch)
    assert state["answer"] == "2 s"
    assert runs == {"quick": 1, "sluggish": 1, "next_": 2, "last": 2}
    old = await graph.aget_state(done.config)
    assert set(old.values["results"]) == {"quick", "sluggish", "next_", "last"}


def as_json(results: dict[str, Any]) -> dict[str, Any]:
    return {task: result.model_dump(mode="json") for task, result in results.items()}


async def test_replaying_an_old_checkpoint_runs_from_there_and_leaves_the_old_branch(any_saver: Any) -> None:
    runs: Counter[str] = Counter()
    graph = chain(runs, slow=0.01).compile(checkpointer=any_saver)
    await graph.ainvoke({"request": "go"}, THREAD)
    history = [snapshot async for snapshot in graph.aget_state_history(THREAD)]
    wave = next(snapshot for snapshot in history if "quick" in snapshot.next)
    state = await graph.ainvoke(None, wave.config)
    assert state["answer"] == "2 s"
    assert runs == {"quick": 2, "sluggish": 2, "next_": 2, "last": 2}
    assert (await graph.aget_state(history[0].config)).values["answer"] == "2 s"
