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
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum, auto
from functools import cache, lru_cache
from itertools import product
from typing import Any, NamedTuple, cast
from unicodedata import category, normalize

from babel import Locale
from babel.core import get_global
from babel.numbers import get_currency_name
from dateutil import parser

from orchestra.errors import WorkflowError

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


# --- names ---


_TELLING = frozenset(["Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Sm", "Sc"])
"""Categories of characters that tell texts apart: letters, marks, numbers, and the signs of sums and money."""


def fold(text: str) -> str:
    """A text as it is compared: without case, accents, white space, punctuation and a leading article.

    What tells texts apart stays: "C++", "C#", "p < 5", the end of "AA-", and the space between two numbers.
    """
    plain = "".join(c for c in normalize("NFKD", text) if not "\u0300" <= c <= "\u036f").casefold().strip()
    plain = re.sub(r"^[\W_]*(?:(?:the|an?)\s+(?=[^\W\d]))+", "", normalize("NFKC", plain)).replace("&", " and ")
    kept = "".join(c if c == "#" or category(c) in _TELLING else " " for c in plain)
    kept = re.sub(r"(?<=\d) +(?=\d)", "\0", kept).replace(" ", "").replace("\0", " ")
    return (kept + "-" if re.search(r"\w-[\W_]*$", plain) else kept) or plain


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


# --- what values mean ---


@dataclass(frozen=True, slots=True)
class Value:
    """What a value means. One of the classes below; this one for "unknown" and the like, which state nothing."""

    @property
    def width(self) -> float:
        """How much it leaves open: 0 for one number, more for a range."""
        return 0.0

    @property
    def start(self) -> float:
        """Where it is among its like."""
        return 0.0


@dataclass(frozen=True, slots=True)
class Words(Value):
    """Plain text, folded."""

    text: str


@dataclass(frozen=True, slots=True)
class Flag(Value):
    """Yes or no."""

    yes: bool


@dataclass(frozen=True, slots=True)
class Version(Value):
    """A version, or another number that is a name: trailing zeros don't count."""

    numbers: tuple[int, ...]
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Unit:
    """What a unit means.

    Attributes:
        base: The unit it is a multiple of: one of pint's, "ratio", "# " and a noun for what is counted, or nothing.
        currency: ISO code, for money; with a `base` for what it is paid per.
        scale: A word such as "million" beside the unit.
        factor: Its size in the base unit.
        zero: Where its zero is in the base unit.
    """

    base: str = ""
    currency: str = ""
    scale: float = 1.0
    factor: float = 1.0
    zero: float = 0.0

    @property
    def bare(self) -> bool:
        """Whether there is none."""
        return not self.base and not self.currency


BARE = Unit()
"""No unit."""


@dataclass(frozen=True, slots=True)
class Amount(Value):
    """A number or a range of numbers, in its unit.

    Attributes:
        low: The least it may be; minus infinity for "at most".
        high: The most.
        unit: Its unit.
        about: Whether it is only about right.
        digits: As written, where the number is all there is: it may be a year or a version.
    """

    low: float
    high: float
    unit: Unit = BARE
    about: bool = False
    digits: str = ""

    @property
    def width(self) -> float:
        """How wide the range is, of its larger end."""
        return (self.high - self.low) / (max(abs(self.low), abs(self.high)) or 1) if self.high > self.low else 0.0

    @property
    def start(self) -> float:
        """The low end in the base unit, or the high one where there is none."""
        return next((end for end in self.based if math.isfinite(end)), 0.0)

    @property
    def based(self) -> tuple[float, float]:
        """The range in base units."""
        return self.low * self.unit.factor + self.unit.zero, self.high * self.unit.factor + self.unit.zero


class _Span(NamedTuple):
    """A stretch of time on the clock of a place, whose offset from UTC may be known."""

    low: datetime
    high: datetime
    offset: timedelta | None = None

    def utc(self) -> _Span:
        """The same where the clock shows UTC; unchanged if that is not known."""
        offset = self.offset or timedelta()
        return _Span(self.low - offset, self.high - offset)


@dataclass(frozen=True, slots=True)
class Moment(Value):
    """A time as precise as it was written; two where it may be read in two ways."""

    readings: tuple[_Span, ...]

    @property
    def width(self) -> float:
        """How long it is, in years."""
        longest = max(span.high - span.low for span in self.readings)
        return longest / timedelta(days=365) * len(self.readings)

    @property
    def start(self) -> float:
        """When it begins, in days."""
        return (self.readings[0].low - _day(1)) / timedelta(days=1)


# --- reading ---

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
        return _of_date(value) or Words(value.isoformat())
    if isinstance(value, int) and value.bit_length() > 500:  # Python refuses to write out the longest ones
        return Words(hex(value))
    text = str(value)
    if len(text) > _LONGEST or len(unit or "") > _LONGEST:
        return Words(comparing.name(f"{text} {unit}" if unit else text))
    text, plain = _tidy(text), comparing.name(text)
    if plain in _UNKNOWN or text.casefold() in _UNKNOWN:
        return Value()
    if plain in _FLAGS:
        return Flag(_FLAGS[plain])
    if label and re.fullmatch(r"\d{1,3}(,\d{3})+", text):
        text = text.replace(",", "")
    found = _version(text, label=label) or _moment(text, day_first=comparing.day_first)
    if found is None and not label:
        found = _amount(text, _tidy(unit or ""))
        if found is None and unit and re.search(r"\d", text):  # in "g/100 ml", say: not the same as in "mg/100 ml"
            plain = comparing.name(f"{text} {unit}")
    if found is None and (code := _currency(text)):  # a currency itself, by any of its names
        plain = comparing.name(code)
    return found or Words(plain.replace(" ", "") if label else plain)


def _tidy(text: str) -> str:
    """One form for characters that look alike, with powers and fractions kept apart from the digits before them."""
    text = re.sub("[¼-¾⅐-⅞]", lambda m: " " + normalize("NFKC", m[0]), text)
    text = re.sub("[⁰¹²³⁴-⁹⁻]+", lambda m: "^" + normalize("NFKC", m[0]), text)
    text = normalize("NFKC", text).translate(str.maketrans("−–—‐‑⁄’′″·×", "-----/''\"*x"))  # noqa: RUF001 -- meant
    return " ".join(re.sub(r"\d", lambda m: str(int(m[0])), text).split())  # of all scripts


_VERSION = re.compile(
    r"(v(?:ersion)? ?\.?)?(\d{1,9}(?:\.\d{1,9}){0,5})(?:[-+.]?([a-z][a-z0-9.+-]{0,40}))?", re.IGNORECASE
)


def _version(text: str, *, label: bool) -> Version | None:
    """A version: with a "v", with two dots or more, or by what it is for; but no date and no grouped number."""
    found = _VERSION.fullmatch(text)
    if not found:
        return None
    mark, release, suffix = found.groups()
    numbers = [int(part) for part in release.split(".")]
    address = len(numbers) == 4 and max(numbers) < 256
    grouped = re.fullmatch(r"\d{1,3}(\.\d{3})+|\d{4}\.\d\d\.\d\d|\d\d?\.\d\d?\.[12]\d{3}", release) and not address
    if not (mark or label or (len(numbers) > 2 and not grouped)):
        return None
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return Version(tuple(numbers), re.sub(r"[-_.]", "", suffix or "").casefold())


_YEAR = r"[12]\d{3}"
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DAY = r"(?P<day>\d\d?)(?:st|nd|rd|th)?"
_CLOCK = (
    r"(?:,?(?: at)?[ T](?P<clock>\d\d?(?::\d\d(?P<second>:\d\d(?:\.\d{1,9})?)?| ?[ap]m)(?: ?[ap]m)?)"
    r"(?: ?(?:Z|UTC|GMT|[+-]\d\d:?\d\d))?)?"
)
_DATES = tuple(
    re.compile(rf"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\.?,? )?{shape}", re.IGNORECASE)
    for shape in (
        rf"{_YEAR}(?P<sep>[-/.])\d\d?(?P=sep)(?P<day>\d\d?){_CLOCK}",
        rf"{_YEAR}-(?:0[1-9]|1[0-2])",
        rf"{_DAY}(?: of|[ -])? ?{_MONTH}(?:,? |-){_YEAR}{_CLOCK}",
        rf"{_MONTH} {_DAY},? {_YEAR}{_CLOCK}",
        rf"{_MONTH},?(?: of)? {_YEAR}",
        rf"(?P<first>\d\d?)(?P<sep>[-/.])(?P<day>\d\d?)(?P=sep){_YEAR}{_CLOCK}",
    )
)


def _moment(text: str, *, day_first: bool) -> Moment | None:
    """A date, with a time or without, or a month, quarter, half or decade."""
    if found := re.fullmatch(rf"(?:the )?({_YEAR[:-3]}\d\d)0'?s", text):
        return _months(int(found[1]) * 10, 0, 120)
    if found := re.fullmatch(
        rf"([qh])([1-4]),? ?({_YEAR})", re.sub(rf"({_YEAR})[ /-]?([qhQH]\d)", r"\2 \1", text).lower()
    ):
        long = {"q": 3, "h": 6}[found[1]]
        return _months(int(found[3]), long * (int(found[2]) - 1), long) if long * int(found[2]) <= 12 else None
    found = next(filter(None, (shape.fullmatch(text) for shape in _DATES)), None)
    if not found:
        return None
    parts = found.groupdict()
    orders = [False]
    if parts.get("first"):
        orders = [True] if day_first or parts["sep"] == "." else [True, False]
    readings: dict[_Span, None] = {}
    for order in orders:
        try:
            at = parser.parse(text.replace(" of ", " "), dayfirst=order, default=_day(2000))
            long = timedelta(seconds=1) if parts.get("second") else _precision(parts.get("clock"))
            readings[_span(at, long) if parts.get("day") else _months(at.year, at.month - 1, 1).readings[0]] = None
        except (ValueError, OverflowError):  # there is no such day
            continue
    return Moment(tuple(readings)) if readings else None


def _precision(clock: str | None) -> timedelta:
    return timedelta(days=1) if not clock else timedelta(minutes=1) if ":" in clock else timedelta(hours=1)


def _day(year: int, month: int = 1, day: int = 1) -> datetime:
    return datetime(year, month, day)  # noqa: DTZ001 -- on the clock of whatever place is meant


def _months(year: int, first: int, count: int) -> Moment:
    """Some months on end, the first counted from 0."""
    end = first + count
    return Moment((_Span(_day(year, first + 1), _day(year + end // 12, end % 12 + 1)),))


def _span(at: datetime, long: timedelta) -> _Span:
    """From the moment for as long as what was written leaves open."""
    low = at.replace(tzinfo=None)
    return _Span(low, low + long, at.utcoffset())


def _of_date(value: date) -> Moment | None:
    """A day, or a moment as precise as it has seconds."""
    if not 1000 <= value.year < 3000:  # far from the ends of what a datetime can hold
        return None
    if isinstance(value, datetime):
        return Moment((_span(value, timedelta(seconds=1 if value.second or value.microsecond else 60)),))
    return Moment((_span(_day(value.year, value.month, value.day), timedelta(days=1)),))


# --- numbers ---

_DIGITS = (
    r"(?P<number>(?:\d(?:[\d.,'_]|[ ](?=\d{3}(?!\d)))*|\.\d+)(?<![.,'_]))"
    r"(?:e(?P<exp>[+-]?\d{1,3})(?![\d.])| ?[x*] ?10\^(?P<power>-?\d{1,3}))?"
    r"(?: ?(?:/| out of ) ?(?P<under>[1-9]\d{0,5})(?!\w)| (?P<part>[1-9]\d?/[1-9]\d?)(?!\w))?"
)
_ONE = re.compile(
    rf"(?P<sign>[-+]|minus )? ?(?P<before>[^\d()+-]{{0,24}}?) ?(?P<sign2>[-+])? ?{_DIGITS}(?P<after>\D.*|)",
    re.IGNORECASE,
)


def _marked(before: str, after: str) -> re.Pattern[str]:
    """Words that say something of the number that they stand before, or after."""
    front = rf"(?:{before})(?:(?<=\W)|\b|(?=\d)) ?(?=\D{{0,12}}\d)"
    return re.compile(rf"{front}|(?P<end>.*\d\D{{0,24}}?),? ?(?:{after})$", re.IGNORECASE)


_ABOUT_MARK = _marked(
    r"~|≈|about|around|approximately|approx\.?|roughly|circa|ca\.|nearly|almost|estimated(?: at)?",
    r"\bor so|\bapproximately|\bapprox\.?",
)
_AT_LEAST = _marked(
    r">=?|≥|at least|(?:more|no less|not less|greater) than|over|above|minimum(?: of)?|min\.",
    r"\+|\bor more|\band above|\band up|\bor above|\bminimum",
)
_AT_MOST = _marked(
    r"<=?|≤|at most|(?:less|fewer|no more|not more) than|under|below|up to|maximum(?: of)?|max\.",
    r"\bor less|\bor fewer|\band below|\bor below|\bmaximum",
)
_RANGE = re.compile(
    r"(?:between |from )?(?P<low>\D{0,24}\d[^-]*?)(?P<by> ?\+/?- ?| ?± ?| ?- ?| to | and | ?\.\.\.? ?)"
    r"(?P<high>\D{0,24}\d.*)",
    re.IGNORECASE,
)


def _without(mark: re.Pattern[str], text: str) -> str | None:
    """The rest of a text that starts or ends with a mark; nothing if it does not."""
    found = mark.match(text)
    return None if not found else text[found.end() :] if found["end"] is None else found["end"]


def _amount(text: str, unit: str) -> Amount | None:
    """A number, a range or a bound; nothing if the text is none of these."""
    text = re.sub(r"(\d[KMBkm]?)\+ ?(?=[^\W\d])(.*)", r"\1 \2 or more", text)  # 5,000+ users
    rest = _without(_ABOUT_MARK, text)
    text, about = (text, False) if rest is None else (rest, True)
    for mark, bound in ((_AT_LEAST, {"high": math.inf}), (_AT_MOST, {"low": -math.inf})):
        if (rest := _without(mark, text)) is not None:
            found = _single(rest, unit)
            return found and replace(found, about=about, digits="", **bound)
    found = _single(text, unit) or _compound(text) or _range(text, unit)
    if found is None and (remark := re.fullmatch(r"([^()]*\d[^()]*)\([^()]*\)", text)):  # $5 million (2023)
        found = _amount(remark[1].strip(), unit)
    about = about or (found is not None and found.about)
    return found and replace(found, about=about, digits="" if about else found.digits)


def _single(text: str, unit: str) -> Amount | None:
    """One number with its unit."""
    if negative := re.fullmatch(r"([^\d()]*)\(([^()]+)\)([^\d()]*)", text):  # as accountants write it
        text = "-" + "".join(negative.groups())
    found = _ONE.fullmatch(text)
    number = found and _number(found)
    meant = found and _unit(found["before"].strip(), found["after"], unit)
    if not found or number is None or meant is None:
        return None
    number *= meant.scale
    if not math.isfinite(number * meant.factor):
        return None
    digits = text if meant == BARE and re.fullmatch(r"\d+(\.\d+)*", text) else ""
    return Amount(number, number, replace(meant, scale=1.0), digits=digits)


def _number(found: re.Match[str]) -> float | None:
    """The number in a match of `_ONE`; nothing if its separators are in no order."""
    digits = found["number"]
    marks = "".join(dict.fromkeys(c for c in digits if not c.isdigit()))
    whole, decimals = digits, ""
    if len(marks) == 2 or (len(marks) == 1 and marks in ".," and digits.count(marks) == 1 and not _grouped(digits)):
        if marks[-1] not in ".,":
            return None
        whole, decimals = digits.rsplit(marks[-1], 1)
    if not whole.isdigit() and whole and not _grouped(whole, decimals=bool(decimals)):
        return None
    number = float(f"{re.sub(r'[^0-9]', '', whole) or 0}.{decimals or 0}e{found['exp'] or found['power'] or 0}")
    if found["under"]:
        number /= int(found["under"])
    if found["part"]:
        over, under = found["part"].split("/")
        number += int(over) / int(under)
    negative = "-" in (found["sign"], found["sign2"]) or (found["sign"] or "").lower() == "minus "
    return -number if negative else number


def _grouped(digits: str, *, decimals: bool = False) -> bool:
    """Whether separators part the thousands: 1,000 and 1.000.000 and 12,34,567; 1.000 only if decimals follow."""
    if re.fullmatch(r"[1-9]\d{0,2}(?:,\d{2,3})*,\d{3}", digits):
        return True
    return (decimals or digits.count(".") != 1) and bool(re.fullmatch(r"[1-9]\d{0,2}([ .'_])\d{3}(?:\1\d{3})*", digits))


def _compound(text: str) -> Amount | None:
    """Several numbers that are one, as 5 ft 11 in and 1 h 30 min are."""
    if not re.fullmatch(r"(?:(?:,? (?:and )?)?\d[\d.]* ?(?:[^\W\d]+|['\"])){2,4}", text):
        return None
    total, unit = 0.0, BARE
    for digits, name in re.findall(r"(\d[\d.]*) ?([^\W\d]+|['\"])", text):
        one = _single(digits, "min" if name == "m" and unit.base == "second" else name)
        if one is None or not one.unit.base or one.unit.zero:
            return None
        if unit.base and (one.unit.base != unit.base or one.unit.factor >= unit.factor):
            return None
        total, unit = total + one.based[0], one.unit
    return Amount(total / unit.factor, total / unit.factor, unit)


def _range(text: str, unit: str) -> Amount | None:
    """Two numbers, of which one may leave out what the other says; or a number and how far off it may be."""
    found = _RANGE.fullmatch(text)
    first, last = (_ONE.fullmatch(found["low"]), _ONE.fullmatch(found["high"])) if found else (None, None)
    if not found or not first or not last:
        return None
    low, high = _end(first, last, unit), _end(last, first, unit)
    if low is None or high is None or (low.unit.base, low.unit.currency) != (high.unit.base, high.unit.currency):
        return None
    if found["by"].strip() in {"+-", "+/-", "±"}:
        off = abs(high.low)
        return Amount(low.low - off, low.low + off, low.unit) if low.unit == high.unit else None
    top = (high.based[0] - low.unit.zero) / low.unit.factor
    return Amount(low.low, top, low.unit) if low.low <= top else None


def _end(one: re.Match[str], other: re.Match[str], unit: str) -> Amount | None:
    before = one["before"].strip() or other["before"].strip()
    after = one["after"] if one["after"].strip() else other["after"]
    bare = one.group()[one.start("number") : one.start("after")]
    return _single(f"{'-' if '-' in (one['sign'], one['sign2']) else ''}{before} {bare}{after}", unit)


# --- units ---


def _table(text: str) -> dict[str, str]:
    """What names stand for; a comma parts names, an underscore is a blank in them."""
    pairs = (entry.split("=") for entry in text.split())
    return {name.replace("_", " "): meaning for names, meaning in pairs for name in names.split(",")}


_SCALES = _table("""
    hundred,hundreds=1e2 thousand,thousands,k,tsd=1e3 lakh,lakhs=1e5 crore,crores=1e7 dozen=12
    million,millions,mln,mio,mn=1e6 billion,billions,bln,bn=1e9 trillion,trillions,tn,trn=1e12""")

_LETTERS = _table("K=1e3 M,m=1e6 B,b=1e9 T=1e12")
"""Scales that are units too."""

_RATIOS = _table("""
    %,percent,pct,per_cent=1e-2 ‰,permille=1e-3 bp,basis_point,basis_points=1e-4 ppm=1e-6 ppb=1e-9""")

_CASUAL = _table("""
    c,°c,deg_c,degrees_c,degrees_celsius,degree_celsius=degC f,°f,deg_f,degrees_f,degrees_fahrenheit=degF °=degree
    sqm=m^2 sqft=ft^2 kmh,kph=km/h bps=bit/s kbps=kbit/s mbps=Mbit/s gbps=Gbit/s kb=kB mb=MB gb=GB tb=TB pb=PB
    mo,mos=month wk,wks=week '=ft "=in""")
"""What people write, in any case, that pint calls something else or takes for something else."""

_BITS = frozenset(("Kb", "Mb", "Gb", "Tb"))

_COUNTED = frozenset(["pcs", "fps", "cats", "points", "hands", "links", "chains", "rods", "counts", "dots", "turns"])
"""What pint takes for units and people count."""

_ALONE = frozenset("mgshdtlLKAVWJNBΩy")
"""Letters that are units on their own; some others are constants of nature to pint."""

_MONEY = _table("""
    $,us$,us_dollar,dollar,buck=USD c$=CAD s$=SGD ¥=JPY rmb,renminbi=CNY rs,rupee=INR won=KRW euro=EUR
    sterling,pound_sterling,pounds_sterling=GBP""")
"""Names and symbols of currencies that babel does not have, or has for several."""


def _singular(text: str) -> str:
    return re.sub("(?<=[a-z]{2})s$", "", text.casefold())


@cache
def _currencies() -> Mapping[str, str]:
    """ISO codes of currencies in use by what is one's alone: names, the last word of names, symbols."""
    english = Locale("en")
    codes = cast("Mapping[str, str]", english.currencies)
    symbols = cast("Mapping[str, str]", english.currency_symbols)
    countries = cast("Mapping[str, Sequence[tuple[str, Any, Any, bool]]]", get_global("territory_currencies"))
    now = {code for had in countries.values() for code, _, end, tender in had if tender and not end} & codes.keys()
    names: dict[str, set[str]] = {}
    for code in now:
        for name in (get_currency_name(code, count, "en") for count in (None, 1, 2)):
            for short in (name, name.split()[-1]):
                names.setdefault(_singular(short), set()).add(code)
    found = {name: min(of) for name, of in names.items() if len(of) == 1}
    for code in now:
        if (symbol := symbols.get(code, code)) != code:  # these are known by small letters too: "usd", but not "all"
            found |= {symbol.casefold(): code, code.casefold(): code}
    return {**found, **_MONEY, **{code: code for code in codes}}


def _currency(text: str) -> str:
    """The ISO code of a currency; nothing if a text names none."""
    text, known = text.strip(" ."), _currencies()
    singular = _singular(text) if len(text) > 4 else text  # Gbps are no pounds
    return known.get(text) or known.get(text.casefold()) or known.get(singular) or ""


@lru_cache(maxsize=4096)
def _unit(before: str, after: str, other: str) -> Unit | None:
    """The unit of a number, by what is before and after it, and by what was given beside it; nothing if it is none."""
    code = _currency(before) if before else ""
    if before and not code:
        return None
    beside = _named(" " + other, money=bool(code)) if other else BARE
    own = _named(after, money=bool(code or (beside and beside.currency)))
    if own and own.bare and other:  # what the number says itself goes first
        own = beside and (beside if own.scale == 1 else replace(beside, scale=own.scale))
    if own is None or not code:
        return own
    fits = own.currency == code or (not own.currency and own.base[:1] in {"", "/"})
    return replace(own, currency=code) if fits else None


def _named(text: str, *, money: bool) -> Unit | None:
    """The unit in the text after a number; nothing if it is none."""
    attached = not text.startswith(" ")
    text = " ".join(re.sub(r"[()]", " ", text).split()).strip(" .,")
    if (what := text.partition(" of ")[0]).casefold() not in _SCALES:  # GB of memory, but millions of dollars
        text = what
    if ratio := _RATIOS.get(text.casefold()):
        return Unit("ratio", factor=float(ratio))
    if attached and re.match(r"(?:st|nd|rd|th)\b", text):
        return None
    head, *per = re.split(r" ?/ ?| ?\b(?:per|an?) ", text)
    scale, head = _scaled(head.strip(), attached=attached, money=money)
    code = _currency(head)
    mixed = None if code else re.fullmatch(r"([A-Z]{0,3}[$€£¥₹]|[A-Z]{3}) ?([A-Za-z]+)", head)
    if mixed and (code := _currency(mixed[1])):  # USDm, $ bn, EUR million
        more, rest = _scaled(mixed[2], attached=True, money=True)
        if rest:
            return None
        scale *= more
    elif head and not code and (physical := _physical("/".join((head, *per)))):
        return replace(physical, scale=scale)
    first = BARE if code or not head else _counted(head)
    below = [unit for name in per if (unit := _physical(name) or _counted(name)) and not unit.zero]
    if first is None or len(below) < len(per):
        return None
    base = "".join((first.base, *sorted("/" + unit.base for unit in below)))
    return Unit(base, code, scale, 1 / math.prod(unit.factor for unit in below))


def _scaled(text: str, *, attached: bool, money: bool) -> tuple[float, str]:
    """Take words such as "million" from the front of a text."""
    scale = 1.0
    while found := re.match(r"([A-Za-z]+)(?:\.? (?:of )?|(?=[$€£¥₹])|\.?$)", text):
        word, rest = found[1], text[found.end() :]
        if word in _LETTERS:
            if not (money or word == "M" or (attached and (word not in "mb" or rest)) or _currency(rest)):
                break
            scale *= float(_LETTERS[word])
        elif factor := _SCALES.get(word.casefold()):
            scale *= float(factor)
        else:
            break
        text, attached = rest, False
    return scale, text


def _counted(text: str) -> Unit | None:
    """What is counted is a unit too: people, requests, stars."""
    if not re.fullmatch(r"[^\W\d_]+(?:[ &'-]+[^\W\d_]+){0,3}", text):
        return None
    return Unit("# " + _singular(fold(text)))


@cache
def _registry() -> Any:
    """Pint's units, made when the first is needed: with the import that takes over half a second."""
    import pint  # noqa: PLC0415 -- see above; who claims no units need not wait for it

    return cast("Any", pint.UnitRegistry())


_FACTOR = re.compile(
    r"(?:(?P<power>square|sq\.?|cubic|cu\.?) )?(?P<name>[^\W\d_]+(?: [^\W\d_]+)?|°[CF]?|['\"])(?:\^?(?P<exp>-?[1-4]))?"
)


@lru_cache(maxsize=4096)
def _physical(text: str) -> Unit | None:
    """A unit that pint knows. It is taken apart here and pint sees single names: it evaluates what it is given."""
    unit: Any = None
    for index, part in enumerate(re.split(r" ?/ ?| per ", _usual(text))):
        for factor in part.split("*"):
            found = _FACTOR.fullmatch(factor.strip())
            one = found and _pint(found["name"])
            if not found or one is None:
                return None
            power = {"s": 2, "c": 3}.get((found["power"] or " ")[0], 1) * int(found["exp"] or 1)
            one **= power if index == 0 else -power
            unit = one if unit is None else unit * one
    registry = _registry()
    try:
        base = registry.Quantity(1.0, unit).to_base_units().units
        base = registry.degC if base == registry.kelvin else base  # half a percent of 293 K is no tolerance
        at = [float(registry.Quantity(x, unit).to(base).magnitude) for x in (0.0, 1.0, 2.0)]
    except (ValueError, ArithmeticError, TypeError):  # pint's own errors are one of these
        return None
    zero, factor = at[0], at[1] - at[0]
    if not 1e-60 < factor < 1e60 or not math.isclose(at[2] - at[1], factor, rel_tol=1e-6):  # decibels, for one
        return None
    return Unit("ratio" if str(base) == "dimensionless" else str(base), factor=factor, zero=zero)


def _usual(name: str) -> str:
    """What pint calls a unit that people write in another way; Gb are bits, while gb are bytes."""
    return (
        f"{name[0].lower() if name[0] == 'K' else name[0]}bit" if name in _BITS else _CASUAL.get(name.casefold(), name)
    )


def _pint(name: str) -> Any:
    """What pint calls a unit; nothing if it does not know it."""
    name = _usual(name)
    if name.casefold() in _COUNTED or (len(name) == 1 and name not in _ALONE) or not name.replace(" ", "a").isalpha():
        return None
    for spelling in dict.fromkeys((name.replace(" ", "_"), name.replace(" ", "_").lower())):
        try:
            return _registry().parse_units(spelling)
        except (ValueError, ArithmeticError, TypeError, AttributeError):  # an unknown unit is an AttributeError
            continue
    return None


# --- comparing ---


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
        version = _version(other.digits, label=True) if isinstance(other, Amount) and other.digits else other
        if isinstance(one, Moment) and isinstance(version, Version) and _year(version.numbers):
            return relate(one, _months(version.numbers[0], 0, 12))
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


def _spans(a: _Span, b: _Span) -> Relation:
    if a.high <= b.low or b.high <= a.low:
        return Relation.DIFFER
    nested = any(x.low <= y.low and y.high <= x.high for x, y in ((a, b), (b, a)))
    return Relation.AGREE if nested else Relation.OPEN
