"""The researcher's craft: facts out of passages, each with the passage's own words as its quote.

Metadata fields are read by their names. In running text a fact is found by what kind of sentence it is: a
list item under a heading about features, a sentence that says what the product supports, one that states a
limit, a figure, or that names the other product. What a pattern doesn't recognise is left alone: it stays
searchable as a passage.
"""

# ruff: noqa: RUF001 -- sources are written with typographic quotes

import re
from collections import Counter

from graphs import _text
from graphs._names import feature_names, sentence_names
from graphs._sources import place
from graphs._types import SIDES, Fact, Findings, Passage, Product, Side, other

_LIMIT = re.compile(
    r"\b(does not|do not|doesn['’]t|don['’]t|cannot|can['’]t|will not|won['’]t|is not|are not|isn['’]t|aren['’]t|"
    r"unsupported|no support|There (?:is|are) no\b|experimental|"
    r"not (?:yet )?(?:supported|provided|available|implemented|compatible)|"
    r"only supports|limited to|incompatible|deprecated|no longer)\b",
    re.IGNORECASE,
)
_IMPERSONAL = re.compile(
    r"^There (is|are) (currently )?no\b|\bnot (yet )?(supported|provided|available|implemented)\b",
    re.IGNORECASE,
)
_HARMLESS = re.compile(
    r"(n['’]t|not|no) (?:need|have to|require|depend|worry|forget|hesitate|leak|crash|want|limited|only|just|merely|"
    r"a problem)\b|"
    r"\bno longer (?:need|require)|to not |\braise[sd]?\b|\bif an? \b|not have .*dependenc|not affect|"
    r"\bif (you|it|your)\b|^(please|do not|don['’]t|note that you)\b|\?$|\b(you|we|i|they)\b",
    re.IGNORECASE,
)
_FIGURE = re.compile(
    r"\d[\d,.]*\s?\+?\s?(?:%|x\b|×|times\b|(?:ms|µs|us|seconds?|minutes?)\b|[MkKB]\b|million|billion|thousand|[KMG]i?B\b|"
    r"users|downloads|stars|companies|repositories|projects|requests/s)|\d{1,3}(?:,\d{3})+"
)
_AUDIENCE = re.compile(
    r"\b(?:for|by|aimed at|helps) (?:[\w-]+ ){0,3}"
    r"(?:developers|teams|engineers|humans|beginners|users|scientists|companies|people|professionals|researchers)\b",
    re.IGNORECASE,
)
_LICENCE_TEXT = re.compile(
    r"\b((?:MIT|BSD(?:-\d-Clause)?|Apache(?:[- ](?:License[, ]*)?(?:Version )?2(?:\.0)?)?|MPL(?:[- ]2\.0)?|"
    r"[AL]?GPL(?:v?\d)?|ISC|Mozilla Public License(?: 2\.0)?))\b[^.]*\blicen[cs]|licen[cs]ed? (?:\w+ ){0,3}"
    r"\b(MIT|BSD|Apache(?:[- ]2(?:\.0)?)?|MPL|[AL]?GPL(?:v?\d)?|ISC)\b",
    re.IGNORECASE,
)
_PYTHON_TEXT = re.compile(
    r"\b(?:requires?|supports?|needs?|works (?:on|with)|runs on)\s+C?Python\s+"
    r"([\d.]+(?:\s?\+| or (?:later|newer|higher))?)",
    re.IGNORECASE,
)
CLASSIFIERS = {
    "Development Status :: ": "maturity",
    "Intended Audience :: ": "audience",
    "Operating System :: ": "platforms",
    "Programming Language :: Python :: Implementation :: ": "implementations",
    "Programming Language :: Python :: Free Threading :: ": "free threading",
    "Framework :: ": "frameworks",
    "Topic :: ": "topics",
    "License :: ": "licence",
    "Typing :: ": "typing",
}


def find_facts(products: tuple[Product, Product], passages: tuple[Passage, ...]) -> Findings:
    """Read both products' passages into facts."""
    facts: list[Fact] = []
    for side, product in zip(SIDES, products, strict=True):
        own = [p for p in passages if p.side == side]
        rival = products[SIDES.index(other(side))]
        found = [*_from_fields(own), *_from_text(own, product)]
        found += _relations(own, rival, [p for p in passages if p.side != side])
        used = {item[0].id for item in found}
        found += [(p, "statement", "", (), 0.0) for p in own if p.kind not in {"field", "other"} and p.id not in used]
        for number, (passage, kind, name, values, weight) in enumerate(_distinct(found), 1):
            facts.append(
                Fact(
                    id=f"{'O' if side == 'ours' else 'C'}{number}", side=side, kind=kind, name=name, values=values,
                    quote=passage.text, place=place(product, passage), passage=passage.id, weight=round(weight, 4),
                )
            )  # fmt: skip
    return Findings(ours=products[0], competitor=products[1], passages=passages, facts=tuple(facts))


_Found = tuple[Passage, str, str, tuple[str, ...], float]


def _distinct(found: list[_Found]) -> list[_Found]:
    """Each kind and name once, however often the documents repeat it; the first place counts."""
    seen: set[tuple[str, str, str]] = set()
    kept: list[_Found] = []
    for item in found:
        passage, kind, name, *_ = item
        # A field's lines each say something of their own; a feature is one however often it is named.
        key = (kind, name.lower(), "" if kind == "feature" else passage.id)
        if key not in seen:
            seen.add(key)
            kept.append(item)
    return kept


def _from_fields(passages: list[Passage]) -> list[_Found]:
    """Facts from package metadata."""
    found: list[_Found] = []
    for p in passages:
        if p.kind != "field":
            continue
        key, _, value = p.text.partition(": ")
        match key.lower():
            case "version":
                found.append((p, "version", "Version", (value,), 1.0))
            case "summary":
                found.append((p, "about", "Summary", (value,), 2.0))
                found += [(p, "feature", name, (), 3.0) for name in sentence_names(value)]
            case "requires-python":
                found.append((p, "python", "Requires-Python", (value.replace(" ", ""),), 1.0))
            case "license-expression":
                found.append((p, "licence", "Licence", (value,), 2.0))
            case "license" if len(value) <= 60:
                found.append((p, "licence", "Licence", (value,), 1.5))
            case "provides-extra":
                found.append((p, "extras", "Optional extras", (value,), 0.5))
            case "requires-dist" if "extra ==" not in value:
                name = re.split(r"[\s<>=!~;\[(]", value, maxsplit=1)[0]
                found.append((p, "dependencies", "Required packages", (name,), 0.5))
            case "classifier":
                found += _classifier(p, value)
            case _:
                pass
    return found


def _classifier(p: Passage, value: str) -> list[_Found]:
    if match := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", value):
        return [(p, "python versions", "Python versions", (match[1],), 0.5)]
    for prefix, kind in CLASSIFIERS.items():
        if value.startswith(prefix):
            last = value.rsplit(" :: ", 1)[-1]
            return [(p, kind, kind.capitalize(), (last,), 0.5)]
    return []


def _from_text(passages: list[Passage], product: Product) -> list[_Found]:
    """Facts from running text: features, limits, figures, licence and Python statements, the best summary sentences."""
    text = [p for p in passages if p.kind not in {"field", "other"}]
    mentions = Counter(term for p in text for term in set(_text.all_stems(p.text)))
    found: list[_Found] = []
    for position, p in enumerate(text):
        early = 1.0 / (1 + position / 10)
        found += [(p, "feature", name, (), _prominence(name, mentions) + early) for name in feature_names(p, product)]
        if p.kind != "sentence":
            continue
        own = re.search(rf"\b{re.escape(product.name)}\b(?![.\[]\w)|^It (?!can )", p.text, re.IGNORECASE)
        if (own or _IMPERSONAL.search(p.text)) and not p.aside and states_limit(p.text):
            found.append((p, "limit", "Limit", (), early))
        named = own or re.search(rf"\b{re.escape(product.name)}\b", p.text, re.IGNORECASE)
        if named and not p.aside and _FIGURE.search(p.text) and "This measures" not in p.text:
            found.append((p, "figure", "Figure", tuple(sorted(_text.numbers(p.text))), early))
        if named and not p.aside and _AUDIENCE.search(p.text):
            found.append((p, "audience", "Audience", (), early))
        if match := _LICENCE_TEXT.search(p.text):
            found.append((p, "licence", "Licence", (match[1] or match[2],), 0.2))
        if match := _PYTHON_TEXT.search(p.text):
            found.append((p, "python", "Python", (match[1],), 0.2))
    candidates = [p for p in text if p.kind == "sentence" and not p.aside and _is_complete(p.text)]
    scores = _text.rank([p.text for p in candidates])
    best = sorted(range(len(candidates)), key=lambda i: -scores[i])[:4]
    found += [(candidates[i], "about", "About", (), scores[i]) for i in best]
    return found


def states_limit(text: str) -> bool:
    """Whether a sentence says of its subject that it does not do, or does not have, something."""
    return bool(_LIMIT.search(text) and not _HARMLESS.search(text))


def _is_complete(sentence: str) -> bool:
    """Whether a sentence stands on its own: no trailing dots, no opening that leans on the sentence before."""
    opening = re.match(
        r"(or|and|but|which|so|this|these|it|for example|see|then|also|here|note|to)\b",
        sentence,
        re.IGNORECASE,
    )
    return not sentence.endswith(("...", "…", "?", ":")) and not opening and 6 <= len(sentence.split()) <= 45


def _prominence(name: str, mentions: Counter[str]) -> float:
    """How often the documents come back to a feature: occurrences of its rarest meaningful term."""
    counts = [mentions[term] for term in _text.terms(name) if mentions[term]]
    return float(min(counts, default=0))


def _relations(passages: list[Passage], rival: Product, rival_passages: list[Passage]) -> list[_Found]:
    """Passages of one side that name the other product.

    A name like `requests` is also an ordinary word. Where the rival's own documents write it both ways, only marked
    uses count: in backticks, or with a hyphen (`requests-compatible`).
    """
    spellings = {
        m
        for p in rival_passages
        if p.kind not in {"field", "other"}
        for m in re.findall(rf"\b{re.escape(rival.name)}\b", p.text, re.IGNORECASE)
    }
    exact = re.escape(rival.name)
    marked = re.compile(rf"`{exact}`|\b{exact}-(?:compatible|like|based|style)", re.IGNORECASE)
    pattern = marked if len(spellings) > 1 else re.compile(rf"\b{exact}\b", re.IGNORECASE)
    text = [p for p in passages if p.kind not in {"field", "other"} and not p.aside]
    return [(p, "relation", rival.name, (), 1.0) for p in text if pattern.search(p.text)]


def licence_family(values: list[str]) -> str:
    """How far a licence reaches: `permissive`, `weak copyleft`, `strong copyleft`, or empty if unknown.

    With a choice ("OR") the mildest counts, with a combination ("AND") the strictest.
    """
    order = ["permissive", "weak copyleft", "strong copyleft"]

    def one(text: str) -> int:
        if re.search(r"\bA?GPL|GNU (Affero )?General", text, re.IGNORECASE):
            return 2
        if re.search(r"\bMPL|Mozilla|LGPL|Lesser|EPL|Eclipse", text, re.IGNORECASE):
            return 1
        return (
            0
            if re.search(r"\b(MIT|BSD|Apache|ISC|PSF|Python Software|Zlib|Unlicense|0BSD)", text, re.IGNORECASE)
            else -1
        )

    worst = [
        max(min(one(c) for c in re.split(r"\s+OR\s+", part.strip("() "))) for part in re.split(r"\s+AND\s+", value))
        for value in values
    ]
    known = [w for w in worst if w >= 0]
    return order[max(known)] if known else ""


def side_of(fact_id: str) -> Side:
    """The side that a fact id speaks for."""
    return "ours" if fact_id.startswith("O") else "competitor"
