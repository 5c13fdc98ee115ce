"""A team is an agent: what happens inside stays in its box, and what concerns the whole travels through all levels.

The company below has three levels, each with a planner of its own: company, operations, fraud.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from orchestra import (
    Agent,
    AskPerson,
    Assignment,
    Breaker,
    Budget,
    ByConfidence,
    Claim,
    Orchestra,
    People,
    Plan,
    RunState,
    Status,
    Task,
    Workflow,
    ask,
    ask_model,
)
from orchestra.events import ClaimsSettled, Event, HealthChanged, PlanReady, TaskEnded, TaskStarted, TurnEnded
from tests.fakes import Fake

FRAUD = ("operations", "fraud")
EVERYONE = Counter(scorer=1, rules=1, judge=1, ledger=1, people=1)


class Planned:
    """A planner that has the same plan for everything: tasks by id, each with what it needs."""

    def __init__(self, **needs: str) -> None:
        self.needs = needs

    def plan(self, request: str, **_: Any) -> Plan:
        return Plan(tasks=tuple(Task(id=name, agent=name, needs=tuple(n.split())) for name, n in self.needs.items()))


class Company:
    """Builds the company anew for each process; `ran` counts what ran.

    Args:
        does: What an agent does before it delivers its own name, by its name.
        agents: Options of agents, teams among them.
        teams: Options of workflows.
    """

    def __init__(
        self,
        does: dict[str, Callable[[Assignment], Any]] | None = None,
        agents: dict[str, dict[str, Any]] | None = None,
        teams: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.does, self.agents, self.teams = does or {}, agents or {}, teams or {}
        self.ran: Counter[str] = Counter()

    def worker(self, name: str) -> Agent:
        async def run(task: Assignment) -> str:
            self.ran[name] += 1
            said = self.does[name](task) if name in self.does else None
            return str((await said if asyncio.iscoroutine(said) else said) or name)

        return Agent(name, run, **self.agents.get(name, {}))

    def team(self, name: str, planner: Planned, *members: Agent) -> Workflow:
        return Workflow(name, agents=members, planner=planner, **self.teams.get(name, {}))

    @property
    def flow(self) -> Workflow:
        judged = Planned(scorer="", rules="", judge="scorer rules")
        fraud = self.team("fraud", judged, self.worker("scorer"), self.worker("rules"), self.worker("judge"))
        box = Agent("fraud", fraud, **self.agents.get("fraud", {}))
        operations = self.team("operations", Planned(fraud="", ledger=""), box, self.worker("ledger"))
        around = Agent("operations", operations, **self.agents.get("operations", {}))
        return self.team("company", Planned(operations="", people=""), around, self.worker("people"))


def fails(_: Assignment) -> None:
    raise ValueError("no data")


def kinds(events: Any, kind: type[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def places(events: Any, kind: type[Any] = TaskStarted) -> set[str]:
    return {"/".join((*event.path, event.task)) for event in kinds(events, kind)}


async def until(what: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.005)


# Three levels


async def test_three_levels_plan_and_tell_where_they_are(any_url: str) -> None:
    company = Company()
    async with Orchestra(any_url) as orchestra:
        run = await orchestra.start(company.flow, "go", thread_id="t")
        outcome = await run
        assert outcome.state is RunState.DONE
        assert company.ran == EVERYONE
        deep = {f"operations/fraud/{name}" for name in ("scorer", "rules", "judge")}
        every = {"operations", "people", "operations/fraud", "operations/ledger", *deep}
        assert places(run.seen) == places(run.seen, TaskEnded) == every
        assert {event.path for event in kinds(run.seen, PlanReady)} == {(), FRAUD[:1], FRAUD}
        assert [event.path for event in kinds(run.seen, TurnEnded)] == [FRAUD, FRAUD[:1], ()]
        assert {task.name: task.state for task in run.status().tasks} == dict.fromkeys(every, "succeeded")
        stored = await orchestra.status("t", workflow=company.flow)
        assert {task.name: task.state for task in stored.tasks} == dict.fromkeys(every, "succeeded")
    assert set(outcome.results) == {"operations", "people"}, "the parent sees one result for each team"


async def test_the_standing_shows_who_works_at_which_level(database: str) -> None:
    go = asyncio.Event()

    async def wait(_: Assignment) -> None:
        await go.wait()

    company = Company({"scorer": wait, "people": wait})
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(company.flow, "go", thread_id="t")
        await until(lambda: company.ran["scorer"] and "operations/ledger" in places(run.seen, TaskEnded))
        await until(lambda: "operations/fraud/rules" in places(run.seen, TaskEnded))
        standing = run.status()
        go.set()
        await run
    assert {task.name: task.state for task in standing.tasks} == {
        "operations": "running",
        "operations/fraud": "running",
        "operations/fraud/scorer": "running",
        "operations/fraud/rules": "succeeded",
        "operations/fraud/judge": "pending",
        "operations/ledger": "succeeded",
        "people": "running",
    }
    judge = next(task for task in standing.tasks if task.task == "judge")
    assert judge.waits_for == ("operations/fraud/scorer",)
    working = {agent.name for agent in standing.agents if agent.state == "working"}
    assert {"operations/fraud/scorer", "people"} <= working


# Failure, timeout


async def test_a_failure_stays_in_its_box_and_the_parent_is_told_why(database: str) -> None:
    company = Company({"scorer": fails})
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(company.flow, "go", thread_id="t")
        outcome = await run
        inside = (await orchestra.info("t")).teams["operations"]
    assert company.ran == EVERYONE - Counter(judge=1)
    failed = inside.results["fraud"]
    assert (failed.status, failed.error) == (Status.FAILED, "fraud failed: scorer failed: ValueError: no data")
    assert inside.results["ledger"].output == "ledger"
    # What operations could deliver is delivered, with what is missing.
    assert outcome.results["operations"].ok
    assert "scorer failed: ValueError: no data" in outcome.results["operations"].output
    assert outcome.results["people"].output == "people"


async def test_a_team_that_delivers_nothing_has_failed_at_every_level(database: str) -> None:
    company = Company({"scorer": fails, "ledger": fails})
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(company.flow, "go"))
    assert outcome.state is RunState.FAILED
    why = outcome.results["operations"].error or ""
    assert "fraud failed: scorer failed: ValueError: no data" in why
    assert "ledger failed: ValueError: no data" in why
    assert outcome.results["people"].ok
    assert "people" in (outcome.answer or "")


@pytest.mark.parametrize("planner", [None, Planned(bad="")], ids=["declared", "planned"])
async def test_another_team_steps_in_for_one_that_delivers_nothing(database: str, planner: Any) -> None:
    company = Company({"bad": fails})
    first = Workflow("first", agents=[company.worker("bad")], planner=planner)
    second = Workflow("second", agents=[company.worker("good")])
    flow = Workflow("w", agents=[Agent("a", first)]).add_agent(Agent("b", second), backup_for="a")
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go"))
    result = outcome.results["a"]
    assert (result.output, result.agent) == ("good", "b")
    assert [(each.agent, each.outcome) for each in result.attempts] == [("a", "error"), ("b", "ok")]


async def test_a_team_in_its_timeout_is_cancelled_inside_and_its_siblings_go_on(database: str) -> None:
    heard: list[str] = []

    async def hang(_: Assignment) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            heard.append("scorer")
            raise

    company = Company({"scorer": hang}, agents={"fraud": {"timeout": 0.4}})
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(company.flow, "go", thread_id="t")
        outcome = await run
        inside = (await orchestra.info("t")).teams["operations"].results
    assert heard == ["scorer"]
    assert [each.outcome for each in inside["fraud"].attempts] == ["timeout"]
    assert "no output within 0.4 s" in (inside["fraud"].error or "")
    assert (inside["ledger"].output, outcome.results["people"].output) == ("ledger", "people")
    assert {task.name: task.state for task in run.status().tasks}["operations/fraud"] == "failed"


# Budgets


def chat(fake: Fake) -> ChatOpenAI:
    client = openai.DefaultAsyncHttpxClient(verify=False)
    return ChatOpenAI(base_url=fake.url, api_key="sk-x", model="m", max_retries=0, http_async_client=client)


def asking(model: ChatOpenAI, *names: str) -> dict[str, Callable[[Assignment], Any]]:
    async def asked(_: Assignment) -> Any:
        return await ask_model(model, "one", max_tokens=5)

    return dict.fromkeys(names, asked)


async def test_a_teams_own_budget_ends_its_work_and_nobody_elses(database: str) -> None:
    with Fake() as fake:
        fake.when("one", "two")
        does = asking(chat(fake), "scorer", "rules", "judge", "ledger", "people")
        company = Company(does, teams={"fraud": {"budget": Budget(calls=2)}})
        async with Orchestra(database) as orchestra:
            outcome = await (await orchestra.start(company.flow, "go", thread_id="t"))
            inside = (await orchestra.info("t")).teams["operations"].results
    assert len(fake.requests) == 4
    assert "team fraud's budget of 2 calls" in (inside["fraud"].error or "")
    assert "judge failed" in (inside["fraud"].error or "")
    assert outcome.results["operations"].usage.calls == 3
    assert outcome.results["people"].ok


async def test_what_an_inner_team_uses_is_gone_for_the_whole_run(database: str) -> None:
    with Fake() as fake:
        fake.when("one", "two")
        model = chat(fake)

        async def late(_: Assignment) -> Any:
            await until(lambda: len(fake.requests) == 3)
            await asyncio.sleep(0.1)
            return await ask_model(model, "one", max_tokens=5)

        does = {**asking(model, "scorer", "rules", "judge"), "people": late}
        company = Company(does, teams={"company": {"budget": Budget(calls=3)}})
        async with Orchestra(database) as orchestra:
            outcome = await (await orchestra.start(company.flow, "go"))
    assert len(fake.requests) == 3
    assert "the run's budget of 3 calls" in (outcome.results["people"].error or "")
    assert outcome.results["operations"].ok


async def test_a_budget_that_is_used_up_says_nothing_of_the_teams_health(database: str) -> None:
    with Fake() as fake:
        fake.when("one", "two")
        does = asking(chat(fake), "scorer", "rules", "judge")
        company = Company(does, agents={"fraud": {"breaker": Breaker(failures=1)}})
        company.teams["fraud"] = {"budget": Budget(calls=2)}
        flow = company.flow
        async with Orchestra(database) as orchestra:
            await (await orchestra.start(flow, "go"))
    assert flow.roster["operations"].run.roster["fraud"].health.condition == "healthy"


# Questions, deadlines, decisions


def asks(_: Assignment) -> Any:
    return ask("Is it fraud?", options=["yes", "no"], within=timedelta(hours=1), otherwise="no")


async def test_a_question_from_below_is_answered_at_the_top_while_others_go_on(any_url: str) -> None:
    company = Company({"scorer": asks})
    async with Orchestra(any_url) as orchestra:
        run = await orchestra.start(company.flow, "go", thread_id="t")
        outcome = await run
        assert outcome.state is RunState.WAITING
        assert company.ran == EVERYONE - Counter(judge=1)
        (question,) = outcome.questions
        assert (question.place, question.agent) == ("operations/fraud/scorer", "scorer")
        states = {task.name: task.state for task in run.status().tasks}
        assert (states["operations/fraud/scorer"], states["operations/fraud/judge"]) == ("waiting", "pending")
        assert (states["operations/ledger"], states["people"]) == ("succeeded", "succeeded")
    async with Orchestra(any_url) as orchestra:
        again = await orchestra.answer("t", "yes", "operations/fraud/scorer", workflow=company.flow)
        assert (await again).state is RunState.DONE
        info = (await orchestra.info("t")).teams["operations"].teams["fraud"]
    assert info.results["scorer"].output == "yes"
    assert company.ran == EVERYONE + Counter(scorer=1)


async def test_questions_at_several_levels_are_answered_one_by_one(database: str) -> None:
    company = Company({"scorer": asks, "ledger": asks, "people": asks})
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(company.flow, "go", thread_id="t"))
        levels = ["operations/fraud/scorer", "operations/ledger", "people"]
        assert sorted(question.place for question in outcome.questions) == levels
        for number, place in enumerate(["operations/ledger", "people", "operations/fraud/scorer"], start=1):
            outcome = await (await orchestra.answer("t", "yes", place, workflow=company.flow))
            assert len(outcome.questions) == 3 - number
        assert outcome.state is RunState.DONE
    assert company.ran == EVERYONE + Counter(scorer=1, ledger=1, people=1)


async def test_a_deadline_three_levels_down_is_applied_by_tick(database: str) -> None:
    company = Company({"scorer": asks})
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(company.flow, "go", thread_id="t"))
        (question,) = outcome.questions
        assert question.due is not None
        assert await orchestra.tick(at=question.due - timedelta(minutes=1), workflow=company.flow) == []
        (ticked,) = await orchestra.tick(at=question.due, workflow=company.flow)
        assert ticked.outcome is not None, ticked.error
        info = (await orchestra.info("t")).teams["operations"].teams["fraud"]
    assert info.results["scorer"].output == "no"


@pytest.mark.parametrize("word", ["supply", "stop", "abort"])
async def test_a_decision_about_an_inner_task_is_taken_at_the_top(database: str, word: str) -> None:
    company = Company({"scorer": fails}, teams={"fraud": {"people": People(unable=True)}})
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(company.flow, "go", thread_id="t"))
        (question,) = outcome.questions
        assert (question.kind, question.place) == ("unable", "operations/fraud/scorer")
        answer = {"do": word, "output": "by hand"} if word == "supply" else word
        outcome = await (await orchestra.answer("t", answer, workflow=company.flow))
        inside = (await orchestra.info("t")).teams["operations"]
    scorer = inside.teams["fraud"].results["scorer"]
    assert (scorer.output, scorer.status) == (("by hand", "succeeded") if word == "supply" else (None, "failed"))
    assert inside.results["fraud"].ok == (word == "supply")
    assert company.ran["judge"] == (word == "supply")
    assert inside.results["ledger"].ok, "what was finished stays"
    assert company.ran["scorer"] == company.ran["ledger"] == 1


# Health


async def test_the_health_of_an_inner_agent_is_told_with_its_path(database: str) -> None:
    company = Company({"scorer": fails}, agents={"scorer": {"breaker": Breaker(failures=1)}})
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(company.flow, "go")
        await run
    (changed,) = kinds(run.seen, HealthChanged)
    assert (changed.path, changed.agent, changed.change.after) == (FRAUD, "scorer", "open")
    (sick,) = [agent for agent in run.status().agents if agent.state == "sick"]
    assert sick.name == "operations/fraud/scorer"
    assert "no data" in sick.why


async def test_a_team_that_is_open_gets_no_work_and_another_steps_in(database: str) -> None:
    company = Company({"bad": fails})
    first = Agent(
        "a", Workflow("first", agents=[company.worker("bad")]), capabilities="check", breaker=Breaker(failures=2)
    )
    second = Agent("b", Workflow("second", agents=[company.worker("good")]), capabilities="check")
    plan = Plan(tasks=tuple(Task(id=f"t{i}", capability="check", needs=(f"t{i - 1}",) if i else ()) for i in range(4)))
    planner = Planned()
    planner.plan = lambda request, **_: plan  # type: ignore[method-assign]
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(Workflow("w", agents=[first, second], planner=planner), "go")
        outcome = await run
    tried = [[attempt.agent for attempt in outcome.results[f"t{i}"].attempts] for i in range(4)]
    assert tried == [["a", "b"], ["a", "b"], ["b"], ["b"]]
    assert all(result.output == "good" for result in outcome.results.values())
    opened = [event for event in kinds(run.seen, HealthChanged) if event.change.after == "open"]
    assert [(event.path, event.agent) for event in opened] == [((), "a")]


# Claims


class Report(BaseModel):
    claims: list[Claim]


def claiming(name: str, value: int, confidence: float) -> Agent:
    async def run(task: Assignment) -> Report:
        return Report(claims=[Claim(subject="loss", attribute="euros", value=value, confidence=confidence)])

    return Agent(name, run)


async def test_claims_are_settled_inside_a_team_and_what_it_claims_outside(database: str) -> None:
    async def told(task: Assignment) -> Report:
        (resolution,) = task.resolutions
        assert resolution.winner is not None
        return Report(claims=[resolution.conflict.sides[resolution.winner].held[0].claim])

    three = [claiming("x", 100, 0.9), claiming("y", 200, 0.2), Agent("sum", told)]
    inner = Workflow("inner", agents=three, settle=[ByConfidence()]).add_edge(["x", "y"], "sum")
    deep = Agent("deep", Workflow("middle", agents=[Agent("team", inner)]))

    async def reader(task: Assignment) -> str:
        return "read"

    flow = Workflow("w", agents=[deep, claiming("other", 300, 0.9), Agent("reader", reader)], settle=[AskPerson()])
    flow.add_edge(["deep", "other"], "reader")
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(flow, "go", thread_id="t")
        outcome = await run
        inside = next(event for event in kinds(run.seen, ClaimsSettled) if event.task)
        assert (inside.path, inside.task, inside.resolution.policy) == (("deep", "team"), "sum", "confidence")
        (question,) = outcome.questions
        assert (question.kind, question.place) == ("conflict", "reader")
        assert "100" in question.text
        outcome = await (await orchestra.answer("t", question.options[0], workflow=flow))
    assert outcome.state is RunState.DONE
    assert [each.by for each in outcome.results["reader"].resolutions] == ["a person"]


async def test_a_person_can_have_a_team_try_again(database: str) -> None:
    broken = [True]
    company = Company({"scorer": lambda task: fails(task) if broken else None})
    team = Agent("team", Workflow("inner", agents=[company.worker("scorer")]))
    flow = Workflow("w", agents=[team], people=People(unable=True))
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(flow, "go", thread_id="t"))
        outcome = await (await orchestra.answer("t", "retry", workflow=flow))
        assert outcome.state is RunState.WAITING
        broken.clear()
        outcome = await (await orchestra.answer("t", "retry", workflow=flow))
    assert (outcome.state, outcome.answer) == (RunState.DONE, "scorer")
    assert company.ran["scorer"] == 3
