"""Probes: test tasks for agents, and what is expected of their outputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from orchestra.vitals import check_seconds, one_line


@dataclass(frozen=True, slots=True)
class Probe:
    """A test task for an agent, and what is expected of its output.

    Attributes:
        input: The instruction of the test task; or, for an agent whose function takes other agents' outputs, the
            values by the names of its parameters.
        expect: A type that the output must validate as; a sync or async function of the output that tells whether it
            is good; an agent that judges it; any other value must be equal to it.
        every: Seconds from one probe to the next.
        timeout: Seconds that one may take.

    Raises:
        ValueError: The input is neither a text nor a mapping, or a time is out of its range.
    """

    input: Any
    expect: Any
    every: float = 60.0
    timeout: float = 10.0

    def __post_init__(self) -> None:
        given = self.input
        texts: list[Any] = [*cast("Mapping[Any, Any]", given)] if isinstance(given, Mapping) else [given]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"input of a Probe is the test task's instruction, or the agent's parameters by name, not {given!r}."
            )
        for name in ("every", "timeout"):
            check_seconds("Probe", name, getattr(self, name))


def is_judge(expect: Any) -> bool:
    """Whether an expectation is an agent, which judges by running: more than can be told here."""
    return not isinstance(expect, type) and hasattr(expect, "name") and callable(getattr(expect, "run", None))


async def unmet(expect: Any, output: Any) -> str | None:
    """Say why an output is not what a probe expects.

    Args:
        expect: What is expected; see `Probe`.
        output: What the agent delivered.

    Returns:
        Why not, in one line; `None` if it is as expected.

    Raises:
        TypeError: A judge is expected to say it.
    """
    if is_judge(expect):
        raise TypeError(f"The agent {expect.name!r} judges this output; run it, unmet() can't.")
    try:
        if isinstance(expect, type) or get_origin(expect) is not None:
            return _misfit(expect, output)
        if callable(expect):
            said: Any = expect(output)
            said = await said if inspect.isawaitable(said) else said
            name = getattr(expect, "__name__", type(expect).__name__)
            return None if said else f"{name} returned {_short(said)} for {_short(output)}"
        return None if expect == output else f"expected {_short(expect)}, not {_short(output)}"
    except Exception as error:  # noqa: BLE001 -- whatever a user's function raises
        return one_line(f"the expectation raised {type(error).__name__}", str(error))


def _misfit(expect: Any, output: Any) -> str | None:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(expect)
    except PydanticSchemaGenerationError:  # a class that pydantic does not know: an instance of it will do
        adapter = TypeAdapter(expect, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        adapter.validate_python(output)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "value"
        return one_line(
            f"not of type {expect.__name__ if isinstance(expect, type) else expect}", f"{where}: {first['msg']}"
        )
    return None


def _short(value: Any) -> str:
    return one_line(repr(value), most=100)
