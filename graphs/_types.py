"""The values that the gallery's analysts hand to each other: frozen, typed, JSON-friendly.

A `Passage` is a piece of a source with its place. A `Fact` is a reading of one passage: what it is about,
which side it speaks for, and the quote it rests on. A `Statement` is anything a later analyst says; it names
its facts.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Side = Literal["ours", "competitor"]
PassageKind = Literal["sentence", "item", "row", "field", "other"]
SIDES: tuple[Side, Side] = ("ours", "competitor")
RULES = "rules"  # the value of `made_by` when no language model took part


def other(side: Side) -> Side:
    """The opposite side."""
    return "competitor" if side == "ours" else "ours"


class Frozen(BaseModel):
    """A value that does not change and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Product(Frozen):
    """One of the two products: how it is called and where its documents were read."""

    side: Side
    name: str
    version: str = ""
    source: str

    @property
    def label(self) -> str:
        """Name and, if known, version: `httpx 0.28.1`."""
        return f"{self.name} {self.version}".strip()


class Passage(Frozen):
    """A sentence, list item, table row or metadata field, cleaned of markup, with its place.

    Attributes:
        id: unique in one analysis: `PO12` is the twelfth passage of our documents, `PC3` the competitor's third.
        kind: `other` is a heading, a code example, or text that could not be cleaned of its markup: it is searched,
            so that "not mentioned" is true, but never quoted.
        line: counted from 1 in the document named; for a package, in its long description or METADATA file.
        lead: what introduces an item (the paragraph before the list, or the item it stands below) or a table's header.
        aside: true in sections about installing, contributing, changes, credits: no source of features.
    """

    id: str
    side: Side
    document: str
    headings: tuple[str, ...] = ()
    line: int
    kind: PassageKind
    text: str
    lead: str = ""
    aside: bool = False


class Fact(Frozen):
    """What one passage says, with the passage quoted word for word.

    Attributes:
        id: `O4` speaks for our product, `C7` for the competitor.
        kind: `feature`, `limit`, `figure`, `relation`, `about`, `audience`, the name of a metadata field, or
            `statement` for a passage that is none of these.
        name: the feature's short name, or the field's.
        values: what a field says, taken apart: `("3.8", "3.9")`.
        quote: a verbatim part of the passage's text.
        place: where it stands, for people: `httpx 0.28.1, README > Features, line 42`.
        weight: how prominent it is in its document, 0 and up; only for ordering.
    """

    id: str
    side: Side
    kind: str
    name: str
    values: tuple[str, ...] = ()
    quote: str
    place: str
    passage: str
    weight: float = 0.0


class Findings(Frozen):
    """What the researcher found: both products, every passage, and the facts read from them."""

    ours: Product
    competitor: Product
    passages: tuple[Passage, ...]
    facts: tuple[Fact, ...]
    made_by: str = RULES

    def product(self, side: Side) -> Product:
        """The product of this side."""
        return self.ours if side == "ours" else self.competitor

    def of(self, side: Side, *kinds: str) -> list[Fact]:
        """Facts of one side, of these kinds (all kinds if none is given), in the order they were found."""
        return [fact for fact in self.facts if fact.side == side and (not kinds or fact.kind in kinds)]

    def by_id(self) -> dict[str, Fact]:
        """Every fact under its id."""
        return {fact.id: fact for fact in self.facts}


class Cell(Frozen):
    """What one side's documents say about a row. No facts means: not mentioned.

    Attributes:
        text: in short words.
        facts: the facts it rests on.
        denied: the documents say that the product has not got it, which is more than not mentioning it.
        unsure: the documents mention something close, which may or may not be the same. Without facts it stands in
            a heading or an example, which can't be quoted.
    """

    text: str = ""
    facts: tuple[str, ...] = ()
    denied: bool = False
    unsure: bool = False

    @property
    def mentioned(self) -> bool:
        """Whether this side's documents say anything about the row."""
        return bool(self.facts) or self.unsure


class Row(Frozen):
    """One line of the comparison: a metadata field (`profile`) or a feature."""

    kind: Literal["profile", "feature"]
    feature: str
    ours: Cell
    competitor: Cell
    weight: float = 0.0

    def cell(self, side: Side) -> Cell:
        """The cell of this side."""
        return self.ours if side == "ours" else self.competitor


class Comparison(Frozen):
    """Feature by feature, what each side's documents say."""

    rows: tuple[Row, ...]
    made_by: str = RULES

    def alone(self, side: Side) -> list[Row]:
        """Features that this side's documents mention and the other's don't, the most prominent first."""
        rows = [r for r in self._features() if r.cell(side).mentioned and not r.cell(other(side)).mentioned]
        return sorted(rows, key=lambda row: -row.weight)

    def contrasts(self, side: Side) -> list[Row]:
        """Features that this side's documents mention and of which the other's say that it has not got them."""
        rows = [r for r in self._features() if r.cell(other(side)).denied and not r.cell(side).denied]
        return [r for r in rows if not r.cell(side).unsure]

    def shared(self) -> list[Row]:
        """Features that both sides' documents mention, and neither denies."""
        rows = [r for r in self._features() if r.ours.mentioned and r.competitor.mentioned]
        return [r for r in rows if not any(c.denied or c.unsure for c in (r.ours, r.competitor))]

    def _features(self) -> list[Row]:
        return [row for row in self.rows if row.kind == "feature"]


class Statement(Frozen):
    """A sentence that somebody could doubt, with the ids of the facts it rests on."""

    id: str = ""
    text: str
    facts: tuple[str, ...]


class Stance(Frozen):
    """Where one product stands, in its documents' own light."""

    audience: tuple[Statement, ...] = ()
    strengths: tuple[Statement, ...] = ()
    weaknesses: tuple[Statement, ...] = ()
    differentiators: tuple[Statement, ...] = ()


class Positioning(Frozen):
    """Where both products stand."""

    ours: Stance
    competitor: Stance
    made_by: str = RULES


class Action(Frozen):
    """Something to do, the rule that proposes it, and the statements that argue for it.

    Attributes:
        step: what to do first. Advice, not a statement about either product.
        rule: when this action is proposed, so that a reader can disagree with the rule.
    """

    id: str
    title: str
    step: str = ""
    rule: str
    because: tuple[Statement, ...]


class Note(Frozen):
    """What became of a statement in review: `now` is empty when it was dropped."""

    statement: str
    reason: str
    now: str = ""


class Strategy(Frozen):
    """The response: actions, what the review made the author reword, and what it struck out."""

    actions: tuple[Action, ...]
    reworded: tuple[Note, ...] = ()
    dropped: tuple[Note, ...] = ()
    made_by: str = RULES
