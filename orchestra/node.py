"""What one node execution works with: its place in the saver, its journal, its scope, and the way to a person."""

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pydantic_core
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import ERROR
from langgraph.runtime import ExecutionInfo, Runtime
from langgraph.types import interrupt

from orchestra.agents import Agent
from orchestra.assignments import Assignment
from orchestra.attempts import Job
from orchestra.blueprint import TEAM, Blueprint, saver_of, user_of
from orchestra.branching import JOURNAL, executions
from orchestra.claims import Held, Resolution
from orchestra.context import context, turn_id
from orchestra.dataflow import Call, Deferred, Stored, Turn, Updates
from orchestra.errors import (
    BudgetExceeded,
    MalformedOutput,
    PersonRefused,
    TaskUnsuccessful,
    UnstorableOutput,
    WorkflowError,
)
from orchestra.events import Event, HealthChanged, PlanReady
from orchestra.metering import Scope
from orchestra.outputs import OwnCopy, own_copy
from orchestra.questions import Question, ask_plainly, id_of, put
from orchestra.state import decode_result
from orchestra.tasks import Attempt, Delegate, Plan, Result, Status, Task, Usage, aborted, failure, grown, now
from orchestra.vitals import Change

_NO = ("reject", "stop", "skip", "abort")
"""What persons decide that ends a task."""

_PATIENCE = 60.0
"""Seconds that an agent with side effects waits for its inputs to be stored, which takes milliseconds."""


@dataclass(slots=True)
class Node:
    """What one node execution works with.

    `handed` has the results of the work that was handed on, `notes` all journal entries, for a superstep after a drain.
    `named` has the ids of that work. `skipped` counts the answers of LangGraph's `interrupt` that were passed over.
    """

    blueprint: Blueprint
    call: Call
    config: RunnableConfig
    runtime: Runtime[Any]
    info: ExecutionInfo
    handed: dict[str, Result] = field(default_factory=dict[str, Result])
    notes: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    skipped: int = 0
    named: set[str] = field(default_factory=set[str])

    def emit(self, kind: type[Event], what: Mapping[str, Any]) -> None:
        """Tell that something has happened."""
        self.runtime.stream_writer(kind(path=self.call.path, **what))

    async def stored_notes(self) -> list[Mapping[str, Any]]:
        """The journal entries of this superstep."""
        if saver_of(self.config) is None or not self.call.persistent:
            return []
        stored = await self._stored_step()
        return [value for _, channel, value in stored.pending_writes or () if channel == JOURNAL]

    def tell_health(self, agent: Agent, change: Change) -> None:
        """Tell that an agent's condition has changed."""
        self.emit(HealthChanged, {"agent": agent.name, "change": change})

    async def decide(
        self, task: str, turn: str, number: int, question: Question, check: Callable[[Any], None] = lambda _: None
    ) -> Any:
        """Ask a person, or return what was answered. The answer lasts once it is here.

        Args:
            task: The task that it is about.
            turn: Tells the turn apart from all others.
            number: Tells this question about the task apart from others of its kind.
            question: What is asked.
            check: Raises for an answer that can't be used; the question is then asked again, and says why.
        """
        journal, event = Notes(self, task), f"decided {question.kind}"
        if (stored := journal.kept(event, number)) is not None:
            return stored["answer"]
        id_ = id_of(self.call.key, turn, task, question.kind, str(number))
        question = question.model_copy(update={"id": id_, "path": self.call.path})
        if self.call.foreign:  # inside a graph that is not ours, LangGraph alone knows what was answered
            return ask_plainly(question)
        if id_ not in (answers := self.call.answers or {}):
            put(question)
        answer = answers[id_]
        try:
            check(answer)
        except MalformedOutput as error:
            put(question.model_copy(update={"known": {**question.known, "refused": answer, "why": str(error)}}))
        await journal.keep(event, number, {"answer": answer, "question": id_})
        if self.call.passed is not None:
            await self.call.passed(id_)
        return answer

    async def _passed(self, task: str, question: str) -> None:
        """Note that a question of a team is answered, for whoever looks at it from here and from above."""
        await self.note({"event": "decided below", "task": task, "question": question})
        if self.call.passed is not None:
            await self.call.passed(question)

    def job(
        self,
        turn: Turn,
        task: Task,
        *,
        candidates: Sequence[Agent],
        available: Mapping[str, Any],
        inputs: Mapping[str, Any],
        key: str,
        **more: Any,
    ) -> Job:
        """All that is needed to have agents do a task of this node.

        Args:
            turn: What the turn's tasks share.
            task: The task.
            candidates: Who may do it, best first.
            available: The output types of its inputs, by task id.
            inputs: The inputs, by task id; copies of the agent's own.
            key: The idempotency key, within this call and turn.
            more: As of `Job`, and of `Assignment` under "given".
        """
        call, blueprint = self.call, self.blueprint
        assignment = Assignment(
            task=task,
            request=turn.request,
            inputs=inputs,
            messages=OwnCopy(turn.messages),
            history=OwnCopy(turn.history),
            preferences={memo.key: own_copy(memo.value) for memo in turn.memory if memo.kind == "preference"},
            facts={memo.key: own_copy(memo.value) for memo in turn.memory if memo.kind == "fact"},
            user=self.user(),
            idempotency_key=f"{call.key}/{turn.id}/{key}",
            **more.pop("given", {}),
        )
        return Job(
            task=task,
            candidates=candidates,
            available=available,
            assignment=assignment,
            config=self.config,
            emit=self.emit,
            ready=self.ready,
            left=call.funds.left,
            call_team=self.call_team,
            scope=functools.partial(self.scope, f"{call.key}/{turn.id}/"),
            others=blueprint.others,
            hand_on=more.pop("hand_on", _nobody),
            settle=more.pop("settle", _nothing),
            decide=lambda job, number, question, check: self.decide(job.task.id, turn.id, number, question, check),
            may_ask=lambda: not call.halt.why and not (blueprint.people.budget and call.funds.own_used_up),
            abort=functools.partial(setattr, call.halt, "why"),
            stand_ins=blueprint.stand_ins,
            tell_health=self.tell_health,
            journal=Notes(self, task.id),
            check_updates=functools.partial(self.check_updates, turn.state),
            hurried=call.tape is not None and call.tape.replaying,
            **more,
        )

    def check_updates(self, state: Mapping[str, Any], updates: Updates) -> None:
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

    def ready(self) -> None:
        """See that another attempt may begin; raise to leave it."""
        if self.call.draining():
            raise Deferred
        if (late := self.call.funds.late) is not None:
            raise BudgetExceeded(late)

    async def call_team(
        self, agent: Agent, assignment: Assignment, arguments: Mapping[str, Any], attempt: Scope
    ) -> Any:
        """Run a team's graph inside this node; LangGraph keeps its checkpoints in a namespace of their own."""
        graph = self.blueprint.teams[agent.name]
        scope = self.call.child(assignment.task.id, assignment.idempotency_key)
        scope.around = self.call.funds.team(agent)
        scope.passed = functools.partial(self._passed, assignment.task.id)
        config: RunnableConfig = {
            **self.config,
            "configurable": {**self._numbered(agent, assignment), TEAM: scope},
        }
        given = pydantic_core.to_jsonable_python({n: value for n, value in arguments.items() if value is not None})
        try:
            state = await graph.ainvoke({"request": assignment.request, "given": given}, config)
        finally:
            attempt.usage += scope.funds.used
        results = cast("Mapping[str, Result]", state["results"])
        sinks = [results[task.id] for task in cast("Plan", state["plan"]).sinks]
        if not any(sink.ok for sink in sinks):
            failed = [each for each in results.values() if each.status is Status.FAILED] or sinks
            why = "; ".join(map(failure, failed))
            if any(decision.do in _NO for each in failed for decision in each.decisions[-1:]):
                raise PersonRefused(why)
            raise BudgetExceeded(why) if scope.funds.used_up else TaskUnsuccessful(why)
        declared = graph.workflow.planner is None and len(sinks) == 1
        return sinks[0].output if declared else state["answer"]

    def _numbered(self, agent: Agent, assignment: Assignment) -> dict[str, Any]:
        """What a team's call is configured with.

        LangGraph keeps the graphs that one node calls apart by numbers in the order of the calls, which is another one
        when the node runs again and a team is open. Each gets a number that stays, and another when a person has it
        try again.
        """
        configurable, key = self.config.get("configurable", {}), assignment.idempotency_key
        own = self.info.checkpoint_ns.rpartition("|")[2].partition(":")[0] == agent.name
        again = sum(note["event"] == "decided unable" and note["task"] == assignment.task.id for note in self.notes)
        first = own and not again and key.rpartition("/")[2] == assignment.task.id
        number = 0 if first else int(id_of(agent.name, key, str(again))[:8], 16)
        return {
            name: replace(value, subgraph_counter=lambda: number) if hasattr(value, "subgraph_counter") else value
            for name, value in configurable.items()
        }

    def scope(self, root: str, assignment: Assignment, agent: Agent, number: int) -> Scope:
        """What the calls of an attempt belong to. Its key is the same when the turn is played back."""
        call, place = self.call, assignment.idempotency_key.removeprefix(root)
        return Scope(
            task=assignment.task.id,
            agent=agent.name,
            key="/".join((*call.path, place, agent.name, str(number))),
            path=call.path,
            account=call.funds.of(agent),
            purse=call.funds,
            terms=call.funds.terms,
            emit=self.emit,
            tape=call.tape,
        )

    def user(self) -> str:
        """Whose preferences the run uses, if anything can be remembered at all."""
        return user_of(self.config) if self.runtime.store is not None else ""

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
            **await context(self.blueprint, values, self.runtime.store, self.user()),
            plan=Plan.model_validate(values["plan"]),
            results={task: decode_result(raw, roster) for task, raw in earlier.items()},
            given=values.get("given") or {},
            halfway=values.get("halfway") or {},
        )
        self.call.tell_by(self.runtime.stream_writer)
        self.call.funds.extend(turn.plan.raised)
        self.call.halt.why = self.call.halt.why or aborted((*turn.results.values(), *results.values()))
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
            resumed={each.id: each.resumed for each in done},
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

    async def committed(self, needs: Sequence[str]) -> None:
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
class Notes:
    """Notes attempts of one task beside LangGraph's own writes, so that they share their fate."""

    node: Node
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

    async def skip_answers(self, event: str, number: int) -> None:
        name = f"skipped {event}"
        if (stored := self.kept(name, number)) is not None:
            count = stored["count"]
        else:
            count = self.node.call.resumed(self.node.info.task_id)
            await self.keep(name, number, {"count": count})
        for _ in range(count - self.node.skipped):
            interrupt(None)  # it has this answer already, and returns it
        self.node.skipped = max(count, self.node.skipped)

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


async def _nothing(_: Sequence[Held]) -> Sequence[Resolution]:
    """What is settled of claims where they are not compared."""
    return ()


async def _nobody(job: Job, asker: Agent, wanted: Delegate) -> tuple[Task, Result]:
    """The answer to an agent that hands on work where there is no plan to add it to."""
    task, moment = Task(id=f"{job.task.id}+1", instruction=wanted.instruction), now()
    error = f"{asker.name} can't hand on work here"
    return task, Result(task=task.id, status=Status.FAILED, error=error, started=moment, ended=moment)
