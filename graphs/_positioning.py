"""The positioner's craft: audience, strengths, weaknesses and differentiators of both products.

Every line is made of a product's own words and is checked like the strategist's: what doesn't hold is not
said.
"""

import re

from graphs import _review, _text
from graphs._features import listed
from graphs._types import SIDES, Comparison, Fact, Findings, Positioning, Row, Side, Stance, Statement, other

_FOR_DEVELOPERS = frozenset({"all", "dev", "develop", "doc", "docs", "lint", "test", "tests", "testing", "typing"})


def position(findings: Findings, comparison: Comparison) -> Positioning:
    """Where both products stand."""
    stances = {side: _stance(findings, comparison, side) for side in SIDES}
    return Positioning(ours=stances["ours"], competitor=stances["competitor"])


def _stance(findings: Findings, comparison: Comparison, side: Side) -> Stance:
    parts = {
        "audience": _audience(findings, side),
        "strengths": _strengths(findings, comparison, side),
        "weaknesses": _weaknesses(findings, comparison, side),
        "differentiators": _differentiators(findings, comparison, side),
    }
    sound = {key: tuple(s for s in said if _review.problem(s, findings) is None) for key, said in parts.items()}
    return Stance(**sound)


def say(text: str, *facts: Fact | str) -> Statement:
    """A statement with the ids of its facts."""
    ids = [fact if isinstance(fact, str) else fact.id for fact in facts]
    return Statement(text=text, facts=tuple(dict.fromkeys(ids)))


def quoted(fact: Fact) -> str:
    """A fact's words for use in a sentence: a field's value, or the quote, in quotation marks."""
    words = fact.values[0] if fact.values and fact.kind not in {"figure", "licence", "python"} else fact.quote
    return f"“{words.rstrip('.')}”"


def feature_quote(row: Row, side: Side, findings: Findings) -> str:
    """A feature in the words of this side's documents, quoted if the name stands there word for word."""
    known = findings.by_id()
    cell = row.cell(side)
    evidence = " ".join(known[fact].quote for fact in cell.facts).lower().replace("`", "")
    name = cell.text.split("; ")[0]
    return f"“{name}”" if name.lower().replace("`", "") in evidence else f"“{known[cell.facts[0]].quote.rstrip('.')}”"


def about_other(row: Row, side: Side, findings: Findings) -> bool:
    """Whether this side's feature is about the other product, as `requests-compatible API` is."""
    relations = {fact.passage for fact in findings.of(side, "relation")}
    known = findings.by_id()
    names_it = set(_text.terms(findings.product(other(side)).name)) & _text.all_stems(row.feature)
    return bool(names_it) and any(known[fact].passage in relations for fact in row.cell(side).facts)


def _audience(findings: Findings, side: Side) -> list[Statement]:
    name = findings.product(side).name
    said: list[Statement] = []
    fields = [f for f in findings.of(side, "audience", "frameworks") if f.values]
    for kind, verb in (
        ("audience", "names its intended audience as"),
        ("frameworks", "lists the frameworks"),
    ):
        facts = [f for f in fields if f.kind == kind]
        if facts:
            said.append(say(f"{name} {verb} {listed([quoted(f) for f in facts])}.", *facts))
    tagline = findings.of(side, "about")[:1]
    shown = {fact.passage for fact in tagline}
    own_words = [f for f in findings.of(side, "audience") if not f.values and f.passage not in shown]
    said += [say(f"{name} says of itself: {quoted(f)}.", f) for f in own_words[:2]]
    return [*(say(f"{name} introduces itself with {quoted(f)}.", f) for f in tagline), *said]


def _strengths(findings: Findings, comparison: Comparison, side: Side) -> list[Statement]:
    name = findings.product(side).name
    said = [say(f"{name} reports: {quoted(f)}.", f) for f in findings.of(side, "figure")[:2]]
    said += _status(findings, side, "56")
    rows = sorted(comparison.shared(), key=lambda row: -row.weight)
    rows = [row for row in rows if len(feature_quote(row, side, findings)) <= 60][:4]
    if rows:
        names = listed([feature_quote(row, side, findings) for row in rows])
        said.append(
            say(
                f"{name} covers the common ground, such as {names}.",
                *(f for r in rows for f in r.cell(side).facts),
            )
        )
    implementations = findings.of(side, "implementations")
    if len(implementations) > 1:
        said.append(say(f"{name} lists {listed([quoted(f) for f in implementations])}.", *implementations))
    extras = [fact for fact in findings.of(side, "extras") if fact.values[0] not in _FOR_DEVELOPERS]
    if len(extras) > 1:
        few = extras[:6]
        among = "among its optional extras" if len(extras) > len(few) else "as optional extras"
        said.append(say(f"{name} lists {listed([quoted(f) for f in few])} {among}.", *few))
    return said


def _status(findings: Findings, side: Side, grades: str) -> list[Statement]:
    """The declared development status, if it is one of these grades: 1 is planning, 5 is stable, 7 is inactive."""
    name = findings.product(side).name
    facts = [fact for fact in findings.of(side, "maturity") if fact.values[0][:1] in grades]
    return [say(f"{name} declares the status {quoted(fact)}.", fact) for fact in facts]


def _weaknesses(findings: Findings, comparison: Comparison, side: Side) -> list[Statement]:
    """What a product admits, and what its documents don't mention while the other's do."""
    name = findings.product(side).name
    said = [say(f"{name} says: {quoted(f)}.", f) for f in findings.of(side, "limit")[:3]]
    said += _status(findings, side, "12347")
    said += _only_documented(findings, comparison, other(side), 4)
    return [*said, *only_listed(findings, other(side))]


def _only_documented(findings: Findings, comparison: Comparison, side: Side, limit: int) -> list[Statement]:
    """What only this side's documents mention, in one statement; each feature is checked on its own first."""
    name, rival = findings.product(side).name, findings.product(other(side)).name
    sound: list[tuple[str, tuple[str, ...]]] = []
    for row in comparison.alone(side):
        words, facts = feature_quote(row, side, findings), row.cell(side).facts
        alone = say(f"{name} documents {words}; the documentation of {rival} does not mention it.", *facts)
        if not about_other(row, side, findings) and _review.problem(alone, findings) is None:
            sound.append((words, facts))
    if not sound:
        return []
    pronoun = "them" if len(sound[:limit]) > 1 else "it"
    text = f"{name} documents {listed([words for words, _ in sound[:limit]])}; "
    text += f"the documentation of {rival} does not mention {pronoun}."
    return [say(text, *(fact for _, facts in sound[:limit] for fact in facts))]


def only_listed(findings: Findings, side: Side) -> list[Statement]:
    """What this side's metadata lists and the other's does not: Python implementations, free threading."""
    name, rival = findings.product(side).name, findings.product(other(side)).name
    listed_there = {value for fact in findings.of(other(side), "implementations") for value in fact.values}
    extra = [f for f in findings.of(side, "implementations") if f.values[0] not in {*listed_there, "CPython"}]
    said: list[Statement] = []
    if extra:
        words = listed([quoted(fact) for fact in extra])
        said.append(say(f"{name} lists {words}; the metadata of {rival} does not list {words}.", *extra))
    threading = findings.of(side, "free threading")
    if threading and not findings.of(other(side), "free threading"):
        text = f"{name} lists “Free Threading”; the metadata of {rival} does not list “Free Threading”."
        said.append(say(text, *threading))
    return said


def _differentiators(findings: Findings, comparison: Comparison, side: Side) -> list[Statement]:
    name, rival = findings.product(side).name, findings.product(other(side)).name
    said: list[Statement] = []
    for row in comparison.contrasts(side)[:3]:
        words = feature_quote(row, side, findings)
        text = f"{name} documents {words}; {rival} does not support it."
        said.append(say(text, *row.cell(side).facts, *row.cell(other(side)).facts))
    said += _only_documented(findings, comparison, side, 6)
    said += only_listed(findings, side)
    return said + python_range(findings, side)


def python_range(findings: Findings, side: Side) -> list[Statement]:
    """Older or newer Python versions than the other's, as both declare them."""
    name, rival = findings.product(side).name, findings.product(other(side)).name
    said: list[Statement] = []
    if (floors := _floors(findings)) and floors[side][0] < floors[other(side)][0]:
        own, theirs = floors[side][1], floors[other(side)][1]
        text = f"{name} accepts older Python versions than {rival}: “{own.values[0]}” against “{theirs.values[0]}”."
        said.append(say(text, own, theirs))
    if newer := newer_versions(findings, side):
        last = max(findings.of(other(side), "python versions"), key=lambda fact: as_version(fact.values[0]))
        words = listed([f.values[0] for f in newer])
        said.append(say(f"{name} lists Python {words}; {rival} lists versions up to {last.values[0]}.", *newer, last))
    return said


def _floors(findings: Findings) -> dict[Side, tuple[tuple[int, ...], Fact]]:
    """The lowest Python version that each side's metadata accepts; empty unless both state one."""
    floors: dict[Side, tuple[tuple[int, ...], Fact]] = {}
    for side in SIDES:
        for fact in findings.of(side, "python"):
            if side not in floors and (match := re.search(r"(?:>=|^)\s*(\d+(?:\.\d+)*)", fact.values[0])):
                floors[side] = (as_version(match[1])[:2], fact)
    return floors if len(floors) == 2 else {}


def newer_versions(findings: Findings, side: Side) -> list[Fact]:
    """Python versions this side lists that are newer than all the other side lists; none if the other lists none."""
    theirs = [as_version(f.values[0]) for f in findings.of(other(side), "python versions")]
    return [f for f in findings.of(side, "python versions") if theirs and as_version(f.values[0]) > max(theirs)]


def as_version(text: str) -> tuple[int, ...]:
    """`3.10` as `(3, 10)`."""
    return tuple(int(part) for part in re.findall(r"\d+", text))
