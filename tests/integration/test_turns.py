"""Several requests on one thread: what is recorded of them, what agents see of them, and what a new one may drop."""

from __future__ import annotations

import asyncio
import operator
from datetime import timedelta
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from orchestra import (
    Agent,
    Assignment,
    Orchestra,
    Plan,
    PlanError,
    RequestError,
    Run,
    RunState,
    Task,
    ThreadWaiting,
    Workflow,
    WorkflowError,
    agent,
    wait_for,
)

THREAD: Any = {"configurable": {"thread_id": "t"}}
SUPERSEDE: Any = {"configurable": {"thread_id": "t", "supersede": True}}


class Notes(TypedDict):
    notes: Annotated[list[str], operator.add]


def desk(seen: list[Assignment] | None = None, **options: Any) -> Workflow:
    """Counts the request's letters, then answers; asks, waits or hangs if the request begins so."""

    @agent
    async def count(task: Assignment) -> int:
        if seen is not None:
            seen.append(task)
        return len(task.request)

    @agent
    async def reply(x: int, task: Assignment) -> str:
        if task.request.startswith("ask"):
            return f"{interrupt(f'{task.request}?')} {x}"
        if task.request.startswith("wait"):
            wait_for(timedelta(hours=1))
        if task.request.startswith("hang"):
            await asyncio.sleep(60)
        return f"{x} letters"

    return Workflow("desk", agents=[count, reply], **options)


async def cut_off(orchestra: Orchestra, run: Run, *tasks: str) -> None:
    """Cancel a run once these results are stored."""
    async with asyncio.timeout(10):
        while not {*tasks} <= {*(await orchestra.info(run.thread_id)).raw}:
            await asyncio.sleep(0.01)
    await run.cancel()


async def four_turns(orchestra: Orchestra, flow: Workflow) -> None:
    """One that is answered, one that is superseded, one that is stopped, and the present one."""
    await (await orchestra.start(flow, "one", thread_id="t"))
    assert (await (await orchestra.start(flow, "ask", thread_id="t"))).state is RunState.WAITING
    run = await orchestra.start(flow, "hang", thread_id="t", supersede=True)
    await cut_off(orchestra, run, "count")
    assert (await (await orchestra.start(flow, "four!", thread_id="t"))).answer == "5 letters"


def texts(messages: Any) -> list[str]:
    return [message.content for message in messages]


async def test_every_turn_is_recorded_with_how_it_ended(any_url: str) -> None:
    flow = desk()
    async with Orchestra(any_url) as orchestra:
        await four_turns(orchestra, flow)
        state = (await flow.compile(checkpointer=orchestra.saver).aget_state(THREAD)).values
    async with Orchestra(any_url) as orchestra:
        turns = await orchestra.turns("t")
        info = await orchestra.info("t")
    assert turns == state["history"]
    assert [(t["turn"], t["request"], t["answer"], t["ended"], t["dropped"]) for t in turns] == [
        (1, "one", "3 letters", "answered", []),
        (2, "ask", "", "superseded", ["ask?"]),
        (3, "hang", "", "stopped", []),
    ]
    assert [{task: raw["output"] for task, raw in turn["results"].items()} for turn in turns] == [
        {"count": 3, "reply": "3 letters"},
        {"count": 3},
        {"count": 4},
    ]
    assert len({turn["opening"] for turn in turns}) == 3
    assert (info.turn, info.request, info.answer, info.state) == (4, "four!", "5 letters", RunState.DONE)
    assert {task: result.output for task, result in info.results.items()} == {"count": 5, "reply": "5 letters"}
    assert texts(state["messages"]) == ["one", "3 letters", "ask", "hang", "four!", "5 letters"]


@pytest.mark.parametrize("shown", [None, 0, 1, 2])
async def test_agents_see_as_many_turns_as_the_workflow_says(database: str, shown: int | None) -> None:
    seen: list[Assignment] = []
    flow = desk(seen, history=shown)
    requests = ["a", "bb", "ccc", "dddd"]
    async with Orchestra(database) as orchestra:
        for request in requests:
            await (await orchestra.start(flow, request, thread_id="t"))
        assert len(await orchestra.turns("t")) == 3  # all of them are kept, whatever agents see
    for number, assignment in enumerate(seen, 1):
        first = 1 if shown is None else max(1, number - shown)
        assert [turn["turn"] for turn in assignment.history] == [*range(first, number)]
        earlier = [
            text for request in requests[first - 1 : number - 1] for text in (request, f"{len(request)} letters")
        ]
        assert texts(assignment.messages) == [*earlier, requests[number - 1]]


@pytest.mark.parametrize(
    ("shown", "turns", "messages"),
    [
        (None, [1, 2, 3], ["one", "3 letters", "ask", "hang", "four!"]),
        (2, [2, 3], ["ask", "hang", "four!"]),
        (1, [3], ["hang", "four!"]),
        (0, [], ["four!"]),
    ],
)
async def test_turns_that_were_dropped_are_seen_and_left_out_like_others(
    database: str, shown: int | None, turns: list[int], messages: list[str]
) -> None:
    seen: list[Assignment] = []
    async with Orchestra(database) as orchestra:
        await four_turns(orchestra, desk(seen, history=shown))
    assert [turn["turn"] for turn in seen[-1].history] == turns
    assert texts(seen[-1].messages) == messages


async def test_what_agents_see_is_the_same_after_a_restart(database: str) -> None:
    """The supervisor hands it over in memory; after a crash it is read back from the checkpoint."""
    hanging, seen = [True], list[Assignment]()

    @agent
    async def look(task: Assignment) -> str:
        seen.append(task)
        if task.request == "two" and hanging:
            await asyncio.sleep(60)
        return task.request.upper()

    flow = Workflow("look", agents=[look], history=1)
    async with Orchestra(database) as orchestra:
        for request in ("zero", "one"):
            await (await orchestra.start(flow, request, thread_id="t", user="ada"))
        run = await orchestra.start(flow, "two", thread_id="t", user="ada")
        async with asyncio.timeout(10):
            while len(seen) < 3:
                await asyncio.sleep(0.01)
        await run.cancel()
    hanging.clear()
    async with Orchestra(database) as orchestra:
        assert (await (await orchestra.resume("t", workflow=flow))).answer == "TWO"
    before, after = seen[-2:]
    assert before.history == after.history
    assert [turn["request"] for turn in after.history] == ["one"]
    assert texts(before.messages) == texts(after.messages) == ["one", "ONE", "two"]
    assert (before.user, before.idempotency_key) == (after.user, after.idempotency_key)
    assert after.user == "ada"


def test_a_negative_number_of_turns_is_refused() -> None:
    with pytest.raises(WorkflowError, match="history must not be negative"):
        desk(history=-1)


@pytest.mark.parametrize("request_", ["ask", "wait"])
async def test_a_new_request_does_not_drop_what_is_open_by_accident(any_saver: Any, request_: str) -> None:
    graph = desk().compile(checkpointer=any_saver)
    await graph.ainvoke({"request": request_}, THREAD)
    before = (await graph.aget_state(THREAD)).config
    with pytest.raises(ThreadWaiting, match=r"supersede=True"):
        await graph.ainvoke({"request": "more"}, THREAD)
    assert (await graph.aget_state(THREAD)).config == before


async def test_superseding_in_plain_langgraph(any_saver: Any) -> None:
    graph = desk().compile(checkpointer=any_saver)
    await graph.ainvoke({"request": "ask"}, THREAD)
    state = await graph.ainvoke({"request": "two"}, SUPERSEDE)
    assert (state["answer"], state["turn"]) == ("3 letters", 2)
    (turn,) = state["history"]
    assert (turn["ended"], turn["dropped"], turn["answer"]) == ("superseded", ["ask?"], "")
    assert {task: raw["output"] for task, raw in turn["results"].items()} == {"count": 3}
    assert not (await graph.aget_state(THREAD)).next
    state = await graph.ainvoke({"request": "three"}, THREAD)
    assert [turn["ended"] for turn in state["history"]] == ["superseded", "answered"]


def test_superseding_by_sync_calls() -> None:
    graph = desk().compile(checkpointer=InMemorySaver())
    graph.invoke({"request": "one"}, THREAD)
    graph.invoke({"request": "ask"}, THREAD)
    with pytest.raises(ThreadWaiting):
        graph.invoke({"request": "more"}, THREAD)
    state = graph.invoke({"request": "four"}, SUPERSEDE)
    assert [(turn["ended"], turn["dropped"]) for turn in state["history"]] == [
        ("answered", []),
        ("superseded", ["ask?"]),
    ]
    assert state["answer"] == "4 letters"


async def test_a_stopped_turn_in_plain_langgraph(any_saver: Any) -> None:
    graph = desk().compile(checkpointer=any_saver)
    running = asyncio.create_task(graph.ainvoke({"request": "hang"}, THREAD))
    async with asyncio.timeout(10):
        while not any(
            channel == "results" and isinstance(value, dict) and "count" in value  # not the supervisor's empty ones
            for found in [await any_saver.aget_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": ""}})]
            for _, channel, value in (found.pending_writes if found else ())
        ):
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    state = await graph.ainvoke({"request": "next"}, THREAD)
    (turn,) = state["history"]
    assert (turn["ended"], turn["request"], turn["dropped"]) == ("stopped", "hang", [])
    assert {task: raw["output"] for task, raw in turn["results"].items()} == {"count": 4}
    assert state["answer"] == "4 letters"


async def test_a_drained_turn_is_recorded_as_stopped_with_what_it_had_finished(database: str) -> None:
    working, gate = asyncio.Event(), asyncio.Event()

    @agent
    async def first(task: Assignment) -> int:
        if task.request == "drain":
            working.set()
            await gate.wait()
        return 1

    @agent
    async def second(x: int) -> str:
        return str(x)

    flow = Workflow("w", agents=[first, second])
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(flow, "drain", thread_id="t")
        await asyncio.wait_for(working.wait(), 10)
        run.drain()
        gate.set()
        assert {*(await run).results} == {"first"}
        await (await orchestra.start(flow, "next", thread_id="t"))
        (turn,) = await orchestra.turns("t")
    assert (turn["ended"], {*turn["results"]}) == ("stopped", {"first"})


async def test_a_turn_that_never_got_a_plan_leaves_the_others_as_they_are(database: str) -> None:
    class Slow:
        async def plan(self, request: str, **_: Any) -> Plan:
            if request == "hang":
                planning.set()
                await asyncio.sleep(60)
            return Plan(tasks=(Task(id="count", agent="count"),))

    planning = asyncio.Event()
    flow = desk(planner=Slow())
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(flow, "one", thread_id="t"))
        starting = asyncio.create_task(orchestra.start(flow, "hang", thread_id="t"))
        await asyncio.wait_for(planning.wait(), 10)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await (await orchestra.start(flow, "three", thread_id="t"))
        turns = await orchestra.turns("t")
        info = await orchestra.info("t")
    # The first turn is not told twice, and is not mixed up with the one that was cut off.
    assert [(turn["request"], turn["ended"]) for turn in turns if turn["request"] != "hang"] == [("one", "answered")]
    assert (info.request, info.answer, info.results["count"].output) == ("three", "5", 5)


@pytest.mark.parametrize("how", ["refused", "cut off"])
async def test_a_question_is_on_record_though_the_request_that_dropped_it_got_no_plan(database: str, how: str) -> None:
    class Moody:
        async def plan(self, request: str, **_: Any) -> Plan:
            if request == "bad" and how == "refused":
                raise PlanError("no idea")
            if request == "bad":
                planning.set()
                await asyncio.sleep(60)
            return Plan(tasks=(Task(id="count", agent="count"), Task(id="reply", agent="reply", needs=("count",))))

    planning = asyncio.Event()
    flow = desk(planner=Moody())
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(flow, "ask", thread_id="t"))
        starting = asyncio.create_task(orchestra.start(flow, "bad", thread_id="t", supersede=True))
        if how == "cut off":
            await asyncio.wait_for(planning.wait(), 10)
            starting.cancel()
        with pytest.raises((PlanError, asyncio.CancelledError)):
            await starting
        # Whether the question is still open or dropped for good: it is not lost without a trace.
        outcome = await (await orchestra.start(flow, "three", thread_id="t", supersede=True))
        assert outcome.answer == "5 letters"
        turns = await orchestra.turns("t")
    assert [(t["request"], t["ended"], t["dropped"], {*t["results"]}) for t in turns if t["request"] != "bad"] == [
        ("ask", "superseded", ["ask?"], {"count"})
    ]


async def test_what_one_agent_changes_in_the_conversation_nobody_else_sees(database: str) -> None:
    @agent
    async def vandal(task: Assignment) -> int:
        for message in task.messages:
            message.content = "graffiti"
        for turn in task.history:
            turn["results"].clear()  # type: ignore[index]
        return 1

    seen: list[Assignment] = []

    @agent
    async def reads(x: int, task: Assignment) -> str:
        seen.append(task)
        return "read"

    flow = Workflow("w", agents=[vandal, reads])
    async with Orchestra(database) as orchestra:
        for request in ("one", "two"):
            await (await orchestra.start(flow, request, thread_id="t"))
        state = (await flow.compile(checkpointer=orchestra.saver).aget_state(THREAD)).values
    assert texts(state["messages"]) == ["one", "read", "two", "read"]
    assert [{*turn["results"]} for turn in state["history"]] == [{"vandal", "reads"}]
    assert texts(seen[-1].messages) == ["one", "read", "two"]
    assert [{*turn["results"]} for turn in seen[-1].history] == [{"vandal", "reads"}]


async def test_a_cut_off_run_with_an_open_question_is_not_dropped_by_accident_either(database: str) -> None:
    @agent
    async def hangs(task: Assignment) -> float:
        await asyncio.sleep(60 if task.request == "ask" else 0)
        return 1.0

    flow = Workflow("w", agents=[*desk().roster.values(), hangs])
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(flow, "ask", thread_id="t")
        async with asyncio.timeout(10):
            while not (await orchestra.info("t")).questions:
                await asyncio.sleep(0.01)
        await run.cancel()
        with pytest.raises(ThreadWaiting):
            await orchestra.start(flow, "two", thread_id="t")
        assert (await (await orchestra.start(flow, "two", thread_id="t", supersede=True))).state is RunState.DONE
        (turn,) = await orchestra.turns("t")
    assert (turn["ended"], turn["dropped"], {*turn["results"]}) == ("superseded", ["ask?"], {"count"})


async def test_the_keys_of_the_users_own_keep_what_finished_tasks_wrote(database: str) -> None:
    def noting(name: str) -> Agent:
        async def run(task: Assignment) -> Any:
            seen[name, task.request] = list(task.state.get("notes", []))
            if name == "asks" and task.request.startswith("ask"):
                interrupt("who?")
            if name == "asks" and task.request.startswith("hang"):
                await asyncio.sleep(60)
            return name, Command(update={"notes": [f"{name} {task.request}"]})

        return Agent(name, run, output=str)

    seen: dict[tuple[str, str], list[str]] = {}
    flow = Workflow("w", agents=[noting("one"), noting("asks")], state_schema=Notes)
    flow.add_edge("one", "asks")
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(flow, "ask", thread_id="t"))
        run = await orchestra.start(flow, "hang", thread_id="t", supersede=True)
        await cut_off(orchestra, run, "one")
        await (await orchestra.start(flow, "end", thread_id="t"))
        state = (await flow.compile(checkpointer=orchestra.saver).aget_state(THREAD)).values
    assert seen["one", "hang"] == ["one ask"]
    assert seen["one", "end"] == ["one ask", "one hang"]
    assert state["notes"] == ["one ask", "one hang", "one end", "asks end"]


async def test_superseding_when_one_of_two_questions_is_answered(database: str) -> None:
    def asker(name: str) -> Agent:
        async def run(task: Assignment) -> Any:
            if task.request == "ask":
                return interrupt({"who": name}), Command(update={"notes": [name]})
            return name

        return Agent(name, run, output=str)

    flow = Workflow("both", agents=[asker("one"), asker("two")], state_schema=Notes)
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "ask", thread_id="t"))
        ids = {question.value["who"]: question.id for question in outcome.questions}
        outcome = await (await orchestra.resume("t", workflow=flow, answers={ids["one"]: "Ada"}))
        assert [question.value for question in outcome.questions] == [{"who": "two"}]
        outcome = await (await orchestra.start(flow, "two", thread_id="t", supersede=True))
        assert outcome.state is RunState.DONE
        (turn,) = await orchestra.turns("t")
        state = (await flow.compile(checkpointer=orchestra.saver).aget_state(THREAD)).values
    assert (turn["ended"], turn["dropped"]) == ("superseded", [{"who": "two"}])
    assert {task: raw["output"] for task, raw in turn["results"].items()} == {"one": "Ada"}
    assert state["notes"] == ["one"]


@pytest.mark.parametrize("new", [True, False])
async def test_superseding_where_nothing_is_open_changes_nothing(database: str, new: bool) -> None:
    async with Orchestra(database) as orchestra:
        if not new:
            await (await orchestra.start(desk(), "one", thread_id="t"))
        outcome = await (await orchestra.start(desk(), "two!", thread_id="t", supersede=True))
        assert (outcome.state, outcome.answer) == (RunState.DONE, "4 letters")
        assert [(turn["ended"], turn["dropped"]) for turn in await orchestra.turns("t")] == [("answered", [])] * (
            not new
        )


async def test_superseding_a_timer_is_recorded_as_that_and_drops_no_question(database: str) -> None:
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(desk(), "wait", thread_id="t"))
        with pytest.raises(ThreadWaiting):
            await orchestra.start(desk(), "two", thread_id="t")
        outcome = await (await orchestra.start(desk(), "two", thread_id="t", supersede=True))
        assert (outcome.state, outcome.due) == (RunState.DONE, None)
        (turn,) = await orchestra.turns("t")
        assert (turn["ended"], [*turn["dropped"][0]], {*turn["results"]}) == ("superseded", ["until"], {"count"})


async def test_superseding_a_question_inside_a_team(database: str) -> None:
    flow = Workflow("outer", agents=[Agent("team", desk()), Agent("side", lambda task: b"side", output=bytes)])
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "ask", thread_id="t"))
        assert [question.value for question in outcome.questions] == ["ask?"]
        outcome = await (await orchestra.start(flow, "two", thread_id="t", supersede=True))
        assert (outcome.state, outcome.results["team"].output) == (RunState.DONE, "3 letters")
        (turn,) = await orchestra.turns("t")
        assert (turn["ended"], turn["dropped"], {*turn["results"]}) == ("superseded", ["ask?"], {"side"})
        info = await orchestra.info("t")
        assert (info.state, info.questions) == (RunState.DONE, ())
        assert info.teams["team"].results["count"].output == 3
        outcome = await (await orchestra.start(flow, "ask again", thread_id="t"))  # and the next one asks anew
        assert [question.value for question in outcome.questions] == ["ask again?"]
        outcome = await (await orchestra.resume("t", workflow=flow, answers={outcome.questions[0].id: "Ada"}))
        assert outcome.results["team"].output == "Ada 9"


async def test_a_resumed_thread_goes_on_for_the_user_it_was_started_for(database: str) -> None:
    users: list[tuple[str, Any]] = []

    @agent
    async def asks(task: Assignment) -> str:
        users.append((task.user, task.preferences))
        return interrupt("who?")

    flow = Workflow("w", agents=[asks])
    async with Orchestra(database) as orchestra:
        await orchestra.memory("ada").remember("tone", "dry")
        outcome = await (await orchestra.start(flow, "go", thread_id="t", user="ada"))
        assert outcome.state is RunState.WAITING
    async with Orchestra(database) as orchestra:
        await (await orchestra.resume("t", workflow=flow, answers={outcome.questions[0].id: "me"}))
        assert (await orchestra.info("t")).user == "ada"
    assert users == [("ada", {"tone": "dry"})] * 2


async def test_messages_go_in_and_come_out(any_saver: Any) -> None:
    seen: list[Assignment] = []
    graph = desk(seen).compile(checkpointer=any_saver)
    given: list[AnyMessage] = [
        SystemMessage("Be brief.", id="s"),
        HumanMessage("hello", id="h1"),
        AIMessage("hi", id="a1"),
        HumanMessage("seven!!", id="h2"),
    ]
    state = await graph.ainvoke({"messages": given}, THREAD)
    assert [message.id for message in state["messages"]][:-1] == ["s", "h1", "a1", "h2"]
    assert (state["request"], state["answer"]) == ("seven!!", "7 letters")
    assert isinstance(state["messages"][-1], AIMessage)
    assert state["messages"][-1].content == "7 letters"
    assert [(type(message), message.content) for message in seen[0].messages] == [
        (type(message), message.content) for message in given
    ]
    # A message with a known id takes the place of the old one, as in LangGraph; what is new is appended.
    changed = [HumanMessage("hello there", id="h1"), ("user", "four")]
    state = await graph.ainvoke({"messages": changed}, THREAD)
    assert texts(state["messages"]) == [
        "Be brief.",
        "hello there",
        "hi",
        "seven!!",
        "7 letters",
        "four",
        "4 letters",
    ]
    assert state["history"][0]["request"] == "seven!!"
    ids = [message.id for message in state["messages"]]
    assert len({*ids}) == len(ids)


async def test_messages_through_the_handle(database: str) -> None:
    async with Orchestra(database) as orchestra:
        given = [HumanMessage("hello"), AIMessage("yes?"), {"role": "user", "content": "five!"}]
        assert (await (await orchestra.start(desk(), given, thread_id="t"))).answer == "5 letters"
        assert (await orchestra.info("t")).request == "five!"
        with pytest.raises(RequestError):
            await orchestra.start(desk(), [AIMessage("nobody asked")], thread_id="t")
        assert (await orchestra.info("t")).turn == 1


async def test_a_request_and_messages_together(any_saver: Any) -> None:
    graph = desk().compile(checkpointer=any_saver)
    state = await graph.ainvoke({"request": "four", "messages": [("user", "please look at this")]}, THREAD)
    assert (state["answer"], texts(state["messages"])) == ("4 letters", ["please look at this", "4 letters"])
