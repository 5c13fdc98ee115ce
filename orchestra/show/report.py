"""A run as one HTML page that needs nothing else: no script, no network, no other file.

The policy in its head forbids the browser whatever the page does not need, so that even a mistake in escaping what
agents wrote could load and run nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from orchestra.show import html
from orchestra.show.graph import plan_svg
from orchestra.show.markdown import markdown
from orchestra.show.pace import figures
from orchestra.show.progress import Progress
from orchestra.show.theme import duration, escape, one_line, when
from orchestra.show.timeline import timeline_svg
from orchestra.snapshots import RunInfo, RunState, past_events
from orchestra.tasks import Plan, Result, Task, Usage, unlike

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_LISTED = 30
"""How many tasks the contents list openly."""

_STYLE = """
*{box-sizing:border-box}
html{background:#fff;scroll-padding-top:12px}
body{margin:0 auto;max-width:1400px;padding:24px 28px 60px;overflow-wrap:anywhere}
h1,h2,h3,h4,h5,h6{line-height:1.25;margin:0 0 8px}
h1{font-size:28px}h2{font-size:21px}h3{font-size:17px}h4,h5,h6{font-size:15px}
main section{margin:0 0 36px}
main h2{border-bottom:1px solid var(--line);padding-bottom:6px;margin-bottom:12px}
.answer h3,.answer h4,.answer h5,.answer h6{margin-top:18px}
.answer{max-width:80ch}
dl{display:flex;flex-wrap:wrap;gap:4px 32px;margin:12px 0 20px}
dt{color:var(--muted);font-size:13px}dd{margin:0}
nav{font-size:14px;margin:0 0 28px}
nav ol{list-style:none;margin:0;padding:0}nav ol ol{padding-left:14px}
nav li{padding:2px 0}
.skip{position:absolute;left:-999px}
.skip:focus{left:12px;top:8px;padding:6px 12px;background:var(--ground);z-index:1}
:focus-visible{outline:3px solid var(--running);outline-offset:2px}
.picture{margin:0;overflow-x:auto;border:1px solid var(--faint);border-radius:6px}
.picture svg{display:block;margin:0 auto;min-width:var(--least)}
[aria-labelledby=costs] table{width:auto;min-width:55%}
details.task{border:1px solid var(--faint);border-left:4px solid var(--line);border-radius:6px;margin:8px 0;
padding:6px 14px}
details.task>summary>:is(h3,h4,h5,h6){display:inline;margin:0 8px 0 0}
details.task[open]>summary{margin-bottom:8px}
footer{color:var(--muted);font-size:13px;border-top:1px solid var(--faint);padding-top:12px}
@media(min-width:1000px){
.page{display:grid;grid-template-columns:220px minmax(0,1fr);gap:40px}
nav{position:sticky;top:20px;align-self:start;max-height:calc(100vh - 40px);overflow-y:auto}}
@media(max-width:800px){body{padding:16px 14px 40px}}
@media(prefers-color-scheme:dark){html{background:#14171c}}
@media print{nav,.skip{display:none}.page{display:block}body{max-width:none;padding:0}
.picture svg{min-width:0}details::details-content{content-visibility:visible;block-size:auto}
details.task,.picture,tr{break-inside:avoid}}
"""


def report(info: RunInfo, *, history: Sequence[Mapping[str, Any]] = ()) -> str:
    """Write a run up as a page.

    Args:
        info: The run.
        history: Its earlier turns, oldest first, each with `turn`, `request`, `answer` and `results` (as JSON).
    """
    progress = Progress.of(past_events(info))
    now = info.since if info.state in (RunState.RUNNING, RunState.WAITING) else None
    sections = [
        ("request", "Request", f'<div class="text">{escape(info.request)}</div>'),
        ("answer", "Answer", _answer(info)),
        ("questions", "Open questions", html.questions(info.questions) if info.questions else ""),
        ("plan", "Plan", _picture("Plan", plan_svg(progress)) + _planning(info.plan) if info.plan else ""),
        ("timeline", "Timeline", _picture("Timeline", timeline_svg(progress, now)) if info.raw else ""),
        ("results", "Results", "".join(_tasks(info, "task", 3))),
        ("contradictions", "Contradictions", _contradictions(info)),
        ("costs", "Costs", _costs(info, progress, now) if info.raw else ""),
        ("earlier", "Earlier turns", "".join(_earlier(turn) for turn in history)),
    ]
    sections = [section for section in sections if section[2]]
    written = "".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}">{title}</h2>{body}</section>' for key, title, body in sections
    )
    title = escape(f"{info.workflow}: {one_line(info.request, 80)}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>{title}</title><style>{html.STYLE}{_STYLE}</style></head>"
        f'<body class="orchestra"><a class="skip" href="#main">Skip to the report</a>{_header(info)}'
        f'<div class="page">{_contents(info, sections)}<main id="main" tabindex="-1">{written}</main></div>'
        f"<footer>Written by Orchestra from what is stored of the run. Times are in UTC.</footer></body></html>\n"
    )


def _contradictions(info: RunInfo) -> str:
    """How contradictions between agents were settled; empty if there were none."""
    found = unlike(info.plan, info.results.values())
    return f"<ul>{''.join(f'<li>{escape(each.text)}</li>' for each in found)}</ul>" if found else ""


def _header(info: RunInfo) -> str:
    """What run this is and how it stands."""
    begun = info.asked or min((result.started for result in info.results.values()), default=None)
    ended = info.state in (RunState.DONE, RunState.FAILED)
    done = sum(result.ok for result in info.results.values())
    facts = {
        "State": html.state(info.state),
        "Thread": escape(info.thread_id),
        "Turn": str(info.turn),
        "Asked": when(begun),
        "Ended" if ended else "Last change": when(info.since),
        "Duration": duration((info.since - begun).total_seconds()) if begun else "",
        "Tasks": f"{done} of {len(info.plan.tasks)} succeeded" if info.plan else "",
        "Due": when(info.due),
        "User": escape(info.user),
    }
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items() if value)
    return f"<header><h1>{escape(info.workflow)}</h1><dl>{listed}</dl></header>"


def _contents(info: RunInfo, sections: Iterable[tuple[str, str, str]]) -> str:
    items: list[str] = []
    for key, title, _ in sections:
        inner = _task_links(info, "task") if key == "results" else ""
        if inner.count("<li>") > _LISTED:
            inner = f"<details><summary>{inner.count('<li>')} tasks</summary>{inner}</details>"
        items.append(f'<li><a href="#{key}">{title}</a>{inner}</li>')
    return f'<nav aria-label="Contents"><ol>{"".join(items)}</ol></nav>'


def _task_links(info: RunInfo, anchor: str) -> str:
    items: list[str] = []
    for at, task in _numbered(info):
        team = info.teams.get(task.id)
        inner = _task_links(team, f"{anchor}-{at}") if team else ""
        items.append(f'<li><a href="#{anchor}-{at}">{escape(one_line(task.id, 60))}</a>{inner}</li>')
    return f"<ol>{''.join(items)}</ol>"


def _numbered(info: RunInfo) -> Iterator[tuple[int, Task]]:
    """The tasks with numbers for their anchors: an id of the agents' choosing could be any text."""
    return enumerate(info.plan.order if info.plan else (), 1)


def _answer(info: RunInfo) -> str:
    if info.answer is None:
        return f"<p>There is none yet: the run is {html.state(info.state)}.</p>"
    return f'<div class="answer">{markdown(info.answer)}</div>'


def _picture(name: str, svg: str) -> str:
    """A picture that shrinks to three quarters at most, and scrolls from there, also by keyboard."""
    width = re.search(r'width="(\d+)"', svg)
    least = f' style="--least:{int(width[1]) * 3 // 4}px"' if width else ""
    return f'<div class="picture" role="region" aria-label="Picture: {name}" tabindex="0"{least}>{svg}</div>'


def _tasks(info: RunInfo, anchor: str, level: int) -> Iterator[str]:
    """Each task with all that is known of it; a team's own tasks inside it. What went wrong stands open."""
    for at, task in _numbered(info):
        result = info.results.get(task.id)
        stands = info.state_of(task.id)
        team = info.teams.get(task.id)
        body = f'<p class="text">{escape(task.instruction)}</p>' if task.instruction else ""
        body += f'<p class="muted">Needs {escape(", ".join(task.needs))}.</p>' if task.needs else ""
        body += html.result_body(result) if result else ""
        if team is not None:
            body += f"<p>Inside the team</p>{''.join(_tasks(team, f'{anchor}-{at}', min(level + 1, 6)))}"
        head = f"<h{level}>{html.state(stands)} {escape(task.id)}</h{level}>{html.how(result) if result else ''}"
        opened = " open" if stands in ("failed", "waiting") else ""
        looks = f'class="task" style="border-left-color:var(--{stands})"'
        yield f'<details {looks} id="{anchor}-{at}"{opened}><summary>{head}</summary>{body}</details>'


def _costs(info: RunInfo, progress: Progress, now: datetime | None) -> str:
    """What the run took: in all, and by agent. A team counts by those who work in it."""
    results = list(_leaves(info))
    attempts = [attempt for result in results for attempt in result.attempts]
    of = figures(progress, now)
    measures = {
        "Time in all": duration(of.total),
        "Time with anybody at work": duration(of.busy),
        "Critical path": f"{duration(of.critical)} ({of.critical / (of.busy or 1):.0%} of that)",
        "Work of all agents": duration(of.work),
        "At work at a time": f"{of.parallelism:.1f} on average",
        "Attempts": str(len(attempts)),
        "Attempts that failed": str(sum(attempt.outcome != "ok" for attempt in attempts)),
        "Retries by the same agent": str(sum(attempt.number > 1 for attempt in attempts)),
        "Tasks that went on to another agent": str(sum(map(_fell_back, results))),
        "Reviews": str(sum(len(result.reviews) for result in results)),
    } | _models(info)
    seconds: Counter[str] = Counter()
    for attempt in attempts:
        seconds[attempt.agent] += attempt.seconds  # pyright: ignore[reportArgumentType] -- a Counter counts seconds as well
    tries = Counter(attempt.agent for attempt in attempts)
    by_agent: dict[str, Usage] = {}
    for attempt in attempts:
        by_agent[attempt.agent] = by_agent.get(attempt.agent, Usage()) + attempt.usage
    agents = [
        (escape(agent), str(tries[agent]), duration(spent), *_spent(by_agent[agent]))
        for agent, spent in seconds.most_common()
    ]
    return html.table("The run in numbers", ("Measure", "Value"), list(measures.items())) + html.table(
        "By agent", ("Agent", "#Attempts", "#Work", "#Calls of models", "#Tokens"), agents
    )


def _models(info: RunInfo) -> dict[str, str]:
    """What language models were used in all."""
    spent = info.usage
    if not spent.calls:
        return {}
    about = "up to " * spent.estimated
    told = {
        "Calls of language models": f"{spent.calls:,}",
        "Tokens": f"{about}{spent.tokens:,} ({spent.input_tokens:,} in, {spent.output_tokens:,} out)",
    }
    return told | ({"Money": f"{about}{spent.money:,.4g}"} if spent.money else {})


_VERDICTS = {True: ("succeeded", "answered"), False: ("failed", "not answered"), None: ("skipped", "not reviewed")}


def _spent(usage: Usage) -> tuple[str, str]:
    return (f"{usage.calls:,}", f"{usage.tokens:,}") if usage.calls else ("", "")


def _planning(plan: Plan) -> str:
    """Who made the plan, what had to be repaired, and what reviews of the work said."""
    repaired = "".join(f"<li>{escape(repair)}</li>" for repair in plan.repairs)
    asked = "".join(f"<li>{escape(note)}</li>" for note in plan.notes)
    judged = "".join(
        f"<li>{html.state(*_VERDICTS[each.answered])} "
        f"{escape('; '.join((*each.missing, *each.contradictions)))}"
        f"{escape(' (added ' + ', '.join(each.added) + ')') if each.added else ''}</li>"
        for each in plan.judgements
    )
    return (
        f'<p class="muted">Made by {escape(plan.made_by)}.</p>'
        + (f"<p>Repaired</p><ul>{repaired}</ul>" if repaired else "")
        + (f"<p>Asked again</p><ul>{asked}</ul>" if asked else "")
        + (f"<p>Reviews of the finished work</p><ul>{judged}</ul>" if judged else "")
    )


def _leaves(info: RunInfo) -> Iterator[Result]:
    """The results of those who work themselves, in all teams."""
    for task, result in info.results.items():
        if task in info.teams:
            yield from _leaves(info.teams[task])
        else:
            yield result


def _fell_back(result: Result) -> bool:
    """Whether somebody else took over. Who reviews a task has tried it too, as far as its attempts tell."""
    agents = dict.fromkeys(attempt.agent for attempt in result.attempts)
    if result.reviews:
        return result.agent is not None and result.agent != next(iter(agents))
    return len(agents) > 1


def _earlier(turn: Mapping[str, Any]) -> str:
    """An earlier turn, folded."""
    request, answer = str(turn.get("request") or ""), turn.get("answer")
    raw: Mapping[str, Any] = turn.get("results") or {}
    results = [Result.model_validate(result) for result in raw.values()]
    bodies = "".join(
        f"<li>{html.state(result.status)} {escape(result.task)} {html.how(result)}{html.result_body(result)}</li>"
        for result in results
    )
    ended = str(turn.get("ended") or "answered")
    dropped = "".join(
        f"<li>{escape(html.readable(question, indent=None))}</li>" for question in turn.get("dropped") or ()
    )
    left = f"<h4>It was {escape(ended)}, with these questions open</h4><ul>{dropped}</ul>" if dropped else ""
    said = markdown(str(answer), below=4) if answer else f"<p>There is none: the turn was {escape(ended)}.</p>"
    return (
        f'<details class="task"><summary><h3>Turn {escape(turn.get("turn", "?"))}</h3>{escape(one_line(request, 90))}'
        f'</summary><h4>Request</h4><div class="text">{escape(request)}</div><h4>Answer</h4>'
        f'<div class="answer">{said}</div>{left}'
        f"<h4>Results</h4><ul>{bodies}</ul></details>"
    )
