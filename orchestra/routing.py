"""Who can do a task: ordered candidates, pure and deterministic.

A task that names its agent or an exact capability needs no judgement. Any other is compared with what each agent says
of itself, by cosine of TF-IDF weighted character n-grams (3 and 4), which tell requests apart better than words do.
Below a threshold nobody is capable. The threshold is calibrated on the roster's own examples: how similar an example
is to its agent when that example is left out, against how similar it is to the best of the others, which is what a
request looks like whose capable agent is missing.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestra.agents import Agent
from orchestra.tasks import Task

Embed = Callable[[str], Sequence[float]]
"""Turns a text into a vector; a replacement for n-grams. It should be pure, or routing is not deterministic."""

_TERMS_KEPT = 200
"""N-grams kept per agent, the heaviest: enough to tell agents apart, few enough to stay under 100 microseconds."""

_DEFAULT_THRESHOLD = 0.12
"""Used when the roster has too few examples to calibrate on."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Who may do a task.

    Attributes:
        agents: Names, best first; empty when nobody is capable.
        reason: Why these, or why nobody, in one line.
        equals: How many of the first are as good as the first one.
    """

    agents: tuple[str, ...]
    reason: str
    equals: int = 1


class Router:
    """Routes tasks on one roster.

    Args:
        agents: The roster.
        backups: For each agent, its declared spares, in order.
        embed: Replaces character n-grams as the measure of similarity.
    """

    def __init__(
        self,
        agents: Iterable[Agent],
        backups: Mapping[str, Sequence[str]] | None = None,
        embed: Embed | None = None,
    ) -> None:
        self._agents = {agent.name: agent for agent in sorted(agents, key=lambda a: a.name)}
        self._backups = {name: tuple(spares) for name, spares in (backups or {}).items()}
        spares = {spare for group in self._backups.values() for spare in group}
        self._skills: dict[str, list[str]] = {}
        for agent in self._agents.values():
            for capability in agent.capabilities:
                self._skills.setdefault(capability.name, []).append(agent.name)
        for names in self._skills.values():
            names.sort(key=lambda name: (name in spares, name))
        self._named = {name: Choice(self._with_spares(name), f"task names {name}") for name in self._agents}
        self._skilled = {
            skill: Choice(self._able(names, spares), f"capability {skill}", sum(name not in spares for name in names))
            for skill, names in self._skills.items()
        }
        self._index = _Index(
            {agent.name: _texts(agent) for agent in self._agents.values() if agent.name not in spares}, embed
        )

    def choose(self, task: Task) -> Choice:
        """Return who may do a task, best first."""
        if task.agent is not None:
            return self._named.get(task.agent) or Choice(
                (), f"there is no agent {task.agent!r} in this workflow: add it, or run the request again"
            )
        if task.capability is not None and (choice := self._skilled.get(task.capability)):
            return choice
        text = f"{task.capability} {task.instruction}" if task.capability else task.instruction
        ranked = self._index.rank(text)
        threshold = self._index.threshold
        able = [name for name, score in ranked if score >= threshold]
        if not able:
            wanted = f"{text[:80]}…" if len(text) > 80 else text
            if not ranked:
                return Choice((), f"nobody is capable of {wanted!r}: no agent says anything like it")
            best = f"{ranked[0][0]} at {ranked[0][1]:.2f}, below the threshold of {threshold:.2f}"
            return Choice((), f"nobody is capable of {wanted!r}: the nearest is {best}")
        return Choice(self._with_spares(able[0], *able[1:]), f"similarity {ranked[0][1]:.2f}")

    def _able(self, names: Sequence[str], spares: Collection[str]) -> tuple[str, ...]:
        """Those with a capability, the first one's backups behind those that are no spares."""
        own = [name for name in names if name not in spares]
        return tuple(dict.fromkeys((*own, *self._with_spares(*names))))

    def _with_spares(self, first: str, *others: str) -> tuple[str, ...]:
        """The first, its backups, the others, then whoever shares a capability with the first."""
        peers = (name for c in self._agents[first].capabilities for name in self._skills[c.name])
        return tuple(dict.fromkeys((first, *self._backups.get(first, ()), *others, *peers)))


def _texts(agent: Agent) -> tuple[str, tuple[str, ...]]:
    """What an agent says of itself, and the examples it gives."""
    said = [agent.name.replace("_", " "), agent.description]
    for capability in agent.capabilities:
        said += [capability.name.replace("_", " "), capability.description]
    return " ".join(filter(None, said)), tuple(e for c in agent.capabilities for e in c.examples)


def ngrams(text: str) -> set[str]:
    """Character n-grams of 3 and 4 within each word, the word's ends marked by a blank."""
    found: set[str] = set()
    for word in set(text.lower().split()):
        padded = f" {word} "
        for n in (3, 4):
            found.update([padded[i : i + n] for i in range(len(padded) - n + 1)])
    return found


def _unit(vector: Mapping[str, float]) -> dict[str, float]:
    norm = math.sqrt(sum(w * w for w in vector.values()))
    return {term: w / norm for term, w in vector.items()} if norm else {}


class _Index:
    """Similarity of a text to each agent, and the threshold below which it means nothing."""

    def __init__(self, texts: Mapping[str, tuple[str, tuple[str, ...]]], embed: Embed | None) -> None:
        self._embed = embed
        corpus = [text for said, examples in texts.values() for text in (said, *examples)]
        seen = Counter(term for text in corpus for term in ngrams(text)) if embed is None else Counter[str]()
        self._weight = {term: math.log((1 + len(corpus)) / n) for term, n in seen.items()}
        self._strange = math.log(1 + len(corpus))  # the weight of a term that no agent uses
        parts = {name: [self._vector(t) for t in (said, *examples)] for name, (said, examples) in texts.items()}
        self._names = sorted(parts)
        self._postings: dict[str, list[tuple[int, float]]] = {}
        for i, name in enumerate(self._names):
            for term, weight in self._heaviest(_centroid(parts[name])).items():
                self._postings.setdefault(term, []).append((i, weight))
        self._terms = {
            term: (weight * weight, [(i, weight * share) for i, share in self._postings.get(term, ())])
            for term, weight in self._weight.items()
        }
        self.threshold = self._calibrate(parts)

    def _heaviest(self, vector: Mapping[str, float]) -> Mapping[str, float]:
        if self._embed is not None:
            return vector
        return dict(sorted(vector.items(), key=lambda item: (-item[1], item[0]))[:_TERMS_KEPT])

    def _vector(self, text: str) -> dict[str, float]:
        if self._embed is not None:
            return _unit({str(i): float(w) for i, w in enumerate(self._embed(text))})
        return _unit({term: self._weight.get(term, self._strange) for term in ngrams(text)})

    def rank(self, text: str) -> list[tuple[str, float]]:
        """The capable agents with their similarity, best first, ties by name; if nobody is capable, the nearest."""
        if self._embed is not None:
            return self._rank(self._vector(text))
        # The same as `_rank(_vector(text))` in one pass, the text's length divided out at the end: the hot path.
        terms, strange = self._terms, self._strange * self._strange
        square = 0.0
        scores = [0.0] * len(self._names)
        for term in ngrams(text):
            if (found := terms.get(term)) is None:
                square += strange
            else:
                square += found[0]
                for i, share in found[1]:
                    scores[i] += share
        norm = math.sqrt(square) or 1.0
        floor = min(self.threshold * norm, max(scores, default=0.0)) or 1e-9
        ranked = sorted((-score, i) for i, score in enumerate(scores) if score >= floor)
        return [(self._names[i], -score / norm) for score, i in ranked]

    def _rank(self, vector: Mapping[str, float]) -> list[tuple[str, float]]:
        scores = [0.0] * len(self._names)
        postings = self._postings
        for term, weight in vector.items():
            if (entries := postings.get(term)) is not None:
                for i, other in entries:
                    scores[i] += weight * other
        ranked = sorted((-score, i) for i, score in enumerate(scores) if score)
        return [(self._names[i], -score) for score, i in ranked]

    def _calibrate(self, parts: Mapping[str, list[dict[str, float]]]) -> float:
        """The score that best parts requests with a capable agent from those without."""
        capable: list[float] = []
        stray: list[float] = []
        for name, vectors in parts.items():
            for example in vectors[1:]:
                rest = self._heaviest(_centroid([v for v in vectors if v is not example]))
                capable.append(sum(w * rest[term] for term, w in example.items() if term in rest))
                stray.append(next((score for other, score in self._rank(example) if other != name), 0.0))
        if len(parts) < 2 or len(capable) < 4:
            return _DEFAULT_THRESHOLD
        cuts = sorted({*capable, *stray})
        middles = [(low + high) / 2 for low, high in itertools.pairwise(cuts)] or [_DEFAULT_THRESHOLD]
        capable.sort()
        stray.sort()

        def errors(cut: float) -> float:
            missed = bisect_left(capable, cut) / len(capable)
            return missed + 1 - bisect_left(stray, cut) / len(stray)

        return min(middles, key=lambda cut: (errors(cut), -cut))


def _centroid(vectors: Sequence[Mapping[str, float]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for vector in vectors:
        for term, weight in vector.items():
            total[term] += weight  # pyright: ignore[reportArgumentType] -- a Counter of floats adds up well
    return _unit(total)
