from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, computed_field
from typing_extensions import TypedDict

from orchestra import Agent
from orchestra.errors import MalformedOutput, UnstorableOutput
from orchestra.outputs import decode, deliver, encode, own_copy


class Leaf(BaseModel):
    model_config = ConfigDict(frozen=True)

    text: str
    when: datetime | None
    price: Decimal
    weight: float


class Tree(BaseModel):
    leaves: list[Leaf]
    days: dict[date, int]
    pair: tuple[int, str]
    raw: bytes


class Plain(TypedDict):
    a: int
    b: list[str]


numbers = st.integers(-(2**63), 2**63 - 1)
leaves = st.builds(
    Leaf,
    text=st.text(),
    when=st.none() | st.datetimes(),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    weight=st.floats(allow_nan=False, allow_infinity=False),
)
trees = st.builds(
    Tree,
    leaves=st.lists(leaves, max_size=4),
    days=st.dictionaries(st.dates(), numbers, max_size=4),
    pair=st.tuples(numbers, st.text()),
    raw=st.text().map(str.encode),
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def returning(kind: Any) -> Agent:
    return Agent("x", lambda task: None, output=kind)


@given(trees)
def test_models_round_trip(tree: Tree) -> None:
    agent = returning(Tree)
    assert decode(agent, encode(agent, tree)) == tree
    assert deliver(agent, tree) == tree
    assert deliver(agent, tree.model_dump()) == tree


@given(anything)
def test_undeclared_json_round_trips(value: Any) -> None:
    assert deliver(returning(Any), value) == value


@pytest.mark.parametrize(
    ("kind", "value"),
    [(Plain, {"a": 1, "b": ["x"]}), (int | None, None), (set[int], {1, 2}), (list[Leaf], []), (bytes, b"x")],
)
def test_other_declared_types_round_trip(kind: Any, value: Any) -> None:
    assert deliver(returning(kind), value) == value


@pytest.mark.parametrize(("kind", "value"), [(int, "many"), (Plain, {"a": 1}), (str, None), (list[int], [1, "x"])])
def test_what_is_not_of_the_declared_type_is_malformed(kind: Any, value: Any) -> None:
    with pytest.raises(MalformedOutput, match="not a "):
        deliver(returning(kind), value)


class Aliased(BaseModel):
    model_config = ConfigDict(extra="forbid")

    full_name: str = Field(alias="fullName")

    @computed_field
    @property
    def length(self) -> int:
        return len(self.full_name)


def test_aliases_and_computed_fields_are_no_obstacle() -> None:
    value = Aliased(fullName="Ada")
    assert deliver(returning(Aliased), value) == value


@pytest.mark.parametrize(("kind", "value"), [(int, 2**70), (Any, object()), (bytes, b"\xff"), (Any, {1: 2**64})])
def test_what_can_not_be_stored_is_told_apart_from_what_is_malformed(kind: Any, value: Any) -> None:
    with pytest.raises(UnstorableOutput):
        deliver(returning(kind), value)


def test_dependants_get_copies_of_their_own() -> None:
    output = [{"a": [1]}]
    own_copy(output)[0]["a"].append(2)
    assert output == [{"a": [1]}]
