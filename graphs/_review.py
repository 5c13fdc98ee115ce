"""The reviewer's craft: does the cited evidence really say this?

A statement is taken apart into clauses. Each clause speaks of one product (the first that it names), and its
kind decides what counts as evidence:

- plain ("X documents …"): the cited quotes of that product hold the clause's terms, numbers and quoted words;
- silence ("the documentation of X does not mention …"): nothing in X's documents, headings and examples included,
  holds the terms;
- denial ("X lacks …", "X does not …"): a cited quote of X itself denies it. Silence is no evidence of absence;
- exclusive ("only X …"): a cited quote in which the other product denies it;
- comparison ("more than"): cited quotes of both products that speak of the same thing.
"""

# ruff: noqa: RUF001 -- sources are written with typographic quotes

import re

from graphs import _text
from graphs._types import Action, Fact, Findings, Note, Side, Statement, Strategy, other

_SILENCE = re.compile(
    r"\bdocumentation of .+? does not (?:mention|give|say)\b|\bmetadata of .+? does not list\b|\bnot mentioned\b",
    re.IGNORECASE,
)
_DENIAL = re.compile(
    r"\b(lacks?|has no|have no|does not|do not|cannot|can['’]t|doesn['’]t|is not|is missing|misses|no longer|"
    r"without)\b",
    re.IGNORECASE,
)
_EXCLUSIVE = re.compile(r"^only\b|\bis the only\b|\balone\b|\bunlike\b|\bno other\b", re.IGNORECASE)
_COMPARISON = re.compile(
    r"\b(?:more|less|fewer|\w{3,}er)\b[^.;]*\bthan\b|\b(?:most|best|leading|superior)\b", re.IGNORECASE
)
_CLAUSES = re.compile(r"(?:[.;]|,?\s+(?:which|while|whereas|but))\s+(?=[^”]*(?:“|$))")  # never inside a quotation
_QUOTED = re.compile(r"“([^”]+)”")
# How statements report; these words needn't stand in the evidence.
_REPORTING = frozenset(
    map(
        _text.stem,
        _text.word_set(
            """among optional extras documents documented documentation document lists listed list names named describes
            described itself states stated reports reported gives says said introduces declares
            declared requires required runs accepts metadata status licence licensed license versions
            version python operating systems implementation figure mentions mentioned up against
            marked called relies lead under"""
        ),
    )
)
COVERAGE = 0.75  # share of a clause's terms that its evidence must hold


def problem(statement: Statement, findings: Findings) -> str | None:
    """Why a statement is not supported by the facts it cites, or `None` if it is."""
    known = findings.by_id()
    if not statement.facts:
        return "it cites no fact"
    if unknown := [fact for fact in statement.facts if fact not in known]:
        return f"it cites {', '.join(unknown)}, which nobody found"
    cited = [known[fact] for fact in statement.facts]
    subject: Side | None = None
    topics: list[list[str]] = []
    for clause in _CLAUSES.split(statement.text.rstrip(".")):
        subject = _subject(clause, findings) or subject
        # "…; the documentation of X does not mention it" is about what the clause before was about.
        if not topics or _QUOTED.search(clause) or not re.search(r"\b(it|them|mention|list)$", clause):
            topics = _topics(clause, findings)
        if reason := _clause_problem(clause, topics, subject, cited, findings):
            return reason
    return None


def _clause_problem(
    clause: str, topics: list[list[str]], subject: Side | None, cited: list[Fact], findings: Findings
) -> str | None:
    own = [fact for fact in cited if subject is None or fact.side == subject]
    name = findings.product(subject).name if subject else "either product"
    bare = _QUOTED.sub("", clause)
    if _SILENCE.search(bare):
        # What the metadata does not list may well stand in the text: then only the fields are searched.
        kinds = {"field"} if "metadata of" in bare else {"field", "sentence", "item", "row", "other"}
        hits = [hit for topic in topics if subject and (hit := _mentioned(topic, subject, kinds, findings))]
        return f"but {name} does mention it: {hits[0]}" if hits else None
    if _EXCLUSIVE.search(bare) and subject:
        rival = findings.product(other(subject)).name
        if not all(any(f.side == other(subject) and _text.denies(f.quote, topic) for f in cited) for topic in topics):
            return (
                f"“only” needs a quote in which {rival} says that it has not got this; "
                "its silence is no evidence of absence"
            )
    elif _DENIAL.search(bare):
        if all(any(_text.denies(fact.quote, topic) for fact in own) for topic in topics):
            return None
        return f"no cited quote of {name} says so, and that its documents are silent is no evidence of absence"
    elif _COMPARISON.search(bare):
        return _comparison_problem(clause, _joined(topics), cited, findings)
    if not own:
        return f"no cited quote comes from the documents of {name}"
    return _plain_problem(clause, _joined(topics), own, cited)


def _joined(topics: list[list[str]]) -> list[str]:
    return [term for topic in topics for term in topic]


def _plain_problem(clause: str, topic: list[str], own: list[Fact], cited: list[Fact]) -> str | None:
    evidence = " ".join(fact.quote for fact in own)
    for quoted in _QUOTED.findall(clause):
        if _flat(quoted) not in _flat(evidence):
            return f"“{quoted}” is in none of the quotes cited for it"
    missing = _text.numbers(_QUOTED.sub("", clause)) - _text.numbers(" ".join(f.quote for f in cited))
    if missing:
        return f"the number {', '.join(sorted(missing))} is in none of the quotes cited for it"
    absent = [term for term in topic if not _text.has_terms(evidence, [term])]
    if topic and len(absent) > (1 - COVERAGE) * len(topic):
        return f"the quotes cited for it do not speak of “{' '.join(absent)}”"
    return None


def _comparison_problem(clause: str, topic: list[str], cited: list[Fact], findings: Findings) -> str | None:
    """Both sides must be cited, on the same field or with a figure each on the clause's topic."""
    by_side = {side: [f for f in cited if f.side == side] for side in ("ours", "competitor")}
    for side, facts in by_side.items():
        if not facts:
            return f"a comparison needs a quote from both sides, and none comes from {findings.product(side).name}"  # type: ignore[arg-type]
    fields = {f.kind for f in by_side["ours"]} & {f.kind for f in by_side["competitor"]}
    if fields - {"feature", "statement", "figure", "limit", "about", "relation", "audience"}:
        missing = _text.numbers(clause) - _text.numbers(" ".join(fact.quote for fact in cited))
        return f"the number {', '.join(sorted(missing))} is in none of the quotes cited for it" if missing else None
    for side, facts in by_side.items():
        speaking = [f for f in facts if _text.numbers(f.quote) and any(_text.has_terms(f.quote, [t]) for t in topic)]
        if not speaking:
            return f"no cited quote of {findings.product(side).name} gives a figure to compare with"  # type: ignore[arg-type]
    return None


def _subject(clause: str, findings: Findings) -> Side | None:
    """The side whose product the clause names first."""
    found: list[tuple[int, int, Side]] = []
    for side in ("ours", "competitor"):
        name = findings.product(side).name
        if match := re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", _QUOTED.sub(lambda m: " " * len(m[0]), clause)):
            found.append((match.start(), -len(name), side))
    return min(found)[2] if found else None


def _topics(clause: str, findings: Findings) -> list[list[str]]:
    """What a clause is about, as terms: each thing it quotes; without quotes, all but names and reporting words."""
    if quoted := _QUOTED.findall(clause):
        return [list(_text.terms(words)) for words in quoted]
    for side in ("ours", "competitor"):
        clause = re.sub(rf"(?<![\w-]){re.escape(findings.product(side).name)}(?![\w-])", " ", clause)
    clause = re.sub(r"\b(only|unlike|alone|lacks?|\w{3,}er than|most|best)\b", " ", clause, flags=re.IGNORECASE)
    return [[term for term in _text.terms(clause) if term not in _REPORTING and not term[0].isdigit()]]


def _mentioned(topic: list[str], side: Side, kinds: set[str], findings: Findings) -> str | None:
    """Where a side's documents hold all terms of a topic, in whatever kind of text."""
    if not topic:
        return None
    for passage in findings.passages:
        if passage.side == side and passage.kind in kinds and _text.has_terms(passage.text, topic):
            heading = f" > {passage.headings[-1]}" if passage.headings else ""
            return f"{passage.document}{heading}, line {passage.line}"
    return None


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("`", "")).lower()


def review_strategy(draft: Strategy, findings: Findings) -> tuple[list[str], Strategy]:
    """Check every statement of a draft.

    Returns:
        The reasons against it, one a statement, and the draft without what is not supported: an action that is left
        without any reason is dropped as a whole.
    """
    reasons: list[str] = []
    dropped: list[Note] = []
    actions: list[Action] = []
    for action in draft.actions:
        kept: list[Statement] = []
        for statement in action.because:
            if reason := problem(statement, findings):
                reasons.append(complaint(statement, reason))
                dropped.append(Note(statement=statement.text, reason=reason))
            else:
                kept.append(statement)
        if kept:
            actions.append(action.model_copy(update={"because": tuple(kept)}))
    return reasons, draft.model_copy(update={"actions": tuple(actions), "dropped": (*draft.dropped, *dropped)})


def complaint(statement: Statement, reason: str) -> str:
    """A reason as it goes back to the author: which statement, and what is wrong with it."""
    return f"{statement.id}: {statement.text} -- {reason}"
