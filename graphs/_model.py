"""The specialists played by a language model, for `competitor_analysis.build`.

A model reads, groups and words. It does not get to invent evidence: every quote is looked up in the passage
it claims to come from, every fact id must exist, and every statement passes the same check as those of the
rules. What fails raises `ValueError`, and the role's backup takes over. An answer that is malformed, or breaks off, is
repaired or asked for again by `ask_model`, which also keeps to the run's budgets and is recorded with it.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from graphs import _brief, _facts, _features, _review, _sources
from graphs._types import (
    Action,
    Cell,
    Comparison,
    Fact,
    Findings,
    Positioning,
    Row,
    Side,
    Stance,
    Statement,
    Strategy,
)
from orchestra import Assignment, ask_model

MAX_SHOWN = 400  # passages, and facts, that go into one prompt
_KINDS = ("feature", "limit", "figure", "audience")
_T = TypeVar("_T", bound=BaseModel)

_HOUSE = (
    "You work in a team that compares two products by their own documents. Use only what you are shown. Say “the "
    "documentation of X does not mention Y” where it is silent; never that X lacks Y unless a quote says so. Put words "
    "of the documents in “curly quotes”. Name the product in every statement. Cite facts by id. "
)
PROMPTS = {
    "researcher": "Extract what the products can do (feature), refuse or lack (limit), claim in numbers (figure) and "
    "whom they address (audience). Quote word for word from one passage, and give its id.",
    "comparer": "Group facts about the same feature into rows. Leave a side empty if none of its facts speaks of it.",
    "positioner": "For both products: audience, strengths, weaknesses and differentiators, as statements with facts.",
    "strategist": "Propose three to six actions for our product. Give each a first step, the general rule it follows, "
    "and the statements that argue for it, with their facts. Correct or leave out what was refused earlier.",
    "communicator": "Write the opening paragraph of a brief as four to seven statements with their facts, the most "
    "telling differences first.",
}


class SaidFact(BaseModel):
    """A fact as the model states it."""

    passage: str
    kind: Literal["feature", "limit", "figure", "audience"]
    name: str
    quote: str


class SaidFacts(BaseModel):
    """The model's findings."""

    facts: list[SaidFact]


class SaidRow(BaseModel):
    """A row of the model's comparison."""

    feature: str
    ours: str
    ours_facts: list[str]
    competitor: str
    competitor_facts: list[str]


class SaidRows(BaseModel):
    """The model's comparison."""

    rows: list[SaidRow]


class Said(BaseModel):
    """A statement of the model."""

    text: str
    facts: list[str]


class SaidStance(BaseModel):
    """The model's view of one product."""

    audience: list[Said]
    strengths: list[Said]
    weaknesses: list[Said]
    differentiators: list[Said]


class SaidPositions(BaseModel):
    """The model's view of both products."""

    ours: SaidStance
    competitor: SaidStance


class SaidAction(BaseModel):
    """An action the model proposes."""

    title: str
    step: str
    rule: str
    because: list[Said]


class SaidActions(BaseModel):
    """The model's strategy."""

    actions: list[SaidAction]


class SaidSummary(BaseModel):
    """The model's opening paragraph."""

    statements: list[Said]


def roles(model: Any) -> dict[str, Callable[..., Any]]:
    """The roles that this chat model plays, as agents' functions."""
    name = str(getattr(model, "model_name", None) or type(model).__name__)

    async def researcher(task: Assignment) -> Findings:
        found = await asyncio.to_thread(lambda: _facts.find_facts(*_sources.load(task.request)))
        shown = [p for p in found.passages if p.kind not in {"field", "other"}][:MAX_SHOWN]
        material = _heading(found) + "\n".join(f"{p.id} ({p.side}): {p.text}" for p in shown)
        said = await _ask(model, "researcher", SaidFacts, material)
        return _checked_findings(found, said.facts, name)

    async def comparer(findings: Findings) -> Comparison:
        said = await _ask(model, "comparer", SaidRows, _facts_shown(findings))
        by_rules = await asyncio.to_thread(_features.compare, findings)
        profile = [row for row in by_rules.rows if row.kind == "profile"]
        return Comparison(rows=(*profile, *(_checked_row(row, findings) for row in said.rows)), made_by=name)

    async def positioner(findings: Findings) -> Positioning:
        said = await _ask(model, "positioner", SaidPositions, _facts_shown(findings))
        stances = {side: _checked_stance(getattr(said, side), findings) for side in ("ours", "competitor")}
        return Positioning(**stances, made_by=name)

    async def strategist(
        task: Assignment, findings: Findings, comparison: Comparison, positioning: Positioning
    ) -> Strategy:
        refused = [reason for earlier in task.rejections for reason in earlier.reasons]
        material = "\n\n".join(
            [
                task.request,
                _facts_shown(findings),
                "Comparison:\n" + comparison.model_dump_json(exclude={"made_by"}),
                "Positioning:\n" + positioning.model_dump_json(exclude={"made_by"}),
                "Refused earlier:\n" + "\n".join(refused or ["nothing"]),
            ]
        )
        said = await _ask(model, "strategist", SaidActions, material)
        return _strategy(said.actions, name)

    async def communicator(
        findings: Findings, comparison: Comparison, positioning: Positioning, strategy: Strategy
    ) -> str:
        material = _facts_shown(findings) + "\n\nActions:\n" + "\n".join(action.title for action in strategy.actions)
        said = await _ask(model, "communicator", SaidSummary, material)
        summary = _sound(said.statements, findings)
        if not summary:
            raise ValueError("No statement of the summary is supported by the facts it cites.")
        return _brief.brief(findings, comparison, positioning, strategy, summary=summary, summary_by=name)

    return {
        "researcher": researcher,
        "comparer": comparer,
        "positioner": positioner,
        "strategist": strategist,
        "communicator": communicator,
    }


async def _ask(model: Any, role: str, schema: type[_T], material: str) -> _T:
    return await ask_model(model, [("system", _HOUSE + PROMPTS[role]), ("human", material)], output=schema)


def _heading(findings: Findings) -> str:
    return f"Ours: {findings.ours.label}. Competitor: {findings.competitor.label}.\n\n"


def _facts_shown(findings: Findings) -> str:
    facts = sorted(findings.facts, key=lambda fact: fact.kind == "statement")[:MAX_SHOWN]
    return _heading(findings) + "\n".join(f"{f.id} {f.kind} {f.name}: “{f.quote}”" for f in facts)


def _checked_findings(found: Findings, said: Sequence[SaidFact], name: str) -> Findings:
    """The model's facts in place of the rules' own; metadata fields and plain statements stay.

    Raises:
        ValueError: a quote does not stand in the passage that it names, or there are no facts.
    """
    if not said:
        raise ValueError("The model found no fact at all.")
    passages = {p.id: p for p in found.passages}
    facts = [fact for fact in found.facts if fact.kind not in _KINDS or ", metadata > " in fact.place]
    numbers: dict[Side, int] = {"ours": len(found.facts), "competitor": len(found.facts)}
    for fact in said:
        passage = passages.get(fact.passage)
        if passage is None or _flat(fact.quote) not in _flat(passage.text) or not fact.quote.strip():
            raise ValueError(f"The quote “{fact.quote}” does not stand in passage {fact.passage}.")
        side = passage.side
        numbers[side] += 1
        facts.append(
            Fact(
                id=f"{'O' if side == 'ours' else 'C'}{numbers[side]}", side=side, kind=fact.kind, name=fact.name,
                quote=fact.quote, place=_sources.place(found.product(side), passage), passage=passage.id, weight=1.0,
            )
        )  # fmt: skip
    return found.model_copy(update={"facts": tuple(facts), "made_by": name})


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _checked_row(said: SaidRow, findings: Findings) -> Row:
    known = findings.by_id()
    cells: dict[Side, Cell] = {}
    sides: tuple[tuple[Side, str, list[str]], ...] = (
        ("ours", said.ours, said.ours_facts),
        ("competitor", said.competitor, said.competitor_facts),
    )
    for side, text, facts in sides:
        if any(fact not in known or known[fact].side != side for fact in facts):
            raise ValueError(f"The row {said.feature!r} cites {facts} for {side}, which are not facts of that side.")
        cells[side] = Cell(text=text, facts=tuple(facts)) if facts else Cell()
    if not said.ours_facts and not said.competitor_facts:
        raise ValueError(f"The row {said.feature!r} cites no fact.")
    return Row(kind="feature", feature=said.feature, ours=cells["ours"], competitor=cells["competitor"], weight=1.0)


def _sound(said: Sequence[Said], findings: Findings) -> tuple[Statement, ...]:
    """The statements that their facts support."""
    statements = [Statement(text=s.text, facts=tuple(s.facts)) for s in said]
    return tuple(s for s in statements if _review.problem(s, findings) is None)


def _checked_stance(said: SaidStance, findings: Findings) -> Stance:
    parts = {part: _sound(getattr(said, part), findings) for part in Stance.model_fields}
    if not any(parts.values()):
        raise ValueError("No statement on the positioning is supported by the facts it cites.")
    return Stance(**parts)


def _strategy(said: Sequence[SaidAction], name: str) -> Strategy:
    if not said:
        raise ValueError("The model proposed no action.")
    actions = [
        Action(
            id=f"A{number}", title=action.title, step=action.step, rule=action.rule,
            because=tuple(
                Statement(id=f"A{number}.{k}", text=s.text, facts=tuple(s.facts))
                for k, s in enumerate(action.because, 1)
            ),
        )
        for number, action in enumerate(said, 1)
    ]  # fmt: skip
    return Strategy(actions=tuple(actions), made_by=name)
