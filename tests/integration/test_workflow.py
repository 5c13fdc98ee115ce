"""A workflow used as a LangGraph graph: every way to call it, and what LangGraph's own tools do with it."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.errors import GraphDrained
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import RunControl
from langgraph.types import Command, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from orchestra import (
    Agent,
    Assignment,
    Plan,
    PlanError,
    RequestError,
    Task,
    ThreadBusy,
    ThreadWaiting,
    Workflow,
    WorkflowError,
    agent,
)
from orchestra.events import TaskEnded

THREAD: Any = {"configurable": {"thread_id": "t"}}


def pair(seconds: float = 0.0, **options: Any) -> Workflow:
    @agent
    async def first(task: Assignment) -> int:
        await asyncio.sleep(seconds)
        return len(task.request)

    @agent
    def second(x: int) -> str:
        time.sleep(seconds)
        return f"{x} letters"

    return Workflow("pair", agents=[first, second], **options)


def test_it_is_a_langgraph_graph() -> None:
    flow = pair()
    assert isinstance(flow, StateGraph)
    assert isinstance(flow.compile(), CompiledStateGraph)


async def test_every_way_to_call_it() -> None:
    graph = pair().compile()
    assert (await graph.ainvoke({"request": "abc"}))["answer"] == "3 letters"
    state = await graph.ainvoke({"messages": [("user", "abcd")]})
    assert [type(m) for m in state["messages"]] == [HumanMessage, AIMessage]
    assert state["messages"][-1].content == state["answer"] == "4 letters"
    assert graph.invoke({"request": "ab"})["answer"] == "2 letters"  # inside a running loop
    values = [chunk async for chunk in graph.astream({"request": "a"}, stream_mode="values")]
    assert values[-1]["results"]["first"].output == 1
    updates = [key async for chunk in graph.astream({"request": "a"}, stream_mode="updates") for key in chunk]
    assert [key for key in updates if key in ("first", "second")] == ["first", "second"]
    events = list(graph.stream({"request": "a"}, stream_mode="custom"))
    assert [event.task for event in events if isinstance(event, TaskEnded)] == ["first", "second"]


def test_sync_from_several_threads_with_one_saver() -> None:
    graph = pair(0.05).compile(checkpointer=InMemorySaver())
    answers: list[str] = []

    def call(i: int) -> None:
        answers.append(graph.invoke({"request": "x" * i}, {"configurable": {"thread_id": f"t{i}"}})["answer"])

    threads = [threading.Thread(target=call, args=(i,)) for i in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(answers) == [f"{i} letters" for i in range(1, 9)]


def test_sync_calls_work_with_a_saver_that_has_only_sync_methods(tmp_path: Path) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "sync.db")) as saver:
        runs: list[str] = []

        @agent
        async def first(task: Assignment) -> int:
            runs.append("first")
            return 1

        @agent
        def asks(x: int) -> str:
            runs.append("asks")
            return interrupt("name?")

        graph = Workflow("w", agents=[first, asks]).compile(checkpointer=saver)
        assert graph.invoke({"request": "go"}, THREAD)["__interrupt__"][0].value == "name?"
        with pytest.raises(ThreadWaiting):
            graph.invoke({"request": "more"}, THREAD)
        assert graph.invoke(Command(resume="Ada"), THREAD)["answer"] == "Ada"
        assert runs == ["first", "asks", "asks"]
        assert graph.get_state(THREAD).values["results"]["first"].output == 1


async def test_sync_calls_in_a_thread_work_with_a_saver_of_another_loop(tmp_path: Path) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "async.db")) as saver:
        graph = pair(0.05).compile(checkpointer=saver)
        state = await asyncio.to_thread(graph.invoke, {"request": "abc"}, THREAD)
        assert state["answer"] == "3 letters"
        assert (await graph.aget_state(THREAD)).values["answer"] == "3 letters"


def test_leaving_a_sync_stream_early_cancels_the_agents() -> None:
    cancelled: list[str] = []

    @agent
    async def quick(task: Assignment) -> int:
        return 1

    @agent
    async def slow(task: Assignment) -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append("slow")
            raise
        return ""

    stream = Workflow("w", agents=[quick, slow]).compile().stream({"request": "go"}, stream_mode="custom")
    began = time.monotonic()
    for event in stream:
        if isinstance(event, TaskEnded):
            break
    stream.close()  # type: ignore[attr-defined]
    assert cancelled == ["slow"]
    assert time.monotonic() - began < 5


async def test_blocking_agents_do_not_hold_each_other_up() -> None:
    agents = [Agent(f"a{i}", lambda task: time.sleep(0.2) or 1, output=int) for i in range(60)]
    began = time.monotonic()
    await Workflow("w", agents=agents).compile().ainvoke({"request": "go"})
    assert time.monotonic() - began < 2


async def test_nobody_waits_for_the_slowest_of_a_step() -> None:
    ended: list[str] = []

    def step(name: str, seconds: float) -> Agent:
        async def run(task: Assignment) -> str:
            await asyncio.sleep(seconds)
            ended.append(name)
            return name

        return Agent(name, run)

    flow = Workflow("w", agents=[step("slow", 1), step("quick", 0.05), step("next", 0.05)])
    await flow.add_edge("quick", "next").compile().ainvoke({"request": "go"})
    assert ended == ["quick", "next", "slow"]


async def test_start_and_end_are_accepted_and_add_node_is_add_agent() -> None:
    flow = Workflow("w")
    flow.add_node("first", lambda task: 1, output=int, timeout=3)
    flow.add_node("second", lambda task: task.inputs["first"] + 1, output=int)
    flow.add_edge(START, "first").add_edge("first", "second").add_edge("second", END)
    state = await flow.compile().ainvoke({"request": "go"})
    assert state["results"]["second"].output == 2
    assert flow.roster["first"].timeout == 3


@pytest.mark.parametrize("bad", [{}, {"request": ""}, {"messages": [AIMessage("hi")]}, 7])
async def test_an_empty_request_is_refused(bad: Any) -> None:
    with pytest.raises(RequestError):
        await pair().compile().ainvoke(bad)


async def test_resuming_nothing_is_refused(any_saver: Any) -> None:
    with pytest.raises(RequestError, match="nothing to resume"):
        await pair().compile(checkpointer=any_saver).ainvoke(None, THREAD)


async def test_langgraphs_max_concurrency_is_refused_with_the_alternative() -> None:
    with pytest.raises(WorkflowError, match=r"Agent\(max_concurrency"):
        await pair().compile().ainvoke({"request": "go"}, {"max_concurrency": 2})


async def test_turns_keep_their_results_apart_and_stay_readable(any_saver: Any) -> None:
    graph = pair().compile(checkpointer=any_saver)
    await graph.ainvoke({"request": "one"}, THREAD)
    await graph.ainvoke({"request": "three"}, THREAD)
    state = await graph.ainvoke({"request": "seven!!"}, THREAD)
    assert (state["turn"], state["answer"]) == (3, "7 letters")
    assert [(t["turn"], t["request"], t["answer"]) for t in state["history"]] == [
        (1, "one", "3 letters"),
        (2, "three", "5 letters"),
    ]
    assert state["history"][0]["results"]["first"]["output"] == 3
    assert len(state["messages"]) == 6


async def test_a_result_whose_type_has_changed_since_is_kept_as_it_was(
    any_saver: Any, recwarn: pytest.WarningsRecorder
) -> None:
    class Before(BaseModel):
        a: int

    class After(BaseModel):
        a: int
        b: int

    def build(kind: Any) -> Any:
        async def source(task: Assignment) -> Any:
            return {"a": 1, "b": 2}

        return Workflow("w", agents=[Agent("source", source, output=kind)]).compile(checkpointer=any_saver)

    await build(Before).ainvoke({"request": "one"}, THREAD)
    graph = build(After)
    assert (await graph.aget_state(THREAD)).values["results"]["source"].output == {"a": 1}
    state = await graph.ainvoke({"request": "two"}, THREAD)
    assert state["results"]["source"].output == After(a=1, b=2)
    assert state["history"][0]["results"]["source"]["output"] == {"a": 1}
    assert not [warning for warning in recwarn if "Pydantic" in str(warning.message)]


async def test_two_runs_on_one_thread_at_once_are_refused(any_saver: Any) -> None:
    graph = pair(0.2).compile(checkpointer=any_saver)
    running = asyncio.create_task(graph.ainvoke({"request": "one"}, THREAD))
    await asyncio.sleep(0.1)
    with pytest.raises(ThreadBusy):
        await graph.ainvoke({"request": "two"}, THREAD)
    assert (await running)["answer"] == "3 letters"
    assert (await graph.ainvoke({"request": "two!"}, THREAD))["answer"] == "4 letters"


@pytest.mark.parametrize("nested", [False, True])
async def test_draining_lets_agents_finish_and_leaves_the_rest(any_saver: Any, nested: bool) -> None:
    runs: list[str] = []

    @agent
    async def first(task: Assignment) -> int:
        runs.append("first")
        await asyncio.sleep(0.3)
        return 1

    @agent
    async def second(x: int) -> str:
        runs.append("second")
        return "done"

    flow = Workflow("pair", agents=[first, second])
    flow = Workflow("outer", agents=[Agent("team", flow)]) if nested else flow
    control = RunControl()
    running = asyncio.create_task(
        flow.compile(checkpointer=any_saver).ainvoke({"request": "one"}, THREAD, control=control)
    )
    while not runs:
        await asyncio.sleep(0.01)
    control.request_drain()
    with pytest.raises(GraphDrained):
        await running
    assert runs == ["first"]
    state = await flow.compile(checkpointer=any_saver).ainvoke(None, THREAD)
    assert state["answer"] == "done"
    assert runs == ["first", "second"]


async def test_a_server_compiles_and_injects_its_own_saver(any_saver: Any) -> None:
    graph = pair().compile().copy(update={"checkpointer": any_saver})
    await graph.ainvoke({"request": "one"}, THREAD)
    assert (await graph.aget_state(THREAD)).values["answer"] == "3 letters"


async def test_a_workflow_is_a_node_of_a_plain_langgraph_graph(any_saver: Any) -> None:
    """The saver is inherited; after a question the team goes on without repeating itself."""
    runs: list[str] = []

    @agent
    async def first(task: Assignment) -> int:
        runs.append("first")
        return 1

    @agent
    async def asks(x: int) -> str:
        runs.append("asks")
        return interrupt("name?")

    class State(TypedDict):
        request: str
        answer: str

    plain = StateGraph(State)
    plain.add_node("team", Workflow("team", agents=[first, asks]).compile())
    plain.add_edge(START, "team")
    graph = plain.compile(checkpointer=any_saver)
    state = await graph.ainvoke({"request": "go"}, THREAD)
    assert state["__interrupt__"][0].value == "name?"
    state = await graph.ainvoke(Command(resume="Ada"), THREAD)
    assert state["answer"] == "Ada"
    assert runs == ["first", "asks", "asks"]


async def test_a_state_schema_of_the_users_own(any_saver: Any) -> None:
    class Mine(TypedDict):
        ticket: str

    state = (
        await pair(state_schema=Mine)
        .compile(checkpointer=any_saver)
        .ainvoke({"request": "go", "ticket": "T-1"}, THREAD)
    )
    assert (state["ticket"], state["answer"]) == ("T-1", "2 letters")


async def test_a_planner_makes_the_tasks_and_its_mistakes_are_named() -> None:
    class Planner:
        def __init__(self, *tasks: Task) -> None:
            self.tasks = tasks

        async def plan(self, request: str, *, agents: Any, messages: Any) -> Plan:
            assert [agent.name for agent in agents] == ["first", "second"]
            return Plan(tasks=self.tasks)

    good = pair(planner=Planner(Task(id="n", agent="first"), Task(id="t", agent="second", needs=("n",))))
    assert (await good.compile().ainvoke({"request": "abc"}))["answer"] == "3 letters"
    bad = {
        "the roster has first, second": [Task(id="n", agent="third")],
        "has no task": [],
        "neither who, nor which": [Task(id="n")],
        "nobody produces int": [Task(id="t", agent="second")],
        "this workflow allows 3": [Task(id=f"n{i}", agent="first") for i in range(4)],
    }
    for message, tasks in bad.items():
        with pytest.raises(PlanError, match=message):
            await pair(planner=Planner(*tasks), max_tasks=3).compile().ainvoke({"request": "abc"})


def test_drawing_and_the_notebook_need_no_internet() -> None:
    graph = pair().compile()
    drawn = graph.get_graph().draw_mermaid()
    assert "first --> second" in drawn
    shown = graph._repr_mimebundle_()
    assert "first" in shown["text/plain"]
    assert "data:image/svg+xml" in shown["text/html"]
    assert "http" not in shown["text/html"]


async def test_compiling_again_after_adding_an_agent_leaves_the_first_graph_alone() -> None:
    flow = pair()
    before = flow.compile()
    flow.add_agent(Agent("third", lambda task: 1.5, output=float))
    after = flow.compile()
    assert set((await before.ainvoke({"request": "x"}))["results"]) == {"first", "second"}
    assert set((await after.ainvoke({"request": "x"}))["results"]) == {"first", "second", "third"}
