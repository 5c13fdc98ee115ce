"""The transaction team's checks before it posts: payments that were booked twice, and balances that don't follow."""

from collections import Counter, defaultdict
from itertools import pairwise

from graphs._finance_checks import DAY, HOLD, findings
from graphs._finance_rows import Rows, decimal, money
from graphs._finance_types import Findings, Hit, Transaction

_TWICE = 2 * DAY
_TOO_SMALL = 10  # whole units; two equal coffees are two coffees


def duplicates(rows: Rows) -> Findings:
    """The same amount to the same payee within two days, unless it looks like a price that others pay as well."""
    prices: dict[str, Counter[int]] = defaultdict(Counter)
    kinds: Counter[tuple[str, int]] = Counter()
    paid: dict[tuple[str, str, str, int, str], list[Transaction]] = defaultdict(list)
    for row in rows.good:
        if row.kind in {"purchase", "transfer"} and row.payee:
            prices[row.payee][row.minor] += 1
            kinds[row.category, row.minor] += bool(row.category)
            paid[row.customer, row.payee, row.currency, row.minor, row.kind].append(row)
    hits: list[Hit] = []
    for (_, payee, currency, minor, _), same in paid.items():
        if len(same) < 2 or decimal(minor, currency) < _TOO_SMALL or len({int(row.when / DAY) for row in same}) > 3:
            continue
        others = prices[payee].copy()
        del others[minor]
        few_prices = sum(others.values()) >= 4 and len(others) < 0.7 * sum(others.values())
        if few_prices or prices[payee][minor] > len(same) + 1 or _is_price(kinds, same[0].category, minor):
            continue
        for before, row in pairwise(same):
            if row.when - before.when <= _TWICE:
                why = f"{money(minor, currency)} to {payee} again, {_after(row.when - before.when)} after {before.id}"
                hits.append(Hit(id=row.id, points=HOLD, why=why))
    return findings("duplicates", hits)


def _is_price(kinds: Counter[tuple[str, int]], category: str, minor: int) -> bool:
    """Whether an amount is far more common among such payees than the amounts beside it, as 9.99 is."""
    beside = sum(kinds[category, minor + step] for step in range(-10, 11) if step) / 20
    return kinds[category, minor] > 4 + 4 * beside


def _after(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"


def balances(rows: Rows) -> Findings:
    """Payments after which the balance that the source states is not the one before, plus or minus the amount.

    A row that was rejected leaves a gap in its account, which is not held against the next payment.
    """
    gaps = Counter(row.customer for row in rows.bad)
    last: dict[tuple[str, str], int] = {}
    hits: list[Hit] = []
    for row in rows.good:
        if row.balance is None:
            continue
        before = last.get((row.customer, row.currency))
        last[row.customer, row.currency] = row.balance
        if before is None or before + row.signed == row.balance:
            continue
        if gaps[row.customer]:
            gaps[row.customer] -= 1
            continue
        off = money(row.balance - before - row.signed, row.currency)
        hits.append(Hit(id=row.id, points=HOLD, why=f"the balance after it is off by {off}"))
    return findings("balances", hits)
