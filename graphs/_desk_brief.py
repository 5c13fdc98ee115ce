"""The desk's answer: statements that cite evidence, the evidence itself, and how it came about; and its review.

A statement is a line that ends in what it rests on: `- The fleet has 48 bikes. [Q1, C2]`. So a person can check it, and
so does the reviewer, by rules: whether evidence supports a statement is not left to the taste of its author's kind.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from graphs import _text
from graphs._desk import FOLDER, Computation, Computations, Desk, Finding, Findings, flat
from graphs._documents import Folder
from graphs._types import RULES
from orchestra import Review

MAX_STATEMENT = 600  # characters
MAX_LINES = 12  # of a program's output that an extractive answer shows
MAX_CODE = 30  # lines of a program that is shown
_STATEMENT = re.compile(r"^- (?P<text>.*) \[(?P<cites>[QC\d, ]*)\]$", re.MULTILINE)
_CITES = re.compile(r"\s*\[\s*[QC]\d+(?:\s*,\s*[QC]\d+)*\s*\]")
_EVIDENCE = "\n## Evidence\n"
_EXTRACTIVE = (
    "*Written without a language model: these are extracts, the passages that share the most words with the request "
    "and the sums of the columns that it names. Nobody has judged whether they answer it, or whether they agree.*"
)


class Statement(NamedTuple):
    """A sentence of an answer, and the ids of what it rests on."""

    text: str
    cites: tuple[str, ...]


class Evidence:
    """All that a team found and computed, each once, with an id: `Q1` is a quote, `C1` a computation.

    The same inputs give the same ids, so author and reviewer mean the same by them.

    Args:
        outputs: what the tasks before delivered, whatever it is.
    """

    def __init__(self, outputs: Iterable[Any]) -> None:
        sources = [each for each in outputs if isinstance(each, Findings | Computations)]
        found = [finding for each in sources if isinstance(each, Findings) for finding in each.found]
        done = [one for each in sources for one in (each.computed if isinstance(each, Findings) else each.done)]
        self.quotes = {f"Q{i}": finding for i, finding in enumerate(dict.fromkeys(found), 1)}
        self.computed = {f"C{i}": one for i, one in enumerate(dict.fromkeys(done), 1)}
        self.ids = [*self.quotes, *self.computed]
        self.notes = [note for each in sources for note in each.notes]
        self.made_by = {type(each).__name__: each.made_by for each in sources}

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.quotes or self.computed)

    def text(self, id_: str) -> str:
        """What a statement that cites this may say."""
        if (quote := self.quotes.get(id_)) is not None:
            file, _, _lines = quote.passage.rpartition(":")
            return f"{quote.quote} ({file}, {quote.heading})"
        one = self.computed[id_]
        return f"{one.what}: {one.output}"

    def shown(self) -> str:
        """All of it, as an author sees it."""
        quotes = [f"{id_}: “{one.quote}” ({_place(one)})" for id_, one in self.quotes.items()]
        return "\n".join([*quotes, *(f"{id_}: {one.what}:\n{one.output}" for id_, one in self.computed.items())])

    def extracts(self) -> Iterator[Statement]:
        """Its own words as statements: the quotes, and the lines of the outputs."""
        yield from (Statement(f"“{one.quote}” {one.heading}".strip(), (id_,)) for id_, one in self.quotes.items())
        for id_, one in self.computed.items():
            lines = [flat(line) for line in one.output.splitlines() if line.strip()] if one.code else []
            yield from (Statement(line, (id_,)) for line in lines[:MAX_LINES])


def _place(finding: Finding) -> str:
    return ", ".join(filter(None, (finding.passage, finding.heading)))


# ------------------------------------------------------------------------------------------------------- the brief


def brief(  # noqa: PLR0917 -- its parts, in order
    desk: Desk,
    folder: Folder,
    evidence: Evidence,
    statements: Sequence[Statement] = (),
    unanswered: Sequence[str] = (),
    made_by: str = RULES,
) -> str:
    """Write the answer in Markdown; without statements, of extracts."""
    by_rules = not statements
    statements = [*(statements or evidence.extracts())]
    parts = [f"# {desk.question}"]
    if desk.sample:
        parts.append(
            f"*No folder was named, so this is about the sample documents, an invented fleet of bikes, in "
            f"`{desk.path}`. For yours, add `folder: PATH` to the request, or set {FOLDER}.*"
        )
    parts += [_EXTRACTIVE] if by_rules and evidence else []
    parts.append("\n".join(line(each) for each in statements) or "Nothing was found, and nothing was computed.")
    if unanswered:
        parts.append("\n".join(["What the evidence does not tell:\n", *(f"- {flat(one)}" for one in unanswered)]))
    cited = evidence.ids if by_rules else dict.fromkeys(id_ for each in statements for id_ in each.cites)
    entries = [_entry(id_, evidence, quoted=not by_rules) for id_ in cited if id_ in evidence.ids]
    parts.append("\n\n".join([_EVIDENCE.strip(), *(entries or ["None."])]))
    parts.append("\n".join(["## How this was made\n", *(f"- {each}" for each in _account(folder, evidence, made_by))]))
    return "\n\n".join(parts)


def line(statement: Statement) -> str:
    """A statement on a line of its own; marks that its author wrote into the text are taken out."""
    text = _CITES.sub("", flat(statement.text))
    return f"- {text.lstrip('-*# ')[:MAX_STATEMENT]} [{', '.join(statement.cites)}]"


def _entry(id_: str, evidence: Evidence, *, quoted: bool) -> str:
    if (quote := evidence.quotes.get(id_)) is not None:
        return f"**{id_}** “{quote.quote}” — {_place(quote)}" if quoted else f"**{id_}** {_place(quote)}"
    one: Computation = evidence.computed[id_]
    lines = len(one.code.splitlines())
    if lines > MAX_CODE:
        how = f", by a program of {lines} lines that the task's result holds"
    else:
        how = f"\n\n{_fenced(one.code, 'python')}\n\nprints" if lines else ""
    return f"**{id_}** {one.what}{how}:\n\n{_fenced(one.output)}"


def _fenced(text: str, language: str = "") -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _account(folder: Folder, evidence: Evidence, made_by: str) -> Iterator[str]:
    documents = len({passage.file for passage in folder.passages})
    tables = len(folder.tables)
    yield f"Read: {documents} documents in {len(folder.passages)} passages and {tables} data files, in `{folder.path}`."
    skipped = [f"{name} ({why})" for name, why in folder.skipped.items()]
    if skipped:
        more = f" and {len(skipped) - 10} more" if len(skipped) > 10 else ""
        yield f"Not read: {'; '.join(skipped[:10])}{more}."
    yield from (f"{name}: {note}." for name, note in folder.notes.items())
    found, computed = (evidence.made_by.get(kind.__name__, "nobody") for kind in (Findings, Computations))
    yield f"Quotes by {found}, computations by {computed}, written by {made_by}, reviewed by {RULES}."
    yield from map(flat, evidence.notes)


# ------------------------------------------------------------------------------------------------------ the review


def review(draft: str, evidence: Evidence, request: str) -> Review:
    """Approve a draft if each statement is supported by what it cites; offer it without the others."""
    body, mark, rest = draft.partition(_EVIDENCE)
    refused: list[tuple[str, str]] = []

    def held(match: re.Match[str]) -> str:
        cites = tuple(filter(None, re.split(r"[,\s]+", match["cites"])))
        if why := problem(Statement(match["text"], cites), evidence, request):
            refused.append((match["text"], why))
            return ""
        return match[0]

    kept = _STATEMENT.sub(held, body)
    if not refused:
        return Review(approved=True)
    if not _STATEMENT.search(kept):
        kept += "\n".join([f"{_EXTRACTIVE}\n", *map(line, evidence.extracts()), ""])
        mark = "\n".join([_EVIDENCE, *(f"{_entry(id_, evidence, quoted=False)}\n" for id_ in evidence.ids)])
        rest = "\n" + rest[max(0, rest.find("## How this was made")) :]
    left = "\n".join(["## Left out in review\n", *(f"- ~~{text}~~ {why}." for text, why in refused)])
    revised = re.sub(r"\n{3,}", "\n\n", f"{kept.rstrip()}\n\n{left}\n{mark}{rest}")
    return Review(approved=False, reasons=tuple(f"“{text}”: {why}" for text, why in refused), revised=revised)


def problem(statement: Statement, evidence: Evidence, request: str = "") -> str | None:
    """Why a statement is not supported by what it cites; `None` if it is.

    Supported is a statement whose words in quotes and whose numbers stand in what it cites, and which shares a word
    with it. A number may be rounded, or come from the request. That is a floor, not a proof.
    """
    text, cites = statement
    if not cites:
        return "it cites nothing"
    if strange := [id_ for id_ in cites if id_ not in evidence.ids]:
        return f"there is no {', '.join(strange)}"
    material = flat(" ".join(evidence.text(id_) for id_ in cites))
    for quote in re.findall(r"“([^“”]+)”", text):
        if flat(quote) not in material:
            return f"“{quote}” does not stand in what it cites"
    known = _text.numbers(f"{material} {request}".replace("-", " "))
    for number in sorted(_text.numbers(text.replace("-", " "))):
        if not any(_rounds_to(each, number) for each in known):
            return f"the number {number} does not stand in what it cites"
    if not set(_text.terms(text)) & _text.all_stems(material):
        return "what it cites does not speak of it"
    return None


def _rounds_to(exact: str, said: str) -> bool:
    """Whether a number, rounded to as many places as were said, is what was said: 4.112 may be called 4.1."""
    if exact == said:
        return True
    try:
        return abs(float(exact) - float(said)) <= 0.5 * 10 ** -len(said.partition(".")[2]) * 1.000001
    except ValueError:  # a version
        return False
