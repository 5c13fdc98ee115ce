"""Deleting what is too old, too much or long unused; counting and checking what is left."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta

import pytest
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from sqlalchemy import update

from checkpoints import CorruptCheckpoint, Pruned, SQLAlchemySaver

DAY = timedelta(days=1)


def line(saver, kit, length, *, thread="t", ns=""):
    config, version, items = kit.config(thread, ns), None, []
    for step in range(length):
        version = saver.get_next_version(version, None)
        items = [*items, random.Random(step).randbytes(150).hex()]
        checkpoint = kit.checkpoint(saver, {"c": items}, channel_versions={"c": version})
        config = saver.put(config, checkpoint, {"source": "loop", "step": step, "parents": {}}, {"c": version})
    return config


def age(saver, kit, thread, days, *, steps=None):
    """Make checkpoints as old as that: seals them anew, as if they had been stored then."""
    database = saver._database
    table = database.schema.checkpoints
    with database.engine.begin() as connection:
        for row in connection.execute(table.select().where(table.c.thread_id == thread)).all():
            stored = saver._codec.open_checkpoint(row)
            if steps is None or stored.metadata["step"] in steps:
                created = int((time.time() - days * 86400) * 1000)
                columns = (*row[:5], created, row.metadata)
                proof, _ = database.sealer.seal("checkpoints", columns, row.type, row.body)
                here = update(table).where(
                    table.c.thread_id == thread,
                    table.c.checkpoint_ns == row.checkpoint_ns,
                    table.c.checkpoint_id == row.checkpoint_id,
                )
                connection.execute(here.values(created=created, checksum=proof[2]))


def steps(saver, kit, thread="t"):
    return [each.metadata["step"] for each in saver.list(kit.config(thread))]


async def test_a_number_of_checkpoints_is_kept_with_all_they_need(saver, kit):
    line(saver, kit, 60)
    line(saver, kit, 5, thread="short")
    wanted = [each.checkpoint["channel_values"] for each in saver.list(kit.config(), limit=7)]

    assert saver.clean(max_checkpoints=7) == Pruned(threads=0, checkpoints=53)
    assert await saver.aclean(max_checkpoints=7) == Pruned()
    assert [each.checkpoint["channel_values"] for each in saver.list(kit.config())] == wanted
    assert steps(saver, kit, "short") == [4, 3, 2, 1, 0]
    assert saver.check() == []
    line(saver, kit, 1)
    assert saver.check() == []


def test_old_checkpoints_go_and_the_newest_stays_however_old(saver, kit):
    line(saver, kit, 6)
    line(saver, kit, 3, thread="ancient")
    age(saver, kit, "t", 10, steps={0, 1, 2})
    age(saver, kit, "ancient", 1000)

    assert saver.clean(max_age=5 * DAY) == Pruned(checkpoints=5)
    assert steps(saver, kit) == [5, 4, 3]
    assert steps(saver, kit, "ancient") == [2]


def test_idle_threads_go_whole(saver, kit):
    line(saver, kit, 2)
    line(saver, kit, 2, thread="idle")
    line(saver, kit, 2, thread="idle", ns="sub")
    age(saver, kit, "idle", 40)

    assert saver.clean(max_idle=30 * DAY, thread_ids=["t"]) == Pruned()
    assert saver.clean(max_idle=30 * DAY, max_checkpoints=1) == Pruned(threads=1, checkpoints=1)
    assert [one.thread_id for one in saver.statistics()] == ["t"]


def test_a_kept_checkpoint_keeps_what_its_delta_channels_are_rebuilt_from(saver, kit):
    config = kit.config()
    for step in range(12):
        seed = {"log": _DeltaSnapshot(["seed"])} if step == 2 else {}
        told = {"step": step, "counters_since_delta_snapshot": {} if step == 2 else {"log": (1, 1)}}
        config = kit.put(saver, seed, config=config, metadata=told)
        saver.put_writes(config, [("log", step)], "task")
    newest = [each.config for each in saver.list(kit.config(), limit=3)]
    before = [saver.get_delta_channel_history(config=each, channels=["log"]) for each in newest]

    saver.clean(max_checkpoints=3)

    assert steps(saver, kit) == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2]
    assert [saver.get_delta_channel_history(config=each, channels=["log"]) for each in newest] == before


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({}, "give max_age, max_checkpoints or max_idle"),
        ({"max_checkpoints": 0}, "at least 1"),
        ({"max_age": -DAY}, "max_age=-1 day.*negative"),
    ],
)
def test_limits_that_make_no_sense_are_refused(saver, limits, said):
    with pytest.raises(ValueError, match=said):
        saver.clean(**limits)


async def test_statistics_count_what_is_there(saver, kit):
    began = datetime.now(UTC) - timedelta(seconds=1)
    assert saver.statistics() == []
    config = line(saver, kit, 40)
    saver.put_writes(config, [("a", 1), ("b", 2)], "task")
    line(saver, kit, 1, thread="small")

    large, small = await saver.astatistics()

    assert (large.thread_id, large.checkpoints, large.versions, large.writes) == ("t", 40, 40, 2)
    assert (small.thread_id, small.checkpoints, small.versions, small.writes) == ("small", 1, 1, 0)
    assert large.bytes > small.bytes > 100
    assert began < small.changed < datetime.now(UTC) + timedelta(seconds=1)
    assert saver.statistics("small") == [small]


async def test_a_check_says_what_is_damaged(saver, kit):
    line(saver, kit, 300)
    line(saver, kit, 3, thread="damaged")
    database = saver._database
    with database.engine.begin() as connection:
        values = database.schema.values
        connection.execute(update(values).where(values.c.thread_id == "damaged").values(type="null"))

    problems = await saver.acheck()

    assert {problem.thread_id for problem in problems} == {"damaged"}
    assert len(problems) == 3
    assert all("channel 'c'" in problem.what or "checksum" in problem.what for problem in problems)
    assert saver.check("t") == []


def test_a_damaged_newest_checkpoint_is_passed_over_when_that_is_asked_for(url, saver, kit, caplog):
    line(saver, kit, 5)
    saver.delete_thread("none")
    head = saver.get_tuple(kit.config())
    database = saver._database
    with database.engine.begin() as connection:
        c = database.schema.checkpoints.c
        newest = c.checkpoint_id == head.config["configurable"]["checkpoint_id"]
        connection.execute(update(database.schema.checkpoints).where(newest).values(body=b"damaged"))

    with pytest.raises(CorruptCheckpoint, match=r"thread 't'.*checksum.*fall_back=True") as failed:
        saver.get_tuple(kit.config())
    assert failed.value.checkpoint_id == head.checkpoint["id"]
    with SQLAlchemySaver(url, fall_back=True) as lenient:
        assert lenient.get_tuple(kit.config()).metadata["step"] == 3
        assert "passed over" in caplog.text
        with pytest.raises(CorruptCheckpoint):
            lenient.get_tuple(head.config)
