"""What all tests share: savers, and the switch that turns skips into failures on CI."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from checkpoints import SQLAlchemySaver


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
