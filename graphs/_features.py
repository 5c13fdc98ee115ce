"""The comparer's craft: the same feature under two names, and what one side's documents don't mention.

Two names match when they share their telling terms (rare ones weigh more) and their characters. A feature
without a match is looked up in everything the other side's documents say, so that a mention in passing counts
too.
"""

# ruff: noqa: RUF001 -- sources are written with typographic dashes

import itertools
import re
from collections import defaultdict
from dataclasses import dataclass

from graphs import _text
from graphs._types import SIDES, Cell, Comparison, Fact, Findings, Row, Side, other

SAME = 0.60  # two names on one side are one feature
MATCH = 0.50  # two names on two sides are one feature
CLOSE = 0.32  # two names on two sides, both without a partner, may be one feature: a person has to say
CLOSE_TO_PAIRED = 0.44  # the same, where one of them has its partner already
_CHANGES = re.compile(r"v?\d+\.\d|change|release|fixed|what'?s new", re.IGNORECASE)
PROFILE = (
    ("version", "Version"),
    ("licence", "Licence"),
    ("maturity", "Development status"),
    ("python", "Python required"),
    ("python versions", "Python versions listed"),
    ("implementations", "Implementations listed"),
    ("free threading", "Free threading"),
    ("platforms", "Operating systems listed"),
    ("frameworks", "Frameworks listed"),
    ("typing", "Typing"),
    ("dependencies", "Required packages"),
    ("extras", "Optional extras"),
)


@dataclass
class Feature:
    """One feature of one side: every name it has there, with the facts."""

    names: list[str]
    facts: list[Fact]

    @property
    def weight(self) -> float:
        """How prominent it is in its documents."""
        return max(fact.weight for fact in self.facts)

    @property
    def title(self) -> str:
        """Its shortest name that has more than one word, else its shortest name."""
        return min(
            self.names,
            key=lambda name: (" " not in name and len(self.names) > 1 and "/" not in name, len(name)),
        )


def compare(findings: Findings) -> Comparison:
    """Feature by feature, and field by field, what each side's documents say."""
    weights = _text.inverse_frequency([f.name for f in findings.facts if f.kind == "feature"])
    features: dict[Side, list[Feature]] = {side: _merge(findings.of(side, "feature"), weights) for side in SIDES}
    rows = [_row(findings, pair) for pair in _pair(features, weights)]
    rows = _closest(rows, weights)
    # Differences first: what one side denies, what only one side mentions, then the common ground.
    rows.sort(
        key=lambda r: (
            not _denied(r),
            r.ours.mentioned and r.competitor.mentioned,
            not r.ours.mentioned,
            -r.weight,
        )
    )
    return Comparison(rows=(*_profile(findings), *rows))


def _closest(rows: list[Row], weights: dict[str, float]) -> list[Row]:
    """Where only one side mentions a feature, note what comes close to it on the other side.

    Two such rows become one. A feature that has its partner already can still be close to another one.
    """
    alone = [r for r in rows if r.competitor.mentioned and not r.ours.mentioned]
    paired = [r for r in rows if r.competitor.mentioned and r.ours.mentioned]
    gone: set[str] = set()
    noted: list[Row] = []
    for row in rows:
        if row.ours.mentioned and not row.competitor.mentioned:
            free = [r for r in alone if r.feature not in gone]
            scored = [(_text.overlap(row.feature, _name(r), weights) - CLOSE, r) for r in free]
            scored += [(_text.overlap(row.feature, _name(r), weights) - CLOSE_TO_PAIRED, r) for r in paired]
            margin, nearest = max(scored, key=lambda s: s[0], default=(-1.0, None))
            if nearest and margin >= 0:
                if nearest in alone:
                    gone.add(nearest.feature)
                near = nearest.competitor.model_copy(update={"unsure": True, "text": _name(nearest)})
                noted.append(row.model_copy(update={"competitor": near}))
                continue
        noted.append(row)
    return [row for row in noted if row.ours.mentioned or row.feature not in gone]


def _name(row: Row) -> str:
    """What the competitor's documents call the feature of a row."""
    return row.competitor.text.split("; ")[0]


def _denied(row: Row) -> bool:
    return row.ours.denied or row.competitor.denied


def _merge(facts: list[Fact], weights: dict[str, float]) -> list[Feature]:
    """Facts that name the same feature, together."""
    merged: list[Feature] = []
    for fact in facts:
        for feature in merged:
            if any(_text.overlap(fact.name, name, weights) >= SAME for name in feature.names):
                feature.names.append(fact.name)
                feature.facts.append(fact)
                break
        else:
            merged.append(Feature([fact.name], [fact]))
    return merged


def _pair(features: dict[Side, list[Feature]], weights: dict[str, float]) -> list[dict[Side, list[Feature]]]:
    """Group the features of both sides: one with one, or several with one, or alone."""
    scored: list[tuple[float, int, int]] = []
    for i, ours in enumerate(features["ours"]):
        for j, theirs in enumerate(features["competitor"]):
            score = max(_text.overlap(a, b, weights) for a in ours.names for b in theirs.names)
            if score >= MATCH:
                scored.append((score, i, j))
    partners: dict[tuple[Side, int], list[int]] = defaultdict(list)
    for _, i, j in sorted(scored, key=lambda s: -s[0]):
        mine, yours = partners["ours", i], partners["competitor", j]
        # Nothing is chained: a feature that shares a partner has only this one.
        if (not mine or (len(mine) == 1 and not yours and len(partners["competitor", mine[0]]) == 1)) and (
            not yours or (not mine and len(partners["ours", yours[0]]) == 1)
        ):
            mine.append(j)
            yours.append(i)
    pairs: list[dict[Side, list[Feature]]] = []
    done: set[int] = set()
    for i, ours in enumerate(features["ours"]):
        theirs = partners["ours", i]
        if theirs and theirs[0] in done:
            continue
        done.update(theirs)
        together = partners["competitor", theirs[0]] if theirs else [i]
        pairs.append(
            {
                "ours": [features["ours"][k] for k in together] if len(theirs) == 1 else [ours],
                "competitor": [features["competitor"][j] for j in theirs],
            }
        )
    matched = {j for (side, _), js in partners.items() if side == "ours" for j in js}
    alone = [f for j, f in enumerate(features["competitor"]) if j not in matched]
    return pairs + [{"ours": [], "competitor": [feature]} for feature in alone]


def _row(findings: Findings, pair: dict[Side, list[Feature]]) -> Row:
    known = pair["ours"] or pair["competitor"]
    title = known[0].title
    cells: dict[Side, Cell] = {}
    for side in SIDES:
        if pair[side]:
            names = list(dict.fromkeys(feature.title for feature in pair[side]))
            facts = tuple(dict.fromkeys(fact.id for feature in pair[side] for fact in feature.facts[:2]))
            cells[side] = Cell(text="; ".join(names), facts=facts)
        else:
            cells[side] = _mention(findings, side, known)
    weight = max(feature.weight for side in SIDES for feature in pair[side])
    return Row(kind="feature", feature=title, ours=cells["ours"], competitor=cells["competitor"], weight=weight)


def _mention(findings: Findings, side: Side, known: list[Feature]) -> Cell:
    """What this side's documents say in passing about the other's feature: the shortest passage with all its terms."""
    rival = set(_text.terms(findings.product(other(side)).name))
    facts = [fact for fact in findings.of(side) if fact.kind != "version"]
    denials: list[Fact] = []
    for name in dict.fromkeys(name for feature in known for name in feature.names):
        wanted = [term for term in _text.terms(name) if term not in rival]
        found = [f for f in facts if wanted and _text.has_terms(f.quote, wanted)]
        hits = [f for f in found if not _text.denies(f.quote, wanted)]
        denials += [f for f in found if _text.denies(f.quote, wanted)]
        if hits and not denials:
            # "needs no Redis" mentions Redis, but hardly as something that the product offers
            negated = re.compile(
                r"\b(no|not|without|instead of|unlike)\s+(\w+\s+){0,2}" + re.escape(name), re.IGNORECASE
            )
            best = min(hits, key=lambda fact: (fact.kind == "statement", len(fact.quote)))
            # A changelog tells of what was worked on, not of what is there.
            unsure = bool(negated.search(best.quote) or _is_change(best, findings))
            return Cell(text=_short(best.quote, wanted), facts=(best.id,), unsure=unsure)
    if denials:
        return Cell(text="says that it does not", facts=(denials[0].id,), denied=True)
    return _in_passing(findings, side, known, rival)


def _in_passing(findings: Findings, side: Side, known: list[Feature], rival: set[str]) -> Cell:
    """A heading or a code example that holds all terms of a feature: no evidence, but no silence either."""
    for name in dict.fromkeys(name for feature in known for name in feature.names):
        wanted = [term for term in _text.terms(name) if term not in rival]
        for passage in findings.passages:
            if passage.side == side and passage.kind == "other" and wanted and _text.has_terms(passage.text, wanted):
                return Cell(text=f"a heading or example in {passage.document}, line {passage.line}", unsure=True)
    return Cell()


def _is_change(fact: Fact, findings: Findings) -> bool:
    passage = next(p for p in findings.passages if p.id == fact.passage)
    return any(_CHANGES.search(heading) for heading in passage.headings)


def _short(quote: str, wanted: list[str]) -> str:
    """The quote itself if it is short, else the clause of it that holds the terms."""
    if len(quote) <= 70:
        return quote.rstrip(".")
    clauses = re.split(r"(?<=[,;:.])\s+|\s+[–—-]\s+", quote)
    fitting = [clause.strip(" ,;:.") for clause in clauses if _text.has_terms(clause, wanted)]
    return "mentioned: " + fitting[0] if fitting and len(fitting[0]) <= 70 else "mentioned in the text"


def _profile(findings: Findings) -> list[Row]:
    """The metadata fields that at least one side states."""
    rows: list[Row] = []
    for kind, title in PROFILE:
        cells = {side: _field(findings.of(side, kind), kind) for side in SIDES}
        if any(cell.mentioned for cell in cells.values()):
            rows.append(Row(kind="profile", feature=title, ours=cells["ours"], competitor=cells["competitor"]))
    return rows


def _field(facts: list[Fact], kind: str) -> Cell:
    if not facts:
        return Cell()
    if kind in {"licence", "python"}:  # said in several places: the most authoritative one
        facts = [max(facts, key=lambda fact: fact.weight)]
    values = list(dict.fromkeys(value for fact in facts for value in fact.values))
    return Cell(
        text=versions_text(values) if kind == "python versions" else ", ".join(values),
        facts=tuple(f.id for f in facts),
    )


def versions_text(values: list[str]) -> str:
    """`3.8 to 3.12` for an unbroken series, else the list."""
    minors = sorted({tuple(int(part) for part in value.split(".")) for value in values})
    names = [".".join(map(str, minor)) for minor in minors]
    unbroken = all(b[1] - a[1] == 1 for a, b in itertools.pairwise(minors))
    return f"{names[0]} to {names[-1]}" if unbroken and len(names) > 2 else ", ".join(names)


def listed(items: list[str]) -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""
