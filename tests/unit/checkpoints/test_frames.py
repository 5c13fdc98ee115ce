"""Values are stored as differences, and come back as they were."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints import SQLAlchemySaver


def grow(saver, kit, values, *, thread="t"):
    """A line of checkpoints, each with the next value of one channel."""
    config, version, configs = kit.config(thread), None, []
    found = saver.get_tuple(config)
    if found is not None:
        config, version = found.config, found.checkpoint["channel_versions"]["c"]
    for value in values:
        version = saver.get_next_version(version, None)
        checkpoint = kit.checkpoint(saver, {"c": value}, channel_versions={"c": version})
        config = saver.put(config, checkpoint, {"step": len(configs)}, {"c": version})
        configs.append(config)
    return configs


def stored(saver, thread="t"):
    """Depth and bytes of each stored value, oldest first."""
    with saver._database.engine.connect() as connection:  # nothing public tells how a value is stored
        values = saver._database.schema.values
        rows = connection.execute(
            values.select().where(values.c.thread_id == thread, values.c.channel == "c").order_by(values.c.version)
        )
        return [(row.depth, len(row.value), row.base) for row in rows]


def words(seed, count):
    return random.Random(seed).randbytes(count).hex()


def lists(length):
    items = []
    for number in range(length):
        items = [*items, words(number, 250)]
        yield items


def test_a_growing_list_takes_what_is_new_and_a_bounded_chain(saver, kit):
    configs = grow(saver, kit, lists(400))
    rows = stored(saver)

    whole = 500 * 400 * 401 // 2
    assert sum(size for _, size, _ in rows) < whole / 50
    assert max(depth for depth, _, _ in rows) <= 32
    full = [number for number, (_, _, base) in enumerate(rows) if base is None]
    assert len(full) <= 3
    for number in (0, 1, 15, 16, 17, 255, 256, 399):
        found = saver.get_tuple(configs[number]).checkpoint["channel_values"]["c"]
        assert found == [words(each, 250) for each in range(number + 1)]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ([words(1, 300)] * 14, [words(1, 300)] * 17),  # the header grows from one byte to three
        ({f"{i}": words(i, 90) for i in range(9)}, {f"{i}": words(i, 90) for i in range(10)}),
        (words(1, 20_000), words(1, 20_000) + words(2, 20_000)),
        (words(1, 40_000).encode(), words(1, 40_000).encode() + b"more"),
        ([{"a": words(1, 900), "n": 1}, words(3, 500)], [{"a": words(1, 900), "n": 2}, words(3, 500)]),
        ([words(i, 200) for i in range(30)], [words(i, 200) for i in range(5, 30)]),
    ],
)
def test_a_value_that_changes_a_little_is_stored_as_the_difference(saver, kit, first, then):
    configs = grow(saver, kit, [first, then])
    (_, _, no_base), (depth, size, base) = stored(saver)

    assert no_base is None
    assert (depth, base is not None) == (1, True)
    assert size < 60 or size < len(words(2, 20_000)) * 0.6
    assert [saver.get_tuple(config).checkpoint["channel_values"]["c"] for config in configs] == [first, then]


def test_a_value_that_changes_much_is_stored_whole(saver, kit):
    grow(saver, kit, [words(1, 1000), words(2, 1000), words(3, 1000)])

    assert [base for _, _, base in stored(saver)] == [None] * 3


def test_another_saver_goes_on_with_the_differences_after_it_read_the_newest(url, saver, kit):
    items = list(lists(30))
    grow(saver, kit, items[:20])
    with SQLAlchemySaver(url) as other:
        grow(other, kit, items[20:25])  # reads the newest, as LangGraph does before it writes
    grow(saver, kit, items[25:])

    full = [number for number, (_, _, base) in enumerate(stored(saver)) if base is None]
    assert max(full) < 2  # from the third on, less is new than was there
    assert saver.get_tuple(kit.config()).checkpoint["channel_values"]["c"] == items[-1]
    assert saver.check() == []


def test_what_does_not_fit_the_memory_begins_again(url, kit):
    with SQLAlchemySaver(url, memory=5_000) as saver:
        for number, value in enumerate(lists(12)):
            grow(saver, kit, [value], thread=f"t{number % 2}")
        assert saver.check() == []
        assert any(base is not None for _, _, base in stored(saver, "t0"))
        assert stored(saver, "t0")[-1][2] is None


def test_a_base_that_another_process_deleted_is_not_missed(url, saver, kit):
    grow(saver, kit, lists(10))
    with SQLAlchemySaver(url) as other:
        other.delete_thread("t")
    last = list(lists(12))[-1]
    version = saver.get_next_version("0000000011.000000000000", None)
    checkpoint = kit.checkpoint(saver, {"c": last}, channel_versions={"c": version})
    saver.put(kit.config(), checkpoint, {"step": 0}, {"c": version})

    assert saver.get_tuple(kit.config()).checkpoint["channel_values"]["c"] == last
    assert saver.check() == []


def test_versions_that_are_not_our_own_are_never_a_base(saver, kit):
    for value in (words(1, 500), words(1, 500) + "x", words(1, 500) + "y"):
        checkpoint = kit.checkpoint(saver, {"c": value}, channel_versions={"c": "1"})
        saver.put(kit.config(), checkpoint, {"step": 0}, {"c": "1"})

    assert saver.get_tuple(kit.config()).checkpoint["channel_values"]["c"] == words(1, 500)  # stored once, stays


def test_a_thread_that_was_deleted_and_made_again_is_not_mixed_up(url, saver, kit):
    def put(into, value):
        checkpoint = kit.checkpoint(into, {"c": value}, channel_versions={"c": "1"})
        into.put(kit.config(), checkpoint, {"step": 0}, {"c": "1"})

    put(saver, words(1, 500))
    assert saver.get_tuple(kit.config()).checkpoint["channel_values"]["c"] == words(1, 500)
    with SQLAlchemySaver(url) as other:
        other.delete_thread("t")
        put(other, words(2, 500))
    assert saver.get_tuple(kit.config()).checkpoint["channel_values"]["c"] == words(2, 500)


edits = st.lists(
    st.tuples(st.sampled_from(["append", "prepend", "change", "drop", "replace"]), st.integers(0, 2**32)),
    min_size=1,
    max_size=60,
)


@settings(max_examples=40, deadline=None)
@given(edits=edits)
def test_whatever_happens_to_a_value_each_version_comes_back(kit, edits):
    value, history = [words(0, 200)], []
    for edit, seed in edits:
        value = list(value)
        item = words(seed, 50 + seed % 400)
        match edit:
            case "append":
                value.append(item)
            case "prepend":
                value.insert(0, {"nested": item})
            case "change" if value:
                value[seed % len(value)] = item
            case "drop" if value:
                value.pop()
            case _:
                value = [item]
        history.append(value)
    with SQLAlchemySaver("sqlite://") as saver:
        configs = grow(saver, kit, history)
        assert [saver.get_tuple(each).checkpoint["channel_values"]["c"] for each in configs] == history
        listed = [each.checkpoint["channel_values"]["c"] for each in saver.list(kit.config())]
        assert listed == history[::-1]
        saver.copy_thread("t", "copy")
        saver.prune(["t"])
        assert saver.get_tuple(kit.config()).checkpoint["channel_values"]["c"] == history[-1]
        assert len(list(saver.list(kit.config("copy")))) == len(history)
        assert saver.check() == []
