"""The compiled workflow: a LangGraph graph whose calls carry the scope that Orchestra's nodes share."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import queue
import re
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Protocol, cast

from langchain_core.messages import HumanMessage, convert_to_messages
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import INTERRUPT
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import RunControl, Runtime
from langgraph.types import Command

from checkpoints import SQLAlchemySaver
from orchestra.blueprint import CALL, TEAM
from orchestra.dataflow import Call
from orchestra.errors import RequestError, ThreadWaiting, WorkflowError
from orchestra.leases import hold
from orchestra.planning import Planner
from orchestra.tasks import Plan
from orchestra.threaded import ThreadedSaver

_IS_ID = re.compile("[0-9a-f]{32}").fullmatch  # how LangGraph tells a map of answers from one that is a dict


class Declaration(Protocol):
    """What a compiled workflow asks of the `Workflow` it was made from."""

    planner: Planner | None
    check: Callable[[str], None] | None

    @property
    def reference(self) -> str:
        """Where it lives; empty if that is not known."""
        ...

    @property
    def side_effects(self) -> bool:
        """Whether an agent of it changes the world outside."""
        ...

    def make_plan(self) -> Plan:
        """Make the plan that does not depend on the request."""
        ...


class CompiledWorkflow(CompiledStateGraph[Any, Any, Any, Any]):
    """A workflow, ready to run; used like any LangGraph graph."""

    @property
    def workflow(self) -> Declaration:
        """The declaration this was compiled from."""
        return cast("Declaration", self.builder)

    async def astream(  # pyright: ignore[reportIncompatibleMethodOverride] -- options are handed on as they are
        self,
        input: Any,  # noqa: A002 -- LangGraph's name
        config: RunnableConfig | None = None,
        *,
        control: RunControl | None = None,
        **options: Any,
    ) -> AsyncIterator[Any]:
        """Run, as LangGraph's `astream` does.

        Args:
            input: `{"request": text}` or `{"messages": [...]}` for a new turn, `None` to resume, or
                `Command(resume=...)` to answer a question.
            config: LangGraph's config.
            control: Lets the caller drain the run.
            options: As of LangGraph's `astream`.

        Raises:
            RequestError: The request can't be worked on; nothing was stored.
            ThreadBusy: Another run is on this thread.
            ThreadWaiting: A question is open on this thread.
        """
        config = merge_configs(self.config, config)
        configurable: dict[str, Any] = dict(config.get("configurable") or {})
        if config.get("max_concurrency") is not None:
            raise WorkflowError(
                "max_concurrency in the config would keep finished work from being stored (LangGraph queues writes "
                "behind nodes). Limit the agents instead: Agent(max_concurrency=...)."
            )
        input = self._accept(input)  # noqa: A001
        nested = bool(configurable.get("checkpoint_ns"))
        async with contextlib.AsyncExitStack() as stack:
            graph = self
            if not nested:
                control = control or RunControl()
                saver = await self._take_thread(stack, input, configurable, options)
                if saver is not self.checkpointer:
                    graph = self.copy(update={"checkpointer": saver})
                where = {"workflow": self.name, "workflow_ref": self.workflow.reference}
                config["metadata"] = where | dict(config.get("metadata") or {})
            call = configurable.pop(TEAM, None) or _new_call(self.name, input, configurable, control)
            call.persistent = call.persistent and cast("Any", self.checkpointer) is not False
            configurable[CALL] = call
            config["configurable"] = configurable
            chunks = super(CompiledWorkflow, graph).astream(input, config, control=control, **options)
            async with aclosing(cast("Any", chunks)):
                async for chunk in chunks:
                    yield chunk

    async def _take_thread(
        self, stack: contextlib.AsyncExitStack, given: Any, configurable: dict[str, Any], options: dict[str, Any]
    ) -> Any:
        """Keep the thread to this call until it ends, and see that the call fits it; return the saver to use."""
        saver = cast("Any", self.checkpointer) if isinstance(self.checkpointer, BaseCheckpointSaver) else None
        thread = configurable.get("thread_id")
        if saver is None or thread is None:
            return cast("Any", self.checkpointer)
        if options.get("durability") == "exit" and self.workflow.side_effects:
            raise WorkflowError(
                'durability="exit" stores nothing before the end, but an agent with side effects may only start when '
                'its inputs are stored. Use "sync" or "async".'
            )
        # Four small commits a run buy the promise that a request is stored before any agent starts.
        options["durability"] = options.get("durability") or "sync"
        holding = await stack.enter_async_context(hold(saver, str(thread)))
        await _check_thread(saver, str(thread), given, configurable)
        return holding

    def stream(  # pyright: ignore[reportIncompatibleMethodOverride] -- options are handed on as they are
        self,
        input: Any,  # noqa: A002 -- LangGraph's name
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Run, as LangGraph's `stream` does; works inside a running event loop too.

        Agents wait for each other, which blocking nodes can't do without a thread each, so the run gets an event loop
        in a thread of its own.
        """
        graph, saver = self, cast("Any", self.checkpointer)
        if isinstance(saver, BaseCheckpointSaver) and not isinstance(saver, SQLAlchemySaver | InMemorySaver):
            graph = self.copy(update={"checkpointer": ThreadedSaver(cast("Any", saver))})
        chunks: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        started: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = queue.SimpleQueue()

        async def pump() -> None:
            started.put((asyncio.get_running_loop(), cast("asyncio.Task[None]", asyncio.current_task())))
            async with aclosing(cast("Any", graph.astream(input, config, **options))) as stream:
                async for chunk in stream:
                    chunks.put(("chunk", chunk))

        def target() -> None:
            try:
                asyncio.run(pump())
            except BaseException as error:  # noqa: BLE001 -- carried over to the caller
                chunks.put(("error", error))
            else:
                chunks.put(("end", None))

        thread = threading.Thread(target=contextvars.copy_context().run, args=(target,), name=f"run {self.name}")
        thread.start()
        try:
            while (item := chunks.get())[0] == "chunk":
                yield item[1]
            if item[0] == "error":
                raise item[1]
        finally:
            if thread.is_alive():  # the caller left early, or was interrupted: agents are cancelled, not abandoned
                loop, task = started.get()
                with contextlib.suppress(RuntimeError):  # the loop ended in the meantime
                    loop.call_soon_threadsafe(task.cancel)
            thread.join()

    def _accept(self, given: Any) -> Any:
        """Make a turn of what the caller passed, or refuse it."""
        if given is None or isinstance(given, Command):
            return cast("Any", given)
        if isinstance(given, str):
            given = {"request": given}
        if not isinstance(given, Mapping):
            raise RequestError(
                f'Pass {{"request": "..."}}, {{"messages": [...]}}, None or a Command, not {type(given).__name__}.'
            )
        new: dict[str, Any] = dict(cast("Mapping[str, Any]", given))
        messages = convert_to_messages(new.get("messages") or [])
        request = new.get("request") or next((m.text for m in reversed(messages) if isinstance(m, HumanMessage)), "")
        if not isinstance(request, str) or not request.strip():
            raise RequestError("The request is empty: pass its text as 'request', or messages with a human one.")
        if self.workflow.check is not None:
            self.workflow.check(request)
        if not messages:
            messages = [HumanMessage(request)]
        return {**new, "request": request, "messages": messages, "asked": uuid.uuid4().hex}

    def get_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Any:
        """Draw the graph with the information flow between agents, which LangGraph itself does not see."""
        return self._with_flow(super().get_graph(config, xray=xray))

    async def aget_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Any:
        """Draw the graph with the information flow between agents, which LangGraph itself does not see."""
        return self._with_flow(await super().aget_graph(config, xray=xray))

    def _with_flow(self, graph: Any) -> Any:
        if self.workflow.planner is None:
            for task in self.workflow.make_plan().tasks:
                for need in task.needs:
                    if need in graph.nodes and task.id in graph.nodes:
                        graph.add_edge(graph.nodes[need], graph.nodes[task.id])
        return graph

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Show text in a notebook; LangGraph's own picture would ask a service on the internet."""
        return {"text/plain": repr(self.workflow)}


def _answered(given: Any) -> frozenset[str] | None:
    """The ids of the questions that a call answers; `None` for "the only open one"."""
    resume = cast("Any", given).resume if isinstance(given, Command) else None
    if resume is None:
        return frozenset()
    by_id = isinstance(resume, dict) and all(_IS_ID(str(key)) for key in cast("dict[Any, Any]", resume))
    return frozenset(cast("dict[str, Any]", resume)) if by_id else None


def _new_call(name: str, given: Any, configurable: dict[str, Any], control: RunControl | None) -> Call:
    """The scope of a call that is not a team's: of the whole run, or of a graph that something inside it called."""
    thread, namespace = str(configurable.get("thread_id") or uuid.uuid4()), configurable.get("checkpoint_ns")
    around = configurable.get(CALL)
    if isinstance(around, Call):  # an agent called a compiled workflow: what it is told of drain and answers holds here
        return around.child(name, f"{thread}/{namespace}")
    if control is None:  # a node of a graph that is not ours: drain with it
        runtimes: list[Any] = [value for value in configurable.values() if isinstance(value, Runtime)]
        control = (runtimes[0].control if runtimes else None) or RunControl()
    return Call(
        # LangGraph's namespaces are made of execution ids, which stay the same when a run is resumed.
        key=f"{thread}/{namespace}" if namespace else thread,
        # There LangGraph does not say which question was answered either: whoever asked is run again.
        answered=None if namespace else _answered(given),
        draining=functools.partial(getattr, control, "drain_requested"),
    )


async def _check_thread(saver: BaseCheckpointSaver[Any], thread: str, given: Any, configurable: dict[str, Any]) -> None:
    """Refuse a request that would drop an open question; resume at the head, not by replaying it."""
    head = await saver.aget_tuple({"configurable": {"thread_id": thread, "checkpoint_ns": ""}})
    if head is None:
        if given is None:
            raise RequestError(f"There is nothing to resume on thread {thread!r}; pass a request.")
        return
    if isinstance(given, Mapping) and any(channel == INTERRUPT for _, channel, _ in head.pending_writes or ()):
        raise ThreadWaiting(
            f"Thread {thread!r} waits for an answer. Answer it with Command(resume=...), or use another thread."
        )
    if given is None and configurable.get("checkpoint_id") == head.checkpoint["id"]:
        # LangGraph replays from an explicit checkpoint, also from the last: finished tasks would run again.
        configurable.pop("checkpoint_id")
