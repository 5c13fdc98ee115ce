"""Reviewers, Runnables, models, graphs and teams as agents, through workflows."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel

from orchestra import Agent, Assignment, Plan, Review, Status, Task, Workflow, agent


async def run(*agents: Agent, **options: Any) -> dict[str, Any]:
    return await Workflow("w", agents=agents, **options).compile().ainvoke({"request": "go"})


# -- review


def reviewed(verdicts: list[Review], rounds: int) -> tuple[Workflow, list[tuple[Review, ...]]]:
    seen: list[tuple[Review, ...]] = []

    @agent
    async def facts(task: Assignment) -> int:
        return 1

    @agent
    async def author(x: int, task: Assignment) -> str:
        seen.append(task.rejections)
        return f"draft {len(task.rejections) + 1}"

    @agent
    async def reviewer(x: int, draft: str) -> Review:
        return verdicts.pop(0)

    @agent
    async def reader(text: str) -> bytes:
        return text.encode()

    flow = Workflow("w", agents=[facts, author, reviewer, reader]).add_review("author", by="reviewer", rounds=rounds)
    return flow, seen


async def test_rejected_work_goes_back_with_the_reasons_and_each_round_is_recorded() -> None:
    no = Review(approved=False, reasons=("cite it",))
    flow, seen = reviewed([no, Review(approved=True)], rounds=1)
    state = await flow.compile().ainvoke({"request": "go"})
    assert state["results"]["reader"].output == b"draft 2"
    assert [[r.reasons for r in rejections] for rejections in seen] == [[], [("cite it",)]]
    result = state["results"]["author"]
    assert [(r.approved, r.reasons) for r in result.reviews] == [(False, ("cite it",)), (True, ())]
    assert [a.agent for a in result.attempts] == ["author", "reviewer", "author", "reviewer"]
    assert "reviewer" not in state["results"]


async def test_the_rounds_are_bounded_and_a_revision_is_used_when_they_are_gone() -> None:
    no = Review(approved=False, reasons=("still wrong",))
    flow, seen = reviewed([no, no, no], rounds=1)
    result = (await flow.compile().ainvoke({"request": "go"}))["results"]["author"]
    assert result.status is Status.FAILED
    assert "rejected the work 2 times: still wrong" in result.error
    assert len(seen) == 2

    flow, _ = reviewed([no, no.model_copy(update={"revised": "cut down"})], rounds=1)
    state = await flow.compile().ainvoke({"request": "go"})
    assert state["results"]["reader"].output == b"cut down"

    flow, _ = reviewed([no.model_copy(update={"revised": 17})], rounds=0)
    result = (await flow.compile().ainvoke({"request": "go"}))["results"]["author"]
    assert "revised the work to something else" in result.error


# -- kinds of agents


async def test_runnables_models_graphs_and_teams_are_agents() -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("from the model")]))

    def echo(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"graph saw: {state['messages'][-1].text.splitlines()[0]}")]}

    plain = StateGraph(MessagesState).add_node("echo", echo).add_edge(START, "echo").compile()

    @agent
    async def inner(task: Assignment) -> str:
        return f"team on {task.request}"

    flow = Workflow(
        "w",
        agents=[
            Agent("model", model, output=str),
            Agent("chain", RunnableLambda(lambda given: f"chain on {given['request']}"), output=str),
            Agent("graph", plain),
            Agent("team", Workflow("team", agents=[inner])),
        ],
    )
    state = await flow.compile().ainvoke({"request": "go"})
    outputs = {task: result.output for task, result in state["results"].items()}
    assert outputs == {
        "model": "from the model",
        "chain": "chain on go",
        "graph": "graph saw: go",
        "team": "team on go",
    }


async def test_compiled_workflows_as_agents_keep_their_supersteps_and_keys_apart() -> None:
    keys: list[str] = []

    def inner(name: str) -> Workflow:
        async def begin(task: Assignment) -> int:
            keys.append(task.idempotency_key)
            await asyncio.sleep(0.02)
            return len(name)

        async def end(task: Assignment) -> str:
            return f"{name} {task.inputs['begin']}"

        flow = Workflow(name, agents=[Agent("begin", begin, output=int), Agent("end", end, output=str)])
        return flow.add_edge("begin", "end")

    state = await run(Agent("a", inner("one").compile()), Agent("b", inner("three").compile()))
    assert state["results"]["a"].output == "one 3"
    assert state["results"]["b"].output == "three 5"
    assert len(set(keys)) == 2


async def test_a_team_with_a_planner_delivers_its_answer() -> None:
    @agent
    async def count(task: Assignment) -> int:
        return 7

    class One:
        def plan(self, request: str, **_: Any) -> Plan:
            return Plan(tasks=(Task(id="n", agent="count"),))

    state = await run(Agent("team", Workflow("team", agents=[count], planner=One())))
    assert state["answer"] == "7"


async def test_a_team_gets_inputs_by_type_and_its_failure_stays_in_its_box() -> None:
    class Facts(BaseModel):
        n: int

    @agent
    async def source(task: Assignment) -> Facts:
        return Facts(n=3)

    @agent
    async def double(facts: Facts) -> int:
        if facts.n > 3:
            raise ValueError("too much")
        return facts.n * 2

    team = Workflow("team", agents=[double], inputs=[Facts])

    @agent
    async def end(x: int | None) -> str:
        return f"end {x}"

    state = await run(source, Agent("team", team), end)
    assert state["answer"] == "end 6"

    @agent(name="source")
    async def big(task: Assignment) -> Facts:
        return Facts(n=4)

    state = await run(big, Agent("team", team), end)
    assert "team failed: double failed: ValueError: too much" in state["results"]["team"].error
    assert state["results"]["end"].output == "end None"
