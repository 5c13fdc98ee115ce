"""Reading one piece of JSON, or of what models write in its place, by three grammars: JSON, JSON5, Python literals.

Nothing is repaired. Libraries that repair JSON close the brackets and quotes of a text that was cut, and so invent
values; here each text is read by a strict grammar or not at all. What those grammars read but mean otherwise than the
model did is left out: strings joined by a missing comma and numbers in parentheses (Python), backslashes that vanish
(JSON5), comments that stand for something left out.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import tokenize
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, TypeGuard

import json5

from orchestra.models.flaws import Flaw, Flawed
from orchestra.models.pieces import QUOTED, TOKEN, Piece

# json5 is written in Python: up to 80 µs a character (6 in strings) and 20 frames a level. Literals share its bounds.
_LONGEST_RELAXED, _DENSEST_RELAXED, _DEEPEST_RELAXED = 50_000, 8_000, 20

_JSON5 = "read as JSON5 (trailing commas, quotes, comments)"
_PYTHON = "read as a Python literal"
_LINES = "read with line breaks inside strings"

INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
"""An integer as JSON writes it."""

NUMBER = re.compile(rf"{INTEGER.pattern}(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
"""A number as JSON writes it."""

_PLAIN_ESCAPES = re.compile(r"""(?:[^\\]|\\(?:["'\\/bfnrt]|u[0-9a-fA-F]{4}))*+""", re.DOTALL)
_LEFT_OUT = re.compile(  # a comment that says so, that is itself data, or that begins where a string was meant to go on
    r"""\.\.\. | … | \b(?:omitted|truncated|abbreviated|remaining|rest|more|etc|and\ so\ on|same)\b
    | \A(?://|/\*|\#)[\s*]*["'{\[0-9-] | " | '[\s,]*\Z""",
    re.IGNORECASE | re.VERBOSE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_CURLY = re.compile("[\u2018\u2019\u201c\u201d\u201e]")


class Inexact(float):
    """A number that JSON can write and a float can't hold."""

    __slots__ = ()


def loaded(piece: Piece, *, relaxed: bool) -> tuple[Any, str]:
    """The data that a piece writes, and how it was read if it is not plain JSON.

    Args:
        piece: What is read, all of it or nothing.
        relaxed: Whether JSON5 and Python are read as well; see `is_short`.

    Raises:
        Flawed: It is none of what is read here, or an object has a key twice.
    """
    try:
        return strict(piece.text), ""
    except Flawed as flawed:
        if flawed.flaw is not Flaw.BROKEN:
            raise
        broken = flawed
    if _CONTROL.search(piece.text):
        raise broken
    if "\r" not in piece.text:
        try:
            return strict(piece.text, control=True), _LINES
        except Flawed as flawed:
            if flawed.flaw is not Flaw.BROKEN:
                raise
    if not relaxed or piece.depth > _DEEPEST_RELAXED:
        raise broken
    _means_what_it_says(piece.text, broken)
    readers: tuple[tuple[Callable[[str], Any], str], ...] = ((_json5, _JSON5), (_python, _PYTHON))
    for reader, cleaned in readers:
        try:
            return reader(piece.text), cleaned
        except (ValueError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError):
            continue
    if _CURLY.search(piece.text):
        raise Flawed(Flaw.BROKEN, f'{broken.problem}; JSON wants straight quotes: "')
    raise broken


def strict(text: str, *, control: bool = False) -> Any:
    """Read JSON as RFC 8259 has it, with one value to a key.

    Args:
        text: The JSON.
        control: Whether line breaks and the like may stand inside strings.

    Raises:
        Flawed: It isn't JSON, or a key stands twice with different values.
    """
    try:
        return json.loads(
            text, strict=not control, object_pairs_hook=_object, parse_float=_float, parse_constant=_no_constant
        )
    except json.JSONDecodeError as error:
        problem = f"the answer is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno} of the JSON)"
        raise Flawed(Flaw.BROKEN, problem) from error
    except (ValueError, RecursionError) as error:
        raise Flawed(Flaw.BROKEN, "the answer holds a number with too many digits") from error


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and json.dumps(found[key], sort_keys=True) != json.dumps(value, sort_keys=True):
            raise Flawed(Flaw.AMBIGUOUS, f"the key {key!r} stands twice in one object, with different values")
        found[key] = value
    return found


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Flawed(Flaw.BROKEN, f"the number {text[:20]} is too large")
    try:
        exact = Decimal(text) == Decimal(repr(value))
    except ArithmeticError:  # an exponent that not even a decimal can hold
        exact = False
    return value if exact else Inexact(value)


def _no_constant(name: str) -> Any:
    raise Flawed(Flaw.BROKEN, f"JSON has no {name}")


def is_short(pieces: list[Piece]) -> bool:
    """Whether all pieces together can be read by json5 in less than a second."""
    if sum(len(piece.text) for piece in pieces) > _LONGEST_RELAXED:
        return False
    return sum(len("".join(QUOTED.sub("", piece.text).split())) for piece in pieces) <= _DENSEST_RELAXED


def _means_what_it_says(text: str, broken: Flawed) -> None:
    """Leave what JSON5 and Python would read, but not as it was meant.

    Raises:
        Flawed: There is a backslash that JSON5 would drop, as in a path of Windows, or a comment for something else.
    """
    for token in TOKEN.finditer(text):
        found = token.group()
        if found[0] in "\"'" and not _PLAIN_ESCAPES.fullmatch(found):
            raise broken
        if found[0] in "/#" and _LEFT_OUT.search(found):
            raise Flawed(Flaw.BROKEN, "a comment stands for something left out; write everything out")


def _json5(text: str) -> Any:
    return json5.loads(
        text, object_pairs_hook=_object, parse_float=_as_json, parse_int=_as_json, parse_constant=_no_constant
    )


def _as_json(text: str, base: int = 10) -> Any:
    """A number written as JSON writes it: in ``[1.,5]`` and ``[.5]`` a character may be wrong."""
    if base != 10 or not NUMBER.fullmatch(text):
        raise ValueError(text)
    return strict(text)


def _python(text: str) -> Any:
    """Read what `ast.literal_eval` reads, less what is often something else written wrongly.

    That is: strings side by side, which Python joins (a comma was forgotten); numbers in parentheses (losses, to an
    accountant) or not as JSON writes them; prefixed and triple quotes, sums, sets, bytes, complex numbers; and a key
    twice in one object.
    """
    before = ""
    opened = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        now = token.string
        match token.type:
            case tokenize.STRING:
                fine = now[0] in "\"'" and now[:3] not in ('"""', "'''") and not before.endswith(('"', "'"))
                fine = fine and "\\/" not in now  # two characters in Python, one in JSON
            case tokenize.NUMBER:
                fine = INTEGER.fullmatch(now) is not None or not isinstance(_as_json(now), Inexact)
            case tokenize.NAME:
                fine = now in ("True", "False", "None")
            case tokenize.OP:
                fine = now in "{}[](),:" or (now in "+-" and before in ("", *"[{(,:"))
                opened += now == "("
            case tokenize.COMMENT | tokenize.NL | tokenize.NEWLINE | tokenize.ENDMARKER:
                continue
            case _:
                fine = False
        if not fine:
            raise ValueError(now)
        before = now
    tree = ast.parse(text, mode="eval").body
    if opened != sum(isinstance(node, ast.Tuple) for node in ast.walk(tree)):
        raise ValueError("(")
    return _plain(tree)


def _plain(node: ast.expr) -> Any:
    match node:
        case ast.Dict():
            return _object((_key(key), _plain(value)) for key, value in zip(node.keys, node.values, strict=True))
        case ast.List() | ast.Tuple():
            return [_plain(each) for each in node.elts]
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int() | float() as value)):
            if not isinstance(value, bool):
                return -value if isinstance(sign, ast.USub) else value
        case _:
            pass
    raise ValueError(ast.dump(node)[:80])


def _key(node: ast.expr | None) -> str:
    key = _plain(node) if node is not None else None
    if isinstance(key, str):
        return key
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)  # as a JSON key of dict[int, …]
    raise ValueError(key)


def is_object(data: Any) -> TypeGuard[dict[str, Any]]:
    """Whether data is an object of JSON."""
    return isinstance(data, dict)
