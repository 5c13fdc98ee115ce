"""One task given to several agents, each on its own: what they claim is compared, and what holds is the output."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestra.agents import Agent
from orchestra.attempts import Job, add, beside, delivered, named, restore
from orchestra.claims import Held, Resolution, claims_of, with_settled
from orchestra.errors import AgentError
from orchestra.health import order
from orchestra.outputs import decode, encode
from orchestra.tasks import Attempt, text_of


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
    if len(able) < quorum:
        raise AgentError(f"{quorum} agents must agree on {task.id!r}, and {len(able)} can do it")
    team = _Team(able[task.replicas :])
    tries = [_one(job, number, agent, team) for number, agent in enumerate(able[: task.replicas], start=1)]
    ended = await asyncio.gather(*tries, return_exceptions=True)
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


async def _one(job: Job, number: int, agent: Agent, team: _Team) -> _Replica | None:
    """One agent's output; if it fails, that of the next who is free."""
    key = f"{job.assignment.idempotency_key}.r{number}"
    mine = replace(job, assignment=replace(job.assignment, idempotency_key=key), equals=1, updates={}, memos={})
    if (stored := job.journal.kept("replica", number)) is not None:
        author = named(job, stored["agent"])
        restore(mine, job.task.id, stored)
        add(job, (Attempt.model_validate(attempt) for attempt in stored["attempts"]))
        return _Replica(author, decode(author, stored["output"]), mine)
    candidate: Agent | None = agent
    while candidate is not None:
        mine.candidates = [candidate]
        try:
            author, output = await delivered(mine)
        except AgentError as error:
            team.failed.append(str(error))
            candidate = team.spare.pop(0) if team.spare else None
            continue
        told = {"agent": author.name, "output": encode(author, output), **beside(mine, job.task.id)}
        attempts = [each.model_dump(mode="json") for each in job.attempts if each.agent == author.name]
        await job.journal.keep("replica", number, {**told, "attempts": attempts})
        return _Replica(author, output, mine)
    return None


async def _by_claims(job: Job, done: Sequence[_Replica]) -> _Replica | None:
    """The replica that is right most often, with what holds in it; `None` if nobody claims anything."""
    held = [
        Held(claim=claim, task=job.task.id, agent=each.agent.name)
        for each in done
        for claim in (*claims_of(each.output), *(each.agent.claims(each.output) if each.agent.claims else ()))
    ]
    if not held:
        return None
    resolutions: Sequence[Resolution] = await job.settle(held)
    job.resolutions.extend(resolutions)
    wrong = Counter(loser.agent for resolution in resolutions for loser in resolution.losers)
    best = min(done, key=lambda each: wrong[each.agent.name])  # the first of equals, who is the best in health
    best.output = with_settled(best.output, [each for each in resolutions if each.settled])
    return best


def _by_equality(job: Job, done: Sequence[_Replica], quorum: int) -> _Replica:
    same = Counter(text_of(each.output) for each in done)
    text, count = same.most_common(1)[0]
    if count < quorum:
        told = "; ".join(f"{each.agent.name}: {text_of(each.output)[:80]}" for each in done)
        raise AgentError(f"{count} of {len(done)} agents agree on {job.task.id!r}, and {quorum} must: {told}")
    return next(each for each in done if text_of(each.output) == text)
