"""What a text means: a version, a time, an amount. Each reader gives nothing where a text is not of its kind."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import NamedTuple
from unicodedata import normalize

from dateutil import parser

from orchestra.units import BARE, Unit, unit_of


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


class Span(NamedTuple):
    """A stretch of time on the clock of a place, whose offset from UTC may be known."""

    low: datetime
    high: datetime
    offset: timedelta | None = None

    def utc(self) -> Span:
        """The same where the clock shows UTC; unchanged if that is not known."""
        offset = self.offset or timedelta()
        return Span(self.low - offset, self.high - offset)


@dataclass(frozen=True, slots=True)
class Moment(Value):
    """A time as precise as it was written; two where it may be read in two ways."""

    readings: tuple[Span, ...]

    @property
    def width(self) -> float:
        """How long it is, in years."""
        longest = max(span.high - span.low for span in self.readings)
        return longest / timedelta(days=365) * len(self.readings)

    @property
    def start(self) -> float:
        """When it begins, in days."""
        return (self.readings[0].low - _day(1)) / timedelta(days=1)


def tidy(text: str) -> str:
    """One form for characters that look alike, with powers and fractions kept apart from the digits before them."""
    text = re.sub("[¼-¾⅐-⅞]", lambda m: " " + normalize("NFKC", m[0]), text)
    text = re.sub("[⁰¹²³⁴-⁹⁻]+", lambda m: "^" + normalize("NFKC", m[0]), text)
    text = normalize("NFKC", text).translate(str.maketrans("−–—‐‑⁄’′″·×", "-----/''\"*x"))  # noqa: RUF001 -- meant
    return " ".join(re.sub(r"\d", lambda m: str(int(m[0])), text).split())  # of all scripts


_VERSION = re.compile(
    r"(v(?:ersion)? ?\.?)?(\d{1,9}(?:\.\d{1,9}){0,5})(?:[-+.]?([a-z][a-z0-9.+-]{0,40}))?", re.IGNORECASE
)


def version_of(text: str, *, label: bool) -> Version | None:
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


def moment_of(text: str, *, day_first: bool) -> Moment | None:
    """A date, with a time or without, or a month, quarter, half or decade."""
    if found := re.fullmatch(rf"(?:the )?({_YEAR[:-3]}\d\d)0'?s", text):
        return months(int(found[1]) * 10, 0, 120)
    if found := re.fullmatch(
        rf"([qh])([1-4]),? ?({_YEAR})", re.sub(rf"({_YEAR})[ /-]?([qhQH]\d)", r"\2 \1", text).lower()
    ):
        long = {"q": 3, "h": 6}[found[1]]
        return months(int(found[3]), long * (int(found[2]) - 1), long) if long * int(found[2]) <= 12 else None
    found = next(filter(None, (shape.fullmatch(text) for shape in _DATES)), None)
    if not found:
        return None
    parts = found.groupdict()
    orders = [False]
    if parts.get("first"):
        orders = [True] if day_first or parts["sep"] == "." else [True, False]
    readings: dict[Span, None] = {}
    for order in orders:
        try:
            at = parser.parse(text.replace(" of ", " "), dayfirst=order, default=_day(2000))
            long = timedelta(seconds=1) if parts.get("second") else _precision(parts.get("clock"))
            readings[_span(at, long) if parts.get("day") else months(at.year, at.month - 1, 1).readings[0]] = None
        except (ValueError, OverflowError):  # there is no such day
            continue
    return Moment(tuple(readings)) if readings else None


def _precision(clock: str | None) -> timedelta:
    return timedelta(days=1) if not clock else timedelta(minutes=1) if ":" in clock else timedelta(hours=1)


def _day(year: int, month: int = 1, day: int = 1) -> datetime:
    return datetime(year, month, day)  # noqa: DTZ001 -- on the clock of whatever place is meant


def months(year: int, first: int, count: int) -> Moment:
    """Some months on end, the first counted from 0."""
    end = first + count
    return Moment((Span(_day(year, first + 1), _day(year + end // 12, end % 12 + 1)),))


def _span(at: datetime, long: timedelta) -> Span:
    """From the moment for as long as what was written leaves open."""
    low = at.replace(tzinfo=None)
    return Span(low, low + long, at.utcoffset())


def date_of(value: date) -> Moment | None:
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


def amount_of(text: str, unit: str) -> Amount | None:
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
        found = amount_of(remark[1].strip(), unit)
    about = about or (found is not None and found.about)
    return found and replace(found, about=about, digits="" if about else found.digits)


def _single(text: str, unit: str) -> Amount | None:
    """One number with its unit."""
    if negative := re.fullmatch(r"([^\d()]*)\(([^()]+)\)([^\d()]*)", text):  # as accountants write it
        text = "-" + "".join(negative.groups())
    found = _ONE.fullmatch(text)
    number = found and _number(found)
    meant = found and unit_of(found["before"].strip(), found["after"], unit)
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
