"""Reading what a language model answered into a declared type, or saying in what way the answer is malformed.

One rule stands above all: a malformed answer never becomes a wrong value. What can be read in one way only is read
(fenced code, prose around, JSON5, Python literals); everything else is a flaw with a problem in plain words, which
can be sent back to the model. Correcting costs one more call; a wrong value costs what is built on it.

Therefore:

- All pieces of JSON in an answer (`pieces`) must be of the type and equal, or it is ambiguous. Only what can't be meant
  as an answer (``[1]`` where an object is wanted, ``{name}``) is passed over.
- Each is read by a strict grammar (`syntax`) and fitted to the type without guessing (`fitting`, `losses`). Nothing is
  repaired.
- An answer of which the end is not known is not read, not even if it parses: what was lost may be a second answer,
  or more digits.

What no parser can see is beyond it: another digit or letter is another valid answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from pydantic import TypeAdapter

from orchestra.models.fitting import fit, is_bare, wants_object
from orchestra.models.flaws import Flaw, Flawed
from orchestra.models.pieces import EDGES, Piece, fenced, groups, stand_alone, unfenced
from orchestra.models.syntax import is_object, is_short, loaded, strict

_BARE = "read as a bare word"

_THINKING = re.compile(r"<(think|thinking)>.*?</\1>", re.IGNORECASE | re.DOTALL)
_THINKING_BEGINS = re.compile(r"<(?:think|thinking)>", re.IGNORECASE)
_THINKING_ENDS = re.compile(r"(?:\n[ \t]*)?</(?:think|thinking)>", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{\{?[A-Za-z_][\w .-]*+\}?\}")

_Named: TypeAlias = "tuple[str, dict[str, Any]]"


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
        relaxed = is_short(pieces)
        return _agreed([_judged(piece, adapter, relaxed=relaxed) for piece in pieces])
    except Flawed as flawed:
        return _flawed(flawed)


def looks_like_tool_call(text: str, names: Collection[str]) -> _Named | None:
    """The call that a model wrote as text, because its server does not know of tools.

    Args:
        text: What it answered, whole.
        names: The tools that it was offered.

    Returns:
        The tool's name and its arguments, if there is exactly one such call and nothing else in brackets.
    """
    try:
        text = _without_thinking(text.strip(EDGES))
        text = _after_thinking(text) if text else text
        pieces = [piece for piece in groups(text) if "{" in piece.text]  # [TOOL_CALLS] is a marker
        if len(pieces) != 1:
            return None
        data, _ = loaded(pieces[0], relaxed=is_short(pieces))
        return _call(data, names)
    except Flawed:
        return None


def _call(data: Any, names: Collection[str]) -> _Named | None:
    if is_object(data) and data.keys() == {"tool_calls"}:
        data = data["tool_calls"]
    if isinstance(data, list) and len(cast("list[Any]", data)) == 1:
        data = cast("list[Any]", data)[0]
    if is_object(data) and "function" in data and data.keys() <= {"function", "type", "id"}:
        data = data["function"]
    if not is_object(data) or not data.keys() <= {"name", "arguments", "parameters", "type", "id"}:
        return None
    given = [data[key] for key in ("arguments", "parameters") if key in data]
    name = data.get("name")
    if not isinstance(name, str) or name not in names or len(given) != 1:
        return None
    arguments = strict(given[0]) if isinstance(given[0], str) else given[0]
    return (name, arguments) if is_object(arguments) else None


def _words_of(answer: Answer) -> str:
    if answer.refusal.strip(EDGES) or answer.finish == "content_filter":
        withheld = "a filter withheld the answer" if answer.finish == "content_filter" else "the model declined"
        raise Flawed(Flaw.REFUSED, f"{withheld}: {answer.refusal}" if answer.refusal.strip(EDGES) else withheld)
    text = answer.text.strip(EDGES)
    if not text:
        raise Flawed(Flaw.EMPTY, "the answer is empty")
    if answer.finish == "length":
        raise Flawed(Flaw.CUT, "the answer was too long and was cut off; a shorter one is needed")
    if answer.finish not in ("stop", "tool_calls"):
        why = f" ({answer.finish})" if answer.finish else ""
        raise Flawed(Flaw.TRUNCATED, f"the answer ended before it was complete{why}")
    text = _without_thinking(text)
    if not text:
        raise Flawed(Flaw.EMPTY, "the answer holds nothing but thinking")
    return text


def _without_thinking(text: str) -> str:
    start = 0
    while thinking := _THINKING.match(text, start):
        start = thinking.end()
        while start < len(text) and text[start] in EDGES:
            start += 1
    return "" if _THINKING_BEGINS.match(text, start) else text[start:]


def _after_thinking(text: str) -> str:
    """Leave out thinking that only ends here: many chat templates begin it in the prompt.

    Raises:
        Flawed: There is nothing else, or what ends it may stand in a string.
    """
    ends = [] if text[0] in "{[\"'`" else [*_THINKING_ENDS.finditer(text)]
    if not ends:
        return text
    thinking = text[: ends[-1].start()]
    if not ends[-1].group().startswith("\n"):  # alone in its line it can't be in a string
        groups(thinking)
        if thinking.count('"') % 2:
            raise Flawed(Flaw.BROKEN, "the answer holds the end of thinking inside a string")
    text = text[ends[-1].end() :].strip(EDGES)
    if not text:
        raise Flawed(Flaw.EMPTY, "the answer holds nothing but thinking")
    return text


def _pieces(text: str, adapter: TypeAdapter[Any]) -> list[Piece]:
    """Find what may be the answer: the text if it is a scalar, or whatever stands in brackets.

    Raises:
        Flawed: There is nothing, or it is a part of something else.
    """
    for piece in (Piece(text), unfenced(text)):
        if piece.text[:1] not in ("", "{", "["):
            scalar = _scalar(piece, adapter)
            if scalar is not None:
                return [scalar]
    pieces = groups(text)
    if not pieces:
        return [_scalar(piece, adapter) or piece for piece in fenced(text)]
    meant = [piece for piece in pieces if not _PLACEHOLDER.fullmatch(piece.text)] or pieces
    if len(meant) > 1 and any("{" not in piece.text for piece in meant) and wants_object(adapter):
        meant = [piece for piece in meant if "{" in piece.text] or meant  # [1] is a note
    stand_alone(text, pieces, meant)
    return [*{piece.text: piece for piece in meant}.values()]


def _scalar(piece: Piece, adapter: TypeAdapter[Any]) -> Piece | None:
    """The piece, if it is a number or the like as it stands, or a word that is one of the type's own."""
    try:
        plain = json.dumps(strict(piece.text))
    except Flawed:
        plain = None
    if is_bare(piece.text, plain, adapter):
        return Piece(json.dumps(piece.text), cleaned=_both(piece.cleaned, _BARE))
    return None if plain is None else piece


def _judged(piece: Piece, adapter: TypeAdapter[Any], *, relaxed: bool) -> Reading:
    try:
        data, how = loaded(piece, relaxed=relaxed)
        return Reading(value=fit(data, adapter), cleaned=_both(piece.cleaned, how))
    except Flawed as flawed:
        return _flawed(flawed)


def _both(one: str, other: str) -> str:
    return "; ".join(filter(None, (one, other)))


def _agreed(readings: list[Reading]) -> Reading:
    """What all pieces were read as.

    Raises:
        Flawed: They were not read as the same.
    """
    first, *others = readings
    if not others:
        return first
    flawed = [reading for reading in readings if reading.flaw is not None]
    if len(flawed) == len(readings):
        order = (Flaw.AMBIGUOUS, Flaw.WRONG, Flaw.BROKEN)
        return min(reversed(flawed), key=lambda reading: order.index(reading.flaw or Flaw.BROKEN))
    if flawed:
        problem = f"the answer holds {len(readings)} pieces of JSON, and not all are an answer ({flawed[0].problem})"
        raise Flawed(Flaw.AMBIGUOUS, f"{problem}; give the answer and no other JSON")
    if not all(_same(first.value, other.value) for other in others):
        raise Flawed(Flaw.AMBIGUOUS, f"the answer holds {len(readings)} answers that differ; give only one")
    return first


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and repr(one) == repr(other)  # 1 equals True, and is another value


def _flawed(flawed: Flawed) -> Reading:
    line = " ".join(flawed.problem.split())
    return Reading(flaw=flawed.flaw, problem=line if len(line) <= 600 else f"{line[:599]}…")
