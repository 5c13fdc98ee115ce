"""Sample transactions: ordinary life with what looks like fraud and is not, and the fraud of `_finance_crime`.

Look-alikes: holidays in far cities, day trips by plane, large single purchases, shopping sprees, an hour of shopping
online, two equal tickets within a minute, new shops, tickets for one concert that many buy within days, pay days of
companies with a dozen transfers in minutes, equal rents every month, shops that bank their takings, single large
deposits, payees who share a name with a sanctioned one.

`make` returns the transactions and, apart from them, the labels: agents get the former only.
"""

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from graphs import _finance_crime
from graphs._finance_people import CITIES, HOMES, Customer, Event, Town, buy, person, syllables
from graphs._finance_types import INCOMING

DAYS = 60
START = datetime(2026, 3, 1, tzinfo=UTC)
COLUMNS = (
    "id", "time", "customer", "name", "type", "amount", "currency", "payee", "category", "channel", "place",
    "latitude", "longitude", "balance",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """Transactions as rows of text, the sanctioned names, and apart from them which ids are fraud of which kind."""

    rows: list[list[str]]
    sanctioned: list[str]
    labels: dict[str, str]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write what agents may see: the transactions and the list of sanctioned names."""
        folder.mkdir(parents=True, exist_ok=True)
        data, names = folder / "transactions.csv", folder / "sanctions.txt"
        for path in (data, names):
            new = path.with_suffix(".new")
            with new.open("w", newline="", encoding="utf-8") as file:
                if path is data:
                    csv.writer(file, lineterminator="\n").writerows([COLUMNS, *self.rows])
                else:
                    file.write("\n".join([*self.sanctioned, ""]))
            new.replace(path)
        return data, names


def make(size: int, seed: int) -> Sample:
    """So many transactions of sixty days; the same seed gives the same ones."""
    chance = random.Random(f"finance {seed}")  # noqa: S311 -- invented data, not a secret
    town = Town(chance, size, DAYS)
    events = [event for who in town.customers for event in _life(chance, town, who)]
    for _ in range(max(1, size // 25_000)):
        events += _concert(chance, town)
    _finance_crime.commit(chance, town, events, size, DAYS)
    twice = {(event.customer, event.payee) for event in events if event.label == "duplicate"}  # the first ones stay
    honest = [
        place
        for place, event in enumerate(events)
        if not event.label and event.kind == "purchase" and (event.customer, event.payee) not in twice
    ]
    surplus = set(chance.sample(honest, max(0, len(events) - size)))
    events = [event for i, event in enumerate(events) if i not in surplus]
    while len(events) < size:
        who = chance.choice(town.customers)
        events += _errand(chance, town, who, chance.randrange(DAYS))
    events.sort(key=lambda event: event.day)
    return _booked(chance, town, events[:size])


def _booked(chance: random.Random, town: Town, events: list[Event]) -> Sample:
    balances = {who.id: Decimal(chance.randrange(50_000, 900_000)) / 100 for who in town.customers}
    sample = Sample([], town.sanctioned, {})
    for number, event in enumerate(events, 1):
        who, amount = event.customer, Decimal(f"{event.amount:.2f}")
        balances[who.id] += amount if event.kind in INCOMING else -amount
        if event.label == "tampered":
            amount += Decimal(chance.choice(("0.10", "1.00", "90.00")))
        time = START + timedelta(seconds=round(event.day * 86_400))
        place, _, _, latitude, longitude = CITIES[event.city] if event.city is not None else ("", "", "", "", "")
        name = f"T{number:07}"
        sample.rows.append(
            [
                name, time.strftime("%Y-%m-%dT%H:%M:%SZ"), who.id, who.name, event.kind, str(amount), who.currency,
                event.payee, event.category, "online" if event.online else "present", place, str(latitude),
                str(longitude), str(balances[who.id]),
            ]
        )  # fmt: skip
        if event.label:
            sample.labels[name] = event.label
    return sample


def _hour(chance: random.Random) -> float:
    """A time of day, as a part of it: mostly around noon and in the evening."""
    hour = chance.gauss(18, 2.5) if chance.random() < 0.5 else chance.gauss(12, 2.5)
    return (chance.uniform(0, 24) if chance.random() < 0.03 else min(23.9, max(6, hour))) / 24


def _errand(chance: random.Random, town: Town, who: Customer, day: int) -> Iterator[Event]:
    """One ordinary purchase, wherever the customer is."""
    when = day + _hour(chance)
    city = who.whereabouts(when)
    if city is None or chance.random() < 0.15:
        shop = who.favourites[-1] if chance.random() < 0.6 else town.any_online(chance)
    elif city == who.city and chance.random() < 0.8:
        shop = chance.choice(who.favourites)
    else:
        shop = chance.choice(town.merchants[city])
    if shop.opens <= when:
        yield buy(chance, who, when, shop)


def _life(chance: random.Random, town: Town, who: Customer) -> Iterator[Event]:
    """Sixty days of an honest customer."""
    if chance.random() < 0.15:
        start = chance.uniform(3, DAYS - 14)
        there = chance.choice([city for city in range(len(CITIES)) if city != who.city])
        who.away = (start, start + chance.uniform(4, 10), there)
    for day in range(DAYS):
        busy = who.rate * (1.8 if who.away and who.whereabouts(day) != who.city else 1)
        for _ in range(int(busy) + (chance.random() < busy % 1)):
            yield from _errand(chance, town, who, day)
    yield from _months(chance, who)
    yield from _whims(chance, town, who)
    yield from _transfers(chance, town, who)


def _months(chance: random.Random, who: Customer) -> Iterator[Event]:
    """What comes every month: salary, rent, and of a company the salaries of its staff."""
    employer = f"{syllables(chance)} {syllables(chance)} Works"
    payroll, rent = chance.uniform(8, 11) / 24, chance.randrange(1, 5)
    for month in (0, 30):
        yield Event(month + who.payday + 0.3, who, "salary", who.salary, employer)
        yield Event(month + rent + 0.1, who, "transfer", who.rent, who.landlord, online=True)
        for number, (name, pay) in enumerate(who.staff):
            yield Event(month + 26 + payroll + number / 2880, who, "transfer", pay, name, online=True)
    if who.shop:
        for day in range(chance.randrange(3), DAYS, chance.choice((2, 3))):
            takings = min(14_000.0, chance.lognormvariate(8.1, 0.55))
            yield Event(day + _hour(chance), who, "deposit", takings, "cash", city=who.city)


def _whims(chance: random.Random, town: Town, who: Customer) -> Iterator[Event]:
    """What comes once, and could be taken for fraud."""
    local = [shop for shop in town.merchants[who.city] if not shop.opens]
    if chance.random() < 0.35:
        dear = [shop for shop in local if shop.category in {"electronics", "furniture", "jewellery"}]
        yield buy(chance, who, _at_home(chance, who), chance.choice(dear), times=chance.uniform(1, 6))
    if chance.random() < 0.2:
        day = _at_home(chance, who)
        for _ in range(chance.randint(4, 7)):
            yield buy(chance, who, day + chance.uniform(0, 1.5) / 24, chance.choice(local))
    if chance.random() < 0.15:
        shop = chance.choice([shop for shop in local if shop.category in {"transit", "cinema", "coffee"}])
        first = buy(chance, who, _at_home(chance, who), shop)
        yield first
        for number in range(chance.randint(1, 3)):
            yield replace(first, day=first.day + (number + 1) * chance.uniform(10, 60) / 86_400)
    if chance.random() < 0.12:
        day = _at_home(chance, who)
        for _ in range(chance.randint(2, 5)):
            shop = chance.choice(who.favourites[-2:]) if chance.random() < 0.5 else town.any_online(chance)
            yield buy(chance, who, day + chance.uniform(0, 1) / 24, shop)
    if chance.random() < 0.1:
        shop = town.any_online(chance, "gift cards", "online electronics")
        yield buy(chance, who, chance.uniform(0, DAYS), shop, times=chance.uniform(1, 3))
    if chance.random() < 0.02:
        yield from _day_trip(chance, town, who)


def _transfers(chance: random.Random, town: Town, who: Customer) -> Iterator[Event]:
    """Money to friends, cash in and out, and to people who are called like somebody on the list."""
    for _ in range(chance.choice((0, 0, 1, 2))):
        yield _send(chance, who, 4, person(chance))
    if chance.random() < 0.3:
        amount = chance.choice((50.0, 100.0, 200.0))
        yield Event(_at_home(chance, who), who, "withdrawal", amount, "cash machine", city=who.city)
    if chance.random() < 0.02:
        amount = chance.uniform(7_000, 20_000)
        yield Event(_at_home(chance, who), who, "deposit", amount, "cash", city=who.city)
    if chance.random() < 0.02:
        first, _, last = chance.choice(town.sanctioned).split()
        word = syllables(chance)
        yield _send(chance, who, 5, chance.choice((f"{first} {word}", f"{word} {last}", f"{first} {person(chance)}")))


def _send(chance: random.Random, who: Customer, size: float, payee: str) -> Event:
    return Event(_at_home(chance, who), who, "transfer", chance.lognormvariate(size, 0.9), payee, online=True)


def _at_home(chance: random.Random, who: Customer) -> float:
    """A moment at which the customer is at home."""
    while who.whereabouts(day := chance.randrange(DAYS) + _hour(chance)) != who.city:
        pass
    return day


def _day_trip(chance: random.Random, town: Town, who: Customer) -> Iterator[Event]:
    """There in the morning, back at night, and nothing bought at home on that day."""
    if who.away is None:
        day = chance.randrange(1, DAYS - 1)
        there = chance.choice([city for city in HOMES if CITIES[city][1] == CITIES[who.city][1]])
        who.away = (day + 0.4, day + 0.8, there)
        for _ in range(chance.randint(1, 4)):
            yield buy(chance, who, day + chance.uniform(0.41, 0.79), chance.choice(town.merchants[there]))


def _concert(chance: random.Random, town: Town) -> Iterator[Event]:
    """A merchant that sells tickets for one evening: new, many customers in days, and then never again."""
    name, first = f"{syllables(chance)} Live", chance.uniform(0.2, 0.9) * DAYS
    prices = [float(5 * chance.randint(5, 18)) for _ in range(3)]
    for who in chance.sample(town.customers, min(len(town.customers) // 3, chance.randint(12, 35))):
        day = first + chance.uniform(0, 2.5)
        yield Event(day, who, "purchase", chance.choice(prices), name, "tickets", online=True)
