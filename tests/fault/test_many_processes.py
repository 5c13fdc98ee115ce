"""Several processes write to one database at once while another prunes and copies: nothing acknowledged is lost.

Each writer has threads of its own. It puts checkpoints with a growing value and pending writes; one of its threads is
never pruned, so that its whole history must be there, and one is pruned all the time, so that its newest must be. What
the caretaker copied must be a state that the source had: an unbroken beginning of its history.
"""

from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from sqlalchemy import event

from checkpoints import SQLAlchemySaver
from tests.fault.nursery import nursery

WRITER = """
import asyncio, os, time
from checkpoints import SQLAlchemySaver
from langgraph.checkpoint.base import empty_checkpoint

url, who, log, seconds = argv
log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def write(saver, thread):
    config = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    values = []
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        values.append(f"{len(values)} {thread} " + "x" * 100)
        checkpoint = empty_checkpoint()
        versions = {"log": f"{len(values):010}.000000000001"}
        checkpoint["channel_values"], checkpoint["channel_versions"] = {"log": list(values)}, dict(versions)
        config = await saver.aput(config, checkpoint, {"step": len(values)}, versions)
        await saver.aput_writes(config, [("c", len(values)), ("c", "y")], "task")
        os.write(log, f"{thread} {len(values)}\\n".encode())
        if len(values) % 10 == 0:  # as a process that resumes: what it reads may become the base of deltas
            found = await saver.aget_tuple(config)
            assert found.checkpoint["channel_values"]["log"] == values

async def main():
    async with SQLAlchemySaver(url, timeout=30) as saver:
        await asyncio.gather(*(write(saver, f"{kind}-{who}") for kind in ("kept", "kept-too", "pruned", "pruned-too")))

asyncio.run(main())
"""

CARETAKER = """
import itertools, time
from datetime import timedelta
from checkpoints import SQLAlchemySaver

url, stem, processes, copies, seconds = argv
end = time.monotonic() + float(seconds)
with SQLAlchemySaver(url, timeout=30) as saver:
    for i in itertools.count():
        if i >= 8 and time.monotonic() > end:
            break
        who = f"{stem}-{i % int(processes)}"
        saver.prune([f"pruned-{who}"])
        saver.clean(max_checkpoints=3, thread_ids=[f"pruned-too-{who}"])
        if copies == "copies":
            saver.copy_thread(f"kept-{who}", f"copy{i}-kept-{who}")
            saver.copy_thread(f"pruned-{who}", f"copy{i}-pruned-{who}")
            if i % 5 == 4:
                saver.delete_thread(f"copy{i}-pruned-{who}")
        print(i)
"""

PROCESSES = 4


def lines(thread: str, count: int) -> list[str]:
    return [f"{number} {thread} " + "x" * 100 for number in range(count)]


def run(url: str, folder: Path, seconds: float, copies: str) -> None:
    stem = uuid.uuid4().hex[:8]
    writers = [
        nursery().start(WRITER, url, f"{stem}-{i}", folder / f"log{i}", seconds, out=folder / f"writer{i}")
        for i in range(PROCESSES)
    ]
    caretaker = nursery().start(CARETAKER, url, stem, PROCESSES, copies, seconds, out=folder / "caretaker")
    for writer in writers:
        writer.succeed(seconds + 60)
    rounds = len(caretaker.succeed(60).splitlines())
    assert rounds >= 8

    acknowledged = Counter[str]()
    for i in range(PROCESSES):
        for line in (folder / f"log{i}").read_text().splitlines():
            thread, _, count = line.partition(" ")
            acknowledged[thread] = max(acknowledged[thread], int(count))
    assert len(acknowledged) == 4 * PROCESSES

    copied = 0
    with SQLAlchemySaver(url) as saver:
        assert saver.check() == []
        for statistics in saver.statistics():
            thread = statistics.thread_id
            if stem not in thread:
                continue
            source = thread.partition("-")[2] if thread.startswith("copy") else thread
            found = list(saver.list({"configurable": {"thread_id": thread}}))
            newest = found[0].metadata["step"]
            if source == thread:
                assert newest == acknowledged[thread], "the newest is not what was acknowledged last"
            else:
                copied += 1
                assert newest <= acknowledged[source]
            if source.startswith("kept"):
                steps = [one.metadata["step"] for one in found]
                assert steps == list(range(newest, 0, -1)), "an acknowledged one is gone"
            else:
                steps = [one.metadata["step"] for one in found]
                assert steps == list(range(newest, newest - len(steps), -1)), "a hole in what was kept"
            for one in found:
                step = one.metadata["step"]
                assert one.checkpoint["channel_values"] == {"log": lines(source, step)}
                if source == thread or one is not found[0]:  # a copy may be made between the two calls
                    assert [value for _, _, value in one.pending_writes or []] == [step, "y"]
            ids = [one.config["configurable"]["checkpoint_id"] for one in found]
            parents = [one.parent_config and one.parent_config["configurable"]["checkpoint_id"] for one in found]
            assert parents == [*ids[1:], None]
        assert copied >= (PROCESSES if copies else 0)
    print(f"\n{acknowledged.total()} acknowledged in {seconds} s, {rounds} rounds of pruning and copying")


EVERY_KIND = ("sqlite", "postgres", "mariadb")


def place(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    return f"sqlite:///{folder / 'runs.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_four_writers_while_another_prunes(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    run(place(kind, request, tmp_path), tmp_path, 1.0, "")


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_four_writers_while_another_copies(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    run(place(kind, request, tmp_path), tmp_path, 1.0, "copies")


@pytest.mark.long
@pytest.mark.parametrize("copies", ["", "copies"])
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_four_writers_for_long(kind: str, copies: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    run(place(kind, request, tmp_path), tmp_path, 15, copies)


@pytest.mark.parametrize("kind", EVERY_KIND[1:])
def test_a_copy_is_one_state_of_its_source(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The same without luck: another process puts a checkpoint while the copy is under way."""
    source, target = f"source-{uuid.uuid4().hex}", f"target-{uuid.uuid4().hex}"

    def put(saver: SQLAlchemySaver, config: Any, step: int) -> Any:
        checkpoint, versions = empty_checkpoint(), {"log": f"{step:010}.000000000001"}
        checkpoint["channel_values"], checkpoint["channel_versions"] = {"log": lines(source, step)}, dict(versions)
        return saver.put(config, checkpoint, {"step": step}, versions)

    url = place(kind, request, tmp_path)
    with SQLAlchemySaver(url) as saver, SQLAlchemySaver(url) as other:
        config = put(saver, {"configurable": {"thread_id": source, "checkpoint_ns": ""}}, 1)
        engine = saver._database.engine
        under_way: list[str] = []

        def meanwhile(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.lstrip().startswith("SELECT") and "FROM orchestra_writes" in statement and not under_way:
                under_way.append(statement)
                put(other, config, 2)

        event.listen(engine, "after_cursor_execute", meanwhile)
        saver.copy_thread(source, target)
        event.remove(engine, "after_cursor_execute", meanwhile)
        assert under_way
        assert saver.check(target) == []
        steps = [one.metadata["step"] for one in saver.list({"configurable": {"thread_id": target}})]
        assert steps in ([1], [2, 1])
