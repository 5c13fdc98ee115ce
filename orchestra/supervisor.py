"""The nodes of a workflow's graph: the supervisor, and the one that carries out a task.

The supervisor sends the whole plan at once; who waits for whom is settled inside the superstep (`dataflow`). A third
node, the gatherer, does nothing but lead back to the supervisor when the superstep is over: one node that writes the
edge instead of every task, because LangGraph keeps and scans all pending writes of a superstep.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import pydantic_core
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.types import INTERRUPT
from langgraph.errors import GraphDrained, GraphInterrupt
from langgraph.runtime import ExecutionInfo, Runtime
from langgraph.types import Command, Overwrite, Send
from pydantic import TypeAdapter

from orchestra.agents import Agent, bind
from orchestra.attempts import Job, Reviewing, carry_out
from orchestra.dataflow import Board, Call, Deferred, Stored, Suspended, Turn, Unsettled
from orchestra.errors import PlanError, WorkflowError
from orchestra.events import Event, PlanReady, TaskDeferred, TaskEnded, TaskWaiting, TurnEnded
from orchestra.outputs import text_of
from orchestra.planning import Planner, check_plan
from orchestra.routing import Router
from orchestra.state import PastTurn, decode_result, encode_result
from orchestra.tasks import Assignment, Attempt, Plan, Result, Status, Task, now

CALL = "orchestra_call"
"""Where a call's `Call` stands in the configurable part of LangGraph's config."""

JOURNAL = "orchestra_journal"
"""The channel name under which attempts are noted among a checkpoint's writes. No channel of the graph has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A workflow as compiled: nothing in it changes any more.

    Attributes:
        name: The workflow's name.
        roster: All agents by name, spares and reviewers included.
        router: Chooses among those that may be given tasks.
        plan: The plan, where it does not depend on the request.
        planner: Makes the plan where it does.
        given: Types of the inputs that come from outside, by name.
        reviews: Declared reviews by the author's name.
        teams: Compiled graphs of the agents that are workflows.
        max_tasks: How many tasks a plan may have.
    """

    name: str
    roster: Mapping[str, Agent]
    router: Router
    plan: Plan | None
    planner: Planner | None
    given: Mapping[str, Any]
    reviews: Mapping[str, Reviewing]
    teams: Mapping[str, Any]
    max_tasks: int

    def candidates(self, task: Task) -> list[Agent]:
        """Who may do a task, best first."""
        return [self.roster[name] for name in self.router.choose(task).agents]

    def types_into(self, task: Task, plan: Plan) -> dict[str, Any]:
        """The output types that reach a task, by the id of the task they come from."""
        types = dict(self.given)
        for need in task.needs:
            able = self.candidates(plan.by_id[need])
            types[need] = able[0].output if able else Any
        return types


def call_of(config: RunnableConfig) -> Call:
    """The scope of the call that a node runs in."""
    call = config.get("configurable", {}).get(CALL)
    if not isinstance(call, Call):
        raise WorkflowError("A workflow's nodes run only when its compiled graph is called.")
    return call


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _how(result: Result) -> str:
    return "failed" if result.status is Status.FAILED else f"was {result.status}"


def saver_of(config: RunnableConfig) -> BaseCheckpointSaver[Any] | None:
    """The saver that LangGraph uses for a node, compiled in, inherited or injected: its config carries it."""
    values: Iterable[Any] = config.get("configurable", {}).values()
    return next((cast("Any", value) for value in values if isinstance(value, BaseCheckpointSaver)), None)


class Supervisor:
    """Plans a turn, sends its tasks, and composes the answer."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint

    async def __call__(self, state: dict[str, Any], config: RunnableConfig, runtime: Runtime[Any]) -> Command[Any]:
        """Send every task that has no result yet, or finish the turn."""
        call = call_of(config)
        update: dict[str, Any] = {}
        results: dict[str, Result] = state.get("results") or {}
        number = state.get("turn", 0)
        if "plan" not in state or state["planned"]["asked"] != state["asked"]:
            plan = await self._plan(state)
            update = self._new_turn(state, plan)
            number, results = update["turn"], {}
        else:
            plan = cast("Plan", state["plan"])
        emit = runtime.stream_writer
        sends: list[Send | str] = []
        unable: dict[str, Result] = {}
        for task in plan.order:
            if task.id in results:
                continue
            choice = self._blueprint.router.choose(task)
            if choice.agents:
                sends.append(Send(choice.agents[0], {"task": task.id}))
            else:
                moment = now()
                unable[task.id] = Result(
                    task=task.id, status=Status.FAILED, error=choice.reason, started=moment, ended=moment
                )
                emit(TaskEnded(path=call.path, task=task.id, result=unable[task.id]))
        results = {**results, **unable}
        if unable or update:
            raw = {task: encode_result(result, self._blueprint.roster) for task, result in unable.items()}
            update["results"] = Overwrite(raw) if update else raw
        if sends:
            emit(PlanReady(path=call.path, plan=plan, finished=results))
            call.begin(
                Turn(
                    number=number,
                    request=state["request"],
                    messages=state.get("messages") or (),
                    plan=plan,
                    results=results,
                    given=state.get("given") or {},
                )
            )
            return Command(update=update, goto=[*sends, "gather"])
        answer = compose(plan, results)
        emit(TurnEnded(path=call.path, answer=answer))
        return Command(update={**update, "answer": answer, "messages": [AIMessage(answer)]})

    async def _plan(self, state: Mapping[str, Any]) -> Plan:
        blueprint = self._blueprint
        if blueprint.plan is not None:
            return blueprint.plan
        assert blueprint.planner is not None  # noqa: S101 -- compile gave one or the other
        agents = sorted(blueprint.roster.values(), key=lambda agent: agent.name)
        made = blueprint.planner.plan(state["request"], agents=agents, messages=state.get("messages") or ())
        plan = check_plan(
            await made if inspect.isawaitable(made) else made, blueprint.roster, limit=blueprint.max_tasks
        )
        for task in plan.tasks:
            for agent in blueprint.candidates(task)[:1]:
                try:
                    bind(agent, blueprint.types_into(task, plan))
                except WorkflowError as error:
                    raise PlanError(f"Task {task.id!r} can't be given to {agent.name!r}. {error}") from error
        return plan

    def _new_turn(self, state: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
        """What starts a turn: the plan, no results, and the last turn put into the history."""
        update: dict[str, Any] = {
            "plan": plan.model_dump(mode="json", exclude_defaults=True),
            "planned": {"asked": state["asked"], "request": state["request"]},
            "turn": state.get("turn", 0) + 1,
            "answer": None,
        }
        if "plan" in state:
            roster = self._blueprint.roster
            results = cast("dict[str, Result]", state.get("results") or {})
            past = PastTurn(
                turn=state["turn"],
                request=state["planned"]["request"],
                answer=state.get("answer") or "",
                results={task: encode_result(result, roster) for task, result in results.items()},
            )
            update["history"] = [*(state.get("history") or ()), past]
        return update


def compose(plan: Plan, results: Mapping[str, Result]) -> str:
    """Write the answer: what the plan's last tasks produced, and what is missing and why."""
    sinks = [results[task.id] for task in plan.sinks]
    parts = [
        text_of(result.output) if len(sinks) == 1 else f"## {result.task}\n\n{text_of(result.output)}"
        for result in sinks
        if result.ok
    ]
    failed = [result for result in results.values() if result.status is Status.FAILED]
    lost = [result for result in results.values() if result.status is Status.SKIPPED]
    if failed or lost:
        lines = [f"- {r.task} failed: {r.error}" for r in failed] + [f"- {r.task} was skipped: {r.error}" for r in lost]
        parts.append("\n".join(["Missing from this answer:", *lines]))
    return "\n\n".join(parts)


class Worker:
    """Carries out one task: waits for its inputs, works, posts and returns the result."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint

    async def __call__(self, ref: dict[str, str], config: RunnableConfig, runtime: Runtime[Any]) -> dict[str, Any]:
        """Be the node of one Send."""
        call, info, task_id = call_of(config), runtime.execution_info, ref["task"]
        assert info is not None  # noqa: S101 -- LangGraph sets it for every node
        node = _Node(self._blueprint, call, config, runtime, info)
        board, _ = await call.board(info.checkpoint_id, task_id, node.read_back)
        task = board.turn.plan.by_id[task_id]
        if asked := call.open_question(info.task_id):
            node.suspend(board, task, asked)
        try:
            inputs = await board.needs_of(task)
            result = node.skipped(task, inputs) or await node.carry_out(task, board.turn, inputs)
        except Suspended:
            node.suspend(board, task, ())
        except (
            GraphInterrupt,
            GraphDrained,
        ):  # a team that drains keeps its place: it goes on in its own namespace
            board.post(task_id, Unsettled.SUSPENDED)
            node.emit(TaskWaiting, {"task": task_id})
            raise
        except Deferred:
            board.post(task_id, Unsettled.DEFERRED)
            node.emit(TaskDeferred, {"task": task_id})
            return {}
        raw = encode_result(result, self._blueprint.roster)
        board.post(task_id, result)
        node.emit(TaskEnded, {"task": task_id, "result": result})
        return {"results": {task_id: raw}}


@dataclass(frozen=True, slots=True)
class _Node:
    """What one node execution works with."""

    blueprint: Blueprint
    call: Call
    config: RunnableConfig
    runtime: Runtime[Any]
    info: ExecutionInfo

    def emit(self, kind: type[Event], what: Mapping[str, Any]) -> None:
        self.runtime.stream_writer(kind(path=self.call.path, **what))

    def suspend(self, board: Board, task: Task, asked: Sequence[Any]) -> NoReturn:
        """Leave the superstep with the questions as stored, or, for a mere dependant, without any."""
        board.post(task.id, Unsettled.SUSPENDED)
        self.emit(TaskWaiting, {"task": task.id})
        raise GraphInterrupt(tuple(asked))

    def skipped(self, task: Task, inputs: Mapping[str, Result]) -> Result | None:
        """The result of a task that lacks an input it can't do without."""
        lacking = [result for need, result in inputs.items() if not result.ok and need not in task.optional]
        if not lacking:
            return None
        why = "; ".join(f"it needs {r.task}, which {_how(r)}" for r in lacking)
        moment = now()
        return Result(task=task.id, status=Status.SKIPPED, error=why, started=moment, ended=moment)

    async def carry_out(self, task: Task, turn: Turn, inputs: Mapping[str, Result]) -> Result:
        call, blueprint = self.call, self.blueprint
        self._ready()
        candidates = blueprint.candidates(task)
        here = [need for need in inputs if need not in turn.results]
        if here and call.persistent and any(agent.side_effects for agent in candidates):
            await self._committed(here)
        assignment = Assignment(
            task=task,
            request=turn.request,
            inputs={need: result.output for need, result in inputs.items() if result.ok} | self._given(turn),
            messages=turn.messages,
            idempotency_key=f"{call.key}/{turn.number}/{task.id}",
        )
        job = Job(
            task=task,
            candidates=candidates,
            available=blueprint.types_into(task, turn.plan),
            assignment=assignment,
            config=self.config,
            emit=self.emit,
            ready=self._ready,
            call_team=self._call_team,
            journal=_Journal(self, task.id),
            review=blueprint.reviews.get(candidates[0].name) if candidates else None,
        )
        return await carry_out(job)

    def _ready(self) -> None:
        if self.call.draining():
            raise Deferred

    def _given(self, turn: Turn) -> dict[str, Any]:
        return {
            name: _adapter(kind).validate_json(pydantic_core.to_json(turn.given[name]))
            for name, kind in self.blueprint.given.items()
            if name in turn.given
        }

    async def _call_team(self, agent: Agent, assignment: Assignment, arguments: Mapping[str, Any]) -> Any:
        """Run a team's graph inside this node; LangGraph keeps its checkpoints in a namespace of their own."""
        graph = self.blueprint.teams[agent.name]
        scope = self.call.child(assignment.task.id, assignment.idempotency_key)
        config: RunnableConfig = {
            **self.config,
            "configurable": {**self.config.get("configurable", {}), CALL: scope},
        }
        given = pydantic_core.to_jsonable_python(arguments)
        state = await graph.ainvoke({"request": assignment.request, "given": given}, config)
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
        saver = saver_of(self.config) if self.call.persistent else None
        stored = await saver.aget_tuple(self._place()) if saver else None
        if stored is None:
            raise WorkflowError("A superstep was resumed whose checkpoint is not stored.")
        values = stored.checkpoint["channel_values"]
        roster = self.blueprint.roster
        results: dict[str, Result] = {}
        questions: dict[str, Sequence[Any]] = {}
        notes: list[Mapping[str, Any]] = []
        for execution, channel, value in stored.pending_writes or ():
            if channel == "results":
                results.update({task: decode_result(raw, roster) for task, raw in value.items()})
            elif channel == INTERRUPT:
                questions[execution] = value
            elif channel == JOURNAL:
                notes.append(value)
        earlier = cast("dict[str, Any]", values.get("results") or {})
        turn = Turn(
            number=values["turn"],
            request=values["request"],
            messages=values.get("messages") or (),
            plan=Plan.model_validate(values["plan"]),
            results={task: decode_result(raw, roster) for task, raw in earlier.items()},
            given=values.get("given") or {},
        )
        self.emit(PlanReady, {"plan": turn.plan, "finished": {**turn.results, **results}})
        return Stored(turn=turn, results=results, questions=questions, notes=notes)

    async def _committed(self, needs: Sequence[str]) -> None:
        """Return when the results of `needs` are stored. LangGraph does not tell, so look, less and less often."""
        saver, pause = saver_of(self.config), 0.002
        while saver is not None:
            stored = await saver.aget_tuple(self._place())
            writes = stored.pending_writes or () if stored else ()
            done = {task for _, channel, value in writes if channel == "results" for task in value}
            if done.issuperset(needs):
                return
            await asyncio.sleep(pause)
            pause = min(0.1, pause * 2)

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
