"""Runs: what a user holds in the hand. Start one, watch it, await it, resume it, list what there is.

What a run is and how it stands is read off the checkpoints; nothing is kept twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import INTERRUPT
from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl
from langgraph.types import Command, Interrupt

from checkpoints import SQLAlchemySaver
from orchestra.errors import ThreadNotFound, WorkflowError, WorkflowNotFound
from orchestra.events import Event
from orchestra.references import load
from orchestra.snapshots import Outcome, RunInfo, RunState, state_of
from orchestra.state import is_planned
from orchestra.tasks import Plan, Result
from orchestra.workflow import Workflow


class Run:
    """One execution on a thread. Await it for its `Outcome`; iterate `events()` to watch."""

    def __init__(self, graph: Any, given: Any, config: RunnableConfig, on_end: Callable[[Run], Any]) -> None:
        self.thread_id: str = config.get("configurable", {})["thread_id"]
        self._control = RunControl()
        self._events: list[Event] = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._drive(graph, given, config), name=f"run {self.thread_id}")
        # Whoever watches wakes up at the end too, whichever way it came.
        self._task.add_done_callback(lambda _: self._news.set())
        self._task.add_done_callback(lambda _: on_end(self))

    def __await__(self) -> Generator[Any, None, Outcome]:
        """Wait for the run to end and return how. Cancelling the waiter does not cancel the run."""
        return asyncio.shield(self._task).__await__()

    async def events(self) -> AsyncIterator[Event]:
        """Yield what has happened and what happens, from the run's start to its end."""
        seen = 0
        while True:
            while seen < len(self._events):
                yield self._events[seen]
                seen += 1
            if self._task.done():
                return
            self._news.clear()
            await self._news.wait()

    def drain(self) -> None:
        """Let agents in flight finish and start nothing more; the rest is left for `resume`."""
        self._control.request_drain()

    async def cancel(self) -> None:
        """Cancel the agents in flight and wait until they are gone; what is finished stays, the rest can be resumed."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([self._task])

    async def accepted(self) -> None:
        """Return when the request is stored and the plan made, or raise what kept it from that."""
        watching = asyncio.create_task(anext(self.events(), None))
        await asyncio.wait([watching, self._task], return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        if self._task.done() and not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error

    async def _drive(self, graph: Any, given: Any, config: RunnableConfig) -> Outcome:
        values: dict[str, Any] = {}
        questions: tuple[Interrupt[Any], ...] = ()
        drained = False
        stream = graph.astream(
            given, config, stream_mode=["custom", "values", "updates"], subgraphs=True, control=self._control
        )
        try:
            async with contextlib.aclosing(stream):
                async for namespace, mode, chunk in stream:
                    if mode == "custom":
                        if isinstance(chunk, Event):
                            self._events.append(chunk)
                            self._news.set()
                    elif namespace:
                        continue
                    elif mode == "values":
                        values = chunk
                    elif "__interrupt__" in chunk:
                        questions += tuple(chunk["__interrupt__"])
        except GraphDrained:
            drained = True
            values = (await graph.aget_state(config)).values
        results = cast("dict[str, Result]", values.get("results") or {})
        state = state_of(values.get("plan"), results, answered=values.get("answer") is not None, asking=bool(questions))
        return Outcome(
            thread_id=self.thread_id,
            state=RunState.STOPPED if drained else state,
            answer=values.get("answer"),
            results=results,
            questions=questions,
        )


def _as_resume(info: RunInfo, answers: Mapping[str, Any]) -> Any:
    """The answers as LangGraph wants them. It stores one that names no question, which then survives a crash."""
    only = [answers[question.id] for question in info.questions if question.id in answers]
    return only[0] if len(info.questions) == len(answers) == len(only) == 1 else dict(answers)


class Orchestra:
    """Saver and runs in one handle.

    Args:
        database: A SQLAlchemy URL, such as `sqlite:///runs.db`, or a saver.

    Use it as an async context manager, so that everything is committed and closed in the end::

        async with Orchestra("sqlite:///runs.db") as orchestra:
            run = await orchestra.start(flow, "Compare these two products.")
            outcome = await run
    """

    def __init__(self, database: str | SQLAlchemySaver = "sqlite:///runs.db") -> None:
        self._owns = not isinstance(database, SQLAlchemySaver)
        self.saver = database if isinstance(database, SQLAlchemySaver) else SQLAlchemySaver(database)
        self._running: set[Run] = set()

    async def __aenter__(self) -> Self:
        """Open for use."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel what still runs, which can be resumed, and close the saver unless it was given."""
        for run in list(self._running):
            await run.cancel()
        if self._owns:
            await self.saver.aclose()

    async def start(
        self, workflow: Workflow, request: str, *, thread_id: str | None = None, reference: str | None = None
    ) -> Run:
        """Start a turn and return once the request is stored.

        Args:
            workflow: What is to run.
            request: What the user asks for.
            thread_id: Where to store it; a new name is made if there is none. On a thread with earlier turns this
                is the next one.
            reference: Where the workflow lives, if that can't be told from the object.

        Raises:
            RequestError: The request can't be worked on.
            ThreadBusy: Another run is on this thread.
            ThreadWaiting: A question is open on this thread.
            WorkflowError: The workflow, or the plan made for this request, does not add up.
        """
        return await self._run(workflow, {"request": request}, thread_id or f"run-{uuid.uuid4().hex[:8]}", reference)

    async def resume(
        self, thread_id: str, *, workflow: Workflow | None = None, answers: Mapping[str, Any] | None = None
    ) -> Run:
        """Go on with what a crash, a drain or a question left unfinished. Finished tasks don't run again.

        Args:
            thread_id: The thread.
            workflow: Its workflow; by default the one that is recorded with the thread is imported.
            answers: Answers to open questions, by question id.

        Raises:
            ThreadNotFound: Nothing is stored under this name.
            WorkflowNotFound: The recorded workflow can't be imported; pass it.
            ThreadBusy: Another run is on this thread.
        """
        info = await self.info(thread_id)
        if workflow is None:
            if not info.reference:
                raise WorkflowNotFound(
                    f"Where the workflow {info.workflow!r} of thread {thread_id!r} lives is not recorded: pass "
                    "workflow=, or --graph on the command line."
                )
            try:
                workflow = load(info.reference)
            except WorkflowNotFound as error:
                raise WorkflowNotFound(
                    f"The workflow of thread {thread_id!r} has moved: {error} Say where it is now: pass workflow=, or "
                    "--graph on the command line."
                ) from error
        elif workflow.name != info.workflow:
            raise WorkflowError(
                f"Thread {thread_id!r} is a run of the workflow {info.workflow!r}, not of {workflow.name!r}."
            )
        given: Any = Command(resume=_as_resume(info, answers)) if answers else None
        return await self._run(workflow, given, thread_id, None)

    async def _run(self, workflow: Workflow, given: Any, thread_id: str, reference: str | None) -> Run:
        if not isinstance(workflow, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance] -- users' code is not checked
            raise WorkflowError(
                f"{workflow!r} is not a Workflow; pass the workflow itself, not a graph or a reference."
            )
        graph = workflow.compile(checkpointer=self.saver)
        config: RunnableConfig = {"configurable": {"thread_id": thread_id}}
        if reference:
            config["metadata"] = {"workflow_ref": reference}
        run = Run(graph, given, config, on_end=self._running.discard)
        self._running.add(run)
        try:
            await run.accepted()
        except asyncio.CancelledError:  # whoever started it is gone, and nobody else knows of it
            await run.cancel()
            raise
        return run

    async def runs(self, *, limit: int | None = None) -> list[RunInfo]:
        """List the newest turn of each thread, most recently changed first."""
        busy = {lease.thread_id for lease in await self.saver.aleases()}
        return [_info(head, busy) for head in await self.saver.aheads(limit=limit)]

    async def info(self, thread_id: str) -> RunInfo:
        """Tell how the newest turn of a thread stands.

        Raises:
            ThreadNotFound: Nothing is stored under this name.
        """
        heads: Sequence[CheckpointTuple] = await self.saver.aheads(thread_id=thread_id)
        if not heads:
            raise ThreadNotFound(f"There is no thread {thread_id!r} in this database.")
        return _info(heads[0], {lease.thread_id for lease in await self.saver.aleases()})


def _info(head: CheckpointTuple, busy: set[str]) -> RunInfo:
    values = head.checkpoint["channel_values"]
    metadata = cast("dict[str, Any]", head.metadata)
    thread_id = head.config.get("configurable", {})["thread_id"]
    current = is_planned(values)
    plan = Plan.model_validate(values["plan"]) if current else None
    results: dict[str, Any] = dict(values.get("results") or {}) if current else {}
    asked: dict[str, Sequence[Interrupt[Any]]] = {}
    for execution, channel, value in head.pending_writes or ():
        if channel == "results" and current and isinstance(value, dict):
            results.update(cast("dict[str, Any]", value))
            asked.pop(execution, None)  # answered, and done since
        elif channel == INTERRUPT:
            asked[execution] = value
    questions = [question for group in asked.values() for question in group]
    answer = values.get("answer") if current else None
    state = state_of(plan, results, answered=answer is not None, asking=bool(questions))
    return RunInfo(
        thread_id=thread_id,
        workflow=metadata.get("workflow", "?"),
        reference=metadata.get("workflow_ref", ""),
        state=RunState.RUNNING if thread_id in busy else state,
        request=values.get("request") or "",
        turn=values.get("turn") or 1,
        since=datetime.fromisoformat(head.checkpoint["ts"]),
        plan=plan,
        raw=results,
        answer=answer,
        questions=tuple(questions),
    )
