"""Comparing data with the value that came of it: what got lost, and what was read as something else.

Validation lets some things pass, even where it is strict. Whatever can't be followed into the value counts as lost,
because a misspelt optional key would be.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, cast

from pydantic import AliasChoices, BaseModel, RootModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from orchestra.models.flaws import Flaw
from orchestra.models.syntax import Inexact, is_object

_NO_DATE = "Input should be a date as in 2024-01-31, not a number"
_TOO_EXACT = "The number has more digits than fit; write it as a string"

_TIMESTAMP = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?")
_DATE: TypeAdapter[date] = TypeAdapter(date)
_DATETIME: TypeAdapter[date] = TypeAdapter(datetime)

Place = tuple[int | str, ...]
"""Where in the data something stands: keys and indexes, from the outermost."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Something in the data that is not, or not so, in the value.

    Attributes:
        where: Its place.
        what: What is wrong, in words.
        flaw: How the data is malformed; `None` if it only can't be followed into the value, because a type may put it
            elsewhere or leave it out.
    """

    where: Place
    what: str = ""
    flaw: Flaw | None = None


def losses(data: Any, value: Any, where: Place = ()) -> Iterator[Loss]:
    """Compare what was given with what came of it.

    Args:
        data: What was given, as JSON holds it.
        value: What came of it.
        where: The place of the data, if it is a part.
    """
    while isinstance(value, RootModel):
        value = cast("RootModel[Any]", value).root
    if is_object(data):
        if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
            yield from _of_fields(data, value, where)
        elif isinstance(value, Mapping):
            yield from _of_mapping(data, cast("Mapping[Any, Any]", value), where)
        else:
            yield Loss(where)
    elif isinstance(data, list):
        yield from _of_list(cast("list[Any]", data), value, where)
    else:
        yield from _misread(data, value, where)


def _of_list(data: list[Any], value: Any, where: Place) -> Iterator[Loss]:
    if isinstance(value, set | frozenset):
        yield from _of_set(data, cast("frozenset[Any]", value), where)
    elif isinstance(value, list | tuple | deque) and len(items := [*cast("Iterable[Any]", value)]) == len(data):
        for index, (given, item) in enumerate(zip(data, items, strict=True)):
            yield from losses(given, item, (*where, index))
    else:
        yield Loss(where)


def _of_set(data: list[Any], value: frozenset[Any], where: Place) -> Iterator[Loss]:
    decimals = any(isinstance(item, Decimal) for item in value)
    for index, given in enumerate(data):  # which member came of which is not known, nor needed
        if isinstance(given, dict | list):
            yield Loss((*where, index))
        elif isinstance(given, Inexact) and decimals:
            yield Loss((*where, index), _TOO_EXACT, Flaw.WRONG)
        elif isinstance(given, str) and not value.isdisjoint(_timestamps(given)):
            yield Loss((*where, index), _NO_DATE, Flaw.WRONG)


def _of_fields(data: dict[str, Any], value: Any, where: Place) -> Iterator[Loss]:
    names, extra = _fields_of(cast("Any", type(value)))
    wraps = len(data) == 1 and any(isinstance(given, dict | list) for given in data.values())
    if names and wraps and not data.keys() & names.keys():
        yield Loss(where)  # {"answer": {…}}, of a type that takes other keys and needs none of its own
    for key, given in data.items():
        if key in names:
            yield from losses(given, getattr(value, names[key], None), (*where, key))
        elif extra not in ("allow", "ignore"):
            yield Loss((*where, key))


@lru_cache(256)
def _fields_of(kind: Any) -> tuple[dict[str, str], str | None]:
    """The fields of a model or dataclass by the keys that they are read from, and what it says of other keys."""
    if issubclass(kind, BaseModel):
        names = {key: name for name, field in kind.model_fields.items() for key in _keys_of(name, field)}
        return names, kind.model_config.get("extra")
    names = {field.name: field.name for field in dataclasses.fields(kind)}
    return names, getattr(kind, "__pydantic_config__", {}).get("extra")


def _keys_of(name: str, field: FieldInfo) -> Iterator[str]:
    aliases = field.validation_alias
    for alias in (name, field.alias, *(aliases.choices if isinstance(aliases, AliasChoices) else (aliases,))):
        if isinstance(alias, str):
            yield alias


def _of_mapping(data: dict[str, Any], value: Mapping[Any, Any], where: Place) -> Iterator[Loss]:
    if data.keys() <= value.keys():
        for key, given in data.items():
            yield from losses(given, value[key], (*where, key))
    elif len(value) == len(data):
        for (key, given), (read_key, read_value) in zip(data.items(), value.items(), strict=True):
            yield from _misread(key, read_key, (*where, key))
            yield from losses(given, read_value, (*where, key))
    elif len(value) < len(data) and not any(isinstance(key, str) for key in value):
        yield Loss(where, "two of its keys mean the same", Flaw.AMBIGUOUS)  # {"1": …, "01": …}
    else:
        yield Loss(where)


def _misread(data: Any, value: Any, where: Place) -> Iterator[Loss]:
    """What strict validation lets pass all the same."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(data, str):
        if isinstance(value, date) and value in _timestamps(data):
            yield Loss(where, _NO_DATE, Flaw.WRONG)
    elif isinstance(data, Inexact) and isinstance(value, Decimal):
        yield Loss(where, _TOO_EXACT, Flaw.WRONG)
    elif isinstance(data, bool) != isinstance(value, bool) and isinstance(value, int | float) and data is not None:
        yield Loss(where, f"{json.dumps(data)} is not {json.dumps(value)}", Flaw.WRONG)  # Literal[1] takes true


def _timestamps(text: str) -> list[date]:
    """What pydantic takes a text of digits for: "20240105" would be a day in August 1970."""
    found: list[date] = []
    for adapter in (_DATE, _DATETIME) if _TIMESTAMP.fullmatch(text) else ():
        with suppress(ValidationError):
            found.append(adapter.validate_python(text))
    return found
