"""Who did what when: the attempts of a run by agent, in as few lanes as possible, and the waits before them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from orchestra.show.pace import Span, worked
from orchestra.show.progress import Bar, Progress, Row


@dataclass(slots=True)
class Block:
    """What one agent did on one task; it stays in one lane.

    Attributes:
        row: The task.
        bars: Its attempts, and when they were.
        waits: When the task was ready and the agent not at work on it.
    """

    row: Row
    bars: list[tuple[Span, Bar]] = field(default_factory=list[tuple[Span, Bar]])
    waits: list[Span] = field(default_factory=list[Span])

    @property
    def spans(self) -> list[Span]:
        """The times that need room in a lane."""
        return [span for span, _ in self.bars] or self.waits

    @property
    def start(self) -> float:
        """When it begins."""
        return min((start for start, _ in self.spans), default=math.inf)

    @property
    def end(self) -> float:
        """When it ends, waits included."""
        return max((end for _, end in (*self.spans, *self.waits)), default=math.inf)


@dataclass(slots=True)
class AgentRow:
    """An agent, with the teams it works in before its name, and its blocks: those of a lane don't overlap."""

    name: str
    lanes: list[list[Block]]


def agents_of(progress: Progress, rows: Sequence[Row], begin: datetime, end: datetime) -> list[AgentRow]:
    """The agents in the order they began, a team's own below the team, each with as few lanes as possible."""
    blocks: dict[str, list[Block]] = {}
    places: dict[tuple[str, ...], tuple[tuple[float, str], ...]] = {(): ()}
    order: dict[str, tuple[tuple[float, str], ...]] = {}
    for row in rows:
        own = _blocks(progress, row, begin, end)
        starts = [block.start for block in own.values()]
        place = places[*row.path, row.task.id] = (*places[row.path], (min(starts, default=math.inf), row.task.id))
        for agent, block in own.items():
            name = "/".join((*row.path, agent))
            order[name] = min(place, order.get(name, place))
            blocks.setdefault(name, []).append(block)
    return [AgentRow(name, _lanes(blocks[name])) for name in sorted(blocks, key=lambda name: order[name])]


def _lanes(blocks: Iterable[Block]) -> list[list[Block]]:
    """Each block in the first lane that is free; one lane at least."""
    lanes: list[list[Block]] = []
    for block in sorted((block for block in blocks if block.spans), key=lambda block: block.start):
        free = next((lane for lane in lanes if lane[-1].end <= block.start), None)
        if free is None:
            lanes.append([block])
        else:
            since = free[-1].end  # what somebody else's bar hides was waiting too; the tooltip says it all
            block.waits = [(max(start, since), stop) for start, stop in block.waits if stop > since]
            free.append(block)
    return lanes or [[]]


def _blocks(progress: Progress, row: Row, begin: datetime, end: datetime) -> dict[str, Block]:
    """What each agent did on a task. Between ready and begun, and between two tries, it waits."""
    agent = row.agent or row.task.agent or "not assigned"
    blocks: dict[str, Block] = {}
    ready = progress.ready(row)
    since = (ready - begin).total_seconds() if ready else None
    for span, bar in zip(worked(row, begin, end), row.attempts, strict=True):
        agent = bar.agent
        block = blocks.setdefault(agent, Block(row))
        if since is not None and span[0] > since:
            block.waits.append((since, span[0]))
        block.bars.append((span, bar))
        since = span[1] if bar.ended else None
    if row.ended is None and since is not None:
        blocks.setdefault(agent, Block(row)).waits.append((since, (end - begin).total_seconds()))
    if not blocks:
        blocks[agent] = Block(row)
    if row.ended is not None and not row.attempts:  # skipped, nobody could do it, or done by a person: a point in time
        kind = {"skipped": "skipped", "succeeded": "edited"}.get(row.state, "failed")
        point = (row.ended - begin).total_seconds()
        blocks[agent] = Block(row, [((point, point), Bar(agent, 0, row.ended, row.ended, kind, row.note))])
    return blocks
