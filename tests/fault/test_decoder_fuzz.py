"""Bytes that nobody wrote: reading them ends, soon and without much memory, in an error of this package or in a value.

Whatever is decoded passed a checksum, which an accident does not forge but a program with a fault, or a person with
access to the database, does. So the rows here are sealed like any other: arbitrary bytes, valid bytes with mutations,
types that do not fit, frames that claim a gigabyte. Nothing is ever unpickled, and no code of the reader's is reached
with nonsense unprepared: `TypeError` and its like would tell a user nothing about which checkpoint is at fault.
"""

from __future__ import annotations

import contextlib
import pickle
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
import zstandard
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.types import Send

from checkpoints import CheckpointsError, SQLAlchemySaver
from checkpoints.rows import Sealer
from checkpoints.serializer import StrictSerializer
from tests.fault.nursery import nursery

THREAD: Any = {"configurable": {"thread_id": "fuzzed", "checkpoint_ns": ""}}
SEALER = Sealer(None)
SERDE = StrictSerializer()
NOISE = random.Random(1).randbytes(400).hex()
KINDS = ["msgpack", "zstd:msgpack", "null", "bytes", "bytearray", "json", "zstd:json", "pickle", "zstd:pickle", "", "?"]

VALID = [
    SERDE.dumps_typed(value)[1]
    for value in (
        {"a": [1, 2.5, None, True, "text", b"bytes"], "b": {"c": list(range(50))}},
        Send("node", {"x": 1}),
        {1: {2: {3: (4, 5)}}},
        [Path("somewhere"), {1, 2, 3}, Send("node", [Send("other", None)])],
        "x" * 2000,
        [empty_checkpoint(), {}, []],
    )
]


def mutated(valid: bytes, seed: int, changes: int) -> bytes:
    chance, found = random.Random(seed), bytearray(valid)
    for _ in range(changes):
        place = chance.randrange(len(found) + 1)
        match chance.randrange(4):
            case 0 if place < len(found):
                found[place] ^= 1 << chance.randrange(8)
            case 1:
                found[place:place] = chance.randbytes(chance.randrange(1, 5))
            case 2:
                del found[place : place + chance.randrange(1, 9)]
            case _:
                found[place : place + 1] = chance.choice([b"\xc7\x05\x00", b"\xdf\xff\xff\xff\xff", b"\xc1", b"\x93"])
    return bytes(found)


def nested(depth: int, opening: bytes) -> bytes:
    return opening * depth + b"\xc0"


def snapshots(depth: int) -> bytes:
    """Extensions in extensions, each of which the reader unpacks anew."""
    content = b"\xc0"
    for _ in range(depth):
        content = ormsgpack.packb(ormsgpack.Ext(7, content))
    return content


def frame_that_claims(size: int) -> bytes:
    """A zstd frame with this content size in its header, and one short raw block."""
    magic, single_segment_with_8_bytes_of_size = struct.pack("<I", 0xFD2FB528), b"\xe0"
    return magic + single_segment_with_8_bytes_of_size + struct.pack("<Q", size) + b"\x09\x00\x00" + b"x"


arbitrary = st.binary(max_size=200)
mutations = st.builds(mutated, st.sampled_from(VALID), st.integers(0, 2**32), st.integers(1, 6))
frames = st.builds(lambda content: zstandard.ZstdCompressor().compress(content), arbitrary | mutations)
contents = arbitrary | mutations | frames | st.builds(mutated, frames, st.integers(0, 2**32), st.integers(1, 3))
kinds = st.sampled_from(KINDS) | st.text(max_size=20)
# What a checkpoint could be made of, and is not: the shape of a row's body is [checkpoint, metadata, names].
scraps = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
heads = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("v", "id", "ts", "channel_values", "channel_versions", "versions_seen"), scraps)
)
bodies = st.tuples(heads | scraps, scraps, scraps) | scraps
texts = st.text(max_size=30) | scraps.map(repr) | st.sampled_from(["[]", "1", '{"a":', "null"])

AS_IT_IS: dict[str, Any] = {"depth": 1, "size": None}
LIMITS = settings(
    max_examples=150,
    deadline=5000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
)


class Rows:
    """A thread whose rows are replaced by sealed nonsense."""

    def __init__(self, folder: Path) -> None:
        self.saver = SQLAlchemySaver(f"sqlite:///{folder / 'runs.db'}")
        stored = THREAD
        for step in (1, 2):  # the second value is a delta of the first
            checkpoint, versions = empty_checkpoint(), {"log": f"{step:010}.000000000001"}
            checkpoint["channel_values"], checkpoint["channel_versions"] = (
                {"log": NOISE[: 400 + 100 * step]},
                dict(versions),
            )
            stored = self.saver.put(stored, checkpoint, {"step": step}, versions)
        self.saver.put_writes(stored, [("c", "value")], "task")
        self.engine = self.saver._database.engine
        schema = self.saver._database.schema
        self.tables = {"checkpoints": schema.checkpoints, "values": schema.values, "writes": schema.writes}
        with self.engine.connect() as connection:
            self.rows = {name: connection.execute(table.select()).all()[-1] for name, table in self.tables.items()}
        assert self.rows["values"].base is not None

    def replace(self, name: str, kind: str, content: bytes, **changes: Any) -> None:
        table = self.tables[name]
        row = {**self.rows[name]._mapping, **changes}
        *others, blob = (column.name for column in table.c)
        covered = tuple(row[column] for column in others if column not in {"type", "key_id", "checksum"})
        (row["type"], row["key_id"], row["checksum"]), row[blob] = SEALER.seal(name, covered, kind, content)
        with self.saver._database.dialect.writing(self.engine).begin() as connection:
            assert connection.execute(table.update().where(*self._is(name)).values(row)).rowcount == 1

    def _is(self, name: str) -> list[Any]:
        return [column == getattr(self.rows[name], column.name) for column in self.tables[name].primary_key]

    def restore(self) -> None:
        with self.saver._database.dialect.writing(self.engine).begin() as connection:
            for name, row in self.rows.items():
                connection.execute(self.tables[name].update().where(*self._is(name)).values(dict(row._mapping)))

    def read(self) -> None:
        """All that reads; only errors of this package may come out, and `check` must agree."""
        readings: list[Callable[[], Any]] = [
            lambda: self.saver.get_tuple(THREAD),
            lambda: list(self.saver.list(THREAD)),
            lambda: list(self.saver.list(None, filter={"step": 1})),
            self.saver.heads,
            lambda: self.saver.get_delta_channel_history(config=THREAD, channels=["log"]),
        ]
        failed = False
        for reading in readings:
            try:
                reading()
            except CheckpointsError:
                failed = True
        problems = self.saver.check()
        assert problems or not failed, "check finds nothing in what can't be read"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    made = Rows(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.saver.close()


@LIMITS
@given(kind=kinds, content=contents)
@example(kind="msgpack", content=nested(100_000, b"\x91"))
@example(kind="msgpack", content=nested(100_000, b"\x81\xa1a"))
@example(kind="msgpack", content=snapshots(2_000))
@example(kind="msgpack", content=b"\xdd\xff\xff\xff\xff")
@example(kind="json", content=b"[" * 100_000)
@example(kind="pickle", content=pickle.dumps({"a": 1}))
def test_the_serializer_gives_a_value_or_an_error(kind: str, content: bytes) -> None:
    try:
        SERDE.loads_typed((kind, content))
    except MemoryError:
        raise
    except Exception:
        return  # the codec turns any other into CorruptCheckpoint
    assert "pickle" not in kind


@LIMITS
@given(
    name=st.sampled_from(["values", "writes"]),
    kind=kinds,
    content=contents | st.builds(bytes.__add__, st.sampled_from([b"\1", b"\2"]), arbitrary | frames),
    changes=st.fixed_dictionaries(
        {"depth": st.integers(-1, 40), "size": st.none() | st.integers(-1, 2000)}, optional={"base": st.none()}
    ),
)
@example(name="writes", kind="msgpack", content=nested(100_000, b"\x91"), changes=AS_IT_IS)
@example(name="writes", kind="msgpack", content=snapshots(2_000), changes=AS_IT_IS)
@example(name="values", kind="msgpack", content=b"\2\1", changes=AS_IT_IS)
@example(name="writes", kind="zstd:msgpack", content=b"", changes=AS_IT_IS)
@example(name="values", kind="msgpack", content=zstandard.ZstdCompressor().compress(b"\x91" * 5000), changes=AS_IT_IS)
def test_sealed_values_and_writes(rows: Rows, name: str, kind: str, content: bytes, changes: dict[str, Any]) -> None:
    assume(content not in {b"\1", b"\2"})  # the next test
    changes = dict(changes) if name == "values" else {}
    if name == "values" and changes["size"] is None:  # so that the row and its frame agree
        changes["size"] = len(content)
        if content[:4] == b"\x28\xb5\x2f\xfd":
            with contextlib.suppress(zstandard.ZstdError):
                changes["size"] = max(0, min(zstandard.get_frame_parameters(content).content_size, 1 << 20))
    try:
        rows.replace(name, kind, content, **changes)
        rows.read()
    finally:
        rows.restore()


@pytest.mark.parametrize("content", [b"\1", b"\2"])
def test_a_frame_of_one_byte(rows: Rows, content: bytes) -> None:
    try:
        rows.replace("values", "msgpack", content)
        rows.read()
    finally:
        rows.restore()


@LIMITS
@given(kind=kinds, content=contents | bodies.map(lambda body: SERDE.dumps_typed(body)[1]), metadata=st.just("{}"))
@example(kind="msgpack", content=SERDE.dumps_typed([1, 2])[1], metadata="{}")
@example(kind="msgpack", content=SERDE.dumps_typed([{}, {}, []])[1], metadata="{}")
@example(kind="null", content=b"", metadata="{}")
def test_sealed_checkpoints(rows: Rows, kind: str, content: bytes, metadata: str) -> None:
    try:
        rows.replace("checkpoints", kind, content, metadata=metadata)
        rows.read()
    finally:
        rows.restore()


@LIMITS
@given(metadata=texts)
@example(metadata="no JSON")
@example(metadata="[1]")
@example(metadata="[" * 5000)
def test_sealed_metadata(rows: Rows, metadata: str) -> None:
    row = rows.rows["checkpoints"]
    try:
        rows.replace("checkpoints", row.type, row.body, metadata=metadata)
        rows.read()
    finally:
        rows.restore()


BOMB = """
import resource, sys, time
from pathlib import Path
from checkpoints import CheckpointsError, SQLAlchemySaver

url, = argv
config = {"configurable": {"thread_id": "fuzzed", "checkpoint_ns": ""}}
with SQLAlchemySaver(url) as saver:
    saver.heads(limit=0)  # all is imported and open
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    for read in (lambda: saver.get_tuple(config), lambda: list(saver.list(config)), saver.check):
        try:
            read()
        except CheckpointsError:
            pass
    seconds = time.monotonic() - began
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, seconds)
"""


def cost(rows: Rows, folder: Path) -> tuple[int, float]:
    """Megabytes and seconds to read the thread, in a process of its own."""
    url = str(rows.engine.url)
    megabytes, seconds = nursery().start(BOMB, url, out=folder / "out").succeed(120).split()
    return int(megabytes), float(seconds)


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("values", 1 << 30),
        ("writes", 1 << 30),
        ("checkpoints", 1 << 30),
        ("values", 1 << 60),  # more than any machine has
        ("writes", 1 << 60),
        ("checkpoints", 1 << 60),
    ],
)
def test_a_frame_that_claims_a_gigabyte_costs_nothing(rows: Rows, tmp_path: Path, name: str, claim: int) -> None:
    kind = "msgpack" if name == "values" else "zstd:msgpack"
    changes = {"size": claim, "base": None} if name == "values" else {}
    try:
        rows.replace(name, kind, frame_that_claims(claim), **changes)
        began = time.monotonic()
        megabytes, seconds = cost(rows, tmp_path)
        assert megabytes < 64
        assert seconds < 5
        assert time.monotonic() - began < 10
        rows.read()
    finally:
        rows.restore()
