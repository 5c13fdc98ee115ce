"""Who waits for whose output inside one superstep.

LangGraph starts all tasks of a plan at once; each first waits here for what it needs. What was settled before a crash
is put back once, from the writes LangGraph stored with the current checkpoint.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from orchestra.assignments import Memo
from orchestra.events import Event, HealthChanged
from orchestra.funds import Funds
from orchestra.metering import Tape
from orchestra.tasks import Plan, Result, Task
from orchestra.vitals import Change


class Unsettled(Enum):
    """Why a task leaves a superstep without a result."""

    SUSPENDED = "waits for a person's answer; it re-enters this superstep when the run resumes"
    DEFERRED = "was left for a later superstep because the run is draining"


class Suspended(Exception):
    """An input waits for a person, so whoever needs it waits too."""


class Deferred(Exception):
    """An input, or the task itself, is left for a later superstep."""


Outcome = Result | Unsettled

Updates = Sequence[tuple[str, Any]]
"""What a task writes to the user's own keys of the state: keys and values, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What the tasks of one superstep share: everything but their own inputs.

    Attributes:
        id: Tells this turn, on its branch of the thread, apart from all others.
        request: What the user asked for.
        messages: The conversation so far.
        plan: The plan of the turn.
        history: Earlier turns that agents see, as JSON.
        state: The user's own keys of the state.
        results: What earlier supersteps of this turn have settled.
        given: Inputs from outside: what a team received from its parent.
        memory: What is remembered of the user.
        halfway: What was done of tasks that a drain left for this superstep: journal entries by task.
    """

    id: str
    request: str
    plan: Plan
    messages: Sequence[Any] = ()
    history: Sequence[Mapping[str, Any]] = ()
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    memory: Sequence[Memo] = ()
    results: Mapping[str, Result] = field(default_factory=dict[str, Result])
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])
    halfway: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict[str, Sequence[Mapping[str, Any]]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the saver holds of a superstep that an earlier process began.

    Attributes:
        turn: As the checkpoint has it.
        results: Results written by nodes that ended.
        questions: LangGraph's interrupts, by the id of the node execution that raised them.
        notes: Journal entries, in the order they were written.
        cut: The node executions that were cancelled.
        updates: What these nodes wrote to the user's own keys of the state, by task.
        resumed: How many answers each node execution has had by LangGraph's `interrupt`.
    """

    turn: Turn
    results: Mapping[str, Result]
    questions: Mapping[str, Sequence[Any]]
    notes: Sequence[Mapping[str, Any]]
    cut: Collection[str] = ()
    updates: Mapping[str, Updates] = field(default_factory=dict[str, Updates])
    resumed: Mapping[str, int] = field(default_factory=dict[str, int])


class _Lost(Exception):
    """A need that a task can't do without has failed."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.task)
        self.result = result


class Board:
    """Outcomes of the tasks of one superstep: each is posted once and read by whoever needs it.

    Args:
        turn: What the tasks share.
        stored: What an earlier process settled in this superstep.
        running: The tasks that are carried out now. A task that neither is nor has a result was deferred.
    """

    def __init__(self, turn: Turn, stored: Stored | None = None, running: Iterable[str] = ()) -> None:
        self.turn = turn
        self._updates: dict[str, Updates] = {}
        self._outcomes: dict[str, Outcome] = {**turn.results}
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._asleep: dict[str, tuple[Task, asyncio.Future[None]]] = {}
        self._doomed: dict[str, Result] = {}
        if stored is not None:
            # LangGraph runs only what it holds for unfinished, so a stored result of a running task is a stale copy.
            active = set(running)
            self._outcomes.update({task: result for task, result in stored.results.items() if task not in active})
            self._updates.update({task: wrote for task, wrote in stored.updates.items() if task not in active})
            for task in turn.plan.tasks:
                if task.id not in active:
                    self._outcomes.setdefault(task.id, Unsettled.DEFERRED)

    def post(self, task: str, outcome: Outcome, updates: Updates = ()) -> None:
        """Settle a task for this superstep and wake whoever waits for it.

        Args:
            task: The task's id.
            outcome: Its result, or why there is none.
            updates: What it writes to the user's own keys of the state.

        Raises:
            RuntimeError: It is settled already: two nodes carried out one task.
        """
        if task in self._outcomes:
            raise RuntimeError(f"Task {task!r} was settled twice in one superstep.")
        self._outcomes[task] = outcome
        if updates:
            self._updates[task] = updates
        for waiter in self._waiting.pop(task, ()):
            if not waiter.done():
                waiter.set_result(None)
        if isinstance(outcome, Result) and not outcome.ok:  # who can't do without it need not wait for the rest
            for dependant, waiter in self._asleep.values():
                if task in dependant.needs and task not in dependant.optional:
                    self._doomed[dependant.id] = outcome
                    if not waiter.done():
                        waiter.set_result(None)

    async def outcome(self, need: str, task: Task | None = None) -> Outcome:
        """Wait until a task is settled for this superstep.

        Args:
            need: The task that is waited for.
            task: The task that waits, if it is one.

        Raises:
            _Lost: Another that the waiting task can't do without has failed meanwhile.
        """
        while need not in self._outcomes:
            # One future per waiter: cancelling a task cancels the future it waits for.
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(need, []).append(waiter)
            if task is not None:
                self._asleep[task.id] = (task, waiter)
            await waiter
            if task is not None and (lost := self._doomed.get(task.id)) is not None:
                raise _Lost(lost)
        return self._outcomes[need]

    def _lost(self, need: str, task: Task) -> Result | None:
        """The result of a need that has failed, if the task can't do without it."""
        outcome = self._outcomes.get(need)
        return outcome if isinstance(outcome, Result) and not outcome.ok and need not in task.optional else None

    @property
    def asks(self) -> bool:
        """Whether a task waits for a person, so that this superstep stays open and can be entered again."""
        return Unsettled.SUSPENDED in self._outcomes.values()

    def updates_before(self, task: Task) -> list[tuple[str, Any]]:
        """What all that a task depends on has written to the state in this superstep, in the order of the plan."""
        if not self._updates:
            return []
        before: set[str] = set()
        todo = [*task.needs]
        for need in todo:  # grows while it is walked
            if need not in before:
                before.add(need)
                todo.extend(self.turn.plan.by_id[need].needs)
        return [
            update
            for earlier in self.turn.plan.order
            if earlier.id in before
            for update in self._updates.get(earlier.id, ())
        ]

    async def needs_of(self, task: Task) -> dict[str, Result]:
        """Wait for everything a task needs and return the results, by task id.

        Where one that it can't do without has failed, only that one is returned, at once.

        Raises:
            Suspended: One of them waits for a person.
            Deferred: One of them is left for a later superstep. (Never mixed up with suspended: a task that waits
                inside this superstep for an input that is not in it would wait forever.)
        """
        if (settled := next(filter(None, (self._lost(need, task) for need in task.needs)), None)) is not None:
            return {settled.task: settled}
        try:
            outcomes = {need: await self.outcome(need, task) for need in task.needs}
        except _Lost as lost:  # whatever else it waits for: it will not be done
            return {lost.result.task: lost.result}
        finally:
            self._asleep.pop(task.id, None)
        for result in [each for each in outcomes.values() if isinstance(each, Result)]:
            beside = (each.task.id for each in result.added if not each.for_asker)
            outcomes.update({added: self._outcomes[added] for added in beside if added in self._outcomes})
        if Unsettled.DEFERRED in outcomes.values():
            raise Deferred
        if Unsettled.SUSPENDED in outcomes.values():
            raise Suspended
        return {need: result for need, result in outcomes.items() if isinstance(result, Result)}


@dataclass(slots=True)
class Halt:
    """Whether a run is given up: what has not begun is skipped, in all its teams. `why` is empty while it is not."""

    why: str = ""


@dataclass(slots=True, kw_only=True)
class Call:
    """What the nodes of one call of a graph share. It lives as long as the call and belongs to one event loop.

    Attributes:
        key: Tells this call's turn on its thread apart from all others; the root of idempotency keys.
        path: The teams around it, outermost first.
        answers: The answers that this call brings, by the ids of their questions; `None` for "to the only open one".
        passed: Notes around this call, where it is a team's, that a question has its answer.
        foreign: Whether the call is a node of a graph that is not ours.
        draining: Whether no further attempt may begin.
        persistent: Whether results are stored at all.
        halt: Whether the whole run was given up, and why.
        settling: Contradictions that an agent or a person settles just now, by a key.
        funds: The budgets of this call.
        around: The budgets of the call around it.
        tape: Where model calls are recorded, or played back from.
        counted: Whether what the turn used in earlier processes counts already.
        handed_on: How often work was handed on in this call.
        tell: Takes events that come from no node of the graph, once a node has run.
    """

    key: str
    path: tuple[str, ...] = ()
    answers: Mapping[str, Any] | None = field(default_factory=dict[str, Any])
    passed: Callable[[str], Awaitable[None]] | None = None
    foreign: bool = False
    draining: Callable[[], bool] = lambda: False
    persistent: bool = True
    halt: Halt = field(default_factory=Halt)
    settling: dict[str, asyncio.Future[Any]] = field(default_factory=dict[str, asyncio.Future[Any]])
    funds: Funds = field(default_factory=Funds)
    around: Funds | None = None
    tape: Tape | None = None
    counted: bool = False
    handed_on: int = 0
    tell: Callable[[Any], None] | None = None
    _untold: list[Event] = field(default_factory=list[Event])
    _fresh: Turn | None = None
    _checkpoint: str | None = None
    _board: asyncio.Future[Board] | None = None
    _running: list[str] = field(default_factory=list[str])
    _stored: Stored | None = None
    _left: Sequence[Mapping[str, Any]] = ()

    def tell_by(self, writer: Callable[[Any], None]) -> None:
        """Tell events by a node's stream writer, which finds its place in LangGraph by the node's context."""
        self.tell = functools.partial(contextvars.copy_context().run, writer)
        while self._untold:
            self.tell(self._untold.pop(0))

    def tell_health(self, agent: str, change: Change) -> None:
        """Tell that the condition of an agent has changed, here or in a team; it is named with the teams around it."""
        *path, name = agent.split("/")
        event = HealthChanged(path=(*self.path, *path), agent=name, change=change)
        if self.tell is None:
            self._untold.append(event)
        else:
            self.tell(event)

    def begin(self, turn: Turn) -> None:
        """Announce the superstep that the supervisor is about to start, so that nothing needs to be read back."""
        self._fresh = turn

    async def board(self, checkpoint: str, task: str, load: Callable[[], Coroutine[Any, Any, Stored]]) -> Board:
        """Return the board of the superstep that belongs to `checkpoint`.

        Args:
            checkpoint: The id of the checkpoint the superstep started from.
            task: The task that asks, and is thereby known to be carried out now.
            load: Reads what the saver holds; called once, and only if this call did not start the superstep itself.
        """
        if self._checkpoint != checkpoint or self._board is None:
            self._checkpoint, self._running, self._stored = checkpoint, [], None
            self._board = asyncio.get_running_loop().create_future()
            if self._fresh is not None:
                self._left = [note for notes in self._fresh.halfway.values() for note in notes]
                self._board.set_result(Board(self._fresh))
                self._fresh = None
            else:
                self._running.append(task)
                return await self._refill(self._board, load)
        self._running.append(task)
        if not self._board.done():
            await asyncio.shield(self._board)
        return self._board.result()

    async def _refill(self, board: asyncio.Future[Board], load: Callable[[], Coroutine[Any, Any, Stored]]) -> Board:
        # All nodes of a superstep are started in one pass of the loop: after it, every running task has reported.
        await asyncio.sleep(0)
        try:
            self._stored = stored = await load()
            self._left = [note for notes in stored.turn.halfway.values() for note in notes]
            made = Board(stored.turn, stored, self._running)
        except BaseException as error:
            board.set_exception(error if isinstance(error, Exception) else Deferred())
            board.exception()  # looked at: nobody else may be waiting
            raise
        board.set_result(made)
        return made

    def recall(self, notes: Sequence[Mapping[str, Any]]) -> None:
        """Take up the journal entries of a superstep whose board is not needed: the supervisor's own."""
        self._left = notes

    def open_question(self, execution: str) -> Sequence[Any]:
        """The stored, still unanswered interrupts of a node execution: its agent must not run again for them."""
        asked = self._stored.questions.get(execution, ()) if self._stored and not self.halt.why else ()
        if not asked or self.answers is None or any(question.id in self.answers for question in asked):
            return ()
        return asked

    def resumed(self, execution: str) -> int:
        """How many answers LangGraph's `interrupt` has given to a node execution in earlier calls."""
        return self._stored.resumed.get(execution, 0) if self._stored else 0

    @property
    def cut(self) -> Collection[str]:
        """The node executions of this superstep that were cancelled in an earlier call."""
        return self._stored.cut if self._stored else ()

    def notes(self, task: str, *events: str) -> list[Mapping[str, Any]]:
        """Journal entries of a task from earlier entries into this superstep, or from before a drain, oldest first."""
        stored = self._stored.notes if self._stored else ()
        return [note for note in (*self._left, *stored) if note["task"] == task and note["event"] in events]

    def noted(self, task: str) -> list[Mapping[str, Any]]:
        """All journal entries of a task, and of what it has handed on, from earlier entries into this superstep."""
        stored = self._stored.notes if self._stored else ()
        return [note for note in (*self._left, *stored) if f"{note['task']}+".startswith(f"{task}+")]

    def crashed(self, task: str, agent: str) -> list[Mapping[str, Any]]:
        """Journal entries of attempts that began in an earlier process and never ended."""
        notes = [note for note in self.notes(task, "started", "ended") if note["agent"] == agent]
        ended = {note["id"] for note in notes if note["event"] == "ended"}
        return [note for note in notes if note["event"] == "started" and note["id"] not in ended]

    def child(self, task: str, key: str) -> Call:
        """The scope that a team called by `task` starts from."""
        return Call(
            key=key,
            path=(*self.path, task),
            answers=self.answers,
            foreign=self.foreign,
            draining=self.draining,
            persistent=self.persistent,
            halt=self.halt,
            around=self.funds,
            tape=self.tape,
        )
