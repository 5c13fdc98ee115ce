"""SQL for a question that was read: joins along foreign keys, so that no row is counted twice.

Towards a key, tables are joined: an order has one customer. Away from a key a condition becomes EXISTS, since a
customer has many orders; a count that is grouped that way counts each row once. A sum that would count rows twice is
refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from graphs._service_database import Database
from graphs._service_schema import Column, Link, Schema, Table

MAX_LISTED = 50  # rows of a list for which no number is given
Way = tuple[tuple[Link, bool], ...]


class CannotAnswer(ValueError):
    """The question can't be turned into a query; says why."""


@dataclass(frozen=True)
class Condition:
    """What rows of a table must fulfil.

    Attributes:
        table: whose rows.
        sql: as SQL; empty if it is enough that there is such a row.
        said: in words.
        absent: there must be no such row.
    """

    table: str
    sql: str
    said: str
    absent: bool = False


@dataclass(frozen=True)
class Measure:
    """What is computed over rows of a table.

    Attributes:
        table: whose rows.
        sql: an aggregate; `None` counts rows.
        said: in words.
        name: what its column is called.
    """

    table: str
    sql: str | None
    said: str
    name: str


@dataclass
class Query:
    """A question that was read.

    Attributes:
        root: the table whose rows are counted, summed or listed.
        measure: what is computed; `None` lists rows.
        groups: for each of what: a column and the unit of time, if it is a date.
        conditions: which rows.
        ordered: a column that a list is sorted by, and whether the largest comes first.
        largest: whether the largest groups come first; `None` sorts by group.
        limit: how many rows or groups.
        having: a condition on the measure of each group, such as `> 3`.
        notes: how it was read, beyond all this.
    """

    root: Table
    measure: Measure | None = None
    groups: list[tuple[Column, str]] = field(default_factory=list[tuple[Column, str]])
    conditions: list[Condition] = field(default_factory=list[Condition])
    ordered: tuple[Column, bool] | None = None
    largest: bool | None = None
    limit: int | None = None
    having: str = ""
    notes: list[str] = field(default_factory=list[str])

    def said(self) -> str:
        """How the question was read, in words."""
        parts = [self.measure.said if self.measure else f"rows of {self.root.name}"]
        for column, unit in self.groups:
            parts.append(f"for each {unit + ' of ' if unit else ''}{column.table}.{column.name}")
        if self.having:
            parts.append(f"where that is {self.having}")
        absent = {condition.table for condition in self.conditions if condition.absent}
        within = [condition.said for condition in self.conditions if condition.table in absent and condition.sql]
        said = [condition.said for condition in self.conditions if condition.absent or condition.table not in absent]
        if said:
            parts.append("where " + " and ".join(said) + (" with " + " and ".join(within) if within else ""))
        if self.ordered:
            column, largest = self.ordered
            parts.append(f"{'highest or latest' if largest else 'lowest or earliest'} {column.name} first")
        if self.limit:
            parts.append(f"at most {self.limit}")
        return "; ".join([", ".join(parts), *self.notes])


def build(query: Query, schema: Schema, database: Database) -> str:
    """The statement.

    Raises:
        CannotAnswer: it would count rows twice, or tables are not linked.
    """
    return _Builder(query, schema, database).statement()


class _Builder:
    """Puts one statement together."""

    def __init__(self, query: Query, schema: Schema, database: Database) -> None:
        self._query, self._schema, self._database = query, schema, database
        self._joins: dict[str, str] = {}
        self._many = False  # a join leads to many rows

    def statement(self) -> str:
        query = self._query
        for column, _ in query.groups:
            self._join(self._way(column.table))
        if query.measure is None:
            columns, tail = self._listed()
        else:
            columns, tail = self._measured(query.measure)
        where = self._where()
        lines = [f"SELECT {', '.join(columns)}", f"FROM {self._named(query.root.name)}", *self._joins.values()]
        lines += [f"WHERE {where}"] if where else []
        return "\n".join([*lines, *tail])

    def _measured(self, measure: Measure) -> tuple[list[str], list[str]]:
        """Columns and tail of a statement that computes."""
        query, root = self._query, self._query.root
        if measure.sql is not None:
            if self._many:
                raise CannotAnswer(f"{measure.said} for each {query.groups[0][0].table} would count rows twice")
            value = measure.sql
        elif self._many:
            if root.key is None:
                raise CannotAnswer(f"{root.name} has no key of one column to count its rows by")
            value = f"COUNT(DISTINCT {self.column(root.name, root.key)})"
        else:
            value = "COUNT(*)"
        name = self._named(measure.name)
        if not query.groups:
            return [f"{value} AS {name}"], []
        keys: list[str] = []
        shown: list[str] = []
        for column, unit in query.groups:
            table, sql = self._schema[column.table], self._in_units(column, unit)
            alias = self._named(unit or (column.name if column != table.label else "_".join(column.words_of_table)))
            shown.append(f"{sql} AS {alias}")
            by_label = table.key and column == table.label
            keys += [self.column(table.name, table.key), sql] if by_label and table.key else [sql]
        tail = [f"GROUP BY {', '.join(keys)}"]
        tail += [f"HAVING {value} {query.having}"] if query.having else []
        order = keys if query.largest is None else [f"{value} {'DESC' if query.largest else 'ASC'}", *keys]
        tail.append(f"ORDER BY {', '.join(order)}")
        tail += [f"LIMIT {query.limit}"] if query.limit else []
        return [*shown, f"{value} AS {name}"], tail

    def _listed(self) -> tuple[list[str], list[str]]:
        """Columns and tail of a statement that lists rows: links are shown as what people call them."""
        query, root = self._query, self._query.root
        columns: list[str] = []
        for column in root.columns[:12]:
            link = next((link for link in root.links if link.column == column.name), None)
            other = self._schema[link.other] if link else None
            if link and other and other.label and link.other not in self._joins and link.other != root.name:
                self._join(((link, True),))
                alias = self._named("_".join(other.label.words_of_table))
                columns.append(f"{self.column(other.name, other.label.name)} AS {alias}")
            else:
                columns.append(self.column(root.name, column.name))
        order: list[str] = []
        if query.ordered:
            column, largest = query.ordered
            self._join(self._way(column.table))
            order.append(f"{self.column(column.table, column.name)} {'DESC' if largest else 'ASC'}")
        if root.key:
            order.append(self.column(root.name, root.key))
        tail = [f"ORDER BY {', '.join(order)}"] if order else []
        return columns, [*tail, *([f"LIMIT {query.limit}"] if query.limit else [])]

    def _where(self) -> str:
        """All conditions; those on the far side of the same link share one EXISTS, so they hold of one row there."""
        direct: list[str] = []
        far: dict[Link, list[tuple[Way, Condition]]] = {}
        for condition in self._query.conditions:
            way = self._way(condition.table)
            back = next((number for number, (_, forwards) in enumerate(way) if not forwards), None)
            if back is None or condition.table in self._joins:
                self._join(way)
                direct += [condition.sql] if condition.sql else []
            else:
                self._join(way[:back])
                far.setdefault(way[back][0], []).append((way[back + 1 :], condition))
        return "\n  AND ".join([*direct, *(self._exists(link, group) for link, group in far.items())])

    def _exists(self, link: Link, group: Sequence[tuple[Way, Condition]]) -> str:
        joins: dict[str, str] = {}
        for way, _ in group:
            for step, forwards in way:
                table = step.other if forwards else step.table
                joins.setdefault(table, self._joined(step, forwards=forwards, how="JOIN"))
        own = f"{self.column(link.table, link.column)} = {self.column(link.other, link.key)}"
        conditions = [own, *(condition.sql for _, condition in group if condition.sql)]
        tables = " ".join([self._named(link.table), *joins.values()])
        how = "NOT EXISTS" if any(condition.absent for _, condition in group) else "EXISTS"
        return f"{how} (SELECT 1 FROM {tables} WHERE {' AND '.join(conditions)})"  # noqa: S608 -- quoted by the dialect

    def _way(self, table: str) -> Way:
        way = self._schema.path(self._query.root.name, table)
        if way is None:
            raise CannotAnswer(f"no foreign keys lead from {self._query.root.name} to {table}")
        return way

    def _join(self, way: Way) -> None:
        for step, forwards in way:
            table = step.other if forwards else step.table
            if table not in self._joins:
                self._joins[table] = self._joined(step, forwards=forwards, how="LEFT JOIN" if forwards else "JOIN")
                self._many = self._many or not forwards

    def _joined(self, link: Link, *, forwards: bool, how: Literal["JOIN", "LEFT JOIN"]) -> str:
        table = link.other if forwards else link.table
        on = f"{self.column(link.table, link.column)} = {self.column(link.other, link.key)}"
        return f"{how} {self._named(table)} ON {on}"

    def _in_units(self, column: Column, unit: str) -> str:
        return in_units(self.column(column.table, column.name), unit, self._database)

    def _named(self, name: str) -> str:
        return self._database.named(name)

    def column(self, table: str, column: str) -> str:
        return f"{self._named(table)}.{self._named(column)}"


def in_units(sql: str, unit: str, database: Database) -> str:
    """A date as the day, week (its Monday), month or year it lies in; without a unit, as it is."""
    if not unit:
        return sql
    forms = {"day": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}
    patterns = {"day": "YYYY-MM-DD", "month": "YYYY-MM", "year": "YYYY"}
    makers: dict[str, tuple[Callable[[], str], str]] = {
        "sqlite": (lambda: f"strftime('{forms[unit]}', {sql})", f"date({sql}, 'weekday 0', '-6 days')"),
        "postgresql": (
            lambda: f"to_char({sql}, '{patterns[unit]}')",
            f"to_char(date_trunc('week', {sql}), 'YYYY-MM-DD')",
        ),
    }
    mysql = (lambda: f"date_format({sql}, '{forms[unit]}')", f"date_sub(date({sql}), INTERVAL weekday({sql}) DAY)")
    make, week = makers.get(database.dialect, mysql)
    return week if unit == "week" else make()
