"""What goes in comes out: values, and types a strict serializer does not build."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Interrupt, Send

from checkpoints import SQLAlchemySaver, UnreadableType


@dataclass
class Finding:
    text: str


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=40)
    | st.uuids()
    | st.decimals(allow_nan=False)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.text(max_size=20)


@pytest.fixture(scope="module")
def in_memory():
    with SQLAlchemySaver("sqlite://") as saver:
        yield saver


@settings(max_examples=80, deadline=None)
@given(
    thread=names,
    ns=names,
    channels=st.dictionaries(names, values, max_size=4),
    writes=st.lists(st.tuples(names, values), max_size=4),
    metadata=st.dictionaries(st.text(min_size=1), values, max_size=3),
)
def test_what_is_put_is_what_is_got(  # noqa: PLR0917 - Hypothesis passes them by name
    in_memory, kit, thread, ns, channels, writes, metadata
):
    saver = in_memory
    config = kit.put(saver, channels, config=kit.config(thread, ns), metadata={"step": 1, "m": metadata})
    saver.put_writes(config, writes, "task")
    found = saver.get_tuple(config)

    assert found == saver.get_tuple(kit.config(thread, ns))
    assert [found] == list(saver.list(None, filter={"step": 1}))
    assert found.config == config
    assert found.checkpoint["channel_values"] == channels
    assert found.metadata["m"] == metadata
    assert found.pending_writes == [("task", *each) for each in writes]
    saver.delete_thread(thread)


def test_a_deleted_thread_is_not_remembered(saver, kit):
    """A program that seeds `random` makes the same versions again."""
    for value in ("x" * 1000, "y"):
        random.seed(0)
        config = kit.put(saver, {"c": value})
        assert saver.get_tuple(config).checkpoint["channel_values"] == {"c": value}
        saver.delete_thread(config["configurable"]["thread_id"])


@pytest.mark.parametrize(
    "value",
    [
        AIMessage("hi", id="1"),
        Send("node", {"a": [1]}),
        Interrupt(value="why?", id="i"),
        datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        Decimal("1.10"),
        UUID(int=7),
        {"a", "b"},
        b"\0\xff",
    ],
)
def test_langgraphs_own_types_are_built(saver, kit, value):
    assert saver.get_tuple(kit.put(saver, {"c": value})).checkpoint["channel_values"] == {"c": value}


def test_a_type_of_ones_own_must_be_allowed(saver, kit):
    config = kit.put(saver, {"c": [Finding("x")]})
    said = r"thread 't'.*channel 'c': a value of type .*:Finding is stored.*allowed_types=\[Finding\]"
    with pytest.raises(UnreadableType, match=said):
        saver.get_tuple(config)

    clone = saver.with_allowlist([(Finding.__module__, "Finding")])

    assert clone is not saver
    assert clone.get_tuple(config).checkpoint["channel_values"] == {"c": [Finding("x")]}
    with pytest.raises(UnreadableType):
        saver.get_tuple(config)


def test_nothing_is_pickled(saver, kit):
    with pytest.raises(TypeError):
        kit.put(saver, {"c": object()})
    assert saver.get_tuple(kit.config()) is None


async def test_another_serializer_can_be_given(url, kit):
    class Pickles(JsonPlusSerializer):
        def __init__(self):
            super().__init__(pickle_fallback=True)

    async with SQLAlchemySaver(url, serde=Pickles()) as saver:
        config = kit.put(saver, {"c": complex(1, 2)})
        assert (await saver.aget_tuple(config)).checkpoint["channel_values"] == {"c": complex(1, 2)}
