"""The health of agents: who gets work, who is spared, who is tried again. Pure: no waiting, an injected clock.

Each agent has one `Health` per process. Attempts and probes report to it; it says whether the agent is healthy,
degraded, open (gets no traffic) or half-open (one trial may go), and why. What it decided can be stored as JSON and
merged into the health of the same agent in another process.

Wall clocks of two machines differ by seconds. Who decides knows what it had merged before, and its decision counts as
later than that whatever the clocks say. Of two decisions that knew nothing of each other, the one with the later clock
wins. A trial may start early or late by the difference, but waits for one cool-down at most. What comes from more than
an hour ahead is taken for garbage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from threading import RLock
from typing import Any, Literal, cast, get_args

from orchestra.tasks import now as wall_clock
from orchestra.vitals import (
    ROW,
    RULING,
    SECONDS,
    TICK,
    UNDECIDED,
    YEAR,
    Breaker,
    Change,
    Condition,
    Durations,
    Lately,
    Row,
    Ruling,
    one_line,
    read,
)

Outcome = Literal["ok", "error", "timeout", "malformed", "crashed", "cancelled", "declined"]
"""How an attempt ended. The last two say nothing of the agent's health: they count neither way."""

_OUTCOMES = frozenset(get_args(Outcome))
_NEUTRAL = frozenset({"cancelled", "declined"})

_VERDICTS, _SAID = 20, ("rejected", "approved")
"""So many verdicts all the same way say that a verifier does not look."""

_SKEW = timedelta(hours=1)
"""What comes from further ahead than any clock is wrong is garbage, and would outweigh every later decision."""

_VERSION = 1


@dataclass(slots=True, eq=False)
class Ticket:
    """An attempt that may begin now. Close it exactly once, with `Health.record`.

    Attributes:
        trial: Whether it is the trial that decides if the agent gets traffic again.
        change: The change that taking it made, if any: the trial makes an open agent half-open.
        owner: Whose it is, until it is closed.
        ruling: What was decided last when it was taken: an attempt that began before the next decision has no say.
    """

    trial: bool
    change: Change | None
    owner: Health | None = field(repr=False)
    ruling: Ruling = field(repr=False)


class Health:
    """How one agent is, in this process. Safe to use from many threads and event loops.

    A change that time alone makes (a cool-down ends, failures leave the window) shows at once in `condition`; it
    enters `history`, and is returned, at the next call that tells something.

    Args:
        breaker: The rule that opens and closes it.
        clock: Tells the time, with a timezone.

    Raises:
        ValueError: The clock's time has no timezone.
    """

    def __init__(self, breaker: Breaker = Breaker(), clock: Callable[[], datetime] = wall_clock) -> None:  # noqa: B008 -- frozen
        if clock().tzinfo is None:
            raise ValueError("The clock of a Health must tell the time with a timezone, such as datetime.now(UTC).")
        self._breaker = breaker
        self._clock = clock
        # Re-entrant: a garbage collection may close an abandoned attempt, which then records, within any call here.
        self._lock = RLock()
        self._ruling = UNDECIDED
        self._trial: Ruling | None = None  # what our own trial holds: a place given back elsewhere is not its place
        self._lately = Lately(breaker.window)
        self._durations = Durations(breaker.slow)
        self._counted = False  # whether anything was counted here, and not only in other processes
        self._failures = Row()
        self._verdicts = Row()
        self._told = Condition.HEALTHY
        self._since = clock()
        self._history: deque[Change] = deque(maxlen=20)

    @property
    def condition(self) -> Condition:
        """How the agent is now."""
        with self._lock:
            return self._condition(self._clock())

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not healthy, in plain words; empty if it is."""
        with self._lock:
            return self._reasons(self._clock())

    @property
    def since(self) -> datetime:
        """Since when it is in this condition; now, if time alone made it healthy and nothing was told since."""
        with self._lock:
            now = self._clock()
            condition = self._condition(now)
            if condition is self._told:
                return self._since
            return min(now, self._ruling.until) if condition is Condition.HALF_OPEN else now

    @property
    def opens_until(self) -> datetime | None:
        """When the trial may go; `None` unless it is open or half-open."""
        with self._lock:
            return self._ruling.until if self._ruling.open else None

    @property
    def typical(self) -> float | None:
        """Median seconds of good attempts; `None` if there was none."""
        with self._lock:
            return self._durations.typical

    @property
    def history(self) -> tuple[Change, ...]:
        """The last 20 changes, oldest first."""
        with self._lock:
            return tuple(self._history)

    def admits(self) -> bool:
        """Whether an attempt may begin now; a look that takes nothing."""
        with self._lock:
            return self._admits(self._clock())

    def admit(self) -> Ticket | None:
        """Take an attempt that may begin now.

        A trial that never reports back gives its place to another one after the cool-down of the breaker, or ten
        times as long as good attempts take if that is longer. If it does report after all, it still counts, unless
        something else has decided meanwhile.

        Returns:
            What to close with `record`; `None` if the agent is open, or half-open with a trial under way.
        """
        with self._lock:
            now = self._clock()
            if not self._ruling.open:
                return Ticket(trial=False, change=None, owner=self, ruling=self._ruling)
            if not self._admits(now):
                return None
            change = self._notice(now)
            self._touch(now, trial=now)
            self._trial = self._ruling
            return Ticket(trial=True, change=change, owner=self, ruling=self._ruling)

    def record(self, ticket: Ticket, outcome: Outcome, seconds: float, why: str = "") -> Change | None:
        """Tell how an attempt ended.

        An attempt that began before the breaker last opened or closed decides nothing any more, however it ends.

        Args:
            ticket: What `admit` returned for it.
            outcome: How it ended; "cancelled" and "declined" count neither way, and a trial gives its place back.
            seconds: How long it took.
            why: What went wrong, in words.

        Returns:
            The change of condition, if there is one.

        Raises:
            ValueError: The outcome is unknown; the ticket is closed already, or another agent's.
        """
        if outcome not in _OUTCOMES:
            raise ValueError(f"{outcome!r} is no outcome of an attempt; one of: {', '.join(get_args(Outcome))}.")
        with self._lock:
            if ticket.owner is not self:
                raise ValueError("This ticket is closed already, or another agent's; record each attempt once.")
            ticket.owner = None
            if ticket.ruling is self._trial:
                self._trial = None
            now = self._clock()
            passed = self._notice(now)
            if outcome == "ok" and 0 <= seconds <= YEAR:
                self._durations.add(seconds)
            if outcome in _NEUTRAL:
                if ticket.trial and ticket.ruling.touched == self._ruling.touched:  # else it was given up before
                    self._touch(now, trial=None)
            elif ticket.ruling.generation == self._ruling.generation:
                self._count(now, one_line(outcome, why), "the trial", failed=outcome != "ok")
            return self._notice(now) or passed

    def probed(self, ok: bool, seconds: float, why: str = "") -> Change | None:  # noqa: FBT001 -- the outcome itself
        """Tell how a probe ended. How long it took is no measure of real work, so it does not enter the baseline.

        A good one closes an open or half-open agent; else it is a good attempt that also ends what failures made
        degraded. A failed one is a failure like any other; to a half-open agent it is the trial, unless a trial is
        under way, which decides alone. During a cool-down it says nothing new.

        Args:
            ok: Whether the agent did as expected.
            seconds: How long it took.
            why: What went wrong, in words.

        Returns:
            The change of condition, if there is one.
        """
        with self._lock:
            now = self._clock()
            passed = self._notice(now)
            if ok or self._admits(now):
                self._count(now, one_line(f"a probe after {seconds:.3g} s", why), "a probe", failed=not ok)
            if ok:
                self._lately.forgive()
            return self._notice(now) or passed

    def judged(self, approved: bool) -> Change | None:  # noqa: FBT001 -- the verdict itself
        """Tell what a verifier said of a draft: 20 verdicts in a row all the same way make it degraded.

        Args:
            approved: Whether it approved the draft.

        Returns:
            The change of condition, if there is one.
        """
        with self._lock:
            now = self._clock()
            passed = self._notice(now)
            said = _SAID[approved]
            count = self._verdicts.count if self._verdicts.what == said else 0
            self._verdicts = Row(count + 1, said)
            return self._notice(now) or passed

    def dump(self) -> dict[str, Any]:
        """What another process can `merge`, as JSON. Store it when something returned a change or a trial began."""
        with self._lock:
            return {
                "version": _VERSION,
                "ruling": self._ruling.model_dump(mode="json"),
                "failures": asdict(self._failures),
                "verdicts": asdict(self._verdicts),
                "older": [*self._durations.older],
                "recent": [*self._durations.recent],
            }

    def merge(self, other: Mapping[str, Any]) -> Change | None:
        """Take in what another process stored, where it is newer, or nothing is known here.

        An opening elsewhere opens here, a closing closes, a trial elsewhere holds back ours. Durations, verdicts and
        failures in a row are taken over where none were counted here: so they add up over processes that live for
        one run each. Merging the same again changes nothing; a field that can't be read is left out.

        Args:
            other: What `dump` returned there.

        Returns:
            The change of condition, if there is one.
        """
        stored: Any = other
        if not isinstance(stored, Mapping) or stored.get("version") != _VERSION:
            return None
        fields = cast("Mapping[str, Any]", stored)
        ruling = read(RULING, fields.get("ruling"))
        failures, verdicts = (read(ROW, fields.get(name)) for name in ("failures", "verdicts"))
        with self._lock:
            now = self._clock()
            passed = self._notice(now)
            if ruling is not None and ruling.decided <= ruling.touched <= now + _SKEW:
                self._adopt(now, ruling)
                if failures is not None and not self._counted and ruling.generation == self._ruling.generation:
                    self._failures = failures
            if verdicts is not None and verdicts.what in _SAID and not self._verdicts.count:
                self._verdicts = verdicts
            self._durations.adopt(*(read(SECONDS, fields.get(name)) for name in ("older", "recent")))
            return self._notice(now, "another process: ") or passed

    # All that follows is called with the lock held.

    def _adopt(self, now: datetime, ruling: Ruling) -> None:
        mine = self._ruling
        began = ruling.trial and min(ruling.trial, now)
        if ruling.generation > mine.generation:
            cool = min(ruling.cool, self._breaker.longest)
            changed = {"opened": min(ruling.opened, now), "cool": cool, "trial": began}
            self._ruling = ruling.model_copy(update=changed)
            self._forget()
        elif ruling.generation == mine.generation and ruling.touched > mine.touched:
            self._ruling = mine.model_copy(update={"touched": ruling.touched, "trial": began})

    def _admits(self, now: datetime) -> bool:
        ruling = self._ruling
        if not ruling.open:
            return True
        if ruling.cools(now):
            return False
        patience = timedelta(seconds=max(self._breaker.cool_down, 10 * (self._durations.typical or 0)))
        ours = self._trial
        begun = [ruling.trial, ours.trial if ours is not None and ours.generation == ruling.generation else None]
        return not any(began is not None and began <= now < began + patience for began in begun)

    def _condition(self, now: datetime) -> Condition:
        if self._ruling.open:
            return Condition.OPEN if self._ruling.cools(now) else Condition.HALF_OPEN
        return Condition.DEGRADED if self._faults(now) else Condition.HEALTHY

    def _reasons(self, now: datetime) -> tuple[str, ...]:
        if not self._ruling.open:
            return tuple(self._faults(now))
        if self._ruling.cools(now):
            return (self._ruling.reason,)
        return (self._ruling.reason, "one trial may go" if self._admits(now) else "a trial is under way")

    def _faults(self, now: datetime) -> list[str]:
        """What makes it degraded, as long as the breaker is closed."""
        faults: list[str] = []
        attempts, failed = self._lately.all(now), self._lately.fresh
        if failed >= 2 and failed >= attempts / 4:
            faults.append(f"{failed} of the last {attempts} attempts failed, the last: {self._failures.what}")
        if self._durations.fault:
            faults.append(self._durations.fault)
        if self._verdicts.count >= _VERDICTS:
            faults.append(f"{self._verdicts.what} each of the last {_VERDICTS} drafts")
        return faults

    def _count(self, now: datetime, what: str, by: str, *, failed: bool) -> None:
        """Count an attempt that matters: to an open agent it is the trial."""
        rule = self._breaker
        self._counted = True
        if self._ruling.open:
            if failed:
                self._decide(now, f"{by} failed: {what}", min(2 * self._ruling.cool, rule.longest))
            else:
                self._decide(now, f"{by} succeeded")
            return
        self._lately.add(now, failed=failed)
        if not failed:
            if self._failures.count:
                self._failures = Row(0, self._failures.what)
            return
        self._failures = Row(self._failures.count + 1, what)
        attempts, failures = self._lately.all(now), self._lately.failed
        if self._failures.count >= rule.failures:
            self._decide(now, f"{self._failures.count} failures in a row, the last: {what}", rule.cool_down)
        elif attempts >= rule.least and failures >= rule.rate * attempts:
            self._decide(now, f"{failures} of the last {attempts} attempts failed, the last: {what}", rule.cool_down)

    def _decide(self, now: datetime, reason: str, cool: float | None = None) -> None:
        """Open for so many seconds, or close; what was counted before no longer matters."""
        later = max(now, self._ruling.touched + TICK)
        self._ruling = Ruling(
            open=cool is not None,
            decided=later,
            touched=later,
            opened=now,
            cool=cool or self._breaker.cool_down,
            trial=None,
            reason=reason,
        )
        self._forget()

    def _touch(self, now: datetime, *, trial: datetime | None) -> None:
        later = max(now, self._ruling.touched + TICK)
        self._ruling = self._ruling.model_copy(update={"touched": later, "trial": trial})

    def _forget(self) -> None:
        self._lately.clear()
        self._failures = Row()

    def _notice(self, now: datetime, whence: str = "") -> Change | None:
        """Write down that the condition is another than what was told last, if it is."""
        before, after = self._told, self._condition(now)
        if before is after:
            return None
        said = [self._ruling.reason] if self._ruling.open or before in (Condition.OPEN, Condition.HALF_OPEN) else []
        if after is Condition.HALF_OPEN:
            said = ["the cool-down is over: one trial may go"]
        elif not self._ruling.open:
            said += self._faults(now) or ([] if said else ["what was wrong has passed"])
        change = Change(before, after, whence + "; ".join(said), now)
        self._told, self._since = after, now
        self._history.append(change)
        return change


def order(names: Sequence[str], health: Mapping[str, Health]) -> list[str]:
    """Put candidates in the order in which to try them.

    A half-open agent whose trial may go keeps its place, even before healthy ones: or nobody would ever learn that it
    is well again. Degraded ones go behind the others. Whoever admits nothing now is left out. An agent of which no
    health is known counts as healthy.

    Args:
        names: The candidates, best first.
        health: What is known of their health, by name.
    """
    first: list[str] = []
    last: list[str] = []
    for name in names:
        known = health.get(name)
        if known is None or known.admits():
            degraded = known is not None and known.condition is Condition.DEGRADED
            (last if degraded else first).append(name)
    return first + last
