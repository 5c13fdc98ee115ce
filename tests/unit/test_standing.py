from __future__ import annotations

import asyncio
import io
import json
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langgraph.types import Interrupt
from rich.console import Console

from orchestra import (
    Agent,
    Assignment,
    Attempt,
    Orchestra,
    Plan,
    Result,
    Review,
    RunInfo,
    RunState,
    Status,
    Task,
    Workflow,
)
from orchestra.events import (
    AttemptFailed,
    DraftReviewed,
    Event,
    FellBack,
    PlanReady,
    TaskAdded,
    TaskDeferred,
    TaskEnded,
    TaskStarted,
    TaskWaiting,
)
from orchestra.questions import question_of
from orchestra.show.standing import standing_view
from orchestra.standing import AgentNote, AgentStanding, Standing, TaskStanding, standing_from, standing_of

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NEEDS: dict[str, tuple[str, ...]] = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def plan(needs: dict[str, tuple[str, ...]], **more: Any) -> Plan:
    return Plan(tasks=tuple(Task(id=task, agent=task, needs=each, **more) for task, each in needs.items()))


def planned(needs: dict[str, tuple[str, ...]], path: tuple[str, ...] = (), when: float = 0) -> PlanReady:
    return PlanReady(path=path, plan=plan(needs), at=at(when))


def started(task: str, when: float, agent: str = "", path: tuple[str, ...] = (), attempt: int = 1) -> TaskStarted:
    return TaskStarted(path=path, task=task, agent=agent or task, attempt=attempt, at=at(when))


def result(task: str, begin: float, end: float, agent: str = "", status: Status = Status.SUCCEEDED) -> Result:
    tried = (Attempt(agent=agent or task, number=1, started=at(begin), seconds=end - begin),)
    made: dict[str, Any] = {"attempts": tried, "started": at(begin), "ended": at(end), "status": status}
    return Result(task=task, agent=agent or task, error=None if status is Status.SUCCEEDED else "out of luck", **made)


def ended(task: str, begin: float, end: float, path: tuple[str, ...] = (), **more: Any) -> TaskEnded:
    return TaskEnded(path=path, task=task, result=result(task, begin, end, **more), at=at(end))


def task(standing: Standing, name: str) -> TaskStanding:
    return next(each for each in standing.tasks if each.name == name)


def agent(standing: Standing, name: str) -> AgentStanding:
    return next(each for each in standing.agents if each.name == name)


def test_tells_who_works_on_what_and_who_waits_for_whom() -> None:
    events = [planned(NEEDS), started("a", 1), ended("a", 1, 5), started("b", 5), started("c", 6)]
    standing = standing_of(events, at=at(9))
    assert [(each.name, each.state, each.attempts) for each in standing.tasks] == [
        ("a", "succeeded", 1),
        ("b", "running", 1),
        ("c", "running", 1),
        ("d", "pending", 0),
    ]
    assert (task(standing, "d").waits_for, task(standing, "b").blocks, task(standing, "a").blocks) == (
        ("b", "c"),
        ("d",),
        (),
    )
    assert (agent(standing, "a").state, agent(standing, "a").since) == ("idle", at(5))
    assert agent(standing, "b") == AgentStanding(name="b", state="working", tasks=("b",), since=at(5))
    assert (agent(standing, "d").state, agent(standing, "d").waits_for) == ("waiting", ("b", "c"))
    before = standing_of(events[:1], at=at(0))
    assert task(before, "a").blocks == ("b", "c", "d")
    assert agent(before, "a").waits_for == ("a free place",)


def test_the_time_left_is_the_longest_chain_of_what_is_usual() -> None:
    typical = {"a": 10.0, "b": 20.0, "c": 5.0, "d": 10.0}
    events: list[Event] = [planned(NEEDS)]
    assert (standing_of(events, typical=typical, at=at(0)).left, standing_of(events, typical=typical).done) == (40, 0)
    events += [started("a", 0), ended("a", 0, 20), started("b", 20), started("c", 20)]  # a took twice its time
    standing = standing_of(events, typical=typical, at=at(30))
    assert (standing.left, standing.done) == (10 + 10, pytest.approx(30 / 50))
    late = standing_of(events, typical=typical, at=at(60))  # three tenths of the 40 s that b has taken
    assert late.left == pytest.approx(12 + 10)
    events += [ended("b", 20, 61), ended("c", 20, 61), ended("d", 61, 62, status=Status.FAILED)]
    over = standing_of(events, typical=typical, at=at(99))
    assert (over.left, over.done, task(over, "d").error) == (0, 1, "out of luck")


def test_agents_without_a_usual_time_count_with_what_is_known() -> None:
    events: list[Event] = [planned({"a": (), "b": ("a",), "c": ("b",)})]
    assert (standing_of(events).left, standing_of(events).done) == (None, 0)
    assert standing_of(events, typical={"a": 0}).done == 0
    assert standing_of(events, typical={"a": 1, "x": 7, "y": 9}).left == 1 + 7 + 7  # the median
    events += [ended("a", 0, 4)]
    standing = standing_of(events, at=at(4))  # what this run has shown
    assert (standing.left, standing.done) == (4 + 4, pytest.approx(1 / 3))
    again = Plan(tasks=(Task(id="one", agent="a"), Task(id="two", agent="a", needs=("one",))))
    events = [PlanReady(plan=again, at=T0), ended("one", 0, 6, agent="a")]
    both = [*events, ended("two", 6, 9, agent="a")]
    assert agent(standing_of(both), "a").since == at(9)
    assert standing_of(events, typical={"x": 1}, at=at(6)).left == 6  # this agent's own before the others' median
    by_hand = result("a", 0, 0).model_copy(update={"attempts": (), "edited": True})
    events = [PlanReady(plan=plan({"a": (), "b": ("a",)}), finished={"a": by_hand}, at=T0)]
    assert (standing_of(events).left, standing_of(events).done) == (None, 0.5)


def test_the_margin_comes_from_how_far_off_the_usual_times_were() -> None:
    needs = {"a": (), "b": (), "c": (), "d": ("a", "b", "c"), "e": ("d",)}
    typical = {**dict.fromkeys("abc", 10.0), "d": 3.0, "e": 4.0}
    events = [planned(needs), ended("a", 0, 12), ended("b", 0, 8)]
    assert standing_of(events, typical=typical, at=at(12)).margin is None
    events += [ended("c", 0, 12)]
    assert standing_of(events, typical=typical, at=at(12)).margin == pytest.approx((0.12 / 2 * (9 + 16)) ** 0.5)
    exact = [planned(needs), *(ended(each, 0, 10) for each in "abc")]
    assert standing_of(exact, typical=typical, at=at(10)).margin == 0


def test_a_team_counts_by_its_own_tasks_and_its_agents_by_their_full_names() -> None:
    outer = Plan(tasks=(Task(id="first", agent="ops"), Task(id="last", agent="z", needs=("first",))))
    events: list[Event] = [PlanReady(plan=outer, at=T0), started("first", 0, "ops")]
    typical = {"ops": 100.0, "ops/x": 5.0, "ops/y": 30.0, "z": 1.0, "y": 999.0}
    assert standing_of(events, typical=typical, at=at(0)).left == 101
    events += [planned({"x": (), "y": ("x",)}, ("first",)), started("x", 0, path=("first",))]
    standing = standing_of(events, typical=typical, at=at(2), agents={"ops/y": AgentNote(condition="open")})
    assert (standing.left, standing.done) == (3 + 30 + 1, pytest.approx(2 / 36))
    assert [each.name for each in standing.tasks] == ["first", "first/x", "first/y", "last"]
    assert task(standing, "first/x").blocks == ("first/y", "first", "last")
    assert (task(standing, "first/y").path, task(standing, "first/y").waits_for) == (("first",), ("first/x",))
    assert (agent(standing, "ops/x").tasks, agent(standing, "ops").tasks) == (("first/x",), ("first",))
    assert (agent(standing, "ops/y").state, agent(standing, "ops/y").why) == ("sick", "open")
    events += [ended("first", 0, 9, agent="ops", status=Status.FAILED)]  # it was out of time, and left y undone
    assert [each.name for each in standing_of(events, at=at(9)).tasks] == ["first", "last"]


def test_what_waits_for_a_person_is_named_and_its_time_is_not_counted() -> None:
    needs = {"ask": (), "busy": (), "after": ("ask",)}
    events = [planned(needs), started("ask", 0), started("busy", 0)]
    events += [TaskWaiting(task="ask", at=at(2)), TaskWaiting(task="after", at=at(2))]
    typical = {"ask": 3.0, "busy": 10.0, "after": 4.0}
    standing = standing_of(events, typical=typical, at=at(5_000), questions=["Ship it?"])
    assert (standing.questions, standing.besides) == (("Ship it?",), ("ask",))
    assert (agent(standing, "ask").waits_for, agent(standing, "after").waits_for) == (("a person or a date",), ("ask",))
    assert [each.state for each in standing.tasks] == ["waiting", "running", "pending"]
    quick = standing_of([*events, ended("busy", 0, 9)], typical=typical, at=at(5_000))
    assert quick.left == 3 + 4  # the work once the answer is there
    inner = [planned({"t": ()}), planned({"ask": ()}, ("t",)), TaskWaiting(path=("t",), task="ask")]
    assert standing_of([*inner, TaskWaiting(task="t")]).besides == ("t/ask",)
    dated = [PlanReady(plan=plan({"a": ()}, wait=timedelta(days=1)), at=T0)]
    assert (standing_of(dated, typical={"a": 2.0}).left, standing_of(dated).besides) == (2, ("a",))


def test_tries_reviews_spares_and_work_handed_on() -> None:
    failed = Attempt(agent="a", number=1, started=at(0), seconds=3, outcome="error", error="oh")
    events = [planned({"a": (), "b": ("a",)}), started("a", 0)]
    events += [AttemptFailed(task="a", attempt=failed, retry_in=9, at=at(3))]
    standing = standing_of(events, at=at(4))
    assert (task(standing, "a").state, task(standing, "a").since, task(standing, "a").error) == ("running", at(0), "oh")
    assert (agent(standing, "a").state, agent(standing, "a").waits_for) == ("waiting", ("another try",))
    events += [FellBack(task="a", from_agent="a", to_agent="spare", reason="oh", at=at(4))]
    assert task(standing_of(events), "a").agent == "spare"
    events += [started("a", 5, "spare"), started("a.review", 7, "critic")]
    standing = standing_of(events, at=at(8))
    assert (task(standing, "a").since, task(standing, "a").attempts) == (at(0), 3)
    assert (agent(standing, "critic").tasks, agent(standing, "critic").since) == (("a",), at(7))
    assert agent(standing, "spare").waits_for == ("the review by critic",)
    rejected = Review(approved=False, reasons=("thin",))
    events += [DraftReviewed(task="a", reviewer="critic", round=1, review=rejected, at=at(9))]
    assert "critic" not in {each.name for each in standing_of(events).agents}  # it has no task of its own
    events += [started("a", 9, "spare")]
    events += [TaskAdded(task="a", added=Task(id="a+1", added_by="a"), at=at(10)), started("a+1", 10, "helper")]
    standing = standing_of(events, typical={"helper": 5.0, "spare": 2.0, "b": 1.0}, at=at(11))
    assert [each.name for each in standing.tasks] == ["a+1", "a", "b"]
    assert (agent(standing, "spare").waits_for, task(standing, "a+1").blocks) == (("a+1",), ("a", "b"))
    assert standing.left == 4 + 2 + 1
    asking = standing_of([*events, TaskWaiting(task="a", at=at(12)), TaskWaiting(task="b", at=at(12))])
    assert [each.state for each in asking.tasks] == ["waiting", "waiting", "pending"]
    assert asking.besides == ("a+1",)


def test_a_team_that_gave_up_its_task_is_forgotten() -> None:
    one = Plan(tasks=(Task(id="x", agent="x"),))
    events: list[Event] = [planned({"a": ()}), started("a", 0), PlanReady(path=("a",), plan=one, at=at(0))]
    events += [FellBack(task="a", from_agent="a", to_agent="b", reason="oh", at=at(1)), started("a", 1, "b")]
    assert [each.name for each in standing_of(events, at=at(1)).tasks] == ["a"]


def test_a_run_that_is_taken_up_again_and_one_that_was_left() -> None:
    known = PlanReady(plan=plan(NEEDS), finished={"a": result("a", 0, 4)}, at=at(100))
    events: list[Event] = [known, started("b", 100), TaskDeferred(task="c", at=at(101))]
    typical = {"a": 4.0, "b": 8.0, "c": 2.0, "d": 1.0}
    standing = standing_of(events, typical=typical, at=at(106))
    assert (standing.left, [each.state for each in standing.tasks]) == (
        pytest.approx(0.3 * 8 + 1),
        ["succeeded", "running", "deferred", "pending"],
    )
    left = standing_of(events, typical=typical, at=at(106), over=True)
    assert (left.left, task(left, "b").state, agent(left, "b").state) == (9, "deferred", "waiting")
    assert agent(left, "b").waits_for == ("the run to go on",)
    grown = PlanReady(plan=plan({**NEEDS, "e": (), "d": ("b", "c", "e")}), finished=known.finished, at=at(110))
    again = standing_of([*events, grown], at=at(110))
    assert (task(again, "c").state, task(again, "d").waits_for) == ("pending", ("b", "c", "e"))


def stored(needs: dict[str, tuple[str, ...]], state: RunState, *results: Result, **more: Any) -> RunInfo:
    raw = {each.task: each.model_dump(mode="json") for each in results}
    values: dict[str, Any] = {"thread_id": "t", "workflow": "w", "request": "r", "turn": 1, "asked": T0, **more}
    return RunInfo(state=state, since=at(50), plan=plan(needs), raw=raw, **values)


def test_a_stored_run_tells_the_same() -> None:
    team = stored({"x": (), "y": ("x",)}, RunState.STOPPED, result("x", 5, 8))
    running = stored({"a": (), "ops": ("a",), "z": ("ops",)}, RunState.RUNNING, result("a", 1, 5), teams={"ops": team})
    typical = {"a": 4.0, "ops/x": 3.0, "ops/y": 10.0, "z": 2.0}
    standing = standing_from(running, typical=typical, at=at(12))
    assert {each.name: (each.state, each.since) for each in standing.tasks} == {
        "a": ("succeeded", at(5)),
        "ops": ("running", at(5)),
        "ops/x": ("succeeded", at(8)),
        "ops/y": ("running", at(8)),
        "z": ("pending", T0),
    }
    assert (standing.left, agent(standing, "ops/y").state) == (6 + 2, "working")
    stopped = standing_from(stored({"a": ()}, RunState.STOPPED), at=at(60))
    assert agent(stopped, "a").waits_for == ("the run to go on",)
    question = question_of(Interrupt(value="Ship it?", id="q1"))
    asking = stored({"a": (), "b": ("a",)}, RunState.WAITING, questions=(question,), waiting=("a",))
    waiting = standing_from(asking, at=at(60), agents={"b": AgentNote(condition="degraded", reasons=("slow",))})
    assert (waiting.questions, waiting.besides, task(waiting, "a").state) == (("Ship it?",), ("a",), "waiting")
    assert (agent(waiting, "b").state, agent(waiting, "b").why) == ("waiting", "degraded: slow")


async def test_a_real_run_is_told_while_it_goes_on_and_from_the_database(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def quick(given: Assignment) -> str:
        return "q"

    async def slow(given: Assignment) -> str:
        await go_on.wait()
        return "s"

    flow = Workflow("w", agents=[Agent("quick", quick), Agent("slow", slow), Agent("end", quick)])
    flow.add_edge("quick", "slow")
    flow.add_edge("slow", "end")
    async with Orchestra(f"sqlite:///{tmp_path / 'runs.db'}") as orchestra:
        run = await orchestra.start(flow, "go", thread_id="t")
        async for event in run.events():
            if isinstance(event, TaskStarted) and event.task == "slow":
                break
        live = standing_of(run.seen, typical={"slow": 60.0})
        assert [(each.name, each.state) for each in live.agents] == [
            ("quick", "idle"),
            ("slow", "working"),
            ("end", "waiting"),
        ]
        assert live.left is not None
        assert 0 < live.done < 0.5
        assert 60 < live.left <= 120
        go_on.set()
        await run
        for done in (standing_of(run.seen), standing_from(await orchestra.info("t"))):
            assert (done.done, done.left, {each.state for each in done.agents}) == (1, 0, {"idle"})


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_looking_at_every_chain(seed: int) -> None:
    chance = random.Random(seed)
    names = [f"t{i}" for i in range(chance.randint(1, 14))]
    needs = {n: tuple(chance.sample(names[:i], min(i, chance.randint(0, 3)))) for i, n in enumerate(names)}
    typical = {name: chance.uniform(1, 9) for name in names}
    finished = {name for i, name in enumerate(names) if i < len(names) * chance.random()}
    finished = {name for name in finished if set(needs[name]) <= finished}
    while any(not set(needs[name]) <= finished for name in finished):
        finished = {name for name in finished if set(needs[name]) <= finished}
    events = [planned(needs), *(ended(name, 0, 2) for name in finished)]
    standing = standing_of(events, typical=typical, at=at(2))

    def chains(name: str, seconds: dict[str, float]) -> float:
        return seconds[name] + max((chains(need, seconds) for need in needs[name]), default=0)

    left = max(chains(name, {n: 0 if n in finished else typical[n] for n in names}) for name in names)
    total = max(chains(name, {n: 2 if n in finished else typical[n] for n in names}) for name in names)
    assert standing.left == pytest.approx(left)
    assert standing.done == pytest.approx(1 - left / total)

    def rests_on(name: str, other: str) -> bool:
        return other in needs[name] or any(rests_on(need, other) for need in needs[name])

    for each in standing.tasks:
        resting = {name for name in names if name not in finished and rests_on(name, each.name)}
        assert set(each.blocks) == (resting if each.open else set())


def test_a_plan_of_thousands_is_told_in_no_time() -> None:
    needs = {f"t{i}": tuple(f"t{j}" for j in range(max(0, i - 3), i)) for i in range(5_000)}
    events = [planned(needs), *(ended(f"t{i}", 0, 1) for i in range(1_000))]
    began = time.perf_counter()
    standing = standing_of(events, at=at(1))
    assert time.perf_counter() - began < 1.5  # some thirty times what it takes, for slow machines
    assert len(task(standing, "t1000").blocks) == 3_999
    assert len(str(standing).splitlines()) < 80


def printed(standing: Standing, width: int) -> list[str]:
    console = Console(file=(out := io.StringIO()), width=width, color_system=None)
    console.print(standing_view(standing))
    return out.getvalue().splitlines()


def test_is_shown_as_a_line_and_two_tables_that_fit_a_terminal() -> None:
    evil = "<b>approve\x1b[2J[red]"
    needs = {"draft": (), evil: ("draft",), "a_rather_long_name_of_a_task/" * 2: (evil,)}
    events = [planned(needs), ended("draft", 0, 4), started(evil, 4), TaskWaiting(task=evil, at=at(5))]
    sick = {"draft": AgentNote(condition="open", reasons=("5 of 5 tries failed",))}
    typical = {"draft": 5.0, evil: 4.0}
    standing = standing_of(events, typical=typical, agents=sick, at=at(9), questions=["Ship\nit?"])
    for width in (80, 120):
        lines = printed(standing, width)
        assert lines[0].endswith("32 % done · about 8.5 s left · 1/3 tasks · 1 question")
        assert lines[2] == "? Ship it?"
        assert all(len(line) <= width for line in lines)
        assert not any("\x1b" in line for line in lines)
        assert any(line.startswith("✗ sick") and "open: 5 of 5" in line for line in lines)
        assert any(line.startswith("? waiting") and "4.0 s" in line and "[red]" in line for line in lines)
    assert "no plan yet" in str(standing_of([]))
    page = standing._repr_mimebundle_()["text/html"]
    assert "&lt;b&gt;approve\ufffd[2J[red]" in page
    assert "<b>" not in page
    plain = json.loads(json.dumps(standing.as_json()))
    assert (plain["tasks"][1]["waits_for"], plain["tasks"][1]["blocks"]) == ([], [standing.tasks[2].name])
    assert plain["agents"][0]["why"] == "open: 5 of 5 tries failed"
