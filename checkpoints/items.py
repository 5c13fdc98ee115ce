"""The rows behind the store: how items become rows, and the queries that find, change and delete them.

A namespace is one key: each of its labels ends with a separator that is less than any other character of the key, and
what is not greater than the escape character is escaped. So keys sort as the tuples do, and all namespaces with a
prefix stand together, in a range that the primary key finds, whatever characters the labels have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from langgraph.store.base import Item, SearchItem
from sqlalchemy import and_, delete, or_, select, update

from checkpoints.errors import CorruptItem, InvalidKey
from checkpoints.rows import Damaged, check_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from langgraph.store.base import ListNamespacesOp, MatchCondition, SearchOp
    from sqlalchemy import ColumnElement, Connection

    from checkpoints.rows import Sealer
    from checkpoints.schema import Schema

Place = tuple[str, str]
"""Where an item is: its namespace as one key, and its own key."""

_PLACE = ("namespace", "item_key")
_TYPE = "json"
_END, _ESCAPE = "\x02", "\x03"  # not NUL or \x01, of which PostgreSQL's dialect makes two characters each
_ESCAPES = {code: f"{_ESCAPE}{code}" for code in range(ord(_ESCAPE) + 1)}
_ESCAPED = re.compile(f"{_ESCAPE}([0-3])")

_PAGE = 200  # items read at once by a search
_NAMESPACES = 1000  # namespaces read at once by a listing
_KEYS_AT_ONCE = 500  # in one statement
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Put:
    """An item to store.

    Attributes:
        content: Its value, as JSON.
        ttl: Milliseconds from its last use to when it expires; None if it stays.
    """

    content: bytes
    ttl: int | None


def encode(namespace: Sequence[str]) -> str:
    """A namespace, or a prefix of some, as one key.

    Raises:
        InvalidKey: It is too long, or not a tuple of Unicode texts.
    """
    labels: Sequence[Any] = namespace
    if isinstance(namespace, str) or not all(isinstance(label, str) for label in labels):
        raise InvalidKey(f"namespace {namespace!r}: it must be a tuple of strings")
    return check_key("namespace", "".join(f"{label.translate(_ESCAPES)}{_END}" for label in namespace))


def decode(stored: str) -> tuple[str, ...]:
    """The namespace that was encoded so."""
    labels = stored.split(_END)[:-1]
    return tuple(_ESCAPED.sub(lambda found: chr(int(found[1])), label) for label in labels)


def place(namespace: Sequence[str], key: str) -> Place:
    """Where an item is.

    Raises:
        InvalidKey: The namespace or the key can't be stored.
    """
    given: Any = key
    if not isinstance(given, str):
        raise InvalidKey(f"key {key!r} in namespace {namespace!r}: it must be a string")
    return encode(namespace), check_key("item_key", key)


def matches(value: Any, wanted: Any) -> bool:
    """Whether a value is what a filter asks for.

    Args:
        value: The value, or a part of one; None if the part is not there.
        wanted: A value it must equal, element by element; or an object whose entries it must have (and may have
            more); or operators. Order is among numbers, and texts that read as numbers; nothing else has any.

    Raises:
        ValueError: There is no such operator, or its operand is not a number.
    """
    if isinstance(wanted, dict):
        entries = cast("dict[str, Any]", wanted)
        if any(name.startswith("$") for name in entries):
            return all(_holds(value, operator, operand) for operator, operand in entries.items())
        if not isinstance(value, dict):
            return False
        parts = cast("dict[str, Any]", value)
        return all(matches(parts.get(name), part) for name, part in entries.items())
    if isinstance(wanted, (list, tuple)):
        if not isinstance(value, list):
            return False
        pair = (cast("list[Any]", value), cast("Sequence[Any]", wanted))
        return len(pair[0]) == len(pair[1]) and all(map(matches, *pair))
    return value == wanted


def _holds(value: Any, operator: str, operand: Any) -> bool:
    if operator == "$eq":
        return value == operand
    if operator == "$ne":
        return value != operand
    if operator not in {"$gt", "$gte", "$lt", "$lte"}:
        raise ValueError(f"there is no operator {operator!r}: use $eq, $ne, $gt, $gte, $lt or $lte")
    than = _number(operand)
    if than is None:
        raise ValueError(f"{operator} {operand!r}: it compares with numbers only")
    number = _number(value)
    if number is None:
        return False
    match operator:
        case "$gt":
            return number > than
        case "$gte":
            return number >= than
        case "$lt":
            return number < than
        case _:
            return number <= than


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def fits(condition: MatchCondition, namespace: tuple[str, ...]) -> bool:
    """Whether a namespace begins or ends with a path, in which ``"*"`` is any label."""
    size = len(condition.path)
    if size > len(namespace):
        return False
    part = namespace[:size] if condition.match_type == "prefix" else namespace[len(namespace) - size :]
    return all(wanted in {"*", label} for wanted, label in zip(condition.path, part, strict=True))


class Items:
    """Reads and changes the rows of items; each method does its work in the caller's transaction.

    Times are milliseconds since 1970, and ``now`` is the caller's: an item that has expired by then is not there.

    Args:
        schema: The tables.
        sealer: What seals the rows.
    """

    def __init__(self, schema: Schema, sealer: Sealer) -> None:
        self._schema = schema
        self._sealer = sealer
        self._dialect = schema.dialect
        self._table = schema.items

    def rows(self, connection: Connection, places: Iterable[Place], now: int) -> dict[Place, Any]:
        """The rows at these places, as far as there are any."""
        rows = self._dialect.rows_by_key(connection, self._table, _PLACE, list(dict.fromkeys(places)))
        return {(row.namespace, row.item_key): row for row in rows if row.expires is None or row.expires > now}

    def item(self, row: Any) -> Item:
        """A row as LangGraph wants it.

        Raises:
            CorruptItem: It is not as it was stored.
        """
        return Item(**self._opened(row))

    def search(self, connection: Connection, op: SearchOp, now: int) -> list[tuple[Any, SearchItem]]:
        """What a search finds, the last updated first, with the row of each.

        Raises:
            CorruptItem: An item that was looked at is not as it was stored.
            ValueError: The filter has an unknown operator, or an operand that is not a number.
        """
        c = self._table.c
        query = select(c.namespace, c.item_key).where(*self._within(encode(op.namespace_prefix)), self._live(now))
        query = query.order_by(c.updated.desc(), c.namespace, c.item_key)
        if not op.filter:
            query = query.limit(op.limit).offset(op.offset)
        # Keys first: the database need not sort the values, and those of a later page may never be read.
        places: list[Place] = [(row.namespace, row.item_key) for row in connection.execute(query)]
        skip = op.offset if op.filter else 0
        found: list[tuple[Any, SearchItem]] = []
        for start in range(0, len(places) if op.limit else 0, _PAGE):
            part = places[start : start + _PAGE]
            rows = self.rows(connection, part, now)
            for where in part:
                item = SearchItem(**self._opened(rows[where])) if where in rows else None
                if item is None or not all(matches(item.value.get(k), v) for k, v in (op.filter or {}).items()):
                    continue
                if skip:
                    skip -= 1
                    continue
                found.append((rows[where], item))
                if len(found) == op.limit:
                    return found
        return found

    def namespaces(self, connection: Connection, op: ListNamespacesOp, now: int) -> list[tuple[str, ...]]:
        """The namespaces that have items, in order, cut to the asked depth."""
        c = self._table.c
        conditions = op.match_conditions or ()
        literal = [_literal(condition) for condition in conditions if condition.match_type == "prefix"]
        within = [each for prefix in literal for each in self._within(encode(prefix))]
        query = select(c.namespace).distinct().where(self._live(now), *within)
        query = query.order_by(c.namespace).limit(_NAMESPACES)
        stop = op.offset + op.limit
        found: list[tuple[str, ...]] = []
        names = connection.scalars(query).all()
        while names:
            for namespace in map(decode, names):
                cut = namespace[: op.max_depth]
                # Cut namespaces are in order as well, so equal ones follow each other.
                if found[-1:] != [cut] and all(fits(condition, namespace) for condition in conditions):
                    found.append(cut)
            if len(found) >= stop or len(names) < _NAMESPACES:
                break
            names = connection.scalars(query.where(c.namespace > names[-1])).all()
        return found[op.offset : stop]

    def put(self, connection: Connection, puts: Mapping[Place, Put], now: int) -> None:
        """Store items. One that is there already keeps the time at which it was created."""
        c = self._table.c
        created: dict[Place, int] = {}
        for part in self._parts(puts):
            query = select(c.namespace, c.item_key, c.created).where(part, self._live(now))
            created |= {(row.namespace, row.item_key): row.created for row in connection.execute(query)}
        # In the order of their keys, so that two processes which put the same items do not wait for each other.
        rows = [self._row(where, put, created.get(where, now), now) for where, put in sorted(puts.items(), key=_first)]
        if rows:
            self._dialect.insert(connection, self._schema.put_item, rows)

    def delete(self, connection: Connection, places: Iterable[Place]) -> None:
        """Delete items; it does not matter whether they are there."""
        for part in self._parts(places):
            connection.execute(delete(self._table).where(part))

    def refresh(self, connection: Connection, places: Iterable[Place], now: int) -> None:
        """Let items live for their whole time again."""
        c = self._table.c
        until = c.ttl + now
        for part in self._parts(places):
            # Not those that expired, nor those that another process has put or used later.
            statement = update(self._table).where(part, c.ttl.is_not(None), c.expires > now, c.expires < until)
            connection.execute(statement.values(expires=until))

    def sweep(self, connection: Connection, limit: int, now: int) -> int:
        """Delete items that have expired, at most so many; return how many."""
        c = self._table.c
        query = select(c.namespace, c.item_key).where(c.expires <= now).order_by(c.expires).limit(limit)
        doomed: list[Place] = [(row.namespace, row.item_key) for row in connection.execute(query)]
        # Asked again: they may have been put again since.
        return sum(
            connection.execute(delete(self._table).where(part, c.expires <= now)).rowcount
            for part in self._parts(doomed)
        )

    def _row(self, where: Place, put: Put, created: int, now: int) -> tuple[Any, ...]:
        # When it expires is not sealed: whoever reads it moves that, without a look at the value.
        columns = (*where, created, now, put.ttl)
        proof, stored = self._sealer.seal("items", columns, _TYPE, put.content)
        expires = None if put.ttl is None else now + put.ttl
        return (*map(self._dialect.key, where), created, now, expires, put.ttl, *proof, stored)

    def _opened(self, row: Any) -> dict[str, Any]:
        columns = (row.namespace, row.item_key, row.created, row.updated, row.ttl)
        where = (decode(row.namespace), row.item_key)
        try:
            content = self._sealer.open("items", columns, row, row.value)
        except Damaged as error:
            raise CorruptItem(*where, str(error)) from error
        if row.type != _TYPE:
            raise CorruptItem(*where, f"it is stored as {row.type!r}, which this version of the package can't read")
        return {
            "namespace": where[0],
            "key": where[1],
            "value": json.loads(content),
            "created_at": _EPOCH + timedelta(milliseconds=row.created),
            "updated_at": _EPOCH + timedelta(milliseconds=row.updated),
        }

    def _live(self, now: int) -> ColumnElement[bool]:
        expires = self._table.c.expires
        return or_(expires.is_(None), expires > now)

    def _within(self, prefix: str) -> list[ColumnElement[bool]]:
        if not prefix:
            return []
        name = self._table.c.namespace
        # The separator's successor is the escape character: nothing is between the last namespace and that.
        return [name >= prefix, name < prefix[:-1] + _ESCAPE]

    def _parts(self, places: Iterable[Place]) -> Iterator[ColumnElement[bool]]:
        """Conditions that together select all of the places, in a form that every database uses its index for."""
        c = self._table.c
        by_namespace: dict[str, list[str]] = {}
        for namespace, key in sorted(places):
            by_namespace.setdefault(namespace, []).append(key)
        for namespace, keys in by_namespace.items():
            for start in range(0, len(keys), _KEYS_AT_ONCE):
                yield and_(c.namespace == namespace, c.item_key.in_(keys[start : start + _KEYS_AT_ONCE]))


def _first(entry: tuple[Place, Put]) -> Place:
    return entry[0]


def _literal(condition: MatchCondition) -> tuple[str, ...]:
    """What a path begins with, up to its first wildcard."""
    path = tuple(condition.path)
    return path[: path.index("*")] if "*" in path else path
