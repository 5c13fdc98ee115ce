"""Each fault of an endpoint, in each role of a model: what a run makes of it, in one table.

In every run a specialist, who has a spare, does one task; another model plans it, or reviews it. One of the models has
a fault, at its first call ("once") or at every call ("always"). All these runs happen side by side, against one
endpoint; the tests then look at each. A cell of the table says how often that model was called and what came of it:

- the planner: its plan is carried out ("planned"), or the workflow's own is, by its agents' types ("types");
- the specialist: how its attempts ended, with the kinds of its notes in parentheses, and whether the spare stepped in;
- the reviewer: it judged the work ("judged"), or the work stands without a review ("not reviewed").
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from langchain_openai import ChatOpenAI
from langgraph.types import RetryPolicy
from pydantic import BaseModel

from orchestra import Agent, Assignment, ModelPlanner, ModelReviewer, Orchestra, Outcome, RunInfo, RunState, Workflow
from orchestra.events import Event
from orchestra.models.profiles import forget_profiles
from tests.fakes import Fake, Fault, ToolCall

TABLE = """
fault          | planner    | specialist                        | with tools                        | reviewer
---------------|------------|-----------------------------------|-----------------------------------|----------------
429            | 2: planned | 2: error, ok                      | 2: error, ok                      | 2: judged
always         | 3: types   | 3: 3 error, spare                 | 3: 3 error, spare                 | 3: not reviewed
500            | 2: planned | 2: error, ok                      | 2: error, ok                      | 2: judged
always         | 3: types   | 3: 3 error, spare                 | 3: 3 error, spare                 | 3: not reviewed
late           | 2: planned | 2: error, ok                      | 2: error, ok                      | 2: judged
always         | 3: types   | 3: 3 error, spare                 | 3: 3 error, spare                 | 3: not reviewed
dropped before | 2: planned | 2: error, ok                      | 2: error, ok                      | 2: judged
always         | 3: types   | 3: 3 error, spare                 | 3: 3 error, spare                 | 3: not reviewed
dropped amid   | 2: planned | 2: error, ok                      | 2: error, ok                      | 2: judged
always         | 3: types   | 3: 3 error, spare                 | 3: 3 error, spare                 | 3: not reviewed
truncated      | 2: planned | 2: ok (truncated)                 | 2: ok (truncated)                 | 2: judged
always         | 2: types   | 3: malformed (3 truncated), spare | 3: malformed (3 truncated), spare | 2: not reviewed
garbled        | 2: planned | 2: ok (truncated)                 | 2: ok (truncated)                 | 2: judged
always         | 2: types   | 3: malformed (3 truncated), spare | 3: malformed (3 truncated), spare | 2: not reviewed
malformed call | 2: planned | 2: ok (empty)                     | 2: ok (arguments)                 | 2: judged
always         | 2: types   | 3: malformed (3 empty), spare     | 13: error (12 arguments), spare   | 2: not reviewed
unknown tool   | 2: planned | 2: ok (empty)                     | 2: ok (tool)                      | 2: judged
always         | 2: types   | 3: malformed (3 empty), spare     | 13: error (12 tool), spare        | 2: not reviewed
wrong schema   | 2: planned | 2: ok (wrong)                     | 2: ok (wrong)                     | 2: judged
always         | 2: types   | 3: malformed (3 wrong), spare     | 3: malformed (3 wrong), spare     | 2: not reviewed
empty          | 2: planned | 2: ok (empty)                     | 2: ok (empty)                     | 2: judged
always         | 2: types   | 3: malformed (3 empty), spare     | 3: malformed (3 empty), spare     | 2: not reviewed
401            | 1: types   | 1: error, spare                   | 1: error, spare                   | 1: not reviewed
always         | 1: types   | 1: error, spare                   | 1: error, spare                   | 1: not reviewed
refused        | 1: types   | 1: error, spare                   | 2: ok (empty)                     | 1: not reviewed
always         | 1: types   | 1: error, spare                   | 2: error (empty), spare           | 1: not reviewed
filtered       | 1: types   | 1: error, spare                   | 1: error, spare                   | 1: not reviewed
always         | 1: types   | 1: error, spare                   | 1: error, spare                   | 1: not reviewed
cut            | 2: planned | 2: ok (cut)                       | 2: ok (cut)                       | 2: judged
always         | 2: types   | 2: malformed (2 cut), spare       | 2: malformed (2 cut), spare       | 2: not reviewed
prose          | 1: planned | 1: ok (prose)                     | 1: ok (prose)                     | 1: judged
always         | 1: planned | 1: ok (prose)                     | 1: ok (prose)                     | 1: judged
fenced         | 1: planned | 1: ok (fenced)                    | 1: ok (fenced)                    | 1: judged
always         | 1: planned | 1: ok (fenced)                    | 1: ok (fenced)                    | 1: judged
"""
# "refused", with tools: LangChain loses a refusal in a stream that is not held to a schema (`test_fakes`).

KEY = "sk-planted-0123456789"
PATIENCE = 2.0  # seconds that a model's client waits, where the endpoint is late
AT_ONCE = 8
QUICK = RetryPolicy(initial_interval=0.001, max_interval=0.01)
CLIENT = {"http_client": openai.DefaultHttpxClient(verify=False)}


class Fact(BaseModel):
    city: str
    size: Literal["small", "large"]


SAYS: dict[str, Any] = {
    "planner": {"tasks": [{"id": "find", "instruction": "Find the city.", "agent": "expert", "needs": []}]},
    "specialist": {"city": "Paris", "size": "large"},
    "with tools": {"city": "Paris", "size": "large"},
    "reviewer": {"answered": True, "missing": [], "contradictions": [], "plan": None},
}
MARKS = {
    "planner": "You plan the work",
    "specialist": "one specialist of a team",
    "with tools": "one specialist of a team",
    "reviewer": "You check the work",
}
"""What the prompts of a role have and no others do."""


def fault(name: str, says: Any) -> Any:
    return {
        "429": Fault.rate_limit(retry_after=0.05),
        "500": Fault.server_error(),
        "late": Fault.delay(4 * PATIENCE, says),
        "dropped before": Fault.drop(says),
        "dropped amid": Fault.drop(says, after=2),
        "truncated": Fault.truncate(says, after=2),
        "garbled": Fault.garble(says, after=2),
        "malformed call": ToolCall("search", '{"q": '),
        "unknown tool": ToolCall("delete_all", {"path": "/"}),
        "wrong schema": {"town": "Paris"},
        "empty": "",
        "401": Fault.unauthorized(),
        "refused": Fault.refuse(),
        "filtered": Fault.filtered("Par"),
        "cut": Fault.cut(says, 2),
        "prose": Fault.prose(says),
        "fenced": Fault.fenced(says),
    }[name]


@dataclass(frozen=True)
class Case:
    fault: str
    role: str
    how: Literal["once", "always", "alone"]  # alone: always, and without a spare

    @property
    def model(self) -> str:
        return f"{self.role}/{self.fault}/{self.how}"


def read_table() -> dict[Case, str]:
    """What each cell says."""
    head, _, *rows = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()]
    expected = {}
    for (name, *once), (_, *always) in zip(rows[::2], rows[1::2], strict=True):
        for role, first, all_ in zip(head[1:], once, always, strict=True):
            expected[Case(name, role, "once")] = first
            expected[Case(name, role, "always")] = all_
    return expected


EXPECTED = read_table()
DEADLY = [
    case.fault
    for case, cell in EXPECTED.items()
    if (case.role, case.how) == ("specialist", "always") and "spare" in cell
]
"""The faults that a specialist does not get over."""


@dataclass(frozen=True)
class Account:
    """What is told of a run, and what the endpoint saw of the faulty model."""

    outcome: Outcome
    events: list[Event]
    info: RunInfo
    calls: int


def fits(model: str, role: str) -> Any:
    return lambda body: body["model"] == model and any(MARKS[role] in str(m["content"]) for m in body["messages"])


def chat(fake: Fake, name: str, timeout: float) -> ChatOpenAI:
    mine = {"http_async_client": openai.DefaultAsyncHttpxClient(verify=False)}
    return ChatOpenAI(base_url=fake.url, api_key=KEY, model=name, max_retries=0, timeout=timeout, **CLIENT, **mine)


async def run(case: Case, fake: Fake, good: ChatOpenAI, orchestra: Orchestra) -> Account:
    bad = fault(case.fault, SAYS[case.role])
    fake.when(fits(case.model, case.role), [bad, SAYS[case.role]] if case.how == "once" else bad)
    faulty = chat(fake, case.model, PATIENCE if case.fault == "late" else 60)

    def search(query: str) -> str:
        """Search the web."""
        return "nothing"

    async def stand_in(task: Assignment) -> Fact:
        return Fact(city="Rome", size="large")

    tools = {"tools": [search]} if case.role == "with tools" else {}
    others: dict[str, Any] = {"planner": ModelPlanner, "reviewer": ModelReviewer}
    beside = {case.role: others[case.role](faulty)} if case.role in others else {}
    model = good if beside else faulty
    expert = Agent.from_model("expert", model, "You know cities.", output=Fact, retry=QUICK, max_tokens=50, **tools)
    name = case.model.replace("/", ".").replace(" ", "_")
    flow = Workflow(name, agents=[expert], **beside)  # under one name they would share their agents' health
    if case.how != "alone":
        flow.add_agent(Agent("spare", stand_in), backup_for="expert")
    going = await orchestra.start(flow, "Which city?", thread_id=case.model)
    outcome = await going
    mine = [each for each in fake.requests if each.body["model"] == case.model and "ping" not in str(each.texts)]
    return Account(outcome, [*going.seen], await orchestra.info(case.model), len(mine))


async def run_all(database: str) -> dict[Case, Account]:
    cases = [*EXPECTED, *(Case(name, "specialist", "alone") for name in DEADLY)]
    places = asyncio.Semaphore(AT_ONCE)
    accounts: dict[Case, Account] = {}
    with Fake() as fake:
        fake.latency(chunk=3)
        fake.when("Call the tool ping.", ToolCall("ping"))
        for role in ("planner", "specialist", "reviewer"):
            fake.when(fits("good", role), SAYS[role])
        async with Orchestra(database) as orchestra:
            good = chat(fake, "good", 60)

            async def one(case: Case) -> None:
                if case.fault == "late":
                    accounts[case] = await run(case, fake, good, orchestra)
                    return
                async with places:
                    accounts[case] = await run(case, fake, good, orchestra)

            async with asyncio.TaskGroup() as group:
                for case in cases:
                    group.create_task(one(case))
    return accounts


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Account]:
    forget_profiles()
    path: Path = tmp_path_factory.mktemp("faults") / "runs.db"
    return asyncio.run(run_all(f"sqlite:///{path}"))


KINDS = {
    r"call \d+: (empty|truncated|broken|wrong|cut|ambiguous): ": "{}",
    r"call \d+: the answer was taken out of (prose|fenced)": "{}",
    r"call \d+: the (arguments) for search are not valid JSON": "{}",
    r"call \d+: it wanted the (tool) 'delete_all', which it was not given": "{}",
}


def kind(note: str) -> str:
    found = next((match for pattern in KINDS if (match := re.match(pattern, note))), None)
    return found.group(1) if found else note


def counted(words: Iterable[str]) -> str:
    groups = [(word, len([*same])) for word, same in itertools.groupby(words)]
    return ", ".join(word if count == 1 else f"{count} {word}" for word, count in groups)


def story(case: Case, account: Account) -> str:
    plan, results = account.outcome.plan, account.outcome.results
    assert plan is not None
    if case.role == "planner":
        said = "planned" if plan.made_by == case.model else plan.made_by
    elif case.role == "reviewer":
        (judgement,) = plan.judgements
        said = "not reviewed" if judgement.missing else "judged"
    else:
        (result,) = results.values()
        ends = [
            f"{each.outcome} ({counted(map(kind, each.notes))})" if each.notes else each.outcome
            for each in result.attempts
            if each.agent == "expert"
        ]
        said = counted([*ends, *([result.agent] if result.agent == "spare" else [])])
    return f"{account.calls}: {said}"


def name_of(case: Case) -> str:
    return f"{case.fault}, {case.role}, {case.how}".replace(" ", "_")


@pytest.mark.parametrize("case", EXPECTED, ids=name_of)
class TestEachCell:
    def test_is_as_the_table_has_it(self, accounts: dict[Case, Account], case: Case) -> None:
        assert story(case, accounts[case]) == EXPECTED[case]

    def test_the_run_ends_with_an_answer(self, accounts: dict[Case, Account], case: Case) -> None:
        outcome, info = accounts[case].outcome, accounts[case].info
        assert outcome.state is info.state is RunState.DONE
        (result,) = outcome.results.values()
        assert result.output == Fact(city="Rome" if result.agent == "spare" else "Paris", size="large")
        assert outcome.answer is not None
        assert result.output.city in outcome.answer

    def test_what_went_wrong_is_on_record(self, accounts: dict[Case, Account], case: Case) -> None:
        """Every call that failed is counted, and the reason can be read."""
        plan, (result,) = accounts[case].outcome.plan, accounts[case].outcome.results.values()
        assert plan is not None
        spent = plan.usage if case.role in ("planner", "reviewer") else result.usage
        probe = 1 if case.role == "with tools" else 0
        assert spent.calls == accounts[case].calls + probe
        if "types" in EXPECTED[case]:
            assert re.fullmatch(
                r"the model .+ made no plan: .{10,}; so the plan follows from the types", plan.repairs[0]
            )
        if "not reviewed" in EXPECTED[case]:
            assert re.fullmatch(r"not reviewed: .{10,}", plan.judgements[0].missing[0])
        failed = [each for each in result.attempts if each.outcome != "ok"]
        assert all(each.error and len(each.error) > 10 for each in failed)


@pytest.mark.parametrize("name", DEADLY)
def test_with_nobody_else_the_answer_says_what_is_missing_and_why(accounts: dict[Case, Account], name: str) -> None:
    outcome = accounts[Case(name, "specialist", "alone")].outcome
    assert outcome.state is RunState.FAILED
    (result,) = outcome.results.values()
    assert result.error is not None
    assert result.error in (outcome.answer or "")
    assert (outcome.answer or "").startswith("Missing from this answer:\n- expert failed")


@pytest.mark.parametrize("name", DEADLY)
def test_a_failure_is_told_once(accounts: dict[Case, Account], name: str) -> None:
    (result,) = accounts[Case(name, "specialist", "alone")].outcome.results.values()
    words = (result.error or "").split(": ")
    assert len(words) == len(set(words)), result.error


def test_what_a_review_did_not_see_is_not_called_answered(accounts: dict[Case, Account]) -> None:
    """Without a judgement nobody has said that the request is answered; the answer says so."""
    outcome = accounts[Case("500", "reviewer", "always")].outcome
    assert outcome.plan is not None
    assert "not reviewed" in (outcome.answer or "")


def test_the_key_that_an_endpoint_repeats_is_nowhere(accounts: dict[Case, Account]) -> None:
    shown = {name_of(case): repr((each.outcome, each.events, each.info)) for case, each in accounts.items()}
    assert [name for name, text in shown.items() if KEY in text] == []
