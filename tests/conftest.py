"""What all tests share: savers, and the switch that turns skips into failures on CI."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from sqlalchemy import create_engine, inspect, text

from checkpoints import SQLAlchemySaver
from checkpoints.dialects import open_dialect
from tests import servers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long form of the fault runs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        chosen = [item for item in items if item.get_closest_marker("long") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("ORCHESTRA_NO_SKIP") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which ORCHESTRA_NO_SKIP forbids: {report.longrepr}"


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """An empty database of this session."""
    with servers.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def mariadb_url() -> Iterator[str]:
    """An empty database of this session."""
    with servers.mariadb() as url:
        yield url


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of the saver runs on every kind of database, unless it looks into the file."""
    if "any_url" in metafunc.fixturenames:
        only_files = "path" in metafunc.fixturenames
        metafunc.parametrize(
            "any_url", ["sqlite"] if only_files else ["sqlite", "postgresql", "mariadb"], indirect=True
        )


@pytest.fixture
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind, with nothing in its tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'runs.db'}"
    url = request.getfixturevalue("postgres_url" if request.param == "postgresql" else "mariadb_url")
    engine = create_engine(open_dialect(url)[1])
    with engine.begin() as connection:
        names = [name for name in inspect(connection).get_table_names() if not name.endswith("version")]
        if request.param == "postgresql" and names:
            connection.execute(text(f"TRUNCATE {', '.join(names)}"))
        elif names:
            connection.execute(text("SET foreign_key_checks = 0"))
            for name in names:
                connection.execute(text(f"DELETE FROM {name}"))
    engine.dispose()
    return url


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture(params=["ours", "sqlite", "memory"])
async def any_saver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """Our saver, an official one with a database, and LangGraph's in-memory saver."""
    if request.param == "ours":
        async with SQLAlchemySaver(f"sqlite:///{tmp_path / 'ours.db'}") as saver:
            yield saver
    elif request.param == "sqlite":
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "official.db")) as saver:
            yield saver
    else:
        yield InMemorySaver()
