"""How a run stands at a moment: who works on what, what waits for whom, how far it is, and how long it will take.

The estimate follows the plan as a graph. A task that has ended counts with the time it took; one that has not counts
with the usual time of its agent, where that is known; else with what the agent has needed in this run, else with the
median of all agents that are known. A team whose plan is known counts by its own tasks. What is left is the longest
chain of work that is left.

A task under way has its usual time less what has passed, but at least three tenths of the longer of the two: of the
rules that were tried on random plans, this one erred least (`tests/benchmarks/estimate.py` measures it). Two things are
not in the estimate: the time that people and dates take (the work after their answers is in it), and tasks that have to
wait for a free place because their agent takes few at once.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Literal, NamedTuple

from orchestra.events import Event, TaskStarted
from orchestra.following import OPEN, Followed, Path, Row, TaskState, name_of
from orchestra.shown import Shown, drawing
from orchestra.snapshots import RunInfo, RunState, past_events
from orchestra.tasks import now

_LEAST = 0.3
"""The share of its usual time, or of what it has taken already, that a task under way is from its end at least."""

_ENOUGH = 3
"""Ended tasks whose usual time was known, from which on their deviations say how far off the rest may be."""

_SICK = frozenset({"open", "half-open"})
"""The conditions of an agent that gets no work, or one trial only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentNote:
    """What is known of an agent's health.

    Attributes:
        condition: In a word: "healthy", "degraded", "open" (it gets no work) or "half-open" (one trial).
        reasons: Why, in words.
    """

    condition: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStanding:
    """How one task stands. Tasks are named with the teams around them: "operations/fraud/score".

    Attributes:
        path: The teams it is in, outermost first.
        task: Its id.
        state: pending; running, the pause before another try included; waiting, for a person or a date; succeeded,
            failed or skipped; or deferred, which is left for `resume`.
        agent: Who works on it, worked last, or is to; empty where routing has not chosen yet.
        attempts: Tries so far that are known of, a reviewer's and the one that goes on included.
        since: Since when it is in this state.
        waits_for: The unfinished tasks that it needs.
        error: What went wrong last, in one line; empty if nothing did.
        dependants: By unfinished task, those that need it: of the whole run, for `blocks`.
    """

    path: Path = ()
    task: str
    state: TaskState
    agent: str = ""
    attempts: int = 0
    since: datetime | None = None
    waits_for: tuple[str, ...] = ()
    error: str = ""
    dependants: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]], repr=False, compare=False)

    @property
    def name(self) -> str:
        """Its id with the teams around it."""
        return name_of(self.path, self.task)

    @property
    def open(self) -> bool:
        """Whether it is unfinished."""
        return self.state in OPEN

    @property
    def blocks(self) -> tuple[str, ...]:
        """The unfinished tasks that rest on it, also through others; nearest first."""
        # Found when asked for: of all tasks together they can be as many as the square of the plan's size.
        found = dict.fromkeys(self.dependants.get(self.name, ()))
        queue = list(found)
        for name in queue:  # grows while it is walked
            new = [other for other in self.dependants.get(name, ()) if other not in found]
            found.update(dict.fromkeys(new))
            queue += new
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStanding:
    """How one agent stands in this run.

    Attributes:
        name: Its name with the teams around it.
        state: "sick", if it gets no work, also while it finishes some; "working"; "waiting", if it has tasks that can't
            go on; or "idle".
        tasks: The tasks that it works on.
        since: Since when it works, waits, or has had nothing to do.
        waits_for: Unfinished tasks, or in words what else.
        why: What is known of its health, unless it is healthy.
    """

    name: str
    state: Literal["idle", "working", "waiting", "sick"]
    tasks: tuple[str, ...] = ()
    since: datetime | None = None
    waits_for: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing(Shown):
    """How a run stands at a moment.

    Attributes:
        at: The moment.
        done: The share of the critical path that is done, from 0 to 1: how much shorter the longest chain of work left
            is than the longest chain of all. Where nothing tells how long anything takes, every task counts alike.
        left: The estimated seconds of work left; `None` where nothing tells how long anything takes.
        margin: How far off `left` may be, in seconds, by how far off the usual times were in this run so far: in some
            three of five cases the truth is nearer. `None` until three tasks with known usual times have ended.
        tasks: The tasks in the plan's order, a team's own tasks below it.
        agents: The agents.
        questions: The open questions, as text.
        besides: The tasks whose waiting for a person or a date is not in `left`.
    """

    at: datetime
    done: float
    left: float | None
    margin: float | None = None
    tasks: tuple[TaskStanding, ...] = ()
    agents: tuple[AgentStanding, ...] = ()
    questions: tuple[str, ...] = ()
    besides: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A short text for people."""
        return drawing("standing").bundle(self)["text/plain"]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """What Jupyter asks for."""
        return drawing("standing").bundle(self)

    def as_json(self) -> dict[str, Any]:
        """All of it for machines, as JSON can hold it; what all tasks block may be the square of the plan's size."""
        tasks = [{**_plain(task), "blocks": task.blocks} for task in self.tasks]
        return {**_plain(self), "tasks": tasks, "agents": [_plain(agent) for agent in self.agents]}


def _plain(value: TaskStanding | AgentStanding | Standing) -> dict[str, Any]:
    named = {each.name: getattr(value, each.name) for each in fields(value) if each.name != "dependants"}
    return {name: one.isoformat() if isinstance(one, datetime) else one for name, one in named.items()}


def standing_of(
    events: Iterable[Event],
    *,
    agents: Mapping[str, AgentNote] | None = None,
    typical: Mapping[str, float] | None = None,
    at: datetime | None = None,
    questions: Iterable[str] = (),
    over: bool = False,
) -> Standing:
    """Tell from its events how a run stands.

    Args:
        events: What has happened, in order.
        agents: What is known of the agents' health, by name, with the teams around it: "operations/fraud/scorer".
        typical: How many seconds an agent usually needs for a task, by the same names: the median of past attempts,
            which measured better than the mean.
        at: The moment; now, if it is not given.
        questions: The open questions, as text.
        over: Whether nobody works on the run any more: what still went on was cut off.
    """
    seen = Followed()
    for event in events:
        seen.apply(event)
    if over:
        seen.stop()
    at = at or now()
    guess = _Guess(seen, typical or {}, at)
    chain = guess.chain((), "")
    listed = list(seen.rows())
    tasks = _tasks(seen, listed)
    ended = bool(tasks) and not any(task.open for task in tasks)
    return Standing(
        at=at,
        done=1 - chain.left / chain.total if chain.total else float(ended),
        left=chain.left if guess.informed and tasks else None,
        margin=guess.margin(chain) if guess.informed else None,
        tasks=tasks,
        agents=_agents(listed, tasks, agents or {}, over=over),
        questions=tuple(questions),
        besides=tuple(_besides(listed, tasks)),
    )


def standing_from(
    info: RunInfo,
    *,
    agents: Mapping[str, AgentNote] | None = None,
    typical: Mapping[str, float] | None = None,
    at: datetime | None = None,
) -> Standing:
    """Tell from what is stored how a run stands. Tries that go on elsewhere are not stored: they count as the first.

    Args:
        info: The run.
        agents: As for `standing_of`.
        typical: As for `standing_of`.
        at: As for `standing_of`.
    """
    over = info.state is not RunState.RUNNING
    events = [*past_events(info), *_begun(info, ())]
    questions = [question.text for question in info.questions]
    return standing_of(events, agents=agents, typical=typical, at=at, questions=questions, over=over)


def _begun(info: RunInfo, path: Path) -> Iterator[TaskStarted]:
    """The tasks that are under way, which have left no event: since the last of their inputs was there."""
    for task in info.plan.tasks if info.plan else ():
        if info.state_of(task.id) != "running":
            continue
        ends = [info.results[need].ended for need in task.needs]
        since = max(ends, default=info.asked or info.since)
        yield TaskStarted(path=path, task=task.id, agent=task.agent or "", attempt=1, at=since)
        if (team := info.teams.get(task.id)) is not None:  # how it stands is told as if nobody worked on it
            yield from _begun(replace(team, state=RunState.RUNNING), (*path, task.id))


class _Chain(NamedTuple):
    """The longest chain of work in all, and of work left, in seconds; the squares of what the latter is made of."""

    total: float
    left: float
    squares: float


class _Guess:
    """What is expected of tasks that have not ended."""

    def __init__(self, seen: Followed, typical: Mapping[str, float], at: datetime) -> None:
        self._seen, self._typical, self._at = seen, typical, at
        shown: dict[str, list[float]] = {}
        self._off: list[float] = []
        for row, prefix in seen.rows():
            if row.state in OPEN or not row.seconds:
                continue
            shown.setdefault(prefix + row.agent, []).append(row.seconds)
            if usual := typical.get(prefix + row.agent):
                self._off.append(row.seconds / usual - 1)
        self._shown = {agent: sum(each) / len(each) for agent, each in shown.items()}
        known = list(typical.values()) or [seconds for each in shown.values() for seconds in each]
        self.informed = bool(known)
        self._common = statistics.median(known) if known else 1.0

    def chain(self, path: Path, prefix: str) -> _Chain:
        """The longest chains through a plan."""
        totals: dict[str, float] = {}
        lefts: dict[str, tuple[float, float]] = {}  # with the squares of what it is made of
        nothing = (0.0, 0.0)
        for name, row in self._seen.plans.get(path, {}).items():
            total, left = 0.0, nothing
            for need in row.needs:
                total = max(total, totals[need])
                if need in lefts and lefts[need] > left:
                    left = lefts[need]
            if row.state in OPEN:
                own = self._own(row, prefix)
                lefts[name] = left[0] + own.left, left[1] + own.squares
                totals[name] = total + own.total
            else:
                totals[name] = total + (row.seconds if self.informed else 1.0)
        return _Chain(max(totals.values(), default=0.0), *max(lefts.values(), default=nothing))

    def _own(self, row: Row, prefix: str) -> _Chain:
        """What one unfinished task takes, and has left."""
        if len(self._seen.plans) > 1 and (inner := (*row.path, row.id)) in self._seen.plans:
            return self.chain(inner, f"{prefix}{row.agent or row.id}/")
        agent = prefix + (row.worker or row.agent)
        usual = self._typical.get(agent) or self._shown.get(agent) or self._common
        if row.began is None or not self.informed:
            return _Chain(usual, usual, usual * usual)
        passed = max(0.0, (self._at - row.began).total_seconds())
        left = max(usual - passed, _LEAST * max(usual, passed))
        return _Chain(passed + left, left, left * left)

    def margin(self, chain: _Chain) -> float | None:
        """By how much the work left may differ, if each task does as those that ended did, each on its own."""
        if len(self._off) < _ENOUGH:
            return None
        return math.sqrt(sum(off**2 for off in self._off) / (len(self._off) - 1) * chain.squares)


_Listed = Sequence[tuple[Row, str]]


def _tasks(seen: Followed, listed: _Listed) -> tuple[TaskStanding, ...]:
    made: list[TaskStanding] = []
    dependants: dict[str, list[str]] = defaultdict(list)
    for row, _ in listed:
        waits: Path = ()
        if row.needs and row.state in OPEN:
            rows = seen.plans[row.path]
            waits = tuple([other.name for need in row.needs if (other := rows[need]).state in OPEN])
            for name in waits:
                dependants[name].append(row.name)
        made.append(
            TaskStanding(
                path=row.path,
                task=row.id,
                state=row.state,
                agent=row.agent,
                attempts=row.attempts,
                since=row.since,
                waits_for=waits,
                error=row.error,
                dependants=dependants,
            )
        )
    for row, _ in listed:
        if row.path and row.state in OPEN and row.name not in dependants:  # what a team ends with, its task waits for
            dependants[row.name].append("/".join(row.path).removesuffix(".review"))
    return tuple(made)


def _agents(
    listed: _Listed, tasks: Iterable[TaskStanding], notes: Mapping[str, AgentNote], *, over: bool
) -> tuple[AgentStanding, ...]:
    named: dict[str, None] = {}
    works: dict[str, list[tuple[datetime, str]]] = defaultdict(list)
    waits: dict[str, list[tuple[datetime, Path]]] = defaultdict(list)
    rests: dict[str, datetime] = {}
    for (row, prefix), task in zip(listed, tasks, strict=True):
        if row.worker and row.began is not None:
            works[prefix + row.worker].append((row.began, row.name))
            named[prefix + row.worker] = None
        if not row.agent or row.agent == row.worker:
            continue
        name = prefix + row.agent
        named[name] = None
        if row.state in OPEN:
            waits[name].append((row.since, task.waits_for or (_reason(row, over=over),)))
        elif name not in rests or rests[name] < row.since:
            rests[name] = row.since
    named.update(dict.fromkeys(notes))
    return tuple(
        _agent(name, works.get(name, ()), waits.get(name, ()), rests.get(name), notes.get(name)) for name in named
    )


def _reason(row: Row, *, over: bool) -> str:
    """What a task waits for that has all it needs."""
    if row.state == "running":
        return f"the review by {row.worker}" if row.worker else "another try"
    if row.state == "waiting":
        return "a person or a date"
    return "the run to go on" if over or row.state == "deferred" else "a free place"


def _agent(
    name: str,
    works: Sequence[tuple[datetime, str]],
    waits: Sequence[tuple[datetime, Path]],
    rests: datetime | None,
    note: AgentNote | None,
) -> AgentStanding:
    state: Literal["idle", "working", "waiting", "sick"] = "working" if works else "waiting" if waits else "idle"
    why = ""
    if note is not None and note.condition != "healthy":
        state = "sick" if note.condition in _SICK else state
        why = ": ".join(filter(None, (note.condition, "; ".join(note.reasons))))
    return AgentStanding(
        name=name,
        state=state,
        tasks=tuple([task for _, task in works]),
        since=min([since for since, _ in works or waits], default=rests),
        waits_for=tuple(dict.fromkeys([one for _, each in waits for one in each])),
        why=why,
    )


def _besides(listed: _Listed, tasks: Sequence[TaskStanding]) -> Iterator[str]:
    """The tasks that wait for a person or a date themselves, not through another or through their team."""
    teams = {"/".join(task.path) for task in tasks if task.state == "waiting" and task.path}
    for (row, _), task in zip(listed, tasks, strict=True):
        dated = task.state in ("pending", "deferred") and row.task.wait is not None
        if dated or (task.state == "waiting" and not task.waits_for and task.name not in teams):
            yield task.name
