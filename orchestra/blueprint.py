"""A workflow as compiled, and what its nodes find in LangGraph's config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.channels.base import BaseChannel
from langgraph.checkpoint.base import BaseCheckpointSaver

from orchestra.agents import Agent, stands_in
from orchestra.attempts import Reviewing
from orchestra.dataflow import Call
from orchestra.errors import WorkflowError
from orchestra.outputs import own_copy
from orchestra.planning import Planner
from orchestra.routing import Router
from orchestra.tasks import Plan, Task

CALL = "orchestra_call"
"""Where the `Call` of the graph a node belongs to stands in the configurable part of LangGraph's config."""

TEAM = "orchestra_team"
"""Where a node puts the `Call` of the team that it is about to call. Whatever else it calls gets one of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A workflow as compiled: nothing in it changes any more.

    Attributes:
        name: The workflow's name.
        roster: All agents by name, spares and reviewers included.
        router: Chooses among those that may be given tasks.
        plan: The plan, where it does not depend on the request.
        planner: Makes the plan where it does.
        given: Types of the inputs that come from outside, by name.
        reviews: Declared reviews by the author's name.
        teams: Compiled graphs of the agents that are workflows.
        max_tasks: How many tasks a plan may have.
        history: How many earlier turns agents see; `None` for all.
        own: The user's own keys of the state, with their channels.
    """

    name: str
    roster: Mapping[str, Agent]
    router: Router
    plan: Plan | None
    planner: Planner | None
    given: Mapping[str, Any]
    reviews: Mapping[str, Reviewing]
    teams: Mapping[str, Any]
    max_tasks: int
    history: int | None
    own: Mapping[str, BaseChannel[Any, Any, Any]]

    def own_state(self, base: Mapping[str, Any], updates: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        """The user's own keys of the state with some updates, for one agent alone."""
        state = {key: own_copy(value) for key, value in base.items()}
        wrote: dict[str, list[Any]] = {}
        for key, value in updates:
            wrote.setdefault(key, []).append(value)
        for key, values in wrote.items():
            channel = self.own[key].from_checkpoint(state[key]) if key in state else self.own[key].copy()
            channel.update([own_copy(value) for value in values])
            state[key] = channel.get()
        return state

    def candidates(self, task: Task) -> list[Agent]:
        """Who may do a task, best first: all deliver what whoever needs the task counts on, the first one's output."""
        able = [self.roster[name] for name in self.router.choose(task).agents]
        return [agent for agent in able if agent is able[0] or stands_in(agent, able[0])]

    def types_into(self, task: Task, plan: Plan) -> dict[str, Any]:
        """The output types that reach a task, by the id of the task they come from."""
        types = dict(self.given)
        for need in task.needs:
            able = self.candidates(plan.by_id[need])
            types[need] = able[0].output if able else Any
        return types


def call_of(config: RunnableConfig) -> Call:
    """The scope of the call that a node runs in."""
    call = config.get("configurable", {}).get(CALL)
    if not isinstance(call, Call):
        raise WorkflowError("A workflow's nodes run only when its compiled graph is called.")
    return call


def user_of(config: RunnableConfig) -> str:
    """Whose run a node belongs to; empty if nobody's."""
    return str(config.get("configurable", {}).get("user_id") or "")


def saver_of(config: RunnableConfig) -> BaseCheckpointSaver[Any] | None:
    """The saver that LangGraph uses for a node, compiled in, inherited or injected: its config carries it."""
    values: Iterable[Any] = config.get("configurable", {}).values()
    return next((cast("Any", value) for value in values if isinstance(value, BaseCheckpointSaver)), None)
