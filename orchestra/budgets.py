"""Budgets that parallel work can't overshoot.

Before a call of a model, the most that it may take is reserved in every ledger that it counts for: the agent's, the
team's, the run's, the user's. What would fit once the others return what they don't need waits for that; what can't fit
any more is refused. So what is spent never passes a limit, unless an endpoint reports more than was reserved.

Calls may come from several event loops and threads at once.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Any, Self

from orchestra.errors import BudgetExceeded, WorkflowError
from orchestra.tasks import Usage

_NOTHING = Usage()

_TOLERANCE = 1e-9
"""By what part of a money limit sums may pass it: 0.1 + 0.2 is not 0.3 to a computer."""

_UNITS = ("tokens", "in money", "calls")

_Amounts = tuple[float, float, float]
"""Tokens, money, calls: what limits are compared with."""


def _amounts(usage: Usage) -> _Amounts:
    return usage.tokens, usage.money, usage.calls


def _plain(amount: float) -> str:
    return f"{amount:,.9f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The most that may be spent on something. What is not given is not limited.

    Attributes:
        tokens: Tokens of prompts and answers together.
        money: In the currency of the models' prices.
        calls: Calls of models.
        seconds: How long the work may take; no call reserves any of it.

    Raises:
        WorkflowError: Nothing is limited, or a limit is not a number above zero.
    """

    tokens: int | None = None
    money: float | None = None
    calls: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = _numbers(self, "tokens", "money", "calls", "seconds")
        if not given:
            raise WorkflowError("A budget limits something: give it tokens, money, calls or seconds.")
        for name, limit in given.items():
            if not limit > 0:
                raise WorkflowError(f"A budget's {name} must be a number above zero, not {limit!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTerms:
    """What is known of a model's prices and rate limits; `None` where it is not known.

    Attributes:
        input_price: What a million tokens of prompts cost, in any currency that is the same for all models.
        output_price: What a million tokens of answers cost.
        requests_per_minute: How many calls the endpoint takes in a minute.
        tokens_per_minute: How many tokens, of prompts and answers, it takes in a minute.

    Raises:
        WorkflowError: A price is below zero, or a limit is not above zero.
    """

    input_price: float | None = None
    output_price: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for name, price in _numbers(self, "input_price", "output_price").items():
            if not price >= 0:
                raise WorkflowError(f"A model's {name} must be a number that is not below zero, not {price!r}.")
        for name, limit in _numbers(self, "requests_per_minute", "tokens_per_minute").items():
            if not limit > 0:
                raise WorkflowError(f"A model's {name} must be a number above zero, not {limit!r}.")

    def cost(self, input_tokens: int, output_tokens: int) -> float | None:
        """What a call costs, in the currency of the prices; `None` if it takes tokens whose price is not known."""
        parts = (self.input_price, input_tokens), (self.output_price, output_tokens)
        if all(price is None for price, _ in parts) or any(price is None and n for price, n in parts):
            return None
        return sum((price or 0) * n for price, n in parts) / 1_000_000


def _numbers(of: Any, *names: str) -> dict[str, float]:
    given = {name: value for name in names if (value := getattr(of, name)) is not None}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise WorkflowError(f"{name} must be a number, not {value!r}.")
    return given


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What is left at most, per dimension; `None` where nothing limits it.

    Attributes:
        tokens: Tokens of prompts and answers together.
        money: In the currency of the models' prices.
        calls: Calls of models.
    """

    tokens: int | None
    money: float | None
    calls: int | None


class Turns:
    """Changes of shared state, one after the other, from whichever threads they come.

    A lock alone is not enough: garbage collection may end an abandoned coroutine in the midst of a change, in the very
    thread that makes it. What that coroutine gives back is then a change of its own, made right after.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._changes: deque[Callable[[], None]] = deque()
        self._busy = False

    def take(self, change: Callable[[], None]) -> None:
        """Make a change; it is made when this returns, unless it comes from within another one."""
        self._changes.append(change)
        with self._lock:
            if self._busy:
                return
            self._busy = True
            try:
                while self._changes:
                    self._changes.popleft()()
            finally:
                self._busy = False


def wake(waiting: asyncio.Future[None]) -> bool:
    """Wake whoever awaits a future, from any thread; `False` if its event loop is closed."""
    try:
        waiting.get_loop().call_soon_threadsafe(awaken, waiting)
    except RuntimeError:
        return False
    return True


def awaken(waiting: asyncio.Future[None]) -> None:
    """Wake whoever awaits a future, from its own event loop."""
    if not waiting.done():  # or cancelled
        waiting.set_result(None)


_turns = Turns()  # one for all: ledgers are shared in any combination, and a change takes microseconds


class _Verdict(Enum):
    FITS = auto()
    LATER = auto()  # if the others return what they have reserved
    NEVER = auto()


def _limits(budget: Budget) -> list[tuple[int, float]]:
    money = None if budget.money is None else budget.money * (1 + _TOLERANCE)
    limits = enumerate((budget.tokens, money, budget.calls))
    return [(dimension, limit) for dimension, limit in limits if limit is not None]


class Ledger:
    """One budget being spent. Ask for a part of it with an `Account`, which alone calls its methods.

    Args:
        budget: The limits.
        of: Whose budget it is, for messages: "the run", "agent researcher".
        spent: What was spent before, in an earlier process.

    Attributes:
        budget: The limits.
        of: Whose budget it is.
        spent: What all settled calls took.
        queue: Requests that wait and count for this ledger, in order of arrival.
    """

    def __init__(self, budget: Budget, of: str = "the run", spent: Usage = _NOTHING) -> None:
        self.budget = budget
        self.of = of
        self.spent = spent
        self.queue: dict[_Request, None] = {}
        self._limits = _limits(budget)
        self._gone = _amounts(spent)
        self._held = [0.0, 0.0, 0.0]  # the sum over `_open`
        self._open: set[Hold] = set()
        self._refused: str | None = None

    @property
    def reserved(self) -> Usage:
        """What calls that are not settled may take at most."""
        return sum((hold.share for hold in tuple(self._open)), _NOTHING)

    @property
    def used_up(self) -> str | None:
        """One line that says which limit is hit, or what was refused last; `None` as long as neither happened."""
        for dimension, limit in self._limits:
            if self._gone[dimension] >= limit * (1 - 2 * _TOLERANCE):
                return f"{self._name(dimension)} is used up: {self._spent(dimension)}"
        return self._refused

    def extend(self, more: Mapping[str, float]) -> None:
        """Raise the limits, by the names of a `Budget`; what was refused may fit now."""
        names = ("tokens", "money", "calls", "seconds")
        raised = {name: (getattr(self.budget, name), more.get(name, 0)) for name in names}
        self.budget = Budget(**{name: None if limit is None else limit + by for name, (limit, by) in raised.items()})
        self._limits = _limits(self.budget)
        self._refused = None

    def judge(self, asked: _Amounts) -> _Verdict:
        """Whether a request fits."""
        verdict = _Verdict.FITS
        for dimension, limit in self._limits:
            left = limit - self._gone[dimension] - asked[dimension]
            if not left >= 0:  # in this form, because a NaN must not fit
                return _Verdict.NEVER
            if left < self._held[dimension]:
                verdict = _Verdict.LATER
        return verdict

    def refuse(self, asked: _Amounts) -> str:
        """Remember a request that can't fit any more, and return the line that says why."""
        lacking = next(d for d, limit in self._limits if not limit - self._gone[d] - asked[d] >= 0)
        more = _plain(asked[lacking])
        self._refused = f"{self._name(lacking)}: {self._spent(lacking)} and this call may take {more} more"
        return self._refused

    def open(self, hold: Hold, asked: _Amounts) -> None:
        """Set a share aside."""
        self._open.add(hold)
        self._held = [held + more for held, more in zip(self._held, asked, strict=True)]

    def close(self, hold: Hold, asked: _Amounts, actual: Usage) -> None:
        """Return a share and book what was taken of it."""
        self._open.discard(hold)
        # Starting afresh where it is known, so that errors of rounding don't add up.
        self._held = [h - less for h, less in zip(self._held, asked, strict=True)] if self._open else [0.0, 0.0, 0.0]
        self.spent += actual
        self._gone = _amounts(self.spent)

    def _name(self, dimension: int) -> str:
        limit = (self.budget.tokens, self.budget.money, self.budget.calls)[dimension] or 0
        unit = _UNITS[dimension].removesuffix("s" if limit == 1 else "")
        return f"{self.of}'s budget of {_plain(limit)} {unit}"

    def _spent(self, dimension: int) -> str:
        spent = self._gone[dimension]
        return f"{_plain(spent)} {'is' if spent == 1 else 'are'} spent"


class Hold:
    """A share that is reserved for one call. Settle it when the call is over, or let `with` do it.

    Only an `Account` makes one: that changes ledgers, which others change at the same time.

    Left without a word, `with` books the whole share, as estimated: a call that was cut off may have been billed.

    Args:
        ledgers: Where it is reserved.
        share: What the call may take at most.

    Attributes:
        share: What the call may take at most.
    """

    def __init__(self, ledgers: tuple[Ledger, ...], share: Usage) -> None:
        self.share = share
        self._ledgers = ledgers
        self._asked = _amounts(share)
        for ledger in ledgers:
            ledger.open(self, self._asked)

    def settle(self, actual: Usage) -> None:
        """Book what the call took and return the rest. Once it is settled, it stays as it is.

        Args:
            actual: What the call took; if it is more than the share, that is booked all the same.
        """
        _turns.take(partial(self._close, actual))

    def release(self) -> None:
        """Return all of it: the call was not made."""
        self.settle(_NOTHING)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._ledgers:
            self.settle(self.share.model_copy(update={"estimated": True}))

    def _close(self, actual: Usage) -> None:
        ledgers, self._ledgers = self._ledgers, ()
        for ledger in ledgers:
            ledger.close(self, self._asked, actual)
        _serve(ledgers)


class Account:
    """All the ledgers that a call must fit in: those of its agent, its team, its run, its user, in any order.

    Args:
        ledgers: The ledgers; one that is given twice counts once.
    """

    def __init__(self, *ledgers: Ledger) -> None:
        self.ledgers = tuple(dict.fromkeys(ledgers))

    def with_(self, *ledgers: Ledger) -> Account:
        """An account that counts for more ledgers."""
        return Account(*self.ledgers, *ledgers)

    async def reserve(self, share: Usage) -> Hold:
        """Set aside what a call may take at most, in all ledgers or in none.

        Waits while only what others have reserved is in the way, in order of arrival among those that wait for the
        same ledger. Whoever holds a share must not wait for another one: the two might wait for each other.

        Args:
            share: One call, and the most tokens and money that it may take.

        Raises:
            BudgetExceeded: A limit does not allow it, even if all others returned what they have reserved.
        """
        request = _Request(self.ledgers, share, _amounts(share), asyncio.get_running_loop().create_future())
        try:
            _turns.take(request.arrive)
            if not request.decided:
                await request.waiting
        except BaseException:  # cancelled, or abandoned with its event loop
            _turns.take(request.leave)
            raise
        if request.hold is None:
            raise BudgetExceeded(request.refusal)
        return request.hold

    def book(self, spent: Usage) -> None:
        """Book what was spent without a reservation: by an earlier process, for instance.

        Args:
            spent: What it was; it is booked even if it passes a limit.
        """
        _turns.take(lambda: Hold(self.ledgers, _NOTHING).settle(spent))

    def room(self) -> Room:
        """What is left if all calls under way return what they have reserved."""
        tokens = [budget - ledger.spent.tokens for ledger in self.ledgers if (budget := ledger.budget.tokens)]
        money = [budget - ledger.spent.money for ledger in self.ledgers if (budget := ledger.budget.money)]
        calls = [budget - ledger.spent.calls for ledger in self.ledgers if (budget := ledger.budget.calls)]
        return Room(
            tokens=max(0, min(tokens)) if tokens else None,
            money=max(0.0, min(money)) if money else None,
            calls=max(0, min(calls)) if calls else None,
        )


_arrivals = itertools.count()


@dataclass(slots=True, eq=False)
class _Request:
    """A share that somebody asks for. All its methods are called in a turn.

    A request that waits keeps the ledgers in which it did not fit: those behind it can't take them, even while they
    have room, so what it lacks comes together in the end. All other ledgers are free to those behind it.
    """

    ledgers: tuple[Ledger, ...]
    share: Usage
    asked: _Amounts
    waiting: asyncio.Future[None]
    hold: Hold | None = None
    refusal: str | None = None
    number: int = 0
    kept: set[Ledger] = field(default_factory=set[Ledger])

    @property
    def decided(self) -> bool:
        return self.hold is not None or self.refusal is not None

    def arrive(self) -> None:
        self.number = next(_arrivals)
        kept = {ledger for ledger in self.ledgers if any(ledger in other.kept for other in ledger.queue)}
        if not self.decide(kept):
            for ledger in self.ledgers:
                ledger.queue[self] = None

    def decide(self, kept: set[Ledger]) -> bool:
        """Grant or refuse it if that can be done now, else add what it keeps to what those before it keep."""
        fits = kept.isdisjoint(self.ledgers)
        for ledger in self.ledgers:
            verdict = ledger.judge(self.asked)
            if verdict is _Verdict.NEVER:
                self.refusal = ledger.refuse(self.asked)
                return True
            if verdict is _Verdict.LATER:
                self.kept.add(ledger)
                fits = False
        if fits:
            self.hold = Hold(self.ledgers, self.share)
        else:
            kept |= self.kept
        return fits

    def leave(self) -> None:
        if self.hold is not None:
            self.hold.release()
        elif self.refusal is None:
            self.drop()
            _serve(self.ledgers)

    def drop(self) -> None:
        for ledger in self.ledgers:
            ledger.queue.pop(self, None)


def _serve(ledgers: Iterable[Ledger]) -> None:
    """Decide what can be decided, in order of arrival, after these ledgers have changed."""
    kept: set[Ledger] = set()
    for request in _affected(ledgers):
        if request.waiting.get_loop().is_closed() or request.decide(kept):
            request.drop()
            if not wake(request.waiting) and request.hold is not None:
                request.hold.release()


def _affected(ledgers: Iterable[Ledger]) -> list[_Request]:
    """Those that wait and count for one of these ledgers, or share one with such a request, in order of arrival."""
    found: set[_Request] = set()
    reached = dict.fromkeys(ledgers)
    todo = [*reached]
    for ledger in todo:  # grows while it is walked
        for request in ledger.queue.keys() - found:
            found.add(request)
            todo.extend(other for other in request.ledgers if other not in reached)
            reached.update(dict.fromkeys(request.ledgers))
    return sorted(found, key=lambda request: request.number)
