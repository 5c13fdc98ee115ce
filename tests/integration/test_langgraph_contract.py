"""What Orchestra leans on in LangGraph beyond its documentation: one test per soft spot.

If one of these fails after an upgrade, the dataflow has to be thought over before the version bound is raised.
"""

from __future__ import annotations

import asyncio
import operator
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Annotated, Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import RESUME
from langgraph.errors import GraphInterrupt
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Interrupt, Send, interrupt
from typing_extensions import TypedDict

from orchestra.branching import NOBODY

THREAD: Any = {"configurable": {"thread_id": "t"}}


class State(TypedDict):
    seen: Annotated[list[Any], operator.add]


def fan(worker: Any, size: int = 3) -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(State)
    graph.add_node("work", worker, input_schema=dict)
    graph.add_conditional_edges(START, lambda _: [Send("work", {"i": i}) for i in range(size)], ["work"])
    return graph


async def test_a_nodes_config_carries_the_saver_and_unknown_configurable_keys_also_into_a_subgraph() -> None:
    saver, marker, seen = InMemorySaver(), object(), []

    async def look(state: Any, config: RunnableConfig) -> dict[str, Any]:
        values = config["configurable"].values()
        seen.append((saver in [v for v in values if isinstance(v, BaseCheckpointSaver)], marker in values))
        return {"seen": [1]}

    inner = StateGraph(State).add_node("look", look).add_edge(START, "look").compile()

    async def outer(state: Any, config: RunnableConfig) -> dict[str, Any]:
        await look(state, config)
        return await inner.ainvoke({"seen": []}, config)

    graph = StateGraph(State).add_node("outer", outer).add_edge(START, "outer").compile(checkpointer=saver)
    await graph.ainvoke({"seen": []}, {"configurable": {"thread_id": "t", "marker": marker}})
    assert seen == [(True, True), (True, True)]


async def test_execution_info_and_the_namespace_tell_where_a_superstep_stores_its_writes() -> None:
    saver = InMemorySaver()
    places: list[tuple[str, str, str]] = []

    async def work(state: Any, runtime: Runtime) -> dict[str, Any]:
        info = runtime.execution_info
        places.append((info.checkpoint_ns.rpartition("|")[0], info.checkpoint_id, info.task_id))
        if state["i"] == 2:
            interrupt("?")
        return {"seen": [state["i"]]}

    inner = fan(work).compile()

    async def outer(state: Any, config: RunnableConfig) -> dict[str, Any]:
        return await inner.ainvoke({"seen": []}, config)

    graph = StateGraph(State).add_node("outer", outer).add_edge(START, "outer").compile(checkpointer=saver)
    await graph.ainvoke({"seen": []}, THREAD)
    namespace, checkpoint, task = places[0]
    assert namespace.startswith("outer:")
    stored = await saver.aget_tuple(
        {"configurable": {"thread_id": "t", "checkpoint_ns": namespace, "checkpoint_id": checkpoint}}
    )
    written = {t: value for t, channel, value in stored.pending_writes if channel == "seen"}
    assert written[task] == [0]
    asked = [t for t, channel, _ in stored.pending_writes if channel == "__interrupt__"]
    assert asked == [places[2][2]]


async def test_all_sends_of_a_superstep_start_in_one_pass_of_the_loop() -> None:
    started: list[int] = []
    seen: list[int] = []

    async def work(state: Any) -> dict[str, Any]:
        started.append(state["i"])
        await asyncio.sleep(0)
        seen.append(len(started))
        return {}

    for saver in (None, InMemorySaver()):
        started.clear()
        seen.clear()
        await fan(work, 50).compile(checkpointer=saver).ainvoke({"seen": []}, THREAD)
        assert seen == [50] * 50


async def test_an_empty_graph_interrupt_suspends_a_node_without_a_question_and_without_writes() -> None:
    ready: list[bool] = []
    runs: list[int] = []

    async def work(state: Any) -> dict[str, Any]:
        runs.append(state["i"])
        if state["i"] == 1 and not ready:
            raise GraphInterrupt(())
        return {"seen": [state["i"]]}

    graph = fan(work).compile(checkpointer=InMemorySaver())
    state = await graph.ainvoke({"seen": []}, THREAD)
    assert not state.get("__interrupt__")
    assert runs == [0, 1, 2]
    ready.append(True)
    state = await graph.ainvoke(None, THREAD)
    assert runs == [0, 1, 2, 1]
    assert state["seen"] == [0, 1, 2]


async def test_reassigning_the_class_of_a_compiled_graph_survives_copy() -> None:
    class Mine(CompiledStateGraph):
        pass

    async def work(state: Any) -> dict[str, Any]:
        return {"seen": [1]}

    graph = StateGraph(State).add_node("work", work).add_edge(START, "work").compile()
    graph.__class__ = Mine
    copied = graph.copy(update={"checkpointer": InMemorySaver()})
    assert type(copied) is Mine
    assert copied.builder is graph.builder
    assert (await copied.ainvoke({"seen": []}, THREAD))["seen"] == [1]


async def test_writes_under_a_channel_no_graph_has_are_kept_and_harm_nothing() -> None:
    """The journal of attempts rides on this."""
    saver = InMemorySaver()
    places: list[Any] = []

    async def work(state: Any, runtime: Runtime) -> dict[str, Any]:
        info = runtime.execution_info
        place = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": info.checkpoint_id}}
        places.append(place)
        await saver.aput_writes(place, [("not_a_channel", {"a": 1})], f"{info.task_id}/note")
        if len(places) == 1:
            interrupt("?")
        return {"seen": [1]}

    graph = StateGraph(State).add_node("work", work).add_edge(START, "work").compile(checkpointer=saver)
    await graph.ainvoke({"seen": []}, THREAD)
    stored = await saver.aget_tuple(places[0])
    assert [value for _, channel, value in stored.pending_writes if channel == "not_a_channel"] == [{"a": 1}]
    assert (await graph.ainvoke(Command(resume=1), THREAD))["seen"] == [1]


async def test_an_interrupt_with_an_id_of_our_own_is_shown_and_its_answer_left_to_us() -> None:
    """What the engine asks has ids that LangGraph does not know: a map of answers may name them."""
    saver, own, runs = InMemorySaver(), "0" * 31 + "7", list[str]()

    async def work(state: Any) -> dict[str, Any]:
        runs.append("work")
        if len(runs) == 1:
            raise GraphInterrupt((Interrupt(value="ours?", id=own),))
        return {"seen": [1]}

    graph = StateGraph(State).add_node("work", work).add_edge(START, "work").compile(checkpointer=saver)
    state = await graph.ainvoke({"seen": []}, THREAD)
    assert [(one.id, one.value) for one in state["__interrupt__"]] == [(own, "ours?")]
    assert (await graph.ainvoke(Command(resume={own: "yes"}), THREAD))["seen"] == [1]


async def test_an_answer_without_a_name_is_taken_back_by_storing_none() -> None:
    """LangGraph keeps it, and would hand it to the next who asks in the same superstep."""
    saver, got = InMemorySaver(), list[Any]()

    async def asks(state: Any) -> dict[str, Any]:
        got.append(interrupt("one?"))
        if len(got) == 1:
            raise GraphInterrupt((Interrupt(value="ours?", id="0" * 32),))
        got.append(interrupt("two?"))
        return {"seen": [1]}

    graph = StateGraph(State).add_node("asks", asks).add_edge(START, "asks").compile(checkpointer=saver)
    await graph.ainvoke({"seen": []}, THREAD)
    await graph.ainvoke(Command(resume="first"), THREAD)
    head = await saver.aget_tuple(THREAD)
    assert head is not None
    assert [value for execution, channel, value in head.pending_writes or () if execution == NOBODY] == ["first"]
    place: Any = {"configurable": {**head.config["configurable"], "checkpoint_id": head.checkpoint["id"]}}
    await saver.aput_writes(place, [(RESUME, None)], NOBODY)
    state = await graph.ainvoke(None, THREAD)
    assert got == ["first", "first"]
    assert [one.value for one in state["__interrupt__"]] == ["two?"]


async def test_subgraphs_of_one_node_are_numbered_by_a_counter_in_its_config() -> None:
    """Each team that a node calls keeps its number, in whatever order it is called when the node runs again."""
    saver, ran = InMemorySaver(), list[str]()

    def team(name: str) -> Any:
        async def work(state: Any) -> dict[str, Any]:
            ran.append(name)
            return {"seen": [interrupt(name)]}

        return StateGraph(State).add_node(name, work).add_edge(START, name).compile()

    teams, rounds = [team("a"), team("b")], [[0, 1], [1]]  # the second time only the second of them is called

    async def calls(state: Any, config: RunnableConfig) -> dict[str, Any]:
        for number in rounds.pop(0):
            configurable = {
                key: replace(value, subgraph_counter=lambda: number) if hasattr(value, "subgraph_counter") else value  # noqa: B023
                for key, value in config["configurable"].items()
            }
            with suppress(GraphInterrupt) if number == 0 else nullcontext():
                await teams[number].ainvoke({"seen": []}, {**config, "configurable": configurable})
        return {"seen": [1]}

    graph = StateGraph(State).add_node("calls", calls).add_edge(START, "calls").compile(checkpointer=saver)
    await graph.ainvoke({"seen": []}, THREAD)
    places = {one.config["configurable"]["checkpoint_ns"] for one in saver.list(THREAD)}
    assert len({place for place in places if place.startswith("calls:")}) == 2
    await graph.ainvoke(Command(resume="yes"), THREAD)
    assert {one.config["configurable"]["checkpoint_ns"] for one in saver.list(THREAD)} == places  # b, where it was
    assert ran == ["a", "b", "b"]
