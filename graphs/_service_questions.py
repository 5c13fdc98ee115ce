"""From a question in words to a query, by rules; without a guess.

Every word of the question is read by some rule, or carries nothing of its own ("please", "the"). If a word is left
over, the question is not answered, and the reader is told the word. What can be asked is in `_service_grammar.CAN`.
"""

import re
from datetime import date

from graphs._service_build import CannotAnswer, Condition, Query, build
from graphs._service_database import Database
from graphs._service_grammar import (
    COMPARED,
    COMPARISONS,
    EARNED,
    FUNCTIONS,
    GRAMMAR,
    LATE,
    MOST,
    REVENUE,
    TOP,
    N,
    number_of,
)
from graphs._service_measures import count
from graphs._service_mentions import Mention, mentions, values
from graphs._service_reading import Reading
from graphs._service_schema import Column, Schema, Table
from graphs._service_when import stretches


def query_for(
    question: str, schema: Schema, database: Database, today: date, customer: Condition | None = None
) -> tuple[Query, str]:
    """The query that a question asks for, and its SQL.

    Args:
        question: in words.
        schema: the tables.
        database: they are in; looked into for the values that the question names.
        today: the day that "last month" counts from.
        customer: who "my" is; without it, "my orders" are those of the shop.

    Raises:
        CannotAnswer: says what was not understood.
    """
    query = _Reader(question, schema, database, today, customer).read()
    return query, build(query, schema, database)


class _Reader(Reading):
    """Reads one question, the most telling parts first."""

    def read(self) -> Query:
        """The query.

        Raises:
            CannotAnswer: says what was not understood.
        """
        text = self._text
        times = stretches(text.low, self._today)
        if len(times) > 1:
            said = " and ".join(f"“{each.said}”" for each in times)
            raise CannotAnswer(f"it names two stretches of time ({said}): ask for one at a time")
        for each in times:
            text.mark(each.span)
        rows = self._numbered()
        late = text.take(LATE)
        absent = text.take(
            r"(?<!\w)(?:without(?: any)?|with no|(?:who|that) (?:have |has )?never|(?:have|has) no)(?!\w)"
        )
        undone = text.take(r"(?<!\w)(?:not|never)(?: yet)?(?: been)?(?: yet)? (?P<done>[a-z]+)(?: yet)?(?!\w)")
        found = values(text, self._schema, self._database, GRAMMAR)
        self._mentions = mentions(text, self._schema)
        self._superlatives()
        self._grouping()
        self._computing()
        self._comparing()
        root = self._root(late=late is not None or bool(rows))
        self._own(root)
        if late:
            self._conditions.append(self._means.late(root))
        if undone:
            self._conditions.append(self._undone(undone, root))
        self._of_values(found, root)
        self._conditions += rows
        if times:
            when = self._when(root, times[0].span[0])
            column = self._means.named(when)
            bounds = [f"{column} {sign} '{day}'" for sign, day in ((">=", times[0].start), ("<", times[0].end)) if day]
            self._conditions.append(
                Condition(when.table, " AND ".join(bounds), f"{when.table}.{when.name} is in {times[0]}")
            )
        self._rest(root, absent)
        if left := text.left():
            raise CannotAnswer(f"I don't know what “{' '.join(left)}” means here")
        ordered = self._ordering(root)
        return Query(
            root, self._measure, self._groups, self._conditions, ordered, self._largest, self._limit, self._having,
            self._notes,
        )  # fmt: skip

    def _superlatives(self) -> None:
        text = self._text
        number = rf"(?:(?P<n>{N}) )?"
        if match := text.take(rf"(?<!\w)(?:the )?(?P<which>top|first|bottom)(?: (?P<n>{N}))?(?!\w)"):
            self._first(match["n"], largest=match["which"] == "top")
        if text.take(r"(?<!\w)(?:the )?(?:best[- ]selling|most sold|most popular|best ?sellers?|sells? best)(?!\w)"):
            self._first(None, largest=True)
            self._measure = self._means.sold()
            self._group_by_table(self._schema.role("products"))
        elif match := text.take(rf"(?<!\w)(?:the )?{number}(?P<how>most expensive|priciest|cheapest)(?!\w)"):
            self._first(match["n"], largest=match["how"] != "cheapest")
            self._order = ("price", match["how"] != "cheapest")
        elif match := text.take(rf"(?<!\w)(?:the )?{number}(?P<how>newest|latest|most recent|oldest|earliest)(?!\w)"):
            self._first(match["n"], largest=match["how"] not in {"oldest", "earliest"})
            self._order = ("date", match["how"] not in {"oldest", "earliest"})
        elif match := text.take(rf"(?<!\w)(?:the )?last (?P<n>{N})(?!\w)"):
            self._first(match["n"], largest=True)
            self._order = ("date", True)
        elif match := text.take(r"(?<!\w)(?:who )?(?P<v>spent|spend|spends|paid) (?:the )?(?P<how>most|least)(?!\w)"):
            self._first(None, largest=match["how"] == "most")
            self._measure = self._means.revenue()
        elif match := text.take(MOST):
            self._most(match)

    def _most(self, match: re.Match[str]) -> None:
        """The most orders, the highest revenue, the highest price."""
        self._largest = match["how"] in {"most", "highest"}
        if mention := self._at(match.end() + 1):
            if mention.table:
                self._use(mention)
                self._first(None, largest=self._largest)
                self._measure = count(mention.table)
                return
            column = self._column(mention, kind="number")
            self._use(mention)
            how = "MAX" if self._largest else "MIN"
            self._largest = None
            self._measure = self._means.aggregate(how, "highest" if how == "MAX" else "lowest", column)
        elif self._names_revenue():
            self._first(None, largest=self._largest)
            self._measure = self._means.revenue()
        else:
            raise CannotAnswer(f"I don't know what “{match['how']}” counts here")

    def _first(self, number: str | None, *, largest: bool) -> None:
        self._limit = int(number_of(number)) if number else self._limit or TOP
        self._largest = largest

    def _grouping(self) -> None:
        """Per city, by month, for each customer."""
        pattern = r"(?<!\w)(?:per|by|for each|for every|in each|each|every|grouped by)(?= )(?: the)?(?: number of)?"
        for match in re.finditer(pattern, self._text.low):
            if not self._text.is_free(match.span()):
                continue
            if unit := re.match(r" (day|week|month|year)(?!\w)", self._text.low[match.end() :]):
                self._text.mark((match.start(), match.end() + unit.end()))
                self._group_words.append((match.start(), match.end() + unit.end()))
                self._groups.append((_ANY_DATE, unit[1]))
            elif mention := self._at(match.end() + 1):
                self._text.mark(match.span())
                self._use(mention)
                by = match[0].startswith("by")
                if by and self._limit and mention.table:  # the top 5 customers by orders
                    self._measure = count(mention.table)
                elif by and self._limit and mention.columns[0].kind == "number":
                    self._order = (mention.columns[0].name, bool(self._largest))
                elif mention.table:
                    self._group_by_table(mention.table)
                else:
                    self._groups.append((self._column(mention), ""))
            elif revenue := re.match(rf" {REVENUE}", self._text.low[match.end() :]):
                self._text.mark((match.start(), match.end() + revenue.end()))
                self._measure = self._means.revenue()

    def _computing(self) -> None:
        text = self._text
        if self._measure is not None:
            text.take(r"(?<!\w)(?:how many|how much|number of|total|count)(?!\w)")
        elif text.take(r"(?<!\w)(?:average|mean) (?:order value|value of (?:an |the )?orders?|order)(?!\w)"):
            self._measure = self._means.order_value()
            self._mentions = [each for each in self._mentions if text.is_free(each.span)]
        elif match := text.take(rf"(?<!\w)(?P<how>{'|'.join(FUNCTIONS)})(?!\w)(?: of)?(?: the| all)*"):
            self._aggregated(match)
        elif self._names_revenue() or text.take(EARNED):
            text.take(r"(?<!\w)how much(?!\w)")
            text.take(r"(?<!\w)(?:earn|spend|spent|sell|sold|paid|pay)(?!\w)")
            self._measure = self._means.revenue()
        elif text.take(r"(?<!\w)(?:how many|number of|count)(?!\w)(?: of)?(?: the)?(?: different)?"):
            if text.take(r"(?<!\w)(?:units |pieces )?(?:of )?(?:sold|sell)(?!\w)"):
                self._measure = self._means.sold()
            self._counted = True

    def _aggregated(self, match: re.Match[str]) -> None:
        how = match["how"].split()[0]
        if how in {"total", "sum"} and self._names_revenue():
            self._measure = self._means.revenue()
            return
        mention = self._at(match.end() + 1)
        whole = how in {"total", "sum"} and self._text.take(r"(?<!\w)number of(?!\w)")
        if whole or (match[0] == "total" and mention and mention.table):
            self._counted = True
            return
        if mention is None or mention.table:
            raise CannotAnswer(f"I don't know which column “{match['how']}” is about")
        self._use(mention)
        self._measure = self._means.aggregate(FUNCTIONS[how], how, self._column(mention, kind="number"))

    def _names_revenue(self) -> bool:
        """Whether revenue is asked for; "sales" in the name of a table is something else."""
        tables = [each.span for each in self._mentions if each.table]
        for match in re.finditer(REVENUE, self._text.low):
            if self._text.is_free(match.span()) and not any(a < match.end() and match.start() < b for a, b in tables):
                self._text.mark(match.span())
                return True
        return False

    def _comparing(self) -> None:
        """Price over 100; more than 3 orders."""
        for match in re.finditer(COMPARED, self._text.low):
            if not self._text.is_free(match.span()):
                continue
            sign, than = COMPARISONS[match["how"]], number_of(match["than"])
            after = self._at(match.end() + 1)
            before = next((each for each in self._mentions if each.columns and each.span[1] + 1 >= match.start() - 4
                           and each.span[1] < match.start()), None)  # fmt: skip
            if after and after.table and self._measure is None:
                self._measure, self._having = count(after.table), f"{sign} {than:g}"
                self._use(after)
            else:
                mention = before or (after if after and after.columns else None)
                products = self._schema.role("products")
                if (
                    not mention
                    and "cost" not in match[0]
                    and not any(each.table == products for each in self._mentions)
                ):
                    raise CannotAnswer(f"I don't see which column “{match[0]}” is about: name it")
                column = self._column(mention, kind="number") if mention else self._means.price()
                if mention:
                    self._use(mention)
                said = f"{column.table}.{column.name} {sign} {than:g}"
                self._conditions.append(Condition(column.table, f"{self._means.named(column)} {sign} {than:g}", said))
            self._text.mark(match.span())
        if self._limit is None or self._order:
            match = self._text.take(rf"(?<!\w)(?P<n>{N})(?= (?:{self._tables_said()})(?!\w))")
            self._limit = int(number_of(match["n"])) if match else self._limit

    def _root(self, *, late: bool) -> Table:
        """The table that the question is about."""
        tables = [each for each in self._mentions if each.table and self._text.is_free(each.span)]
        if self._measure is not None:
            if (self._largest is not None or self._having) and not self._groups:
                self._group_first(tables)
            return self._dated(self._schema[self._measure.table])
        if tables:
            first = tables[0]
            self._text.mark(first.span)
            root = first.table
        else:
            root = self._conditions_root(late=late)
        if root is None:
            left = f", nor what “{' '.join(left)}” means here" if (left := self._text.left()) else ""
            raise CannotAnswer(f"I don't see which table it is about{left}")
        if self._counted or self._groups:
            self._measure = count(root)
        return self._dated(root)

    def _conditions_root(self, *, late: bool) -> Table | None:
        """The table of a question that names none: that of its conditions, or the only one that can be late."""
        named = {condition.table for condition in self._conditions}
        if len(named) == 1:
            return self._schema[named.pop()]
        if late:
            return self._schema.role("orders")
        if self._order and self._order[0] == "price":
            return self._schema.role("products")
        columns = [each for each in self._mentions if each.columns and self._text.is_free(each.span)]
        return self._schema[self._column(columns[0]).table] if columns else None

    def _group_first(self, tables: list[Mention]) -> None:
        """Which customer has the most orders: for each customer."""
        if tables and tables[0].table:
            self._text.mark(tables[0].span)
            self._group_by_table(tables[0].table)
            return
        column = next((each for each in self._mentions if each.columns and self._text.is_free(each.span)), None)
        if unit := self._text.take(r"(?<!\w)(day|week|month|year)(?!\w)"):
            self._groups.append((_ANY_DATE, unit[1]))
        elif column:
            self._use(column)
            self._groups.append((self._column(column), ""))
        else:
            raise CannotAnswer("I don't see what to compare: name a table or a column")

    def _dated(self, root: Table) -> Table:
        """Fill in which date "per month" means."""
        self._groups = [
            (self._means.main_date(root) if column is _ANY_DATE else column, unit) for column, unit in self._groups
        ]
        return root

    def _own(self, root: Table) -> None:
        if not self._text.take(r"(?<!\w)(?:my|mine|i)(?!\w)") or root == self._schema.role("customers"):
            return
        path = self._customer and self._schema.path(root.name, self._customer.table)
        if self._customer and path is not None and all(forwards for _, forwards in path):
            self._conditions.append(self._customer)
        elif self._customer is None and self._schema.role("customers"):
            self._notes.append("“my” read as the shop's, since you are not known as a customer")

    def _rest(self, root: Table, absent: re.Match[str] | None) -> None:
        """Tables that are still left: there must be such rows, or none."""
        for mention in self._mentions:
            if not self._text.is_free(mention.span):
                continue
            if mention.table and mention.table != root:
                name = mention.table.name
                if re.search(r" (?:and|or) (?:the )?$", self._text.low[: mention.span[0]]):
                    raise CannotAnswer(f"it asks for two tables at once, {root.name} and {name}: ask for one at a time")
                if absent and all(forwards for _, forwards in self._schema.path(root.name, name) or ()):
                    raise CannotAnswer(f"I can't leave out {name} here")
                self._use(mention)
                grouped = any(column.table == name for column, _ in self._groups)
                if absent or not (grouped or any(condition.table == name for condition in self._conditions)):
                    sign = "no row" if absent else "a row"
                    self._conditions.append(Condition(name, "", f"there is {sign} of {name}", absent=bool(absent)))
                absent = None
            elif mention.table == root or (
                self._measure is None and any(c.table == root.name for c in mention.columns)
            ):
                self._use(mention)  # a list shows all columns of its table
        if absent:
            raise CannotAnswer(f"I don't know what “{absent[0]}” excludes here")

    def _ordering(self, root: Table) -> tuple[Column, bool] | None:
        if self._order is None:
            if self._limit and self._largest is not None and self._measure is None:
                raise CannotAnswer("I don't see what the top is by: say for example “by price” or “by revenue”")
            return None
        name, largest = self._order
        column = self._means.main_date(root) if name == "date" else root.having(name) or self._by_name(root, name)
        self._largest = None
        if self._measure is not None:
            raise CannotAnswer("it asks for a number and for rows at once")
        return column, largest

    def _by_name(self, root: Table, name: str) -> Column:
        column = next((column for column in root.columns if column.name == name), None)
        if column is None:
            raise CannotAnswer(f"{root.name} has no column “{name}”")
        return column

    def _group_by_table(self, table: Table | None) -> None:
        column = table and (table.label or next((c for c in table.columns if c.name == table.key), None))
        if column is None:
            raise CannotAnswer("I don't see how rows of that table are told apart")
        self._groups.append((column, ""))


_ANY_DATE = Column(table="", name="", kind="date")
