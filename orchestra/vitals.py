"""What the health of an agent remembers: the last decision, and the attempts and durations it rests on."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from statistics import median
from typing import Annotated, Any, TypeVar

import pydantic_core
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass as pydantic_dataclass

KEPT = 500
"""Attempts of the window that are remembered at most: enough for any rate, and a bound on memory."""

_OLDER, _RECENT, _LEAST_OLDER = 50, 5, 10
"""Good attempts that make the baseline, good attempts compared with it, and how many a baseline takes."""

_NOISE = 0.05
"""Seconds: a smaller difference is the machine's, not the agent's, however many times a tiny baseline it is."""

YEAR = 31_536_000.0
TICK = timedelta(microseconds=1)
_NEVER = datetime.min.replace(tzinfo=UTC)


def check_seconds(owner: str, name: str, value: Any) -> None:
    """Refuse what is no span of time, by the name of its owner."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= YEAR:
        raise ValueError(f"{name} of a {owner} is in seconds, above 0 and at most a year, not {value!r}.")


def one_line(what: str, why: str = "", most: int = 300) -> str:
    """What happened and why, in one line that is not too long."""
    text = " ".join(f"{what}: {why}".split() if why else what.split())
    if not text.isprintable():  # stores refuse NUL and half characters
        text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"


class Condition(StrEnum):
    """How an agent is.

    Members:
        HEALTHY: Nothing is wrong.
        DEGRADED: It gets work only behind healthy ones.
        OPEN: It gets no work until its cool-down is over.
        HALF_OPEN: One trial may go, or is under way.
    """

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """The rule that stops traffic to an agent that fails, and lets a trial through later.

    Attributes:
        failures: So many failures in a row open it.
        rate: So large a part of failures among the attempts in the window opens it, too.
        least: The rate counts from so many attempts in the window on; 500 at most.
        window: Seconds that an attempt counts.
        cool_down: Seconds without traffic after it opened; doubled each time that the trial fails.
        longest: Seconds that a cool-down grows to at most.
        slow: An agent whose last good attempts took this many times their own baseline is degraded.

    Raises:
        ValueError: A value is out of its range.
    """

    failures: int = 5
    rate: float = 0.5
    least: int = 10
    window: float = 120.0
    cool_down: float = 30.0
    longest: float = 600.0
    slow: float = 5.0

    def __post_init__(self) -> None:
        for name, most in (("failures", math.inf), ("least", KEPT)):
            value: Any = getattr(self, name)  # users' code is not type-checked
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"{name} of a Breaker is a whole number from 1 to {most}, not {value!r}.")
        for name in ("window", "cool_down", "longest"):
            check_seconds("Breaker", name, getattr(self, name))
        for name, low, high in (("rate", 0, 1), ("slow", 1, math.inf)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
                raise ValueError(f"{name} of a Breaker is above {low} and at most {high}, not {value!r}.")
        if self.longest < self.cool_down:
            raise ValueError(
                f"longest of a Breaker ({self.longest}) is shorter than its cool_down ({self.cool_down}); "
                "pass longest, too."
            )


@dataclass(frozen=True, slots=True)
class Change:
    """An agent's condition became another.

    Attributes:
        before: The condition before.
        after: The condition after.
        reason: Why, in plain words.
        at: When it was noticed.
    """

    before: Condition
    after: Condition
    reason: str
    at: datetime


class Ruling(BaseModel):
    """What was decided last, here or elsewhere: open or closed. The later one wins when two are merged.

    Attributes:
        open: Whether traffic is stopped.
        decided: When, by the clock, but at least a tick after all that was known then.
        touched: Orders what happened to the trial since; the same as `decided` if nothing did.
        opened: When it was opened, by the clock here; no meaning while it is closed.
        cool: Seconds of the cool-down, as well.
        trial: When the trial that is under way began.
        reason: Why it was decided.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    open: bool
    decided: AwareDatetime
    touched: AwareDatetime
    opened: AwareDatetime
    cool: Annotated[float, Field(gt=0, le=YEAR)]
    trial: AwareDatetime | None
    reason: Annotated[str, Field(min_length=1, max_length=1000)]

    @property
    def generation(self) -> tuple[datetime, bool]:
        """What orders decisions; of two at the same tick, which is possible in two processes, the opening wins."""
        return self.decided, self.open

    @property
    def until(self) -> datetime:
        """When the cool-down is over."""
        return self.opened + timedelta(seconds=self.cool)

    def cools(self, now: datetime) -> bool:
        """Whether the cool-down lasts; if the clock was set back, it is over: a trial does less harm than none."""
        return self.open and self.opened <= now < self.until


UNDECIDED = Ruling(
    open=False, decided=_NEVER, touched=_NEVER, opened=_NEVER, cool=1, trial=None, reason="nothing was decided yet"
)


@pydantic_dataclass(frozen=True, slots=True, config=ConfigDict(strict=True))
class Row:
    """How often the same came in a row: failures, or verdicts one way."""

    count: Annotated[int, Field(ge=0)] = 0
    what: Annotated[str, Field(max_length=1000)] = ""


_T = TypeVar("_T")
RULING, ROW = TypeAdapter(Ruling), TypeAdapter(Row)
SECONDS = TypeAdapter(list[Annotated[float, Field(ge=0, le=YEAR)]])


def read(adapter: TypeAdapter[_T], stored: Any) -> _T | None:
    """One field of a dump; `None` if it is not what `dump` writes."""
    try:
        return adapter.validate_json(pydantic_core.to_json(stored))
    except (ValueError, RecursionError):
        return None


class Lately:
    """The attempts within the window, counted: all that failed, and those that failed since the last good probe."""

    __slots__ = ("_attempts", "_era", "_window", "failed", "fresh")

    def __init__(self, window: float) -> None:
        self._window = timedelta(seconds=window)
        self._attempts: deque[tuple[datetime, int]] = deque()  # when, and the era of a failure; 0 for a good one
        self._era = 1
        self.failed = self.fresh = 0

    def add(self, now: datetime, *, failed: bool) -> None:
        """Count one that ended now."""
        self._attempts.append((now, self._era if failed else 0))
        self.failed += failed
        self.fresh += failed
        if len(self._attempts) > KEPT:
            self._drop()

    def all(self, now: datetime) -> int:
        """How many there are, without those that have left the window, or lie ahead since the clock was set back."""
        oldest = now - self._window
        while self._attempts and not oldest < self._attempts[0][0] <= now:
            self._drop()
        return len(self._attempts)

    def forgive(self) -> None:
        """Take those that failed so far as settled: a probe has gone well since."""
        self._era += 1
        self.fresh = 0

    def clear(self) -> None:
        """Forget all of them."""
        self._attempts.clear()
        self.failed = self.fresh = 0

    def _drop(self) -> None:
        _, era = self._attempts.popleft()
        self.failed -= era > 0
        self.fresh -= era == self._era


class Durations:
    """How long good attempts took: the last few, and the older ones that are their baseline.

    An agent that stays slow gets a new baseline once half of the older attempts are slow ones.
    """

    __slots__ = ("_slow", "fault", "older", "recent")

    def __init__(self, slow: float) -> None:
        self._slow = slow
        self.older: deque[float] = deque(maxlen=_OLDER)
        self.recent: deque[float] = deque(maxlen=_RECENT)
        self.fault = ""

    def add(self, seconds: float) -> None:
        """Take in a good attempt."""
        if len(self.recent) == _RECENT:
            self.older.append(self.recent[0])
        self.recent.append(seconds)
        self._compare()

    def adopt(self, older: list[float] | None, recent: list[float] | None) -> None:
        """Take what another process measured where nothing is known here."""
        if not self.older:
            self.older.extend(older or ())
        if not self.recent:
            self.recent.extend(recent or ())
        self._compare()

    @property
    def typical(self) -> float | None:
        """The median of all; `None` if there are none."""
        return median([*self.older, *self.recent]) if self.older or self.recent else None

    def _compare(self) -> None:
        self.fault = ""
        if len(self.recent) == _RECENT and len(self.older) >= _LEAST_OLDER:
            last, base = median(self.recent), median(self.older)
            if last > self._slow * base and last - base >= _NOISE:
                self.fault = f"slow: the last {_RECENT} good attempts took {last:.3g} s (median), before {base:.3g} s"
