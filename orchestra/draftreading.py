"""A model's draft of a plan, read in steps, one for each habit that models have.

A step says what the model could do about what it finds, and does what can be done without the model.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestra.agents import Agent

_ID_LENGTH = 200
"""The longest id that a `Task` may have."""


@dataclass(slots=True)
class Row:
    """A task while it is read: first as the draft has it, step by step as a `Task` will."""

    id: str
    instruction: str
    agent: str | None
    capability: str | None
    needs: list[str]

    def __str__(self) -> str:
        return _shown(self.id)

    @property
    def work(self) -> tuple[str | None, str | None, str]:
        """What it does, inputs aside; where it names an agent, routing looks at nothing else."""
        words = " ".join(self.instruction.casefold().split())
        return self.agent, None if self.agent else self.capability, words


class Reading:
    """A draft, read step by step.

    Attributes:
        rows: The tasks that are left, in the draft's order; none if there are more than twice as many as allowed.
        complaints: What is wrong with the draft, for the model.
        repairs: What was done about it.
    """

    def __init__(self, rows: Sequence[Row], agents: Sequence[Agent], *, limit: int, request: str) -> None:
        self.rows, known = [*rows], {agent.name: agent.description for agent in agents}
        self.complaints: list[str] = []
        self.repairs: list[str] = []
        self._settle_ids()
        self._settle_names("agent", {*known})
        self._settle_names("capability", {c.name for agent in agents for c in agent.capabilities})
        self._settle_instructions(known, request)
        self._settle_needs(_loosely(known))
        self._break_circles()
        self._merge_repeats()
        self._fit(limit)

    def _found(self, complaint: str, repair: str) -> None:
        self.complaints.append(complaint)
        self.repairs.append(repair)

    def _settle_ids(self) -> None:
        """Give every task an id of its own; one that several have stays with the first."""
        names = [_plain(row.id) for row in self.rows]
        there, used = {*names}, {""}
        renamed: list[str] = []
        for number, (row, name) in enumerate(zip(self.rows, names, strict=True), 1):
            row.id = name
            if name in used:
                base = (name or _plain(row.agent or row.capability or "") or "task")[: _ID_LENGTH - 20]
                free = itertools.count(number, len(names))  # no other row's number
                row.id = next(made for n in free if (made := f"{base}_{n}") not in there)
                there.add(row.id)
                renamed.append(f"number {number} {row}")
            used.add(name)
        if called := _listed(renamed):
            self._found(
                f"Ids are missing or used twice. Give every task one of its own; until then let us call {called}.",
                f"called {called}, since ids were missing or used twice",
            )

    def _settle_names(self, kind: Literal["agent", "capability"], known: set[str]) -> None:
        """Find the agents or capabilities that are meant; where there is none, leave the choice to routing."""
        names = _loosely(known)
        strangers: dict[str, list[Row]] = {}
        for row in self.rows:
            said: str = getattr(row, kind) or ""
            meant = _meant(said, names)
            if meant is None and said.strip():
                strangers.setdefault(said, []).append(row)
            setattr(row, kind, meant)
        there = _listed(map(repr, sorted(known)), 30) or "none"
        for name, rows in strangers.items():
            self._found(
                f"There is no {kind} {_shown(name)} for {_tasks(rows)}. There are: {there}.",
                f"{kind} {_shown(name)} left out, since there is none of this name, in {_tasks(rows)}",
            )

    def _settle_instructions(self, descriptions: Mapping[str, str], request: str) -> None:
        """Fill in what agents say of themselves, or the request; drop the tasks that don't even say who does them."""
        for row in self.rows:
            row.instruction = row.instruction if row.instruction.strip() else descriptions.get(row.agent or "", "")
        lacking = [row for row in self.rows if not row.instruction.strip()]
        if lacking:
            self.complaints.append(f"No instruction in {_tasks(lacking)}. Say what is to be done, or leave it out.")
        if silent := [row for row in lacking if not (row.agent or row.capability)]:
            self.repairs.append(f"dropped, since neither what is to be done nor who does it is said: {_tasks(silent)}")
            self.rows = [row for row in self.rows if row.instruction.strip() or row.agent or row.capability]
        filled = [row for row in lacking if row.agent or row.capability]
        if filled and request.strip():
            self.repairs.append(f"the request taken for the instruction in {_tasks(filled)}")
            for row in filled:
                row.instruction = request

    def _settle_needs(self, agents: Mapping[str, str]) -> None:
        """Find the tasks that are needed; an agent that is needed stands for its only task."""
        ids = _loosely(row.id for row in self.rows)
        owned: dict[str, list[Row]] = {}
        for row in self.rows:
            owned.setdefault(row.agent or "", []).append(row)
        for row in self.rows:
            needs: dict[str, None] = {}
            lost: list[str] = []
            for text in dict.fromkeys(name for need in row.needs if (name := _plain(need))):
                need, agent = _meant(text, ids), _meant(text, agents)
                if need is None and agent and len(theirs := owned.get(agent, ())) == 1:
                    need = theirs[0].id
                    self._found(
                        f"Task {row} needs {agent!r}, which is an agent. Write the id of its task: {theirs[0]}.",
                        f"{row} needs {theirs[0]}, the only task of agent {agent!r}",
                    )
                if need is None:
                    lost.append(_shown(text))
                else:
                    needs[need] = None
            if lost:
                self._found(
                    f"Task {row} needs {_listed(lost)}. Needs are ids of other tasks, and no task has such an id.",
                    f"{row} no longer needs {_listed(lost)}: no such task",
                )
            row.needs = [*needs]

    def _break_circles(self) -> None:
        """Take away the needs that are part of a circle and go against the list, which is in the order of doing."""
        knots = _knots({row.id: row.needs for row in self.rows})
        earlier: set[str] = set()
        for row in self.rows:
            cut = dict.fromkeys(need for need in row.needs if need not in earlier and knots[need] == knots[row.id])
            if cut:
                row.needs = [need for need in row.needs if need not in cut]
                others = _listed(map(_shown, cut))
                self._found(
                    f"A circle: task {row} needs {others}, where {row} is needed in turn, directly or through others. "
                    "None of them could start: take one of these needs away.",
                    f"{row} no longer needs {others}, where it is needed in turn, directly or through others",
                )
            earlier.add(row.id)

    def _merge_repeats(self) -> None:
        """Merge tasks that do the same work on the same inputs, and repeats of a task that are chained to it.

        The same work on other inputs is not the same: "summarise" for each of three documents is three tasks.
        """
        rows = {row.id: row for row in self.rows}
        works = {row.id: row.work for row in self.rows}
        stands: dict[str, str] = {}
        seen: dict[object, str] = {}
        repeats: dict[str, list[Row]] = {}
        for id_ in _in_order({row.id: row.needs for row in self.rows}):
            row = rows[id_]
            row.needs = list(dict.fromkeys(stands[need] for need in row.needs))
            needs = frozenset(row.needs)
            chained = (n for n in row.needs if works[n] == works[id_] and needs - {n} <= {*rows[n].needs})
            twin = next(chained, None) or seen.setdefault((works[id_], needs), id_)
            stands[id_] = twin
            if twin != id_:
                repeats.setdefault(twin, []).append(row)
        for first, again in repeats.items():
            self._found(
                f"The work of task {rows[first]} once more, on the same inputs, in {_tasks(again)}. List it once.",
                f"merged into {rows[first]}, the same work: {_tasks(again)}",
            )
        self.rows = [row for row in self.rows if stands[row.id] == row.id]

    def _fit(self, limit: int) -> None:
        """Leave out what is too much: what would be done last, so that nothing that is kept needs it."""
        count = len(self.rows)
        if not count:
            self.complaints.append("The plan has no task. It must have at least one.")
        if count > limit:
            said = f"The plan has {count:,} tasks, and {limit:,} are allowed. Leave out what is not asked for, and"
            self.complaints.insert(0, f"{said} make one task of several that belong together.")
            kept = {*_in_order({row.id: row.needs for row in self.rows})[:limit]} if count <= 2 * limit else set[str]()
            over = [row for row in self.rows if row.id not in kept]
            self.repairs.append(f"dropped, since {count:,} tasks are more than {limit:,}: {_tasks(over)}")
            self.rows = [row for row in self.rows if row.id in kept]


# Names


def _shown(text: str) -> str:
    """A name as it is quoted: short, and on one line whatever it holds."""
    return repr(text if len(text) <= 60 else f"{text[:57]}…")


def _listed(names: Iterable[str], most: int = 12) -> str:
    names = [*names]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _tasks(rows: Sequence[Row]) -> str:
    return f"{'task' if len(rows) == 1 else 'tasks'} {_listed(map(str, rows))}"


def _plain(text: str) -> str:
    """An id on one line, without blanks around it or what can't be seen, and not too long."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_ID_LENGTH].rstrip()


def _fold(text: str) -> str:
    """A name without what models write now so, now so: case, blanks, underscores, hyphens."""
    return "".join(text.casefold().replace("_", " ").replace("-", " ").split())


def _loosely(names: Iterable[str]) -> dict[str, str]:
    """Names by themselves, and by their folded forms where those tell them apart."""
    names = [*names]
    alike = Counter(map(_fold, names))
    return {fold: name for name in names if alike[fold := _fold(name)] == 1 and fold} | {name: name for name in names}


def _meant(text: str, names: Mapping[str, str]) -> str | None:
    return names.get(text, names.get(_fold(text)))


# Order


def _in_order(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Put tasks after what they need, and otherwise as they are listed; where there are circles, as far as it goes."""
    order: list[str] = []
    seen: set[str] = set()
    stack = [(task, False) for task in reversed([*needs])]
    while stack:
        task, ready = stack.pop()
        if ready:
            order.append(task)
        elif task not in seen:
            seen.add(task)
            stack.append((task, True))
            stack += [(need, False) for need in reversed(needs[task])]
    return order


def _knots(needs: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """For each task one of the tasks that it needs and that need it, directly or through others: the same for all.

    These are the strongly connected components, by Kosaraju's algorithm.
    """
    dependants: dict[str, list[str]] = {task: [] for task in needs}
    for task, those in needs.items():
        for need in those:
            dependants[need].append(task)
    knots: dict[str, str] = {}
    for root in reversed(_in_order(needs)):
        stack = [root]
        while stack:
            task = stack.pop()
            if task not in knots:
                knots[task] = root
                stack += dependants[task]
    return knots
