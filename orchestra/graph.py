"""The compiled workflow: a LangGraph graph whose calls carry the scope that Orchestra's nodes share."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import json
import queue
import re
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol, cast

import pydantic_core
from langchain_core.messages import HumanMessage, convert_to_messages
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import RESUME
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import RunControl, Runtime
from langgraph.types import Command, Interrupt

from checkpoints import SQLAlchemySaver
from orchestra.agents import Agent
from orchestra.blueprint import CALL, TEAM
from orchestra.branching import NOBODY, Branch, arrived, executions, settle
from orchestra.budgets import Budget, ModelTerms
from orchestra.clinic import Clinic
from orchestra.dataflow import Call
from orchestra.errors import RequestError, ThreadWaiting, WorkflowError
from orchestra.funds import Funds
from orchestra.leases import hold
from orchestra.metering import Tape
from orchestra.planning import Planner
from orchestra.questions import by_name, checked, question_of
from orchestra.recording import Recorder
from orchestra.shown import drawing
from orchestra.state import is_planned
from orchestra.tasks import Plan
from orchestra.threaded import ThreadedSaver
from orchestra.timers import due_of, is_timer

TAPE = "orchestra_tape"
"""Where the configurable part of a config carries what is to be played back."""

RECORDED = "recorded"
"""The metadata of checkpoints of runs whose model calls are recorded."""

_IS_ID = re.compile("[0-9a-f]{32}").fullmatch  # how LangGraph tells a map of answers from one that is a dict


class Declaration(Protocol):
    """What a compiled workflow asks of the `Workflow` it was made from."""

    name: str
    planner: Planner | None
    budget: Budget | None
    user_budget: Budget | None
    models: Mapping[str, ModelTerms]
    check: Callable[[str], None] | None
    roster: dict[str, Agent]

    @property
    def reference(self) -> str:
        """Where it lives; empty if that is not known."""
        ...

    @property
    def side_effects(self) -> bool:
        """Whether an agent of it changes the world outside."""
        ...

    @property
    def defaults(self) -> Mapping[str, Any]:
        """What the user's own keys of the state begin with on a new thread."""
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
            config: LangGraph's config. In its configurable part, `user_id` says whose preferences the run uses (they
                are in the store that the graph was compiled with), `supersede=True` lets a new request drop the
                questions that are open on the thread, and `record=True` records model calls in that store.
            control: Lets the caller drain the run.
            options: As of LangGraph's `astream`.

        Raises:
            RequestError: The request can't be worked on; nothing was stored.
            ThreadBusy: Another run is on this thread.
            ThreadWaiting: A question is open on this thread.
        """
        config = merge_configs(self.config, config)
        configurable: dict[str, Any] = dict(config.get("configurable") or {})
        supersede = bool(configurable.pop("supersede", False))
        tape: Tape | None = configurable.pop(TAPE, None)
        record = bool(configurable.pop("record", False))
        if configurable.get("user_id") is not None:
            configurable["user_id"] = str(configurable["user_id"])
        _refuse_limit(config)
        input = self._accept(input)  # noqa: A001
        async with contextlib.AsyncExitStack() as stack:
            config["configurable"] = configurable
            if configurable.get("checkpoint_ns"):  # inside another graph, whose thread it is
                graph, input = self, _begun(self, input)  # noqa: A001
            else:
                control = control or RunControl()
                graph = await self._enter(stack, config, options)
                input = await _fit(graph, input, config, supersede=supersede)  # noqa: A001
            call = configurable.pop(TEAM, None) or _new_call(self.name, input, configurable, control)
            if call.path:
                # LangGraph keeps metadata that are text; by these the teams of a run are found again.
                team = {"workflow": self.name, "path": json.dumps(call.path)}
                config["metadata"] = {**(config.get("metadata") or {}), **team}
            call.persistent = call.persistent and cast("Any", self.checkpointer) is not False
            call.funds = await self._funds(call, configurable)
            if record:
                tape = Recorder(self.store, str(configurable.get("thread_id")))
                config["metadata"] = {**(config.get("metadata") or {}), RECORDED: True}
            call.tape = call.tape or tape
            configurable[CALL] = call
            if not call.path and not (call.tape is not None and call.tape.replaying):
                clinic = Clinic(self.workflow, self.store, call.tell_health)
                await stack.enter_async_context(clinic.attending())
            chunks = super(CompiledWorkflow, graph).astream(input, config, control=control, **options)
            async with aclosing(cast("Any", chunks)):
                async for chunk in chunks:
                    yield chunk

    async def _funds(self, call: Call, configurable: Mapping[str, Any]) -> Funds:
        """The budgets of a call."""
        workflow = self.workflow
        whose = "the run" if call.around is None else f"team {workflow.name}"
        funds = Funds(whose, workflow.budget, workflow.models, call.around)
        if call.around is None and workflow.user_budget is not None:
            await funds.share(self.store, configurable.get("user_id") or "", workflow.user_budget)
        return funds

    async def _enter(
        self, stack: contextlib.AsyncExitStack, config: RunnableConfig, options: dict[str, Any]
    ) -> CompiledWorkflow:
        """Keep the thread to this call until it ends; return the graph to run, with the saver to use."""
        where = {"workflow": self.name, "workflow_ref": self.workflow.reference}
        config["metadata"] = where | dict(config.get("metadata") or {})
        saver = _saver_of(self, config)
        if saver is None:
            return self
        if options.get("durability") == "exit" and self.workflow.side_effects:
            raise WorkflowError(
                'durability="exit" stores nothing before the end, but an agent with side effects may only start when '
                'its inputs are stored. Use "sync" or "async".'
            )
        # Four small commits a run buy the promise that a request is stored before any agent starts.
        options["durability"] = options.get("durability") or "sync"
        holding = await stack.enter_async_context(hold(saver, str(config.get("configurable", {})["thread_id"])))
        return self if holding is saver else self.copy(update={"checkpointer": holding})

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
        if given is None or isinstance(given, Command | Branch):
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
        messages = messages or [HumanMessage(request)]
        if messages[0].id is None:
            messages[0] = messages[0].model_copy(update={"id": str(uuid.uuid4())})
        turn: dict[str, Any] = {"asked": uuid.uuid4().hex, "opening": messages[0].id, "dropped": []}
        return {**new, "request": request, "messages": messages, **turn}

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
        """Show the workflow in a notebook; LangGraph's own picture would ask a service on the internet."""
        return drawing("notebook").bundle(self.workflow)


def _refuse_limit(config: RunnableConfig) -> None:
    if config.get("max_concurrency") is not None:
        raise WorkflowError(
            "max_concurrency in the config would keep finished work from being stored (LangGraph queues writes "
            "behind nodes). Limit the agents instead: Agent(max_concurrency=...)."
        )


def _answers(given: Any) -> dict[str, Any] | None:
    """The answers that a call brings, by the ids of their questions; `None` for one to "the only open one"."""
    resume = cast("Any", given).resume if isinstance(given, Command) else None
    if resume is None:
        return {}
    by_id = isinstance(resume, dict) and all(_IS_ID(str(key)) for key in cast("dict[Any, Any]", resume))
    return cast("dict[str, Any]", resume) if by_id else None


def _checked(given: Command[Any], open_: Sequence[Interrupt[Any]]) -> Command[Any]:
    """See that answers fit their questions, so that one that does not leaves its question open.

    Raises:
        RequestError: One does not.
    """
    answers = _answers(given)
    asked = [one for one in open_ if not is_timer(one)]
    if answers is not None:
        return replace(given, resume=checked(asked, answers)) if answers else given
    if len(asked) != 1 or len(open_) != 1:  # LangGraph says that it needs a name, or that there is nothing open
        return given
    answer = question_of(asked[0]).check(given.resume)
    return replace(given, resume={asked[0].id: answer} if by_name(asked[0], answer) else answer)


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
        answers=None if namespace else _answers(given),
        foreign=bool(namespace),
        draining=functools.partial(getattr, control, "drain_requested"),
    )


async def _fit(graph: Any, given: Any, config: RunnableConfig, *, supersede: bool) -> Any:
    """See that a call fits its thread, and prepare both for each other; return the input to use.

    A request that drops open questions is refused unless it is told to. What is finished of an unfinished turn is put
    into the state, for the history. To resume is to go on at the head, not to replay it.
    """
    configurable: dict[str, Any] = config.get("configurable", {})
    saver, thread = _saver_of(graph, config), configurable.get("thread_id")
    place: RunnableConfig = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    head = None if saver is None else await saver.aget_tuple(place)
    if head is None:
        if given is None and saver is not None:
            raise RequestError(f"There is nothing to resume on thread {thread!r}; pass a request.")
        return _begun(graph, given)
    at_head = configurable.get("checkpoint_id") in (None, head.checkpoint["id"])
    if given is None and at_head:
        # LangGraph replays from an explicit checkpoint, also from the last: finished tasks would run again.
        configurable.pop("checkpoint_id", None)
    if isinstance(given, Branch):
        await given.begin(graph, config)
        return None
    if (given is None or isinstance(given, Command)) and saver is not None:
        await _forget_arrived(saver, head)
    if isinstance(given, Command):
        values = head.checkpoint["channel_values"]
        steps = executions(head) if is_planned(values) else []
        return _checked(cast("Command[Any]", given), [question for step in steps for question in step.asked])
    if not isinstance(given, Mapping):
        return given
    request = cast("Mapping[str, Any]", given)
    return {**request, "dropped": await _drop(graph, head, config, supersede=supersede)} if at_head else request


async def _forget_arrived(saver: BaseCheckpointSaver[Any], head: CheckpointTuple) -> None:
    """Take back an answer without a name that whoever asked has: LangGraph would give it to the next who asks, too."""
    if arrived({execution: value for execution, channel, value in head.pending_writes or () if channel == RESUME}):
        place = {**head.config.get("configurable", {}), "checkpoint_id": head.checkpoint["id"]}
        await saver.aput_writes({"configurable": place}, [(RESUME, None)], NOBODY)


def _saver_of(graph: Any, config: RunnableConfig) -> BaseCheckpointSaver[Any] | None:
    """The saver that is compiled into a graph, if the call names a thread to use it for."""
    named = config.get("configurable", {}).get("thread_id") is not None
    return cast("Any", graph.checkpointer) if named and isinstance(graph.checkpointer, BaseCheckpointSaver) else None


def _begun(graph: Any, given: Any) -> Any:
    """A thread's first request, with what the user's own keys begin with."""
    return (
        dict(graph.workflow.defaults) | dict(cast("Mapping[str, Any]", given)) if isinstance(given, Mapping) else given
    )


async def _drop(graph: Any, head: CheckpointTuple, config: RunnableConfig, *, supersede: bool) -> list[Any]:
    """What a new request drops of the turn before it.

    Raises:
        ThreadWaiting: A question is open, and the request is not told to supersede it.
    """
    values = head.checkpoint["channel_values"]
    if not is_planned(values):  # the request before this one got no plan: what it dropped stays dropped
        return list(values.get("dropped") or ())
    steps = executions(head)
    asked = [question for step in steps for question in step.asked]
    if asked and not supersede:
        thread = head.config.get("configurable", {}).get("thread_id")
        date = min((due for one in asked if (due := due_of(one)) is not None), default=None)
        what = f"until {date:%Y-%m-%d %H:%M:%S} UTC" if all(map(is_timer, asked)) else "for an answer"
        how = "Let `orchestra runs tick` continue it then" if all(map(is_timer, asked)) else "Answer it"
        raise ThreadWaiting(
            f"Thread {thread!r} waits {what}. {how}, drop what it waits for (supersede=True, --supersede), or use "
            "another thread."
        )
    if any(step.results for step in steps):
        await settle(graph, config, steps)
    return [_told(question) for question in asked]


def _told(asked: Interrupt[Any]) -> Any:
    """An open question, or until when a timer waits, for the history."""
    due = due_of(asked)
    what: Any = {"until": due and due.isoformat()} if is_timer(asked) else question_of(asked).value
    return pydantic_core.to_jsonable_python(what, fallback=str)
