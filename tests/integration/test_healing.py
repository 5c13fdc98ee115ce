"""Healing: who fails gets no work, others do it, and a trial tells when it is well again."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langgraph.types import RetryPolicy

from orchestra import (
    Agent,
    Assignment,
    Breaker,
    Budget,
    Orchestra,
    OutOfScope,
    Plan,
    Review,
    RunState,
    Status,
    Task,
    Workflow,
    agent,
)
from orchestra.events import AttemptFailed, FellBack, HealthChanged
from orchestra.health import Health
from orchestra.vitals import Condition

HEALTHY, DEGRADED, OPEN, HALF_OPEN = Condition
ONCE = RetryPolicy(max_attempts=1)
QUICK = RetryPolicy(initial_interval=0.001, max_interval=0.01)
SOON = Breaker(failures=2, cool_down=0.2)
LATE = Breaker(failures=2, cool_down=50, longest=600)  # a task waits for its trial no longer than this run lives
NEVER = Breaker(failures=2, cool_down=300)  # so late that nobody waits for it


class Worker:
    """Makes an agent that counts its calls, and fails as often as it is told to."""

    def __init__(self, name: str, failing: int = 0, seconds: float = 0.0, **options: Any) -> None:
        self.calls, self.failing, self.seconds = 0, failing, seconds

        async def work(task: Assignment) -> str:
            self.calls += 1
            await asyncio.sleep(self.seconds)
            if self.failing:
                self.failing -= 1
                raise ConnectionError(f"{name} is down")
            return name

        self.agent = Agent(name, work, **{"capabilities": ["work"], "retry": ONCE, **options})

    @property
    def condition(self) -> Condition:
        return self.agent.health.condition


class Tasks:
    """A planner that makes so many tasks of the same kind."""

    def __init__(self, count: int = 1, **how: Any) -> None:
        self.count, self.how = count, how or {"capability": "work"}

    def plan(self, request: str, *, agents: Any, messages: Any) -> Plan:
        return Plan(tasks=tuple(Task(id=f"t{i}", instruction="Work.", **self.how) for i in range(self.count)))


def desk(*workers: Worker | Agent, planner: Tasks | None = None, **options: Any) -> Workflow:
    agents = [each.agent if isinstance(each, Worker) else each for each in workers]
    return Workflow("desk", agents=agents, planner=planner or Tasks(), **options)


async def told(flow: Workflow) -> tuple[dict[str, Any], list[Any]]:
    """Run, not longer than ten seconds; return the results and the events."""
    events: list[Any] = []
    state: Any = None
    async with asyncio.timeout(10):
        modes = ["custom", "values"]
        async for inside, mode, chunk in flow.compile().astream({"request": "go"}, stream_mode=modes, subgraphs=True):
            if mode == "custom":
                events.append(chunk)
            elif not inside:
                state = chunk
    return state["results"], events


def changes(events: list[Any], name: str) -> list[tuple[Condition, Condition]]:
    return [(e.change.before, e.change.after) for e in events if isinstance(e, HealthChanged) and e.agent == name]


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


async def test_who_fails_gets_no_work_beyond_its_trials_and_loses_no_task() -> None:
    clock, sick = Clock(), Worker("a", failing=1000, max_concurrency=2)
    sick.agent.health = Health(Breaker(failures=2, cool_down=30), clock)
    flow = desk(sick, *(Worker(name, max_concurrency=2) for name in "bc"), planner=Tasks(40))
    results, events = await told(flow)
    assert all(result.ok and result.agent in "bc" for result in results.values())
    calls = sick.calls
    assert 2 <= calls <= 3  # one may have been under way when it was opened
    assert changes(events, "a")[-1][1] is OPEN
    clock.wait(31)
    results, events = await told(flow)
    assert all(result.ok for result in results.values())
    assert changes(events, "a") == [(OPEN, HALF_OPEN), (HALF_OPEN, OPEN)]
    assert sick.calls == calls + 1
    sick.failing = 0
    clock.wait(31)
    await told(flow)
    assert sick.calls == calls + 1  # the cool-down has doubled
    clock.wait(30)
    _, events = await told(flow)
    assert changes(events, "a") == [(OPEN, HALF_OPEN), (HALF_OPEN, HEALTHY)]
    assert sick.calls > calls + 2  # it works with the others again


async def test_peers_then_backups_then_the_fallback_each_once() -> None:
    first, peer, spare = (Worker(name, failing=99, breaker=Breaker(failures=50)) for name in ("a", "b", "spare"))
    last = Worker("last", capabilities=[])
    flow = desk(first, peer)
    flow.add_agent(spare.agent, backup_for="a").add_agent(last.agent, backup_for="*")
    results, events = await told(flow)
    result = results["t0"]
    assert (result.output, [attempt.agent for attempt in result.attempts]) == ("last", ["a", "b", "spare", "last"])
    steps = [(e.from_agent, e.to_agent) for e in events if isinstance(e, FellBack)]
    assert steps == [("a", "b"), ("b", "spare"), ("spare", "last")]
    assert "a is down" in next(e.reason for e in events if isinstance(e, FellBack))
    last.failing = 1
    result = (await told(flow))[0]["t0"]
    assert Counter(attempt.agent for attempt in result.attempts) == dict.fromkeys(("a", "b", "spare", "last"), 1)
    assert all(f"{name} is down" in result.error for name in ("a", "b", "spare", "last"))


async def test_who_is_open_is_passed_over_without_an_attempt() -> None:
    first, spare, last = Worker("a", failing=2, breaker=LATE), Worker("spare", failing=2, breaker=LATE), Worker("last")
    flow = desk(first).add_agent(spare.agent, backup_for="a").add_agent(last.agent, backup_for="*")
    for _ in range(2):
        await told(flow)
    results, events = await told(flow)
    assert [attempt.agent for attempt in results["t0"].attempts] == ["last"]
    assert not [e for e in events if isinstance(e, FellBack)]
    assert (first.calls, spare.calls) == (2, 2)


async def test_retries_stop_as_soon_as_the_agent_is_open() -> None:
    sick = Worker("a", failing=99, retry=QUICK._replace(max_attempts=9), breaker=LATE)
    results, events = await told(desk(sick, Worker("b")))
    assert [(a.agent, a.number) for a in results["t0"].attempts] == [("a", 1), ("a", 2), ("b", 1)]
    assert [e.retry_in is None for e in events if isinstance(e, AttemptFailed)] == [False, True]
    assert "now it gets no work" in next(e.reason for e in events if isinstance(e, FellBack))


async def test_a_short_outage_of_the_only_capable_agent_fails_no_task() -> None:
    """Those whose retries were stopped by the others' failures use the rest of them once its trial went well."""
    only = Worker("a", failing=6, retry=QUICK, breaker=Breaker(failures=2, cool_down=0.1))
    results, events = await told(desk(only, planner=Tasks(6)))
    assert [result.error for result in results.values()] == [None] * 6
    assert all([a.number for a in r.attempts] == [*range(1, len(r.attempts) + 1)] for r in results.values())
    assert changes(events, "a")[-1] == (HALF_OPEN, HEALTHY)
    assert not [e for e in events if isinstance(e, FellBack)]


async def test_an_agent_that_stays_sick_is_tried_no_more_often_than_its_retries_allow() -> None:
    only = Worker("a", failing=99, retry=QUICK, breaker=Breaker(failures=1, cool_down=0.05, longest=0.1))
    result = (await told(desk(only)))[0]["t0"]
    assert [a.number for a in result.attempts] == [1, 2, 3]
    assert "a failed at try 3: ConnectionError: a is down" in result.error


async def test_tasks_of_the_only_capable_agent_wait_for_its_trial() -> None:
    only = Worker("a", failing=2, max_concurrency=1, breaker=SOON)
    results, events = await told(desk(only, planner=Tasks(6)))
    assert Counter(result.status for result in results.values()) == {Status.FAILED: 2, Status.SUCCEEDED: 4}
    assert changes(events, "a")[-2:] == [(OPEN, HALF_OPEN), (HALF_OPEN, HEALTHY)]
    assert only.calls == 6


async def test_a_trial_that_lies_too_far_ahead_is_not_waited_for() -> None:
    only = Worker("a", failing=2, breaker=NEVER)
    flow = desk(only)
    for _ in range(2):
        await told(flow)
    result = (await told(flow))[0]["t0"]
    assert "a gets no work: 2 failures in a row, the last: error: ConnectionError: a is down" in result.error
    assert (result.attempts, only.calls) == ((), 2)


@pytest.mark.parametrize("how", ["drain", "cancel"])
async def test_drain_and_cancel_end_the_waiting_for_a_trial(how: str, database: str) -> None:
    only = Worker("a", failing=2, breaker=LATE)
    flow = desk(only)
    for _ in range(2):
        await told(flow)
    async with Orchestra(database) as orchestra, asyncio.timeout(10):
        run = await orchestra.start(flow, "go", thread_id="t")
        assert not await run.over(within=0.2)
        if how == "cancel":
            await run.cancel()
        else:
            run.drain()
            assert (await run).state is RunState.STOPPED
        flow.add_agent(Worker("b").agent)
        outcome = await (await orchestra.resume("t", workflow=flow))
    assert outcome.results["t0"].output == "b"
    assert only.calls == 2


async def test_healthy_ones_come_before_degraded_ones() -> None:
    first, other = Worker("a", failing=2), Worker("b")
    flow = desk(first, other)
    for _ in range(2):
        assert (await told(flow))[0]["t0"].agent == "b"
    assert first.condition is DEGRADED
    other.failing = 1
    result = (await told(flow))[0]["t0"]
    assert [attempt.agent for attempt in result.attempts] == ["b", "a"]


async def test_who_becomes_slow_is_degraded_and_works_behind_the_others() -> None:
    first, other = Worker("a"), Worker("b")
    flow = desk(first, other, planner=Tasks(15))
    await told(flow)
    first.seconds = 0.3
    await told(flow)
    assert first.condition is DEGRADED
    assert first.agent.health.reasons[0].startswith("slow")
    assert (first.calls, other.calls) == (30, 0)
    assert {result.agent for result in (await told(flow))[0].values()} == {"b"}


async def test_of_equals_that_are_full_the_first_with_a_free_place_gets_the_task() -> None:
    done, rest = Counter[str](), asyncio.Event()

    def worker(name: str) -> Agent:
        async def work(task: Assignment) -> str:
            if name == "a":  # works until the others have done all the rest
                await rest.wait()
            await asyncio.sleep(0.01)
            done[name] += 1
            if done["b"] + done["c"] == 28:
                rest.set()
            return name

        return Agent(name, work, capabilities=["work"], max_concurrency=2)

    results, _ = await told(desk(*map(worker, "abc"), planner=Tasks(30)))
    assert all(result.ok for result in results.values())
    assert done["a"] == 2


async def test_a_place_that_somebody_left_without_taking_it_is_not_lost() -> None:
    """Whoever was told of a free place may be cancelled before it takes it."""
    begun, rest = Counter[str](), asyncio.Event()

    def worker(name: str) -> Agent:
        async def work(task: Assignment) -> str:
            begun[name] += 1
            await rest.wait()
            return name

        return Agent(name, work, capabilities=["work"], max_concurrency=1)

    agents = [worker("a"), worker("b")]
    runs = [asyncio.create_task(told(desk(*agents, planner=Tasks(4)))) for _ in range(3)]
    while sum(begun.values()) < 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    rest.set()
    runs[0].cancel()
    runs[1].cancel()
    assert all(result.ok for result in (await runs[2])[0].values())


class Odd:
    """Ways to end an attempt."""

    @staticmethod
    async def late(task: Assignment) -> int:
        await asyncio.sleep(30)
        return 1

    @staticmethod
    async def malformed(task: Assignment) -> int:
        return "many"  # type: ignore[return-value]

    @staticmethod
    async def beyond(task: Assignment) -> int | OutOfScope:
        return OutOfScope("not mine")


@pytest.mark.parametrize(("work", "why"), [(Odd.late, "timeout: no output within"), (Odd.malformed, "malformed: ")])
async def test_timeouts_and_malformed_outputs_count(work: Any, why: str) -> None:
    odd = Agent("odd", work, timeout=0.02, retry=ONCE, capabilities=["work"], breaker=NEVER)
    flow = desk(odd)
    for _ in range(2):
        await told(flow)
    assert odd.health.condition is OPEN
    assert why in odd.health.reasons[0]


async def test_what_says_nothing_of_the_agent_does_not_count(database: str) -> None:
    strict = Breaker(failures=1)
    declining = Agent("odd", Odd.beyond, capabilities=["work"], breaker=strict)
    result = (await told(desk(declining)))[0]["t0"]
    assert result.attempts[0].outcome == "declined"
    late = Agent("late", Odd.late, capabilities=["work"], breaker=strict)
    result = (await told(desk(late, budget=Budget(seconds=0.1))))[0]["t0"]
    assert "budget of time" in result.error
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(desk(late), "go")
        while not any(type(event).__name__ == "TaskStarted" for event in run.seen):
            await asyncio.sleep(0.01)
        await run.cancel()
    assert (declining.health.condition, late.health.condition) == (HEALTHY, HEALTHY)
    assert declining.health.history == late.health.history == ()


async def test_a_team_is_spared_like_any_agent_and_its_agents_are_named_with_it() -> None:
    inner = Worker("inner", failing=99, breaker=Breaker(failures=1, cool_down=300))
    team = Agent("team", Workflow("inside", agents=[inner.agent]), breaker=NEVER)
    flow = Workflow("desk", agents=[team]).add_agent(Worker("z").agent, backup_for="team")
    told_of: list[tuple[tuple[str, ...], str, Condition]] = []
    for _ in range(3):
        results, events = await told(flow)
        assert results["team"].agent == "z"
        told_of += [(e.path, e.agent, e.change.after) for e in events if isinstance(e, HealthChanged)]
    assert told_of == [(("team",), "inner", OPEN), ((), "team", OPEN)]
    assert inner.calls == 1
    assert [attempt.agent for attempt in results["team"].attempts] == ["z"]


async def test_a_reviewer_that_fails_is_spared_like_any_agent() -> None:
    calls = Counter[str]()

    @agent
    async def author(task: Assignment) -> str:
        return "draft"

    async def broken(draft: str) -> Review:
        calls["broken"] += 1
        raise ConnectionError("down")

    async def spare(draft: str) -> Review:
        return Review(approved=True)

    flow = Workflow("w", agents=[author, Agent("reviewer", broken, retry=QUICK, breaker=NEVER)])
    flow.add_agent(Agent("spare", spare), backup_for="reviewer").add_review("author", by="reviewer")
    for _ in range(3):
        assert (await told(flow))[0]["author"].ok
    assert calls["broken"] == 2
