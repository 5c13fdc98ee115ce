"""How an agent's code is called, and what it returned or raised is told apart."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from orchestra.agents import Agent, Binding
from orchestra.assignments import Assignment
from orchestra.dataflow import Updates
from orchestra.errors import AgentError
from orchestra.places import in_thread
from orchestra.retrying import describe
from orchestra.tasks import Delegate, OutOfScope, text_of


class Declined(AgentError):
    """An agent finds a task out of its scope."""


@dataclass(frozen=True, slots=True)
class Returned:
    """What an agent returned, told apart.

    Attributes:
        output: Its output, not validated yet.
        updates: What it writes to the user's own keys of the state.
        handed_on: What it wants another to do, if anything.
        finished: Whether there is an output.
    """

    output: Any
    updates: Updates = ()
    handed_on: Delegate | None = None
    finished: bool = True


async def invoke(agent: Agent, bindings: Sequence[Binding], assignment: Assignment, config: RunnableConfig) -> Any:
    """Call an agent that is no team."""
    run: Any = agent.run
    if agent.is_runnable:
        return _plain(agent, await run.ainvoke(_runnable_input(run, assignment), config))
    bound = arguments(bindings, assignment)
    if not agent.blocking:
        return await run(**bound)
    value = await in_thread(lambda: run(**bound))
    return await value if inspect.isawaitable(value) else value


def told_apart(value: Any) -> Returned:
    """Part what an agent returned into its output and what came beside it.

    Raises:
        Declined: It returned `OutOfScope`.
        AgentError: It returned something beside its output that can't be.
    """
    if isinstance(value, OutOfScope):
        raise Declined(f"out of its scope: {value.reason}")
    if isinstance(value, Delegate):
        return Returned(None, handed_on=value, finished=False)
    if isinstance(value, Command):
        raise AgentError("it returned a Command without an output; return (output, Command(update={...}))")
    items: tuple[Any, ...] = value if type(value) is tuple else ()  # pyright: ignore[reportUnknownVariableType]
    beside = items[1:]
    if not beside or not all(isinstance(each, Command | Delegate) for each in beside):
        return Returned(value)
    commands = [cast("Command[Any]", each) for each in beside if isinstance(each, Command)]
    handed = [each for each in beside if isinstance(each, Delegate)]
    if len(commands) > 1 or len(handed) > 1:
        raise AgentError("it returned more than one Command, or Delegate, beside its output")
    return Returned(items[0], _updates(commands[0]) if commands else (), handed[0] if handed else None)


def _updates(command: Command[Any]) -> Updates:
    if command.goto or command.resume is not None or command.graph is not None:
        raise AgentError("its Command has more than update=; in Orchestra the plan decides what runs next")
    update: Any = command.update or {}
    return tuple(dict[str, Any](update).items())


def failure_of(caught: BaseException) -> Exception | None:
    """What an agent raised, as a failure of its task; `None` for what is meant for LangGraph or for the process."""
    if isinstance(caught, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[Any]", caught)
        inner = next((leaf for leaf in _leaves(group) if isinstance(leaf, GraphBubbleUp)), None)
        if inner is not None:  # a question asked inside a TaskGroup
            raise inner from caught
    if isinstance(caught, GraphBubbleUp | KeyboardInterrupt):
        return None
    if isinstance(caught, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            return None
        return AgentError("it awaited something that was cancelled")
    if isinstance(caught, Exception):
        return caught
    return AgentError(f"it tried to end the process: {describe(cast('BaseException', caught))}")


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(cast("BaseExceptionGroup[Any]", error))
        else:
            yield error


def arguments(bindings: Sequence[Binding], assignment: Assignment) -> dict[str, Any]:
    """Fill the parameters; where an optional input is missing, leave it to the default, else pass `None`."""
    inputs = assignment.inputs
    filled: dict[str, Any] = {}
    for binding in bindings:
        there = [inputs[source] for source in binding.sources if source in inputs]
        if binding.kind == "assignment":
            filled[binding.parameter] = assignment
        elif binding.kind == "many":
            filled[binding.parameter] = there
        elif there or not binding.default:
            filled[binding.parameter] = there[0] if there else None
    return filled


def _runnable_input(run: Runnable[Any, Any], assignment: Assignment) -> Any:
    """What a Runnable receives: a model gets messages; a prompt, a chain or a graph gets a mapping to pick from."""
    inputs = "\n\n".join(f"{task}:\n{text_of(output)}" for task, output in assignment.inputs.items())
    asked = "\n\n".join(filter(None, (assignment.task.instruction, assignment.request, inputs)))
    if isinstance(run, BaseLanguageModel):
        return [*assignment.messages[:-1], HumanMessage(asked)]
    return {
        "request": assignment.request,
        "instruction": assignment.task.instruction,
        "inputs": dict(assignment.inputs),
        "messages": [HumanMessage(asked)],
    }


def _plain(agent: Agent, value: Any) -> Any:
    """A Runnable's message, or a graph's last message, as text, unless the agent declares otherwise."""
    if agent.output is not Any and agent.output is not str:
        return value
    if isinstance(value, Mapping) and (messages := value.get("messages")):  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        value = messages[-1]  # pyright: ignore[reportUnknownVariableType]
    return value.text if isinstance(value, BaseMessage) else value  # pyright: ignore[reportUnknownVariableType]
