"""Real LangGraph graphs on the saver."""

from __future__ import annotations

import asyncio
import operator
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from checkpoints import SQLAlchemySaver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


@pytest.fixture
def saver(url: str) -> Iterator[SQLAlchemySaver]:
    with SQLAlchemySaver(url) as opened:
        yield opened


def thread(name: str = "t") -> Any:
    return {"configurable": {"thread_id": name}}


class Fan(TypedDict):
    items: list[int]
    done: Annotated[list[Any], operator.add]


def fan_graph(calls: list[int], *, asks: int | None = None) -> StateGraph[Any]:
    def work(arg: Any) -> Any:
        calls.append(arg["item"])
        if arg["item"] == asks:
            return {"done": [interrupt(f"what of {asks}?")]}
        return {"done": [arg["item"]]}

    graph = StateGraph(Fan)
    graph.add_node("work", work)
    graph.add_node("end", lambda _state: {"done": ["end"]})
    graph.add_conditional_edges(START, lambda state: [Send("work", {"item": item}) for item in state["items"]])
    graph.add_edge("work", "end")
    graph.add_edge("end", END)
    return graph


async def run(graph: Any, face: str, *args: Any, **named: Any) -> Any:
    if face == "async":
        return await graph.ainvoke(*args, **named)
    return await asyncio.to_thread(graph.invoke, *args, **named)


@pytest.mark.parametrize("face", ["sync", "async"])
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_parallel_sends_stop_for_a_question_and_go_on(saver, url, face, durability):
    calls: list[int] = []
    graph = fan_graph(calls, asks=3).compile(checkpointer=saver)
    first = await run(graph, face, {"items": list(range(8)), "done": []}, thread(), durability=durability)
    assert [each.value for each in first["__interrupt__"]] == ["what of 3?"]

    with SQLAlchemySaver(url) as other:  # as after a restart
        graph = fan_graph(calls, asks=3).compile(checkpointer=other)
        end = await run(graph, face, Command(resume="this"), thread(), durability=durability)
        assert end["done"] == [0, 1, 2, "this", 4, 5, 6, 7, "end"]
        assert sorted(calls) == [0, 1, 2, 3, 3, 4, 5, 6, 7]
        assert graph.get_state(thread()).values == end
        assert graph.get_state(thread()).next == ()


async def test_both_faces_may_share_one_thread(saver):
    class State(TypedDict):
        log: Annotated[list[str], operator.add]

    graph = StateGraph(State)
    graph.add_node("one", lambda _state: {"log": ["one"]})
    graph.add_edge(START, "one")
    compiled = graph.compile(checkpointer=saver)
    for i in range(3):
        await compiled.ainvoke({"log": [f"async {i}"]}, thread())
        await asyncio.to_thread(compiled.invoke, {"log": [f"sync {i}"]}, thread())

    history = [state async for state in compiled.aget_state_history(thread())]
    assert len(history[0].values["log"]) == 12
    assert history == await asyncio.to_thread(lambda: list(compiled.get_state_history(thread())))
    assert [state.metadata["step"] for state in history] == list(range(-1, 17))[::-1]


async def test_a_fork_leaves_the_old_branch_as_it_was(saver):
    calls: list[int] = []
    graph = fan_graph(calls).compile(checkpointer=saver)
    await graph.ainvoke({"items": [1, 2], "done": []}, thread())
    states = [state async for state in graph.aget_state_history(thread())]
    old = {state.config["configurable"]["checkpoint_id"]: state.values for state in states}
    before_end = next(state for state in states if state.next == ("end",))

    forked = await graph.aupdate_state(before_end.config, {"done": ["by hand"]}, as_node="work")
    end = await graph.ainvoke(None, forked)

    assert end["done"][-2:] == ["by hand", "end"]
    for checkpoint_id, values in old.items():
        config = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": checkpoint_id}}
        assert (await graph.aget_state(config)).values == values


def extend(old: list[Any], new: Any) -> list[Any]:
    return [*old, *(item for each in new for item in each)]


class Logged(TypedDict):
    items: list[int]
    log: Annotated[list[Any], DeltaChannel(extend, list, snapshot_frequency=5)]


def delta_graph(saver: Any) -> Any:
    graph = StateGraph(Logged)
    graph.add_node("work", lambda arg: {"log": [arg["item"]]})
    graph.add_node("end", lambda _state: {"log": ["end"]})
    graph.add_conditional_edges(START, lambda state: [Send("work", {"item": item}) for item in state["items"]])
    graph.add_edge("work", "end")
    return graph.compile(checkpointer=saver)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("face", ["sync", "async"])
async def test_delta_channels_are_rebuilt_across_turns_forks_and_pruning(saver, face, durability):
    ours, theirs = delta_graph(saver), delta_graph(InMemorySaver())
    for turn in range(7):
        turned = {"items": [turn * 10 + i for i in range(6)], "log": [f"turn {turn}"]}
        end = await run(ours, face, turned, thread(), durability=durability)
        assert end == await run(theirs, face, turned, thread(), durability=durability)
        assert ours.get_state(thread()).values == end
    assert [state.values for state in ours.get_state_history(thread())] == [
        state.values for state in theirs.get_state_history(thread())
    ]
    for graph in (ours, theirs):
        past = list(graph.get_state_history(thread()))[4]
        config = graph.update_state(past.config, {"log": ["by hand"]}, as_node="end")
        await run(graph, face, {"items": [1], "log": ["forked"]}, config, durability=durability)
    forked = ours.get_state(thread()).values
    assert forked == theirs.get_state(thread()).values

    stored = len(list(saver.list(thread())))
    saver.prune(["t"])
    assert len(list(saver.list(thread()))) < stored
    assert ours.get_state(thread()).values == forked
    turned = {"items": [2], "log": ["after"]}
    end = await run(ours, face, turned, thread(), durability=durability)
    assert end == await run(theirs, face, turned, thread(), durability=durability)
    saver.copy_thread("t", "copy")
    saver.delete_thread("t")
    assert ours.get_state(thread("copy")).values == end


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_pruning_keeps_a_question_inside_a_subgraph_answerable(saver, face):
    class State(TypedDict):
        said: Annotated[list[str], operator.add]

    inner = StateGraph(State)
    inner.add_node("before", lambda _state: {"said": ["before"]})
    inner.add_node("ask", lambda _state: {"said": [interrupt("?")]})
    inner.add_edge(START, "before")
    inner.add_edge("before", "ask")
    outer = StateGraph(State)
    outer.add_node("team", inner.compile())
    outer.add_edge(START, "team")
    graph = outer.compile(checkpointer=saver)

    def namespaces() -> set[str]:
        return {each.config["configurable"]["checkpoint_ns"] for each in saver.list(thread())}

    for turn in range(2):
        await run(graph, face, {"said": [f"turn {turn}"]}, thread())
        saver.prune(["t"])
        assert len(namespaces()) == 2
        end = await run(graph, face, Command(resume=f"answer {turn}"), thread())
        assert end["said"][-1] == f"answer {turn}"
    saver.prune(["t"])
    assert namespaces() == {""}
    assert graph.get_state(thread()).values == end
