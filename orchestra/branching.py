"""New branches of a thread, and what is left of a turn that is not finished, by LangGraph's own way to write state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import INTERRUPT
from langgraph.graph import START
from langgraph.types import Interrupt, Overwrite, StateUpdate


@dataclass(frozen=True, slots=True)
class Execution:
    """What one node execution of a superstep has written.

    Attributes:
        id: LangGraph's id of it.
        results: Its task's result by the task's id, as JSON; empty while it has none.
        updates: What it wrote to other keys of the state.
        asked: The questions it left open.
    """

    id: str
    results: Mapping[str, Any]
    updates: Sequence[tuple[str, Any]]
    asked: Sequence[Interrupt[Any]]


def executions(step: CheckpointTuple, own: Sequence[str] | None = None) -> list[Execution]:
    """What the node executions of a superstep have written so far, in the order of the plan.

    Args:
        step: The checkpoint that the superstep started from.
        own: The user's own keys of the state; `None` for all but Orchestra's.
    """
    results: dict[str, dict[str, Any]] = {}
    updates: dict[str, list[tuple[str, Any]]] = {}
    asked: dict[str, Sequence[Interrupt[Any]]] = {}
    for execution, channel, value in step.pending_writes or ():
        results.setdefault(execution, {})
        if channel == "results":
            if isinstance(value, dict):  # an Overwrite is somebody's update of the state, not a task's result
                results[execution].update(cast("dict[str, Any]", value))
        elif channel == INTERRUPT:
            asked[execution] = value
        elif own is None or channel in own:
            updates.setdefault(execution, []).append((channel, value))
    return [
        Execution(execution, done, updates.get(execution, ()), () if done else asked.get(execution, ()))
        for execution, done in results.items()
    ]


async def branch(
    graph: Any,
    config: RunnableConfig,
    results: Mapping[str, Any] | None,
    updates: Sequence[tuple[str, Any]] = (),
) -> None:
    """Start a new branch of a thread, which a run then resumes. No checkpoint that is there is changed.

    Args:
        graph: The compiled graph, with the saver to use.
        config: Names the checkpoint to start from: one at which a plan is made and nothing is finished, or, without
            results, one at which a request is stored.
        results: What is finished on the new branch, as JSON.
        updates: What the finished tasks wrote to the user's own keys of the state.
    """
    place: dict[str, Any] = config.get("configurable", {})
    head = await graph.checkpointer.aget_tuple({"configurable": {**place, "checkpoint_id": None}})
    changes = [] if results is None else _changes(Overwrite(dict(results)), updates)
    if changes and head is not None and head.checkpoint["id"] != place["checkpoint_id"]:
        steps = [StateUpdate(values=each, as_node=START) for each in changes]
    else:  # LangGraph would write its update beside what the head's own tasks wrote: it goes beside a copy's
        values: Any = [(each, START) for each in changes] or None
        steps = [StateUpdate(values=values, as_node="__copy__")]
    await graph.abulk_update_state(config, [steps])


async def settle(graph: Any, config: RunnableConfig, done: Sequence[Execution]) -> None:
    """Put what finished executions wrote into the state, so that a new request does not drop it.

    Args:
        graph: The compiled graph, with the saver to use.
        config: Names the thread.
        done: The executions of the thread's newest superstep.
    """
    results = {task: raw for execution in done for task, raw in execution.results.items()}
    updates = [update for execution in done if execution.results for update in execution.updates]
    changes = _changes(results, updates)
    await graph.abulk_update_state(config, [[StateUpdate(values=each, as_node=START) for each in changes]])


def _changes(results: Any, updates: Sequence[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Updates of the state, one after the other: a mapping holds a key only once."""
    return [{"results": results}, *({key: value} for key, value in updates)]
