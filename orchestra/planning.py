"""From a request to a plan: by declared edges, by types, or by a planner of the user's own."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol

from orchestra.agents import Agent, bind, produces, type_name
from orchestra.errors import PlanError, WorkflowError
from orchestra.tasks import Plan, Task


class Planner(Protocol):
    """Makes the plan of a turn from its request.

    The plan is validated before any agent starts; a planner that breaks the rules fails the turn with `PlanError`. One
    that has no plan raises `NoPlan`: then the workflow's own, from its edges or types, stands in.

    Besides `agents` and `messages`, a planner may take `known`, what is known of the user by key; `limit`, how many
    tasks a plan may have; and `check`, which returns a plan that can be carried out, or raises `PlanError`. It is
    passed those of all these that its signature names.
    """

    def plan(self, request: str, *, agents: Sequence[Agent], messages: Sequence[Any]) -> Plan | Awaitable[Plan]:
        """Return the plan.

        Args:
            request: What the user asked for in this turn.
            agents: Who tasks may be given to, sorted by name: all but reviewers and spares.
            messages: The conversation so far, oldest first.
        """
        ...


def plan_from_edges(
    agents: Sequence[Agent],
    edges: Mapping[str, Mapping[str, bool]],
    given: Mapping[str, Any],
) -> Plan:
    """Make the plan of a workflow whose information flow is declared: one task per agent.

    Args:
        agents: The agents that are tasks.
        edges: For each agent, whose outputs it receives, and whether it can do without.
        given: Types of the inputs that come from outside, by name.

    Raises:
        PlanError: The edges form a cycle.
        WorkflowError: A parameter has no source among the inputs, or more than one.
    """
    outputs = {agent.name: agent.output for agent in agents}
    tasks: list[Task] = []
    for agent in agents:
        needs = edges.get(agent.name, {})
        bindings = bind(agent, {name: outputs[name] for name in needs} | dict(given))
        spared = {name for name, optional in needs.items() if optional}
        bound = {source: binding.optional for binding in bindings for source in binding.sources}
        if strict := sorted(name for name in spared if not bound.get(name, True)):
            raise WorkflowError(
                f"The edge {strict[0]!r} -> {agent.name!r} is optional, but the parameter it fills is not: "
                "let it accept None, or give it a default."
            )
        spared |= {name for name in needs if bound.get(name, False)}
        tasks.append(_task(agent, tuple(needs), spared))
    return Plan(tasks=tuple(tasks), made_by="edges")


def plan_from_types(agents: Sequence[Agent], wanted: Any, given: Mapping[str, Any]) -> Plan:
    """Make a plan backward from the wanted output type to the agents that produce what it needs.

    Args:
        agents: The agents to choose from.
        wanted: The type to end with; `None` makes every agent a task.
        given: Types of the inputs that come from outside, by name.

    Raises:
        PlanError: The types form a cycle.
        WorkflowError: A type that is needed is produced by nobody, or by several agents.
    """
    roster = {agent.name: agent for agent in agents}
    if wanted is None:
        todo = list(roster)
    else:
        todo = [name for name, agent in roster.items() if produces(agent.output, wanted)]
        if len(todo) != 1:
            there = ", ".join(f"{agent.name!r} ({type_name(agent.output)})" for agent in agents)
            who = f"{len(todo)} agents do: {', '.join(todo)}" if todo else f"the roster has {there or 'no agent'}"
            raise WorkflowError(f"Exactly one agent must produce the wanted {type_name(wanted)}, but {who}.")
    tasks: dict[str, Task] = {}
    for name in todo:  # grows while it is walked
        if name in tasks:
            continue
        others = {other: agent.output for other, agent in roster.items() if other != name}
        bindings = bind(roster[name], others | dict(given), where="on the roster")
        sources = {source: b.optional for b in bindings for source in b.sources if source in roster}
        tasks[name] = _task(roster[name], tuple(sources), {s for s, optional in sources.items() if optional})
        todo.extend(sources)
    return Plan(tasks=tuple(tasks[name] for name in roster if name in tasks), made_by="types")


def _task(agent: Agent, needs: tuple[str, ...], optional: set[str]) -> Task:
    return Task(
        id=agent.name,
        instruction=agent.description,
        agent=agent.name,
        needs=needs,
        optional=frozenset(optional),
    )


def check_plan(plan: Plan, agents: Mapping[str, Agent], *, limit: int) -> Plan:
    """Hold a plan against the roster; a `Plan` itself is already acyclic and whole.

    Raises:
        PlanError: The plan is empty or too large, or a task names an agent that is not on the roster.
    """
    if not plan.tasks:
        raise PlanError("The plan has no task.")
    if len(plan.tasks) > limit:
        raise PlanError(f"The plan has {len(plan.tasks)} tasks; this workflow allows {limit} (max_tasks).")
    for task in plan.tasks:
        if task.agent is not None and task.agent not in agents:
            raise PlanError(
                f"Task {task.id!r} wants agent {task.agent!r}; the roster has {', '.join(sorted(agents)) or 'nobody'}."
            )
        if task.agent is None and task.capability is None and not task.instruction.strip():
            raise PlanError(f"Task {task.id!r} says neither who, nor which capability, nor what to do.")
    return plan
