"""What a value means, however it is written: `read` it, and `relate` two of them.

Values are text from models, so reading is bounded: a longer text than 200 characters is only text, and nothing that
is read is ever evaluated. Numbers and the structure of units are parsed here; pint sees single names of letters.

What is written is taken by what it most likely means: "1,000" is a thousand and "1.000" is one, "$" is the dollar of
the United States, "5 m" is in metres but "$5m" in millions, "5M" and "5B" are millions and billions but "5 B" is in
bytes, "25 C" is a temperature. A number without a unit is taken to have the unit of the other, and beside a percentage
it may also be the ratio. "03/04/2024" may be two days, unless the day comes first by declaration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, auto
from itertools import product

from babel import Locale

from orchestra.errors import WorkflowError
from orchestra.readings import (
    Amount,
    Flag,
    Moment,
    Span,
    Value,
    Version,
    Words,
    amount_of,
    date_of,
    moment_of,
    months,
    tidy,
    version_of,
)
from orchestra.units import currency_of, fold

Plain = str | int | float | bool | Decimal | date | datetime
"""What a claim may say."""

_LONGEST = 200
"""Characters of a text that is read as anything but text."""

_ABOUT = 0.05
"""By what part two numbers may differ if one of them is said to be about right."""

_NOISE = 1e-9
"""By what part numbers that mean the same may differ after being converted."""


class Relation(Enum):
    """How two values stand to each other."""

    AGREE = auto()
    DIFFER = auto()
    OPEN = auto()
    """Both may be true, but neither says what the other says: "over 5" and 7."""
    UNLIKE = auto()
    """They can't be compared: metres with kilograms, a number with a word."""


@dataclass(frozen=True, slots=True)
class Comparing:
    """How values are compared.

    Attributes:
        relative: By what part of the larger two numbers may differ and still agree.
        absolute: By how much they may differ; for what has a unit in SI base units, degrees Celsius or the currency.
        aliases: Other names of subjects, attributes and values, by the name they stand for.
        rates: What one unit of each currency is worth in one common currency, by ISO code. Without a rate for both,
            two currencies can't be compared.
        day_first: Whether 03/04/2024 is in April; otherwise it may also be in March.

    Raises:
        WorkflowError: A tolerance or rate is not possible, a currency is unknown, or a name stands for two things.
    """

    relative: float = 0.005
    absolute: float = 0.0
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    rates: Mapping[str, float] = field(default_factory=dict[str, float])
    day_first: bool = False
    _names: dict[str, str] = field(init=False, repr=False, compare=False, default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if not 0 <= self.relative < 1:
            raise WorkflowError(f"a relative tolerance of {self.relative} is not possible: give a part from 0 up to 1")
        if not 0 <= self.absolute < math.inf:
            raise WorkflowError(f"an absolute tolerance of {self.absolute} is not possible: give a number from 0 up")
        for code, rate in self.rates.items():
            if code not in Locale("en").currencies:
                raise WorkflowError(f"rates: there is no currency {code!r}: give ISO codes such as 'EUR'")
            if not 0 < rate < math.inf:
                raise WorkflowError(f"rates: {rate} is no rate for {code}: give a number above 0")
        for name, others in self.aliases.items():
            if isinstance(others, str):
                raise WorkflowError(f"aliases: the names for {name!r} are one text: give a list, [{others!r}]")
            for other in map(fold, (name, *others)):
                if self._names.setdefault(other, fold(name)) != fold(name):
                    raise WorkflowError(
                        f"aliases: {other!r} stands for {self._names[other]!r} and for {name!r}: drop one"
                    )

    def name(self, text: str) -> str:
        """A name as it is compared: folded, and the canonical one of its aliases."""
        folded = fold(text)
        return self._names.get(folded, folded)


_DEFAULT = Comparing()


_UNKNOWN = frozenset({"", "?", "-", "unknown", "na", "n/a", "none", "null", "nil", "notknown", "notavailable", "tbd"})
_FLAGS = {"yes": True, "true": True, "no": False, "false": False}


def read(value: Plain, unit: str | None = None, comparing: Comparing = _DEFAULT, *, label: bool = False) -> Value:
    """Read what a value means.

    Args:
        value: As it was stated.
        unit: Of the value, where the value names none itself; it may be a currency, and hold a word such as "million".
        comparing: Aliases, and which of day and month comes first.
        label: Whether numbers are names, as those of versions, years and ports are: 3.1 is not 3.10 then, nor 8080
            nearly 8081.

    Returns:
        What it means. Any text can be read: what is nothing else is `Words`.
    """
    if isinstance(value, bool):
        return Flag(value)
    if isinstance(value, date):
        return date_of(value) or Words(value.isoformat())
    if isinstance(value, int) and value.bit_length() > 500:  # Python refuses to write out the longest ones
        return Words(hex(value))
    text = str(value)
    if len(text) > _LONGEST or len(unit or "") > _LONGEST:
        return Words(comparing.name(f"{text} {unit}" if unit else text))
    text, plain = tidy(text), comparing.name(text)
    if plain in _UNKNOWN or text.casefold() in _UNKNOWN:
        return Value()
    if plain in _FLAGS:
        return Flag(_FLAGS[plain])
    if label and re.fullmatch(r"\d{1,3}(,\d{3})+", text):
        text = text.replace(",", "")
    found = version_of(text, label=label) or moment_of(text, day_first=comparing.day_first)
    if found is None and not label:
        found = amount_of(text, tidy(unit or ""))
        if found is None and unit and re.search(r"\d", text):  # in "g/100 ml", say: not the same as in "mg/100 ml"
            plain = comparing.name(f"{text} {unit}")
    if found is None and (code := currency_of(text)):  # a currency itself, by any of its names
        plain = comparing.name(code)
    return found or Words(plain.replace(" ", "") if label else plain)


def agree(a: Value, b: Value, comparing: Comparing = _DEFAULT) -> bool | None:
    """Whether two values say the same; `None` where that can't be said."""
    return {Relation.AGREE: True, Relation.DIFFER: False}.get(relate(a, b, comparing))


def relate(a: Value, b: Value, comparing: Comparing = _DEFAULT) -> Relation:
    """How two values stand to each other; the same in both directions.

    Numbers agree within the tolerance; a range or a date with what lies in it; texts, versions and flags with their
    like. Values of different kinds are unlike, and so are different dimensions, currencies without rates, and counts of
    different things. A bound ("over 5") agrees with itself only: it differs from what it excludes and is open else.
    """
    if a == b:
        return Relation.AGREE
    if isinstance(a, Amount) and isinstance(b, Amount):
        return _amounts(a, b, comparing)
    for one, other in ((a, b), (b, a)):
        version = version_of(other.digits, label=True) if isinstance(other, Amount) and other.digits else other
        if isinstance(one, Moment) and isinstance(version, Version) and _year(version.numbers):
            return relate(one, months(version.numbers[0], 0, 12))
        if isinstance(one, Version) and isinstance(version, Version):
            return Relation.AGREE if one == version else Relation.DIFFER
    if isinstance(a, Moment) and isinstance(b, Moment):
        return _moments(a, b)
    return Relation.DIFFER if type(a) is type(b) else Relation.UNLIKE


def _year(numbers: Sequence[int]) -> bool:
    return len(numbers) == 1 and 1000 <= numbers[0] < 3000


def _amounts(a: Amount, b: Amount, comparing: Comparing) -> Relation:
    if _year([int(a.digits)] if a.digits.isdecimal() else []) and _year(
        [int(b.digits)] if b.digits.isdecimal() else []
    ):
        return Relation.AGREE if a.low == b.low else Relation.DIFFER  # 1998 is not nearly 2004, if they are years
    ratio = next((one.unit.factor for one in (a, b) if one.unit.base == "ratio"), None)
    written = ((a.low, a.high), (b.low, b.high))
    based = (a.based, b.based)
    if a.unit.bare or b.unit.bare:
        readings = [written, based] if ratio else [written]
    elif a.unit.base != b.unit.base:
        return Relation.UNLIKE
    elif a.unit.currency == b.unit.currency:
        readings = [based]
    elif a.unit.currency in comparing.rates and b.unit.currency in comparing.rates:
        rates = comparing.rates[a.unit.currency], comparing.rates[b.unit.currency]
        readings = [
            ((based[0][0] * rates[0], based[0][1] * rates[0]), (based[1][0] * rates[1], based[1][1] * rates[1]))
        ]
    else:
        return Relation.UNLIKE
    relative = max(comparing.relative, _ABOUT if a.about or b.about else 0.0)
    found = {_ranges(one, other, relative, comparing.absolute) for one, other in readings}
    return next(r for r in (Relation.AGREE, Relation.OPEN, Relation.DIFFER) if r in found)


def _ranges(a: tuple[float, float], b: tuple[float, float], relative: float, absolute: float) -> Relation:
    size = max((abs(end) for end in (*a, *b) if math.isfinite(end)), default=0.0)
    off = max(absolute, relative * size) + _NOISE * size + 1e-12
    if a[1] < b[0] - off or b[1] < a[0] - off:
        return Relation.DIFFER
    same = all(x == y or abs(x - y) <= off for x, y in zip(a, b, strict=True))
    if same or (
        math.isfinite(sum((*a, *b))) and any(x[0] <= y[0] + off and y[1] <= x[1] + off for x, y in ((a, b), (b, a)))
    ):
        return Relation.AGREE
    return Relation.OPEN


def _moments(a: Moment, b: Moment) -> Relation:
    """Moments with and without an offset are compared as clocks show them, and in UTC."""
    found: set[Relation] = set()
    for one, other in product(a.readings, b.readings):
        known = one.offset is not None and other.offset is not None
        pairs = [(one.utc(), other.utc())] if known else [(one, other), (one.utc(), other.utc())]
        relations = {_spans(x, y) for x, y in pairs}
        found.add(next(r for r in (Relation.AGREE, Relation.OPEN, Relation.DIFFER) if r in relations))
    return found.pop() if len(found) == 1 else Relation.OPEN


def _spans(a: Span, b: Span) -> Relation:
    if a.high <= b.low or b.high <= a.low:
        return Relation.DIFFER
    nested = any(x.low <= y.low and y.high <= x.high for x, y in ((a, b), (b, a)))
    return Relation.AGREE if nested else Relation.OPEN
