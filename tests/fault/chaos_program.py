"""The world of a chaos run: its plan, its team, its faults, the log of what really happened, and how it is played.

A seed tells a story: a plan, when each agent is sick and how, who asks a person. The faults depend on the story, on the
time since the run began, and on how often the agent was called, but never on what the engine decides: so healing on and
off meet the same.

The log is independent of the engine: one JSON line per event, appended with O_APPEND in one write, so that a killed
process leaves what it had written. Each attempt has a line when it begins and one when it ends; before it begins, what
has changed in its agent's health since the last line is written down, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from langgraph.types import RetryPolicy
from pydantic import BaseModel

from orchestra import (
    Agent,
    Assignment,
    Breaker,
    ByConfidence,
    ByMajority,
    Claim,
    Orchestra,
    Outcome,
    People,
    Plan,
    Probe,
    RunState,
    Task,
    ThreadNotFound,
    Workflow,
    ask,
)
from orchestra.events import HealthChanged
from orchestra.tasks import now

CAPABILITIES = ("find", "check", "write", "post")
PEERS = 3
TIMEOUTS, SLOW, SUBJECTS = (0.12, 0.12, 0.45), 0.07, 4  # the long one is longer than a cool-down
KINDS = ("error", "crash", "hang", "garbage", "slow", "contradict", "late error")

HEALING = Breaker(failures=3, rate=0.6, least=8, window=2.0, cool_down=0.2, longest=0.8)
NEVER = Breaker(failures=10**9, rate=1.0, least=500, window=1e-6, slow=float("inf"))
"""Opens for nobody, and nobody counts as degraded: all that failed is out of the window at once."""


class Facts(BaseModel):
    """What is found."""

    text: str
    claims: list[Claim]


class Text(BaseModel):
    """What is checked or written."""

    text: str


class Receipt(BaseModel):
    """What is posted."""

    cents: int


OUTPUTS: dict[str, Any] = {"find": Facts, "check": Text, "write": Text, "post": Receipt}


@dataclass(frozen=True)
class Setting:
    """How a story is played: with breakers and probes or not, with peers or with one agent of each capability that has
    the places of all, with faults or not, and how many times slower the work is.
    """

    name: str
    healing: bool = True
    peers: bool = True
    faults: bool = True
    pace: float = 1.0


ON, OFF = Setting("on"), Setting("off", healing=False)
PLAIN = Setting("plain", healing=False, peers=False)
CALM_ON = Setting("calm on", faults=False, pace=4.0)
CALM_OFF = Setting("calm off", healing=False, faults=False, pace=4.0)


@dataclass(frozen=True)
class Story:
    """What is the same however a seed is played: `sick` has spells of each agent as (from, to, kind), in seconds."""

    seed: int
    plan: Plan
    sick: dict[str, list[tuple[float, float, str]]]
    people: People
    asking: dict[str, timedelta | None]
    singles: float
    probed: bool
    timeout: float
    places: int

    def seconds(self, task: str) -> float:
        return random.Random(f"{self.seed} {task} seconds").uniform(0.008, 0.03)

    def cents(self, task: str) -> int:
        return random.Random(f"{self.seed} {task} cents").randint(-(10**9), 10**9)

    def fault(self, agent: str, call: int, since: float) -> str:
        """What goes wrong with an agent's call, so many seconds after the run began; empty if nothing does."""
        for start, end, kind in self.sick[agent]:
            if start <= since < end:
                return kind
        chance = random.Random(f"{self.seed} {agent} {call}")
        return chance.choice(kinds_of(agent)) if chance.random() < self.singles else ""


def kinds_of(agent: str) -> list[str]:
    left_out = {"contradict": "find", "late error": "post"}
    return [kind for kind in KINDS if agent.startswith(left_out.get(kind, ""))]


def story(seed: int) -> Story:
    chance = random.Random(f"story {seed}")
    tasks: list[Task] = []
    wide = chance.random() < 0.2  # much work at once for a few
    for i in range(40 if wide else chance.randint(5, 40)):
        skill = chance.choices(CAPABILITIES, weights=(1, 6, 0, 1) if wide else (4, 3, 3, 2))[0]
        earlier = [task.id for task in tasks]
        needs = chance.sample(earlier, min(len(earlier), 0 if wide else chance.choice((0, 1, 1, 2, 3))))
        optional = [need for need in needs if chance.random() < 0.3]
        replicas = chance.choice((2, 3)) if skill == "find" and chance.random() < 0.1 else 1
        more = {"needs": tuple(needs), "optional": frozenset(optional), "replicas": replicas}
        tasks.append(Task(id=f"{skill}{i}", capability=skill, **more))
    sick: dict[str, list[tuple[float, float, str]]] = {}
    for skill in CAPABILITIES:
        outage = chance.uniform(0.0, 0.2) if chance.random() < 0.15 else None  # all peers at once
        for peer in range(1, PEERS + 1):
            spells: list[tuple[float, float, str]] = []
            kinds = kinds_of(skill)
            if chance.random() < 0.35:
                start = chance.uniform(-0.2, 0.25)
                spells.append((start, start + chance.uniform(0.1, 0.9), chance.choice(kinds)))
            if outage is not None:
                spells.append((outage, outage + 0.35, chance.choice(("error", "hang", "garbage"))))
            sick[f"{skill}.{peer}"] = spells
    hasty = People(unable=True, within=timedelta(seconds=0.15))
    people = chance.choices((People(), hasty, People(unable=True)), weights=(6, 2, 2))[0]
    within = (timedelta(seconds=0.1), timedelta(seconds=0.1), None)
    asking = {t.id: chance.choice(within) for t in tasks if t.capability == "write" and chance.random() < 0.03}
    return Story(
        seed=seed,
        plan=Plan(tasks=tuple(tasks)),
        sick=sick,
        people=people,
        asking=asking,
        singles=chance.choice((0.0, 0.03, 0.08)),
        probed=chance.random() < 0.5,
        timeout=chance.choice(TIMEOUTS),
        places=chance.choice((1, 2, 2)),
    )


@dataclass
class World:
    """A story while it is played in one process; what happens goes to `log`, amounts to the SQLite file `ledger`."""

    story: Story
    setting: Setting
    log: Path
    ledger: Path
    flow: Workflow = field(init=False)
    began: float = field(init=False, default=0.0)
    calls: Counter[str] = field(init=False, default_factory=Counter)
    told: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        peers = range(1, PEERS + 1) if self.setting.peers else (1,)
        self.flow = Workflow(
            f"chaos-{self.story.seed}-{self.setting.name.replace(' ', '-')}",
            agents=[self._agent(skill, f"{skill}.{peer}") for skill in CAPABILITIES for peer in peers],
            planner=self,
            people=self.story.people,
            settle=[ByMajority(), ByConfidence()],
        )
        with sqlite3.connect(self.ledger, timeout=20) as books:
            books.execute(
                "CREATE TABLE IF NOT EXISTS ledger (key TEXT PRIMARY KEY, thread TEXT, task TEXT, cents INTEGER)"
            )

    def plan(self, request: str, *, agents: Sequence[Agent], messages: Sequence[Any]) -> Plan:
        alone = {} if self.setting.peers else {"replicas": 1}
        return Plan(tasks=tuple(task.model_copy(update=alone) for task in self.story.plan.tasks), made_by="chaos")

    def write(self, what: str, **more: Any) -> None:
        line = json.dumps({"what": what, "t": time.time(), **more})
        os.write(self._file, f"{line}\n".encode())

    def close(self) -> None:
        for agent in self.flow.roster.values():
            self._write_health(agent)
        os.close(self._file)

    def _agent(self, skill: str, name: str) -> Agent:
        async def run(task: Assignment) -> Any:
            return await self._attempt(agent, skill, task)

        probe = None
        if self.setting.healing and self.story.probed and name.endswith(".1") and skill != "post":
            every = 0.3 * self.setting.pace
            probe = Probe(input="Are you there?", expect=OUTPUTS[skill], every=every, timeout=TIMEOUTS[0])
        agent = Agent(
            name,
            run,
            capabilities=skill,
            output=OUTPUTS[skill],
            timeout=self.story.timeout * self.setting.pace,
            retry=RetryPolicy(max_attempts=2, initial_interval=0.01, jitter=False),
            max_concurrency=self.story.places * (1 if self.setting.peers else PEERS),
            side_effects=skill == "post",
            breaker=HEALING if self.setting.healing else NEVER,
            probe=probe,
        )
        return agent

    # What agents do

    async def _attempt(self, agent: Agent, skill: str, task: Assignment) -> Any:
        self.calls[agent.name] += 1
        call, key = self.calls[agent.name], task.idempotency_key
        fault = self.story.fault(agent.name, call, time.time() - self.began) if self.setting.faults else ""
        self._write_health(agent)
        pid, name = os.getpid(), agent.name
        mark = {"id": f"{pid}.{name}.{call}", "pid": pid, "agent": name, "task": task.task.id, "key": key}
        probe = key.startswith("probe/")
        self.write("begin", **mark, fault=fault, probe=probe, condition=agent.health.condition)
        how = "cut"
        try:
            output = await self._work(skill, task, fault, probe=probe)
            how = "ok" if isinstance(output, OUTPUTS[skill]) else "malformed"
        except BaseException as error:
            how = {"CancelledError": "cut", "GraphInterrupt": "asked"}.get(type(error).__name__, "error")
            raise
        finally:
            self.write("end", **mark, how=how)
        return output

    def _write_health(self, agent: Agent) -> None:
        last = self.told.get(agent.name)
        history = agent.health.history
        for change in history[history.index(last) + 1 if last in history else 0 :]:
            self.told[agent.name] = change
            when = {"t": change.at.timestamp(), "reason": change.reason, "pid": os.getpid()}
            self.write("health", agent=agent.name, before=change.before, after=change.after, **when)

    async def _work(self, skill: str, task: Assignment, fault: str, *, probe: bool) -> Any:
        name = task.task.id
        seconds = self.story.seconds(name) * self.setting.pace
        if fault == "hang":
            await asyncio.sleep(60)
        if fault in ("error", "crash"):
            await asyncio.sleep(seconds / 3)
            raise SystemExit(3) if fault == "crash" else ConnectionError("the line is dead")
        if name in self.story.asking:
            within = self.story.asking[name]
            ask(f"May {name} go on?", options=["yes", "no"], within=within, otherwise="yes" if within else None)
        await asyncio.sleep(SLOW if fault == "slow" else seconds)
        if skill == "post" and not probe:
            self._post(name, task.idempotency_key)
        if fault == "late error":
            raise ConnectionError("the answer was lost")
        if fault == "garbage":
            return {"nonsense": name}
        if skill == "post":
            return Receipt(cents=self.story.cents(name))
        return self._facts(name, wrong=fault == "contradict") if skill == "find" else Text(text=name)

    def _facts(self, task: str, *, wrong: bool) -> Facts:
        subject = random.Random(f"{self.story.seed} {task}").randrange(SUBJECTS)
        value, confidence = (1000 + subject, 0.4) if wrong else (10 * subject, 0.9)
        claim = Claim(subject=f"subject {subject}", attribute="size", value=value, unit="kg", confidence=confidence)
        return Facts(text=task, claims=[claim])

    def _post(self, task: str, key: str) -> None:
        thread = key.partition("/")[0]
        with sqlite3.connect(self.ledger, timeout=20) as books:
            books.execute("PRAGMA synchronous=OFF")  # it is processes that die here, not the machine
            books.execute(
                "INSERT OR IGNORE INTO ledger VALUES (?, ?, ?, ?)", (key, thread, task, self.story.cents(task))
            )
        books.close()
        self.write("posted", task=task, key=key)


# How a story is played


@dataclass
class Played:
    """How a story went: its log, and what the engine says of its end.

    `results` has for each task its status, its error and when it ended; `told` the openings that were told as events.
    """

    seed: int
    setting: Setting
    thread: str
    log: Path
    ledger: Path
    began: float = 0.0
    seconds: float = 0.0
    state: str = "never ended"
    results: dict[str, tuple[str, str, float]] = field(default_factory=dict)
    questions: list[tuple[str, str, str]] = field(default_factory=list)
    reran: list[str] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    runs: int = 0
    kills: int = 0
    problem: str = ""

    def end(self, outcome: Outcome) -> None:
        self.state = str(outcome.state)
        self.results = {
            name: (str(result.status), result.error or "", result.ended.timestamp())
            for name, result in outcome.results.items()
        }
        self.questions = [(one.task, one.kind, one.text) for one in outcome.questions]
        resolutions = outcome.plan.resolutions if outcome.plan else ()
        self.reran = sorted({task for each in resolutions for task in each.reran})


async def drive(orchestra: Orchestra, world: World, played: Played) -> Outcome:
    """Play a story to its end: start or resume, let deadlines pass, give some answers."""
    flow, thread = world.flow, played.thread
    try:
        run = await orchestra.resume(thread, workflow=flow)
    except ThreadNotFound:
        run = await orchestra.start(flow, "go", thread_id=thread)
    outcome = await run
    played.seconds, played.runs = time.time() - played.began, 1
    played.told = [e.change.at.timestamp() for e in run.seen if isinstance(e, HealthChanged)]
    asked: Counter[str] = Counter()
    for _ in range(20):
        if outcome.state is not RunState.WAITING:
            break
        answerable = [one for one in outcome.questions if one.due is None and not left_open(world.story, one.task)]
        if answerable:
            one = answerable[0]
            asked[one.task] += 1
            world.write("answered", task=one.task)
            answer = "yes" if one.kind == "question" else "retry" if asked[one.task] == 1 else "skip"
            outcome = await (await orchestra.answer(thread, answer, one.id, workflow=flow))
        elif outcome.due is not None:
            await asyncio.sleep(max(0.0, (outcome.due - now()).total_seconds()) + 0.001)
            for ticked in await orchestra.tick(workflow=flow):
                if ticked.error is not None or ticked.outcome is None:
                    raise ticked.error or AssertionError("a tick without an outcome")
                outcome = ticked.outcome
        else:
            break
        played.runs += 1
    return outcome


def left_open(told: Story, task: str) -> bool:
    """Whether nobody ever answers what is asked about a task."""
    return random.Random(f"{told.seed} {task} left open").random() < 0.4


async def watch_clock(world: World) -> None:
    """Write down when the machine was too busy to go on in time."""
    while True:
        before = time.time()
        await asyncio.sleep(0.02)
        if (late := time.time() - before - 0.02) > 0.01:
            world.write("late", seconds=late)


LIMIT = 40.0
"""Seconds after which a run counts as one that does not end."""


async def play(orchestra: Orchestra, folder: Path, seed: int, setting: Setting) -> Played:
    """Play a story in this process."""
    thread = f"{seed}-{setting.name.replace(' ', '-')}"
    played = Played(seed, setting, thread, folder / f"{thread}.log", folder / "ledger.db")
    world = World(story(seed), setting, played.log, played.ledger)
    world.began = played.began = time.time()
    watching = asyncio.create_task(watch_clock(world))
    try:
        async with asyncio.timeout(LIMIT):
            played.end(await drive(orchestra, world, played))
    except Exception as error:
        played.problem = f"{type(error).__name__}: {error}"
    watching.cancel()
    world.close()
    return played


def play_all(folder: Path, seeds: Sequence[tuple[int, Sequence[Setting]]], at_once: int) -> list[Played]:
    """Play several stories in this process, some at the same time; the settings of one story one after the other."""
    folder.mkdir(parents=True)

    async def every() -> list[Played]:
        places = asyncio.Semaphore(at_once)
        async with Orchestra(f"sqlite:///{folder / 'runs.db'}") as orchestra:
            await play(orchestra, folder, -1, CALM_ON)  # what is imported late is imported now

            async def one(seed: int, settings: Sequence[Setting]) -> list[Played]:
                async with places:
                    return [await play(orchestra, folder, seed, setting) for setting in settings]

            done = await asyncio.gather(*(one(seed, settings) for seed, settings in seeds))
        return [played for each in done for played in each]

    return asyncio.run(every())


def play_killed(played: Played, answer: Path) -> None:
    """What a process does that may be killed: start the story or go on with it, and write down how it ended."""

    async def once() -> None:
        world = World(story(played.seed), played.setting, played.log, played.ledger)
        world.began = played.began
        async with Orchestra(f"sqlite:///{played.log.parent / 'runs.db'}") as orchestra:
            played.end(await drive(orchestra, world, played))
        world.close()
        done = {name: getattr(played, name) for name in ("state", "results", "questions", "reran", "runs")}
        answer.write_text(json.dumps(done))

    asyncio.run(once())
