"""Outputs: validated against the agent's declared type, stored as JSON, and validated again when they are read.

What a dependant receives in the process that produced an output is what it would receive after a restart.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast, overload

import ormsgpack
import pydantic_core
from pydantic import ValidationError

from orchestra.agents import Agent, type_name
from orchestra.errors import MalformedOutput, UnstorableOutput


def encode(agent: Agent, output: Any) -> Any:
    """Turn a validated output into what JSON, and a saver, can hold.

    Raises:
        UnstorableOutput: It holds something that can't be stored.
    """
    try:
        if agent.output is Any:  # the adapter of Any would turn infinities into null
            encoded = pydantic_core.to_jsonable_python(output, inf_nan_mode="constants")
        else:
            encoded = agent.adapter.dump_python(output, mode="json", by_alias=True, round_trip=True)
        ormsgpack.packb(encoded)  # what LangGraph stores with: integers of 64 bits at most, valid Unicode
    except (pydantic_core.PydanticSerializationError, ormsgpack.MsgpackEncodeError, ValueError) as error:
        remedy = "" if agent.output is not Any else f"; declare an output type for {agent.name!r}"
        raise UnstorableOutput(f"a {type(output).__name__} can't be stored as JSON ({error}){remedy}") from error
    return encoded


def decode(agent: Agent, encoded: Any) -> Any:
    """Turn a stored output back into the agent's declared type.

    Raises:
        MalformedOutput: It is not of the declared type (any more).
    """
    if agent.output is Any:
        return encoded
    try:
        return agent.adapter.validate_json(pydantic_core.to_json(encoded))
    except ValidationError as error:
        raise MalformedOutput(
            f"what is stored of {agent.name!r} is not a {type_name(agent.output)}: {_errors(error)}"
        ) from error


def deliver(agent: Agent, value: Any) -> Any:
    """Validate what an agent returned, and hand out what will be read back from storage, so that both are the same.

    Raises:
        MalformedOutput: It is not of the declared type.
        UnstorableOutput: It is, but does not survive storage.
    """
    try:
        validated = agent.adapter.validate_python(value)
    except ValidationError as error:
        raise MalformedOutput(f"not a {type_name(agent.output)}: {_errors(error)}") from error
    try:
        return decode(agent, encode(agent, validated))
    except UnstorableOutput:
        raise
    except MalformedOutput as error:
        raise UnstorableOutput(f"a {type_name(agent.output)} does not survive being stored: {error}") from error


def own_copy(output: Any) -> Any:
    """An output for one dependant alone: what one of them changes, the others must not see."""
    return output if isinstance(output, str | int | float | bool | bytes | None) else copy.deepcopy(output)


class OwnCopy(Sequence[Any]):
    """A sequence for one agent alone, copied when it is first looked into: most agents never do.

    Args:
        source: What is copied.
    """

    def __init__(self, source: Sequence[Any]) -> None:
        self._source: Sequence[Any] = source
        self._copy: list[Any] | None = None

    @property
    def _items(self) -> list[Any]:
        if self._copy is None:
            self._copy = copy.deepcopy([*self._source])
        return self._copy

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """One item, or some."""
        return self._items[index]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._source)

    def __eq__(self, other: object) -> bool:
        """Equal to any sequence with equal items."""
        return isinstance(other, Sequence) and [*self._source] == [*cast("Sequence[Any]", other)]

    __hash__ = None  # pyright: ignore[reportAssignmentType] -- as a list

    def __repr__(self) -> str:
        """Show them as a list."""
        return repr([*self._source])


def _errors(error: ValidationError) -> str:
    parts = [f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['msg']}" for e in error.errors(include_url=False)]
    return "; ".join(parts[:3]) + (f"; and {len(parts) - 3} more" if len(parts) > 3 else "")
