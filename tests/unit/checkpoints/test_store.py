"""The store, on every database: items, searches, namespaces, times to live."""

from __future__ import annotations

import asyncio
import operator
import threading
import time
from typing import Annotated, Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.config import get_store
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore
from sqlalchemy import create_engine, text

from checkpoints import (
    CorruptItem,
    Encryption,
    InvalidKey,
    SaverClosed,
    SQLAlchemySaver,
    SQLAlchemyStore,
    UnsupportedDatabase,
)
from checkpoints.dialects import open_dialect

TINY = 0.0005  # minutes: 30 ms
LONG = 0.06  # seconds, in which what has a tiny ttl expires
ODD = [
    "a",
    "A",
    "a ",
    "%",
    "_",
    "a%",
    "a.b",
    "*",
    "\x00",
    "\x01",
    "\x02",
    "\x03",
    "\x030",
    "\x1f",
    "ä",
    "😀",
    "\uffff",
    "",
]


@pytest.fixture
def store(any_url):
    with SQLAlchemyStore(any_url) as opened:
        yield opened


def execute(url: str, sql: str, **parameters: Any) -> list[Any]:
    engine = create_engine(open_dialect(url)[1])
    with engine.begin() as connection:
        found = connection.execute(text(sql), parameters)
        rows = list(found.all()) if found.returns_rows else []
    engine.dispose()
    return rows


def keys(items: Any) -> list[str]:
    return [item.key for item in items]


# Items


def test_what_is_put_is_what_is_got(store):
    value = {"text": "ä😀\x00", "n": [1, 2.5, None, True, {"deep": []}], "big": 2**70, "": "\ud800"}
    store.put(("users", "1"), "k", value)
    item = store.get(("users", "1"), "k")

    assert item.value == value
    assert (item.namespace, item.key) == (("users", "1"), "k")
    assert abs(item.created_at.timestamp() - time.time()) < 60
    assert item.created_at.tzinfo is not None
    assert item.created_at == item.updated_at
    assert store.get(("users", "1"), "other") is None
    assert store.get(("users",), "k") is None

    store.delete(("users", "1"), "k")
    store.delete(("users", "1"), "k")
    assert store.get(("users", "1"), "k") is None


def test_what_is_put_again_was_created_before(store):
    store.put(("n",), "k", {"v": 1})
    time.sleep(0.005)
    store.put(("n",), "k", {"v": 2})
    item = store.get(("n",), "k")
    assert item.value == {"v": 2}
    assert item.created_at < item.updated_at

    store.delete(("n",), "k")
    store.put(("n",), "k", {"v": 3})
    assert store.get(("n",), "k").created_at > item.created_at


def test_keys_are_compared_character_by_character(store):
    store.batch([PutOp((label,), key, {"at": [label, key]}) for label in ODD for key in ODD])
    for label in ODD:
        found = store.batch([GetOp((label,), key) for key in ODD])
        assert [item.value["at"] for item in found] == [[label, key] for key in ODD]
        here = store.batch([SearchOp((label,), limit=100)])[0]
        assert sorted(keys(here)) == sorted(ODD)
    assert store.list_namespaces() == sorted((label,) for label in ODD)
    assert [item.namespace for item in store.search((), limit=1)] == [("",)]


def test_a_prefix_is_of_labels_not_of_characters(store):
    namespaces = [
        ("a",),
        ("a", "b"),
        ("a", "b", "c"),
        ("ab",),
        ("a", "bc"),
        ("A",),
        ("b", "a"),
        ("a\x02b",),
        ("a\x03",),
    ]
    store.batch([PutOp(namespace, "k", {}) for namespace in namespaces])
    for prefix in [(), *namespaces]:
        expected = {namespace for namespace in namespaces if namespace[: len(prefix)] == prefix}
        assert {item.namespace for item in store.batch([SearchOp(prefix)])[0]} == expected
        condition = (MatchCondition("prefix", prefix),)
        assert store.batch([ListNamespacesOp(condition)])[0] == sorted(expected)


@pytest.mark.parametrize(
    ("namespace", "key"),
    [
        (("a" * 1100,), "k"),
        (("a",), "k" * 600),
        (("a",), "ä" * 300),
        (("\ud800",), "k"),
        (("a",), "\ud800"),
        ("abc", "k"),
        (("a", 1), "k"),
        (("a",), 1),
    ],
)
def test_a_key_that_can_not_be_stored_is_refused(namespace, key):
    with SQLAlchemyStore("sqlite://") as store:
        for op in (PutOp(namespace, key, {}), GetOp(namespace, key)):
            with pytest.raises(InvalidKey):
                store.batch([PutOp(("fine",), "k", {}), op])
        assert store.get(("fine",), "k") is None


def test_the_longest_keys_can_be_stored(store):
    for label, key in (("n" * 1023, "k" * 512), ("\x01" * 511, "\x01" * 512)):
        store.batch([PutOp((label,), key, {"v": 1})])
        assert store.batch([GetOp((label,), key)])[0].value == {"v": 1}


def test_names_that_langgraph_refuses_are_refused():
    with SQLAlchemyStore("sqlite://") as store:
        for namespace in ((), ("a.b",), ("",), ("langgraph",)):
            with pytest.raises(InvalidNamespaceError):
                store.put(namespace, "k", {})


circle: dict[str, Any] = {}
circle["me"] = circle


@pytest.mark.parametrize(
    "value",
    [
        {"x": {1, 2}},
        {"x": time},
        {"x": float("nan")},
        {"x": [float("inf")]},
        {"x": {1: 2}},
        {1: 2},
        {"x": b"bytes"},
        {"x": 10**5000},
        circle,
        [1],
        "text",
        7,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_is_not_json_is_refused_before_anything_is_written(value):
    with SQLAlchemyStore("sqlite://") as store:
        with pytest.raises(TypeError, match=r"'bad'.*\('n',\)"):
            store.batch([PutOp(("n",), "good", {}), PutOp(("n",), "bad", value)])
        assert store.search(("n",)) == []


def test_values_are_copies():
    with SQLAlchemyStore("sqlite://") as store:
        value = {"list": [1], "tuple": (1, 2)}
        store.put(("n",), "k", value)
        value["list"].append(2)
        first, second = store.batch([GetOp(("n",), "k"), GetOp(("n",), "k")])
        first.value["list"].append(3)
        assert second.value == {"list": [1], "tuple": [1, 2]}


# Batches


def test_a_batch_reads_what_was_before_it_and_the_last_put_counts(store):
    store.put(("n",), "old", {"v": 0})
    results = store.batch(
        iter(
            [
                PutOp(("n",), "new", {"v": 1}),
                GetOp(("n",), "new"),
                PutOp(("n",), "old", None),
                GetOp(("n",), "old"),
                PutOp(("n",), "new", None),
                PutOp(("n",), "new", {"v": 2}),
                SearchOp(("n",)),
                ListNamespacesOp(),
                PutOp(("n",), "never", {}),
                PutOp(("n",), "never", None),
            ]
        )
    )
    assert [results[i] for i in (0, 1, 2, 4, 5, 8, 9)] == [None] * 7
    assert results[3].value == {"v": 0}
    assert keys(results[6]) == ["old"]
    assert results[7] == [("n",)]
    assert [item.value for item in store.search(("n",))] == [{"v": 2}]
    assert store.batch([]) == []
    with pytest.raises(ValueError, match="operation"):
        store.batch([PutOp(("n",), "x", {}), "get"])
    assert store.get(("n",), "x") is None


def test_a_large_batch(store):
    store.batch([PutOp((f"n{i % 7}",), f"{i:05}", {"i": i}) for i in range(1500)])
    assert len(store.search((), limit=10_000)) == 1500
    assert keys(store.search((), filter={"i": {"$gte": 900}}, limit=5, offset=250)) == keys(
        store.search((), filter={"i": {"$gte": 900}}, limit=1500)[250:255]
    )
    store.batch([PutOp((f"n{i % 7}",), f"{i:05}", None) for i in range(0, 1500, 2)])
    found = store.batch([GetOp((f"n{i % 7}",), f"{i:05}") for i in range(1500)])
    assert [item is None for item in found] == [i % 2 == 0 for i in range(1500)]


# Searches


def test_the_last_updated_is_found_first(store):
    for key in "abc":
        store.put(("n",), key, {"v": key})
        time.sleep(0.003)
    store.put(("n",), "a", {"v": "A"})
    assert keys(store.search(("n",))) == ["a", "c", "b"]
    assert keys(store.search(("n",), limit=1, offset=1)) == ["c"]
    assert keys(store.search(("n",), filter={"v": {"$ne": "c"}}, limit=1, offset=1)) == ["b"]
    assert store.search(("n",), limit=0) == store.search(("n",), limit=0, filter={"v": "A"}) == []
    assert store.search(("n",), offset=3) == []


def test_filters(store):
    items = {
        "a": {"n": 1, "t": "x", "o": {"p": 1, "q": 2}, "l": [1, {"p": 1, "q": 2}]},
        "b": {"n": 2.5, "t": "y", "o": {"p": 2}, "l": [1]},
        "c": {"n": "10", "t": None},
        "d": {"n": True, "l": []},
        "e": {"n": [1]},
    }
    store.batch([PutOp(("n",), key, value) for key, value in items.items()])

    def found(**wanted: Any) -> str:
        return "".join(sorted(keys(store.search(("n",), filter=wanted))))

    assert found() == "abcde"
    assert found(n=1) == "ad"  # as in Python, True is 1
    assert found(n={"$eq": 2.5}) == "b"
    assert found(n={"$ne": 1}) == "bce"
    assert found(n={"$gt": 1}) == found(n={"$gt": "1"}) == "bc"  # and what is no number is not compared
    assert found(n={"$gte": 1, "$lt": 10}) == "abd"
    assert found(n={"$lte": 1}) == "ad"
    assert found(t=None) == "cde"
    assert found(t="x", n=1) == "a"
    assert found(o={"p": 1}) == "a"
    assert found(o={"p": {"$gte": 1}}) == "ab"
    assert found(o={}) == "ab"
    assert found(l=[1, {"p": 1}]) == found(l=(1, {"p": 1})) == "a"
    assert found(l=[]) == "d"
    with pytest.raises(ValueError, match=r"\$in"):
        found(n={"$in": [1]})
    with pytest.raises(ValueError, match="numbers"):
        found(n={"$gt": "many"})


def test_what_makes_no_sense_is_refused():
    with SQLAlchemyStore("sqlite://") as store:
        for op, error in (
            (SearchOp((), query="like this"), NotImplementedError),
            (SearchOp((), limit=-1), ValueError),
            (SearchOp((), offset=-1), ValueError),
            (ListNamespacesOp(max_depth=-1), ValueError),
            (ListNamespacesOp((MatchCondition("infix", ("a",)),)), ValueError),
            (PutOp(("n",), "k", {}, ttl=0), ValueError),
            (PutOp(("n",), "k", {}, ttl=-1), ValueError),
            (PutOp(("n",), "k", {}, ttl=float("nan")), ValueError),
            (PutOp(("n",), "k", {}, ttl=1e300), ValueError),
        ):
            with pytest.raises(error):
                store.batch([op])
        store.put(("n",), "k", {"v": 1}, index=["v"])  # which has no effect, as BaseStore says
        assert store.search(("n",))[0].score is None
    with pytest.raises(NotImplementedError, match="vector"):
        SQLAlchemyStore("sqlite://", index={"dims": 2, "embed": len})
    with pytest.raises(UnsupportedDatabase):
        SQLAlchemyStore("nonsense")
    for minutes in ({"default_ttl": 0}, {"sweep_interval_minutes": -1}):
        with pytest.raises(ValueError, match="more than 0"):
            SQLAlchemyStore("sqlite://", ttl=minutes)


# Namespaces


def test_namespaces(store):
    namespaces = [("a", "b", "c"), ("a", "b", "d", "e"), ("a", "b", "d", "i"), ("a", "b", "f"), ("a", "c", "f"), ("x",)]
    store.batch([PutOp(namespace, key, {}) for namespace in namespaces for key in "12"])
    listed = store.list_namespaces
    assert listed() == namespaces
    assert listed(prefix=("a", "b"), max_depth=3) == [("a", "b", "c"), ("a", "b", "d"), ("a", "b", "f")]
    assert listed(suffix=("f",)) == [("a", "b", "f"), ("a", "c", "f")]
    assert listed(prefix=("a", "*", "f")) == [("a", "b", "f"), ("a", "c", "f")]
    assert listed(prefix=("*", "c")) == [("a", "c", "f")]
    assert listed(suffix=("d", "*")) == [("a", "b", "d", "e"), ("a", "b", "d", "i")]
    assert listed(prefix=("a",), suffix=("*", "i"), max_depth=1) == [("a",)]
    assert listed(max_depth=0) == [()]
    assert listed(max_depth=2, limit=2, offset=1) == [("a", "c"), ("x",)]
    assert listed(limit=0) == listed(offset=6) == listed(prefix=("a", "b", "c", "*")) == []
    store.delete(("x",), "1")
    store.delete(("x",), "2")
    store.get(("never",), "k")
    assert listed() == namespaces[:-1]


def test_many_namespaces():
    with SQLAlchemyStore("sqlite://") as store:
        store.batch([PutOp((f"{i:04}", "x"), "k", {}) for i in range(2300)])
        assert store.list_namespaces(limit=5000, max_depth=1) == [(f"{i:04}",) for i in range(2300)]
        assert store.list_namespaces(limit=2, offset=1999) == [("1999", "x"), ("2000", "x")]
        assert store.list_namespaces(suffix=("2299", "x")) == [("2299", "x")]


# Times to live


class Clock:
    """The store's clock, which stands still: a slow machine must not let items expire before they are looked at."""

    def __init__(self) -> None:
        self.now = time.time_ns() // 1_000_000

    def __call__(self) -> int:
        return self.now

    def forward(self, minutes: float) -> None:
        self.now += round(minutes * 60_000)


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("checkpoints.store._now", made)
    return made


def test_an_item_is_gone_when_its_time_is_over(store, clock):
    store.put(("n",), "brief", {"v": 1}, ttl=1)
    store.put(("n", "brief"), "brief", {"v": 1}, ttl=1)
    store.put(("n",), "long", {}, ttl=60)
    store.put(("n",), "always", {})
    clock.forward(0.99)
    created = store.get(("n",), "brief", refresh_ttl=False).created_at
    clock.forward(0.01)
    assert store.get(("n",), "brief") is None
    assert sorted(keys(store.search(("n",)))) == ["always", "long"]
    assert sorted(keys(store.search(("n",), filter={"v": None}))) == ["always", "long"]
    assert store.list_namespaces() == [("n",)]

    store.put(("n",), "brief", {"v": 2})  # which is another one
    item = store.get(("n",), "brief")
    assert item.created_at == item.updated_at > created
    assert (store.sweep(), store.sweep()) == (1, 0)
    assert len(store.search(())) == 3


def test_time_passes_by_itself(store):
    store.put(("n",), "brief", {}, ttl=TINY)
    store.put(("n",), "long", {}, ttl=1)
    time.sleep(LONG)
    assert store.get(("n",), "brief") is None
    assert store.get(("n",), "long") is not None
    assert store.sweep() == 1


@pytest.mark.parametrize("use", ["get", "search", "filter", "put"])
def test_a_use_begins_the_time_anew(store, clock, use):
    store.put(("n",), "k", {"v": 1}, ttl=3)
    store.put(("n",), "unused", {"v": 2}, ttl=3)
    created = store.get(("n",), "k", refresh_ttl=False).created_at
    for _ in range(3):
        clock.forward(2)
        match use:
            case "get":
                store.batch([GetOp(("n",), "k"), GetOp(("n",), "none")])
            case "search":
                store.search(("n",), limit=1)
            case "filter":
                store.search(("n",), filter={"v": 1})
            case _:
                store.put(("n",), "k", {"v": 1}, ttl=3)
    assert keys(store.search(("n",), refresh_ttl=False)) == ["k"]
    item = store.get(("n",), "k", refresh_ttl=False)
    assert item.created_at == created
    assert (item.updated_at == created) is (use != "put")
    clock.forward(2)
    assert store.get(("n",), "k", refresh_ttl=False) is not None
    clock.forward(2)
    assert store.get(("n",), "k") is None
    assert store.sweep() == 2


def test_what_a_batch_uses_and_puts_is_as_it_was_put(store, clock):
    store.put(("n",), "k", {"v": 1}, ttl=10)
    store.batch([GetOp(("n",), "k"), PutOp(("n",), "k", {"v": 2}, ttl=1)])
    clock.forward(2)
    assert store.get(("n",), "k") is None


def test_the_defaults_of_the_configuration(clock):
    with SQLAlchemyStore("sqlite://", ttl={"default_ttl": 2, "refresh_on_read": False}) as store:
        assert store.supports_ttl
        store.put(("n",), "default", {})
        store.put(("n",), "read", {})
        store.put(("n",), "none", {}, ttl=None)
        store.put(("n",), "own", {}, ttl=10)
        clock.forward(1)
        store.search(("n",))
        store.get(("n",), "read", refresh_ttl=True)
        clock.forward(1)
        assert sorted(keys(store.search(("n",)))) == ["none", "own", "read"]


def test_the_last_put_says_how_long(store, clock):
    store.put(("n",), "a", {})
    store.put(("n",), "a", {}, ttl=1)
    store.put(("n",), "b", {}, ttl=1)
    store.put(("n",), "b", {})
    clock.forward(2)
    assert keys(store.search(("n",))) == ["b"]


def test_puts_sweep_when_it_is_time(any_url, clock):
    with SQLAlchemyStore(any_url, ttl={"sweep_interval_minutes": TINY}) as store:
        store.put(("n",), "old", {}, ttl=1)
        clock.forward(1)
        time.sleep(LONG)
        store.put(("n",), "new", {})
        assert [row.n for row in execute(any_url, "SELECT COUNT(*) AS n FROM orchestra_items")] == [1]
        assert store.sweep() == 0


# Against LangGraph's own


class Oracle(InMemoryStore):
    """LangGraph's, but for the namespaces without items that it lists after a get or delete there."""

    def _handle_list_namespaces(self, op: ListNamespacesOp) -> Any:
        for namespace in [namespace for namespace, items in self._data.items() if not items]:
            del self._data[namespace]
        return super()._handle_list_namespaces(op)


labels = st.sampled_from(["a", "b", "a ", "\x02", "*", "😀"])
namespaces = st.lists(labels, max_size=3).map(tuple)
item_keys = st.sampled_from(["k", "K", "k ", ""])
scalars = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.5, "1", "x", ""])
parts = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("pq"), inner, max_size=2),
    max_leaves=4,
)
documents = st.dictionaries(st.sampled_from("pq"), parts, max_size=2)
numbers = st.integers(-2, 2) | st.just("1")
operators = st.dictionaries(st.sampled_from(["$eq", "$ne"]), parts, min_size=1, max_size=2)
filters = st.none() | st.dictionaries(st.sampled_from("pq"), parts | operators, max_size=2)
orders = st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), numbers, min_size=1, max_size=2)
conditions = st.lists(
    st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), st.lists(labels, max_size=2).map(tuple)),
    max_size=2,
).map(tuple)
counts = st.integers(0, 4)


def made(kind: Any, *parts: Any) -> Any:
    """`st.builds` would make up the optional fields too."""
    return st.tuples(*parts).map(lambda fields: kind(*fields))


ops = st.one_of(
    made(PutOp, namespaces, item_keys, documents | st.none()),
    made(PutOp, namespaces, item_keys, documents),
    made(GetOp, namespaces, item_keys),
    made(SearchOp, namespaces, filters, counts, counts),
    made(ListNamespacesOp, conditions, st.none() | counts, counts, counts),
)


def plain(result: Any) -> Any:
    """What must be equal: all but the times, and the order of what a search finds."""
    if isinstance(result, list):
        return [each if isinstance(each, tuple) else plain(each) for each in result]
    return result and (result.namespace, result.key, repr(result.value))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(ops, max_size=6), max_size=6))
def test_it_does_as_langgraphs_own_does(batches):
    oracle = Oracle()
    with SQLAlchemyStore("sqlite://") as store:
        for batch in batches:
            all_found = [op._replace(limit=1000, offset=0) if isinstance(op, SearchOp) else op for op in batch]
            reads = [op for op in all_found if not isinstance(op, PutOp)]
            everything = [plain(result) for result in store.batch(reads)]
            for op, ours, theirs in zip(reads, everything, oracle.batch(reads), strict=True):
                if isinstance(op, SearchOp):
                    assert sorted(ours) == sorted(plain(theirs))
            expected = iter(everything)
            for op, ours, theirs in zip(batch, store.batch(batch), oracle.batch(batch), strict=True):
                whole = None if isinstance(op, PutOp) else next(expected)
                if isinstance(op, SearchOp):
                    assert plain(ours) == whole[op.offset : op.offset + op.limit]
                    assert len(ours) == len(theirs)
                else:
                    assert plain(ours) == plain(theirs)


@settings(max_examples=80, deadline=None)
@given(documents, st.dictionaries(st.sampled_from("pq"), parts | operators | orders, max_size=2))
def test_a_filter_finds_what_langgraphs_own_finds(document, wanted):
    oracle = InMemoryStore()
    oracle.put(("n",), "k", document)
    try:
        expected = len(oracle.search(("n",), filter=wanted))
    except (TypeError, ValueError):
        expected = 0  # theirs fails on an item that has no number there; here it is not found
    with SQLAlchemyStore("sqlite://") as store:
        store.put(("n",), "k", document)
        assert len(store.search(("n",), filter=wanted)) == expected


# Threads, loops and graphs


async def test_the_async_methods(any_url):
    async with SQLAlchemyStore(any_url) as store:
        await store.aput(("n", "m"), "k", {"v": 1}, ttl=60)
        await store.aput(("n",), "k", {"v": 2})
        assert (await store.aget(("n", "m"), "k", refresh_ttl=False)).value == {"v": 1}
        assert {item.value["v"] for item in await store.asearch(("n",), filter={"v": {"$gt": 0}})} == {1, 2}
        assert await store.alist_namespaces(suffix=("m",)) == [("n", "m")]
        await store.aput(("n", "m"), "k", {"v": 3}, ttl=TINY)
        await asyncio.sleep(LONG)
        assert await store.aget(("n", "m"), "k") is None
        assert await store.asweep() == 1
        await store.adelete(("n",), "k")
        assert await store.asearch(()) == []
        results = await asyncio.gather(*(store.aput(("n",), f"{i}", {"i": i}) for i in range(50)))
        assert results == [None] * 50
        assert len(await store.asearch(("n",), limit=100)) == 50
    with pytest.raises(SaverClosed):
        await store.aget(("n",), "k")
    with pytest.raises(SaverClosed):
        store.put(("n",), "k", {})


def test_several_loops_and_threads_at_once(any_url):
    with SQLAlchemyStore(any_url) as store:

        async def work(name: str) -> None:
            await asyncio.gather(*(store.aput((name,), f"{i}", {"i": i}) for i in range(20)))
            assert len(await store.asearch((name,), limit=100)) == 20

        failed: list[Exception] = []

        def run(name: str, *, is_async: bool) -> None:
            try:
                if is_async:
                    asyncio.run(work(name))
                else:
                    for i in range(20):
                        store.put((name,), f"{i}", {"i": i})
                        assert store.get((name,), f"{i}").value == {"i": i}
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=run, args=(f"t{i}",), kwargs={"is_async": i % 2 == 0}) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert len(store.search((), limit=1000)) == 120


class State(TypedDict):
    seen: Annotated[list[Any], operator.add]


def remember(state: State, runtime: Runtime) -> State:
    runtime.store.put(("memories", "1"), "food", {"likes": "soup"})
    return {"seen": ["put"]}


def recall(state: State) -> State:
    found = get_store().search(("memories",), filter={"likes": "soup"})
    return {"seen": [item.value for item in found]}


async def aremember(state: State, runtime: Runtime) -> State:
    await runtime.store.aput(("memories", "1"), "food", {"likes": "soup"})
    return {"seen": ["put"]}


async def arecall(state: State, runtime: Runtime) -> State:
    found = await runtime.store.asearch(("memories",), filter={"likes": "soup"})
    return {"seen": [item.value for item in found]}


def graph(first: Any, second: Any) -> StateGraph:
    made = StateGraph(State)
    made.add_node("first", first)
    made.add_node("second", second)
    made.add_edge(START, "first")
    made.add_edge("first", "second")
    made.add_edge("second", END)
    return made


def test_a_graph_has_its_memory_in_the_savers_database(any_url):
    with SQLAlchemySaver(any_url) as saver, SQLAlchemyStore(saver) as store:
        app = graph(remember, recall).compile(checkpointer=saver, store=store)
        config = {"configurable": {"thread_id": "t"}}
        assert app.invoke({"seen": []}, config)["seen"] == ["put", {"likes": "soup"}]
        saver.delete_thread("t")
        assert store.get(("memories", "1"), "food").value == {"likes": "soup"}


async def test_an_async_graph(any_url):
    async with SQLAlchemySaver(any_url) as saver, SQLAlchemyStore(saver) as store:
        app = graph(aremember, arecall).compile(checkpointer=saver, store=store)
        result = await app.ainvoke({"seen": []}, {"configurable": {"thread_id": "t"}})
        assert result["seen"] == ["put", {"likes": "soup"}]


# Whose database it is, and what is in it


def test_a_store_that_shares_a_saver_does_not_close_it(any_url):
    encryption = Encryption(b"k" * 32)
    with SQLAlchemySaver(any_url, prefix="other_", encryption=encryption) as saver:
        with SQLAlchemyStore(saver) as store:
            store.put(("n",), "k", {"v": 1})
        store.close()
        assert store.get(("n",), "k").value == {"v": 1}
        assert saver.get_tuple({"configurable": {"thread_id": "t"}}) is None
        with pytest.raises(ValueError, match="saver"):
            SQLAlchemyStore(saver, prefix="mine_")
    with pytest.raises(SaverClosed):
        store.get(("n",), "k")
    with SQLAlchemyStore(any_url, prefix="other_", encryption=encryption) as store:
        assert store.get(("n",), "k").value == {"v": 1}


def test_another_process_sees_it(any_url):
    with SQLAlchemyStore(any_url) as one, SQLAlchemyStore(any_url) as two:
        one.put(("n",), "k", {"v": 1})
        assert two.get(("n",), "k") == one.get(("n",), "k")
        assert repr(one).startswith("SQLAlchemyStore('")


def test_what_is_encrypted_can_not_be_read_or_moved(any_url):
    with SQLAlchemyStore(any_url, encryption=Encryption(b"k" * 32)) as store:
        store.put(("n",), "a", {"secret": "swordfish"})
        store.put(("n",), "b", {"secret": "other"}, ttl=60)
        assert store.search(("n",), filter={"secret": "swordfish"})[0].key == "a"
        assert store.get(("n",), "b").value == {"secret": "other"}  # and it is read again once its time was moved
        assert store.get(("n",), "b").value == {"secret": "other"}
        rows = execute(any_url, "SELECT * FROM orchestra_items ORDER BY item_key")
        assert all(b"swordfish" not in bytes(row.value) and row.key_id for row in rows)

        swap = "UPDATE orchestra_items SET value = :value, checksum = :checksum WHERE item_key = :key"
        for row, other in (rows, reversed(rows)):
            key = row.item_key
            execute(any_url, swap, value=other.value, checksum=other.checksum, key=key)
        for key in "ab":
            with pytest.raises(CorruptItem, match=f"'{key}'"):
                store.get(("n",), key)
        with pytest.raises(CorruptItem) as caught:
            store.search(("n",))
        assert caught.value.namespace == ("n",)
        store.put(("n",), "a", {"secret": "new"})
        store.delete(("n",), "b")
        assert [item.value for item in store.search(("n",))] == [{"secret": "new"}]
    for encryption in (None, Encryption(b"x" * 32)):
        with SQLAlchemyStore(any_url, encryption=encryption) as store, pytest.raises(CorruptItem, match="encrypted"):
            store.get(("n",), "a")


@pytest.mark.parametrize(
    "damage", ["updated = updated + 1", "created = 0", "ttl = 5", "checksum = 0", "value = :value", "type = 'pickle'"]
)
def test_a_damaged_item_is_an_error(store, any_url, damage):
    store.put(("n",), "k", {"v": 1})
    store.put(("n",), "fine", {"v": 1})
    parameters = {"value": b"{}"} if "value" in damage else {}
    execute(any_url, f"UPDATE orchestra_items SET {damage} WHERE item_key = 'k'", **parameters)
    with pytest.raises(CorruptItem, match="checksum"):
        store.get(("n",), "k")
    assert store.get(("n",), "fine").value == {"v": 1}
