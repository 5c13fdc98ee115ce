"""Before a turn ends: contradictions that only show when all is done, and a budget that was used up before.

Here the supervisor may have to wait for an agent or a person. What was decided is part of the plan, so it lasts.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestra.claims import Resolution
from orchestra.dataflow import Turn
from orchestra.decisions import Decision
from orchestra.node import Node
from orchestra.questions import Question
from orchestra.settling import Settling, caller, held_by
from orchestra.tasks import Plan, Result, now

_SUPERVISOR = "supervisor"


async def settled(node: Node, turn: Turn) -> tuple[Plan, set[str]]:
    """Settle what contradicts among all outputs of a finished turn.

    Returns:
        The plan with how it was settled, and the tasks to be done again: those that used what lost, and, because
        their inputs change, those that rest on them. Each is done again once in a turn at most, and never one that
        acts on the world.
    """
    plan, results, roster = turn.plan, turn.results, node.blueprint.roster
    held = held_by(roster, results.values())
    if len(held) < 2:
        return plan, set()
    known = [*plan.resolutions, *(each for result in results.values() for each in result.resolutions)]
    node.call.recall(await node.stored_notes())
    found = await Settling(node, turn, "", caller(node, turn, "answer"), known).all(held)
    reran = {task for each in plan.resolutions for task in each.reran}
    again: set[str] = set()
    new: list[Resolution] = []
    for resolution in found:
        if resolution in plan.resolutions or any(resolution.conflict == each.conflict for each in plan.resolutions):
            continue
        stale = _rest_on(plan, _users(plan, results, resolution)) - reran
        stale = {task for task in stale if not _acts(node, plan, results, task)}
        again |= stale
        new.append(resolution.model_copy(update={"reran": tuple(sorted(stale))}))
    return (plan.model_copy(update={"resolutions": (*plan.resolutions, *new)}), again) if new else (plan, set())


def _users(plan: Plan, results: Mapping[str, Result], resolution: Resolution) -> set[str]:
    """The tasks that were given a claim that lost, without knowing that it had."""
    losers = {held.task for held in resolution.losers}
    knew = {
        task
        for task, result in results.items()
        if any(each.settled and each.winning == resolution.winning for each in result.resolutions)
    }
    return {task.id for task in plan.tasks if losers.intersection(task.needs)} - knew


def _rest_on(plan: Plan, tasks: set[str]) -> set[str]:
    rest = set(tasks)
    for task in plan.order:
        if rest.intersection(task.needs):
            rest.add(task.id)
    return rest


def _acts(node: Node, plan: Plan, results: Mapping[str, Result], task: str) -> bool:
    able = node.blueprint.candidates(plan.by_id[task])
    return not results[task].ok or any(agent.side_effects for agent in able)


async def raised(node: Node, turn: Turn) -> Plan:
    """Ask a person about the budget that is used up; return the plan with what was decided."""
    plan, people = turn.plan, node.blueprint.people
    line, limits = node.call.funds.own_used_up, node.call.funds.limits
    node.call.recall(await node.stored_notes())
    amounts = {"type": "object", "properties": {name: {"type": "number"} for name in limits}, "minProperties": 1}
    schema = {
        "type": "object",
        "properties": {
            "do": {"enum": ["raise", "stop"]},
            "output": {**amounts, "additionalProperties": False},
            "why": {"type": "string"},
        },
        "required": ["do"],
        "if": {"properties": {"do": {"const": "raise"}}},
        "then": {"required": ["output"]},
        "additionalProperties": False,
    }
    left = [task.id for task in plan.order if task.id not in turn.results]
    question = Question(
        kind="budget",
        value=f"{line}. Raise it, or stop with what there is?",
        known={"unfinished": left, "spent": node.call.funds.used.model_dump(mode="json"), "raised": dict(plan.raised)},
        options=("raise", "stop"),
        answers=schema,
    )
    if people.within is not None:
        question = question.model_copy(update={"due": now() + people.within, "otherwise": {"do": "stop"}})
    number = sum(1 for _ in plan.raised) + int(sum(plan.raised.values()))
    answer = Decision.model_validate(await node.decide(_SUPERVISOR, turn.id, number, question))
    if answer.do == "stop":
        return plan.model_copy(update={"capped": True})
    more = {name: plan.raised.get(name, 0) + by for name, by in answer.output.items()}
    return plan.model_copy(update={"raised": {**plan.raised, **more}})
