"""A real model, far too small for its work, in every role: runs end, say honestly how, and replay the same."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import pytest
from langchain_openai import ChatOpenAI
from langgraph.types import RetryPolicy
from pydantic import BaseModel

from orchestra import Agent, Budget, ModelPlanner, ModelReviewer, Orchestra, RunState, Status, Workflow
from orchestra.models.profiles import forget_profiles
from tests import smollm

QUICK = RetryPolicy(initial_interval=0.001, max_interval=0.01, max_attempts=1)


class City(BaseModel):
    name: str
    size: Literal["small", "large"]


@pytest.fixture(autouse=True)
def strangers() -> None:
    """Every endpoint is a new one."""
    forget_profiles()


def chat(url: str) -> ChatOpenAI:
    return ChatOpenAI(model=smollm.MODEL, base_url=url, api_key="x", temperature=0, timeout=30, max_retries=0)


def look(query: str) -> str:
    """Look up a city."""
    LOOKED[query] += 1
    return "Paris is a large city."


LOOKED = Counter[str]()


def team(url: str, roles: str, **options: Any) -> Workflow:
    model = chat(url)
    small: Any = {"retry": QUICK, "repairs": 0, "max_tokens": 10}
    agents = [
        Agent.from_model("namer", model, "You name a city.", output=City, tools=[look], **small),
        Agent.from_model("writer", model, "You write one short sentence.", **small),
    ]
    parts: dict[str, Any] = {}
    if "planner" in roles:
        parts["planner"] = ModelPlanner(model, max_tokens=30)
    if "reviewer" in roles:
        parts["reviewer"] = ModelReviewer(model, rounds=1, max_added=1, max_tokens=8)
    flow = Workflow("w", agents=agents, max_tasks=3, **parts, **options)
    return flow.add_edge("namer", "writer")


@pytest.mark.parametrize("roles", ["planner and reviewer", "specialists with a small budget"])
async def test_a_run_ends_honestly_and_replays_the_same(small_model: str, database: str, roles: str) -> None:
    options = {"budget": Budget(tokens=2000)} if "budget" in roles else {}
    flow = team(small_model, roles, **options)
    async with Orchestra(database) as orchestra:
        going = await orchestra.start(flow, "Which city should I see?", thread_id="t", record=True)
        outcome = await going
        info = await orchestra.info("t")
    plan, results = outcome.plan, outcome.results
    # A valid plan, and who made it; where the model made none, why.
    assert plan is not None
    assert plan.checked() == plan
    assert 1 <= len(plan.tasks) <= 3 + 1
    assert {task.agent for task in plan.tasks} <= {"namer", "writer"}
    if "planner" in roles:
        assert plan.made_by == smollm.MODEL or "made no plan" in plan.repairs[0]
        assert plan.usage.calls >= 1
    else:
        assert plan.made_by == "edges"
    if "reviewer" in roles:
        assert 1 <= len(plan.judgements) <= 2
        last = plan.judgements[-1]
        assert last.by == smollm.MODEL or last.missing[0].startswith("not reviewed: ")
    # Every task has an end; whoever failed is named with what went wrong, and so is what is missing.
    assert outcome.state in (RunState.DONE, RunState.FAILED)
    assert results.keys() == plan.by_id.keys()
    for task, result in results.items():
        assert result.ok == (result.output is not None)
        if result.status is Status.FAILED:
            assert result.error
            assert task in (outcome.answer or "")
        if result.ok and result.agent == "namer":
            assert isinstance(result.output, City)
        for attempt in result.attempts:
            assert attempt.outcome == "ok" or attempt.error
    used = sum((result.usage for result in results.values()), plan.usage)
    assert used.calls >= 2
    assert not used.estimated
    if "budget" in roles:
        assert used.tokens <= 2000
    # And the same again, without the model.
    forget_profiles()
    looked = LOOKED.copy()
    async with Orchestra(database) as orchestra:
        replayed = await orchestra.replay("t", workflow=flow)
        assert (await orchestra.info("t")).answer == info.answer
    assert replayed.same, replayed.different
    assert replayed.outcome.answer == outcome.answer
    assert replayed.calls >= 1
    assert looked == LOOKED
