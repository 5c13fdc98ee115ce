"""Looks after a workflow's agents: probes them, beside the work, and shares what is known of them through the store.

Agents are named with the teams around them: `operations/fraud/scorer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, cast

import pydantic_core
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.store.base import BaseStore, PutOp

from orchestra.agents import Agent, Binding
from orchestra.assignments import Assignment
from orchestra.errors import AgentError, WorkflowError
from orchestra.health import Health
from orchestra.invoking import failure_of, invoke, told_apart
from orchestra.metering import Scope
from orchestra.outputs import deliver, own_copy
from orchestra.places import as_guest, has_place
from orchestra.probes import Probe, is_judge, unmet
from orchestra.retrying import describe
from orchestra.tasks import Review, Task, now
from orchestra.vitals import Change, Condition

_HEALTH, _PROBES = "orchestra_health", "orchestra_probes"

_KEPT = 50
"""Probes of each agent that are kept in the store."""

_LONGEST_NAP = 1.0
"""Seconds after which it is looked again who is to be probed: an agent may have been opened meanwhile."""

_NAPS = 10
"""Naps from one look at what other processes have learned to the next."""

_UNKNOWN = Health().dump()
"""What is known of an agent of which nothing is known."""

_log = logging.getLogger(__name__)

_in_probe: ContextVar[bool] = ContextVar("orchestra_in_probe", default=False)
"""Whether this code runs for a probe; a team that is probed does not probe its own agents on that occasion."""


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
        """Inside, agents are probed when it is time, and what is learned of them is shared: who opens, within a second.

        A store that fails does not touch what goes on inside: that is logged as a warning.
        """
        if _in_probe.get():
            yield
            return
        with _spared("What other processes know of the agents could not be read"):
            await self.read()
        works = [self._share_on] if self._store is not None else []
        works += [self._probe_on] if any(agent.probe for agent in self.agents.values()) else []
        beside = [asyncio.create_task(work()) for work in works]
        try:
            yield
        finally:
            for each in beside:
                each.cancel()
            if beside:
                await asyncio.wait(beside, timeout=_LONGEST_NAP)  # one that does not let itself be cancelled is left
            with _spared("What was learned of the agents could not be stored"):
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
        if self._store is None or not self._news():
            return
        await self.read()  # or this would undo what another process has decided meanwhile
        news = self._news()
        await self._store.abatch([PutOp((_HEALTH, self._name), name, dump, index=False) for name, dump in news.items()])
        self._stored |= news

    def _news(self) -> dict[str, Any]:
        dumps = {name: agent.health.dump() for name, agent in self.agents.items()}
        return {name: dump for name, dump in dumps.items() if dump != self._stored.get(name, _UNKNOWN)}

    async def check(self) -> list[Checkup]:
        """Probe every agent that has a probe, all at once."""
        await self.read()
        return await self._probe([name for name, agent in self.agents.items() if agent.probe is not None])

    async def history(self, agent: str) -> list[Checkup]:
        """The last probes of an agent, oldest first."""
        item = None if self._store is None else await self._store.aget((_PROBES, self._name), agent)
        told: list[Any] = [] if item is None else item.value["checkups"]
        return [
            Checkup(agent=agent, at=datetime.fromisoformat(at), seconds=seconds, problem=problem)
            for at, seconds, problem in told
        ]

    async def _share_on(self) -> None:
        """Share who opens or closes while the run goes on, and see now and then what others have learned."""
        known, naps = self._conditions(), 0
        while True:
            await asyncio.sleep(_LONGEST_NAP)
            naps += 1
            with _spared("What is known of the agents could not be shared"):
                if self._conditions() != known:
                    await self.share()
                elif naps % _NAPS == 0:
                    await self.read()
            known = self._conditions()

    def _conditions(self) -> list[Condition]:
        return [agent.health.condition for agent in self.agents.values()]

    async def _probe_on(self) -> None:
        """Probe whoever it is time for, again and again; what other processes did counts."""
        with_probe = [name for name, agent in self.agents.items() if agent.probe is not None]
        with _spared("Earlier probes could not be read"):
            for name in with_probe:
                if told := await self.history(name):
                    self._last[name] = told[-1].at
        while True:
            due = [name for name in with_probe if self._wait_for(name) <= 0]
            free = [name for name in due if has_place(self.agents[name])]  # a busy one shows by its work how it is
            with _spared("What probes said could not be stored"):
                await self._probe(free)
            waits = [self._wait_for(name) for name in with_probe]
            await asyncio.sleep(max(0.05, min(_LONGEST_NAP, *waits)))

    async def _probe(self, names: list[str]) -> list[Checkup]:
        """Probe agents all at once, and store what comes of it."""
        done = [one for one in await asyncio.gather(*map(self._examine, names)) if one is not None]
        await self._file(done)
        if names:
            await self.share()
        return done

    def _wait_for(self, name: str) -> float:
        """Seconds to an agent's next probe. One that is open is probed as soon as its trial may go."""
        agent = self.agents[name]
        if agent.probe is None:
            return float("inf")
        due = self._last[name] + timedelta(seconds=agent.probe.every) if name in self._last else now()
        if (trial := agent.health.opens_until) is not None:
            due = min(due, max(trial, self._last.get(name, trial) + timedelta(seconds=1)))
        return (due - now()).total_seconds()

    async def _examine(self, name: str) -> Checkup | None:
        """Probe one agent; `None` if it left its place to work, which shows as well how the agent is."""
        agent = self.agents[name]
        probe = cast("Probe", agent.probe)
        began, clock = now(), asyncio.get_running_loop().time
        self._last[name] = began
        start = clock()
        probing = asyncio.create_task(probed(agent, probe))
        try:
            problem = await probing
        except asyncio.CancelledError:
            if cast("asyncio.Task[Any]", asyncio.current_task()).cancelling():
                raise
            return None
        except Unjudged as unjudged:  # that says nothing of the agent
            return Checkup(agent=name, at=began, seconds=clock() - start, problem=str(unjudged))
        seconds = clock() - start
        if (change := agent.health.probed(problem is None, seconds, problem or "")) is not None:
            self._tell(name, change)
        return Checkup(agent=name, at=began, seconds=seconds, problem=problem)

    async def _file(self, done: list[Checkup]) -> None:
        if self._store is None or not done:
            return
        before = await asyncio.gather(*(self.history(one.agent) for one in done))
        puts: list[PutOp] = []
        for told, one in zip(before, done, strict=True):
            plain = [[each.at.isoformat(), each.seconds, each.problem] for each in [*told, one][-_KEPT:]]
            puts.append(PutOp((_PROBES, self._name), one.agent, {"checkups": plain}, index=False))
        await self._store.abatch(puts)


@contextlib.contextmanager
def _spared(what: str) -> Generator[None]:
    """Log what fails inside, and go on."""
    try:
        yield
    except Exception:  # noqa: BLE001 -- whatever a store raises
        _log.warning("%s.", what, exc_info=True)


class Unjudged(AgentError):
    """The judge of a probe had no verdict."""


async def probed(agent: Agent, probe: Probe) -> str | None:
    """Give an agent its test task; return what is wrong, in one line, or `None`.

    Raises:
        Unjudged: The judge that the probe expects to approve the output failed itself.
    """
    judging, limit = "", asyncio.timeout(probe.timeout)
    try:
        async with limit:
            output = await _asked(agent, probe.input)
            if not is_judge(probe.expect):
                return await unmet(probe.expect, output)
            judging = f"{probe.expect.name} could not judge its output: "
            said = await _asked(probe.expect, {"output": output})
            approved = said.approved if isinstance(said, Review) else bool(said)
            return None if approved else f"{probe.expect.name} does not accept its output"
    except BaseException as caught:  # whatever an agent raises
        if (error := failure_of(caught)) is None:
            raise
        problem = f"timeout: no output within {probe.timeout:g} s" if limit.expired() else describe(error)
        if judging:
            raise Unjudged(judging + problem) from error
        return problem


async def _asked(agent: Agent, given: Any) -> Any:
    """Call an agent outside of any plan and validate what it delivers."""
    text = given if isinstance(given, str) else ""
    inputs: Mapping[str, Any] = {} if isinstance(given, str) else own_copy(dict(given))
    task = Task(id="probe", instruction=text)
    assignment = Assignment(task=task, request=text, inputs=inputs, idempotency_key=f"probe/{uuid.uuid4()}")
    token, around = _in_probe.set(True), var_child_runnable_config.set(None)  # whatever this workflow runs in
    try:
        async with as_guest(agent):
            if agent.is_team:
                return deliver(agent, await _asked_team(agent, text, inputs))
            bindings = [_bound(agent, each, inputs) for each in agent.parameters]
            with Scope(task="probe", agent=agent.name, key=assignment.idempotency_key):
                returned = told_apart(await invoke(agent, bindings, assignment, {}))
    finally:
        _in_probe.reset(token)
        var_child_runnable_config.reset(around)
    if not returned.finished:
        raise AgentError("it handed the test task on")
    return deliver(agent, returned.output)


async def _asked_team(agent: Agent, text: str, inputs: Mapping[str, Any]) -> Any:
    graph: Any = cast("Any", agent.run).compile(checkpointer=False)
    state = await graph.ainvoke({"request": text or "probe", "given": pydantic_core.to_jsonable_python(inputs)})
    if "__interrupt__" in state:
        raise AgentError("it asked a person, or waits for a date")
    sinks = state["plan"].sinks if graph.workflow.planner is None else ()
    return state["results"][sinks[0].id].unwrap() if len(sinks) == 1 else state["answer"]


def _bound(agent: Agent, parameter: Any, inputs: Mapping[str, Any]) -> Binding:
    if parameter.type is Assignment:
        return Binding(parameter.name, "assignment")
    if parameter.name in inputs:
        return Binding(parameter.name, "one", (parameter.name,))
    others = [each for each in agent.parameters if each.type is not Assignment]
    if len(others) == 1 and len(inputs) == 1:  # a judge gets the output, whatever it calls it
        return Binding(parameter.name, "one", tuple(inputs))
    if not parameter.optional:
        raise WorkflowError(
            f"The probe of {agent.name!r} lacks its parameter {parameter.name!r}: name it in its input."
        )
    return Binding(parameter.name, "one", (), optional=True, default=parameter.default)
