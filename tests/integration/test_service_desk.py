"""The service desk as a whole: real databases, memory over sessions, refusals, and models that help or lie."""

import datetime as dt
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from langchain_openai import ChatOpenAI

from checkpoints.dialects import open_dialect
from graphs import _service_shop as shop
from graphs import service_desk
from graphs._service_database import Database, QueryFailed
from graphs._service_desk import DATABASE
from graphs._service_questions import query_for
from orchestra import Orchestra, RequestError, RunState
from orchestra.models.profiles import forget_profiles
from tests.fakes import Fake, Fault, ToolCall

TODAY = dt.date(2026, 11, 23)
QUESTIONS = (
    "How many orders did we have last month?",
    "Revenue per month in 2025",
    "orders per week in 2026",
    "orders per year",
    "Top 5 customers by revenue",
    "Which orders are late?",
    "average price per category",
    "How many customers ordered in 2025?",
    "customers without orders",
    "Customers with more than 8 orders",
    "What are the best-selling products this year?",
    "Show the orders of Ada Fern",
    "How many tickets are open per topic?",
)
WRITES = (
    "INSERT INTO products (id, name) VALUES (99, 'x')",
    "UPDATE products SET price = 0",
    "DELETE FROM tickets",
    "DROP TABLE tickets",
    "CREATE TABLE stolen (a INTEGER)",
    "SELECT 1; DELETE FROM tickets",
)


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(DATABASE, raising=False)


@pytest.fixture
def shop_file(tmp_path):
    path = tmp_path / "my shop.db"
    shop.write(path, TODAY)
    return path


@pytest.fixture
def fake():
    forget_profiles()
    with Fake() as endpoint:
        endpoint.when("Call the tool ping.", ToolCall("ping"))
        yield endpoint


def desk(fake=None):
    model = fake and ChatOpenAI(model="fake-model-1", base_url=fake.url, api_key="x", max_retries=0)
    return service_desk.build(model, today=lambda: TODAY)


async def ask(orchestra, request, fake=None, **options):
    run = await orchestra.start(desk(fake), request, **options)
    outcome = await run
    assert outcome.state is RunState.DONE
    return outcome.answer, (await orchestra.info(run.thread_id)).results


# ---- databases


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request):
    """The shop on a server, whose user may do everything."""
    url = request.getfixturevalue("postgres_url" if request.param == "postgresql" else "mariadb_url")
    engine, metadata = sa.create_engine(open_dialect(url)[1]), sa.MetaData()
    kinds = {
        "INTEGER": sa.Integer,
        "DATE": sa.Date,
        "NUMERIC(10": sa.Numeric(10, 2),
        "BOOLEAN": sa.Boolean,
        "TEXT": sa.Text,
    }
    for name, columns in shop.TABLES.items():
        parts = [column.split() for column in columns.replace("(10, 2)", "(10").split(", ")]
        sa.Table(
            name, metadata,
            *(sa.Column(p[0], kinds[p[1]], *([sa.ForeignKey(p[3].replace("(", ".")[:-1])] if "REFERENCES" in p else []),
                        primary_key="PRIMARY" in p, autoincrement=False) for p in parts),
        )  # fmt: skip
    metadata.create_all(engine)
    rows = shop.rows(TODAY)
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            dates = [column.name for column in table.columns if isinstance(column.type, sa.Date)]
            values = [dict(zip(table.columns.keys(), row, strict=True)) for row in rows[table.name]]
            values = [
                {k: dt.date.fromisoformat(v) if v and k in dates else v for k, v in row.items()} for row in values
            ]
            connection.execute(table.insert(), values)
    yield url, engine
    metadata.drop_all(engine)
    engine.dispose()


def test_servers_answer_as_sqlite_does(server, shop_file):
    there, here = Database(server[0]), Database(f"sqlite:///{shop_file}")
    assert here.schema().tables  # kinds differ: SQLite's booleans and numerics are what they are called
    for question in QUESTIONS:
        schemas = (there.schema(), here.schema())
        found, expected = (
            each.query(query_for(question, schema, each, TODAY)[1]).rows
            for each, schema in zip((there, here), schemas, strict=True)
        )
        assert len(found) == len(expected) > 0, question
        for row, other in zip(found, expected, strict=True):
            for value, wanted in zip(row, other, strict=True):
                assert value == (pytest.approx(wanted, abs=0.001) if isinstance(wanted, float) else wanted), question


def test_servers_refuse_to_write_even_without_the_gate(server, monkeypatch):
    url, engine = server
    database = Database(url)

    def contents():
        with engine.connect() as connection:
            names = sorted(sa.inspect(connection).get_table_names())
            return names, [connection.execute(sa.text(f"SELECT * FROM {n} ORDER BY id")).all() for n in shop.TABLES]

    before = contents()
    monkeypatch.setattr("graphs._service_database.checked", lambda sql: sql)
    for sql in WRITES:
        with pytest.raises(QueryFailed):
            database.query(sql)
    assert contents() == before
    cross = "SELECT COUNT(*) FROM orders a, orders b, orders c, orders d, orders e"
    with pytest.raises(QueryFailed, match="longer than"):
        database.query(cross, seconds=0.2)
    cut = database.query("SELECT a.id FROM orders a, orders b", limit=7)
    assert (len(cut.rows), cut.cut) == (7, True)


async def test_a_database_of_ones_own_and_the_same_in_the_next_turn(orchestra, shop_file, monkeypatch):
    before = shop_file.read_bytes()
    answer, _ = await ask(orchestra, f"How many customers are there? database: 'sqlite:///{shop_file}'", thread_id="t")
    assert answer.startswith("**customers: 40**")
    assert "SELECT COUNT(*) AS customers" in answer
    assert "sample shop" not in answer
    answer, _ = await ask(orchestra, "How many orders are late?", thread_id="t")
    assert "sample shop" not in answer
    monkeypatch.setenv(DATABASE, f"sqlite:///{shop_file}")
    answer, _ = await ask(orchestra, "How many orders are there?")
    assert answer.startswith("**orders: 260**")
    assert "sample shop" not in answer
    assert shop_file.read_bytes() == before


async def test_bad_requests_are_refused_before_anything_starts(orchestra, tmp_path):
    for request, says in (
        (f"How many? database: sqlite:///{tmp_path}/none.db", "no database file"),
        ("How many? database: oracle://x", "oracle"),
        ("How many? database: sqlite:///a.db database: sqlite:///b.db", "names 2 databases"),
        ("database: sqlite:///a.db", "asks nothing"),
        ("?", "asks nothing"),
    ):
        with pytest.raises(RequestError, match=says):
            await ask(orchestra, request)
    assert not [*await orchestra.runs()]


# ---- whole requests, without a model


async def test_analysis_then_apology(orchestra):
    answer, results = await ask(orchestra, service_desk.EXAMPLE, user="ada")
    assert {id_: result.agent for id_, result in results.items()} == {
        "data": "data_analyst", "reply": "customer_service", "answer": "front_desk"
    }  # fmt: skip
    assert "| 240 | Ada Fern |" in answer
    assert "WHERE customers.id = 1" in answer
    assert "> Dear Ada Fern,\n" in answer
    assert "We are sorry to have kept you waiting." in answer
    assert "Order 240 was due on" in answer
    assert "can be cancelled at no cost, also if it is on its way. [H3]" in answer
    assert "this is about the sample shop" in answer


async def test_what_nobody_can_do_is_said_and_the_rest_is_done(orchestra):
    answer, _ = await ask(orchestra, "How many products are there, and book me a flight to Rome")
    assert answer.startswith("**products: 16**")
    assert "Nobody at this desk can do this: “book me a flight to Rome”. The desk can answer questions" in answer
    answer, _ = await ask(orchestra, "Fix the printer")
    assert answer.startswith("Nobody at this desk can do this: “Fix the printer”.")
    answer, _ = await ask(orchestra, "How many orders came from the moon?")
    assert "I don't know what “moon” means here. No number is given rather than a guess." in answer
    assert "products (id, name, category, price, currency)" in answer


async def test_orders_of_others_are_not_shown(orchestra):
    answer, _ = await ask(orchestra, "Where is my order 12?", user="ada")
    assert "Order 12 is not among your orders." in answer
    assert "delivered on" not in answer


async def test_a_database_without_customers(orchestra, tmp_path):
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, due_on DATE)")
    connection.close()
    place = f"database: sqlite:///{tmp_path}/x.db"
    answer, _ = await ask(orchestra, f"Where is my order 12? {place}", user="ada")
    assert "There is no order 12." in answer
    answer, _ = await ask(orchestra, f"Write a sales message to Ben Moss {place}")
    assert "I don't see which customer to write to." in answer


async def test_offers_are_honest(orchestra):
    answer, _ = await ask(orchestra, "Write a sales message with a 20% discount to Ben Moss")
    rows = shop.rows(dt.datetime.now().date())
    orders = {order[0] for order in rows["orders"] if order[1] == 2}
    bought = {item[2] for item in rows["order_items"] if item[1] in orders}
    offered = [product for product in rows["products"] if f"the {product[1]} ({product[3]:.2f} EUR)" in answer]
    assert len(offered) == 2
    assert not bought & {product[0] for product in offered}
    assert "No discount is promised" in answer
    assert "20" not in answer.partition("Sources:")[0].replace("2026", "")
    answer, _ = await ask(orchestra, "Write a sales message to Karl Hollow")
    assert "No message to Karl Hollow: the database says that this customer wants no messages." in answer


# ---- memory


async def test_wishes_and_complaints_are_remembered_by_another_handle(database):
    said = "Call me Addie, write to me in a friendly tone and contact me by email. My order 240 arrived broken."
    async with Orchestra(database) as first:
        await ask(first, said, user="ada")
    async with Orchestra(database) as second:
        known = {memo.key: memo.value for memo in await second.memory("ada").all()}
        answer, _ = await ask(second, "Where is my order 240?", user="ada")
        others, _ = await ask(second, "Where is my order?", user="ben")
    assert known["name_to_use"] == "Addie"
    assert (known["tone"], known["channel"]) == ("friendly", "email")
    assert known["last_complaint"]["order"] == 240
    assert "Draft of a reply to Ada Fern, by email; nothing was sent.\n\n> Hi Addie,\n" in answer
    assert "about order 240: “My order 240 arrived broken”" in answer
    assert "Addie" not in others
    assert "broken" not in others


async def test_do_not_contact_holds_until_it_is_taken_back(database):
    async with Orchestra(database) as first:
        answer, _ = await ask(first, "Please don't send me any more marketing", user="ada")
        assert "no messages from sales" in answer
    async with Orchestra(database) as second:
        answer, _ = await ask(second, "Write a sales message to Ada Fern", user="ada")
        assert answer.startswith(
            "No message to Ada Fern: this customer asked not to be contacted, which is remembered."
        )
        await ask(second, "You may contact me again", user="ada")
        answer, _ = await ask(second, "Write a sales message to Ada Fern", user="ada")
        assert "Draft of a message to Ada Fern" in answer
        await ask(second, "Ben Moss does not want to be contacted", user="sam")
        answer, _ = await ask(second, "Write a sales message to Ben Moss", user="sam")
        assert answer.startswith("No message to Ben Moss")


async def test_who_somebody_says_to_be_is_remembered_by_another_process(tmp_path):
    def run(request):
        command = [sys.executable, "-m", "orchestra", "run", "service_desk", request, "--user", "x17"]
        where = {"cwd": Path(service_desk.__file__).parents[1], "env": {**os.environ, "ORCHESTRA_MODEL": ""}}
        command += ["--db", f"sqlite:///{tmp_path}/x.db"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, **where)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "you are not known as a customer" in run("Which of my orders are late?")
    assert "take you for the customer Ada Fern" in run("I am Ada Fern.")
    assert "WHERE customers.id = 1" in run("Which of my orders are late?")


# ---- with a model

PLAN = {
    "tasks": [
        {"id": "late", "instruction": "Which of my orders are late?", "agent": "data_analyst", "needs": []},
        {
            "id": "letter",
            "instruction": "Write the customer an apology",
            "agent": "customer_service",
            "needs": ["late"],
        },
        {"id": "poem", "instruction": "Write a poem", "agent": "front_desk", "needs": []},
    ]
}
LATE = "SELECT id, due_on FROM orders WHERE customer_id = 1 AND delivered_on IS NULL"


def script(fake, *queries, letter="Dear Ada, we are sorry that order 240 is late. [H3]", plan=PLAN):
    fake.when("You plan the work of a team", plan)
    fake.when("You answer questions about a database", [{"sql": sql, "reads": "open orders"} for sql in queries])
    fake.when("You draft a reply of a shop", {"text": letter})
    fake.when("You draft a short sales message", {"text": "Dear Ada, take the Oak desk with 50% discount!"})


async def test_a_model_plans_asks_and_words(orchestra, fake):
    script(fake, LATE)
    answer, results = await ask(orchestra, service_desk.EXAMPLE + ", and a poem", fake, user="ada")
    assert [results[id_].agent for id_ in ("late", "letter", "answer")] == [
        "data_analyst", "customer_service", "front_desk"
    ]  # fmt: skip
    assert f"```sql\n{LATE}\n```" in answer
    assert "> Dear Ada, we are sorry that order 240 is late. [H3]" in answer
    assert "Nobody at this desk can do this: “Write a poem”" in answer
    assert "Written with the language model fake-model-1" in answer


async def test_what_a_model_writes_passes_the_same_gate(orchestra, fake, shop_file):
    before = shop_file.read_bytes()
    script(fake, "DELETE FROM orders", "SELECT load_extension('x')", "DROP TABLE orders")
    answer, results = await ask(
        orchestra, f"Which orders are late? database: 'sqlite:///{shop_file}'", fake, user="ada"
    )
    assert results["late"].agent == "offline_data_analyst"
    assert "DROP" not in answer
    assert shop_file.read_bytes() == before


async def test_a_model_that_invents_is_replaced_by_the_rules(orchestra, fake):
    script(fake, LATE, letter="Dear Ada, order 240 comes on 31 December, and you get 99 EUR. [H3]")
    _, results = await ask(orchestra, service_desk.EXAMPLE, fake, user="ada")
    assert results["letter"].agent == "offline_customer_service"
    task = {"id": "offer", "instruction": "Write a sales message to Ada Fern", "agent": "sales_outreach", "needs": []}
    offer = {"tasks": [task]}
    fake.reset()
    script(fake, LATE, plan=offer)
    answer, results = await ask(orchestra, "Write a sales message to Ada Fern", fake)
    assert results["offer"].agent == "offline_sales_outreach"
    assert "discount" not in answer


async def test_a_model_that_is_down(orchestra, fake):
    fake.when(lambda _: True, Fault.unauthorized())
    answer, results = await ask(orchestra, "How many products are there?", fake)
    assert answer.startswith("**products: 16**")
    assert results["data"].agent == "offline_data_analyst"
