"""How a run stands: a line for the run, a table of the tasks that are left, and one of the agents that are busy."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from orchestra.show import html
from orchestra.show.theme import SIGNS, clean, duration, escape, one_line
from orchestra.standing import AgentStanding, Standing, TaskStanding

_WIDTH = 100
"""Columns of the text that stands for a picture."""

_CELLS = 16
"""Characters of the bar."""

_MOST = 30
"""Rows of a table; a plan of thousands is summed up."""

_TASKS = ("running", "waiting", "deferred", "pending")
"""The states of tasks that are left, what moves first."""

_AGENTS = {"sick": "failed", "working": "running", "waiting": "waiting"}
"""The states of agents that are not idle, and the states of tasks whose sign and colour they have."""

_STYLES = {"running": "cyan", "waiting": "magenta", "deferred": "yellow", "pending": "dim", "failed": "red"}


def standing_view(standing: Standing) -> Group:
    """All of it, for a terminal of 80 columns or more."""
    bar = round(standing.done * _CELLS)
    line = Text.assemble(("█" * bar, "green"), ("░" * (_CELLS - bar), "dim"), " ", " · ".join(_facts(standing)))
    parts: list[Any] = [line]
    if standing.besides:
        parts.append(Text(_besides(standing), style="dim"))
    parts += [Text(f"? {one_line(question, 300)}", style="magenta") for question in standing.questions]
    tasks, agents = _open(standing), _busy(standing)
    if tasks:
        shown = ((task, str(len(task.blocks) or "")) for task in tasks[:_MOST])
        rows = [(task.state, task.state, *_task(task, standing.at, blocks)) for task, blocks in shown]
        parts += [Text(), _table(("task", "agent", "for", "blocks", "note"), rows, len(tasks))]
    if agents:
        rows = [(_AGENTS[agent.state], agent.state, *_agent(agent, standing.at)) for agent in agents[:_MOST]]
        parts += [Text(), _table(("agent", "for", "works on", "note"), rows, len(agents))]
    return Group(*parts)


def standing_html(standing: Standing) -> str:
    """All of it, as a fragment of HTML."""
    track = "display:inline-block;vertical-align:middle;width:16em;height:0.8em;border-radius:4px;overflow:hidden"
    bar = (
        f'<span role="img" aria-label="{_percent(standing)} % done" style="{track};background:var(--faint)">'
        '<span style="display:block;height:100%;background:var(--succeeded);'
        f'width:{standing.done * 100:.1f}%"></span></span>'
    )
    made = f'<p class="head">{bar} {escape(" · ".join(_facts(standing)))}</p>'
    if standing.besides:
        made += f'<p class="muted">{escape(_besides(standing))}</p>'
    if standing.questions:
        made += f"<ul>{''.join(f'<li>{escape(question)}</li>' for question in standing.questions)}</ul>"
    tasks, agents = _open(standing), _busy(standing)
    if tasks:
        shown = ((task, _some(task.blocks, 2)) for task in tasks[:_MOST])
        rows = [_cells(task.state, task.state, _task(task, standing.at, blocks)) for task, blocks in shown]
        heads = ("Task", "State", "Agent", "#For", "Blocks", "Note")
        made += html.table(f"Tasks that are left{_of(tasks)}", heads, rows)
    if agents:
        rows = [_cells(_AGENTS[agent.state], agent.state, _agent(agent, standing.at)) for agent in agents[:_MOST]]
        made += html.table(
            f"Agents that are not idle{_of(agents)}", ("Agent", "State", "#For", "Works on", "Note"), rows
        )
    return made


def bundle(standing: Standing) -> dict[str, Any]:
    """The formats a notebook can choose from."""
    console = Console(
        file=(text := io.StringIO()), width=_WIDTH, color_system=None, force_terminal=False, force_jupyter=False
    )
    console.print(standing_view(standing))
    lines = [line.rstrip() for line in text.getvalue().rstrip().split("\n")]
    return {"text/plain": "\n".join(lines), "text/html": html.boxed(standing_html(standing))}


def _facts(standing: Standing) -> list[str]:
    """The run in a few words."""
    if not standing.tasks:
        return ["there is no plan yet"]
    top = [task for task in standing.tasks if not task.path]
    ended, failed = sum(not task.open for task in top), sum(task.state == "failed" for task in top)
    facts = [f"{_percent(standing)} % done"]
    if ended < len(top) and standing.left is not None:
        margin = f" ± {_about(standing.margin)}" if standing.margin is not None else ""
        facts.append(f"about {_about(standing.left)}{margin} left")
    facts += [f"{ended}/{len(top)} tasks"]
    facts += [f"{failed} failed"] if failed else []
    asked = len(standing.questions)
    return facts + ([f"{asked} question{'s' * (asked > 1)}"] if asked else [])


def _percent(standing: Standing) -> int:
    """Rounded down: 100 is the end."""
    return int(standing.done * 100 + 1e-6)


def _about(seconds: float) -> str:
    return f"{seconds:.0f} s" if 10 <= seconds < 90 else duration(seconds)


def _besides(standing: Standing) -> str:
    return f"not counted: what {_some(standing.besides)} wait{'s' * (len(standing.besides) == 1)} for"


def _open(standing: Standing) -> list[TaskStanding]:
    return sorted((task for task in standing.tasks if task.open), key=lambda task: _TASKS.index(task.state))


def _busy(standing: Standing) -> list[AgentStanding]:
    order = list(_AGENTS)
    return sorted((one for one in standing.agents if one.state != "idle"), key=lambda one: order.index(one.state))


def _task(task: TaskStanding, at: datetime, blocks: str) -> tuple[str, ...]:
    """The cells of a task after its state: name, agent if it has another name, for how long, whom it blocks, a note."""
    notes = [f"waits for {_some(task.waits_for)}"] if task.waits_for else []
    notes += ["for a person or a date"] if task.state == "waiting" and not task.waits_for else []
    notes += [f"try {task.attempts}"] if task.attempts > 1 else []
    notes += [task.error] if task.error else []
    since = "" if task.state == "pending" else _ago(task.since, at)
    agent = task.agent if task.agent != task.task else ""
    return task.name, agent, since, blocks, one_line("; ".join(notes), 160)


def _agent(agent: AgentStanding, at: datetime) -> tuple[str, ...]:
    """The cells of an agent after its state: name, for how long, its tasks, a note."""
    notes = [agent.why] if agent.why else []
    notes += [f"waits for {_some(agent.waits_for)}"] if agent.waits_for else []
    return agent.name, _ago(agent.since, at), _some(agent.tasks), one_line("; ".join(notes), 160)


def _ago(since: datetime | None, at: datetime) -> str:
    return "" if since is None else duration(max(0.0, (at - since).total_seconds()))


def _some(names: Sequence[str], most: int = 4) -> str:
    return clean(", ".join(names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _of(listed: Sequence[Any]) -> str:
    return f": {_MOST} of {len(listed)}" if len(listed) > _MOST else ""


def _cells(sign: str, word: str, cells: Sequence[str]) -> tuple[str, ...]:
    """The name first: it heads the row."""
    return escape(cells[0]), html.state(sign, word), *(escape(cell) for cell in cells[1:])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], total: int) -> Table:
    """A table whose rows begin with a sign's state, and the word for it. What is empty everywhere is left out."""
    filled = [at for at in range(len(heads)) if any(row[at + 2] for row in rows)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("state", header_style="dim", no_wrap=True)
    for title in (heads[at] for at in filled):
        number = title in ("for", "blocks")
        table.add_column(title, header_style="dim", no_wrap=number, justify="right" if number else "left")
    for sign, word, *cells in rows:
        # A name gets narrower with the terminal like a note, but in one line.
        one = [Text(one_line(cells[at], 200), no_wrap=heads[at] != "note", overflow="ellipsis") for at in filled]
        table.add_row(Text(f"{SIGNS[sign]} {word}", style=_STYLES[sign]), *one)
    if total > len(rows):
        table.add_row("", f"… {total - len(rows)} more")
    return table
