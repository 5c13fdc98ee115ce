"""A budget that is used up: a person raises it, or the turn ends with what it has."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from langgraph.types import RetryPolicy

from orchestra import Agent, Assignment, Budget, Orchestra, Outcome, People, RequestError, RunState, Workflow
from tests.fakes import Fake
from tests.integration.test_timers import now

ASKING = People(budget=True)


@pytest.fixture
def fake() -> Iterator[Fake]:
    """An endpoint that says what this test wants."""
    with Fake() as endpoint:
        endpoint.when("one specialist of a team", "written", cost=0.25)
        yield endpoint


def chain(fake: Fake, names: str, **options: Any) -> Workflow:
    """Agents that need each other, each with one call of a model that nobody else has used."""
    model = ChatOpenAI(
        base_url=fake.url,
        api_key="sk-secret",
        model=f"m-{fake.url.rpartition(':')[2]}-{time.monotonic_ns()}",
        max_retries=0,
        timeout=20,
        http_client=openai.DefaultHttpxClient(verify=False),
        http_async_client=openai.DefaultAsyncHttpxClient(verify=False),
    )
    retry = RetryPolicy(initial_interval=0.001, max_interval=0.01)
    flow = Workflow(
        "w", agents=[Agent.from_model(n, model, "You write.", retry=retry, max_tokens=20) for n in names], **options
    )
    for one, other in itertools.pairwise(names):
        flow.add_edge(one, other)
    return flow


def more(**amounts: float) -> dict[str, Any]:
    return {"do": "raise", "output": amounts}


def done(outcome: Outcome) -> str:
    return "".join(sorted(name for name, result in outcome.results.items() if result.ok))


async def start(orchestra: Orchestra, flow: Workflow) -> Outcome:
    return await (await orchestra.start(flow, "Go.", thread_id="t"))


async def answer(orchestra: Orchestra, flow: Workflow, given: Any) -> Outcome:
    return await (await orchestra.answer("t", given, workflow=flow))


async def test_a_person_raises_it_until_it_is_enough(fake: Fake, database: str) -> None:
    flow = chain(fake, "abcd", budget=Budget(calls=1), people=ASKING)
    async with Orchestra(database) as orchestra:
        outcome = await start(orchestra, flow)
        (question,) = outcome.questions
        assert (question.kind, question.options, done(outcome)) == ("budget", ("raise", "stop"), "a")
        assert question.known["unfinished"] == ["b", "c", "d"]
        assert "the run's budget of 1 call" in question.text
        outcome = await answer(orchestra, flow, more(calls=2))
        assert (outcome.state, done(outcome), len(fake.requests)) == (RunState.WAITING, "abc", 3)
    async with Orchestra(database) as orchestra:
        outcome = await answer(orchestra, flow, more(calls=9))
        assert (outcome.state, done(outcome), len(fake.requests)) == (RunState.DONE, "abcd", 4)
        assert outcome.plan is not None
        assert outcome.plan.raised == {"calls": 11}
        assert "budget was hit" not in (outcome.answer or "")


@pytest.mark.parametrize("how", ["stop", "nobody answers"])
async def test_or_the_turn_ends_with_what_it_has(fake: Fake, database: str, how: str) -> None:
    people = People(budget=True, within=timedelta(hours=1))
    flow = chain(fake, "abc", budget=Budget(calls=1), people=people)
    async with Orchestra(database) as orchestra:
        await start(orchestra, flow)
        if how == "stop":
            outcome = await answer(orchestra, flow, "stop")
        else:
            (ticked,) = await orchestra.tick(workflow=flow, at=now() + timedelta(hours=2))
            assert ticked.outcome is not None
            outcome = ticked.outcome
    assert (outcome.state, done(outcome), len(fake.requests)) == (RunState.FAILED, "a", 1)
    assert "the run's budget of 1 call" in (outcome.answer or "")


async def test_a_small_amount_is_raised_once_for_each_answer(fake: Fake, database: str) -> None:
    flow = chain(fake, "abcdefg", budget=Budget(money=0.25), people=ASKING)
    async with Orchestra(database) as orchestra:
        await start(orchestra, flow)
        for count in (1, 2, 3, 4, 5):
            outcome = await answer(orchestra, flow, more(money=0.25))
            assert outcome.plan is not None
            assert (outcome.state, outcome.plan.raised) == (RunState.WAITING, {"money": 0.25 * count})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("raise", r'write {"do":"raise","output":{"calls":1}}'),
        (more(calls=-1), "output/calls: -1 is less than or equal to the minimum of 0"),
        (more(money=1), "output: Additional properties are not allowed"),
        (more(), "output: {} should be non-empty"),
        ("approve", "choose one of raise, stop"),
    ],
)
async def test_an_amount_that_makes_no_sense_is_refused(fake: Fake, database: str, wrong: Any, message: str) -> None:
    flow = chain(fake, "ab", budget=Budget(calls=1), people=ASKING)
    async with Orchestra(database) as orchestra:
        await start(orchestra, flow)
        with pytest.raises(RequestError) as refused:
            await answer(orchestra, flow, wrong)
        assert message in str(refused.value)
        assert done(await answer(orchestra, flow, more(calls=1))) == "ab"


async def test_the_budget_of_a_team_is_raised_from_the_top(fake: Fake, database: str) -> None:
    inner = chain(fake, "ab", budget=Budget(calls=1), people=ASKING)
    flow = chain(fake, "", people=ASKING, budget=Budget(calls=9)).add_agent(Agent("team", inner))
    async with Orchestra(database) as orchestra:
        outcome = await start(orchestra, flow)
        assert [(question.kind, question.path) for question in outcome.questions] == [("budget", ("team",))]
        outcome = await answer(orchestra, flow, more(calls=1))
    assert (outcome.state, len(fake.requests)) == (RunState.DONE, 2)


async def test_more_time_can_be_given(database: str) -> None:
    calls = list[str]()

    async def slow(task: Assignment) -> str:
        calls.append("slow")
        await asyncio.sleep(60 if len(calls) == 1 else 0)
        return "slow"

    flow = Workflow("w", agents=[Agent("slow", slow)], budget=Budget(seconds=0.3), people=ASKING)
    async with Orchestra(database) as orchestra:
        assert (await start(orchestra, flow)).state is RunState.WAITING
        outcome = await answer(orchestra, flow, more(seconds=60))
    assert (outcome.answer, len(calls)) == ("slow", 2)


async def test_a_budget_is_not_a_lack_of_able_agents(fake: Fake, database: str) -> None:
    flow = chain(fake, "ab", budget=Budget(calls=1), people=People(budget=True, unable=True))
    async with Orchestra(database) as orchestra:
        outcome = await start(orchestra, flow)
        assert [question.kind for question in outcome.questions] == ["budget"]
        assert done(await answer(orchestra, flow, more(calls=1))) == "ab"
