"""The service desk's parts: the gate, the sample shop, times, questions, routing, wishes."""

import datetime as dt
import re
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs import _service_shop as shop
from graphs import service_desk
from graphs._service_build import CannotAnswer, Condition
from graphs._service_customer import Files, status_of
from graphs._service_database import Database, QueryFailed
from graphs._service_gate import QueryRefused, checked
from graphs._service_plan import ANALYST, SALES, SERVICE, RulePlanner, routed
from graphs._service_questions import query_for
from graphs._service_when import stretches
from graphs._service_wishes import others, stated, who
from orchestra import RequestError

TODAY = dt.date(2026, 11, 23)  # a Monday
ROWS = {
    name: [
        dict(zip([c.split()[0] for c in columns.split(", ") if not c.startswith("2)")], row, strict=True))
        for row in rows
    ]
    for (name, columns), rows in zip(shop.TABLES.items(), shop.rows(TODAY).values(), strict=True)
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("shop") / "shop.db"
    shop.write(path, TODAY)
    return path


@pytest.fixture(scope="module")
def database(path):
    return Database(f"sqlite:///{path}")


def ask(database, question, customer=None):
    schema = database.schema()
    return database.query(query_for(question, schema, database, TODAY, customer)[1])


def day(text):
    return dt.date.fromisoformat(text)


# ---- the gate


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO customers (name) VALUES ('x')",
        "UPDATE customers SET name = 'x'",
        "DELETE FROM customers",
        "DROP TABLE customers",
        "CREATE TABLE x (a int)",
        "ALTER TABLE customers ADD x int",
        "TRUNCATE customers",
        "ATTACH DATABASE '/tmp/x' AS x",
        "PRAGMA query_only = OFF",
        "PRAGMA table_info(customers)",
        "VACUUM INTO '/tmp/x'",
        "COPY customers TO PROGRAM 'sh'",
        "CALL x()",
        "SET x = 1",
        "EXPLAIN DELETE FROM customers",
        "(SELECT 1)",
        "",
        "SELECT 1; DELETE FROM customers",
        "SELECT 1;; SELECT 2",
        "WITH x AS (DELETE FROM customers RETURNING *) SELECT * FROM x",
        "WITH x AS (SELECT 1) INSERT INTO customers SELECT * FROM x",
        "SELECT * INTO copied FROM customers",
        "SELECT name FROM customers INTO OUTFILE '/tmp/x'",
        "SELECT name FROM customers INTO DUMPFILE '/tmp/x'",
        "SELECT name INTO @x FROM customers",
        "SELECT @@datadir",
        "SELECT * FROM customers FOR UPDATE",
        "SELECT * FROM customers LOCK IN SHARE MODE",
        "SELECT load_extension('x')",
        "SELECT LOAD_FILE ('/etc/passwd')",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_catalog.pg_read_file('/etc/passwd')",
        "SELECT \"pg_read_file\"('/etc/passwd')",
        "SELECT `sleep`(9)",
        "SELECT sleep(9)",
        "SELECT pg_sleep(9)",
        "SELECT dblink('host=x', 'select 1')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT readfile('/etc/passwd')",
        "SELECT writefile('/tmp/x', 'y')",
        "SELECT nextval('s')",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "SELECT * FROM pragma_database_list",
        "SELECT * FROM sqlite_master",
        "SELECT * FROM pg_shadow",
        'SELECT * FROM "pg_shadow"',
        "SELECT * FROM mysql.user",
        "SELECT * FROM information_schema.tables",
        "SELECT 1 -- x",
        "SELECT 1 /*! INTO OUTFILE '/tmp/x' */",
        "SELECT 1 # x",
        "SELECT 'it''s \\' , 1",
        "SELECT 'open",
        "SELECT $$x$$",
        "SELECT $x$ ; DELETE FROM customers; $x$",
        'SELECT U&"\\0070g_shadow"',
        "SELECT U&\"!0070g_shadow\" UESCAPE '!'",
        "SELECT [load_extension]('x')",
        "SELECT 1 AS [a'], load_extension('x'), 2 AS [b']",
        "SELECT (1",
        "SELECT 1)",
        "SELECT ?",
        "SELECT '" + "x" * 10_001 + "'",
    ],
)  # fmt: skip
def test_the_gate_refuses_all_but_one_select_that_only_reads(sql, database, path):
    before = path.read_bytes()
    with pytest.raises(QueryRefused):
        checked(sql)
    with pytest.raises(QueryRefused):
        database.query(sql)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "sql",
    [
        "select 1;",
        "SELECT ';' , 'DELETE FROM customers; --', \"name\" FROM customers",
        "WITH x AS (SELECT id FROM orders) SELECT count(*) FROM x WHERE id IN (SELECT id FROM x)",
        "SELECT city, COUNT(*) FROM customers GROUP BY city HAVING COUNT(*) > 1 ORDER BY 2 DESC LIMIT 3",
        "SELECT strftime('%Y-%m', ordered_on) FROM orders WHERE status <> 'it''s'",
        "SELECT row_number() OVER (PARTITION BY customer_id ORDER BY id) FROM orders",
        "SELECT CAST(price AS numeric(10, 2)), replace(name, 'a', 'b') FROM products",
    ],
)
def test_the_gate_lets_reading_through(sql, database):
    assert checked(sql) == sql.rstrip(";")
    assert database.query(sql).columns


@pytest.mark.parametrize(
    "sql", ["DELETE FROM customers", "ATTACH ':memory:' AS x", "PRAGMA query_only = OFF", "DROP TABLE orders"]
)
def test_the_second_lock_holds_without_the_first(sql, database, path, monkeypatch):
    monkeypatch.setattr("graphs._service_database.checked", lambda sql: sql)
    before = path.read_bytes()
    with pytest.raises(QueryFailed, match=r"not authorized|prohibited|readonly"):
        database.query(sql)
    assert path.read_bytes() == before
    assert not (path.parent / "x").exists()


def test_limits_of_rows_and_time(database):
    cut = database.query("SELECT id FROM orders", limit=10)
    assert (len(cut.rows), cut.cut) == (10, True)
    assert not database.query("SELECT id FROM orders ORDER BY id LIMIT 10", limit=10).cut
    endless = "WITH RECURSIVE c AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM c) SELECT sum(x) FROM c"
    with pytest.raises(QueryFailed, match=r"longer than 0\.2 seconds"):
        database.query(endless, seconds=0.2)


@given(st.text(max_size=40))
def test_a_value_stays_a_value(text):
    database = Database("sqlite:///nowhere.db")
    try:
        literal = database.literal(text)
    except QueryRefused:
        assert "\\" in text or "\0" in text
        return
    assert checked(f"SELECT {literal}") == f"SELECT {literal}"
    assert sqlite3.connect(":memory:").execute(f"SELECT {literal.encode('utf-8', 'replace').decode()}").fetchone() == (
        text.encode("utf-8", "replace").decode(),
    )


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///nowhere.db", "no database file"),
        ("sqlite://", "in memory holds nothing"),
        ("sqlite:////tmp", "no database file"),
        ("oracle://x", "oracle"),
        ("nonsense", "not the URL of a database"),
        ("mysql://u@h/d?init_command=DROP TABLE x", "init_command"),
        ("postgresql://u@h/d?options=-c x", "options"),
    ],
)
def test_a_bad_url_is_named(url, says):
    with pytest.raises(RequestError, match=re.escape(says)):
        Database(url).schema()


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "x.db").write_text("no database at all, but long enough to be read as one" * 20)
    with pytest.raises(RequestError, match="not a database"):
        Database(f"sqlite:///{tmp_path / 'x.db'}").schema()
    sqlite3.connect(tmp_path / "empty.db").execute("VACUUM").close()
    (tmp_path / "empty.db").touch()
    with pytest.raises(RequestError, match="no tables"):
        Database(f"sqlite:///{tmp_path / 'empty.db'}").schema()


# ---- times


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("last month", "2026-10-01 to 2026-10-31"),
        ("this week", "2026-11-23 to 2026-11-29"),
        ("last week", "2026-11-16 to 2026-11-22"),
        ("last quarter", "2026-07-01 to 2026-09-30"),
        ("last year", "2025-01-01 to 2025-12-31"),
        ("the last 7 days", "2026-11-16 to 2026-11-23"),
        ("the past three months", "2026-08-23 to 2026-11-23"),
        ("in 2024", "2024-01-01 to 2024-12-31"),
        ("in march", "2026-03-01 to 2026-03-31"),
        ("in december", "2025-12-01 to 2025-12-31"),
        ("in february 2024", "2024-02-01 to 2024-02-29"),
        ("q3 2025", "2025-07-01 to 2025-09-30"),
        ("since 3 march 2024", "2024-03-03 or later"),
        ("before 2025", "2024-12-31 or earlier"),
        ("on 2026-02-28", "2026-02-28"),
        ("between 2024-01-31 and 2024-02-29", "2024-01-31 to 2024-02-29"),
        ("yesterday", "2026-11-22"),
        ("on 2026-02-30", None),
    ],
)
def test_times(said, means):
    found = stretches(f"orders {said}?", TODAY)
    assert [str(each) for each in found] == ([means] if means else [])


# ---- questions, held against loops over the generator's rows


def late(order):
    done = order["delivered_on"]
    return order["status"] != "cancelled" and (done > order["due_on"] if done else day(order["due_on"]) < TODAY)


def month(order):
    return order["ordered_on"][:7]


def revenue(keep):
    kept = {order["id"] for order in ROWS["orders"] if keep(order)}
    return sum(item["quantity"] * item["unit_price"] for item in ROWS["order_items"] if item["order_id"] in kept)


def customer(order):
    return ROWS["customers"][order["customer_id"] - 1]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("How many orders did we have last month?", lambda: sum(month(o) == "2026-10" for o in ROWS["orders"])),
        ("How many customers are in Berlin?", lambda: sum(c["city"] == "Berlin" for c in ROWS["customers"])),
        ("How many orders are late?", lambda: sum(map(late, ROWS["orders"]))),
        ("What was our revenue in 2025?", lambda: revenue(lambda o: o["ordered_on"][:4] == "2025")),
        ("Total revenue in Berlin", lambda: revenue(lambda o: customer(o)["city"] == "Berlin")),
        ("What is the highest price?", lambda: max(p["price"] for p in ROWS["products"])),
        ("average price of chairs", lambda: (185 + 340 + 150 + 45) / 4),
        ("How many customers ordered in 2025?",
         lambda: len({o["customer_id"] for o in ROWS["orders"] if o["ordered_on"][:4] == "2025"})),
        ("How many lamps did we sell last quarter?",
         lambda: sum(i["quantity"] for i in ROWS["order_items"] if 9 <= i["product_id"] <= 12
                     and "2026-07" <= month(ROWS["orders"][i["order_id"] - 1]) <= "2026-09")),
        ("How many orders in Berlin or Hamburg?",
         lambda: sum(customer(o)["city"] in {"Berlin", "Hamburg"} for o in ROWS["orders"])),
        ("What is the average order value?", lambda: revenue(lambda _: True) / len(ROWS["orders"])),
    ],
)  # fmt: skip
def test_one_number(database, question, expected):
    found = ask(database, question).rows
    assert len(found) == 1
    assert found[0][0] == pytest.approx(expected())


def test_groups_tops_and_lists(database):
    assert dict(ask(database, "average price per category").rows) == {
        "chairs": 180.0, "desks": 437.5, "lamps": pytest.approx(50.6), "shelves": pytest.approx(68.375)
    }  # fmt: skip
    assert [row[1] for row in ask(database, "What are the three most expensive products?").rows] == [
        "Standing desk", "Corner desk", "Oak desk"
    ]  # fmt: skip
    months = dict(ask(database, "How many orders per month in 2025?").rows)
    assert months == {m: n for m in months if (n := sum(month(o) == m for o in ROWS["orders"]))}
    assert sum(months.values()) == sum(o["ordered_on"][:4] == "2025" for o in ROWS["orders"])
    counts = sorted(
        (-sum(o["customer_id"] == c["id"] for o in ROWS["orders"]), c["id"], c["name"]) for c in ROWS["customers"]
    )
    assert ask(database, "Which customers have the most orders?").rows == tuple((n, -k) for k, _, n in counts[:5])
    assert {row[0] for row in ask(database, "Which orders are late?").rows} == {
        o["id"] for o in ROWS["orders"] if late(o)
    }
    assert [row[0] for row in ask(database, "customers without orders").rows] == [39, 40]
    silent = {c["id"] for c in ROWS["customers"]} - {
        o["customer_id"] for o in ROWS["orders"] if o["ordered_on"][:4] == "2025"
    }
    assert {row[0] for row in ask(database, "customers without orders in 2025").rows} == silent
    weeks = {d - dt.timedelta(d.weekday()) for o in ROWS["orders"] if (d := day(o["ordered_on"])).year == 2026}
    assert {row[0] for row in ask(database, "orders per week in 2026").rows} == {str(week) for week in weeks}
    mine = ask(database, "Which of my orders are late?", Condition("customers", "customers.id = 1", "you"))
    assert {row[0] for row in mine.rows} == {o["id"] for o in ROWS["orders"] if o["customer_id"] == 1 and late(o)}


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("How many unicorns are there?", "unicorns"),
        ("How many orders were made by left-handed customers?", "left-handed"),
        ("revenue in 2025 without cancelled orders", "leave out orders"),
        ("orders over 100", "over 100"),
        ("Top 5 customers", "what the top is by"),
        ("Compare the revenue of march and april", "compare"),
        ("What is the sum of all orders?", "sum"),
        ("average number of items per order", "average"),
        ("list customers and products", "two tables"),
        ("revenue in 2024 and in 2025", "two stretches"),
        ('orders of "Robert\'); DROP TABLE customers;--"', "not a value"),
        ("How many orders of Robert'); DROP TABLE customers;-- are there", "robert drop table"),
    ],
)
def test_no_guess(database, path, question, says):
    before = path.read_bytes()
    with pytest.raises(CannotAnswer, match=re.escape(says)):
        ask(database, question)
    assert path.read_bytes() == before


def test_a_name_that_is_sql_is_only_a_name(tmp_path):
    name, path = "Robert'); DROP TABLE customers;--", tmp_path / "x.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT)")
        connection.executemany("INSERT INTO customers (name) VALUES (?)", [(name,), ("O'Hara",)])
    connection.close()
    before, database = path.read_bytes(), Database(f"sqlite:///{path}")
    assert ask(database, f'How many customers are "{name}"?').rows == ((1,),)
    assert ask(database, "show the customer O'Hara").rows == ((2, "O'Hara"),)
    assert [one.id for one in Files(database).find(name)] == [1]
    assert Files(database).find("x' OR '1'='1") == []
    assert path.read_bytes() == before


def test_tables_of_another_make(tmp_path):
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE clients (id INTEGER PRIMARY KEY, full_name TEXT, region TEXT);"
            'CREATE TABLE "Sales Orders" (nr INTEGER PRIMARY KEY, client INTEGER REFERENCES clients,'
            "  total REAL, date DATE);"
            "INSERT INTO clients VALUES (1, 'A', 'north'), (2, 'B', 'south');"
            'INSERT INTO "Sales Orders" VALUES'
            "  (1, 1, 10, '2026-10-02'), (2, 1, 20, '2026-10-31'), (3, 2, 40, '2026-11-01');"
        )
    connection.close()
    database = Database(f"sqlite:///{path}")
    assert ask(database, "How many sales orders per region?").rows == (("north", 2), ("south", 1))
    assert ask(database, "average total last month").rows == ((15.0,),)
    assert ask(database, "How many clients in the north?").rows == ((1,),)
    with pytest.raises(CannotAnswer, match="a quantity and a price"):
        ask(database, "What was the revenue?")


# ---- routing, wishes, states

NOBODY = ""
LABELLED = [
    ("How many orders did we have last month?", [ANALYST]),
    ("What was our revenue in 2025 per category?", [ANALYST]),
    ("Top 3 customers by revenue", [ANALYST]),
    ("List the open tickets", [ANALYST]),
    ("What is the average order value?", [ANALYST]),
    ("Where is my order 240?", [SERVICE]),
    ("My lamp arrived broken. What can I do?", [SERVICE]),
    ("How long can I return a desk?", [SERVICE]),
    ("I need a corrected invoice", [SERVICE]),
    ("Call me Ada, and please write to me in a friendly tone", [SERVICE]),
    ("Please stop sending me newsletters", [SERVICE]),
    ("Write a sales message to Ben Moss", [SALES]),
    ("Recommend me something", [SALES]),
    (service_desk.EXAMPLE, [ANALYST, SERVICE]),
    ("Find the top 3 customers by revenue and write each of them an offer", [ANALYST, SALES]),
    ("How many customers are in Berlin? And what is your return policy?", [ANALYST, SERVICE]),
    ("How many orders are open, and book me a flight to Rome", [ANALYST, NOBODY]),
    ("Book me a flight to Rome", [NOBODY]),
    ("What is the weather tomorrow?", [NOBODY]),
    ("Write me a poem", [NOBODY]),
    ("Delete all customers", [NOBODY]),
    ("What is the capital of France?", [NOBODY]),
]


@pytest.mark.parametrize(("request_", "who_does"), LABELLED)
def test_routing(request_, who_does):
    assert [part.agent for part in routed(request_, [*service_desk.flow.roster.values()])] == who_does


def test_a_letter_waits_for_the_analysis_and_the_front_desk_for_all():
    agents = [*service_desk.flow.roster.values()]
    plan = RulePlanner().plan(f"{service_desk.EXAMPLE}, and book me a flight", agents=agents, messages=())
    assert [(task.id, task.agent, task.needs) for task in plan.tasks] == [
        ("data", ANALYST, ()), ("reply", SERVICE, ("data",)), ("answer", "front_desk", ("data", "reply"))
    ]  # fmt: skip
    assert plan.tasks[-1].instruction.endswith("- book me a flight")
    apart = RulePlanner().plan("How many customers are there? What is your return policy?", agents=agents, messages=())
    assert apart.by_id["reply"].needs == ()


@pytest.mark.parametrize(
    ("request_", "wishes"),
    [
        ("Call me Addie.", {"name_to_use": "Addie"}),
        ("Please write formally", {"tone": "formal"}),
        ("I prefer a friendly tone", {"tone": "friendly"}),
        ("Please answer in German", {"language": "German"}),
        ("Contact me by e-mail only", {"channel": "email"}),
        ("I prefer to be contacted by phone", {"channel": "phone"}),
        ("Don't contact me any more", {"do_not_contact": True}),
        ("Stop sending me newsletters", {"do_not_contact": True}),
        ("You may contact me again", {"do_not_contact": None}),
        ("Write Ben Moss a friendly message", {}),
        ("Which customers are in Germany?", {}),
        ("How many customers did we contact by phone?", {}),
    ],
)
def test_wishes(request_, wishes):
    assert stated(request_) == wishes


def test_who_and_others():
    assert who("I am Ada Fern, where is my order?") == "Ada Fern"
    assert who("my email is ada.fern@shop.example") == "ada.fern@shop.example"
    assert who("I'm customer no. 12") == "12"
    assert who("Where is my order?") == ""
    assert others("Ben Moss does not want to be contacted") == ["Ben Moss"]


def test_the_state_of_an_order(database):
    orders = database.schema()["orders"]
    order = {"id": 7, "due_on": "2026-11-20", "delivered_on": None, "status": "shipped"}
    assert status_of(order, orders, TODAY) == (
        "Order 7 was due on 2026-11-20 and has not been delivered (shipped): it is 3 days late.", True
    )  # fmt: skip
    assert status_of({**order, "delivered_on": "2026-11-21"}, orders, TODAY)[0].endswith(
        "1 day after the promised 2026-11-20."
    )
    assert status_of({**order, "status": "cancelled"}, orders, TODAY) == ("Order 7 was cancelled.", False)
    assert status_of({**order, "due_on": "2026-11-23"}, orders, TODAY) == (
        "Order 7 is shipped and due on 2026-11-23.",
        False,
    )


def test_the_sample_is_the_same_for_everybody(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shop.sample_url.cache_clear()
    first = Path(shop.sample_url(TODAY).removeprefix("sqlite:///"))
    bytes_ = first.read_bytes()
    first.write_bytes(b"spoilt")
    shop.sample_url.cache_clear()
    assert Path(shop.sample_url(TODAY).removeprefix("sqlite:///")).read_bytes() == bytes_
    tomorrow = shop.sample_url(TODAY + dt.timedelta(1))
    assert [file.name for file in (tmp_path / "orchestra").iterdir()] == [Path(tomorrow).name]
    shop.sample_url.cache_clear()
