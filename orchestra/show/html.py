"""Runs as fragments of HTML, for notebooks and for the report. No script; what others wrote is shown as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from pydantic_core import PydanticSerializationError, to_jsonable_python

from orchestra.show.markdown import markdown
from orchestra.show.theme import SIGNS, clean, duration, escape, one_line, style, when
from orchestra.snapshots import Comparison, History, Moment, Outcome, RunInfo, TaskChange
from orchestra.tasks import Attempt, Plan, Result, Review, Task, Usage

_LONG = 1200
"""From how many characters on an output is folded away."""

_MOST = 200_000
"""Characters of an output that a page shows at most."""

_KINDS = {"kept": "=", "same": "≈", "changed": "→", "added": "+", "removed": "−"}  # noqa: RUF001 -- a minus as wide as the plus
"""The sign of each kind of difference between two moments."""

_RULES = """
:root{background:var(--ground);color:var(--text);text-align:left;
  font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif}
:root:not(body){padding:4px 8px;border-radius:6px}
table{border-collapse:collapse;table-layout:auto;margin:8px 0;width:100%;font-size:14px;background:none;color:inherit}
caption{text-align:left;color:var(--muted);padding:4px 0;caption-side:top}
th,td{text-align:left;vertical-align:top;padding:5px 14px 5px 0;border:0;border-top:1px solid var(--faint);
  background:none;overflow-wrap:anywhere;min-width:6em}
thead th{color:var(--muted);font-weight:400;border-top:0;border-bottom:1px solid var(--line);overflow-wrap:normal}
tbody th{font-weight:600}
tbody tr{background:none}
.number{text-align:right;white-space:nowrap;min-width:0;font-variant-numeric:tabular-nums}
.when{white-space:nowrap;min-width:0;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.muted{color:var(--muted)}
.state,.kind{white-space:nowrap;font-weight:600}
.text{white-space:pre-wrap;overflow-wrap:anywhere;margin:8px 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--panel);color:inherit;border-radius:6px;
  padding:10px 12px;margin:8px 0;font:13px/1.45 ui-monospace,'DejaVu Sans Mono',monospace}
code{font:0.92em ui-monospace,'DejaVu Sans Mono',monospace;background:var(--panel);color:inherit}
blockquote{margin:8px 0;padding-left:14px;border-left:3px solid var(--faint);color:var(--muted)}
a{color:var(--running)}
summary{cursor:pointer}
.card{border:1px solid var(--faint);border-left:4px solid var(--line);border-radius:6px;padding:8px 14px;margin:8px 0}
.head{margin:0 0 4px}
.error{color:var(--failed)}
ul.sources{padding-left:1.2em;margin:4px 0}
"""


_OURS = ".orchestra" * 3
"""Thrice, because a notebook's rules for tables are about that specific."""


def _scoped(rules: str) -> str:
    """The rules below the class `orchestra` only: a notebook's page, or anybody else's, keeps its own looks."""
    lines = re.sub(r"\n\s+", "", rules).strip().split("\n")
    scoped: list[str] = []
    for line in lines:
        selectors, body = line.split("{", 1)
        parts = [
            part.replace(":root", ":is(div,body).orchestra") if ":root" in part else f"{_OURS} {part}"
            for part in selectors.split(",")
        ]
        scoped.append(f"{','.join(parts)}{{{body}")
    return "".join(scoped)


_STATES = "".join(f"{_OURS} .{state}{{color:var(--{state})}}" for state in SIGNS)
STYLE = style().replace(":root", ".orchestra") + _scoped(_RULES) + _STATES
"""The looks of all fragments, for what has the class `orchestra`."""


def boxed(*fragments: str) -> str:
    """Fragments with their looks, for where there is no page of ours around them."""
    return f'<div class="orchestra"><style>{STYLE}</style>{"".join(fragments)}</div>'


# Tables


def runs_table(infos: Iterable[RunInfo]) -> str:
    """The list of runs."""
    rows = [
        (
            escape(info.thread_id),
            escape(info.workflow),
            state(info.state),
            f"{len(info.raw)}/{len(info.plan.tasks)}" if info.plan else "",
            when(info.since),
            escape(one_line(info.request, 100)),
        )
        for info in infos
    ]
    return table("Runs", ("Thread", "Workflow", "State", "#Tasks", "@Since", "Request"), rows)


def results_table(info: RunInfo) -> str:
    """How each task of a run stands, those of its teams included."""
    rows = [_result_cells(name, task, result, told) for name, task, result, told in _tasks(info)]
    return table(f"Tasks of {info.thread_id}", _RESULT_HEADS, rows)


_RESULT_HEADS = ("Task", "State", "Agent", "#Attempts", "#Time", "Note")


def _result_cells(name: str, task: Task, result: Result | None, told: str) -> tuple[str, ...]:
    if result is None:
        return escape(name), state(told), escape(task.agent or ""), "", "", ""
    took = duration(sum(attempt.seconds for attempt in result.attempts)) if result.attempts else ""
    tries = str(len(result.attempts) or "")
    return escape(name), state(told), escape(result.agent or ""), tries, took, escape(one_line(_note(result), 160))


def _note(result: Result) -> str:
    if result.error:
        return result.error
    failed = [f"{attempt.agent}: {attempt.error or attempt.outcome}" for attempt in result.attempts if not _ok(attempt)]
    verdicts = ("approved" if review.approved else "; ".join(review.reasons) or "rejected" for review in result.reviews)
    return "; ".join([*failed, *(f"review: {verdict}" for verdict in verdicts)])


def _ok(attempt: Attempt) -> bool:
    return attempt.outcome == "ok"


def _tasks(info: RunInfo, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Task, Result | None, str]]:
    """The tasks of a run: name with its teams, the task, its result, and its state; a team's own follow the team."""
    for task in info.plan.order if info.plan else ():
        result = info.results.get(task.id)
        yield "/".join((*path, task.id)), task, result, info.state_of(task.id)
        if task.id in info.teams:
            yield from _tasks(info.teams[task.id], (*path, task.id))


def attempts_table(info: RunInfo) -> str:
    """Every try of every task of a run, in the order they began."""
    tries = [(name, attempt) for name, _, result, _ in _tasks(info) if result for attempt in result.attempts]
    tries.sort(key=lambda named: named[1].started)
    rows = [(escape(name), *_attempt_cells(attempt)) for name, attempt in tries]
    return table(f"Attempts of {info.thread_id}", ("Task", *_ATTEMPT_HEADS), rows)


_ATTEMPT_HEADS = ("Agent", "#Try", "Outcome", "@Began", "#Took", "What went wrong")


def _attempt_cells(attempt: Attempt) -> tuple[str, ...]:
    outcome = state("succeeded" if _ok(attempt) else "failed", attempt.outcome)
    took, error = duration(attempt.seconds), escape(attempt.error or "")
    return escape(attempt.agent), str(attempt.number), outcome, when(attempt.started), took, error


def history_table(history: History) -> str:
    """The moments of a thread, and where its branches end."""
    rows = [
        (
            str(moment.number),
            str(moment.branch),
            str(moment.turn),
            str(moment.wave),
            escape(moment.what),
            escape(about(moment)),
            state(moment.status) if moment.status else "",
            when(moment.at),
            tip(history, moment),
        )
        for moment in history
    ]
    heads = ("#Number", "#Branch", "#Turn", "#Wave", "What", "Task or request", "Status", "@At", "Tip")
    return table(f"History of {history.thread_id}", heads, rows)


def about(moment: Moment) -> str:
    """The task that ended, the request that was stored, or how much a branch begins with."""
    if moment.what == "forked":
        return f"keeps {len(moment.settled)}; {moment.note}"
    return moment.task or (one_line(moment.request, 60) if moment.what == "asked" else "")


def tip(history: History, moment: Moment) -> str:
    """Whether a branch ends here, and whether it is the one that goes on."""
    if not moment.tip:
        return ""
    return "◀ goes on here" if moment.branch == history.current else "◀ end of branch"


def comparison_table(comparison: Comparison) -> str:
    """Where two moments of a thread differ: task by task, and in the rest of the state."""
    before, after = (_moment(moment) for moment in (comparison.before, comparison.after))
    tasks = [
        (escape(change.task), f'<span class="kind">{_KINDS[change.kind]} {change.kind}</span>', *_sides(change))
        for change in comparison.tasks
    ]
    made = table(f"Tasks at {before} and at {after}", ("Task", "Difference", "Before", "After"), tasks)
    if comparison.values:
        rows = [(escape(value.key), _line(value.before), _line(value.after)) for value in comparison.values]
        made += table("What else differs", ("Key", "Before", "After"), rows)
    return made


def _moment(moment: Moment) -> str:
    return f"moment {moment.number} (branch {moment.branch}, turn {moment.turn})"


def _sides(change: TaskChange) -> Iterator[str]:
    for result in (change.before, change.after):
        if result is None:
            yield ""
        elif result.ok:
            yield _line(result.output)
        else:
            yield f"{state(result.status)} {escape(one_line(result.error or '', 90))}"


def _line(value: Any) -> str:
    return "" if value is None else escape(one_line(readable(value, indent=None), 110))


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table.

    Args:
        caption: What it shows, as text.
        heads: The heads of its columns, as text; after a `#` those of numbers, after an `@` of moments.
        rows: The cells, as HTML. The first of a row is its head.
    """
    looks = [{"#": ' class="number"', "@": ' class="when"'}.get(head[0], "") for head in heads]
    head = "".join(
        f'<th scope="col"{look}>{escape(text.lstrip("#@"))}</th>' for text, look in zip(heads, looks, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row"{looks[0]}>{row[0]}</th>'
        + "".join(f"<td{look}>{cell}</td>" for cell, look in zip(row[1:], looks[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


# Cards


def result_card(result: Result) -> str:
    """One result with its story."""
    head = f"{state(result.status)} <strong>{escape(result.task)}</strong> {how(result)}"
    looks = f'class="card" style="border-left-color:var(--{result.status})"'
    return f'<section {looks}><p class="head">{head}</p>{result_body(result)}</section>'


def how(result: Result) -> str:
    """By whom, in what time, in how many attempts."""
    said = [f"by {'a person, in place of ' * result.edited}{escape(result.agent)}"] if result.agent else []
    if result.attempts:
        said.append(duration(sum(attempt.seconds for attempt in result.attempts)))
        said += [f"{len(result.attempts)} attempts"] if len(result.attempts) > 1 else []
        said += [tokens(result.usage)] if result.usage.calls else []
    return f'<span class="muted">{" · ".join(said)}</span>'


def tokens(usage: Usage) -> str:
    """What models were used, in words."""
    about = "up to " * usage.estimated
    calls = "1 call" if usage.calls == 1 else f"{usage.calls:,} calls"
    return f"{calls}, {about}{usage.tokens:,} tokens" + (f", {about}{usage.money:,.4g} in money" if usage.money else "")


def result_body(result: Result) -> str:
    """Error, attempts, reviews, output and sources, as far as there are."""
    parts = [f'<p class="error">{escape(result.error)}</p>'] if result.error else []
    if len(result.attempts) > 1 or not all(_ok(attempt) for attempt in result.attempts):
        rows = [_attempt_cells(attempt) for attempt in result.attempts]
        parts.append(table(f"Attempts on {result.task}", _ATTEMPT_HEADS, rows))
    if said := [note for attempt in result.attempts for note in attempt.notes]:
        listed = "".join(f"<li>{escape(note)}</li>" for note in said)
        parts.append(f"<p>What its model got, and what was repaired</p><ul>{listed}</ul>")
    if result.reviews:
        parts.append(f"<p>Reviews</p><ol>{''.join(map(_review, result.reviews))}</ol>")
    if result.ok:
        parts += [output(result.output), source_list(result.output)]
    return "".join(parts)


def _review(review: Review) -> str:
    verdict = state("succeeded", "approved") if review.approved else state("failed", "rejected")
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in review.reasons)
    return f"<li>{verdict}{reasons and f'<ul>{reasons}</ul>'}</li>"


def outcome_card(outcome: Outcome) -> str:
    """How a run ended, for now."""
    parts = [f'<p class="head">{state(outcome.state)} <strong>{escape(outcome.thread_id)}</strong></p>']
    if outcome.answer is not None:
        parts.append(markdown(outcome.answer))
    parts += [questions(outcome.questions)] if outcome.questions else []
    order = outcome.plan.order if outcome.plan else tuple(Task(id=task) for task in outcome.results)
    results = [(task, outcome.results.get(task.id)) for task in order]
    rows = [_result_cells(task.id, task, result, result.status if result else "pending") for task, result in results]
    parts.append(table("Tasks", _RESULT_HEADS, rows))
    return f'<section class="card">{"".join(parts)}</section>'


def plan_table(plan: Plan) -> str:
    """The tasks of a plan in an order in which they can be done."""
    rows = [
        (escape(task.id), escape(task.agent or task.capability or ""), escape(", ".join(task.needs)))
        for task in plan.order
    ]
    return table(f"Plan of {len(rows)} tasks, made by {plan.made_by}", ("Task", "Agent", "Needs"), rows)


# Pieces


def state(of: str, word: str = "") -> str:
    """A state as sign and word, in its colour."""
    sign = f'<span aria-hidden="true">{SIGNS.get(of, "")}</span>'
    return f'<span class="state {escape(of)}">{sign} {escape(word or of)}</span>'


def questions(asked: Iterable[Any]) -> str:
    """Open questions (LangGraph's interrupts), with the ids that answers go to."""
    items = (f"<li>{output(question.value)}<p>id <code>{escape(question.id)}</code></p></li>" for question in asked)
    return f"<ol>{''.join(items)}</ol>"


def output(value: Any) -> str:
    """What an agent produced: text as it is, anything else as JSON; folded away if it is long."""
    if value is None:
        return ""
    text = readable(value)
    shown = escape(text[:_MOST].replace("\r\n", "\n"))
    if len(text) > _MOST:
        shown += f"\n… and {len(text) - _MOST:,} characters more"
    made = f'<div class="text">{shown}</div>' if isinstance(value, str) else f"<pre>{shown}</pre>"
    if len(text) <= _LONG:
        return made
    return f"<details><summary>Output, {len(text):,} characters</summary>{made}</details>"


def readable(value: Any, indent: int | None = 2) -> str:
    """Text as it is, anything else as JSON; what JSON can't hold as Python shows it."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(to_jsonable_python(value, fallback=repr), ensure_ascii=False, indent=indent)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError):
        return repr(value)


def source_list(value: Any) -> str:
    """The sources that an output names in fields called source, sources, url, citations or quote."""
    try:
        found = dict.fromkeys(_sources(to_jsonable_python(value, fallback=repr)))
    except (PydanticSerializationError, ValueError, RecursionError):
        return ""
    if not found:
        return ""
    items = "".join(f"<li>{item}</li>" for item in found)
    return f'<details><summary>Sources: {len(found)}</summary><ul class="sources">{items}</ul></details>'


def _sources(value: Any) -> Iterator[str]:
    """Quotes, and where they come from, as HTML."""
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _sources(item)
    elif isinstance(value, dict):
        fields = cast("Mapping[str, Any]", value)
        where: list[Any] = []
        for key in ("source", "sources", "url", "citations"):
            named = fields.get(key)
            where += cast("list[Any]", named) if isinstance(named, list) else [named]
        places = [_link(place) for place in where if isinstance(place, str) and place]
        quote = fields.get("quote")
        if isinstance(quote, str) and quote:
            yield " ".join((f"<q>{escape(quote)}</q>", ", ".join(places)))
        else:
            yield from places
        for item in fields.values():
            yield from _sources(item)


def _link(place: str) -> str:
    if re.fullmatch(r"https?://[^\s]+", clean(place)) is None:
        return escape(place)
    return f'<a href="{escape(place)}" rel="noreferrer noopener">{escape(place)}</a>'
