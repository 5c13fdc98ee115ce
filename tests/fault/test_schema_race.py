"""Ten processes that open a new database at the same moment: one makes the tables, all go on to write."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text

from checkpoints import SQLAlchemySaver
from checkpoints.dialects import open_dialect
from checkpoints.schema import VERSION
from tests.fault.nursery import nursery

PROGRAM = """
import os
from checkpoints import SQLAlchemySaver
from langgraph.checkpoint.base import empty_checkpoint

url, prefix, who, ready, go = argv
config = {"configurable": {"thread_id": who, "checkpoint_ns": ""}}
with SQLAlchemySaver(url, prefix=prefix) as saver:
    open(ready, "w").close()
    while not os.path.exists(go):
        pass
    saver.put(config, empty_checkpoint(), {"who": who}, {})
    assert saver.get_tuple(config).metadata["who"] == who
    assert saver.schema_version() is not None
"""

PROCESSES = 10


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mariadb"])
@pytest.mark.parametrize("trial", range(2))
def test_ten_processes_make_the_tables_at_once(
    kind: str, trial: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url: str = f"sqlite:///{tmp_path / 'runs.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    prefix = f"race{uuid.uuid4().hex[:8]}_"
    ready, go = [tmp_path / f"ready{i}" for i in range(PROCESSES)], tmp_path / "go"
    children = [
        nursery().start(PROGRAM, url, prefix, f"process{i}", ready[i], go, out=tmp_path / f"out{i}")
        for i in range(PROCESSES)
    ]
    deadline = time.monotonic() + 30
    while not all(each.exists() for each in ready):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    go.touch()
    for child in children:
        child.succeed(60)

    engine = create_engine(open_dialect(url)[1])
    with engine.connect() as connection:
        assert connection.execute(text(f"SELECT id, version FROM {prefix}version")).all() == [(1, VERSION)]
        tables = {name for name in inspect(connection).get_table_names() if name.startswith(prefix)}
    engine.dispose()
    with SQLAlchemySaver(url, prefix=prefix) as saver:
        assert tables == {table.name for table in saver._database.schema._tables.sorted_tables}
        assert saver.check() == []
        found = {one.config["configurable"]["thread_id"]: one.metadata["who"] for one in saver.list(None)}
    assert found == {f"process{i}": f"process{i}" for i in range(PROCESSES)}
