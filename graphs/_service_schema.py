"""The tables of a database, and what they are to a service desk: customers, orders, tickets, what is due when.

Nothing here knows a particular shop. A table is what its name says it is; a link is a foreign key.
"""

import re
from collections import deque
from collections.abc import Iterable
from typing import Any, Literal

from graphs._types import Frozen

Kind = Literal["number", "date", "yes/no", "text"]
MAX_TABLES = 200


class Column(Frozen):
    """A column of a table."""

    table: str
    name: str
    kind: Kind

    @property
    def words(self) -> tuple[str, ...]:
        """The words of its name, in the singular."""
        return name_words(self.name)

    @property
    def words_of_table(self) -> tuple[str, ...]:
        """The words of its table's name, in the singular."""
        return name_words(self.table)


class Link(Frozen):
    """A foreign key: `column` of `table` holds the `key` of `other`."""

    table: str
    column: str
    other: str
    key: str


class Table(Frozen):
    """A table.

    Attributes:
        name: its name.
        columns: its columns.
        key: its primary key, if that is one column.
        links: its foreign keys.
    """

    name: str
    columns: tuple[Column, ...]
    key: str | None = None
    links: tuple[Link, ...] = ()

    def having(self, *words: str, kind: Kind | None = None) -> Column | None:
        """The first column whose name has one of these words, by the order of the words."""
        for word in words:
            for column in self.columns:
                if word in column.words and kind in {None, column.kind} and not self.is_link(column.name):
                    return column
        return None

    def is_link(self, column: str) -> bool:
        """Whether a column is a foreign key."""
        return any(link.column == column for link in self.links)

    @property
    def label(self) -> Column | None:
        """What people call a row of it."""
        return self.having("name", "title", "label", kind="text")

    @property
    def dates(self) -> tuple[Column, ...]:
        """Its columns with dates."""
        return tuple(column for column in self.columns if column.kind == "date")

    def __str__(self) -> str:
        """The table as a reader is shown it."""
        return f"{self.name} ({', '.join(column.name for column in self.columns)})"


_ROLES = {
    "customers": ("customer", "client", "buyer", "account", "user"),
    "orders": ("order", "purchase", "sale"),
    "items": ("item", "line", "position"),
    "products": ("product", "article", "good", "item"),
    "tickets": ("ticket", "complaint", "case", "issue"),
}
Role = Literal["customers", "orders", "items", "products", "tickets"]


class Schema(Frozen):
    """The tables of a database."""

    tables: tuple[Table, ...]

    def __getitem__(self, name: str) -> Table:
        """A table by its name."""
        return next(table for table in self.tables if table.name == name)

    def role(self, role: Role) -> Table | None:
        """The table that plays a part, by its name; one with few words wins (`orders` before `order_items`)."""
        found = [
            (number, len(words), table)
            for table in self.tables
            for number, word in enumerate(_ROLES[role])
            if (words := name_words(table.name))[-1:] == (word,)
        ]
        if role == "items":  # order_items, or order lines: it points at orders and products
            found = [each for each in found if len(each[2].links) > 1] or [
                (0, 0, table) for table in self.tables if table.having("quantity", "qty") and len(table.links) > 1
            ]
        elif role == "products":
            found = [each for each in found if each[2].having("price") and not each[2].having("quantity")]
        return min(found, key=lambda each: each[:2], default=(0, 0, None))[2]

    def path(self, start: str, goal: str) -> tuple[tuple[Link, bool], ...] | None:
        """The shortest way from table to table by foreign keys; each with whether it is followed towards its key.

        Ways that never lead to many rows are taken before others.
        """
        for forwards_only in (True, False):
            queue: deque[tuple[str, tuple[tuple[Link, bool], ...]]] = deque([(start, ())])
            seen = {start}
            while queue:
                here, way = queue.popleft()
                if here == goal:
                    return way
                for link in self[here].links:
                    if link.other not in seen:
                        seen.add(link.other)
                        queue.append((link.other, (*way, (link, True))))
                for table in () if forwards_only else self.tables:
                    for link in table.links:
                        if link.other == here and link.table not in seen:
                            seen.add(link.table)
                            queue.append((link.table, (*way, (link, False))))
        return None

    def __str__(self) -> str:
        """The tables as a reader is shown them."""
        return "; ".join(map(str, self.tables))

    def described(self) -> str:
        """The tables for a model's prompt: columns with kinds, and foreign keys."""
        lines: list[str] = []
        for table in self.tables:
            columns = ", ".join(f"{column.name} ({column.kind})" for column in table.columns)
            lines.append(f"{table.name}: {columns}; key {table.key or 'none'}")
            lines += [f"  {table.name}.{link.column} -> {link.other}.{link.key}" for link in table.links]
        return "\n".join(lines)


def singular(word: str) -> str:
    """An English noun in the singular, roughly; what it does not know, it leaves."""
    for plural, one in (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x")):
        if word.endswith(plural) and len(word) > len(plural) + 1:
            return word.removesuffix(plural) + one
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def name_words(name: str) -> tuple[str, ...]:
    """The words of a name such as `order_items` or `orderItems`, in the singular."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return tuple(singular(word) for word in re.split(r"[\W_]+", spaced.lower()) if word)


def read_schema(inspector: Any) -> Schema:
    """Read the tables that a connection sees, without those of the database system."""
    tables: list[Table] = []
    names = [name for name in inspector.get_table_names() if not name.startswith(("sqlite_", "pg_"))]
    for name in sorted(names)[:MAX_TABLES]:
        columns = tuple(
            Column(table=name, name=found["name"], kind=_kind(found["type"], found["name"]))
            for found in inspector.get_columns(name)
        )
        key = inspector.get_pk_constraint(name).get("constrained_columns") or []
        tables.append(
            Table(name=name, columns=columns, key=key[0] if len(key) == 1 else None, links=_links(inspector, name))
        )
    return Schema(tables=_without_strays(tables))


def _links(inspector: Any, name: str) -> tuple[Link, ...]:
    found = [each for each in inspector.get_foreign_keys(name) if len(each["constrained_columns"]) == 1]
    return tuple(
        Link(
            table=name,
            column=each["constrained_columns"][0],
            other=each["referred_table"],
            key=(each["referred_columns"] or ["id"])[0],
        )
        for each in found
        if not each.get("referred_schema")
    )


def _without_strays(tables: Iterable[Table]) -> tuple[Table, ...]:
    """The tables without links to tables that are not there."""
    tables = list(tables)
    names = {table.name for table in tables}
    return tuple(
        table.model_copy(update={"links": tuple(link for link in table.links if link.other in names)})
        for table in tables
    )


def _kind(declared: Any, name: str) -> Kind:
    """What a column holds: by its declared type, and where that says only text, by its name."""
    said = str(declared).upper()
    if "BOOL" in said or said.startswith("TINYINT(1)"):
        return "yes/no"
    if re.search(r"DATE|TIME", said):
        return "date"
    if re.search(r"INT|NUM|DEC|REAL|FLOAT|DOUBLE|SERIAL|MONEY", said):
        return "number"
    return "date" if re.search(r"(?:_at|_on|_date|^date)$", name.lower()) else "text"
