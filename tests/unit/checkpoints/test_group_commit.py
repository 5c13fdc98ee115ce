from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from checkpoints import CorruptCheckpoint, DatabaseBusy, SaverClosed, SQLAlchemySaver, ThreadExists, WriteFailed

BAD = "a task that the database refuses"


def stored(url, config):
    with SQLAlchemySaver(url) as saver:
        found = saver.get_tuple(config)
        return [] if found is None else found.pending_writes


async def test_a_bad_row_fails_its_own_caller_only(saver, kit, path):
    config = kit.put(saver)
    with closing(sqlite3.connect(path)) as other:
        when = f"BEFORE INSERT ON orchestra_writes WHEN NEW.task_id = '{BAD}'"
        other.execute(f"CREATE TRIGGER refuse {when} BEGIN SELECT RAISE(ABORT, 'refused'); END")
    with kit.locked(path):  # all of them end up in one transaction
        calls = [
            asyncio.ensure_future(saver.aput_writes(config, [("c", i)], BAD if i in {7, 30} else f"{i:03}"))
            for i in range(50)
        ]
        await asyncio.sleep(0.05)
    ended = await asyncio.gather(*calls, return_exceptions=True)

    assert {i for i, end in enumerate(ended) if end is not None} == {7, 30}
    assert isinstance(ended[7], WriteFailed)
    assert "refused" in str(ended[7])
    assert [value for _, _, value in saver.get_tuple(config).pending_writes] == [
        i for i in range(50) if i not in {7, 30}
    ]


async def test_a_bad_call_fails_alone_on_any_database(saver, kit):
    config = kit.put(saver)
    calls = [
        saver.acopy_thread("t", "t") if i % 10 == 7 else saver.aput_writes(config, [("c", i)], f"{i:03}")
        for i in range(50)
    ]
    ended = await asyncio.gather(*calls, return_exceptions=True)

    assert {i for i, end in enumerate(ended) if isinstance(end, ThreadExists)} == {7, 17, 27, 37, 47}
    assert [value for _, _, value in saver.get_tuple(config).pending_writes] == [i for i in range(50) if i % 10 != 7]


async def test_a_failed_put_leaves_nothing_behind(saver, kit):
    kit.put(saver, {"first": 1}, config=kit.config("other"))
    checkpoint = kit.checkpoint(saver, {"good": [1]})
    engine = saver._database.engine

    def rename(old, new):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")

    rename("orchestra_checkpoints", "orchestra_elsewhere")
    with pytest.raises(WriteFailed):  # the value's row is good, the checkpoint's has no table
        await saver.aput(kit.config(), checkpoint, {"step": 0}, checkpoint["channel_versions"])
    rename("orchestra_elsewhere", "orchestra_checkpoints")

    await saver.aput(kit.config(), checkpoint, {"step": 0}, {})  # promises that the value is there already
    with pytest.raises(CorruptCheckpoint, match="channel 'good': its value is not stored any more"):
        await saver.aget_tuple(kit.config())


async def test_writes_commit_in_the_order_of_the_calls(url, kit):
    async with SQLAlchemySaver(url, max_queued=3) as saver:
        config = kit.put(saver)
        calls = [asyncio.ensure_future(saver.aput_writes(config, [("c", i)], f"{i:05}")) for i in range(300)]
        seen = 0
        while not all(call.done() for call in calls):
            values = [value for _, _, value in (await saver.aget_tuple(config)).pending_writes]
            assert values == list(range(len(values)))  # a prefix: what came later is never there first
            assert len(values) >= seen
            seen = len(values)
        await asyncio.gather(*calls)


async def test_what_was_answered_can_be_read(saver, kit):
    config = await saver.aput(kit.config(), kit.checkpoint(saver), {"step": 0}, {})
    for i in range(20):
        await saver.aput_writes(config, [("c", i)], str(i))
        assert len((await saver.aget_tuple(config)).pending_writes) == i + 1


async def test_values_are_taken_when_the_call_is_made(saver, kit, path):
    config = kit.put(saver)
    value = [1]
    with kit.locked(path):
        call = asyncio.ensure_future(saver.aput_writes(config, [("c", value)], "task"))
        await asyncio.sleep(0.02)
        value.append(2)
    await call

    assert saver.get_tuple(config).pending_writes == [("task", "c", [1])]


async def test_a_cancelled_call_is_stored_whole(saver, kit, path):
    kit.put(saver)
    checkpoint = kit.checkpoint(saver, {"a": 1, "b": 2})
    with kit.locked(path):
        call = asyncio.ensure_future(saver.aput(kit.config(), checkpoint, {"step": 1}, checkpoint["channel_versions"]))
        await asyncio.sleep(0.02)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    await saver.aput_writes(kit.config(checkpoint_id=checkpoint["id"]), [("c", 1)], "after")

    found = await saver.aget_tuple(kit.config())
    assert found.checkpoint["channel_values"] == {"a": 1, "b": 2}


async def test_a_call_cancelled_in_line_before_the_queue_is_not_stored(url, path, kit):
    async with SQLAlchemySaver(url, max_queued=1) as saver:
        config = kit.put(saver)
        with kit.locked(path):
            calls = []
            for i in range(5):
                calls.append(asyncio.ensure_future(saver.aput_writes(config, [("c", i)], str(i))))
                await asyncio.sleep(0.02)
            calls[3].cancel()  # 0 is being written, 1 is queued, the rest stand in line
            await asyncio.sleep(0)
        await asyncio.gather(*calls, return_exceptions=True)

        assert [value for _, _, value in saver.get_tuple(config).pending_writes] == [0, 1, 2, 4]


async def test_a_full_queue_does_not_block_the_event_loop(url, path, kit):
    async with SQLAlchemySaver(url, max_queued=2) as saver:
        config = kit.put(saver)
        with kit.locked(path):
            calls = [asyncio.ensure_future(saver.aput_writes(config, [("c", i)], str(i))) for i in range(100)]
            began = time.perf_counter()
            await asyncio.sleep(0.01)
            assert time.perf_counter() - began < 0.5
            assert not any(call.done() for call in calls)
        await asyncio.gather(*calls)


async def test_closing_commits_what_is_queued(url, path, kit):
    saver = SQLAlchemySaver(url, max_queued=5)
    config = kit.put(saver)
    with kit.locked(path):
        calls = [asyncio.ensure_future(saver.aput_writes(config, [("c", i)], f"{i:02}")) for i in range(20)]
        await asyncio.sleep(0.02)
        closing = asyncio.ensure_future(saver.aclose())
        await asyncio.sleep(0.02)
        with pytest.raises(SaverClosed):
            await saver.aput_writes(config, [("c", 99)], "late")
    await asyncio.gather(closing, *calls)

    assert [value for _, _, value in stored(url, config)] == list(range(20))


def test_a_closed_saver_says_so(url, kit):
    saver = SQLAlchemySaver(url)
    config = kit.put(saver)
    saver.close()
    saver.close()

    for use in (
        lambda: saver.get_tuple(config),
        lambda: list(saver.list(None)),
        lambda: saver.put_writes(config, [("c", 1)], "task"),
        lambda: asyncio.run(saver.aget_tuple(config)),
        lambda: asyncio.run(saver.aput_writes(config, [("c", 1)], "task")),
    ):
        with pytest.raises(SaverClosed, match="open a new SQLAlchemySaver"):
            use()
    asyncio.run(saver.aclose())


def test_one_saver_serves_several_loops_and_threads_at_once(saver, kit):
    config = kit.put(saver)

    async def on_a_loop(name):
        await asyncio.gather(*(saver.aput_writes(config, [("c", i)], f"{name}{i:03}") for i in range(50)))
        assert await saver.aget_tuple(config) is not None

    def in_a_thread(name):
        for i in range(50):
            saver.put_writes(config, [("c", i)], f"{name}{i:03}")

    threads = [
        *(threading.Thread(target=lambda name=name: asyncio.run(on_a_loop(name))) for name in "ab"),
        *(threading.Thread(target=in_a_thread, args=(name,)) for name in "cd"),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    values = [value for _, _, value in saver.get_tuple(config).pending_writes]
    assert values == [*range(50)] * 4


async def test_a_loop_that_was_closed_does_not_disturb_the_others(saver, kit, path):
    config = kit.put(saver)

    async def leave_early():
        asyncio.ensure_future(saver.aput_writes(config, [("c", 1)], "gone"))  # noqa: RUF006
        await asyncio.sleep(0.02)

    with kit.locked(path):
        await asyncio.to_thread(lambda: asyncio.run(leave_early()))
    await saver.aput_writes(config, [("c", 2)], "here")

    assert [value for _, _, value in saver.get_tuple(config).pending_writes] == [1, 2]


def test_a_database_locked_for_too_long_is_named_and_recovers(url, path, kit):
    with SQLAlchemySaver(url, timeout=0.02) as saver:
        config = kit.put(saver)
        with kit.locked(path), pytest.raises(DatabaseBusy, match="locked"):
            saver.put_writes(config, [("c", 1)], "task")
        saver.put_writes(config, [("c", 2)], "task")
        assert saver.get_tuple(config).pending_writes == [("task", "c", 2)]


LEAVES_OPEN = """
import asyncio, sys
from checkpoints import SQLAlchemySaver
from langgraph.checkpoint.base import empty_checkpoint
saver = SQLAlchemySaver(sys.argv[1])
config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
config = saver.put(config, empty_checkpoint(), {"step": 0}, {})
saver.put_writes(config, [("c", 1)], "sync")
async def main():
    await saver.aput_writes(config, [("c", 2)], "async")
    await saver.aget_tuple(config)
asyncio.run(main())
"""


def test_a_saver_nobody_closed_lets_the_interpreter_leave(url, kit):
    subprocess.run([sys.executable, "-c", LEAVES_OPEN, url], check=True, timeout=20)

    assert stored(url, kit.config()) == [("async", "c", 2), ("sync", "c", 1)]


def test_a_saver_that_is_forgotten_ends_its_thread(url, kit):
    def writers():
        return [each for each in threading.enumerate() if each.name == "checkpoints-writer"]

    before = writers()
    saver = SQLAlchemySaver(url)
    clone = saver.with_allowlist([("decimal", "Decimal2")])
    kit.put(saver)
    assert len(writers()) == len(before) + 1
    del saver
    kit.put(clone)  # what they share lives on
    del clone

    assert writers() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_is_told_to_open_its_own(saver, kit):
    kit.put(saver)
    child = os.fork()
    if child == 0:
        try:
            kit.put(saver)
        except SaverClosed as error:
            os._exit(0 if "in each process" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    kit.put(saver)


async def test_ten_thousand_calls_in_flight_wake_the_loop_a_few_times(saver, kit):
    config = kit.put(saver)
    loop = asyncio.get_running_loop()
    wakes = []
    wake = loop.call_soon_threadsafe
    loop.call_soon_threadsafe = lambda *args: wakes.append(args) or wake(*args)
    await asyncio.gather(*(saver.aput_writes(config, [("c", i)], f"{i:05}") for i in range(10_000)))

    assert len(wakes) < 100
    assert len((await saver.aget_tuple(config)).pending_writes) == 10_000
