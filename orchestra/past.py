"""Read runs off their checkpoints: how one stands, by which moments a thread came there, where two moments differ.

Nothing is kept twice: a run's state is what its checkpoints say.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any, cast

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME

from orchestra.branching import FORKED, JOURNAL, NOTE, Execution, executions
from orchestra.errors import ThreadError
from orchestra.questions import question_of
from orchestra.snapshots import Comparison, History, Moment, RunInfo, RunState, TaskChange, ValueChange, state_of
from orchestra.state import is_planned
from orchestra.tasks import Plan, Result, Status, Task, added_by, grown
from orchestra.timers import due_of, is_timer

SHOWN = frozenset(
    {"request", "asked", "plan", "planned", "turn", "results", "answer", ERROR, INTERRUPT, RESUME, JOURNAL}
)
"""The channels that tell how a run stands. Looking at others takes time, and types that only the workflow knows."""

_OURS = SHOWN | {"messages", "given", "dropped", "history", "opening", "branch"}


def info_of(head: CheckpointTuple, *, busy: bool, since: CheckpointTuple | None = None) -> RunInfo:
    """Tell how the newest turn of a thread stands.

    Args:
        head: The thread's newest checkpoint.
        busy: Whether a run is on it now.
        since: The turn's first checkpoint, if it was read.
    """
    values: Mapping[str, Any] = head.checkpoint["channel_values"]
    metadata = cast("Mapping[str, Any]", head.metadata)
    current = is_planned(values)
    plan = Plan.model_validate(values["plan"]) if current else None
    steps = executions(head, ()) if current else []
    raw: dict[str, Any] = dict(values.get("results") or {}) if current else {}
    for step in steps:
        raw.update(step.results)
    plan = grown(plan, added_by(raw.values())) if plan is not None else None
    asked = [question for step in steps for question in step.asked]
    answer = values.get("answer") if current else None
    state = RunState.RUNNING if busy else state_of(plan, raw, answered=answer is not None, asking=bool(asked))
    questions = tuple(question_of(one) for one in asked if not is_timer(one))
    waiting = [task.id for task in _stuck(plan, raw)] if state is RunState.WAITING else []
    asking = sum(bool(step.asked) for step in steps)
    if state is RunState.WAITING and len(waiting) > asking and all(one.task for one in questions):
        waiting = [one.path[0] if one.path else one.task for one in questions]  # the others were cut off
    if state is RunState.RUNNING:  # of those that others don't hold up, only who asked by name is known to wait
        waiting = [one.task for one in questions if one.task]
    return RunInfo(
        thread_id=head.config.get("configurable", {})["thread_id"],
        workflow=metadata.get("workflow", "?"),
        reference=metadata.get("workflow_ref", ""),
        user=str(metadata.get("user_id") or ""),
        recorded=bool(metadata.get("recorded")),
        state=state,
        request=values.get("request") or "",
        turn=(values.get("turn") or 0) + (not current),
        asked=None if since is None else _time(since),
        since=_time(head),
        plan=plan,
        raw=raw,
        answer=answer,
        questions=questions,
        timers=tuple(one for one in asked if is_timer(one)),
        due=min((due for one in asked if (due := due_of(one)) is not None), default=None),
        waiting=tuple(waiting),
    )


def _stuck(plan: Plan | None, raw: Mapping[str, Any]) -> Iterator[Task]:
    """The tasks that have their inputs and no result: where all else has ended, they wait for something outside."""
    for task in plan.order if plan else ():
        if task.id not in raw and all(need in raw for need in task.needs):
            yield task


def with_teams(info: RunInfo, turn: Sequence[CheckpointTuple], heads: Iterable[CheckpointTuple]) -> RunInfo:
    """Add how the teams of a turn stand.

    Args:
        info: The turn.
        turn: Its checkpoints on all its branches, newest first.
        heads: The newest checkpoint of each namespace of the thread.
    """
    # A team's namespace is called after the node execution that called it, on whichever branch that was.
    callers = {
        (task, execution.id)
        for step in turn
        for execution in executions(step, ())
        for task, raw in execution.results.items()
        if info.raw.get(task) == raw
    }
    here = {step.checkpoint["id"] for step in _branch(turn)}
    teams: dict[tuple[str, ...], CheckpointTuple] = {}
    for head in sorted(heads, key=lambda one: one.checkpoint["id"]):
        metadata = cast("Mapping[str, Any]", head.metadata)
        path: tuple[str, ...] = tuple(json.loads(metadata.get("path", "[]")))
        caller = head.config.get("configurable", {})["checkpoint_ns"].partition("|")[0].rpartition(":")[2]
        came = (metadata.get("parents") or {}).get("") in here
        if path and ((path[0], caller) in callers or (came and path[0] not in info.raw)):
            teams[path] = head

    busy = info.state is RunState.RUNNING

    def below(info: RunInfo, path: tuple[str, ...]) -> RunInfo:
        mine = {
            inner[-1]: below(info_of(head, busy=busy), inner) for inner, head in teams.items() if inner[:-1] == path
        }
        return replace(info, teams=mine) if mine else info

    return below(info, ())


def lineage(steps: Sequence[CheckpointTuple]) -> list[CheckpointTuple]:
    """The newest of some checkpoints and those before it in its turn, newest first.

    Args:
        steps: Checkpoints of a thread, newest first.
    """
    known = {step.checkpoint["id"]: step for step in steps}
    found: list[CheckpointTuple] = []
    step = steps[0] if steps else None
    while step is not None and is_same_turn(step, steps[0]):
        found.append(step)
        step = known.get(parent_id(step))
    return found


def _branch(steps: Sequence[CheckpointTuple]) -> Iterator[CheckpointTuple]:
    """As much of the lineage as belongs to its branch."""
    for step in lineage(steps):
        yield step
        if _begins(step):
            return


def is_same_turn(one: CheckpointTuple, other: CheckpointTuple) -> bool:
    """Whether two checkpoints of a thread are about the same request."""
    asked = (step.checkpoint["channel_values"].get("asked") for step in (one, other))
    return next(asked) == next(asked)


def _begins(step: CheckpointTuple) -> bool:
    """Whether a branch begins with this checkpoint."""
    return cast("Mapping[str, Any]", step.metadata).get(FORKED) == parent_id(step) != ""


def _time(step: CheckpointTuple) -> datetime:
    return datetime.fromisoformat(step.checkpoint["ts"])


@dataclass(eq=False)
class _Node:
    """A checkpoint of a thread in the tree that its branches make."""

    step: CheckpointTuple
    parent: _Node | None
    branch: int
    children: list[_Node] = field(default_factory=list["_Node"])
    moments: list[Moment] = field(default_factory=list[Moment])

    @property
    def id(self) -> str:
        return self.step.checkpoint["id"]

    @property
    def values(self) -> Mapping[str, Any]:
        return self.step.checkpoint["channel_values"]

    @property
    def forks(self) -> bool:
        """Whether a branch begins here, other than with a request."""
        return _begins(self.step) and self.step.metadata.get("source") == "update"

    @property
    def asked(self) -> str | None:
        return self.values.get("asked")

    @property
    def planned(self) -> bool:
        return is_planned(self.values)

    @property
    def results(self) -> Mapping[str, Any]:
        return self.values.get("results") or {} if self.planned else {}

    @cached_property
    def executions(self) -> list[Execution]:
        return executions(self.step) if self.planned else []

    @cached_property
    def settled(self) -> dict[str, Any]:
        """Results of the turn at the end of this superstep, or as far as it has come."""
        found = dict(self.results)
        for execution in self.executions:
            found.update(execution.results)
        return found

    @property
    def waves(self) -> int:
        """How often open tasks have been sent out on this branch before this checkpoint, and some of them ended."""
        count = 0
        for node in self.turn():
            count += node is not self and any(step.results for step in node.executions)
            if node.forks:
                break
        return count

    def turn(self) -> Iterator[_Node]:
        """This and the earlier checkpoints of its turn, newest first."""
        node: _Node | None = self
        while node is not None and node.asked == self.asked:
            yield node
            node = node.parent


class Past:
    """All moments of a thread, on all its branches.

    Args:
        thread_id: The thread.
        steps: Its checkpoints in the root namespace, in any order.
    """

    def __init__(self, thread_id: str, steps: Iterable[CheckpointTuple]) -> None:
        self.thread_id = thread_id
        self._nodes: dict[str, _Node] = {}
        branches = 0
        for step in sorted(steps, key=lambda one: one.checkpoint["id"]):
            parent = self._nodes.get(parent_id(step))
            starts = parent is None or bool(parent.children) or _begins(step)
            branches += starts
            node = _Node(step, parent, branches if starts or parent is None else parent.branch)
            if parent is not None:
                parent.children.append(node)
            self._nodes[node.id] = node
        number = 0
        for node in self._nodes.values():
            for moment in _moments(node):
                number += 1
                node.moments.append(replace(moment, number=number))

    @property
    def history(self) -> History:
        """The moments as a user sees them."""
        nodes = list(self._nodes.values())
        last = {node.branch: moment.number for node in nodes for moment in node.moments}
        moments = tuple(
            replace(moment, tip=last[node.branch] == moment.number) for node in nodes for moment in node.moments
        )
        return History(thread_id=self.thread_id, moments=moments, current=nodes[-1].branch if nodes else 1)

    def pick(self, at: Moment | int | None) -> Moment:
        """A moment by itself or its number; the last of the current branch by default.

        Raises:
            ThreadError: There is none with this number, or it has been pruned.
        """
        history = self.history
        if at is None:
            return history.branches[history.current]
        if not isinstance(at, Moment | int):  # pyright: ignore[reportUnnecessaryIsInstance] -- users' code is not checked
            raise ThreadError(f"{at!r} is no moment: pass one of the thread's history, or its number.")
        if isinstance(at, Moment):
            if at.checkpoint_id not in self._nodes:
                raise ThreadError(f"Moment {at.number} of thread {self.thread_id!r} is no longer stored.")
            return at
        try:
            return history[at]
        except IndexError as error:
            raise ThreadError(str(error)) from error

    def plan(self, moment: Moment) -> Plan | None:
        """The plan at a moment."""
        node = self._nodes[moment.checkpoint_id]
        if not node.planned:
            return None
        return grown(Plan.model_validate(node.values["plan"]), added_by(self.results(moment).values()))

    def plan_with(self, moment: Moment, kept: Collection[str]) -> Plan | None:
        """The plan at a moment without the work that was handed on by tasks that are not kept."""
        plan = self.plan(moment)
        if plan is not None and plan.resolutions:  # what was settled of outputs that are not kept does not hold here
            still = (
                each for each in plan.resolutions if all(h.task in kept for s in each.conflict.sides for h in s.held)
            )
            plan = plan.model_copy(update={"resolutions": tuple(still)})
        lost = (
            {task.id for task in plan.tasks if task.added_by not in {None, *kept}} if plan is not None else set[str]()
        )
        if plan is None or not lost:
            return plan
        tasks = tuple(
            task.model_copy(
                update={
                    "needs": tuple(need for need in task.needs if need not in lost),
                    "optional": task.optional - lost,
                }
            )
            for task in plan.tasks
            if task.id not in lost
        )
        return plan.model_copy(update={"tasks": tasks}).checked()

    def results(self, moment: Moment) -> dict[str, Any]:
        """The results at a moment, as JSON."""
        settled = self._nodes[moment.checkpoint_id].settled
        return {task: raw for task, raw in settled.items() if task in moment.settled}

    def planned_at(self, moment: Moment) -> str:
        """The checkpoint at which the moment's turn was planned and nothing was finished; where branches start.

        Raises:
            ThreadError: It has been pruned.
        """
        for node in self._nodes[moment.checkpoint_id].turn():
            first = node.parent is not None and not node.parent.planned
            if node.planned and (first or (node.parent is None and not node.results and not node.values.get("answer"))):
                return node.id
        raise ThreadError(
            f"Where turn {moment.turn} of thread {self.thread_id!r} began is no longer stored: it has been pruned."
        )

    def before(self, moment: Moment) -> str:
        """The checkpoint from which another request can take the place of the moment's.

        Raises:
            ThreadError: It has been pruned.
        """
        first = [*self._nodes[moment.checkpoint_id].turn()][-1]
        if first.parent is None:
            raise ThreadError(f"What was before turn {moment.turn} of thread {self.thread_id!r} has been pruned.")
        return first.parent.id

    def updates(self, moment: Moment, kept: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """What the tasks that produced some results wrote to the user's own keys of the state, on whichever branch."""
        asked = self._nodes[moment.checkpoint_id].asked
        found: dict[str, Sequence[tuple[str, Any]]] = {}
        for node in self._nodes.values():
            for execution in node.executions if node.asked == asked else ():
                for task, raw in execution.results.items():
                    if kept.get(task) == raw:
                        found[task] = [(key, value) for key, value in execution.updates if _is_own(key)]
        return [update for task in kept for update in found.get(task, ())]

    def compare(self, before: Moment, after: Moment) -> Comparison:
        """Hold two moments against each other, task by task and key by key."""
        first, second = self.results(before), self.results(after)
        plans = [plan for moment in (before, after) if (plan := self.plan(moment)) is not None]
        tasks = dict.fromkeys(task.id for plan in plans for task in plan.order)
        changes = [_change(task, first.get(task), second.get(task)) for task in tasks if task in first | second]
        values, others = self._values(before), self._values(after)
        return Comparison(
            before=before,
            after=after,
            tasks=tuple(changes),
            values=tuple(
                ValueChange(key=key, before=values.get(key), after=others.get(key))
                for key in dict.fromkeys([*values, *others])
                if values.get(key) != others.get(key)
            ),
        )

    def _values(self, moment: Moment) -> dict[str, Any]:
        """The request, the answer and the user's own keys of the state."""
        values = self._nodes[moment.checkpoint_id].values
        answer = values.get("answer") if moment.what == "answered" else None
        return {"request": moment.request, "answer": answer} | {
            key: value for key, value in values.items() if _is_own(key)
        }


def _is_own(key: str) -> bool:
    return key not in _OURS and ":" not in key and not key.startswith(("__", "orchestra_"))


def parent_id(step: CheckpointTuple) -> str:
    """The id of the checkpoint before; empty if there is none."""
    return ((step.parent_config or {}).get("configurable") or {}).get("checkpoint_id", "")


def _change(task: str, first: Any, second: Any) -> TaskChange:
    before = None if first is None else Result.model_validate(first)
    after = None if second is None else Result.model_validate(second)
    if before is None or after is None:
        return TaskChange(task=task, kind="added" if before is None else "removed", before=before, after=after)
    same = (before.status, before.output, before.error) == (after.status, after.output, after.error)
    kind = "kept" if first == second else "same" if same else "changed"
    return TaskChange(task=task, kind=kind, before=before, after=after)


def _moments(node: _Node) -> Iterator[Moment]:
    """The moments that belong to a checkpoint, in order; their numbers are not known yet."""
    values, parent = node.values, node.parent
    if not node.asked:
        return
    new = parent is None or parent.asked != node.asked
    base = Moment(
        number=0,
        branch=node.branch,
        turn=(values.get("turn") or 0) + (not node.planned),
        wave=node.waves,
        what="asked",
        at=_time(node.step),
        request=values.get("request") or "",
        checkpoint_id=node.id,
    )
    if node.forks:
        note = str(cast("Mapping[str, Any]", node.step.metadata).get(NOTE, ""))
        yield replace(base, what="forked", settled=frozenset(node.results), note=note)
        return
    if new:
        yield base
    if not node.planned:
        return
    if new or (parent is not None and not parent.planned):
        yield replace(base, what="planned")
    before = {} if new or parent is None else parent.settled
    yield from _finished(base, before, node.results)
    yield from _finished(replace(base, wave=base.wave + 1), {**before, **node.results}, node.settled)
    answered = values.get("answer") is not None
    if answered and (new or parent is None or parent.values.get("answer") is None):
        yield replace(base, what="answered", settled=frozenset(node.results))


def _finished(base: Moment, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Moment]:
    """One moment for each task that is settled after and not before, in the order they ended."""
    settled = set(before)
    fresh = [(datetime.fromisoformat(raw["ended"]), task) for task, raw in after.items() if task not in before]
    for at, task in sorted(fresh):
        settled.add(task)
        status = Status(after[task]["status"])
        yield replace(base, what="finished", task=task, status=status, at=at, settled=frozenset(settled))
