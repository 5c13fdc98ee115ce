"""The strategist's craft: rules that turn the comparison into actions, and second thoughts after a review.

Every rule is printed with its action, so that a reader can disagree with the rule and not with a black box. A
rule may argue boldly at first: it reads a long feature list as complete, and a lone figure as a lead. The
reviewer holds such statements against the evidence. A rejected one comes back in its careful form, or with
better evidence if a search finds some; what still doesn't hold is struck out by the reviewer.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from graphs import _review, _text
from graphs._facts import licence_family
from graphs._features import listed
from graphs._positioning import about_other, feature_quote, only_listed, python_range, quoted, say
from graphs._types import Action, Comparison, Fact, Findings, Note, Row, Side, Statement, Strategy, other

MAX_ACTIONS = 6
CLOSED_LIST = 5  # a feature list of this length is read, at first, as complete

_DIMENSIONS = (  # what a figure is about, and how the bold reading words a lead in it
    (
        r"downloads?|depended|users|stars|companies|repositories|installs?",
        "is more downloaded or depended upon than",
    ),
    (r"\bfast(er|est)?|latency|seconds|\bms\b|requests/s|throughput|per second", "is faster than"),
    (r"[KMG]i?B\b|memory|size|footprint", "is smaller than"),
)
_KINSHIP = re.compile(
    r"compatib|migrat|drop-in|replac|derived|fork|builds? on|inspired|based on|alternative to|standard features",
    re.IGNORECASE,
)


@dataclass
class Point:
    """One argument of an action: how it is said at first, and how it is said if that is refused."""

    bold: Statement
    careful: Statement | None = None


@dataclass
class Proposal:
    """An action as a rule proposes it. The higher the score, the earlier it stands."""

    title: str
    step: str
    rule: str
    score: float
    points: list[Point]


def draft(findings: Findings, comparison: Comparison, rejections: Sequence[str] = ()) -> Strategy:
    """The response strategy.

    Args:
        findings: the facts.
        comparison: feature by feature.
        rejections: what reviewers said against earlier drafts of this strategy, as `_review.complaint` words it.
    """
    proposals = [p for rule in RULES for p in rule(findings, comparison) if p.points]
    proposals = sorted(proposals, key=lambda p: -p.score)[:MAX_ACTIONS]
    actions: list[Action] = []
    reworded: list[Note] = []
    for number, proposal in enumerate(proposals, 1):
        because: list[Statement] = []
        for k, point in enumerate(proposal.points, 1):
            bold = point.bold.model_copy(update={"id": f"A{number}.{k}"})
            reason = _rejected(bold, rejections)
            final = _reconsider(point, bold, findings) if reason else bold
            if reason and final.text != bold.text:
                reworded.append(Note(statement=bold.text, reason=reason, now=final.text))
            because.append(final)
        actions.append(
            Action(
                id=f"A{number}",
                title=proposal.title,
                step=proposal.step,
                rule=proposal.rule,
                because=tuple(because),
            )
        )
    return Strategy(actions=tuple(actions), reworded=tuple(reworded))


def _rejected(statement: Statement, rejections: Iterable[str]) -> str | None:
    """The reason for which exactly this statement was rejected."""
    start = _review.complaint(statement, "")
    return next((reason[len(start) :] for reason in rejections if reason.startswith(start)), None)


def _reconsider(point: Point, bold: Statement, findings: Findings) -> Statement:
    """The careful form; without one, the same statement with whatever evidence a search finds on the silent side."""
    if point.careful:
        return point.careful.model_copy(update={"id": bold.id})
    known = findings.by_id()
    silent: Side = other(known[bold.facts[0]].side)
    facts = findings.of(silent)
    index = _text.Index((fact.id, fact.quote) for fact in facts)
    names = {findings.ours.name, findings.competitor.name}
    wanted = [term for term in _text.terms(bold.text) if term not in {t for n in names for t in _text.terms(n)}]
    hits = [hit for term in wanted for hit in index.find([term], limit=2)]
    return bold.model_copy(update={"facts": (*bold.facts, *dict.fromkeys(hits))})


def _one_sided(findings: Findings, row: Row, side: Side) -> Point:
    """A feature that only one side documents: boldly, the other lacks it if its own list looks complete."""
    name, rival = findings.product(side).name, findings.product(other(side)).name
    words = feature_quote(row, side, findings)
    facts = row.cell(side).facts
    careful = say(f"{name} documents {words}; the documentation of {rival} does not mention it.", *facts)
    if len(findings.of(other(side), "feature")) < CLOSED_LIST:
        return Point(careful)
    bold = f"{rival} lacks {words}." if side == "competitor" else f"Only {name} has {words}."
    if side == "competitor":
        bold = f"{name} documents {words}; {rival} lacks it."
    return Point(say(bold, *facts), careful)


def _promote(findings: Findings, comparison: Comparison) -> list[Proposal]:
    rows = [r for r in comparison.alone("ours") if not about_other(r, "ours", findings)][:4]
    rule = "Features that our documents name and theirs don't, the ones our documents return to most first."
    points = [_one_sided(findings, row, "ours") for row in rows]
    names = listed([row.feature for row in rows[:3]])
    step = (
        "Put these on the first screen. Before anyone writes “only we”, look them up in "
        f"{findings.competitor.name} itself: the documents read here are silent, no more."
    )
    return [
        Proposal(
            f"Lead with what only our documents mention: {names}",
            step,
            rule,
            10 if len(points) > 1 else 5,
            points,
        )
    ]


def _contrast(findings: Findings, comparison: Comparison) -> list[Proposal]:
    name, rival = findings.ours.name, findings.competitor.name
    points: list[Point] = []
    for row in comparison.contrasts("ours")[:3]:
        words = feature_quote(row, "ours", findings)
        facts = (*row.ours.facts, *row.competitor.facts)
        points.append(Point(say(f"{name} documents {words}; {rival} does not support it.", *facts)))
    title = "Put their stated limits beside our features"
    step = "Set their sentence beside ours on a comparison page, with its version; check it at each of their releases."
    return [Proposal(title, step, "Their own documents deny what ours document.", 11, points)]


def _exposed(findings: Findings, comparison: Comparison) -> list[Proposal]:
    name, rival = findings.ours.name, findings.competitor.name
    points: list[Point] = []
    for row in comparison.contrasts("competitor")[:3]:
        words = feature_quote(row, "competitor", findings)
        facts = (*row.competitor.facts, *row.ours.facts)
        points.append(Point(say(f"{rival} documents {words}; {name} does not support it.", *facts)))
    names = listed([row.feature for row in comparison.contrasts("competitor")[:3]])
    rule = "Our own documents deny what theirs document."
    step = "For each: support it, or say beside the limit why, and what to use instead."
    return [Proposal(f"Decide on the limits we state and they don't: {names}", step, rule, 9, points)]


def _parity(findings: Findings, comparison: Comparison) -> list[Proposal]:
    rows = [r for r in comparison.alone("competitor") if not about_other(r, "competitor", findings)][:4]
    rule = "Features that their documents name and ours don't, the ones their documents return to most first."
    points = [_one_sided(findings, row, "competitor") for row in rows]
    names = listed([row.feature for row in rows[:3]])
    step = "Ask engineering about each. What we have, document; what we haven't, weigh by how often it is asked for."
    return [Proposal(f"Check what only their documents mention: {names}", step, rule, 8, points)]


def _migration(findings: Findings, comparison: Comparison) -> list[Proposal]:  # noqa: ARG001
    facts = [f for f in findings.of("ours", "relation") if _KINSHIP.search(f.quote)][:3]
    points = [Point(say(f"{findings.ours.name} says: {quoted_whole(f)}.", f)) for f in facts]
    title = f"Make the way from {findings.competitor.name} to us a page of its own"
    step = "Show the same tasks in both, and name the differences; link the page from the first screen."
    rule = "Our documents name the competitor and relate us to it, so its users are the nearest audience."
    return [Proposal(title, step, rule, 9.5, points)]


def _answer_mentions(findings: Findings, comparison: Comparison) -> list[Proposal]:  # noqa: ARG001
    facts = [f for f in findings.of("competitor", "relation") if _KINSHIP.search(f.quote)][:2]
    points = [Point(say(f"{findings.competitor.name} says: {quoted_whole(f)}.", f)) for f in facts]
    title = f"Answer what {findings.competitor.name} says about {findings.ours.name}"
    step = "Say in our own documents, in one sentence, how the two relate and who should choose which."
    return [Proposal(title, step, "Their documents name us: readers who compare will meet this sentence.", 8.5, points)]


def quoted_whole(fact: Fact) -> str:
    """The whole quote in quotation marks, without its final stop."""
    return f"“{fact.quote.rstrip('.')}”"


def _metadata(findings: Findings, comparison: Comparison) -> list[Proposal]:  # noqa: ARG001
    ours, theirs = findings.of("ours", "maturity"), findings.of("competitor", "maturity")
    newer = [s for s in python_range(findings, "competitor") if "lists Python" in s.text]
    points = [Point(s) for s in [*newer, *only_listed(findings, "competitor")]]
    if ours and theirs and ours[0].values[0][:1] in "1234" and theirs[0].values[0][:1] in "56":
        text = (
            f"{findings.competitor.name} declares {quoted(theirs[0])}; {findings.ours.name} declares {quoted(ours[0])}."
        )
        points.append(Point(say(text, theirs[0], ours[0])))
    rule = "What their package metadata declares and ours doesn't. Package indexes and buyers filter by declarations."
    step = (
        "Run the test suite on each, then add the classifier. Where it fails, say so: silence costs more than a limit."
    )
    return [
        Proposal(
            "Test, then declare, what our package metadata leaves open",
            step,
            rule,
            6.5 + 0.5 * len(points),
            points,
        )
    ]


def _python_floor(findings: Findings, comparison: Comparison) -> list[Proposal]:  # noqa: ARG001
    proposals: list[Proposal] = []
    for side, title, step in (
        (
            "ours",
            "Address teams that can't leave older Python versions yet",
            "Name the versions where these teams look, and until when they are kept: each one costs maintenance.",
        ),
        (
            "competitor",
            "State why we left the older Python versions that they still accept",
            "Name the last release that ran on them, so that nobody has to leave for want of a version.",
        ),
    ):
        points = [Point(s) for s in python_range(findings, side) if "accepts older" in s.text]  # type: ignore[arg-type]
        proposals.append(Proposal(title, step, "The lowest Python version accepted differs.", 6.5, points))
    return proposals


def _licence(findings: Findings, comparison: Comparison) -> list[Proposal]:  # noqa: ARG001
    best: dict[Side, Fact] = {}
    for side in ("ours", "competitor"):
        if facts := findings.of(side, "licence"):
            best[side] = max(facts, key=lambda fact: fact.weight)
    if len(best) < 2:
        return []
    order = ["permissive", "weak copyleft", "strong copyleft"]
    family = {side: licence_family(list(fact.values)) for side, fact in best.items()}
    if not all(family.values()) or family["ours"] == family["competitor"]:
        return []
    ours, theirs = best["ours"], best["competitor"]
    text = (
        f"{findings.ours.name} is under “{ours.values[0]}”; {findings.competitor.name} is under “{theirs.values[0]}”."
    )
    freer = order.index(family["ours"]) < order.index(family["competitor"])
    title = "Name our licence as a reason to choose us" if freer else "Explain our licence before a buyer's lawyer asks"
    rule = f"The licences are of different families: ours is {family['ours']}, theirs {family['competitor']}."
    step = "Write one paragraph for buyers on what the licence asks of them; have a lawyer read it."
    return [Proposal(title, step, rule, 7.5, [Point(say(text, ours, theirs))])]


def _figures(findings: Findings, comparison: Comparison) -> list[Proposal]:  # noqa: ARG001
    """Who gives figures, and who doesn't. The bold reading takes a lone figure for a lead."""
    answer = Proposal(
        "Answer their figures with ours",
        "Measure the same thing for us, from the same kind of source, and publish it with its date.",
        "Their documents give figures on something on which ours give none.",
        7.8,
        _lone_figures(findings, "competitor"),
    )
    use = Proposal(
        "Use our figures, and measure them against theirs",
        "Run one measurement for both products and publish its code with the result; until then claim no lead.",
        "Our documents give figures on something on which theirs give none.",
        9.2,
        _lone_figures(findings, "ours"),
    )
    return [answer, use]


def _lone_figures(findings: Findings, side: Side) -> list[Point]:
    name, rival = findings.product(side).name, findings.product(other(side)).name
    theirs = findings.of(other(side), "figure")
    points: list[Point] = []
    for pattern, lead in _DIMENSIONS:
        about = re.compile(pattern, re.IGNORECASE)
        own = [fact for fact in findings.of(side, "figure") if about.search(fact.quote)]
        if own and not any(about.search(fact.quote) for fact in theirs):
            points += [
                Point(say(f"{name} reports: {quoted(own[0])}.", own[0])),
                Point(say(f"{name} {lead} {rival}.", own[0])),
            ]
    return points[:4]


def _own_documents(findings: Findings, comparison: Comparison) -> list[Proposal]:  # noqa: ARG001
    """A list of dependencies in our text that our metadata doesn't bear out."""
    declared = {
        re.split(r"[\s<>=!~;\[(]", p.text.partition(": ")[2])[0].lower().replace("_", "-")
        for p in findings.passages
        if p.side == "ours" and p.text.startswith("Requires-Dist")
    }
    by_passage = {fact.passage: fact for fact in findings.of("ours")}
    points: list[Point] = []
    for p in findings.passages:
        name = re.match(r"`([\w.-]+)`", p.text)
        relied_on = re.search(r"\b(rel(y|ies) on|depends on|requires)\b", p.lead)
        if declared and p.side == "ours" and p.kind == "item" and name and relied_on and p.id in by_passage:
            if name[1].lower().replace("_", "-") in declared:
                continue
            text = f"{findings.ours.name} says of its required libraries: “{p.text.rstrip('.')}”; the metadata of "
            text += f"{findings.ours.name} does not list “Requires-Dist: {name[1]}”."
            points.append(Point(say(text, by_passage[p.id])))
    title = "Bring our README and our package metadata into line"
    step = "Find out which of the two is right, and correct the other."
    return [
        Proposal(
            title,
            step,
            "Our text names a required package that our metadata does not require.",
            6,
            points[:3],
        )
    ]


RULES: tuple[Callable[[Findings, Comparison], list[Proposal]], ...] = (
    _promote, _contrast, _exposed, _parity, _migration, _answer_mentions, _metadata, _python_floor, _licence,
    _figures, _own_documents,
)  # fmt: skip
