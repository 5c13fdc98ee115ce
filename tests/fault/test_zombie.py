"""An owner that was stopped past the end of its lease and wakes up: it can't write into what its successor does."""

from __future__ import annotations

import signal
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from checkpoints import LeaseHeld, SQLAlchemySaver
from tests.fault.nursery import nursery

ZOMBIE = """
import asyncio, os, time
from checkpoints import Fenced, LeaseLost, SQLAlchemySaver
from langgraph.checkpoint.base import empty_checkpoint

url, thread, log, ttl, go = argv
log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
config = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
saver = SQLAlchemySaver(url)
lease = saver.acquire_lease(thread, owner="zombie", ttl=float(ttl))
fenced = saver.fenced(lease)

def make(step):
    checkpoint = empty_checkpoint()
    versions = {"log": f"{step:010}.zombie"}
    checkpoint["channel_values"], checkpoint["channel_versions"] = {"log": ["zombie", step]}, versions
    return checkpoint, {"by": "zombie", "step": step}, versions

step = 0
try:
    while True:
        step += 1
        config = fenced.put(config, *make(step))
        fenced.put_writes(config, [("c", step)], "zombie")
        os.write(log, f"{step}\\n".encode())
        while step == 20 and not os.path.exists(go):  # it is stopped here, between two transactions
            time.sleep(0.005)
except Fenced:
    pass

def refused(call):  # each way to write, by each face
    try:
        call()
    except Fenced:
        return
    raise AssertionError("a zombie wrote")

refused(lambda: fenced.put(config, *make(step)))
refused(lambda: fenced.put_writes(config, [("late", 1)], "late"))
refused(lambda: fenced.put_writes(config, [("__error__", "late")], "late"))
refused(lambda: asyncio.run(fenced.aput(config, *make(step))))
refused(lambda: asyncio.run(fenced.aput_writes(config, [("late", 1)], "late")))
try:
    saver.renew_lease(thread, owner="zombie", ttl=60)
except LeaseLost:
    print("fenced at", step)
"""


def on(thread: str) -> Any:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mariadb"])
def test_a_zombie_writes_nothing(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url: str = f"sqlite:///{tmp_path / 'runs.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    thread, log = f"zombie-{uuid.uuid4().hex}", tmp_path / "log"
    child = nursery().start(ZOMBIE, url, thread, log, 0.8, tmp_path / "go", out=tmp_path / "out")
    deadline = time.monotonic() + 20
    while not log.exists() or len(log.read_text().splitlines()) < 20:
        assert child.poll() is None, child.output
        assert time.monotonic() < deadline
        time.sleep(0.005)
    with SQLAlchemySaver(url) as saver:
        refused = 0
        lease = None
        child.signal(signal.SIGSTOP)
        while lease is None:
            assert time.monotonic() < deadline
            try:
                lease = saver.acquire_lease(thread, owner="successor", ttl=60)
            except LeaseHeld:  # until the lease is over: that it is stopped makes no difference
                refused += 1
                time.sleep(0.02)
        assert refused
        found = saver.get_tuple(on(thread))
        assert found is not None
        told = [int(line) for line in log.read_text().splitlines()]
        assert found.metadata["step"] == told[-1]

        fenced = saver.fenced(lease)
        config, mine = found.config, []
        for step in range(5):
            checkpoint = empty_checkpoint()
            config = fenced.put(config, checkpoint, {"by": "successor", "step": step}, {})
            mine.append(checkpoint["id"])
            if step == 2:
                (tmp_path / "go").touch()
                child.signal(signal.SIGCONT)
                assert "fenced at" in child.succeed(20)

        history = list(saver.list(on(thread)))
        assert [one.checkpoint["id"] for one in reversed(history)][-5:] == mine
        parents = [one.parent_config and one.parent_config["configurable"]["checkpoint_id"] for one in history]
        assert parents == [*(one.checkpoint["id"] for one in history[1:]), None], "two histories"
        ours, theirs = history[:5], history[5:]
        assert [one.metadata["by"] for one in ours] == ["successor"] * 5
        assert all(one.pending_writes == [] for one in ours)
        assert [one.metadata["step"] for one in theirs] == list(range(len(theirs), 0, -1))
        assert len(theirs) == len(told)
        assert all(one.pending_writes == [("zombie", "c", one.metadata["step"])] for one in theirs)
        assert saver.check(thread) == []
        values = saver._database.schema.values
        with saver._database.engine.connect() as connection:
            versions = connection.execute(values.select().where(values.c.thread_id == thread)).all()
        assert len(versions) == len(theirs), "a value of a refused write is stored"
