"""kill -9 in the middle of writing: what was answered is there, and no thread has a gap."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from checkpoints import SQLAlchemySaver

if TYPE_CHECKING:
    from pathlib import Path

WRITER = """
import asyncio, os, sys, threading
from checkpoints import SQLAlchemySaver
from langgraph.checkpoint.base import empty_checkpoint

url, answered, life = sys.argv[1:]
log = os.open(answered, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
saver = SQLAlchemySaver(url)

def note(thread, number):
    os.write(log, f"{thread} {number}\\n".encode())
    os.fsync(log)

def start(thread):
    config = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    return saver.put(config, empty_checkpoint(), {"step": 0}, {})

async def write(config, thread, number):
    await saver.aput_writes(config, [("c", number), ("c", "x" * 500)], f"{number:08}")
    note(thread, number)

async def coroutines(thread):
    config = start(thread)
    for number in range(0, 10**6, 8):  # eight in flight, asked for in order
        await asyncio.gather(*(write(config, thread, number + i) for i in range(8)))

def thread_of_its_own(thread):
    config = start(thread)
    for number in range(10**6):
        saver.put_writes(config, [("c", number), ("c", "x" * 500)], f"{number:08}")
        note(thread, number)

async def main():
    for i in range(2):
        threading.Thread(target=thread_of_its_own, args=(f"{life}-sync-{i}",), daemon=True).start()
    print("ready", flush=True)
    await asyncio.gather(*(coroutines(f"{life}-async-{i}") for i in range(4)))

asyncio.run(main())
"""

LIVES = 4


def test_what_was_answered_survives_kill_nine(tmp_path: Path):
    url, answered = f"sqlite:///{tmp_path}/runs.db", tmp_path / "answered"
    moment = random.Random(7)
    for life in range(LIVES):  # each opens what the one before left
        writer = subprocess.Popen([sys.executable, "-c", WRITER, url, str(answered), str(life)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(moment.uniform(0.1, 0.4))
        writer.kill()
        writer.communicate()

    told: dict[str, set[int]] = {}
    for line in answered.read_text().splitlines():
        thread, number = line.split()
        told.setdefault(thread, set()).add(int(number))
    assert sum(map(len, told.values())) > 20 * LIVES

    with SQLAlchemySaver(url) as saver:
        for thread, numbers in told.items():
            found = saver.get_tuple({"configurable": {"thread_id": thread}})
            assert found is not None
            stored = [value for _, _, value in found.pending_writes or []]
            assert stored[::2] == list(range(len(stored) // 2))  # no gap, and nothing torn
            assert stored[1::2] == ["x" * 500] * (len(stored) // 2)
            assert numbers <= set(stored[::2])
