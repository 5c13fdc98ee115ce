"""Contradictions between agents: settled where information flows together, told, and done again where it came late."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver

from orchestra import (
    Agent,
    Arbiter,
    Assignment,
    ByConfidence,
    ByMajority,
    ByRecency,
    ByTrust,
    Claim,
    Conflict,
    Delegate,
    OutOfScope,
    Prefer,
    Verdict,
    Workflow,
    WorkflowError,
)
from tests.fakes import Fake
from tests.integration.newsroom import THREAD, Finding, Newsroom, flow_of, late, revenue, told


@pytest.fixture
def room() -> Newsroom:
    return Newsroom()


# -- where information flows together


async def test_inputs_carry_what_holds_and_everyone_is_told(room: Newsroom) -> None:
    seen: list[Finding] = []

    async def use(a: Finding, b: Finding, c: Finding, task: Assignment) -> str:
        seen.extend([a, b, c])
        room.given["use"].append(task)
        return "done"

    agents = [room.says("a", "5 kg"), room.says("b", "7 kg"), room.says("c", "5000 g"), Agent("use", use)]
    flow = flow_of((["a", "b", "c"], "use"), agents=agents, settle=[ByMajority()])
    state, events = await told(flow)
    assert [one.said for one in seen] == [["5 kg"], ["5 kg"], ["5000 g"]]
    (resolution,) = room.given["use"][0].resolutions
    assert (resolution.policy, resolution.reason) == ("majority", "2 of 3 agents")
    assert [(lost.task, lost.claim.value) for lost in resolution.losers] == [("b", "7 kg")]
    assert state["results"]["use"].resolutions == (resolution,)
    assert [(event.task, event.resolution) for event in events] == [("use", resolution)]  # not told again at the end
    assert state["results"]["b"].output.said == ["7 kg"]  # what it said stays on record
    assert state["answer"].startswith("done\n\nAgents contradicted each other:\n- ACME, revenue: '5 kg' holds")
    assert state["answer"].count("7 kg") == 1
    assert room.calls == {"a": 1, "b": 1, "c": 1}


DAY = {"at": date(2026, 1, 1)}
POLICIES: dict[str, tuple[Any, Any, Sequence[Any], str | None, str]] = {
    "confidence": (5, revenue(7, confidence=0.5), [ByConfidence()], "5", "confidence"),
    "trust": (5, 7, [ByTrust({"b": 2, "a": 1})], "7", "trust"),
    "recency": (revenue(5, **DAY), revenue(7, at=datetime(2026, 1, 2, tzinfo=UTC)), [ByRecency()], "7", "recency"),
    "prefer": (5, 7, [Prefer("b")], "7", "prefer b"),
    "chain": (5, 7, [ByMajority(), ByConfidence(), Prefer("use"), ByTrust({"a": 1})], "5", "trust"),
    "none can": (5, 7, [ByMajority(), ByRecency()], None, "majority, recency"),
    "none": (5, 7, [], None, "none"),
}


@pytest.mark.parametrize("case", POLICIES)
async def test_each_policy_decides_or_leaves_it_to_the_next(case: str, room: Newsroom) -> None:
    a, b, settle, holds, policy = POLICIES[case]
    agents = [room.says("a", a), room.says("b", b), room.reads("use")]
    state, _ = await told(flow_of((["a", "b"], "use"), agents=agents, settle=settle))
    (resolution,) = state["results"]["use"].resolutions
    assert resolution.policy == policy
    if holds is None:  # told, and nothing changes
        assert not resolution.settled
        assert state["results"]["use"].output == "a=[5] b=[7]"
        assert "- not settled: ACME, revenue: '5' (a) against '7' (b)" in state["answer"]
    else:
        assert state["results"]["use"].output == f"a=[{holds}] b=[{holds}]"
    assert room.calls == {"a": 1, "b": 1, "use": 1}


async def test_claims_are_found_in_an_output_that_does_not_carry_them(room: Newsroom) -> None:
    def words(name: str, text: str) -> Agent:
        async def run(task: Assignment) -> str:
            return text

        return Agent(name, run, claims=lambda output: [revenue(output.split()[-1])])

    agents = [words("a", "they made 5"), words("b", "they made 7"), room.reads("use")]
    state, _ = await told(flow_of((["a", "b"], "use"), agents=agents, settle=[Prefer("b")]))
    (resolution,) = room.given["use"][0].resolutions
    assert [lost.agent for lost in resolution.losers] == ["a"]
    assert state["results"]["use"].output == "a=they made 5 b=they made 7"  # text stays; the agent knows what lost


async def test_an_extractor_that_fails_does_not_bring_the_run_down(room: Newsroom) -> None:
    def broken(_: Any) -> list[Claim]:
        raise ValueError("no claims here")

    agents = [room.says("a", 5, claims=broken), room.says("b", 7), room.reads("use"), room.reads("beside")]
    state, _ = await told(flow_of((["a", "b"], "use"), agents=agents, settle=[Prefer("b")]))
    assert state["results"]["beside"].ok


async def test_claims_of_earlier_turns_and_of_failed_tasks_take_no_part(room: Newsroom) -> None:
    graph = Workflow("w", agents=[room.says("a", 5, 7)], settle=[]).compile(checkpointer=InMemorySaver())
    for _ in range(2):
        state = await graph.ainvoke({"request": "go"}, THREAD)
    assert (state["results"]["a"].output.said, state["plan"].resolutions) == ([7], ())


# -- a conflict that only shows at the end


async def test_what_used_the_loser_and_what_rests_on_it_is_done_again_once(room: Newsroom) -> None:
    more = [room.reads("aside"), room.reads("of_b")]
    flow = late(room, [Prefer("b")], agents=more, edges=[("b", "of_b")])
    state, events = await told(flow)
    assert room.calls == {"a": 1, "b": 1, "draft": 2, "final": 2, "aside": 1, "of_b": 1}
    assert state["results"]["final"].output == "draft=a=['7 kg']"
    (resolution,) = state["plan"].resolutions
    assert (resolution.reran, [event.task for event in events]) == (("draft", "final"), [""])
    assert [one.winning.value for one in room.given["draft"][1].resolutions] == ["7 kg"]
    assert state["answer"].count("holds") == 1


async def test_agents_with_side_effects_are_not_called_again_nor_what_only_rests_on_them(room: Newsroom) -> None:
    agents = [room.says("a", 5), room.says("b", 7), room.reads("use"), room.reads("send", side_effects=True)]
    agents += [room.reads("receipt"), room.reads("both")]
    edges = [("a", "use"), ("use", "send"), ("send", "receipt"), (["use", "receipt"], "both")]
    state, _ = await told(flow_of(*edges, agents=agents, settle=[Prefer("b")]))
    assert room.calls == {"a": 1, "b": 1, "use": 2, "send": 1, "receipt": 1, "both": 2}
    assert state["plan"].resolutions[0].reran == ("both", "use")


async def test_agents_that_contradict_anew_at_each_call_come_to_an_end(room: Newsroom) -> None:
    agents = [room.says("a", 5), room.says("b", *range(10, 20)), room.says("c", *range(20, 30)), room.reads("end")]
    flow = flow_of(("a", "b"), ("b", "c"), ("c", "end"), agents=agents, settle=[Prefer("c")])
    state, _ = await told(flow)
    assert max(room.calls.values()) == 2
    assert all(result.ok for result in state["results"].values())


async def test_who_knew_what_holds_is_not_called_again_when_another_agrees_later(room: Newsroom) -> None:
    low, high = revenue(5, confidence=0.8), revenue("5.0", confidence=1.0)
    agents = [room.says("a", low), room.says("b", revenue(7, confidence=0.1)), room.says("c", high), room.reads("use")]
    state, _ = await told(flow_of((["a", "b"], "use"), agents=agents, settle=[ByConfidence()]))
    assert room.calls["use"] == 1
    assert all(one.reran == () for one in state["plan"].resolutions)


async def test_a_rule_decides_anew_at_the_end_if_more_is_known_then(room: Newsroom) -> None:
    agents = [room.says("a", 5), room.says("b", 5), room.says("c", 7), *(room.says(name, 7) for name in "def")]
    flow = flow_of((["a", "b", "c"], "use"), agents=[*agents, room.reads("use")], settle=[ByMajority()])
    state, events = await told(flow)
    assert [(event.task, event.resolution.reason) for event in events] == [
        ("use", "2 of 3 agents"),
        ("", "4 of 6 agents"),
    ]
    assert (state["results"]["use"].output, room.calls["use"]) == ("a=[7] b=[7] c=[7]", 2)


async def test_work_that_was_handed_on_is_handed_on_once_more_by_its_asker_only(room: Newsroom) -> None:
    async def use(a: Finding, task: Assignment) -> Any:
        room.calls["use"] += 1
        return str(task.delegated[0].output) if task.delegated else Delegate("count it", "counting")

    counter = room.reads("counter", capabilities=["counting"])
    agents = [room.says("a", 5), room.says("b", 7), Agent("use", use, output=str), counter]
    state, _ = await told(flow_of(("a", "use"), agents=agents, settle=[Prefer("b")]))
    assert state["results"]["use"].output == "a=[7]"
    assert room.calls["use"] == 4
    assert room.calls["counter"] == 3  # its own task, and once for each time it was asked


# -- an agent decides


async def test_an_arbiter_is_called_once_however_many_tasks_meet_the_conflict(room: Newsroom) -> None:
    agents = [room.says("a", 5), room.says("b", 7), room.judge(1), *(room.reads(name) for name in "xyz")]
    flow = flow_of(*((["a", "b"], name) for name in "xyz"), agents=agents, settle=[ByMajority(), Arbiter("judge")])
    state, events = await told(flow)
    assert room.calls == {"a": 1, "b": 1, "x": 1, "y": 1, "z": 1, "judge": 1}
    assert {state["results"][name].output for name in "xyz"} == {"a=[7] b=[7]"}
    resolution = state["results"]["x"].resolutions[0]
    assert (resolution.policy, resolution.by, resolution.reason) == ("arbiter judge", "judge", "it reads well")
    assert "judge" not in state["results"]
    assert {event.task for event in events} == set("xyz")


@pytest.mark.parametrize("said", [ValueError("no idea"), None, 5])
async def test_where_an_arbiter_fails_the_chain_goes_on(said: Any, room: Newsroom) -> None:
    agents = [room.says("a", 5), room.says("b", 7), room.judge(said), room.reads("x"), room.reads("y")]
    edges = [(["a", "b"], "x"), (["a", "b"], "y")]
    state, _ = await told(flow_of(*edges, agents=agents, settle=[Arbiter("judge"), Prefer("a")]))
    resolution = state["results"]["x"].resolutions[0]
    assert (resolution.policy, room.calls["judge"]) == ("prefer a", 1)
    assert resolution.reason.startswith("judge: ")


async def test_an_arbiter_that_finds_it_out_of_its_scope_leaves_it_open(room: Newsroom) -> None:
    async def judge(conflict: Conflict) -> Verdict:
        room.calls["judge"] += 1
        return OutOfScope("not my field")  # type: ignore[return-value]

    agents = [room.says("a", 5), room.says("b", 7), Agent("judge", judge)]
    flow = Workflow("w", agents=agents, settle=[ByMajority(), Arbiter("judge")])
    state, _ = await told(flow)
    (resolution,) = state["plan"].resolutions
    assert (resolution.settled, room.calls["judge"]) == (False, 1)
    assert (resolution.policy, "not my field" in resolution.reason) == ("majority, arbiter judge", True)


async def test_a_model_is_an_arbiter_that_sees_both_sides_with_their_sources(room: Newsroom) -> None:
    with Fake() as fake:
        fake.when("7 kg", '{"winner": 1, "reason": "it is newer"}')
        model = ChatOpenAI(model="m", base_url=fake.url, api_key="x", max_retries=0)
        judge = Agent.from_model("judge", model, "You judge.", output=Verdict)
        a, b = revenue("5 kg", source="the Times"), revenue("7 kg", source="the Post")
        agents = [room.says("a", a), room.says("b", b), judge]
        state, _ = await told(Workflow("w", agents=agents, settle=[Arbiter("judge")]))
        assert len(fake.requests) == 1
        assert all(paper in str(fake.requests[0].texts) for paper in ("the Times", "the Post"))
    (resolution,) = state["plan"].resolutions
    assert (resolution.winning, resolution.reason) == (b, "it is newer")


@pytest.mark.parametrize("wrong", [["majority"], [ByMajority], ByMajority(), "majority", [Prefer("nobody")]])
def test_what_is_no_policy_is_refused_when_it_is_declared(wrong: Any) -> None:
    with pytest.raises(WorkflowError, match="settle"):
        Workflow("w", agents=[Agent("a", lambda: "x")], settle=wrong).compile()
