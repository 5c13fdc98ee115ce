"""A person's answer reaches the call that it is for, once, and nothing is done again for it; or a person gives up."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from pydantic import BaseModel

from orchestra import (
    Agent,
    AskPerson,
    Assignment,
    Claim,
    Delegate,
    Orchestra,
    People,
    RequestError,
    RunState,
    Task,
    ThreadBusy,
    ThreadWaiting,
    Workflow,
    ask,
)
from tests.integration.test_people import Office, asks, down, ended, office, places, through
from tests.integration.test_timers import THREAD, Planned, until

__all__ = ["office"]  # a fixture

# Each answer reaches the right call, and nothing is called twice for it


async def test_an_author_that_asks_is_approved_without_being_called_again(any_saver: Any, office: Office) -> None:
    flow = office.flow(office.agent("write", asks("who?")), "next").add_edge("write", "next").add_approval("write")
    graph = flow.compile(checkpointer=any_saver)
    for given in ({"request": "go"}, Command(resume="Ada")):
        state = await graph.ainvoke(given, THREAD)
    assert office.calls == {"write": 2}
    (asked,) = state["__interrupt__"]
    state = await graph.ainvoke(Command(resume={asked.id: {"do": "approve"}}), THREAD)
    assert state["results"]["write"].output == "got Ada"
    assert office.calls == {"write": 2, "next": 1}


async def test_an_author_that_asks_asks_again_for_rejected_work(any_saver: Any, office: Office) -> None:
    graph = office.flow(office.agent("write", asks("who?"))).add_approval("write").compile(checkpointer=any_saver)
    given: list[Any] = ["Ada", {"do": "reject", "why": "not Ada"}, "Bob", "approve"]
    state = await graph.ainvoke({"request": "go"}, THREAD)
    for each in given:
        state = await graph.ainvoke(Command(resume=each), THREAD)
    assert state["results"]["write"].output == "got Bob"
    assert office.calls == {"write": 4}


async def test_what_a_reviewer_said_stands_while_a_person_is_asked(database: str, office: Office) -> None:
    write = office.agent("write", lambda task: f"{ask('how?' if task.rejections else 'what?')} {office.calls}")
    flow = office.flow(write, office.reviewer("judge", lambda draft: "well" in draft))
    flow.add_review("write", by="judge").add_approval("write")
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, flow, "this", "well")
        assert [question.kind for question in outcome.questions] == ["approval"]
        assert office.calls == {"write": 4, "judge": 2}  # once for each question, once for each answer
        outcome = await (await orchestra.answer("t", "approve", workflow=flow))
    assert ended(outcome) == {"write": "ok"}
    assert office.calls == {"write": 4, "judge": 2}
    assert [review.approved for review in outcome.results["write"].reviews] == [False, True]


async def test_work_is_given_to_an_agent_that_asks(database: str, office: Office) -> None:
    flow = office.flow("write").add_agent(office.agent("spare", asks("who?")), backup_for="write").add_approval("write")
    first = office.agent("first", asks("first?"))
    flow.add_agent(first).add_edge("first", "write")
    async with Orchestra(database) as orchestra:
        outcome = await through(
            orchestra, flow, "early", {"do": "reassign", "agent": "spare"}, "Ada", ("approve", "write")
        )
    assert outcome.results["write"].output == "got Ada"
    assert office.calls == {"first": 2, "write": 1, "spare": 2}


async def test_several_questions_in_every_database(any_url: str, office: Office) -> None:
    await several(any_url, office, "cbda")


@pytest.mark.parametrize("order", ["abcd", "dcba", "bdac"])
async def test_several_questions_in_any_order(database: str, office: Office, order: str) -> None:
    await several(database, office, order)


async def several(url: str, office: Office, order: str) -> None:
    flow = office.flow(
        office.agent("a", asks("a?")),
        office.agent("b", asks("b?", answer=int)),
        "c",
        office.agent("d", down),
        people=People(unable=True),
    ).add_approval("c")
    answers: dict[str, Any] = {"a": "yes", "b": 3, "c": "approve", "d": "skip"}
    async with Orchestra(url) as orchestra:
        assert places(await through(orchestra, flow)) == ["a", "b", "c", "d"]
    for number, place in enumerate(order):
        before = office.calls.copy()
        async with Orchestra(url) as orchestra:  # a process of its own for each answer
            outcome = await (await orchestra.answer("t", answers[place], place, workflow=flow))
        assert places(outcome) == sorted(order[number + 1 :])
        assert office.calls - before == ({place: 1} if place in "ab" else {})
    assert ended(outcome) == {"a": "ok", "b": "ok", "c": "ok", "d": "skipped"}
    assert (outcome.results["a"].output, outcome.results["b"].output) == ("got yes", "got 3")


async def test_questions_one_after_the_other_in_one_superstep(database: str, office: Office) -> None:
    flow = office.flow(*(office.agent(name, asks(f"{name}?")) for name in "abc"))
    flow.add_edge("a", "b").add_edge("b", "c")
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, flow, "for a", "for b", "for c")
    assert [result.output for result in outcome.results.values()] == ["got for a", "got for b", "got for c"]


async def test_an_answer_is_not_given_to_somebody_elses_question(any_saver: Any, office: Office) -> None:
    flow = office.flow(*(office.agent(name, asks(f"{name}?")) for name in "abc")).add_edge("a", "b").add_edge("a", "c")
    graph = flow.compile(checkpointer=any_saver)
    await graph.ainvoke({"request": "go"}, THREAD)
    state = await graph.ainvoke(Command(resume="for a"), THREAD)
    ids = {each.value["question"]: each.id for each in state["__interrupt__"]}
    state = await graph.ainvoke(Command(resume={ids["b?"]: "for b"}), THREAD)
    assert {name: result.output for name, result in state["results"].items()} == {"a": "got for a", "b": "got for b"}


async def test_questions_in_a_team_in_a_team_are_answered_from_the_top(database: str, office: Office) -> None:
    inner = office.flow(office.agent("x", asks("x?")), "y").add_edge("x", "y").add_approval("y")
    middle = office.flow(Agent("deep", inner), "m").add_edge("deep", "m")
    flow = office.flow(Agent("team", middle), "top").add_edge("team", "top")
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, flow, ("Ada", "team/deep/x"), ("approve", "team/deep/y"))
    assert ended(outcome) == {"team": "ok", "top": "ok"}
    assert office.calls == {"x": 2, "y": 1, "m": 1, "top": 1}


async def test_approvals_in_teams_are_answered_from_the_top(database: str, office: Office) -> None:
    inner = office.flow("x", "y").add_edge("x", "y").add_approval("x", before=True).add_approval("y")
    flow = office.flow(Agent("team", office.flow(Agent("deep", inner), "m").add_edge("deep", "m")), "side")
    async with Orchestra(database) as orchestra:
        answers = [("approve", "team/deep/x"), ({"do": "reject"}, "team/deep/y"), ("approve", "team/deep/y")]
        outcome = await through(orchestra, flow, *answers)
    assert ended(outcome) == {"team": "ok", "side": "ok"}
    assert office.calls == {"side": 1, "x": 1, "y": 2, "m": 1}


async def test_work_handed_on_waits_for_its_own_approval(database: str, office: Office) -> None:
    async def run(task: Assignment) -> Any:
        office.calls["boss"] += 1
        return task.delegated[0].output if task.delegated else Delegate("pay it", capability="pay")

    flow = office.flow(Agent("boss", run, output=str), planner=Planned(Task(id="go", agent="boss")))
    flow.add_agent(office.agent("payer", capabilities=["pay"], side_effects=True)).add_approval("payer")
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, flow.add_approval("boss"), ("approve", "go+1"), ("approve", "go"))
    assert outcome.answer == "payer 1"
    assert office.calls == {"boss": 2, "payer": 1}


# Giving up, going round


async def test_abort_skips_what_has_not_begun_in_teams_too(database: str, office: Office) -> None:
    inner = office.flow("x", "y").add_edge("x", "y").add_approval("x", before=True)
    flow = office.flow(Agent("team", inner), "then", "begun", Agent("other", office.flow("late")))
    flow.add_edge("team", "then").add_edge("team", "other", optional=True)
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, flow, {"do": "abort", "why": "fire"})
    assert ended(outcome) == {"begun": "ok", "team": "failed", "then": "skipped", "other": "skipped"}
    assert office.calls == {"begun": 1}
    assert "a person aborted the run at 'x': fire" in (outcome.results["other"].error or "")


async def test_abort_is_for_the_whole_run(database: str, office: Office) -> None:
    flow = office.flow("a", "b", "c").add_edge("b", "c").add_approval("a", before=True).add_approval("b", before=True)
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, flow, ("abort", "a"))
        assert outcome.questions == ()
        assert ended(outcome) == {"a": "failed", "b": "skipped", "c": "skipped"}


async def test_after_an_abort_nobody_is_asked_what_to_do(database: str, office: Office) -> None:
    inner = office.flow("x").add_approval("x", before=True)
    flow = office.flow(Agent("team", inner), people=People(unable=True))
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, flow, "abort")
    assert (outcome.state, outcome.questions) == (RunState.FAILED, ())


async def test_what_can_do_without_a_skipped_task_runs(database: str, office: Office) -> None:
    flow = office.flow("a", "needs", "can", "after").add_approval("a", before=True)
    flow.add_edge("a", "needs").add_edge("a", "can", optional=True).add_edge("can", "after")
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, flow, {"do": "skip", "why": "not now"})
    assert ended(outcome) == {"a": "skipped", "needs": "skipped", "can": "ok", "after": "ok"}
    assert "not now" in (outcome.answer or "")


@pytest.mark.parametrize("how", ["rejected", "unable"])
async def test_a_team_does_its_work_again(database: str, office: Office, how: str) -> None:
    inner = office.flow(
        office.agent("x", lambda task: down(task) if (how, office.calls["x"]) == ("unable", 1) else None)
    )
    flow = office.flow(Agent("team", inner), people=People(unable=how == "unable"))
    async with Orchestra(database) as orchestra:
        if how == "unable":
            outcome = await through(orchestra, flow, "retry")
        else:
            outcome = await through(orchestra, flow.add_approval("team"), "reject", "approve")
    assert outcome.answer == "x 2"


@pytest.mark.parametrize("how", ["spare", "equal"])
async def test_nobody_with_an_approval_steps_in_without_it(database: str, office: Office, how: str) -> None:
    payer = office.agent("payer", side_effects=True, capabilities=["pay"])
    if how == "spare":
        flow = office.flow(office.agent("first", down)).add_agent(payer, backup_for="first")
    else:
        plan = Planned(Task(id="it", capability="pay"))
        flow = office.flow(office.agent("first", down, capabilities=["pay"]), payer, planner=plan)
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, flow.add_approval("payer"))
    assert (outcome.state, office.calls["payer"]) == (RunState.WAITING, 0)


# What lasts


def hangs_once(office: Office, name: str) -> Agent:
    async def run(task: Assignment) -> str:
        office.calls[name] += 1
        if office.calls[name] == 1:
            await asyncio.sleep(60)
        return name

    return Agent(name, run)


async def test_a_decision_survives_a_crash_of_the_work_after_it(database: str, office: Office) -> None:
    flow = Workflow("w", agents=[hangs_once(office, "pay")]).add_approval("pay", before=True)
    async with Orchestra(database) as orchestra:
        run = await (await orchestra.start(flow, "go", thread_id="t")).answer("approve")
        await until(lambda: office.calls["pay"])
        await run.cancel()
    async with Orchestra(database) as orchestra:
        assert (await orchestra.info("t")).questions == ()
        outcome = await (await orchestra.resume("t", workflow=flow))
    assert (outcome.answer, office.calls["pay"]) == ("pay", 2)


async def test_after_a_crash_the_first_decision_counts(any_saver: Any, office: Office) -> None:
    graph = Workflow("w", agents=[hangs_once(office, "pay")]).add_approval("pay", before=True)
    compiled = graph.compile(checkpointer=any_saver)
    await compiled.ainvoke({"request": "go"}, THREAD)
    running = asyncio.create_task(compiled.ainvoke(Command(resume="approve"), THREAD))
    await until(lambda: office.calls["pay"])
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    state = await graph.compile(checkpointer=any_saver).ainvoke(Command(resume="approve"), THREAD)
    assert state["answer"] == "pay"
    assert len(state["results"]["pay"].decisions) == 1


@pytest.mark.parametrize("how", ["resumed", "answered"])
async def test_a_question_outlives_a_drain(database: str, office: Office, how: str) -> None:
    go = asyncio.Event()

    async def slow(task: Assignment) -> str:
        office.calls["slow"] += 1
        await go.wait()
        return "slow"

    flow = office.flow("write", Agent("slow", slow), "next").add_edge("slow", "next").add_approval("write")
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(flow, "go", thread_id="t")
        await until(lambda: [event for event in run.seen if type(event).__name__ == "TaskWaiting"])
        run.drain()
        go.set()
        assert places(await run) == ["write"]
    async with Orchestra(database) as orchestra:
        if how == "resumed":
            outcome = await (await orchestra.resume("t", workflow=flow))
            assert places(outcome) == ["write"]
        outcome = await (await orchestra.answer("t", "approve", workflow=flow))
    assert ended(outcome) == {"write": "ok", "slow": "ok", "next": "ok"}
    assert office.calls == {"write": 1, "slow": 1, "next": 1}


async def test_a_branch_asks_anew_and_the_old_answer_is_not_for_it(database: str, office: Office) -> None:
    flow = office.flow("a", "b").add_edge("a", "b").add_approval("b")
    async with Orchestra(database) as orchestra:
        old = (await through(orchestra, flow)).questions[0]
        run = await orchestra.fork("t", again="a", workflow=flow)
        assert places(await run) == ["b"]
        with pytest.raises(RequestError, match="no open question"):
            await orchestra.resume("t", workflow=flow, answers={old.id: "approve"})
        outcome = await (await run.answer("approve"))
    assert outcome.answer == "b 2"


async def test_a_new_request_drops_a_question_only_if_told_to(database: str, office: Office) -> None:
    flow = office.flow("a").add_approval("a")
    async with Orchestra(database) as orchestra:
        old = (await through(orchestra, flow)).questions[0]
        with pytest.raises(ThreadWaiting, match="waits for an answer"):
            await orchestra.start(flow, "another", thread_id="t")
        run = await orchestra.start(flow, "another", thread_id="t", supersede=True)
        assert (await run).questions[0].id != old.id
        assert (await (await run.answer("approve"))).answer == "a 2"
        (past,) = await orchestra.turns("t")
        assert (past["ended"], past["dropped"]) == ("superseded", ["Is the work on 'a' good?"])


async def test_a_run_with_a_decision_is_played_back_up_to_the_question(database: str, office: Office) -> None:
    flow = office.flow(office.agent("a", lambda _: "a"), "b").add_edge("a", "b").add_approval("b")
    async with Orchestra(database) as orchestra:
        assert (await through(orchestra, flow, "approve", record=True)).state is RunState.DONE
        replayed = await orchestra.replay("t", workflow=flow)
    assert (replayed.same, places(replayed.outcome), {*replayed.outcome.results}) == (True, ["b"], {"a"})


def test_in_blocking_langgraph_too(office: Office) -> None:
    graph = office.flow("a", "b").add_approval("a").add_approval("b", before=True).compile(checkpointer=InMemorySaver())
    asked = {each.value["task"]: each.id for each in graph.invoke({"request": "go"}, THREAD)["__interrupt__"]}
    state = graph.invoke(Command(resume={asked["b"]: "approve"}), THREAD)
    assert [each.id for each in state["__interrupt__"]] == [asked["a"]]
    with pytest.raises(RequestError, match="choose one of approve"):
        graph.invoke(Command(resume="yes"), THREAD)
    assert graph.invoke(Command(resume={"do": "edit", "output": "mine"}), THREAD)["results"]["a"].output == "mine"
    assert office.calls == {"a": 1, "b": 1}


async def test_an_approval_inside_a_plain_graph_can_be_given(office: Office) -> None:
    team = office.flow("a").add_approval("a").compile()

    async def node(_: Any, config: RunnableConfig) -> dict[str, Any]:
        return {"answer": (await team.ainvoke({"request": "go"}, config))["answer"]}

    graph: Any = StateGraph(dict).add_node("n", node).add_edge(START, "n").compile(checkpointer=InMemorySaver())
    (asked,) = (await graph.ainvoke({"x": 1}, THREAD))["__interrupt__"]
    assert (await graph.ainvoke(Command(resume={asked.id: {"do": "approve"}}), THREAD))["answer"] == "a 1"


async def test_of_two_who_answer_at_once_one_is_refused(database: str, office: Office) -> None:
    flow = office.flow("a").add_approval("a", before=True)
    async with Orchestra(database) as one, Orchestra(database) as other:
        await through(one, flow)

        async def by(handle: Orchestra, word: str) -> bool:
            try:
                await (await handle.answer("t", word, workflow=flow))
            except (ThreadBusy, RequestError):
                return False
            return True

        assert sorted(await asyncio.gather(by(one, "approve"), by(other, "reject"))) == [False, True]
        (decision,) = (await one.info("t")).results["a"].decisions
        assert office.calls["a"] == (decision.do == "approve")


async def test_replicas_can_not_ask_and_say_so(database: str, office: Office) -> None:
    flow = office.flow(office.agent("a", asks("a?"))).add_agent(office.agent("b"), backup_for="a")
    flow.add_replicas("a", 2, quorum=2)
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, flow)
    assert outcome.questions == ()
    assert "a asked a person, which one of several at work on a task can't" in str(outcome.results["a"].error)


async def test_what_a_person_forbids_is_not_offered_again_and_nobody_else_does_it(
    database: str, office: Office
) -> None:
    inner = office.flow(office.agent("pay", side_effects=True)).add_approval("pay")
    inner.name = "inner"
    flow = Workflow("w", agents=[Agent("team", inner)], people=People(unable=True))
    flow.add_agent(office.agent("spare"), backup_for="team")
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, flow, {"do": "reject", "why": "too much"})
    assert outcome.questions == ()
    assert "a person did not permit it: too much" in str(outcome.results["team"].error)
    assert office.calls == {}


async def test_a_decision_inside_a_team_is_not_asked_for_again_after_a_crash(database: str, office: Office) -> None:
    inner = Workflow("inner", agents=[hangs_once(office, "pay")]).add_approval("pay", before=True)
    flow = Workflow("w", agents=[Agent("team", inner)])
    async with Orchestra(database) as orchestra:
        run = await (await orchestra.start(flow, "go", thread_id="t")).answer("approve")
        await until(lambda: office.calls["pay"])
        await run.cancel()
    async with Orchestra(database) as orchestra:
        assert (await orchestra.info("t")).questions == ()
        with pytest.raises(RequestError, match="no question is open"):
            await orchestra.answer("t", "reject", workflow=flow)
        outcome = await (await orchestra.resume("t", workflow=flow))
    assert (outcome.answer, office.calls["pay"]) == ("pay", 2)


class Said(BaseModel):
    claims: list[Claim]


async def test_an_abort_beside_a_contradiction_still_asks_about_it_once(database: str, office: Office) -> None:
    def claims(name: str, value: int) -> Agent:
        async def run(task: Assignment) -> Said:
            return Said(claims=[Claim(subject="x", attribute="y", value=value)])

        return Agent(name, run)

    agents = [claims("one", 1), claims("two", 2), Agent("asks", office.agent("asks", asks("who?")).run)]
    flow = Workflow("w", agents=[*agents, office.agent("pay", side_effects=True)], settle=[AskPerson()])
    flow.add_approval("pay")
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(flow, "go", thread_id="t"))
        async with asyncio.timeout(20):
            outcome = await (await orchestra.answer("t", "abort", "pay", workflow=flow))
            assert [question.kind for question in outcome.questions] == ["conflict"]
            outcome = await (await orchestra.answer("t", "1", workflow=flow))
    assert outcome.results["asks"].status == "skipped"
    assert outcome.answer is not None
