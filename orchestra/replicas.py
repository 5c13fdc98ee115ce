"""One task given to several agents, each on its own: what they claim is compared, and what holds is the output."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from langgraph.errors import GraphInterrupt

from orchestra.agents import Agent
from orchestra.attempts import Job, add, beside, delivered, named, restore
from orchestra.claims import Claim, Held, Resolution, claims_of, with_settled
from orchestra.errors import AgentError
from orchestra.health import order
from orchestra.outputs import decode, encode
from orchestra.tasks import Attempt, Task, text_of
from orchestra.timers import ours

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Replica:
    """What one of the agents delivered; `job` has what it wrote beside its output."""

    agent: Agent
    output: Any
    job: Job


@dataclass(slots=True)
class _Team:
    """Who may still step in for an agent that fails, and why agents failed."""

    spare: list[Agent]
    failed: list[str] = field(default_factory=list[str])


def claims_in(author: Agent | None, output: Any) -> tuple[Claim, ...]:
    """The claims in an output, with those that its author's own function finds; if that fails, it finds none."""
    found: list[Any] = []
    if author is not None and author.claims is not None:
        try:
            found.extend(author.claims(output))
        except Exception:  # noqa: BLE001 -- users' code; the work itself stands
            _log.warning("The claims in an output of %s could not be read.", author.name, exc_info=True)
    return (*claims_of(output), *claims_of(found))


async def agreed(job: Job) -> tuple[Agent, Any]:
    """Have the task done by as many agents as it wants; return the output that holds, and whose it is.

    Where outputs carry claims, contradictions are settled as the workflow declares, and the output is that of the agent
    who is right most often, with what holds in place of what does not. Outputs without claims must be equal.

    Raises:
        AgentError: Fewer delivered than the quorum, or fewer than that agree.
    """
    task = job.task
    quorum = task.quorum or task.replicas // 2 + 1
    healthy = order([a.name for a in job.candidates], {agent.name: agent.health for agent in job.candidates})
    able = sorted(job.candidates, key=lambda a: healthy.index(a.name) if a.name in healthy else len(healthy))
    if acting := [agent.name for agent in able if agent.side_effects]:
        raise AgentError(f"{acting[0]} acts on the world, so {task.id!r} can't be done by several agents")
    if len(able) < quorum:
        raise AgentError(f"{quorum} agents must agree on {task.id!r}, and {len(able)} can do it")
    # Rejected work, and work that a person wants tried again, is done anew by all.
    event = f"replica{job.assignment.idempotency_key.rpartition('/')[2]}.{len(job.decisions)}"
    numbers = range(1, task.replicas + 1)
    kept = {number: stored for number in numbers if (stored := job.journal.kept(event, number)) is not None}
    tried = {name for stored in kept.values() for name in stored["tried"]}
    free = [agent for agent in able if agent.name not in tried]
    # Who gets no work just now is waited for only if there is no quorum else.
    wanted = min(task.replicas, max(quorum, len(healthy)))
    missing = [number for number in numbers if number not in kept][: max(0, wanted - len(kept))]
    team = _Team(free[len(missing) :])
    tries = [_one(job, event, number, agent, team) for number, agent in zip(missing, free, strict=False)]
    ended: list[_Replica | BaseException | None] = [*(_again(job, stored) for stored in kept.values())]
    ended += await asyncio.gather(*tries, return_exceptions=True)
    job.attempts.sort(key=lambda attempt: attempt.started)  # not in the order in which they ended
    for each in ended:
        if isinstance(each, BaseException):  # a person is asked, or the run drains: what is done is kept
            raise each
    done = [each for each in ended if isinstance(each, _Replica)]
    if len(done) < quorum:
        why = "; ".join(team.failed)
        raise AgentError(f"{len(done)} of {task.replicas} agents delivered, and {quorum} must agree: {why}")
    chosen = await _by_claims(job, done) or _by_equality(job, done, quorum)
    job.updates.update(chosen.job.updates)
    job.memos.update(chosen.job.memos)
    return chosen.agent, chosen.output


def nobody(_: Task, __: Collection[str]) -> Sequence[Agent]:
    """Who else may do a task that is for certain agents alone."""
    return ()


def _own(job: Job, agent: Agent) -> Job:
    """The job of one replica. Who declines is replaced as who fails: by one that has no part in the task yet."""
    # By the agent, not by its number: so it is the same when the run is played back, or goes on in another order.
    assignment = replace(job.assignment, idempotency_key=f"{job.assignment.idempotency_key}.{agent.name}")
    return replace(job, assignment=assignment, candidates=[agent], equals=1, updates={}, memos={}, others=nobody)


def _again(job: Job, stored: Mapping[str, Any]) -> _Replica:
    """A replica that was through before the task was suspended or cut off."""
    author = named(job, stored["agent"])
    mine = _own(job, author)
    restore(mine, job.task.id, stored)
    add(job, (Attempt.model_validate(attempt) for attempt in stored["attempts"]))
    return _Replica(author, decode(author, stored["output"]), mine)


async def _one(job: Job, event: str, number: int, agent: Agent, team: _Team) -> _Replica | None:
    """One agent's output; if it fails, that of the next who is free."""
    tried: list[str] = []
    candidate: Agent | None = agent
    while candidate is not None:
        mine = replace(_own(job, candidate), patient=not team.spare)
        tried.append(candidate.name)
        try:
            author, output = await delivered(mine)
        except GraphInterrupt as asked:
            told = [ours(one) for one in asked.args[0]]
            if not told or any(one.get("asks") or one.get("path") for one in told):  # the engine's own, or a team's
                raise
            # LangGraph tells a node's questions apart by their order, which replicas share.
            team.failed.append(f"{candidate.name} asked a person, which one of several at work on a task can't")
            candidate = team.spare.pop(0) if team.spare else None
            continue
        except AgentError as error:
            team.failed.append(str(error))
            candidate = team.spare.pop(0) if team.spare else None
            continue
        told = {"agent": author.name, "output": encode(author, output), **beside(mine, job.task.id)}
        attempts = [each.model_dump(mode="json") for each in job.attempts if each.agent in tried]
        await job.journal.keep(event, number, {**told, "tried": tried, "attempts": attempts})
        return _Replica(author, output, mine)
    return None


async def _by_claims(job: Job, done: Sequence[_Replica]) -> _Replica | None:
    """The replica that is right most often, with what holds in it; `None` if nobody claims anything."""
    held = [
        Held(claim=claim, task=job.task.id, agent=each.agent.name)
        for each in done
        for claim in claims_in(each.agent, each.output)
    ]
    if not held:
        return None
    resolutions: Sequence[Resolution] = await job.settle(held)
    job.resolutions.extend(resolutions)
    right = Counter(each.agent for each in held)
    right.subtract(loser.agent for resolution in resolutions for loser in resolution.losers)
    best = max(done, key=lambda each: right[each.agent.name])  # the first of equals, who is the best in health
    best.output = with_settled(best.output, [each for each in resolutions if each.settled])
    return best


def _by_equality(job: Job, done: Sequence[_Replica], quorum: int) -> _Replica:
    same = Counter(text_of(each.output) for each in done)
    text, count = same.most_common(1)[0]
    if count < quorum:
        told = "; ".join(f"{each.agent.name}: {text_of(each.output)[:80]}" for each in done)
        raise AgentError(f"{count} of {len(done)} agents agree on {job.task.id!r}, and {quorum} must: {told}")
    return next(each for each in done if text_of(each.output) == text)
