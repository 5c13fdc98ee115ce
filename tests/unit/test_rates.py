from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestra import rates
from orchestra.budgets import ModelTerms
from orchestra.rates import RateLimiter, limiter_of, retry_after


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time: when nothing is left to do, its clock jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.now = max(self.now, min(timer.when() for timer in self._scheduled if not timer.cancelled()))
        super()._run_once()


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


Arrival = tuple[float, int]


def admitted(limiter: RateLimiter, loop: VirtualLoop, arrivals: list[Arrival]) -> list[tuple[float, int, int]]:
    """Who is admitted, as (when, tokens, number of the arrival), in order."""
    log: list[tuple[float, int, int]] = []

    async def one(number: int, tokens: int) -> None:
        await limiter.admit(tokens)
        log.append((loop.now, tokens, number))

    async def everybody() -> None:
        async with asyncio.TaskGroup() as group:
            for number, (at, tokens) in enumerate(arrivals):
                if at > loop.now:
                    await asyncio.sleep(at - loop.now)
                group.create_task(one(number, tokens))

    loop.run_until_complete(everybody())
    return log


def test_requests_slide_through_the_window(loop: VirtualLoop) -> None:
    limiter = RateLimiter(requests=2, clock=loop.time)
    times = [at for at, _, _ in admitted(limiter, loop, [(0, 1), (20, 1), (21, 1), (22, 1), (23, 1)])]
    assert times == [0, 20, 60, 80, 120]


def test_tokens_slide_through_the_window(loop: VirtualLoop) -> None:
    limiter = RateLimiter(tokens=100, clock=loop.time)
    times = [at for at, _, _ in admitted(limiter, loop, [(0, 60), (10, 30), (11, 20), (12, 80), (13, 10)])]
    assert times == [0, 10, 60, 70, 120]  # the last one would fit at 60, but does not overtake


def test_a_request_larger_than_the_limit_goes_when_the_window_is_empty(loop: VirtualLoop) -> None:
    limiter = RateLimiter(requests=100, tokens=100, clock=loop.time)
    times = [at for at, _, _ in admitted(limiter, loop, [(0, 500), (1, 10), (2, 500), (3, 10)])]
    assert times == [0, 60, 120, 180]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 150), st.integers(0, 60)), min_size=1, max_size=25),
    st.none() | st.integers(1, 6),
    st.none() | st.integers(20, 100),
)
def test_no_window_ever_holds_more_and_nobody_waits_too_long(
    arrivals: list[Arrival], requests: int | None, tokens: int | None
) -> None:
    loop = VirtualLoop()
    arrivals = sorted(arrivals, key=lambda arrival: arrival[0])
    log = admitted(RateLimiter(requests, tokens, clock=loop.time), loop, arrivals)
    loop.close()
    assert [number for _, _, number in log] == list(range(len(arrivals)))
    most = (requests or 10**9, tokens or 10**9)
    expected: list[tuple[float, int]] = []
    for arrival, share in arrivals:  # whole seconds, which are longer than the grain of the log
        earliest = max(arrival, expected[-1][0] if expected else 0)
        for at in sorted({earliest, *(then + 60 for then, _ in expected if then + 60 > earliest)}):
            window = [took for then, took in expected if then > at - 60]
            empty = sum(window) == 0
            if len(window) + 1 <= most[0] and (sum(window) + share <= most[1] or empty):
                expected.append((at, share))
                break
    assert [(at, share) for at, share, _ in log] == expected


def test_close_admissions_are_counted_as_one_and_never_too_short(loop: VirtualLoop) -> None:
    limiter = RateLimiter(requests=500, clock=loop.time)
    times = [at for at, _, _ in admitted(limiter, loop, [(i * 0.02, 1) for i in range(1500)])]
    assert all(later - sooner >= 60 - 1e-6 for sooner, later in zip(times, times[500:], strict=False))
    assert times[-1] < 120 + 10 + 3 * 0.06
    assert len(limiter._log) <= 1002


def test_memory_is_bounded_even_where_calls_take_nothing(loop: VirtualLoop) -> None:
    limiter = RateLimiter(tokens=100, clock=loop.time)

    async def calls() -> None:
        for i in range(4000):
            loop.now = i * 0.01
            (await limiter.admit(90)).settle(0)

    loop.run_until_complete(calls())
    assert loop.now < 60
    assert len(limiter._log) <= 1002


def test_settling_for_less_lets_the_next_one_go_at_once(loop: VirtualLoop) -> None:
    async def calls() -> None:
        limiter = RateLimiter(tokens=100, clock=loop.time)
        first = await limiter.admit(90)
        waits = asyncio.create_task(limiter.admit(50))
        behind = asyncio.create_task(limiter.admit(10))
        await asyncio.sleep(5)
        first.settle(60)  # not enough: 40 are left
        await asyncio.sleep(1)
        assert not waits.done()
        first.settle(50)
        await waits
        assert loop.now == 6
        (await waits).settle(45)
        await asyncio.sleep(0.1)
        assert not behind.done()
        first.settle(40)
        await behind
        assert loop.now == pytest.approx(6.1)

    loop.run_until_complete(calls())


def test_settling_for_less_may_shorten_a_wait_that_goes_on(loop: VirtualLoop) -> None:
    async def calls() -> None:
        limiter = RateLimiter(tokens=100, clock=loop.time)
        await limiter.admit(50)
        await asyncio.sleep(10)
        second = await limiter.admit(50)
        waits = asyncio.create_task(limiter.admit(80))  # would have to wait for both, till 70
        await asyncio.sleep(1)
        second.settle(10)  # now the first is enough
        await waits
        assert loop.now == 60

    loop.run_until_complete(calls())


def test_settling_late_changes_nothing(loop: VirtualLoop) -> None:
    async def calls() -> None:
        limiter = RateLimiter(tokens=100, clock=loop.time)
        first = await limiter.admit(90)
        await asyncio.sleep(65)
        await limiter.admit(50)
        first.settle(10)
        await limiter.admit(60)
        assert loop.now == 125

    loop.run_until_complete(calls())


def test_a_window_without_tokens_is_empty(loop: VirtualLoop) -> None:
    async def calls() -> None:
        limiter = RateLimiter(requests=2, tokens=100, clock=loop.time)
        (await limiter.admit(500)).settle(0)
        await limiter.admit(500)
        assert loop.now == 0

    loop.run_until_complete(calls())


def test_settling_for_more_counts(loop: VirtualLoop) -> None:
    async def calls() -> None:
        limiter = RateLimiter(tokens=100, clock=loop.time)
        (await limiter.admit(10)).settle(95)
        await limiter.admit(10)
        assert loop.now == 60

    loop.run_until_complete(calls())


@pytest.mark.parametrize("limits", [{}, {"requests": 10}])
def test_nobody_starts_before_a_pause_ends_and_the_longest_wins(loop: VirtualLoop, limits: dict[str, int]) -> None:
    async def calls() -> None:
        limiter = RateLimiter(**limits, clock=loop.time)
        await limiter.admit(1)
        limiter.pause(5)
        waits = [asyncio.create_task(limiter.admit(1)) for _ in range(3)]
        await asyncio.sleep(1)
        limiter.pause(30)
        limiter.pause(2)
        limiter.pause(-7)
        await asyncio.gather(*waits)
        assert loop.now == 31
        await limiter.admit(1)
        assert loop.now == 31
        limiter.limit(1, None)
        await asyncio.sleep(100)
        await limiter.admit(1)
        limiter.pause(90)  # longer than the window
        await limiter.admit(1)
        assert loop.now == 131 + 90

    loop.run_until_complete(calls())


def test_a_cancelled_waiter_makes_way(loop: VirtualLoop) -> None:
    async def calls() -> None:
        limiter = RateLimiter(tokens=100, clock=loop.time)
        await limiter.admit(50)
        big, small = asyncio.create_task(limiter.admit(90)), asyncio.create_task(limiter.admit(40))
        await asyncio.sleep(7)
        big.cancel()
        await small
        assert loop.now == 7
        assert not limiter._queue

    loop.run_until_complete(calls())


def test_a_waiter_cancelled_as_it_is_admitted_gives_it_back(loop: VirtualLoop) -> None:
    async def calls() -> None:
        limiter = RateLimiter(requests=2, tokens=100, clock=loop.time)
        first = await limiter.admit(90)
        waits, behind = asyncio.create_task(limiter.admit(100)), asyncio.create_task(limiter.admit(100))
        await asyncio.sleep(3)
        first.settle(0)  # admits the next one, which has not gone on yet
        waits.cancel()
        await behind
        assert loop.now == 3
        assert waits.cancelled()

    loop.run_until_complete(calls())


def in_threads(count: int, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    errors: list[BaseException] = []

    def target() -> None:
        try:
            asyncio.run(asyncio.wait_for(work(), 10))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=target, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(12)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)


def test_threads_share_one_limit() -> None:
    window = 0.1
    limiter = RateLimiter(requests=20, window=window)
    times: list[float] = []

    async def one() -> None:
        # What counts is the moment of admission, which lies between these two looks at the clock.
        admission = await limiter.admit(5)
        times.append(time.monotonic())
        admission.settle(3)

    async def work() -> None:
        await asyncio.gather(*(one() for _ in range(25)))

    began = time.monotonic()
    in_threads(4, work)
    assert len(times) == 100
    assert max(times) - began >= 4 * window
    assert max(times) - began < 5
    for number in range(1, 5):  # no more than 20 had gone by the end of each window since the first one
        assert sum(at < began + number * window for at in times) <= number * 20


def test_tokens_freed_in_one_thread_wake_another() -> None:
    limiter = RateLimiter(tokens=10)
    ended: list[int] = []

    async def work() -> None:
        for _ in range(50):
            (await limiter.admit(7)).settle(0)
            ended.append(1)

    in_threads(4, work)
    assert len(ended) == 200


@pytest.mark.parametrize(("close", "until"), [(True, 65), (False, 125)], ids=["closed", "stopped"])
def test_an_event_loop_that_ends_does_not_break_others(loop: VirtualLoop, close: bool, until: float) -> None:
    limiter = RateLimiter(requests=1, clock=loop.time)
    ended = asyncio.new_event_loop()
    ended.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending"
    loop.run_until_complete(limiter.admit(1))
    lost = ended.create_task(limiter.admit(1))
    ended.run_until_complete(asyncio.sleep(0))
    task = loop.create_task(limiter.admit(1))  # behind one who will never wake
    if close:
        ended.close()
    loop.run_until_complete(task)
    assert loop.now <= until + 5
    assert not lost.done()
    ended.close()
    del lost
    gc.collect()
    assert not limiter._queue


async def test_without_limits_and_pause_there_is_nothing_to_wait_for() -> None:
    limiter = RateLimiter()
    admission = await limiter.admit(10**9)
    admission.settle(5)
    assert admission is await limiter.admit(1)
    assert not limiter._log


def test_one_limiter_per_model_with_the_latest_terms(loop: VirtualLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_limiters", {})
    one = limiter_of("https://one", "small", None)
    assert one is limiter_of("https://one", "small", ModelTerms(requests_per_minute=1))
    assert one is limiter_of("https://one", "small", None)
    assert one is not limiter_of("https://one", "large", None)
    assert one is not limiter_of("https://two", "small", None)
    one._clock = loop.time

    async def calls() -> None:
        await one.admit(1)
        waits = [asyncio.create_task(one.admit(1)) for _ in range(3)]
        await asyncio.sleep(10)
        assert not any(task.done() for task in waits)
        limiter_of("https://one", "small", ModelTerms(requests_per_minute=3, tokens_per_minute=100))
        await asyncio.gather(*waits[:2])
        assert loop.now == 10
        limiter_of("https://one", "small", ModelTerms())
        await waits[2]
        assert loop.now == 10

    loop.run_until_complete(calls())


class Response:
    def __init__(self, headers: Any) -> None:
        self.headers = headers


class Refused(Exception):
    def __init__(self, headers: Any) -> None:
        self.response = Response(headers)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"Retry-After": "1.5"}, 1.5),
        ({"retry-after": 3}, 3),
        ({"Retry-After-Ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 -0000"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": None}, None),
        ({}, None),
        (None, None),
        ("retry-after", None),
    ],
)
def test_what_retry_after_says(headers: Any, seconds: float | None) -> None:
    assert retry_after(Refused(headers)) == seconds


def test_retry_after_may_be_a_date_or_absent() -> None:
    httpx = pytest.importorskip("httpx")
    said = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert retry_after(Refused(httpx.Headers({"Retry-After": said}))) == pytest.approx(90, abs=2)
    assert retry_after(ValueError("no response")) is None
    error = Refused({})
    error.response = None  # type: ignore[assignment]
    assert retry_after(error) is None


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.text() | st.floats().map(str) | st.datetimes().map(format_datetime))
def test_whatever_retry_after_says_is_no_error(said: str) -> None:
    seconds = retry_after(Refused({"retry-after": said, "retry-after-ms": said}))
    assert seconds is None or seconds >= 0
