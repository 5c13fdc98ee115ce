from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict

from orchestra import Agent
from orchestra.errors import MalformedOutput
from orchestra.outputs import decode, deliver, encode


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
    days=st.dictionaries(st.dates(), st.integers(), max_size=4),
    pair=st.tuples(st.integers(), st.text()),
    raw=st.text().map(str.encode),
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
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
