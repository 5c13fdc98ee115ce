"""A customer in a database: who a user is, and what stands there of their orders, tickets and purchases.

The desk does not check who somebody is: `user` is what the program that calls it says, and "I am …" what a request
says. Whoever is no customer of the database is taken for somebody of the shop.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from graphs._service_build import Condition
from graphs._service_database import Database, Rows, Value
from graphs._service_gate import QueryRefused
from graphs._service_schema import Link, Schema, Table
from graphs._service_wishes import who
from graphs._types import Frozen
from orchestra import Assignment

Row = Mapping[str, Value]


class Customer(Frozen):
    """A customer: the key, the name and the rest of the row."""

    id: Value
    name: str
    row: dict[str, Value]

    def may_be_written_to(self) -> bool:
        """Whether no column of the row says that the customer wants no messages."""
        for column, value in self.row.items():
            consent = re.search(r"newsletter|consent|subscribed|opt_?in", column, re.IGNORECASE)
            refusal = re.search(r"do_?not|no_contact|opt_?out|unsubscribed", column, re.IGNORECASE)
            if (consent and not refusal and value in {0, "0", "no", "false"}) or (refusal and value in {1, "1", "yes"}):
                return False
        return True


class Files:
    """Looks things up in a database; every statement that ran is in `asked`."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.schema: Schema = database.schema()
        self.asked: list[Rows] = []

    def ask(self, sql: str, limit: int = 50) -> list[dict[str, Value]]:
        """Run a statement; the rows by column."""
        rows = self.database.query(sql, limit=limit)
        self.asked.append(rows)
        return [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]

    def condition(self, customer: Customer) -> Condition:
        """The condition that something is this customer's."""
        table = self._customers()
        key = f"{self.database.named(table.name)}.{self.database.named(table.key or '')}"
        return Condition(
            table.name, f"{key} = {self.database.literal(customer.id)}", f"the customer is {customer.name}"
        )

    def _customers(self) -> Table:
        table = self.schema.role("customers")
        if table is None or table.key is None or table.label is None:
            raise LookupError("the database has no table of customers with a key and a name")
        return table

    def _to_customers(self, table: Table | None) -> Link | None:
        """The foreign key of a table that points at customers, where there are any with a key and a name."""
        customers = self.schema.role("customers")
        if table is None or customers is None or customers.key is None or customers.label is None:
            return None
        return next((link for link in table.links if link.other == customers.name), None)

    def find(self, said: str) -> list[Customer]:
        """The customers of this number, email address, name or first name; all that fit."""
        try:
            table = self._customers()
            self.database.literal(said)
        except (LookupError, QueryRefused):  # a name with a backslash is nobody's
            return []
        named, literal = self.database.named, self.database.literal
        name, key, low = named(table.label.name if table.label else ""), named(table.key or ""), literal(said.lower())
        email = table.having("email", "mail", kind="text")
        if said.isdigit():
            where = [f"{key} = {said}"]
        elif "@" in said:
            where = [f"lower({named(email.name)}) = {low}"] if email else []
        else:
            first = re.sub(r"[%_]", "", said.lower())
            where = [f"lower({name}) = {low}", f"lower({name}) LIKE {literal(first + ' %')}"]
        for each in where:
            if found := self.ask(f"SELECT * FROM {named(table.name)} WHERE {each}", limit=5):  # noqa: S608
                return [self._customer(table, row) for row in found]
        return []

    def named_in(self, text: str) -> list[Customer]:
        """The customers whose whole name or email address stands in a text."""
        words = re.findall(r"[\w.+@'-]+", text)
        runs = {" ".join(words[i : i + n]).rstrip(".") for n in (1, 2, 3) for i in range(len(words) - n + 1)}
        likely = [run.removesuffix("'s") for run in sorted(runs) if "@" in run or re.match(r"[A-Z][\w'-]+ [A-Z]", run)]
        found: dict[Value, Customer] = {}
        for run in likely[:10]:
            for customer in self.find(run):
                if customer.name.lower() == run.lower() or "@" in run:
                    found[customer.id] = customer
        return list(found.values())

    def _customer(self, table: Table, row: dict[str, Value]) -> Customer:
        return Customer(id=row[table.key or ""], name=str(row[table.label.name if table.label else ""]), row=row)

    def user(self, task: Assignment) -> Customer | None:
        """The customer that the user of a task is; `None` if that is nobody, or not clear."""
        for said in (who(task.request), str(task.facts.get("customer") or ""), task.user):
            if said and len(found := self.find(said)) == 1:
                if said == who(task.request):
                    task.remember("customer", said, kind="fact")
                return found[0]
        return None

    def orders(self, customer: Customer | None = None, number: int | None = None) -> list[dict[str, Value]]:
        """The last orders of a customer, or the one of a number; the customer's name is `customer_name`."""
        orders, named = self.schema.role("orders"), self.database.named
        link = self._to_customers(orders)
        if orders is None or orders.key is None or link is None:
            return []
        when = orders.having("ordered", "created", "placed", "date", kind="date")
        where = [f"{named(orders.name)}.{named(orders.key)} = {number}"] if number is not None else []
        where += [self.condition(customer).sql] if customer else []
        if not where:
            return []
        customers = self._customers()
        label = f"{named(customers.name)}.{named(customers.label.name if customers.label else '')}"
        order = f"{named(orders.name)}.{named(when.name if when else orders.key)}"
        return self.ask(
            f"SELECT {named(orders.name)}.*, {label} AS customer_name FROM {named(orders.name)} "  # noqa: S608
            f"JOIN {named(customers.name)} ON {named(orders.name)}.{named(link.column)} = {named(customers.name)}."
            f"{named(link.key)} WHERE {' AND '.join(where)} ORDER BY {order} DESC LIMIT 5"
        )

    def open_tickets(self, customer: Customer) -> list[dict[str, Value]]:
        """The tickets of a customer that are not closed."""
        tickets, named = self.schema.role("tickets"), self.database.named
        link = self._to_customers(tickets)
        closed = tickets.having("closed", "resolved", "done", kind="date") if tickets else None
        if tickets is None or link is None or closed is None:
            return []
        return self.ask(
            f"SELECT * FROM {named(tickets.name)} WHERE {named(link.column)} = "  # noqa: S608
            f"{self.database.literal(customer.id)} AND {named(closed.name)} IS NULL"
        )

    def bought(self, customer: Customer) -> list[dict[str, Value]]:
        """What a customer bought, the most often first: columns `product`, `category` (if there are any), `times`."""
        sql = self._purchases(f"WHERE {self.condition(customer).sql}")
        return self.ask(sql) if sql else []

    def never_bought(self, customer: Customer, category: Value) -> list[dict[str, Value]]:
        """Products of a category, or of any, that a customer never bought, the best-selling first; with prices."""
        products, items = self.schema.role("products"), self.schema.role("items")
        bought = self._purchases(f"WHERE {self.condition(customer).sql}", only_key=True)
        price = products.having("price", kind="number") if products else None
        if not (products and items and products.key and products.label and price and bought):
            return []
        named = self.database.named
        table, key = named(products.name), f"{named(products.name)}.{named(products.key)}"
        kind, money = (
            products.having("category", "kind", "group", kind="text"),
            products.having("currency", kind="text"),
        )
        link = next(link for link in items.links if link.other == products.name)
        where = [f"{key} NOT IN ({bought})"]
        where += [f"{table}.{named(kind.name)} = {self.database.literal(category)}"] if kind and category else []
        currency = f", {table}.{named(money.name)} AS currency" if money else ""
        grouped = [key, *(f"{table}.{named(c.name)}" for c in (products.label, price, *([money] if money else [])))]
        return self.ask(
            f"SELECT {table}.{named(products.label.name)} AS product, "  # noqa: S608
            f"{table}.{named(price.name)} AS price{currency}, COUNT(*) AS sold FROM {table} "
            f"JOIN {named(items.name)} ON {named(items.name)}.{named(link.column)} = {key} "
            f"WHERE {' AND '.join(where)} GROUP BY {', '.join(grouped)} ORDER BY COUNT(*) DESC, {key} LIMIT 2"
        )

    def _purchases(self, where: str, *, only_key: bool = False) -> str:
        """A statement over items, orders, customers and products; empty if the database has not all of them."""
        named, schema = self.database.named, self.schema
        tables = [schema.role("items"), schema.role("orders"), schema.role("customers"), schema.role("products")]
        items, orders, customers, products = tables
        if not (items and orders and customers and products and products.key and products.label):
            return ""
        joins: list[str] = []
        for table, other in ((items, orders), (orders, customers), (items, products)):
            link = next((link for link in table.links if link.other == other.name), None)
            if link is None:
                return ""
            on = f"{named(table.name)}.{named(link.column)} = {named(other.name)}.{named(link.key)}"
            joins.append(f"JOIN {named(other.name)} ON {on}")
        start = f"FROM {named(items.name)} {' '.join(joins)} {where}"
        if only_key:
            return f"SELECT {named(products.name)}.{named(products.key)} {start}"
        kind = products.having("category", "kind", "group", kind="text")
        columns = [f"{named(products.name)}.{named(products.label.name)}"]
        columns += [f"{named(products.name)}.{named(kind.name)}"] if kind else []
        shown = [f"{c} AS {n}" for c, n in zip(columns, ("product", "category"), strict=False)]
        ends = f"GROUP BY {', '.join(columns)} ORDER BY COUNT(*) DESC, {columns[0]}"
        return f"SELECT {', '.join(shown)}, COUNT(*) AS times {start} {ends}"


def status_of(order: Row, orders: Table, day: date) -> tuple[str, bool]:
    """An order's state in a sentence, and whether it is or was late."""
    due, done = (
        orders.having("due", "promised", "expected", kind="date"),
        orders.having("delivered", "arrived", kind="date"),
    )
    state = orders.having("status", "state", kind="text")
    number = f"Order {order.get(orders.key or '')}"
    said = str(order.get(state.name) or "") if state else ""
    if said.lower() in {"cancelled", "canceled"}:
        return f"{number} was cancelled.", False
    wanted, came = (_date(order.get(column.name)) if column else None for column in (due, done))
    if came:
        days = (came - wanted).days if wanted else 0
        late = f", {_days(days)} after the promised {wanted}" if days > 0 else ""
        return f"{number} was delivered on {came}{late}.", days > 0
    if wanted and wanted < day:
        was = f" ({said})" if said else ""
        return (
            f"{number} was due on {wanted} and has not been delivered{was}: it is {_days((day - wanted).days)} late.",
            True,
        )
    return f"{number} is {said or 'not delivered yet'}{f' and due on {wanted}' if wanted else ''}.", False


def _date(value: Value) -> date | None:
    try:
        return date.fromisoformat(str(value)[:10]) if value else None
    except ValueError:
        return None


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"


def order_numbers(text: str) -> list[int]:
    """The numbers of orders that a text names."""
    return [int(n) for n in re.findall(r"\borders? (?:no\.? |number |nr\.? )?#?(\d{1,12})\b", text, re.IGNORECASE)]


def people(rows: Sequence[Rows]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The rows of an analysis by customer, where a column names the customer."""
    found: dict[str, list[dict[str, Any]]] = {}
    for each in rows:
        columns = [name.lower() for name in each.columns]
        column = next((name for name in ("customer", "customer_name", "client") if name in columns), None)
        if column is None and "email" in columns and "name" in columns:
            column = "name"
        for row in each.rows if column else ():
            by_name = dict(zip(columns, row, strict=True))
            found.setdefault(str(by_name[column or ""]), []).append(by_name)
    return list(found.items())
