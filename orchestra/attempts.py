"""The only place where agent code is called: timeout, retry, validation, fallback, review.

`carry_out` turns one task into one `Result` and raises nothing but what LangGraph uses to suspend or cancel a node.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, Protocol, cast

from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.errors import GraphBubbleUp, GraphInterrupt
from langgraph.types import Command, RetryPolicy

from orchestra.agents import Agent, Binding, bind
from orchestra.dataflow import Updates
from orchestra.errors import (
    AgentError,
    AttemptTimeout,
    MalformedOutput,
    NoCapableAgent,
    UnstorableOutput,
    WorkflowError,
)
from orchestra.events import AttemptFailed, DraftReviewed, Event, FellBack, TaskStarted
from orchestra.outputs import decode, deliver, encode, text_of
from orchestra.places import in_thread, place_of
from orchestra.tasks import Assignment, Attempt, Memo, Result, Review, Status, Task, now

_LINKS = re.compile(r"\s*For further information visit \S+")
"""What pydantic adds to each of its errors."""

_LANGGRAPH_DEFAULT = RetryPolicy().retry_on


class Journal(Protocol):
    """Durable record of attempts, for agents that ask for it."""

    async def started(self, attempt: Attempt) -> None:
        """Return when the start of an attempt is stored."""
        ...

    async def ended(self, attempt: Attempt) -> None:
        """Return when the end of an attempt is stored."""
        ...

    def crashed(self, agent: str) -> Sequence[Attempt]:
        """Attempts of this task on this agent that started in an earlier process and never ended."""
        ...

    async def drafted(self, number: int, draft: Mapping[str, Any]) -> None:
        """Return when a draft is stored that a reviewer asks a person about.

        Args:
            number: The round it belongs to.
            draft: The agent, the draft as JSON, and what came with it: updates of the state, and memos.
        """
        ...

    def draft(self, number: int) -> Mapping[str, Any] | None:
        """The draft of a round that was stored before this task was suspended."""
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
        assignment: What agents receive; attempts and rejections are filled in.
        config: LangGraph's config of the node, handed on to Runnables and teams.
        emit: Takes the events. Their `path` is already known to it.
        ready: Called when an attempt has its place and is about to begin; may raise to defer the task.
        call_team: Runs a team once.
        review: The declared review, if any.
        journal: The durable record of attempts.
        check_updates: Raises for updates of the state that can't be made.
        updates: What the task, and a review of it, write to the user's own keys of the state, by task.
        memos: What is to be remembered of the user, by task like the updates.
    """

    task: Task
    candidates: Sequence[Agent]
    available: Mapping[str, Any]
    assignment: Assignment
    config: RunnableConfig
    emit: Callable[[type[Event], Mapping[str, Any]], None]
    ready: Callable[[], None]
    call_team: Callable[[Agent, Assignment, Mapping[str, Any]], Awaitable[Any]]
    journal: Journal
    check_updates: Callable[[Updates], None]
    review: Reviewing | None = None
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    reviews: list[Review] = field(default_factory=list[Review])
    updates: dict[str, Updates] = field(default_factory=dict[str, Updates])
    memos: dict[str, Sequence[Memo]] = field(default_factory=dict[str, Sequence[Memo]])


async def carry_out(job: Job) -> Result:
    """Do one task: try its candidates in order, have the output reviewed, and tell how it went."""
    began = now()
    try:
        if job.review is None:
            agent, output = await _first_success(job, job.candidates, job.available)
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
        **how,
    )


async def _reviewed(job: Job, review: Reviewing) -> tuple[Agent, Any]:
    """Author and reviewer in turn, until the draft is approved or the rounds are used up."""
    while True:
        round_ = len(job.reviews) + 1
        author, draft = await _draft(job, round_)
        try:
            reviewer, verdict = await _judge(job, review, author, draft, round_)
        except GraphInterrupt:  # a reviewer asks a person: the answer must meet the draft that was asked about
            name = job.task.id
            beside = {
                "updates": [[key, value] for key, value in job.updates.get(name, ())],
                "memos": [memo.model_dump(mode="json") for memo in job.memos.get(name, ())],
            }
            await job.journal.drafted(round_, {"agent": author.name, "draft": encode(author, draft), **beside})
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
    if (stored := job.journal.draft(round_)) is not None:
        author = next((agent for agent in job.candidates if agent.name == stored["agent"]), job.candidates[0])
        job.updates[job.task.id] = [(key, value) for key, value in stored["updates"]]
        job.memos[job.task.id] = [Memo.model_validate(memo) for memo in stored["memos"]]
        return author, decode(author, stored["draft"])
    again = replace(job, assignment=_keyed(job.assignment, "" if round_ == 1 else f".{round_}"))
    return await _first_success(again, job.candidates, job.available)


async def _judge(job: Job, review: Reviewing, author: Agent, draft: Any, round_: int) -> tuple[Agent, Review]:
    """Have a draft reviewed. The reviewer sees what the author saw, and the draft."""
    seen = {**job.assignment.inputs, job.task.id: draft}
    review_job = replace(
        job,
        task=Task(id=f"{job.task.id}.review", instruction=f"Review the work of {author.name}."),
        assignment=_keyed(replace(job.assignment, rejections=(), inputs=seen), f".review.{round_}"),
    )
    try:
        return await _first_success(review_job, review.reviewers, {**job.available, job.task.id: author.output})
    except AgentError as error:
        raise AgentError(f"the draft could not be reviewed: {error}") from error


def _keyed(assignment: Assignment, suffix: str) -> Assignment:
    return replace(assignment, idempotency_key=f"{assignment.idempotency_key}{suffix}")


async def _first_success(job: Job, candidates: Sequence[Agent], available: Mapping[str, Any]) -> tuple[Agent, Any]:
    """Try agents in order; return the first validated output and whose it is.

    Raises:
        AgentError: Nobody delivered.
    """
    reasons: list[str] = []
    previous: Agent | None = None
    for agent in candidates:
        try:
            bindings = bind(agent, available)
        except WorkflowError as error:  # an agent of another signature can't stand in here
            reasons.append(f"{agent.name} can't take these inputs ({error})")
            continue
        if previous is not None:
            job.emit(
                FellBack,
                {
                    "task": job.task.id,
                    "from_agent": previous.name,
                    "to_agent": agent.name,
                    "reason": reasons[-1],
                },
            )
        previous = agent
        try:
            return agent, await _attempts_on(job, agent, bindings)
        except AgentError as error:
            reasons.append(str(error))
    if not reasons:
        raise NoCapableAgent(f"no agent on the roster can do task {job.task.id!r}")
    raise AgentError("; then ".join(reasons))


async def _attempts_on(job: Job, agent: Agent, bindings: Sequence[Binding]) -> Any:
    """Try one agent until it delivers, its retries are used up, or the failure is not worth a retry."""
    policy = agent.retry
    # A team is called once: what failed inside has been retried inside.
    tries = 1 if agent.is_team else policy.max_attempts
    if agent.max_crashes is not None:
        crashed = job.journal.crashed(agent.name)
        job.attempts.extend(crashed)
        if len(crashed) >= agent.max_crashes:
            raise AgentError(f"{agent.name} went down with the process {len(crashed)} times on this task")
    for number in range(1, tries + 1):
        output, attempt, error = await _one_attempt(job, agent, bindings, number)
        job.attempts.append(attempt)
        if error is None:
            return output
        again = number < tries and _worth_another(policy, error)
        pause = _pause(policy, number) if again else None
        job.emit(AttemptFailed, {"task": job.task.id, "attempt": attempt, "retry_in": pause})
        if pause is None:
            times = "" if number == 1 else f" at try {number}"
            raise AgentError(f"{agent.name} failed{times}: {attempt.error}") from error
        await _wait(pause, job.ready)
    raise AssertionError("unreachable: the last try returns or raises")


async def _one_attempt(
    job: Job, agent: Agent, bindings: Sequence[Binding], number: int
) -> tuple[Any, Attempt, Exception | None]:
    """One try, timed from the moment it has its place. What suspends or cancels the node passes through."""
    async with place_of(agent):
        job.ready()
        started = now()
        if agent.max_crashes is not None:
            await job.journal.started(Attempt(agent=agent.name, number=number, started=started, seconds=0.0))
        job.emit(TaskStarted, {"task": job.task.id, "agent": agent.name, "attempt": number})
        assignment = replace(job.assignment, attempt=number, notes=[])  # what a failed try noted is forgotten
        clock = asyncio.get_running_loop().time
        began = clock()
        output: Any = None
        error: Exception | None = None
        try:
            value, updates = _parted(await _timed(job, agent, bindings, assignment))
            output = deliver(agent, value)
            if updates:
                job.check_updates(updates)
            job.updates[job.task.id] = updates
            job.memos[job.task.id] = [*assignment.notes]
        except BaseException as caught:
            if (error := _failure(caught)) is None:  # the node is suspended or cancelled: no failure, and no crash
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
    )
    if agent.max_crashes is not None:
        await job.journal.ended(attempt)
    return output, attempt, error


def _parted(value: Any) -> tuple[Any, Updates]:
    """What an agent returned, parted into its output and what it writes to the state beside it."""
    pair: tuple[Any, ...] = value if type(value) is tuple else ()  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, Command):
        raise AgentError("it returned a Command without an output; return (output, Command(update={...}))")
    if len(pair) != 2 or not isinstance(pair[1], Command):
        return cast("Any", value), ()
    command = cast("Command[Any]", pair[1])
    if command.goto or command.resume is not None or command.graph is not None:
        raise AgentError("its Command has more than update=; in Orchestra the plan decides what runs next")
    update: Any = command.update or {}
    return pair[0], tuple(dict[str, Any](update).items())


def _failure(caught: BaseException) -> Exception | None:
    """What an agent raised, as a failure of its task; `None` for what is meant for LangGraph or for the process."""
    if isinstance(caught, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[Any]", caught)
        inner = next((leaf for leaf in _leaves(group) if isinstance(leaf, GraphBubbleUp)), None)
        if inner is not None:  # a question asked inside a TaskGroup
            raise inner from caught
    if isinstance(caught, GraphBubbleUp | KeyboardInterrupt):
        return None
    if isinstance(caught, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            return None
        return AgentError("it awaited something that was cancelled")
    if isinstance(caught, Exception):
        return caught
    return AgentError(f"it tried to end the process: {describe(cast('BaseException', caught))}")


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(cast("BaseExceptionGroup[Any]", error))
        else:
            yield error


def _outcome(error: Exception | None) -> Literal["ok", "error", "timeout", "malformed"]:
    if error is None:
        return "ok"
    if isinstance(error, AttemptTimeout):
        return "timeout"
    return "malformed" if isinstance(error, MalformedOutput) else "error"


async def _timed(job: Job, agent: Agent, bindings: Sequence[Binding], assignment: Assignment) -> Any:
    if agent.timeout is None:
        return await _call(job, agent, bindings, assignment)
    limit = asyncio.timeout(agent.timeout)
    try:
        async with limit:
            return await _call(job, agent, bindings, assignment)
    except TimeoutError as error:
        if limit.expired():
            raise AttemptTimeout(f"no output within {agent.timeout:g} s") from error
        raise


async def _call(job: Job, agent: Agent, bindings: Sequence[Binding], assignment: Assignment) -> Any:
    arguments = _arguments(bindings, assignment)
    run: Any = agent.run
    if agent.is_team:
        return await job.call_team(agent, assignment, arguments)
    if agent.is_runnable:
        return _plain(agent, await run.ainvoke(_runnable_input(run, assignment), job.config))
    if not agent.blocking:
        return await run(**arguments)
    value = await in_thread(lambda: run(**arguments))
    return await value if inspect.isawaitable(value) else value


def _arguments(bindings: Sequence[Binding], assignment: Assignment) -> dict[str, Any]:
    """Fill the parameters; where an optional input is missing, leave it to the default, else pass `None`."""
    inputs = assignment.inputs
    arguments: dict[str, Any] = {}
    for binding in bindings:
        there = [inputs[source] for source in binding.sources if source in inputs]
        if binding.kind == "assignment":
            arguments[binding.parameter] = assignment
        elif binding.kind == "many":
            arguments[binding.parameter] = there
        elif there or not binding.default:
            arguments[binding.parameter] = there[0] if there else None
    return arguments


def _runnable_input(run: Runnable[Any, Any], assignment: Assignment) -> Any:
    """What a Runnable receives: a model gets messages; a prompt, a chain or a graph gets a mapping to pick from."""
    inputs = "\n\n".join(f"{task}:\n{text_of(output)}" for task, output in assignment.inputs.items())
    asked = "\n\n".join(filter(None, (assignment.task.instruction, assignment.request, inputs)))
    if isinstance(run, BaseLanguageModel):
        return [*assignment.messages[:-1], HumanMessage(asked)]
    return {
        "request": assignment.request,
        "instruction": assignment.task.instruction,
        "inputs": dict(assignment.inputs),
        "messages": [HumanMessage(asked)],
    }


def _plain(agent: Agent, value: Any) -> Any:
    """A Runnable's message, or a graph's last message, as text, unless the agent declares otherwise."""
    if agent.output is not Any and agent.output is not str:
        return value
    if isinstance(value, Mapping) and (messages := value.get("messages")):  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        value = messages[-1]  # pyright: ignore[reportUnknownVariableType]
    return value.text if isinstance(value, BaseMessage) else value  # pyright: ignore[reportUnknownVariableType]


def describe(error: BaseException) -> str:
    """An exception in one line."""
    try:
        text = " ".join(_LINKS.sub("", str(error)).split()) or "no message"
    except Exception:  # noqa: BLE001 -- an exception that can't even say what it is must not hide that there is one
        text = "an exception without a readable message"
    return text[:500] if isinstance(error, AgentError) else f"{type(error).__name__}: {text}"[:500]


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: lost connections, timeouts, overload, malformed output.

    HTTP errors are recognised by a `status_code`, on the exception or its response, so that no client library needs
    to be known here; connection errors of httpx and openai by their class names.
    """
    if isinstance(error, UnstorableOutput):
        return False
    if isinstance(error, ConnectionError | TimeoutError | AttemptTimeout | MalformedOutput):
        return True
    status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status in (408, 425, 429) or status >= 500
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & {"TransportError", "APIConnectionError", "APITimeoutError"})


def _worth_another(policy: RetryPolicy, error: Exception) -> bool:
    """Ask the policy; LangGraph has three ways to say what is retried: a class, several, or a function."""
    retry_on: Any = is_transient if policy.retry_on is _LANGGRAPH_DEFAULT else policy.retry_on
    if isinstance(retry_on, type):
        return isinstance(error, retry_on)
    if not callable(retry_on):
        return isinstance(error, tuple(retry_on))
    try:
        return bool(retry_on(error))
    except Exception as failed:
        raise AgentError(f"retry_on failed on {describe(error)}: {describe(failed)}") from failed


async def _wait(seconds: float, ready: Callable[[], None]) -> None:
    """Sleep before a retry; a run that drains meanwhile does not wait for the end of it."""
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    while (left := end - clock()) > 0:
        await asyncio.sleep(min(left, 0.2))
        ready()


def _pause(policy: RetryPolicy, number: int) -> float:
    """Exponential backoff; jitter spreads it by half, so that tasks that failed together don't come back together."""
    pause = min(policy.max_interval, policy.initial_interval * policy.backoff_factor ** (number - 1))
    return pause * random.uniform(0.5, 1.5) if policy.jitter else pause  # noqa: S311 -- no secret is made of it
