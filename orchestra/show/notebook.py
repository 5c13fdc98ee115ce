"""How each type shows itself in a notebook: HTML where it is wanted, and always a short text.

Pictures are images, not inline SVG: a notebook that is not trusted drops SVG, and images keep their styles to
themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from orchestra.events import PlanReady
from orchestra.graph import CompiledWorkflow
from orchestra.questions import Question, plain
from orchestra.run import Run
from orchestra.show import html
from orchestra.show.graph import plan_svg, workflow_svg
from orchestra.show.picture import data_uri
from orchestra.show.progress import Progress
from orchestra.show.theme import SIGNS, duration, escape, one_line, when
from orchestra.show.timeline import timeline_svg
from orchestra.snapshots import Comparison, History, Moment, Outcome, RunInfo, RunList, RunState, past_events
from orchestra.tasks import Plan, Result, now
from orchestra.workflow import Workflow

_MOST = 40
"""Lines of text at most; a notebook shows the rest as HTML."""


@singledispatch
def bundle(value: Any) -> dict[str, Any]:
    """The formats a notebook can choose from."""
    return {"text/plain": one_line(repr(value), 200)}


@bundle.register
def _workflow(value: Workflow) -> dict[str, Any]:
    text = f"Workflow {value.name}: {', '.join(value.roster) or 'no agents yet'}"
    return _formats(text, _image(workflow_svg(value), text))


@bundle.register
def _compiled(value: CompiledWorkflow) -> dict[str, Any]:
    return bundle(value.workflow)


@bundle.register
def _plan(value: Plan) -> dict[str, Any]:
    rows = [(task.id, task.agent or task.capability or "", ", ".join(task.needs)) for task in value.order]
    text = _columns(f"Plan of {len(rows)} tasks, made by {value.made_by}", ("task", "agent", "needs"), rows)
    picture = plan_svg(Progress.of([PlanReady(plan=value)]))
    return _formats(text, _image(picture, f"Plan of {len(rows)} tasks"), html.plan_table(value))


@bundle.register
def _result(value: Result) -> dict[str, Any]:
    said = html.readable(value.output, indent=None) if value.ok else value.error or "no reason recorded"
    who = f" by {value.agent}" if value.agent else ""
    text = f"{_sign(value.status)} {value.task}{who}: {said}"
    return _formats(one_line(text, 200), html.result_card(value))


@bundle.register
def _question(value: Question) -> dict[str, Any]:
    choice = f" [{' | '.join(map(plain, value.options))}]" if value.options else ""
    where = f" ({value.place})" if value.place else ""
    text = f"? {value.kind}{where}: {value.text}{choice}"
    known = [(name, html.readable(told, indent=None)) for name, told in value.known.items()]
    due = [("due", f"{when(value.due)}; then {plain(value.otherwise)}")] if value.due else []
    rows = [("asks", value.text), ("where", value.place), ("answers", choice.strip(" []")), *known, *due]
    told = [(escape(name), escape(one_line(said, 400))) for name, said in rows if said]
    return _formats(one_line(text, 400), html.table(f"Question {value.id}: {value.kind}", ("About", "Told"), told))


@bundle.register
def _outcome(value: Outcome) -> dict[str, Any]:
    said = value.answer if value.answer is not None else f"{len(value.questions)} open questions"
    return _formats(one_line(f"{_sign(value.state)} {value.thread_id}: {said}", 400), html.outcome_card(value))


@bundle.register
def _info(value: RunInfo) -> dict[str, Any]:
    rows: list[tuple[str, ...]] = []
    for task in value.plan.order if value.plan else ():
        result = value.results.get(task.id)
        took = duration(sum(attempt.seconds for attempt in result.attempts)) if result else ""
        note = one_line(result.error or "", 60) if result else ""
        rows.append((task.id, _sign(value.state_of(task.id)), (result and result.agent) or "", took, note))
    title = f"{_sign(value.state)} {value.thread_id} ({value.workflow}, turn {value.turn}): {value.request}"
    text = _columns(one_line(title, 160), ("task", "state", "agent", "time", "note"), rows)
    head = f'<p class="head">{html.state(value.state)} <strong>{escape(value.thread_id)}</strong></p>'
    pictures = ""
    if value.plan is not None:
        progress = Progress.of(past_events(value))
        at = value.since if value.state in (RunState.RUNNING, RunState.WAITING) else None
        pictures = _image(plan_svg(progress), f"Plan of {len(rows)} tasks")
        pictures += _image(timeline_svg(progress, at), "Timeline") if value.raw else ""
    return _formats(text, head, pictures, html.results_table(value))


@bundle.register
def _runs(value: RunList) -> dict[str, Any]:
    rows = [
        (info.thread_id, info.workflow, _sign(info.state), when(info.since), one_line(info.request, 50))
        for info in value
    ]
    text = _columns(f"{len(rows)} runs", ("thread", "workflow", "state", "since", "request"), rows)
    return _formats(text, html.runs_table(value))


@bundle.register
def _history(value: History) -> dict[str, Any]:
    rows = [
        (
            str(moment.number),
            str(moment.branch),
            str(moment.turn),
            moment.what,
            html.about(moment),
            _sign(moment.status) if moment.status else "",
            when(moment.at),
            html.tip(value, moment),
        )
        for moment in value
    ]
    heads = ("number", "branch", "turn", "what", "about", "status", "at", "tip")
    return _formats(_columns(f"History of {value.thread_id}", heads, rows), html.history_table(value))


@bundle.register
def _moment(value: Moment) -> dict[str, Any]:
    what = " ".join(filter(None, (value.what, value.task, value.status)))
    settled = f"{len(value.settled)} tasks settled"
    where = f"moment {value.number}, branch {value.branch}, turn {value.turn}"
    return {"text/plain": one_line(f"{where}: {what} at {when(value.at)}, {settled}", 200)}


@bundle.register
def _comparison(value: Comparison) -> dict[str, Any]:
    rows = [(change.task, change.kind, _said(change.before), _said(change.after)) for change in value.tasks]
    rows += [(one.key, "state", _short(one.before), _short(one.after)) for one in value.values]
    title = f"Moment {value.before.number} and moment {value.after.number}"
    text = _columns(title, ("task or key", "difference", "before", "after"), rows)
    return _formats(text, html.comparison_table(value))


@bundle.register
def _run(value: Run) -> dict[str, Any]:
    progress = Progress.of(value.seen)
    if value.ended:
        progress.stop(max((event.at for event in value.seen), default=now()))
    rows = progress.rows
    done = sum(row.ended is not None for row in rows if not row.path)
    total = sum(not row.path for row in rows)
    text = f"Run on thread {one_line(value.thread_id)}: {done} of {total} tasks"
    if not rows:
        return {"text/plain": text}
    at = None if value.ended else now()
    pictures = _image(plan_svg(progress, at=at), text) + _image(timeline_svg(progress, at), "Timeline")
    head = f'<p class="head"><strong>{escape(value.thread_id)}</strong>: {done} of {total} tasks</p>'
    return _formats(text, head, pictures)


def _formats(text: str, *fragments: str) -> dict[str, Any]:
    return {"text/plain": text, "text/html": html.boxed(*fragments)}


def _image(svg: str, alt: str) -> str:
    return f'<img src="{data_uri(svg)}" alt="{escape(alt)}" style="max-width:100%">'


def _said(result: Result | None) -> str:
    if result is None:
        return ""
    return _short(result.output) if result.ok else one_line(f"{_sign(result.status)} {result.error or ''}", 40)


def _short(value: Any) -> str:
    return "" if value is None else one_line(html.readable(value, indent=None), 40)


def _sign(state: str) -> str:
    return f"{SIGNS.get(state, '')} {state}"


def _columns(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text."""
    shown = [heads, *([one_line(cell, 60) for cell in row] for row in rows[:_MOST])]
    widths = [max(len(row[column]) for row in shown) for column in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]
    more = [f"… {len(rows) - _MOST} more"] if len(rows) > _MOST else []
    return "\n".join([title, *lines, *more])
