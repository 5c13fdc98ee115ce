"""Contradictions that a person settles, and what becomes of what was settled when a run is cut off or goes on anew."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from langgraph.types import Command

from orchestra import (
    Agent,
    Arbiter,
    AskPerson,
    Claim,
    Conflict,
    Orchestra,
    Outcome,
    Prefer,
    RequestError,
    RunState,
    Verdict,
    Workflow,
)
from tests.fakes import Fake
from tests.fault.nursery import nursery
from tests.integration.newsroom import THREAD, Finding, Newsroom, flow_of, killing, late, revenue

HOUR = timedelta(hours=1)


@pytest.fixture
def room() -> Newsroom:
    return Newsroom()


# -- a person decides


async def open_of(orchestra: Orchestra, flow: Workflow) -> Outcome:
    return await (await orchestra.start(flow, "go", thread_id="t"))


def meeting(room: Newsroom, settle: Sequence[Any], **more: Any) -> Workflow:
    """`late` needs more than `early` does, comes before it in the plan, and meets the same conflict later."""

    async def pause() -> None:
        await asyncio.sleep(0.05)

    agents = [room.says("a", 5), room.says("b", 7), room.reads("slow", pause), room.reads("late"), room.reads("early")]
    edges = [(["a", "b", "slow"], "late"), (["a", "b"], "early")]
    return flow_of(*edges, agents=[*agents, *more.pop("agents", [])], settle=settle, **more)


OPEN = "a person: nobody answered, or leaves it open; there is no further policy"
ANSWERS: dict[str, tuple[Any, str, str, bool]] = {
    "an option": ("7", "a=[7] b=[7]", "a person chose it", True),
    "an option as a value": ({"value": 7, "why": "I was there"}, "a=[7] b=[7]", "I was there", True),
    "another value": ({"value": 6}, "a=[6] b=[6]", "a person said so", True),
    "no value at all": ({"value": float("inf")}, "a=[5] b=[7]", OPEN, False),
    "nothing": (None, "a=[5] b=[7]", OPEN, False),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_a_person_is_asked_once_and_the_rest_goes_on_meanwhile(case: str, room: Newsroom, database: str) -> None:
    answer, output, reason, settled = ANSWERS[case]
    flow = meeting(room, [AskPerson()], agents=[room.reads("aside")])
    async with Orchestra(database) as orchestra:
        outcome = await open_of(orchestra, flow)
        (question,) = outcome.questions
        assert (outcome.state, question.kind, question.options) == (RunState.WAITING, "conflict", ("5", "7"))
        assert question.known["conflict"]["sides"][1]["held"][0]["agent"] == "b"
        assert outcome.results["aside"].ok
        outcome = await (await orchestra.answer("t", answer, workflow=flow))
    assert (outcome.state, outcome.questions) == (RunState.DONE, ())
    assert {outcome.results[name].output for name in ("late", "early")} == {output, f"{output} slow="}
    for result in (outcome.results["late"], outcome.results["early"]):
        (resolution,) = result.resolutions
        assert (resolution.settled, resolution.reason) == (settled, reason)
    assert max(room.calls.values()) == 1


async def test_what_a_person_leaves_open_stays_open_though_another_question_comes_between(
    room: Newsroom, database: str
) -> None:
    flow = meeting(room, [AskPerson()], agents=[room.reads("other")])
    flow.add_approval("other", before=True)
    async with Orchestra(database) as orchestra:
        outcome = await open_of(orchestra, flow)
        by_kind = {question.kind: question.id for question in outcome.questions}
        outcome = await (await orchestra.answer("t", None, by_kind["conflict"], workflow=flow))
        assert [question.kind for question in outcome.questions] == ["approval"]
        outcome = await (await orchestra.answer("t", "approve", workflow=flow))
    assert outcome.state is RunState.DONE
    assert outcome.answer is not None
    assert "not settled" in outcome.answer


async def test_an_answer_to_something_else_does_not_ask_again(room: Newsroom, database: str) -> None:
    flow = meeting(room, [AskPerson()], agents=[room.reads("other")])
    flow.add_approval("other", before=True)
    async with Orchestra(database) as orchestra:
        outcome = await open_of(orchestra, flow)
        (conflict,) = [question for question in outcome.questions if question.kind == "conflict"]
        for _ in range(2):  # a resume without an answer asks nothing new either
            outcome = await (await orchestra.resume("t", workflow=flow))
            assert len(outcome.questions) == 2
        outcome = await (await orchestra.answer("t", "approve", "other", workflow=flow))
        assert [question.id for question in outcome.questions] == [conflict.id]
        outcome = await (await orchestra.answer("t", "7", workflow=flow))
    assert (outcome.state, outcome.results["late"].output) == (RunState.DONE, "a=[7] b=[7] slow=")
    assert max(room.calls.values()) == 1


@pytest.mark.parametrize(
    "wrong",
    ["8", 9, {"value": None}, {"value": ["7"]}, {"why": "x"}, {"value": "7", "by": "me"}],
)
async def test_a_wrong_answer_is_refused_and_the_question_stays_open(wrong: Any, room: Newsroom, database: str) -> None:
    flow = meeting(room, [AskPerson()])
    async with Orchestra(database) as orchestra:
        outcome = await open_of(orchestra, flow)
        with pytest.raises(RequestError, match="no answer to question"):
            await orchestra.answer("t", wrong, workflow=flow)
        assert [one.id for one in (await orchestra.info("t")).questions] == [outcome.questions[0].id]
        outcome = await (await orchestra.answer("t", "7", workflow=flow))
    assert outcome.state is RunState.DONE


@pytest.mark.parametrize(("otherwise", "policy", "holds"), [(1, "person", 7), (None, "prefer a", 5)])
async def test_a_deadline_decides_or_leaves_it_to_the_rest_of_the_chain(
    otherwise: int | None, policy: str, holds: int, room: Newsroom, database: str
) -> None:
    flow = meeting(room, [AskPerson(within=HOUR, otherwise=otherwise), Prefer("a")])
    async with Orchestra(database) as orchestra:
        outcome = await open_of(orchestra, flow)
        assert outcome.due == outcome.questions[0].due
        (ticked,) = await orchestra.tick(at=datetime.now(UTC) + 2 * HOUR, workflow=flow)
    assert ticked.outcome is not None
    assert ticked.outcome.results["early"].output == f"a=[{holds}] b=[{holds}]"
    assert ticked.outcome.results["early"].resolutions[0].policy == policy


async def test_a_person_may_be_asked_at_the_end_by_a_plain_graph_too(room: Newsroom, any_saver: Any) -> None:
    graph = late(room, [AskPerson()]).compile(checkpointer=any_saver)
    state = await graph.ainvoke({"request": "go"}, THREAD)
    (asked,) = state["__interrupt__"]
    assert room.calls == {"a": 1, "b": 1, "draft": 1, "final": 1}
    state = await graph.ainvoke(Command(resume={asked.id: {"value": "6 kg"}}), THREAD)
    assert state["results"]["final"].output == "draft=a=['6 kg']"
    assert room.calls == {"a": 1, "b": 1, "draft": 2, "final": 2}
    assert state["plan"].resolutions[0].by == "a person"


async def test_a_conflict_in_a_team_is_settled_there_and_its_output_is_compared_outside(
    room: Newsroom, database: str
) -> None:
    async def sums_up(a: Finding, b: Finding) -> Finding:
        room.calls["sums_up"] += 1
        return a

    inside = flow_of(
        (["a", "b"], "sums_up"),
        agents=[room.says("a", 5), room.says("b", 7), Agent("sums_up", sums_up)],
        settle=[AskPerson()],
    )
    agents = [Agent("team", inside), room.says("c", 9), room.reads("use")]
    flow = flow_of((["team", "c"], "use"), agents=agents, settle=[Prefer("team")])
    async with Orchestra(database) as orchestra:
        outcome = await open_of(orchestra, flow)
        assert [question.place for question in outcome.questions] == ["team/sums_up"]
        outcome = await (await orchestra.answer("t", "7", workflow=flow))
    assert outcome.results["use"].output == "c=[7] team=[7]"
    assert [lost.agent for one in outcome.results["use"].resolutions for lost in one.losers] == ["c"]
    assert max(room.calls.values()) == 1


async def test_what_a_person_puts_in_takes_part_under_no_agents_name(room: Newsroom, database: str) -> None:
    agents = [room.says("a", 5), room.says("b", 5), room.reads("use"), Agent("judge", room.judge(0).run)]
    flow = flow_of((["a", "b"], "use"), agents=agents, settle=[Prefer("a"), Arbiter("judge")])
    async with Orchestra(database) as orchestra:
        await open_of(orchestra, flow)
        run = await orchestra.fork("t", results={"a": Finding(claims=[revenue(7)])}, workflow=flow)
        outcome = await run
    (resolution,) = outcome.results["use"].resolutions
    assert {side.value: side.agents for side in resolution.conflict.sides} == {"5": {"b"}, "7": {"a person"}}
    assert resolution.policy == "arbiter judge"
    assert room.calls == {"a": 1, "b": 1, "use": 2, "judge": 1}


# -- cut off, played back, begun anew


PROGRAM = """
import asyncio
from orchestra import Orchestra
from tests.integration.newsroom import killing

async def main(database, log, moment):
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(killing(log, moment), "go", thread_id="t"))

asyncio.run(main(*argv))
"""


@pytest.mark.parametrize(
    ("moment", "calls"),
    [
        ("draft 2", {"judge": 1, "draft": 3, "final": 2}),
        ("final 2", {"judge": 1, "draft": 2, "final": 3}),
    ],
)
async def test_nothing_is_done_again_twice_after_a_kill(
    moment: str, calls: dict[str, int], database: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    child = nursery().start(PROGRAM, database, log, moment, out=tmp_path / "out")
    assert child.wait(60) == -signal.SIGKILL, child.output
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.resume("t", workflow=killing(str(log), "")))
    assert outcome.results["final"].output == "draft=a=[7]"
    assert Counter(log.read_text().split()) == {"a": 1, "b": 1, **calls}


async def test_what_an_arbiter_said_to_one_task_holds_for_another_after_a_cancel(
    room: Newsroom, any_saver: Any
) -> None:
    async def stuck() -> None:
        if room.calls["slow"] == 1:
            await asyncio.sleep(60)

    agents = [room.says("a", 5), room.says("b", 7), room.judge(1, 0), room.reads("slow", stuck)]
    edges = [(["a", "b"], "x"), (["a", "b", "slow"], "y"), ("x", "z")]
    agents += [room.reads(name) for name in "xyz"]
    graph = flow_of(*edges, agents=agents, settle=[Arbiter("judge")]).compile(checkpointer=any_saver)
    running = asyncio.create_task(graph.ainvoke({"request": "go"}, THREAD))
    while not room.calls["z"]:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    running.cancel()
    await asyncio.wait([running])
    state = await graph.ainvoke(None, THREAD)
    assert (state["results"]["x"].output, state["results"]["y"].output) == ("a=[7] b=[7]", "a=[7] b=[7] slow=")
    assert room.calls == {"a": 1, "b": 1, "x": 1, "y": 1, "z": 1, "slow": 2, "judge": 1}


async def test_a_recorded_run_with_an_arbiter_is_played_back(room: Newsroom, database: str) -> None:
    with Fake() as fake:
        fake.when("5 kg", '{"winner": 1, "reason": "it is newer"}')
        model = ChatOpenAI(model="m", base_url=fake.url, api_key="x", max_retries=0)
        judge = Agent.from_model("judge", model, "You judge.", output=Verdict)
        flow = late(room, [Arbiter("judge")], agents=[judge])
        async with Orchestra(database) as orchestra:
            outcome = await (await orchestra.start(flow, "go", thread_id="t", record=True))
            replayed = await orchestra.replay("t", workflow=flow)
        assert len(fake.requests) == 1
    assert replayed.outcome.answer == outcome.answer
    assert outcome.results["final"].output == "draft=a=['7 kg']"


async def test_an_approved_edit_takes_part(room: Newsroom, database: str) -> None:
    agents = [room.says("a", 5), room.says("b", 7), room.reads("use")]
    flow = flow_of((["a", "b"], "use"), agents=agents, settle=[Prefer("b"), Prefer("a person")])
    flow.add_approval("b")
    async with Orchestra(database) as orchestra:
        await open_of(orchestra, flow)
        edited = {"do": "edit", "output": {"claims": [revenue(6).model_dump(mode="json")]}}
        outcome = await (await orchestra.answer("t", edited, workflow=flow))
    assert outcome.results["use"].output == "a=[6] b=[6]"


async def test_an_arbiter_that_fails_before_a_person_is_asked_is_not_called_for_the_answer(
    room: Newsroom, database: str
) -> None:
    judge = room.judge(ValueError("no idea"), 0)
    flow = meeting(room, [Arbiter("judge"), AskPerson(), Prefer("a")], agents=[judge])
    async with Orchestra(database) as orchestra:
        await open_of(orchestra, flow)
        outcome = await (await orchestra.answer("t", None, workflow=flow))
    assert outcome.results["late"].resolutions == outcome.results["early"].resolutions
    assert outcome.results["late"].resolutions[0].policy == "prefer a"
    assert max(room.calls.values()) == 1


async def test_conflicts_of_one_task_are_asked_about_one_after_the_other(room: Newsroom, database: str) -> None:
    def both(revenues: int, staff: int) -> list[Claim]:
        return [revenue(revenues), Claim(subject="ACME", attribute="staff", value=staff)]

    agents = [room.reads("use"), Agent("a", lambda: both(5, 8)), Agent("b", lambda: both(7, 9))]
    flow = flow_of((["a", "b"], "use"), agents=agents, settle=[AskPerson()])
    async with Orchestra(database) as orchestra:
        outcome = await open_of(orchestra, flow)
        for answer in ("7", "8"):
            assert len(outcome.questions) == 1
            outcome = await (await orchestra.answer("t", answer, workflow=flow))
    held = [one.winning.value for one in outcome.results["use"].resolutions if one.winning]
    assert (outcome.state, held) == (RunState.DONE, [7, 8])


async def test_what_was_settled_before_a_drain_is_not_settled_again(room: Newsroom, database: str) -> None:
    async with Orchestra(database) as orchestra:
        runs: list[Any] = []

        async def judge(conflict: Conflict) -> Verdict:
            room.calls["judge"] += 1
            while not runs:
                await asyncio.sleep(0.01)
            runs[0].drain()
            return Verdict(1, "it reads well")

        flow = meeting(room, [Arbiter("judge")], agents=[Agent("judge", judge)])
        runs.append(await orchestra.start(flow, "go", thread_id="t"))
        assert (await runs[0]).state is RunState.STOPPED
        assert not room.calls["early"]
        outcome = await (await orchestra.resume("t", workflow=flow))
    assert outcome.results["early"].output == "a=[7] b=[7]"
    assert max(room.calls.values()) == 1


def test_a_plain_graph_settles_in_a_call_that_is_not_async(room: Newsroom) -> None:
    state = late(room, [Arbiter("judge")], agents=[room.judge(1)]).compile().invoke({"request": "go"})
    assert state["results"]["final"].output == "draft=a=['7 kg']"


async def test_nothing_is_done_again_in_a_run_that_was_given_up(room: Newsroom, database: str) -> None:
    flow = late(room, [Prefer("b")], agents=[room.reads("other")]).add_approval("other", before=True)
    async with Orchestra(database) as orchestra:
        await open_of(orchestra, flow)
        outcome = await (await orchestra.answer("t", "abort", workflow=flow))
    assert (outcome.results["final"].output, room.calls["final"]) == ("draft=a=['5 kg']", 1)
    assert "'7 kg' holds" in (outcome.answer or "")
