"""Workflows and plans as pictures: SVG that needs nothing else, and Mermaid text.

A picture is put together from pieces: a card is one agent or task, a flow is pieces with edges between them, and a card
that holds a flow is a team. Each piece knows its size and draws itself at the origin, so pieces nest freely.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from orchestra.agents import Agent
from orchestra.show.layout import Box, Edge, Point, arrange
from orchestra.show.picture import NAME, SMALL, document, fit, label, text_width
from orchestra.show.progress import Progress, Row
from orchestra.show.theme import SIGNS, duration, escape, one_line
from orchestra.workflow import Workflow

_PAD, _BAR = 12.0, 6.0
_LEAST, _MOST = 100.0, 250.0
"""Between what widths cards fit themselves to their texts."""


class _Piece(NamedTuple):
    """A part of a picture: its size, where edges meet it (see `layout.Box`), and its SVG, drawn at the origin."""

    width: float
    height: float
    port: float
    exit: float
    svg: str


class _Line(NamedTuple):
    """A line of text: its colour, what stands at the right end, and its size."""

    text: str
    colour: str = "muted"
    right: str = ""
    size: float = SMALL


# The three pictures


def workflow_svg(workflow: Workflow) -> str:
    """A workflow's agents, and whose output flows to whom.

    Spares and reviewers stand beside the agent they belong to; teams hold their own agents. With a planner there is no
    flow to show before a request is made: the agents stand in a frame below it.

    Raises:
        WorkflowError: The flow does not add up.
    """
    count = f"{len(workflow.roster)} agent{'s' * (len(workflow.roster) != 1)}"
    how = "a plan for each request" if workflow.planner else f"flow from {workflow.make_plan().made_by}"
    heading, height = _texts([_Line(workflow.name, "text", size=16), _Line(f"{count}, {how}")], 0, 0, 600)
    parts = [_Piece(240, height, 0, 0, heading), _inside(workflow)]
    if "o-dashed" in parts[1].svg:
        parts.append(_legend([], 300, dashed=True))
    whole = _stacked(parts)
    said = f"{count}, {how}: {', '.join(one_line(name, 60) for name in workflow.roster)}."
    return document(f"Workflow {workflow.name}", said, whole.width, whole.height, whole.svg)


def plan_svg(progress: Progress, *, at: datetime | None = None) -> str:
    """The tasks of a run and how each stands; a team's tasks stand in the team's box.

    Args:
        progress: The run. A plan alone is shown by `Progress.of([PlanReady(plan=plan)])`.
        at: The present moment, so that tasks at work tell for how long; without it only settled tasks show a time.
    """
    rows = progress.rows
    below: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        below.setdefault(row.path, []).append(row)
    named = any(_worker(row) not in ("", row.task.id) for row in rows)
    states = Counter(row.state for row in rows)
    counted = [(state, states[state]) for state in SIGNS if states[state]]
    tree = _tasks((), below, at, named=named) if rows else _Piece(120, 16, 0, 0, label(0, 12, "no task yet", "muted"))
    legend = _legend(counted, max(tree.width, 360), dashed="o-dashed" in tree.svg)
    whole = _stacked([tree, legend])
    said = (
        f"{len(rows)} task{'s' * (len(rows) != 1)}: {', '.join(f'{n} {state}' for state, n in counted) or 'no plan'}."
    )
    return document("Plan", said, whole.width, whole.height, whole.svg)


def mermaid(workflow: Workflow) -> str:
    """A workflow as a Mermaid flowchart, for documents that draw Mermaid themselves.

    Raises:
        WorkflowError: The flow does not add up.
    """
    return "\n".join(["flowchart TD", *(f"  {line}" for line in _chart(workflow, "n"))]) + "\n"


# Pieces


def _tip(*parts: str) -> str:
    """A tooltip: what there is, a line each."""
    return "\n".join(one_line(part, 300) for part in parts if part)


def _at(piece: _Piece, x: float, y: float) -> str:
    return f'<g transform="translate({round(x, 1):g} {round(y, 1):g})">{piece.svg}</g>'


def _stacked(parts: Sequence[_Piece]) -> _Piece:
    """Parts below each other, from the left."""
    drawn: list[str] = []
    y = 0.0
    for part in parts:
        drawn.append(_at(part, 0, y))
        y += part.height + 24
    return _Piece(max(part.width for part in parts), y - 24, 0, 0, "".join(drawn))


def _texts(lines: Sequence[_Line], x: float, y: float, width: float) -> tuple[str, float]:
    """Lines of text below each other, cut to a width, and their height; the first is bold."""
    drawn: list[str] = []
    below = y
    for i, (text, colour, right, size) in enumerate(lines):
        below += size + 5
        room = width - (text_width(right, SMALL) + 8 if right else 0)
        drawn.append(label(x, below - 4, fit(text, room, size, bold=not i), colour, size, css="" if i else "o-name"))
        if right:
            drawn.append(label(x + width, below - 4, right, "muted", css="o-end"))
    return "".join(drawn), below - y


def _width(cards: Sequence[Sequence[_Line]]) -> float:
    """One width for all cards of a flow: columns line up."""
    widths = [
        text_width(one_line(line.text), line.size, bold=not i)
        + (text_width(line.right, SMALL) + 12 if line.right else 0)
        for lines in cards
        for i, line in enumerate(lines)
    ]
    return min(max(_LEAST, *widths) + 2 * _PAD + _BAR, _MOST) if widths else _LEAST


def _card(
    lines: Sequence[_Line],
    width: float,
    tip: str,
    *,
    edge: str = "line",
    css: str = "",
    mark: str = "",
    inner: _Piece | None = None,
) -> _Piece:
    """A box with lines of text; with `inner`, a frame around it.

    Args:
        lines: The texts.
        width: Its width; a frame may become wider.
        tip: The tooltip.
        edge: The colour of its border.
        css: More classes for the border.
        mark: The colour of a bar beside the texts, if there is to be one.
        inner: What it holds.
    """
    if inner is not None:
        width = max(width, inner.width + 2 * _PAD)
    left = _PAD + (_BAR if mark else 0)
    texts, height = _texts(lines, left, 7, width - left - _PAD)
    height += 16
    bar = f'<rect class="o-{mark}" x="6" y="9" width="4" height="{height - 18:g}" rx="2"/>' if mark else ""
    held = ""
    if inner is not None:
        held = _at(inner, (width - inner.width) / 2, height + 4)
        height += inner.height + _PAD + 4
    fill = "o-ground" if inner is None else "o-panel"
    box = f'<rect class="o-box {fill} o-s-{edge}{css and " " + css}" width="{width:g}" height="{height:g}" rx="8"/>'
    return _Piece(width, height, width / 2, height, f"<g><title>{escape(tip)}</title>{box}{bar}{texts}</g>{held}")


def _flow(pieces: Sequence[_Piece], edges: Sequence[Edge]) -> _Piece:
    """Pieces with edges between them. What several edges share is drawn once."""
    layout = arrange([Box(*piece[:4]) for piece in pieces], edges)
    lines: tuple[dict[str, None], dict[str, None]] = ({}, {})
    heads: dict[str, None] = {}
    for edge, route in zip(edges, layout.routes, strict=True):
        points = [(round(x, 1), round(y, 1)) for x, y in route]
        x, y = points[-1]
        heads[f"M{x:g} {y - 0.5:g}l-4-7h8z"] = None
        points[-2:] = [(x, min(points[-2][1], y - 6)), (x, y - 6)]  # up to the head, not into its tip
        lines[edge.kind].update(dict.fromkeys(_strokes(points)))
    paths = [
        f'<path class="o-open {css}o-s-line" d="{"".join(strokes)}"/>'
        for css, strokes in zip(("", "o-dashed "), lines, strict=True)
        if strokes
    ]
    head = f'<path class="o-line" d="{"".join(heads)}"/>' if heads else ""
    boxes = [_at(piece, x, y) for piece, (x, y) in zip(pieces, layout.places, strict=True)]
    return _Piece(layout.width, layout.height, layout.width / 2, layout.height, "".join([*paths, head, *boxes]))


def _strokes(points: Sequence[Point]) -> Iterator[str]:
    """The parts of a route as SVG: straight down, a curve, or a level line with round corners."""
    level = [a[1] == b[1] and a[0] != b[0] for a, b in pairwise(points)]
    for i, ((x, y), (to_x, to_y)) in enumerate(pairwise(points)):
        if level[i]:
            r = min(8, abs(to_x - x) / 2)
            side = r if to_x > x else -r
            yield f"M{x:g} {y - 8:g}V{y - r:g}Q{x:g} {y:g} {x + side:g} {y:g}H{to_x - side:g}"
            yield f"M{to_x - side:g} {y:g}Q{to_x:g} {y:g} {to_x:g} {y + r:g}V{y + 8:g}"
        elif x == to_x:
            start = y + 8 if i and level[i - 1] else y
            end = to_y - 8 if i + 1 < len(level) and level[i + 1] else to_y
            if end > start:
                yield f"M{x:g} {start:g}V{end:g}"
        else:
            middle = round((y + to_y) / 2, 1)
            yield f"M{x:g} {y:g}C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}"


# Workflows


def _inside(workflow: Workflow) -> _Piece:
    """A workflow's agents in its flow."""
    width = _width([_agent_lines(agent) for agent in workflow.roster.values()])
    if workflow.planner is not None:
        planner = [_Line(type(workflow.planner).__name__, "text", size=NAME), _Line("makes the plan")]
        free = _flow([_agent(workflow, agent.name, width) for agent in workflow.task_agents], [])
        lines = [_Line("a plan for each request", "text", size=NAME), _Line("tasks go to these agents")]
        frame = _card(lines, _LEAST, "a plan for each request", css="o-spare", inner=free)
        return _flow([_card(planner, _width([planner]), planner[0].text), frame], [Edge(0, 1)])
    plan = workflow.make_plan()
    index = {task.id: i for i, task in enumerate(plan.tasks)}
    edges = [
        Edge(index[need], i, int(need in task.optional))
        for i, task in enumerate(plan.tasks)
        for need in dict.fromkeys(task.needs)
    ]
    flow = _flow([_agent(workflow, name, width) for name in index], edges)
    if not (spare := [agent.name for agent in workflow.task_agents if agent.name not in index]):
        return flow
    lines = [_Line("also on the roster", "text", size=NAME), _Line("not needed for the wanted output")]
    others = _flow([_agent(workflow, name, width) for name in spare], [])
    return _stacked([flow, _card(lines, _LEAST, "also on the roster", css="o-spare", inner=others)])


def _agent_lines(agent: Agent) -> list[_Line]:
    can = " · ".join(capability.name for capability in agent.capabilities)
    about = agent.description.strip().split("\n")[0]
    lines = [_Line(agent.name, "text", size=NAME), _Line(can, "running"), _Line(about)]
    return [line for line in lines if line.text]


def _agent(workflow: Workflow, name: str, width: float, *, css: str = "") -> _Piece:
    """An agent with its reviewer and its spares beside it."""
    agent = workflow.roster[name]
    lines = _agent_lines(agent)
    inner = _inside(agent.run) if isinstance(agent.run, Workflow) else None
    tip = _tip(name, ", ".join(capability.name for capability in agent.capabilities), agent.description)
    own = _card(lines, width, tip, css=css, inner=inner)
    beside: list[tuple[_Piece, str, bool]] = []
    if name in workflow.reviews:
        by, rounds = workflow.reviews[name]
        often = f"review, up to {rounds} round{'s' * (rounds != 1)}" if rounds else "review, once"
        beside.append((_agent(workflow, by, width), often, True))
    spares = workflow.backups.get(name, ())
    beside += [(_agent(workflow, spare, width, css="o-spare"), "backup", False) for spare in spares]
    return _beside(own, beside) if beside else own


def _beside(own: _Piece, beside: Sequence[tuple[_Piece, str, bool]]) -> _Piece:
    """A piece with others on its right: a dotted line to a spare, a line there and back to a reviewer."""
    x = own.width + max(text_width(said, SMALL) for _, said, _ in beside) + 34
    height = sum(piece.height for piece, _, _ in beside) + 14 * (len(beside) - 1)
    y = top = max(0.0, (own.height - height) / 2)
    drawn = [own.svg]
    for piece, said, returns in beside:
        middle = y + piece.exit / 2
        # Dotted lines leave together, level with the first spare or below the review, and turn down to the others.
        start = own.height - 12 if beside[0][2] else top + beside[0][0].exit / 2
        turn = own.width + 12
        if returns:
            d = f"M{own.width:g} {middle - 4:g}H{x - 6:g}M{x:g} {middle + 4:g}H{own.width + 6:g}"
            tips = f"M{x - 0.5:g} {middle - 4:g}l-7-4v8zM{own.width + 0.5:g} {middle + 4:g}l7-4v8z"
            drawn.append(f'<path class="o-open o-s-line" d="{d}"/><path class="o-line" d="{tips}"/>')
        else:
            d = f"M{own.width:g} {start:g}H{turn:g}V{middle:g}H{x:g}"
            drawn.append(f'<path class="o-open o-dotted o-s-line" d="{d}"/>')
        drawn += [label(x - 10, middle - 8, said, "muted", css="o-end"), _at(piece, x, y)]
        y += piece.height + 14
    width = x + max(piece.width for piece, _, _ in beside)
    return _Piece(width, max(own.height, top + height), own.port, own.exit, "".join(drawn))


# Plans


def _tasks(
    path: tuple[str, ...], below: Mapping[tuple[str, ...], list[Row]], at: datetime | None, *, named: bool
) -> _Piece:
    """The tasks at a path, each team with its own inside."""
    rows = below[path]
    index = {row.task.id: i for i, row in enumerate(rows)}
    lines = [_task_lines(row, at, named=named) for row in rows]
    width = _width(lines)
    pieces: list[_Piece] = []
    for row, said in zip(rows, lines, strict=True):
        inside = (*path, row.task.id)
        inner = _tasks(inside, below, at, named=named) if inside in below else None
        tip = _tip(row.name, _worker(row), row.state, row.note, row.task.instruction)
        edge = "faint" if row.state == "pending" else row.state
        pieces.append(_card(said, width, tip, edge=edge, mark=row.state, inner=inner))
    edges = [
        Edge(index[need], i, int(need in row.task.optional))
        for i, row in enumerate(rows)
        for need in dict.fromkeys(row.task.needs)
        if need in index
    ]
    return _flow(pieces, edges)


def _worker(row: Row) -> str:
    """Who does a task, as far as that is known."""
    return row.agent or row.task.agent or (f"for {row.task.capability}" if row.task.capability else "")


def _task_lines(row: Row, at: datetime | None, *, named: bool) -> list[_Line]:
    """A task's name, its agent where any task's agent has another name, and how it stands."""
    end = at or row.ended
    time = "earlier" if row.restored else duration(row.seconds(end)) if end else ""
    lines = [_Line(row.task.id, "text", size=NAME), _Line(f"{SIGNS[row.state]} {row.state}", row.state, time)]
    return [lines[0], _Line(_worker(row)), lines[1]] if named else lines


def _legend(counted: Sequence[tuple[str, int]], width: float, *, dashed: bool) -> _Piece:
    """The states that occur and how often, and what a dashed line means."""
    drawn: list[str] = []
    x, y = 0.0, 12.0
    items = [(f"{SIGNS[state]} {number} {state}", state) for state, number in counted]
    for said, colour in [*items, *([("can do without", "")] if dashed else [])]:
        wide = text_width(said, SMALL) + (0 if colour else 36)
        if x and x + wide > width:
            x, y = 0, y + 18
        if not colour:
            drawn.append(f'<path class="o-open o-dashed o-s-line" d="M{x:g} {y - 4:g}h28"/>')
        drawn.append(label(x + (0 if colour else 36), y, said, colour or "muted"))
        x += wide + 18
    return _Piece(width, y + 4, 0, 0, "".join(drawn))


# Mermaid


def _chart(workflow: Workflow, prefix: str) -> Iterator[str]:
    """The lines of a flowchart: a node, or a subgraph, for each agent, then what links them."""
    ids = {name: f"{prefix}{i}" for i, name in enumerate(workflow.roster)}
    for name, agent in workflow.roster.items():
        if isinstance(agent.run, Workflow):
            yield f'subgraph {ids[name]}["{_quoted(name)}"]'
            yield from (f"  {line}" for line in _chart(agent.run, f"{ids[name]}_"))
            yield "end"
        else:
            said = "<br/>".join(_quoted(line.text) for line in _agent_lines(agent)[:2])
            yield f'{ids[name]}["{said}"]'
    if workflow.planner is not None:
        yield f'{prefix}p{{{{"{_quoted(type(workflow.planner).__name__)}<br/>a plan for each request"}}}}'
        yield from (f"{prefix}p --> {ids[agent.name]}" for agent in workflow.task_agents)
    else:
        for task in workflow.make_plan().tasks:
            for need in dict.fromkeys(task.needs):
                arrow = "-.->" if need in task.optional else "-->"
                yield f"{ids[need]} {arrow} {ids[task.id]}"
    for author, (by, rounds) in workflow.reviews.items():
        yield f'{ids[author]} <-->|"review, up to {rounds} round{"s" * (rounds != 1)}"| {ids[by]}'
    for principal, spares in workflow.backups.items():
        yield from (f"{ids[principal]} -.-|backup| {ids[spare]}" for spare in spares)


def _quoted(text: str) -> str:
    """Text for a Mermaid label: what is not a letter, a digit or harmless becomes an entity."""
    return re.sub(r"[^\w ,.()'-]", lambda match: f"#{ord(match[0])};", one_line(text, 80))
