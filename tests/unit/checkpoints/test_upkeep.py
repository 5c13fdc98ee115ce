from __future__ import annotations

import pytest
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from checkpoints import ThreadExists


def rows(saver):
    with saver._database.engine.connect() as connection:  # nothing public counts what belongs to no thread
        names = ("checkpoints", "values", "writes")
        return {
            name: connection.exec_driver_sql(f"SELECT count(*) FROM orchestra_{name}").scalar_one() for name in names
        }


def line(saver, kit, length, *, thread="t", ns="", **metadata):
    """A line of checkpoints, each with a new value of one channel, an old value of another, and a write."""
    config, kept = kit.config(thread, ns), {}
    configs = []
    for step in range(length):
        new = {"changes": saver.get_next_version(None, None)}
        if not step:
            new["stays"] = saver.get_next_version(None, None)
        kept = {**kept, **new}
        values = {"changes": [step], "stays": ["always"]}
        checkpoint = kit.checkpoint(saver, values, channel_versions=kept)
        told = {key: value(step, configs) for key, value in metadata.items()}
        config = saver.put(config, checkpoint, {"source": "loop", "step": step, "parents": {}, **told}, new)
        saver.put_writes(config, [("changes", step)], "task")
        configs.append(config)
    return configs


def test_delete_thread_leaves_no_row_of_it(saver, kit):
    line(saver, kit, 3)
    line(saver, kit, 3, ns="sub:1")
    line(saver, kit, 2, thread="other")
    saver.delete_thread("t")
    assert rows(saver) == {"checkpoints": 2, "values": 3, "writes": 2}
    saver.prune(["other"], strategy="delete")
    assert rows(saver) == {"checkpoints": 0, "values": 0, "writes": 0}


def test_prune_keeps_the_newest_with_its_values_and_forgets_its_parent(saver, kit):
    line(saver, kit, 5)
    saver.prune(["t", "nobody"])

    (found,) = saver.list(kit.config())
    assert found.checkpoint["channel_values"] == {"changes": [4], "stays": ["always"]}
    assert found.pending_writes == [("task", "changes", 4)]
    assert found.parent_config is None
    assert rows(saver) == {"checkpoints": 1, "values": 2, "writes": 1}


def test_prune_refuses_a_strategy_it_does_not_know(saver):
    with pytest.raises(ValueError, match="'keep_latest' or 'delete'"):
        saver.prune(["t"], strategy="oldest")


def test_prune_keeps_what_delta_channels_are_rebuilt_from(saver, kit):
    config = kit.config()
    versions = {}
    for step in range(12):
        stored = {"log": step == 4, "notes": step == 7}
        versions = {channel: saver.get_next_version(versions.get(channel), None) for channel in stored}
        values = {channel: _DeltaSnapshot([step]) for channel, now in stored.items() if now}
        since = {"log": (step - 4, step - 4), "notes": (step - 7, step - 7)}
        counters = {channel: count for channel, count in since.items() if count != (0, 0)}
        config = saver.put(
            config,
            kit.checkpoint(saver, values, channel_versions=versions),
            {"source": "loop", "step": step, "parents": {}, "counters_since_delta_snapshot": counters},
            versions,
        )
        saver.put_writes(config, [("log", step), ("notes", step)], "task")
    expected = saver.get_delta_channel_history(config=config, channels=["log", "notes"])

    saver.prune(["t"])
    saver.prune(["t"])

    assert [each.metadata["step"] for each in saver.list(kit.config())] == list(range(4, 12))[::-1]
    assert saver.get_delta_channel_history(config=config, channels=["log", "notes"]) == expected


def test_prune_drops_calls_of_subgraphs_that_nothing_can_resume(saver, kit):
    roots = line(saver, kit, 3)
    ids = [config["configurable"]["checkpoint_id"] for config in roots]

    def called_by(number):
        return lambda _step, _configs: {"": ids[number]}

    line(saver, kit, 2, ns="old:1", parents=called_by(0))
    inner = line(saver, kit, 2, ns="now:2", parents=called_by(2))
    line(saver, kit, 2, ns="memory", parents=called_by(0))
    nested = inner[-1]["configurable"]["checkpoint_id"]
    line(saver, kit, 2, ns="now:2|in:3", parents=lambda *_: {"": ids[2], "now:2": nested})
    abandoned = inner[0]["configurable"]["checkpoint_id"]
    line(saver, kit, 2, ns="now:2|in:4", parents=lambda *_: {"": ids[2], "now:2": abandoned})
    line(saver, kit, 2, ns="alien:5", parents=lambda *_: {"": "not stored here"})

    saver.prune(["t"])

    kept = [each.config["configurable"]["checkpoint_ns"] for each in saver.list({"configurable": {"thread_id": "t"}})]
    assert sorted(kept) == ["", "alien:5", "memory", "now:2", "now:2|in:3"]


def test_delete_for_runs_leaves_other_runs_whole(saver, kit):
    configs = line(saver, kit, 6, run_id=lambda step, _configs: "first" if step < 4 else "second")
    saver.delete_for_runs(["first", "nobody's"])

    found = list(saver.list(kit.config()))
    assert [each.metadata["step"] for each in found] == [5, 4]
    assert [each.checkpoint["channel_values"]["stays"] for each in found] == [["always"]] * 2
    assert found[0].parent_config == configs[4]
    assert found[1].parent_config is None
    assert rows(saver) == {"checkpoints": 2, "values": 3, "writes": 2}
    saver.delete_for_runs(["second"])
    assert rows(saver) == {"checkpoints": 0, "values": 0, "writes": 0}


def test_a_copy_has_the_whole_ancestry_and_a_life_of_its_own(saver, kit):
    line(saver, kit, 4)
    saver.copy_thread("t", "copy")
    saver.delete_thread("t")

    found = list(saver.list(kit.config("copy")))
    assert [each.checkpoint["channel_values"]["changes"] for each in found] == [[3], [2], [1], [0]]
    assert [each.parent_config for each in found] == [*(each.config for each in found[1:]), None]
    assert [each.pending_writes for each in found] == [[("task", "changes", step)] for step in (3, 2, 1, 0)]


def test_a_copy_replaces_nothing(saver, kit):
    line(saver, kit, 2)
    line(saver, kit, 1, thread="taken")
    for target in ("taken", "t"):
        with pytest.raises(ThreadExists, match=target):
            saver.copy_thread("t", target)
    saver.copy_thread("nobody", "nothing")
    assert saver.get_tuple(kit.config("nothing")) is None


async def test_the_async_names_do_the_same(saver, kit):
    for thread in ("a", "b", "c"):
        line(saver, kit, 3, thread=thread, run_id=lambda *_: "run")
    await saver.acopy_thread("a", "d")
    await saver.aprune(["a"])
    await saver.aprune(["b"], strategy="delete")
    await saver.adelete_thread("c")
    counts = {thread: len(list(saver.list(kit.config(thread)))) for thread in "abcd"}
    assert counts == {"a": 1, "b": 0, "c": 0, "d": 3}
    await saver.adelete_for_runs(["run"])
    assert list(saver.list(None)) == []
