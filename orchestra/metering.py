"""Whose a model call is: budgets, rate limits, usage, streaming and recording are settled by this.

An attempt works in a `Scope`. What calls models through `orchestra.models` asks it for leave before each call; a call
that an agent's own code makes is met by LangChain's callbacks, which find the scope by a context variable.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, cast
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.tracers.context import register_configure_hook

from orchestra.budgets import Account, Hold, ModelTerms
from orchestra.errors import AgentError, BudgetExceeded
from orchestra.events import Event, TokensArrived
from orchestra.rates import Admission, RateLimiter, limiter_of, retry_after
from orchestra.tasks import Usage

_OVERHEAD = 16
"""Tokens that a chat template may add to each message, at most."""

UNBOUNDED_OUTPUT = 4096
"""Output tokens that are reserved for a call that names no limit of its own."""

USED = "orchestra_used"
"""The attribute of an exception that says what the call that failed took."""

_LINE = 0.05
"""Seconds between two events with tokens of one call: a person reads no faster."""


class Tape(Protocol):
    """Records what models and tools answered, or plays it back."""

    replaying: bool

    def begin(self, turn: str) -> None:
        """Say which turn it is."""
        ...

    async def step(self, key: str, kind: str, request: Any, make: Callable[[], Any]) -> Any:
        """Return what `make` gives, recorded; or, when replaying, what was recorded for this step.

        Args:
            key: What belongs together in order: one attempt.
            kind: "model", "tool" or "profile".
            request: What was asked, as JSON; a replay compares it.
            make: Asks for real; returns JSON.
        """
        ...

    def raw(self, path: tuple[str, ...], task: str) -> Mapping[str, Any] | None:
        """How a task ended in the run that is played back, as JSON; `None` if it did not, or nothing is played back.

        Args:
            path: The team it belongs to.
            task: Its id.
        """
        ...


class Purse(Protocol):
    """Counts calls for whoever pays: what is under way, and what was used."""

    def opened(self, call: object, share: Usage) -> None:
        """A call is made that may take so much."""
        ...

    def closed(self, call: object, used: Usage) -> None:
        """A call has ended, and took so much."""
        ...

    async def keep(self) -> None:
        """Make it last."""
        ...


def silent(_kind: type[Event], _what: Mapping[str, Any]) -> None:
    """Tell nobody."""


@dataclass(eq=False)
class Scope(AsyncCallbackHandler):
    """What the model calls of one attempt, or of one act of the supervisor, belong to.

    Attributes:
        task: The task's id; empty for the supervisor's own calls.
        agent: Who calls.
        key: Tells this attempt apart from all others of the turn.
        path: The teams around it, outermost first.
        account: The budgets its calls must fit in.
        terms: Prices and rate limits by the model's name.
        emit: Takes the events.
        tape: Where calls are recorded or played back from, if they are.
        purse: Who pays.
        spent: Called before and after each call that counts for a budget, to make what it takes last.
        usage: What was used so far.
        notes: What had to be cut to fit, and what had to be repaired.
    """

    task: str
    agent: str
    key: str
    path: tuple[str, ...] = ()
    account: Account = field(default_factory=Account)
    terms: Mapping[str, ModelTerms] = field(default_factory=dict[str, ModelTerms])
    emit: Callable[[type[Event], Mapping[str, Any]], None] = silent
    tape: Tape | None = None
    purse: Purse | None = None
    spent: Callable[[Usage], Awaitable[None]] | None = None
    usage: Usage = field(default_factory=Usage)
    notes: list[str] = field(default_factory=list[str])
    _open: dict[Leave, Usage] = field(default_factory=dict["Leave", Usage])
    _direct: dict[UUID, Leave] = field(default_factory=dict[UUID, "Leave"])
    _blocking: set[UUID] = field(default_factory=set[UUID])

    # LangChain: a budget's refusal must reach the caller, and must come before the call.
    raise_error = True
    run_inline = True

    def __enter__(self) -> Self:
        """Make it the current one."""
        self._tokens = _CURRENT.set(self), _BLOCKING.set(_Blocking(self))
        return self

    def __exit__(self, *_: object) -> None:
        """Leave it; a call that was cut off may have been billed, so what was reserved for it counts as used."""
        current, blocking = self._tokens
        _CURRENT.reset(current)
        _BLOCKING.reset(blocking)
        for leave in self._direct.values():
            self.closed(leave, leave.settle(None))
        self._direct.clear()

    def labels(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config's metadata with the task and the agent, by which streamed messages are told apart."""
        return {**(config.get("metadata") or {}), "task": self.task, "agent": self.agent}

    def book(self, used: Usage) -> None:
        """Count what a call took that is played back."""
        self.usage += used
        self.account.book(used)
        if self.purse is not None:
            self.purse.closed(None, used)

    async def opened(self, leave: Leave) -> None:
        """A call is about to be made: what it may take is made last, so that no crash makes it free."""
        self._open[leave] = leave.hold.share
        if self.purse is not None:
            self.purse.opened(leave, leave.hold.share)
        await self.settle()

    def closed(self, leave: Leave, used: Usage) -> None:
        """A call has ended, and took so much."""
        self._open.pop(leave, None)
        self.usage += used
        if self.purse is not None:
            self.purse.closed(leave, used)

    async def settle(self) -> None:
        """Make what was used last, with what is under way, if it counts for a budget."""
        if not self.account.ledgers:
            return
        if self.spent is not None:
            await self.spent(sum(self._open.values(), self.usage))
        if self.purse is not None:
            await self.purse.keep()

    def note(self, what: str) -> None:
        """Put something on the record of the attempt."""
        self.notes.append(what)

    async def step(self, kind: str, request: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, by way of the tape if there is one."""
        if self.tape is None:
            return await make()
        return await self.tape.step(self.key, kind, request, make)

    async def leave(self, endpoint: str, model: str, size: int, output: int | None) -> Leave:
        """Wait until budgets and rate limits allow a call.

        What a call may cost is known by the model's price; without one, by the dearest token that the endpoint has
        billed so far. Until the first bill, a call may cost all that is left, so that no other is made meanwhile.

        Args:
            endpoint: Where the model is.
            model: Its name.
            size: Upper bound of the prompt's tokens.
            output: Upper bound of the answer's tokens, if one is set.

        Raises:
            BudgetExceeded: A budget does not allow it.
        """
        terms = self.terms.get(model)
        output = UNBOUNDED_OUTPUT if output is None else output
        cost = terms.cost(size, output) if terms is not None else None
        bill = (endpoint, model) if cost is None and self.account.room().money is not None else None
        hold = (
            await self._reserve(size, output, cost or 0.0) if bill is None else await self._unpriced(size, output, bill)
        )
        limiter = limiter_of(endpoint, model, terms)
        try:
            admission = await limiter.admit(size + output)
        except BaseException:
            hold.release()
            raise
        return Leave(hold, limiter, admission, terms, bill)

    async def _reserve(self, size: int, output: int, cost: float) -> Hold:
        share = Usage(calls=1, input_tokens=size, output_tokens=output, money=cost, estimated=True)
        return await self.account.reserve(share)

    async def _unpriced(self, size: int, output: int, bill: tuple[str, str]) -> Hold:
        """Reserve for a call of a model without a price."""
        while True:
            dearest = _billed.get(bill)
            if dearest == 0.0:
                raise BudgetExceeded(
                    f"there is a budget of money, but no price for the model {bill[1]!r}, and its endpoint bills "
                    f"nothing: Workflow(models={{{bill[1]!r}: ModelTerms(input_price=..., output_price=...)}})"
                )
            cost = (self.account.room().money or 0.0) if dearest is None else dearest * (size + output)
            try:
                hold = await self._reserve(size, output, cost)
            except BudgetExceeded:
                if _billed.get(bill) == dearest:
                    raise
            else:
                if _billed.get(bill) == dearest:
                    return hold
                hold.release()
            # The first bill came while this waited: now there is something to reckon by.

    # Calls that an agent's own code makes

    def _mine(self) -> bool:
        return _CURRENT.get() is self and not _COUNTED.get()

    async def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        """Ask for leave, which may wait, or refuse the call."""
        if not self._mine() or run_id in self._blocking:
            return
        await self._direct_call(serialized, messages, run_id, kwargs)

    async def _direct_call(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], run_id: UUID, kwargs: Mapping[str, Any]
    ) -> None:
        params: dict[str, Any] = kwargs.get("invocation_params") or {}
        if self.tape is not None and self.tape.replaying:
            raise AgentError(
                "a replay makes no call, and this agent calls its model by itself: let it use orchestra.ask_model"
            )
        model = str(params.get("model") or params.get("model_name") or "")
        limit = params.get("max_completion_tokens") or params.get("max_tokens")
        told: dict[str, Any] = (serialized or {}).get("kwargs") or {}
        endpoint = str(told.get("openai_api_base") or told.get("base_url") or "")
        self._direct[run_id] = leave = await self.leave(endpoint, model, size_of(messages[0], params), limit)
        await self.opened(leave)

    def blocking_call(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], run_id: UUID, kwargs: Mapping[str, Any]
    ) -> None:
        """Ask for leave outside of any event loop."""
        if self._mine():
            self._blocking.add(run_id)
            asyncio.run(self._direct_call(serialized, messages, run_id, kwargs))

    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Book what was used."""
        if self._mine() and (found := self._direct.pop(run_id, None)) is not None:
            message: Any = getattr(response.generations[0][0], "message", None) if response.generations else None
            self.closed(found, found.settle(message))
            await self.settle()

    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Give back what was reserved, if the endpoint says that it did nothing."""
        if self._mine() and (found := self._direct.pop(run_id, None)) is not None:
            self.closed(found, found.failed(error))
            await self.settle()


class _Blocking(BaseCallbackHandler):
    """Asks for leave where an agent blocks: LangChain swallows what an async handler raises there.

    Args:
        scope: Whose calls are met.
    """

    raise_error = True
    run_inline = True

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """Ask for leave, which may wait, or refuse the call."""
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            return  # the scope itself meets it
        self._scope.blocking_call(serialized, messages, run_id, kwargs)


@dataclass(slots=True, eq=False)
class Leave:
    """The leave to make one call.

    Attributes:
        hold: What is reserved in the budgets.
        limiter: The rate limits of the model.
        admission: What is reserved in them.
        terms: What is known of the model.
        bill: The endpoint and the model, if only the endpoint's bill tells what the call costs.
    """

    hold: Hold
    limiter: RateLimiter
    admission: Admission
    terms: ModelTerms | None
    bill: tuple[str, str] | None = None

    @property
    def by_bill(self) -> bool:
        """Whether only the endpoint's bill tells what the call costs."""
        return self.bill is not None

    def settle(self, message: BaseMessage | None) -> Usage:
        """Say what the call took, as its answer reports it; return it."""
        return self._settled(self._used(message))

    def failed(self, error: BaseException) -> Usage:
        """Say that the call failed; return what it counts for. An endpoint that answers with a status did nothing."""
        if (pause := retry_after(error)) is not None:
            self.limiter.pause(pause)
        status = getattr(error, "status_code", None)
        return self._settled(Usage(calls=1) if isinstance(status, int) else None)

    def _settled(self, used: Usage | None) -> Usage:
        if used is None:  # nobody says what it took, so it counts as all that it may have taken
            used = self.hold.share
            if self.bill is not None and self.bill not in _billed:  # all that was left, because nothing was known
                used = used.model_copy(update={"money": 0.0})
        self.hold.settle(used)
        self.admission.settle(used.tokens)
        return used

    def _used(self, message: BaseMessage | None) -> Usage | None:
        reported = getattr(message, "usage_metadata", None)
        if not reported:
            if self.bill is not None:  # neither tokens nor money: nobody can tell what it costs
                _billed.setdefault(self.bill, 0.0)
            return None
        counts = reported["input_tokens"], reported["output_tokens"]
        details: dict[str, Any] = cast("Any", message).response_metadata.get("token_usage") or {}
        billed: Any = details.get("cost")
        cost = billed if isinstance(billed, int | float) else self.terms.cost(*counts) if self.terms else None
        if self.bill is not None:
            _billed[self.bill] = max(_billed.get(self.bill, 0.0), (cost or 0.0) / max(1, sum(counts)))
        return Usage(calls=1, input_tokens=counts[0], output_tokens=counts[1], money=float(cost or 0.0))


def size_of(messages: Sequence[BaseMessage], params: Mapping[str, Any]) -> int:
    """Upper bound of a prompt's tokens: no tokenizer makes more tokens of a text than it has bytes."""
    beside = sum(
        len(str(params[key]).encode(errors="replace"))
        for key in ("tools", "functions", "response_format")
        if params.get(key)
    )
    texts = (f"{m.content}{getattr(m, 'tool_calls', None) or ''}" for m in messages)
    return beside + sum(_OVERHEAD + len(text.encode(errors="replace")) for text in texts)


class Ticker:
    """Tells of an answer while it comes, a few times a second.

    Args:
        scope: Whose answer.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._text = ""
        self._told = 0.0

    def add(self, text: str) -> None:
        """Take some of the answer."""
        self._text += text
        if self._text and time.monotonic() - self._told >= _LINE:
            self.flush()

    def flush(self) -> None:
        """Tell what was not told yet."""
        if self._text:
            self._told = time.monotonic()
            self._scope.emit(TokensArrived, {"task": self._scope.task, "agent": self._scope.agent, "text": self._text})
            self._text = ""


@contextlib.contextmanager
def counted() -> Generator[None]:
    """Inside, calls are counted by whoever makes them: callbacks leave them alone."""
    token = _COUNTED.set(True)
    try:
        yield
    finally:
        _COUNTED.reset(token)


def attempt_scope() -> Scope | None:
    """The scope of the attempt that calls; `None` outside of any."""
    return _CURRENT.get()


def current_scope() -> Scope:
    """The scope of the attempt that calls, or, outside of any, one without limits."""
    return _CURRENT.get() or Scope(task="", agent="", key="")


_billed: dict[tuple[str, str], float] = {}
"""The dearest token that an endpoint has billed for a model."""

_CURRENT: ContextVar[Scope | None] = ContextVar("orchestra_scope", default=None)
_COUNTED: ContextVar[bool] = ContextVar("orchestra_counted", default=False)
_BLOCKING: ContextVar[_Blocking | None] = ContextVar("orchestra_blocking", default=None)
register_configure_hook(_CURRENT, inheritable=True)
register_configure_hook(_BLOCKING, inheritable=True)
