"""Stretches of time in a question: "last month", "in 2024", "since 3 March", "between 2024-01-01 and 2024-03-31"."""

import re
from collections.abc import Callable
from datetime import date, timedelta
from typing import NamedTuple

_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
           "november", "december")  # fmt: skip
_NAMES = "|".join(f"{month}|{month[:3]}" for month in _MONTHS)
_DAY = rf"(?:\d{{4}}-\d\d-\d\d|\d{{1,2}}\.? (?:{_NAMES}) \d{{4}}|(?:{_NAMES}) \d{{1,2}},? \d{{4}})"
_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "ten": 10, "twelve": 12}
_COUNT = rf"(?:\d{{1,4}}|{'|'.join(_NUMBERS)})"

_UNITS = r"(?P<units>days?|weeks?|months?|years?)"
_WHICH = r"(?P<which>this|the current|current|last|the last|the previous|previous)"


class Stretch(NamedTuple):
    """From a day to before another; `None` is open. `span` is where the question says so."""

    start: date | None
    end: date | None
    said: str
    span: tuple[int, int]

    def __str__(self) -> str:
        """The first and the last day."""
        last = self.end and self.end - timedelta(days=1)
        if self.start and last:
            return f"{self.start}" if self.start == last else f"{self.start} to {last}"
        return f"{self.start} or later" if self.start else f"{last} or earlier"


def stretches(text: str, today: date) -> list[Stretch]:
    """The stretches of time that a text in lower case names, in order. A date that does not exist is not one."""
    found: list[Stretch] = []
    for pattern, make in _PATTERNS:
        for match in re.finditer(rf"\b(?:{pattern})(?!\w)", text):
            if any(match.start() < each.span[1] and each.span[0] < match.end() for each in found):
                continue
            try:
                start, end = make(match, today)
            except ValueError:
                continue
            found.append(Stretch(start, end, match[0], match.span()))
    return sorted(found, key=lambda each: each.span)


def _day(said: str) -> date:
    """A date as it is written.

    Raises:
        ValueError: there is no such day.
    """
    if re.fullmatch(r"\d{4}-\d\d-\d\d", said):
        return date.fromisoformat(said)
    day, month, year = 0, 0, 0
    for part in re.findall(r"\w+", said):
        if not part.isdigit():
            month = _month(part)
        elif len(part) == 4:
            year = int(part)
        else:
            day = int(part)
    return date(year, month, day)


def _month(name: str) -> int:
    return next(number for number, month in enumerate(_MONTHS, 1) if month.startswith(name[:3]))


def _months_from(first: date, months: int) -> date:
    """The first day of the month so many months after another."""
    count = first.year * 12 + first.month - 1 + months
    return date(count // 12, count % 12 + 1, 1)


def _unit(match: re.Match[str], today: date) -> tuple[date, date]:
    """This or the last week, month, quarter or year."""
    back = 0 if match["which"] in {"this", "the current", "current"} else 1
    if match["unit"] == "week":
        start = today - timedelta(days=today.weekday() + 7 * back)
        return start, start + timedelta(days=7)
    size = {"month": 1, "quarter": 3, "year": 12}[match["unit"]]
    first = date(today.year, (today.month - 1) // size * size + 1, 1)
    return _months_from(first, -back * size), _months_from(first, (1 - back) * size)


def _last(match: re.Match[str], today: date) -> tuple[date, date]:
    """So many days, weeks, months or years up to today."""
    count = _NUMBERS.get(match["count"]) or int(match["count"])
    unit = match["units"].removesuffix("s")
    if unit in {"month", "year"}:
        month = _months_from(today, -count * (12 if unit == "year" else 1))
        last = (_months_from(month, 1) - timedelta(days=1)).day
        return month.replace(day=min(today.day, last)), today + timedelta(days=1)
    return today - timedelta(days=count * (7 if unit == "week" else 1)), today + timedelta(days=1)


def _named_month(match: re.Match[str], today: date) -> tuple[date, date]:
    """A month; without a year, the latest that has begun."""
    month = _month(match["month"])
    year = int(match["of"]) if match["of"] else today.year - (month > today.month)
    return date(year, month, 1), _months_from(date(year, month, 1), 1)


def _year(match: re.Match[str], _: date) -> tuple[date, date]:
    return date(int(match["year"]), 1, 1), date(int(match["year"]) + 1, 1, 1)


def _quarter(match: re.Match[str], _: date) -> tuple[date, date]:
    first = date(int(match["quarteryear"]), int(match["quarter"]) * 3 - 2, 1)
    return first, _months_from(first, 3)


def _bound(match: re.Match[str], _: date) -> tuple[date | None, date | None]:
    """Since, after, before, until or on a day."""
    day = _day(match["day"])
    after = day + timedelta(days=1)
    bounds = {"since": (day, None), "from": (day, None), "after": (after, None), "before": (None, day),
              "until": (None, after), "on": (day, after)}  # fmt: skip
    return bounds[match["how"]]


def _year_bound(match: re.Match[str], _: date) -> tuple[date | None, date | None]:
    year = int(match["edge"])
    bounds = {"since": (date(year, 1, 1), None), "after": (date(year + 1, 1, 1), None),
              "before": (None, date(year, 1, 1)), "until": (None, date(year + 1, 1, 1))}  # fmt: skip
    return bounds[match["side"]]


def _between(match: re.Match[str], _: date) -> tuple[date, date]:
    start, end = _day(match["start"]), _day(match["end"])
    if end < start:
        raise ValueError("the end is before the start")
    return start, end + timedelta(days=1)


_PATTERNS: tuple[tuple[str, Callable[[re.Match[str], date], tuple[date | None, date | None]]], ...] = (
    (rf"(?:between|from) (?P<start>{_DAY}) (?:and|to|until) (?P<end>{_DAY})", _between),
    (rf"(?P<how>since|from|after|before|until|on) (?P<day>{_DAY})", _bound),
    (r"(?:in )?q(?P<quarter>[1-4]) (?:of )?(?P<quarteryear>(?:19|20)\d\d)", _quarter),
    (r"(?P<side>since|after|before|until) (?P<edge>(?:19|20)\d\d)", _year_bound),
    (rf"(?:in|during|for|of) (?:the )?(?P<month>{_NAMES})(?: (?:of )?(?P<of>(?:19|20)\d\d))?", _named_month),
    (r"(?:in|during|for|of) (?:the year )?(?P<year>(?:19|20)\d\d)", _year),
    (rf"(?:in |during |over |within )?(?:the )?(?:last|past|previous) (?P<count>{_COUNT}) {_UNITS}", _last),
    (rf"(?:in |during |for |of )?{_WHICH} (?P<unit>week|month|quarter|year)", _unit),
    (r"today", lambda _, today: (today, today + timedelta(days=1))),
    (r"yesterday", lambda _, today: (today - timedelta(days=1), today)),
)  # fmt: skip
