"""Types that were moved, changed or removed since a thread was stored."""

from __future__ import annotations

import enum
import sys
import types
from dataclasses import dataclass
from typing import NamedTuple

import pytest
from pydantic import BaseModel

from checkpoints import SQLAlchemySaver, UnreadableType


class Colour(enum.Enum):
    RED = "red"


class Inner(BaseModel):
    n: int


class Model(BaseModel):
    text: str
    inner: Inner | None = None


@dataclass
class Data:
    text: str


class Pair(NamedTuple):
    a: int
    b: int


OWN = [Colour, Model, Inner, Data, Pair]


def module(**contents):
    """A module of an application, as it is now."""
    made = types.ModuleType("an_application")
    for name, content in contents.items():
        content.__module__, content.__name__ = made.__name__, name
        setattr(made, name, content)
    sys.modules[made.__name__] = made
    return made


@pytest.fixture
def stored(url, kit):
    """A thread that was stored when the application had a model `Finding`."""

    class Finding(BaseModel):
        text: str

    module(Finding=Finding)
    with SQLAlchemySaver(url) as saver:
        config = kit.put(saver, {"found": {"here": [Finding(text="x")]}})
        saver.put_writes(config, [("found", Finding(text="y"))], "task")
    yield url
    del sys.modules["an_application"]


@pytest.mark.parametrize("value", [Colour.RED, Model(text="x", inner=Inner(n=1)), Data("x"), Pair(1, 2)])
def test_types_of_ones_own_come_back_when_they_are_allowed(url, kit, value):
    with SQLAlchemySaver(url, allowed_types=OWN) as saver:
        found = saver.get_tuple(kit.put(saver, {"c": [value]})).checkpoint["channel_values"]["c"]
        assert found == [value]
        assert type(found[0]) is type(value)


def test_a_type_that_was_moved_is_found_where_it_was_said_to_be(stored, kit):
    class Insight(BaseModel):
        text: str
        sure: bool = False

    module(Insight=Insight)
    with (
        SQLAlchemySaver(stored, allowed_types=[("an_application", "Finding")]) as saver,
        pytest.raises(UnreadableType, match=r"channel 'found'.*an_application:Finding.*renamed_types=") as failed,
    ):
        saver.get_tuple(kit.config())
    assert failed.value.type_name == "an_application:Finding"
    with SQLAlchemySaver(stored, renamed_types={"an_application:Finding": Insight}) as saver:
        found = saver.get_tuple(kit.config())
        assert found.checkpoint["channel_values"] == {"found": {"here": [Insight(text="x")]}}
        assert found.pending_writes == [("task", "found", Insight(text="y"))]


def test_a_field_that_was_added_without_a_default_is_named(stored, kit):
    class Finding(BaseModel):
        text: str
        source: str

    module(Finding=Finding)
    with (
        SQLAlchemySaver(stored, allowed_types=[Finding]) as saver,
        pytest.raises(UnreadableType, match=r"no longer accepts.*source.*give new fields a default"),
    ):
        saver.get_tuple(kit.config())


def test_a_field_that_was_added_with_a_default_or_removed_is_no_trouble(stored, kit):
    class Finding(BaseModel):
        source: str = "unknown"

    module(Finding=Finding)
    with SQLAlchemySaver(stored, allowed_types=[Finding]) as saver:
        found = saver.get_tuple(kit.config()).checkpoint["channel_values"]["found"]["here"][0]
        assert found == Finding(source="unknown")


def test_a_member_that_an_enum_lost_is_named(url, kit):
    class Kind(enum.Enum):
        OLD = "old"

    module(Kind=Kind)
    with SQLAlchemySaver(url) as saver:
        kit.put(saver, {"c": Kind.OLD})

    class Newer(enum.Enum):
        NEW = "new"

    module(Kind=Newer)
    with (
        SQLAlchemySaver(url, allowed_types=[Newer]) as saver,
        pytest.raises(UnreadableType, match="'old' is not a valid"),
    ):
        saver.get_tuple(kit.config())


def test_what_is_read_may_be_given_to_a_serializer_of_ones_own_only_there():
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    with pytest.raises(ValueError, match="set them on yours"):
        SQLAlchemySaver("sqlite://", serde=JsonPlusSerializer(), allowed_types=[Data])
    with pytest.raises(ValueError, match="write it as 'module:Name'"):
        SQLAlchemySaver("sqlite://", renamed_types={"Finding": Data})
