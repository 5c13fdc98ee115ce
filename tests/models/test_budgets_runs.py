"""Budgets and rate limits through whole runs: nothing overshoots, nothing is forgotten, the answer says why."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import openai
import pytest
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from langgraph.types import RetryPolicy

from orchestra import (
    Agent,
    Assignment,
    Budget,
    ModelPlanner,
    ModelReviewer,
    ModelTerms,
    Orchestra,
    Outcome,
    RunState,
    Status,
    Usage,
    Workflow,
    WorkflowError,
    agent,
    ask_model,
)
from orchestra.models.profiles import forget_profiles
from tests.fakes import Fake, Fault, Request, ToolCall

QUICK = RetryPolicy(initial_interval=0.001, max_interval=0.01)
CLIENT = {"http_client": openai.DefaultHttpxClient(verify=False)}
PLANNING, REVIEWING = "You plan the work", "You check the work"
PER_TOKEN = ModelTerms(input_price=1_000_000, output_price=1_000_000)  # a token costs 1


@pytest.fixture(autouse=True)
def strangers() -> None:
    """Every endpoint is a new one."""
    forget_profiles()


def chat(fake: Fake, **options: Any) -> ChatOpenAI:
    """A client; its model has a name that no other test has, because what a model bills is remembered."""
    mine = {"http_async_client": openai.DefaultAsyncHttpxClient(verify=False)}
    name = f"m-{fake.url.rpartition(':')[2]}-{time.monotonic_ns()}"
    defaults = {"base_url": fake.url, "api_key": "sk-secret", "model": name, "max_retries": 0, "timeout": 20}
    return ChatOpenAI(**defaults | CLIENT | mine | options)


def writer(name: str, model: ChatOpenAI, **options: Any) -> Agent:
    return Agent.from_model(name, model, "You write.", **{"retry": QUICK, "max_tokens": 20} | options)


def writers(model: ChatOpenAI, count: int, **options: Any) -> list[Agent]:
    return [writer(f"w{i}", model, **options) for i in range(count)]


def chain(*agents: Agent, **options: Any) -> Workflow:
    flow = Workflow("w", agents=agents, **options)
    for one, other in itertools.pairwise(agents):
        flow.add_edge(one.name, other.name)
    return flow


async def start(database: str, flow: Workflow, **options: Any) -> Outcome:
    async with Orchestra(database) as orchestra:
        return await asyncio.wait_for(await orchestra.start(flow, "Go.", **{"thread_id": "t"} | options), 30)


async def resume(database: str, flow: Workflow) -> Outcome:
    async with Orchestra(database) as orchestra:
        return await (await orchestra.resume("t", workflow=flow))


def billed(request: Request, words: int) -> int:
    """What the endpoint says that a request took, by the fake's own rule."""
    return words + sum(4 + len(text.split()) for text in request.texts)


def at_most(request: Request, output: int) -> int:
    """What a request may take for all that a client can know: tokens are bytes at most, and each message is wrapped."""
    return output + sum(16 + len(text.encode()) for text in request.texts)


def done(outcome: Outcome) -> set[str]:
    return {task for task, result in outcome.results.items() if result.ok}


def calls(outcome: Outcome) -> int:
    return sum(result.usage.calls for result in outcome.results.values())


def asking(model: ChatOpenAI, *questions: str, **options: Any) -> Agent:
    async def run(task: Assignment) -> str:
        return " ".join([await ask_model(model, question, max_tokens=20) for question in questions])

    return Agent("asker", run, **options)


# A run's


@pytest.mark.parametrize(("unit", "limit"), [("tokens", 600), ("money", 600.0), ("calls", 5)])
async def test_parallel_children_never_overshoot_and_use_what_there_is(
    fake: Fake, database: str, unit: str, limit: float
) -> None:
    fake.when("one specialist of a team", "one two three four five")
    fake.latency(per_token=(0.002, 0.5))
    model = chat(fake)
    flow = Workflow(
        "w", agents=writers(model, 16), budget=Budget(**{unit: limit}), models={model.model_name: PER_TOKEN}
    )
    outcome = await start(database, flow)
    took = sum(billed(each, 5) for each in fake.requests)
    assert 1 < len(fake.requests) < 16
    assert len(done(outcome)) == len(fake.requests) == calls(outcome)
    assert sum(result.usage.tokens for result in outcome.results.values()) == took
    assert sum(result.usage.money for result in outcome.results.values()) == pytest.approx(took)
    if unit == "calls":
        assert len(fake.requests) == limit
    else:
        assert took <= limit < took + max(at_most(each, 20) for each in fake.requests), "refused without need"
    assert outcome.state is RunState.FAILED
    assert "one two three four five" in (outcome.answer or "")
    _, _, hit = (outcome.answer or "").partition("A budget was hit:\n- ")
    assert hit.startswith(f"the run's budget of {limit:,.0f} {'in ' * (unit == 'money')}{unit}")
    for result in outcome.results.values():
        assert result.ok or (result.status is Status.FAILED and "the run's budget of" in (result.error or ""))


async def test_agents_without_a_limit_of_output_share_a_budget_that_is_large_enough(fake: Fake, database: str) -> None:
    fake.when("one specialist of a team", "one two")
    flow = Workflow("w", agents=writers(chat(fake), 4, max_tokens=None), budget=Budget(tokens=3000))
    outcome = await start(database, flow)
    assert done(outcome) == {"w0", "w1", "w2", "w3"}, outcome.answer
    assert sum(billed(each, 2) for each in fake.requests) < 1000


async def test_planning_and_reviewing_count_and_are_refused_honestly(fake: Fake, database: str) -> None:
    model = chat(fake)
    fake.when(PLANNING, {"tasks": [{"id": "one", "instruction": "Do.", "agent": "w0", "needs": []}]})
    fake.when("one specialist of a team", "written")
    roles = {"planner": ModelPlanner(model), "reviewer": ModelReviewer(model)}
    flow = Workflow("w", agents=writers(model, 1), budget=Budget(calls=2), **roles)
    outcome = await start(database, flow)
    assert len(fake.requests) == 2
    assert "written" in (outcome.answer or "")
    assert "not reviewed" in (outcome.answer or "")
    assert "the run's budget of 2 calls is used up" in (outcome.answer or "")
    assert getattr(outcome.plan, "usage", Usage()).calls == 1


async def test_time_ends_a_turn_with_what_it_has(fake: Fake, database: str) -> None:
    fake.when("You are fast, one", "quickly")
    fake.when("one specialist of a team", Fault.delay(5, "slowly"))
    model = chat(fake)
    began = time.monotonic()
    flow = chain(writer("slow", model), writer("after", model), budget=Budget(seconds=0.7))
    outcome = await start(database, flow.add_agent(writer("fast", model)))
    assert time.monotonic() - began < 3
    assert done(outcome) == {"fast"}
    assert "quickly" in (outcome.answer or "")
    assert "the run's budget of 0.7 seconds is used up" in (outcome.answer or "")
    assert outcome.results["after"].status is Status.SKIPPED


def test_seconds_that_would_not_be_kept_are_refused(fake: Fake) -> None:
    """Only a run has a budget of time: whoever gives one to an agent or a user must not believe that it holds."""
    with pytest.raises(WorkflowError, match="seconds"):
        Workflow("w", agents=[writer("a", chat(fake), budget=Budget(seconds=1))]).compile()
    with pytest.raises(WorkflowError, match="seconds"):
        Workflow("w", agents=[writer("a", chat(fake))], user_budget=Budget(seconds=1)).compile()


# Money without a table of prices


async def test_an_endpoints_own_bill_counts(fake: Fake, database: str) -> None:
    fake.when("one specialist of a team", "one two", cost=0.25)
    outcome = await start(database, Workflow("w", agents=writers(chat(fake), 16), budget=Budget(money=4)))
    cost = 0.25 * len(fake.requests)
    assert 1 < len(fake.requests) < 16
    assert cost <= 4
    assert sum(result.usage.money for result in outcome.results.values()) == pytest.approx(cost)
    assert "the run's budget of 4 in money" in (outcome.answer or "")


@pytest.mark.parametrize("reports", [True, False], ids=["tokens without a cost", "nothing at all"])
async def test_what_nobody_can_price_is_refused(fake: Fake, database: str, reports: bool) -> None:
    fake.when("one specialist of a team", "one two", usage=reports)
    model = chat(fake)
    outcome = await start(database, chain(*writers(model, 4), budget=Budget(money=1)))
    assert len(fake.requests) == 1, "one call tells that nothing is billed"
    assert done(outcome) == {"w0"}
    assert f"no price for the model '{model.model_name}'" in (outcome.answer or "")
    assert "ModelTerms(input_price=" in (outcome.answer or "")


# An agent's, and a team's


async def test_an_agents_budget_is_its_own_and_over_all_its_tasks(fake: Fake, database: str) -> None:
    tasks = [{"id": f"t{i}", "instruction": f"Do {i}.", "agent": "w0", "needs": []} for i in range(3)]
    other = {"id": "other", "instruction": "Do.", "agent": "w1", "needs": []}
    fake.when(PLANNING, {"tasks": [*tasks, other]})
    fake.when("one specialist of a team", "written")
    model = chat(fake)
    agents = [writer("w0", model, budget=Budget(calls=2)), writer("w1", model)]
    outcome = await start(database, Workflow("w", agents=agents, planner=ModelPlanner(model)))
    assert len(done(outcome)) == 3
    assert "other" in done(outcome)
    assert "agent w0's budget of 2 calls is used up" in (outcome.answer or "")


@pytest.mark.parametrize("whose", ["run", "team", "agent"])
async def test_what_a_team_uses_counts_for_whoever_is_around_it(fake: Fake, database: str, whose: str) -> None:
    fake.when("one specialist of a team", "written")
    limit, model = Budget(calls=2), chat(fake)
    inner = Workflow("inner", agents=writers(model, 2), budget=limit if whose == "team" else None).add_edge("w0", "w1")
    deep = Workflow("middle", agents=[Agent("deep", inner), writer("m", model)]).add_edge("deep", "m")
    crew = Agent("crew", deep, budget=limit if whose == "agent" else None)
    outcome = await start(database, Workflow("w", agents=[crew], budget=limit if whose == "run" else None))
    assert len(fake.requests) == (3 if whose == "team" else 2)
    assert calls(outcome) == len(fake.requests)
    assert ("A budget was hit" in (outcome.answer or "")) == (whose != "team")


async def test_a_team_that_is_cut_off_by_its_timeout_is_counted(fake: Fake, database: str) -> None:
    fake.when("You are w0, one", "written")
    fake.when("You are w1, one", Fault.delay(5))
    crew = Agent("crew", chain(*writers(chat(fake), 2)), timeout=0.7)
    outcome = await start(database, Workflow("w", agents=[crew]))
    assert outcome.results["crew"].attempts[0].outcome == "timeout"
    assert calls(outcome) == len(fake.requests) == 2


# What was used survives


@pytest.mark.parametrize("team", [False, True], ids=["flat", "in a team"])
async def test_a_drained_run_goes_on_with_what_is_left(fake: Fake, database: str, team: bool) -> None:
    fake.when("You are w1, one", Fault.delay(0.3, "written"))
    fake.when("one specialist of a team", "written")
    agents, limit = writers(chat(fake), 4), Budget(calls=3)
    flow = Workflow("o", agents=[Agent("crew", chain(*agents))], budget=limit) if team else chain(*agents, budget=limit)
    async with Orchestra(database) as orchestra:
        going = await orchestra.start(flow, "Go.", thread_id="t")
        while len(fake.requests) < 2:
            await asyncio.sleep(0.005)
        going.drain()
        assert (await going).state is RunState.STOPPED
    outcome = await resume(database, flow)
    assert len(fake.requests) == calls(outcome) == 3
    assert "the run's budget of 3 calls is used up" in (outcome.answer or "")


@pytest.mark.parametrize("whose", ["run", "agent", "user"])
async def test_what_a_cut_off_attempt_used_counts(fake: Fake, database: str, whose: str) -> None:
    """The process is gone amid an attempt that has used eight calls of nine, and waits for the ninth."""
    fake.when("never", Fault.delay(20))
    fake.when("quick", "1")
    model, limit = chat(fake), Budget(calls=9)

    def flow(*questions: str) -> Workflow:
        asker = asking(model, *questions, budget=limit if whose == "agent" else None)
        own: dict[str, Any] = {"run": {"budget": limit}, "user": {"user_budget": limit}}.get(whose, {})
        return Workflow("w", agents=[asker], **own)

    async with Orchestra(database) as orchestra:
        going = await orchestra.start(flow(*["quick"] * 8, "never"), "Go.", thread_id="t", user="ada")
        while len(fake.requests) < 9:
            await asyncio.sleep(0.005)
        await going.cancel()
    outcome = await resume(database, flow("quick", "quick"))
    crashed, last = outcome.results["asker"].attempts
    assert (crashed.outcome, last.outcome) == ("crashed", "error")
    assert 8 <= crashed.usage.calls <= 9
    assert len(fake.requests) <= 10
    assert "budget of 9 calls is used up" in (outcome.answer or "")


# A user's


async def test_a_users_budget_holds_over_threads_handles_and_workflows(fake: Fake, database: str) -> None:
    fake.when("one specialist of a team", "written")
    model = chat(fake)
    flow = Workflow("w", agents=writers(model, 2), user_budget=Budget(calls=5))
    async with Orchestra(database) as orchestra:
        for thread in ("one", "two"):
            outcome = await (await orchestra.start(flow, "Go.", thread_id=thread, user="ada"))
            assert outcome.state is RunState.DONE
    third = await start(database, flow, thread_id="three", user="ada")
    assert len(done(third)) == 1
    assert "user ada's budget of 5 calls is used up" in (third.answer or "")
    assert (await start(database, flow, thread_id="four", user="bob")).state is RunState.DONE


async def test_a_team_counts_once_for_its_user(fake: Fake, database: str) -> None:
    fake.when("one specialist of a team", "written")
    crew = Agent("crew", chain(*writers(chat(fake), 2)))
    flow = Workflow("w", agents=[crew], user_budget=Budget(calls=6))
    for thread in ("one", "two", "three"):
        outcome = await start(database, flow, thread_id=thread, user="ada")
        assert outcome.state is RunState.DONE, outcome.answer
    assert len(fake.requests) == 6
    assert not done(await start(database, flow, thread_id="four", user="ada"))


async def test_a_run_that_is_never_resumed_counts_for_its_user(fake: Fake, database: str) -> None:
    fake.when("never", Fault.delay(20))
    fake.when("first", "1")
    model, options = chat(fake), {"user_budget": Budget(calls=2)}
    async with Orchestra(database) as orchestra:
        flow = Workflow("w", agents=[asking(model, "first", "never")], **options)
        going = await orchestra.start(flow, "Go.", thread_id="one", user="ada")
        while len(fake.requests) < 2:
            await asyncio.sleep(0.005)
        await going.cancel()
    flow = Workflow("w", agents=[asking(model, "first", "first")], **options)
    outcome = await start(database, flow, thread_id="two", user="ada")
    assert not outcome.results["asker"].ok
    assert "user ada's budget of 2 calls" in (outcome.answer or "")


async def test_a_users_budget_is_that_of_the_workflow_that_runs(fake: Fake, database: str) -> None:
    fake.when("one specialist of a team", "written")
    model = chat(fake)
    async with Orchestra(database) as orchestra:
        for limit, state in ((10, RunState.DONE), (2, RunState.FAILED), (10, RunState.DONE)):
            flow = chain(*writers(model, 2), user_budget=Budget(calls=limit))
            outcome = await (await orchestra.start(flow, "Go.", user="ada"))
            assert outcome.state is state, (limit, outcome.answer)


# Calls that an agent's own code makes


def direct(how: str, model: ChatOpenAI, count: int) -> Agent:
    async def run(task: Assignment) -> str:
        return " ".join([(await model.ainvoke(f"direct {i}")).text for i in range(count)])

    def run_in_thread(task: Assignment) -> str:
        return " ".join([model.invoke(f"direct {i}").text for i in range(count)])

    async def stream(task: Assignment) -> str:
        return " ".join(["".join([c.text async for c in model.astream(f"direct {i}")]) for i in range(count)])

    async def nested(_: Any) -> str:
        return await run(_)

    ways: dict[str, Any] = {"ainvoke": run, "invoke": run_in_thread, "astream": stream}
    ways["runnable"] = RunnableLambda(nested)
    return Agent("direct", ways[how], retry=QUICK)


@pytest.mark.parametrize("how", ["ainvoke", "invoke", "astream", "runnable"])
class TestDirectCalls:
    async def test_are_counted(self, fake: Fake, database: str, how: str) -> None:
        fake.when("direct", "one two")
        model = chat(fake, stream_usage=True)
        outcome = await start(database, Workflow("w", agents=[direct(how, model, 2)], budget=Budget(tokens=9000)))
        assert outcome.results["direct"].output == "one two one two"
        usage = outcome.results["direct"].usage
        assert (usage.calls, usage.tokens) == (2, sum(billed(each, 2) for each in fake.requests))

    async def test_are_refused(self, fake: Fake, database: str, how: str) -> None:
        fake.when("direct", "one two")
        outcome = await start(database, Workflow("w", agents=[direct(how, chat(fake), 3)], budget=Budget(calls=2)))
        assert len(fake.requests) <= 2
        assert not outcome.results["direct"].ok
        assert "the run's budget of 2 calls is used up" in (outcome.answer or "")

    async def test_leave_nothing_reserved_when_they_fail(self, fake: Fake, database: str, how: str) -> None:
        fake.when("direct", [Fault.server_error(), "one two"])
        fake.when("You are w0, one", "written")
        model = chat(fake, max_tokens=20)
        flow = chain(direct(how, model, 1), writer("w0", model), budget=Budget(tokens=1500, calls=3))
        outcome = await start(database, flow)
        assert done(outcome) == {"direct", "w0"}
        assert [each.usage.calls for each in outcome.results["direct"].attempts] == [1, 1]


async def test_a_stream_that_is_left_in_its_midst_gives_back_what_it_reserved(fake: Fake, database: str) -> None:
    fake.when("direct", "word " * 50)
    fake.when("You are w0, one", "written")
    model = chat(fake, max_tokens=100)

    async def leaves(task: Assignment) -> str:
        async for chunk in model.astream("direct"):
            if chunk.text:
                return "enough"
        return "nothing"

    flow = chain(Agent("leaves", leaves), writer("w0", model), budget=Budget(tokens=1500))
    outcome = await start(database, flow)
    assert done(outcome) == {"leaves", "w0"}


async def test_finding_out_what_an_endpoint_can_do_counts_once(fake: Fake, database: str) -> None:
    def look(query: str) -> str:
        """Look it up."""
        return "found"

    @agent
    async def asker(task: Assignment) -> str:
        first = await ask_model(model, "first", max_tokens=20)
        return first + await ask_model(model, "second", tools=[look], max_tokens=20)

    fake.when("Call the tool ping.", ToolCall("ping"))
    fake.when("first", "1")
    fake.when("second", "2")
    model = chat(fake)
    outcome = await start(database, Workflow("w", agents=[asker]))
    assert calls(outcome) == len(fake.requests) == 3


# Rates


@pytest.mark.parametrize("how", ["through Orchestra", "direct"])
async def test_an_endpoint_that_asks_for_a_pause_gets_it_from_everybody(fake: Fake, database: str, how: str) -> None:
    fake.when("You are w0, one", [Fault.rate_limit(retry_after=1), "written"])
    fake.when("You are w1, one", "written")
    fake.when("direct", "written")
    model = chat(fake)
    second = writer("w1", model) if how == "through Orchestra" else direct("ainvoke", model, 1)

    @agent
    async def clock(task: Assignment) -> str:
        while not fake.requests:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.2)
        return "now"

    flow = Workflow("w", agents=[writer("w0", model), clock, second]).add_edge("clock", second.name)
    outcome = await start(database, flow)
    assert outcome.state is RunState.DONE
    first, *others = fake.requests
    assert len(others) == 2
    assert all(each.at - first.at >= 0.95 for each in others), [each.at - first.at for each in others]
    assert [each.outcome for each in outcome.results["w0"].attempts] == ["error", "ok"]
