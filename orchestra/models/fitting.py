"""Fitting data to the declared type, without guessing.

Keys that the type does not know are an error unless it says itself that it takes them, because a misspelt optional key
would be lost. Values are read as JSON holds them; `_harmless` lists the few conversions there are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic_core import ErrorDetails

from orchestra.models.flaws import Flaw, Flawed
from orchestra.models.losses import Place, losses
from orchestra.models.syntax import INTEGER, NUMBER, is_object

_EXACT = 2**53  # up to here a float holds every integer
_ONE_WORD = re.compile(r"[\w:.+-]{4,64}")
_WRITTEN_BARE = ("date", "date-time", "time", "duration", "uuid")
_OF_SCHEMAS = {"properties", "$defs", "additionalProperties"}


def fit(data: Any, adapter: TypeAdapter[Any]) -> Any:
    """The value of the type, if the data says nothing else.

    Unknown keys are first forbidden everywhere. `extra="forbid"` overrides what a type says of itself, so if they are
    all that is wrong, it is asked again, and then every key must have arrived or its model must have said in its
    configuration that it takes or ignores such keys.

    Args:
        data: What was given, as JSON holds it.
        adapter: The type.

    Raises:
        Flawed: The data is not of the type.
    """
    if is_object(data) and _echoes(data, adapter):
        raise Flawed(Flaw.WRONG, "the answer is the JSON schema; what is wanted is a value that it describes")
    text = json.dumps(data)
    try:
        value = _asked(text, adapter, "forbid")
    except _Unfit as refused:
        if not refused.unknown_keys:
            raise
        return _with_unknown_keys(data, text, adapter, refused)
    for loss in losses(data, value):
        if loss.flaw is not None:
            raise Flawed(loss.flaw, f"{_name(loss.where)}: {loss.what}")
    return value


class _Unfit(Flawed):
    """The data is not of the type; whether unknown keys are among the reasons."""

    def __init__(self, flaw: Flaw, problem: str, *, unknown_keys: bool = False) -> None:
        super().__init__(flaw, problem)
        self.unknown_keys = unknown_keys


def _with_unknown_keys(data: Any, text: str, adapter: TypeAdapter[Any], refused: _Unfit) -> Any:
    try:
        value = _asked(text, adapter, None)
    except _Unfit:
        raise refused from None
    if any(losses(data, value)):
        raise refused
    return value


def _asked(text: str, adapter: TypeAdapter[Any], extra: Literal["forbid"] | None) -> Any:
    """Validate strictly, and leniently only if every conversion that this needs is harmless.

    Raises:
        _Unfit: It is not of the type.
    """
    try:
        return _validated(text, adapter, extra)
    except _Unfit:
        raise
    except Exception as error:
        # A validator of the user's meets here what it was not written for.
        raise _Unfit(Flaw.WRONG, f"the answer can't be checked ({type(error).__name__}: {error})") from error


def _validated(text: str, adapter: TypeAdapter[Any], extra: Literal["forbid"] | None) -> Any:
    try:
        return adapter.validate_json(text, strict=True, extra=extra)
    except ValidationError as error:
        harmful = [each for each in error.errors(include_url=False) if not _harmless(each)]
    try:
        value = adapter.validate_json(text, extra=extra)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        known = {each["loc"] for each in errors}
        raise _unfit([*errors, *(each for each in harmful if each["loc"] not in known)]) from error
    if harmful:
        raise _unfit(harmful)
    return value


def _harmless(error: ErrorDetails) -> bool:
    """Whether what strict validation refused may be converted, if lenient validation can.

    pydantic's lenient ways would also read a number as a date (seconds since 1970), `true` as 1, 1 as `true`, "nan" as
    a number and 1e20 as an integer that has other digits than were meant.
    """
    given = error["input"]
    match error["type"]:
        case "int_type" if isinstance(given, float):
            return given.is_integer() and abs(given) <= _EXACT
        case "int_type":
            return isinstance(given, str) and INTEGER.fullmatch(given.strip()) is not None
        case "float_type":
            return (
                isinstance(given, str) and NUMBER.fullmatch(given.strip()) is not None and math.isfinite(float(given))
            )
        case "bool_type":
            return isinstance(given, str) and given.strip().lower() in ("true", "false")
        case "date_type" | "datetime_type" | "time_type" | "time_delta_type":
            return False
        case _:  # not about a conversion, or one of a string to what strings are for
            return True


def _unfit(errors: Sequence[ErrorDetails]) -> _Unfit:
    broken = errors[0]["type"] == "json_invalid"  # a lone surrogate: JSON can write it, and it is no character
    told = list(dict.fromkeys(f"{_name(each['loc'])}: {each['msg']}" for each in errors))
    more = f"; and {len(told) - 5} more" if len(told) > 5 else ""
    unknown = any(each["type"] in ("extra_forbidden", "unexpected_keyword_argument") for each in errors)
    return _Unfit(Flaw.BROKEN if broken else Flaw.WRONG, "; ".join(told[:5]) + more, unknown_keys=unknown)


def _name(where: Place) -> str:
    return ".".join(map(str, where)) or "the answer"


def _schema(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    try:
        return adapter.json_schema()
    except (PydanticInvalidForJsonSchema, PydanticUserError):
        return {}


def _alternatives(adapter: TypeAdapter[Any]) -> list[dict[str, Any]]:
    """Every schema of which an answer may be."""
    whole = _schema(adapter)
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    waiting = [whole]
    while waiting:
        schema = waiting.pop()
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference not in seen:
            seen.add(reference)
            waiting.append(whole.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {}))
        elif inner := schema.get("anyOf") or schema.get("oneOf"):
            waiting.extend(inner)
        elif reference is None:
            found.append(schema)
    return found


def wants_object(adapter: TypeAdapter[Any]) -> bool:
    """Whether no value of the type is written as anything but an object, or as null."""
    alternatives = _alternatives(adapter)
    return bool(alternatives) and all(schema.get("type") in ("object", "null") for schema in alternatives)


def is_bare(text: str, plain: str | None, adapter: TypeAdapter[Any]) -> bool:
    """Whether a text is a string of the type without its quotes, and can't be read otherwise.

    Args:
        text: The text.
        plain: The same as JSON, if it is that as it stands.
        adapter: The type.
    """
    if not _is_own_word(text, adapter):
        return False
    return plain is None or (not _fits(plain, adapter) and _fits(json.dumps(text), adapter))


def _fits(text: str, adapter: TypeAdapter[Any]) -> bool:
    try:
        _asked(text, adapter, None)
    except _Unfit:
        return False
    return True


def _is_own_word(text: str, adapter: TypeAdapter[Any]) -> bool:
    """Whether it is a member of an enumeration, or may be a date and the like.

    Not if any other string would do as well: prose about an answer is no answer.
    """
    if len(text) > 200 or "\n" in text:
        return False
    members: set[str] = set()
    formats = False
    for schema in _alternatives(adapter):
        if "enum" in schema or "const" in schema:
            members.update(each for each in (*schema.get("enum", ()), schema.get("const")) if isinstance(each, str))
        elif schema.get("type") == "string" and schema.get("format") in _WRITTEN_BARE:
            formats = True
        elif schema.get("type") not in ("null", "boolean", "integer", "number", "object", "array"):
            return False
    return text in members or (formats and _ONE_WORD.fullmatch(text) is not None)


def _echoes(data: dict[str, Any], adapter: TypeAdapter[Any]) -> bool:
    """Whether the data is the type's JSON schema, alone or wrapped as it was sent."""
    inner = [each for each in data.values() if is_object(each)]
    shown = [data, *inner, *(each for outer in inner for each in outer.values() if is_object(each))]
    shown = [each for each in shown if each.keys() & _OF_SCHEMAS]
    schema = _schema(adapter) if shown else {}
    return any(each == schema or _describes_the_same(each, schema) for each in shown)


def _describes_the_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    for key in ("properties", "$defs"):
        mine, theirs = one.get(key), other.get(key)
        if is_object(mine) and theirs and mine.keys() == theirs.keys() and all(map(is_object, mine.values())):
            return True
    return False
