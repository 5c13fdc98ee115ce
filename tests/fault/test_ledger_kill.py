"""SIGKILL while transactions are posted: afterwards each stands in the ledger once, and every cent is there.

What is checked is read with plain SQL, and held against what the generator wrote and against a ledger whose run nobody
killed. Processes are forked from a server that has imported what they need, so that they start in milliseconds.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from graphs import _finance_sample
from tests.fault.ledger_program import BATCH, process

ROWS = 1600
SAMPLE = _finance_sample.make(ROWS, 21)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.fault.ledger_program"])


@pytest.fixture(scope="module")
def transactions(tmp_path_factory: pytest.TempPathFactory) -> str:
    data, names = SAMPLE.write(tmp_path_factory.mktemp("data"))
    return f'Process "{data}" sanctions "{names}" ledger '


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, transactions: str) -> list[Any]:
    """The ledger of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    url = f"sqlite:///{folder / 'ledger.db'}"
    finish(start(folder, transactions + url))
    return ledger(create_engine(url))


@pytest.fixture
def books(postgres_url: str) -> str:
    """PostgreSQL without a ledger."""
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with engine.begin() as connection:
        for table in ("finance_transactions", "finance_entries"):
            connection.execute(text(f"DROP TABLE IF EXISTS {table}"))
    engine.dispose()
    return url


def start(folder: Path, request: str, slowly: float = 0.0) -> Any:
    child = PROCESSES.Process(target=process, args=(f"sqlite:///{folder / 'runs.db'}", request, slowly))
    child.start()
    return child


def finish(child: Any) -> None:
    child.join(60)
    assert child.exitcode == 0


def count(engine: Engine) -> int:
    try:
        with engine.connect() as connection:
            return connection.execute(text("SELECT count(*) FROM finance_transactions")).scalar_one()
    except DBAPIError:  # there are no tables yet
        return 0


def ledger(engine: Engine) -> list[Any]:
    """All transactions with their entries; one that were there twice would be here twice."""
    query = """
        SELECT t.id, t.status, t.minor, t.currency, t.why, t.decided_by, e.leg, e.account, e.minor
        FROM finance_transactions t LEFT JOIN finance_entries e ON e.transaction_id = t.id ORDER BY t.id, e.leg
    """
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def check(engine: Engine, whole: list[Any]) -> None:
    found = ledger(engine)
    assert found == whole
    posted = [row for row in found if row[1] == "posted"]
    once = {row[0]: row for row in found}
    assert len(once) == ROWS
    assert len(posted) == 2 * len({row[0] for row in posted})
    assert sum(row[8] for row in posted) == 0
    for currency in ("EUR", "GBP", "USD"):
        stated = sum(Decimal(row[5]) for row in SAMPLE.rows if row[6] == currency)
        assert sum(row[2] for row in once.values() if row[3] == currency) == 100 * stated


def kill_while_it_posts(folder: Path, request: str, engine: Engine, chance: random.Random) -> tuple[int, int]:
    """Start or resume, and kill somewhere in the next part; returns what was posted before and after."""
    before = count(engine)
    child = start(folder, request, slowly=0.004)
    target = before + chance.randrange(BATCH, 8 * BATCH)
    deadline = time.monotonic() + 30
    while count(engine) < target:
        assert child.is_alive(), "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.003)
    time.sleep(chance.uniform(0, 0.01))
    child.kill()
    child.join()
    return before, count(engine)


def campaign(folder: Path, request: str, url: str, kills: int, seed: int) -> Engine:
    chance, engine = random.Random(seed), create_engine(url)
    for _ in range(kills):
        before, after = kill_while_it_posts(folder, request + url, engine, chance)
        assert before < after < ROWS, "the kill did not come while it was posting"
        assert after % BATCH == 0, "half a batch is in the ledger"
    finish(start(folder, request + url))
    return engine


def test_killed_three_times_on_sqlite(tmp_path: Path, transactions: str, whole: list[Any]) -> None:
    check(campaign(tmp_path, transactions, f"sqlite:///{tmp_path / 'ledger.db'}", 3, seed=1), whole)


def test_killed_on_postgresql(tmp_path: Path, transactions: str, whole: list[Any], books: str) -> None:
    check(campaign(tmp_path, transactions, books, 1, seed=2), whole)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_two_processes_at_once_post_each_transaction_once(
    tmp_path: Path, transactions: str, whole: list[Any], kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "mariadb":
        url = request.getfixturevalue("mariadb_url")
    else:
        url = request.getfixturevalue("books") if kind == "postgresql" else f"sqlite:///{tmp_path / 'ledger.db'}"
    children = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        children.append(start(tmp_path / name, transactions + url, slowly=0.001))
    for child in children:
        finish(child)
    check(create_engine(url.replace("mysql://", "mysql+pymysql://")), whole)


@pytest.mark.long
def test_killed_often(tmp_path: Path, transactions: str, whole: list[Any]) -> None:
    for trial in range(20):
        (folder := tmp_path / str(trial)).mkdir()
        check(campaign(folder, transactions, f"sqlite:///{folder / 'ledger.db'}", 4, seed=100 + trial), whole)
