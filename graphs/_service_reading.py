"""What has been read of a question so far: which names it holds, and which conditions they make."""

import re
from collections.abc import Callable
from datetime import date
from itertools import groupby

from graphs._service_build import CannotAnswer, Condition, Measure
from graphs._service_database import Database
from graphs._service_measures import Meanings
from graphs._service_mentions import Mention, Text, Value, mentions
from graphs._service_schema import Column, Schema, Table


class Reading:
    """A question while it is read; `_service_questions` does the reading."""

    def __init__(
        self, question: str, schema: Schema, database: Database, today: date, customer: Condition | None
    ) -> None:
        self._text, self._schema, self._database = Text(question), schema, database
        self._today, self._customer = today, customer
        self._means = Meanings(schema, database, today)
        self._conditions: list[Condition] = []
        self._group_words: list[tuple[int, int]] = []
        self._measure: Measure | None = None
        self._groups: list[tuple[Column, str]] = []
        self._largest: bool | None = None
        self._limit: int | None = None
        self._order: tuple[str, bool] | None = None  # price or date, and whether the largest comes first
        self._having = ""
        self._notes: list[str] = []
        self._mentions: list[Mention] = []
        self._counted = False

    def _numbered(self) -> list[Condition]:
        """Rows by their number: order 12, ticket no. 3."""
        found: list[Condition] = []
        for mention in mentions(self._text, self._schema):
            table = mention.table
            match = re.match(r"(?: (?:no\.?|number|nr\.?|id))? ?#? ?(\d+)(?!\w)", self._text.low[mention.span[1] :])
            if table and table.key and match:
                self._text.mark((mention.span[0], mention.span[1] + match.end()))
                key = f"{self._database.named(table.name)}.{self._database.named(table.key)}"
                found.append(Condition(table.name, f"{key} = {match[1]}", f"{table.name}.{table.key} is {match[1]}"))
        return found

    def _undone(self, match: re.Match[str], root: Table) -> Condition:
        """Not delivered: without a date of delivery."""
        for table in filter(None, (root, self._schema.role("orders"))):
            column = table.having(match["done"], kind="date")
            if column and match["done"].endswith("ed"):
                said = f"{table.name}.{column.name} is empty"
                return Condition(table.name, f"{self._means.named(column)} IS NULL", said)
        raise CannotAnswer(f"I don't know what “{match[0]}” means here")

    def _of_values(self, found: list[Value], root: Table) -> None:
        """Limit to values: of several for one column, any of them."""
        chosen = [(self._home(value, root), value) for value in found]
        chosen.sort(key=lambda each: (each[0].table, each[0].name))
        homes = {column for column, _ in chosen}
        if len(homes) > 1 and re.search(r"(?<!\w)(?:or)(?!\w)", self._text.low):
            raise CannotAnswer("“or” between different columns")
        for column, group in groupby(chosen, key=lambda each: each[0]):
            each = list(dict.fromkeys(value.text for _, value in group))
            literals = ", ".join(map(self._database.literal, each))
            sql = (
                f"{self._means.named(column)} = {literals}"
                if len(each) == 1
                else f"{self._means.named(column)} IN ({literals})"
            )
            said = " or ".join(f"“{one}”" for one in each)
            self._conditions.append(Condition(column.table, sql, f"{column.table}.{column.name} is {said}"))

    def _home(self, value: Value, root: Table) -> Column:
        """The column that a value is meant in: of the root, of a table that is named, else the only one."""
        named = {each.table.name for each in self._mentions if each.table}
        tests: tuple[Callable[[Column], bool], ...] = (lambda c: c.table == root.name, lambda c: c.table in named)
        for test in (*tests, lambda _: True):
            if fitting := [column for column in value.columns if test(column)]:
                if len(fitting) == 1:
                    return fitting[0]
                break
        places = " and ".join(f"{column.table}.{column.name}" for column in fitting)
        raise CannotAnswer(f"“{value.text}” is a value of {places}: say which one you mean")

    def _when(self, root: Table, position: int) -> Column:
        """The date that a stretch of time is about: the one named just before it, else the main one."""
        before = [each for each in self._mentions if each.columns and each.span[1] in {position - 1, position}]
        if before and (dates := [column for column in before[0].columns if column.kind == "date"]):
            self._use(before[0])
            return next((column for column in dates if column.table == root.name), dates[0])
        grouped = {column.table for column, _ in self._groups}
        named = [each.table.name for each in self._mentions if each.table and each.table.name not in grouped]
        far = [name for name in (*named, *self._passed(root)) if name != root.name and self._schema[name].dates]
        if far and (root == self._schema.role("customers") or not root.dates):
            return self._means.main_date(self._schema[far[0]])
        if root.dates:
            self._text.take(r"(?<!\w)new(?!\w)")
        return self._means.main_date(root)

    def _passed(self, root: Table) -> list[str]:
        """The tables on the way to those that the conditions are about, where it leads to many rows."""
        ways = [self._schema.path(root.name, condition.table) or () for condition in self._conditions]
        return [link.table for way in ways for link, forwards in way if not forwards]

    def _column(self, mention: Mention, kind: str = "") -> Column:
        """The column that a name means.

        Raises:
            CannotAnswer: there is none of this kind, or several.
        """
        name = self._text.said[slice(*mention.span)]
        fitting = [column for column in mention.columns if kind in {"", column.kind}]
        if not fitting:
            raise CannotAnswer(f"“{name}” holds no numbers" if kind else f"“{name}” is not a column")
        named = [each.table.name for each in self._mentions if each.table]
        near = [column for column in fitting if column.table in named] or fitting
        if len(near) > 1 and near[0].table != near[-1].table and named:
            near = [column for column in near if column.table == named[0]] or near
        if len(near) > 1:
            raise CannotAnswer(f"“{name}” is a column of {' and '.join(column.table for column in near)}: name one")
        return near[0]

    def _at(self, position: int) -> Mention | None:
        """The name that begins at a position, a filler word aside."""
        skipped = re.match(r"(?:number of |the |of )*", self._text.low[position:])
        start = position + (skipped.end() if skipped else 0)
        return next((each for each in self._mentions if each.span[0] == start and self._text.is_free(each.span)), None)

    def _use(self, mention: Mention) -> None:
        self._text.mark(mention.span)

    def _tables_said(self) -> str:
        said = [re.escape(self._text.low[slice(*each.span)]) for each in self._mentions if each.table]
        return "|".join(said) or r"(?!)"
