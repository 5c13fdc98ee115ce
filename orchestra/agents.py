"""Agents: named specialists, and the contract that a function's annotations state.

An agent's `run` is a sync or async function, a LangChain Runnable, a compiled LangGraph graph, or a `Workflow` (a
team). The return annotation of a function is its output type; a parameter annotated `Assignment` receives the
assignment; a parameter annotated with another agent's output type receives that output; one annotated `list[T]`
receives the outputs of all needed tasks that produce `T`; `T | None` can do without. A function that also updates
keys of the workflow's own state returns `(output, Command(update={...}))`, with LangGraph's `Command`, and is annotated
`-> tuple[T, Command]`; one that hands a part of its work on returns a `Delegate`, in place of its output or beside it;
one that finds its task beyond it returns `OutOfScope`. `Agent.from_model` makes an agent of a chat model.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    Any,
    Literal,
    Protocol,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
    runtime_checkable,
)

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langgraph.types import Command, RetryPolicy
from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from orchestra.assignments import Assignment
from orchestra.budgets import Budget
from orchestra.claims import Claim
from orchestra.errors import WorkflowError
from orchestra.health import Health
from orchestra.models.asking import check_model, checked_tools
from orchestra.models.specialist import Specialist
from orchestra.probes import Probe
from orchestra.tasks import Delegate, OutOfScope
from orchestra.vitals import Breaker


@dataclass(frozen=True, slots=True)
class Capability:
    """What an agent can be asked to do.

    Attributes:
        name: Its name; a task that wants exactly this name needs no judgement.
        description: In words, for routing by similarity and for models.
        examples: Requests it covers, in the words a user would choose. They also calibrate routing.
    """

    name: str
    description: str = ""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an agent's function, as its annotation states it.

    Attributes:
        name: The parameter's name.
        type: The type it wants; `Assignment` for the assignment itself.
        optional: Whether the agent can do without it.
        default: Whether the function has a default for it, which is then used where the input is missing.
    """

    name: str
    type: Any
    optional: bool = False
    default: bool = False


@runtime_checkable
class Team(Protocol):
    """A workflow as an agent sees it: what it wants from outside, and what it delivers."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What the team's own agents want from the parent's tasks."""
        ...

    @property
    def output(self) -> Any:
        """The type of what the team delivers."""
        ...

    @property
    def side_effects(self) -> bool:
        """Whether an agent of the team changes the world outside."""
        ...

    def compile(self) -> Any:
        """Return a graph that can be called inside another."""
        ...


class Agent:
    """A named specialist.

    Attributes:
        name: Unique on the roster; also the id of its task in a declared workflow.
        run: What does the work: a function of one `Assignment`, or of other agents' outputs by their types (`T`,
            `list[T]` for all of them, `T | None` to do without); a Runnable, a compiled graph, or a `Workflow`.
        capabilities: What it can be asked to do.
        description: In words; the default instruction of its task.
        output: The type of what it delivers. It is validated, stored as JSON, and validated again when read.
        timeout: Seconds one attempt may work; waiting for inputs or for a place does not count. A sync function that
            runs on after its timeout is left behind in its thread: Python cannot stop it.
        retry: LangGraph's vocabulary. Without a `retry_on` of your own, what is transient is tried again:
            connection errors, timeouts, overload (HTTP 408, 425, 429, 5xx), malformed output.
        max_concurrency: How many tasks it works on at once, in this process and event loop.
        side_effects: The agent changes the world outside. It starts only when its inputs are committed, so that what
            it acted on can't be lost in a crash. Use `Assignment.idempotency_key` there.
        max_crashes: Record every attempt durably before it starts and give the task up once this many of them ended
            with the process. Guards against input that kills the process. `None` records nothing.
        budget: What its calls of models may take in one turn, over all its tasks. `seconds` is for runs only.
        probe: A test input with an expectation, for which it is called now and then to see how it is.
        breaker: When it gets no work because it fails, and when it is tried again.
        claims: Finds the claims in its output, where the output does not carry them itself.
        health: How it is, in this process.
        is_team: Whether a workflow does the work.
        is_runnable: Whether a LangChain Runnable, or a compiled graph, does.
        blocking: Whether it is a sync function, which runs in a thread.
    """

    def __init__(
        self,
        name: str,
        run: Callable[..., Any] | Runnable[Any, Any] | Team,
        *,
        capabilities: str | Sequence[str | Capability] = (),
        description: str = "",
        output: Any = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        max_concurrency: int | None = None,
        side_effects: bool = False,
        max_crashes: int | None = None,
        budget: Budget | None = None,
        probe: Probe | None = None,
        breaker: Breaker | None = None,
        claims: Callable[[Any], Iterable[Claim]] | None = None,
        _localns: Mapping[str, Any] | None = None,
    ) -> None:
        if not name or any(c in name for c in "|:") or name.startswith("__"):
            raise WorkflowError(f"{name!r} can't name an agent: no '|', no ':', no leading '__', not empty.")
        for label, value in (
            ("timeout", timeout),
            ("max_concurrency", max_concurrency),
            ("max_crashes", max_crashes),
        ):
            given: Any = value  # users' code is not type-checked
            if given is not None and not (isinstance(given, int | float) and given > 0):
                raise WorkflowError(f"Agent {name!r}: {label} must be a number above zero, not {value!r}.")
        policy: Any = retry
        if policy is not None and not (isinstance(policy, RetryPolicy) and policy.max_attempts >= 1):
            raise WorkflowError(f"Agent {name!r}: retry must be a RetryPolicy with max_attempts >= 1, not {retry!r}.")
        if budget is not None and budget.seconds is not None:
            raise WorkflowError(f"Agent {name!r}: seconds are for the budget of a run; an agent has a timeout.")
        if isinstance(capabilities, str):
            capabilities = (capabilities,)
        self.name = self.__name__ = name  # LangGraph's add_sequence asks for __name__
        self.run = run
        self.capabilities = tuple(Capability(c) if isinstance(c, str) else c for c in capabilities)
        self.description = description or inspect.getdoc(run if inspect.isfunction(run) else None) or ""
        self.timeout = timeout
        self.retry = retry or RetryPolicy()
        self.max_concurrency = max_concurrency
        self._side_effects = side_effects
        self.max_crashes = max_crashes
        self.budget, self.probe, self.claims = budget, probe, claims
        self.health = Health(breaker or Breaker())
        self.is_team = isinstance(run, Team)
        self.is_runnable = isinstance(run, Runnable)
        self.blocking = not (self.is_team or self.is_runnable or _is_async(run))
        self._parameters: tuple[Parameter, ...] = ()
        self._output: Any = output
        self._team_output: Any = None
        self._adapter: TypeAdapter[Any] | None = None
        if not self.is_team and not self.is_runnable:
            if not callable(run):
                raise WorkflowError(f"Agent {name!r}: run must be a function, a Runnable, a graph or a Workflow.")
            self._parameters, annotated = _read_contract(name, run, _localns)
            self._output = output or annotated
        if not self.is_team:
            _ = self.adapter  # an output type that can't be validated is found here, not in a run

    @property
    def side_effects(self) -> bool:
        """Whether it, or an agent of its team, changes the world outside."""
        return self._side_effects or (self.is_team and cast("Team", self.run).side_effects)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What the agent's function, or its team, wants."""
        return cast("Team", self.run).parameters if self.is_team else self._parameters

    @property
    def output(self) -> Any:
        """The declared output type; `Any` where none is declared."""
        declared = self._output if self._output is not None or not self.is_team else self._team_output
        return Any if declared is None else declared

    @classmethod
    def from_model(
        cls,
        name: str,
        model: BaseChatModel,
        instructions: str,
        *,
        output: Any = str,
        tools: Sequence[BaseTool | Callable[..., Any]] = (),
        max_input_tokens: int | None = None,
        max_tokens: int | None = None,
        repairs: int = 2,
        may_decline: bool = False,
        may_delegate: bool = False,
        **options: Any,
    ) -> Agent:
        """Make an agent of a chat model.

        It is asked for JSON by schema where the endpoint keeps to one, in words where it does not; tools are called by
        the endpoint where it can, else the model chooses them in JSON. What an endpoint can do is found out once.

        Args:
            name: The agent's name.
            model: A LangChain chat model, such as `ChatOpenAI`. Make it with `max_retries=0`: trying again is the
                engine's business, which counts and shows it.
            instructions: Who it is and how it works: the system prompt. Its first line is the default `description`.
            output: The type of its answer.
            tools: Functions with type hints, or LangChain tools, that the model may call. It can reach no others.
            max_input_tokens: About how many tokens of a prompt are used; the model's context by default, where
                LangChain knows it. What does not fit is left out, oldest messages first, then the ends of the longest
                inputs, and the attempt's `notes` say so.
            max_tokens: Limit of an answer; raised once, fourfold, for an answer that was cut off.
            repairs: How often a malformed answer is asked for again within one attempt.
            may_decline: Whether it may hand a task back as out of its scope; then another agent gets it.
            may_delegate: Whether it may have a part of its work done by another agent; see `Delegate`.
            options: As of `Agent`.

        Raises:
            WorkflowError: Something is not what it should be.
        """
        for label, limit in (("max_input_tokens", max_input_tokens), ("max_tokens", max_tokens)):
            if limit is not None and limit < 1:
                raise WorkflowError(f"Agent {name!r}: {label} must be a number above zero, not {limit!r}.")
        if repairs < 0:
            raise WorkflowError(f"Agent {name!r}: repairs must not be negative, not {repairs!r}.")
        specialist = Specialist(
            name=name,
            model=check_model(model),
            instructions=instructions,
            output=output,
            tools=checked_tools(tools),
            max_input_tokens=max_input_tokens,
            max_tokens=max_tokens,
            repairs=repairs,
            may_decline=may_decline,
            may_delegate=may_delegate,
        )
        options.setdefault("description", instructions.strip().partition("\n")[0])
        return cls(name, specialist, output=output, **options)

    def settle(self) -> None:
        """Take a team's output type from its plan as it is now; a workflow does this whenever it makes a plan."""
        if self.is_team and (output := cast("Team", self.run).output) != self._team_output:
            self._team_output, self._adapter = output, None

    @property
    def adapter(self) -> TypeAdapter[Any]:
        """Validates and encodes outputs.

        Raises:
            WorkflowError: pydantic can't validate the output type.
        """
        if (adapter := self._adapter) is None:
            try:
                adapter = self._adapter = TypeAdapter(self.output)
            except (PydanticSchemaGenerationError, PydanticUserError) as error:
                raise WorkflowError(
                    f"Agent {self.name!r}: its output type {type_name(self.output)} can't be validated or stored. "
                    f"Use a pydantic model, a dataclass, a TypedDict or plain types. ({error})"
                ) from error
        return adapter

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the underlying function as it is, for a unit test of it."""
        if not callable(self.run):
            raise TypeError(f"Agent {self.name!r} is not a function.")
        return self.run(*args, **kwargs)

    def __repr__(self) -> str:
        """Show the name and what it can do."""
        return f"Agent({self.name!r}, capabilities={[c.name for c in self.capabilities]})"


@overload
def agent(function: Callable[..., Any], /) -> Agent: ...
@overload
def agent(
    *,
    name: str | None = None,
    capabilities: Sequence[str | Capability] = (),
    description: str = "",
    output: Any = None,
    timeout: float | None = None,
    retry: RetryPolicy | None = None,
    max_concurrency: int | None = None,
    side_effects: bool = False,
    max_crashes: int | None = None,
    budget: Budget | None = None,
    probe: Probe | None = None,
    breaker: Breaker | None = None,
    claims: Callable[[Any], Iterable[Claim]] | None = None,
) -> Callable[[Callable[..., Any]], Agent]: ...
def agent(function: Callable[..., Any] | None = None, /, *, name: str | None = None, **options: Any) -> Any:
    """Make an `Agent` of a typed function; the options are those of `Agent`.

    Raises:
        WorkflowError: The function's parameters or output type can't serve as a contract.
    """
    # Types defined beside the function, in a notebook cell's function or in a test, are found in the caller's frame.
    localns = dict(sys._getframe(1).f_locals)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] -- documented, if underscored

    def make(function: Callable[..., Any]) -> Agent:
        return Agent(name or function.__name__, function, _localns=localns, **options)

    return make if function is None else make(function)


def _is_async(run: Any) -> bool:
    return inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(getattr(run, "__call__", None))  # noqa: B004 -- an object whose __call__ is async


def _read_contract(
    name: str, function: Callable[..., Any], localns: Mapping[str, Any] | None
) -> tuple[tuple[Parameter, ...], Any]:
    """Read parameters and output type off a function's annotations."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise WorkflowError(f"Agent {name!r}: a generator has no one output; return a list instead.")
    try:
        signature = inspect.signature(function)
        target = function if inspect.isroutine(function) else type(function).__call__
        hints = get_type_hints(target, localns=dict(localns or {}), include_extras=True)
    except NameError as error:
        raise WorkflowError(
            f"Agent {name!r}: the annotation {error.name!r} can't be resolved. Define or import it before the agent, "
            "at run time too (not only under TYPE_CHECKING)."
        ) from error
    except (TypeError, ValueError) as error:
        raise WorkflowError(f"Agent {name!r}: its signature can't be read ({error}).") from error
    parameters: list[Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            star = "" if parameter.kind is parameter.POSITIONAL_ONLY else "*"
            raise WorkflowError(
                f"Agent {name!r}: {star}{parameter.name} can't be bound to an input; use parameters with names."
            )
        wanted = hints.get(parameter.name)
        if wanted is None:
            if len(signature.parameters) > 1:
                raise WorkflowError(f"Agent {name!r}: annotate parameter {parameter.name!r} with what it receives.")
            wanted = Assignment  # a function of one argument takes the assignment
        has_default = parameter.default is not parameter.empty
        bare = _without_none(wanted)
        parameters.append(Parameter(parameter.name, bare, has_default or bare is not wanted, has_default))
    return tuple(parameters), _output_of(hints.get("return"))


def _output_of(annotation: Any) -> Any:
    """What of an annotation is the output: `T` of `tuple[T, Command]`, and of `T | Delegate | OutOfScope`."""
    args = get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        kept = tuple(dict.fromkeys(_output_of(arg) for arg in args if arg not in (Delegate, OutOfScope)))
        return annotation if kept == args else Union[kept] if kept else Any  # noqa: UP007 -- built at run time
    if get_origin(annotation) is tuple and len(args) > 1 and all(map(_is_beside, args[1:])):
        return args[0]
    return None if annotation in (Delegate, OutOfScope) else annotation


def _is_beside(annotation: Any) -> bool:
    return (get_origin(annotation) or annotation) in (Command, Delegate)


def _without_none(annotation: Any) -> Any:
    """`T` for `T | None`, else the annotation itself."""
    if get_origin(annotation) in (Union, types.UnionType):
        kept = tuple(arg for arg in get_args(annotation) if arg is not type(None))
        if len(kept) < len(get_args(annotation)):
            return kept[0] if len(kept) == 1 else Union[kept]  # noqa: UP007 -- built at run time
    return annotation


def type_name(annotation: Any) -> str:
    """An annotation as a person would write it."""
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def produces(output: Any, wanted: Any) -> bool:
    """Whether something of type `output` can be handed to a parameter that wants `wanted`, or one of its members."""
    if output == wanted:
        return True
    if get_origin(wanted) in (Union, types.UnionType):
        return any(produces(output, member) for member in get_args(wanted))
    try:
        return isinstance(output, type) and isinstance(wanted, type) and issubclass(output, wanted)
    except TypeError:  # a TypedDict or a Protocol does not support the question
        return False


def stands_in(agent: Agent, principal: Agent) -> bool:
    """Whether what an agent delivers can take the place of what another delivers."""
    return principal.output is Any or produces(agent.output, principal.output)


@dataclass(frozen=True, slots=True)
class Binding:
    """What one parameter is filled with.

    Attributes:
        parameter: The parameter's name.
        kind: "assignment", "one" input, or the list of "many".
        sources: Ids of the tasks whose outputs it receives.
        optional: Whether the parameter can do without.
        default: Whether it is then left to the function's own default; else it gets `None`.
    """

    parameter: str
    kind: Literal["assignment", "one", "many"]
    sources: tuple[str, ...] = ()
    optional: bool = False
    default: bool = False


def bind(
    agent: Agent, available: Mapping[str, Any], *, where: str = "among its inputs", first: str = ""
) -> tuple[Binding, ...]:
    """Decide what each parameter of an agent is filled with.

    Args:
        agent: Whose parameters.
        available: The output types that reach it, by task id.
        where: How to call `available` in an error.
        first: The task whose output comes before others of its type: the draft, to a reviewer.

    Raises:
        WorkflowError: A parameter has no source, or more than one; the message names the agent, the parameter and
            the candidates.
    """
    bindings: list[Binding] = []
    for parameter in agent.parameters:
        if parameter.type is Assignment:
            bindings.append(Binding(parameter.name, "assignment"))
            continue
        found = tuple(task for task, output in available.items() if _fits(output, parameter))
        if not found and get_origin(parameter.type) in (list, Sequence) and get_args(parameter.type):
            (item,) = get_args(parameter.type)
            many = tuple(task for task, output in available.items() if produces(output, item))
            if many or parameter.optional:
                bindings.append(Binding(parameter.name, "many", many, parameter.optional, parameter.default))
                continue
        for chosen in (first, parameter.name):
            if len(found) > 1 and chosen in found:
                found = (chosen,)
        if len(found) > 1:
            raise WorkflowError(
                f"Agent {agent.name!r}, parameter {parameter.name!r}: {type_name(parameter.type)} comes from "
                f"{', '.join(map(repr, found))}. Name the parameter after one of them, or take "
                f"list[{type_name(parameter.type)}]."
            )
        if not found and not parameter.optional:
            there = ", ".join(f"{task!r} ({type_name(output)})" for task, output in available.items()) or "nothing"
            raise WorkflowError(
                f"Agent {agent.name!r}, parameter {parameter.name!r}: nobody produces {type_name(parameter.type)} "
                f"{where}; there is {there}."
            )
        bindings.append(Binding(parameter.name, "one", found, parameter.optional, parameter.default))
    return tuple(bindings)


def _fits(output: Any, parameter: Parameter) -> bool:
    """Whether a parameter can take an output; one that may be `None` only if the parameter may."""
    return produces(_without_none(output) if parameter.optional else output, parameter.type)
