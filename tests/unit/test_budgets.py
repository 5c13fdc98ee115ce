from __future__ import annotations

import asyncio
import gc
import math
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestra import budgets
from orchestra.budgets import Account, Budget, Hold, Ledger, ModelTerms, Room
from orchestra.errors import BudgetExceeded, WorkflowError
from orchestra.tasks import Usage


def tokens(n: int) -> Usage:
    return Usage(calls=1, input_tokens=n)


def ledger(n: int, of: str = "the run") -> Ledger:
    return Ledger(Budget(tokens=n), of=of)


async def settled() -> None:
    """Let everybody go on as far as possible."""
    for _ in range(5):
        await asyncio.sleep(0)


async def soon(task: asyncio.Task[Hold]) -> Hold:
    return await asyncio.wait_for(task, 5)


async def waiting(account: Account, share: Usage) -> asyncio.Task[Hold]:
    task = asyncio.create_task(account.reserve(share))
    await settled()
    assert not task.done()
    return task


async def test_what_is_reserved_is_set_aside_until_it_is_settled() -> None:
    run = Ledger(Budget(tokens=100, money=1.0, calls=3))
    share = Usage(calls=1, input_tokens=30, output_tokens=10, money=0.5)
    hold = await Account(run).reserve(share)
    assert (run.spent, run.reserved) == (Usage(), share)
    actual = Usage(calls=1, input_tokens=28, output_tokens=5, money=0.3)
    hold.settle(actual)
    hold.settle(share)
    hold.release()
    assert (run.spent, run.reserved) == (actual, Usage())
    assert Account(run).room() == Room(tokens=67, money=0.7, calls=2)
    assert run.used_up is None


async def test_a_hold_left_without_a_word_books_its_share_as_estimated() -> None:
    run = ledger(100)
    with pytest.raises(ZeroDivisionError), await Account(run).reserve(tokens(40)):
        raise ZeroDivisionError
    assert run.spent == Usage(calls=1, input_tokens=40, estimated=True)
    with await Account(run).reserve(tokens(40)) as hold:
        hold.settle(tokens(1))
    with await Account(run).reserve(tokens(40)) as hold:
        hold.release()
    assert (run.spent.tokens, run.spent.calls, run.reserved) == (41, 2, Usage())


async def test_what_fits_once_others_return_theirs_waits_for_it() -> None:
    run = ledger(100)
    account = Account(run)
    first = await account.reserve(tokens(80))
    second = await waiting(account, tokens(30))
    assert account.room() == Room(tokens=100, money=None, calls=None)
    first.settle(tokens(70))
    (await soon(second)).settle(tokens(30))
    assert run.spent.tokens == 100
    assert run.used_up == "the run's budget of 100 tokens is used up: 100 are spent"
    with pytest.raises(BudgetExceeded, match="100 are spent and this call may take 1 more"):
        await account.reserve(tokens(1))


@pytest.mark.parametrize(
    ("budget", "spent", "share", "line"),
    [
        (
            Budget(tokens=100_000),
            Usage(input_tokens=98_200),
            Usage(calls=1, input_tokens=4_000, output_tokens=100),
            "the run's budget of 100,000 tokens: 98,200 are spent and this call may take 4,100 more",
        ),
        (
            Budget(money=5),
            Usage(money=4.9),
            Usage(calls=1, money=0.2),
            "the run's budget of 5 in money: 4.9 are spent and this call may take 0.2 more",
        ),
        (
            Budget(calls=1),
            Usage(calls=1),
            Usage(calls=1),
            "the run's budget of 1 call: 1 is spent and this call may take 1 more",
        ),
        (
            Budget(money=1),
            Usage(),
            Usage(money=math.nan),
            "the run's budget of 1 in money: 0 are spent and this call may take nan more",
        ),
    ],
)
async def test_what_can_not_fit_is_refused_at_once(budget: Budget, spent: Usage, share: Usage, line: str) -> None:
    run, roomy = Ledger(budget, spent=spent), ledger(10**9, of="the user")
    with pytest.raises(BudgetExceeded) as refused:
        await Account(roomy, run).reserve(share)
    assert str(refused.value) == line
    assert (run.spent, run.reserved, roomy.reserved) == (spent, Usage(), Usage())
    assert roomy.used_up is None
    assert run.used_up is not None


async def test_a_refusal_is_remembered() -> None:
    run = ledger(100)
    with pytest.raises(BudgetExceeded) as refused:
        await Account(run).reserve(tokens(101))
    assert run.used_up == str(refused.value)


async def test_those_who_wait_are_refused_when_they_can_no_longer_fit() -> None:
    run, user = ledger(100), ledger(1000, of="the user")
    hold = await Account(run, user).reserve(tokens(80))
    big, small = await waiting(Account(user, run), tokens(60)), await waiting(Account(run), tokens(30))
    hold.settle(tokens(50))
    with pytest.raises(BudgetExceeded, match=r"the run's budget of 100 tokens: 50 are spent and .* 60 more"):
        await soon(big)
    (await soon(small)).release()
    assert user.reserved == Usage()


async def test_an_endpoint_that_reports_more_than_was_reserved_is_booked_as_it_is() -> None:
    run = ledger(100)
    account = Account(run)
    hold = await account.reserve(tokens(90))
    other = await waiting(account, tokens(20))
    hold.settle(tokens(130))
    assert run.used_up == "the run's budget of 100 tokens is used up: 130 are spent"
    assert account.room().tokens == 0
    with pytest.raises(BudgetExceeded):
        await soon(other)


async def test_what_was_spent_without_a_reservation_counts_for_those_who_wait() -> None:
    agent, run = ledger(100, of="agent a"), ledger(100)
    account = Account(agent, run)
    hold = await account.reserve(tokens(60))
    big, small = await waiting(account, tokens(90)), await waiting(account, tokens(50))
    account.book(Usage(calls=2, output_tokens=20))
    assert (agent.spent, run.spent) == (Usage(calls=2, output_tokens=20),) * 2
    with pytest.raises(BudgetExceeded):
        await soon(big)
    hold.release()
    (await soon(small)).release()
    account.book(tokens(200))
    assert (run.used_up, run.reserved) == ("the run's budget of 100 tokens is used up: 220 are spent", Usage())


async def test_sums_of_money_are_not_undone_by_rounding() -> None:
    run = Ledger(Budget(money=0.3))
    account = Account(run)
    for _ in range(3):
        (await account.reserve(Usage(money=0.1))).settle(Usage(money=0.1))
    assert run.used_up == "the run's budget of 0.3 in money is used up: 0.3 are spent"
    holds = [await Account(Ledger(Budget(money=0.3)), one := Ledger(Budget(money=0.3))).reserve(Usage(money=0.1))]
    holds += [await Account(one).reserve(Usage(money=0.1)) for _ in range(2)]
    for hold in holds:
        hold.release()
    assert one.reserved == Usage()
    assert one._held == [0, 0, 0]  # no rest of rounding stays when nothing is reserved


async def test_all_ledgers_or_none() -> None:
    agent, run = ledger(50, of="agent a"), ledger(100)
    both = Account(agent).with_(run, agent)
    assert both.ledgers == (agent, run)
    hold = await both.reserve(tokens(40))
    waits = await waiting(both, tokens(20))
    assert (agent.reserved.tokens, run.reserved.tokens) == (40, 40)
    assert both.room().tokens == 50
    hold.settle(tokens(10))
    (await soon(waits)).settle(tokens(20))
    assert (agent.spent.tokens, run.spent.tokens) == (30, 30)


async def test_no_ledger_is_no_limit() -> None:
    with await Account().reserve(tokens(10**12)):
        pass
    assert Account().room() == Room(tokens=None, money=None, calls=None)


async def test_one_settlement_grants_all_that_fit_then() -> None:
    account = Account(ledger(100))
    hold = await account.reserve(tokens(100))
    waits = [await waiting(account, tokens(share)) for share in (60, 30, 10)]
    hold.release()
    for granted in waits:
        (await soon(granted)).release()


async def test_a_big_one_is_not_overtaken() -> None:
    account = Account(ledger(10_000))
    holds = [await account.reserve(tokens(2_000)) for _ in range(5)]
    ended: list[str] = []

    async def one(name: str, share: int) -> None:
        with await account.reserve(tokens(share)) as hold:
            ended.append(name)
            hold.release()

    tasks = [asyncio.create_task(one("big", 9_000))]
    await settled()
    tasks += [asyncio.create_task(one(f"small {i}", 500)) for i in range(50)]
    for hold in holds:
        await settled()
        assert not ended
        hold.release()
    await asyncio.gather(*tasks)
    assert ended[0] == "big"
    assert ended[1:] == [f"small {i}" for i in range(50)]


async def test_who_waits_for_one_ledger_does_not_block_another() -> None:
    agent, run = ledger(100, of="agent a"), ledger(1000)
    hold = await Account(agent, run).reserve(tokens(90))
    blocked = await waiting(Account(agent, run), tokens(50))
    behind = await waiting(Account(agent), tokens(5))
    (await Account(run).reserve(tokens(500))).release()
    blocked.cancel()
    (await soon(behind)).release()
    hold.release()


async def test_a_grant_in_one_ledger_makes_way_in_another() -> None:
    left, right = ledger(10, of="left"), ledger(10, of="right")
    in_left, in_right = await Account(left).reserve(tokens(5)), await Account(right).reserve(tokens(5))
    both = await waiting(Account(left, right), tokens(6))
    behind = await waiting(Account(right), tokens(2))
    in_right.release()
    await settled()
    assert not behind.done()  # that room is kept for the first one
    in_left.release()  # with which the second one has nothing to do
    (await soon(behind)).release()
    (await soon(both)).release()


async def test_who_waits_for_two_ledgers_gets_them_though_they_are_never_free_together() -> None:
    left, right = ledger(10, of="left"), ledger(10, of="right")
    ended: list[str] = []

    async def keep_busy(one: Ledger, after: float) -> None:
        # Two that take turns on each ledger, so that it is never free as long as newcomers get it.
        await asyncio.sleep(after)
        for _ in range(40):
            with await Account(one).reserve(tokens(6)) as hold:
                await asyncio.sleep(0.001)
                hold.release()
            ended.append("busy")

    busy = [asyncio.create_task(keep_busy(one, i / 2000)) for one in (left, right) for i in range(2)]
    await asyncio.sleep(0.003)
    with await Account(left, right).reserve(tokens(10)) as hold:
        hold.release()
    assert len(ended) < 60
    await asyncio.gather(*busy)


async def test_a_waiter_that_is_cancelled_makes_way() -> None:
    account = Account(run := ledger(100))
    hold = await account.reserve(tokens(60))
    first, second = await waiting(account, tokens(90)), await waiting(account, tokens(30))
    first.cancel()
    (await soon(second)).release()
    assert first.cancelled() or (await settled()) is None
    hold.release()
    assert (run.reserved, run.queue) == (Usage(), {})


async def test_a_waiter_cancelled_as_it_is_granted_gives_it_back() -> None:
    account = Account(run := ledger(100))
    hold = await account.reserve(tokens(60))
    first, second = await waiting(account, tokens(90)), await waiting(account, tokens(95))
    hold.release()  # grants the first, which has not gone on yet
    assert run.reserved.tokens == 90
    first.cancel()
    (await soon(second)).release()
    assert first.cancelled()
    assert (run.spent, run.reserved) == (Usage(), Usage())


async def test_a_refusal_on_its_way_survives_a_cancellation() -> None:
    account = Account(run := ledger(100))
    hold = await account.reserve(tokens(60))
    waits = await waiting(account, tokens(50))
    hold.settle(tokens(60))
    waits.cancel()
    await settled()
    assert waits.cancelled()
    assert (run.spent.tokens, run.queue) == (60, {})


def step(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(settled())


class ClosedUnseen(asyncio.SelectorEventLoop):
    """Closed after it was looked at."""

    def is_closed(self) -> bool:
        return False

    def __del__(self) -> None:
        pass


@pytest.mark.parametrize("kind", [asyncio.SelectorEventLoop, ClosedUnseen])
@pytest.mark.parametrize("end", ["closed", "closed and forgotten", "stopped and forgotten"])
def test_an_event_loop_that_ends_does_not_break_others(kind: type[asyncio.SelectorEventLoop], end: str) -> None:
    account = Account(ledger(100))
    ended, alive = kind(), asyncio.new_event_loop()
    ended.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending"
    hold = alive.run_until_complete(account.reserve(tokens(60)))
    lost = ended.create_task(account.reserve(tokens(90)))
    step(ended)
    task = alive.create_task(account.reserve(tokens(30)))
    step(alive)
    assert not task.done()
    if end.startswith("closed"):
        ended.close()
    if end.endswith("forgotten"):
        del lost
        gc.collect()
    hold.release()
    if end.startswith("stopped"):  # it was granted to somebody who is gone
        ended.close()
        del ended
        gc.collect()
    alive.run_until_complete(soon(task)).release()
    alive.close()


async def test_a_closed_event_loop_keeps_nothing() -> None:
    account = Account(ledger(100))
    small, _ = await account.reserve(tokens(30)), await account.reserve(tokens(60))
    ended = asyncio.new_event_loop()
    ended.set_exception_handler(lambda *_: None)
    lost = ended.create_task(account.reserve(tokens(90)))
    await asyncio.to_thread(step, ended)
    behind = await waiting(account, tokens(20))
    ended.close()
    small.release()  # not enough for the one who is gone
    (await soon(behind)).release()
    assert not lost.done()


def test_garbage_collected_within_a_change_follows_after_it() -> None:
    account = Account(run := ledger(100))
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)

    async def abandoned() -> None:
        with await account.reserve(tokens(40)):
            await asyncio.Event().wait()

    task = loop.create_task(abandoned())
    step(loop)
    loop.close()
    del task, loop
    seen: list[int] = []

    def change() -> None:
        gc.collect()
        seen.append(run.spent.tokens)

    budgets._turns.take(change)  # with a lock alone this would never end
    assert seen == [0]
    assert run.spent == Usage(calls=1, input_tokens=40, estimated=True)


def test_a_change_that_fails_leaves_the_turns_in_order() -> None:
    turns = budgets.Turns()
    with pytest.raises(ZeroDivisionError):
        turns.take(lambda: 1 // 0)  # type: ignore[arg-type]
    seen: list[int] = []
    turns.take(lambda: seen.append(1))
    assert seen == [1]


def in_threads(count: int, work: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine in so many threads, each with its own event loop; fails if one of them hangs or raises."""
    errors: list[BaseException] = []

    def target(i: int) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await work(i)

        try:
            asyncio.run(bounded())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=target, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(25)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("seed", range(6))
def test_threads_never_overshoot_and_all_end(seed: int) -> None:
    user = Ledger(Budget(tokens=6_000, money=0.9, calls=200), of="the user")
    runs = [ledger(2_500, of=f"run {i}") for i in range(3)]
    limits = {user: 6_000, **dict.fromkeys(runs, 2_500)}
    outcomes: list[str] = []

    def check() -> None:
        for one, limit in limits.items():
            assert one.spent.tokens + one.reserved.tokens <= limit
        assert user.spent.money + user.reserved.money <= 0.9 + 1e-9
        assert user.spent.calls + user.reserved.calls <= 200

    async def call(chance: random.Random, account: Account) -> None:
        most = chance.randint(1, 400)
        share = Usage(calls=1, input_tokens=most // 2, output_tokens=most - most // 2, money=most * 1e-4)
        try:
            async with asyncio.timeout(chance.choice([None, None, 0.002])):
                with await account.reserve(share) as hold:
                    budgets._turns.take(check)
                    await asyncio.sleep(chance.choice([0, 0, 0.001]))
                    took = chance.randint(0, most) // 2
                    if chance.random() < 0.8:
                        hold.settle(Usage(calls=1, output_tokens=took, money=took * 1e-4))
            outcomes.append("ok")
        except BudgetExceeded:
            outcomes.append("refused")
        except TimeoutError:
            outcomes.append("cancelled")
        budgets._turns.take(check)

    async def work(thread: int) -> None:
        chance = random.Random(seed * 100 + thread)
        await asyncio.gather(
            *(call(chance, Account(*chance.choice([[user], [user, run], [run, user]]))) for run in runs * 12)
        )

    in_threads(4, work)
    assert len(outcomes) == 4 * 36
    assert outcomes.count("ok") >= 10
    for one, limit in limits.items():
        assert (one.reserved, one.queue) == (Usage(), {})
        assert one.spent.tokens <= limit


def test_a_budget_that_is_too_small_for_all_at_once_loses_nobody() -> None:
    run = ledger(10)
    ended: list[int] = []

    async def work(thread: int) -> None:
        for _ in range(100):
            with await Account(run).reserve(tokens(7)) as hold:  # one at a time, each woken from another thread
                ended.append(thread)
                await asyncio.sleep(0)
                hold.release()

    in_threads(4, work)
    assert len(ended) == 400


class Interleavings(RuleBasedStateMachine):
    """Any order of reserving, settling and cancelling on three ledgers."""

    LIMIT = 20

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.ledgers = [ledger(self.LIMIT, of=f"ledger {i}") for i in range(3)]
        self.waiting: list[tuple[asyncio.Task[Hold], list[Ledger], int]] = []
        self.holds: list[Hold] = []

    def go_on(self) -> None:
        self.loop.run_until_complete(settled())
        for entry in [entry for entry in self.waiting if entry[0].done()]:
            self.waiting.remove(entry)
            task, ledgers, share = entry
            if not task.cancelled():
                if (error := task.exception()) is None:
                    self.holds.append(task.result())
                else:
                    assert isinstance(error, BudgetExceeded)
                    assert any(one.spent.tokens + share > self.LIMIT for one in ledgers)

    @rule(which=st.sets(st.integers(0, 2), min_size=1), share=st.integers(0, 14))
    def reserve(self, which: set[int], share: int) -> None:
        ledgers = [self.ledgers[i] for i in which]
        task = self.loop.create_task(Account(*ledgers).reserve(tokens(share)))
        self.waiting.append((task, ledgers, share))
        self.go_on()

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), part=st.sampled_from([0, 0, 0.2, 1]), cancel=st.booleans())
    def settle(self, data: st.DataObject, part: float, cancel: bool) -> None:
        hold = self.holds.pop(data.draw(st.integers(0, len(self.holds) - 1)))
        hold.settle(tokens(int(hold.share.tokens * part)))
        if cancel and self.waiting:  # perhaps somebody who was granted this moment
            self.waiting[0][0].cancel()
        self.go_on()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.waiting[data.draw(st.integers(0, len(self.waiting) - 1))][0].cancel()
        self.go_on()

    @invariant()
    def nothing_is_overshot(self) -> None:
        for one in self.ledgers:
            assert one.spent.tokens + one.reserved.tokens <= self.LIMIT
            mine = [hold.share.tokens for hold in self.holds if one in hold._ledgers]
            assert one.reserved.tokens == sum(mine)

    @invariant()
    def nobody_waits_without_a_reason(self) -> None:
        for i, (_, ledgers, share) in enumerate(self.waiting):
            assert all(one.spent.tokens + share <= self.LIMIT for one in ledgers)
            fits = all(one.spent.tokens + one.reserved.tokens + share <= self.LIMIT for one in ledgers)
            before = [one for _, others, _ in self.waiting[:i] for one in others]
            assert not fits or any(one in before for one in ledgers)

    def teardown(self) -> None:
        while self.waiting:
            assert self.holds, "they wait for nobody"
            self.holds.pop().release()
            self.go_on()
        for hold in self.holds:
            hold.release()
        assert all(one.reserved == Usage() and not one.queue for one in self.ledgers)
        self.loop.close()


Interleavings.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None, derandomize=True)
TestInterleavings = Interleavings.TestCase


def refused_budgets() -> Iterator[tuple[Callable[[], Any], str]]:
    yield Budget, "A budget limits something"
    yield lambda: Budget(tokens=0), "A budget's tokens must be a number above zero, not 0"
    yield lambda: Budget(money=-1.5), "A budget's money must be a number above zero, not -1.5"
    yield lambda: Budget(calls=1, seconds=math.nan), "A budget's seconds must be a number above zero, not nan"
    yield lambda: Budget(tokens="many"), "tokens must be a number, not 'many'"  # type: ignore[arg-type]
    yield lambda: Budget(calls=True), "calls must be a number, not True"
    yield lambda: ModelTerms(input_price=-1), "A model's input_price must be a number that is not below zero, not -1"
    yield lambda: ModelTerms(requests_per_minute=0), "A model's requests_per_minute must be a number above zero, not 0"


@pytest.mark.parametrize(("make", "message"), list(refused_budgets()))
def test_what_limits_refuse(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(WorkflowError, match=message):
        make()


def test_what_a_call_costs() -> None:
    assert ModelTerms(input_price=2, output_price=10).cost(1_000_000, 100_000) == 3.0
    assert ModelTerms(input_price=0, output_price=0).cost(5, 5) == 0
    assert ModelTerms(input_price=2).cost(500_000, 0) == 1.0
    assert ModelTerms(input_price=2).cost(500_000, 1) is None
    assert ModelTerms().cost(0, 0) is None


def test_a_ledger_keeps_seconds_for_others() -> None:
    run = Ledger(Budget(seconds=5), spent=Usage(calls=3))
    assert run.used_up is None
    assert Account(run).room() == Room(tokens=None, money=None, calls=None)
    assert run.spent.calls == 3
