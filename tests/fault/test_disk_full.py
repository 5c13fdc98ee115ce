"""A disk that fills up: the caller is told, nothing is lost or half written, and it goes on when there is space again.

Once with a real small file system (mounted, so only for root), and once, for everyone, with a limit on how large a file
of the process may get. Both in a process of their own, with SQLite.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from checkpoints import SQLAlchemySaver
from tests.fault.nursery import nursery

PROGRAM = """
import asyncio, os, resource, signal, sys, threading
from pathlib import Path
from checkpoints import DatabaseBusy, SQLAlchemySaver, WriteFailed
from langgraph.checkpoint.base import empty_checkpoint

kind, folder = argv[0], Path(argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
filler = folder / "filler"

def fill():
    if kind == "limit":
        largest = max(path.stat().st_size for path in folder.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 100_000, resource.RLIM_INFINITY))
        return
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(os.urandom(4096))
        except OSError:
            pass

def make_space():
    if kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        filler.unlink()

saver = SQLAlchemySaver(f"sqlite:///{folder / 'runs.db'}", timeout=5)

def at(thread):
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}

def put(thread, config, number):  # incompressible, so that it takes space
    checkpoint = empty_checkpoint()
    versions = {"a": f"{number:010}.000000000001", "b": f"{number:010}.000000000001"}
    checkpoint["channel_values"] = {"a": [number, os.urandom(6000)], "b": [number, os.urandom(6000)]}
    checkpoint["channel_versions"] = versions
    return saver.put(config, checkpoint, {"step": number}, versions), checkpoint["channel_values"]

def until_full(thread, known):
    config = known[-1][0] if known else at(thread)
    for number in range(len(known), 10**6):
        try:
            known.append(put(thread, config, number))
        except WriteFailed as error:
            assert not isinstance(error, DatabaseBusy), error
            assert error.__cause__ is not None
            return
        config = known[-1][0]

def verify(stored):
    for thread, known in stored.items():
        found = list(saver.list(at(thread)))
        assert [one.config for one in found] == [config for config, _ in reversed(known)], thread
        assert [one.checkpoint["channel_values"] for one in found] == [values for _, values in reversed(known)]
        assert saver.get_tuple(at(thread)).config == known[-1][0]
    assert saver.check() == []

stored = {f"thread{i}": [] for i in range(3)}
for thread, known in stored.items():
    known.append(put(thread, at(thread), 0))
for time in range(2):  # it fills up, and again after there was space
    fill()
    callers = [threading.Thread(target=until_full, args=each) for each in stored.items()]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
        assert not caller.is_alive(), "a caller hangs"
    verify(stored)  # readable while the disk is full

    async def together():
        config = stored["thread0"][-1][0]
        calls = [saver.aput_writes(config, [("c", os.urandom(200_000))], f"task{i}") for i in range(4)]
        return await asyncio.gather(*calls, return_exceptions=True)

    errors = asyncio.run(together())
    assert all(isinstance(error, WriteFailed) for error in errors), errors
    make_space()
    for thread, known in stored.items():
        for _ in range(5):
            known.append(put(thread, known[-1][0], len(known)))
    verify(stored)
    assert saver.get_tuple(at("thread0")).pending_writes == []
saver.close()
print(sum(map(len, stored.values())))
"""


def reopen(folder: Path, count: int) -> None:
    with SQLAlchemySaver(f"sqlite:///{folder / 'runs.db'}") as saver:
        assert saver.check() == []
        assert len(list(saver.list(None))) == count


def test_a_full_disk_is_an_error_and_no_more(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small disk; the test below limits the size of files instead")
    try:
        printed = nursery().start(PROGRAM, "disk", disk, out=tmp_path / "out").succeed(60)
        reopen(disk, int(printed))
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_file_that_may_not_grow_is_an_error_and_no_more(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    printed = nursery().start(PROGRAM, "limit", disk, out=tmp_path / "out").succeed(60)
    reopen(disk, int(printed))
