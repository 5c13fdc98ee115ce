"""Probes beside runs and by command, and health that processes share through the store."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from langgraph.store.memory import InMemoryStore

from orchestra import (
    Agent,
    Assignment,
    Breaker,
    Budget,
    Orchestra,
    OutOfScope,
    Plan,
    Probe,
    Review,
    Task,
    Workflow,
    agent,
    ask,
    ask_model,
)
from orchestra.cli import main
from orchestra.events import HealthChanged
from orchestra.vitals import Condition
from tests.fakes import Fake
from tests.integration.test_healing import ONCE, Worker, told

HEALTHY, DEGRADED, OPEN, HALF_OPEN = Condition
FOREVER = 3600.0


def is_probe(task: Assignment) -> bool:
    return task.task.id == "probe"


async def checked(*agents: Agent) -> list[str | None]:
    """What probes of these agents complain of."""
    async with Orchestra("sqlite://") as orchestra:
        return [one.problem for one in await orchestra.check(Workflow("w", agents=agents))]


# What is expected


async def upper(task: Assignment) -> str:
    return task.task.instruction.upper()


async def add(x: int, y: list[int], task: Assignment, more: int = 1) -> int:
    y.append(more)
    return x + sum(y)


@agent
async def strict(output: str, task: Assignment) -> Review:
    return Review(approved=output == "HI")


@agent
async def lenient(draft: str) -> bool:
    return bool(draft)


@agent
async def broken_judge(draft: str) -> Review:
    raise ValueError("no glasses")


async def is_hi(output: str) -> bool:
    return output == "HI"


@pytest.mark.parametrize(
    ("expect", "given", "problem"),
    [
        ("HI", "hi", None),
        ("HI", "ho", "expected 'HI', not 'HO'"),
        (str, "hi", None),
        (int, "hi", "not of type int: value: Input should be a valid integer"),
        (is_hi, "hi", None),
        (is_hi, "ho", "is_hi returned False for 'HO'"),
        (lambda output: output.nothing, "hi", "the expectation raised AttributeError: "),
        (strict, "hi", None),
        (strict, "ho", "strict does not accept its output"),
        (lenient, "hi", None),
        (lenient, "", "lenient does not accept its output"),
        (broken_judge, "hi", "broken_judge could not judge its output: ValueError: no glasses"),
    ],
)
async def test_each_kind_of_expectation(expect: Any, given: str, problem: str | None) -> None:
    worker = Agent("worker", upper, probe=Probe(given, expect), breaker=Breaker(failures=1))
    (said,) = await checked(worker)
    assert said == problem or (problem is not None and said is not None and said.startswith(problem))
    blameless = problem is None or expect is broken_judge
    assert worker.health.condition is (HEALTHY if blameless else OPEN)


async def test_inputs_by_name_are_the_same_at_each_probe() -> None:
    adder = Agent("adder", add, probe=Probe({"x": 1, "y": [2]}, 4))
    lacking = Agent("lacking", add, probe=Probe({"x": 1}, 4))
    flow = Workflow("w", agents=[adder, lacking], inputs={"x": int, "y": list[int]})
    async with Orchestra("sqlite://") as orchestra:
        for _ in range(2):
            fine, bad = await orchestra.check(flow)
            assert fine.problem is None
            assert "lacks its parameter 'y'" in str(bad.problem)


async def test_whatever_an_agent_does_with_its_test_task_is_told() -> None:
    release = threading.Event()

    def stuck(task: Assignment) -> str:
        release.wait(30)
        return "late"

    async def slow(task: Assignment) -> str:
        await asyncio.sleep(30)
        return "late"

    async def times_out_itself(task: Assignment) -> str:
        raise TimeoutError("the endpoint is gone")

    async def malformed(task: Assignment) -> int:
        return "many"  # type: ignore[return-value]

    async def declines(task: Assignment) -> str | OutOfScope:
        return OutOfScope("not mine")

    async def asks(task: Assignment) -> str:
        return ask("Which one?")

    async def ends(task: Assignment) -> str:
        raise SystemExit(1)

    probe = Probe("hi", str, timeout=0.1)
    runs = [stuck, slow, times_out_itself, malformed, declines, asks, ends]
    async with asyncio.timeout(10):
        said = await checked(*(Agent(run.__name__, run, probe=probe) for run in runs))
    release.set()
    wanted = ["timeout: no output within 0.1 s"] * 2
    wanted += ["TimeoutError: the endpoint is gone", "not a int", "out of its scope: not mine", "RuntimeError"]
    wanted += ["it tried to end the process"]
    assert all(part in str(problem) for part, problem in zip(wanted, said, strict=True)), said


async def test_a_team_is_probed_as_one() -> None:
    inside: list[str] = []

    def team(name: str, work: Any, expect: Any) -> Agent:
        inner = Agent("inner", work, probe=Probe("alone", int))
        return Agent(name, Workflow(name, agents=[inner]), probe=Probe("1", expect))

    async def number(task: Assignment) -> int:
        inside.append(task.request)
        return int(task.request) if task.request.isdigit() else 0

    async def fails(task: Assignment) -> int:
        raise ValueError("out")

    async def asks(task: Assignment) -> int:
        return ask("Which one?", answer=int)

    flow = Workflow("w", agents=[team("good", number, 1), team("bad", fails, str), team("asking", asks, str)])
    async with Orchestra("sqlite://") as orchestra:
        said = {one.agent: one.problem for one in await orchestra.check(flow)}
    assert said["good"] is None
    assert "out" in str(said["bad"])
    assert "asked a person" in str(said["asking"])
    assert sorted(inside) == ["1", "alone"]  # an agent of a team is probed once, by its own probe
    assert set(said) == {"good", "bad", "asking", "good/inner", "bad/inner", "asking/inner"}


# Beside a run


async def test_a_probe_leaves_its_place_to_work_and_a_busy_agent_is_not_probed() -> None:
    active: list[str] = []
    seen: list[str] = []
    clashes: list[str] = []
    probing = asyncio.Event()

    async def work(task: Assignment) -> str:
        clashes.extend(active)
        active.append(task.task.id)
        seen.append(task.task.id)
        try:
            if is_probe(task):
                probing.set()
                await asyncio.sleep(30)
            await asyncio.sleep(0.3)
            return "done"
        finally:
            active.clear()

    @agent
    async def before(task: Assignment) -> int:
        await probing.wait()
        return 1

    only = Agent("only", work, max_concurrency=1, probe=Probe("hi", str, every=0.05, timeout=30))
    flow = Workflow("w", agents=[before, only]).add_edge("before", "only")
    async with asyncio.timeout(10):
        results, _ = await told(flow)
    assert results["only"].ok
    assert seen[:2] == ["probe", "only"]
    assert only.health.condition is HEALTHY
    assert clashes == []  # max_concurrency holds


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_probe_that_hangs_does_not_prolong_the_run(stubborn: bool) -> None:
    begun: list[str] = []

    async def work(task: Assignment) -> str:
        if not is_probe(task):
            return "done"
        begun.append("probe")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            if not stubborn:
                raise
            await asyncio.sleep(30)
        return "late"

    @agent
    async def before(task: Assignment) -> int:
        while not begun:
            await asyncio.sleep(0.01)
        return 1

    slow = Agent("slow", work, probe=Probe("hi", str, timeout=60))
    async with asyncio.timeout(10):
        results, _ = await told(Workflow("w", agents=[before, slow]).add_edge("before", "slow"))
    assert results["slow"].output == "done"
    assert slow.health.condition is HEALTHY


async def test_probes_count_in_neither_budget_nor_results() -> None:
    from langchain_openai import ChatOpenAI

    probed = asyncio.Event()
    with Fake() as fake:
        fake.when("", "yes")
        model = ChatOpenAI(base_url=fake.url, api_key="x", model="m-probes", max_retries=0)  # type: ignore[arg-type]

        @agent
        async def waits(task: Assignment) -> int:
            await probed.wait()
            return 1

        async def work(task: Assignment) -> str:
            said = await ask_model(model, "Are you there?")
            if is_probe(task):
                probed.set()
            return str(said)

        asking = Agent("asking", work, probe=Probe("hi", "yes"))
        flow = Workflow("w", agents=[waits, asking], budget=Budget(calls=1)).add_edge("waits", "asking")
        results, _ = await told(flow)
        assert len(fake.requests) == 2
    assert results["asking"].output == "yes"
    assert [attempt.usage.calls for attempt in results["asking"].attempts] == [1]
    assert set(results) == {"waits", "asking"}


async def test_a_probe_is_the_trial() -> None:
    """While the run goes on, and although the next probe would be due in an hour."""

    async def work(task: Assignment) -> str:
        if is_probe(task):
            return "well"
        raise ConnectionError("down")

    rule = Breaker(failures=1, cool_down=0.2)
    sick = Agent("sick", work, retry=ONCE, breaker=rule, probe=Probe("hi", "well", every=FOREVER))

    @agent
    async def keeper(sick_one: int) -> str:
        while sick.health.condition is not HEALTHY:
            await asyncio.sleep(0.02)
        return "kept"

    @agent
    async def sick_one(task: Assignment) -> int:
        while sick.health.condition is HEALTHY:
            await asyncio.sleep(0.02)
        return 1

    results, events = await told(Workflow("w", agents=[sick, sick_one, keeper]))
    assert not results["sick"].ok
    assert [change.after for change in sick.health.history][-1] is HEALTHY
    assert sick.health.history[-1].reason == "a probe succeeded"
    assert [e.change.after for e in events if isinstance(e, HealthChanged)][-1] is HEALTHY


async def test_a_verifier_that_approves_everything_shows() -> None:
    class Tasks:
        def plan(self, request: str, *, agents: Any, messages: Any) -> Plan:
            return Plan(tasks=tuple(Task(id=f"t{i}", instruction="Write.", agent="author") for i in range(20)))

    @agent
    async def author(task: Assignment) -> str:
        return "draft"

    @agent
    async def reviewer(draft: str) -> Review:
        return Review(approved=True)

    flow = Workflow("w", agents=[author, reviewer], planner=Tasks()).add_review("author", by="reviewer")
    _, events = await told(flow)
    (change,) = [e.change for e in events if isinstance(e, HealthChanged) and e.agent == "reviewer"]
    assert (change.after, change.reason) == (DEGRADED, "approved each of the last 20 drafts")


# Shared


class Pair:
    """The same workflow as one process has it: agents of its own."""

    def __init__(self, failing: int = 0) -> None:
        self.sick = Worker("a", failing=failing, breaker=Breaker(failures=2, cool_down=50, longest=60))
        self.well = Worker("b")
        self.flow = Workflow("shared.desk", agents=[self.sick.agent]).add_agent(self.well.agent, backup_for="a")


async def test_health_in_one_process_is_seen_in_another(any_url: str) -> None:
    mine, other = Pair(failing=99), Pair()
    async with Orchestra(any_url) as orchestra:
        for _ in range(2):
            await (await orchestra.start(mine.flow, "go"))
    assert mine.sick.condition is OPEN
    async with Orchestra(any_url) as orchestra:
        outcome = await (await orchestra.start(other.flow, "go", thread_id="t"))
        third = Pair()
        await orchestra.status("t", workflow=third.flow)
    assert (outcome.results["a"].output, other.sick.calls) == ("b", 0)
    assert other.sick.agent.health.history[0].after is OPEN
    assert other.sick.agent.health.history[0].reason.startswith("another process: 2 failures in a row")
    assert third.sick.condition is OPEN


async def test_what_another_process_decided_meanwhile_is_not_undone(database: str) -> None:
    mine, other, third = Pair(failing=99), Pair(), Pair()
    async with Orchestra(database) as orchestra, Orchestra(database) as elsewhere:
        other.sick.seconds = 0.5
        run = await elsewhere.start(other.flow, "go")  # has read what is known, and writes what it learned at its end
        for _ in range(2):
            await (await orchestra.start(mine.flow, "go"))
        assert (await run).results["a"].agent == "a"
        await (await orchestra.start(third.flow, "go"))
    assert third.sick.calls == 0


async def test_what_says_nothing_is_not_stored(database: str) -> None:
    @agent
    async def worker(task: Assignment) -> str:
        return "done"

    @agent
    async def idle(task: Assignment) -> str:
        return "never"

    async with Orchestra(database) as orchestra:
        await (await orchestra.start(Workflow("w", agents=[worker]).add_agent(idle, backup_for="worker"), "go"))
        known = await orchestra.store.asearch(("orchestra_health", "w"))
    assert [item.key for item in known] == ["worker"]


class Failing(InMemoryStore):
    """A store whose database is gone."""

    async def abatch(self, ops: Any) -> Any:
        raise ConnectionError("the store is gone")


async def test_a_store_that_fails_costs_no_result_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    probed = asyncio.Event()

    async def work(task: Assignment) -> str:
        if is_probe(task):
            probed.set()
        else:
            await probed.wait()
        return "done"

    flow = Workflow("w", agents=[Agent("worker", work, probe=Probe("hi", "done", every=0.05))])
    with caplog.at_level(logging.WARNING, logger="orchestra.clinic"):
        state = await flow.compile(store=Failing()).ainvoke({"request": "go"})
    assert state["answer"] == "done"
    said = {record.getMessage() for record in caplog.records}
    assert {"What other processes know of the agents could not be read.", "Earlier probes could not be read."} < said
    assert any("could not be stored" in one for one in said)
    assert all(record.exc_info is not None for record in caplog.records)


# The command

FLOW = """
import os
from orchestra import Agent, Assignment, Breaker, Probe, Workflow

async def work(task: Assignment) -> str:
    print("a word in between")
    return os.environ.get("SAYS", "hi")

async def inner(task: Assignment) -> int:
    return 5

team = Workflow("inside", agents=[Agent("inner", inner,
    probe=Probe("five?", 5),
)])
flow = Workflow("desk", agents=[
    Agent("worker", work, capabilities=["talk"], breaker=Breaker(failures=2),
        probe=Probe("say hi", "hi"),
    ),
    Agent("team", team),
])
"""


class Shell:
    """The command as a process has it: the file is loaded anew each time."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        (folder / "flow.py").write_text(FLOW)

    def __call__(self, *arguments: str) -> tuple[int, str]:
        self._capsys.readouterr()
        code = main(
            ["agents", str(self.folder / "flow.py"), "--db", f"sqlite:///{self.folder / 'runs.db'}", *arguments]
        )
        return code, self._capsys.readouterr().out


def test_the_command_shows_and_checks_agents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shell = Shell(tmp_path, capsys)
    code, out = shell()
    assert code == 0
    assert all(word in out for word in ("worker", "team/inner", "healthy"))
    assert [path.name for path in tmp_path.glob("*.db*")] == []  # to look makes no database
    code, out = shell("--check", "--json")
    told_of = {one["agent"]: one for one in json.loads(out)}  # what agents print is not among it
    assert (code, set(told_of)) == (0, {"worker", "team", "team/inner"})
    assert (told_of["worker"]["condition"], told_of["worker"]["capabilities"]) == ("healthy", ["talk"])
    assert [probe["problem"] for probe in told_of["team/inner"]["probes"]] == [None]
    monkeypatch.setenv("SAYS", "ho")
    code, out = shell("--check", "--json")
    worker = next(one for one in json.loads(out) if one["agent"] == "worker")
    assert (code, worker["condition"]) == (1, "healthy")  # one probe that fails opens nobody
    assert [probe["problem"] for probe in worker["probes"]] == [None, "expected 'hi', not 'ho'"]
    assert shell("--check")[0] == 1  # two in a row do, which is known to whoever looks
    code, out = shell()
    assert (code, "open" in out, "expected 'hi', not 'ho'" in out) == (1, True, True)
    monkeypatch.setenv("SAYS", "hi")
    code, out = shell("--check")
    assert (code, "healthy" in out) == (0, True)  # a probe that goes well closes it


def test_the_command_says_that_nobody_has_a_probe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(tmp_path, capsys)
    (tmp_path / "flow.py").write_text(FLOW.replace("probe=", "#"))
    code, out = shell("--check")
    assert (code, "No agent has a probe" in out) == (0, True)


async def test_who_opens_is_known_elsewhere_while_the_run_goes_on(database: str) -> None:
    def team(fails: bool) -> Workflow:
        async def sick(task: Assignment) -> str:
            if fails:
                raise ValueError("down")
            return "well"

        async def slow(task: Assignment) -> str:
            await asyncio.sleep(30)
            return "slow"

        agents = [Agent("sick", sick, breaker=Breaker(failures=1)), Agent("slow", slow)]
        return Workflow("shared", agents=agents)

    async with Orchestra(database) as orchestra, Orchestra(database) as other:
        run = await orchestra.start(team(fails=True), "go")
        flow = team(fails=False)
        for _ in range(100):  # the run still goes on
            await asyncio.sleep(0.1)
            await other.check(flow)
            if flow.roster["sick"].health.condition == "open":
                break
        assert flow.roster["sick"].health.condition == "open"
        assert not run.ended
        await run.cancel()
