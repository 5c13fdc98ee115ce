"""Runs: what a user holds in the hand. Start one, talk to it again, go back, branch it, list what there is."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import INTERRUPT
from langgraph.types import Command

from checkpoints import SQLAlchemySaver
from orchestra.branching import FORKED, Branch
from orchestra.errors import OrchestraError, RequestError, ThreadError, WorkflowError
from orchestra.looking import Looking
from orchestra.past import Past, info_of, lineage, parent_id
from orchestra.questions import by_name, pick
from orchestra.redo import kept_results
from orchestra.references import workflow_of
from orchestra.replays import Replayed, replay
from orchestra.run import Run
from orchestra.snapshots import Moment, Outcome, RunInfo, RunState
from orchestra.tasks import now
from orchestra.timers import in_utc, overdue
from orchestra.workflow import Workflow

_REST = "again what was not finished"
"""What a branch does where nothing else is said."""

_TICKED_AT_ONCE = 16
"""Runs that one tick continues at the same time."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """What became of a thread whose time had come.

    Attributes:
        thread_id: The thread.
        outcome: How its run ended, for now; `None` if it could not be continued.
        error: Why not.
    """

    thread_id: str
    outcome: Outcome | None = None
    error: OrchestraError | None = None


class Orchestra(Looking):
    """Saver, store and runs in one handle.

    Args:
        database: A SQLAlchemy URL, such as `sqlite:///runs.db`, or a saver.

    Attributes:
        saver: LangGraph's checkpointer: what runs have done.
        store: LangGraph's store in the same database: what is remembered of users.

    Use it as an async context manager, so that everything is committed and closed in the end::

        async with Orchestra("sqlite:///runs.db") as orchestra:
            run = await orchestra.start(flow, "Compare these two products.")
            outcome = await run
    """

    def __init__(self, database: str | SQLAlchemySaver = "sqlite:///runs.db") -> None:
        super().__init__(database)

    async def __aenter__(self) -> Self:
        """Open for use."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As `aclose`."""
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel what still runs, which can be resumed, and close the saver unless it was given."""
        for run in list(self._running):
            await run.cancel()
        if self._owns:
            await self.saver.aclose()

    # Going on

    async def start(
        self,
        workflow: Workflow,
        request: str | Sequence[Any],
        *,
        thread_id: str | None = None,
        user: str | None = None,
        supersede: bool = False,
        record: bool = False,
        reference: str | None = None,
    ) -> Run:
        """Start a turn and return once the request is stored and its plan made.

        Args:
            workflow: What is to run.
            request: What the user asks for; or LangChain messages, the last human one of which is the request.
            thread_id: Where to store it; a new name is made if there is none. On a thread with earlier turns this
                is the next one.
            user: Whose preferences and facts agents see and write; empty for nobody's. On a thread with earlier turns
                it is theirs by default.
            supersede: Drop the questions that are open on this thread; the history records them.
            record: Keep what models and tools say, with what they were asked, for `replay`.
            reference: Where the workflow lives, if that can't be told from the object.

        Raises:
            RequestError: The request can't be worked on.
            ThreadBusy: Another run is on this thread.
            ThreadWaiting: A question is open on this thread.
            WorkflowError: The workflow, or the plan made for this request, does not add up.
        """
        given = {"request": request} if isinstance(request, str) else {"messages": [*request]}
        if user is None and thread_id is not None:
            heads = await self.saver.aheads(thread_id=thread_id, channels=())
            user = info_of(heads[0], busy=False).user if heads else None
        config = _config(thread_id or f"run-{uuid.uuid4().hex[:8]}", user or "", reference)
        config["configurable"] = {**config.get("configurable", {}), "supersede": supersede, "record": record}
        return await self._run(self._compile(workflow), given, config)

    async def resume(
        self, thread_id: str, *, workflow: Workflow | None = None, answers: Mapping[str, Any] | None = None
    ) -> Run:
        """Go on with what a crash, a drain or a question left unfinished. Finished tasks don't run again.

        Timers and deadlines that are due are applied.

        Args:
            thread_id: The thread.
            workflow: Its workflow; by default the one that is recorded with the thread is imported.
            answers: Answers to open questions, by question id.

        Raises:
            RequestError: An answer is to a question that is not open.
            ThreadNotFound: Nothing is stored under this name.
            WorkflowNotFound: The recorded workflow can't be imported; pass it.
            ThreadBusy: Another run is on this thread.
        """
        head = await self._newest(thread_id)
        info = info_of(head, busy=False)
        given = _late(info, now())
        if strange := (answers or {}).keys() - {one.id for one in (*info.questions, *info.timers)}:
            there = ", ".join(one.id for one in info.questions) or "none"
            raise RequestError(f"{min(strange)!r} is no open question of thread {thread_id!r}; open: {there}.")
        given |= answers or {}
        resume = Command(resume=_as_resume(head, given)) if given else None
        config = _config(thread_id, info.user)
        config["configurable"] = {**config.get("configurable", {}), "record": info.recorded}
        return await self._run(self._compile(workflow_of(info, workflow)), resume, config)

    async def answer(self, thread_id: str, answer: Any, question: str = "", *, workflow: Workflow | None = None) -> Run:
        """Answer an open question and go on; what else is open stays open.

        Args:
            thread_id: The thread.
            answer: The answer; of a decision its word, such as "approve", or `{"do": "reject", "why": "…"}`.
            question: The question's id, the beginning of it, or the task's place; needed only if several are open.
            workflow: Its workflow; by default the one that is recorded with the thread is imported.

        Raises:
            RequestError: It is no answer to the question, there is no such question, or several are open.
            ThreadNotFound: Nothing is stored under this name.
            WorkflowNotFound: The recorded workflow can't be imported; pass it.
            ThreadBusy: A run is on this thread.
        """
        info = await self.info(thread_id)
        asked = pick(info.questions, question, f"thread {thread_id!r}")
        return await self.resume(thread_id, workflow=workflow, answers={asked.id: asked.check(answer)})

    def _answer_to(self, workflow: Workflow) -> Callable[[str, Any, str], Awaitable[Run]]:
        return lambda thread, answer, question: self.answer(thread, answer, question, workflow=workflow)

    async def fork(
        self,
        thread_id: str,
        *,
        at: Moment | int | None = None,
        again: str | Sequence[str] = (),
        results: Mapping[str, Any] | None = None,
        request: str | None = None,
        workflow: Workflow | None = None,
    ) -> Run:
        """Go back to a moment and run on from there, on a new branch of the same thread. The old one stays as it is.

        What was settled at the moment is kept, except for what is to run again and whatever depends on it. What is
        remembered of the user is as it is now, not as it was then.

        Args:
            thread_id: The thread.
            at: A moment of its `history`, or the moment's number; by default where the thread stands now.
            again: Tasks to run again. One inside a team, `team/task`, runs the whole team again.
            results: Outputs to put in place of what tasks produced; what depends on them runs again.
            request: Another request, in place of the turn's own; the whole turn runs again. With `at` an answered
                moment it is the next turn after that one instead.
            workflow: The thread's workflow; by default the one that is recorded with the thread is imported.

        Raises:
            RequestError: There is nothing to do differently, or a task or an output does not fit the plan.
            ThreadBusy: A run is on this thread.
            ThreadError: There is no such moment, or it has been pruned.
            ThreadNotFound: Nothing is stored under this name.
            WorkflowNotFound: The recorded workflow can't be imported; pass it.
        """
        head = await self._head(thread_id)
        workflow = workflow_of(head, workflow)
        graph = self._compile(workflow)
        past = Past(thread_id, await self._steps(graph.checkpointer.asteps(thread_id), thread_id))
        moment = past.pick(at)
        config = _config(thread_id, head.user)
        redone = [again] if isinstance(again, str) else [*again]
        if request is not None:
            if redone or results:
                raise RequestError("Another request runs the whole turn: it goes without again= and results=.")
            base = moment.checkpoint_id if at is not None and moment.what == "answered" else past.before(moment)
            place = {**config.get("configurable", {}), "checkpoint_ns": "", "checkpoint_id": base}
            config |= {"configurable": place, "metadata": {FORKED: base}}
            return await self._run(graph, {"request": request}, config)
        plan = past.plan(moment)
        kept = None if plan is None else kept_results(workflow, plan, past.results(moment), redone, results or {})
        if plan is None and (redone or results):
            raise RequestError(f"At moment {moment.number} there is no plan yet, so there is nothing to run again.")
        if kept is not None and plan is not None and len(kept) == len(plan.tasks) and not results:
            raise RequestError(
                f"At moment {moment.number} every task is finished. Say what is to be different: again= (--again) a "
                "task, results= (--set) of a task, or another request."
            )
        base = moment.checkpoint_id if plan is None else past.planned_at(moment)
        grown = None if kept is None else past.plan_with(moment, kept)
        if kept is not None and grown is not None:
            kept = {task: raw for task, raw in kept.items() if task in grown.by_id}
        did = ", ".join([f"again {task}" for task in redone] + [f"{task} put in" for task in results or {}]) or _REST
        changed = grown.model_dump(mode="json", exclude_defaults=True) if grown is not None else None
        branch = Branch(base=base, results=kept, updates=past.updates(moment, kept or {}), plan=changed, note=did)
        return await self._run(graph, branch, config)

    async def replay(self, thread_id: str, *, workflow: Workflow | None = None) -> Replayed:
        """Play the newest turn of a thread back, if it was recorded: the same run, without a call of a model or tool.

        Agents' own code runs again, on a scratch database; those with side effects don't, their results are taken as
        they were, without updates of the state beside them. A run that was cut off is played back as far as it came,
        one in which a person was asked up to the question. What is remembered of the user is as it is now.

        Args:
            thread_id: The thread.
            workflow: Its workflow; by default the one that is recorded with the thread is imported.

        Raises:
            ReplayDiverged: It asks something else than it did then; the message names the first such call.
            RequestError: It was not recorded.
            ThreadNotFound: Nothing is stored under this name.
            WorkflowNotFound: The recorded workflow can't be imported; pass it.
        """
        info = await self.info(thread_id)
        steps = await self._steps(self.saver.asteps(thread_id), thread_id)
        turn = lineage(steps)
        base = await self.saver.aget_tuple(
            {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": parent_id(turn[-1])}}
        )
        if base is None:
            raise ThreadError(f"What was before turn {info.turn} of thread {thread_id!r} has been pruned.")
        return await replay(info, turn[0], base, workflow_of(info, workflow), self.store)

    async def tick(self, *, at: datetime | None = None, workflow: Workflow | None = None) -> list[Ticked]:
        """Continue every waiting run whose timer or deadline has passed, and return when these runs have ended.

        Args:
            at: The moment to go by; now by default. Without a timezone it is in UTC.
            workflow: The workflow of those threads whose own can't be imported; others are not touched.
        """
        at = in_utc(at) if at is not None else now()
        due = [info for info in await self.runs(state=RunState.WAITING) if info.due is not None and info.due <= at]
        places = asyncio.Semaphore(_TICKED_AT_ONCE)

        async def go_on(info: RunInfo) -> Ticked:
            late = _late(info, at)
            async with places:
                try:
                    run = await self.resume(info.thread_id, workflow=workflow, answers=late)
                    return Ticked(info.thread_id, outcome=await _end_of(run))
                except OrchestraError as error:  # told, not raised: the others go on
                    return Ticked(info.thread_id, error=error)

        named = [info for info in due if workflow is None or info.workflow == workflow.name]
        return [*await asyncio.gather(*(go_on(info) for info in named))]

    async def cancel(self, thread_id: str) -> bool:
        """Cancel the run on a thread, in this process or another; what is finished stays, the rest can be resumed.

        A run of another process loses its lease: it can store nothing more from now on, and its agents are cancelled
        when it notices, within five seconds.

        Returns:
            Whether there was one.

        Raises:
            ThreadNotFound: Nothing is stored under this name.
        """
        mine = [run for run in self._running if run.thread_id == thread_id]
        for run in mine:
            await run.cancel()
        await self._head(thread_id)
        if mine or (lease := await self.saver.alease_of(thread_id)) is None:
            return bool(mine)
        await self.saver.arelease_lease(thread_id, owner=lease.owner)
        return True

    async def _run(self, graph: Any, given: Any, config: RunnableConfig) -> Run:
        run = Run(graph, given, config, on_end=self._running.discard, go_on=self._answer_to(graph.workflow))
        self._running.add(run)
        try:
            await run.accepted()
        except asyncio.CancelledError:  # whoever started it is gone, and nobody else knows of it
            await run.cancel()
            raise
        return run

    def _compile(self, workflow: Workflow) -> Any:
        if not isinstance(workflow, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance] -- users' code is not checked
            raise WorkflowError(
                f"{workflow!r} is not a Workflow; pass the workflow itself, not a graph or a reference."
            )
        return workflow.compile(checkpointer=self.saver, store=self.store)


async def _end_of(run: Run) -> Outcome:
    """Wait for a run that somebody else may cancel.

    Raises:
        ThreadError: Somebody did.
    """
    try:
        return await run
    except asyncio.CancelledError as error:
        if not run.ended:  # it is the waiting that was cancelled
            raise
        raise ThreadError("its run was cancelled") from error


def _config(thread_id: str, user: str, reference: str | None = None) -> RunnableConfig:
    place: dict[str, Any] = {"thread_id": thread_id}
    config: RunnableConfig = {"configurable": place | {"user_id": user} if user else place}
    if reference:
        config["metadata"] = {"workflow_ref": reference}
    return config


def _late(info: RunInfo, at: datetime) -> dict[str, Any]:
    """What the passing of time has answered."""
    over = [(one.id, answer) for one in info.timers for answer in overdue(one, at)]
    return dict([*over, *((one.id, answer) for one in info.questions for answer in one.late(at))])


def _as_resume(head: CheckpointTuple, answers: Mapping[str, Any]) -> Any:
    """The answers as LangGraph wants them. It stores one that names no question, which then survives a crash."""
    writes = head.pending_writes or ()
    done = {execution for execution, channel, _ in writes if channel == "results"}
    asked = [
        one for execution, channel, value in writes if channel == INTERRUPT and execution not in done for one in value
    ]
    answer = answers.get(asked[0].id) if len(asked) == len(answers) == 1 else None
    return dict(answers) if answer is None or by_name(asked[0], answer) else answer
