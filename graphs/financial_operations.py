"""Process a file or a table of transactions: find fraud, screen for compliance, post to a ledger, report.

    orchestra run financial_operations "Process transactions.csv ledger sqlite:///ledger.db sanctions names.txt"

    intake ─┬─ fraud (a team) ──────┐
            │    velocity ──┐       │
            │    amounts ───┤       │
            │    travel ────┼─ analyst
            │    merchants ─┘       ├─ controller ─ transactions (a team) ─┬─ reporter
            ├─ compliance (a team) ─┘                duplicates ─┐         │
            │    sanctions ────┬─ officer            balances ───┴─ poster ─ auditor
            │    structuring ──┘                                           │
            └──────────────────────────────────────────────────────────────┘

All of it is rules and statistics, without a model. Transactions stay in their file or table; agents hand on where they
are, and small findings. Each transaction ends as posted, held or rejected, with a reason and who decided, in a ledger
in SQL (SQLite, PostgreSQL, MariaDB): double entry, exactly once, whatever is killed in the middle.

The request names a CSV file, a database with its table, or a generated sample, and options; see `GRAMMAR`. Columns
are id, time, customer, amount and currency, and, for the checks that need them, type (purchase, transfer, deposit, …;
says in which direction the amount goes), payee, category, channel (online or present), place, latitude, longitude,
balance (after the transaction) and the customer's name. A row that can't be read is rejected with its reason; a file
with more than a fifth of such rows is refused.

What it leaves open the environment may say: FINANCE_LEDGER (default: ledger.db in the current folder; a sample gets
one of its own, in the user's cache), FINANCE_SANCTIONS (a file, one name a line), FINANCE_REPORTING_THRESHOLD (10000)
and FINANCE_WITHOUT_FRAUD: what becomes of transactions that could not be checked for fraud in full, because the team
or one of its agents failed. With `flag` they are posted and flagged, with `hold` they are held until a later run
clears them. Without compliance checks nothing is posted: all of it is held.

Data is kept in memory, about 200 MB for 100,000 transactions.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from graphs import _finance_audit, _finance_checks, _finance_payments, _finance_report, _finance_sample
from graphs._finance_ledger import BATCH, Decision, check_ledger, open_ledger, post
from graphs._finance_request import EXAMPLE, GRAMMAR, Wanted, read_request
from graphs._finance_rows import Rows, absolute, load, read
from graphs._finance_screening import sanctions as screen_names
from graphs._finance_screening import structuring as screen_cash
from graphs._finance_types import (
    Action,
    Batch,
    Books,
    ComplianceVerdict,
    Findings,
    FraudVerdict,
    Order,
    Orders,
    Posting,
    Screening,
)
from orchestra import Agent, Assignment, Workflow, agent

__all__ = ["CHECKS", "GRAMMAR", "build", "flow", "fraud_team"]

Check = Callable[[Rows], Findings]
CHECKS: Mapping[str, Check] = {
    "velocity": _finance_checks.velocity,
    "amounts": _finance_checks.amounts,
    "travel": _finance_checks.travel,
    "merchants": _finance_checks.merchants,
}


def check_request(request: str) -> None:
    """Read what the request names, so that a file that can't be processed is reported before anything is stored.

    Raises:
        RequestError: names the file, the line or the column, and the remedy.
    """
    wanted = read_request(request)
    if wanted.source:
        read(wanted.source, wanted.table)
    if wanted.ledger:
        check_ledger(wanted.ledger)


# Operations


@agent(capabilities=["intake"], timeout=600)
def intake(task: Assignment) -> Batch:
    """Read the transactions and fix what this run works on."""
    wanted = read_request(task.request)
    if wanted.size:
        return _take_sample(wanted, task.idempotency_key)
    # A run may be resumed from another folder.
    source = absolute(wanted.source) if wanted.table else str(Path(wanted.source).expanduser().resolve())
    names = wanted.sanctions and str(Path(wanted.sanctions).expanduser().resolve())
    return _take(wanted, source, absolute(wanted.ledger or "sqlite:///ledger.db"), names)


def _take_sample(wanted: Wanted, key: str) -> Batch:
    """Write a sample where agents find it; what is fraud in it stays here. Each run gets a ledger of its own."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "orchestra" / "finance" / f"{wanted.size}-{wanted.seed}"
    data, names = _finance_sample.make(wanted.size, wanted.seed).write(folder)
    own = folder / f"ledger-{hashlib.sha256(key.encode()).hexdigest()[:12]}.db"
    batch = _take(wanted, str(data), wanted.ledger or f"sqlite:///{own}", wanted.sanctions or str(names))
    return batch.model_copy(update={"sample": f"{wanted.size:,} generated transactions, seed {wanted.seed}"})


def _take(wanted: Wanted, source: str, ledger: str, names: str) -> Batch:
    rows = read(source, wanted.table)
    days = [datetime.fromtimestamp(rows.good[end].when, UTC).date().isoformat() for end in (0, -1)]
    return Batch(
        source=source,
        table=wanted.table,
        until=rows.good[-1].when,
        rows=len(rows),
        digest=rows.digest,
        first=days[0],
        last=days[1],
        absent=rows.absent,
        ledger=ledger,
        sanctions=names,
        threshold=wanted.threshold,
        without_fraud=wanted.without_fraud,
    )


@agent(capabilities=["control"], timeout=60)
def controller(batch: Batch, fraud: FraudVerdict | None, compliance: ComplianceVerdict | None) -> Orders:
    """Decide what is held, from what both teams found, and what becomes of the rest if one of them failed."""
    held: dict[str, Order] = {order.id: order for order in fraud.held} if fraud else {}
    held |= {order.id: order for order in compliance.held} if compliance else {}
    orders = tuple(held.values())
    unscreened = ("all of it",) if compliance is None else compliance.failed
    if unscreened:
        why = f"not screened for compliance ({', '.join(unscreened)} failed)"
        return Orders(held=orders, otherwise="hold", why=why, by="operations (no posting without compliance)")
    unchecked = ("the whole team",) if fraud is None else fraud.failed
    if unchecked:
        why = f"not fully checked for fraud ({', '.join(unchecked)} failed)"
        by = f"operations (without fraud checks: {batch.without_fraud})"
        return Orders(held=orders, otherwise="hold" if batch.without_fraud == "hold" else "post", why=why, by=by)
    return Orders(held=orders)


@agent(capabilities=["reporting"], timeout=60)
def reporter(
    batch: Batch, fraud: FraudVerdict | None, compliance: ComplianceVerdict | None, books: Books | None
) -> str:
    """Write the report: how everything ended, what is to be done, and what is missing."""
    return _finance_report.report(batch, fraud, compliance, books)


# The fraud team


def fraud_team(checks: Mapping[str, Check] = CHECKS) -> Workflow:
    """A team with an agent for each check and an analyst who adds up what they found.

    Args:
        checks: by the agent's name, what looks at all transactions and gives points; see `graphs._finance_checks`.
    """

    @agent(capabilities=["fraud analysis"], timeout=120)
    def analyst(task: Assignment, batch: Batch, found: list[Findings] | None) -> FraudVerdict:
        """Add up what all checks say of each transaction, and say which to hold."""
        if not found:
            raise RuntimeError("none of the fraud checks took place")
        held, counts = _finance_checks.judge(load(batch), found)
        failed = tuple(name for name in checks if name not in task.inputs)
        missing = tuple(what for each in found for what in each.missing)
        return FraudVerdict(held=held, counts=counts, failed=failed, missing=missing)

    team = Workflow("fraud", inputs=[Batch])
    for name, check in checks.items():
        team.add_agent(Agent(name, _on_rows(check), description=check.__doc__ or "", timeout=300))
    team.add_agent(analyst)
    for name in checks:
        team.add_edge(name, "analyst", optional=True)
    return team


def _on_rows(check: Check) -> Callable[[Batch], Findings]:
    """A check as an agent: it gets the reference, not the data."""

    def run(batch: Batch) -> Findings:
        return check(load(batch))

    return run


# The compliance team


@agent(timeout=300)
def sanctions(batch: Batch) -> Screening:
    """Hold payees' and customers' names against the sanctions list."""
    return screen_names(load(batch), batch)


@agent(timeout=300)
def structuring(batch: Batch) -> Screening:
    """Find cash that is paid in by parts, each below the amount that must be reported."""
    return screen_cash(load(batch), batch)


@agent(capabilities=["compliance"], timeout=120)
def officer(sanctions: Screening | None, structuring: Screening | None) -> ComplianceVerdict:
    """Say what is held, and what is reported without being held."""
    failed = [name for name, found in (("sanctions", sanctions), ("structuring", structuring)) if found is None]
    hits = sanctions.hits if sanctions else ()
    return ComplianceVerdict(
        held=tuple(Order(id=hit.id, action="hold", why=hit.why, by="compliance (sanctions)") for hit in hits),
        structuring=structuring.structuring if structuring else (),
        large=structuring.large if structuring else (),
        failed=tuple(failed),
        missing=tuple(what for found in (sanctions, structuring) if found for what in found.missing),
    )


compliance_team = Workflow("compliance", agents=[sanctions, structuring, officer], inputs=[Batch])
compliance_team.add_edge(["sanctions", "structuring"], "officer", optional=True)

# The transaction team


@agent(timeout=300)
def duplicates(batch: Batch) -> Findings:
    """Find payments that were booked twice."""
    return _finance_payments.duplicates(load(batch))


@agent(timeout=300)
def balances(batch: Batch) -> Findings:
    """Follow every account's balance, to the cent."""
    return _finance_payments.balances(load(batch))


@agent(capabilities=["posting"], side_effects=True, timeout=3600)
async def poster(task: Assignment, batch: Batch, orders: Orders, duplicates: Findings, balances: Findings) -> Posting:
    """Post, hold or reject each transaction, in the ledger, once."""
    held = {
        hit.id: Order(id=hit.id, action="hold", why=hit.why, by=f"transactions ({found.check})")
        for found in (duplicates, balances)
        for hit in found.hits
    }
    held |= {order.id: order for order in orders.held}
    rows = await asyncio.to_thread(load, batch)
    ledger = await asyncio.to_thread(open_ledger, batch.ledger)
    waiting = _decisions(rows, batch, orders, held)
    try:
        while some := [*islice(waiting, BATCH)]:
            # A thread can't be stopped, a task can: between two batches, when the run is.
            await asyncio.to_thread(post, ledger, some, task.idempotency_key)
    finally:
        ledger.dispose()
    return Posting(key=task.idempotency_key, missing=(*duplicates.missing, *balances.missing))


def _decisions(rows: Rows, batch: Batch, orders: Orders, held: Mapping[str, Order]) -> Iterator[Decision]:
    """What becomes of every row, in order."""
    rest: tuple[Action, str, str] = (orders.otherwise, orders.why, orders.by)
    for row in rows.good:
        order = held.get(row.id)
        what, why, by = (order.action, order.why, order.by) if order else rest
        yield Decision(row.id, _finance_audit.line_id(batch, row.line), what, why, by, row.customer, row)
    for bad in rows.bad:
        name = _finance_audit.line_id(batch, bad.line)
        why = f"line {bad.line}{f' (id {bad.id})' if bad.id else ''}: {bad.why}"
        yield Decision(name, name, "reject", why, "intake", bad.customer, None)


@agent(capabilities=["audit"], timeout=600)
def auditor(batch: Batch, posting: Posting) -> Books:
    """Hold the ledger against the source, to the cent, and count how every transaction ended."""
    ledger = open_ledger(batch.ledger)
    try:
        return _finance_audit.audit(load(batch), batch, ledger, posting)
    finally:
        ledger.dispose()


transaction_team = Workflow("transactions", agents=[duplicates, balances, poster, auditor], inputs=[Batch, Orders])
transaction_team.add_edge(["duplicates", "balances"], "poster")
transaction_team.add_edge("poster", "auditor")


def build(fraud: Workflow | None = None) -> Workflow:
    """The workflow; with a fraud team of your own in place of the rules.

    Args:
        fraud: A team with the input `Batch` that delivers a `FraudVerdict`.
    """
    teams = {"fraud": fraud or fraud_team(), "compliance": compliance_team, "transactions": transaction_team}
    says = {
        "fraud": "Check everything for fraud and say what to hold.",
        "compliance": "Screen for sanctions and for cash below the reporting threshold.",
        "transactions": "Check balances and duplicates, post to the ledger, and audit it.",
    }
    flow = Workflow("financial_operations", agents=[intake], check=check_request, example=EXAMPLE)
    for name, team in teams.items():
        flow.add_agent(Agent(name, team, description=says[name]))
    flow.add_agent(controller)
    flow.add_agent(reporter)
    flow.add_edge("intake", "fraud")
    flow.add_edge("intake", "compliance")
    flow.add_edge("intake", "controller")
    flow.add_edge(["fraud", "compliance"], "controller", optional=True)
    flow.add_edge(["intake", "controller"], "transactions")
    flow.add_edge("intake", "reporter")
    flow.add_edge(["fraud", "compliance", "transactions"], "reporter", optional=True)
    return flow


flow = build()
