"""From a task to its result: approval, work, review, a person's help.

`carry_out` turns one task into one `Result` and raises nothing but what LangGraph uses to suspend or cancel a node.
What was settled before a person was asked is kept in the journal, so that no work is done again for the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pydantic_core
from langgraph.errors import GraphInterrupt

from orchestra.agents import Agent
from orchestra.assignments import Assignment
from orchestra.attempts import Job, add, beside, delivered, named, restore
from orchestra.dataflow import Deferred
from orchestra.decisions import Decision, Deed
from orchestra.errors import AgentError, MalformedOutput, PersonRefused
from orchestra.events import DraftReviewed, FellBack
from orchestra.outputs import decode, encode
from orchestra.questions import Question, decision_schema
from orchestra.replicas import agreed
from orchestra.tasks import Attempt, Result, Review, Status, Task, now


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewing:
    """A declared review: by whom, how often rejected work goes back, and with whose help."""

    reviewers: tuple[Agent, ...]
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Approving:
    """A declared approval by a person.

    Attributes:
        before: Whether the person is asked before the agent begins; else the person sees its output.
        rounds: How often rejected work goes back to its author.
        within: How long to wait for the person; `None` for as long as it takes.
        otherwise: What is decided then.
    """

    before: bool
    rounds: int
    within: timedelta | None
    otherwise: Deed


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """When a workflow asks a person, besides the approvals and conflicts it declares.

    Args:
        unable: Where nobody could do a task; else the task fails.
        budget: Where a budget of the turn is used up; else the turn ends with what it has.
        within: How long to wait for the answer; `None` for as long as it takes. After that it goes on as if nobody had
            been asked.
    """

    unable: bool = False
    budget: bool = False
    within: timedelta | None = None


class _Ended(Exception):
    """A person has settled the task without an agent's output."""

    def __init__(self, status: Status, output: Any = None, error: str | None = None, agent: str | None = None) -> None:
        super().__init__(status)
        self.status, self.output, self.error, self.agent = status, output, error, agent


async def carry_out(job: Job, review: Reviewing | None, approval: Approving | None, people: People) -> Result:
    """Do one task: have it permitted, done, reviewed, and, where nobody could do it, ask a person.

    Args:
        job: The task, and all that is needed for it.
        review: Its declared review, if any.
        approval: Its declared approval, if any.
        people: When to ask a person.
    """
    began = now()
    job.attempts.extend(job.journal.cut_off())
    try:
        if approval is not None and approval.before:
            await _permitted(job, approval)
        agent, output = await _done(job, review, approval, people)
    except _Ended as ended:
        how = {"output": ended.output, "error": ended.error, "agent": ended.agent}
        return _result(job, began, status=ended.status, edited=ended.status is Status.SUCCEEDED, **how)
    except AgentError as error:
        return _result(job, began, status=Status.FAILED, error=str(error))
    edited = bool(job.decisions) and job.decisions[-1].do == "edit"
    return _result(job, began, status=Status.SUCCEEDED, agent=agent.name, output=output, edited=edited)


def _result(job: Job, began: datetime, **how: Any) -> Result:
    started = job.attempts[0].started if job.attempts else began
    return Result(
        task=job.task.id,
        started=started,
        ended=now(),
        attempts=tuple(job.attempts),
        reviews=tuple(job.reviews),
        added=tuple(job.added),
        decisions=tuple(job.decisions),
        resolutions=tuple(job.resolutions),
        **how,
    )


async def _done(job: Job, review: Reviewing | None, approval: Approving | None, people: People) -> tuple[Agent, Any]:
    """The output and whose it is; where nobody delivers, a person is asked what to do, as often as that fails too."""
    number = 0
    while True:
        number += 1
        try:
            return await _tried(job, number, review, approval)
        except AgentError as error:
            if not people.unable or not job.may_ask() or isinstance(error, PersonRefused):
                raise
            await _helped(job, number, people, error)


async def _tried(job: Job, number: int, review: Reviewing | None, approval: Approving | None) -> tuple[Agent, Any]:
    """Have the task done, unless it is known from before a person was asked that nobody could."""
    if (stored := job.journal.kept("unable", number)) is not None:
        add(job, (Attempt.model_validate(attempt) for attempt in stored["attempts"]))
        job.reviews[:] = [Review.model_validate(review) for review in stored["reviews"]]
        job.decisions[:] = [Decision.model_validate(decision) for decision in stored["decisions"]]
        told = tuple(review for review in job.reviews if not review.approved)
        job.assignment = replace(job.assignment, rejections=told)
        await job.journal.skip_answers("unable", number)
        raise AgentError(stored["error"])
    approval = None if approval is not None and approval.before else approval
    if review is None and approval is None:
        return await _work(job)
    return await _reviewed(job, review, approval)


async def _work(job: Job) -> tuple[Agent, Any]:
    return await (agreed(job) if job.task.replicas > 1 else delivered(job))


# A person


async def _helped(job: Job, number: int, people: People, error: AgentError) -> None:
    """Ask a person what to do about a task that nobody could do; return to try again.

    Raises:
        AgentError: The person, or the deadline, leaves it at that.
    """
    if job.journal.kept("unable", number) is None:
        past = {"attempts": job.attempts, "reviews": job.reviews, "decisions": job.decisions}
        told = {name: [each.model_dump(mode="json") for each in every] for name, every in past.items()}
        await job.journal.keep("unable", number, {"error": str(error), **told})
    options: list[Deed] = ["supply", "retry", "reassign", "skip", "abort", "stop"]
    known = {"failed": str(error), **_known(job)}
    question = _question(job, "unable", f"Nobody could do {job.task.id!r}. What is to be done?", known, options)
    decision = await _decide(job, number, _due(question, people.within, "stop"))
    if decision.do == "stop":
        raise error
    if decision.do == "reassign":
        _reassign(job, decision)
    elif decision.do != "retry":
        _end(job, decision)


async def _permitted(job: Job, approval: Approving) -> None:
    """Ask a person whether the task may begin."""
    options: list[Deed] = ["approve", "supply", "reject", "reassign", "skip", "abort"]
    question = _question(job, "approval", f"May {job.task.id!r} begin?", _known(job), options)
    decision = await _decide(job, 0, _due(question, approval.within, approval.otherwise))
    if decision.do == "reject":
        raise _Ended(Status.FAILED, error=f"a person did not permit it{_why(decision)}")
    if decision.do == "reassign":
        _reassign(job, decision)
    elif decision.do != "approve":
        _end(job, decision)


async def _approved(job: Job, round_: int, approval: Approving, author: Agent, draft: Any) -> tuple[Review, Any]:
    """Ask a person about a draft; return the verdict, and the output where the person edited it."""
    options: list[Deed] = ["approve", "edit", "reject", "reassign", "skip", "abort"]
    known = {"output": encode(author, draft), "by": author.name, **_known(job)}
    question = _question(job, "approval", f"Is the work on {job.task.id!r} good?", known, options)
    decision = await _decide(job, round_, _due(question, approval.within, approval.otherwise))
    if decision.do == "approve":
        return Review(approved=True), draft
    if decision.do == "edit":
        return Review(approved=True, reasons=("a person edited it",)), decode(author, decision.output)
    if decision.do == "reassign":
        _reassign(job, decision)
    elif decision.do != "reject":
        _end(job, decision)
    return Review(approved=False, reasons=(decision.why or "a person rejected it",)), draft


def _known(job: Job) -> dict[str, Any]:
    task = job.task
    known = {"request": job.assignment.request, "instruction": task.instruction, "inputs": dict(job.assignment.inputs)}
    return {name: value for name, value in known.items() if value}


def _question(job: Job, kind: Any, text: str, known: Mapping[str, Any], options: Sequence[Deed]) -> Question:
    first = job.candidates[0] if job.candidates else None
    agents = [agent.name for agent in job.stand_ins(first)]
    deeds: list[Deed] = [deed for deed in options if deed != "reassign" or agents]
    schema = decision_schema(deeds, Any if first is None else first.output, agents)
    shown = pydantic_core.to_jsonable_python(known, fallback=str)
    agent = "" if first is None else first.name
    return Question(
        kind=kind, value=text, known=shown, options=tuple(deeds), answers=schema, task=job.task.id, agent=agent
    )


def _due(question: Question, within: timedelta | None, otherwise: Deed) -> Question:
    if within is None:
        return question
    return question.model_copy(update={"due": now() + within, "otherwise": {"do": otherwise, "why": "nobody answered"}})


async def _decide(job: Job, number: int, question: Question) -> Decision:
    def check(answer: Any) -> None:
        if answer["do"] in ("edit", "supply") and job.candidates:
            decode(job.candidates[0], answer.get("output"))

    answer = await job.decide(job, number, question, check)
    decision = Decision.model_validate({**answer, "kind": question.kind})
    job.decisions.append(decision)
    return decision


def _reassign(job: Job, decision: Decision) -> None:
    first = job.candidates[0] if job.candidates else None
    job.candidates = [agent for agent in job.stand_ins(first) if agent.name == decision.agent]


def _end(job: Job, decision: Decision) -> None:
    """Settle the task as a person decided."""
    if decision.do == "supply":
        output = decode(job.candidates[0], decision.output) if job.candidates else decision.output
        # Of the type that the agent declares, as which it is stored and read back.
        raise _Ended(Status.SUCCEEDED, output=output, agent=job.candidates[0].name if job.candidates else None)
    if decision.do == "abort":
        job.abort(f"a person aborted the run at {job.task.id!r}{_why(decision)}")
        raise _Ended(Status.FAILED, error=f"a person aborted the run here{_why(decision)}")
    raise _Ended(Status.SKIPPED, error=f"a person skipped it{_why(decision)}")


def _why(decision: Decision) -> str:
    return f": {decision.why}" if decision.why else ""


# Review


@dataclass(frozen=True, slots=True)
class _Round:
    """A draft, and what was said of it."""

    author: Agent
    draft: Any
    who: str = ""
    verdict: Review | None = None


async def _reviewed(job: Job, review: Reviewing | None, approval: Approving | None) -> tuple[Agent, Any]:
    """Author, reviewer and approver in turn, until the draft is approved, or every author's rounds are used up."""
    rounds, mine, past = max(review.rounds if review else 0, approval.rounds if approval else 0), 0, list[_Round]()
    while True:
        mine, round_ = mine + 1, len(job.reviews) + 1
        author, draft = await _draft(job, past)
        who, verdict, draft = await _verdict(job, past, review, approval, _Round(author, draft))
        past.append(_Round(author, draft, who, verdict))
        job.reviews.append(Review(approved=verdict.approved, reasons=verdict.reasons))
        job.emit(DraftReviewed, {"task": job.task.id, "reviewer": who, "round": round_, "review": verdict})
        if verdict.approved:
            return author, draft
        if all(agent.name != author.name for agent in job.candidates):  # a person gave the task to another
            mine = 0
        elif mine > rounds:
            if verdict.revised is not None:
                return author, _revised(author, who, verdict)
            others = [agent for agent in job.candidates if agent.name != author.name]
            times = "once" if mine == 1 else f"{mine} times"
            failed = f"{who} rejected the work {times}: {'; '.join(verdict.reasons)}"
            if not others:
                raise AgentError(failed)
            told = {"from_agent": author.name, "to_agent": others[0].name, "reason": failed}
            job.emit(FellBack, {"task": job.task.id, **told})
            job.candidates, mine = others, 0
        job.assignment = replace(job.assignment, rejections=(*job.assignment.rejections, verdict))


def _revised(author: Agent, reviewer: str, verdict: Review) -> Any:
    try:
        return decode(author, verdict.revised)
    except MalformedOutput as error:
        raise AgentError(f"{reviewer} revised the work to something else than it was: {error}") from error


async def _verdict(
    job: Job, past: Sequence[_Round], review: Reviewing | None, approval: Approving | None, now_: _Round
) -> tuple[str, Review, Any]:
    """Whose word it is, what it is, and the draft as it is then."""
    round_, author, draft = len(job.reviews) + 1, now_.author, now_.draft
    who, verdict = "", Review(approved=True)
    try:
        if review is not None:
            who, verdict = await _judged(job, round_, review, author, draft)
        if approval is None or not verdict.approved:
            return who, verdict, draft
        verdict, draft = await _approved(job, round_, approval, author, draft)
    except (GraphInterrupt, Deferred):  # when the task goes on, the answer must meet the draft that was asked about
        await _keep_all(job, [*past, _Round(author, now_.draft, who, verdict if who else None)], last=round_)
        raise
    return "a person", verdict, draft


async def _judged(job: Job, round_: int, review: Reviewing, author: Agent, draft: Any) -> tuple[str, Review]:
    """The reviewer's verdict; what it was before a person was asked, if it was known then."""
    if (stored := job.journal.kept("verdict", round_)) is not None:
        return stored["reviewer"], Review.model_validate(stored["review"])
    reviewer, verdict = await _judge(job, review, author, draft, round_)
    if job.journal.kept("draft", round_) is not None:  # a person was asked here, and is not to be asked again
        await _keep(job, round_, _Round(author, draft, reviewer.name, verdict))
    if (change := reviewer.health.judged(verdict.approved)) is not None:
        job.tell_health(reviewer, change)
    return reviewer.name, verdict


async def _draft(job: Job, past: Sequence[_Round]) -> tuple[Agent, Any]:
    """The draft of a round: the one a person was asked about, or a new one."""
    round_ = len(job.reviews) + 1
    if (stored := job.journal.kept("draft", round_)) is not None:
        author = named(job, stored["agent"])
        restore(job, job.task.id, stored)
        add(job, (Attempt.model_validate(attempt) for attempt in stored["attempts"]))
        await job.journal.skip_answers("draft", round_)
        return author, decode(author, stored["draft"])
    suffix = "" if round_ == 1 else f".{round_}"
    try:
        return await _work(replace(job, assignment=_keyed(job.assignment, suffix)))
    except (GraphInterrupt, Deferred):  # the author asks: what was said of its earlier drafts is not said again
        await _keep_all(job, past, last=round_ - 1)
        raise


async def _keep_all(job: Job, rounds: Sequence[_Round], *, last: int) -> None:
    """Have some rounds last; `last` is the number of the last one."""
    for number, each in enumerate(rounds, start=last - len(rounds) + 1):
        await _keep(job, number, each)


async def _keep(job: Job, round_: int, what: _Round) -> None:
    """Have a round last, so that nothing of it is done again."""
    if job.journal.kept("draft", round_) is None:
        draft = {
            "agent": what.author.name,
            "draft": encode(what.author, what.draft),
            "attempts": [attempt.model_dump(mode="json") for attempt in job.attempts],
            **beside(job, job.task.id),
        }
        await job.journal.keep("draft", round_, draft)
    if what.verdict is not None and what.who != "a person" and job.journal.kept("verdict", round_) is None:
        said = {"reviewer": what.who, "review": what.verdict.model_dump(mode="json")}
        await job.journal.keep("verdict", round_, said)


async def _judge(job: Job, review: Reviewing, author: Agent, draft: Any, round_: int) -> tuple[Agent, Review]:
    """Have a draft reviewed. The reviewer sees what the author saw, and the draft."""
    seen = {**job.assignment.inputs, job.task.id: draft}
    review_job = replace(
        job,
        task=Task(id=f"{job.task.id}.review", instruction=f"Review the work of {author.name}."),
        assignment=_keyed(replace(job.assignment, rejections=(), delegated=(), inputs=seen), f".review.{round_}"),
        candidates=review.reviewers,
        available={**job.available, job.task.id: author.output},
        draft=job.task.id,
    )
    try:
        return await delivered(review_job)
    except AgentError as error:
        raise AgentError(f"the draft could not be reviewed: {error}") from error


def _keyed(assignment: Assignment, suffix: str) -> Assignment:
    return replace(assignment, idempotency_key=f"{assignment.idempotency_key}{suffix}")
