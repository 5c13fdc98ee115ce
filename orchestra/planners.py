"""Planning and reviewing by a language model.

What a model plans is validated before anything runs: what is wrong goes back to it once in plain words, then what can
be repaired safely is, and where nothing is left the workflow's own plan stands in. What it finds missing in the
finished work becomes tasks a bounded number of times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, TypeVar, cast

import pydantic_core
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langgraph.types import RetryPolicy
from pydantic import Field, StringConstraints, create_model

from orchestra.agents import Agent
from orchestra.drafts import Draft, DraftTask, complaints, draft_type, repair
from orchestra.errors import AgentError, NoPlan, PlanError, WorkflowError
from orchestra.metering import current_scope
from orchestra.models.asking import Conversation, check_model
from orchestra.models.profiles import names_of
from orchestra.models.prompts import CHARACTERS_PER_TOKEN, PLANNER, REVIEWER, data, fitted, roster_of, section
from orchestra.retrying import describe, pause_before, wait, worth_another
from orchestra.secrets import strike_out
from orchestra.tasks import Judgement, Plan, Result, Task, failure, text_of

_T = TypeVar("_T")

_Check = Callable[[Plan], Plan]

_LINE = Annotated[str, StringConstraints(max_length=300)]

_MOST_LINES = 12
"""Complaints that a model is told at once."""

_PATIENT = RetryPolicy(max_attempts=3)
"""For the supervisor's own calls; what is transient is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Briefing:
    """What a planner or a reviewer of finished work may want to know besides the request.

    Attributes:
        agents: The roster tasks may be given to, sorted by name.
        messages: The conversation so far, oldest first.
        known: What is known of the user, by key.
        limit: How many tasks a plan may have.
        check: Returns a plan that can be carried out here, or raises `PlanError`.
    """

    agents: Sequence[Agent]
    messages: Sequence[Any] = ()
    known: Mapping[str, Any] = field(default_factory=dict[str, Any])
    limit: int = 10_000
    check: _Check = lambda plan: plan


class ModelPlanner:
    """Plans each request with a chat model: `Workflow("desk", agents=[...], planner=ModelPlanner(model))`.

    The model sees the agents with their descriptions and capabilities, the request, the conversation and what is known
    of the user; never what sources say. The plan tells who made it: `made_by` is the model's name, `repairs` what had
    to be changed in its draft. If there is no sound plan after one correction, or no answer at all, the plan is made of
    the workflow's edges, or types, and `repairs` says why.

    Args:
        model: A LangChain chat model.
        instructions: What else the planner should mind, in words.
        max_input_tokens: About how many tokens of the conversation are used; the oldest messages give way.
        max_tokens: Limit of a draft; raised once, fourfold.

    Raises:
        WorkflowError: The model is not a chat model.
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        instructions: str = "",
        max_input_tokens: int = 4000,
        max_tokens: int = 2000,
    ) -> None:
        self.model = check_model(model)
        self.instructions = instructions
        self._room = max_input_tokens * CHARACTERS_PER_TOKEN
        self._max_tokens = max_tokens

    async def plan(
        self,
        request: str,
        *,
        agents: Sequence[Agent],
        messages: Sequence[Any],
        known: Mapping[str, Any] | None = None,
        limit: int = 10_000,
        check: _Check = lambda plan: plan,
    ) -> Plan:
        """Make a plan.

        Raises:
            NoPlan: There is no sound one.
        """
        briefing = Briefing(agents=agents, messages=messages, known=known or {}, limit=limit, check=check)
        try:
            return await _patiently(lambda: self._plan(request, briefing))
        except AgentError as error:
            raise NoPlan(f"the model {names_of(self.model)[1]} made no plan: {describe(error)}") from error

    async def _plan(self, request: str, briefing: Briefing) -> Plan:
        system = PLANNER.format(roster=_team(briefing.agents)) + (
            f"\n\n{self.instructions}" if self.instructions else ""
        )
        asked: list[BaseMessage] = [SystemMessage(system), HumanMessage(_question(request, briefing, self._room))]
        name, limit, agents = names_of(self.model)[1], briefing.limit, briefing.agents
        drafts: list[Draft] = []
        wrong: tuple[str, ...] = ()
        for last in (False, True):
            drafts.append(await self._draft(asked, briefing))
            wrong = _some(complaints(drafts[-1], agents, limit=limit) or _refused(drafts[-1], request, briefing))
            if not wrong:
                plan, _ = cast("tuple[Plan, Any]", repair(drafts[-1], agents, limit=limit, request=request))
                return plan.model_copy(update={"made_by": name})
            still = "still " if last else ""
            current_scope().note(f"the draft of the plan was {still}wrong: {'; '.join(wrong)}")
            told = "\n".join(f"- {each}" for each in wrong)
            said = drafts[-1].model_dump_json(exclude_defaults=True)
            asked += [
                AIMessage(said),
                HumanMessage(f"This plan can't be carried out:\n{told}\nGive the corrected plan."),
            ]
        for draft in reversed(drafts):  # the corrected one first
            mended = repair(draft, agents, limit=limit, request=request)
            if mended is None:
                continue
            plan, done = mended
            try:
                return briefing.check(plan.model_copy(update={"made_by": name, "repairs": done}))
            except PlanError:
                continue
        raise NoPlan(f"the model {name} made no plan that can be carried out: {'; '.join(wrong)}")

    async def _draft(self, asked: Sequence[BaseMessage], briefing: Briefing) -> Draft:
        kind = draft_type(briefing.agents, limit=briefing.limit)
        conversation = Conversation(self.model, [*asked], output=kind, max_tokens=self._max_tokens, repairs=1)
        return cast("Draft", await conversation.run())


class Reviewer(Protocol):
    """Judges the finished work of a turn, and may add tasks."""

    rounds: int

    async def judge(
        self, request: str, plan: Plan, results: Mapping[str, Result], briefing: Briefing
    ) -> tuple[Judgement, Sequence[Task]]:
        """Judge.

        Args:
            request: What the user asked for.
            plan: The plan as it is now.
            results: How its tasks ended.
            briefing: What else there is to know.

        Returns:
            The judgement, and tasks for what is missing.
        """
        ...


class ModelReviewer:
    """Reviews a turn's finished work with a chat model: `Workflow(..., reviewer=ModelReviewer(model))`.

    It says whether the request is answered, what is missing and what contradicts, which the plan records, and may add
    tasks for what is missing. That ends by construction: after `rounds` rounds of added tasks, when nothing is added
    that was not done already, or when two rounds running brought no output that was not there before.

    Args:
        model: A LangChain chat model.
        rounds: How often tasks may be added.
        max_added: How many tasks may be added in a round.
        max_input_tokens: About how many tokens of results are used; the longest are cut.
        max_tokens: Limit of a judgement; raised once, fourfold.

    Raises:
        WorkflowError: The model is not a chat model, or a number is below one.
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        rounds: int = 2,
        max_added: int = 8,
        max_input_tokens: int = 8000,
        max_tokens: int = 2000,
    ) -> None:
        if rounds < 1 or max_added < 1:
            raise WorkflowError(
                f"ModelReviewer: rounds and max_added must be above zero, not {rounds} and {max_added}."
            )
        self.model = check_model(model)
        self.rounds = rounds
        self._most = max_added
        self._room = max_input_tokens * CHARACTERS_PER_TOKEN
        self._max_tokens = max_tokens

    async def judge(
        self, request: str, plan: Plan, results: Mapping[str, Result], briefing: Briefing
    ) -> tuple[Judgement, Sequence[Task]]:
        """Judge the work.

        Raises:
            AgentError: The model gave no judgement.
        """
        return await _patiently(lambda: self._judge(request, plan, results, briefing))

    async def _judge(
        self, request: str, plan: Plan, results: Mapping[str, Result], briefing: Briefing
    ) -> tuple[Judgement, Sequence[Task]]:
        outcomes = {id_: text_of(r.output) if r.ok else failure(r) for id_, r in results.items()}
        shown, left_out = fitted(outcomes, self._room)
        for what in left_out:
            current_scope().note(what)
        done = "\n\n".join(f"{task.id}: {task.instruction}\n{data(task.id, shown[task.id])}" for task in plan.order)
        parts = section("The request", request), section("What the team did, and what came of it", done)
        kind = draft_type(briefing.agents, limit=self._most)
        verdict: Any = await Conversation(
            self.model,
            [SystemMessage(REVIEWER.format(roster=_team(briefing.agents))), HumanMessage("\n\n".join(parts))],
            output=_verdict_type(kind),
            max_tokens=self._max_tokens,
            repairs=1,
        ).run()
        new = [] if verdict.answered else _new_tasks(plan, verdict.plan, briefing, most=self._most)
        judgement = Judgement(
            answered=verdict.answered,
            missing=tuple(verdict.missing),
            contradictions=tuple(verdict.contradictions),
            added=tuple(task.id for task in new),
            by=names_of(self.model)[1],
        )
        return judgement, new


def goes_round(plan: Plan, results: Mapping[str, Result]) -> bool:
    """Whether the last two rounds of added tasks brought nothing that was not there before, by content."""
    rounds = [judgement.added for judgement in plan.judgements if judgement.added]
    added = {id_ for round_ in rounds for id_ in round_}
    seen = {_digest(result) for id_, result in results.items() if id_ not in added and result.ok}
    fruitless = 0
    for round_ in rounds:
        brought = {_digest(results[id_]) for id_ in round_ if id_ in results and results[id_].ok}
        fruitless = 0 if brought - seen else fruitless + 1
        seen |= brought
    return fruitless >= 2


def _digest(result: Result) -> bytes:
    said = pydantic_core.to_json(result.output, fallback=str)
    return hashlib.sha256(b" ".join(said.lower().split())).digest()


def _verdict_type(kind: type[Draft]) -> Any:
    make: Any = create_model
    return make(
        "Verdict",
        __doc__="Whether the work answers the request.",
        answered=(bool, Field(description="Whether the request is answered.")),
        missing=(list[_LINE], Field(description="What is missing; empty if nothing is.", max_length=8)),
        contradictions=(list[_LINE], Field(description="What contradicts; empty if nothing does.", max_length=8)),
        plan=(kind | None, Field(default=None, description="Tasks for what is missing; null if nothing is.")),
    )


def _new_tasks(plan: Plan, draft: Draft | None, briefing: Briefing, *, most: int) -> list[Task]:
    """The tasks of a draft that are not in the plan yet, in words or in fact, and can be carried out beside it."""
    if draft is None or not draft.tasks:
        return []
    prefix = f"round{1 + sum(1 for each in plan.judgements if each.added)}."
    own = {task.id for task in draft.tasks}
    there = [
        DraftTask(id=t.id, instruction=t.instruction, agent=t.agent, capability=t.capability, needs=[*t.needs])
        for t in plan.tasks
    ]
    added = [
        task.model_copy(
            update={"id": f"{prefix}{task.id}", "needs": [f"{prefix}{n}" if n in own else n for n in task.needs]}
        )
        for task in draft.tasks[:most]
    ]
    whole = Draft(tasks=[*there, *added])
    mended = repair(whole, briefing.agents, limit=len(plan.tasks) + most, request="")
    if mended is None:
        return []
    new = [task for task in mended[0].tasks if task.id.startswith(prefix)]
    try:
        briefing.check(plan.model_copy(update={"tasks": (*plan.tasks, *new)}).checked())
    except PlanError as error:
        current_scope().note(f"the added tasks can't be carried out: {error}")
        return []
    return new


def _some(lines: tuple[str, ...]) -> tuple[str, ...]:
    """The first of some complaints: a draft that goes in circles could be complained of without end."""
    return lines if len(lines) <= _MOST_LINES else (*lines[:_MOST_LINES], f"and {len(lines) - _MOST_LINES} more")


def _refused(draft: Draft, request: str, briefing: Briefing) -> tuple[str, ...]:
    """What the workflow itself has against a draft that is sound as a plan."""
    made = repair(draft, briefing.agents, limit=briefing.limit, request=request)
    try:
        if made is not None:
            briefing.check(made[0])
    except PlanError as error:
        return (str(error),)
    return ()


def _question(request: str, briefing: Briefing, room: int) -> str:
    earlier = [f"{message.type}: {message.text}" for message in briefing.messages][:-1]
    while earlier and sum(map(len, earlier)) > room:
        earlier.pop(0)
    known = "\n".join(f"- {key}: {text_of(value)}" for key, value in briefing.known.items())
    parts = (
        section("The request", request),
        section("Known of the user", known and data("memory", known)),
        section("Earlier in this conversation", data("conversation", "\n".join(earlier)) if earlier else ""),
    )
    return "\n\n".join(filter(None, parts))


def _team(agents: Sequence[Agent]) -> str:
    return roster_of([(a.name, a.description, [c.description or c.name for c in a.capabilities]) for a in agents])


async def _patiently(make: Callable[[], Awaitable[_T]]) -> _T:
    """Try again what is transient.

    Raises:
        AgentError: It failed for good.
    """
    number = 1
    while True:
        try:
            return await make()
        except PlanError:
            raise
        except Exception as error:
            if number >= _PATIENT.max_attempts or not worth_another(_PATIENT, error):
                if isinstance(error, AgentError):
                    raise
                told = str(error)  # a traceback would show what is struck out of messages
                raise AgentError(describe(error)) from (error if strike_out(told) == told else None)
            tape = current_scope().tape
            if tape is None or not tape.replaying:
                await wait(pause_before(_PATIENT, number, error), lambda: None)
        number += 1
