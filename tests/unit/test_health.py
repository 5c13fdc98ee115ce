from __future__ import annotations

import asyncio
import json
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pydantic import BaseModel

from orchestra.health import Health, Ticket, order
from orchestra.probes import Probe, is_judge, unmet
from orchestra.vitals import Breaker, Change, Condition

HEALTHY, DEGRADED, OPEN, HALF_OPEN = Condition


class Clock:
    """A wall clock that only moves when told to, and may go wrong by some seconds."""

    def __init__(self, ahead: float = 0) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        self.ahead = timedelta(seconds=ahead)

    def __call__(self) -> datetime:
        return self.now + self.ahead

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def attempt(health: Health, outcome: str = "ok", seconds: float = 1.0, why: str = "") -> Change | None:
    return health.record(taken(health), outcome, seconds, why)


def taken(health: Health) -> Ticket:
    ticket = health.admit()
    assert ticket is not None
    return ticket


def opened(clock: Clock, **rule: Any) -> Health:
    """Open by failures in a row; it was healthy before."""
    health = Health(Breaker(**rule), clock)
    for _ in range(rule.get("failures", 5)):
        attempt(health, "timeout", 5, "no output within 5 s")
    assert health.condition is OPEN
    return health


def test_failures_in_a_row_open_it_and_a_good_trial_closes_it(clock: Clock) -> None:
    health = Health(clock=clock)
    for _ in range(4):
        attempt(health, "error", why="boom")
    change = attempt(health, "timeout", 5, "no output\nwithin 5 s")
    why = "5 failures in a row, the last: timeout: no output within 5 s"
    assert change == Change(DEGRADED, OPEN, why, clock())
    assert (health.reasons, health.since, health.opens_until) == ((why,), clock(), clock() + timedelta(seconds=30))
    clock.wait(29.9)
    assert not health.admits()
    assert health.admit() is None
    clock.wait(0.1)
    assert (health.condition, health.since, health.admits()) == (HALF_OPEN, clock(), True)
    trial = taken(health)
    assert trial.trial
    assert trial.change is not None
    assert (trial.change.before, trial.change.after) == (OPEN, HALF_OPEN)
    assert health.reasons == (why, "a trial is under way")
    assert not health.admits()
    assert health.admit() is None
    clock.wait(1)
    change = health.record(trial, "ok", 1.0)
    assert change == Change(HALF_OPEN, HEALTHY, "the trial succeeded", clock())
    assert (health.condition, health.reasons, health.opens_until) == (HEALTHY, (), None)
    attempt(health, "error")
    assert health.condition is HEALTHY  # what failed before is forgotten


def test_each_failed_trial_doubles_the_cool_down_until_a_good_one(clock: Clock) -> None:
    health = opened(clock, cool_down=30, longest=100)
    for cool_down in (30, 60, 100, 100):
        assert health.opens_until == clock() + timedelta(seconds=cool_down)
        clock.wait(cool_down)
        change = attempt(health, "malformed", why="no JSON")
        assert change is not None
        assert (change.before, change.after, change.reason) == (HALF_OPEN, OPEN, "the trial failed: malformed: no JSON")
    clock.wait(100)
    attempt(health)
    for _ in range(5):
        attempt(health, "crashed")
    assert health.opens_until == clock() + timedelta(seconds=30)


def test_a_rate_of_failures_in_the_window_opens_it(clock: Clock) -> None:
    health = Health(Breaker(failures=99, window=60), clock)
    for outcome in ("ok", "error") * 4:
        attempt(health, outcome)
    clock.wait(60)
    for outcome in ("ok", "error") * 4:
        attempt(health, outcome)
    assert health.condition is DEGRADED  # 8 attempts: those before have left the window
    attempt(health)
    change = attempt(health, "error", why="boom")
    assert change is not None
    assert change.reason == "5 of the last 10 attempts failed, the last: error: boom"
    assert health.condition is OPEN


def test_a_few_failures_degrade_it_until_they_pass(clock: Clock) -> None:
    health = Health(clock=clock)
    attempt(health, "error", why="boom")
    assert health.condition is HEALTHY
    clock.wait(60)
    change = attempt(health, "error", why="boom")
    assert change == Change(HEALTHY, DEGRADED, "2 of the last 2 attempts failed, the last: error: boom", clock())
    clock.wait(60)  # the first failure leaves the window
    assert (health.condition, health.reasons) == (HEALTHY, ())
    change = attempt(health)
    assert change == Change(DEGRADED, HEALTHY, "what was wrong has passed", clock())
    for outcome in ("error", *["ok"] * 6):
        attempt(health, outcome)
    assert health.condition is HEALTHY  # 2 of 9


def test_cancelled_and_declined_count_neither_way(clock: Clock) -> None:
    health = Health(clock=clock)
    for outcome in ("error", "cancelled", "declined") * 4:
        attempt(health, outcome)
    attempt(health, "error")
    assert health.condition is OPEN
    assert health.typical is None
    clock.wait(30)
    for outcome in ("cancelled", "declined"):
        trial = taken(health)
        assert not health.admits()
        assert health.record(trial, outcome, 1.0) is None
        assert health.admits()  # at once: the place is given back


def test_what_began_before_the_last_decision_has_no_say(clock: Clock) -> None:
    health = Health(clock=clock)
    crowd = [taken(health) for _ in range(40)]
    for ticket in crowd[:5]:
        health.record(ticket, "error", 1.0)
    until = health.opens_until
    clock.wait(10)
    assert health.record(crowd[5], "ok", 11.0) is None
    assert health.record(crowd[6], "error", 11.0) is None
    assert (health.condition, health.opens_until) == (OPEN, until)
    clock.wait(20)
    trial = taken(health)
    health.record(crowd[7], "error", 31.0)
    health.record(crowd[8], "ok", 31.0)
    assert health.condition is HALF_OPEN  # neither of them is the trial
    health.record(trial, "ok", 1.0)
    for ticket in crowd[9:]:
        health.record(ticket, "timeout", 40.0)
    assert (health.condition, health.reasons) == (HEALTHY, ())
    for _ in range(5):
        attempt(health, "error")
    assert health.condition is OPEN


@pytest.mark.parametrize(("usual", "patience"), [(1.0, 30), (7.0, 70)])
def test_a_trial_that_never_reports_is_given_up(clock: Clock, usual: float, patience: float) -> None:
    health = Health(clock=clock)
    attempt(health, seconds=usual)
    for _ in range(5):
        attempt(health, "error")
    clock.wait(30)
    lost = taken(health)
    clock.wait(patience - 1)
    assert not health.admits()
    clock.wait(1)
    second = taken(health)
    assert second.trial
    assert health.record(lost, "cancelled", patience) is None
    assert not health.admits()  # the place was the second one's
    clock.wait(1)
    change = health.record(second, "error", 1.0)
    assert change is not None
    assert change.after is OPEN
    assert health.opens_until == clock() + timedelta(seconds=60)


@pytest.mark.parametrize(("outcome", "after"), [("ok", HEALTHY), ("error", OPEN)])
def test_a_trial_given_up_still_counts_if_nothing_else_decided(clock: Clock, outcome: str, after: Condition) -> None:
    health = opened(clock)
    clock.wait(30)
    slow = taken(health)  # an agent that needs longer than the cool-down must be able to come back
    clock.wait(40)
    taken(health)
    health.record(slow, outcome, 40.0)
    assert health.condition is after


def test_slower_than_its_own_baseline_is_degraded(clock: Clock) -> None:
    health = Health(Breaker(slow=3), clock)
    for seconds in [2.0] * 15 + [6.1] * 2:
        attempt(health, seconds=seconds)
    assert (health.condition, health.typical) == (HEALTHY, 2.0)
    change = attempt(health, seconds=6.1)
    assert change is not None
    assert change.reason == "slow: the last 5 good attempts took 6.1 s (median), before 2 s"
    attempt(health, "error", seconds=0.1)  # failures are quick, and say nothing of speed
    assert health.condition is DEGRADED
    for _ in range(3):
        attempt(health, seconds=2.0)
    assert health.condition is HEALTHY


def test_a_jitter_of_milliseconds_is_not_slow(clock: Clock) -> None:
    health = Health(clock=clock)
    for seconds in [0.0001] * 15 + [0.02] * 5:
        attempt(health, seconds=seconds)
    assert health.condition is HEALTHY


@pytest.mark.parametrize(("approved", "said"), [(True, "approved"), (False, "rejected")])
def test_a_verifier_that_always_says_the_same_is_degraded(clock: Clock, approved: bool, said: str) -> None:
    health = Health(clock=clock)
    health.judged(not approved)
    assert [health.judged(approved) for _ in range(19)] == [None] * 19
    change = health.judged(approved)
    assert change == Change(HEALTHY, DEGRADED, f"{said} each of the last 20 drafts", clock())
    change = health.judged(not approved)
    assert change is not None
    assert change.after is HEALTHY


def test_probes(clock: Clock) -> None:
    health = Health(clock=clock)
    for _ in range(2):
        health.probed(False, 10, "timeout")
    assert health.reasons == ("2 of the last 2 attempts failed, the last: a probe after 10 s: timeout",)
    change = health.probed(True, 0.5)
    assert change is not None
    assert (health.condition, health.typical) == (HEALTHY, None)
    for _ in range(5):
        health.probed(False, 10, "timeout")
    until = health.opens_until
    health.probed(False, 10, "timeout")
    assert (health.condition, health.opens_until) == (OPEN, until)  # no longer for it
    assert health.probed(True, 0.5) == Change(OPEN, HEALTHY, "a probe succeeded", clock())


def test_a_failed_probe_is_the_trial_unless_one_is_under_way(clock: Clock) -> None:
    health = opened(clock)
    clock.wait(30)
    health.probed(False, 1, "wrong")
    assert [(c.before, c.after) for c in health.history[-2:]] == [(OPEN, HALF_OPEN), (HALF_OPEN, OPEN)]
    clock.wait(60)
    trial = taken(health)
    health.probed(False, 1, "wrong")
    assert health.condition is HALF_OPEN
    health.record(trial, "ok", 1.0)
    assert health.condition is HEALTHY


def test_what_a_good_probe_has_forgiven_leaves_the_window_like_the_rest(clock: Clock) -> None:
    health = Health(clock=clock)
    for _ in range(3):
        attempt(health, "error")
    health.probed(True, 0.1)
    clock.wait(120)
    for _ in range(2):
        attempt(health, "error")
    assert health.condition is DEGRADED


def test_good_probes_do_not_hide_that_real_work_fails(clock: Clock) -> None:
    health = Health(clock=clock)
    for _ in range(2):
        for _ in range(3):
            attempt(health, "error")
        health.probed(True, 0.1)
        assert health.condition is HEALTHY  # no failure since
    attempt(health, "error")
    change = attempt(health, "error", why="boom")
    assert change is not None
    assert change.reason == "8 of the last 10 attempts failed, the last: error: boom"


def test_an_opening_and_a_closing_reach_another_process(clock: Clock) -> None:
    here, there = opened(clock), Health(clock=clock)
    under_way = taken(there)
    why = "5 failures in a row, the last: timeout: no output within 5 s"
    assert there.merge(stored(here)) == Change(HEALTHY, OPEN, f"another process: {why}", clock())
    assert (there.reasons, there.opens_until) == (here.reasons, here.opens_until)
    there.record(under_way, "ok", 1.0)
    assert there.condition is OPEN
    clock.wait(30)
    trial = taken(here)
    there.merge(stored(here))
    assert (there.condition, there.admits()) == (HALF_OPEN, False)  # its trial is ours
    here.record(trial, "cancelled", 1.0)
    there.merge(stored(here))
    trial = taken(there)
    there.record(trial, "ok", 1.0)
    change = here.merge(stored(there))
    assert change is not None
    assert (change.after, change.reason) == (HEALTHY, "another process: the trial succeeded")
    assert there.merge(stored(opened(Clock(-60)))) is None  # an older opening changes nothing
    assert there.condition is HEALTHY


def stored(health: Health) -> dict[str, Any]:
    return json.loads(json.dumps(health.dump(), allow_nan=False))


@pytest.mark.parametrize("ahead", [-20, 20])
def test_clocks_that_differ_do_not_undo_what_was_known(clock: Clock, ahead: float) -> None:
    other = Clock(ahead)
    here, there = opened(clock), Health(clock=other)
    there.merge(stored(here))
    until = there.opens_until
    assert until is not None
    assert timedelta() < until - other() <= timedelta(seconds=30)  # never longer than the cool-down
    there.probed(True, 1.0)
    here.merge(stored(there))
    assert here.condition is HEALTHY  # it closed knowing of the opening, whatever its clock says
    for _ in range(5):
        attempt(here, "error")
    there.merge(stored(here))
    assert there.condition is OPEN
    clock.wait(50)
    other.wait(50)
    taken(there)
    here.merge(stored(there))
    assert (here.condition, here.admits()) == (HALF_OPEN, False)  # its trial is under way


def test_a_clock_set_back_holds_nobody_for_long(clock: Clock) -> None:
    health = opened(clock)
    clock.wait(-3600)
    assert attempt(health) is not None
    assert health.condition is HEALTHY
    for _ in range(2):
        attempt(health, "error")
    clock.wait(-3600)
    assert health.condition is HEALTHY


def test_processes_that_live_for_one_run_each_add_up(clock: Clock) -> None:
    memory: dict[str, Any] = {}
    for _ in range(16):
        health = Health(clock=clock)
        health.merge(memory)
        attempt(health, seconds=2.0)
        memory = stored(health)
    for _ in range(5):
        health = Health(clock=clock)
        assert not health.merge(memory)
        attempt(health, "error")
        memory = stored(health)
    assert (health.condition, health.typical) == (OPEN, 2.0)
    slow = Health(clock=clock)
    slow.merge(memory)
    slow.probed(True, 1.0)
    for _ in range(5):
        attempt(slow, seconds=20.0)
    assert slow.condition is DEGRADED


def test_failures_elsewhere_count_only_where_nothing_else_is_known(clock: Clock) -> None:
    failing = Health(clock=clock)
    for _ in range(4):
        attempt(failing, "error")
    stale = stored(failing)
    attempt(failing)
    failing.merge(stale)
    attempt(failing, "error")
    assert failing.condition is not OPEN  # not the fifth in a row
    closed = opened(clock)
    closed.probed(True, 1.0)
    fresh = Health(clock=clock)
    fresh.merge(stored(closed))
    fresh.merge(stale)
    attempt(fresh, "error")
    assert fresh.condition is HEALTHY  # those were before the closing


def test_a_decision_elsewhere_begins_a_new_count(clock: Clock) -> None:
    health = Health(clock=clock)
    for _ in range(4):
        attempt(health, "error")
    closed = opened(clock)
    closed.probed(True, 1.0)
    health.merge(stored(closed))
    attempt(health, "error")
    assert health.condition is HEALTHY


def test_a_place_given_back_elsewhere_is_not_the_place_of_our_trial(clock: Clock) -> None:
    here, there = opened(clock), Health(clock=clock)
    there.merge(stored(here))
    clock.wait(30)
    taken(here)
    clock.wait(1)
    there.record(taken(there), "cancelled", 0.1)  # it had not heard of ours yet
    here.merge(stored(there))
    assert here.admit() is None


def test_two_decisions_at_the_same_moment_end_as_one(clock: Clock) -> None:
    here = opened(clock)
    there = Health(clock=clock)
    there.merge(stored(here))
    clock.wait(30)
    here.probed(True, 1.0)
    there.probed(False, 1.0)
    here.merge(stored(there))
    there.merge(stored(here))
    assert (here.condition, there.condition) == (OPEN, OPEN)


def test_a_cool_down_from_elsewhere_is_no_longer_than_the_rule_allows(clock: Clock) -> None:
    health = Health(Breaker(longest=60), clock)
    health.merge(stored(opened(clock, cool_down=500)))
    assert health.opens_until == clock() + timedelta(seconds=60)


def test_of_a_flood_of_attempts_the_last_500_count(clock: Clock) -> None:
    health = Health(Breaker(failures=999, rate=1), clock)
    attempt(health)
    for _ in range(499):
        attempt(health, "error", why="boom")
    assert health.reasons == ("499 of the last 500 attempts failed, the last: error: boom",)
    attempt(health, "error", why="boom")
    assert health.condition is OPEN


GARBAGE = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.floats() | st.text())
FIELDS = st.sampled_from(
    [("ruling",), ("failures",), ("verdicts",), ("older",), ("recent",), ("version",), ("failures", "count")]
    + [("ruling", name) for name in ("open", "decided", "touched", "opened", "cool", "trial", "reason")]
)


@given(FIELDS, GARBAGE | st.just("9999-12-31T23:59:59Z") | st.just("0001-01-01T00:00:00Z"))
def test_garbage_never_raises_and_leaves_it_usable(path: tuple[str, ...], value: Any) -> None:
    clock = Clock()
    dump = stored(opened(clock))
    *parents, last = path
    (dump[parents[0]] if parents else dump)[last] = value
    health = Health(clock=clock)
    health.merge(dump)
    json.dumps(health.dump(), allow_nan=False)
    assert bool(health.reasons) is (health.condition is not HEALTHY)
    assert all(health.reasons)
    clock.wait(700)
    attempt(health)
    assert health.condition in {HEALTHY, DEGRADED}


VERDICTS = {"version": 1, "verdicts": {"count": 20, "what": "liked"}}


@pytest.mark.parametrize(
    "other", [None, [], "open", {}, {"version": 2}, {"version": 1, "ruling": {"open": True}}, VERDICTS]
)
def test_an_unreadable_dump_changes_nothing(clock: Clock, other: Any) -> None:
    health = opened(clock)
    before = health.dump()
    assert health.merge(other) is None
    assert health.dump() == before


def test_a_decision_from_the_far_future_is_garbage(clock: Clock) -> None:
    health = Health(clock=clock)
    assert health.merge(opened(Clock(7200)).dump()) is None
    assert health.condition is HEALTHY


def test_of_many_threads_one_gets_the_trial(clock: Clock) -> None:
    health = opened(clock)
    clock.wait(30)
    with ThreadPoolExecutor(16) as pool:
        tickets = [*pool.map(lambda _: health.admit(), range(200))]
    assert sum(ticket is not None for ticket in tickets) == 1


def test_misuse_is_named(clock: Clock) -> None:
    health = Health(clock=clock)
    ticket = taken(health)
    with pytest.raises(ValueError, match="'good' is no outcome of an attempt; one of: ok, error"):
        health.record(ticket, "good", 1.0)
    with pytest.raises(ValueError, match="another agent's"):
        Health(clock=clock).record(ticket, "ok", 1.0)
    health.record(ticket, "ok", 1.0)
    with pytest.raises(ValueError, match="closed already"):
        health.record(ticket, "ok", 1.0)
    with pytest.raises(ValueError, match="timezone"):
        Health(clock=datetime.now)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("failures", [0, True, 2.5]),
        ("rate", [0, 1.1, math.nan]),
        ("least", [0, 501]),
        ("window", [0, math.inf]),
        ("cool_down", [-1, "30"]),
        ("longest", [10]),
        ("slow", [1, math.nan]),
    ],
)
def test_a_breaker_names_what_is_out_of_range(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{name} of a Breaker"):
            Breaker(**{name: value})


@pytest.mark.parametrize(
    ("name", "given"), [("input", {"input": 3}), ("input", {"input": {1: "x"}}), ("every", {"every": 0})]
)
def test_a_probe_names_what_is_out_of_range(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{name} of a Probe"):
        Probe(**{"input": "Say pong.", "expect": "pong", **given})


class Paper(BaseModel):
    title: str


class Foreign:
    """No type that pydantic knows."""


class Judge:
    name = "judge"

    def run(self) -> None: ...


async def is_pong(output: str) -> bool:
    await asyncio.sleep(0)
    return output == "pong"


@pytest.mark.parametrize(
    ("expect", "output", "why"),
    [
        (str, "pong", None),
        (Paper, {"title": "x"}, None),
        (Paper, {"name": "x"}, "not of type Paper: title: Field required"),
        (list[int], ["x"], "not of type list[int]: 0: Input should be a valid integer"),
        (int | None, None, None),
        (Foreign, Foreign(), None),
        (Foreign, "x", "not of type Foreign: value: Input should be an instance of Foreign"),
        (is_pong, "pong", None),
        (is_pong, "pang", "is_pong returned False for 'pang'"),
        (lambda output: output["x"], {}, "the expectation raised KeyError: 'x'"),
        (lambda output: None, "a\nb" * 99, "<lambda> returned None for 'a\\nba\\nb"),
        ("pong", "pong", None),
        (None, "pong", "expected None, not 'pong'"),
    ],
)
async def test_what_is_not_as_expected(expect: Any, output: Any, why: str | None) -> None:
    said = await unmet(expect, output)
    if why is None or said is None:
        assert said is why
    else:
        assert said.startswith(why)
        assert "\n" not in said


async def test_a_judge_is_for_the_engine() -> None:
    assert is_judge(Judge())
    assert not any(map(is_judge, (Judge, str, is_pong, "pong", Paper(title="x"))))
    with pytest.raises(TypeError, match="'judge'"):
        await unmet(Judge(), "pong")


def test_the_order_of_candidates(clock: Clock) -> None:
    half_open = opened(clock)
    taken_trial = opened(clock)
    clock.wait(30)
    taken(taken_trial)
    degraded = Health(clock=clock)
    for _ in range(2):
        attempt(degraded, "error")
    health = {"d": degraded, "h": half_open, "t": taken_trial, "o": opened(clock), "w": Health(clock=clock)}
    assert order(["d", "o", "h", "t", "w", "unknown"], health) == ["h", "w", "unknown", "d"]


class Agents(RuleBasedStateMachine):
    """Two processes that know of one agent, and a store between them."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        rule = Breaker(failures=2, least=4, window=50, cool_down=10, longest=40)
        self.healths = [Health(rule, self.clock), Health(rule, self.clock)]
        self.tickets: list[tuple[int, Ticket, datetime]] = []

    who = st.sampled_from([0, 1])

    @rule(who=who)
    def begin(self, who: int) -> None:
        health = self.healths[who]
        before, could = health.condition, health.admits()
        ticket = health.admit()
        assert could is (ticket is not None)
        assert ticket is None or before is not OPEN
        if ticket is not None:
            assert ticket.trial is (before is HALF_OPEN)
            generation = ticket.ruling.generation
            rivals = [
                t for w, t, at in self.tickets if w == who and t.trial and at + timedelta(seconds=10) > self.clock()
            ]
            assert not (ticket.trial and any(rival.ruling.generation == generation for rival in rivals))
            self.tickets.append((who, ticket, self.clock()))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), outcome=st.sampled_from(["ok", "error", "timeout", "cancelled"]), took=st.floats(0, 1))
    def end(self, data: st.DataObject, outcome: str, took: float) -> None:
        who, ticket, _ = self.tickets.pop(data.draw(st.integers(0, len(self.tickets) - 1)))
        health = self.healths[who]
        before, until = health.condition, health.opens_until
        current = ticket.ruling.generation == health._ruling.generation
        change = health.record(ticket, outcome, took)
        if ticket.trial and outcome == "ok" and current:
            assert health.condition in {HEALTHY, DEGRADED}
        elif before is OPEN:  # nothing else than a good trial given up moves an open one
            assert health.condition is OPEN
            assert health.opens_until == until or (ticket.trial and current)
        if change is not None:
            assert change == health.history[-1]

    @rule(who=who, ok=st.booleans())
    def probe(self, who: int, ok: bool) -> None:
        self.healths[who].probed(ok, 0.1)
        assert not ok or self.healths[who].condition in {HEALTHY, DEGRADED}

    @rule(seconds=st.sampled_from([1, 5, 10, 50]))
    def wait(self, seconds: float) -> None:
        self.clock.wait(seconds)

    @rule(who=who)
    def exchange(self, who: int) -> None:
        one, other = self.healths[who], self.healths[1 - who]
        dump = stored(one)
        other.merge(dump)
        once = other.dump()
        assert other.merge(dump) is None
        assert other.dump() == once
        one.merge(once)
        assert (one.opens_until is None) is (other.opens_until is None)  # after both ways they agree

    @rule(who=who)
    def reread(self, who: int) -> None:
        health = self.healths[who]
        before = health.dump(), health.condition
        health.merge(stored(health))
        assert (health.dump(), health.condition) == before

    @invariant()
    def consistent(self) -> None:
        for health in self.healths:
            condition = health.condition
            assert bool(health.reasons) is (condition is not HEALTHY)
            assert all(health.reasons)
            assert (health.opens_until is not None) is (condition in {OPEN, HALF_OPEN})
            assert condition is not OPEN or not health.admits()
            assert condition in {OPEN, HALF_OPEN} or health.admits()
            assert health.since <= self.clock()
            assert all(a.after is b.before and a.at <= b.at for a, b in pairwise(health.history))
            assert all(change.before is not change.after and change.reason for change in health.history)


TestAgents = Agents.TestCase
TestAgents.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
