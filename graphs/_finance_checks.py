"""The fraud team's checks: each looks at all transactions of a batch and gives points to the ones it suspects.

`HOLD` points hold a transaction. A check that is sure of itself gives as many alone; most give fewer, and it takes two
that agree. All of them compare a customer with the customer's own habits over the whole batch, by medians and rates
that a few frauds hardly move.
"""

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from graphs._finance_rows import Rows
from graphs._finance_types import MOST_HITS, Findings, Hit, Order, Transaction

HOLD = 100
HOUR, DAY = 3600.0, 86_400.0
RISKY = frozenset({"gift cards", "online electronics", "gambling", "crypto", "money transfer", "jewellery"})
_FASTEST = 900.0  # km/h: an airliner


@dataclass(frozen=True)
class Weights:
    """Points. `WEIGHTS` were found by a random search on the generated samples with the seeds 1 to 5.

    Attributes:
        minutes: for a power of ten of improbability of so many online purchases within ten minutes.
        hour: the same within an hour.
        in_person: the same within an hour, not online.
        late: for an online purchase at an hour at which the customer hardly ever buys.
        amount: for each robust deviation of an online purchase's amount above `usual`.
        usual: so many deviations above the median are nothing special.
        at_counter: the same as `amount`, not online.
        risky: for an online merchant of a risky kind that the customer never used.
        tickets: for a new merchant with many customers that has fixed prices.
        visit: for payments far away between payments at home, if a flight was possible.
        company: the part of the points of the strongest other suspicion within an hour that a payment gets, too.
    """

    minutes: float = 5
    hour: float = 7
    in_person: float = 3
    late: float = 18
    amount: float = 43
    usual: float = 1.0
    at_counter: float = 11
    risky: float = 38
    tickets: float = 47
    visit: float = 115
    company: float = 0.26


WEIGHTS = Weights()
_LEAST = 20  # points below which a finding is not worth handing on


def findings(check: str, hits: Iterable[Hit]) -> Findings:
    """What a check found, the strongest first, and no more than can be handed on."""
    ranked = sorted(hits, key=lambda hit: (-hit.points, hit.id))
    left = len(ranked) - MOST_HITS
    missing = (f"{check}: the weakest {left:,} of {len(ranked):,} findings were left out",) if left > 0 else ()
    return Findings(check=check, hits=tuple(ranked[:MOST_HITS]), total=len(ranked), missing=missing)


def velocity(rows: Rows) -> Findings:
    """More purchases in a short time than the customer's own rate lets expect, or at unusual hours."""
    days = max(1.0, (rows.good[-1].when - rows.good[0].when) / DAY)
    hits: list[Hit] = []
    for theirs in rows.by_customer.values():
        bought = [row for row in theirs if row.kind == "purchase"]
        online = [row for row in bought if row.online]
        hits += _bursts(online, days, ((600.0, WEIGHTS.minutes), (HOUR, WEIGHTS.hour)), _late(bought))
        hits += _bursts([row for row in bought if not row.online], days, ((HOUR, WEIGHTS.in_person),), set())
    return findings("velocity", hits)


def _late(bought: list[Transaction]) -> set[str]:
    """Purchases at hours of the day at which less than one in thirty of the customer's others is made."""
    by_hour = Counter(int(row.when % DAY / HOUR) for row in bought)
    around = {hour: sum(by_hour[(hour + step) % 24] for step in range(-2, 3)) for hour in by_hour}
    days = {hour: len({int(r.when / DAY) for r in bought if int(r.when % DAY / HOUR) == hour}) for hour in by_hour}
    rare = {hour for hour, count in around.items() if days[hour] < 2 and count - by_hour[hour] < len(bought) / 30}
    return {row.id for row in bought if int(row.when % DAY / HOUR) in rare and len(bought) >= 15}


def _bursts(
    some: list[Transaction], days: float, windows: Iterable[tuple[float, float]], late: set[str]
) -> Iterator[Hit]:
    """Purchases of one customer, and one way of buying, of which there are improbably many in a window of seconds."""
    usual = len({int(row.when / DAY) for row in some})  # days on which it happened: a burst counts once
    times = [row.when for row in some]
    best = [(0.0, "")] * len(some)
    for window, weight in windows:
        expected = usual / days * window / (16 * HOUR)  # of sixteen waking hours
        start = 0
        for end, time in enumerate(times):
            while time - times[start] > window:
                start += 1
            if end == start:
                continue
            shops = len({row.payee for row in some[start : end + 1]})
            points = weight * _surprise(min(end - start, shops), expected)
            why = f"{end - start + 1} purchases within {window / 60:.0f} minutes"
            for place in range(start, end + 1):
                best[place] = max(best[place], (points, why))
    for row, (points, why) in zip(some, best, strict=True):
        extra = WEIGHTS.late if row.id in late else 0
        if points + extra >= _LEAST:
            reasons = [why] * (points > 0) + ["at an hour at which the customer hardly ever buys"] * bool(extra)
            yield Hit(id=row.id, points=round(points + extra), why=", ".join(reasons))


def _surprise(more: int, expected: float) -> float:
    """How improbable so many more events are at a Poisson rate, as a power of ten."""
    if more < 1:
        return 0.0
    # the first term of the tail is nearly all of it at such small rates
    return max(0.0, -(more * math.log10(expected) - math.lgamma(more + 1) / math.log(10)))


def amounts(rows: Rows) -> Findings:
    """Amounts far above the customer's usual ones: median and median deviation of the logarithms."""
    hits: list[Hit] = []
    for theirs in rows.by_customer.values():
        bought = [row for row in theirs if row.kind == "purchase"]
        if len(bought) < 8:
            continue
        logs = [math.log(row.minor) for row in bought]
        middle = median(logs)
        spread = max(0.35, 1.4826 * median(abs(value - middle) for value in logs))
        for row, value in zip(bought, logs, strict=True):
            far = (value - middle) / spread
            points = min(60, round((far - WEIGHTS.usual) * (WEIGHTS.amount if row.online else WEIGHTS.at_counter)))
            if points >= _LEAST:
                times = math.exp(value - middle)
                hits.append(Hit(id=row.id, points=points, why=f"{times:.0f} times the customer's median purchase"))
    return findings("amounts", hits)


def travel(rows: Rows) -> Findings:
    """Cards that were in two places, with less time between than a flight takes; or far away for hours only."""
    hits: list[Hit] = []
    for theirs in rows.by_customer.values():
        visits = _visits(row for row in theirs if _in_person(row))
        if len(visits) > 1:
            hits += _impossible(visits)
    return findings("travel", hits)


def _in_person(row: Transaction) -> bool:
    """Whether the customer's card was there; cash is also paid in by others."""
    return row.kind in {"purchase", "withdrawal"} and not row.online and None not in (row.latitude, row.longitude)


def _visits(rows: Iterable[Transaction]) -> list[list[Transaction]]:
    """Consecutive payments in one place."""
    visits: list[list[Transaction]] = []
    for row in rows:
        if visits and distance(visits[-1][-1], row) < 50:
            visits[-1].append(row)
        else:
            visits.append([row])
    return visits


def _impossible(visits: list[list[Transaction]]) -> Iterator[Hit]:
    """Payments at the less likely end of a journey that can't have been made."""
    blamed: dict[str, Hit] = {}
    days: dict[tuple[float | None, float | None], list[int]] = defaultdict(list)
    for row in (row for visit in visits for row in visit):
        if (day := int(row.when / DAY)) not in (there := days[row.latitude, row.longitude])[-1:]:
            there.append(day)

    def support(row: Transaction) -> int:
        """On how many days within a week the card was used in that place."""
        there, day = days[row.latitude, row.longitude], int(row.when / DAY)
        return bisect_left(there, day + 8) - bisect_left(there, day - 7)

    for place, (before, after) in enumerate(pairwise(visits)):
        far, hours = distance(before[-1], after[0]), (after[0].when - before[-1].when) / HOUR
        if far > 100 and far > _FASTEST * max(hours, 0.01):
            there = before if support(before[-1]) < support(after[0]) else after
            why = f"{far:,.0f} km in {_duration(hours)} between {before[-1].place or '?'} and {after[0].place or '?'}"
            near = [row for row in there if before[-1].when - DAY <= row.when <= after[0].when + DAY]
            blamed |= {row.id: Hit(id=row.id, points=110, why=why) for row in near}
        elif place + 2 < len(visits) and support(after[0]) < support(before[-1]):
            back = visits[place + 2][0]
            away = (back.when - before[-1].when) / HOUR
            if far > 500 and away < 72 and distance(before[-1], back) < 50:
                why = f"{far:,.0f} km away, and back, within {_duration(away)}"
                for row in after:
                    blamed.setdefault(row.id, Hit(id=row.id, points=round(WEIGHTS.visit), why=why))
    yield from blamed.values()


def _duration(hours: float) -> str:
    return f"{hours * 60:.0f} minutes" if hours < 2 else f"{hours:.0f} hours"


def distance(one: Transaction, other: Transaction) -> float:
    """Kilometres on the globe between two payments whose places are known."""
    if one.latitude is None or one.longitude is None or other.latitude is None or other.longitude is None:
        return 0.0
    if one.latitude == other.latitude and one.longitude == other.longitude:
        return 0.0
    north, south = math.radians(one.latitude), math.radians(other.latitude)
    east = math.radians(other.longitude - one.longitude)
    half = math.sin((south - north) / 2) ** 2 + math.cos(north) * math.cos(south) * math.sin(east / 2) ** 2
    return 2 * 6371 * math.asin(min(1.0, math.sqrt(half)))


def merchants(rows: Rows) -> Findings:
    """Merchants that came from nowhere and charge many cards at once; risky ones that the customer never used."""
    sales: dict[str, list[Transaction]] = defaultdict(list)
    for row in rows.good:
        if row.kind == "purchase" and row.payee:
            sales[row.payee].append(row)
    begin, end = rows.good[0].when, rows.good[-1].when
    rogue = {name: hit for name, sold in sales.items() if (hit := _rogue(sold, begin, end))}
    hits: list[Hit] = []
    seen: set[tuple[str, str]] = set()
    for row in rows.good:
        if row.kind != "purchase" or not row.payee:
            continue
        known = (row.customer, row.payee) in seen
        seen.add((row.customer, row.payee))
        if row.payee in rogue:
            points, why = rogue[row.payee]
            hits.append(Hit(id=row.id, points=points, why=why))
        elif row.online and row.category in RISKY and not known:
            why = f"a risky kind of merchant ({row.category}) that the customer never used"
            hits.append(Hit(id=row.id, points=round(WEIGHTS.risky), why=why))
    return findings("merchants", hits)


def _rogue(sold: list[Transaction], begin: float, end: float) -> tuple[int, str] | None:
    """Points against a merchant that came from nowhere, and why."""
    first, last = sold[0].when, sold[-1].when
    customers, prices = len({row.customer for row in sold}), len({row.minor for row in sold})
    days = max(1.0, (last - first) / DAY)
    if customers < 6 or first - begin < 0.05 * (end - begin) or days > 7 or len(sold) > 1.3 * customers:
        return None
    why = f"a merchant never seen before charged {customers} customers within {days:.0f} days, and none came back"
    return (105 if prices > len(sold) / 2 else round(WEIGHTS.tickets)), why


def judge(rows: Rows, found: Iterable[Findings]) -> tuple[tuple[Order, ...], dict[str, int]]:
    """Add up what all checks say, and hold what has `HOLD` points.

    A payment also gets a part of the strongest suspicion against the customer's other payments within an hour: whoever
    has the card uses it more than once.

    Returns:
        The orders, and how many held transactions each check had a part in.
    """
    against: dict[str, list[tuple[str, Hit]]] = defaultdict(list)
    for each in found:
        for hit in each.hits:
            against[hit.id].append((each.check, hit))
    points = {name: sum(hit.points for _, hit in hits) for name, hits in against.items()}
    suspects: dict[str, list[Transaction]] = defaultdict(list)
    for row in rows.good:
        if row.id in points:
            suspects[row.customer].append(row)
    held: set[str] = set()
    for theirs in suspects.values():
        for row in theirs:
            others = (points[o.id] for o in theirs if o is not row and abs(o.when - row.when) <= HOUR)
            if points[row.id] + WEIGHTS.company * max(others, default=0) >= HOLD:
                held.add(row.id)
    counts = Counter(check for name in held for check, _ in against[name])
    orders = [
        Order(
            id=name,
            action="hold",
            why="; ".join(hit.why for _, hit in sorted(against[name], key=lambda each: -each[1].points)),
            by=f"fraud ({', '.join(sorted(check for check, _ in against[name]))})",
        )
        for name in sorted(held)
    ]
    return tuple(orders), dict(counts)
