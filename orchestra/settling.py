"""Contradictions between claims, settled where information flows together: at a task's inputs, and at the end.

Rules decide at once. Where an agent or a person must, each conflict is brought before them once in a turn: whoever
meets it later takes what was decided.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pydantic_core
from langgraph.errors import GraphInterrupt
from pydantic import ValidationError

from orchestra.agents import Agent
from orchestra.attempts import delivered
from orchestra.claims import Claim, Conflict, Held, Resolution, find
from orchestra.dataflow import Suspended, Turn
from orchestra.errors import AgentError
from orchestra.events import ClaimsSettled
from orchestra.node import Node, Notes
from orchestra.policies import Arbiter, AskPerson, Verdict, settle
from orchestra.questions import Question
from orchestra.replicas import claims_in, nobody
from orchestra.retrying import describe
from orchestra.tasks import Result, Task, now

_LATE = "nobody answered in time"


def held_by(roster: Mapping[str, Agent], results: Iterable[Result]) -> list[Held]:
    """The claims in outputs, with who made them."""
    return [held for result in results if result.ok for held in _held(roster, result)]


def _held(roster: Mapping[str, Agent], result: Result) -> list[Held]:
    who = "a person" if result.edited or not result.agent else result.agent
    claims = claims_in(roster.get(result.agent or ""), result.output)
    return [Held(claim=claim, task=result.task, agent=who) for claim in claims]


@dataclass(frozen=True, slots=True)
class Settling:
    """Settles conflicts for one node.

    Args:
        node: The node.
        turn: What the turn's tasks share.
        task: The task whose inputs the claims are; empty at the end of the turn.
        call: Calls the arbiter: takes its name, a task and the conflict.
        known: What was settled before in this turn.
    """

    node: Node
    turn: Turn
    task: str
    call: Callable[[str, Task, Conflict], Awaitable[Any]]
    known: Sequence[Resolution]

    async def all(self, held: Iterable[Held]) -> list[Resolution]:
        """How the conflicts among some claims are settled, in their order.

        Raises:
            GraphInterrupt: A person must decide, and has not.
            Suspended: A person must, and was asked by another node.
        """
        compared = [*held]
        if len(compared) < 2:
            return []
        # In a thread: many claims take a while, and the first unit half a second.
        conflicts = await asyncio.to_thread(find, compared, self.node.blueprint.comparing)
        return [await self._one(conflict) for conflict in conflicts]

    async def _one(self, conflict: Conflict) -> Resolution:
        if (before := self._before(conflict)) is not None:
            return before
        resolution, rest = settle(conflict, self.node.blueprint.policies)
        if resolution is None:
            resolution = await self._once(conflict, rest)
        self.node.emit(ClaimsSettled, {"task": self.task, "resolution": resolution})
        return resolution

    def _before(self, conflict: Conflict) -> Resolution | None:
        """What was settled before for these sides, or for some of them."""
        earlier = (each for result in self.turn.results.values() for each in result.resolutions)
        for resolution in (*self.known, *earlier):
            if resolution.conflict.sides == conflict.sides:  # also one that was left open: nobody is asked again
                return resolution
            if not resolution.settled or self._about(resolution.conflict) != self._about(conflict):
                continue
            if not self.task and not resolution.by and resolution not in self.turn.plan.resolutions:
                continue  # at the end more may be known than a rule went by at a task
            if resolution.winner is None:  # a person said what holds instead of all sides
                return resolution.model_copy(update={"conflict": conflict})
            won = {_name(held) for held in resolution.conflict.sides[resolution.winner].held}
            for index, side in enumerate(conflict.sides):
                if won & {_name(held) for held in side.held}:
                    return resolution.model_copy(update={"conflict": conflict, "winner": index})
        return None

    def _about(self, conflict: Conflict) -> tuple[str, str]:
        comparing = self.node.blueprint.comparing
        return comparing.name(conflict.subject), comparing.name(conflict.attribute)

    async def _once(self, conflict: Conflict, rest: Sequence[Any]) -> Resolution:
        """Bring a conflict before an agent or a person, unless another node does so already."""
        key, settling = _key(conflict), self.node.call.settling
        if (pending := settling.get(key)) is not None:
            try:
                return await asyncio.shield(pending)
            except Suspended:
                if not self._asks(key):
                    raise
        settling[key] = pending = asyncio.get_running_loop().create_future()
        try:
            resolution = await self._decided(conflict, key, rest)
        except BaseException as error:
            # Whoever else meets it leaves the superstep, too, and comes back when this node does.
            pending.set_exception(Suspended())
            pending.exception()
            raise error from None
        pending.set_result(resolution)
        return resolution

    def _asks(self, key: str) -> bool:
        """Whether it was this task that asked a person, in an earlier process or call."""
        asked = Notes(self.node, _place(key)).kept("asked", 0)
        return asked is not None and asked["by"] == self.task

    async def _decided(self, conflict: Conflict, key: str, rest: Sequence[Any]) -> Resolution:
        journal = Notes(self.node, _place(key))
        failed: list[str] = []
        while rest:
            who, number = rest[0], len(rest)
            if isinstance(who, AskPerson):
                resolution = await self._asked(conflict, key, who)
                if resolution is not None:
                    return resolution.model_copy(update={"reason": "; ".join([*failed, resolution.reason])})
                failed.append("a person: nobody answered, or leaves it open")
                rest = rest[1:]
            if isinstance(who, Arbiter):
                if (stored := journal.kept(f"arbiter {key}", number)) is None:
                    stored = await self._arbitrated(conflict, key, who)
                    await journal.keep(f"arbiter {key}", number, stored)
                if stored["winner"] is not None:
                    return Resolution(
                        conflict=conflict,
                        policy=who.name,
                        by=who.agent,
                        winner=stored["winner"],
                        reason=stored["reason"],
                    )
                failed.append(f"{who.agent}: {stored['reason']}")
                rest = rest[1:]
            resolution, rest = settle(conflict, rest)
            if resolution is not None:
                told = {"reason": "; ".join([*failed, resolution.reason])}
                if not resolution.settled:
                    told["policy"] = ", ".join(policy.name for policy in self.node.blueprint.policies)
                return resolution.model_copy(update=told)
        raise AssertionError("unreachable: a chain that is walked to its end gives a resolution")

    async def _arbitrated(self, conflict: Conflict, key: str, who: Arbiter) -> dict[str, Any]:
        task = Task(id=f"{self.task or 'answer'}.settle.{key[:6]}", instruction=f"Which side is right? {conflict.text}")
        try:
            verdict = Verdict(**_fields(await self.call(who.agent, task, conflict)))
            if verdict.winner is None or 0 <= verdict.winner < len(conflict.sides):
                return {"winner": verdict.winner, "reason": verdict.reason}
            return {"winner": None, "reason": f"it named side {verdict.winner} of {len(conflict.sides)}"}
        except (AgentError, TypeError) as error:
            return {"winner": None, "reason": describe(error)}

    async def _asked(self, conflict: Conflict, key: str, who: AskPerson) -> Resolution | None:
        sides = [side.value for side in conflict.sides]
        value = {"type": ["string", "number", "boolean"]}
        other = {"type": "object", "properties": {"value": value, "why": {"type": "string"}}, "required": ["value"]}
        question = Question(
            kind="conflict",
            value=f"Which is right? {conflict.text}",
            known=pydantic_core.to_jsonable_python({"conflict": conflict}),
            options=tuple(sides),
            # `null` leaves it open, for the rest of the chain.
            answers={"anyOf": [{"enum": [*sides, None]}, {**other, "additionalProperties": False}]},
            task=self.task,
        )
        if who.within is not None:
            late = None
            if who.otherwise is not None and who.otherwise < len(sides):
                late = {"value": sides[who.otherwise], "why": _LATE}
            question = question.model_copy(update={"due": now() + who.within, "otherwise": late})
        try:
            answer = await self.node.decide(_place(key), self.turn.id, 0, question)
        except GraphInterrupt:
            journal = Notes(self.node, _place(key))
            if journal.kept("asked", 0) is None:
                await journal.keep("asked", 0, {"by": self.task})
            elif not self._asks(key):  # it is open at another task: one question is enough
                raise Suspended from None
            raise
        if answer is None:
            return None
        said, why = (answer, "") if isinstance(answer, str) else (answer["value"], answer.get("why", ""))
        by = "the deadline" if why == _LATE else "a person"
        how: dict[str, Any] = {"conflict": conflict, "policy": who.name, "by": by}
        if str(said) in sides:
            return Resolution(**how, winner=sides.index(str(said)), reason=why or "a person chose it")
        try:
            claim = Claim(subject=conflict.subject, attribute=conflict.attribute, value=said, source="a person")
        except ValidationError:  # infinity, which Python's JSON takes for a number, is as good as no answer
            return None
        return Resolution(**how, winner=None, value=claim, reason=why or "a person said so")


def _fields(verdict: Any) -> dict[str, Any]:
    plain = pydantic_core.to_jsonable_python(verdict)
    return {name: plain[name] for name in ("winner", "reason")}


def _name(held: Held) -> tuple[str, str, str]:
    return held.task, held.agent, f"{held.claim.value} {held.claim.unit or ''}"


def _place(key: str) -> str:
    """Under what name a conflict is noted and asked about, the same whichever task meets it."""
    return f"settle.{key}"


def _key(conflict: Conflict) -> str:
    names = sorted(str(_name(held)) for side in conflict.sides for held in side.held)
    said = "\n".join((conflict.subject, conflict.attribute, *names))
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def caller(node: Node, turn: Turn, key: str) -> Callable[[str, Task, Conflict], Awaitable[Any]]:
    """Calls an arbiter as any other agent: with its timeout, retries and fallbacks."""

    async def call(agent: str, task: Task, conflict: Conflict) -> Any:
        job = node.job(
            turn,
            task,
            candidates=[node.blueprint.roster[agent]],
            available={"conflict": Conflict},
            inputs={"conflict": conflict},
            key=f"{key}.settle",
        )
        # Nobody stands in for an arbiter that declines: the chain says who decides then.
        return (await delivered(replace(job, others=nobody)))[1]

    return call
