"""What agents claim, where they contradict each other, and who wins: pure, deterministic, and never in silence.

A claim says that a subject has a value for an attribute. `find` compares the claims that flow together, `settle` walks
a chain of policies, and a `Resolution` keeps the losers and the reason beside the winner.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import combinations
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from orchestra.values import Comparing, Relation, Value, read, relate

_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

_SHOWN = 80
"""Characters of a value, and of a source, in one line of text."""


class Claim(BaseModel):
    """A fact as somebody states it.

    Attributes:
        subject: What it is about.
        attribute: What of the subject it states.
        value: What it states; any text, number, truth value, date or moment. JSON reads dates and decimals back as
            text, which means the same.
        unit: Of the value, where the value does not name it: "kg", "USD", "million EUR", "%".
        confidence: How sure its author is, from 0 to 1.
        source: Where it is from: an address, a document, a person.
        at: How old the source is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: _Name
    attribute: _Name
    value: str | int | float | bool | Decimal | date | datetime
    unit: str | None = None
    confidence: float = Field(default=1.0, ge=0, le=1)
    source: str = ""
    at: datetime | date | None = None

    @field_validator("value")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        if isinstance(value, float | Decimal) and not math.isfinite(value):
            raise ValueError(f"{value} is not a value: leave the claim out where there is none")
        return value

    @field_validator("at", mode="before")
    @classmethod
    def _day_or_moment(cls, at: Any) -> Any:
        """Text of a day stays a day; a moment at midnight stays a moment."""
        return date.fromisoformat(at) if isinstance(at, str) and len(at) <= 10 else at

    @property
    def shown(self) -> str:
        """The value with its unit, as it was written, cut to a readable length."""
        return _short(f"{self.value} {self.unit}" if self.unit else f"{self.value}")


class Held(BaseModel):
    """A claim with who made it.

    Attributes:
        claim: The claim.
        task: The task whose output it was in.
        agent: The agent that did the task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: Claim
    task: str
    agent: str


class Side(BaseModel):
    """Claims of one conflict that agree with each other.

    Attributes:
        value: What they state, in the words of the most confident of them; in a found conflict no two sides have the
            same.
        held: The claims, and who made them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: str
    held: tuple[Held, ...] = Field(min_length=1)

    @property
    def agents(self) -> frozenset[str]:
        """Who is on this side."""
        return frozenset(held.agent for held in self.held)


class Conflict(BaseModel):
    """Claims about one attribute of one subject that contradict each other.

    Attributes:
        subject: As most of the claims spell it.
        attribute: Likewise.
        sides: What is claimed, two or more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    attribute: str
    sides: tuple[Side, ...] = Field(min_length=2)

    @property
    def text(self) -> str:
        """One line: who says what, from which source."""
        return f"{self.subject}, {self.attribute}: " + " against ".join(map(_said, self.sides))


class Resolution(BaseModel):
    """How a conflict was settled, or that it was not.

    Attributes:
        conflict: All sides, also those that lost.
        winner: The index of the side that won; `None` if none did.
        policy: The name of the policy that decided, or of all that could not.
        reason: Why, in one line.
        by: The agent or the person who decided; empty where a rule did.
        reran: Tasks that were done again because of it.
        value: What holds instead of all sides, where a person said so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    conflict: Conflict
    winner: int | None
    policy: str
    reason: str
    by: str = ""
    reran: tuple[str, ...] = ()
    value: Claim | None = None

    @model_validator(mode="after")
    def _one_winner(self) -> Resolution:
        sides = len(self.conflict.sides)
        if self.winner is not None and not 0 <= self.winner < sides:
            raise ValueError(f"side {self.winner} can't win: there are {sides}, counted from 0")
        if self.winner is not None and self.value is not None:
            raise ValueError("a side and another value can't both win: leave one of `winner` and `value` out")
        return self

    @property
    def settled(self) -> bool:
        """Whether something holds now."""
        return self.winner is not None or self.value is not None

    @property
    def winning(self) -> Claim | None:
        """What holds now: of the side that won, the most confident claim."""
        return self.value if self.winner is None else _best(self.conflict.sides[self.winner].held).claim

    @property
    def text(self) -> str:
        """One line: what holds, why, and against what; or that nothing was settled."""
        if not self.settled:
            return f"not settled: {self.conflict.text} ({self.reason})"
        holds = self.value.shown if self.value is not None else self.conflict.sides[self.winner or 0].value
        by = f" by {self.by}" if self.by else ""
        about = f"{self.conflict.subject}, {self.conflict.attribute}"
        against = " and ".join(_said(side) for i, side in enumerate(self.conflict.sides) if i != self.winner)
        return f"{about}: {holds!r} holds{by} ({self.reason}), against {against}"

    @property
    def losers(self) -> tuple[Held, ...]:
        """The claims that don't hold; empty while nothing is settled."""
        if not self.settled:
            return ()
        return tuple(h for i, side in enumerate(self.conflict.sides) if i != self.winner for h in side.held)


def _short(text: str) -> str:
    return f"{text[: _SHOWN - 1]}…" if len(text) > _SHOWN else text


def _said(side: Side) -> str:
    """A side in words."""
    sources: dict[str, list[str]] = defaultdict(list)
    for held in side.held:
        sources[held.agent] += [held.claim.source] if held.claim.source else []
    who = (
        f"{agent}, from {_short(', '.join(dict.fromkeys(found)))}" if found else agent
        for agent, found in sources.items()
    )
    return f"{side.value!r} ({'; '.join(who)})"


def _key(claim: Claim) -> str:
    """The same for a claim before and after it was stored."""
    return claim.model_dump_json()


def _order(held: Held) -> tuple[str, str, str]:
    return held.task, held.agent, _key(held.claim)


def _best(held: Iterable[Held]) -> Held:
    """The claim that speaks for its side."""
    return min(held, key=lambda one: (-one.claim.confidence, _order(one)))


# --- reading outputs ---


def _as_claim(found: Any) -> Claim | None:
    """A claim, also in the form it is stored in."""
    if isinstance(found, Mapping) and {"subject", "attribute", "value"} <= cast("Mapping[str, Any]", found).keys():
        try:
            return Claim.model_validate(found)
        except ValidationError:
            return None
    return found if isinstance(found, Claim) else None


def _field(output: Any) -> Any:
    """The field `claims` of an output that has one."""
    names: Iterable[str] = ()
    if isinstance(output, BaseModel):
        names = (*type(output).model_fields, *(output.model_extra or ()))
    elif dataclasses.is_dataclass(output):
        names = [one.name for one in dataclasses.fields(output)]
    elif isinstance(output, Mapping):
        return cast("Mapping[str, Any]", output).get("claims")
    return getattr(output, "claims", None) if "claims" in names else None


def _is_list(found: Any) -> bool:
    return isinstance(found, Sequence) and not isinstance(found, str | bytes | bytearray)


def claims_of(output: Any) -> tuple[Claim, ...]:
    """The claims that an output carries.

    An output carries claims if it is a `Claim`, a sequence with claims in it, or a pydantic model, dataclass or mapping
    with a field `claims` that is one of these. A mapping that has the fields of a claim is one: that is how outputs
    without a declared type are stored.
    """
    if (claim := _as_claim(output)) is not None:
        return (claim,)
    found = output if _is_list(output) else _field(output)
    if (claim := _as_claim(found)) is not None:
        return (claim,)
    return tuple(claim for one in found if (claim := _as_claim(one)) is not None) if _is_list(found) else ()


def with_settled(output: Any, resolutions: Sequence[Resolution]) -> Any:
    """A copy of an output in which each claim that lost is replaced by the one that won.

    The claim keeps its own spelling of subject and attribute. Conflicts that nobody settled change nothing.

    Returns:
        The copy; the output itself where nothing in it lost.
    """
    instead = {_key(lost.claim): r.winning for r in resolutions for lost in r.losers}
    if not instead or not any(_key(claim) in instead for claim in claims_of(output)):
        return output

    def settled(found: Any) -> Any:
        claim = _as_claim(found)
        won = instead.get(_key(claim)) if claim is not None else None
        if claim is None or won is None:
            return found
        kept = won.model_copy(update={"subject": claim.subject, "attribute": claim.attribute})
        return kept if isinstance(found, Claim) else kept.model_dump(mode="json")

    def all_settled(found: Any) -> Any:
        if not _is_list(found):
            return settled(found)
        every = [settled(one) for one in cast("Sequence[Any]", found)]
        return every if isinstance(found, list) else tuple(every)

    if _is_list(output) or _as_claim(output) is not None:
        return all_settled(output)
    claims = all_settled(_field(output))
    if isinstance(output, BaseModel):
        return output.model_copy(update={"claims": claims})
    if isinstance(output, Mapping):
        return {**cast("Mapping[str, Any]", output), "claims": claims}
    changed = copy.copy(output)
    object.__setattr__(changed, "claims", claims)  # a frozen dataclass has no other way, and the copy is ours
    return changed


# --- finding ---


_LABELS = frozenset(
    ["id", "identifier", "port", "code", "zip", "postcode", "phone", "year", "isbn", "version", "release"]
)
"""Last words of attributes whose numbers are names: 8080 is not nearly 8081, and 3.1 is not 3.10."""


def _label(attribute: str) -> bool:
    """Whether the numbers of an attribute are names: a version, a year, a serial number."""
    words = re.findall(r"[^\W_]+", attribute.casefold())
    return bool(words) and (words[-1] in _LABELS or (len(words) > 1 and words[-1] == "number"))


def find(held: Iterable[Held], comparing: Comparing = Comparing()) -> list[Conflict]:  # noqa: B008
    """Find the claims that contradict each other.

    Claims meet where their subjects and attributes are the same but for case, white space, punctuation and aliases.
    Two of them contradict if their values can be compared and differ: 5 kg and 5 m can't, nor 12 EUR and 12 USD without
    rates, nor a number and a word, nor "over 5" and 7. Texts are compared as texts if neither is anything else.

    Agreement is not transitive, since values agree within a tolerance. So a conflict is made of values that contradict
    each other, directly or over others; a value that contradicts none is in no conflict, even if it lies between two
    that do. Its values are then split from narrow to wide, and numbers and times from small to large: each goes to the
    only side that it does not contradict in any value and can be compared with, else it starts a side. So no side has a
    contradiction in it, and the order in which claims come does not matter.

    Args:
        held: The claims; an equal claim of one task counts once.
        comparing: Tolerance, aliases, rates.

    Returns:
        The conflicts, by subject and attribute. The cost grows with the square of the different values of an attribute.
    """
    groups: dict[tuple[str, str], dict[tuple[str, str, str], Held]] = defaultdict(dict)
    for one in held:
        groups[comparing.name(one.claim.subject), comparing.name(one.claim.attribute)][_order(one)] = one
    return [conflict for _, group in sorted(groups.items()) for conflict in _conflicts(group, comparing)]


def _conflicts(group: Mapping[tuple[str, str, str], Held], comparing: Comparing) -> Iterable[Conflict]:
    """The conflicts of one attribute of one subject."""
    said: dict[Value, list[Held]] = defaultdict(list)
    for _, one in sorted(group.items()):
        claim = one.claim
        said[read(claim.value, claim.unit, comparing, label=_label(claim.attribute))].append(one)
    values = sorted(said, key=lambda value: (value.width, value.start, repr(value)))
    table = [[Relation.AGREE] * len(values) for _ in values]
    for i, j in combinations(range(len(values)), 2):
        table[i][j] = table[j][i] = relate(values[i], values[j], comparing)
    for apart in _apart(table):
        sides = [[one for i in side for one in said[values[i]]] for side in _sides(apart, table)]
        everyone = [one.claim for side in sides for one in side]
        yield Conflict(
            subject=_usual(claim.subject for claim in everyone),
            attribute=_usual(claim.attribute for claim in everyone),
            sides=_named(sides),
        )


def _named(sides: Iterable[list[Held]]) -> tuple[Side, ...]:
    """Sides with values that tell them apart, also where long texts begin alike."""
    shown = Counter[str]()
    named: list[Side] = []
    for side in sides:
        value = _best(side).claim.shown
        shown[value] += 1
        named.append(Side(value=value if shown[value] == 1 else f"{value} ({shown[value]})", held=tuple(side)))
    return tuple(named)


def _usual(spellings: Iterable[str]) -> str:
    counted = Counter(spellings)
    return min(counted, key=lambda spelling: (-counted[spelling], spelling))


_Table = Sequence[Sequence[Relation]]
"""How each of some values stands to each other, by their indices."""


def _apart(table: _Table) -> list[list[int]]:
    """Groups of values that contradict each other, directly or over others; who contradicts nobody is in none."""
    left = set(range(len(table)))
    groups: list[list[int]] = []
    while left:
        group: set[int] = set()
        near = {min(left)}
        while near:
            group |= near
            near = {j for i in near for j in left - group if table[i][j] is Relation.DIFFER}
        left -= group
        if len(group) > 1:
            groups.append(sorted(group))
    return groups


def _sides(values: Iterable[int], table: _Table) -> list[list[int]]:
    """Split contradicting values into sides, narrow values first; who fits several sides stands alone."""
    sides: list[list[int]] = []
    for i in values:
        fits = [side for side in sides if all(table[i][j] in {Relation.AGREE, Relation.OPEN} for j in side)]
        if len(fits) == 1:
            fits[0].append(i)
        else:
            sides.append([i])
    return sides
