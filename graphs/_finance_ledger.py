"""The ledger: every transaction once, however often its posting is begun, and every cent on two accounts.

A batch of a few hundred transactions is one SQL transaction; whatever process dies in the middle leaves whole batches
behind, and whoever posts again skips what is there. A transaction's id is the primary key, so that two processes at
once can't post it twice either. Amounts are stored in the currency's smallest unit, as whole numbers.

A held transaction can be posted later, by another run that finds nothing against it; a posted one stays as it is.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    MetaData,
    SmallInteger,
    String,
    Table,
    event,
    func,
    select,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from graphs._finance_rows import database, fingerprint
from graphs._finance_types import Action, Transaction
from orchestra import RequestError

POSTED, HELD, REJECTED = "posted", "held", "rejected"
STATUS: dict[Action, str] = {"post": POSTED, "hold": HELD, "reject": REJECTED}
BATCH = 500
OTHER = "its id is in the ledger already, for another payment"
_TRIES = 8


def _text(size: int) -> Any:
    """Text that is equal only if every letter is; MariaDB compares without case otherwise."""
    return String(size).with_variant(mysql.VARCHAR(size, collation="utf8mb4_bin"), "mysql", "mariadb")


_METADATA = MetaData()
TRANSACTIONS = Table(
    "finance_transactions",
    _METADATA,
    Column("id", _text(100), primary_key=True),
    Column("status", _text(10), nullable=False, index=True),
    Column("customer", _text(100), nullable=False),
    Column("currency", _text(3), nullable=False),
    Column("minor", BigInteger, nullable=False, comment="the amount in the currency's smallest unit"),
    Column("why", _text(500), nullable=False, comment="why it was held or rejected, or what it was flagged with"),
    Column("decided_by", _text(200), nullable=False),
    Column("says", _text(500), nullable=False, comment="what the source says of it, to notice another under its id"),
    Column("posting", _text(200), nullable=False, index=True, comment="the idempotency key that decided it"),
)
ENTRIES = Table(
    "finance_entries",
    _METADATA,
    Column("transaction_id", _text(100), primary_key=True),
    Column("leg", SmallInteger, primary_key=True, autoincrement=False, comment="0: the customer, 1: the other side"),
    Column("account", _text(310), nullable=False),
    Column("currency", _text(3), nullable=False),
    Column("minor", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a transaction, why, and who says so.

    Attributes:
        instead: the id under which it is rejected, if the ledger has another payment under its own.
    """

    id: str
    instead: str
    action: Action
    why: str
    by: str
    customer: str
    row: Transaction | None

    @property
    def says(self) -> str:
        """What the source says of it."""
        return says(self.row) if self.row else ""


def says(row: Transaction) -> str:
    """What is kept of a payment, to notice another one under its id."""
    return fingerprint(row)[:500]


def check_ledger(url: str) -> None:
    """Find out whether a ledger can be there, without making it.

    Raises:
        RequestError: says why not, and what a ledger's URL looks like.
    """
    engine = database(url)
    try:
        if engine.dialect.name == "sqlite":
            file = Path(engine.url.database or "")
            if not file.name or not file.parent.is_dir():
                raise RequestError(f"ledger {url}: there is no folder {file.parent}; write sqlite:///FILE.")
        else:
            engine.connect().close()
    except SQLAlchemyError as error:
        shown = engine.url.render_as_string()
        raise RequestError(f"ledger {shown}: no connection: {str(error).splitlines()[0]}") from None
    finally:
        engine.dispose()


def open_ledger(url: str) -> Engine:
    """The ledger's database, with its tables.

    Raises:
        RequestError: the URL can't be used.
    """
    engine = database(url)

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:
        if engine.dialect.name == "sqlite":
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA busy_timeout=30000")
        elif engine.dialect.name == "postgresql":
            # A prepared statement keeps the plan that was good while the table was empty.
            connection.prepare_threshold = None

    for left in reversed(range(3)):
        try:
            _METADATA.create_all(engine)
            break
        except (OperationalError, ProgrammingError, IntegrityError):  # another process was first
            if not left:
                raise
    return engine


def post(engine: Engine, batch: Sequence[Decision], key: str) -> None:
    """Write some decisions into the ledger, each exactly once, all of them or none.

    Args:
        engine: of the ledger.
        batch: at most `BATCH` of them.
        key: the idempotency key under which this is done.

    Raises:
        SQLAlchemyError: the database fails again and again.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            with engine.begin() as connection:
                _post(connection, batch, key)
        except (IntegrityError, OperationalError):  # another process posted some of it, or holds the lock
            if attempt == _TRIES:
                raise
            time.sleep(0.05 * attempt)
        else:
            return


def _post(connection: Connection, batch: Sequence[Decision], key: str) -> None:
    there = _there(connection, [each.id for each in batch])
    new = [each for each in batch if each.id not in there]
    same = [each for each in batch if each.id in there and there[each.id].says == each.says]
    released = [each for each in same if each.action == "post" and there[each.id].status == HELD]
    if others := [each for each in batch if each.id in there and there[each.id].says != each.says]:
        rejected = _there(connection, [each.instead for each in others])
        new += [
            replace(each, id=each.instead, action="reject", why=OTHER, by="transactions (ledger)")
            for each in others
            if each.instead not in rejected
        ]
    if new:
        connection.execute(TRANSACTIONS.insert(), [_row(each, key) for each in new])
    for each in released:
        held = TRANSACTIONS.update().where(TRANSACTIONS.c.id == each.id, TRANSACTIONS.c.status == HELD)
        changes = {"status": POSTED, "why": each.why[:500], "decided_by": each.by[:200], "posting": key[:200]}
        if connection.execute(held.values(changes)).rowcount != 1:
            raise IntegrityError("release", each.id, RuntimeError("another process released it at the same moment"))
    if posted := [each.row for each in (*new, *released) if each.action == "post" and each.row is not None]:
        connection.execute(ENTRIES.insert(), [entry for row in posted for entry in _entries(row)])


def _there(connection: Connection, ids: Sequence[str]) -> dict[str, Any]:
    t = TRANSACTIONS.c
    return {row.id: row for row in connection.execute(select(t.id, t.status, t.says).where(t.id.in_(ids)))}


def _row(each: Decision, key: str) -> dict[str, Any]:
    return {
        "id": each.id,
        "status": STATUS[each.action],
        "customer": each.customer,
        "currency": each.row.currency if each.row else "",
        "minor": each.row.minor if each.row else 0,
        "why": each.why[:500],
        "decided_by": each.by[:200],
        "says": each.says,
        "posting": key[:200],
    }


def _entries(row: Transaction) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two lines that sum to nothing."""
    shared = {"transaction_id": row.id, "currency": row.currency}
    return (
        {**shared, "leg": 0, "account": f"customer:{row.customer}", "minor": row.signed},
        {**shared, "leg": 1, "account": f"{row.kind}:{row.payee}", "minor": -row.signed},
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """How a transaction stands in the ledger."""

    status: str
    minor: int
    currency: str
    customer: str
    why: str
    by: str
    says: str
    posting: str
    entries: tuple[tuple[str, int], ...]


def standing(engine: Engine, ids: Iterable[str]) -> Iterator[tuple[str, Standing]]:
    """How these transactions stand, with their entries; those that are not there are left out."""
    t, waiting = TRANSACTIONS.c, iter(ids)
    with engine.connect() as connection:
        while some := [*islice(waiting, BATCH)]:
            lines: dict[str, list[tuple[str, int]]] = defaultdict(list)
            entries = select(ENTRIES.c.transaction_id, ENTRIES.c.currency, ENTRIES.c.minor)
            for row in connection.execute(entries.where(ENTRIES.c.transaction_id.in_(some))):
                lines[row.transaction_id].append((row.currency, row.minor))
            for row in connection.execute(select(TRANSACTIONS).where(t.id.in_(some))):
                yield row.id, Standing(
                    row.status, row.minor, row.currency, row.customer, row.why, row.decided_by, row.says, row.posting,
                    tuple(lines[row.id]),
                )  # fmt: skip


def sums(engine: Engine) -> dict[str, int]:
    """What all entries of the ledger add up to, by currency: nothing, if it is sound."""
    query = select(ENTRIES.c.currency, func.sum(ENTRIES.c.minor)).group_by(ENTRIES.c.currency)
    with engine.connect() as connection:
        return {currency: int(total) for currency, total in connection.execute(query)}
