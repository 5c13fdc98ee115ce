"""Persons: approvals, tasks that nobody could do, typed questions. What is answered is used once, and nothing twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from langgraph.types import Command
from pydantic import BaseModel, field_validator

from orchestra import (
    Agent,
    Assignment,
    Orchestra,
    Outcome,
    People,
    RequestError,
    Review,
    RunState,
    Status,
    Task,
    Workflow,
    ask,
)
from orchestra.cli import main
from tests.integration.test_timers import THREAD, Planned, about, now

HOUR = timedelta(hours=1)
SETTLED = {Status.SUCCEEDED: "ok", Status.FAILED: "failed", Status.SKIPPED: "skipped"}


class Office:
    """Agents that count their calls; each says its name and the number of the call, or what it is to say."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.seen: list[Assignment] = []

    def agent(self, name: str, work: Callable[[Assignment], Any] | None = None, **options: Any) -> Agent:
        async def run(task: Assignment) -> str:
            self.calls[name] += 1
            self.seen.append(task)
            return (work(task) if work else None) or f"{name} {self.calls[name]}"

        return Agent(name, run, **options)

    def flow(self, *agents: Any, **options: Any) -> Workflow:
        made = [each if isinstance(each, Agent) else self.agent(each) for each in agents]
        return Workflow("w", agents=made, **options)

    def reviewer(self, name: str, good: Callable[[str], bool]) -> Agent:
        async def run(draft: str) -> Review:
            self.calls[name] += 1
            return Review(approved=good(draft), reasons=() if good(draft) else ("not good",))

        return Agent(name, run)


@pytest.fixture
def office() -> Office:
    return Office()


def down(task: Assignment) -> str:
    raise RuntimeError("down")


def asks(text: str, **options: Any) -> Callable[[Assignment], str]:
    return lambda _: f"got {ask(text, **options)}"


def ended(outcome: Outcome) -> dict[str, str]:
    return {name: SETTLED[result.status] for name, result in outcome.results.items()}


def places(outcome: Outcome) -> list[str]:
    return sorted(question.place for question in outcome.questions)


async def through(orchestra: Orchestra, flow: Workflow, *answers: Any, **options: Any) -> Outcome:
    """Start, and give answers one after the other; a pair says where."""
    run = await orchestra.start(flow, "go", thread_id="t", **options)
    for answer in answers:
        run = await run.answer(*answer) if isinstance(answer, tuple) else await run.answer(answer)
    return await run


# Every word


BEFORE: dict[str, tuple[Any, dict[str, str], Any, list[str]]] = {
    "approve": ("approve", {"pay": "ok", "next": "ok"}, "pay 1", ["pay", "next"]),
    "supply": ({"do": "supply", "output": "mine"}, {"pay": "ok", "next": "ok"}, "mine", ["next"]),
    "reject": ({"do": "reject", "why": "too much"}, {"pay": "failed", "next": "skipped"}, "too much", []),
    "reassign": ({"do": "reassign", "agent": "side"}, {"pay": "ok", "next": "ok"}, "side 2", ["side", "next"]),
    "skip": ("skip", {"pay": "skipped", "next": "skipped"}, "a person skipped it", []),
    "abort": ({"do": "abort", "why": "fire"}, {"pay": "failed", "next": "skipped"}, "aborted the run here: fire", []),
}


@pytest.mark.parametrize("word", [*sorted(BEFORE)])
async def test_a_task_with_side_effects_begins_when_a_person_says_so(database: str, office: Office, word: str) -> None:
    answer, status, told, called = BEFORE[word]
    flow = office.flow(office.agent("pay", side_effects=True), "next", "side")
    flow.add_edge("pay", "next").add_approval("pay")
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(flow, "go", thread_id="t")
        (question,) = (await run).questions
        assert (question.kind, question.place, set(question.options)) == ("approval", "pay", set(BEFORE))
        assert office.calls == {"side": 1}
        outcome = await (await run.answer(answer))
    result = outcome.results["pay"]
    assert ended(outcome) == {**status, "side": "ok"}
    assert told in (result.output or result.error)
    assert office.calls == Counter({"side": 1}) + Counter(called)
    assert [decision.do for decision in result.decisions] == [word]
    assert result.edited == (word == "supply")


AFTER: dict[str, tuple[Any, dict[str, str], Any, list[str]]] = {
    "approve": ("approve", {"write": "ok", "next": "ok"}, "write 1", []),
    "edit": ({"do": "edit", "output": "mine"}, {"write": "ok", "next": "ok"}, "mine", []),
    "skip": ({"do": "skip"}, {"write": "skipped", "next": "skipped"}, "a person skipped it", []),
    "abort": ("abort", {"write": "failed", "next": "skipped"}, "aborted the run here", []),
}


@pytest.mark.parametrize("word", AFTER)
async def test_a_person_sees_the_work_of_others_when_it_is_done(database: str, office: Office, word: str) -> None:
    answer, status, told, _ = AFTER[word]
    flow = office.flow("write", "next").add_edge("write", "next").add_approval("write")
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(flow, "go", thread_id="t")
        (question,) = (await run).questions
        assert set(question.options) == {*AFTER, "reject", "reassign"}
        assert (question.known["output"], question.known["by"]) == ("write 1", "write")
        outcome = await (await run.answer(answer))
    assert ended(outcome) == status
    assert told in (outcome.results["write"].output or outcome.results["write"].error)
    assert outcome.results["write"].edited == (word == "edit")
    assert office.calls["write"] == 1


async def test_rejected_work_goes_back_with_the_reason_and_to_another_with_reassign(
    database: str, office: Office
) -> None:
    flow = office.flow("write", "other").add_approval("write")
    async with Orchestra(database) as orchestra:
        again = [{"do": "reject", "why": "too long"}, {"do": "reassign", "agent": "other", "why": "too dull"}]
        outcome = await through(orchestra, flow, *again, "approve")
    result = outcome.results["write"]
    assert (result.output, result.agent) == ("other 2", "other")
    assert office.calls == {"write": 2, "other": 2}
    assert [review.reasons for review in office.seen[-1].rejections] == [("too long",), ("too dull",)]
    assert [review.approved for review in result.reviews] == [False, False, True]


async def test_work_that_a_person_rejects_too_often_fails(database: str, office: Office) -> None:
    flow = office.flow("write").add_approval("write", rounds=1)
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, flow, "reject", {"do": "reject", "why": "still bad"})
    assert ended(outcome) == {"write": "failed"}
    assert "still bad" in (outcome.answer or "")
    assert office.calls == {"write": 2}


UNABLE: dict[str, tuple[Any, dict[str, str], Any]] = {
    "supply": ({"do": "supply", "output": "mine"}, {"hard": "ok", "next": "ok"}, "mine"),
    "retry": ("retry", {"hard": "ok", "next": "ok"}, "hard 2"),
    "reassign": ({"do": "reassign", "agent": "next"}, {"hard": "ok", "next": "ok"}, "next 1"),
    "skip": ("skip", {"hard": "skipped", "next": "skipped"}, "a person skipped it"),
    "abort": ("abort", {"hard": "failed", "next": "skipped"}, "aborted"),
    "stop": ("stop", {"hard": "failed", "next": "skipped"}, "down"),
}


@pytest.mark.parametrize("word", [*sorted(UNABLE)])
async def test_a_person_is_asked_what_nobody_could_do(database: str, office: Office, word: str) -> None:
    answer, status, told = UNABLE[word]
    hard = office.agent("hard", lambda task: down(task) if office.calls["hard"] == 1 else None)
    flow = office.flow(hard, "next", people=People(unable=True)).add_edge("hard", "next")
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(flow, "go", thread_id="t")
        (question,) = (await run).questions
        assert (question.kind, set(question.options)) == ("unable", set(UNABLE))
        assert "down" in question.known["failed"]
        outcome = await (await run.answer(answer))
    assert ended(outcome) == status
    assert told in (outcome.results["hard"].output or outcome.results["hard"].error)
    assert office.calls["hard"] == (2 if word == "retry" else 1)


async def test_a_person_is_asked_as_often_as_it_fails(database: str, office: Office) -> None:
    flow = office.flow(office.agent("hard", down), people=People(unable=True))
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, flow, "retry", "retry", "stop")
    assert [decision.do for decision in outcome.results["hard"].decisions] == ["retry", "retry", "stop"]
    assert office.calls == {"hard": 3}


async def test_what_nobody_is_for_can_be_supplied_or_given_to_somebody(database: str, office: Office) -> None:
    tasks = [
        Task(id="a", capability="dance"),
        Task(id="b", capability="sing"),
        Task(id="c", agent="able", needs=("a",)),
    ]
    flow = office.flow("able", people=People(unable=True), planner=Planned(*tasks))
    async with Orchestra(database) as orchestra:
        supplied = ({"do": "supply", "output": {"steps": 3}}, "a")
        outcome = await through(orchestra, flow, supplied, ({"do": "reassign", "agent": "able"}, "b"))
    assert ended(outcome) == {"a": "ok", "b": "ok", "c": "ok"}
    assert outcome.results["a"].output == {"steps": 3}
    assert next(task for task in office.seen if task.task.id == "c").inputs == {"a": {"steps": 3}}


@pytest.mark.parametrize("word", ["retry", "reassign"])
async def test_a_new_try_after_rejected_rounds_is_new_work(database: str, office: Office, word: str) -> None:
    flow = office.flow("write", people=People(unable=True)).add_approval("write", rounds=0)
    flow.add_agent(office.agent("spare"), backup_for="write")
    async with Orchestra(database) as orchestra:
        bad = [{"do": "reject", "why": "one"}, {"do": "reject", "why": "two"}]  # the spare steps in by itself
        outcome = await through(orchestra, flow, *bad, {"do": word, "agent": "spare"}, "approve")
    result = outcome.results["write"]
    assert result.output == ("write 2" if word == "retry" else "spare 2")
    assert [decision.do for decision in result.decisions] == ["reject", "reject", word, "approve"]
    assert [review.reasons for review in office.seen[-1].rejections] == [("one",), ("two",)]


# Deadlines


@pytest.mark.parametrize("how", ["tick", "resume"])
@pytest.mark.parametrize("otherwise", ["approve", "reject", "skip"])
async def test_an_approval_that_nobody_gives(database: str, office: Office, otherwise: Any, how: str) -> None:
    flow = office.flow("pay", "next").add_edge("pay", "next")
    within = HOUR if how == "tick" else timedelta(microseconds=1)
    flow.add_approval("pay", before=True, within=within, otherwise=otherwise)
    async with Orchestra(database) as orchestra:
        if how == "resume":  # in plain LangGraph nobody looks at the clock
            await flow.compile(checkpointer=orchestra.saver).ainvoke({"request": "go"}, THREAD)
            outcome = await (await orchestra.resume("t", workflow=flow))
        else:
            waiting = await through(orchestra, flow)
            assert about(waiting.due, now() + HOUR)
            assert await orchestra.tick(workflow=flow) == []
            (ticked,) = await orchestra.tick(workflow=flow, at=now() + 2 * HOUR)
            assert ticked.outcome is not None
            outcome = ticked.outcome
    status = {"approve": ("ok", "ok"), "reject": ("failed", "skipped"), "skip": ("skipped", "skipped")}[otherwise]
    assert tuple(ended(outcome).values()) == status
    assert [(each.do, each.why) for each in outcome.results["pay"].decisions] == [(otherwise, "nobody answered")]


async def test_what_nobody_could_do_fails_if_nobody_answers(database: str, office: Office) -> None:
    flow = office.flow(office.agent("hard", down), people=People(unable=True, within=HOUR))
    async with Orchestra(database) as orchestra:
        await through(orchestra, flow)
        (ticked,) = await orchestra.tick(workflow=flow, at=now() + 2 * HOUR)
        assert ticked.outcome is not None
        assert ended(ticked.outcome) == {"hard": "failed"}


# Wrong answers


class Amount(BaseModel):
    """An even number."""

    value: int

    @field_validator("value")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value


WRONG: list[tuple[str, Any, str]] = [
    ("pick", "blue", "choose one of red, 42"),
    ("count", "many", "'many' is not of type 'integer'"),
    ("day", "tomorrow", "is not a 'date'"),
    ("amount", {"value": "x"}, "value: 'x' is not of type 'integer'"),
    ("write", "aprove", "'aprove' is no answer to question .* (write): choose one of approve, edit"),
    ("write", "edit", 'it says nothing of \'output\'; write {"do":"edit","output":"…"}'),
    ("write", {"do": "edit", "output": 3}, "output: 3 is not of type 'string'"),
    ("write", {"do": "reassign", "agent": "x"}, "agent: 'x' is not one of"),
    ("write", {"do": "reject", "reason": "x"}, "'reason' was unexpected"),
    ("write", None, "null is no answer"),
    ("hard", "approve", "choose one of supply, retry"),
]


def typed(office: Office) -> Workflow:
    questions: dict[str, Callable[[Assignment], Any]] = {
        "pick": lambda _: f"got {ask('?', options=['red', '42'])}",
        "count": lambda _: f"got {ask('?', answer=int) + 1}",
        "day": lambda _: f"got {ask('?', answer=date).year}",
        "amount": lambda _: f"got {ask('?', answer=Amount).value}",
        "hard": down,
    }
    agents = [office.agent(name, work) for name, work in questions.items()]
    return office.flow("write", *agents, people=People(unable=True)).add_approval("write")


async def by_answer(orchestra: Orchestra, flow: Workflow, answer: Any, place: str, _: str) -> None:
    await orchestra.answer("t", answer, place, workflow=flow)


async def by_resume(orchestra: Orchestra, flow: Workflow, answer: Any, _: str, id_: str) -> None:
    await orchestra.resume("t", workflow=flow, answers={id_: answer})


async def by_command(orchestra: Orchestra, flow: Workflow, answer: Any, _: str, id_: str) -> None:
    await flow.compile(checkpointer=orchestra.saver).ainvoke(Command(resume={id_: answer}), THREAD)


@pytest.mark.parametrize("give", [by_answer, by_resume, by_command])
async def test_wrong_answers_are_refused_and_the_questions_stay_open(database: str, office: Office, give: Any) -> None:
    flow = typed(office)
    async with Orchestra(database) as orchestra:
        before = await through(orchestra, flow)
        ids = {question.place: question.id for question in before.questions}
        called = office.calls.copy()
        for place, answer, message in WRONG:
            with pytest.raises(RequestError) as refused:
                await give(orchestra, flow, answer, place, ids[place])
            assert message.replace(".*", ids[place]) in str(refused.value)
        for place, message in (("who", "names no open question; open: "), ("", "6 questions are open: say which")):
            with pytest.raises(RequestError, match=message):
                await orchestra.answer("t", "x", place, workflow=flow)
        assert places(await (await orchestra.resume("t", workflow=flow))) == sorted(ids)
        assert office.calls == called


async def test_answers_come_in_the_type_that_was_asked_for(database: str, office: Office) -> None:
    answers = {"pick": 42, "count": 41, "day": date(2040, 2, 1), "amount": {"value": 4}, "hard": "skip"}
    flow = typed(office)
    async with Orchestra(database) as orchestra:
        pairs = [(answer, place) for place, answer in answers.items()]
        outcome = await through(orchestra, flow, *pairs, "approve")
    outputs = {name: result.output for name, result in outcome.results.items() if result.ok and name in answers}
    assert outputs == {"pick": "got 42", "count": "got 42", "day": "got 2040", "amount": "got 4"}


async def test_what_only_the_type_itself_refuses_is_asked_again(database: str, office: Office) -> None:
    flow = office.flow(
        office.agent("it", lambda _: f"got {ask('?', answer=Amount, within=HOUR, otherwise={'value': 0})}")
    )
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, flow, {"value": 3})
        (question,) = outcome.questions
        assert (question.known["refused"], question.known["why"]) == ({"value": 3}, "Value error, must be even")
        assert (await (await orchestra.answer("t", {"value": 4}, workflow=flow))).answer == "got value=4"


async def test_a_default_that_is_no_answer_is_a_mistake_of_the_agent(office: Office, database: str) -> None:
    bad = office.agent("it", lambda _: str(ask("?", answer=Amount, within=HOUR, otherwise={"value": 1})))
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, office.flow(bad))
    assert "otherwise is no answer itself" in (outcome.results["it"].error or "")


async def test_an_edit_that_only_the_type_refuses_is_asked_again(database: str, office: Office) -> None:
    async def run(task: Assignment) -> Amount:
        return Amount(value=2)

    flow = office.flow(Agent("it", run)).add_approval("it")
    async with Orchestra(database) as orchestra:
        outcome = await through(orchestra, flow, {"do": "edit", "output": {"value": 3}})
    assert (outcome.state, len(outcome.questions)) == (RunState.WAITING, 1)


FLOW = """
from datetime import timedelta
from orchestra import Assignment, Workflow, agent, ask

@agent
async def count(task: Assignment) -> int:
    return ask("How many?", answer=int, known={"so far": 3})

flow = Workflow("people_cli", agents=[count]).add_approval("count")
"""


def test_a_person_answers_in_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "people_cli.py").write_text(FLOW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "240")
    assert main(["run", "people_cli.py", "go", "--thread", "t"]) == 3
    assert "How many?" in capsys.readouterr().out
    assert main(["runs", "answer", "t", "many"]) == 2
    assert "'many' is not of type 'integer'" in capsys.readouterr().err
    assert main(["runs", "answer", "t", "4", "--question", "nobody"]) == 2
    assert "'nobody' names no open question; open: " in capsys.readouterr().err
    assert main(["runs", "answer", "t", "4"]) == 3
    assert "Is the work on 'count' good?" in capsys.readouterr().out
    assert main(["runs", "show", "t", "--json"]) == 0
    (question,) = json.loads(capsys.readouterr().out)["questions"]
    assert question["known"]["output"] == 4
    assert main(["runs", "answer", "t", "fine"]) == 2
    assert "choose one of approve" in capsys.readouterr().err
    assert main(["runs", "answer", "t", '{"do": "edit", "output": 5}']) == 0
    assert "5" in capsys.readouterr().out
    assert main(["runs", "answer", "t", "approve"]) == 2
    assert "no question is open" in capsys.readouterr().err
