from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import date

import pytest
from sqlalchemy import event


def steps(found):
    return [each.metadata["step"] for each in found]


def count_queries(saver, use):
    statements = []

    def note(_connection, _cursor, statement, *_rest):
        statements.append(statement)

    engine = saver._database.engine  # nothing public counts statements
    event.listen(engine, "before_cursor_execute", note)
    use()
    event.remove(engine, "before_cursor_execute", note)
    return sum(not statement.startswith("BEGIN") for statement in statements)


def test_nothing_is_locked_while_the_caller_works_on_a_listed_checkpoint(saver, kit, path):
    for step in range(120):
        kit.put(saver, {"c": step}, metadata={"step": step})
    seen = []
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        for found in saver.list(kit.config()):
            seen.append(found.checkpoint["channel_values"]["c"])
            if len(seen) % 40 == 1:
                other.execute("BEGIN EXCLUSIVE")
                other.execute("ROLLBACK")
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # fails while anyone reads
                saver.put_writes(found.config, [("c", 1)], "task")

    assert seen == list(range(120))[::-1]


async def test_list_and_alist_agree_over_pages_limits_and_threads(saver, kit):
    for step in range(130):
        kit.put(saver, config=kit.config(f"t{step % 3}", "ns" * (step % 2)), metadata={"step": step})

    async def both(config, **narrowed):
        found = list(saver.list(config, **narrowed))
        assert found == [each async for each in saver.alist(config, **narrowed)]
        return steps(found)

    assert await both(None) == list(range(130))[::-1]
    assert await both(None, limit=0) == []
    assert await both(None, limit=61) == list(range(130))[::-1][:61]
    assert await both({"configurable": {"thread_id": "t1"}}) == list(range(1, 130, 3))[::-1]
    assert await both(kit.config("t1")) == list(range(4, 130, 6))[::-1]
    before = next(saver.list(kit.config("t1"), filter={"step": 64})).config
    assert await both(kit.config("t1"), before=before, limit=2) == [58, 52]


@pytest.mark.parametrize("threads", [1, 40])
def test_a_page_costs_a_fixed_number_of_queries(saver, kit, threads):
    for step in range(40):
        config = kit.put(saver, {"a": [1], "b": 2}, config=kit.config(f"t{step % threads}"))
        saver.put_writes(config, [("c", 1)], "task")

    assert count_queries(saver, lambda: list(saver.list(None, limit=40))) == 3
    assert count_queries(saver, lambda: saver.heads(limit=40)) == 3
    assert count_queries(saver, lambda: saver.get_tuple(kit.config("t0"))) == 3


def test_metadata_is_filtered_by_what_it_holds(saver, kit):
    told = {
        "text": "a",
        "number": 7,
        "yes": True,
        "nothing": None,
        "some.dots": 1,
        'a"quote': 1,
        "parents": {"": "x", "sub:1": "y"},
        "counters_since_delta_snapshot": {"log": (1, 2)},
        "day": date(2026, 1, 2),
    }
    kit.put(saver, metadata={"step": 1, **told})
    kit.put(saver, metadata={"step": 2, "text": "7", "number": 8, "day": date(2026, 1, 3)})

    def found(**wanted):
        return steps(saver.list(None, filter=wanted))

    for key, value in told.items():
        assert found(**{key: value}) == ([2, 1] if value is None else [1]), key
    assert found(parents={"sub:1": "y", "": "x"}) == [1]
    assert found(number="7") == []
    assert found(text=7) == []
    assert found(yes=1) == [1]
    assert found(number=7.0) == [1]
    assert found(text=None) == []
    assert found(missing=None, text="a") == [1]
    assert found(missing="x") == []
    assert found(**{"' OR 1=1 --": 1}) == []


def test_metadata_comes_back_as_langgraph_gave_it(saver, kit):
    told = {
        "source": "loop",
        "step": 3,
        "parents": {"": "id", "a:1|b": "id2"},
        "counters_since_delta_snapshot": {"log": [4, 5]},
        "weight": 0.1,
        "endless": float("inf"),
        "by_number": {1: "one"},
        "when": date(2026, 1, 2),
    }
    config = kit.config() | {"metadata": {"user": "u", "tags\0": "x\0y"}}
    kit.put(saver, config=config, metadata=told)

    assert saver.get_tuple(kit.config()).metadata == {**told, "user": "u", "tags\0": "xy"}


async def test_heads_are_the_newest_root_checkpoints_newest_first(saver, kit):
    assert saver.heads() == []
    for step in range(12):
        kit.put(saver, {"c": step}, config=kit.config(f"t{step % 4}"), metadata={"step": step})
        kit.put(saver, config=kit.config(f"t{step % 4}", "sub:1"), metadata={"step": 100})
    saver.put_writes(saver.heads()[0].config, [("c", "w")], "task")

    heads = saver.heads()
    assert steps(heads) == [11, 10, 9, 8]
    assert heads[0] == saver.get_tuple(kit.config("t3"))
    assert heads == await saver.aheads()
    assert steps(saver.heads(limit=2)) == [11, 10]
    assert steps(await saver.aheads(thread_id="t1")) == [9]
    assert saver.heads(thread_id="nobody") == []
    kit.put(saver, config=kit.config("t0"), metadata={"step": 12})
    assert steps(saver.heads()) == [12, 11, 10, 9]


def test_a_value_is_stored_once_per_version(saver, kit, path):
    versions = {"big": saver.get_next_version(None, None)}
    config, new = kit.config(), versions
    for step in range(10):
        checkpoint = kit.checkpoint(saver, {"big": "x" * 10_000}, channel_versions=versions)
        config = saver.put(config, checkpoint, {"step": step}, new)
        new = {}

    assert [each.checkpoint["channel_values"] for each in saver.list(None)] == [{"big": "x" * 10_000}] * 10
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM orchestra_values").fetchone() == (1,)


def test_versions_grow_and_differ_between_branches(saver):
    version = None
    for _ in range(1200):
        follower, other = saver.get_next_version(version, None), saver.get_next_version(version, None)
        assert follower != other
        assert version is None or version < min(follower, other)
        version = follower


def test_both_branches_of_a_fork_keep_their_values(saver, kit):
    root = kit.put(saver, {"c": "root"})
    version = saver.get_tuple(root).checkpoint["channel_versions"]["c"]
    ends = {}
    for name in ("left", "right"):
        versions = {"c": saver.get_next_version(version, None)}
        ends[name] = saver.put(
            root, kit.checkpoint(saver, {"c": name}, channel_versions=versions), {"step": 1}, versions
        )

    for name, config in ends.items():
        found = saver.get_tuple(config)
        assert found.checkpoint["channel_values"] == {"c": name}
        assert found.parent_config == root


def test_a_config_without_a_thread_is_named(saver):
    with pytest.raises(ValueError, match="names no thread"):
        saver.get_tuple({"configurable": {}})
