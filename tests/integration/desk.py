"""What tests of branches share: agents that count their calls, and looks at what is stored."""

import asyncio
import operator
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from langgraph.types import Command, interrupt

from orchestra import (
    Agent,
    Assignment,
    Comparison,
    History,
    Moment,
    Orchestra,
    Plan,
    RunState,
    Task,
    Workflow,
)

THREAD: Any = {"configurable": {"thread_id": "t"}}
TABLES = ("orchestra_checkpoints", "orchestra_values", "orchestra_writes")


@dataclass
class Desk:
    """Agents that count their calls, and what a test has them do besides."""

    calls: Counter[str] = field(default_factory=Counter)
    seen: dict[str, Assignment] = field(default_factory=dict)
    does: dict[str, Callable[[Assignment], Awaitable[Any]]] = field(default_factory=dict)
    constant: set[str] = field(default_factory=set)

    def agent(self, name: str, key: str = "") -> Agent:
        key = key or name

        async def run(task: Assignment) -> str:
            self.calls[key] += 1
            self.seen[key] = task
            said = await self.does[key](task) if key in self.does else None
            said = said if isinstance(said, str) else None
            count = "" if key in self.constant else self.calls[key]
            return f"{said or name}{count}({','.join(task.inputs[need] for need in sorted(task.inputs))})"

        return Agent(name, run)

    @contextmanager
    def reruns(self) -> Iterator[set[str]]:
        """The agents that are called meanwhile; each may be called once."""
        before, called = self.calls.copy(), set[str]()
        yield called
        again = self.calls - before
        assert set(again.values()) <= {1}, f"called more than once: {again}"
        called |= set(again)


AFTER = {"a": {"a", "c", "d", "e"}, "b": {"b", "d"}, "c": {"c", "d"}, "d": {"d"}, "e": {"e"}}
"""In the diamond: what a task takes with it when it runs again."""


def diamond(desk: Desk, **options: Any) -> Workflow:
    """c and e need a; d needs b and c."""
    flow = Workflow("diamond", agents=[desk.agent(name) for name in "abcde"], **options)
    return flow.add_edge("a", "c").add_edge(["b", "c"], "d").add_edge("a", "e")


def chain(desk: Desk) -> Workflow:
    flow = Workflow("chain", agents=[desk.agent(name) for name in "abc"])
    return flow.add_edge("a", "b").add_edge("b", "c")


async def asks(task: Assignment) -> Any:
    return interrupt("who?") if "ask" in task.request else None


def rows(database: str) -> dict[str, set[tuple[Any, ...]]]:
    """All that is stored of threads, byte by byte, past the product."""
    path = database.removeprefix("sqlite:///")
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return {table: set(connection.execute(f"SELECT * FROM {table}")) for table in TABLES}
    finally:
        connection.close()


@contextmanager
def old_branch_untouched(database: str) -> Iterator[None]:
    """Rows are added; none is changed, none is gone."""
    before = rows(database)
    yield
    after = rows(database)
    for table in TABLES:
        assert not before[table] - after[table], f"{table}: rows were changed or deleted"
    assert len(after["orchestra_checkpoints"]) > len(before["orchestra_checkpoints"]), "nothing was stored"


@contextmanager
def nothing_stored(database: str) -> Iterator[None]:
    before = rows(database)
    yield
    assert rows(database) == before


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await true():
            await asyncio.sleep(0.005)


async def stop_amid(
    orchestra: Orchestra, flow: Workflow, desk: Desk, task: str, stored: set[str], **options: Any
) -> None:
    """Start a run on thread t, cancel it while a task is at work and others are stored."""
    desk.does[task] = lambda _: asyncio.sleep(60)
    run = await orchestra.start(flow, "go", thread_id="t", **options)

    async def there() -> bool:
        return desk.calls[task] == 1 and set((await orchestra.info("t")).raw) == stored

    await until(there)
    await run.cancel()
    del desk.does[task]
    assert (await orchestra.info("t")).state is RunState.STOPPED


def table(history: History) -> list[tuple[int, int, str, str | None]]:
    return [(moment.turn, moment.wave, moment.what, moment.task) for moment in history]


def find(history: History, what: str, task: str | None = None, **wanted: Any) -> Moment:
    """The first moment of a kind."""
    return next(
        moment
        for moment in history
        if (moment.what, moment.task) == (what, task)
        and all(getattr(moment, key) == value for key, value in wanted.items())
    )


async def texts(graph_or: Orchestra, flow: Workflow) -> list[str]:
    state = await flow.compile(checkpointer=graph_or.saver).aget_state(THREAD)
    return [message.text for message in state.values["messages"]]


def kinds(comparison: Comparison) -> dict[str, str]:
    return {change.task: change.kind for change in comparison.tasks}


class Notes(TypedDict):
    log: Annotated[list[str], operator.add]
    latest: str


def noting(desk: Desk, *, slow: str = "") -> Workflow:
    """a, b -> c; every agent adds to a key with a reducer and sets one without."""

    def taking(name: str) -> Agent:
        async def run(task: Assignment) -> tuple[str, Command[Any]]:
            desk.calls[name] += 1
            desk.seen[name] = task
            if name == slow:
                await asyncio.sleep(0.05)
            mark = f"{name}{desk.calls[name]}"
            return mark, Command(update={"log": [mark], "latest": mark})

        return Agent(name, run)

    flow = Workflow("noting", agents=[taking(name) for name in "abcd"], state_schema=Notes)
    return flow.add_edge(["a", "b"], "c").add_edge("c", "d")


@dataclass
class Planning:
    """Plans what the request names, and counts."""

    made: int = 0

    def plan(self, request: str, **_: Any) -> Plan:
        self.made += 1
        names = request.split()
        last = Task(id=f"end{self.made}", agent="c", needs=tuple(names))
        return Plan(tasks=(*(Task(id=name, agent=name) for name in names), last))
