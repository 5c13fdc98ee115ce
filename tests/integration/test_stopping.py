"""Cancel and drain reach agents at every level, and what they leave can be resumed there."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from orchestra import Agent, Assignment, Breaker, Orchestra, Plan, RunState, Task, Workflow, ask, safe_point
from orchestra.events import TaskDeferred, TaskEnded

BOXES = ["operations/fraud/", "operations/", ""]


class Everyone:
    """A planner that gives each of some agents a task, and one more that needs the first of them."""

    def __init__(self, *agents: str) -> None:
        self.agents = agents

    def plan(self, request: str) -> Plan:
        first, *_ = tasks = [Task(id=name, agent=name) for name in self.agents]
        return Plan(tasks=(*tasks, Task(id="after", agent="after", needs=(first.id,))))


class Levels:
    """Three levels with the same agents: one that works for long, one that is quick, one that comes after the first.

    Args:
        long: What the first does, given its place.
        blocking: Whether it is a sync function.
    """

    def __init__(self, long: Callable[[str], Any], *, blocking: bool = False) -> None:
        self.long, self.blocking = long, blocking
        self.ran: Counter[str] = Counter()
        self.heard: dict[str, float] = {}

    def _long(self, place: str) -> Agent:
        async def run(task: Assignment) -> str:
            self.ran[f"{place}long"] += 1
            try:
                await self.long(place)
            except asyncio.CancelledError:
                self.heard[place] = time.monotonic()
                raise
            return "long"

        def block(task: Assignment) -> str:
            self.ran[f"{place}long"] += 1
            try:
                self.long(place)
            except BaseException:
                self.heard[place] = time.monotonic()
                raise
            return "long"

        return Agent("long", block if self.blocking else run)

    def _short(self, place: str, name: str) -> Agent:
        async def run(task: Assignment) -> str:
            self.ran[f"{place}{name}"] += 1
            return name

        return Agent(name, run)

    def _box(self, place: str, inner: Workflow | None) -> Workflow:
        members = [self._long(place), self._short(place, "quick"), self._short(place, "after")]
        name = place.split("/")[-2] if place else "company"
        if inner is None:
            return Workflow(name, agents=members, planner=Everyone("long", "quick"))
        members.append(Agent(inner.name, inner))
        return Workflow(name, agents=members, planner=Everyone("long", "quick", inner.name))

    @property
    def flow(self) -> Workflow:
        made: Workflow | None = None
        for place in BOXES:
            made = self._box(place, made)
        assert made is not None
        return made

    async def under_way(self, times: int = 1) -> None:
        """Return when the long ones work at every level, and the quick ones are done."""
        await until(lambda: all(self.ran[f"{place}long"] >= times for place in BOXES))
        await until(lambda: all(self.ran[f"{place}quick"] for place in BOXES))
        await asyncio.sleep(0.1)  # what they delivered is stored


async def until(what: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.005)


def hang(place: str) -> Any:
    return asyncio.sleep(60)


async def stored(orchestra: Orchestra, thread: str = "t") -> dict[str, set[str]]:
    """What is stored at each level."""
    top = await orchestra.info(thread)
    middle = top.teams["operations"]
    return {"": {*top.raw}, "operations/": {*middle.raw}, "operations/fraud/": {*middle.teams["fraud"].raw}}


QUICK = {place: {"quick"} for place in BOXES}
ONCE = Counter(f"{place}{name}" for place in BOXES for name in ("long", "quick", "after"))


# Cancel


async def test_cancelling_reaches_every_level_soon(database: str) -> None:
    delays: list[float] = []
    async with Orchestra(database) as orchestra:
        for number in range(3):
            levels = Levels(hang)
            run = await orchestra.start(levels.flow, "go", thread_id=f"t{number}")
            await levels.under_way()
            began = time.monotonic()
            await run.cancel()
            assert {*levels.heard} == {*BOXES}
            delays += [at - began for at in levels.heard.values()]
    print(f"\ncancelled: agents at three levels heard of it after {statistics.median(delays) * 1000:.1f} ms (median)")
    assert max(delays) < 0.5


async def test_a_run_cancelled_at_three_levels_goes_on_with_what_was_unfinished(any_url: str) -> None:
    over: set[str] = set()

    async def long(place: str) -> None:
        while place not in over:
            await asyncio.sleep(0.01)

    levels = Levels(long)
    async with Orchestra(any_url) as orchestra:
        for number, place in enumerate(BOXES, start=1):  # each time one more level gets to its end
            going = orchestra.resume("t", workflow=levels.flow) if number > 1 else None
            run = await (going or orchestra.start(levels.flow, "go", thread_id="t"))
            await until(lambda n=number: levels.ran["long"] == n)
            await until(lambda p=place, n=number: levels.ran[f"{p}long"] == n)
            await asyncio.sleep(0.1)
            if number == 1:
                assert await stored(orchestra) == QUICK
            over.add(place)
            if place:
                await until(lambda p=place: levels.ran[f"{p}after"])
                await asyncio.sleep(0.1)
                await run.cancel()
                assert (await orchestra.info("t")).state is RunState.STOPPED
        outcome = await run
    assert outcome.state is RunState.DONE
    again = Counter({"operations/long": 1, "long": 2})
    assert levels.ran == ONCE + again


async def test_cancelling_one_run_leaves_the_others_alone(database: str) -> None:
    go = asyncio.Event()

    async def wait(_: str) -> None:
        await go.wait()

    one, other = Levels(wait), Levels(wait)
    flow = other.flow
    async with Orchestra(database) as orchestra:
        cancelled = await orchestra.start(one.flow, "go", thread_id="one")
        kept = [await orchestra.start(flow, "go", thread_id=f"kept{i}") for i in range(2)]  # of the same agents, too
        twin = await orchestra.start(flow, "go", thread_id="twin")
        await one.under_way()
        await other.under_way(times=3)
        assert await orchestra.cancel("one") is True
        await twin.cancel()
        assert (cancelled.ended, twin.ended, [run.ended for run in kept]) == (True, True, [False, False])
        go.set()
        assert [(await run).state for run in kept] == [RunState.DONE] * 2
        assert (await (await orchestra.resume("twin", workflow=flow))).state is RunState.DONE
        assert (await orchestra.info("one")).state is RunState.STOPPED


async def test_an_agent_that_swallows_the_cancel_once_does_not_keep_the_run(database: str) -> None:
    async def stubborn(place: str) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if place != "operations/fraud/":
                raise

    levels = Levels(stubborn)
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(levels.flow, "go", thread_id="t")
        await levels.under_way()
        began = time.monotonic()
        await run.cancel()
        assert time.monotonic() - began < 2
        assert (await orchestra.info("t")).state is RunState.STOPPED
        assert not levels.ran["operations/fraud/after"], "nothing new begins after a cancel"
        levels.long = lambda place: asyncio.sleep(0)
        assert (await (await orchestra.resume("t", workflow=levels.flow))).state is RunState.DONE


async def test_blocking_agents_stop_at_their_next_safe_point(database: str) -> None:
    def works(_: str) -> None:
        while True:
            time.sleep(0.01)
            safe_point()

    levels = Levels(works, blocking=True)
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(levels.flow, "go", thread_id="t")
        await levels.under_way()
        began = time.monotonic()
        await run.cancel()
        await until(lambda: {*levels.heard} == {*BOXES})
        delays = [at - began for at in levels.heard.values()]
        print(
            f"\ncancelled: threads at three levels heard of it after {statistics.median(delays) * 1000:.1f} ms (median)"
        )
        assert max(delays) < 0.5
        assert await stored(orchestra) == QUICK


async def test_a_blocking_agent_without_safe_points_keeps_nobody(database: str) -> None:
    levels = Levels(lambda place: time.sleep(1), blocking=True)
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(levels.flow, "go", thread_id="t")
        await levels.under_way()
        began = time.monotonic()
        await run.cancel()
        assert time.monotonic() - began < 0.5
        assert await stored(orchestra) == QUICK, "its output comes too late"


async def test_a_team_in_its_timeout_stops_all_that_is_inside(database: str) -> None:
    levels = Levels(hang)
    flow = levels.flow
    team = flow.roster["operations"]
    team.timeout = 0.5
    levels_up = asyncio.Event()

    async def long(place: str) -> None:
        await (asyncio.sleep(60) if place else levels_up.wait())

    levels.long = long
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(flow, "go", thread_id="t")
        await until(lambda: len(levels.heard) == 2)
        apart = abs(levels.heard["operations/"] - levels.heard["operations/fraud/"])
        assert apart < 0.5
        assert not run.ended
        levels_up.set()
        outcome = await run
    assert [each.outcome for each in outcome.results["operations"].attempts] == ["timeout"]
    assert (outcome.results["after"].ok, outcome.results["quick"].ok) == (True, True)


# Drain


async def test_a_drain_lets_every_level_finish_what_it_has_begun(any_url: str) -> None:
    go = asyncio.Event()

    async def wait(_: str) -> None:
        await go.wait()

    levels = Levels(wait)
    async with Orchestra(any_url) as orchestra:
        run = await orchestra.start(levels.flow, "go", thread_id="t")
        await levels.under_way()
        run.drain()
        go.set()
        outcome = await run
        assert outcome.state is RunState.STOPPED
        assert await stored(orchestra) == {place: {"quick", "long"} for place in BOXES}
        assert not any(levels.ran[f"{place}after"] for place in BOXES)
        deferred = {"/".join((*event.path, event.task)) for event in run.seen if isinstance(event, TaskDeferred)}
        assert deferred >= {f"{place}after" for place in BOXES}
        states = {task.name: task.state for task in run.status().tasks}
        assert {states[f"{place}after"] for place in BOXES} == {"deferred"}
    async with Orchestra(any_url) as orchestra:
        assert (await (await orchestra.resume("t", workflow=levels.flow))).state is RunState.DONE
    assert levels.ran == ONCE, "nothing ran twice"


async def test_a_drain_is_seen_at_once_where_nothing_is_under_way(database: str) -> None:
    delays: list[float] = []
    async with Orchestra(database) as orchestra:
        for number in range(3):
            go = asyncio.Event()
            levels = Levels(lambda place, go=go: go.wait())
            run = await orchestra.start(levels.flow, "go", thread_id=f"t{number}")
            await levels.under_way()
            run.drain()
            began = time.monotonic()
            go.set()
            await run
            delays.append(time.monotonic() - began)
    print(f"\ndrained: three levels were stored and left after {statistics.median(delays) * 1000:.0f} ms (median)")
    assert max(delays) < 2


async def test_after_a_drain_an_open_question_from_below_keeps_nothing_else_from_going_on(database: str) -> None:
    go = asyncio.Event()
    told: list[str] = []

    async def long(place: str) -> None:
        if place == "operations/fraud/":
            told.append(ask("Really?", within=timedelta(days=1), otherwise="no"))
        else:
            await go.wait()

    levels = Levels(long)
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(levels.flow, "go", thread_id="t")
        await levels.under_way()
        run.drain()
        go.set()
        (question,) = (await run).questions
        assert question.place == "operations/fraud/long"
        assert not any(levels.ran[f"{place}after"] for place in BOXES)
        outcome = await (await orchestra.resume("t", workflow=levels.flow))
        assert [one.id for one in outcome.questions] == [question.id]
        assert not levels.ran["operations/fraud/after"]
        assert levels.ran["operations/after"], "only what needs the answer waits for it"
        outcome = await (await orchestra.answer("t", "yes", workflow=levels.flow))
    assert (outcome.state, told) == (RunState.DONE, ["yes"])
    assert levels.ran == ONCE + Counter({"operations/fraud/long": 1})


async def test_a_drain_and_then_a_cancel(database: str) -> None:
    levels = Levels(hang)
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(levels.flow, "go", thread_id="t")
        await levels.under_way()
        run.drain()
        await asyncio.sleep(0.05)
        assert not run.ended, "a drain waits for what is under way"
        await run.cancel()
        assert {*levels.heard} == {*BOXES}
        levels.long = lambda place: asyncio.sleep(0)
        again = await orchestra.resume("t", workflow=levels.flow)
        assert (await again).state is RunState.DONE
        ended = {"/".join((*event.path, event.task)) for event in again.seen if isinstance(event, TaskEnded)}
    assert ended >= {f"{place}long" for place in BOXES}
    assert levels.ran == ONCE + Counter({f"{place}long": 1 for place in BOXES})


async def test_whoever_waits_for_a_cancelled_run_hears_of_it(database: str) -> None:
    levels = Levels(hang)
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(levels.flow, "go", thread_id="t")
        await levels.under_way()
        waiting = asyncio.create_task(asyncio.wait_for(run, 5))
        await asyncio.sleep(0)
        await run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_after_an_answer_to_one_of_two_questions_a_cut_off_team_goes_on(database: str) -> None:
    hanging = [True]
    ran: Counter[str] = Counter()

    def asking(name: str) -> Agent:
        async def run(task: Assignment) -> str:
            return str(ask(name))

        return Agent(name, run)

    async def after(task: Assignment) -> str:
        ran["after"] += 1
        await asyncio.sleep(60 if hanging else 0)
        return "after"

    inner = Workflow("inner", agents=[asking("one"), asking("two"), Agent("after", after)]).add_edge("one", "after")
    flow = Workflow("outer", agents=[Agent("deep", Workflow("middle", agents=[Agent("team", inner)]))])
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(flow, "go", thread_id="t"))
        run = await orchestra.answer("t", "yes", "deep/team/one", workflow=flow)
        await until(lambda: ran["after"])
        await asyncio.sleep(0.1)
        await run.cancel()
        hanging.clear()
        outcome = await (await orchestra.resume("t", workflow=flow))
        assert [question.place for question in outcome.questions] == ["deep/team/two"]
        assert ran["after"] == 2
        outcome = await (await orchestra.answer("t", "no", workflow=flow))
    assert (outcome.state, ran["after"]) == (RunState.DONE, 2)


async def fallen_back(orchestra: Orchestra, ran: Counter[str], hanging: list[bool], failures: int) -> Workflow:
    """Start a run in which one team has failed, and cut it off while another works in its place."""

    def worker(name: str, place: str) -> Agent:
        async def run(task: Assignment) -> str:
            ran[place] += 1
            if place == "one/last":
                raise ValueError("no data")
            await asyncio.sleep(60 if hanging and place == "other/last" else 0)
            return place

        return Agent(name, run)

    teams = {
        team: Workflow(team, agents=[worker(name, f"{team}/{name}") for name in ("first", "last")]).add_edge(
            "first", "last"
        )
        for team in ("one", "other")
    }
    flow = Workflow("w", agents=[Agent("one", teams["one"], breaker=Breaker(failures=failures))])
    flow.add_agent(Agent("other", teams["other"]), backup_for="one")
    run = await orchestra.start(flow, "go", thread_id="t")
    await until(lambda: ran["other/last"])
    await asyncio.sleep(0.1)
    await run.cancel()
    hanging.clear()
    return flow


@pytest.mark.parametrize("failures", [1, 5], ids=["open", "closed"])
async def test_a_team_that_stepped_in_goes_on_where_it_was(database: str, failures: int) -> None:
    ran: Counter[str] = Counter()
    async with Orchestra(database) as orchestra:
        flow = await fallen_back(orchestra, ran, [True], failures)
        outcome = await asyncio.wait_for(await orchestra.resume("t", workflow=flow), 10)
    assert (outcome.results["one"].output, outcome.results["one"].agent) == ("other/last", "other")
    assert ran == {"one/first": 1, "one/last": 1, "other/first": 1, "other/last": 2}
