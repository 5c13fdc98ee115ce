"""The budgets of one call of a workflow: its own, those of its agents, of the workflow around it, and of its user."""

from __future__ import annotations

import threading
import time
import uuid
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from langgraph.store.base import BaseStore

from orchestra.agents import Agent
from orchestra.budgets import Account, Budget, Ledger, ModelTerms
from orchestra.errors import WorkflowError
from orchestra.tasks import Attempt, Plan, Result, Usage, now

_ROOT = "orchestra_usage"

_KEPT = 2 * 24 * 60.0
"""Minutes that a user's usage is kept: a day counts, and clocks differ."""

_sharing = threading.Lock()

_users: weakref.WeakKeyDictionary[BaseStore, dict[tuple[str, str, Budget], Ledger]] = weakref.WeakKeyDictionary()
"""The ledgers of users by day and budget: runs in this process share them."""


class Funds:
    """The budgets of one call of a workflow.

    Args:
        name: Whose they are, for messages.
        budget: The workflow's own budget for a turn.
        terms: Prices and rate limits by the model's name.
        around: The budgets of the workflow around it.
    """

    def __init__(
        self,
        name: str = "the run",
        budget: Budget | None = None,
        terms: Mapping[str, ModelTerms] | None = None,
        around: Funds | None = None,
    ) -> None:
        self._around = around
        self._own = Ledger(budget, name) if budget is not None else None
        outside: Mapping[str, ModelTerms] = around.terms if around is not None else {}
        self.terms: dict[str, ModelTerms] = {**outside, **(terms or {})}
        self.account = around.account if around is not None else Account()
        if self._own is not None:
            self.account = self.account.with_(self._own)
        self._raised: dict[str, float] = {}
        self._agents: dict[str, Ledger] = {}
        self._began = time.monotonic()
        self._worked = 0.0
        self._book: tuple[BaseStore, tuple[str, ...], Ledger] | None = None
        self._id = uuid.uuid4().hex
        self._open: dict[object, Usage] = {}
        self._fresh = Usage()
        self._earlier = Usage()

    @property
    def used(self) -> Usage:
        """What the calls in it took, in this process and before."""
        return self._earlier + self._fresh

    def opened(self, call: object, share: Usage) -> None:
        """A call is made that may take so much."""
        self._open[call] = share
        if self._around is not None:
            self._around.opened(call, share)

    def closed(self, call: object, used: Usage) -> None:
        """A call has ended, and took so much."""
        self._open.pop(call, None)
        self._fresh += used
        if self._around is not None:
            self._around.closed(call, used)

    def of(self, agent: Agent) -> Account:
        """What the calls of an agent must fit in."""
        if agent.budget is None:
            return self.account
        ledger = self._agents.setdefault(agent.name, Ledger(agent.budget, f"agent {agent.name}"))
        return self.account.with_(ledger)

    def team(self, agent: Agent) -> Funds:
        """What is around the budgets of an agent that is a team."""
        if agent.budget is None:
            return self
        around = Funds(around=self)
        around.account = self.of(agent)
        return around

    def book_earlier(self, roster: Mapping[str, Agent], plan: Plan, results: Iterable[Result]) -> None:
        """Count what the turn has used in earlier processes."""
        attempts = [attempt for result in results for attempt in result.attempts]
        self._worked = _busy(attempts)
        self._shared.book(plan.usage)
        self._earlier += plan.usage
        self.book_attempts(roster, attempts)

    def book_attempts(self, roster: Mapping[str, Agent], attempts: Iterable[Attempt]) -> None:
        """Count some attempts of earlier processes. What a user's runs have used is known from the store already."""
        for attempt in attempts:
            self._shared.book(attempt.usage)
            self._earlier += attempt.usage
            agent = roster.get(attempt.agent)
            if agent is not None and agent.budget is not None:
                self.of(agent)
                Account(self._agents[agent.name]).book(attempt.usage)

    @property
    def _shared(self) -> Account:
        """The ledgers but the user's."""
        users = [ledger for ledgers in _users.values() for ledger in ledgers.values()]
        return Account(*(ledger for ledger in self.account.ledgers if ledger not in users))

    def left(self) -> float | None:
        """Seconds of work that are left."""
        outside = self._around.left() if self._around is not None else None
        if self._own is None or self._own.budget.seconds is None:
            return outside
        mine = self._own.budget.seconds - self._worked - (time.monotonic() - self._began)
        return mine if outside is None else min(mine, outside)

    @property
    def used_up(self) -> list[str]:
        """A line for each budget that is hit."""
        lines = [ledger.used_up for ledger in (*self.account.ledgers, *self._agents.values())]
        return [*filter(None, (*lines, self.late))]

    @property
    def own_used_up(self) -> str | None:
        """A line that says so if the budget of this call itself is hit."""
        return None if self._own is None else self._own.used_up or self.late

    @property
    def limits(self) -> list[str]:
        """What the budget of this call itself limits."""
        names = ("tokens", "money", "calls", "seconds")
        return [] if self._own is None else [name for name in names if getattr(self._own.budget, name) is not None]

    def extend(self, raised: Mapping[str, float]) -> None:
        """Raise the budget of this call to its declared limits and as much more; the same again changes nothing."""
        more = {name: by - self._raised.get(name, 0) for name, by in raised.items()}
        if self._own is not None and any(more.values()):
            self._own.extend(more)
            self._raised = dict(raised)

    @property
    def late(self) -> str | None:
        """A line that says so if no time is left."""
        outside = self._around.late if self._around is not None else None
        if self._own is None or self._own.budget.seconds is None or outside is not None:
            return outside
        used_up = (left := self.left()) is not None and left <= 0
        return f"{self._own.of}'s budget of {self._own.budget.seconds:g} seconds is used up" if used_up else None

    # The user's

    async def share(self, store: BaseStore | None, user: str, budget: Budget) -> None:
        """Count for a user's budget of the day, in UTC.

        Raises:
            WorkflowError: There is no store to keep it in.
        """
        if store is None:
            raise WorkflowError(
                "user_budget is kept in a store, and this graph was compiled without: compile(store=...), or run it "
                "with Orchestra."
            )
        day = now().date().isoformat()
        place = (_ROOT, day, user.replace(".", "%2E") or "nobody")
        ledgers = _users.setdefault(store, {})
        found = await store.asearch(place, limit=100_000)
        spent = sum((Usage.model_validate(item.value) for item in found), Usage())
        for old in [key for key in ledgers if key[1] != day]:
            del ledgers[old]
        ledger = ledgers.setdefault((user, day, budget), Ledger(budget, f"user {user or 'nobody'}"))
        # What other processes have used, and what this one has before it was started anew.
        with _sharing:  # runs of the same user may start in several threads
            Account(ledger).book(_beyond(spent, ledger.spent))
        self._book = (store, place, ledger)
        self.account = self.account.with_(ledger)

    async def keep(self) -> None:
        """Store what a user's run has used in this process, and what is under way."""
        if self._around is not None:
            await self._around.keep()
        elif self._book is not None:
            store, place, _ = self._book
            lifetime: Any = {"ttl": _KEPT} if store.supports_ttl else {}
            spent = sum(self._open.values(), self._fresh)
            await store.aput(place, self._id, spent.model_dump(), **lifetime)


def _beyond(stored: Usage, known: Usage) -> Usage:
    return Usage(
        calls=max(0, stored.calls - known.calls),
        input_tokens=max(0, stored.input_tokens - known.input_tokens),
        output_tokens=max(0, stored.output_tokens - known.output_tokens),
        money=max(0.0, stored.money - known.money),
    )


def _busy(attempts: Iterable[Attempt]) -> float:
    """Seconds in which at least one of some attempts was at work."""
    total, end = 0.0, float("-inf")
    for since, until in sorted((a.started.timestamp(), a.started.timestamp() + a.seconds) for a in attempts):
        total += max(0.0, until - max(since, end))
        end = max(end, until)
    return total
