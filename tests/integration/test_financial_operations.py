"""The financial operations as a whole: samples, files, tables, teams that fail, and what is refused."""

import csv
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass

import pytest
from sqlalchemy import create_engine, text

from graphs import _finance_sample, financial_operations
from graphs._finance_types import Batch, FraudVerdict
from orchestra import Orchestra, RequestError, RunState, Workflow, agent

SIZE = 1500


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FINANCE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def files(tmp_path):
    """A sample as files of one's own; what is fraud in it only the test knows."""
    sample = _finance_sample.make(SIZE, 3)
    sample.write(tmp_path)
    return sample


@dataclass
class Ended:
    """How a run ended."""

    answer: str
    state: RunState
    results: dict


async def run(request, flow=financial_operations.flow, thread="t"):
    async with Orchestra("sqlite:///runs.db") as orchestra:
        outcome = await (await orchestra.start(flow, request, thread_id=thread))
        return Ended(outcome.answer, outcome.state, outcome.results)


def ledger(query, file="ledger.db"):
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(query).fetchall()


def statuses(file="ledger.db"):
    return dict(ledger("SELECT status, count(*) FROM finance_transactions GROUP BY status", file))


async def test_a_sample_is_processed_to_the_cent():
    ended = await run(f"Process {SIZE} sample transactions, seed 3")
    assert ended.state is RunState.DONE
    books = ended.results["transactions"].output
    assert all(check.good for check in books.checks)
    assert sum(total.count for total in books.totals) == SIZE
    for said in ("## To do", "## Totals", "## Held", "**Sanctions** (1", "**Structuring** (1", "## Not checked", "✓"):
        assert said in ended.answer
    assert len(ended.answer) < 8000


async def test_a_file_is_posted_once_however_often_it_is_processed(files):
    request = "Process transactions.csv sanctions sanctions.txt"
    first = await run(request)
    before = ledger("SELECT * FROM finance_entries ORDER BY 1, 2")
    again = await run(request, thread="again")
    assert ledger("SELECT * FROM finance_entries ORDER BY 1, 2") == before
    posted = statuses()["posted"]
    assert f"{posted:,} had been posted by an earlier run" in again.answer
    assert "earlier run" not in first.answer
    stated = sum(round(float(row[5]) * 100) for row in files.rows)
    assert ledger("SELECT sum(minor) FROM finance_transactions") == [(stated,)]
    assert ledger("SELECT count(*), sum(minor) FROM finance_entries") == [(2 * posted, 0)]


async def test_sanctioned_payees_are_held_and_structuring_is_reported(files):
    ended = await run("Process transactions.csv sanctions sanctions.txt")
    held = dict(ledger("SELECT id, decided_by FROM finance_transactions WHERE status = 'held'"))
    compliance = ended.results["compliance"].output
    for name, kind in files.labels.items():
        if kind == "sanctions":
            assert held[name] == "compliance (sanctions)"
    reported = {name for series in compliance.structuring for name in series.deposits}
    assert reported >= {name for name, kind in files.labels.items() if kind == "structuring"}
    assert not reported & held.keys()


@pytest.fixture
def bank(postgres_url):
    engine = create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    yield engine
    with engine.begin() as connection:  # other tests read what tables there are
        connection.execute(text("DROP TABLE IF EXISTS payments"))
    engine.dispose()


async def test_a_table_is_processed_like_a_file(files, bank, postgres_url, monkeypatch):
    engine = bank
    columns = [*_finance_sample.COLUMNS]
    kinds = {"time": "timestamptz", "amount": "numeric(14, 2)", "balance": "numeric(14, 2)"}
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS payments"))
        declared = ", ".join(f"{name} {kinds.get(name, 'text')}" for name in columns)
        connection.execute(text(f"CREATE TABLE payments ({declared})"))
        insert = text(f"INSERT INTO payments VALUES ({', '.join(f':{name}' for name in columns)})")
        connection.execute(insert, [dict(zip(columns, row, strict=True)) for row in files.rows])
    monkeypatch.setenv("BANK", postgres_url)
    monkeypatch.setenv("FINANCE_SANCTIONS", "sanctions.txt")
    by_table = await run("Process $BANK table payments ledger sqlite:///table.db")
    by_file = await run("Process transactions.csv ledger sqlite:///file.db", thread="file")
    assert by_table.state is by_file.state is RunState.DONE
    every = "SELECT id, status, minor, why FROM finance_transactions ORDER BY id"
    assert ledger(every, "table.db") == ledger(every, "file.db")
    with pytest.raises(RequestError, match=r"no such table; there is "):
        await run("Process $BANK table payment", thread="other")
    engine.dispose()


def crashing(*names):
    def crash(rows):
        raise MemoryError("no more")

    checks = {name: crash if name in names else check for name, check in financial_operations.CHECKS.items()}
    return financial_operations.build(financial_operations.fraud_team(checks))


async def test_without_one_of_the_fraud_checks_the_rest_is_flagged(files):
    ended = await run("Process transactions.csv", crashing("velocity"))
    assert ended.results["fraud"].ok
    assert "Fraud checks that failed: velocity. As declared, the others were posted and flagged." in ended.answer
    ((flagged,),) = ledger(
        "SELECT count(*) FROM finance_transactions WHERE status = 'posted' AND why LIKE '%velocity%'"
    )
    assert flagged == statuses()["posted"] > 0.9 * SIZE
    assert statuses()["held"] > 0, "the other checks still hold what they suspect"


async def test_without_the_fraud_team_all_is_held_if_so_declared_and_released_later(files, monkeypatch):
    monkeypatch.setenv("FINANCE_WITHOUT_FRAUD", "hold")
    ended = await run("Process transactions.csv", crashing(*financial_operations.CHECKS))
    assert not ended.results["fraud"].ok
    assert statuses() == {"held": SIZE}
    assert "The fraud team failed: no fraud checks. As declared, the transactions were held." in ended.answer
    assert not ledger("SELECT * FROM finance_entries")
    later = await run("Process transactions.csv", thread="later")
    assert statuses()["posted"] > 0.9 * SIZE
    assert all(check.good for check in later.results["transactions"].output.checks)


async def test_nothing_is_posted_without_compliance(files):
    with open("names.txt", "wb") as file:  # noqa: PTH123 -- a list that can't be read
        file.write(b"\xff\xfe\x00")
    ended = await run("Process transactions.csv sanctions names.txt")
    assert statuses() == {"held": SIZE}
    assert "Compliance checks that failed: sanctions." in ended.answer


async def test_a_team_of_ones_own_takes_the_place_of_the_rules(files):
    @agent
    def oracle(batch: Batch) -> FraudVerdict:
        return FraudVerdict(held=(), counts={}, missing=("a model that knows nothing",))

    ended = await run("Process transactions.csv", financial_operations.build(Workflow("f", [oracle], inputs=[Batch])))
    assert "A model that knows nothing." in ended.answer


async def test_bad_rows_are_rejected_and_told_apart(files, tmp_path):
    rows = [_finance_sample.COLUMNS, *files.rows]
    rows[5] = [*rows[5][:5], "1O.00", *rows[5][6:]]
    rows[9] = [*rows[9][:7], "Robert<script>|drop", *rows[9][8:]]
    rows.append(rows[1])
    with (tmp_path / "bad.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    ended = await run("Process bad.csv")
    assert statuses()["rejected"] == 2
    assert "line 6 (id T0000005): amount '1O.00' is not a number" in ended.answer
    assert f"line {SIZE + 2} (id T0000001): id T0000001 stands on an earlier line too" in ended.answer
    assert "<script>" not in ended.answer.replace("\\<script\\>", "")


async def test_another_payment_under_a_posted_id_is_rejected(files, tmp_path):
    await run("Process transactions.csv")
    changed = [_finance_sample.COLUMNS, [*files.rows[0][:5], "77.77", *files.rows[0][6:]], *files.rows[1:]]
    with (tmp_path / "changed.csv").open("w", newline="") as file:
        csv.writer(file).writerows(changed)
    ended = await run("Process changed.csv", thread="changed")
    assert ledger("SELECT minor, why FROM finance_transactions WHERE status = 'rejected'") == [
        (7777, "its id is in the ledger already, for another payment")
    ]
    assert all(check.good for check in ended.results["transactions"].output.checks)


@pytest.mark.parametrize(
    ("request_text", "said"),
    [
        ("Process nothing.csv", "No such file"),
        ("Process broken.csv", r"broken.csv: 3 of 3 rows .* line 2: .*not a number.*Mend the file"),
        ("Process transactions.csv ledger sqlite:///nowhere/ledger.db", "there is no folder nowhere"),
        ("Process transactions.csv ledger oracle://x/y", "can't be used"),
        ("Process transactions.csv ledger books", "write a database URL"),
        ("Process sqlite:///nowhere.db table payments", "nowhere.db table payments: there is no such file"),
        ("Process $NOT_SET table payments", r"\$NOT_SET: this environment variable is not set"),
    ],
)
async def test_what_cannot_be_processed_is_refused_before_anything_is_stored(files, tmp_path, request_text, said):
    header = ",".join(_finance_sample.COLUMNS)
    line = ",".join(["x", *files.rows[0][1:5], "ten", *files.rows[0][6:]])
    (tmp_path / "broken.csv").write_text(f"{header}\n{line}\n{line}\n{line}")
    with pytest.raises(RequestError, match=said):
        await run(request_text)
    async with Orchestra("sqlite:///runs.db") as orchestra:
        assert not await orchestra.runs()
    assert not (tmp_path / "ledger.db").exists()
