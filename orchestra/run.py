"""A run that goes on in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from datetime import datetime
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl
from langgraph.types import Command, Interrupt

from orchestra.clinic import everyone
from orchestra.errors import RequestError
from orchestra.events import Event, TokensArrived
from orchestra.questions import Question, question_of
from orchestra.shown import Shown, drawing
from orchestra.snapshots import Outcome, RunState, state_of
from orchestra.standing import AgentNote, Standing, standing_of
from orchestra.tasks import Result, aborted, now
from orchestra.timers import due_of, is_timer, overdue


def known(workflow: Any) -> tuple[dict[str, AgentNote], dict[str, float]]:
    """What is known in this process of a workflow's agents: how they are, and how many seconds they usually need."""
    agents = everyone(workflow)
    notes = {name: AgentNote(condition=str(a.health.condition), reasons=a.health.reasons) for name, a in agents.items()}
    typical = {name: seconds for name, a in agents.items() if (seconds := a.health.typical) is not None}
    return notes, typical


class Run(Shown):
    """One execution on a thread. Await it for its `Outcome`; iterate `events()`, or await `watch()`, to see it go."""

    def __init__(
        self,
        graph: Any,
        given: Any,
        config: RunnableConfig,
        on_end: Callable[[Run], Any],
        go_on: Callable[[str, Any, str], Awaitable[Run]] | None = None,
    ) -> None:
        self._go_on = go_on
        self._workflow = graph.workflow
        self.thread_id: str = config.get("configurable", {})["thread_id"]
        self._control = RunControl()
        self._events: list[Event] = []
        self._news = asyncio.Event()
        self._asked: tuple[Question, ...] = ()
        self._task = asyncio.create_task(self._drive(graph, given, config), name=f"run {self.thread_id}")
        # Whoever watches wakes up at the end too, whichever way it came.
        self._task.add_done_callback(lambda _: self._news.set())
        self._task.add_done_callback(lambda _: on_end(self))

    def __await__(self) -> Generator[Any, None, Outcome]:
        """Wait for the run to end and return how. Cancelling the waiter does not cancel the run."""
        return asyncio.shield(self._task).__await__()

    @property
    def ended(self) -> bool:
        """Whether it is over, for now."""
        return self._task.done()

    async def over(self, *, within: float) -> bool:
        """Wait for the end, but not longer than `within` seconds; return whether it is there. Raises nothing."""
        await asyncio.wait([self._task], timeout=within)
        return self.ended

    @property
    def seen(self) -> Sequence[Event]:
        """What has happened so far."""
        return tuple(self._events)

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

    async def watch(self) -> Outcome:
        """Show the run while it goes on, in the notebook's cell or the terminal, and return how it ended.

        In a notebook the picture is renewed in place, and the saved notebook keeps the last one only.
        """
        return await drawing("live").watch(self)

    async def answer(self, answer: Any, question: str = "") -> Run:
        """Answer an open question, once this run has done what does not depend on it, and go on.

        Args:
            answer: The answer; of a decision its word, such as "approve", or `{"do": "reject", "why": "…"}`.
            question: The question's id, the beginning of it, or the task's place; needed only if several are open.

        Returns:
            The run that goes on. This one has ended.

        Raises:
            RequestError: It is no answer to the question, there is no such question, or several are open.
        """
        await asyncio.wait([self._task])
        if self._go_on is None:
            raise RequestError("This run is played back: it has the answers that were given then.")
        return await self._go_on(self.thread_id, answer, question)

    def status(self, *, at: datetime | None = None) -> Standing:
        """How every agent and task stands, how far the run has come, and how long it may still take."""
        notes, typical = known(self._workflow)
        questions = [question.text for question in self._asked]
        return standing_of(
            self._events, agents=notes, typical=typical, at=at, questions=questions, over=self._task.done()
        )

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
        watching = asyncio.create_task(self._planned())
        await asyncio.wait([watching, self._task], return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        if self._task.done() and not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error

    async def _planned(self) -> None:
        async for event in self.events():
            if not isinstance(event, TokensArrived):  # the planner's
                return

    async def _drive(self, graph: Any, given: Any, config: RunnableConfig) -> Outcome:
        """Run until nothing is left to do, or what is left waits for a person or a later date."""
        given_up = False
        while True:
            values, asked, drained = await self._stream(graph, given, config)
            results = cast("dict[str, Result]", values.get("results") or {})
            late = {one.id: answer for one in asked for answer in overdue(one, now())}
            # After an abort no task's question is waited for: once more, and what has not ended is skipped.
            skipping = bool(asked) and not given_up and bool(aborted(results.values()))
            if drained or not (late or skipping):
                break
            given_up = given_up or skipping
            given, config = Command(resume=late) if late else None, _at_head(config)
        self._asked = tuple(question_of(one) for one in asked if not is_timer(one))
        state = state_of(values.get("plan"), results, answered=values.get("answer") is not None, asking=bool(asked))
        return Outcome(
            thread_id=self.thread_id,
            state=RunState.STOPPED if drained else state,
            answer=values.get("answer"),
            results=results,
            plan=values.get("plan"),
            questions=self._asked,
            due=min((due for one in asked if (due := due_of(one)) is not None), default=None),
        )

    async def _stream(
        self, graph: Any, given: Any, config: RunnableConfig
    ) -> tuple[dict[str, Any], list[Interrupt[Any]], bool]:
        """Run once; return the state, what was asked, and whether the run was drained."""
        values: dict[str, Any] = {}
        asked: list[Interrupt[Any]] = []
        modes = ["custom", "values", "updates"]
        stream = graph.astream(given, config, stream_mode=modes, subgraphs=True, control=self._control)
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
                        asked.extend(chunk["__interrupt__"])
        except GraphDrained:
            return (await graph.aget_state(_at_head(config))).values, asked, True
        return values, asked, False

    def __repr__(self) -> str:
        """Show the thread and whether it goes on."""
        return f"Run({self.thread_id!r}, {'ended' if self.ended else 'running'})"


def _at_head(config: RunnableConfig) -> RunnableConfig:
    """The config without the checkpoint that a branch started from: the run has come further since."""
    place = {key: value for key, value in config.get("configurable", {}).items() if key != "checkpoint_id"}
    return {**config, "configurable": place}
