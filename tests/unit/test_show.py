from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

from rich.console import Console

from orchestra import Attempt, Plan, Question, Result, Review, RunInfo, RunState, Status, Task
from orchestra.events import (
    AttemptFailed,
    DraftReviewed,
    Event,
    FellBack,
    PlanReady,
    TaskDeferred,
    TaskEnded,
    TaskStarted,
    TaskWaiting,
)
from orchestra.show.progress import Progress
from orchestra.show.terminal import display, results_table, runs_table

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PLAN = Plan(tasks=(Task(id="a"), Task(id="b", needs=("a",)), Task(id="c", needs=("a", "b"))))


def result(task: str, status: Status = Status.SUCCEEDED, error: str | None = None) -> Result:
    tried = (Attempt(agent="x", number=1, started=T0, seconds=2.0),)
    return Result(
        task=task, status=status, agent="x", error=error, attempts=tried, started=T0, ended=T0 + timedelta(seconds=2)
    )


EVENTS: list[Event] = [
    PlanReady(plan=PLAN, finished={"a": result("a")}, at=T0),
    TaskStarted(task="b", agent="x", attempt=1, at=T0),
    AttemptFailed(
        task="b", attempt=Attempt(agent="x", number=1, started=T0, seconds=1, outcome="error", error="oh"), at=T0
    ),
    FellBack(task="b", from_agent="x", to_agent="y", reason="oh", at=T0),
    TaskStarted(task="b", agent="y", attempt=1, at=T0),
    DraftReviewed(task="b", reviewer="r", round=1, review=Review(approved=False, reasons=("thin",)), at=T0),
    PlanReady(path=("b",), plan=Plan(tasks=(Task(id="inner"),)), at=T0),
    TaskEnded(path=("b",), task="inner", result=result("inner"), at=T0),
]


def test_progress_follows_the_events_and_puts_a_teams_tasks_below_it() -> None:
    progress = Progress()
    for event in EVENTS:
        progress.apply(event)
    rows = {row.name: row for row in progress.rows}
    assert list(rows) == ["a", "b", "b/inner", "c"]
    assert (rows["a"].state, rows["a"].restored) == ("succeeded", True)
    assert (rows["b"].state, rows["b"].agent, rows["b"].note) == ("running", "y", "round 1 rejected: thin")
    assert rows["b"].seconds(T0 + timedelta(seconds=3)) == 3
    assert progress.waits_for(rows["c"]) == ["b"]
    progress.apply(TaskWaiting(task="b"))
    assert rows["b"].state == "waiting"
    progress.apply(TaskDeferred(task="c"))
    assert rows["c"].state == "deferred"
    progress.apply(TaskEnded(task="b", result=result("b", Status.FAILED, "out of luck")))
    assert (rows["b"].state, rows["b"].note) == ("failed", "out of luck")


def shown(*, terminal: bool, quiet: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120)
    with display(console, quiet=quiet) as screen:
        for event in EVENTS:
            screen.show(event)
    return out.getvalue()


def test_lines_for_pipes_a_table_for_terminals_nothing_for_machines() -> None:
    lines = shown(terminal=False)
    assert "\x1b" not in lines
    assert "plan: 3 tasks, 1 finished earlier: a" in lines
    assert "reviewed   b  by y  round 1 rejected: thin" in lines
    table = shown(terminal=True)
    assert "waits for b" in table
    assert "inner" in table
    assert shown(terminal=False, quiet=True) == ""


def test_a_plan_of_thousands_is_summed_up() -> None:
    out = io.StringIO()
    with display(Console(file=out, force_terminal=True, width=120)) as screen:
        screen.show(PlanReady(plan=Plan(tasks=tuple(Task(id=f"t{i}") for i in range(3000)))))
    assert "0 of 3000 done" in out.getvalue()
    assert len(out.getvalue().splitlines()) < 50


def test_tables_show_what_agents_wrote_as_text_not_as_markup() -> None:
    info = RunInfo(
        thread_id="[red]t[/red]",
        workflow="w",
        reference="",
        state=RunState.FAILED,
        request="[bold]x",
        turn=1,
        since=T0,
        plan=PLAN,
        raw={"a": result("a", Status.FAILED, "[link]evil[/link]").model_dump(mode="json")},
    )
    out = io.StringIO()
    console = Console(file=out, width=120)
    console.print(runs_table([info]))
    console.print(results_table(info))
    assert "[red]t[/red]" in out.getvalue()
    assert "[link]evil[/link]" in out.getvalue()


def test_a_question_shows_what_one_has_to_know_to_answer_it() -> None:
    asked = Question(
        id="abc",
        kind="approval",
        value="May <b>pay</b> begin?",
        known={"inputs": {"sum": 7}},
        options=("approve", "reject"),
        task="pay",
        path=("team",),
    )
    assert str(asked) == "? approval (team/pay): May <b>pay</b> begin? [approve | reject]"
    shown = asked._repr_mimebundle_()["text/html"]
    assert "&lt;b&gt;pay&lt;/b&gt;" in shown
    assert "sum" in shown
    assert "<b>" not in shown
