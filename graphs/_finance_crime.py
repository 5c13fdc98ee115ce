"""The fraud in sample transactions, labelled by its kind, from crude to hard to see.

`low_and_slow` is a thief who buys what the customer might have bought: no rule here is expected to find much of it.
A third of the cloned cards is used only after a journey would have been possible.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from graphs._finance_people import CATEGORIES, CITIES, Event, Merchant, Town, buy, pay, syllables

FRAUD = ("card_testing", "takeover", "cloned_card", "rogue_merchant", "duplicate", "low_and_slow")
COMPLIANCE = ("structuring", "sanctions")
TAMPERED = "tampered"  # the amount was altered after the balance was struck
_EVERY = {  # one case in so many transactions
    "card_testing": 8_000,
    "takeover": 4_000,
    "cloned_card": 4_000,
    "rogue_merchant": 25_000,
    "duplicate": 4_000,
    "low_and_slow": 6_000,
    "structuring": 12_000,
    "sanctions": 8_000,
    TAMPERED: 15_000,
}
_Crime = Callable[[random.Random, Town, Sequence[Event], float], Iterator[Event]]


def commit(chance: random.Random, town: Town, life: list[Event], size: int, days: int) -> None:
    """Add fraud of every kind to honest life, at least one case of each."""
    honest = tuple(life)
    for kind, every in _EVERY.items():
        for _ in range(max(1, round(size / every))):
            if kind == TAMPERED:
                _tamper(chance, life)
            else:
                life += _CRIMES[kind](chance, town, honest, chance.uniform(0.1, 0.92) * days)


def _tamper(chance: random.Random, life: list[Event]) -> None:
    while life[place := chance.randrange(len(life))].label:
        pass
    life[place] = replace(life[place], label=TAMPERED)


def _card_testing(chance: random.Random, town: Town, _life: Sequence[Event], day: float) -> Iterator[Event]:
    """A stolen number is tried with small amounts, then used."""
    who = chance.choice(town.customers)
    for _ in range(chance.randint(6, 14)):
        shop = town.any_online(chance)
        yield pay(who, day, shop, chance.uniform(0.5, 6), "card_testing")
        day += chance.uniform(10, 80) / 86_400
    for _ in range(chance.randint(1, 3)):
        day += chance.uniform(60, 900) / 86_400
        shop = town.any_online(chance, "online electronics", "gift cards", "marketplace")
        yield buy(chance, who, day, shop, times=chance.uniform(1.5, 5), label="card_testing")


def _takeover(chance: random.Random, town: Town, _life: Sequence[Event], day: float) -> Iterator[Event]:
    """Somebody else has the account and spends as much as the shops let them."""
    who = chance.choice(town.customers)
    if chance.random() < 0.5:
        day = int(day) + chance.uniform(0, 5) / 24
    for _ in range(chance.choice((1, 2, 3, 4, 5, 6))):
        shop = town.any_online(chance, "online electronics", "gift cards", "online electronics", "marketplace")
        yield buy(chance, who, day, shop, times=chance.uniform(1.2, 5), label="takeover")
        day += chance.uniform(3, 45) / 1440


def _cloned_card(chance: random.Random, town: Town, life: Sequence[Event], _day: float) -> Iterator[Event]:
    """A copy of a card is used in another city."""
    while True:
        real = chance.choice(life)
        if real.kind == "purchase" and real.city is not None:
            break
    there = chance.choice([city for city in range(len(CITIES)) if city != real.city])
    day = real.day + (chance.uniform(0.2, 3) if chance.random() < 0.67 else chance.uniform(14, 30)) / 24
    for _ in range(chance.randint(1, 4)):
        shop = chance.choice(town.merchants[there])
        yield buy(chance, real.customer, day, shop, times=chance.uniform(1, 3), label="cloned_card")
        day += chance.uniform(5, 90) / 1440


def _rogue_merchant(chance: random.Random, town: Town, _life: Sequence[Event], day: float) -> Iterator[Event]:
    """A merchant that nobody knew charges many cards a similar amount within days."""
    price = chance.uniform(15, 70)
    name = f"{syllables(chance)} {syllables(chance)} Services"
    shop = Merchant(name, "marketplace", None, price, 0.12)
    for who in chance.sample(town.customers, min(len(town.customers) // 2, chance.randint(15, 40))):
        yield pay(who, day + chance.uniform(0, 3), shop, shop.price(chance, 1.0), "rogue_merchant")


def _duplicate(chance: random.Random, _town: Town, life: Sequence[Event], _day: float) -> Iterator[Event]:
    """A payment is booked a second time."""
    while True:
        real = chance.choice(life)
        if real.kind in {"purchase", "transfer"} and real.amount >= 15:
            break
    later = chance.uniform(1, 30) / (1440 if chance.random() < 0.5 else 24)
    yield replace(real, day=real.day + later, label="duplicate")


def _low_and_slow(chance: random.Random, town: Town, _life: Sequence[Event], day: float) -> Iterator[Event]:
    """Small purchases on several days, in shops that the customer could have gone to."""
    who = chance.choice(town.customers)
    ordinary = [shop for shop in town.merchants[who.city] if CATEGORIES[shop.category][0] < 60 and not shop.opens]
    for number in range(chance.randint(3, 5)):
        when = int(day * 0.8) + number * chance.randint(1, 2) + chance.uniform(9, 20) / 24
        if who.whereabouts(when) == who.city:
            yield buy(chance, who, when, chance.choice(ordinary), label="low_and_slow")


def _structuring(chance: random.Random, town: Town, _life: Sequence[Event], day: float) -> Iterator[Event]:
    """Cash is paid in by parts, each of them just below the amount that must be reported."""
    who = chance.choice(town.customers)
    for _ in range(chance.randint(3, 6)):
        amount = chance.uniform(7_600, 9_950)
        yield Event(day, who, "deposit", amount, "cash", city=who.city, label="structuring")
        day += chance.uniform(0.5, 2.2)


def _sanctions(chance: random.Random, town: Town, _life: Sequence[Event], day: float) -> Iterator[Event]:
    """A transfer to somebody on the list, whose name is written another way."""
    name = chance.choice(town.sanctioned)
    payee = chance.choice((_plain, _reordered, _initial, _misspelt, _accented))(chance, name)
    who, amount = chance.choice(town.customers), chance.lognormvariate(6, 0.8)
    yield Event(day, who, "transfer", amount, payee, online=True, label="sanctions")


def _plain(_chance: random.Random, name: str) -> str:
    return name.upper()


def _reordered(_chance: random.Random, name: str) -> str:
    first, middle, last = name.split()
    return f"{last}, {first} {middle}"


def _initial(_chance: random.Random, name: str) -> str:
    first, middle, last = name.split()
    return f"{first} {middle[0]}. {last}"


def _misspelt(chance: random.Random, name: str) -> str:
    place = chance.randrange(1, len(name) - 1)
    return name[:place] + chance.choice((name[place] * 2, "", "e")) + name[place + 1 :]


def _accented(_chance: random.Random, name: str) -> str:
    return name.translate(str.maketrans({"a": "á", "o": "ö", "e": "é", "k": "c"}))


_CRIMES: dict[str, _Crime] = {
    "card_testing": _card_testing,
    "takeover": _takeover,
    "cloned_card": _cloned_card,
    "rogue_merchant": _rogue_merchant,
    "duplicate": _duplicate,
    "low_and_slow": _low_and_slow,
    "structuring": _structuring,
    "sanctions": _sanctions,
}
