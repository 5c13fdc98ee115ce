"""What a passage calls the product's features.

Names come from lists under a heading about features, and from sentences that say what the product supports, includes
or provides.
"""
# ruff: noqa: RUF001 -- sources are written with typographic dashes

import re

from graphs import _text
from graphs._types import Passage, Product

_SECTION = re.compile(
    r"\b(features?|capabilit|highlights?|benefits?|why|what (it|you)|supported|advantages)", re.IGNORECASE
)
_LEAD = re.compile(
    r"\b(features?|gives you|you get|supports?|provides?|offers?|includes?|comes with|capabilit|built[- ]in|"
    r"such as|advantages|benefits)\b[^.]*$|\bfeatures\b",
    re.IGNORECASE,
)
_SAYS_HAS = re.compile(
    r"\b(?:has support for|have support for|adds support for|with (?:\w+ )?support for|natively serializes|"
    r"supports|includes|provides|offers|features|comes with|ships with|supporting)\s+"
    r"(?P<what>(?:`[^`]*`|[^.;:()`]|\.(?=\w))+)",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(
    r",\s+(?:and\s+)?(?:has|have|is|are|provides|supports|offers|includes|but|which|while|so|making|with|"
    r"without|for|as)\b"
    r"|\s(?:that|which|so that|in order to|when|if|while|because|derived|through|via|by|using|on top|without|"
    r"powered|written)\b"
)
_VAGUE = re.compile(
    r"^(if|when|while|for|see|note|because|or|and|but|it|this|that|these|those|all|any|some|many|several|"
    r"following|everything|you|your|one|most|more|a|various|additional|extra|further|please)\b",
    re.IGNORECASE,
)
_DENIED = re.compile(r"\b(not|no|never|cannot|without|unsupported|deprecated)\b|n['’]t\b", re.IGNORECASE)
_PROTOCOL = re.compile(r"\b[A-Z][A-Za-z]*/\d(?:\.\d+)?")
_CODE = re.compile(r"(\w+ )?`[^`]*`( \w+)?")
# Words that praise: a "feature" made of these alone names nothing that could be compared.
_VIRTUES = frozenset(
    map(
        _text.stem,
        _text.word_set(
            """correctness simplicity robustness performance reliability flexibility quality speed short intuitive
            beautiful stable lightweight small tiny extensible extensibility friendly usability productivity
            efficient start grow large write run"""
        ),
    )
)


def feature_names(passage: Passage, product: Product) -> list[str]:
    """Short names of the features that a passage says the product has; none if it doesn't speak of features."""
    if passage.aside or passage.kind in {"field", "other"}:
        return []
    if passage.kind == "item":
        return _listed_names(passage)
    if passage.kind == "row":
        return _row_names(passage)
    if _DENIED.search(passage.text) or passage.text.endswith("?"):
        return []
    subject = rf"(?:\w+ ){{0,2}}{re.escape(product.name)}\b|it\b|the (?:library|package|tool)\b"
    return sentence_names(passage.text) if re.match(subject, passage.text, re.IGNORECASE) else []


def _listed_names(passage: Passage) -> list[str]:
    section = passage.headings[-1] if passage.headings else ""
    # A list at the very top, under the product's own heading, is how many READMEs list their features.
    dependencies = re.search(r"\b(rel(y|ies)|depend|require|link)", passage.lead, re.IGNORECASE)
    on_top = len(passage.headings) <= 1 and not dependencies
    if not (on_top or _SECTION.search(section) or _LEAD.search(passage.lead)):
        return []
    return _item_names(passage.text)


def _row_names(passage: Passage) -> list[str]:
    """The first cell of a table of features, if the second says that the product has it."""
    if not re.search("feature|capabilit", passage.lead.split(" | ")[0], re.IGNORECASE):
        return []
    cells = passage.text.split(" | ")
    has = len(cells) == 1 or re.match(r"(yes|✓|✔|✅|x$|supported|full)", cells[1], re.IGNORECASE)
    return _item_names(cells[0]) if has else []


def sentence_names(text: str) -> list[str]:
    """The features of a sentence. Its verbs are tried one by one: what one says ends where the next begins."""
    names: list[str] = []
    match = _SAYS_HAS.search(text)
    while match:
        names += _phrase_names(match["what"])
        match = _SAYS_HAS.search(text, match.start("what"))
    return list(dict.fromkeys(names))


def _item_names(text: str) -> list[str]:
    """The name of a listed feature: `Caching: stores answers on disk.` is `Caching`."""
    head = re.match(r"(?P<name>[^.:–—]{3,60}?)(?::\s|\s[-–—]\s)", text)
    if head and len(head["name"].split()) <= 7 and (not _praises(head["name"]) or len(text.split()) > 9):
        name = head["name"]
    else:
        whole = _text.sentences(text)
        name = whole[0][1] if whole else text
        if len(name.split()) > 11:
            name = re.split(r", | \(|; ", name)[0]
    name = re.sub(r"\s+(if|when|where) (you )?need(ed)?( it)?\W*$", "", name)
    if two := re.fullmatch(r"(.{8,60}?), but (?:also )?with (.{4,60})", name):
        return [_tidy(two[1]), _tidy(two[2])]
    name = _tidy(name)
    protocols: list[str] = _PROTOCOL.findall(name)
    if len(protocols) > 1 and " and " in name:  # two protocols in one item are two features
        return protocols
    return [name] if len(name.split()) <= 14 and _names_something(name) else []


def _phrase_names(what: str) -> list[str]:
    """The features of `both HTTP/1.1 and HTTP/2, and provides …`: the noun phrases up to the end of the clause."""
    what = _CLAUSE_END.split(what)[0].strip(" ,")
    both = what.lower().startswith("both ")
    what = re.sub(r"^(both|either)\s+", "", what)
    if re.match(r"C?Python\s+\d", what):  # a statement about versions, read elsewhere
        return []
    parts = [_tidy(part) for part in re.split(r",\s*(?:and\s+|or\s+)?|\s+and\s+|\s+as well as\s+", what)]
    # A lone code literal (a type, an option) is data of a feature, not its name.
    parts = [part for part in parts if part and not _CODE.fullmatch(part)]
    if not 0 < len(parts) <= 6 or (not both and re.search(r"\b(both|either|between)\b", what)):
        return []  # a longer enumeration is data, and a "both" in the middle can't be split safely
    if max(len(part.split()) for part in parts) > 4 or re.search(r"\band\b.*\bof\b", what):
        name = _tidy(what)
        fits = 2 <= len(name.split()) <= 8 and name.count("`") <= 2
        return [name] if fits and _names_something(name) else []
    if both and not any(_PROTOCOL.search(part) for part in parts):
        return [_tidy(what)]  # `both sync and async APIs` is one feature, `both HTTP/1.1 and HTTP/2` are two
    # `sync and async APIs`: a lone adjective borrows the noun of the last part
    noun = parts[-1].split()[-1] if " " in parts[-1] else ""
    parts = [_tidy(f"{p} {noun}") if noun and p.islower() and " " not in p else p for p in parts]
    return [part for part in parts if _names_something(part)]


def _names_something(name: str) -> bool:
    version = re.match(r"C?Python \d", name)  # said of the package, and compared with its metadata
    return bool(_text.terms(name)) and not version and not _VAGUE.match(name) and not _praises(name)


def _praises(name: str) -> bool:
    return all(term in _VIRTUES for term in _text.terms(name))


def _tidy(name: str) -> str:
    """Without article and final stop, the first letter in upper case unless it is a single word."""
    name = re.sub(r"^(an?|the|its|their|your|ability to|support for)\s+", "", name.strip(), flags=re.IGNORECASE)
    name = name.rstrip(" .,;:!")
    return name[:1].upper() + name[1:] if name[:1].isalpha() and " " in name else name
