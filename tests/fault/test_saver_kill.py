"""kill -9 in the middle of group commits: what was acknowledged is there, and nothing is half there.

A round starts a process that writes through one saver from threads and coroutines, and kills it at a random moment;
the next one opens what it left. It writes

- many small writes, in pairs, to threads of its own: no gap among them, both of a pair or none, and
- checkpoints with two growing values, to threads that the processes before it began: each continues from the stored
  head, so that chains of deltas cross kills. Every checkpoint must hold exactly what was put, each must have its
  parent, and there must be no value without its checkpoint: versions tell which process made them, so that a
  successor can't repair unseen what its predecessor left.

The log of what was acknowledged is a file that the product does not know.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, select, text

from checkpoints import SQLAlchemySaver
from tests.fault.nursery import nursery

WRITER = """
import asyncio, hashlib, os, threading
from checkpoints import SQLAlchemySaver
from langgraph.checkpoint.base import empty_checkpoint

url, prefix, log, life, generation = argv
log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
saver = SQLAlchemySaver(url, prefix=prefix)

def note(*what):  # what is handed to the system survives the process: no fsync needed
    os.write(log, (" ".join(map(str, what)) + "\\n").encode())

def at(thread):
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}

def entry(number):
    return f"{number} {hashlib.sha256(str(number).encode()).hexdigest()}"

def pairs(number):
    return [("c", number), ("c", f"{number} " + "x" * 500)]

def grow(found):
    values = found.checkpoint["channel_values"] if found else {"log": [], "text": ""}
    count = len(values["log"])
    checkpoint = empty_checkpoint()
    checkpoint["channel_values"] = {
        "log": [*values["log"], entry(count)], "text": values["text"] + entry(count)
    }
    versions = {name: f"{count + 1:010}.{int(life):012x}" for name in ("log", "text")}
    checkpoint["channel_versions"] = versions
    return checkpoint, {"step": count, "source": "loop"}, versions

def growing(thread):
    found = saver.get_tuple(at(thread))
    config = found.config if found else at(thread)
    while True:
        checkpoint, metadata, versions = grow(found)
        config = saver.put(config, checkpoint, metadata, versions)
        note("grown", thread, len(checkpoint["channel_values"]["log"]))
        found = found._replace(checkpoint=checkpoint) if found else saver.get_tuple(config)

async def agrowing(thread):
    found = await saver.aget_tuple(at(thread))
    config = found.config if found else at(thread)
    while True:
        checkpoint, metadata, versions = grow(found)
        config = await saver.aput(config, checkpoint, metadata, versions)
        note("grown", thread, len(checkpoint["channel_values"]["log"]))
        found = found._replace(checkpoint=checkpoint) if found else await saver.aget_tuple(config)

async def write(config, thread, number):
    await saver.aput_writes(config, pairs(number), f"{number:08}")
    note("written", thread, number)

async def coroutines(thread):
    config = await saver.aput(at(thread), empty_checkpoint(), {"step": 0}, {})
    for number in range(0, 10**6, 8):  # eight in flight, asked for in order
        await asyncio.gather(*(write(config, thread, number + i) for i in range(8)))

def one_by_one(thread):
    config = saver.put(at(thread), empty_checkpoint(), {"step": 0}, {})
    for number in range(10**6):
        saver.put_writes(config, pairs(number), f"{number:08}")
        note("written", thread, number)

async def main():
    threading.Thread(target=one_by_one, args=(f"{life}-sync",), daemon=True).start()
    threading.Thread(target=growing, args=(f"{generation}-sync-chain",), daemon=True).start()
    await asyncio.gather(
        *(coroutines(f"{life}-async-{i}") for i in range(2)), agrowing(f"{generation}-async-chain")
    )

asyncio.run(main())
"""

GENERATION = 8  # processes that continue the same chains


@dataclass
class Told:
    """What was acknowledged, and what was found, over all kills."""

    written: Counter[str] = field(default_factory=Counter)
    grown: Counter[str] = field(default_factory=Counter)
    half_way: int = 0
    deltas: int = 0


@dataclass
class Place:
    """A database, and how to wait until it has forgotten a client that was killed."""

    url: str
    prefix: str
    forgotten: Callable[[], None]


def entry(number: int) -> str:
    return f"{number} {hashlib.sha256(str(number).encode()).hexdigest()}"


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        yield Place(f"sqlite:///{tmp_path / 'runs.db'}", "killed_", lambda: None)
        return
    url = request.getfixturevalue("postgres_url")
    name = f"killed{random.getrandbits(32)}"
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        query = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")

        def forgotten() -> None:  # what the client had sent may be committed after its death
            deadline = time.monotonic() + 10
            while connection.scalar(query, {"name": name}):
                assert time.monotonic() < deadline, "a session outlives its client"
                time.sleep(0.005)

        yield Place(f"{url}?application_name={name}", f"{name}_", forgotten)
    engine.dispose()


def read_log(log: Path) -> tuple[dict[str, set[int]], dict[str, int]]:
    """By thread: the acknowledged writes, and the length that was acknowledged last."""
    written: dict[str, set[int]] = {}
    grown: dict[str, int] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        kind, thread, number = line.split()
        if kind == "written":
            written.setdefault(thread, set()).add(int(number))
        else:
            grown[thread] = max(grown.get(thread, 0), int(number))
    return written, grown


def verify(place: Place, log: Path, told: Told) -> None:
    """All that one generation of processes wrote."""
    written, grown = read_log(log)
    with SQLAlchemySaver(place.url, prefix=place.prefix) as saver:
        for thread, numbers in written.items():
            found = saver.get_tuple({"configurable": {"thread_id": thread}})
            assert found is not None
            stored = [value for _, _, value in found.pending_writes or []]
            count = len(stored) // 2
            assert stored[::2] == list(range(count)), "a gap, or half a pair"
            assert stored[1::2] == [f"{number} " + "x" * 500 for number in range(count)]
            assert numbers <= set(stored[::2]), "an acknowledged write is gone"
            told.written[thread] = len(numbers)
        for thread, length in grown.items():
            newest_first = list(saver.list({"configurable": {"thread_id": thread}}))
            assert len(newest_first) >= length, "an acknowledged checkpoint is gone"
            for count, found in zip(range(len(newest_first), 0, -1), newest_first, strict=True):
                whole = [entry(number) for number in range(count)]
                assert found.checkpoint["channel_values"] == {"log": whole, "text": "".join(whole)}
            parents = [found.parent_config and found.parent_config["configurable"] for found in newest_first]
            assert parents == [*(found.config["configurable"] for found in newest_first[1:]), None]
            told.grown[thread] = length


def verify_whole(place: Place, told: Told) -> None:
    """The database, after all kills."""
    with SQLAlchemySaver(place.url, prefix=place.prefix) as saver:
        assert saver.check() == []
        checkpoints, values = saver._database.schema.checkpoints.c, saver._database.schema.values.c
        with saver._database.engine.connect() as connection:
            of_chains = select(func.count()).where(checkpoints.thread_id.like("%-chain"))
            of_values = select(func.count()).where(values.thread_id.like("%-chain"))
            assert connection.scalar(of_values) == 2 * (connection.scalar(of_chains) or 0), "values of no checkpoint"
            told.deltas = connection.scalar(select(func.count()).where(values.base.is_not(None))) or 0


def one_life(place: Place, folder: Path, log: Path, life: int, moment: random.Random) -> bool:
    """Start a process, kill it; return whether it had begun to write."""
    before = log.stat().st_size if log.exists() else 0
    writer = nursery().start(
        WRITER, place.url, place.prefix, log, life, life // GENERATION, out=folder / f"life{life}.out"
    )
    if life % 10 == 0:  # while it connects, makes the tables or begins
        time.sleep(moment.uniform(0, 0.05))
    else:
        deadline = time.monotonic() + 20
        while not log.exists() or log.stat().st_size == before:
            assert writer.poll() is None, writer.output
            assert time.monotonic() < deadline, writer.output
            time.sleep(0.002)
        time.sleep(moment.uniform(0, 0.15))
    assert writer.poll() is None, writer.output
    writer.kill()
    place.forgotten()
    assert "Traceback" not in writer.output, writer.output
    return log.exists() and log.stat().st_size > before


def campaign(place: Place, folder: Path, kills: int, seed: int, *, progress: bool) -> None:
    moment = random.Random(seed)
    told = Told()
    began = time.monotonic()
    for first in range(0, kills, GENERATION):
        log = folder / f"acknowledged{first}"
        for life in range(first, min(first + GENERATION, kills)):
            told.half_way += one_life(place, folder, log, life, moment)
        verify(place, log, told)
        if progress:
            seconds = time.monotonic() - began
            done = min(first + GENERATION, kills)
            print(f"\r{done} of {kills} kills, {seconds / done:.2f} s each ", end="", flush=True)
    verify_whole(place, told)
    print(
        f"\n{kills} kills, {told.half_way} of them amid writes: {told.written.total()} acknowledged writes and "
        f"{told.grown.total()} acknowledged checkpoints are there; {told.deltas} deltas are stored"
    )
    assert told.half_way >= kills * 0.7, "the kills came too early to mean anything"
    assert told.written.total() > kills
    assert told.grown.total() > kills // 2
    assert told.deltas > kills // 2


def test_what_was_acknowledged_survives_kill_nine(place: Place, tmp_path: Path) -> None:
    campaign(place, tmp_path, 5, seed=7, progress=False)


@pytest.mark.long
def test_five_hundred_kills(place: Place, tmp_path: Path) -> None:
    campaign(place, tmp_path, 500, seed=random.getrandbits(32), progress=True)
