"""The auditor's work: hold the ledger against the source, to the cent, and count how every transaction ended."""

from collections import Counter, defaultdict

from sqlalchemy import Engine

from graphs._finance_ledger import HELD, POSTED, REJECTED, Standing, says, standing, sums
from graphs._finance_rows import Rows, money
from graphs._finance_types import Batch, Books, Check, Line, Posting, Total

SHOWN = 10


def line_id(batch: Batch, line: int) -> str:
    """Under what a row is kept that can't be kept under its own id."""
    return f"{batch.digest[:16]} line {line}"


def audit(rows: Rows, batch: Batch, engine: Engine, posting: Posting) -> Books:
    """Count and check everything that belongs to a batch, by what stands in the ledger.

    Args:
        rows: the source's.
        batch: which part of it.
        engine: of the ledger.
        posting: of this run, to tell what earlier runs had posted.
    """
    ids = (*(row.id for row in rows.good), *(line_id(batch, row.line) for row in rows.bad))
    found = dict(standing(engine, ids))
    others = [row for row in rows.good if row.id in found and found[row.id].says != says(row)]
    for row in others:
        del found[row.id]
    found |= standing(engine, [line_id(batch, row.line) for row in others])
    totals = Counter[tuple[str, str]]()
    money_of: dict[tuple[str, str], int] = defaultdict(int)
    reasons: Counter[str] = Counter()
    for each in found.values():
        totals[each.status, each.currency] += 1
        money_of[each.status, each.currency] += each.minor
        if each.status != POSTED:
            reasons[each.by] += 1
    held = [item for item in found.items() if item[1].status == HELD]
    held.sort(key=lambda item: (-item[1].minor, item[0]))
    rejected = [item for item in found.items() if item[1].status == REJECTED]
    return Books(
        totals=tuple(
            Total(status=status, currency=currency, count=count, minor=money_of[status, currency])
            for (status, currency), count in sorted(totals.items())
        ),
        flagged=sum(each.status == POSTED and bool(each.why) for each in found.values()),
        earlier=sum(each.status == POSTED and each.posting != posting.key[:200] for each in found.values()),
        reasons=dict(reasons.most_common(30)),
        held=tuple(_line(*item) for item in held[:SHOWN]),
        rejected=tuple(_line(*item) for item in rejected[:SHOWN]),
        checks=_checks(rows, found, sums(engine)),
        missing=posting.missing,
    )


def _line(name: str, each: Standing) -> Line:
    return Line(id=name, customer=each.customer, minor=each.minor, currency=each.currency, why=each.why, by=each.by)


def _checks(rows: Rows, found: dict[str, Standing], left: dict[str, int]) -> tuple[Check, ...]:
    every = len(rows)
    odd = [name for name, each in found.items() if not _sound(each)]
    stated: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for row in rows.good:
        stated[row.currency] += row.minor
    for each in found.values():
        kept[each.currency] += each.minor
    apart = {currency: kept[currency] - total for currency, total in stated.items() if kept[currency] != total}
    currencies = ", ".join(sorted(left)) or "no currency"
    lost = {currency: total for currency, total in left.items() if total}
    return (
        Check(
            what="Every transaction stands in the ledger once",
            good=len(found) == every,
            says=f"{len(found):,} of {every:,}",
        ),
        Check(
            what="Posted ones have two entries that cancel out, others none",
            good=not odd,
            says=f"{len(odd):,} do not, such as {odd[0]}" if odd else f"true of {len(found):,}",
        ),
        Check(
            what="Posted, held and rejected add up to the source's total",
            good=not apart,
            says=_sums(apart, "off by ") if apart else "to the cent, in " + ", ".join(sorted(stated)),
        ),
        Check(
            what="All entries of the ledger sum to zero",
            good=not lost,
            says=_sums(lost, "left over: ") if lost else f"to the cent, in {currencies}",
        ),
    )


def _sound(each: Standing) -> bool:
    if each.status != POSTED:
        return not each.entries
    return len(each.entries) == 2 and not sum(minor for _, minor in each.entries)


def _sums(by_currency: dict[str, int], what: str) -> str:
    return what + ", ".join(money(minor, currency) for currency, minor in sorted(by_currency.items()))
