"""Where the time of a run went: the critical path, the work of all agents, and when anybody was at work at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestra.show.progress import Progress, Row

Span = tuple[float, float]
"""From and to, in seconds since the run began."""


def critical_path(progress: Progress) -> list[Row]:
    """The tasks that set the pace, in the order of the clock.

    From the task that ended last back through the need that ended last, and so on. A team on it is followed by the
    critical path inside the team.
    """
    inside: dict[tuple[str, ...], list[Row]] = {}
    for row in progress.rows:
        inside.setdefault(row.path, []).append(row)

    def last(rows: Iterable[Row]) -> Row | None:
        worked = [(row.ended, at, row) for at, row in enumerate(rows) if row.ended is not None and row.attempts]
        return max(worked, default=(None, 0, None))[2]

    def walk(path: tuple[str, ...]) -> Iterator[Row]:
        chain: list[Row] = []
        row = last(inside.get(path, ()))
        while row is not None:
            chain.append(row)
            row = last(progress.needs(row))
        for step in reversed(chain):
            yield step
            yield from walk((*path, step.task.id))

    return list(walk(()))


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A run in numbers, all in seconds.

    Attributes:
        total: From the plan to the last thing that happened.
        busy: Thereof with anybody at work.
        work: The attempts of all agents, added up; a team counts by those in it.
        critical: The attempts on the critical path, added up.
    """

    total: float
    busy: float
    work: float
    critical: float

    @property
    def parallelism(self) -> float:
        """How many were at work at a time, on average over the time that anybody was."""
        return self.work / self.busy if self.busy else 0.0


def figures(progress: Progress, at: datetime | None = None) -> Figures:
    """Add up a run."""
    rows = progress.rows
    if not rows:
        return Figures(total=0, busy=0, work=0, critical=0)
    begin, end = bounds(rows, at)
    teams = {row.path for row in rows}
    single = [span for row in rows if (*row.path, row.task.id) not in teams for span in worked(row, begin, end)]
    path = [span for row in critical_path(progress) if not row.path for span in worked(row, begin, end)]
    anybody = [span for row in rows for span in worked(row, begin, end)]
    return Figures(
        total=(end - begin).total_seconds(),
        busy=length(merged(anybody)),
        work=length(single),
        critical=length(path),
    )


def bounds(rows: Sequence[Row], at: datetime | None) -> tuple[datetime, datetime]:
    """The first and the last moment of a run."""
    known = [moment for row in rows for moment in (row.planned, row.ended) if moment is not None]
    known += [moment for row in rows for bar in row.attempts for moment in (bar.started, bar.ended or bar.started)]
    first = min(known)
    return first, max([*known, first + timedelta(milliseconds=1)] + ([at] if at else []))


def worked(row: Row, begin: datetime, end: datetime) -> list[Span]:
    """The attempts on a task; one that goes on lasts until the end."""
    return [
        ((bar.started - begin).total_seconds(), ((bar.ended or end) - begin).total_seconds()) for bar in row.attempts
    ]


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same time without overlaps."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def length(spans: Iterable[Span]) -> float:
    """Added up."""
    return sum(end - start for start, end in spans)
