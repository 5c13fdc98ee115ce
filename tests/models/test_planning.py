"""Planning and reviewing by a model, through workflows: what is wrong with a plan, who stands in, and where it ends."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI

from orchestra import (
    Agent,
    Assignment,
    Judgement,
    ModelPlanner,
    ModelReviewer,
    Orchestra,
    PlanError,
    RunState,
    Status,
    Workflow,
    agent,
)
from orchestra.events import PlanReady, TaskStarted, WorkReviewed
from orchestra.models.profiles import forget_profiles
from tests.fakes import Fake, Fault, Request

CLIENT = {"http_client": openai.DefaultHttpxClient(verify=False)}
PLANNING, REVIEWING = "You plan the work", "You check the work"


@pytest.fixture(autouse=True)
def strangers() -> None:
    """Every endpoint is a new one."""
    forget_profiles()


def chat(url: str, **options: Any) -> ChatOpenAI:
    mine = {"http_async_client": openai.DefaultAsyncHttpxClient(verify=False)}
    defaults = {"base_url": url, "api_key": "sk-secret", "model": "m", "max_retries": 0, "timeout": 20}
    return ChatOpenAI(**defaults | CLIENT | mine | options)


class Team:
    """alpha, beta and gamma count their calls, and say what they got."""

    def __init__(self) -> None:
        self.calls = Counter[str]()
        self.gates: dict[str, asyncio.Event] = {}
        self.says: dict[str, Any] = {}

    def agent(self, name: str) -> Agent:
        async def run(task: Assignment) -> Any:
            self.calls[task.task.id] += 1
            if task.task.id in self.gates:
                await self.gates[task.task.id].wait()
            if name in self.says:
                return self.says[name]
            return f"{task.task.id}({','.join(task.inputs[need] for need in sorted(task.inputs))})"

        return Agent(name, run, capabilities=[f"{name}_work"], description=f"Does what {name} does.")

    def workflow(self, **options: Any) -> Workflow:
        return Workflow("w", agents=[self.agent(name) for name in ("alpha", "beta", "gamma")], **options)


@pytest.fixture
def team() -> Team:
    return Team()


def task(name: str, agent: str | None, *needs: str, does: str = "") -> dict[str, Any]:
    return {"id": name, "instruction": does or f"Do {name}.", "agent": agent, "needs": [*needs]}


def draft(*tasks: dict[str, Any]) -> dict[str, Any]:
    return {"tasks": [*tasks]}


def verdict(*added: dict[str, Any], answered: bool = False, missing: str = "more") -> dict[str, Any]:
    lines = [] if answered else [missing]
    return {"answered": answered, "missing": lines, "contradictions": [], "plan": draft(*added) if added else None}


def to(fake: Fake, who: str) -> list[Request]:
    return [each for each in fake.requests if who in each.texts[0]]


async def run(flow: Workflow) -> dict[str, Any]:
    return await flow.compile().ainvoke({"request": "Compare the two."})


def shape(plan: Any) -> dict[str, tuple[str | None, tuple[str, ...]]]:
    return {each.id: (each.agent, each.needs) for each in plan.tasks}


# Plans

GOOD = draft(task("one", "alpha"), task("two", "beta"), task("both", "gamma", "one", "two"))


async def test_a_sound_plan_is_carried_out_as_it_is(fake: Fake, team: Team) -> None:
    fake.when(PLANNING, GOOD)
    state = await run(team.workflow(planner=ModelPlanner(chat(fake.url))))
    plan = state["plan"]
    assert shape(plan) == {"one": ("alpha", ()), "two": ("beta", ()), "both": ("gamma", ("one", "two"))}
    assert (plan.made_by, plan.repairs) == ("m", ())
    assert (plan.usage.calls, plan.usage.estimated) == (1, False)
    assert plan.usage.input_tokens > 100 > plan.usage.output_tokens > 10
    assert state["answer"] == "both(one(),two())"
    (request,) = fake.requests
    for name in ("alpha", "beta", "gamma"):
        assert f"- {name}: Does what {name} does. (can do: {name}_work)" in request.texts[0]
    assert "Compare the two." in request.texts[-1]


WRONG = {
    "cycle": (draft(task("one", "alpha", "two"), task("two", "beta", "one")), {"circle", "one", "two"}, [[], [0]]),
    "needs itself": (draft(task("one", "alpha", "one")), {"one"}, [[]]),
    "unknown need": (draft(task("one", "alpha", "zero")), {"one", "zero"}, [[]]),
    "need that names an agent": (
        draft(task("one", "alpha"), task("two", "beta", "alpha")),
        {"two", "'alpha', which is an agent", "one"},
        [[], [0]],
    ),
    "one id twice": (
        draft(task("one", "alpha"), task("one", "beta", does="Do more."), task("two", "gamma", "one")),
        {"one", "twice"},
        [[], [], [0]],
    ),
    "one work twice": (
        draft(task("one", "alpha", does="Look."), task("two", "alpha", does="Look."), task("end", "gamma", "two")),
        {"one", "two"},
        [[], [0]],
    ),
    "too large": (
        draft(*(task(f"t{i}", "alpha", does=f"Do part {i} of it.") for i in range(5))),
        {"5 tasks", "4"},
        [[], [], [], []],
    ),
    "unknown agent": (
        draft(task("one", "delta", does="Do what alpha does.")),
        {"one", "no agent", "delta", "alpha"},
        [[]],
    ),
    "says nothing": (
        draft(task("one", "alpha"), {"id": "two", "instruction": " ", "agent": None, "needs": []}),
        {"two", "instruction"},
        [[]],
    ),
    "no id": (draft(task("", "alpha", does="Look.")), {"number 1"}, [[]]),
}
"""What a complaint has to name, and whom each task needs once the draft is repaired."""


@pytest.mark.parametrize(("wrong", "named", "mended"), WRONG.values(), ids=WRONG)
class TestAWrongPlan:
    async def test_is_complained_of_once_in_plain_words(
        self, fake: Fake, team: Team, wrong: Any, named: set[str], mended: Any
    ) -> None:
        fake.when(PLANNING, [wrong, GOOD])
        state = await run(team.workflow(planner=ModelPlanner(chat(fake.url)), max_tasks=4))
        assert shape(state["plan"]) == shape_of(GOOD)
        assert (state["plan"].made_by, state["plan"].repairs) == ("m", ())
        assert state["plan"].usage.calls == 2
        first, second = fake.requests
        assert second.texts[: len(first.texts)] == first.texts
        told = second.texts[-1]
        assert told.startswith("This plan can't be carried out:\n- ")
        assert {each for each in named if each not in told} == set()
        assert not any(word in told for word in ("Error", "pydantic", "validat", "Traceback", "{"))

    async def test_is_repaired_if_it_stays_wrong(
        self, fake: Fake, team: Team, wrong: Any, named: set[str], mended: Any
    ) -> None:
        fake.when(PLANNING, wrong)
        state = await run(team.workflow(planner=ModelPlanner(chat(fake.url)), max_tasks=4))
        assert len(fake.requests) == 2
        tasks = state["plan"].tasks
        places = {each.id: place for place, each in enumerate(tasks)}
        assert [[places[need] for need in each.needs] for each in tasks] == mended
        assert state["plan"].made_by == "m"
        assert state["plan"].repairs
        assert all(result.ok for result in state["results"].values())


def shape_of(raw: dict[str, Any]) -> Any:
    return {each["id"]: (each["agent"], tuple(each["needs"])) for each in raw["tasks"]}


async def test_a_plan_that_the_agents_signatures_refuse_is_complained_of_too(fake: Fake, team: Team) -> None:
    @agent
    async def adder(number: int) -> int:
        """Add one."""
        return number + 1

    @agent
    async def source(task: Assignment) -> int:
        """Tell a number."""
        return 1

    right = draft(task("get", "source"), task("add", "adder", "get"))
    fake.when(PLANNING, [draft(task("add", "adder")), right])
    state = await run(Workflow("w", agents=[adder, source], planner=ModelPlanner(chat(fake.url))))
    assert state["answer"] == "2"
    assert "nobody produces int" in fake.requests[1].texts[-1]


# Nobody to plan


async def test_garbage_falls_back_to_the_edges(fake: Fake, team: Team) -> None:
    fake.when(PLANNING, "I would rather not make a plan.")
    flow = team.workflow(planner=ModelPlanner(chat(fake.url))).add_edge("alpha", "beta").add_edge("beta", "gamma")
    state = await run(flow)
    assert shape(state["plan"]) == {"alpha": ("alpha", ()), "beta": ("beta", ("alpha",)), "gamma": ("gamma", ("beta",))}
    assert state["plan"].made_by == "edges"
    (why,) = state["plan"].repairs
    assert why.startswith("the model m made no plan: ")
    assert why.endswith("; so the plan follows from the edges")
    assert state["plan"].usage.calls == len(fake.requests) == 2
    assert state["answer"] == "gamma(beta(alpha()))"


async def test_a_plan_without_tasks_falls_back_to_the_types(fake: Fake, team: Team) -> None:
    fake.when(PLANNING, draft())
    state = await run(team.workflow(planner=ModelPlanner(chat(fake.url))))
    assert state["plan"].made_by == "types"
    assert "The plan has no task." in state["plan"].repairs[0]
    assert set(shape(state["plan"])) == {"alpha", "beta", "gamma"}


def closed() -> str:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{place.getsockname()[1]}/v1"


async def test_no_model_at_all(team: Team) -> None:
    model = chat(closed())
    flow = team.workflow(planner=ModelPlanner(model), reviewer=ModelReviewer(model)).add_edge("alpha", "beta")
    state = await run(flow)
    assert state["plan"].made_by == "edges"
    assert "Connection error" in state["plan"].repairs[0]
    assert "alpha" in state["answer"]
    (judgement,) = state["plan"].judgements
    assert judgement.missing[0].startswith("not reviewed: ")
    assert "Connection error" in judgement.missing[0]


async def test_without_a_plan_of_its_own_the_workflow_says_so_and_nothing_runs(fake: Fake, database: str) -> None:
    calls = Counter[str]()

    @agent
    async def adder(number: int) -> int:
        calls["adder"] += 1
        return number + 1

    fake.when(PLANNING, "no")
    async with Orchestra(database) as orchestra:
        flow = Workflow("w", agents=[adder], planner=ModelPlanner(chat(fake.url)))
        with pytest.raises(PlanError, match=r"the model m made no plan.*Nor does the workflow itself have one"):
            await orchestra.start(flow, "Go.", thread_id="t")
    assert not calls


async def test_a_start_returns_with_the_plan(fake: Fake, team: Team, database: str) -> None:
    fake.when(PLANNING, GOOD)
    fake.latency(per_token=(0.005, 0))
    async with Orchestra(database) as orchestra:
        going = await orchestra.start(team.workflow(planner=ModelPlanner(chat(fake.url))), "Go.", thread_id="t")
        assert any(isinstance(event, PlanReady) for event in going.seen)
        await going


async def test_what_planning_took_to_get_right_is_on_record(fake: Fake, team: Team, database: str) -> None:
    """As it is for an attempt: which answers could not be used, and why."""
    fake.when(PLANNING, ["nonsense", WRONG["cycle"][0], GOOD])
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(team.workflow(planner=ModelPlanner(chat(fake.url))), "Go.", thread_id="t"))
        info = await orchestra.info("t")
    assert info.plan is not None
    assert info.plan.usage.calls == 3
    kept = info.plan.model_dump_json()
    assert "circle" in kept
    assert "broken" in kept


async def test_a_run_that_is_drained_goes_on_by_the_same_plan(fake: Fake, team: Team, database: str) -> None:
    fake.when(PLANNING, draft(task("one", "alpha"), task("two", "beta", "one")))
    team.gates["one"] = asyncio.Event()
    flow = team.workflow(planner=ModelPlanner(chat(fake.url)))
    async with Orchestra(database) as orchestra:
        going = await orchestra.start(flow, "Go.", thread_id="t")
        async for event in going.events():
            if isinstance(event, TaskStarted):
                break
        going.drain()
        team.gates["one"].set()
        assert (await going).state is RunState.STOPPED
        plan = (await orchestra.info("t")).plan
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.resume("t", workflow=flow))
    assert outcome.answer == "two(one())"
    assert outcome.plan == plan
    assert team.calls == {"one": 1, "two": 1}
    assert len(fake.requests) == 1


# Reviews


def reviewed(fake: Fake, team: Team, **options: Any) -> Workflow:
    fake.when(PLANNING, draft(task("first", "alpha")))
    return team.workflow(planner=ModelPlanner(chat(fake.url)), reviewer=ModelReviewer(chat(fake.url), **options))


async def test_what_is_missing_becomes_tasks_that_get_what_was_done(fake: Fake, team: Team, database: str) -> None:
    fake.when(REVIEWING, [verdict(task("more", "beta", "first"), task("end", "gamma", "more")), verdict(answered=True)])
    async with Orchestra(database) as orchestra:
        going = await orchestra.start(reviewed(fake, team), "Go.")
        outcome = await going
    plan = outcome.plan
    assert plan is not None
    assert shape(plan) == {
        "first": ("alpha", ()),
        "round1.more": ("beta", ("first",)),
        "round1.end": ("gamma", ("round1.more",)),
    }
    assert plan.judgements == (
        Judgement(answered=False, missing=("more",), added=("round1.more", "round1.end"), by="m"),
        Judgement(answered=True, by="m"),
    )
    assert outcome.answer == "round1.end(round1.more(first()))"
    assert plan.usage.calls == 3
    assert team.calls == {"first": 1, "round1.more": 1, "round1.end": 1}
    assert [event.judgement for event in going.seen if isinstance(event, WorkReviewed)] == [*plan.judgements]
    assert '<data source="round1.end">\nround1.end(round1.more(first()))\n</data>' in to(fake, REVIEWING)[1].texts[-1]


async def test_a_reviewer_that_is_never_content_is_asked_a_bounded_number_of_times(fake: Fake, team: Team) -> None:
    names = ["red", "green", "blue", "white", "black"]
    fake.when(REVIEWING, [verdict(task(name, "beta", does=f"Paint it {name}.")) for name in names])
    state = await run(reviewed(fake, team, rounds=2))
    assert [*state["results"]] == ["first", "round1.red", "round2.green"]
    assert [each.added for each in state["plan"].judgements] == [("round1.red",), ("round2.green",), ()]
    assert len(to(fake, REVIEWING)) == 3
    assert "The review of this work found:\n- missing: more" in state["answer"]


async def test_two_rounds_that_bring_nothing_new_are_the_last(fake: Fake, team: Team) -> None:
    names = ["red", "green", "blue", "white", "black"]
    fake.when(REVIEWING, [verdict(task(name, "beta", does=f"Paint it {name}.")) for name in names])
    team.says = {"alpha": "nothing found", "beta": "Nothing  found"}
    state = await run(reviewed(fake, team, rounds=5))
    assert [*state["results"]] == ["first", "round1.red", "round2.green"]
    assert len(to(fake, REVIEWING)) == 2


async def test_what_was_done_already_is_not_done_again(fake: Fake, team: Team) -> None:
    fake.when(REVIEWING, verdict(task("again", "alpha", does="Do first.")))
    state = await run(reviewed(fake, team))
    assert [*state["results"]] == ["first"]
    assert team.calls == {"first": 1}
    assert len(to(fake, REVIEWING)) == 1
    assert [each.answered for each in state["plan"].judgements] == [False]
    assert "- missing: more" in state["answer"]


async def test_an_empty_result_is_a_result(fake: Fake, team: Team) -> None:
    fake.when(REVIEWING, verdict(answered=True))
    team.says = {"alpha": []}
    state = await run(reviewed(fake, team))
    assert state["answer"] == "[]"
    assert state["results"]["first"].status is Status.SUCCEEDED
    (request,) = to(fake, REVIEWING)
    assert '<data source="first">\n[]\n</data>' in request.texts[-1]
    assert "don't ask for it again" in request.texts[0]


async def test_a_judgement_that_the_request_is_answered_adds_nothing(fake: Fake, team: Team) -> None:
    fake.when(REVIEWING, verdict(task("more", "beta"), answered=True))
    state = await run(reviewed(fake, team))
    assert [*state["results"]] == ["first"]


@pytest.mark.parametrize("down", [Fault.server_error(400), "no JSON"], ids=["rejects", "garbage"])
async def test_the_work_stands_without_a_review(fake: Fake, team: Team, down: Any) -> None:
    fake.when(REVIEWING, down)
    state = await run(reviewed(fake, team))
    assert state["answer"].startswith("first()")
    (judgement,) = state["plan"].judgements
    assert judgement.missing[0].startswith("not reviewed: ")
    assert judgement.added == ()


async def test_a_review_that_fails_later_keeps_what_the_first_one_added(fake: Fake, team: Team) -> None:
    fake.when(REVIEWING, [verdict(task("more", "beta", "first")), Fault.server_error(400), Fault.server_error(400)])
    state = await run(reviewed(fake, team))
    assert state["answer"].startswith("round1.more(first())")
    assert [bool(each.missing) for each in state["plan"].judgements] == [True, True]


async def test_added_tasks_that_make_no_sense_are_mended_or_left(fake: Fake, team: Team) -> None:
    odd = [task("more", "alpha", "first", "nowhere"), task("loop", "beta", "loop")]
    fake.when(REVIEWING, [verdict(*odd), verdict(answered=True)])
    state = await run(reviewed(fake, team))
    added = {"round1.more": ("alpha", ("first",)), "round1.loop": ("beta", ())}
    assert shape(state["plan"]) == {"first": ("alpha", ()), **added}
    assert all(result.ok for result in state["results"].values())


@pytest.mark.parametrize("at", ["round1.more", "round1.end"])
async def test_added_tasks_survive_a_stop(fake: Fake, team: Team, database: str, at: str) -> None:
    """Drained amid the first of them, or cut off amid the second."""
    fake.when(REVIEWING, [verdict(task("more", "beta", "first"), task("end", "gamma", "more")), verdict(answered=True)])
    flow = reviewed(fake, team)
    team.gates[at] = asyncio.Event()
    async with Orchestra(database) as orchestra:
        going = await orchestra.start(flow, "Go.", thread_id="t")
        async for event in going.events():
            if isinstance(event, TaskStarted) and event.task == at:
                break
        if at == "round1.more":
            going.drain()
            team.gates[at].set()
            assert (await going).state is RunState.STOPPED
        else:
            await going.cancel()
            team.gates[at].set()
        info = await orchestra.info("t")
        assert info.state is RunState.STOPPED
        assert info.plan is not None
        assert [each.added for each in info.plan.judgements] == [("round1.more", "round1.end")]
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.resume("t", workflow=flow))
    assert outcome.state is RunState.DONE
    assert outcome.answer == "round1.end(round1.more(first()))"
    assert team.calls == {"first": 1, "round1.more": 1, "round1.end": 1 if at == "round1.more" else 2}
    assert len(to(fake, PLANNING)) == 1
    assert len(to(fake, REVIEWING)) == 2
    assert outcome.plan is not None
    assert outcome.plan.usage.calls == 3


async def test_a_branch_at_an_added_task_keeps_what_the_review_added(fake: Fake, team: Team, database: str) -> None:
    """What is run again, or put in by a person, is not dropped because a review had added it."""
    fake.when(REVIEWING, [verdict(task("more", "beta", "first"), task("end", "gamma", "more")), verdict(answered=True)])
    flow = reviewed(fake, team)
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(flow, "Go.", thread_id="t"))
        last = (await orchestra.history("t"))[-1]
        branch = await orchestra.fork("t", at=last, results={"round1.more": "put in"}, workflow=flow)
        assert (await branch).answer == "round1.end(put in)"
        branch = await orchestra.fork("t", at=last, again="round1.more", workflow=flow)
        assert (await branch).answer == "round1.end(round1.more(first()))"
    assert team.calls == {"first": 1, "round1.more": 2, "round1.end": 3}
