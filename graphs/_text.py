"""Text work without a model: sentences, terms, similarity, ranking and full-text search. Standard library only.

Ranking follows LexRank (Erkan and Radev, 2004): PageRank over the TF-IDF cosine similarity of sentences.
Search is SQLite's FTS5 with its built-in BM25, in memory.
"""

# ruff: noqa: RUF001 -- sources are written with typographic quotes and dashes

import itertools
import math
import operator
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache


def word_set(text: str) -> frozenset[str]:
    """The words of a text: long lists of words read better as text than as a list of strings."""
    return frozenset(text.split())


_ABBREVIATIONS = word_set("etc. no. fig. st. inc. ltd. resp. al.")
_INNER = word_set("e.g. i.e. vs. cf. dr. mr. ms. approx. ca.")  # these never end a sentence
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]`]*(?=\s|$)")

# Words that carry no subject matter, in general or in product documents. Kept as written, before stemming.
STOPWORDS = word_set(
    """
    a an the and or but nor so if then than that this these those it its it's they them their we our you
    your i of in on at by for from to with without within into onto over under out up down as is are was
    were be been being am do does did done has have had having can could may might must shall should
    will would not no yes also just only very more most much many some any all each every both either
    neither other another such same own via per about between while when where which who whom whose what
    how why there here because since until during get gets got give gives make makes made use uses used
    using based well ready now plus etc e.g i.e support supports supported supporting provide provides
    provided include includes including included allow allows offer offers enable enables feature
    features library libraries package packages python project tool new fully full automatic
    automatically simple simply easy easily elegant familiar powerful fast broadly great modern standard
    built-in builtin integrated native natively optional optionally various multiple several style like
    ability standard need needed needs first next directly one two everywhere strict
    """
)

# Small and generic on purpose: other words for the same thing in any software document.
_SYNONYMS = {
    "tl": "tls", "ssl": "tls", "cli": "commandline", "terminal": "commandline", "dictionary": "dict",
    "mapping": "dict", "auth": "authentic", "asynchronou": "async", "asyncio": "async", "url": "uri",
    "typed": "type", "typ": "type", "hint": "annotat", "macos": "mac",
    "osx": "mac", "synchronou": "sync", "interface": "api", "interfac": "api", "job": "task", "cron": "schedul",
    "periodic": "schedul",
}  # fmt: skip

_TOKEN = re.compile(r"[A-Za-z]+/\d+(?:\.\d+)*|\d+(?:[.,]\d+)*[A-Za-z]*|[A-Za-z_][\w+#]*(?:[-‐–'.][A-Za-z0-9_+#]+)*")
_SUFFIXES = ("izations", "ization", "ations", "ation", "ings", "ing", "ions", "ion", "ences", "ence", "ent", "ies",
             "ied", "ed", "es", "s", "e", "y")  # fmt: skip


def sentences(text: str) -> list[tuple[int, str]]:
    """Split a paragraph into whole sentences, each with its offset in `text`.

    A stretch without a final stop (a title, a lead-in that ends in a colon) is not a sentence and is left out.
    """
    found: list[tuple[int, str]] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        word = text[:end].rsplit(maxsplit=1)[-1].lstrip("(\"'").lower()
        following = text[end:].lstrip()[:1]
        if word in _INNER or (word in _ABBREVIATIONS and (following.islower() or following.isdigit())):
            continue
        if match.group().startswith(("..", "…")) and following.islower():
            continue
        piece = text[start:end]
        if re.fullmatch(r"[a-z]\.|\d+\.", word) and (word[0].isalpha() or piece.strip() == word):
            continue  # an initial, or a number of a list
        lead = len(piece) - len(piece.lstrip())
        found.append((start + lead, re.sub(r"\s+", " ", piece).strip()))
        start = end
    return [(offset, s) for offset, s in found if len(s.split()) >= 4 and re.match(r"[\w\"'`“‘(.]", s)]


@lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """A rough English stem: enough to see that `decoding` and `decoded` are one word."""
    word = re.sub(r"[-‐–'_.]", "", word.lower())
    if not word.isalpha() or len(word) < 4:
        return _SYNONYMS.get(word, word)
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    return _SYNONYMS.get(word, word)


def words(text: str) -> list[str]:
    """The words, numbers and names like `HTTP/2` of a text, as written."""
    text = text.replace("(S)", "S").replace("(s)", "s")
    text = re.sub(r"key[/ -]value", "dict", text, flags=re.IGNORECASE)
    return _TOKEN.findall(text)


@lru_cache(maxsize=20_000)
def terms(text: str) -> tuple[str, ...]:
    """The stems of the words that carry meaning, in order, each once."""
    kept = [stem(word) for word in words(text) if word.lower() not in STOPWORDS]
    return tuple(dict.fromkeys(term for term in kept if term))


def has_terms(text: str, wanted: Iterable[str]) -> bool:
    """Whether all of these stems occur in the text, also as parts of a hyphenated word."""
    present = all_stems(text)
    return all(term in present for term in wanted)


@lru_cache(maxsize=20_000)
def all_stems(text: str) -> frozenset[str]:
    """Every stem of a text, stop words included, hyphenated words whole and in parts, neighbours joined."""
    tokens = words(text)
    parts = [part for token in tokens for part in re.split(r"[-‐–/.]", token)]
    joined = [a + b for a, b in itertools.pairwise(tokens) if a.isalpha() and b.isalpha()]
    return frozenset(stem(word) for word in [*tokens, *parts, *joined] if word)


_DENIED_OBJECT = re.compile(
    r"\b(?:not|never|cannot|no longer|n['’]t)\b[^.;,]{0,25}?"
    r"\b(?:support|provide|offer|include|implement|have|handle|run on|work (?:with|on))\w*\s+(?P<what>[^.;]*)|"
    r"\b(?:there (?:is|are) no|no support for|lacks?|without support for)\s+(?P<what2>[^.;]*)",
    re.IGNORECASE,
)
_DENIED_SUBJECT = re.compile(
    r"(?P<what>[^.;]*?)\b(?:is|are) (?:currently )?not (?:yet )?(?:supported|provided|available|implemented)|"
    r"unsupported[^.;:]*:(?P<what2>[^.;]*)",
    re.IGNORECASE,
)
_EXPLANATION = re.compile(r"\b(?:due to|because|since|when|if|unless|except|in order|to avoid|but)\b", re.IGNORECASE)


def denies(text: str, wanted: Iterable[str]) -> bool:
    """Whether a text says that exactly this is not there: `does not support PyPy` denies PyPy.

    Only what the negated verb is about counts: `does not serialize floats due to details in CPython` does not
    deny CPython.
    """
    wanted = list(wanted)
    for pattern in (_DENIED_OBJECT, _DENIED_SUBJECT):
        for match in pattern.finditer(text):
            what = _EXPLANATION.split(match["what"] or match["what2"] or "")[0]
            if wanted and has_terms(what, wanted):
                return True
    return False


def numbers(text: str) -> set[str]:
    """The numbers and versions of a text, without thousands separators: `{"3.10", "4000000"}`."""
    return {n.replace(",", "") for n in re.findall(r"(?<![\w.])\d+(?:[.,]\d+)*", text)}


def ngram_similarity(a: str, b: str, size: int = 3) -> float:
    """Cosine similarity of the character n-grams of two short texts, 0 to 1."""
    return _cosine(_ngrams(a, size), _ngrams(b, size))


@lru_cache(maxsize=20_000)
def _ngrams(text: str, size: int) -> Counter[str]:
    text = re.sub(r"[^a-z0-9/.+#]", "", text.lower())
    return Counter(text[i : i + size] for i in range(max(1, len(text) - size + 1)))


def _cosine(a: Counter[str] | dict[str, float], b: Counter[str] | dict[str, float]) -> float:
    if len(b) < len(a):
        a, b = b, a
    dot = sum(value * b.get(key, 0) for key, value in a.items())
    norm = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
    return dot / norm if norm else 0.0


def inverse_frequency(texts: Sequence[str]) -> dict[str, float]:
    """How telling each term is among these texts: log(1 + n / occurrences)."""
    counts = Counter(term for text in texts for term in set(terms(text)))
    return {term: math.log(1 + len(texts) / count) for term, count in counts.items()}


def overlap(a: str, b: str, weights: dict[str, float]) -> float:
    """How much of the meaning of two short texts is shared, 0 to 1: half terms by weight, half characters."""
    left, right = set(terms(a)), set(terms(b))
    if not left or not right:
        return 0.0
    joined_a, joined_b = all_stems(a), all_stems(b)
    shared = {t for t in left if t in joined_b} | {t for t in right if t in joined_a}
    if not shared:
        return 0.0
    total = sum(weights.get(t, 1.0) for t in left | right)
    weight = sum(weights.get(t, 1.0) for t in shared) / total if total else 0.0
    score = 0.6 * min(weight, 1.0) + 0.4 * ngram_similarity(a, b)
    # One name that holds all terms of the other is the same thing, said with more or fewer words.
    return max(score, 0.65) if left <= joined_b or right <= joined_a else score


def rank(texts: Sequence[str], *, limit: int = 250, damping: float = 0.85) -> list[float]:
    """LexRank scores of sentences: high for those that say what many others say too.

    Only the first `limit` sentences are compared (the cost is quadratic); the others score 0. Earlier sentences
    weigh slightly more, since documents introduce themselves at the top.
    """
    idf = inverse_frequency(texts)
    head = texts[:limit]
    vectors = [{term: idf[term] for term in terms(text)} for text in head]
    n = len(head)
    edges = [[_cosine(vectors[i], vectors[j]) if i != j else 0.0 for j in range(n)] for i in range(n)]
    totals = [sum(row) or 1.0 for row in edges]
    scores = [1 / n] * n if n else []
    for _ in range(25):
        share = [score / total for score, total in zip(scores, totals, strict=True)]
        # The similarity is symmetric, so row i holds what flows into i.
        scores = [(1 - damping) / n + damping * sum(map(operator.mul, share, edges[i])) for i in range(n)]
    return [score * (1 + 1 / (1 + i)) for i, score in enumerate(scores)] + [0.0] * (len(texts) - n)


class Index:
    """Full-text search over texts with keys."""

    def __init__(self, entries: Iterable[tuple[str, str]]) -> None:
        self._db = sqlite3.connect(":memory:")
        self._db.execute("CREATE VIRTUAL TABLE entries USING fts5(key UNINDEXED, stems)")
        rows = [(key, " ".join(_quotable(s) for s in sorted(all_stems(text)))) for key, text in entries]
        self._db.executemany("INSERT INTO entries VALUES (?, ?)", rows)

    def find(self, wanted: Iterable[str], limit: int = 10) -> list[str]:
        """Keys of the entries that hold all of these stems, the best first."""
        query = " AND ".join(f'"{_quotable(term)}"' for term in wanted)
        if not query:
            return []
        sql = "SELECT key FROM entries WHERE entries MATCH ? ORDER BY rank LIMIT ?"
        return [key for (key,) in self._db.execute(sql, (f"stems : ({query})", limit))]


def _quotable(stem_: str) -> str:
    """A stem as one token for FTS5, whose tokenizer would cut `http/1.1` into three."""
    return "".join(c if c.isalnum() else f"x{ord(c):x}x" for c in stem_)
