"""The node that carries out one task: waits for its inputs, works, posts the result and returns it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NoReturn

import pydantic_core
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphDrained, GraphInterrupt
from langgraph.runtime import Runtime
from langgraph.types import Command
from pydantic import TypeAdapter

from orchestra.agents import Agent
from orchestra.attempts import Job, beside, restore
from orchestra.blueprint import Blueprint, call_of
from orchestra.claims import Resolution, with_settled
from orchestra.conduct import carry_out
from orchestra.dataflow import Board, Deferred, Suspended, Turn, Unsettled, Updates
from orchestra.events import TaskAdded, TaskDeferred, TaskEnded, TaskWaiting
from orchestra.memory import Memory
from orchestra.node import Node, Notes
from orchestra.outputs import own_copy
from orchestra.questions import question_of
from orchestra.settling import Settling, caller, held_by
from orchestra.state import decode_result, encode_result
from orchestra.tasks import Delegate, Result, Status, Task, added_by, now
from orchestra.timers import in_utc, moment_of, wait_until

_DEEPEST = 3
"""How far work that is handed on may be handed on again."""


class TaskNode:
    """Carries out one task: waits for its inputs, works, posts and returns the result."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint

    async def __call__(self, ref: dict[str, str], config: RunnableConfig, runtime: Runtime[Any]) -> Any:
        """Be the node of one Send."""
        call, info, task_id = call_of(config), runtime.execution_info, ref["task"]
        assert info is not None  # noqa: S101 -- LangGraph sets it for every node
        node = _Worker(self._blueprint, call, config, runtime, info)
        board = await call.board(info.checkpoint_id, task_id, node.read_back)
        task = board.turn.plan.by_id[task_id]
        if (asked := call.open_question(info.task_id)) and not node.asked_inside(task, asked):
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
            if call.draining() and board.asks:  # the next superstep would come with the answer only
                raise GraphInterrupt(()) from None
            before = [note for note in call.noted(task_id) if note not in node.notes]
            notes = [*before, *node.notes]
            return {"halfway": {task_id: notes}} if notes else {}
        settled = {**node.handed, task_id: result}
        raw = {id_: encode_result(each, self._blueprint.roster) for id_, each in settled.items()}
        for id_, each in node.handed.items():
            board.post(id_, each)
        board.post(task_id, result, updates)
        node.emit(TaskEnded, {"task": task_id, "result": result})
        mine = {"results": raw}
        return [Command(update=mine), Command(update=[*updates])] if updates else mine


@dataclass(slots=True)
class _Worker(Node):
    """One node execution at work on its task."""

    def asked_inside(self, task: Task, asked: Sequence[Any]) -> bool:
        """Whether open questions are a team's own, which is entered again for whatever else is unfinished in it."""
        candidates, about = self.blueprint.candidates(task), [question_of(one) for one in asked]
        own = any(one.task and one.path == self.call.path for one in about)
        return bool(candidates) and candidates[0].is_team and not own

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
        if call.draining():
            raise Deferred
        if call.halt.why:
            moment = now()
            return Result(task=task.id, status=Status.SKIPPED, error=call.halt.why, started=moment, ended=moment), ()
        candidates = self._as_recorded(task, blueprint.candidates(task))
        here = [need for need in inputs if need not in turn.results]
        first = candidates[0].name if candidates else ""
        review, approval = blueprint.reviews.get(first), blueprint.approval(candidates)
        involved = (*candidates, *(review.reviewers if review else ()))
        acts = any(agent.side_effects for agent in involved)
        if here and call.persistent and acts:
            await self.committed(here)
        if acts and (done := self._played_back(task)) is not None:
            return done, ()
        settling = self._settling(task, board, inputs)
        resolutions = await self._resolved(settling, inputs)
        settled = [each for each in resolutions if each.settled]
        outputs = {need: own_copy(result.output) for need, result in inputs.items() if result.ok}
        job = self.job(
            turn,
            task,
            candidates=candidates,
            available=blueprint.types_into(task, turn.plan),
            inputs={need: with_settled(output, settled) for need, output in outputs.items()} | self._given(turn),
            key=task.id,
            given={
                "state": blueprint.own_state(turn.state, board.updates_before(task)),
                "resolutions": tuple(resolutions),
            },
            equals=blueprint.equals(task),
            hand_on=functools.partial(self._hand_on, turn, ()),
            settle=settling.all,
        )
        result = await carry_out(job, review, approval, blueprint.people)
        if not result.ok and blueprint.people.budget and not turn.plan.capped and call.funds.own_used_up:
            raise Deferred  # the supervisor asks a person about the budget
        if resolutions:
            result = result.model_copy(update={"resolutions": (*resolutions, *result.resolutions)})
        if not result.ok:
            return result, ()
        memos = [memo for memos in job.memos.values() for memo in memos]
        if memos and self.runtime.store is not None:
            await Memory(self.runtime.store, self.user()).write(memos)
        return result, [update for updates in job.updates.values() for update in updates]

    def _as_recorded(self, task: Task, candidates: list[Agent]) -> list[Agent]:
        """When a run is played back, those first who tried then, in the same order."""
        then = self.call.tape.raw(self.call.path, task.id) if self.call.tape is not None else None
        tried = [attempt["agent"] for attempt in (then or {}).get("attempts", ())]
        return sorted(candidates, key=lambda agent: tried.index(agent.name) if agent.name in tried else len(tried))

    def _played_back(self, task: Task) -> Result | None:
        """The recorded result of a task that acts on the world: when it is played back, nothing is done twice."""
        tape = self.call.tape
        then = tape.raw(self.call.path, task.id) if tape is not None else None
        if tape is None or then is None:
            return None
        for added in added_by([then]):
            raw = tape.raw(self.call.path, added.task.id) or {}
            self.handed[added.task.id] = decode_result(raw, self.blueprint.roster)
        return decode_result(then, self.blueprint.roster)

    def _settling(self, task: Task, board: Board, inputs: Mapping[str, Result]) -> Settling:
        turn = board.turn
        known = [*turn.plan.resolutions, *(each for result in inputs.values() for each in result.resolutions)]
        return Settling(self, turn, task.id, caller(self, turn, task.id), known)

    async def _resolved(self, settling: Settling, inputs: Mapping[str, Result]) -> list[Resolution]:
        """How contradictions among a task's inputs are settled, and what was settled of them before."""
        held = held_by(self.blueprint.roster, inputs.values())
        if not held:
            return []
        here, mine = await settling.all(held), [each.claim for each in held]
        before = (each for each in settling.known if each not in here)
        return [*here, *(each for each in before if any(one.claim in mine for one in each.losers))]

    async def _hand_on(
        self, turn: Turn, chain: tuple[str, ...], job: Job, asker: Agent, wanted: Delegate
    ) -> tuple[Task, Result]:
        """Have work done that an agent hands on, inside the asker's node: so it waits for nobody else."""
        taken = {*turn.plan.by_id, *turn.results, *self.handed, *self.named}
        name = next(name for i in itertools.count(1) if (name := f"{job.task.id}+{i}") not in taken)
        self.named.add(name)  # at once: replicas may hand on at the same time
        task = Task(
            id=name,
            instruction=wanted.instruction,
            capability=wanted.capability,
            needs=job.task.needs,
            optional=frozenset(job.task.needs),
            added_by=job.task.id,
        )
        chain = (*chain, asker.name)
        self.emit(TaskAdded, {"task": job.task.id, "added": task})
        journal = Notes(self, task.id)
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

    async def _handed_on(self, turn: Turn, chain: tuple[str, ...], job: Job, task: Task, journal: Notes) -> Result:
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
        first = candidates[0].name
        inner = replace(
            job,
            task=task,
            candidates=candidates,
            assignment=assignment,
            journal=journal,
            hand_on=functools.partial(self._hand_on, turn, chain),
            equals=blueprint.equals(task),
            attempts=[],
            reviews=[],
            added=[],
            decisions=[],
        )
        return await carry_out(inner, blueprint.reviews.get(first), blueprint.approval(candidates), blueprint.people)

    def _given(self, turn: Turn) -> dict[str, Any]:
        return {
            name: _adapter(kind).validate_json(pydantic_core.to_json(turn.given[name]))
            for name, kind in self.blueprint.given.items()
            if name in turn.given
        }


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _how(result: Result) -> str:
    return "failed" if result.status is Status.FAILED else f"was {result.status}"
