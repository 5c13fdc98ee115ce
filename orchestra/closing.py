"""Before a turn ends: contradictions that only show when all is done, and a budget that was used up before.

Here the supervisor may have to wait for an agent or a person. What was decided is part of the plan, so it lasts.
"""

from __future__ import annotations

import zlib

from orchestra.claims import Resolution
from orchestra.dataflow import Turn
from orchestra.decisions import Decision
from orchestra.node import Node
from orchestra.questions import Question
from orchestra.settling import Settling, caller, held_by
from orchestra.tasks import Plan, now

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
        stale, acted = _stale(node, turn, resolution, reran)
        again |= stale
        told = f"; {', '.join(acted)} had acted on what lost, and is not done again" if acted else ""
        reason = f"{resolution.reason}{told}"
        new.append(resolution.model_copy(update={"reran": tuple(sorted(stale)), "reason": reason}))
    if not new:
        return plan, set()
    plan, gone = _ungrown(plan.model_copy(update={"resolutions": (*plan.resolutions, *new)}), again)
    return plan, again | gone


def _stale(node: Node, turn: Turn, resolution: Resolution, reran: set[str]) -> tuple[set[str], list[str]]:
    """The tasks that were given a claim that lost, without knowing that it had, and those that rest on them.

    Returns:
        Those that are to be done again, and those that are not because they act on the world.
    """
    stale: set[str] = set()
    acted: list[str] = []
    for task in turn.plan.order:
        knew = [lost for each in turn.results[task.id].resolutions for lost in each.losers]
        misled = any(lost.task in task.needs and lost not in knew for lost in resolution.losers)
        # Who is not done again changes nothing for those behind; what was handed on is its asker's to hand on again.
        once = task.id not in reran and task.added_by is None and turn.results[task.id].ok
        if not once or node.call.halt.why or not (misled or stale.intersection(task.needs)):
            continue
        if any(agent.side_effects for agent in node.blueprint.candidates(task)):
            acted.append(task.id)
        else:
            stale.add(task.id)
    return stale, acted


def _ungrown(plan: Plan, again: set[str]) -> tuple[Plan, set[str]]:
    """A plan without the tasks that were handed on by those that are done again; and their ids."""
    gone: set[str] = set()
    for task in reversed(plan.order):  # whoever handed on comes before what was handed on
        if task.added_by in again | gone:
            gone.add(task.id)
    shrunk = [
        each.model_copy(
            update={"needs": tuple(n for n in each.needs if n not in gone), "optional": each.optional - gone}
        )
        for each in plan.tasks
        if each.id not in gone
    ]
    return plan.model_copy(update={"tasks": tuple(shrunk)}).checked() if gone else plan, gone


async def raised(node: Node, turn: Turn) -> Plan:
    """Ask a person about the budget that is used up; return the plan with what was decided."""
    plan, people = turn.plan, node.blueprint.people
    line, limits = node.call.funds.own_used_up, node.call.funds.limits
    node.call.recall(await node.stored_notes())
    more = {name: {"type": "number", "exclusiveMinimum": 0} for name in limits}
    amounts = {"type": "object", "properties": more, "minProperties": 1}
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
    number = zlib.crc32(repr(sorted(plan.raised.items())).encode())  # it only grows, so each question has its own
    answer = Decision.model_validate(await node.decide(_SUPERVISOR, turn.id, number, question))
    if answer.do == "stop":
        return plan.model_copy(update={"capped": True})
    raised_ = {name: plan.raised.get(name, 0) + by for name, by in answer.output.items()}
    return plan.model_copy(update={"raised": {**plan.raised, **raised_}})
