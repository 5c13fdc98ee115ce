"""What the words of a shop mean in a database: revenue, sold, late, the date of an order."""

from dataclasses import replace
from datetime import date

from graphs._service_build import CannotAnswer, Condition, Measure
from graphs._service_database import Database
from graphs._service_schema import Column, Schema, Table


def count(table: Table) -> Measure:
    """The number of its rows."""
    return Measure(table.name, None, f"number of rows of {table.name}", table.name)


class Meanings:
    """Finds in a database what the words of a shop mean; raises `CannotAnswer` where they mean nothing."""

    def __init__(self, schema: Schema, database: Database, today: date) -> None:
        self._schema, self._database, self._today = schema, database, today

    def named(self, column: Column) -> str:
        """A column as it is written in a statement."""
        return f"{self._database.named(column.table)}.{self._database.named(column.name)}"

    def main_date(self, table: Table) -> Column:
        """The date that a row of a table belongs to, its own or that of what it belongs to."""
        if table.dates:
            return table.having("ordered", "created", "opened", "placed", "date", kind="date") or table.dates[0]
        for link in table.links:
            if (other := self._schema[link.other]).dates:
                return self.main_date(other)
        raise CannotAnswer(f"{table.name} has no date")

    def price(self) -> Column:
        """The price of a product: what a bare number is about."""
        products = self._schema.role("products")
        price = products.having("price", kind="number") if products else None
        if price is None:
            raise CannotAnswer("I don't see which column the number is about")
        return price

    def late(self, root: Table) -> Condition:
        """Delivered after it was due, or due and not delivered; what was cancelled is not late."""
        for table in filter(None, (root, self._schema.role("orders"))):
            due = table.having("due", "promised", "expected", "deadline", kind="date")
            done = table.having("delivered", "arrived", "completed", "shipped", "closed", kind="date")
            if due and done:
                when, wanted = self.named(done), self.named(due)
                sql = f"({when} > {wanted} OR ({when} IS NULL AND {wanted} < '{self._today}'))"
                said = f"{table.name}.{done.name} is after {due.name}, or empty though {due.name} is past"
                if status := table.having("status", "state", kind="text"):
                    sql += f" AND coalesce(lower({self.named(status)}), '') NOT IN ('cancelled', 'canceled')"
                    said += ", and not cancelled"
                return Condition(table.name, sql, said)
        raise CannotAnswer("no table has both a date when something is due and one when it is done")

    def aggregate(self, function: str, said: str, column: Column) -> Measure:
        """A function of SQL over a column."""
        return Measure(
            column.table, f"{function}({self.named(column)})", f"{said} {column.table}.{column.name}",
            f"{function.lower()}_{column.name}",
        )  # fmt: skip

    def _items(self) -> tuple[Table, Column, Column]:
        """The table of what was ordered, with quantity and price."""
        items = self._schema.role("items")
        quantity = items.having("quantity", "qty", kind="number") if items else None
        price = items.having("price", kind="number") if items else None
        if items is None or quantity is None or price is None:
            raise CannotAnswer("no table has both a quantity and a price to compute revenue from")
        return items, quantity, price

    def revenue(self) -> Measure:
        """Quantity times price."""
        items, quantity, price = self._items()
        said = f"revenue: the sum of {items.name}.{quantity.name} × {price.name}, whatever became of the order"  # noqa: RUF001
        return Measure(items.name, f"SUM({self.named(quantity)} * {self.named(price)})", said, "revenue")

    def sold(self) -> Measure:
        """How many pieces."""
        items, quantity, _ = self._items()
        return replace(self.aggregate("SUM", "sum of", quantity), name="sold", table=items.name)

    def order_value(self) -> Measure:
        """Revenue per order."""
        items, orders = self._items()[0], self._schema.role("orders")
        link = next((link for link in items.links if orders and link.other == orders.name), None)
        if link is None:
            raise CannotAnswer(f"{items.name} does not point at orders")
        order = f"{self._database.named(items.name)}.{self._database.named(link.column)}"
        revenue = self.revenue()
        return Measure(items.name, f"{revenue.sql} / COUNT(DISTINCT {order})", "revenue per order", "order_value")
