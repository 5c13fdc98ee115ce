"""The sample shop: a small SQLite database of invented customers, orders, products and tickets.

It is the same for everybody, but for its dates, which lie in the three years before the day it is made for. So "last
month" is never empty, and the numbers of orders stay what they are.
"""

import os
import random
import sqlite3
import tempfile
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestra import RequestError

SEED = 20
ORDERS = 260
DAYS = 3 * 365  # that the orders lie back at most
TABLES = {
    "customers": "id INTEGER PRIMARY KEY, name TEXT, email TEXT, phone TEXT, city TEXT, country TEXT, "
    "customer_since DATE, newsletter BOOLEAN",
    "products": "id INTEGER PRIMARY KEY, name TEXT, category TEXT, price NUMERIC(10, 2), currency TEXT",
    "orders": "id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers(id), ordered_on DATE, due_on DATE, "
    "delivered_on DATE, status TEXT",
    "order_items": "id INTEGER PRIMARY KEY, order_id INTEGER REFERENCES orders(id), "
    "product_id INTEGER REFERENCES products(id), quantity INTEGER, unit_price NUMERIC(10, 2)",
    "tickets": "id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers(id), "
    "order_id INTEGER REFERENCES orders(id), opened_on DATE, closed_on DATE, topic TEXT, status TEXT, text TEXT",
}
_FIRST = (
    "Ada", "Ben", "Cleo", "Dara", "Emil", "Fay", "Gus", "Hana", "Ivo", "June", "Kai", "Lou", "Mara", "Nils", "Oda",
    "Pia", "Quin", "Rosa", "Sami", "Tove", "Alma", "Bela", "Cora", "Dino", "Edda", "Finn", "Gino", "Hedy", "Ilka",
    "Jory", "Karl", "Lena", "Milo", "Nora", "Olaf", "Pola", "Rune", "Sven", "Tara", "Ulla",
)  # fmt: skip
_LAST = ("Fern", "Brook", "Hollow", "Moss", "Reed", "Stone", "Vale", "Wren")
_CITIES = (("Berlin", "Germany"), ("Hamburg", "Germany"), ("Lyon", "France"), ("Paris", "France"),
           ("Vienna", "Austria"), ("Graz", "Austria"))  # fmt: skip
PRODUCTS = (
    ("Oak desk", "desks", 420.0), ("Pine desk", "desks", 260.0), ("Standing desk", "desks", 590.0),
    ("Corner desk", "desks", 480.0), ("Task chair", "chairs", 185.0), ("Lounge chair", "chairs", 340.0),
    ("Kneeling chair", "chairs", 150.0), ("Folding chair", "chairs", 45.0), ("Desk lamp", "lamps", 39.5),
    ("Floor lamp", "lamps", 89.0), ("Clip lamp", "lamps", 19.9), ("Reading lamp", "lamps", 54.0),
    ("Wall shelf", "shelves", 62.0), ("Tall shelf", "shelves", 139.0), ("Shoe shelf", "shelves", 48.0),
    ("Spice shelf", "shelves", 24.5),
)  # fmt: skip
_TROUBLE = {
    "delivery": "The parcel has not arrived yet.",
    "damage": "One part arrived with a scratch.",
    "invoice": "The invoice shows the old address.",
    "return": "I would like to send it back.",
}


def rows(today: date) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of all tables, as of a day."""
    chance = random.Random(SEED)  # noqa: S311 -- a shop, not a secret
    made: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TABLES}
    for id_ in range(1, len(_FIRST) + 1):
        first, last = _FIRST[id_ - 1], _LAST[(id_ * 3 - 3) % len(_LAST)]
        city, country = chance.choice(_CITIES)
        since = today - timedelta(days=chance.randint(DAYS, DAYS + 700))
        made["customers"].append(
            (id_, f"{first} {last}", f"{first}.{last}@shop.example".lower(), f"+49 30 555 {id_:03}", city, country,
             since.isoformat(), id_ == 1 or chance.random() < 0.7)
        )  # fmt: skip
    made["products"] = [(number, *product, "EUR") for number, product in enumerate(PRODUCTS, 1)]
    days = sorted((chance.randint(1, DAYS) for _ in range(ORDERS)), reverse=True)
    for id_, ago in enumerate(days, 1):
        _order(made, chance, today, id_, ago)
    return made


def _order(made: dict[str, list[tuple[Any, ...]]], chance: random.Random, today: date, id_: int, ago: int) -> None:
    """One order with its items, and sometimes a ticket about it. The first customer's last order is late."""
    late_one = id_ == ORDERS - 20
    customer = 1 if late_one or id_ % 29 == 0 else chance.randint(2, 38)  # two customers never bought anything
    ordered = today - timedelta(days=ago)
    due = ordered + timedelta(days=chance.randint(4, 9))
    took = timedelta(days=chance.choice((2, 3, 3, 4, 4, 5, 6, 8, 12)))
    cancelled = chance.random() < 0.05 and customer != 1
    arrives = ordered + took if not late_one else today + timedelta(days=3)
    delivered = arrives if arrives <= today and not cancelled else None
    status = "cancelled" if cancelled else "delivered" if delivered else "shipped" if ago > 2 else "open"
    if late_one:
        due = min(due, today - timedelta(days=2))
    made["orders"].append(
        (id_, customer, ordered.isoformat(), due.isoformat(), delivered and delivered.isoformat(), status)
    )
    for product in chance.sample(range(len(PRODUCTS)), chance.choice((1, 1, 2, 3))):
        price = PRODUCTS[product][2]
        paid = price if ago < 400 else round(price * 0.95, 2)  # prices rose since
        items = made["order_items"]
        items.append((len(items) + 1, id_, product + 1, chance.choice((1, 1, 1, 2, 4)), paid))
    if chance.random() < 0.15 or late_one:
        topic = "delivery" if late_one else chance.choice(list(_TROUBLE))
        opened = min(ordered + timedelta(days=chance.randint(3, 20)), today)
        closed = opened + timedelta(days=chance.randint(1, 9))
        done = closed <= today and not late_one
        tickets = made["tickets"]
        tickets.append(
            (len(tickets) + 1, customer, id_, opened.isoformat(), closed.isoformat() if done else None, topic,
             "closed" if done else "open", _TROUBLE[topic])
        )  # fmt: skip


def write(path: Path, today: date) -> None:
    """Write the shop into a new SQLite file."""
    made = rows(today)
    connection = sqlite3.connect(path)
    with connection:
        for name, columns in TABLES.items():
            connection.execute(f"CREATE TABLE {name} ({columns})")
            marks = ", ".join("?" * len(made[name][0]))
            connection.executemany(f"INSERT INTO {name} VALUES ({marks})", made[name])  # noqa: S608 -- our own names
    connection.close()


@lru_cache(maxsize=4)
def sample_url(today: date) -> str:
    """The URL of the shop as of a day; its file is written if it is not there as it should be.

    Raises:
        RequestError: the cache folder can't be written.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(cache).expanduser() / "orchestra"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"service-desk-shop-{today.isoformat()}.db"
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            new = Path(scratch) / "shop.db"
            write(new, today)
            if not file.is_file() or file.read_bytes() != new.read_bytes():
                new.replace(file)  # in one step: another run may be reading it
        for old in folder.glob("service-desk-shop-*.db"):
            if old < file:
                old.unlink(missing_ok=True)
    except (OSError, RuntimeError, sqlite3.Error) as error:
        raise RequestError(
            f"The sample shop can't be written ({error}). Name a database of yours as database: URL."
        ) from error
    return f"sqlite:///{file}"
