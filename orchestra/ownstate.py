"""The keys that a user adds to a workflow's state, as a TypedDict, a dataclass or a pydantic model declares them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, is_dataclass
from dataclasses import fields as fields_of
from enum import Enum
from typing import Annotated, Any, cast, get_args, get_type_hints

from langgraph.channels import LastValue
from langgraph.graph import StateGraph
from pydantic import BaseModel

from orchestra.errors import WorkflowError
from orchestra.state import make_schema


class LatestValue(LastValue[Any]):
    """A key of the user's own without a reducer. Of several values in one superstep the plan's last one counts.

    LangGraph refuses that; here a whole plan is one superstep, and what depends on each other is in order.
    """

    __slots__ = ()

    def update(self, values: Sequence[Any]) -> bool:
        """Take the last value. LangGraph hands them over in the order of the plan."""
        return super().update(values[-1:])


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """What a user's state schema adds to the state.

    Attributes:
        annotations: The keys with their annotations, as LangGraph reads them.
        defaults: What the keys begin with on a new thread.
        types: The user's own types among the annotations: to declare them is to allow that they are read back.
    """

    annotations: Mapping[str, Any]
    defaults: Mapping[str, Any]
    types: frozenset[type] = frozenset()


def own_keys(name: str, schema: Any) -> OwnKeys:
    """Read a state schema of the user's own: a TypedDict, a dataclass or a pydantic model.

    Args:
        name: The workflow's name, for the error.
        schema: The schema, or `None`.

    Raises:
        WorkflowError: It has a key that Orchestra has a meaning for, or one whose channel can't be used.
    """
    if schema is None:
        return OwnKeys({}, {})
    ours = make_schema(dict, {}).__annotations__.keys()
    try:
        # LangGraph finds the channel of each key: a reducer, a channel, or the value that was written last.
        channels: dict[str, Any] = cast("Any", StateGraph(schema)).channels
        hints = _hints(schema)
    except (TypeError, ValueError, NameError) as error:
        raise WorkflowError(f"Workflow {name!r}: state_schema {schema!r} can't be used ({error}).") from error
    annotations: dict[str, Any] = {}
    for key, hint in hints.items():
        if key == "messages":
            continue  # as in LangGraph's MessagesState
        if key in ours or key not in channels:
            why = "is Orchestra's own; rename it" if key in ours else "is a managed value, which agents don't get"
            raise WorkflowError(f"Workflow {name!r}: the key {key!r} of state_schema {why}.")
        annotations[key] = Annotated[hint, LatestValue(hint)] if type(channels[key]) is LastValue else hint
    defaults = {key: value for key, value in _defaults(schema).items() if key in annotations}
    return OwnKeys(annotations, defaults, frozenset(_types(annotations.values(), set())))


def _types(annotations: Iterable[Any], seen: set[Any]) -> set[Any]:
    """The classes among some annotations that LangGraph stores by name."""
    for kind in annotations:
        _types(get_args(kind), seen)
        if not isinstance(kind, type) or kind in seen:
            continue
        named = cast("Any", kind)
        if issubclass(named, BaseModel | Enum) or is_dataclass(named):
            seen.add(named)
        if is_dataclass(named):  # its fields are stored one by one; a model is stored as a whole
            with suppress(NameError):  # what can't be resolved is refused when it is written
                _types(get_type_hints(named).values(), seen)
    return seen


def _hints(schema: Any) -> dict[str, Any]:
    hints = get_type_hints(schema, include_extras=True)
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return {key: hints[key] for key in schema.model_fields}
    return hints


def _defaults(schema: Any) -> dict[str, Any]:
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        fields = schema.model_fields.items()
        return {key: field.get_default(call_default_factory=True) for key, field in fields if not field.is_required()}
    fields: Any = fields_of(cast("Any", schema)) if is_dataclass(cast("Any", schema)) else ()
    found = {field.name: field.default for field in fields if field.default is not MISSING}
    return found | {field.name: field.default_factory() for field in fields if field.default_factory is not MISSING}
