"""Work that is handed back or on: who does it, how the plan grows, where it ends, and that nothing is done twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

import openai
import pytest
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, RetryPolicy, interrupt

from orchestra import (
    Agent,
    Assignment,
    Delegate,
    Memory,
    Orchestra,
    Outcome,
    OutOfScope,
    RequestError,
    Review,
    RunState,
    Status,
    Workflow,
)
from orchestra.cli import main
from orchestra.events import FellBack, TaskAdded, TaskEnded
from orchestra.models.profiles import forget_profiles
from tests.fakes import Fake, ToolCall

QUICK = RetryPolicy(initial_interval=0.001, max_interval=0.01)
CLIENT = {"http_client": openai.DefaultHttpxClient(verify=False)}


@pytest.fixture(autouse=True)
def strangers() -> None:
    """Every endpoint is a new one."""
    forget_profiles()


def chat(fake: Fake) -> ChatOpenAI:
    mine = {"http_async_client": openai.DefaultAsyncHttpxClient(verify=False)}
    return ChatOpenAI(base_url=fake.url, api_key="sk-secret", model="m", max_retries=0, timeout=20, **CLIENT, **mine)


class Team:
    """Agents that count their calls and do what a test says; who is told nothing says its name and what it got."""

    def __init__(self) -> None:
        self.calls = Counter[str]()
        self.seen: dict[str, list[Assignment]] = {}
        self.does: dict[str, Callable[[Assignment], Awaitable[Any]]] = {}

    def agent(self, name: str, *capabilities: str, **options: Any) -> Agent:
        async def run(task: Assignment) -> Any:
            self.calls[name] += 1
            self.seen.setdefault(name, []).append(task)
            said = await self.does[name](task) if name in self.does else None
            inputs = [task.inputs[need] for need in sorted(task.inputs)]
            got = [result.output if result.ok else "nothing" for result in task.delegated]
            return f"{name}({','.join(map(str, [*inputs, *got]))})" if said is None else said

        return Agent(name, run, capabilities=capabilities or (f"{name}_work",), output=str, **options)

    def hands_on(self, name: str, capability: str | None, instruction: str = "Do it.", times: int = 1) -> None:
        """Have an agent hand on work in place of its output, so often."""

        async def act(task: Assignment) -> Any:
            return Delegate(instruction, capability=capability) if len(task.delegated) < times else None

        self.does[name] = act

    def returns(self, name: str, *said: Any) -> None:
        async def act(task: Assignment) -> Any:
            return said if len(said) > 1 else said[0]

        self.does[name] = act

    def waits(self, name: str) -> tuple[asyncio.Event, asyncio.Event]:
        """Have an agent wait, once it has what it handed on; return what tells that it does, and what ends it."""
        at_work, gate, before = asyncio.Event(), asyncio.Event(), self.does.get(name)

        async def act(task: Assignment) -> Any:
            if before is not None and (said := await before(task)) is not None:
                return said
            at_work.set()
            return await gate.wait() and None

        self.does[name] = act
        return at_work, gate


@pytest.fixture
def team() -> Team:
    return Team()


def chain(team: Team, **options: Any) -> Workflow:
    """asker -> reader; helper is there for work that is handed on, and gets a task of its own otherwise."""
    flow = Workflow("w", agents=[team.agent("asker"), team.agent("reader")], **options).add_edge("asker", "reader")
    return flow.add_agent(team.agent("helper", "helping"), backup_for="reader")


def beside(team: Team, *agents: Agent, spare: Agent | None = None, **options: Any) -> Workflow:
    """Some agents, and helper, who has no task of its own."""
    flow = Workflow("w", agents=[*agents, team.agent("other")], **options)
    return flow.add_agent(spare or team.agent("helper", "helping"), backup_for="other")


def clerk(fake: Fake, *, native: bool, **options: Any) -> Agent:
    """A model with a tool, on an endpoint that calls tools by itself, or doesn't."""

    def look(query: str) -> str:
        """Look it up."""
        return "nothing"

    fake.ignores = set() if native else {"tools"}
    fake.when("Call the tool ping.", ToolCall("ping"))
    return Agent.from_model("clerk", chat(fake), "You write.", retry=QUICK, tools=[look], **options)


async def start(database: str, flow: Workflow, **options: Any) -> Outcome:
    async with Orchestra(database) as orchestra:
        return await (await orchestra.start(flow, "Go.", thread_id="t", **options))


async def stopped_and_resumed(
    database: str, flow: Workflow, held: tuple[asyncio.Event, asyncio.Event], how: str
) -> Outcome:
    """Stop a run while an agent is at work that waits, and go on in a new handle."""
    at_work, gate = held
    async with Orchestra(database) as orchestra:
        going = await orchestra.start(flow, "Go.", thread_id="t")
        await at_work.wait()
        if how == "drain":
            going.drain()
            gate.set()
            assert (await going).state is RunState.STOPPED
        else:
            await going.cancel()
            gate.set()
    async with Orchestra(database) as orchestra:
        return await (await orchestra.resume("t", workflow=flow))


def ends(outcome: Outcome, task: str) -> list[tuple[str, str]]:
    return [(attempt.agent, attempt.outcome) for attempt in outcome.results[task].attempts]


# Out of scope


async def test_what_is_out_of_an_agents_scope_goes_to_another_that_can(team: Team, database: str) -> None:
    team.returns("first", OutOfScope("first knows nothing of it"))
    flow = Workflow("w", agents=[team.agent("first", "law"), team.agent("reader")]).add_edge("first", "reader")
    flow.add_agent(team.agent("second", "law"), backup_for="reader")
    async with Orchestra(database) as orchestra:
        outcome = await (going := await orchestra.start(flow, "Go."))
    assert outcome.answer == "reader(second())"
    assert ends(outcome, "first") == [("first", "declined"), ("second", "ok")]
    assert outcome.results["first"].attempts[0].error == "out of its scope: first knows nothing of it"
    (fell,) = [event for event in going.seen if isinstance(event, FellBack)]
    assert (fell.from_agent, fell.to_agent) == ("first", "second")
    assert "first knows nothing of it" in fell.reason


async def test_what_is_out_of_everybodys_scope_says_so(team: Team, database: str) -> None:
    for name in ("first", "second"):
        team.returns(name, OutOfScope(f"{name} knows nothing of it"))
    flow = Workflow("w", agents=[team.agent("first", "law"), team.agent("other")])
    flow.add_agent(team.agent("second", "law"), backup_for="first")
    outcome = await start(database, flow)
    result = outcome.results["first"]
    assert (result.status, outcome.state) == (Status.FAILED, RunState.FAILED)
    assert "first knows nothing of it" in (result.error or "")
    assert "second knows nothing of it" in (result.error or "")
    assert result.error in (outcome.answer or "")
    assert team.calls == {"first": 1, "second": 1, "other": 1}


@pytest.mark.parametrize("native", [True, False], ids=["by a tool", "by choice"])
@pytest.mark.parametrize("allowed", [True, False], ids=["it may", "it may not"])
async def test_a_model_finds_a_task_out_of_its_scope(
    fake: Fake, team: Team, database: str, native: bool, allowed: bool
) -> None:
    back = ToolCall("out_of_scope", {"reason": "I know no law."}) if native else {"reply": {"out_of_scope": "No law."}}
    fake.when("You are clerk, one", [back, "Guilty." if native else {"reply": {"answer": "Guilty."}}])
    one = clerk(fake, native=native, capabilities=["law"], may_decline=allowed)
    outcome = await start(database, beside(team, one, spare=team.agent("judge", "law")))
    if allowed:
        assert ends(outcome, "clerk") == [("clerk", "declined"), ("judge", "ok")]
        assert "law." in (outcome.results["clerk"].attempts[0].error or "")
    else:
        assert ends(outcome, "clerk") == [("clerk", "ok")]
        assert outcome.results["clerk"].output == "Guilty."
        assert len(outcome.results["clerk"].attempts[0].notes) == 1


# Handing on


async def test_in_place_of_an_output_the_asker_gets_what_came_of_it(team: Team, database: str) -> None:
    team.hands_on("asker", "helping", "Look it up.")
    async with Orchestra(database) as orchestra:
        outcome = await (going := await orchestra.start(chain(team), "Go.", thread_id="t"))
        info = await orchestra.info("t")
    assert outcome.answer == "reader(asker(helper()))"
    plan = outcome.plan
    assert plan is not None
    assert plan == info.plan
    added = plan.by_id["asker+1"]
    assert (added.added_by, added.capability, added.instruction) == ("asker", "helping", "Look it up.")
    assert plan.by_id["asker"].needs == ("asker+1",)
    assert plan.by_id["reader"].needs == ("asker",)
    assert outcome.results["asker+1"].output == "helper()"
    assert team.calls == {"asker": 2, "helper": 1, "reader": 1}
    assert [each.task.id for each in team.seen["helper"]] == ["asker+1"]
    assert len({each.idempotency_key for each in (*team.seen["asker"], *team.seen["helper"])}) == 2
    (told,) = [event for event in going.seen if isinstance(event, TaskAdded)]
    assert (told.task, told.added.id) == ("asker", "asker+1")
    assert [event.task for event in going.seen if isinstance(event, TaskEnded)] == ["asker+1", "asker", "reader"]


async def test_beside_an_output_whoever_needs_the_asker_gets_what_came_of_it(team: Team, database: str) -> None:
    team.returns("asker", "mine", Delegate("Look it up.", capability="helping"))
    outcome = await start(database, chain(team))
    assert team.calls == {"asker": 1, "helper": 1, "reader": 1}
    assert team.seen["reader"][0].inputs == {"asker": "mine", "asker+1": "helper()"}
    assert outcome.answer == "reader(mine,helper())"
    assert outcome.plan is not None
    assert outcome.plan.by_id["reader"].needs == ("asker", "asker+1")
    assert outcome.plan.by_id["asker"].needs == ()


async def test_beside_an_output_that_nobody_needs_it_is_part_of_the_answer(team: Team, database: str) -> None:
    team.returns("reader", "read", Delegate("Look it up.", capability="helping"))
    outcome = await start(database, chain(team))
    assert "read" in (outcome.answer or "")
    assert "helper(" in (outcome.answer or "")


async def test_the_plan_has_grown_while_the_run_goes_on(team: Team, database: str, capsys: Any) -> None:
    team.hands_on("asker", "helping")
    at_work, gate = team.waits("reader")
    async with Orchestra(database) as orchestra:
        going = await orchestra.start(chain(team), "Go.", thread_id="t")
        await at_work.wait()
        while "asker" not in (info := await orchestra.info("t")).raw:
            await asyncio.sleep(0.005)
        assert info.state is RunState.RUNNING
        assert info.plan is not None
        assert [*info.plan.by_id] == ["asker", "reader", "asker+1"]
        assert info.plan.by_id["asker"].needs == ("asker+1",)
        assert await asyncio.to_thread(main, ["runs", "show", "t", "--db", database]) == 0
        gate.set()
        await going
    assert "asker+1" in capsys.readouterr().out


@pytest.mark.parametrize("native", [True, False], ids=["by a tool", "by choice"])
async def test_a_model_hands_on_work(fake: Fake, team: Team, database: str, native: bool) -> None:
    wanted = {"instruction": "Do sums.", "capability": "helping"}
    fake.when("What came of what you handed on", "Four." if native else {"reply": {"answer": "Four."}})
    fake.when("You are clerk, one", ToolCall("delegate", wanted) if native else {"reply": {"delegate": wanted}})
    outcome = await start(database, beside(team, clerk(fake, native=native, may_delegate=True)))
    assert outcome.results["clerk"].output == "Four."
    assert ends(outcome, "clerk") == [("clerk", "ok"), ("clerk", "ok")]
    assert outcome.results["clerk+1"].output == "helper()"
    assert '<data source="clerk+1">\nhelper()\n</data>' in fake.requests[-1].texts[-1]
    assert outcome.results["clerk"].usage.calls == 3  # with the question whether it calls tools


# Bounds


@pytest.mark.parametrize(
    ("capability", "instruction", "why"),
    [
        (None, "Translate Sumerian cuneiform.", "nobody is capable"),
        ("asker_work", "Do it.", "it would come back to asker"),
    ],
    ids=["nobody can", "only the asker can"],
)
async def test_what_cannot_be_handed_on_says_why(
    team: Team, database: str, capability: str | None, instruction: str, why: str
) -> None:
    team.hands_on("asker", capability, instruction)
    outcome = await start(database, chain(team))
    failed = outcome.results["asker+1"]
    assert failed.status is Status.FAILED
    assert why in (failed.error or "")
    assert failed.error in (outcome.answer or "")
    assert outcome.results["asker"].output == "asker(nothing)"


async def test_two_agents_can_not_hand_it_to_and_fro(team: Team, database: str) -> None:
    team.hands_on("asker", "helping")
    team.hands_on("helper", "asker_work")
    outcome = await start(database, chain(team))
    assert outcome.results["asker+1"].output == "helper(nothing)"
    assert "it would come back to asker" in (outcome.results["asker+1+1"].error or "")


async def test_the_depth_is_bounded(team: Team, database: str) -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    flow = Workflow("w", agents=[team.agent("a"), team.agent("z")])
    for name, after in zip(names, [*names[1:], "z"], strict=True):
        team.hands_on(name, f"{after}_work")
        if name != "a":
            flow.add_agent(team.agent(name), backup_for="z")
    outcome = await start(database, flow)
    assert outcome.results["a"].output == "a(b(c(d(nothing))))"
    assert outcome.results["a+1+1+1+1"].status is Status.FAILED
    assert "handed on 3 times already (a -> b -> c -> d)" in (outcome.results["a+1+1+1+1"].error or "")
    assert team.calls["e"] == 0


async def test_an_agent_that_hands_on_without_end_is_stopped(team: Team, database: str) -> None:
    team.hands_on("asker", "helping", times=100)
    outcome = await start(database, chain(team))
    assert outcome.results["asker"].status is Status.FAILED
    assert "still had no output of its own" in (outcome.results["asker"].error or "")
    assert team.calls["helper"] == 4


async def test_the_number_in_a_turn_is_bounded(team: Team, database: str) -> None:
    askers = [f"asker{i}" for i in range(5)]
    for name in askers:
        team.hands_on(name, "helping")
    outcome = await start(database, beside(team, *map(team.agent, askers), max_handed_on=3))
    assert team.calls["helper"] == 3
    lost = [outcome.results[f"{name}+1"] for name in askers if not outcome.results[f"{name}+1"].ok]
    assert len(lost) == 2
    assert all("max_handed_on" in (result.error or "") for result in lost)


async def test_the_number_counts_on_after_a_stop(team: Team, database: str) -> None:
    team.hands_on("asker", "helping")
    team.hands_on("reader", "helping")
    flow = chain(team, max_handed_on=1).add_agent(team.agent("middle")).add_edge("asker", "middle")
    outcome = await stopped_and_resumed(database, flow.add_edge("middle", "reader"), team.waits("middle"), "drain")
    assert team.calls["helper"] == 1
    assert "max_handed_on" in (outcome.results["reader+1"].error or "")


# Persons, stops, branches


async def test_a_person_is_asked_by_who_works_for_another(team: Team, database: str) -> None:
    team.hands_on("asker", "helping")

    async def asks(task: Assignment) -> Any:
        return f"helped by {interrupt('who?')}"

    team.does["helper"] = asks
    flow = chain(team)
    outcome = await start(database, flow)
    assert outcome.state is RunState.WAITING
    (question,) = outcome.questions
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.resume("t", workflow=flow, answers={question.id: "Ada"}))
    assert outcome.answer == "reader(asker(helped by Ada))"
    assert team.calls == {"asker": 2, "helper": 2, "reader": 1}, "only who asked is called again"


@pytest.mark.parametrize("how", ["drain", "cancel"])
@pytest.mark.parametrize("amid", ["helper", "asker"])
async def test_nothing_is_done_twice_after_a_stop(team: Team, database: str, how: str, amid: str) -> None:
    """An agent that is drained finishes; one that is cancelled is called once more."""
    team.hands_on("asker", "helping")
    outcome = await stopped_and_resumed(database, chain(team), team.waits(amid), how)
    assert outcome.answer == "reader(asker(helper()))"
    cut_off = {amid: 1} if how == "cancel" else {}
    assert team.calls == Counter({"asker": 2, "helper": 1, "reader": 1}) + Counter(cut_off)
    assert outcome.plan is not None
    assert [*outcome.plan.by_id] == ["asker", "reader", "asker+1"]
    assert ends(outcome, "asker+1") == [("helper", "ok")]


async def test_branches_of_a_turn_with_work_handed_on(team: Team, database: str) -> None:
    team.hands_on("asker", "helping")
    flow = chain(team)
    await start(database, flow)
    async with Orchestra(database) as orchestra:

        async def fork(**how: Any) -> tuple[Outcome, set[str]]:
            before = team.calls.copy()
            outcome = await (await orchestra.fork("t", at=first, workflow=flow, **how))
            assert outcome.plan is not None
            assert [*outcome.plan.by_id] == ["asker", "reader", "asker+1"]
            return outcome, set(team.calls - before)

        first = (await orchestra.history("t"))[-1]
        outcome, called = await fork(again="reader")
        assert (outcome.answer, called) == ("reader(asker(helper()))", {"reader"})
        for task in ("asker", "asker+1"):
            outcome, called = await fork(again=task)
            assert (outcome.answer, called) == ("reader(asker(helper()))", {"asker", "helper", "reader"})
        outcome = await (await orchestra.fork("t", at=first, workflow=flow, results={"asker": "put in"}))
        assert outcome.answer == "reader(put in)"
        with pytest.raises(RequestError, match="handed on by 'asker'"):
            await orchestra.fork("t", at=first, workflow=flow, results={"asker+1": "put in"})
        del team.does["asker"]  # which hands on nothing any more
        outcome = await (await orchestra.fork("t", at=first, workflow=flow, again="asker"))
        assert outcome.answer == "reader(asker())"
        assert outcome.plan is not None
        assert [*outcome.plan.by_id] == [*outcome.results] == ["asker", "reader"]


async def test_the_next_turn_begins_anew(team: Team, database: str) -> None:
    team.hands_on("asker", "helping")
    flow = chain(team)
    await start(database, flow)
    outcome = await start(database, flow)
    assert outcome.plan is not None
    assert [*outcome.plan.by_id] == ["asker", "reader", "asker+1"]
    assert team.calls == {"asker": 4, "helper": 2, "reader": 2}


# Beside other features


async def test_an_author_under_review_hands_on_in_every_round(team: Team, database: str) -> None:
    team.hands_on("asker", "helping")
    rounds = Counter[str]()

    async def judge(task: Assignment) -> Review:
        rounds["judge"] += 1
        return Review(approved=rounds["judge"] == 2, reasons=("shorter",))

    flow = chain(team).add_agent(Agent("judge", judge)).add_review("asker", by="judge", rounds=1)
    outcome = await start(database, flow)
    assert outcome.answer == "reader(asker(helper()))"
    assert outcome.plan is not None
    assert {"asker+1", "asker+2"} <= outcome.plan.by_id.keys()
    assert outcome.results["asker+2"].ok


async def test_a_team_hands_on_inside_itself(team: Team, database: str) -> None:
    team.hands_on("asker", "helping")
    flow = Workflow("outer", agents=[Agent("crew", chain(team)), team.agent("last")]).add_edge("crew", "last")
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "Go.", thread_id="t"))
        info = await orchestra.info("t")
    assert outcome.answer == "last(reader(asker(helper())))"
    inner = info.teams["crew"].plan
    assert inner is not None
    assert "asker+1" in inner.by_id


class Own(TypedDict):
    mark: str
    help: str


@pytest.mark.parametrize("stops", [False, True], ids=["in one go", "with a question in between"])
async def test_what_is_written_beside_outputs_survives(team: Team, stops: bool) -> None:
    async def act(task: Assignment) -> Any:
        if not task.delegated:
            return Delegate("Look it up.", capability="helping")
        said = str(interrupt("who?")) if stops else "Ada"
        return said, Command(update={"mark": "by asker"})

    async def helps(task: Assignment) -> Any:
        task.remember("colour", "green")
        return "helped", Command(update={"help": "by helper"})

    team.does |= {"asker": act, "helper": helps}
    store = InMemoryStore()
    graph = chain(team, state_schema=Own).compile(checkpointer=InMemorySaver(), store=store)
    place: Any = {"configurable": {"thread_id": "t", "user_id": "ada"}}
    state = await graph.ainvoke({"request": "Go."}, place)
    if stops:
        state = await graph.ainvoke(Command(resume="Ada"), place)
    assert team.calls == {"asker": 3 if stops else 2, "helper": 1, "reader": 1}
    assert state["answer"] == "reader(Ada)"
    assert (state.get("mark"), state.get("help")) == ("by asker", "by helper")
    assert team.seen["reader"][0].state == {"mark": "by asker", "help": "by helper"}
    assert [(memo.key, memo.value) for memo in await Memory(store, "ada").all()] == [("colour", "green")]


async def test_a_recorded_run_with_work_handed_on_is_played_back(fake: Fake, team: Team, database: str) -> None:
    wanted = {"instruction": "Do sums.", "capability": "helping"}
    fake.when("What came of what you handed on", {"reply": {"answer": "Four."}})
    fake.when("You are clerk, one", {"reply": {"delegate": wanted}})
    flow = beside(team, Agent.from_model("clerk", chat(fake), "You write.", retry=QUICK, may_delegate=True))
    outcome = await start(database, flow, record=True)
    asked = len(fake.requests)
    async with Orchestra(database) as orchestra:
        replayed = await orchestra.replay("t", workflow=flow)
    assert replayed.same, replayed.different
    assert replayed.calls == asked == len(fake.requests) == 2
    assert replayed.outcome.answer == outcome.answer
    assert replayed.outcome.plan == outcome.plan
