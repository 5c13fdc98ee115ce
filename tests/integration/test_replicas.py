"""One task for several agents at once: who takes part, what holds, and what is not done twice."""

from __future__ import annotations

import asyncio
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import pytest
from langchain_openai import ChatOpenAI
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, RetryPolicy
from pydantic import BaseModel

from orchestra import (
    Agent,
    Arbiter,
    AskPerson,
    Assignment,
    Breaker,
    ByMajority,
    Claim,
    Conflict,
    Orchestra,
    OutOfScope,
    People,
    Plan,
    Review,
    RunState,
    Status,
    Task,
    Verdict,
    Workflow,
    WorkflowError,
)
from tests.fakes import Fake

THREAD: Any = {"configurable": {"thread_id": "t"}}
ONCE = RetryPolicy(max_attempts=1)


class Report(BaseModel):
    text: str = ""
    claims: list[Claim] = []


def report(text: str, **values: Any) -> Report:
    claims = [Claim(subject="ACME", attribute=name, value=value) for name, value in values.items()]
    return Report(text=text, claims=claims)


@dataclass
class Bench:
    """Agents of one capability that count their calls; each gives what it has for its n-th call, then the last."""

    calls: Counter[str] = field(default_factory=Counter)
    given: dict[str, Assignment] = field(default_factory=dict)

    def agent(self, name: str, *gives: Any, before: Callable[[], Any] | None = None, **more: Any) -> Agent:
        output = Report if isinstance(gives[-1], Report) else str

        async def run(task: Assignment) -> Any:
            self.calls[name] += 1
            self.given[name] = task
            if before is not None:
                await before()
            one = gives[min(self.calls[name], len(gives)) - 1]
            if isinstance(one, Exception):
                raise one
            return one(task) if callable(one) else one

        return Agent(name, run, capabilities=["counting"], output=more.pop("output", output), retry=ONCE, **more)


@pytest.fixture
def bench() -> Bench:
    return Bench()


class Planned:
    """Makes the same plan of every request."""

    def __init__(self, *tasks: Task) -> None:
        self.tasks = tasks

    def plan(self, request: str, *, agents: Any, messages: Any) -> Plan:
        return Plan(tasks=self.tasks)


def team_of(*agents: Agent, replicas: int = 3, quorum: int | None = None, **more: Any) -> Workflow:
    """A planner wants one task `count` of several of the agents."""
    task = Task(id="count", capability="counting", replicas=replicas, quorum=quorum)
    return Workflow("w", agents=agents, planner=Planned(task), **more)


async def done(flow: Workflow) -> Any:
    state = await flow.compile().ainvoke({"request": "go"})
    return state["results"]["count"]


async def test_three_agents_work_at_once_each_under_a_key_of_its_own(bench: Bench) -> None:
    meet = asyncio.Barrier(3)
    agents = [bench.agent(name, "12", before=meet.wait) for name in "abc"]
    result = await asyncio.wait_for(done(team_of(*agents)), 20)
    assert (result.output, result.agent, bench.calls) == ("12", "a", {"a": 1, "b": 1, "c": 1})
    assert sorted(attempt.agent for attempt in result.attempts) == ["a", "b", "c"]
    assert len({task.idempotency_key for task in bench.given.values()}) == 3


@pytest.mark.parametrize(
    ("said", "quorum", "output"),
    [
        (["12", "13", "12"], None, "12"),
        (["13", "12", "12"], 2, "12"),
        (["12", "13", "12"], 3, None),
        (["12", "13", "14"], None, None),
        (["12", "13", "14"], 1, "12"),
        (["12", ValueError("out"), "12"], None, "12"),
        (["12", ValueError("out"), "12"], 3, None),
        (["12", ValueError("out"), ValueError("ill")], None, None),
    ],
)
async def test_without_claims_as_many_as_the_quorum_must_say_the_same(
    said: list[Any], quorum: int | None, output: str | None, bench: Bench
) -> None:
    agents = [bench.agent(name, one) for name, one in zip("abc", said, strict=True)]
    result = await done(team_of(*agents, quorum=quorum))
    assert result.output == output
    if output is None:
        assert (result.status, f"{quorum or 2} must" in result.error) == (Status.FAILED, True)
    assert max(bench.calls.values()) == 1


async def test_whoever_fails_is_replaced_by_a_spare_and_nobody_works_twice(bench: Bench) -> None:
    agents = [bench.agent("a", "12"), bench.agent("b", ValueError("out")), bench.agent("c", lambda _: OutOfScope("no"))]
    agents += [bench.agent("d", "12"), bench.agent("e", ValueError("ill")), bench.agent("f", "12")]
    result = await done(team_of(*agents, quorum=3))
    assert (result.output, bench.calls) == ("12", dict.fromkeys("abcdef", 1))


async def test_an_agent_that_declines_is_not_replaced_by_one_that_counts_already(bench: Bench) -> None:
    agents = [bench.agent("a", "12"), bench.agent("b", lambda _: OutOfScope("no")), bench.agent("c", "13")]
    result = await done(team_of(*agents))
    assert (result.status, bench.calls) == (Status.FAILED, {"a": 1, "b": 1, "c": 1})


async def test_too_few_capable_agents_are_told_before_anyone_works(bench: Bench) -> None:
    result = await done(team_of(bench.agent("a", "12")))
    assert result.error == "2 agents must agree on 'count', and 1 can do it"
    assert not bench.calls


async def test_replicas_are_declared_of_an_agent_its_backups_and_its_peers(bench: Bench) -> None:
    spare = Agent("spare", bench.agent("spare", "12").run, output=str)
    flow = Workflow("w", agents=[bench.agent("count", "12"), bench.agent("peer", "13")])
    flow.add_agent(spare, backup_for="count").add_replicas("count", 3)
    assert (await done(flow)).output == "12"
    assert bench.calls == {"count": 1, "spare": 1, "peer": 2}  # it has a task of its own, too
    for wrong in ({"replicas": 1}, {"replicas": 10}, {"replicas": 3, "quorum": 4}):
        with pytest.raises(WorkflowError, match="from 2 to 9 replicas"):
            Workflow("w", agents=[bench.agent("count", "12")]).add_replicas("count", **wrong)


# -- claims


async def test_claims_are_settled_and_who_is_right_most_often_delivers(bench: Bench) -> None:
    agents = [
        bench.agent("a", report("a's", revenue=5, staff=9)),
        bench.agent("b", report("b's", revenue=7, staff=10)),
        bench.agent("c", report("c's", revenue=7, staff=9)),
    ]
    result = await done(team_of(*agents, settle=[ByMajority()]))
    assert result.output == report("c's", revenue=7, staff=9)
    assert result.agent == "c"
    assert [(one.conflict.attribute, one.winning.value) for one in result.resolutions] == [("revenue", 7), ("staff", 9)]


async def test_the_output_carries_what_holds_where_its_author_was_wrong(bench: Bench) -> None:
    agents = [
        bench.agent("a", report("a's", revenue=5, staff=9, sites=2)),
        bench.agent("b", report("b's", revenue=7, staff=10, sites=2)),
        bench.agent("c", report("c's", revenue=7, staff=9, sites=3)),
    ]
    result = await done(team_of(*agents, settle=[ByMajority()]))
    assert (result.agent, result.output) == ("a", report("a's", revenue=7, staff=9, sites=2))


async def test_who_claims_nothing_is_not_right_most_often(bench: Bench) -> None:
    agents = [bench.agent("a", report("a's"))]
    agents += [bench.agent("b", report("b's", revenue=7, staff=9)), bench.agent("c", report("c's", revenue=7, staff=8))]
    result = await done(team_of(*agents, settle=[ByMajority()]))
    assert result.agent == "b"
    assert not result.resolutions[0].settled


async def test_an_arbiter_decides_between_replicas_once(bench: Bench) -> None:
    async def judge(conflict: Conflict) -> Verdict:
        bench.calls["judge"] += 1
        return Verdict(1, "it reads well")

    agents = [bench.agent("a", report("a's", revenue=5)), bench.agent("b", report("b's", revenue=7))]
    flow = team_of(*agents, Agent("judge", judge), replicas=2, settle=[ByMajority(), Arbiter("judge")])
    state = await flow.compile().ainvoke({"request": "go"})
    assert state["results"]["count"].agent == "b"
    assert bench.calls == {"a": 1, "b": 1, "judge": 1}
    assert state["answer"].count("against") == 1


async def test_a_person_decides_between_replicas_and_none_works_again(bench: Bench, database: str) -> None:
    agents = [bench.agent("a", report("a's", revenue=5)), bench.agent("b", report("b's", revenue=7))]
    flow = team_of(*agents, replicas=2, settle=[AskPerson()])
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go", thread_id="t"))
        assert [question.task for question in outcome.questions] == ["count"]
        outcome = await (await orchestra.answer("t", {"value": 6}, workflow=flow))
    assert outcome.results["count"].output.claims[0].value == 6
    assert bench.calls == {"a": 1, "b": 1}


# -- what is not done twice


async def test_state_and_memory_get_only_what_the_chosen_one_wrote(bench: Bench) -> None:
    class Own(TypedDict):
        wrote: Annotated[list[str], operator.add]

    def writes(name: str, said: str) -> Callable[[Assignment], Any]:
        def work(task: Assignment) -> Any:
            task.remember("style", name)
            return said, Command(update={"wrote": [name]})

        return work

    agents = [bench.agent(n, writes(n, said), output=str) for n, said in (("a", "13"), ("b", "12"), ("c", "12"))]
    store = InMemoryStore()
    graph = team_of(*agents, state_schema=Own).compile(store=store)
    state = await graph.ainvoke({"request": "go"}, {"configurable": {"user_id": "u"}})
    assert (state["results"]["count"].agent, state["wrote"]) == ("b", ["b"])
    assert [item.value["value"] for item in store.search(()) if "kind" in item.value] == ["b"]


async def cut_off(graph: Any, bench: Bench, stuck: str, others: str) -> None:
    """Run until one agent hangs and the others are through, then cancel."""
    running = asyncio.create_task(graph.ainvoke({"request": "go"}, THREAD))
    while not all(bench.calls[name] for name in (stuck, *others)):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    running.cancel()
    await asyncio.wait([running])


async def test_replicas_that_were_through_are_not_asked_again_after_a_cancel(bench: Bench, any_saver: Any) -> None:
    async def hangs() -> None:
        if bench.calls["b"] == 1:
            await asyncio.sleep(60)

    agents = [bench.agent("a", ValueError("out")), bench.agent("b", "12", before=hangs), bench.agent("c", "12")]
    agents += [bench.agent("d", "12")]
    graph = team_of(*agents, quorum=3).compile(checkpointer=any_saver)
    await cut_off(graph, bench, "b", "acd")
    state = await graph.ainvoke(None, THREAD)
    assert state["results"]["count"].output == "12"
    assert bench.calls == {"a": 1, "b": 2, "c": 1, "d": 1}


async def test_who_is_through_takes_no_second_part_when_the_order_has_changed(bench: Bench, any_saver: Any) -> None:
    async def hangs() -> None:
        if bench.calls["b"] == 1:
            await asyncio.sleep(60)

    def flow(*, sick: bool) -> Workflow:
        """In the new process nobody knows yet that `a` is ill."""
        agents = [bench.agent("a", "13"), bench.agent("b", "12", before=hangs), bench.agent("c", "12")]
        for _ in range(5 if sick else 0):
            agents[0].health.record(agents[0].health.admit(), "error", 1.0, "out")
        return team_of(*agents, replicas=2, quorum=2)

    await cut_off(flow(sick=True).compile(checkpointer=any_saver), bench, "b", "c")
    state = await flow(sick=False).compile(checkpointer=any_saver).ainvoke(None, THREAD)
    assert bench.calls["c"] == 1
    assert "1 of 2 agents agree" in state["results"]["count"].error


@pytest.mark.parametrize("how", ["review", "approval"])
async def test_rejected_work_is_done_anew_by_all_replicas(how: str, bench: Bench, database: str) -> None:
    async def judges(task: Assignment) -> Review:
        bench.calls["judge"] += 1
        return Review(approved=bench.calls["judge"] > 1, reasons=("count again",))

    agents = [bench.agent(name, "12", "13") for name in ("count", "other")]
    flow = Workflow("w", agents=[agents[0]]).add_agent(agents[1], backup_for="count")
    flow.add_replicas("count", 2, quorum=2)
    if how == "review":
        flow.add_agent(Agent("judge", judges)).add_review("count", by="judge")
        assert (await done(flow)).output == "13"
    else:
        flow.add_approval("count", before=False)
        async with Orchestra(database) as orchestra:
            await (await orchestra.start(flow, "go", thread_id="t"))
            outcome = await (await orchestra.answer("t", {"do": "reject", "why": "count again"}, workflow=flow))
            assert (outcome.state, outcome.questions[0].known["output"]) == (RunState.WAITING, "13")
            outcome = await (await orchestra.answer("t", "approve", workflow=flow))
        assert outcome.results["count"].output == "13"
    assert bench.given["other"].rejections[0].reasons == ("count again",)
    assert (bench.calls["count"], bench.calls["other"]) == (2, 2)


async def test_where_they_do_not_agree_a_person_may_have_them_try_again(bench: Bench, database: str) -> None:
    agents = [bench.agent("a", "12"), bench.agent("b", "13", "12")]
    flow = team_of(*agents, replicas=2, people=People(unable=True))
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go", thread_id="t"))
        assert "1 of 2 agents agree" in outcome.questions[0].known["failed"]
        outcome = await (await orchestra.answer("t", "retry", workflow=flow))
    assert (outcome.state, outcome.answer) == (RunState.DONE, "12")


async def test_an_agent_that_is_open_is_not_waited_for_where_there_is_a_quorum_without_it(bench: Bench) -> None:
    agents = [bench.agent(name, "12", breaker=Breaker(failures=1, cool_down=30)) for name in "abcd"]
    health = agents[0].health
    health.record(health.admit(), "error", 1.0, "out")
    assert (await done(team_of(*agents))).output == "12"
    assert bench.calls == {"b": 1, "c": 1, "d": 1}
    result = await asyncio.wait_for(done(team_of(*agents, replicas=4, quorum=3)), 20)
    assert (result.output, bench.calls["a"]) == ("12", 0)


async def test_a_recorded_run_is_played_back_whoever_ended_first(bench: Bench, database: str) -> None:
    with Fake() as fake:
        for name, delay in (("a", 0.2), ("b", 0.1), ("c", 0.0)):
            fake.when(f"You are {name}.", "12", delay=delay)
        model = ChatOpenAI(model="m", base_url=fake.url, api_key="x", max_retries=0)
        agents = [Agent.from_model(n, model, f"You are {n}.", capabilities=["counting"]) for n in "abc"]
        flow = team_of(*agents)
        async with Orchestra(database) as orchestra:
            outcome = await (await orchestra.start(flow, "go", thread_id="t", record=True))
            assert [attempt.agent for attempt in outcome.results["count"].attempts] == ["a", "b", "c"]
            replayed = await orchestra.replay("t", workflow=flow)
        assert len(fake.requests) == 3
    assert (replayed.calls, replayed.outcome.answer, replayed.different) == (3, "12", ())
