"""History of delta channels: ours against LangGraph's own walk, one ancestor after the other."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from checkpoints import SQLAlchemySaver

CHANNELS = ["log", "notes", "never"]

node = st.fixed_dictionaries(
    {
        "parent": st.integers(0, 30),  # which of the checkpoints before it
        "stored": st.sets(st.sampled_from(["log", "notes"])),
        "writes": st.lists(
            st.tuples(st.sampled_from(["log", "notes", "other"]), st.sampled_from("xyz"), st.sampled_from("ab")),
            max_size=4,
        ),
    }
)


def plant(saver: SQLAlchemySaver, kit: Any, nodes: list[dict[str, Any]]) -> list[Any]:
    """Store a tree of checkpoints: forks, snapshots and writes as drawn."""
    configs: list[Any] = []
    versions: list[dict[str, str]] = []
    for number, drawn in enumerate(nodes):
        parent = drawn["parent"] % number if number else None
        before = {} if parent is None else versions[parent]
        now = {channel: saver.get_next_version(before.get(channel), None) for channel in ("log", "notes")}
        values = {channel: _DeltaSnapshot([number]) for channel in drawn["stored"]}
        checkpoint = kit.checkpoint(saver, values, channel_versions=now)
        config = kit.config() if parent is None else configs[parent]
        configs.append(saver.put(config, checkpoint, {"step": number}, now))
        versions.append(now)
        for position, (channel, task, path) in enumerate(drawn["writes"]):
            saver.put_writes(configs[-1], [(channel, f"{number}.{position}")], f"{task}{position}", path)
    return configs


@settings(max_examples=25, deadline=None)
@given(nodes=st.lists(node, min_size=1, max_size=12))
def test_history_is_what_langgraphs_own_walk_finds(kit, nodes):
    with SQLAlchemySaver("sqlite://") as saver:
        for config in [*plant(saver, kit, nodes), kit.config(), kit.config("nobody")]:
            expected = BaseCheckpointSaver.get_delta_channel_history(saver, config=config, channels=CHANNELS)
            found = saver.get_delta_channel_history(config=config, channels=CHANNELS)
            assert found == expected


async def test_each_branch_of_a_fork_has_its_own_history(saver, kit):
    root = kit.put(saver, {"log": _DeltaSnapshot(["seed"])})
    saver.put_writes(root, [("log", "shared")], "task")
    trunk = kit.put(saver, config=root)
    ends = {}
    for name in ("left", "right"):
        middle = kit.put(saver, config=trunk)
        saver.put_writes(middle, [("log", f"{name} 2"), ("log", f"{name} 3")], "task-a", "~2")
        saver.put_writes(middle, [("log", f"{name} 1")], "task-b", "~1")
        ends[name] = kit.put(saver, config=middle)
        saver.put_writes(ends[name], [("log", "pending: belongs to the next step")], "task")

    for name, end in ends.items():
        found = await saver.aget_delta_channel_history(config=end, channels=["log"])
        assert found == saver.get_delta_channel_history(config=end, channels=["log"])
        assert found["log"]["seed"] == _DeltaSnapshot(["seed"])
        assert [value for _, _, value in found["log"]["writes"]] == [
            "shared",
            *(f"{name} {i}" for i in (1, 2, 3)),
        ]
    assert await saver.aget_delta_channel_history(config=ends["left"], channels=[]) == {}


def test_a_long_line_of_ancestors_takes_few_queries(kit):
    with SQLAlchemySaver("sqlite://") as saver:
        config = kit.config()

        async def grow():
            nonlocal config
            for number in range(400):
                config = await saver.aput(
                    config, kit.checkpoint(saver, channel_versions={"log": f"{number}"}), {"step": number}, {}
                )
                await saver.aput_writes(config, [("log", number)], "task")

        asyncio.run(grow())
        from sqlalchemy import event

        queries = []
        engine = saver._database.engine  # nothing public counts statements
        event.listen(engine, "before_cursor_execute", lambda *args: queries.append(args[2]))
        found = saver.get_delta_channel_history(config=config, channels=["log"])

        assert [value for _, _, value in found["log"]["writes"]] == list(range(399))
        assert "seed" not in found["log"]
        assert len(queries) <= 8
