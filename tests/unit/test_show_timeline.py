from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestra import Attempt, Plan, Result, Status, Task
from orchestra.events import Event, PlanReady, TaskEnded, TaskStarted, TaskWaiting
from orchestra.show.pace import critical_path, figures
from orchestra.show.progress import Progress
from orchestra.show.timeline import timeline_svg

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DAY = 86_400


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def tried(agent: str, start: float, end: float, number: int = 1, outcome: Any = "ok") -> Attempt:
    return Attempt(agent=agent, number=number, started=at(start), seconds=end - start, outcome=outcome, error=None)


def ended(task: str, *attempts: Attempt, path: tuple[str, ...] = (), when: float = 0, **more: Any) -> TaskEnded:
    end = max([at(when), *(a.started + timedelta(seconds=a.seconds) for a in attempts)])
    status = Status.SUCCEEDED if attempts and attempts[-1].outcome == "ok" else Status.FAILED
    told: dict[str, Any] = {"status": status, "agent": attempts[-1].agent if attempts else None, **more}
    result = Result(task=task, attempts=attempts, started=attempts[0].started if attempts else end, ended=end, **told)
    return TaskEnded(path=path, task=task, result=result, at=end)


def run(tasks: dict[str, tuple[str, ...]], *events: Event) -> Progress:
    plan = Plan(tasks=tuple(Task(id=task, agent=task, needs=needs) for task, needs in tasks.items()))
    return Progress.of([PlanReady(plan=plan, at=T0), *events])


def texts(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in ET.fromstring(svg).iter() if e.tag.endswith("}text")]


def tips(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in ET.fromstring(svg).iter() if e.tag.endswith("}title")]


def test_the_critical_path_leads_back_through_the_need_that_ended_last() -> None:
    progress = run(
        {"a": (), "b": (), "c": ("a", "b"), "late": ("a",), "skipped": ("c",)},
        ended("a", tried("a", 0, 2)),
        ended("b", tried("b", 0, 3)),
        ended("c", tried("c", 3, 9)),
        ended("late", tried("late", 2, 4)),
        ended("skipped", when=20, status=Status.SKIPPED, error="no"),
    )
    assert [row.task.id for row in critical_path(progress)] == ["b", "c"]
    of = figures(progress)
    assert (of.total, of.busy, of.work, of.critical) == (20, 9, 13, 9)
    assert of.parallelism == pytest.approx(13 / 9)


def test_a_team_on_the_critical_path_shows_its_own_and_is_not_counted_twice() -> None:
    inner = Plan(tasks=(Task(id="x"), Task(id="y")))
    progress = run(
        {"ops": (), "end": ("ops",)},
        PlanReady(path=("ops",), plan=inner, at=T0),
        ended("x", tried("worker", 0, 4), path=("ops",)),
        ended("y", tried("worker", 0, 5), path=("ops",)),
        ended("ops", tried("ops", 0, 5)),
        ended("end", tried("end", 5, 6)),
    )
    assert [row.name for row in critical_path(progress)] == ["ops", "ops/y", "end"]
    assert figures(progress).work == 4 + 5 + 1
    svg = timeline_svg(progress)
    assert texts(svg).count("ops/worker") == 1
    assert {"ops/x by ops/worker, try 1: ok, 4.0 s", "ops/y by ops/worker, try 1: ok, 5.0 s"} <= set(tips(svg))


def test_nothing_to_draw_is_drawn_too() -> None:
    assert "There is no plan yet." in texts(timeline_svg(Progress()))
    assert figures(Progress()).parallelism == 0
    waiting = timeline_svg(run({"a": ()}), at(5))
    assert "a: ready, waits 5.0 s" in tips(waiting)


def test_each_outcome_has_a_sign_and_waits_are_told_from_work() -> None:
    progress = run(
        {"fetch": (), "ask": (), "busy": (), "never": ("fetch",)},
        ended("fetch", tried("fetch", 1, 3, 1, "timeout"), tried("fetch", 5, 8, 2, "error"), tried("spare", 8, 10)),
        TaskStarted(task="ask", agent="ask", attempt=1, at=at(0)),
        TaskWaiting(task="ask", at=at(6)),
        TaskStarted(task="busy", agent="busy", attempt=1, at=at(0)),
        ended("never", when=10, status=Status.SKIPPED, error="no"),
    )
    svg = timeline_svg(progress, at(12))
    said = texts(svg)
    assert {"✗ 2.0 s", "✗ 3.0 s", "✓ fetch 2.0 s", "? 6.0 s", "▶ 12.0 s", "- skipped"} <= set(said)
    assert {"finished", "failed try", "at work", "asked, and stopped for the answer", "never began"} <= set(said)
    assert {"fetch: ready, waits 1.0 s", "fetch: ready, waits 2.0 s", "ask: ready, waits 6.0 s"} <= set(tips(svg))
    assert "fetch, try 1: timeout, 2.0 s" in tips(svg)
    assert any(text.endswith("critical path 7.0 s") for text in said)


def test_two_days_without_work_are_cut_out_and_named() -> None:
    progress = run(
        {"draft": (), "approve": ("draft",)},
        ended("draft", tried("draft", 0, 10)),
        ended("approve", tried("approve", 2 * DAY, 2 * DAY + 10)),
    )
    svg = timeline_svg(progress)
    assert "2.0 d in all · 20.0 s of work · 1.0 at work at a time · critical path 20.0 s" in texts(svg)
    assert {"48.0 h", "01-04 03:04:04"} <= set(texts(svg))
    bars = [float(width) for width in re.findall(r'width="([\d.]+)" height="[\d.]+" stroke-width="2.0"', svg)]
    assert len(bars) == 2
    assert all(bar > 300 for bar in bars)


def test_overlapping_work_of_one_agent_gets_lanes_and_stays_readable() -> None:
    events = [ended(f"t{i}", tried("one", i, i + 2.5)) for i in range(6)]
    svg = timeline_svg(run({f"t{i}": () for i in range(6)}, *events))
    assert texts(svg).count("one") == 1
    rows = {float(y) for y in re.findall(r'y="([\d.]+)" width="[\d.]+" height="2\d', svg)}
    assert len(rows) == 3


def test_the_picture_is_text_and_needs_nothing() -> None:
    evil = "<script>alert(1)</script>\x1b\"'&"
    svg = timeline_svg(run({evil: ()}, ended(evil, tried(evil, 0, 1))))
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert "<script" not in svg
    assert not re.search(r'href|url\(|@import|\bid="|\son\w+=', svg)
    assert any("<script>alert(1)</script>\ufffd" in tip for tip in tips(svg))


@pytest.mark.parametrize("step", [0.003, 0.7, 45, 5_000, 40_000, 900_000])
def test_ticks_are_round_and_do_not_touch(step: float) -> None:
    svg = timeline_svg(run({"a": ()}, ended("a", tried("a", 0, step))))
    ticks = [text for text in texts(svg) if re.fullmatch(r"[\d.]+ (ms|s|min|h|d)", text)]
    assert 3 <= len(ticks) / 2 <= 14
    numbers = [float(tick.split()[0]) for tick in ticks[:4:2]]
    assert numbers[0] == 0
    assert str(numbers[1]).strip("0.")[0] in "12356"


@pytest.mark.parametrize(("tasks", "agents", "seconds"), [(200, 200, 0.5), (2000, 300, 4)])
def test_large_plans_are_drawn_in_no_time(tasks: int, agents: int, seconds: float) -> None:
    events = [ended(f"t{i}", tried(f"agent-{i % agents}", i * 0.1, i * 0.1 + 3)) for i in range(tasks)]
    progress = run({f"t{i}": (f"t{i - 7}",) if i > 7 else () for i in range(tasks)}, *events)
    began = time.perf_counter()
    svg = timeline_svg(progress)
    assert time.perf_counter() - began < seconds  # some five times what it takes, for slow machines
    assert len(tips(svg)) > tasks
