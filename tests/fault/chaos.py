"""Chaos: seeded runs of random plans over a team that falls sick and recovers, in processes that are killed.

    python tests/fault/chaos.py [--runs 500] [--seed 0] [--jobs 2]

Agents raise, end their process, hang, return garbage, slow down, contradict each other, lose answers after they have
acted; one after the other, for a while, or all of a capability at once. Every eighth seed runs in a process of its own
that is killed with SIGKILL at random moments and resumed by a new one. What agents did is read from a log of their own,
what was posted from the ledger with plain SQL. These must hold:

- ends: each run comes to an end within a limit, without an exception of the engine.
- settled: each task has succeeded; or has failed or was skipped, with a reason; or waits for a person, whose question
  has a text, or for a task that does.
- once: a task that delivered, or a replica of it, is not begun again under the same key in that process; one whose
  result is stored when its process is killed is not begun again at all. Excepted are tasks that the plan says were done
  again because a claim they rest on was settled differently, and replicas when a person wants the task tried again.
- starved: no task waits for longer than GRACE after its inputs are there while an agent of its capability that was
  healthy all the time has a free place; seconds in which the machine was too busy do not count, nor do tasks with side
  effects that wait until what they rest on is stored.
- spared: after an agent's opening nothing begins on it until the cool-down is over, by a reckoning of its own from the
  rule and the times of changes; then one trial at a time, until it is closed; a trial that takes longer than the first
  cool-down gives its place to another. Probes may. What had begun before counts as before. With healing off nobody
  opens at all.
- noticed: who fails so often in a row as the rule says, at work begun since the last decision, is open at once.
- told: each change of health that an attempt or a probe makes is told as an event while work goes on; checked for what
  was played in one run.
- cents: in the ledger each amount is exact, each task is there once, each that succeeded is there, none that nobody
  posted, and the total is the sum of all that was posted.

Healing off: breakers never open, nobody counts as degraded, nobody is probed; retries and peers are as before. Plain:
besides, each capability has one agent, with the places of three; retries alone. All three meet the same faults.
Availability is the share of tasks that succeeded. What healing costs when nothing is wrong is measured apart: the same
plans without faults, healing on and off one after the other, with work four times as long.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints import SQLAlchemySaver
from tests.fault.chaos_program import (
    CALM_OFF,
    CALM_ON,
    HEALING,
    OFF,
    ON,
    PEERS,
    PLAIN,
    Played,
    Setting,
    Story,
    play_all,
    play_killed,
    story,
)

PROCESSES = multiprocessing.get_context("forkserver")
INVARIANTS = ("ends", "settled", "once", "starved", "spared", "noticed", "told", "cents")
GRACE = 0.15
AT_ONCE, CHUNK, KILLED_OF = 3, 12, 8

Line = dict[str, Any]


@dataclass
class Tally:
    """What all runs have shown."""

    checks: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    count: Counter[str] = field(default_factory=Counter)
    states: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    statuses: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))


@dataclass
class Case:
    """One story as it was played, and all that is known of it from outside the engine."""

    played: Played
    told: Story
    lines: list[Line]
    rows: list[tuple[str, str, int]]
    tally: Tally

    def __post_init__(self) -> None:
        self.begins = [line for line in self.lines if line["what"] == "begin"]
        self.ends = {line["id"]: line for line in self.lines if line["what"] == "end"}
        self.work = [line for line in self.begins if not line["probe"]]
        self.kills = [line for line in self.lines if line["what"] == "killed"]

    def check(self, invariant: str, right: bool, why: str, about: Iterable[Line] = ()) -> None:
        self.tally.checks[invariant] += 1
        if not right:
            played = self.played
            in_order = sorted(about, key=lambda line: line["t"])
            shown = [f"    {line['t'] - played.began:8.3f}  {_plain(line)}" for line in in_order]
            head = f"{invariant}: seed {played.seed}, {played.setting.name}: {why}"
            again = f"    again: python tests/fault/chaos.py --runs 1 --seed {played.seed}"
            self.tally.violations.append("\n".join([head, *shown[-14:], again]))

    def of(self, name: str, what: str = "agent") -> list[Line]:
        return [line for line in self.lines if line.get(what) == name]


def _plain(line: Line) -> str:
    return " ".join(
        f"{key}={value}" for key, value in line.items() if key not in ("t", "id") and value not in ("", False)
    )


def read(played: Played, tally: Tally) -> Case:
    text = played.log.read_text() if played.log.exists() else ""
    with sqlite3.connect(played.ledger) as books:
        rows = books.execute("SELECT key, task, cents FROM ledger WHERE thread = ?", (played.thread,)).fetchall()
    books.close()
    return Case(played, story(played.seed), [json.loads(line) for line in text.splitlines()], rows, tally)


def judge(case: Case) -> None:
    played = case.played
    done = played.state in ("done", "failed", "waiting")
    case.check("ends", done, f"{played.state} {played.problem}")
    if done:
        _settled(case)
    _once(case)
    _cents(case)
    if done and not case.kills and played.runs == 1 and played.state != "waiting" and not played.reran:
        _starved(case)
    for pid in dict.fromkeys(line["pid"] for line in case.begins):
        for agent in sorted({line["agent"] for line in case.begins}):
            _healed(case, pid, agent)
    if played.runs == 1 and not case.kills:
        last = max((line["t"] for line in case.lines if line["what"] == "end"), default=0.0)
        for line in case.lines:
            # What time alone does may be noticed when nobody listens: before a run begins, or when it is over.
            if line["what"] == "health" and line["after"] != "half-open" and line["t"] < last:
                near = any(abs(line["t"] - at) < 1e-4 for at in played.told)
                case.check(
                    "told", near, f"{line['agent']} is {line['after']}, which was not told", case.of(line["agent"])
                )


def _settled(case: Case) -> None:
    results, asked = case.played.results, {task for task, _, _ in case.played.questions}
    waiting: set[str] = set()
    for task in case.told.plan.order:
        status, error, _ = results.get(task.id, ("missing", "", 0.0))
        if status == "missing":
            right = task.id in asked or bool(waiting.intersection(task.needs))
            waiting.add(task.id)
        else:
            right = status == "succeeded" or (status in ("failed", "skipped") and bool(error))
        case.check("settled", right, f"{task.id} is {status} {error}", case.of(task.id, "task"))
    for task, kind, text in case.played.questions:
        case.check("settled", bool(task and kind and text), f"an open question about {task!r} says nothing")


def _once(case: Case) -> None:
    stored: set[str] = set()
    delivered: set[tuple[str, str]] = set()
    for line in case.lines:
        if line["what"] == "killed":
            stored |= set(line["stored"])
            delivered.clear()
        elif line["what"] == "answered":
            delivered = {(task, key) for task, key in delivered if task != line["task"]}
        elif line["what"] == "end" and line["how"] == "ok":
            delivered.add((line["task"], line["key"]))
        elif line["what"] == "begin" and not line["probe"] and line["task"] not in case.played.reran:
            again = line["task"] in stored or (line["task"], line["key"]) in delivered
            case.check("once", not again, f"{line['task']} had finished", case.of(line["task"], "task"))


def _cents(case: Case) -> None:
    told, results = case.told, case.played.results
    by_task = Counter(task for _, task, _ in case.rows)
    posted = {line["task"]: case.of(line["task"], "task") for line in case.lines if line["what"] == "posted"}
    for _, task, cents in case.rows:
        case.check("cents", cents == told.cents(task), f"{task}: {cents} instead of {told.cents(task)}")
        case.check("cents", by_task[task] == 1, f"{task} is in the ledger {by_task[task]} times", posted.get(task, ()))
    for task in told.plan.tasks:
        if task.capability == "post":
            there = by_task[task.id]
            done = results.get(task.id, ("", "", 0.0))[0] == "succeeded"
            # A process can be killed between the row and its line in the log; then the next attempt writes the line.
            right = bool(there) if done or task.id in posted else not there or bool(case.kills)
            case.check("cents", right, f"{task.id} is in the ledger {there} times", case.of(task.id, "task"))
    total = sum(cents for _, _, cents in case.rows)
    owed = sum(told.cents(task) for task in by_task)
    case.check("cents", total == owed, f"{total} cents instead of {owed}")


def _starved(case: Case) -> None:
    """Where work waits, look for an idle agent."""
    busy: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in case.begins:
        busy[line["agent"]].append((line["t"], case.ends[line["id"]]["t"] if line["id"] in case.ends else line["t"]))
    first: dict[str, Line] = {}
    for line in case.work:
        first.setdefault(line["task"], line)
    late = [line for line in case.lines if line["what"] == "late"]
    unwell = {line["agent"] for line in case.lines if line["what"] == "health"}
    peers = range(1, PEERS + 1) if case.played.setting.peers else (1,)
    places = case.told.places * (1 if case.played.setting.peers else PEERS)
    opening = min((line["t"] for line in case.work), default=0.0)
    for name, line in first.items():
        task = case.told.plan.by_id[name]
        if task.capability == "post" and task.needs:  # it waits until these are stored
            continue
        ready = max([opening, *(case.played.results[need][2] for need in task.needs)])
        since = ready + GRACE + sum(one["seconds"] for one in late if ready < one["t"] < line["t"] + one["seconds"])
        idle = [
            agent
            for agent in (f"{task.capability}.{peer}" for peer in peers)
            if line["t"] > since and agent not in unwell and _most_at_once(busy[agent], ready, line["t"]) < places
        ]
        why = f"{name} waited {line['t'] - ready:.2f} s while {idle} had a place"
        case.check(
            "starved", not idle, why, [*case.of(name, "task"), *(one for a in idle for one in case.of(a)), *late]
        )


def _most_at_once(spans: list[tuple[float, float]], start: float, end: float) -> int:
    inside = [(max(a, start), min(b, end)) for a, b in spans if b > start and a < end]
    return max((sum(a <= moment < b for a, b in inside) for moment, _ in inside), default=0)


def _healed(case: Case, pid: int, agent: str) -> None:
    """Go through the life of an agent in one process, with a reckoning of the breaker of one's own."""
    mine = [line for line in case.of(agent) if line["pid"] == pid]
    order = {"end": 0, "health": 1, "begin": 2}
    ended: set[str] = set()
    until = cool = decided = 0.0
    is_open, row = False, 0
    trial: Line | None = None
    lived = all(kill["pid"] != pid for kill in case.kills)  # else the opening may not have reached the log
    openings = [line["t"] for line in mine if line["what"] == "health" and line["after"] == "open"]
    started = {line["id"]: line for line in mine if line["what"] == "begin"}
    for line in sorted(mine, key=lambda one: (one["t"], order[one["what"]])):
        if line["what"] == "health":
            if line["after"] in ("open", "half-open") and line["before"] in ("healthy", "degraded"):
                is_open, cool, decided, trial = True, HEALING.cool_down, line["t"], None
                until = line["t"] + cool if not line["reason"].startswith("another process") else 0.0
            elif line["after"] == "open":
                cool = min(2 * cool, HEALING.longest)
                until, decided, trial = line["t"] + cool, line["t"], None
            elif line["after"] in ("healthy", "degraded") and is_open:
                is_open, row, decided, trial = False, 0, line["t"], None
            case.check("spared", case.played.setting.healing or not is_open, f"{agent} opened with healing off", mine)
        elif line["what"] == "begin" and not line["probe"]:
            over = trial is None or trial["id"] in ended or line["t"] >= trial["t"] + HEALING.cool_down
            right = not is_open or (line["t"] >= until and over)
            case.check("spared", right, f"{agent} got {line['task']} while it was open", mine)
            trial = line if is_open else None
        elif line["what"] == "end":
            ended.add(line["id"])
            begun = started[line["id"]]
            if begun["probe"]:
                row = 0  # it may have counted, or not
            elif not is_open and begun["t"] > decided and line["how"] != "asked":
                row = 0 if line["how"] == "ok" else row + 1
                if row >= HEALING.failures and case.played.setting.healing and lived:
                    soon = any(line["t"] <= at < line["t"] + 0.05 for at in openings)
                    case.check("noticed", soon, f"{agent} failed {row} times in a row and is not open", mine)
                    row = 0


# Runs that are killed


def kill_and_resume(folder: Path, seed: int) -> Played:
    """Play a story in processes that are killed, one to three times, and then in one that is not."""
    (here := folder / f"killed-{seed}").mkdir(parents=True)
    chance = random.Random(f"kill {seed}")
    played = Played(seed, ON, f"{seed}-killed", here / "log", here / "ledger.db", began=time.time())
    kills = chance.randint(1, 3)
    for left in range(kills, -1, -1):
        child = PROCESSES.Process(target=play_killed, args=(played, here / "ended"))
        child.start()
        if left:
            before, early = _size(played.log), chance.random() < 0.15
            while child.is_alive() and not early and _size(played.log) == before:
                time.sleep(0.002)
            child.join(chance.uniform(0, 0.5))
            if child.is_alive():
                child.kill()
                child.join()
                played.kills += 1
                line = {"what": "killed", "t": time.time(), "pid": child.pid}
                with played.log.open("a") as log:
                    log.write(json.dumps({**line, "stored": sorted(stored(here, played.thread))}) + "\n")
                continue
        child.join(60)
        if child.is_alive():
            child.kill()
            child.join()
            played.problem = "a process did not end"
        elif child.exitcode == 0:
            for name, value in json.loads((here / "ended").read_text()).items():
                setattr(played, name, value)
        else:
            played.problem = f"a process ended with {child.exitcode}"
        break
    return played


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def stored(folder: Path, thread: str) -> set[str]:
    """The tasks of which the database has a result."""
    with SQLAlchemySaver(f"sqlite:///{folder / 'runs.db'}") as saver:
        newest = next(iter(saver.list({"configurable": {"thread_id": thread, "checkpoint_ns": ""}}, limit=1)), None)
        if newest is None:
            return set()
        done = set(newest.checkpoint["channel_values"].get("results") or {})
        for _, channel, value in newest.pending_writes or ():
            done |= set(value) if channel == "results" else set()
        return done


# The campaign


def campaign(folder: Path, seeds: Sequence[int], jobs: int, pairs: int) -> Tally:
    """Play all stories, check what came of them, and count."""
    PROCESSES.set_forkserver_preload(["tests.fault.chaos_program"])
    tally = Tally()
    killed = [seed for seed in seeds if seed % KILLED_OF == KILLED_OF - 1]
    whole = [seed for seed in seeds if seed not in killed]
    chunks = [whole[i : i + CHUNK] for i in range(0, len(whole), CHUNK)]
    with ProcessPoolExecutor(jobs, mp_context=PROCESSES) as pool, ThreadPoolExecutor(1) as killer:
        deaths = [killer.submit(kill_and_resume, folder, seed) for seed in killed]
        played = [
            pool.submit(play_all, folder / f"part{i}", [(seed, (ON, OFF, PLAIN)) for seed in chunk], AT_ONCE)
            for i, chunk in enumerate(chunks)
        ]
        for done in itertools.chain(([death.result()] for death in deaths), (part.result() for part in played)):
            for one in done:
                count(read(one, tally))
        calm = pool.submit(play_all, folder / "calm", [(seed, _turns(seed)) for seed in whole[:pairs]], 1)
        for one in calm.result() if pairs else ():
            count(read(one, tally))
    return tally


def _turns(seed: int) -> tuple[Setting, Setting]:
    return (CALM_ON, CALM_OFF) if seed % 2 else (CALM_OFF, CALM_ON)


def count(case: Case) -> None:
    judge(case)
    played, tally, name = case.played, case.tally, case.played.setting.name
    if case.kills:
        name = f"{name}, killed"
    tally.states[name][played.state] += 1
    tally.statuses[name].update(status for status, _, _ in played.results.values())
    tally.statuses[name]["waiting"] += len(case.told.plan.tasks) - len(played.results)
    met = [line["fault"] for line in case.begins if line["fault"]]
    tally.faults.update(met)
    tally.met[name] += len(met)
    tally.count.update(runs=1, tasks=len(case.told.plan.tasks), attempts=len(case.work), kills=played.kills)
    tally.count.update(probes=len(case.begins) - len(case.work), reran=len(played.reran))
    tally.count["half-way"] += sum(0 < len(line["stored"]) < len(case.told.plan.tasks) for line in case.kills)
    tally.count["openings"] += sum(line["what"] == "health" and line["after"] == "open" for line in case.lines)
    if played.runs == 1 and not case.kills:
        tally.seconds[name][played.seed] = played.seconds


def table(tally: Tally) -> str:
    n, lines = tally.count, []
    lines.append(
        f"{n['runs']} runs, {n['tasks']} tasks, {n['attempts']} attempts, {n['probes']} probes, "
        f"{n['openings']} openings, {n['reran']} tasks done again after a settlement"
    )
    lines.append(f"{n['kills']} kills with SIGKILL, {n['half-way']} of them half-way")
    lines.append("faults met: " + ", ".join(f"{kind} {times}" for kind, times in tally.faults.most_common()))
    lines.append(f"\n{'invariant':<12} {'checked':>9} {'violated':>9}")
    for name in INVARIANTS:
        bad = sum(one.startswith(f"{name}:") for one in tally.violations)
        lines.append(f"{name:<12} {tally.checks[name]:>9} {bad:>9}")
    lines.append(f"\n{'healing':<12} {'available':>9} {'p50':>8} {'p95':>8} {'faults':>7}   how runs ended; tasks")
    for name, states in tally.states.items():
        tasks, times = tally.statuses[name], sorted(tally.seconds[name].values())
        share = tasks["succeeded"] / max(1, sum(tasks.values()))
        p50, p95 = (f"{times[int(q * (len(times) - 1))]:6.2f} s" if times else f"{'-':>8}" for q in (0.5, 0.95))
        how = ", ".join(f"{state} {times}" for state, times in states.most_common())
        what = ", ".join(f"{status} {times}" for status, times in tasks.most_common() if times)
        lines.append(f"{name:<12} {share:>9.2%} {p50} {p95} {tally.met[name]:>7}   {how}; {what}")
    on, off = tally.seconds["calm on"], tally.seconds["calm off"]
    if both := sorted(on.keys() & off.keys()):
        added = [on[seed] / off[seed] - 1 for seed in both]
        middle, worst = statistics.median(added), sorted(added)[int(0.95 * (len(added) - 1))]
        met = "met" if middle < 0.02 else "missed"
        lines.append(
            f"\ntime added by healing when nothing is wrong: {middle:+.2%} (median of {len(both)} pairs of runs, 95 % "
            f"of them below {worst:+.2%}); target < 2 %: {met}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes at the same time")
    parser.add_argument("--pairs", type=int, help="runs without faults, on and off; by default a fifth of the runs")
    args = parser.parse_args()
    began = time.perf_counter()
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}, Python {sys.version.split()[0]}; SQLite file"
    print(
        f"{machine}; seeds {args.seed} to {args.seed + args.runs - 1}, {args.jobs} processes of {AT_ONCE} runs at once"
    )
    with tempfile.TemporaryDirectory() as folder:
        pairs = args.runs // 5 if args.pairs is None else args.pairs
        tally = campaign(Path(folder), range(args.seed, args.seed + args.runs), args.jobs, pairs)
    print(table(tally))
    for violation in tally.violations:
        print(f"\n{violation}")
    print(f"\n{machine}, now {os.getloadavg()[0]:.2f}; {time.perf_counter() - began:.0f} s in all")
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
