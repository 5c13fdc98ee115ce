"""The node that carries out one task: waits for its inputs, works, posts the result and returns it."""

from __future__ import annotations

import asyncio
import functools
import itertools
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NoReturn, cast

import pydantic_core
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import ERROR
from langgraph.errors import GraphDrained, GraphInterrupt
from langgraph.runtime import ExecutionInfo, Runtime
from langgraph.types import Command
from pydantic import TypeAdapter

from orchestra.agents import Agent
from orchestra.attempts import Job, beside, carry_out, restore
from orchestra.blueprint import TEAM, Blueprint, call_of, saver_of, user_of
from orchestra.branching import executions
from orchestra.context import context, turn_id
from orchestra.dataflow import Board, Call, Deferred, Stored, Suspended, Turn, Unsettled, Updates
from orchestra.errors import BudgetExceeded, UnstorableOutput, WorkflowError
from orchestra.events import Event, PlanReady, TaskAdded, TaskDeferred, TaskEnded, TaskWaiting
from orchestra.memory import Memory
from orchestra.metering import Scope
from orchestra.outputs import OwnCopy, own_copy
from orchestra.state import decode_result, encode_result
from orchestra.tasks import Assignment, Attempt, Delegate, Plan, Result, Status, Task, Usage, added_by, grown, now
from orchestra.timers import in_utc, moment_of, wait_until

_PATIENCE = 60.0
"""Seconds that an agent with side effects waits for its inputs to be stored, which takes milliseconds."""

_DEEPEST = 3
"""How far work that is handed on may be handed on again."""

JOURNAL = "orchestra_journal"
"""The channel name under which attempts are noted among a checkpoint's writes. No channel of the graph has it."""


class TaskNode:
    """Carries out one task: waits for its inputs, works, posts and returns the result."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint

    async def __call__(self, ref: dict[str, str], config: RunnableConfig, runtime: Runtime[Any]) -> Any:
        """Be the node of one Send."""
        call, info, task_id = call_of(config), runtime.execution_info, ref["task"]
        assert info is not None  # noqa: S101 -- LangGraph sets it for every node
        node = _Node(self._blueprint, call, config, runtime, info)
        board = await call.board(info.checkpoint_id, task_id, node.read_back)
        task = board.turn.plan.by_id[task_id]
        if asked := call.open_question(info.task_id):
            node.suspend(board, task, asked)
        try:
            inputs = await board.needs_of(task)
            result, updates = await node.settle(task, board, inputs)
        except Suspended:
            node.suspend(board, task, ())
        except (GraphInterrupt, GraphDrained):
            # A team that drains keeps its place too: it goes on in its own namespace.
            await node.asked_again()
            board.post(task_id, Unsettled.SUSPENDED)
            node.emit(TaskWaiting, {"task": task_id})
            raise
        except Deferred:
            board.post(task_id, Unsettled.DEFERRED)
            node.emit(TaskDeferred, {"task": task_id})
            return {"halfway": {task_id: node.notes}} if node.notes else {}
        settled = {**node.handed, task_id: result}
        raw = {id_: encode_result(each, self._blueprint.roster) for id_, each in settled.items()}
        for id_, each in node.handed.items():
            board.post(id_, each)
        board.post(task_id, result, updates)
        node.emit(TaskEnded, {"task": task_id, "result": result})
        mine = {"results": raw}
        return [Command(update=mine), Command(update=[*updates])] if updates else mine


@dataclass(frozen=True, slots=True)
class _Node:
    """What one node execution works with.

    `handed` has the results of the work that was handed on, `notes` all journal entries, for a superstep after a drain.
    """

    blueprint: Blueprint
    call: Call
    config: RunnableConfig
    runtime: Runtime[Any]
    info: ExecutionInfo
    handed: dict[str, Result] = field(default_factory=dict[str, Result])
    notes: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])

    def emit(self, kind: type[Event], what: Mapping[str, Any]) -> None:
        self.runtime.stream_writer(kind(path=self.call.path, **what))

    def suspend(self, board: Board, task: Task, asked: Sequence[Any]) -> NoReturn:
        """Leave the superstep with the questions as stored, or, for a mere dependant, without any."""
        board.post(task.id, Unsettled.SUSPENDED)
        self.emit(TaskWaiting, {"task": task.id})
        raise GraphInterrupt(tuple(asked))

    async def settle(self, task: Task, board: Board, inputs: Mapping[str, Result]) -> tuple[Result, Updates]:
        """Carry a task out, or skip it; return its result and what it writes to the user's own keys of the state."""
        if (skipped := self._skipped(task, inputs)) is not None:
            return skipped, ()
        self._wait(task, inputs)
        return await self._carry_out(task, board, inputs)

    def _skipped(self, task: Task, inputs: Mapping[str, Result]) -> Result | None:
        """The result of a task that lacks an input it can't do without."""
        lacking = [result for need, result in inputs.items() if not result.ok and need not in task.optional]
        if not lacking:
            return None
        why = "; ".join(f"it needs {r.task}, which {_how(r)}" for r in lacking)
        moment = now()
        return Result(task=task.id, status=Status.SKIPPED, error=why, started=moment, ended=moment)

    def _wait(self, task: Task, inputs: Mapping[str, Result]) -> None:
        """Leave the superstep until a task's date has come."""
        if task.wait is None:
            return
        # Counted from what is stored, so that this node decides alike however often it runs.
        since = max([moment_of(self.info.checkpoint_id), *(result.ended for result in inputs.values())])
        due = in_utc(task.wait) if isinstance(task.wait, datetime) else since + task.wait
        if due > since:
            wait_until(due)

    async def _carry_out(self, task: Task, board: Board, inputs: Mapping[str, Result]) -> tuple[Result, Updates]:
        call, blueprint, turn = self.call, self.blueprint, board.turn
        user = self._user()
        if call.draining():
            raise Deferred
        candidates = blueprint.candidates(task)
        here = [need for need in inputs if need not in turn.results]
        review = blueprint.reviews.get(candidates[0].name) if candidates else None
        involved = (*candidates, *(review.reviewers if review else ()))
        if here and call.persistent and any(agent.side_effects for agent in involved):
            await self._committed(here)
        assignment = Assignment(
            task=task,
            request=turn.request,
            inputs={need: own_copy(result.output) for need, result in inputs.items() if result.ok} | self._given(turn),
            messages=OwnCopy(turn.messages),
            history=OwnCopy(turn.history),
            state=blueprint.own_state(turn.state, board.updates_before(task)),
            preferences={memo.key: own_copy(memo.value) for memo in turn.memory if memo.kind == "preference"},
            facts={memo.key: own_copy(memo.value) for memo in turn.memory if memo.kind == "fact"},
            user=user,
            idempotency_key=f"{call.key}/{turn.id}/{task.id}",
        )
        then = call.tape.raw(call.path, task.id) if call.tape is not None else None
        if (
            then is not None and call.tape is not None and any(agent.side_effects for agent in involved)
        ):  # played back: nothing is done twice
            for added in added_by([then]):
                self.handed[added.task.id] = decode_result(
                    call.tape.raw(call.path, added.task.id) or {}, blueprint.roster
                )
            return decode_result(then, blueprint.roster), ()
        job = Job(
            task=task,
            candidates=candidates,
            available=blueprint.types_into(task, turn.plan),
            assignment=assignment,
            config=self.config,
            emit=self.emit,
            ready=self._ready,
            left=call.funds.left,
            call_team=self._call_team,
            scope=functools.partial(self._scope, f"{call.key}/{turn.id}/"),
            others=blueprint.others,
            hand_on=functools.partial(self._hand_on, turn, ()),
            journal=_Journal(self, task.id),
            review=review,
            check_updates=functools.partial(self._check_updates, turn.state),
            hurried=call.tape is not None and call.tape.replaying,
        )
        result = await carry_out(job)
        if not result.ok:
            return result, ()
        memos = [memo for memos in job.memos.values() for memo in memos]
        if memos and self.runtime.store is not None:
            await Memory(self.runtime.store, user).write(memos)
        return result, [update for updates in job.updates.values() for update in updates]

    def _scope(self, root: str, assignment: Assignment, agent: Agent, number: int) -> Scope:
        """What the calls of an attempt belong to. Its key is the same when the turn is played back."""
        call, place = self.call, assignment.idempotency_key.removeprefix(root)
        return Scope(
            task=assignment.task.id,
            agent=agent.name,
            key="/".join((*call.path, place, agent.name, str(number))),
            account=call.funds.of(agent),
            purse=call.funds,
            terms=call.funds.terms,
            emit=self.emit,
            tape=call.tape,
        )

    async def _hand_on(
        self, turn: Turn, chain: tuple[str, ...], job: Job, asker: Agent, wanted: Delegate
    ) -> tuple[Task, Result]:
        """Have work done that an agent hands on, inside the asker's node: so it waits for nobody else."""
        taken = {*turn.plan.by_id, *turn.results, *self.handed}
        task = Task(
            id=next(name for i in itertools.count(1) if (name := f"{job.task.id}+{i}") not in taken),
            instruction=wanted.instruction,
            capability=wanted.capability,
            needs=job.task.needs,
            optional=frozenset(job.task.needs),
            added_by=job.task.id,
        )
        chain = (*chain, asker.name)
        self.emit(TaskAdded, {"task": job.task.id, "added": task})
        journal = _Journal(self, task.id)
        if (stored := journal.kept("handed", 1)) is not None:
            result = decode_result(stored["result"], self.blueprint.roster)
            restore(job, task.id, stored)
        else:
            result = await self._handed_on(turn, chain, job, task, journal)
            raw = encode_result(result, self.blueprint.roster)
            await journal.keep("handed", 1, {"result": raw, **beside(job, task.id)})
        self.handed[task.id] = result
        self.emit(TaskEnded, {"task": task.id, "result": result})
        return task, result

    async def _handed_on(self, turn: Turn, chain: tuple[str, ...], job: Job, task: Task, journal: _Journal) -> Result:
        blueprint, moment = self.blueprint, now()
        self.call.handed_on += 1
        able = blueprint.candidates(task)
        candidates = [agent for agent in able if agent.name not in chain]
        why = ""
        if not able:
            why = blueprint.router.choose(task).reason
        elif not candidates:
            why = f"it would come back to {able[0].name}, who handed it on: nobody else can do it"
        elif len(chain) > _DEEPEST:
            why = f"it was handed on {_DEEPEST} times already ({' -> '.join(chain)})"
        elif self.call.handed_on > blueprint.max_handed_on:
            why = f"this workflow hands on work {blueprint.max_handed_on} times in a turn at most (max_handed_on)"
        if why:
            return Result(task=task.id, status=Status.FAILED, error=why, started=moment, ended=moment)
        suffix = task.id.removeprefix(job.task.id)
        assignment = replace(
            job.assignment,
            task=task,
            rejections=(),
            delegated=(),
            idempotency_key=f"{job.assignment.idempotency_key}{suffix}",
        )
        return await carry_out(
            replace(
                job,
                task=task,
                candidates=candidates,
                assignment=assignment,
                journal=journal,
                review=blueprint.reviews.get(candidates[0].name),
                hand_on=functools.partial(self._hand_on, turn, chain),
                attempts=[],
                reviews=[],
                added=[],
            )
        )

    def _user(self) -> str:
        """Whose preferences the run uses, if anything can be remembered at all."""
        return user_of(self.config) if self.runtime.store is not None else ""

    def _check_updates(self, state: Mapping[str, Any], updates: Updates) -> None:
        """See that updates are for keys that exist, and can be stored, read back and added to the state.

        Raises:
            UnstorableOutput: One of them is not.
        """
        own, saver = self.blueprint.own, saver_of(self.config) if self.call.persistent else None
        for key, value in updates:
            if key not in own:
                there = f"it has {', '.join(sorted(own))}" if own else "it has none: declare one with state_schema="
                raise UnstorableOutput(f"the workflow's own state has no key {key!r}; {there}")
            try:
                if saver is not None:
                    saver.serde.loads_typed(saver.serde.dumps_typed(value))
            except Exception as error:
                raise UnstorableOutput(f"the update of {key!r} can't be stored: {error}") from error
            try:
                self.blueprint.own_state(state, [(key, value)])
            except Exception as error:
                raise UnstorableOutput(f"the reducer of {key!r} does not take the update: {error}") from error

    def _ready(self) -> None:
        if self.call.draining():
            raise Deferred
        if (late := self.call.funds.late) is not None:
            raise BudgetExceeded(late)

    def _given(self, turn: Turn) -> dict[str, Any]:
        return {
            name: _adapter(kind).validate_json(pydantic_core.to_json(turn.given[name]))
            for name, kind in self.blueprint.given.items()
            if name in turn.given
        }

    async def _call_team(
        self, agent: Agent, assignment: Assignment, arguments: Mapping[str, Any], attempt: Scope
    ) -> Any:
        """Run a team's graph inside this node; LangGraph keeps its checkpoints in a namespace of their own."""
        graph = self.blueprint.teams[agent.name]
        scope = self.call.child(assignment.task.id, assignment.idempotency_key)
        scope.around = self.call.funds.team(agent)
        config: RunnableConfig = {
            **self.config,
            "configurable": {**self.config.get("configurable", {}), TEAM: scope},
        }
        given = pydantic_core.to_jsonable_python({n: value for n, value in arguments.items() if value is not None})
        try:
            state = await graph.ainvoke({"request": assignment.request, "given": given}, config)
        finally:
            attempt.usage += scope.funds.used
        if graph.workflow.planner is not None:
            return state["answer"]
        sinks = [state["results"][task.id] for task in cast("Plan", state["plan"]).sinks]
        return sinks[0].unwrap() if len(sinks) == 1 else state["answer"]

    def _place(self) -> RunnableConfig:
        """Where LangGraph stores what the nodes of this superstep write."""
        configurable = self.config.get("configurable", {})
        return {
            "configurable": {
                "thread_id": configurable.get("thread_id"),
                "checkpoint_ns": self.info.checkpoint_ns.rpartition("|")[0],
                "checkpoint_id": self.info.checkpoint_id,
            }
        }

    async def read_back(self) -> Stored:
        """Read what the saver holds of this superstep."""
        stored = await self._stored_step()
        values = stored.checkpoint["channel_values"]
        roster, done = self.blueprint.roster, executions(stored, self.blueprint.own)
        results = {task: decode_result(raw, roster) for each in done for task, raw in each.results.items()}
        earlier = cast("dict[str, Any]", values.get("results") or {})
        notes = [value for _, channel, value in stored.pending_writes or () if channel == JOURNAL]
        if self.call.tape is not None:
            self.call.tape.begin(turn_id(values))
        turn = Turn(
            id=turn_id(values),
            request=values["request"],
            **await context(self.blueprint, values, self.runtime.store, self._user()),
            plan=Plan.model_validate(values["plan"]),
            results={task: decode_result(raw, roster) for task, raw in earlier.items()},
            given=values.get("given") or {},
            halfway=values.get("halfway") or {},
        )
        if not self.call.counted:
            self.call.counted = True
            settled = {**turn.results, **results}
            self.call.funds.book_earlier(roster, turn.plan, settled.values())
            added = sum(len(result.added) for result in settled.values())
            self.call.handed_on = added + sum(
                note["event"] == "handed" and note["task"] not in settled for note in notes
            )
            spent = last_spent(note for note in notes if note["event"] == "spent" and note["task"] not in settled)
            self.call.funds.book_attempts(roster, [Attempt.model_validate(raw) for raw in spent.values()])
        self.emit(
            PlanReady,
            {
                "plan": grown(turn.plan, (each for result in results.values() for each in result.added)),
                "finished": {**turn.results, **results},
            },
        )
        return Stored(
            turn=turn,
            results=results,
            updates={task: each.updates for each in done for task in each.results},
            questions={each.id: each.asked for each in done if each.asked},
            notes=notes,
            cut=[each.id for each in done if each.cut],
        )

    async def _stored_step(self) -> CheckpointTuple:
        saver = saver_of(self.config) if self.call.persistent else None
        if saver is not None:
            # A replay starts on a new copy of the old checkpoint, which LangGraph may still be storing.
            for pause in (0.002, 0.01, 0.05, 0.25, 1.0, 0.0):
                if (stored := await saver.aget_tuple(self._place())) is not None:
                    return stored
                await asyncio.sleep(pause)
        raise WorkflowError(f"Checkpoint {self.info.checkpoint_id}, from which this run goes on, is not stored.")

    async def _committed(self, needs: Sequence[str]) -> None:
        """Return when the results of `needs` are stored. LangGraph does not tell, so look, less and less often.

        Raises:
            WorkflowError: They are not stored for so long that something must be wrong with the database.
        """
        saver, pause = saver_of(self.config), 0.002
        clock = asyncio.get_running_loop().time
        end = clock() + _PATIENCE
        while saver is not None:
            stored = await saver.aget_tuple(self._place())
            writes = stored.pending_writes or () if stored else ()
            done = {task for _, channel, value in writes if channel == "results" for task in value}
            if done.issuperset(needs):
                return
            if clock() > end:
                raise WorkflowError(f"Results that side effects rest on are not stored after {_PATIENCE:g} s: {needs}.")
            await asyncio.sleep(pause)
            pause = min(0.1, pause * 2)

    async def asked_again(self) -> None:
        """If this execution was cancelled before, take that back: now it waits."""
        if self.info.task_id in self.call.cut and (saver := saver_of(self.config)) is not None:
            await saver.aput_writes(self._place(), [(ERROR, "")], self.info.task_id)

    async def note(self, entry: Mapping[str, Any]) -> None:
        """Store a journal entry beside the writes of this superstep."""
        if (saver := saver_of(self.config)) is not None and self.call.persistent:
            await saver.aput_writes(self._place(), [(JOURNAL, dict(entry))], f"{self.info.task_id}/{uuid.uuid4()}")


@dataclass(frozen=True, slots=True)
class _Journal:
    """Notes attempts of one task beside LangGraph's own writes, so that they share their fate."""

    node: _Node
    task: str

    async def started(self, attempt: Attempt) -> None:
        await self._note("started", attempt)

    async def ended(self, attempt: Attempt) -> None:
        await self._note("ended", attempt)

    async def spent(self, attempt: Attempt, usage: Usage) -> None:
        seconds = (now() - attempt.started).total_seconds()
        raw = attempt.model_copy(update={"usage": usage, "seconds": seconds}).model_dump(mode="json")
        await self._keep({"event": "spent", "task": self.task, "attempt": raw})

    def cut_off(self) -> list[Attempt]:
        notes = self.node.call.notes(self.task, "spent")
        last = last_spent(notes)
        how = {"outcome": "crashed", "error": "it was cut off, or suspended, before its end"}
        return [Attempt.model_validate(raw).model_copy(update=how) for raw in last.values()]

    async def keep(self, event: str, number: int, what: Mapping[str, Any]) -> None:
        await self._keep({"event": event, "task": self.task, "number": number, **what})

    async def _keep(self, entry: dict[str, Any]) -> None:
        self.node.notes.append(entry)
        await self.node.note(entry)

    def kept(self, event: str, number: int) -> Mapping[str, Any] | None:
        notes = self.node.call.notes(self.task, event)
        found = next((note for note in notes if note["number"] == number), None)
        if found is not None and found not in self.node.notes:
            self.node.notes.append(found)
        return found

    async def _note(self, event: str, attempt: Attempt) -> None:
        key = f"{attempt.agent}/{attempt.started.isoformat()}"
        raw = attempt.model_dump(mode="json")
        await self.node.note({"id": key, "event": event, "task": self.task, "agent": attempt.agent, "attempt": raw})

    def crashed(self, agent: str) -> list[Attempt]:
        entries = self.node.call.crashed(self.task, agent)
        error = "the process ended while it worked"
        return [
            Attempt.model_validate(entry["attempt"]).model_copy(update={"outcome": "crashed", "error": error})
            for entry in entries
        ]


def last_spent(notes: Iterable[Mapping[str, Any]]) -> dict[tuple[str, ...], Any]:
    """What attempts had used at last. A saver gives the writes of a superstep in an order of its own."""
    last: dict[tuple[str, ...], Any] = {}
    for note in notes:
        attempt = note["attempt"]
        key = (note["task"], attempt["agent"], attempt["started"])
        if key not in last or attempt["seconds"] > last[key]["seconds"]:
            last[key] = attempt
    return last


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _how(result: Result) -> str:
    return "failed" if result.status is Status.FAILED else f"was {result.status}"
