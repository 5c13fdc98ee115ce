"""Finding what may be the answer in what a language model wrote: fences, prose around, several candidates.

Every piece of JSON in an answer counts. An example, a quoted schema or a draft beside the answer can't be told from the
answer. And a piece counts only where it stands alone: brackets inside a function call, in YAML, in XML, or beside a
bracket too many are a part of something, and a part of a recursive type looks like the whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestra.models.flaws import Flaw, Flawed

_MOST = 50  # pieces in one answer
_DEEPEST = 100  # brackets within brackets; pydantic's own parser ends at 200, the stack not far beyond
_FENCED, _EMBEDDED = "taken out of fenced code", "taken out of prose"

EDGES = " \t\r\n\f\v\u00a0\ufeff\u200b\u2060"
"""What is no part of an answer around it. Joiners such as U+200D are no space: inside words they mean something."""

# Possessive, so that what is never closed costs one look to the end and not one from everywhere.
QUOTED = re.compile(r""""(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+'""", re.DOTALL)
"""A string in quotes, as JSON, JSON5 and Python have it."""

TOKEN = re.compile(
    rf"""
    {QUOTED.pattern} | ["']                                 # a string; a quote that is never closed
    | //[^\n]*+ | \#[^\n]*+ | /\*(?:[^*]|\*(?!/))*+\*/ | /\*  # a comment; one that is never closed
    | [{{}}\[\]]
    """,
    re.VERBOSE | re.DOTALL,
)
"""A string, a comment or a bracket, whichever of the grammars that we read a text is written in."""

_BRACKET = re.compile(r"[{}\[\]]")
_LANGUAGE = re.compile(r"(?:^|[\s`])(?:json[5c]?|python|py|javascript|js)\Z", re.IGNORECASE)
_KEY = re.compile(r"^[ \t>*_-]*+\w[\w. `*-]{0,40}:(?!\S*//)", re.MULTILINE)  # of YAML or a list, not of a URL
_TAG = re.compile(r"</?[A-Za-z][\w:-]*+(?:\s[^<>]*+)?/?>")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the answer that may be the answer.

    Attributes:
        text: What it says.
        depth: How many brackets stand within brackets in it.
        cleaned: What was done to find it; empty if it is the whole answer.
        start: Where in the answer it begins, if it was found by its brackets.
    """

    text: str
    depth: int = 0
    cleaned: str = ""
    start: int = 0

    @property
    def end(self) -> int:
        """Where in the answer it ends."""
        return self.start + len(self.text)


def groups(text: str) -> list[Piece]:
    """Everything in brackets that is not itself in brackets.

    Raises:
        Flawed: A bracket is missing or too many, or there are too many groups.
    """
    pieces: list[Piece] = []
    position = 0
    while bracket := _BRACKET.search(text, position):
        start = bracket.start()
        if bracket.group() in "}]":
            raise Flawed(Flaw.BROKEN, f"the {bracket.group()!r} {_place(text, start)} closes nothing")
        if len(pieces) == _MOST:
            raise Flawed(Flaw.AMBIGUOUS, f"the answer holds more than {_MOST} pieces of JSON; give only one")
        position, depth = _end_of(text, start)
        how = _FENCED if text.count("```", 0, start) % 2 else _EMBEDDED
        whole = start == 0 and position == len(text)
        pieces.append(Piece(text[start:position], depth, "" if whole else how, start))
    return pieces


def _end_of(text: str, start: int) -> tuple[int, int]:
    closing: list[str] = []
    depth = 0
    for token in TOKEN.finditer(text, start):
        match token.group():
            case "{" | "[" as opening:
                closing.append("}" if opening == "{" else "]")
                depth = max(depth, len(closing))
                if depth > _DEEPEST:
                    raise Flawed(Flaw.BROKEN, f"the JSON is nested deeper than {_DEEPEST} levels")
            case "}" | "]" as closed:
                if closing.pop() != closed:
                    raise Flawed(Flaw.BROKEN, f"the {closed!r} {_place(text, token.start())} closes another bracket")
                if not closing:
                    return token.end(), depth
            case '"' | "'" | "/*" as opening:
                raise Flawed(Flaw.BROKEN, f"the {opening} {_place(text, token.start())} is never closed")
            case _:
                pass
    raise Flawed(Flaw.BROKEN, f"the {text[start]!r} {_place(text, start)} is never closed")


def _place(text: str, position: int) -> str:
    return f"in line {text.count(chr(10), 0, position) + 1}"


def unfenced(text: str) -> Piece:
    """What stands in fenced code, if that is all there is: the only place where a string may hold brackets.

    Empty if there is something else.
    """
    first, _, rest = text.partition("\n")
    fenced = first.startswith("```") and rest.endswith("```")
    return Piece(rest[:-3].strip(EDGES) if fenced else "", cleaned=_FENCED)


def fenced(text: str) -> list[Piece]:
    """What stands in fenced code, if anything is fenced, else the text: it holds no brackets.

    Raises:
        Flawed: Fenced code has no end, or there is too much of it.
    """
    found: list[str] = []
    lines: list[str] | None = None
    for line in text.splitlines():
        if lines is None:
            lines = [] if line.lstrip().startswith("```") else None
        elif line.strip() == "```":
            found.append("\n".join(lines).strip(EDGES))
            lines = None
        else:
            lines.append(line)
    if lines is not None:
        raise Flawed(Flaw.BROKEN, "the fenced code is never closed")
    if len(found) > _MOST:
        raise Flawed(Flaw.AMBIGUOUS, f"the answer holds more than {_MOST} pieces of code; give only one")
    return [Piece(each, cleaned=_FENCED) for each in dict.fromkeys(found)] or [Piece(text)]


def stand_alone(text: str, pieces: list[Piece], meant: list[Piece]) -> None:
    """Make sure that no piece is a part of something else: of a call, YAML, XML, or JSON that lost a bracket.

    Args:
        text: The answer.
        pieces: All its groups of brackets.
        meant: Those of them that may be meant as the answer.

    Raises:
        Flawed: One is.
    """
    starts = {piece.start for piece in meant}
    edges = [0, *(edge for piece in pieces for edge in (piece.start, piece.end)), len(text)]
    outside = [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    lines = sum(len(_KEY.findall(part)) for part in outside)
    for piece, before, after in zip(pieces, outside, outside[1:], strict=False):
        line = before[before.rfind("\n") + 1 :]
        a_key = _KEY.match(line) is not None and line.rstrip(" \t*_").endswith(":")
        if piece.start in starts and (_goes_on(before, after) or (a_key and lines > 1)):
            raise Flawed(Flaw.BROKEN, f"the JSON {_place(text, piece.start)} is a part of something that is not JSON")
    for index, part in enumerate(outside):
        inner = _without_tags_beside(part, first=index == 0, last=index == len(outside) - 1)
        if _TAG.search(inner):
            raise Flawed(Flaw.BROKEN, "the answer mixes JSON with XML or HTML")


def _goes_on(before: str, after: str) -> bool:
    """Whether what stands before or after a piece of JSON belongs to it."""
    if before.count('"') % 2 or after.count('"') % 2:
        return True  # it stands in a string
    tail, head = before.rstrip(EDGES), after.lstrip(EDGES)
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
