"""The communicator's craft: the brief, in Markdown, with a numbered list of the quotes that everything rests on."""

import re
from collections.abc import Iterable

from graphs._facts import licence_family
from graphs._features import listed
from graphs._positioning import about_other, quoted
from graphs._types import (
    RULES,
    SIDES,
    Cell,
    Comparison,
    Fact,
    Findings,
    Note,
    Positioning,
    Row,
    Side,
    Statement,
    Strategy,
    other,
)

MAX_ROWS = 40  # of the feature table; the rest is counted below it

_ABOUT_QUOTES = (
    "Quotes are word for word, without markup. Lines count in the document named; for an installed package, README is "
    "the long description in its metadata and metadata is its METADATA file."
)
_ABOUT_SILENCE = (
    "“Not mentioned” and “not stated” are what they say: the documents read are silent. They do not mean absent. "
    "“Perhaps” marks something close that may or may not be the same."
)
_ABOUT_METHOD = (
    "Both sides speak for themselves here: a product's own documents praise it, and nobody tested a claim. Prices, "
    "market shares and users' opinions are known only as far as these documents tell."
)


class References:
    """Numbers the quotes in the order in which the brief first rests on them."""

    def __init__(self, findings: Findings) -> None:
        self._facts = findings.by_id()
        self._numbers: dict[tuple[str, str], int] = {}
        self._quotes: list[list[Fact]] = []

    def __call__(self, facts: Iterable[str]) -> str:
        """The reference mark for these facts: `[1]`, `[2, 5-9]`."""
        numbers: set[int] = set()
        for fact in (self._facts[fact] for fact in facts):
            # The lines of one metadata field (a list of classifiers) share a number; so do two facts of one
            # passage.
            key = (fact.side, fact.kind) if _is_field(fact) else (fact.passage, fact.quote)
            if key not in self._numbers:
                together = [f for f in self._facts.values() if _is_field(f) and (f.side, f.kind) == key]
                self._quotes.append(together or [fact])
                self._numbers[key] = len(self._quotes)
            numbers.add(self._numbers[key])
        return f"[{_ranges(sorted(numbers))}]" if numbers else ""

    def listing(self) -> list[str]:
        """The numbered quotes with their places."""
        lines: list[str] = []
        for number, facts in enumerate(self._quotes, 1):
            words = ", ".join(f"`{f.quote}`" if ", metadata > " in f.place else f"“{text(f.quote)}”" for f in facts)
            where = text(facts[0].place)
            if len(facts) > 1:
                where = where.replace(", line ", ", lines ") + f" to {facts[-1].place.rsplit(' ', 1)[-1]}"
            lines.append(f"{number}. {where}: {words}")
        return lines


def _is_field(fact: Fact) -> bool:
    return ", metadata > " in fact.place and fact.kind not in {"feature", "about", "licence", "python"}


def _ranges(numbers: list[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 2 else ", ".join(map(str, p)) for p in parts)


def text(words: str) -> str:
    """Words of a source as Markdown text: what would be read as markup is escaped, inline code stays."""
    parts = re.split(r"(`[^`]*`)", words)
    return "".join(
        p if p.startswith("`") else re.sub(r"([*<|\[\]])|(?<!\w)(_)|(_)(?!\w)", r"\\\g<0>", p) for p in parts
    )


def brief(
    findings: Findings,
    comparison: Comparison,
    positioning: Positioning,
    strategy: Strategy,
    *,
    summary: Iterable[Statement] = (),
    summary_by: str = RULES,
) -> str:
    """The whole brief.

    Args:
        findings: facts and products.
        comparison: feature by feature.
        positioning: where both stand.
        strategy: reviewed actions.
        summary: the statements of the opening paragraph, if someone wrote better ones than the rules do.
        summary_by: who wrote them.
    """
    refs = References(findings)
    ours, theirs = findings.ours, findings.competitor
    opening = " ".join(f"{text(s.text.rstrip('.'))} {refs(s.facts)}." for s in summary)
    opening = opening or summarize(findings, comparison, strategy, refs)
    authors = {
        "facts": findings.made_by,
        "comparison": comparison.made_by,
        "positioning": positioning.made_by,
        "strategy": strategy.made_by,
        "summary": summary_by,
    }
    lines = [
        f"# {ours.name} and its competitor {theirs.name}: analysis and response",
        "",
        f"Ours: **{text(ours.label)}** (`{ours.source}`). Competitor: **{text(theirs.label)}** (`{theirs.source}`). "
        + _made_by(authors),
        "",
        "## Summary",
        "",
        opening,
        "",
        *_tables(findings, comparison, refs),
        *_positions(findings, positioning, refs),
        *_actions(strategy, refs),
        *_review(strategy),
        "## Evidence",
        "",
        _ABOUT_QUOTES,
        "",
        *refs.listing(),
        "",
        *_method(findings),
    ]
    return "\n".join(lines)


def _made_by(authors: dict[str, str]) -> str:
    """Which parts a model wrote, and which are rules."""
    written = [part for part, author in authors.items() if author != RULES]
    if not written:
        return "*This brief is extractive: rules and quotes, made without a language model.*"
    models = listed(sorted({authors[part] for part in written}))
    rest = [part for part in authors if part not in written]
    rules = f" By rules, without a model: {listed(rest)}." if rest else ""
    return (
        f"*Written by a language model ({models}): {listed(written)}.{rules} "
        "Every quote was looked up in its source, every statement checked against its quotes.*"
    )


def summarize(findings: Findings, comparison: Comparison, strategy: Strategy, refs: References) -> str:
    """One paragraph with the most telling differences."""
    sentences: list[str] = []
    lines = {side: findings.of(side, "about")[:1] for side in SIDES}
    if all(lines.values()):
        both = [
            f"{findings.product(s).name} introduces itself with {quoted(lines[s][0])} {refs([lines[s][0].id])}"
            for s in SIDES
        ]
        sentences.append(", ".join(both) + ".")
    for side in SIDES:
        name, rival = findings.product(side).name, findings.product(other(side))
        for row in comparison.contrasts(side)[:2]:
            facts = (*row.cell(side).facts, *row.cell(other(side)).facts)
            sentences.append(
                f"{name} documents “{text(row.feature)}”, which {rival.name} says it does not support {refs(facts)}."
            )
        rows = [r for r in comparison.alone(side) if not about_other(r, side, findings)][:4]
        if rows:
            facts = [fact for row in rows for fact in row.cell(side).facts]
            names = listed([f"“{text(row.feature)}”" for row in rows])
            sentences.append(f"Only the documents of {name} mention {names} {refs(facts)}.")
    shared = sorted(comparison.shared(), key=lambda row: -row.weight)
    if shared:
        names = listed([f"“{text(row.feature)}”" for row in shared[:3]])
        sentences.append(
            f"Both document {len(shared)} of the {_count(comparison)} features compared, among them {names}."
        )
    if not comparison.alone("competitor") and comparison.alone("ours"):
        sentences.append(f"No feature was found that only the documents of {findings.competitor.name} mention.")
    sentences += _profile_sentences(findings, comparison, refs)
    if strategy.actions:
        first = listed([f"“{text(action.title)}”" for action in strategy.actions[:2]])
        sentences.append(f"Of {len(strategy.actions)} actions proposed, the first to consider: {first}.")
    return " ".join(sentences)


def _count(comparison: Comparison) -> int:
    return sum(row.kind == "feature" for row in comparison.rows)


def _profile_sentences(findings: Findings, comparison: Comparison, refs: References) -> list[str]:
    rows = {row.feature: row for row in comparison.rows if row.kind == "profile"}
    said: list[str] = []
    phrases = {
        "Development status": "declares the status “{}”",
        "Python required": "requires Python {}",
        "Python versions listed": "lists Python {}",
    }
    for title, phrase in phrases.items():
        row = rows.get(title)
        if row and row.ours.mentioned and row.competitor.mentioned and row.ours.text != row.competitor.text:
            both = [
                f"{findings.product(s).name} {phrase.format(text(row.cell(s).text))} {refs(row.cell(s).facts)}"
                for s in SIDES
            ]
            said.append(", ".join(both) + ".")
    licence = rows.get("Licence")
    if licence and licence.ours.mentioned and licence.competitor.mentioned:
        families = [licence_family([licence.cell(side).text]) for side in SIDES]
        terms = " and ".join(f"{text(licence.cell(s).text)} {refs(licence.cell(s).facts)}" for s in SIDES)
        if licence.ours.text == licence.competitor.text:
            facts = (*licence.ours.facts, *licence.competitor.facts)
            said.append(f"Both are under {text(licence.ours.text)} {refs(facts)}.")
        elif families[0] and families[0] == families[1]:
            said.append(f"Both licences, {terms}, are {families[0]}, so the licence decides nothing.")
        elif all(families):
            said.append(f"The licences, {terms}, differ in kind: ours is {families[0]}, theirs {families[1]}.")
    return said


def _tables(findings: Findings, comparison: Comparison, refs: References) -> list[str]:
    ours, theirs = findings.ours.name, findings.competitor.name
    lines: list[str] = ["## Comparison", ""]
    profile = [row for row in comparison.rows if row.kind == "profile"]
    features = [row for row in comparison.rows if row.kind == "feature"]
    if profile:
        lines += [f"| Declared | {text(ours)} (ours) | {text(theirs)} | Evidence |", "|---|---|---|---|"]
        lines += [_line(row, findings, refs, "not stated") for row in profile] + [""]
    if features:
        lines += [f"| Feature | {text(ours)} (ours) | {text(theirs)} | Evidence |", "|---|---|---|---|"]
        lines += [_line(row, findings, refs, "not mentioned") for row in features[:MAX_ROWS]] + [""]
    if len(features) > MAX_ROWS:
        lines += [f"{len(features) - MAX_ROWS} more features that one side documents are left out here.", ""]
    return [*lines, _ABOUT_SILENCE, ""]


def _line(row: Row, findings: Findings, refs: References, silent: str) -> str:
    def cell(side: Side) -> str:
        value: Cell = row.cell(side)
        if row.kind == "feature" and not value.mentioned and about_other(row, other(side), findings):
            return "(is about it)"
        if not value.mentioned:
            return silent
        if value.unsure:
            return f"perhaps: {text(value.text)}"
        # A cell that only repeats the feature's name says no more than yes.
        return "yes" if row.kind == "feature" and value.text == row.feature else text(value.text)

    evidence = refs((*row.ours.facts, *row.competitor.facts))
    return f"| {text(row.feature)} | {cell('ours')} | {cell('competitor')} | {evidence} |"


def _positions(findings: Findings, positioning: Positioning, refs: References) -> list[str]:
    lines = ["## Positioning", ""]
    for side in SIDES:
        stance = positioning.ours if side == "ours" else positioning.competitor
        role = "ours" if side == "ours" else "competitor"
        lines += [f"### {text(findings.product(side).label)} ({role})", ""]
        for title, said in (
            ("Audience", stance.audience),
            ("Strengths", stance.strengths),
            ("Weaknesses and open questions", stance.weaknesses),
            ("Differentiators", stance.differentiators),
        ):
            lines.append(f"**{title}**")
            lines.append("")
            lines += [_bullet(statement, refs) for statement in said] or [
                "- The documents give no basis for a statement."
            ]
            lines.append("")
    return lines


def _bullet(statement: Statement, refs: References) -> str:
    return f"- {text(statement.text)} {refs(statement.facts)}"


def _actions(strategy: Strategy, refs: References) -> list[str]:
    lines = ["## Strategy", ""]
    if not strategy.actions:
        lines += ["No rule found an action that the evidence supports.", ""]
    for number, action in enumerate(strategy.actions, 1):
        lines += [f"### {number}. {text(action.title)}", "", f"{text(action.step)} Because:".strip(), ""]
        lines += [_bullet(statement, refs) for statement in action.because]
        lines += ["", f"*Rule: {text(action.rule)}*", ""]
    return lines


def _review(strategy: Strategy) -> list[str]:
    lines = ["## What the review changed", ""]
    if not strategy.reworded and not strategy.dropped:
        return [*lines, "Every statement of the strategy held at the first review.", ""]
    dropped = _by_reason(strategy.dropped)
    if dropped:
        lines += ["Dropped, because the evidence does not support it:", ""]
        lines += [f"- {said}: {text(reason)}." for reason, notes in dropped for said in [_said(notes)]] + [""]
    for reason, notes in _by_reason(strategy.reworded):
        lines += [
            f"Sent back: {_said(notes)}.",
            "",
            f"- Reason: {text(reason)}.",
            f"- Now it says: {text(notes[0].now)}",
        ]
        lines += [f"- {len(notes) - 1} more reworded in the same way."] if len(notes) > 1 else []
        lines.append("")
    return lines


def _by_reason(notes: Iterable[Note]) -> list[tuple[str, list[Note]]]:
    """Notes with the same reason together, in order."""
    groups: dict[str, list[Note]] = {}
    for note in notes:
        # Reasons quote the statement's own words; what differs only in these is the same reason.
        groups.setdefault(note.reason, []).append(note)
    return list(groups.items())


def _said(notes: list[Note]) -> str:
    return listed([f"*{text(note.statement.rstrip('.'))}*" for note in notes])


def _method(findings: Findings) -> list[str]:
    read = {side: sum(p.side == side and p.kind != "other" for p in findings.passages) for side in SIDES}
    said = f"Read: {read['ours']} passages of {findings.ours.name}, {read['competitor']} of {findings.competitor.name}."
    return ["## How this was made, and what it can't know", "", f"{said} {_ABOUT_METHOD}", ""]
