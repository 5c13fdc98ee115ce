"""Rate limits, shared by all in this process who use a model.

An endpoint that takes 60 requests a minute answers the 61st with an error, and often the next ones as well. So
everybody asks here first, and waits where the endpoint would refuse. Calls may come from several event loops and
threads at once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, cast

from orchestra.budgets import ModelTerms, Turns, awaken, wake

_GRAIN = 1 / 1000
"""Admissions closer together than this part of the window are counted as one, at the later time; bounds the log."""

_PATROL = 5.0
"""Seconds between two looks of those who are not first in line: the first one's event loop may have ended."""


@dataclass(slots=True)
class _Entry:
    """What was admitted within a grain of time."""

    since: float
    until: float  # when it leaves the window
    requests: int
    tokens: int


class Admission:
    """One request that may be sent now.

    Args:
        tokens: What it may take at most.
        correct: Books more tokens, or fewer if below zero; `None` where nobody counts.
    """

    __slots__ = ("_correct", "_tokens")

    def __init__(self, tokens: int = 0, correct: Callable[[int], None] | None = None) -> None:
        self._tokens = tokens
        self._correct = correct

    def settle(self, tokens: int) -> None:
        """Correct what was estimated; whoever waits for tokens goes on at once if there are enough of them now.

        Args:
            tokens: What the request really took: prompt and answer.
        """
        if self._correct is not None:
            more, self._tokens = tokens - self._tokens, tokens
            self._correct(more)


_UNCOUNTED = Admission()


@dataclass(slots=True, eq=False)
class _Waiter:
    """A request that is not admitted yet, and how it sleeps.

    Attributes:
        tokens: What it may take at most.
        loop: Where it waits.
        due: When it looks again, by the limiter's clock.
        sleep: Ends its sleep early.
        admission: Set once it is admitted.
        entry: Where it is counted then.
    """

    tokens: int
    loop: asyncio.AbstractEventLoop
    due: float = math.inf
    sleep: asyncio.Future[None] | None = None
    admission: Admission | None = None
    entry: _Entry | None = None


class RateLimiter:
    """At most so many requests and tokens in any window of a minute, in order of arrival.

    A log of what was admitted slides along, not a bucket that refills: a bucket lets through nearly twice its size
    within some minutes. A request larger than the whole limit of tokens is admitted once the window is empty.

    Args:
        requests: How many requests fit in a window; `None` for no limit.
        tokens: How many tokens; `None` for no limit.
        clock: Tells the time, in seconds.
        window: How long a window is, in seconds.
    """

    def __init__(
        self,
        requests: int | None = None,
        tokens: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        window: float = 60.0,
    ) -> None:
        self._limits = (requests, tokens)
        self._clock = clock
        self._window = window
        self._turns = Turns()
        self._log: deque[_Entry] = deque()
        self._requests = self._tokens = 0  # the sums over the log
        self._queue: deque[_Waiter] = deque()
        self._resumes = -math.inf

    async def admit(self, tokens: int) -> Admission:
        """Wait until the request may be sent.

        Args:
            tokens: What it may take at most: the prompt, and the longest answer.

        Returns:
            Where to report what it really took.
        """
        if self._limits == (None, None) and self._clock() >= self._resumes:
            return _UNCOUNTED
        waiter = _Waiter(tokens, asyncio.get_running_loop())
        try:
            self._turns.take(partial(self._queue.append, waiter))
            while True:
                self._turns.take(partial(self._look, waiter))
                if waiter.admission is not None:
                    return waiter.admission
                await self._sleep(waiter)
        except BaseException:  # cancelled, or abandoned with its event loop
            self._turns.take(partial(self._leave, waiter))
            raise

    def pause(self, seconds: float) -> None:
        """Admit nobody for a while, because the endpoint said so. Of several pauses the one that ends last counts.

        Args:
            seconds: How long, from now.
        """
        until = self._clock() + seconds

        def change() -> None:
            self._resumes = max(self._resumes, until)

        self._turns.take(change)

    def limit(self, requests: int | None, tokens: int | None) -> None:
        """Change the limits; those who wait go by the new ones.

        Args:
            requests: How many requests fit in a window; `None` for no limit.
            tokens: How many tokens; `None` for no limit.
        """
        if (requests, tokens) != self._limits:

            def change() -> None:
                self._limits = (requests, tokens)
                self._advance()

            self._turns.take(change)

    async def _sleep(self, waiter: _Waiter) -> None:
        if waiter.sleep is not None:
            timer = waiter.loop.call_later(waiter.due - self._clock(), awaken, waiter.sleep)
            try:
                await waiter.sleep
            finally:
                timer.cancel()

    # All that follows is called in a turn.

    def _look(self, waiter: _Waiter) -> None:
        free = self._advance()
        if waiter.admission is None:
            waiter.sleep = waiter.loop.create_future()
            waiter.due = free if self._queue[0] is waiter else free + _PATROL

    def _advance(self) -> float:
        """Admit all that may go now; return when the next one may."""
        now = self._clock()
        while self._log and self._log[0].until <= now:
            self._count(self._log[0], -self._log[0].requests, -self._log[0].tokens)
            self._log.popleft()
        while self._queue:
            first = self._queue[0]
            if not first.loop.is_closed():
                free = self._free(first.tokens)
                if free > now:
                    if free < first.due and first.sleep is not None:
                        wake(first.sleep)
                    return free
                self._enter(first, now)
            self._queue.popleft()
            if first.sleep is not None:
                wake(first.sleep)
        return now

    def _free(self, tokens: int) -> float:
        """When a request of so many tokens may go: once what leaves no room for it has left the window."""
        most_requests, most_tokens = (math.inf if limit is None else limit for limit in self._limits)
        requests, taken, free = self._requests, self._tokens, self._resumes
        for entry in self._log:
            if requests + 1 <= most_requests and (taken + tokens <= most_tokens or taken == 0):
                break
            requests -= entry.requests
            taken -= entry.tokens
            free = max(free, entry.until)
        return free

    def _enter(self, waiter: _Waiter, now: float) -> None:
        if not self._log or now - self._log[-1].since >= self._window * _GRAIN:
            self._log.append(_Entry(now, now, 0, 0))
        entry = waiter.entry = self._log[-1]
        entry.until = now + self._window
        self._count(entry, 1, waiter.tokens)
        waiter.admission = Admission(waiter.tokens, lambda more: self._turns.take(partial(self._correct, entry, more)))

    def _count(self, entry: _Entry, requests: int, tokens: int) -> None:
        if self._log and entry.until >= self._log[0].until:  # else it has left the window
            entry.requests += requests
            entry.tokens += tokens
            self._requests += requests
            self._tokens += tokens

    def _correct(self, entry: _Entry, tokens: int) -> None:
        self._count(entry, 0, tokens)
        self._advance()

    def _leave(self, waiter: _Waiter) -> None:
        if waiter.entry is not None:
            self._count(waiter.entry, -1, -waiter.tokens)
        elif waiter in self._queue:
            self._queue.remove(waiter)
        self._advance()


_limiters: dict[tuple[str, str], RateLimiter] = {}


def limiter_of(endpoint: str, model: str, terms: ModelTerms | None) -> RateLimiter:
    """The one limiter of a model, for everybody in this process.

    Args:
        endpoint: The endpoint's address.
        model: The model's name there.
        terms: Its rate limits, as known now: they replace those of earlier calls. `None` leaves them as they are.
    """
    limiter = _limiters.setdefault((endpoint, model), RateLimiter())
    if terms is not None:
        limiter.limit(terms.requests_per_minute, terms.tokens_per_minute)
    return limiter


def retry_after(error: BaseException) -> float | None:
    """How many seconds an endpoint asks to wait, by the response that an error carries; `None` if it doesn't say.

    Args:
        error: What a client raised, with the answer as `error.response`.
    """
    found: Any = getattr(getattr(error, "response", None), "headers", None)
    if not isinstance(found, Mapping):
        return None
    headers = {str(name).lower(): str(value) for name, value in cast("Mapping[Any, Any]", found).items()}
    seconds = _seconds(headers.get("retry-after-ms"), 1000)
    return _seconds(headers.get("retry-after")) if seconds is None else seconds


def _seconds(said: str | None, per_second: float = 1) -> float | None:
    if said is None:
        return None
    try:
        seconds = float(said) / per_second
    except ValueError:
        try:
            moment = parsedate_to_datetime(said)
        except ValueError:
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
