"""Transactions from a CSV file or a table: read, checked row by row, and kept in memory for all agents of a process.

A file that can't be read as transactions at all is refused with a `RequestError`. A row that can't is rejected with
its reason, and the others are processed.
"""

import csv
import functools
import hashlib
import io
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import cached_property
from pathlib import Path

from babel.numbers import get_currency_precision, list_currencies
from sqlalchemy import MetaData, Table, create_engine, inspect, select
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from graphs._finance_types import INCOMING, OUTGOING, Batch, Transaction, Unreadable
from orchestra import RequestError

REQUIRED = ("id", "time", "customer", "amount", "currency")
# optional columns, and what can't be checked without them
OPTIONAL = {
    "type": "every payment counts as a purchase",
    "payee": "no check of merchants, duplicates and sanctioned names",
    "category": "no risky kinds of merchants",
    "channel": "every payment counts as made in person",
    "latitude": "no check for impossible journeys",
    "longitude": "no check for impossible journeys",
    "balance": "balances are not checked",
    "name": "customers' own names are not held against the sanctions list",
    "place": "places have no names",
}
_MOST_BAD = 0.2
"""If more than this part of the rows is bad, it is the file that is wrong, not the rows."""


@dataclass(frozen=True)
class Rows:
    """All transactions of a source in order of time, and the rows that are none."""

    good: tuple[Transaction, ...]
    bad: tuple[Unreadable, ...]
    absent: tuple[str, ...]
    digest: str

    @cached_property
    def by_customer(self) -> dict[str, list[Transaction]]:
        """Everybody's transactions, in order of time."""
        found: dict[str, list[Transaction]] = defaultdict(list)
        for row in self.good:
            found[row.customer].append(row)
        return found

    def __len__(self) -> int:
        """How many rows there are, good and bad."""
        return len(self.good) + len(self.bad)


def database(url: str) -> Engine:
    """An engine for a URL, or for `$NAME` of an environment variable that holds one.

    Raises:
        RequestError: the variable is not set, or the URL can't be used.
    """
    if url.startswith("$"):
        name, url = url, os.environ.get(url[1:], "")
        if not url:
            raise RequestError(f"{name}: this environment variable is not set; it should hold a database URL.")
    try:
        made = make_url(url)
        drivers = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}
        if made.drivername in drivers:
            made = made.set(drivername=drivers[made.drivername])
        return create_engine(made)
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        shown = url.partition("://")[0]
        raise RequestError(f"The database URL {shown}://… can't be used: {error}.") from None


def absolute(url: str) -> str:
    """A URL that leads to the same SQLite file from another folder; any other URL as it is."""
    if not url.startswith("sqlite"):
        return url
    made = make_url(url)
    return str(made.set(database=str(Path(made.database).resolve()))) if made.database else url


def read(source: str, table: str = "") -> Rows:
    """Read and check all rows. A file that has not changed since it was last read is not read again.

    Raises:
        RequestError: there is nothing to read, or it holds no transactions; names the place and the remedy.
    """
    if table:
        return _read_table(source, table)
    try:
        stat = Path(source).expanduser().stat()
        with _reading:
            return _read_file(source, (stat.st_mtime_ns, stat.st_size, stat.st_ino))
    except OSError as error:
        raise RequestError(f"{source}: it can't be read: {error.strerror}.") from None


def load(batch: Batch) -> Rows:
    """The transactions of a batch: the same for every agent, however late it starts.

    Raises:
        RequestError: the source has changed since the run began.
    """
    with _sharing:
        if (kept := _kept.get(batch.digest)) is not None:
            return kept
        found = until(read(batch.source, batch.table), batch.until)
        if found.digest != batch.digest:
            raise RequestError(
                f"{batch.source} {batch.table}".rstrip() + " has changed since this run began. Start a new run for it: "
                "nothing is posted twice."
            )
        _kept.clear()
        _kept[batch.digest] = found
        return found


_reading, _sharing = threading.Lock(), threading.Lock()
_kept: dict[str, Rows] = {}  # what the agents work on now: they are many, and start at once


def until(rows: Rows, moment: float) -> Rows:
    """The rows without those of a later time."""
    if not rows.good or rows.good[-1].when <= moment:
        return rows
    good = tuple(row for row in rows.good if row.when <= moment)
    return replace(rows, good=good, digest=_digest(good, rows.bad))


def _digest(good: Sequence[Transaction], bad: Sequence[Unreadable]) -> str:
    """A fingerprint of what the rows say, wherever they stand."""
    made = hashlib.sha256()
    for row in good:
        more = f"{row.name}|{row.category}|{row.online}|{row.place}|{row.latitude}|{row.longitude}|{row.balance}"
        made.update(f"{row.id}|{fingerprint(row)}|{more}\n".encode())
    for other in bad:
        made.update(f"{other.id}|{other.why}\n".encode())
    return made.hexdigest()


def fingerprint(row: Transaction) -> str:
    """What makes a payment another one under the same id."""
    return f"{row.when}|{row.customer}|{row.kind}|{row.signed}|{row.currency}|{row.payee}"


@functools.lru_cache(maxsize=1)
def _read_file(source: str, _signature: object) -> Rows:
    content = Path(source).expanduser().read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RequestError(f"{source}, line {line}: not UTF-8. Save it as UTF-8 and start again.") from None
    head = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
    try:
        header = next(reader, [""])
        checked = _Checking(source, header)
        for values in reader:
            if values:
                checked.add(reader.line_num, values)
    except csv.Error as error:
        raise RequestError(f"{source}, line {reader.line_num}: this is not CSV: {error}.") from None
    return checked.rows("line")


def _read_table(source: str, name: str) -> Rows:
    engine = database(source)
    place = f"{engine.url.render_as_string()} table {name}"
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").is_file():
        raise RequestError(f"{place}: there is no such file.")
    try:
        with engine.connect() as connection:
            if name not in (there := [*inspect(connection).get_table_names(), *inspect(connection).get_view_names()]):
                raise RequestError(f"{place}: there is no such table; there is {', '.join(there[:20]) or 'none'}.")
            table = Table(name, MetaData(), autoload_with=connection)
            checked = _Checking(place, table.columns.keys())
            order = [column for column in table.columns if column.name.strip().lower() in {"time", "id"}]
            for number, values in enumerate(connection.execute(select(table).order_by(*order)), 1):
                checked.add(number, [_text(value) for value in values])
    except SQLAlchemyError as error:
        raise RequestError(f"{place}: it can't be read: {str(error).splitlines()[0]}") from None
    finally:
        engine.dispose()
    return checked.rows("row")


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return "" if value is None else str(value)


@functools.cache
def _minor_digits(currency: str) -> int:
    """Decimal places of a currency.

    Raises:
        ValueError: there is no such currency.
    """
    if currency not in list_currencies():
        raise ValueError(f"currency {currency[:20]!r} is not an ISO code such as EUR")
    return get_currency_precision(currency)


def decimal(minor: int, currency: str) -> Decimal:
    """An amount in whole units."""
    return Decimal(minor).scaleb(-_minor_digits(currency))


def money(minor: int, currency: str) -> str:
    """An amount for people: `1,234.50 EUR`."""
    return f"{decimal(minor, currency):,} {currency}"


class _Checking:
    """Makes transactions of rows of text."""

    def __init__(self, place: str, header: Iterable[str]) -> None:
        names = [name.strip().lower() for name in header]
        if missing := [name for name in REQUIRED if name not in names]:
            raise RequestError(
                f"{place}: no column {', '.join(missing)}. The first line must name the columns: "
                f"{', '.join(REQUIRED)}, and as many of {', '.join(OPTIONAL)} as there are."
                + (f" It names {', '.join(filter(None, names))[:200]}." if any(names) else " It is empty.")
            )
        self.place, self.width = place, len(names)
        self.at = {name: names.index(name) for name in (*REQUIRED, *OPTIONAL) if name in names}
        self.good: list[Transaction] = []
        self.bad: list[Unreadable] = []
        self.seen: set[str] = set()

    def add(self, line: int, values: Sequence[str]) -> None:
        """One row more."""
        stated = {name: values[at].strip() for name, at in self.at.items() if at < len(values)}
        try:
            self.good.append(self._row(line, values, stated))
        except ValueError as error:
            self.bad.append(Unreadable(line, stated.get("id", "")[:100], stated.get("customer", "")[:100], str(error)))

    def _row(self, line: int, values: Sequence[str], stated: dict[str, str]) -> Transaction:
        if len(values) != self.width:
            raise ValueError(f"{len(values)} fields, where the first line has {self.width}")
        row = _transaction(line, stated)
        if row.id in self.seen:
            raise ValueError(f"id {row.id} stands on an earlier line too")
        self.seen.add(row.id)
        return row

    def rows(self, unit: str) -> Rows:
        """All of them.

        Raises:
            RequestError: there are none, or too many are bad.
        """
        every = len(self.good) + len(self.bad)
        if not every:
            raise RequestError(f"{self.place}: no transactions in it.")
        if len(self.bad) > _MOST_BAD * every:
            first = self.bad[0]
            raise RequestError(
                f"{self.place}: {len(self.bad)} of {every} rows can't be read, the first on {unit} {first.line}: "
                f"{first.why}. Mend the file; single bad rows would be rejected, but these are too many."
            )
        self.good.sort(key=lambda row: (row.when, row.line))
        absent = tuple(name for name in OPTIONAL if name not in self.at)
        return Rows(tuple(self.good), tuple(self.bad), absent, _digest(self.good, self.bad))


def _transaction(line: int, stated: dict[str, str]) -> Transaction:
    """A row's transaction.

    Raises:
        ValueError: says which field can't be what it says.
    """
    say = stated.get
    for name, most in (("id", 100), ("customer", 100), ("payee", 200), ("name", 200)):
        if len(say(name, "")) > most:
            raise ValueError(f"{name} is longer than {most} characters")
    if not stated["id"] or not stated["customer"]:
        raise ValueError("no id" if not stated["id"] else "no customer")
    try:
        time = datetime.fromisoformat(stated["time"])
    except ValueError:
        raise ValueError(f"time {stated['time'][:40]!r} is not written like 2026-03-31T17:05:00Z") from None
    kind, currency = (say("type") or "purchase").lower(), stated["currency"].upper()
    if kind not in INCOMING and kind not in OUTGOING:
        raise ValueError(f"type {kind[:40]!r} is none of {', '.join(sorted(INCOMING | OUTGOING))}")
    minor = _minor(stated["amount"], currency, "amount")
    if minor <= 0:
        raise ValueError(f"amount {stated['amount'][:40]} is not above zero; the type says in which direction it goes")
    return Transaction(
        line=line,
        id=stated["id"],
        when=(time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp(),
        customer=stated["customer"],
        name=say("name", ""),
        kind=kind,
        minor=minor,
        currency=currency,
        payee=say("payee", ""),
        category=say("category", "").lower(),
        online=say("channel", "").lower() == "online",
        place=say("place", "")[:100],
        latitude=_degrees(say("latitude", ""), 90, "latitude"),
        longitude=_degrees(say("longitude", ""), 180, "longitude"),
        balance=_minor(say("balance", ""), currency, "balance") if say("balance") else None,
    )


def _minor(text: str, currency: str, name: str) -> int:
    """An amount in the currency's smallest unit, exactly."""
    digits = _minor_digits(currency)
    try:
        scaled = Decimal(text).scaleb(digits)
        whole = int(scaled)
    except (InvalidOperation, ValueError, OverflowError):
        raise ValueError(f"{name} {text[:40]!r} is not a number such as 1234.50") from None
    if whole != scaled:
        raise ValueError(f"{name} {text[:40]} has more than the {digits} decimal places of {currency}")
    if abs(whole) >= 10**15:
        raise ValueError(f"{name} {text[:40]} is too large")
    return whole


def _degrees(text: str, most: int, name: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} {text[:40]!r} is not a number") from None
    if not -most <= value <= most:
        raise ValueError(f"{name} {text[:40]} is not between -{most} and {most}")
    return value
