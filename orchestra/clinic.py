"""Looks after a workflow's agents: probes them, beside the work, and shares what is known of them through the store.

Agents are named with the teams around them: `operations/fraud/scorer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, cast

from langgraph.store.base import BaseStore, PutOp

from orchestra.agents import Agent, Binding
from orchestra.assignments import Assignment
from orchestra.errors import AgentError, WorkflowError
from orchestra.invoking import failure_of, invoke, told_apart
from orchestra.metering import Scope
from orchestra.outputs import deliver
from orchestra.places import has_place, place_of
from orchestra.probes import Probe, is_judge, unmet
from orchestra.retrying import describe
from orchestra.tasks import Review, Task, now
from orchestra.vitals import Change

_HEALTH, _PROBES = "orchestra_health", "orchestra_probes"

_KEPT = 50
"""Probes of each agent that are kept in the store."""


class Roster(Protocol):
    """A workflow, as far as it is looked after."""

    name: str
    roster: dict[str, Agent]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """What a probe said.

    Attributes:
        agent: The agent, with the teams around it.
        at: When it began.
        seconds: How long it took.
        problem: What was wrong, in one line; `None` if nothing was.
    """

    agent: str
    at: datetime
    seconds: float
    problem: str | None


def everyone(workflow: Roster, path: tuple[str, ...] = ()) -> dict[str, Agent]:
    """All agents of a workflow and of its teams."""
    found: dict[str, Agent] = {}
    for name, agent in workflow.roster.items():
        found["/".join((*path, name))] = agent
        if agent.is_team:
            found |= everyone(cast("Roster", agent.run), (*path, name))
    return found


class Clinic:
    """Looks after the agents of one workflow.

    Args:
        workflow: The workflow.
        store: Where health and probes are shared; `None` keeps them in this process.
        tell: Takes changes of health, by the agent's name.
    """

    def __init__(
        self, workflow: Roster, store: BaseStore | None, tell: Callable[[str, Change], None] = lambda _, __: None
    ) -> None:
        self.agents = everyone(workflow)
        self._name = workflow.name.replace(".", "%2E")
        self._store = store
        self._tell = tell
        self._stored: dict[str, Any] = {}
        self._last: dict[str, datetime] = {}

    @asynccontextmanager
    async def attending(self) -> AsyncGenerator[None]:
        """Inside, agents are probed when it is time; what was learned of them is shared at the end."""
        await self.read()
        probing = asyncio.create_task(self._probe_on()) if any(a.probe for a in self.agents.values()) else None
        try:
            yield
        finally:
            if probing is not None:
                probing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await probing
            await self.share()

    async def read(self) -> None:
        """Take in what other processes know."""
        if self._store is None:
            return
        for item in await self._store.asearch((_HEALTH, self._name), limit=10_000):
            if (agent := self.agents.get(item.key)) is not None:
                self._stored[item.key] = item.value
                if (change := agent.health.merge(item.value)) is not None:
                    self._tell(item.key, change)

    async def share(self) -> None:
        """Let other processes know what is new."""
        if self._store is None:
            return
        new = {name: agent.health.dump() for name, agent in self.agents.items()}
        changed = [name for name, dump in new.items() if dump != self._stored.get(name) and _says_something(dump)]
        if changed:
            await self._store.abatch([PutOp((_HEALTH, self._name), name, new[name], index=False) for name in changed])
            self._stored |= new

    async def check(self) -> list[Checkup]:
        """Probe every agent that has a probe, all at once."""
        await self.read()
        asked = [name for name, agent in self.agents.items() if agent.probe is not None]
        done = [*await asyncio.gather(*(self._examine(name) for name in asked))]
        await self._file(done)
        await self.share()
        return done

    async def history(self, agent: str) -> list[Checkup]:
        """The last probes of an agent, oldest first."""
        item = None if self._store is None else await self._store.aget((_PROBES, self._name), agent)
        told: list[Any] = [] if item is None else item.value["checkups"]
        return [
            Checkup(agent=agent, at=datetime.fromisoformat(at), seconds=seconds, problem=problem)
            for at, seconds, problem in told
        ]

    async def _probe_on(self) -> None:
        """Probe whoever it is time for, again and again; what other processes did counts."""
        for name in self.agents:
            if told := await self.history(name):
                self._last[name] = told[-1].at
        while True:
            due = [name for name in self.agents if self._wait_for(name) <= 0]
            free = [name for name in due if has_place(self.agents[name])]  # a busy one shows by its work how it is
            if free:
                await self._file([*await asyncio.gather(*(self._examine(name) for name in free))])
                await self.share()
            waits = [self._wait_for(name) for name, agent in self.agents.items() if agent.probe is not None]
            await asyncio.sleep(max(0.05, min(waits)))

    def _wait_for(self, name: str) -> float:
        """Seconds to an agent's next probe. One that is open is probed as soon as its trial may go."""
        agent = self.agents[name]
        if agent.probe is None:
            return float("inf")
        due = self._last[name] + timedelta(seconds=agent.probe.every) if name in self._last else now()
        if (trial := agent.health.opens_until) is not None:
            due = min(due, max(trial, self._last.get(name, trial) + timedelta(seconds=1)))
        return (due - now()).total_seconds()

    async def _examine(self, name: str) -> Checkup:
        agent = self.agents[name]
        probe = cast("Probe", agent.probe)
        began, clock = now(), asyncio.get_running_loop().time
        self._last[name] = began
        start = clock()
        problem = await probed(agent, probe)
        seconds = clock() - start
        if (change := agent.health.probed(problem is None, seconds, problem or "")) is not None:
            self._tell(name, change)
        return Checkup(agent=name, at=began, seconds=seconds, problem=problem)

    async def _file(self, done: list[Checkup]) -> None:
        if self._store is None:
            return
        for one in done:
            told = [*await self.history(one.agent), one][-_KEPT:]
            plain = [[each.at.isoformat(), each.seconds, each.problem] for each in told]
            await self._store.aput((_PROBES, self._name), one.agent, {"checkups": plain}, index=False)


def _says_something(dump: Mapping[str, Any]) -> bool:
    return bool(dump["older"] or dump["recent"] or dump["failures"]["count"] or dump["ruling"]["reason"])


async def probed(agent: Agent, probe: Probe) -> str | None:
    """Give an agent its test task; return what is wrong, in one line, or `None`."""
    try:
        async with asyncio.timeout(probe.timeout):
            output = await _asked(agent, probe.input)
            if not is_judge(probe.expect):
                return await unmet(probe.expect, output)
            said = await _asked(probe.expect, {"output": output})
            approved = said.approved if isinstance(said, Review) else bool(said)
            return None if approved else f"{probe.expect.name} does not accept its output"
    except TimeoutError:
        return f"timeout: no output within {probe.timeout:g} s"
    except BaseException as caught:  # whatever an agent raises
        if (error := failure_of(caught)) is None:
            raise
        return describe(error)


async def _asked(agent: Agent, given: Any) -> Any:
    """Call an agent outside of any plan and validate what it delivers."""
    text = given if isinstance(given, str) else ""
    inputs: Mapping[str, Any] = {} if isinstance(given, str) else given
    task = Task(id="probe", instruction=text)
    assignment = Assignment(task=task, request=text, inputs=inputs, idempotency_key=f"probe/{uuid.uuid4()}")
    async with place_of(agent):
        if agent.is_team:
            graph: Any = cast("Any", agent.run).compile(checkpointer=False)
            return (await graph.ainvoke({"request": text or "probe", "given": dict(inputs)}))["answer"]
        bindings = [_bound(agent, each, inputs) for each in agent.parameters]
        with Scope(task="probe", agent=agent.name, key=assignment.idempotency_key):
            returned = told_apart(await invoke(agent, bindings, assignment, {}))
    if not returned.finished:
        raise AgentError("it handed the test task on")
    return deliver(agent, returned.output)


def _bound(agent: Agent, parameter: Any, inputs: Mapping[str, Any]) -> Binding:
    if parameter.type is Assignment:
        return Binding(parameter.name, "assignment")
    if parameter.name in inputs:
        return Binding(parameter.name, "one", (parameter.name,))
    if len(agent.parameters) == 1 and len(inputs) == 1:  # a judge gets the output, whatever it calls it
        return Binding(parameter.name, "one", tuple(inputs))
    if not parameter.optional:
        raise WorkflowError(
            f"The probe of {agent.name!r} lacks its parameter {parameter.name!r}: name it in its input."
        )
    return Binding(parameter.name, "one", (), optional=True, default=parameter.default)
