"""Reading what a language model answered into a declared type, or saying in what way the answer is malformed.

One rule stands above all: a malformed answer never becomes a wrong value. What can be read in one way only is read
(fenced code, prose around, JSON5, Python literals); everything else is a flaw with a problem in plain words, which
can be sent back to the model. Correcting costs one more call; a wrong value costs what is built on it.

Therefore:

- Nothing is repaired. Libraries that repair JSON close the brackets and quotes of a text that was cut, and so invent
  values; here each text is read by a strict grammar or not at all. What those grammars read but mean otherwise than
  the model did is left out: strings joined by a missing comma and numbers in parentheses (Python), backslashes that
  vanish (JSON5), comments that stand for something left out.
- Every piece of JSON in an answer counts. An example, a quoted schema or a draft beside the answer can't be told from
  the answer, so all pieces must be of the type and equal, or the answer is ambiguous. Only what can't be meant as an
  answer (``[1]`` where an object is wanted, ``{name}``) is passed over.
- A piece counts only where it stands alone. Brackets inside a function call, in YAML, in XML, or beside a bracket too
  many are a part of something, and a part of a recursive type looks like the whole.
- An answer of which the end is not known is not read, not even if it parses: what was lost may be a second answer,
  or more digits.
- Keys that the type does not know are an error unless it says itself that it takes them, because a misspelt optional
  key would be lost. Values are read as JSON holds them; `_harmless` lists the few conversions there are.

What no parser can see is beyond it: another digit or letter is another valid answer.
"""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import math
import re
import tokenize
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from functools import lru_cache
from typing import Any, Literal, TypeAlias, TypeGuard, cast

import json5
from pydantic import AliasChoices, BaseModel, RootModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

_DEEPEST = 100  # brackets within brackets; pydantic's own parser ends at 200, the stack not far beyond
_MOST_PIECES = 50  # of JSON in one answer
# json5 is written in Python: up to 80 µs a character (6 in strings) and 20 frames a level. Literals share its bounds.
_LONGEST_RELAXED, _DENSEST_RELAXED, _DEEPEST_RELAXED = 50_000, 8_000, 20
_EDGES = " \t\r\n\f\v\u00a0\ufeff\u200b\u2060"  # joiners such as U+200D are no space: inside words they mean something
_EXACT = 2**53  # up to here a float holds every integer

_FENCED, _EMBEDDED = "taken out of fenced code", "taken out of prose"
_JSON5 = "read as JSON5 (trailing commas, quotes, comments)"
_PYTHON = "read as a Python literal"
_LINES = "read with line breaks inside strings"
_BARE = "read as a bare word"
_UNSEEN = "Unknown keys may be lost"
_NO_DATE = "Input should be a date as in 2024-01-31, not a number"
_TOO_EXACT = "The number has more digits than fit; write it as a string"

_BRACKET = re.compile(r"[{}\[\]]")
# Possessive, so that what is never closed costs one look to the end and not one from everywhere.
_TOKEN = re.compile(
    r"""
    "(?:[^"\\]|\\.)*+" | '(?:[^'\\]|\\.)*+' | ["']          # a string; a quote that is never closed
    | //[^\n]*+ | \#[^\n]*+ | /\*(?:[^*]|\*(?!/))*+\*/ | /\*  # a comment; one that is never closed
    | [{}\[\]]
    """,
    re.VERBOSE | re.DOTALL,
)
_QUOTED = re.compile(r""""(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+'""", re.DOTALL)
_PLAIN_ESCAPES = re.compile(r"""(?:[^\\]|\\(?:["'\\/bfnrt]|u[0-9a-fA-F]{4}))*+""", re.DOTALL)
_LEFT_OUT = re.compile(  # a comment that says so, that is itself data, or that begins where a string was meant to go on
    r"""\.\.\. | … | \b(?:omitted|truncated|abbreviated|remaining|rest|more|etc|and\ so\ on|same)\b
    | \A(?://|/\*|\#)[\s*]*["'{\[0-9-] | " | '[\s,]*\Z""",
    re.IGNORECASE | re.VERBOSE,
)
_THINKING = re.compile(r"<(think|thinking)>.*?</\1>", re.IGNORECASE | re.DOTALL)
_THINKING_BEGINS = re.compile(r"<(?:think|thinking)>", re.IGNORECASE)
_THINKING_ENDS = re.compile(r"(?:\n[ \t]*)?</(?:think|thinking)>", re.IGNORECASE)
_LANGUAGE = re.compile(r"(?:^|[\s`])(?:json[5c]?|python|py|javascript|js)\Z", re.IGNORECASE)
_KEY = re.compile(r"^[ \t>*_-]*+\w[\w. `*-]{0,40}:(?!\S*//)", re.MULTILINE)  # of YAML or a list, not of a URL
_TAG = re.compile(r"</?[A-Za-z][\w:-]*+(?:\s[^<>]*+)?/?>")
_PLACEHOLDER = re.compile(r"\{\{?[A-Za-z_][\w .-]*+\}?\}")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_TIMESTAMP = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?")
_ONE_WORD = re.compile(r"[\w:.+-]{4,64}")
_WRITTEN_BARE = ("date", "date-time", "time", "duration", "uuid")
_OF_SCHEMAS = {"properties", "$defs", "additionalProperties"}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_CURLY = re.compile("[\u2018\u2019\u201c\u201d\u201e]")
_DATE: TypeAdapter[date] = TypeAdapter(date)
_DATETIME: TypeAdapter[date] = TypeAdapter(datetime)

_Named: TypeAlias = "tuple[str, dict[str, Any]]"


class Flaw(StrEnum):
    """How an answer is malformed.

    `EMPTY`: there is nothing, or only thinking. `REFUSED`: the model declined, or a filter withheld the answer. `CUT`:
    the limit of tokens ended it. `TRUNCATED`: it ended without saying why. `BROKEN`: it can't be read as JSON, or not
    in one way only. `WRONG`: it is JSON, but not of the type. `AMBIGUOUS`: it says more than one thing.
    """

    EMPTY = "empty"
    REFUSED = "refused"
    CUT = "cut"
    TRUNCATED = "truncated"
    BROKEN = "broken"
    WRONG = "wrong"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered.

    Attributes:
        text: Its words.
        finish: Why it ended: "stop", "length", "tool_calls" or "content_filter"; `None` if nobody said. Any other word
            counts as `None` does.
        refusal: What the model said when it declined, where the endpoint tells that apart.
    """

    text: str
    finish: str | None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer was read as: a value, or a flaw.

    Attributes:
        value: The value, of the declared type.
        flaw: How the answer is malformed; `None` if there is a value.
        problem: What is wrong with it, in one line that can be sent back to the model.
        cleaned: What was done to read it, if it was not plain JSON.
    """

    value: Any = None
    flaw: Flaw | None = None
    problem: str = ""
    cleaned: str = ""


class _Flawed(Exception):
    """Reading ends here. Not a `ValueError`: those are caught inside json5 and pydantic."""

    def __init__(self, flaw: Flaw, problem: str) -> None:
        super().__init__(problem)
        self.flaw, self.problem = flaw, problem


class _Inexact(float):
    """A number that JSON can write and a float can't hold."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of the answer that may be the answer."""

    text: str
    depth: int = 0
    cleaned: str = ""
    start: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def read(answer: Answer, adapter: TypeAdapter[Any], *, is_text: bool) -> Reading:
    """Read an answer into the declared type.

    Args:
        answer: What the model answered.
        adapter: The declared type.
        is_text: Whether that is `str`: then the words are the value.
    """
    try:
        text = _words_of(answer)
        if is_text:
            return Reading(value=text)
        pieces = _pieces(_after_thinking(text), adapter)
        relaxed = _is_short(pieces)
        return _agreed([_judged(piece, adapter, relaxed=relaxed) for piece in pieces])
    except _Flawed as flawed:
        return _flawed(flawed.flaw, flawed.problem)


def looks_like_tool_call(text: str, names: Collection[str]) -> _Named | None:
    """The call that a model wrote as text, because its server does not know of tools.

    Args:
        text: What it answered, whole.
        names: The tools that it was offered.

    Returns:
        The tool's name and its arguments, if there is exactly one such call and nothing else in brackets.
    """
    try:
        text = _without_thinking(text.strip(_EDGES))
        text = _after_thinking(text) if text else text
        pieces = [piece for piece in _groups(text) if "{" in piece.text]  # [TOOL_CALLS] is a marker
        if len(pieces) != 1:
            return None
        data, _ = _loaded(pieces[0], relaxed=_is_short(pieces))
        return _call(data, names)
    except _Flawed:
        return None


def _call(data: Any, names: Collection[str]) -> _Named | None:
    if _is_object(data) and data.keys() == {"tool_calls"}:
        data = data["tool_calls"]
    if isinstance(data, list) and len(cast("list[Any]", data)) == 1:
        data = cast("list[Any]", data)[0]
    if _is_object(data) and "function" in data and data.keys() <= {"function", "type", "id"}:
        data = data["function"]
    if not _is_object(data) or not data.keys() <= {"name", "arguments", "parameters", "type", "id"}:
        return None
    given = [data[key] for key in ("arguments", "parameters") if key in data]
    name = data.get("name")
    if not isinstance(name, str) or name not in names or len(given) != 1:
        return None
    arguments = _strict(given[0]) if isinstance(given[0], str) else given[0]
    return (name, arguments) if _is_object(arguments) else None


# What is read: the answer without what surrounds it.


def _words_of(answer: Answer) -> str:
    if answer.refusal.strip(_EDGES) or answer.finish == "content_filter":
        withheld = "a filter withheld the answer" if answer.finish == "content_filter" else "the model declined"
        raise _Flawed(Flaw.REFUSED, f"{withheld}: {answer.refusal}" if answer.refusal.strip(_EDGES) else withheld)
    text = answer.text.strip(_EDGES)
    if not text:
        raise _Flawed(Flaw.EMPTY, "the answer is empty")
    if answer.finish == "length":
        raise _Flawed(Flaw.CUT, "the answer was too long and was cut off; a shorter one is needed")
    if answer.finish not in ("stop", "tool_calls"):
        why = f" ({answer.finish})" if answer.finish else ""
        raise _Flawed(Flaw.TRUNCATED, f"the answer ended before it was complete{why}")
    text = _without_thinking(text)
    if not text:
        raise _Flawed(Flaw.EMPTY, "the answer holds nothing but thinking")
    return text


def _without_thinking(text: str) -> str:
    start = 0
    while thinking := _THINKING.match(text, start):
        start = thinking.end()
        while start < len(text) and text[start] in _EDGES:
            start += 1
    return "" if _THINKING_BEGINS.match(text, start) else text[start:]


def _after_thinking(text: str) -> str:
    """Leave out thinking that only ends here: many chat templates begin it in the prompt.

    Raises:
        _Flawed: There is nothing else, or what ends it may stand in a string.
    """
    ends = [] if text[0] in "{[\"'`" else [*_THINKING_ENDS.finditer(text)]
    if not ends:
        return text
    thinking = text[: ends[-1].start()]
    if not ends[-1].group().startswith("\n"):  # alone in its line it can't be in a string
        _groups(thinking)
        if thinking.count('"') % 2:
            raise _Flawed(Flaw.BROKEN, "the answer holds the end of thinking inside a string")
    text = text[ends[-1].end() :].strip(_EDGES)
    if not text:
        raise _Flawed(Flaw.EMPTY, "the answer holds nothing but thinking")
    return text


def _pieces(text: str, adapter: TypeAdapter[Any]) -> list[_Piece]:
    """Find what may be the answer: the text if it is a scalar, or whatever stands in brackets.

    Raises:
        _Flawed: There is nothing, or it is a part of something else.
    """
    for piece in (_Piece(text), _unfenced(text)):
        if piece.text[:1] not in ("", "{", "["):
            scalar = _scalar(piece, adapter)
            if scalar is not None:
                return [scalar]
    pieces = _groups(text)
    if not pieces:
        return [_scalar(piece, adapter) or piece for piece in _fenced(text)]
    meant = [piece for piece in pieces if not _PLACEHOLDER.fullmatch(piece.text)] or pieces
    if len(meant) > 1 and any("{" not in piece.text for piece in meant) and _wants_object(adapter):
        meant = [piece for piece in meant if "{" in piece.text] or meant  # [1] is a note
    _stand_alone(text, pieces, meant)
    return [*{piece.text: piece for piece in meant}.values()]


def _scalar(piece: _Piece, adapter: TypeAdapter[Any]) -> _Piece | None:
    """The piece, if it is a number or the like as it stands, or a word that is one of the type's own."""
    quoted = json.dumps(piece.text)
    try:
        plain = json.dumps(_strict(piece.text))
    except _Flawed as flawed:
        plain = None if flawed.flaw is Flaw.BROKEN else piece.text
    bare = _is_bare(piece.text, adapter)
    if plain is None:
        return _bare(piece) if bare else None
    return _bare(piece) if bare and not _fits(plain, adapter) and _fits(quoted, adapter) else piece


def _bare(piece: _Piece) -> _Piece:
    return _Piece(json.dumps(piece.text), cleaned="; ".join(filter(None, (piece.cleaned, _BARE))))


def _fits(text: str, adapter: TypeAdapter[Any]) -> bool:
    try:
        _asked(text, adapter, None)
    except _Unfit:
        return False
    return True


def _groups(text: str) -> list[_Piece]:
    """Everything in brackets that is not itself in brackets.

    Raises:
        _Flawed: A bracket is missing or too many, or there are too many groups.
    """
    pieces: list[_Piece] = []
    position = 0
    while bracket := _BRACKET.search(text, position):
        start = bracket.start()
        if bracket.group() in "}]":
            raise _Flawed(Flaw.BROKEN, f"the {bracket.group()!r} {_place(text, start)} closes nothing")
        if len(pieces) == _MOST_PIECES:
            raise _Flawed(Flaw.AMBIGUOUS, f"the answer holds more than {_MOST_PIECES} pieces of JSON; give only one")
        position, depth = _end_of(text, start)
        how = _FENCED if text.count("```", 0, start) % 2 else _EMBEDDED
        whole = start == 0 and position == len(text)
        pieces.append(_Piece(text[start:position], depth, "" if whole else how, start))
    return pieces


def _end_of(text: str, start: int) -> tuple[int, int]:
    closing: list[str] = []
    depth = 0
    for token in _TOKEN.finditer(text, start):
        match token.group():
            case "{" | "[" as opening:
                closing.append("}" if opening == "{" else "]")
                depth = max(depth, len(closing))
                if depth > _DEEPEST:
                    raise _Flawed(Flaw.BROKEN, f"the JSON is nested deeper than {_DEEPEST} levels")
            case "}" | "]" as closed:
                if closing.pop() != closed:
                    raise _Flawed(Flaw.BROKEN, f"the {closed!r} {_place(text, token.start())} closes another bracket")
                if not closing:
                    return token.end(), depth
            case '"' | "'" | "/*" as opening:
                raise _Flawed(Flaw.BROKEN, f"the {opening} {_place(text, token.start())} is never closed")
            case _:
                pass
    raise _Flawed(Flaw.BROKEN, f"the {text[start]!r} {_place(text, start)} is never closed")


def _place(text: str, position: int) -> str:
    return f"in line {text.count(chr(10), 0, position) + 1}"


def _unfenced(text: str) -> _Piece:
    """What stands in fenced code, if that is all there is: the only place where a string may hold brackets."""
    first, _, rest = text.partition("\n")
    fenced = first.startswith("```") and rest.endswith("```")
    return _Piece(rest[:-3].strip(_EDGES) if fenced else "", cleaned=_FENCED)


def _fenced(text: str) -> list[_Piece]:
    """What stands in fenced code, if anything is fenced, else the text: it holds no brackets."""
    found: list[str] = []
    lines: list[str] | None = None
    for line in text.splitlines():
        if lines is None:
            lines = [] if line.lstrip().startswith("```") else None
        elif line.strip() == "```":
            found.append("\n".join(lines).strip(_EDGES))
            lines = None
        else:
            lines.append(line)
    if lines is not None:
        raise _Flawed(Flaw.BROKEN, "the fenced code is never closed")
    if len(found) > _MOST_PIECES:
        raise _Flawed(Flaw.AMBIGUOUS, f"the answer holds more than {_MOST_PIECES} pieces of code; give only one")
    return [_Piece(each, cleaned=_FENCED) for each in dict.fromkeys(found)] or [_Piece(text)]


def _stand_alone(text: str, pieces: list[_Piece], meant: list[_Piece]) -> None:
    """Make sure that no piece is a part of something else: of a call, YAML, XML, or JSON that lost a bracket.

    Raises:
        _Flawed: One is.
    """
    starts = {piece.start for piece in meant}
    edges = [0, *(edge for piece in pieces for edge in (piece.start, piece.end)), len(text)]
    outside = [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    lines = sum(len(_KEY.findall(part)) for part in outside)
    for piece, before, after in zip(pieces, outside, outside[1:], strict=False):
        line = before[before.rfind("\n") + 1 :]
        a_key = _KEY.match(line) is not None and line.rstrip(" \t*_").endswith(":")
        if piece.start in starts and (_goes_on(before, after) or (a_key and lines > 1)):
            raise _Flawed(Flaw.BROKEN, f"the JSON {_place(text, piece.start)} is a part of something that is not JSON")
    for index, part in enumerate(outside):
        inner = _without_tags_beside(part, first=index == 0, last=index == len(outside) - 1)
        if _TAG.search(inner):
            raise _Flawed(Flaw.BROKEN, "the answer mixes JSON with XML or HTML")


def _goes_on(before: str, after: str) -> bool:
    """Whether what stands before or after a piece of JSON belongs to it."""
    if before.count('"') % 2 or after.count('"') % 2:
        return True  # it stands in a string
    tail, head = before.rstrip(_EDGES), after.lstrip(_EDGES)
    touching = tail == before and tail[-1:] not in ("", *"`>*:\uff1a") and not _LANGUAGE.search(tail[-12:])
    touched = head == after and (head[:1] not in ("", *"`<*.!;\u3002") or re.match(r"\.\w", head) is not None)
    part_of = tail.endswith(("=", "(", ",", "+", "\\", '"', "'", '":', "':", "\u201d:", "\u2019:"))
    return touching or touched or part_of or head.startswith((",", ")", '"', "'", ":", "=", "+"))


def _without_tags_beside(part: str, *, first: bool, last: bool) -> str:
    """Leave out tags that wrap a piece, such as <answer>: up to three, so that a million of them take no time."""
    for _ in range(3):
        if not last and part.rstrip().endswith(">"):
            opened = part.rfind("<")
            if opened >= 0 and _TAG.fullmatch(part[opened:].rstrip()) and not part.startswith("</", opened):
                part = part[:opened]
        if not first and part.lstrip().startswith("</"):
            closed = _TAG.match(part.lstrip())
            part = part.lstrip()[closed.end() :] if closed else part
    return part


# How it is read: by three grammars, each of which reads all of a piece or nothing.


def _loaded(piece: _Piece, *, relaxed: bool) -> tuple[Any, str]:
    """The data that a piece writes, and how it was read if it is not plain JSON.

    Raises:
        _Flawed: It is none of what is read here, or an object has a key twice.
    """
    try:
        return _strict(piece.text), ""
    except _Flawed as flawed:
        if flawed.flaw is not Flaw.BROKEN:
            raise
        broken = flawed
    if _CONTROL.search(piece.text):
        raise broken
    if "\r" not in piece.text:
        try:
            return _strict(piece.text, control=True), _LINES
        except _Flawed as flawed:
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
        raise _Flawed(Flaw.BROKEN, f'{broken.problem}; JSON wants straight quotes: "')
    raise broken


def _strict(text: str, *, control: bool = False) -> Any:
    """Read JSON as RFC 8259 has it, with one value to a key.

    Raises:
        _Flawed: It isn't JSON, or a key stands twice with different values.
    """
    try:
        return json.loads(
            text, strict=not control, object_pairs_hook=_object, parse_float=_float, parse_constant=_no_constant
        )
    except json.JSONDecodeError as error:
        problem = f"the answer is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno} of the JSON)"
        raise _Flawed(Flaw.BROKEN, problem) from error
    except (ValueError, RecursionError) as error:
        raise _Flawed(Flaw.BROKEN, "the answer holds a number with too many digits") from error


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and json.dumps(found[key], sort_keys=True) != json.dumps(value, sort_keys=True):
            raise _Flawed(Flaw.AMBIGUOUS, f"the key {key!r} stands twice in one object, with different values")
        found[key] = value
    return found


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Flawed(Flaw.BROKEN, f"the number {text[:20]} is too large")
    try:
        exact = Decimal(text) == Decimal(repr(value))
    except ArithmeticError:  # an exponent that not even a decimal can hold
        exact = False
    return value if exact else _Inexact(value)


def _no_constant(name: str) -> Any:
    raise _Flawed(Flaw.BROKEN, f"JSON has no {name}")


def _is_short(pieces: list[_Piece]) -> bool:
    """Whether all pieces together can be read by json5 in less than a second."""
    if sum(len(piece.text) for piece in pieces) > _LONGEST_RELAXED:
        return False
    return sum(len("".join(_QUOTED.sub("", piece.text).split())) for piece in pieces) <= _DENSEST_RELAXED


def _means_what_it_says(text: str, broken: _Flawed) -> None:
    """Leave what JSON5 and Python would read, but not as it was meant.

    Raises:
        _Flawed: There is a backslash that JSON5 would drop, as in a path of Windows, or a comment for something else.
    """
    for token in _TOKEN.finditer(text):
        found = token.group()
        if found[0] in "\"'" and not _PLAIN_ESCAPES.fullmatch(found):
            raise broken
        if found[0] in "/#" and _LEFT_OUT.search(found):
            raise _Flawed(Flaw.BROKEN, "a comment stands for something left out; write everything out")


def _json5(text: str) -> Any:
    return json5.loads(
        text, object_pairs_hook=_object, parse_float=_as_json, parse_int=_as_json, parse_constant=_no_constant
    )


def _as_json(text: str, base: int = 10) -> Any:
    """A number written as JSON writes it: in ``[1.,5]`` and ``[.5]`` a character may be wrong."""
    if base != 10 or not _NUMBER.fullmatch(text):
        raise ValueError(text)
    return _strict(text)


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
                fine = _INTEGER.fullmatch(now) is not None or not isinstance(_as_json(now), _Inexact)
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


# What it is read as: validation as JSON, and a look at what validation would let pass.


def _judged(piece: _Piece, adapter: TypeAdapter[Any], *, relaxed: bool) -> Reading:
    try:
        data, how = _loaded(piece, relaxed=relaxed)
        value = _validated(data, adapter)
    except _Flawed as flawed:
        return _flawed(flawed.flaw, flawed.problem)
    return Reading(value=value, cleaned="; ".join(filter(None, (piece.cleaned, how))))


def _agreed(readings: list[Reading]) -> Reading:
    first, *others = readings
    if not others:
        return first
    flawed = [reading for reading in readings if reading.flaw is not None]
    if len(flawed) == len(readings):
        order = (Flaw.AMBIGUOUS, Flaw.WRONG, Flaw.BROKEN)
        return min(reversed(flawed), key=lambda reading: order.index(reading.flaw or Flaw.BROKEN))
    if flawed:
        problem = f"the answer holds {len(readings)} pieces of JSON, and not all are an answer ({flawed[0].problem})"
        return _flawed(Flaw.AMBIGUOUS, f"{problem}; give the answer and no other JSON")
    if not all(_same(first.value, other.value) for other in others):
        return _flawed(Flaw.AMBIGUOUS, f"the answer holds {len(readings)} answers that differ; give only one")
    return first


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and repr(one) == repr(other)  # 1 equals True, and is another value


def _flawed(flaw: Flaw, problem: str) -> Reading:
    line = " ".join(problem.split())
    return Reading(flaw=flaw, problem=line if len(line) <= 600 else f"{line[:599]}…")


def _validated(data: Any, adapter: TypeAdapter[Any]) -> Any:
    """The value of the type, if the data says nothing else.

    Unknown keys are first forbidden everywhere. `extra="forbid"` overrides what a type says of itself, so if they are
    all that is wrong, it is asked again, and then every key must have arrived or its model must have said in its
    configuration that it takes or ignores such keys.

    Raises:
        _Flawed: The data is not of the type.
    """
    if _is_object(data) and _echoes(data, adapter):
        raise _Flawed(Flaw.WRONG, "the answer is the JSON schema; what is wanted is a value that it describes")
    text = json.dumps(data)
    refused: _Flawed | None = None
    for extra in ("forbid", None):
        try:
            value = _asked(text, adapter, extra)
        except _Unfit as unfit:
            refused = refused or _Flawed(unfit.flaw, unfit.problem)
            if extra is None or not unfit.unknown_keys:
                break
            continue
        for loss in _losses(data, value, ()):
            if loss.flaw is not None or extra is None:
                raise refused or _Flawed(loss.flaw or Flaw.WRONG, f"{_name(loss.where)}: {loss.what}")
        return value
    raise refused or _Flawed(Flaw.WRONG, "the answer is not of the type")


class _Unfit(_Flawed):
    """The data is not of the type; whether unknown keys are among the reasons."""

    def __init__(self, flaw: Flaw, problem: str, *, unknown_keys: bool = False) -> None:
        super().__init__(flaw, problem)
        self.unknown_keys = unknown_keys


def _asked(text: str, adapter: TypeAdapter[Any], extra: Literal["forbid"] | None) -> Any:
    """Validate strictly, and leniently only if every conversion that this needs is harmless.

    Raises:
        _Unfit: It is not of the type.
    """
    try:
        value, harmful = _leniently(text, adapter, extra)
    except _Unfit:
        raise
    except Exception as error:
        # A validator of the user's meets here what it was not written for.
        raise _Unfit(Flaw.WRONG, f"the answer can't be checked ({type(error).__name__}: {error})") from error
    if harmful:
        raise _unfit(harmful)
    return value


def _leniently(text: str, adapter: TypeAdapter[Any], extra: Literal["forbid"] | None) -> tuple[Any, list[ErrorDetails]]:
    try:
        return adapter.validate_json(text, strict=True, extra=extra), []
    except ValidationError as error:
        harmful = [each for each in error.errors(include_url=False) if not _harmless(each)]
    try:
        return adapter.validate_json(text, extra=extra), harmful
    except ValidationError as error:
        errors = error.errors(include_url=False)
        known = {each["loc"] for each in errors}
        raise _unfit([*errors, *(each for each in harmful if each["loc"] not in known)]) from error


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
            return isinstance(given, str) and _INTEGER.fullmatch(given.strip()) is not None
        case "float_type":
            return isinstance(given, str) and _NUMBER.fullmatch(given.strip()) is not None and _finite(given)
        case "bool_type":
            return isinstance(given, str) and given.strip().lower() in ("true", "false")
        case "date_type" | "datetime_type" | "time_type" | "time_delta_type":
            return False
        case _:  # not about a conversion, or one of a string to what strings are for
            return True


def _finite(number: str) -> bool:
    return math.isfinite(float(number))


def _unfit(errors: Sequence[ErrorDetails]) -> _Unfit:
    broken = errors[0]["type"] == "json_invalid"  # a lone surrogate: JSON can write it, and it is no character
    told = list(dict.fromkeys(f"{_name(each['loc'])}: {each['msg']}" for each in errors))
    more = f"; and {len(told) - 5} more" if len(told) > 5 else ""
    unknown = any(each["type"] in ("extra_forbidden", "unexpected_keyword_argument") for each in errors)
    return _Unfit(Flaw.BROKEN if broken else Flaw.WRONG, "; ".join(told[:5]) + more, unknown_keys=unknown)


def _name(where: tuple[int | str, ...]) -> str:
    return ".".join(map(str, where)) or "the answer"


@dataclass(frozen=True, slots=True)
class _Loss:
    """Something in the data that is not, or not so, in the value.

    Without a flaw it only can't be followed into the value, because a validator of the type puts it elsewhere.
    """

    where: tuple[int | str, ...]
    what: str
    flaw: Flaw | None = None


def _losses(data: Any, value: Any, where: tuple[int | str, ...]) -> Iterator[_Loss]:
    """Compare what was given with what came of it."""
    while isinstance(value, RootModel):
        value = cast("RootModel[Any]", value).root
    if _is_object(data):
        if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
            yield from _losses_of_fields(data, value, where)
        elif isinstance(value, Mapping):
            yield from _losses_of_mapping(data, cast("Mapping[Any, Any]", value), where)
        else:
            yield _Loss(where, _UNSEEN)
    elif isinstance(data, list):
        yield from _losses_of_list(cast("list[Any]", data), value, where)
    else:
        yield from _misread(data, value, where)


def _losses_of_list(data: list[Any], value: Any, where: tuple[int | str, ...]) -> Iterator[_Loss]:
    if isinstance(value, set | frozenset):
        yield from _losses_of_set(data, cast("frozenset[Any]", value), where)
    elif isinstance(value, list | tuple | deque) and len(items := [*cast("Iterable[Any]", value)]) == len(data):
        for index, (given, item) in enumerate(zip(data, items, strict=True)):
            yield from _losses(given, item, (*where, index))
    else:
        yield _Loss(where, _UNSEEN)


def _losses_of_set(data: list[Any], value: frozenset[Any], where: tuple[int | str, ...]) -> Iterator[_Loss]:
    decimals = any(isinstance(item, Decimal) for item in value)
    for index, given in enumerate(data):  # which member came of which is not known, nor needed
        if isinstance(given, dict | list):
            yield _Loss((*where, index), _UNSEEN)
        elif isinstance(given, _Inexact) and decimals:
            yield _Loss((*where, index), _TOO_EXACT, Flaw.WRONG)
        elif isinstance(given, str) and not value.isdisjoint(_timestamps(given)):
            yield _Loss((*where, index), _NO_DATE, Flaw.WRONG)


def _losses_of_fields(data: dict[str, Any], value: Any, where: tuple[int | str, ...]) -> Iterator[_Loss]:
    names, extra = _fields_of(cast("Any", type(value)))
    wraps = len(data) == 1 and any(isinstance(given, dict | list) for given in data.values())
    if names and wraps and not data.keys() & names.keys():
        yield _Loss(where, _UNSEEN)  # {"answer": {…}}, of a type that takes other keys and needs none of its own
    for key, given in data.items():
        if key in names:
            yield from _losses(given, getattr(value, names[key], None), (*where, key))
        elif extra not in ("allow", "ignore"):
            yield _Loss((*where, key), "Extra inputs are not permitted")


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


def _losses_of_mapping(data: dict[str, Any], value: Mapping[Any, Any], where: tuple[int | str, ...]) -> Iterator[_Loss]:
    if data.keys() <= value.keys():
        for key, given in data.items():
            yield from _losses(given, value[key], (*where, key))
    elif len(value) == len(data):
        for (key, given), (read_key, read_value) in zip(data.items(), value.items(), strict=True):
            yield from _misread(key, read_key, (*where, key))
            yield from _losses(given, read_value, (*where, key))
    elif len(value) < len(data) and not any(isinstance(key, str) for key in value):
        yield _Loss(where, "two of its keys mean the same", Flaw.AMBIGUOUS)  # {"1": …, "01": …}
    else:
        yield _Loss(where, _UNSEEN)


def _misread(data: Any, value: Any, where: tuple[int | str, ...]) -> Iterable[_Loss]:
    """What strict validation lets pass all the same."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(data, str):
        if isinstance(value, date) and value in _timestamps(data):
            return (_Loss(where, _NO_DATE, Flaw.WRONG),)
    elif isinstance(data, _Inexact) and isinstance(value, Decimal):
        return (_Loss(where, _TOO_EXACT, Flaw.WRONG),)
    elif isinstance(data, bool) != isinstance(value, bool) and isinstance(value, int | float) and data is not None:
        return (_Loss(where, f"{json.dumps(data)} is not {json.dumps(value)}", Flaw.WRONG),)  # Literal[1] takes true
    return ()


def _timestamps(text: str) -> list[date]:
    """What pydantic takes a text of digits for: "20240105" would be a day in August 1970."""
    found: list[date] = []
    for adapter in (_DATE, _DATETIME) if _TIMESTAMP.fullmatch(text) else ():
        with suppress(ValidationError):
            found.append(adapter.validate_python(text))
    return found


# What the type says of itself, as JSON schema.


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


def _wants_object(adapter: TypeAdapter[Any]) -> bool:
    alternatives = _alternatives(adapter)
    return bool(alternatives) and all(schema.get("type") in ("object", "null") for schema in alternatives)


def _is_bare(text: str, adapter: TypeAdapter[Any]) -> bool:
    """Whether it is a member of an enumeration, or may be a date and the like, without the quotes of a JSON string.

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
    inner = [each for each in data.values() if _is_object(each)]
    shown = [data, *inner, *(each for outer in inner for each in outer.values() if _is_object(each))]
    shown = [each for each in shown if each.keys() & _OF_SCHEMAS]
    schema = _schema(adapter) if shown else {}
    return any(each == schema or _describes_the_same(each, schema) for each in shown)


def _describes_the_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    for key in ("properties", "$defs"):
        mine, theirs = one.get(key), other.get(key)
        if _is_object(mine) and theirs and mine.keys() == theirs.keys() and all(map(_is_object, mine.values())):
            return True
    return False


def _is_object(data: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(data, dict)
