"""The only place where agent code is called: timeout, retry, validation, fallback, review, work handed on.

`carry_out` turns one task into one `Result` and raises nothing but what LangGraph uses to suspend or cancel a node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, Literal, Protocol

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.errors import GraphInterrupt

from orchestra.agents import Agent, Binding, bind
from orchestra.dataflow import Deferred, Updates
from orchestra.errors import AgentError, AttemptTimeout, BudgetExceeded, MalformedOutput, NoCapableAgent, WorkflowError
from orchestra.events import AttemptFailed, DraftReviewed, Event, FellBack, TaskStarted
from orchestra.invoking import Declined, Returned, arguments, failure_of, invoke, told_apart
from orchestra.metering import Scope
from orchestra.outputs import decode, deliver, encode
from orchestra.places import place_of
from orchestra.retrying import describe, pause_before, wait, worth_another
from orchestra.tasks import Added, Assignment, Attempt, Delegate, Memo, Result, Review, Status, Task, Usage, now

MOST_HANDED_ON = 4
"""How often one task may hand on work: an agent that goes on doing so has no answer of its own."""


class Journal(Protocol):
    """Durable record beside the results: of attempts, for agents that ask for it, and of what came half-way."""

    async def started(self, attempt: Attempt) -> None:
        """Return when the start of an attempt is stored."""
        ...

    async def ended(self, attempt: Attempt) -> None:
        """Return when the end of an attempt is stored."""
        ...

    def crashed(self, agent: str) -> Sequence[Attempt]:
        """Attempts of this task on this agent that started in an earlier process and never ended."""
        ...

    async def spent(self, attempt: Attempt, usage: Usage) -> None:
        """Return when it is stored what an attempt that goes on has used so far."""
        ...

    def cut_off(self) -> Sequence[Attempt]:
        """Attempts of this task that used models for a budget, and were cut off or suspended before their end."""
        ...

    async def keep(self, event: str, number: int, what: Mapping[str, Any]) -> None:
        """Return when something is stored that must not be done again for what comes after it.

        Args:
            event: What it is: "draft", which a reviewer asks a person about, or "delegate", work handed on.
            number: The round it belongs to.
            what: As JSON.
        """
        ...

    def kept(self, event: str, number: int) -> Mapping[str, Any] | None:
        """What was stored so before this task was suspended or cut off."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewing:
    """A declared review: by whom, how often rejected work goes back, and with whose help."""

    reviewers: tuple[Agent, ...]
    rounds: int


@dataclass(slots=True, kw_only=True)
class Job:
    """Everything one task needs to be carried out.

    Attributes:
        task: The task.
        candidates: Agents that may do it, best first.
        available: The output types of its inputs, by task id.
        draft: The task whose draft is to be reviewed, if this is a review.
        assignment: What agents receive; attempts and rejections are filled in.
        config: LangGraph's config of the node, handed on to Runnables and teams.
        emit: Takes the events. Their `path` is already known to it.
        ready: Called when an attempt has its place and is about to begin; may raise to defer the task.
        left: The seconds that the run's budget leaves, if it has one.
        call_team: Runs a team once.
        scope: Makes the scope of an attempt, by the assignment, the agent and the attempt's number.
        others: Who else may do a task, given those who found it out of their scope.
        hand_on: Has a part of the work done by another agent, or says why not.
        hurried: Whether there is nothing to wait for between tries, because a recording is played back.
        review: The declared review, if any.
        journal: The durable record of attempts.
        check_updates: Raises for updates of the state that can't be made.
        updates: What the task, and a review of it, write to the user's own keys of the state, by task.
        memos: What is to be remembered of the user, by task like the updates.
        added: Tasks that this one added to the plan.
    """

    task: Task
    candidates: Sequence[Agent]
    available: Mapping[str, Any]
    assignment: Assignment
    config: RunnableConfig
    emit: Callable[[type[Event], Mapping[str, Any]], None]
    ready: Callable[[], None]
    left: Callable[[], float | None]
    call_team: Callable[[Agent, Assignment, Mapping[str, Any], Scope], Awaitable[Any]]
    scope: Callable[[Assignment, Agent, int], Scope]
    others: Callable[[Task, Collection[str]], Sequence[Agent]]
    hand_on: Callable[[Job, Agent, Delegate], Awaitable[tuple[Task, Result]]]
    journal: Journal
    check_updates: Callable[[Updates], None]
    draft: str = ""
    hurried: bool = False
    review: Reviewing | None = None
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    reviews: list[Review] = field(default_factory=list[Review])
    updates: dict[str, Updates] = field(default_factory=dict[str, Updates])
    memos: dict[str, Sequence[Memo]] = field(default_factory=dict[str, Sequence[Memo]])
    added: list[Added] = field(default_factory=list[Added])


async def carry_out(job: Job) -> Result:
    """Do one task: try its candidates in order, have the output reviewed, and tell how it went."""
    began = now()
    job.attempts.extend(job.journal.cut_off())
    try:
        if job.review is None:
            agent, output = await _delivered(job)
        else:
            agent, output = await _reviewed(job, job.review)
    except AgentError as error:
        return _result(job, began, status=Status.FAILED, error=str(error))
    return _result(job, began, status=Status.SUCCEEDED, agent=agent.name, output=output)


def _result(job: Job, began: datetime, **how: Any) -> Result:
    started = job.attempts[0].started if job.attempts else began
    return Result(
        task=job.task.id,
        started=started,
        ended=now(),
        attempts=tuple(job.attempts),
        reviews=tuple(job.reviews),
        added=tuple(job.added),
        **how,
    )


async def _reviewed(job: Job, review: Reviewing) -> tuple[Agent, Any]:
    """Author and reviewer in turn, until the draft is approved or the rounds are used up."""
    while True:
        round_ = len(job.reviews) + 1
        author, draft = await _draft(job, round_)
        try:
            reviewer, verdict = await _judge(job, review, author, draft, round_)
        except (GraphInterrupt, Deferred):  # when the task goes on, the answer must meet the draft that was asked about
            if job.journal.kept("draft", round_) is None:
                what = {"agent": author.name, "draft": encode(author, draft), **beside(job, job.task.id)}
                await job.journal.keep("draft", round_, what)
            raise
        job.reviews.append(Review(approved=verdict.approved, reasons=verdict.reasons))
        said = {"reviewer": reviewer.name, "round": round_, "review": verdict}
        job.emit(DraftReviewed, {"task": job.task.id, **said})
        if verdict.approved:
            return author, draft
        if round_ > review.rounds:
            break
        job.assignment = replace(job.assignment, rejections=(*job.assignment.rejections, verdict))
    if verdict.revised is not None:
        try:
            return author, decode(author, verdict.revised)
        except MalformedOutput as error:
            raise AgentError(f"{reviewer.name} revised the work to something else than it was: {error}") from error
    times = "once" if round_ == 1 else f"{round_} times"
    raise AgentError(f"{reviewer.name} rejected the work {times}: {'; '.join(verdict.reasons)}")


async def _draft(job: Job, round_: int) -> tuple[Agent, Any]:
    """The draft of a round: the one a person was asked about, or a new one."""
    if (stored := job.journal.kept("draft", round_)) is not None:
        author = _named(job, stored["agent"])
        restore(job, job.task.id, stored)
        return author, decode(author, stored["draft"])
    return await _delivered(replace(job, assignment=_keyed(job.assignment, "" if round_ == 1 else f".{round_}")))


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
        return await _delivered(review_job)
    except AgentError as error:
        raise AgentError(f"the draft could not be reviewed: {error}") from error


def _keyed(assignment: Assignment, suffix: str) -> Assignment:
    return replace(assignment, idempotency_key=f"{assignment.idempotency_key}{suffix}")


def beside(job: Job, name: str) -> dict[str, Any]:
    """What a task wrote beside its output so far, as JSON."""
    return {
        "updates": [[key, value] for key, value in job.updates.get(name, ())],
        "memos": [memo.model_dump(mode="json") for memo in job.memos.get(name, ())],
    }


def restore(job: Job, name: str, stored: Mapping[str, Any]) -> None:
    """Take up again what a task wrote beside its output before it was cut off."""
    job.updates[name] = [(key, value) for key, value in stored["updates"]]
    job.memos[name] = [Memo.model_validate(memo) for memo in stored["memos"]]


def _named(job: Job, name: str) -> Agent:
    return next((agent for agent in job.candidates if agent.name == name), job.candidates[0])


async def _delivered(job: Job) -> tuple[Agent, Any]:
    """The first validated output and whose it is; what an agent hands on is done by another meanwhile.

    Raises:
        AgentError: Nobody delivered.
    """
    number = 0
    while True:
        number += 1
        agent, returned = await _asked(job, number)
        if returned.handed_on is None:
            return agent, returned.output
        if number > MOST_HANDED_ON:
            raise AgentError(f"{agent.name} handed on work {MOST_HANDED_ON} times and still had no output of its own")
        task, result = await job.hand_on(job, agent, returned.handed_on)
        job.added.append(Added(task=task, for_asker=not returned.finished))
        if returned.finished:
            return agent, returned.output
        job.assignment = replace(job.assignment, delegated=(*job.assignment.delegated, result))


async def _asked(job: Job, number: int) -> tuple[Agent, Returned]:
    """What an agent returned; what it returned before the task was cut off, if it handed on work then."""
    key = f"delegate{job.assignment.idempotency_key.rpartition('/')[2]}"
    if (stored := job.journal.kept(key, number)) is not None:
        agent = _named(job, stored["agent"])
        restore(job, job.task.id, stored)
        _add(job, (Attempt.model_validate(attempt) for attempt in stored["attempts"]))
        output = decode(agent, stored["output"]) if stored["finished"] else None
        return agent, Returned(output, (), Delegate(**stored["delegate"]), stored["finished"])
    before = len(job.attempts)
    agent, returned = await _first_success(job)
    if returned.handed_on is not None:
        what = {
            "agent": agent.name,
            "delegate": asdict(returned.handed_on),
            "finished": returned.finished,
            "output": encode(agent, returned.output) if returned.finished else None,
            "attempts": [attempt.model_dump(mode="json") for attempt in job.attempts[before:]],
        }
        await job.journal.keep(key, number, {**what, **beside(job, job.task.id)})
    return agent, returned


def _add(job: Job, attempts: Iterable[Attempt]) -> None:
    """Put attempts of an earlier process on record, each once, in the form that tells more."""
    known = {(attempt.agent, attempt.started): at for at, attempt in enumerate(job.attempts)}
    for attempt in attempts:
        at = known.get((attempt.agent, attempt.started))
        if at is None:
            job.attempts.append(attempt)
        else:
            usage = max(attempt.usage, job.attempts[at].usage, key=lambda used: used.calls)
            job.attempts[at] = attempt.model_copy(update={"usage": usage})


async def _first_success(job: Job) -> tuple[Agent, Returned]:
    """Try agents in order; return what the first one returned whose output is valid.

    Raises:
        AgentError: Nobody delivered.
    """
    reasons: list[str] = []
    tried: list[str] = []
    declined = False
    queue = [*job.candidates]
    previous: Agent | None = None
    while queue:
        agent = queue.pop(0)
        tried.append(agent.name)
        try:
            bindings = bind(agent, job.available, first=job.draft)
        except WorkflowError as error:  # an agent of another signature can't stand in here
            reasons.append(f"{agent.name} can't take these inputs ({error})")
            continue
        if previous is not None:
            told = {"from_agent": previous.name, "to_agent": agent.name, "reason": reasons[-1]}
            job.emit(FellBack, {"task": job.task.id, **told})
        previous = agent
        try:
            return agent, await _attempts_on(job, agent, bindings)
        except AgentError as error:
            reasons.append(str(error))
            declined = declined or isinstance(error.__cause__, Declined)
        if declined and not queue:  # whoever was named can't do it: see who else could
            queue = [other for other in job.others(job.task, tried) if other.name not in tried]
    if not reasons:
        raise NoCapableAgent(f"no agent on the roster can do task {job.task.id!r}")
    raise AgentError("; then ".join(reasons))


async def _attempts_on(job: Job, agent: Agent, bindings: Sequence[Binding]) -> Returned:
    """Try one agent until it delivers, its retries are used up, or the failure is not worth a retry."""
    policy = agent.retry
    # A team is called once: what failed inside has been retried inside.
    tries = 1 if agent.is_team else policy.max_attempts
    if agent.max_crashes is not None:
        crashed = job.journal.crashed(agent.name)
        _add(job, crashed)
        if len(crashed) >= agent.max_crashes:
            raise AgentError(f"{agent.name} went down with the process {len(crashed)} times on this task")
    for number in range(1, tries + 1):
        returned, attempt, error = await _one_attempt(job, agent, bindings, number)
        job.attempts.append(attempt)
        if error is None:
            return returned
        again = number < tries and not isinstance(error, Declined) and worth_another(policy, error)
        pause = pause_before(policy, number, error) if again else None
        job.emit(AttemptFailed, {"task": job.task.id, "attempt": attempt, "retry_in": pause})
        if pause is None:
            times = "" if number == 1 else f" at try {number}"
            how = "finds the task" if isinstance(error, Declined) else f"failed{times}:"
            raise AgentError(f"{agent.name} {how} {attempt.error}") from error
        await wait(0 if job.hurried else pause, job.ready)
    raise AssertionError("unreachable: the last try returns or raises")


async def _one_attempt(
    job: Job, agent: Agent, bindings: Sequence[Binding], number: int
) -> tuple[Returned, Attempt, Exception | None]:
    """One try, timed from the moment it has its place. What suspends or cancels the node passes through."""
    async with place_of(agent):
        job.ready()
        started = now()
        if agent.max_crashes is not None:
            await job.journal.started(Attempt(agent=agent.name, number=number, started=started, seconds=0.0))
        job.emit(TaskStarted, {"task": job.task.id, "agent": agent.name, "attempt": number})
        assignment = replace(job.assignment, attempt=number, notes=[])  # what a failed try noted is forgotten
        scope = job.scope(assignment, agent, number)
        scope.spent = partial(job.journal.spent, Attempt(agent=agent.name, number=number, started=started, seconds=0.0))
        clock = asyncio.get_running_loop().time
        began = clock()
        returned = Returned(None)
        error: Exception | None = None
        try:
            returned = told_apart(await _timed(job, agent, bindings, assignment, scope))
            if returned.finished:
                returned = replace(returned, output=deliver(agent, returned.output))
            if returned.updates:
                job.check_updates(returned.updates)
            job.updates[job.task.id] = returned.updates
            job.memos[job.task.id] = [*assignment.notes]
        except BaseException as caught:
            if (error := failure_of(caught)) is None:  # the node is suspended or cancelled: no failure, and no crash
                if agent.max_crashes is not None:
                    ended = Attempt(agent=agent.name, number=number, started=started, seconds=clock() - began)
                    await asyncio.shield(job.journal.ended(ended))
                raise
    attempt = Attempt(
        agent=agent.name,
        number=number,
        started=started,
        seconds=clock() - began,
        outcome=_outcome(error),
        error=error and describe(error),
        notes=tuple(scope.notes),
        usage=scope.usage,
    )
    if agent.max_crashes is not None:
        await job.journal.ended(attempt)
    return returned, attempt, error


def _outcome(error: Exception | None) -> Literal["ok", "error", "timeout", "malformed", "declined"]:
    if error is None:
        return "ok"
    if isinstance(error, AttemptTimeout):
        return "timeout"
    if isinstance(error, Declined):
        return "declined"
    return "malformed" if isinstance(error, MalformedOutput) else "error"


async def _timed(job: Job, agent: Agent, bindings: Sequence[Binding], assignment: Assignment, scope: Scope) -> Any:
    left = job.left()
    seconds = min((each for each in (agent.timeout, left) if each is not None), default=None)
    if seconds is None:
        return await _call(job, agent, bindings, assignment, scope)
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await _call(job, agent, bindings, assignment, scope)
    except TimeoutError as error:
        if not limit.expired():
            raise
        if seconds == agent.timeout:
            raise AttemptTimeout(f"no output within {seconds:g} s") from error
        raise BudgetExceeded("the run's budget of time was used up while it worked") from error


async def _call(job: Job, agent: Agent, bindings: Sequence[Binding], assignment: Assignment, scope: Scope) -> Any:
    if agent.is_team:  # what is called inside belongs to the attempts inside
        return await job.call_team(agent, assignment, arguments(bindings, assignment), scope)
    config: RunnableConfig = {**job.config, "metadata": scope.labels(job.config)}
    token = var_child_runnable_config.set(config)  # what models are called with in the agent's own code
    try:
        with scope:
            return await invoke(agent, bindings, assignment, config)
    finally:
        var_child_runnable_config.reset(token)
