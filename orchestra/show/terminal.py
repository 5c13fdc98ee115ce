"""Runs in a terminal: a live table where there is one, a line per event where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from orchestra.agents import Agent
from orchestra.assignments import Memo
from orchestra.clinic import Checkup
from orchestra.events import (
    ClaimsSettled,
    DraftReviewed,
    Event,
    FellBack,
    HealthChanged,
    PlanReady,
    TaskAdded,
    TaskDeferred,
    TaskEnded,
    TaskStarted,
    TaskWaiting,
    TrialAwaited,
    WorkReviewed,
)
from orchestra.show.progress import Progress, Row
from orchestra.show.theme import SIGNS, clean, duration, one_line, when
from orchestra.snapshots import Comparison, History, RunInfo
from orchestra.tasks import Judgement, Result, text_of

PIPE_WIDTH = 240
"""Characters per line where there is no terminal."""

_SHOWN_FIRST = 30
"""Rows of the live table at most; a plan of thousands is summed up."""

_STYLES = {
    "pending": "dim",
    "running": "cyan",
    "retrying": "yellow",
    "waiting": "magenta",
    "deferred": "yellow",
    "stopped": "yellow",
    "succeeded": "green",
    "done": "green",
    "failed": "red",
    "skipped": "yellow",
}


def _state(state: str) -> Text:
    return Text(f"{SIGNS[state]} {state}", style=_STYLES[state])


class Display(Protocol):
    """Shows a run while it goes on."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(self, *_: object) -> None:
        """Leave the last state standing."""
        ...

    def show(self, event: Event) -> None:
        """Take in one event."""
        ...

    def say(self, text: str) -> None:
        """Tell the person something beside the tasks."""
        ...


def display(console: Console, *, quiet: bool = False) -> Display:
    """Choose how to show a run: live in a terminal, plain lines elsewhere, nothing if `quiet`."""
    if quiet:
        return _Silent()
    return _Live(console) if console.is_terminal else _Plain(console)


class _Silent:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, event: Event) -> None:
        pass

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)  # noqa: T201 -- standard output is for the machine


class _Live:
    """A table with one line per task, redrawn four times a second."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress()
        self._said = ""
        self._height = console.height
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop(datetime.now(UTC))
        self._live.stop()

    def show(self, event: Event) -> None:
        self._progress.apply(event)

    def say(self, text: str) -> None:
        self._said = text

    def _table(self) -> Table:
        said = f"supervisor: {one_line(clean(self._progress.said), 100)}" if self._progress.said else ""
        caption = "\n".join(filter(None, (said, self._said)))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), caption=caption or None, caption_justify="left")
        for title in ("state", "task", "agent", "time", "note"):
            table.add_column(title, header_style="dim", no_wrap=title != "note", overflow="ellipsis")
        rows = self._progress.rows
        shown = rows
        most = max(3, min(_SHOWN_FIRST, self._height - 6))
        if len(rows) > most:  # what moves first
            moving = [r for r in rows if r.state not in ("pending", "succeeded")]
            shown = (moving + [r for r in rows if r.state == "pending"])[:most] or rows[-most:]
        at = datetime.now(UTC)
        for row in shown:
            table.add_row(
                _state(row.state),
                Text("  " * len(row.path) + clean(row.task.id)),
                Text(clean(row.agent)),
                _time(row, at),
                self._note(row),
            )
        if len(shown) < len(rows):
            done = sum(row.ended is not None for row in rows)
            table.add_row("", f"… {len(rows) - len(shown)} more", "", "", f"{done} of {len(rows)} done")
        return table

    def _note(self, row: Row) -> Text:
        if row.state == "pending" and (waits := self._progress.waits_for(row)):
            return Text(f"waits for {', '.join(waits[:4])}{' …' if len(waits) > 4 else ''}", style="dim")
        said = row.said if row.state == "running" else ""
        return Text(one_line(row.note or said), style="dim")


def _time(row: Row, at: datetime) -> str:
    return "earlier" if row.restored else duration(row.seconds(at))


class _Plain:
    """One line per thing that happens, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress()
        self._began: datetime | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, event: Event) -> None:
        row = self._progress.apply(event)
        self._began = self._began or event.at
        clock = f"{(event.at - self._began).total_seconds():7.2f} s"
        if isinstance(event, PlanReady):
            done = [task for task, result in event.finished.items() if result]
            where = f" of {'/'.join(event.path)}" if event.path else ""
            kept = f", {len(done)} finished earlier: {', '.join(done[:8])}" if done else ""
            by = "" if event.plan.made_by in ("edges", "types", "planner") else f", made by {event.plan.made_by}"
            self._line(f"{clock}  plan{where}: {len(event.plan.tasks)} tasks{by}{kept}")
            for repair in () if kept else event.plan.repairs:
                self._line(f"{clock}  plan{where}: {one_line(repair, 200)}")
        elif isinstance(event, WorkReviewed):
            self._line(f"{clock}  review: {judged(event.judgement)}")
        elif isinstance(event, HealthChanged):
            name, change = "/".join((*event.path, event.agent)), event.change
            self._line(f"{clock}  ! {change.after:<9}  agent {name}: {one_line(clean(change.reason), 150)}")
        elif isinstance(event, TrialAwaited):
            who, until = ", ".join(event.agents), "" if event.until is None else f", tried again at {when(event.until)}"
            self._line(f"{clock}  … {'waits':<9}  {'/'.join((*event.path, event.task))}  for {who}{until}")
        elif isinstance(event, ClaimsSettled):
            sign = "=" if event.resolution.settled else "≠"
            self._line(f"{clock}  {sign} {'claims':<9}  {one_line(clean(event.resolution.text), 200)}")
        elif isinstance(event, TaskAdded):
            self._line(f"{clock}  + {'added':<9}  {'/'.join((*event.path, event.added.id))}  by {event.task}")
        elif row is not None and isinstance(
            event, (TaskStarted, TaskEnded, TaskWaiting, TaskDeferred, FellBack, DraftReviewed)
        ):
            note = f"  {one_line(row.note)}" if row.note else ""
            took = f"  {duration(row.seconds(event.at))}" if isinstance(event, TaskEnded) else ""
            agent = f"  by {row.agent}" if row.agent and row.agent != row.task.id else ""
            sign = SIGNS[row.state]
            what = "reviewed" if isinstance(event, DraftReviewed) else row.state
            if isinstance(event, FellBack):
                what, agent = "fell back", f"  to {event.to_agent}"
            self._line(f"{clock}  {sign} {what:<9}  {row.name}{agent}{took}{note}")

    def say(self, text: str) -> None:
        self._line(text)

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def judged(judgement: Judgement) -> str:
    """What a review of finished work said, in one line."""
    said = {True: "answered", False: "not answered", None: ""}[judgement.answered]
    parts = [*judgement.missing, *(f"contradicts: {each}" for each in judgement.contradictions)]
    added = f"; added {', '.join(judgement.added)}" if judgement.added else ""
    return one_line(clean(f"{said}{': ' if said and parts else ''}{'; '.join(parts)}{added}"), 200)


def answer(console: Console, text: str) -> None:
    """Print an answer: Markdown is laid out in a terminal and left as it is elsewhere."""
    text = clean(text)
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def runs_table(infos: Iterable[RunInfo]) -> Table:
    """The list of runs."""
    table = _table("thread", "workflow", "state", "tasks", "since", "request")
    for info in infos:
        total = len(info.plan.tasks) if info.plan else 0
        since = info.since.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        done = f"{len(info.raw)}/{total}" if total else ""
        table.add_row(
            Text(clean(info.thread_id)),
            Text(clean(info.workflow)),
            _state(str(info.state)),
            done,
            since,
            Text(one_line(info.request, 70)),
        )
    return table


def results_table(info: RunInfo) -> Table:
    """The tasks of one run: how each stands, who did it, in how many attempts, and why not."""
    table = _table("state", "task", "agent", "attempts", "time", "note")
    for task in info.plan.order if info.plan else ():
        result = info.results.get(task.id)
        table.add_row(
            _state(info.state_of(task.id)),
            Text(clean(task.id)),
            Text(clean((result and result.agent) or "")),
            str(len(result.attempts) or "") if result else "",
            duration(sum(a.seconds for a in result.attempts)) if result and result.attempts else "",
            Text(one_line("; ".join(notes(result)), 160) if result else ""),
        )
    return table


def notes(result: Result) -> list[str]:
    """What a person should know of how a task went."""
    if result.edited:
        return ["put in by a person"]
    said = [result.error] if result.error else [f"{a.agent}: {a.error}" for a in result.attempts if a.error]
    said += [f"review: {'approved' if r.approved else '; '.join(r.reasons)}" for r in result.reviews]
    said += [f"a person: {d.do}{f', {d.why}' if d.why else ''}" for d in result.decisions]
    return said + [each.text for each in result.resolutions]


def history_table(history: History) -> Table:
    """The moments of a thread."""
    table = _table("moment", "branch", "turn", "what", "task", "at", "settled", "about")
    for moment in history:
        said = {"asked": moment.request, "forked": f"keeps {len(moment.settled)}; {moment.note}"}.get(moment.what, "")
        what = Text(moment.what) if moment.status is None else _state(str(moment.status))
        table.add_row(
            str(moment.number),
            f"{moment.branch}{' (now)' if moment.tip and moment.branch == history.current else ''}",
            str(moment.turn),
            what,
            Text(clean(moment.task or "")),
            moment.at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            str(len(moment.settled) or ""),
            Text(one_line(said, 60)),
        )
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Two moments, task by task."""
    table = _table("task", "result", f"moment {comparison.before.number}", f"moment {comparison.after.number}")
    for change in comparison.tasks:
        before, after = (_said(result) for result in (change.before, change.after))
        table.add_row(Text(clean(change.task)), change.kind, before, after if change.kind != "kept" else Text(""))
    return table


def values_table(comparison: Comparison) -> Table:
    """Two moments, by the keys of the state that differ."""
    table = _table("key", f"moment {comparison.before.number}", f"moment {comparison.after.number}")
    for change in comparison.values:
        values = (Text(one_line("" if v is None else text_of(v), 80)) for v in (change.before, change.after))
        table.add_row(Text(clean(change.key)), *values)
    return table


def agents_table(agents: Mapping[str, Agent], told: Mapping[str, Sequence[Checkup]]) -> Table:
    """Agents, how they are, and what their last probe said."""
    table = _table("agent", "is", "usually", "last probe", "capabilities")
    for name, agent in agents.items():
        health, last = agent.health, (told.get(name) or [None])[-1]
        why = f": {'; '.join(health.reasons)}" if health.reasons else ""
        style = {"healthy": "green", "degraded": "yellow"}.get(str(health.condition), "red")
        probe = "no probe" if agent.probe is None else "never"
        if last is not None:
            probe = f"{when(last.at)} {'good' if last.problem is None else last.problem} ({duration(last.seconds)})"
        table.add_row(
            Text(clean(name)),
            Text(clean(f"{health.condition}{why}"), style=style),
            "" if health.typical is None else duration(health.typical),
            Text(clean(probe), style="red" if last is not None and last.problem else ""),
            Text(clean(", ".join(each.name for each in agent.capabilities))),
        )
    return table


def _said(result: Result | None) -> Text:
    if result is None:
        return Text("")
    return Text(one_line(text_of(result.output) if result.ok else f"{result.status}: {result.error}", 60))


def memory_table(found: Mapping[str, Sequence[Memo]]) -> Table:
    """What is remembered, by user."""
    table = _table("user", "kind", "key", "value", "by", "since")
    for user, memos in found.items():
        for memo in memos:
            since = memo.at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if memo.at else ""
            texts = (Text(one_line(text, 80)) for text in (memo.key, text_of(memo.value), memo.by))
            table.add_row(Text(clean(user)), memo.kind, *texts, since)
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, header_style="dim", no_wrap=title not in ("request", "note", "about"))
    return table
