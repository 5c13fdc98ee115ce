"""A workflow as compiled, and what its nodes find in LangGraph's config."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.channels.base import BaseChannel
from langgraph.checkpoint.base import BaseCheckpointSaver

from orchestra.agents import Agent, bind, stands_in
from orchestra.conduct import Approving, People, Reviewing
from orchestra.dataflow import Call
from orchestra.errors import PlanError, WorkflowError
from orchestra.outputs import own_copy
from orchestra.planners import Reviewer
from orchestra.planning import Planner, check_plan
from orchestra.policies import Arbiter
from orchestra.routing import Router
from orchestra.tasks import Plan, Task
from orchestra.values import Comparing

CALL = "orchestra_call"
"""Where the `Call` of the graph a node belongs to stands in the configurable part of LangGraph's config."""

PERSON = "a person"
"""The node of the tasks that no agent can do, where a person is asked about them."""

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
        approvals: Declared approvals by a person, by the agent's name.
        people: When a person is asked besides.
        policies: How contradictions are settled, in order.
        comparing: How claims are compared.
        fallbacks: The agents that step in for everyone, in order.
        teams: Compiled graphs of the agents that are workflows.
        max_tasks: How many tasks a plan may have.
        history: How many earlier turns agents see; `None` for all.
        own: The user's own keys of the state, with their channels.
        own_plan: Makes the plan that follows from edges or types, for when the planner has none.
        reviewer: Judges the finished work.
        max_handed_on: How often work may be handed on in one turn.
        spares: The agents that only step in for others.
    """

    name: str
    roster: Mapping[str, Agent]
    router: Router
    plan: Plan | None
    planner: Planner | None
    given: Mapping[str, Any]
    reviews: Mapping[str, Reviewing]
    approvals: Mapping[str, Approving]
    people: People
    policies: tuple[Any, ...]
    comparing: Comparing
    fallbacks: tuple[str, ...]
    teams: Mapping[str, Any]
    max_tasks: int
    history: int | None
    own: Mapping[str, BaseChannel[Any, Any, Any]]
    own_plan: Callable[[], Plan]
    reviewer: Reviewer | None
    max_handed_on: int
    spares: frozenset[str]

    @property
    def team(self) -> list[Agent]:
        """The agents that a planner may give tasks to, by name: all but reviewers, arbiters and spares."""
        aside = {agent.name for review in self.reviews.values() for agent in review.reviewers}
        aside |= {policy.agent for policy in self.policies if isinstance(policy, Arbiter)}
        return [self.roster[name] for name in sorted(self.roster.keys() - aside - self.spares)]

    def check(self, plan: Any) -> Plan:
        """See that what a planner made can be carried out here.

        Raises:
            PlanError: It is no plan, or can't be.
        """
        if not isinstance(plan, Plan):
            raise PlanError(f"The planner returned a {type(plan).__name__}, not a Plan.")
        check_plan(plan, self.roster, limit=self.max_tasks)
        for task in plan.tasks:
            for agent in self.candidates(task)[:1]:
                try:
                    bind(agent, self.types_into(task, plan))
                except WorkflowError as error:
                    raise PlanError(f"Task {task.id!r} can't be given to {agent.name!r}. {error}") from error
        return plan

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
        able = [self.roster[name] for name in (*self.router.choose(task).agents, *self.fallbacks)]
        return [agent for agent in dict.fromkeys(able) if agent is able[0] or stands_in(agent, able[0])]

    def approval(self, candidates: Sequence[Agent]) -> Approving | None:
        """The approval that a task needs: that of the first of those who may do it that has one, since all may act."""
        return next((self.approvals[agent.name] for agent in candidates if agent.name in self.approvals), None)

    def equals(self, task: Task) -> int:
        """How many of the first candidates are as good as the first one."""
        return self.router.choose(task).equals

    def stand_ins(self, principal: Agent | None) -> list[Agent]:
        """All agents that deliver what one delivers, that one included; all agents if there is none."""
        able = [self.roster[name] for name in sorted({agent.name for agent in self.team} | self.spares)]
        return [agent for agent in able if principal is None or agent is principal or stands_in(agent, principal)]

    def others(self, task: Task, without: Collection[str]) -> list[Agent]:
        """Who else may do a task, best first, when those who were to do it find it out of their scope."""
        freed = task.model_copy(update={"agent": None})
        names = (
            *self.router.choose(freed).agents,
            *self.router.choose(freed.model_copy(update={"capability": None})).agents,
            *self.fallbacks,
        )
        first = self.candidates(task)[0]
        able = [self.roster[name] for name in dict.fromkeys(names) if name not in without]
        return [agent for agent in able if stands_in(agent, first)]

    def types_into(self, task: Task, plan: Plan) -> dict[str, Any]:
        """The output types that reach a task, by the id of the task they come from."""
        types = dict(self.given)
        for need in task.needs:
            if plan.by_id[need].added_by is not None:  # handed on at run time: no parameter was declared for it
                continue
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
