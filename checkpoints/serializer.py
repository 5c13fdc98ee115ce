"""LangGraph's serializer, with two differences that matter when a thread is resumed long after it was stored.

LangGraph's gives a type that it does not know, or can't build, back as a plain ``dict``, with a line in the log; the
graph then fails somewhere else, or works on with wrong data. This one says which type it is and what to do. And a type
that was moved or renamed can be told where it is now.

The format of the bytes is LangGraph's own.
"""

from __future__ import annotations

import copy
import importlib
from typing import TYPE_CHECKING, Any

import ormsgpack
from langgraph.checkpoint.serde import jsonplus

# The two sets are not exported, but they are what LangGraph's documentation calls the built-in allowlist.
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_METHODS, SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot  # pyright: ignore[reportPrivateUsage] - ext code 7
from langgraph.types import Send

from checkpoints.errors import UnreadableType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TypeName = tuple[str, str]
"""Module and name of a type."""

_CONSTRUCTORS = {
    jsonplus.EXT_CONSTRUCTOR_SINGLE_ARG,
    jsonplus.EXT_CONSTRUCTOR_POS_ARGS,
    jsonplus.EXT_CONSTRUCTOR_KW_ARGS,
    jsonplus.EXT_METHOD_SINGLE_ARG,
    jsonplus.EXT_PYDANTIC_V1,
    jsonplus.EXT_PYDANTIC_V2,
}


class StrictSerializer(JsonPlusSerializer):
    """Builds only types on LangGraph's list of safe ones and those that are allowed; never unpickles.

    Args:
        allowed: More types that may be built.
        renamed: Where types are now that were stored under another name: ``{"old.module:OldName": NewType}``.

    Raises:
        UnreadableType: From `loads_typed`, when a value can't be built.
    """

    def __init__(
        self, allowed: Iterable[type | tuple[str, ...]] = (), renamed: Mapping[str, type] | None = None
    ) -> None:
        # The base class needs the hook for its other kinds of values (arrays, snapshots of delta channels).
        super().__init__(allowed_msgpack_modules=None)
        self._others = self._unpack_ext_hook
        self._renamed = {_parse(old): _name_of(new) for old, new in (renamed or {}).items()}
        self._allowed = {_name_of(each) for each in allowed} | set(self._renamed.values())

    def with_msgpack_allowlist(self, extra_allowlist: Iterable[tuple[str, ...] | type]) -> StrictSerializer:
        """A serializer that allows these types too."""
        extra = {_name_of(each) for each in extra_allowlist}
        if extra <= self._allowed:
            return self
        clone = copy.copy(self)
        clone._allowed = self._allowed | extra  # noqa: SLF001 - it is one of us
        return clone

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The value of these bytes."""
        kind, content = data
        if kind != "msgpack":
            return super().loads_typed(data)
        return self._unpack(content)

    def _unpack(self, content: bytes) -> Any:
        failed: list[UnreadableType] = []

        def hook(code: int, inner: bytes) -> Any:
            if code == jsonplus.EXT_DELTA_SNAPSHOT:
                return _DeltaSnapshot(self._unpack(inner))
            if code not in _CONSTRUCTORS:
                return self._others(code, inner)
            try:
                return self._build(code, self._unpack(inner))
            except UnreadableType as error:  # the unpacker would hide it behind an error of its own
                failed.append(error)
                return None

        try:
            return ormsgpack.unpackb(content, ext_hook=hook, option=ormsgpack.OPT_NON_STR_KEYS)
        finally:
            if failed:
                raise failed[0]

    def _build(self, code: int, packed: list[Any]) -> Any:
        module, name, payload, *rest = packed
        stored = f"{module}:{name}"
        module, name = self._renamed.get((module, name), (module, name))
        if code == jsonplus.EXT_METHOD_SINGLE_ARG:
            safe = (module, name, rest[0]) in SAFE_MSGPACK_METHODS
        else:
            safe = (module, name) in SAFE_MSGPACK_TYPES or (module, name) in self._allowed
        if not safe:
            raise UnreadableType(
                stored,
                f"a value of type {stored} is stored, which this saver was not told to build: "
                f"open it with allowed_types=[{name}], or store plain data",
            )
        try:
            target = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UnreadableType(
                stored,
                f"a value of type {stored} is stored, which can't be imported ({error}): if it was moved or "
                f'renamed, open the saver with renamed_types={{"{stored}": TheNewType}}',
            ) from error
        try:
            return _construct(code, target, payload, rest)
        except Exception as error:
            raise UnreadableType(
                stored,
                f"a value of type {stored} is stored that the type no longer accepts ({type(error).__name__}: {error}):"
                " give new fields a default, or restore what was removed",
            ) from error


def _construct(code: int, target: Any, payload: Any, rest: list[Any]) -> Any:
    match code:
        case jsonplus.EXT_CONSTRUCTOR_SINGLE_ARG:
            return target(payload)
        case jsonplus.EXT_CONSTRUCTOR_POS_ARGS if target is Send and len(payload) == 3:
            return Send(payload[0], payload[1], timeout=payload[2])
        case jsonplus.EXT_CONSTRUCTOR_POS_ARGS:
            return target(*payload)
        case jsonplus.EXT_METHOD_SINGLE_ARG:
            return getattr(target, rest[0])(payload)
        case jsonplus.EXT_CONSTRUCTOR_KW_ARGS:
            return target(**payload)
        case _:
            return _model(target, payload)


def _model(target: Any, fields: dict[str, Any]) -> Any:
    """A pydantic model; one that validates no more is built as it was if it has all that its type requires."""
    try:
        return target(**fields)
    except Exception as error:
        if not hasattr(target, "model_construct"):
            return target.construct(**fields)
        found = target.model_construct(**fields)
        missing = [
            name for name, field in target.model_fields.items() if field.is_required() and not hasattr(found, name)
        ]
        if missing:
            raise ValueError(f"no value for {', '.join(missing)}") from error
        return found


def _parse(name: str) -> TypeName:
    module, colon, type_name = name.partition(":")
    if not (module and colon and type_name):
        raise ValueError(f"renamed type {name!r}: write it as 'module:Name'")
    return module, type_name


def _name_of(given: type | tuple[str, ...]) -> TypeName:
    if isinstance(given, type):
        return given.__module__, given.__name__
    module, name = given
    return module, name
