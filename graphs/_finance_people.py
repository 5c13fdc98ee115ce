"""An invented town map for samples: cities, merchants, customers and names.

City names and coordinates are real, rounded to a tenth of a degree; persons, merchants and companies are made of
syllables, and so is the list of sanctioned names.
"""

import random
from dataclasses import dataclass, field

# name, country, currency, latitude, longitude
CITIES = (
    ("Lisbon", "PT", "EUR", 38.7, -9.1),
    ("Porto", "PT", "EUR", 41.1, -8.6),
    ("Madrid", "ES", "EUR", 40.4, -3.7),
    ("Lyon", "FR", "EUR", 45.8, 4.8),
    ("Ghent", "BE", "EUR", 51.1, 3.7),
    ("Graz", "AT", "EUR", 47.1, 15.4),
    ("Turku", "FI", "EUR", 60.5, 22.3),
    ("Bremen", "DE", "EUR", 53.1, 8.8),
    ("Leeds", "GB", "GBP", 53.8, -1.5),
    ("Cardiff", "GB", "GBP", 51.5, -3.2),
    ("Denver", "US", "USD", 39.7, -105.0),
    ("Austin", "US", "USD", 30.3, -97.7),
    ("Osaka", "JP", "EUR", 34.7, 135.5),
    ("Perth", "AU", "USD", -31.9, 115.9),
    ("Recife", "BR", "USD", -8.1, -34.9),
    ("Nairobi", "KE", "USD", -1.3, 36.8),
)
HOMES = range(12)  # the others are for holidays, and for cloned cards
# category: (median amount, spread of its logarithm, fixed prices)
CATEGORIES: dict[str, tuple[float, float, tuple[float, ...]]] = {
    "groceries": (32, 0.6, ()),
    "coffee": (4, 0.3, (2.8, 3.2, 3.9, 4.5)),
    "transit": (3, 0.2, (2.4, 2.4, 4.8, 7.2)),
    "restaurant": (38, 0.5, ()),
    "fuel": (52, 0.35, ()),
    "clothing": (65, 0.6, ()),
    "pharmacy": (18, 0.5, ()),
    "cinema": (22, 0.3, (11.0, 22.0, 24.5)),
    "electronics": (230, 0.9, ()),
    "furniture": (380, 0.8, ()),
    "jewellery": (340, 0.9, ()),
}
ONLINE: dict[str, tuple[float, float, tuple[float, ...]]] = {
    "marketplace": (35, 0.8, ()),
    "streaming": (12, 0.1, (9.99, 12.99, 14.99)),
    "phone credit": (20, 0.1, (15.0, 20.0, 25.0)),
    "online electronics": (160, 0.9, ()),
    "gift cards": (50, 0.6, (25.0, 50.0, 100.0)),
    "gambling": (40, 0.9, ()),
}
_COUNTS = {"groceries": 6, "coffee": 5, "restaurant": 8, "transit": 1, "electronics": 3, "furniture": 2, "jewellery": 2}
_STARTS = ("Ba", "Cor", "Del", "Fen", "Gar", "Hol", "Is", "Jor", "Kel", "Lum", "Mar", "Nor", "Os", "Pel", "Quin", "Ros")
_MIDDLES = ("a", "e", "i", "o", "u", "an", "el", "in", "or", "us", "ar", "il")
_ENDS = ("da", "ko", "lin", "mer", "nas", "ric", "sen", "to", "ven", "wick", "zo", "ram", "bel", "dorf")


def syllables(chance: random.Random) -> str:
    """An invented word with a capital."""
    middle = chance.choice(_MIDDLES) if chance.random() < 0.7 else ""
    return chance.choice(_STARTS) + middle + chance.choice(_ENDS)


def person(chance: random.Random) -> str:
    """An invented person's name."""
    return f"{syllables(chance)} {syllables(chance)}"


@dataclass(eq=False, slots=True)
class Merchant:
    """Somewhere to pay. `city` is `None` online; `opens` is the day of its first sale."""

    name: str
    category: str
    city: int | None
    median: float
    spread: float
    prices: tuple[float, ...] = ()
    opens: float = 0.0

    def price(self, chance: random.Random, scale: float) -> float:
        """What one purchase costs for somebody who spends `scale` times the usual."""
        if self.prices:
            return chance.choice(self.prices)
        return max(0.5, self.median * scale * chance.lognormvariate(0, self.spread))


@dataclass(eq=False, slots=True)
class Customer:
    """Somebody with an account and habits. `rate` is purchases a day."""

    id: str
    name: str
    city: int
    scale: float
    rate: float
    favourites: list[Merchant]
    payday: int
    salary: float
    landlord: str
    rent: float
    staff: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    shop: bool = False
    away: tuple[float, float, int] | None = None

    @property
    def currency(self) -> str:
        """The currency of the account."""
        return CITIES[self.city][2]

    def whereabouts(self, day: float) -> int | None:
        """The city at a moment, in days; `None` on the way."""
        if self.away is None:
            return self.city
        start, end, city = self.away
        if start - 1 < day < start or end < day < end + 1:
            return None
        return city if start <= day <= end else self.city


class Town:
    """Merchants, customers, and the sanctioned names, for a sample of about so many transactions."""

    def __init__(self, chance: random.Random, size: int, days: int) -> None:
        self.merchants: dict[int | None, list[Merchant]] = {}
        more = 1 + size // 40_000
        for city in range(len(CITIES)):
            self.merchants[city] = [
                self._merchant(chance, category, city, days)
                for category in CATEGORIES
                for _ in range(_COUNTS.get(category, 3) * (more if city in HOMES else 1))
            ]
        self.merchants[None] = [self._merchant(chance, c, None, days) for c in ONLINE for _ in range(5 * more)]
        self.sanctioned = list(dict.fromkeys(f"{person(chance)} {syllables(chance)}" for _ in range(200)))
        self.customers = [self._customer(chance, number) for number in range(max(12, size // 58))]

    @staticmethod
    def _merchant(chance: random.Random, category: str, city: int | None, days: int) -> Merchant:
        median, spread, prices = (ONLINE if city is None else CATEGORIES)[category]
        opens = chance.uniform(0.3, 0.8) * days if chance.random() < 0.05 else 0.0  # new shops open, honestly
        suffix = category.rsplit(maxsplit=1)[-1].title()
        name = f"{syllables(chance)} {syllables(chance)} {suffix}"
        return Merchant(name, category, city, median * chance.lognormvariate(0, 0.25), spread, prices, opens)

    def _customer(self, chance: random.Random, number: int) -> Customer:
        city = chance.choice(HOMES)
        local, online = self.merchants[city], self.merchants[None]
        business = chance.random() < 0.03
        scale = chance.lognormvariate(0, 0.35)
        staff = [(person(chance), round(chance.uniform(1400, 3800) * scale, 2)) for _ in range(chance.randint(4, 14))]
        return Customer(
            id=f"C{number:05}",
            name=person(chance),
            city=city,
            scale=scale,
            rate=chance.uniform(0.35, 1.4),
            favourites=chance.sample(local, 7) + chance.sample(online, 2),
            payday=chance.choice((1, 1, 15, 27, 27, 27)),
            salary=round(chance.uniform(1500, 4200) * scale, 2),
            landlord=f"{syllables(chance)} Homes",
            rent=float(round(chance.uniform(450, 1300) * scale, -1)),
            staff=staff if business else [],
            shop=chance.random() < 0.04,
        )

    def any_online(self, chance: random.Random, *categories: str) -> Merchant:
        """An online merchant, of one of these categories if any are named."""
        found = [m for m in self.merchants[None] if not categories or m.category in categories]
        return chance.choice(found)


@dataclass(frozen=True, slots=True)
class Event:
    """A payment before it has an id and a balance. `day` is counted from the start; `label` is empty if honest."""

    day: float
    customer: Customer
    kind: str
    amount: float
    payee: str
    category: str = ""
    online: bool = False
    city: int | None = None
    label: str = ""


def buy(
    chance: random.Random, who: Customer, day: float, shop: Merchant, *, times: float = 1.0, label: str = ""
) -> Event:
    """A purchase at a merchant."""
    return pay(who, day, shop, shop.price(chance, who.scale) * times, label)


def pay(who: Customer, day: float, shop: Merchant, amount: float, label: str = "") -> Event:
    """A purchase for a given amount."""
    return Event(day, who, "purchase", amount, shop.name, shop.category, shop.city is None, shop.city, label)
