"""New branches of a thread, and what is left of a turn that is not finished, by LangGraph's own way to write state."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME
from langgraph.graph import START
from langgraph.types import Interrupt, Overwrite, StateUpdate

FORKED = "forked_from"
"""The key among a checkpoint's metadata that says where its branch came from: it begins with that one's child."""

NOTE = "fork"
"""The key that says what is done differently there."""

JOURNAL = "orchestra_journal"
"""The channel name under which attempts are noted among a checkpoint's writes. No channel of the graph has it."""

NOBODY = "00000000-0000-0000-0000-000000000000"
"""The execution id under which LangGraph stores an answer that names no question."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What one node execution of a superstep has written.

    Attributes:
        id: LangGraph's id of it.
        results: Its task's result by the task's id, as JSON; empty while it has none.
        updates: What it wrote to other keys of the state.
        asked: The questions it left open.
        cut: Whether it was cancelled, and did not ask again since.
        resumed: How many answers it has had by LangGraph's `interrupt`.
    """

    id: str
    results: Mapping[str, Any]
    updates: Sequence[tuple[str, Any]]
    asked: Sequence[Interrupt[Any]]
    cut: bool
    resumed: int = 0


def executions(step: CheckpointTuple, own: Collection[str] | None = None) -> list[Execution]:
    """What the node executions of a superstep have written so far, in the order of the plan.

    Args:
        step: The checkpoint that the superstep started from.
        own: The user's own keys of the state; `None` for all but Orchestra's.
    """
    results: dict[str, dict[str, Any]] = {}
    updates: dict[str, list[tuple[str, Any]]] = {}
    asked: dict[str, Sequence[Interrupt[Any]]] = {}
    answers: dict[str, Any] = {}
    cut: set[str] = set()
    decided: set[str] = set()
    for execution, channel, value in step.pending_writes or ():
        if channel == RESUME:
            answers[execution] = value
            continue
        if channel == JOURNAL:
            decided.add(value.get("question", ""))
            continue
        results.setdefault(execution, {})
        if channel == ERROR:
            cut.update([execution] if value else ())
        elif channel == "results":
            if isinstance(value, dict):  # an Overwrite is somebody's update of the state, not a task's result
                results[execution].update(cast("dict[str, Any]", value))
        elif channel == INTERRUPT:
            asked[execution] = value
        elif own is None or channel in own:
            updates.setdefault(execution, []).append((channel, value))
    asked = still_open(asked, answers, cut)
    asked = {each: [one for one in questions if one.id not in decided] for each, questions in asked.items()}
    return [
        Execution(
            id=execution,
            results=done,
            updates=updates.get(execution, ()),
            asked=() if done else asked.get(execution, ()),
            cut=execution in cut,
            resumed=len(answers.get(execution, ())),
        )
        for execution, done in results.items()
    ]


def still_open(
    asked: Mapping[str, Sequence[Interrupt[Any]]], answers: Mapping[str, Any], cut: Collection[str]
) -> dict[str, Sequence[Interrupt[Any]]]:
    """Those questions of a superstep that are not answered.

    LangGraph stores an answer that names no question, and hands it out when it is asked again. After a crash that came
    before, whoever asked has not got it yet.

    Args:
        asked: The questions by the executions that asked them, as stored.
        answers: The answers by execution, as stored.
        cut: The executions that were cancelled, and did not ask again since: those with an answer are at work on it.
    """
    fresh = answers.get(NOBODY)
    waiting = fresh is not None and not arrived(answers)
    return {
        each: questions for each, questions in asked.items() if not waiting and not (each in cut and each in answers)
    }


def arrived(answers: Mapping[str, Any]) -> bool:
    """Whether an answer that names no question has been handed out: LangGraph keeps it, and would do so once more.

    Args:
        answers: The answers of a superstep, by execution, as stored.
    """
    fresh = answers.get(NOBODY)
    return fresh is not None and any(fresh in given for each, given in answers.items() if each != NOBODY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A new branch of a thread, as input of a run on it.

    Attributes:
        base: The checkpoint it starts from: one at which a plan is made and nothing is finished, or, without results,
            one at which a request is stored.
        results: What is finished on the new branch, as JSON; `None` where there is no plan yet.
        updates: What the finished tasks wrote to the user's own keys of the state.
        plan: The plan, as JSON, if it is another than at the base: agents and reviews may have added tasks since.
        note: What is done differently, for the history.
    """

    base: str
    results: Mapping[str, Any] | None
    updates: Sequence[tuple[str, Any]] = ()
    plan: Mapping[str, Any] | None = None
    note: str = ""

    async def begin(self, graph: Any, config: RunnableConfig) -> None:
        """Store the branch's first checkpoint, which a run then goes on from. No other is changed.

        Args:
            graph: The compiled graph, with the saver to use.
            config: Names the thread.
        """
        results = None if self.results is None else Overwrite(dict(self.results))
        # What runs on a branch is not what ran before: idempotency keys tell them apart.
        grown = {} if self.plan is None else {"plan": dict(self.plan)}
        changes = [{"branch": uuid.uuid4().hex[:8], **grown}, *_changes(results, self.updates)]
        place = {**config.get("configurable", {}), "checkpoint_id": self.base, "checkpoint_ns": ""}
        metadata = {**(config.get("metadata") or {}), FORKED: self.base, NOTE: self.note}
        await graph.copy(update={"checkpointer": _Aside(graph.checkpointer)}).abulk_update_state(
            {**config, "configurable": place, "metadata": metadata},
            [[StateUpdate(values=each, as_node=START) for each in changes]],
        )


class _Aside(BaseCheckpointSaver[Any]):
    """A saver that calls no checkpoint the newest.

    LangGraph stores an update of the state among the writes of the checkpoint that it is based on, if that is the
    newest of its thread; of an older one it takes a branch, and leaves it as it is.
    """

    def __init__(self, inner: BaseCheckpointSaver[Any]) -> None:
        super().__init__(serde=inner.serde)
        self._inner = inner

    def get_next_version(self, current: Any, channel: None) -> Any:
        """As the inner saver counts."""
        return self._inner.get_next_version(current, channel)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As of the inner saver, but for the newest one's id."""
        found = await self._inner.aget_tuple(config)
        if found is None or config.get("configurable", {}).get("checkpoint_id"):
            return found
        return found._replace(checkpoint={**found.checkpoint, "id": ""})

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As the inner saver does."""
        return await self._inner.aput(config, checkpoint, metadata, new_versions)


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
    return [*([] if results is None else [{"results": results}]), *({key: value} for key, value in updates)]
