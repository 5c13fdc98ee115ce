"""How teams of agents fail, after MAST (arXiv 2503.13657), and what the engine does about it.

Here are the modes that no other test shows. Shown elsewhere: FM-1.1 and FM-3.1 in test_attempts, FM-1.3 in
test_durability, FM-1.4 and FM-2.1 in test_turns, FM-1.5 in test_agent_kinds, FM-2.2 in test_people. About FM-2.6, an
agent that does something else than it says, the engine does nothing.
"""

from __future__ import annotations

from typing import Any

from langgraph.types import RetryPolicy
from pydantic import BaseModel, Field

from orchestra import Agent, Assignment, Breaker, Claim, Orchestra, Prefer, Probe, Review, Status, Workflow, agent

ONCE = RetryPolicy(max_attempts=1)


class Finding(BaseModel):
    fact: str
    sources: list[str] = Field(min_length=1)


class Figures(BaseModel):
    claims: list[Claim]


@agent
async def author(task: Assignment) -> str:
    return "2 + 2 = 5"


async def strict(draft: str) -> Review:
    return Review(approved="= 5" not in draft, reasons=("wrong sum",))


async def result_of(flow: Workflow, task: str) -> Any:
    state = await flow.compile().ainvoke({"request": "go"})
    return state["results"][task]


def tries(result: Any) -> list[tuple[str, str]]:
    return [(attempt.agent, attempt.outcome) for attempt in result.attempts]


async def test_fm_1_2_who_plays_another_role_is_told_by_its_output_and_replaced() -> None:
    async def rewrites(draft: str) -> Review:  # instead of judging it
        return "2 + 2 = 4"  # type: ignore[return-value]

    flow = Workflow("w", agents=[author, Agent("rewriter", rewrites, retry=ONCE)])
    flow.add_agent(Agent("critic", strict), backup_for="rewriter").add_review("author", by="rewriter", rounds=0)
    result = await result_of(flow, "author")
    assert tries(result) == [("author", "ok"), ("rewriter", "malformed"), ("critic", "ok")]
    assert (result.status, result.output) == (Status.FAILED, None)


async def test_fm_2_3_work_that_strays_from_the_task_goes_to_another_author() -> None:
    async def strays(task: Assignment) -> str:
        return f"a poem, {len(task.rejections) + 1}"

    async def keeps_to_it(task: Assignment) -> str:
        return "2 + 2 = 4"

    async def critic(draft: str) -> Review:
        return Review(approved="poem" not in draft, reasons=("no poem was asked for",))

    flow = Workflow("w", agents=[Agent("poet", strays), Agent("critic", critic)])
    flow.add_agent(Agent("clerk", keeps_to_it), backup_for="poet").add_review("poet", by="critic", rounds=1)
    result = await result_of(flow, "poet")
    assert (result.agent, result.output) == ("clerk", "2 + 2 = 4")
    assert [review.approved for review in result.reviews] == [False, False, True]


async def test_fm_2_4_what_the_type_demands_can_not_be_withheld() -> None:
    async def withholds(task: Assignment) -> Finding:
        return {"fact": "bees dance", "sources": []}  # type: ignore[return-value]

    async def shares(task: Assignment) -> Finding:
        return Finding(fact="bees dance", sources=["a book"])

    async def writer(finding: Finding) -> str:
        return f"{finding.fact}, says {finding.sources[0]}"

    first = Agent("first", withholds, retry=ONCE)
    flow = Workflow("w", agents=[first, Agent("writer", writer)])
    flow.add_agent(Agent("second", shares), backup_for="first")
    state = await flow.compile().ainvoke({"request": "go"})
    assert tries(state["results"]["first"]) == [("first", "malformed"), ("second", "ok")]
    assert state["answer"] == "bees dance, says a book"


async def test_fm_2_5_who_claims_something_else_than_it_was_told_is_contradicted() -> None:
    def says(value: str) -> Figures:
        return Figures(claims=[Claim(subject="Acme", attribute="revenue", value=value)])

    @agent
    async def researcher(task: Assignment) -> Figures:
        return says("$1.2M")

    @agent
    async def analyst(given: Figures) -> Figures:
        return says("$3M")

    flow = Workflow("w", agents=[researcher, analyst], settle=[Prefer("researcher")])
    flow.add_edge("researcher", "analyst")
    state = await flow.compile().ainvoke({"request": "go"})
    (resolution,) = state["plan"].resolutions
    assert [(lost.agent, lost.claim.value) for lost in resolution.losers] == [("analyst", "$3M")]
    assert "Acme, revenue: '$1.2M' holds" in state["answer"]


async def test_fm_3_2_what_could_not_be_verified_is_not_passed_on() -> None:
    sent: list[str] = []

    async def broken(draft: str) -> Review:
        raise ValueError("down")

    @agent(side_effects=True)
    async def sender(text: str) -> None:
        sent.append(text)

    flow = Workflow("w", agents=[author, Agent("critic", broken), sender])
    flow.add_review("author", by="critic").add_edge("author", "sender")
    state = await flow.compile().ainvoke({"request": "go"})
    assert "could not be reviewed" in state["results"]["author"].error
    assert (sent, state["results"]["sender"].status) == ([], Status.SKIPPED)


async def test_fm_3_3_a_verifier_that_approves_a_planted_mistake_gets_no_work(database: str) -> None:
    async def rubber_stamp(draft: str) -> Review:
        return Review(approved=True)

    planted = Probe({"draft": "2 + 2 = 5"}, expect=lambda review: not review.approved)
    stamp = Agent("stamp", rubber_stamp, probe=planted, breaker=Breaker(failures=1))
    flow = Workflow("w", agents=[author, stamp]).add_agent(Agent("critic", strict), backup_for="stamp")
    flow.add_review("author", by="stamp", rounds=0)
    async with Orchestra(database) as orchestra:
        (checkup,) = await orchestra.check(flow)
    assert checkup.problem is not None
    result = await result_of(flow, "author")
    assert tries(result) == [("author", "ok"), ("critic", "ok")]
    assert "wrong sum" in result.error
