"""`graphs/langgraph.json`: every entry is loaded as LangGraph's server loads it, and one is run and streamed."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.store.memory import InMemoryStore

from orchestra.references import gallery

GRAPHS = Path(__file__).parents[2] / "graphs"
CONFIG = json.loads((GRAPHS / "langgraph.json").read_text())


def load_as_the_server_does(place: str) -> Any:
    """Import the file under a name of its own, compile what is a builder, put the server's saver and store in."""
    path, _, variable = place.partition(":")
    for dependency in CONFIG["dependencies"]:
        assert str((GRAPHS / dependency).resolve()) in sys.path, "the server adds it; pytest's pythonpath does here"
    spec = importlib.util.spec_from_file_location(f"server_{Path(path).stem}", GRAPHS / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    graph = getattr(module, variable)
    assert isinstance(graph, StateGraph)
    compiled = graph.compile()
    assert isinstance(compiled, CompiledStateGraph)
    assert compiled.checkpointer is None, "the server refuses a graph with a saver of its own"
    return compiled.copy(update={"checkpointer": InMemorySaver(), "store": InMemoryStore()})


def test_the_whole_gallery_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GRAPHS.parent)
    assert sorted(CONFIG["graphs"]) == gallery()


@pytest.mark.parametrize("name", CONFIG["graphs"])
def test_every_entry_loads(name: str) -> None:
    graph = load_as_the_server_does(CONFIG["graphs"][name])
    assert graph.name == name
    assert graph.get_graph().nodes
    for schema in (graph.get_input_jsonschema, graph.get_output_jsonschema):
        assert "request" in json.dumps(schema())


async def test_one_runs_and_streams() -> None:
    graph = load_as_the_server_does(CONFIG["graphs"]["competitor_analysis"])
    request = "Analyze dist:idna as a competitor of dist:certifi and draft a response"
    config = {"configurable": {"thread_id": "t", "user_id": "ada"}}
    modes: set[str] = set()
    last: Any = {}
    given = {"messages": [{"role": "user", "content": request}]}
    async for mode, chunk in graph.astream(given, config, stream_mode=["updates", "values", "custom", "messages"]):
        modes.add(mode)
        last = chunk if mode == "values" else last
    assert {"updates", "values", "custom"} <= modes
    assert last["answer"] == last["messages"][-1].content
    assert last["messages"][0].content == request
    state = await graph.aget_state(config)
    assert state.next == ()
    assert [step async for step in graph.aget_state_history(config)]
