"""Timeouts, retries, malformed output, fallback and limits, through workflows."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl
from langgraph.types import RetryPolicy
from pydantic import BaseModel, ConfigDict

from orchestra import Agent, Assignment, Capability, Plan, Review, Status, Task, Workflow, agent
from orchestra.events import AttemptFailed, FellBack, TaskEnded

QUICK = RetryPolicy(initial_interval=0.001, max_interval=0.01)


async def run(*agents: Agent, **options: Any) -> dict[str, Any]:
    return await Workflow("w", agents=agents, **options).compile().ainvoke({"request": "go"})


async def test_what_is_transient_is_retried_and_the_story_is_told() -> None:
    tries = Counter[str]()

    @agent(retry=QUICK)
    async def flaky(task: Assignment) -> int:
        tries["flaky"] += 1
        if task.attempt < 3:
            raise ConnectionError("no route")
        return task.attempt

    graph = Workflow("w", agents=[flaky]).compile()
    events: list[Any] = []
    async for mode, chunk in graph.astream({"request": "go"}, stream_mode=["custom", "values"]):
        if mode == "custom":
            events.append(chunk)
        else:
            state = chunk
    result = state["results"]["flaky"]
    assert result.output == 3
    assert [(a.number, a.outcome, a.error) for a in result.attempts] == [
        (1, "error", "ConnectionError: no route"),
        (2, "error", "ConnectionError: no route"),
        (3, "ok", None),
    ]
    pauses = [event.retry_in for event in events if isinstance(event, AttemptFailed)]
    assert len(pauses) == 2
    assert all(pause > 0 for pause in pauses)


class Overloaded(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__(f"HTTP {status_code}")
        self.status_code = status_code


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (ValueError("wrong"), 1),
        (FileNotFoundError("x"), 1),
        (RuntimeError("bug"), 1),
        (TimeoutError(), 3),
        (Overloaded(429), 3),
        (Overloaded(503), 3),
        (Overloaded(400), 1),
    ],
)
async def test_only_what_is_transient_is_retried(error: Exception, tries: int) -> None:
    seen = Counter[str]()

    @agent(retry=QUICK)
    async def broken(task: Assignment) -> int:
        seen["broken"] += 1
        raise error

    result = (await run(broken))["results"]["broken"]
    assert result.status is Status.FAILED
    assert seen["broken"] == tries == len(result.attempts)
    assert type(error).__name__ in result.error


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (SystemExit("usage: foo"), "it tried to end the process"),
        (asyncio.CancelledError(), "it awaited something that was cancelled"),
        (BaseExceptionGroup("all", [SystemExit(1)]), "it tried to end the process"),
        (ExceptionGroup("all", [ValueError("x")]), "ExceptionGroup"),
    ],
)
async def test_whatever_an_agent_raises_stays_in_its_task(raised: BaseException, message: str, blocking: bool) -> None:
    @agent
    async def sibling(task: Assignment) -> float:
        await asyncio.sleep(0.02)
        return 1.5

    if blocking:

        @agent
        def bad(task: Assignment) -> int:
            raise raised

    else:

        @agent
        async def bad(task: Assignment) -> int:
            raise raised

    state = await run(bad, sibling)
    assert state["results"]["sibling"].output == 1.5
    assert message in state["results"]["bad"].error


async def test_what_can_not_be_stored_fails_its_task_alone_and_is_not_tried_again(any_saver: Any) -> None:
    tries = Counter[str]()

    @agent
    async def big(task: Assignment) -> int:
        tries["big"] += 1
        return 2**70

    @agent
    async def fine(task: Assignment) -> str:
        return "fine"

    graph = Workflow("w", agents=[big, fine]).compile(checkpointer=any_saver)
    state = await graph.ainvoke({"request": "go"}, {"configurable": {"thread_id": "t"}})
    assert state["results"]["fine"].ok
    assert "can't be stored as JSON" in state["results"]["big"].error
    assert tries["big"] == 1


async def test_dependants_do_not_see_what_another_did_to_their_input() -> None:
    @agent
    async def source(task: Assignment) -> list[int]:
        return [1]

    @agent
    async def mutates(xs: list[int]) -> str:
        xs.append(99)
        return "done"

    @agent
    async def reads(xs: list[int], after: str) -> int:
        return len(xs)

    assert (await run(source, mutates, reads))["results"]["reads"].output == 1


async def test_missing_inputs_become_none_or_the_default() -> None:
    @agent
    async def maybe(task: Assignment) -> int | None:
        return 5

    @agent
    async def reader(maybe: int | None, other: bytes | None, k: float = 2.5) -> str:
        return f"{maybe} {other} {k}"

    assert (await run(maybe, reader))["answer"] == "5 None 2.5"


async def test_a_run_that_drains_does_not_wait_for_a_retry() -> None:
    @agent(retry=RetryPolicy(initial_interval=20, jitter=False))
    async def flaky(task: Assignment) -> int:
        raise ConnectionError("x")

    control = RunControl()
    running = asyncio.create_task(
        Workflow("w", agents=[flaky])
        .compile(checkpointer=InMemorySaver())
        .ainvoke({"request": "go"}, {"configurable": {"thread_id": "t"}}, control=control)
    )
    await asyncio.sleep(0.1)
    control.request_drain()
    with pytest.raises(GraphDrained):
        await asyncio.wait_for(running, 5)


async def test_a_retry_on_of_the_users_own_decides() -> None:
    seen = Counter[str]()

    @agent(retry=QUICK._replace(retry_on=(KeyError,)))
    async def broken(task: Assignment) -> int:
        seen["broken"] += 1
        raise (KeyError if seen["broken"] == 1 else ConnectionError)("x")

    assert not (await run(broken))["results"]["broken"].ok
    assert seen["broken"] == 2


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_timeout_is_of_the_work_not_of_waiting_for_inputs(blocking: bool) -> None:
    @agent
    async def slow_input(task: Assignment) -> int:
        await asyncio.sleep(0.3)
        return 1

    if blocking:

        @agent(timeout=0.2, retry=RetryPolicy(max_attempts=1))
        def worker(x: int, task: Assignment) -> str:
            time.sleep(30 if task.request == "slow" else 0.01)
            return "done"

    else:

        @agent(timeout=0.2, retry=RetryPolicy(max_attempts=1))
        async def worker(x: int, task: Assignment) -> str:
            await asyncio.sleep(30 if task.request == "slow" else 0.01)
            return "done"

    graph = Workflow("w", agents=[slow_input, worker]).compile()
    assert (await graph.ainvoke({"request": "quick"}))["answer"] == "done"
    began = time.monotonic()
    result = (await graph.ainvoke({"request": "slow"}))["results"]["worker"]
    assert time.monotonic() - began < 15
    assert result.attempts[0].outcome == "timeout"
    assert "no output within 0.2 s" in result.error


async def test_malformed_output_is_told_apart_and_named() -> None:
    class Answer(BaseModel):
        n: int

    @agent(retry=QUICK)
    async def model(task: Assignment) -> Answer:
        return {"n": "many"} if task.attempt == 1 else {"n": "7"}  # type: ignore[return-value]

    result = (await run(model))["results"]["model"]
    assert result.output == Answer(n=7)
    assert result.attempts[0].outcome == "malformed"
    assert "not a Answer: n: Input should be a valid integer" in result.attempts[0].error


async def test_what_can_not_be_stored_is_refused_with_the_remedy() -> None:
    @agent(retry=RetryPolicy(max_attempts=1))
    async def odd(task: Assignment):  # no return annotation
        return object()

    result = (await run(odd))["results"]["odd"]
    assert "declare an output type for 'odd'" in result.error


class Colour(Enum):
    RED = "red"


class Rich(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    when: datetime
    day: date
    price: Decimal
    colour: Colour
    tags: frozenset[str]
    raw: bytes
    by_number: dict[int, tuple[str, ...]]


async def test_outputs_of_any_declared_type_survive_storage() -> None:
    value = Rich(
        when=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        day=date(2026, 1, 2),
        price=Decimal("1.10"),
        colour=Colour.RED,
        tags=frozenset({"a", "b"}),
        raw=b"abc",
        by_number={1: ("x", "y")},
    )

    @agent
    async def source(task: Assignment) -> Rich:
        return value

    @agent
    async def sink(rich: Rich) -> list[Rich]:
        return [rich]

    state = await run(source, sink)
    assert state["results"]["sink"].output == [value]


async def test_the_backup_steps_in_then_whoever_has_the_capability() -> None:
    def failing(name: str) -> Agent:
        async def work(task: Assignment) -> str:
            raise ValueError(f"{name} is out")

        return Agent(name, work, capabilities=["research"])

    @agent(capabilities=["research"])
    async def last_hope(task: Assignment) -> str:
        return "found"

    flow = Workflow("w", agents=[failing("first"), failing("other")])
    flow.add_agent(failing("spare"), backup_for="first").add_agent(last_hope, backup_for="other")
    steps: list[tuple[str, str]] = []
    state: Any = None
    async for mode, told in flow.compile().astream({"request": "go"}, stream_mode=["custom", "values"]):
        if mode == "values":
            state = told
        elif isinstance(told, FellBack) and told.task == "first":
            steps.append((told.from_agent, told.to_agent))
    assert steps == [("first", "spare"), ("spare", "other"), ("other", "last_hope")]
    result = state["results"]["first"]
    assert (result.output, result.agent) == ("found", "last_hope")
    assert [attempt.agent for attempt in result.attempts] == ["first", "spare", "other", "last_hope"]


async def test_a_peer_that_delivers_something_else_does_not_step_in() -> None:
    @agent(capabilities=["research"])
    async def first(task: Assignment) -> int:
        raise ValueError("out")

    @agent(capabilities=["research"])
    async def other(task: Assignment) -> str:
        return "not a number"

    state = await run(first, other)
    assert [attempt.agent for attempt in state["results"]["first"].attempts] == ["first"]


async def test_a_failure_leaves_siblings_alone_and_dependants_are_skipped_or_do_without() -> None:
    @agent
    async def broken(task: Assignment) -> int:
        raise ValueError("boom")

    @agent
    async def sibling(task: Assignment) -> float:
        await asyncio.sleep(0.05)
        return 1.5

    @agent
    async def strict(x: int) -> bytes:
        return b""

    @agent
    async def behind_strict(x: bytes) -> set[str]:
        return set()

    @agent
    async def lenient(x: int | None, y: float) -> str:
        return f"{x} {y}"

    state = await run(broken, sibling, strict, behind_strict, lenient)
    results = state["results"]
    assert results["sibling"].output == 1.5
    assert (results["strict"].status, results["strict"].error) == (Status.SKIPPED, "it needs broken, which failed")
    assert "it needs strict, which was skipped" in results["behind_strict"].error
    assert results["lenient"].output == "None 1.5"
    assert "- broken failed: ValueError: boom" in state["answer"]
    assert "behind_strict was skipped" in state["answer"]


async def test_an_optional_edge_does_the_same_for_agents_that_take_the_assignment() -> None:
    @agent
    async def broken(task: Assignment) -> int:
        raise ValueError("boom")

    @agent
    async def end(task: Assignment) -> str:
        return f"got {dict(task.inputs)}"

    flow = Workflow("w", agents=[broken, end]).add_edge("broken", "end", optional=True)
    assert (await flow.compile().ainvoke({"request": "go"}))["results"]["end"].output == "got {}"


async def test_an_agents_limit_holds_and_waiting_for_a_place_is_not_work() -> None:
    busy, most = Counter[str](), Counter[str]()

    @agent(max_concurrency=2, timeout=0.5)
    async def narrow(task: Assignment) -> int:
        busy["now"] += 1
        most["seen"] = max(most["seen"], busy["now"])
        await asyncio.sleep(0.1)
        busy["now"] -= 1
        return 1

    class Many:
        def plan(self, request: str, **_: Any) -> Plan:
            return Plan(tasks=tuple(Task(id=f"t{i}", agent="narrow") for i in range(14)))

    state = await run(narrow, planner=Many())
    assert all(result.ok for result in state["results"].values())
    assert most["seen"] == 2


async def test_nobody_capable_is_a_result_not_a_guess() -> None:
    @agent(capabilities=[Capability("cooking", "cooks meals", ("cook rice", "bake bread"))])
    async def cook(task: Assignment) -> str:
        return "meal"

    class One:
        def plan(self, request: str, **_: Any) -> Plan:
            return Plan(tasks=(Task(id="odd", instruction="xylophone quartz"), Task(id="meal", capability="cooking")))

    state = await run(cook, planner=One())
    assert state["results"]["meal"].output == "meal"
    assert state["results"]["odd"].status is Status.FAILED
    assert "nobody is capable" in state["results"]["odd"].error


async def test_a_reviewer_gets_the_draft_and_not_an_input_of_the_same_type() -> None:
    judged: list[str] = []

    @agent
    async def writer(task: Assignment) -> str:
        return f"text of {task.task.id}"

    @agent
    async def critic(draft: str) -> Review:
        judged.append(draft)
        return Review(approved=True)

    class TwoTexts:
        def plan(self, request: str, *, agents: Any) -> Plan:
            return Plan(tasks=(Task(id="draft", agent="writer"), Task(id="polish", agent="writer", needs=("draft",))))

    flow = Workflow("w", agents=[writer, critic], planner=TwoTexts()).add_review("writer", by="critic")
    state = await flow.compile().ainvoke({"request": "go"})
    assert state["answer"] == "text of polish"
    assert judged == ["text of draft", "text of polish"]


async def test_a_planner_is_offered_neither_spares_nor_reviewers() -> None:
    offered: list[str] = []

    @agent
    async def writer(task: Assignment) -> str:
        return "text"

    @agent
    async def spare(task: Assignment) -> str:
        return "other text"

    @agent
    async def critic(draft: str) -> Review:
        return Review(approved=True)

    class Looking:
        def plan(self, request: str, *, agents: Any, limit: int, known: Any) -> Plan:
            offered.extend(each.name for each in agents)
            assert limit > 0
            assert known == {}
            return Plan(tasks=(Task(id="a", agent="writer"),))

    flow = Workflow("w", agents=[writer, critic], planner=Looking()).add_review("writer", by="critic")
    flow.add_agent(spare, backup_for="writer")
    await flow.compile().ainvoke({"request": "go"})
    assert offered == ["writer"]


async def test_who_lacks_an_input_does_not_wait_for_the_others() -> None:
    gone = asyncio.Event()

    @agent
    async def fails(task: Assignment) -> int:
        await asyncio.sleep(0.05)
        raise ValueError("no")

    @agent
    async def slow(task: Assignment) -> str:
        await asyncio.wait_for(gone.wait(), 10)
        return "slow"

    @agent
    async def both(fails: int, slow: str) -> bytes:
        return b""

    flow = Workflow("w", agents=[slow, fails, both])
    flow.add_edge("slow", "both").add_edge("fails", "both")
    state: Any = None
    async for mode, told in flow.compile().astream({"request": "go"}, stream_mode=["custom", "values"]):
        if isinstance(told, TaskEnded) and told.task == "both":
            gone.set()
        state = told if mode == "values" else state
    assert state["results"]["both"].error == "it needs fails, which failed"
    assert state["results"]["slow"].ok
