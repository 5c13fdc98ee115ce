"""Who wins a conflict: rules that decide at once, and whom to ask else, in a chain."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import ClassVar, Protocol

from orchestra.claims import Conflict, Resolution, Side
from orchestra.errors import WorkflowError


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says of a conflict.

    Attributes:
        winner: The index of the side that wins; `None` if the policy can't decide.
        reason: Why, in a few words.
    """

    winner: int | None
    reason: str


class Policy(Protocol):
    """A rule that settles conflicts."""

    @property
    def name(self) -> str:
        """What it is called in reports."""
        ...

    def settle(self, conflict: Conflict) -> Verdict | None:
        """Say who wins; nothing, or a verdict without a winner, if the rule can't decide."""
        ...


def _leader(weights: Sequence[float], margin: float, what: str) -> Verdict:
    """The heaviest side, if it leads by more than nothing and by the margin."""
    ranked = sorted(range(len(weights)), key=lambda side: -weights[side])
    first, second = weights[ranked[0]], weights[ranked[1]]
    if first - second > _SAME and first - second >= margin - _SAME:
        return Verdict(ranked[0], f"{what} {first:g} against {second:g}")
    return Verdict(None, f"{what} {first:g} against {second:g} is no lead" + (f" of {margin:g}" if margin else ""))


_SAME = 1e-9
"""Weights this close are equal: 0.1 + 0.2 is not 0.3 to a computer."""


@dataclass(frozen=True, slots=True)
class ByMajority:
    """More than half of the agents decide; an agent that is on several sides counts for none of them."""

    name: ClassVar[str] = "majority"

    def settle(self, conflict: Conflict) -> Verdict:
        """Say who wins."""
        agents = Counter(agent for side in conflict.sides for agent in side.agents)
        votes = [sum(agents[agent] == 1 for agent in side.agents) for side in conflict.sides]
        most = max(votes)
        if 2 * most > len(agents):
            return Verdict(votes.index(most), f"{most} of {len(agents)} agents")
        return Verdict(None, f"at most {most} of {len(agents)} agents agree")


@dataclass(frozen=True, slots=True)
class ByConfidence:
    """The side with more confidence decides: the sum over its agents of the highest confidence each has there.

    Attributes:
        margin: By how much it must lead.

    Raises:
        WorkflowError: The margin is negative or not a number.
    """

    margin: float = 0.1
    name: ClassVar[str] = "confidence"

    def __post_init__(self) -> None:
        if not 0 <= self.margin < math.inf:
            raise WorkflowError(f"ByConfidence: a margin of {self.margin} is not possible: give a number from 0 up")

    def settle(self, conflict: Conflict) -> Verdict:
        """Say who wins."""
        return _leader([sum(_confidence(side).values()) for side in conflict.sides], self.margin, "confidence")


def _confidence(side: Side) -> dict[str, float]:
    """The highest confidence of each agent on a side."""
    highest: dict[str, float] = {}
    for held in side.held:
        highest[held.agent] = max(held.claim.confidence, highest.get(held.agent, 0.0))
    return highest


@dataclass(frozen=True, slots=True)
class ByTrust:
    """The side whose agents are trusted more decides.

    Attributes:
        trust: How much each agent's word weighs; agents that are not named weigh nothing.

    Raises:
        WorkflowError: A weight is negative or not a number.
    """

    trust: Mapping[str, float]
    name: ClassVar[str] = "trust"

    def __post_init__(self) -> None:
        for agent, weight in self.trust.items():
            if not 0 <= weight < math.inf:
                raise WorkflowError(f"ByTrust: {agent!r} can't have a trust of {weight}: give a number from 0 up")

    def settle(self, conflict: Conflict) -> Verdict:
        """Say who wins."""
        weights = [sum(self.trust.get(agent, 0.0) for agent in sorted(side.agents)) for side in conflict.sides]
        return _leader(weights, 0.0, "trust")


@dataclass(frozen=True, slots=True)
class ByRecency:
    """The side with the newest source decides; a source without a date is older than any with one."""

    name: ClassVar[str] = "recency"

    def settle(self, conflict: Conflict) -> Verdict:
        """Say who wins."""
        dated = [[h.claim.at for h in side.held if h.claim.at is not None] for side in conflict.sides]
        newest = {i: max(found, key=_instant) for i, found in enumerate(dated) if found}
        if not newest:
            return Verdict(None, "no source has a date")
        first, *others = sorted(newest, key=lambda i: _instant(newest[i]), reverse=True)
        if any(not _newer(newest[first], newest[other]) for other in others):
            return Verdict(None, f"several sides have sources of {newest[first]}")
        behind = f"the next of {newest[others[0]]}" if others else "no other has a date"
        return Verdict(first, f"its source is of {newest[first]}, {behind}")


def _instant(at: date) -> datetime:
    moment = at if isinstance(at, datetime) else datetime.combine(at, time.min)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _newer(a: date, b: date) -> bool:
    """Whether a source is newer; a day without a time is not newer than any moment of it."""
    if isinstance(a, datetime) and isinstance(b, datetime):
        return _instant(a) > _instant(b)
    return _instant(a).date() > _instant(b).date()


@dataclass(frozen=True, slots=True)
class Prefer:
    """What one agent says holds.

    Attributes:
        agent: Its name.
    """

    agent: str

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return f"prefer {self.agent}"

    def settle(self, conflict: Conflict) -> Verdict:
        """Say who wins."""
        on = [i for i, side in enumerate(conflict.sides) if self.agent in side.agents]
        if len(on) == 1:
            return Verdict(on[0], f"{self.agent} says so")
        return Verdict(None, f"{self.agent} is on {len(on)} sides" if on else f"{self.agent} says nothing of it")


@dataclass(frozen=True, slots=True)
class Arbiter:
    """An agent that sees both sides with their sources decides.

    Attributes:
        agent: Its name.
    """

    agent: str

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return f"arbiter {self.agent}"


@dataclass(frozen=True, slots=True)
class AskPerson:
    """A person decides.

    Attributes:
        within: How long to wait; `None` waits for ever.
        otherwise: The side that wins if no answer comes in time; `None` goes on along the chain.

    Raises:
        WorkflowError: The time is not above zero, the side is negative, or a side is named without a time.
    """

    within: timedelta | None = None
    otherwise: int | None = None
    name: ClassVar[str] = "person"

    def __post_init__(self) -> None:
        if self.within is not None and self.within <= timedelta():
            raise WorkflowError(f"AskPerson: nobody can answer within {self.within}: give a time above zero")
        if self.otherwise is not None and (self.otherwise < 0 or self.within is None):
            raise WorkflowError("AskPerson: `otherwise` is the index of a side, from 0, and needs a time `within`")


def settle(
    conflict: Conflict, policies: Sequence[Policy | Arbiter | AskPerson]
) -> tuple[Resolution | None, Sequence[Policy | Arbiter | AskPerson]]:
    """Walk a chain of policies until one decides.

    Returns:
        The resolution and nothing, once a policy decides, or once all have failed to: then the resolution has no
        winner and names each policy with why it could not. `None` and the rest of the chain where an agent or a person
        must decide: the first of the rest says who.
    """
    failed: list[tuple[str, str]] = []
    for index, policy in enumerate(policies):
        if isinstance(policy, Arbiter | AskPerson):
            return None, policies[index:]
        try:
            verdict = policy.settle(conflict) or Verdict(None, "it can't decide")
        except Exception as error:  # noqa: BLE001 -- a user's policy: told as its reason, and the next one decides
            verdict = Verdict(None, f"it raised {type(error).__name__}: {error}")
        if verdict.winner is None:
            failed.append((policy.name, verdict.reason))
        elif not 0 <= verdict.winner < len(conflict.sides):
            failed.append((policy.name, f"it named side {verdict.winner} of {len(conflict.sides)}"))
        else:
            return Resolution(conflict=conflict, winner=verdict.winner, policy=policy.name, reason=verdict.reason), ()
    names = ", ".join(name for name, _ in failed) or "none"
    reason = "; ".join(f"{name}: {why}" for name, why in failed) or "there is no further policy"
    return Resolution(conflict=conflict, winner=None, policy=names, reason=reason), ()
