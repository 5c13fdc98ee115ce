"""Recorded runs, played back: the same run without a call, and where another one begins to differ."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from langgraph.types import RetryPolicy, interrupt

from orchestra import (
    Agent,
    Assignment,
    Budget,
    Delegate,
    ModelPlanner,
    ModelReviewer,
    Orchestra,
    Outcome,
    ReplayDiverged,
    Replayed,
    RequestError,
    RunState,
    Workflow,
    agent,
    ask_model,
)
from orchestra.cli import main
from orchestra.models.profiles import forget_profiles
from tests.fakes import Fake, Fault, ToolCall

QUICK = RetryPolicy(initial_interval=0.001, max_interval=0.01)
CLIENT = {"http_client": openai.DefaultHttpxClient(verify=False)}
PLANNING, REVIEWING = "You plan the work", "You check the work"


@pytest.fixture(autouse=True)
def strangers() -> None:
    """Every endpoint is a new one."""
    forget_profiles()


def chat(fake: Fake, **options: Any) -> ChatOpenAI:
    mine = {"http_async_client": openai.DefaultAsyncHttpxClient(verify=False)}
    defaults = {"base_url": fake.url, "api_key": "sk-secret", "model": "m", "max_retries": 0, "timeout": 20}
    return ChatOpenAI(**defaults | CLIENT | mine | options)


def writer(name: str, fake: Fake, instructions: str = "You write.", **options: Any) -> Agent:
    return Agent.from_model(name, chat(fake), instructions, **{"retry": QUICK} | options)


def chain(*agents: Agent, **options: Any) -> Workflow:
    flow = Workflow("w", agents=agents, **options)
    for one, other in itertools.pairwise(agents):
        flow.add_edge(one.name, other.name)
    return flow


async def start(database: str, flow: Workflow, request: str = "Go.", *, record: bool = True, **options: Any) -> Outcome:
    async with Orchestra(database) as orchestra:
        return await (await orchestra.start(flow, request, thread_id="t", record=record, **options))


async def replay(database: str, flow: Workflow | None = None) -> Replayed:
    async with Orchestra(database) as orchestra:
        return await orchestra.replay("t", workflow=flow)


async def replays_the_same(fake: Fake, database: str, flow: Workflow, then: Outcome) -> Replayed:
    """Play it back with an endpoint of whom nothing is known, as a new process would."""
    asked = len(fake.requests)
    forget_profiles()
    replayed = await replay(database, flow)
    assert len(fake.requests) == asked, "a call was made"
    assert replayed.same, replayed.different
    now = replayed.outcome
    assert (now.state, now.answer) == (then.state, then.answer)
    assert plan_of(now) == plan_of(then)
    assert attempts_of(now) == attempts_of(then)
    return replayed


def plan_of(outcome: Outcome) -> Any:
    assert outcome.plan is not None
    return outcome.plan.model_dump(exclude={"usage"})


def attempts_of(outcome: Outcome) -> Any:
    found = {task: result.attempts for task, result in outcome.results.items()}
    return {task: [(each.agent, each.outcome, each.notes) for each in those] for task, those in found.items()}


async def test_retries_repairs_and_fallbacks(fake: Fake, database: str) -> None:
    fake.when("You are one, one", [Fault.rate_limit(), Fault.drop("half of it", after=1), "first"])
    fake.when("You are two, one", ["nonsense", {"answer": 7}])
    fake.when("You are three, one", Fault.refuse("I won't."))
    fake.when("You are spare, one", "third")
    flow = chain(writer("one", fake), writer("two", fake, output=int), writer("three", fake))
    flow.add_agent(writer("spare", fake), backup_for="three")
    outcome = await start(database, flow)
    assert outcome.answer == "third"
    replayed = await replays_the_same(fake, database, flow, outcome)
    assert replayed.calls == len(fake.requests)


async def test_a_timeout(fake: Fake, database: str) -> None:
    fake.when("You are one, one", [Fault.stall(5), "in time"])
    flow = chain(writer("one", fake, timeout=0.5))
    outcome = await start(database, flow)
    assert [each.outcome for each in outcome.results["one"].attempts] == ["timeout", "ok"]
    await replays_the_same(fake, database, flow, outcome)


async def test_what_calls_used_that_failed_is_played_back(fake: Fake, database: str) -> None:
    fake.when("You are one, one", [Fault.server_error(), "done"])
    flow = chain(writer("one", fake))
    outcome = await start(database, flow)
    replayed = await replay(database, flow)
    assert replayed.outcome.results["one"].usage == outcome.results["one"].usage


@pytest.mark.parametrize("native", [True, False], ids=["native", "by choice"])
async def test_tools_are_not_called_again(fake: Fake, database: str, native: bool) -> None:
    calls = Counter[str]()

    def look(query: str) -> str:
        """Look it up."""
        calls[query] += 1
        if query == "bad":
            raise ValueError("no network")
        return f"found {calls.total()}"

    fake.ignores = set() if native else {"tools"}
    fake.when("Call the tool ping.", ToolCall("ping"))
    wants: list[Any] = [ToolCall("look", {"query": each}) for each in ("bad", "good")]
    if not native:
        wants = [{"reply": {"tool": each.name, "arguments": each.arguments}} for each in wants]
    fake.when("one specialist of a team", [*wants, "done" if native else {"reply": {"answer": "done"}}])
    flow = chain(writer("one", fake, tools=[look]))
    outcome = await start(database, flow)
    assert calls == {"bad": 1, "good": 1}
    asked = len(fake.requests)
    forget_profiles()
    replayed = await replay(database, flow)
    assert (len(fake.requests), calls.total()) == (asked, 2)
    assert replayed.same
    assert replayed.outcome.answer == outcome.answer == "done"
    assert replayed.calls == 3


@pytest.mark.parametrize("beside", ["nothing", "work handed on"])
async def test_agents_with_side_effects_are_not_called_again(fake: Fake, database: str, beside: str) -> None:
    calls = Counter[str]()

    @agent(side_effects=True)
    async def pays(task: Assignment) -> Any:
        calls["pays"] += 1
        if beside == "work handed on":
            return "paid", Delegate("Look.", capability="looking")
        return "paid"

    @agent(capabilities=["looking"])
    async def looks(task: Assignment) -> str:
        calls["looks"] += 1
        return "looked"

    fake.when("You are tells, one", "told")
    flow = chain(pays, writer("tells", fake)).add_agent(looks, backup_for="tells")
    outcome = await start(database, flow)
    assert outcome.answer == "told"
    before = calls.copy()
    await replays_the_same(fake, database, flow, outcome)
    assert calls["pays"] == before["pays"] == 1


async def test_teams_with_a_planner_and_a_reviewer(fake: Fake, database: str) -> None:
    tasks = [
        {"id": "write", "instruction": "Write.", "agent": "crew", "needs": []},
        {"id": "end", "instruction": "End.", "agent": "last", "needs": ["write"]},
    ]
    more = {"id": "more", "instruction": "More.", "agent": "last", "needs": ["end"]}
    fake.when(PLANNING, ["no plan", Fault.server_error(), {"tasks": tasks}])
    judged = {"answered": False, "missing": ["more"], "contradictions": [], "plan": {"tasks": [more]}}
    fine = {"answered": True, "missing": [], "contradictions": [], "plan": None}
    fake.when(REVIEWING, [judged, Fault.rate_limit(), fine])
    for name in ("a", "b", "last"):
        fake.when(f"You are {name}, one", [f"{name}1", f"{name}2"])
    crew = Agent("crew", Workflow("inner", agents=[writer("a", fake), writer("b", fake)]).add_edge("a", "b"))
    roles: Any = {"planner": ModelPlanner(chat(fake)), "reviewer": ModelReviewer(chat(fake))}
    flow = Workflow("w", agents=[crew, writer("last", fake)], **roles)
    outcome = await start(database, flow)
    assert outcome.state is RunState.DONE
    assert outcome.answer == "last2"
    replayed = await replays_the_same(fake, database, flow, outcome)
    assert replayed.calls == len(fake.requests)


async def test_a_run_that_hit_its_budget(fake: Fake, database: str) -> None:
    fake.when("one specialist of a team", "written")
    flow = chain(writer("one", fake), writer("two", fake), budget=Budget(calls=1))
    outcome = await start(database, flow)
    assert "A budget was hit" in (outcome.answer or "")
    await replays_the_same(fake, database, flow, outcome)


async def test_a_run_in_which_a_person_was_asked(fake: Fake, database: str) -> None:
    @agent
    async def asks(task: Assignment) -> str:
        said = await ask_model(chat(fake), "What to ask?")
        return f"{interrupt(said)} said it"

    fake.when("What to ask?", "Who?")
    fake.when("You are last, one", "done")
    flow = chain(asks, writer("last", fake))
    outcome = await start(database, flow)
    (question,) = outcome.questions
    assert (await replay(database, flow)).outcome.state is RunState.WAITING
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.resume("t", workflow=flow, answers={question.id: "Ada"}))
    assert outcome.answer == "done"
    replayed = await replay(database, flow)  # as far as the question: answers are not recorded
    assert replayed.same
    assert replayed.outcome.state is RunState.WAITING


async def stopped(fake: Fake, database: str, how: str) -> Workflow:
    """Stop a recorded run while the second of three agents is at work."""
    fake.when("You are one, one", "first")
    slow = Fault.delay(0.4 if how == "drain" else 20, "second")
    fake.when("You are two, one", [slow, "second"])
    fake.when("You are three, one", "third")
    flow = chain(writer("one", fake), writer("two", fake), writer("three", fake))
    async with Orchestra(database) as orchestra:
        going = await orchestra.start(flow, "Go.", thread_id="t", record=True)
        while len(fake.requests) < 2:
            await asyncio.sleep(0.005)
        if how == "drain":
            going.drain()
            assert (await going).state is RunState.STOPPED
        else:
            await going.cancel()
    return flow


@pytest.mark.parametrize("how", ["drain", "cancel"])
async def test_a_run_that_was_stopped_is_played_back_as_far_as_it_came(fake: Fake, database: str, how: str) -> None:
    flow = await stopped(fake, database, how)
    replayed = await replay(database, flow)
    assert replayed.outcome.results["one"].output == "first"
    assert "one" not in replayed.different
    assert len(fake.requests) == 2


@pytest.mark.parametrize("how", ["drain", "cancel"])
async def test_a_run_that_was_stopped_and_resumed(fake: Fake, database: str, how: str) -> None:
    flow = await stopped(fake, database, how)
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.resume("t", workflow=flow))
    assert outcome.answer == "third"
    assert (await replays_the_same(fake, database, flow, outcome)).calls == 3


async def test_the_second_turn_of_a_thread(fake: Fake, database: str) -> None:
    fake.when("And Spain?", "Madrid")
    fake.when("France?", "Paris")
    flow = chain(writer("one", fake))
    await start(database, flow, "France?")
    outcome = await start(database, flow, "And Spain?")
    assert outcome.answer == "Madrid"
    assert "Paris" in fake.requests[-1].texts[-1]
    replayed = await replays_the_same(fake, database, flow, outcome)
    assert replayed.calls == 1
    async with Orchestra(database) as orchestra:
        assert (await orchestra.info("t")).turn == 2, "the thread itself is as it was"


# Where it differs


async def test_the_first_call_that_differs_is_named(fake: Fake, database: str) -> None:
    fake.when("one specialist of a team", "written")

    def flow(how: str) -> Workflow:
        return chain(writer("one", fake), writer("two", fake, f"You write {how}."), writer("three", fake))

    await start(database, flow("briefly"))
    asked = len(fake.requests)
    with pytest.raises(ReplayDiverged) as caught:
        await replay(database, flow("at length"))
    assert len(fake.requests) == asked
    said = str(caught.value)
    assert "two/two/1, step 2 (model)" in said
    assert "messages[0].content was " in said
    assert "briefly" in said
    assert "at length" in said
    assert "one/one" not in said
    assert "three" not in said


async def test_a_call_that_was_not_made_then_is_named(fake: Fake, database: str) -> None:
    fake.when("q", "a")

    def flow(count: int) -> Workflow:
        async def run(task: Assignment) -> str:
            return " ".join([await ask_model(chat(fake), f"q{i}") for i in range(count)])

        return chain(Agent("asker", run, retry=RetryPolicy(max_attempts=3, retry_on=Exception)))

    await start(database, flow(1))
    with pytest.raises(ReplayDiverged, match=r"asker/asker/1, step 3 \(profile\) was not recorded"):
        await replay(database, flow(2))
    assert len(fake.requests) == 1


async def test_other_code_with_the_same_calls_has_other_results(fake: Fake, database: str) -> None:
    fake.when("q", "a")

    def flow(says: str) -> Workflow:
        async def run(task: Assignment) -> str:
            return says + await ask_model(chat(fake), "q")

        return chain(Agent("asker", run))

    await start(database, flow("now "))
    replayed = await replay(database, flow("then "))
    assert (replayed.same, replayed.different, replayed.calls) == (False, ("asker",), 1)


@pytest.mark.parametrize("how", ["ainvoke", "invoke"])
async def test_an_agent_that_calls_its_model_by_itself_makes_no_call(fake: Fake, database: str, how: str) -> None:
    async def run(task: Assignment) -> str:
        return (await chat(fake).ainvoke("q")).text

    def run_in_thread(task: Assignment) -> str:
        return chat(fake).invoke("q").text

    fake.when("q", "a")
    fake.when("one specialist of a team", "written")
    direct = Agent("direct", run if how == "ainvoke" else run_in_thread, retry=QUICK)
    flow = chain(writer("one", fake), direct)
    assert (await start(database, flow)).answer == "a"
    replayed = await replay(database, flow)
    assert len(fake.requests) == 2
    assert replayed.different == ("direct",)
    assert "ask_model" in (replayed.outcome.results["direct"].error or "")


async def test_what_was_not_recorded_can_not_be_replayed(fake: Fake, database: str) -> None:
    fake.when("one specialist of a team", "written")
    flow = chain(writer("one", fake))
    await start(database, flow, record=False)
    with pytest.raises(RequestError, match="was not recorded"):
        await replay(database, flow)
    await start(database, flow)
    assert (await replay(database, flow)).same
    await start(database, flow, record=False)
    with pytest.raises(RequestError, match="was not recorded"):
        await replay(database, flow)


# The command line

PROGRAM = """
from langchain_openai import ChatOpenAI
from orchestra import Agent, Workflow, agent, Assignment
model = ChatOpenAI(base_url="{url}", api_key="sk-secret", model="m", max_retries=0)

@agent
async def counts(task: Assignment) -> str:
    print("to standard output")
    return "{says}"

flow = Workflow("cli", agents=[Agent.from_model("one", model, "{instructions}"), counts]).add_edge("one", "counts")
"""


def test_the_command_line(fake: Fake, database: str, tmp_path: Path, capsys: Any) -> None:
    fake.when("one specialist of a team", "written")

    def run(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--db", database])
        return code, *capsys.readouterr()

    def program(name: str, says: str = "same", instructions: str = "You write.") -> str:
        file = tmp_path / f"{name}.py"
        file.write_text(PROGRAM.format(url=fake.url, says=says, instructions=instructions))
        return f"{file}:flow"

    flow = program("first")
    code, _, told = run("run", flow, "Go.", "--thread", "plain")
    assert code == 0, told
    code, _, told = run("runs", "replay", "plain")
    assert code == 2
    assert "--record" in told
    assert (run("run", flow, "Go.", "--thread", "t", "--record"))[0] == 0
    asked = len(fake.requests)
    code, out, _ = run("runs", "replay", "t")
    assert code == 0
    assert "1 call of models answered from the recording, none made. The same run." in " ".join(out.split())
    code, out, _ = run("runs", "replay", "t", "--json", "--graph", program("second", says="other"))
    assert code == 1
    assert json.loads(out) == {"thread": "t", "calls": 1, "different": ["counts"]}
    code, _, told = run("runs", "replay", "t", "--graph", program("third", instructions="You sing."))
    assert code != 0
    assert "one/one/1, step 2" in told
    assert "Traceback" not in told
    assert len(fake.requests) == asked
