"""A run along the clock, as an SVG: who worked when, who waited, and which tasks set the pace.

One row per agent, one bar per attempt. Colour is never alone: a bar has a sign, an outline or stripes too, the critical
path an outline.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from orchestra.show.lanes import AgentRow, Block, agents_of
from orchestra.show.pace import Figures, Span, bounds, critical_path, figures, length, merged, worked
from orchestra.show.picture import document, fit, label, text_width
from orchestra.show.progress import Bar, Progress, Row
from orchestra.show.theme import SIGNS, duration, escape, one_line, when

_WIDTH = 1000.0
_FOLD = 46.0
"""Pixels that stand for a time that was cut out."""

_KINDS = {  # of a bar: its sign, its colour, what the legend says
    "ok": (SIGNS["succeeded"], "succeeded", "finished"),
    "failed": (SIGNS["failed"], "failed", "failed try"),
    "running": (SIGNS["running"], "running", "at work"),
    "suspended": (SIGNS["waiting"], "waiting", "asked, and stopped for the answer"),
    "stopped": (SIGNS["stopped"], "stopped", "cut off"),
    "skipped": (SIGNS["skipped"], "skipped", "never began"),
    "edited": ("✎", "pending", "put in by a person"),
}
_OPEN = ("running", "suspended")
"""Kinds that have not come to an end: their bars are outlines."""

_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


def timeline_svg(progress: Progress, at: datetime | None = None) -> str:
    """Draw a run along the clock.

    Args:
        progress: The run.
        at: The present moment, for a run that goes on; by default the last moment that is known.
    """
    rows = progress.rows
    if not rows:
        return document("Timeline", "There is no plan yet.", 160, 16, label(0, 12, "There is no plan yet.", "muted"))
    begin, end = bounds(rows, at)
    agents = agents_of(progress, rows, begin, end)
    lanes = sum(len(agent.lanes) for agent in agents)
    height = next(height for most, height in _HEIGHTS if lanes <= most)
    names = min(240.0, max(text_width(one_line(agent.name), 12) for agent in agents) + 20)
    scale = _Scale(
        [span for row in rows for span in worked(row, begin, end)], (end - begin).total_seconds(), (names, _WIDTH - 8)
    )
    picture = _Picture(agents, scale, critical_path(progress), height)
    numbers = _numbers(figures(progress, at))
    legend, top = picture.legend()
    bottom = top + lanes * height
    drawn = [
        label(0, 12, numbers, "text", 13, css="o-name"),
        *legend,
        *picture.bands(top),
        *picture.grid(begin, top, bottom),
        *picture.rows(top),
        *picture.folds(top, bottom),
    ]
    said = f"{len(rows)} tasks, {len(agents)} agents, since {when(begin)}: {numbers}."
    return document("Timeline", said, _WIDTH, bottom + 16, "".join(drawn))


_HEIGHTS = ((40, 26.0), (100, 18.0), (400, 11.0), (math.inf, 4.0))
"""How high a lane is, by how many there are at most."""

_LABELLED = 15.0
"""From what height on bars have labels."""


def _numbers(of: Figures) -> str:
    return (
        f"{duration(of.total)} in all · {duration(of.work)} of work · {of.parallelism:.1f} at work at a time · "
        f"critical path {duration(of.critical)}"
    )


def _kind(outcome: str) -> str:
    return outcome if outcome in _KINDS else "failed"


class _Scale:
    """From seconds to pixels. Long times without work are folded to a few pixels."""

    def __init__(self, worked: Sequence[Span], total: float, across: Span) -> None:
        busy = merged(worked)
        edges = [0.0, *(edge for span in busy for edge in span), total]
        gaps = zip(edges[::2], edges[1::2], strict=True)
        worth = max(1.0, length(busy) / 2)
        margin = length(busy) / 40 or total / 40
        self.folds = [(start + margin, end - margin) for start, end in gaps if end - start > worth + 2 * margin]
        left, right = across
        self.per_second = (right - left - _FOLD * len(self.folds)) / max(total - length(self.folds), 1e-9)
        self.seconds, self.pixels = [0.0], [left]
        for start, end in self.folds:
            self.pixels.append(self.pixels[-1] + (start - self.seconds[-1]) * self.per_second)
            self.pixels.append(self.pixels[-1] + _FOLD)
            self.seconds += [start, end]
        self.seconds.append(total)
        self.pixels.append(right)

    def __call__(self, second: float) -> float:
        """Where a moment is."""
        at = min(max(bisect_right(self.seconds, second) - 1, 0), len(self.seconds) - 2)
        span = self.seconds[at + 1] - self.seconds[at]
        part = (second - self.seconds[at]) / span if span else 0.0
        return self.pixels[at] + part * (self.pixels[at + 1] - self.pixels[at])

    @property
    def stretches(self) -> list[Span]:
        """The times between the folds."""
        return list(zip(self.seconds[::2], self.seconds[1::2], strict=True))

    @property
    def step(self) -> float:
        """A round number of seconds from tick to tick, some 90 pixels apart."""
        wanted = 90 / self.per_second
        if wanted <= 1:
            power = 10.0 ** math.floor(math.log10(wanted))
            return next(power * step for step in (1, 2, 5, 10) if power * step >= wanted)
        return next((float(step) for step in _STEPS if step >= wanted), math.ceil(wanted / 86400) * 86400.0)


def _tick(seconds: float, step: float) -> str:
    """A tick's label, in the unit of the steps."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if step >= unit:
            return f"{seconds / unit:g} {name}"
    return f"{seconds * 1000:.3g} ms" if step < 0.1 else f"{seconds:.1f} s"


class _Picture:
    def __init__(self, agents: Sequence[AgentRow], scale: _Scale, path: Sequence[Row], height: float) -> None:
        self.agents = agents
        self.scale = scale
        self.path = {id(row): row for row in path}
        self.height = height
        self.outline = 2.0 if height > _LABELLED else 1.2
        self.ends: dict[int, list[tuple[float, float, float]]] = {}

    def legend(self) -> tuple[list[str], float]:
        """What the signs mean, as far as they occur, and how far down that reaches."""
        blocks = [block for agent in self.agents for lane in agent.lanes for block in lane]
        used = {_kind(bar.outcome) for block in blocks for _, bar in block.bars}
        items = [(kind, says) for kind, (_, _, says) in _KINDS.items() if kind in used]
        items += [("wait", "ready, but waiting")] if any(block.waits for block in blocks) else []
        items += [("path", "on the critical path")] if self.path else []
        parts: list[str] = []
        x, y = 0.0, 26.0
        for kind, says in items:
            if x + 26 + text_width(says, 11) > _WIDTH:
                x, y = 0.0, y + 20
            box = f'x="{x:.1f}" y="{y:g}" width="20" height="14"'
            if kind == "wait":
                parts.append(_hatch(x, x + 20, y + 7, 6))
            elif kind == "path":
                parts.append(f'<rect {box} rx="3" class="o-ground o-s-text" stroke-width="2"/>')
            else:
                parts.append(f"<rect {box} {_looks(kind)}/>{_sign(kind, x + 6, y + 11, _KINDS[kind][0])}")
            parts.append(label(x + 26, y + 11, says, "muted"))
            x += 26 + text_width(says, 11) + 12
        return parts, y + 60

    def bands(self, top: float) -> Iterator[str]:
        """A ground for every other agent, and the names."""
        every = math.ceil(10 / self.height)  # names of thin rows would overlap: the rest is in the tooltips
        size = min(12.0, self.height - 1.5) if every == 1 else 8.0
        names: list[str] = []
        y = top
        for number, agent in enumerate(self.agents):
            tall = len(agent.lanes) * self.height
            if number % 2 == 0:
                yield f'<rect class="o-panel" y="{y:g}" width="{_WIDTH:g}" height="{tall:g}"/>'
            if number % every == 0:
                name = fit(agent.name, self.scale.pixels[0] - 12, size)
                names.append(label(4, round(y + self.height / 2 + size * 0.35, 1), name, "text", size))
            y += tall
        yield from names

    def grid(self, begin: datetime, top: float, bottom: float) -> Iterator[str]:
        """The clock at each beginning, and ticks counted from there."""
        scale, step, free = self.scale, self.scale.step, 0.0
        for start, stop in scale.stretches:
            left, clock = scale(start), begin + timedelta(seconds=start)
            said = when(clock) if start == 0 else clock.strftime("%m-%d %H:%M:%S")
            if free <= left < _WIDTH - text_width(said, 10):
                yield label(round(left, 1), top - 24, said, "muted", 10)
                free = left + text_width(said, 10)
            crowded = start > 0 and scale(stop) - left < 60
            for tick in range(int((stop - start) / step + 1e-6) + 1):
                x, said = round(left + tick * step * scale.per_second, 1), _tick(tick * step, step)
                yield f'<line class="o-s-faint" x1="{x:g}" x2="{x:g}" y1="{top - 5:g}" y2="{bottom:g}"/>'
                if x + text_width(said, 10) / 2 < _WIDTH and not crowded:
                    marks = label(x, top - 9, said, "text", 10) + label(x, bottom + 14, said, "text", 10)
                    yield f'<g text-anchor="middle">{marks}</g>' if tick else marks

    def rows(self, top: float) -> Iterator[str]:
        """The bars, over what links the critical path."""
        bars: list[str] = []
        y = top
        for agent in self.agents:
            for lane in agent.lanes:
                bars += self._lane(agent.name, lane, y)
                y += self.height
        yield from self._links()
        yield from bars

    def _lane(self, agent: str, lane: Sequence[Block], y: float) -> Iterator[str]:
        starts = sorted(span[0] for block in lane for span in (*block.waits, *(span for span, _ in block.bars)))
        for block in lane:
            for start, stop in block.waits:
                tip = escape(f"{block.row.name}: ready, waits {duration(stop - start)}")
                thick = max(1.5, self.height * 0.3)
                yield _hatch(self.scale(start), self.scale(stop), y + self.height / 2, thick, tip)
            for span, bar in block.bars:
                after = bisect_left(starts, max(span[1], span[0] + 1e-9))
                room = self.scale(starts[after]) if after < len(starts) else _WIDTH
                yield self._bar(agent, block.row, (span, bar), room, y)

    def _bar(self, agent: str, row: Row, timed: tuple[Span, Bar], room: float, y: float) -> str:
        """One attempt. Its label is inside, or beside it, or in the tooltip alone."""
        span, bar = timed
        kind = _kind(bar.outcome)
        left, pad, middle = self.scale(span[0]), min(3.0, self.height * 0.12), y + self.height / 2
        wide, high = max(self.scale(span[1]) - left, 2.0), self.height - 2 * pad
        self.ends.setdefault(id(row), []).append((left, left + wide, middle))
        took = duration(span[1] - span[0]) if bar.number else row.state
        marked = f' stroke-width="{self.outline}"' if id(row) in self.path and bar.number else ""
        box = f'x="{left:.1f}" y="{y + pad:.1f}" width="{wide:.1f}" height="{high:.1f}"{marked}'
        drawn = [f"<title>{escape(_tip(agent, row, bar, took))}</title>"]
        drawn.append(f"<rect {box} {_looks(kind, path=bool(marked), rounded=high > 10 and wide > 6)}/>")
        labels = _labels(agent, row, kind, took) if self.height > _LABELLED else []
        inside = next((text for text in labels if text_width(text, 11) < wide - 6), "")
        x, base = round(left + 4, 1), round(middle + 4, 1)
        if inside:
            drawn.append(_sign(kind, x, base, inside))
            labels = [text.removeprefix(inside).strip() for text in labels]
        elif kind == "failed":  # without room for a sign, stripes tell it from a finished one
            dashes = f'class="o-s-ground" stroke-dasharray="1.5 2.5" stroke-width="{high:.1f}"'
            drawn.append(_line(left, left + wide, middle, dashes))
        beside = next((text for text in labels if text_width(text, 11) < room - left - wide - 8), "")
        if beside:
            text = label(round(x + wide, 1), base, beside, "text")
            drawn.append(f'<g class="o-s-ground" stroke-width="3" paint-order="stroke">{text}</g>')
        return f"<g>{''.join(drawn)}</g>"

    def _links(self) -> Iterator[str]:
        """Lines from the end of each task on the critical path to the beginning of the next in the same team."""
        before: dict[tuple[str, ...], Row] = {}
        for row in self.path.values():
            if (previous := before.get(row.path)) is not None:
                _, right, y = max(self.ends[id(previous)], key=lambda end: end[1])
                left, _, below = min(self.ends[id(row)])
                yield f'<path class="o-open o-s-text" d="M{right:.1f} {y:.1f}V{below:.1f}H{left:.1f}"/>'
            before[row.path] = row

    def folds(self, top: float, bottom: float) -> Iterator[str]:
        """A torn band over each time that was cut out, with its length."""
        teeth = math.ceil((bottom - top + 12) / 12)
        down, up = "l-4 6l4 6" * teeth, "l-4 -6l4 -6" * teeth
        for start, end in self.scale.folds:
            left, wide = round(self.scale(start) + 8, 1), _FOLD - 12
            yield f'<path class="o-ground" d="M{left:g} {top - 6:g}{down}h{wide:g}{up}z"/>'
            yield f'<path class="o-open o-s-line" d="M{left:g} {top - 6:g}{down}m{wide:g} 0{up}"/>'
            said = label(left + wide / 2, top - 9, duration(end - start), "text", 10, css="o-name")
            yield f'<g text-anchor="middle">{said}</g>'


def _looks(kind: str, *, path: bool = False, rounded: bool = True) -> str:
    """How the box of a bar is filled and outlined."""
    colour = _KINDS[kind][1]
    fill, edge = ("ground", colour) if kind in _OPEN else (colour, "")
    edge = "text" if path else edge
    looks = f'class="o-{fill}{edge and f" o-s-{edge}"}"'
    return looks + ' rx="3"' * rounded + ' stroke-dasharray="3 2"' * (kind == "suspended")


def _labels(agent: str, row: Row, kind: str, took: str) -> list[str]:
    """What a bar can say, the most first. An agent's task that is called like itself needs no name."""
    name = "" if row.task.id == agent.rpartition("/")[2] else one_line(row.task.id, 60)
    sign = _KINDS[kind][0]
    return [" ".join(filter(None, words)) for words in ((sign, name, took), (sign, name), (sign,))]


def _sign(kind: str, x: float, y: float, text: str) -> str:
    """Text on a bar."""
    return label(x, y, text, _KINDS[kind][1] if kind in _OPEN else "ground")


def _hatch(left: float, right: float, y: float, thick: float, tip: str = "") -> str:
    """Time of waiting."""
    return _line(left, right, y, f'class="o-s-line" stroke-dasharray="2 2" stroke-width="{thick:.1f}"', tip)


def _line(left: float, right: float, y: float, looks: str, tip: str = "") -> str:
    ends = f'x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"'
    return f"<line {ends} {looks}><title>{tip}</title></line>" if tip else f"<line {ends} {looks}/>"


def _tip(agent: str, row: Row, bar: Bar, took: str) -> str:
    """All there is to say of an attempt."""
    if not bar.number:
        return f"{row.name}: {row.state}. {row.note}"
    by = "" if agent == row.name else f" by {agent}"
    said = f"{row.name}{by}, try {bar.number}: {bar.outcome}, {took}"
    return f"{said}. {one_line(bar.error)}" if bar.error else said
