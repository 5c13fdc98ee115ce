"""What models say while they say it: as events, as LangGraph's messages, and in the terminal's progress."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import openai
import pytest
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from langgraph.types import RetryPolicy

from orchestra import Agent, Assignment, ModelPlanner, ModelReviewer, Orchestra, RunState, Workflow, agent, ask_model
from orchestra.events import Event, PlanReady, TaskEnded, TaskStarted, TokensArrived
from orchestra.models.profiles import forget_profiles
from orchestra.show.progress import Progress
from tests.fakes import Fake, Fault, ToolCall

QUICK = RetryPolicy(initial_interval=0.001, max_interval=0.01)
CLIENT = {"http_client": openai.DefaultHttpxClient(verify=False)}


@pytest.fixture(autouse=True)
def strangers(fake: Fake) -> None:
    """Every endpoint is a new one, and takes its time."""
    forget_profiles()
    fake.latency(per_token=(0.03, 0))


def chat(fake: Fake, **options: Any) -> ChatOpenAI:
    mine = {"http_async_client": openai.DefaultAsyncHttpxClient(verify=False)}
    defaults = {"base_url": fake.url, "api_key": "sk-secret", "model": "m", "max_retries": 0, "timeout": 20}
    return ChatOpenAI(**defaults | CLIENT | mine | options)


def writer(name: str, fake: Fake, **options: Any) -> Agent:
    fake.when(f"You are {name}, one", f"{name} says one two three four\nfive {name}")
    return Agent.from_model(name, chat(fake), "You write.", retry=QUICK, **options)


def said(name: str) -> str:
    return f"{name} says one two three four\nfive {name}"


def told(events: Iterable[Event]) -> dict[tuple[tuple[str, ...], str, str], list[str]]:
    found: dict[tuple[tuple[str, ...], str, str], list[str]] = defaultdict(list)
    for event in events:
        if isinstance(event, TokensArrived):
            found[event.path, event.task, event.agent].append(event.text)
    return found


async def test_tokens_are_labelled_by_task_and_agent_and_come_while_the_agents_work(fake: Fake, database: str) -> None:
    crew = Agent("crew", Workflow("inner", agents=[writer("deep", fake)]))
    flow = Workflow("w", agents=[writer("a", fake), writer("b", fake), crew])
    async with Orchestra(database) as orchestra:
        going = await orchestra.start(flow, "Go.")
        await going
    texts = told(going.seen)
    assert texts.keys() == {((), "a", "a"), ((), "b", "b"), (("crew",), "deep", "deep")}
    for (_, name, _), pieces in texts.items():
        assert "".join(pieces) == said(name)
        assert len(pieces) > 2, "it came in pieces"
    order = [(type(each).__name__, getattr(each, "task", "")) for each in going.seen]
    for name in ("a", "b"):
        mine = [kind for kind, task in order if task == name]
        assert mine == ["TaskStarted", *["TokensArrived"] * len(texts[(), name, name]), "TaskEnded"]
    first_end = next(i for i, event in enumerate(going.seen) if isinstance(event, TaskEnded))
    early = {event.agent for event in going.seen[:first_end] if isinstance(event, TokensArrived)}
    assert early == {"a", "b", "deep"}, "side by side"


async def test_a_planner_and_a_reviewer_are_heard_too(fake: Fake, database: str) -> None:
    plan = {"tasks": [{"id": "one", "instruction": "Do it.", "agent": "a", "needs": []}]}
    verdict = {"answered": True, "missing": [], "contradictions": [], "plan": None}
    fake.when("You plan the work", plan)
    fake.when("You check the work", verdict)
    roles: Any = {"planner": ModelPlanner(chat(fake)), "reviewer": ModelReviewer(chat(fake))}
    flow = Workflow("w", agents=[writer("a", fake)], **roles)
    async with Orchestra(database) as orchestra:
        going = await orchestra.start(flow, "Go.")
        assert (await going).state is RunState.DONE
    texts = told(going.seen)
    assert texts.keys() == {((), "", "planner"), ((), "one", "a"), ((), "", "reviewer")}
    planned = next(i for i, event in enumerate(going.seen) if isinstance(event, PlanReady))
    assert Progress.of(going.seen[:planned]).said.startswith('{"tasks"')
    assert Progress.of(going.seen[: planned + 1]).said == ""


async def messages(flow: Workflow) -> dict[tuple[str | None, str | None], list[str]]:
    """What LangGraph streams as messages, by task and agent."""
    texts: dict[tuple[str | None, str | None], list[str]] = defaultdict(list)
    options: dict[str, Any] = {"stream_mode": "messages", "subgraphs": True}
    async for _, (chunk, metadata) in flow.compile().astream({"request": "Go."}, **options):
        if chunk.type == "AIMessageChunk" and chunk.text:
            texts[metadata.get("task"), metadata.get("agent")].append(chunk.text)
    return texts


@pytest.mark.parametrize("teams", [False, True], ids=["flat", "in a team"])
async def test_langgraphs_messages_are_labelled(fake: Fake, teams: bool) -> None:
    @agent
    async def own(task: Assignment) -> str:
        return await ask_model(chat(fake), "own question")

    fake.when("own question", "own one two three")
    agents = [writer("a", fake), own]
    texts = await messages(Workflow("w", agents=[Agent("crew", Workflow("inner", agents=agents))] if teams else agents))
    assert {key: "".join(pieces) for key, pieces in texts.items()} == {
        ("a", "a"): said("a"),
        ("own", "own"): "own one two three",
    }
    assert all(len(pieces) > 2 for pieces in texts.values())


@pytest.mark.parametrize("how", ["async", "sync", "runnable"])
async def test_messages_of_an_agents_own_calls_are_labelled(fake: Fake, how: str) -> None:
    async def run(task: Assignment) -> str:
        return (await chat(fake).ainvoke("direct question")).text

    def run_in_thread(task: Assignment) -> str:
        return chat(fake).invoke("direct question").text

    async def nested(_: Any) -> str:
        return (await chat(fake).ainvoke("direct question")).text

    fake.when("direct question", "direct one two three")
    runs: dict[str, Any] = {"async": run, "sync": run_in_thread, "runnable": RunnableLambda(nested)}
    texts = await messages(Workflow("w", agents=[Agent("direct", runs[how])]))
    assert {key: "".join(pieces) for key, pieces in texts.items()} == {("direct", "direct"): "direct one two three"}


async def test_a_retry_a_spare_and_a_reviewer_speak_for_themselves(fake: Fake, database: str) -> None:
    fake.when("You are first, one", [Fault.drop("half of it", after=2), Fault.refuse("no")])
    first = Agent.from_model("first", chat(fake), "You write.", retry=QUICK)
    flow = Workflow("w", agents=[first]).add_agent(writer("spare", fake), backup_for="first")
    async with Orchestra(database) as orchestra:
        outcome = await (going := await orchestra.start(flow, "Go."))
    assert outcome.results["first"].agent == "spare"
    texts = told(going.seen)
    assert "".join(texts[(), "first", "spare"]) == said("spare")
    assert "".join(texts[(), "first", "first"]).startswith("half of")
    starts = [i for i, event in enumerate(going.seen) if isinstance(event, TaskStarted)]
    (row,) = Progress.of(going.seen[: starts[1] + 1]).rows
    assert row.said == "", "a new try begins with nothing said"


async def test_the_progress_shows_the_last_line(fake: Fake, database: str) -> None:
    flow = Workflow("w", agents=[writer("a", fake), writer("b", fake)]).add_edge("a", "b")
    lines: dict[str, list[str]] = defaultdict(list)
    progress = Progress()
    async with Orchestra(database) as orchestra:
        going = await orchestra.start(flow, "Go.")
        async for event in going.events():
            progress.apply(event)
            for row in progress.rows:
                if row.said and row.said not in lines[row.task.id][-1:]:
                    lines[row.task.id].append(row.said)
    for name in ("a", "b"):
        assert len(lines[name]) > 2
        assert lines[name][0] != lines[name][-1] == f"five {name}"
        assert all(f"{name} says one two three four".startswith(each) for each in lines[name] if "says" in each)
        assert not any("\n" in each for each in lines[name])


async def test_the_question_whether_an_endpoint_calls_tools_is_not_heard(fake: Fake, database: str) -> None:
    def look(query: str) -> str:
        """Look it up."""
        return "found"

    fake.when("Call the tool ping.", "I can't do that, sorry about it")
    one = writer("a", fake, tools=[look])
    fake.reset()
    fake.when("Call the tool ping.", "I can't do that, sorry about it")
    fake.when("You are a, one", {"reply": {"answer": "done"}})
    fake.ignores = {"tools"}
    async with Orchestra(database) as orchestra:
        outcome = await (going := await orchestra.start(Workflow("w", agents=[one]), "Go."))
    assert outcome.answer == "done"
    assert len(fake.requests) == 2
    assert "sorry" not in repr(told(going.seen))


async def test_whoever_does_not_listen_holds_nobody_up(fake: Fake, database: str) -> None:
    fake.when("Call the tool ping.", ToolCall("ping"))
    fake.latency(per_token=(0.001, 0))
    flow = Workflow("w", agents=[writer(f"a{i}", fake) for i in range(8)])
    async with Orchestra(database) as orchestra:
        going = await orchestra.start(flow, "Go.")
        outcome = await asyncio.wait_for(going, 10)
    assert {result.output for result in outcome.results.values()} == {said(f"a{i}") for i in range(8)}
    assert {"".join(pieces) for pieces in told(going.seen).values()} == {said(f"a{i}") for i in range(8)}
