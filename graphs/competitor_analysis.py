"""Analyze a competitor product and draft a response strategy, from the documents of both.

    orchestra run competitor_analysis "Analyze dist:requests as a competitor of dist:httpx and draft a response"

Six specialists: the researcher reads both sources into facts with quotes; comparer and positioner work on
them side by side; the strategist drafts a response; the reviewer holds every statement against the quotes it
cites, sends back what they don't say, and strikes out what still doesn't hold; the communicator writes the
brief.

Without a model the specialists work by rules (`_facts`, `_features`, `_positioning`, `_strategy`, `_brief`),
which is extractive and says so. With `ORCHESTRA_MODEL` set, and `OPENAI_API_KEY` or `OPENAI_BASE_URL`, a
model plays the roles and the rules stand by as backups (`_model`). The reviewer is rules in both cases: a
model may write, but whether a quote supports a statement is not left to the taste of its author's kind.

`COMPETITOR_PACE=2` makes every specialist take at least two seconds, so that a person can watch a run.
"""

import asyncio
import functools
import inspect
import os
import time
from collections.abc import Callable
from typing import Any

from langgraph.types import RetryPolicy

from graphs import _brief, _facts, _features, _model, _positioning, _review, _sources, _strategy
from graphs._environment import model_from_environment
from graphs._types import Comparison, Findings, Positioning, Strategy
from orchestra import Agent, Assignment, Review, Workflow, agent

EXAMPLE = "Analyze dist:requests as a competitor of dist:httpx and draft a response strategy"


def check_request(request: str) -> None:
    """Read the sources that the request names, so that a bad one is reported before any agent runs.

    Raises:
        RequestError: names the source and the remedy; the grammar is in `graphs._sources.GRAMMAR`.
    """
    _sources.load(request)


def research(task: Assignment) -> Findings:
    """Read both sources into passages and facts with their places."""
    return _facts.find_facts(*_sources.load(task.request))


def compare(findings: Findings) -> Comparison:
    """Compare both products feature by feature, by what their documents say."""
    return _features.compare(findings)


def position(findings: Findings, comparison: Comparison | None = None) -> Positioning:
    """Say whom each product addresses, and where it is strong, weak and different."""
    return _positioning.position(findings, comparison or _features.compare(findings))


def strategize(task: Assignment, findings: Findings, comparison: Comparison, positioning: Positioning) -> Strategy:  # noqa: ARG001 -- the positioning informs a model's draft
    """Propose actions by rules; reconsider what the reviewer refused."""
    return _strategy.draft(findings, comparison, rejections(task))


def review(findings: Findings, draft: Strategy) -> Review:
    """Approve a draft only if every statement is supported by the quotes it cites; offer it without the others."""
    reasons, revised = _review.review_strategy(draft, findings)
    return Review(approved=not reasons, reasons=tuple(reasons), revised=revised)


def communicate(findings: Findings, comparison: Comparison, positioning: Positioning, strategy: Strategy) -> str:
    """Write the brief in Markdown, every statement with its references."""
    return _brief.brief(findings, comparison, positioning, strategy)


def rejections(task: Assignment) -> list[str]:
    """What reviewers said against earlier drafts."""
    return [reason for earlier in task.rejections for reason in earlier.reasons]


def paced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a specialist take at least `COMPETITOR_PACE` seconds, for watching."""

    def left(started: float) -> float:
        return max(0.0, float(os.environ.get("COMPETITOR_PACE") or 0) - (time.monotonic() - started))

    @functools.wraps(function)
    def slowed(*args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        result = function(*args, **kwargs)
        time.sleep(left(started))
        return result

    @functools.wraps(function)
    async def slowed_async(*args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        result = await function(*args, **kwargs)
        await asyncio.sleep(left(started))
        return result

    return slowed_async if inspect.iscoroutinefunction(function) else slowed


# role: (its rules, its capability)
ROLES: dict[str, tuple[Callable[..., Any], str]] = {
    "researcher": (research, "research"),
    "comparer": (compare, "comparison"),
    "positioner": (position, "positioning"),
    "strategist": (strategize, "strategy"),
    "communicator": (communicate, "communication"),
}


def build(model: Any = None) -> Workflow:
    """The workflow; with a chat model, its roles are played by the model and the rules are their backups."""
    played = _model.roles(model) if model is not None else {}
    team: list[Agent] = []
    spares: dict[str, Agent] = {}
    for role, (rules, capability) in ROLES.items():
        offline = agent(name=f"offline_{role}" if role in played else role, capabilities=[capability], timeout=120)
        if role in played:
            by_model = agent(
                name=role,
                capabilities=[capability],
                description=rules.__doc__ or "",
                timeout=180,
                retry=RetryPolicy(max_attempts=2),  # the rules stand by: no need to insist
            )
            team.append(by_model(paced(played[role])))
            spares[role] = offline(paced(rules))
        else:
            team.append(offline(paced(rules)))
    flow = Workflow("competitor_analysis", agents=team, check=check_request, example=EXAMPLE)
    flow.add_edge("researcher", "comparer")
    flow.add_edge("researcher", "positioner")
    flow.add_edge(["researcher", "comparer", "positioner"], "strategist")
    flow.add_edge(["researcher", "comparer", "positioner", "strategist"], "communicator")
    flow.add_agent(agent(name="reviewer", capabilities=["review"], timeout=60)(paced(review)))
    flow.add_review("strategist", by="reviewer", rounds=1)
    for role, spare in spares.items():
        flow.add_agent(spare, backup_for=role)
    return flow


flow = build(model_from_environment())
