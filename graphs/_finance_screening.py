"""The compliance team's checks: sanctioned names, and cash in parts below the amount that must be reported."""

import re
import unicodedata
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

from graphs._finance_checks import DAY, findings
from graphs._finance_rows import Rows, decimal
from graphs._finance_types import MOST_HITS, Batch, Hit, Screening, Structuring, Transaction

try:
    from rapidfuzz import fuzz, process
except ImportError as error:  # pragma: no cover -- a development dependency, and the gallery runs in a clone
    raise ImportError("financial_operations matches names with rapidfuzz: pip install rapidfuzz") from error

_CLOSE = 86
"""Of 100, for names with their words in order of the alphabet; found by trying on the samples with seeds 1 to 5."""
_DAYS = 10 * DAY
_BAND = 0.7  # a deposit is just below the threshold from this part of it on
_MOST_SERIES = 500


def sanctions(rows: Rows, batch: Batch) -> Screening:
    """Payees, and customers, whose name is like one on the sanctions list, however it is written."""
    if not batch.sanctions:
        return Screening(check="sanctions", missing=("sanctions: no list was given, so no name was held against one",))
    lines = Path(batch.sanctions).expanduser().read_text(encoding="utf-8-sig").splitlines()
    listed = {_plain(line): line.strip() for line in lines if line.strip() and not line.startswith("#")}
    matched: dict[str, str] = {}
    for name in {name for row in rows.good if row.kind != "purchase" for name in (row.payee, row.name) if name}:
        if match := _match(name, listed):
            matched[name] = match
    hits = (
        Hit(id=row.id, points=100, why=f"“{name}” is like “{matched[name]}” on the sanctions list")
        for row in rows.good
        for name in (row.payee, row.name)
        if row.kind != "purchase" and name in matched
    )
    unique = {hit.id: hit for hit in hits}
    return Screening(**dict(findings("sanctions", unique.values())))


def _plain(name: str) -> str:
    """Small letters without accents, in words that are in order of the alphabet."""
    bare = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().casefold()
    return " ".join(sorted(re.findall(r"[a-z0-9]+", bare)))


def _match(name: str, listed: dict[str, str]) -> str:
    """The name on the list that this one is like; empty if none."""
    plain = _plain(name)
    for found, _, _ in process.extract(plain, listed.keys(), scorer=fuzz.token_sort_ratio, score_cutoff=78, limit=5):
        if fuzz.ratio(plain, found) >= _CLOSE or _initials(plain.split(), found.split()):
            return listed[found]
    return ""


def _initials(words: list[str], listed: list[str]) -> bool:
    """Whether all words are the same, but for one that is an initial."""
    if len(words) != len(listed) or len(words) < 2:
        return False
    left, right = set(words) - set(listed), set(listed) - set(words)
    return len(left) == len(right) == 1 and len(one := left.pop()) == 1 and right.pop().startswith(one)


def structuring(rows: Rows, batch: Batch) -> Screening:
    """Cash deposits that together pass the threshold within ten days, each of them just below it."""
    series: list[Structuring] = []
    large: list[str] = []
    cash: dict[tuple[str, str], list[Transaction]] = defaultdict(list)
    for row in rows.good:
        if row.kind == "deposit":
            cash[row.customer, row.currency].append(row)
    for (customer, currency), deposits in cash.items():
        large += [row.id for row in deposits if decimal(row.minor, currency) >= batch.threshold]
        found = _series(deposits, currency, batch.threshold)
        if found:
            series.append(
                Structuring(
                    customer=customer,
                    currency=currency,
                    deposits=tuple(row.id for row in found[:100]),
                    minor=sum(row.minor for row in found),
                    first=_day(found[0]),
                    last=_day(found[-1]),
                )
            )
    series.sort(key=lambda one: (-one.minor, one.customer))
    left = [f"structuring: {len(series) - _MOST_SERIES} smaller series"] if len(series) > _MOST_SERIES else []
    left += [f"structuring: {len(large) - MOST_HITS} large deposits"] if len(large) > MOST_HITS else []
    return Screening(
        check="structuring",
        total=len(series),
        structuring=tuple(series[:_MOST_SERIES]),
        large=tuple(large[:MOST_HITS]),
        missing=tuple(f"{what} were left out" for what in left),
    )


def _series(deposits: list[Transaction], currency: str, threshold: int) -> list[Transaction]:
    """The largest group of deposits that looks like one sum in parts; empty if there is none."""
    band = [row for row in deposits if _BAND * threshold <= decimal(row.minor, currency) < threshold]
    best: list[Transaction] = []
    for row in band:
        near = [other for other in band if 0 <= other.when - row.when <= _DAYS]
        every = [other for other in deposits if 0 <= other.when - row.when <= near[-1].when - row.when]
        if len(near) >= 3 and len(near) >= 0.75 * len(every) and len(near) > len(best):
            best = near
    return best


def _day(row: Transaction) -> str:
    return datetime.fromtimestamp(row.when, UTC).date().isoformat()
