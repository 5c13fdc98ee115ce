"""What Orchestra leans on in LangGraph beyond its documentation: one test per soft spot.

If one of these fails after an upgrade, the dataflow has to be thought over before the version bound is raised.
"""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphInterrupt
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

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
