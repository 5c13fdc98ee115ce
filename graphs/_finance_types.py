"""What the agents of the financial operations hand to each other: references to the data, and small findings.

Transactions themselves stay where they are, in a file or a table; a `Batch` says where. Findings, verdicts and orders
name transactions by their ids and are bounded, since outputs are stored in checkpoints.
"""

from dataclasses import dataclass
from typing import Literal

from graphs._types import Frozen

MOST_HITS = 10_000
"""Findings that one check hands on, the strongest first; what is left out is counted and reported."""

INCOMING = frozenset({"deposit", "salary", "refund", "interest"})
OUTGOING = frozenset({"purchase", "withdrawal", "transfer", "fee"})
Action = Literal["post", "hold", "reject"]
Fallback = Literal["hold", "flag"]


@dataclass(frozen=True, slots=True)
class Transaction:
    """One payment, as its source states it.

    Attributes:
        line: where it stands in the source: a file's line, or the number of a table's row.
        when: seconds since 1970 in UTC.
        kind: one of `INCOMING` or `OUTGOING`.
        minor: the amount in the currency's smallest unit; above zero.
        payee: the other side.
        online: whether the customer was elsewhere; only the others say where a card was.
        latitude: in degrees; `None` if unknown, and so is `longitude`.
        balance: what the source says was on the account afterwards, in the smallest unit.
    """

    line: int
    id: str
    when: float
    customer: str
    name: str
    kind: str
    minor: int
    currency: str
    payee: str
    category: str
    online: bool
    place: str
    latitude: float | None
    longitude: float | None
    balance: int | None

    @property
    def signed(self) -> int:
        """What it adds to the customer's account, in the smallest unit."""
        return self.minor if self.kind in INCOMING else -self.minor


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that is rejected, and why. Its id and customer are as stated, if they are."""

    line: int
    id: str
    customer: str
    why: str


class Batch(Frozen):
    """Which transactions are to be processed, under which settings; fixed when the run begins.

    Attributes:
        source: a file's path, or a database URL, or `$NAME` of an environment variable that holds the URL.
        table: the table, for a database.
        until: seconds since 1970; later rows of a table came in after the run began and are left for the next one.
        digest: of all rows, so that a source that has changed meanwhile is noticed.
        first: day of the first transaction.
        last: day of the last one.
        absent: columns that the source does not have, and that some check would want.
        ledger: where to post: a database URL or `$NAME`.
        sanctions: a file with one name a line; empty if none was given.
        threshold: cash deposits of this amount or more, in whole units, must be reported.
        without_fraud: what to do with transactions that were not fully checked for fraud.
        sample: says what a generated sample is; empty for real data.
    """

    source: str
    table: str = ""
    until: float
    rows: int
    digest: str
    first: str
    last: str
    absent: tuple[str, ...] = ()
    ledger: str
    sanctions: str = ""
    threshold: int = 10_000
    without_fraud: Fallback = "flag"
    sample: str = ""


class Hit(Frozen):
    """What a check has against one transaction.

    Attributes:
        points: how strongly; `HOLD` of them, from all checks together, hold a transaction.
    """

    id: str
    points: int
    why: str


class Findings(Frozen):
    """What one check found.

    Attributes:
        total: how many hits there were; more than `hits` holds, if they were too many.
        missing: what it could not check, and why.
    """

    check: str
    hits: tuple[Hit, ...] = ()
    total: int = 0
    missing: tuple[str, ...] = ()


class Structuring(Frozen):
    """Deposits that together pass the threshold and singly stay below it: to be reported, not held."""

    customer: str
    currency: str
    deposits: tuple[str, ...]
    minor: int
    first: str
    last: str


class Screening(Findings):
    """What a compliance check found: names that match, and deposits to report.

    Attributes:
        structuring: suspicious series of deposits, the largest first.
        large: ids of single deposits at or above the threshold, at most `MOST_HITS`.
    """

    structuring: tuple[Structuring, ...] = ()
    large: tuple[str, ...] = ()


class Order(Frozen):
    """A transaction that is not to be posted.

    Attributes:
        by: who decided: the team, and the checks it rests on.
    """

    id: str
    action: Action
    why: str
    by: str


class FraudVerdict(Frozen):
    """What the fraud team wants held, and what it could not check.

    Attributes:
        counts: in how many held transactions each check had a part.
        failed: checks that did not take place because their agent failed.
        missing: what could not be checked in this source, and what was left out.
    """

    held: tuple[Order, ...]
    counts: dict[str, int]
    failed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class ComplianceVerdict(Frozen):
    """What the compliance team wants held and reported, and what it could not check."""

    held: tuple[Order, ...]
    structuring: tuple[Structuring, ...]
    large: tuple[str, ...]
    failed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class Orders(Frozen):
    """What the transaction team is to do.

    Attributes:
        held: transactions to hold.
        otherwise: what to do with all the others.
        why: the reason, if the others are held; or what posted ones are flagged with.
        by: who decided about the others.
    """

    held: tuple[Order, ...]
    otherwise: Literal["post", "hold"] = "post"
    why: str = ""
    by: str = ""


class Posting(Frozen):
    """That the posting agent is done. What it posted is for the ledger to say: it knows that after a crash, too.

    Attributes:
        key: the idempotency key under which it posted.
        missing: what the team could not check before.
    """

    key: str
    missing: tuple[str, ...] = ()


class Total(Frozen):
    """How many transactions of a batch ended in a state, and what they add up to."""

    status: str
    currency: str
    count: int
    minor: int


class Line(Frozen):
    """A transaction for the report."""

    id: str
    customer: str
    minor: int
    currency: str
    why: str
    by: str


class Check(Frozen):
    """Something the auditor verified."""

    what: str
    good: bool
    says: str


class Books(Frozen):
    """What stands in the ledger of this batch, and whether it adds up.

    Attributes:
        flagged: transactions that were posted though not fully checked.
        earlier: transactions that an earlier run had posted already.
        reasons: how many were held or rejected, by who decided.
        held: the largest held transactions.
        rejected: the first rejected ones.
    """

    totals: tuple[Total, ...]
    flagged: int
    earlier: int
    reasons: dict[str, int]
    held: tuple[Line, ...]
    rejected: tuple[Line, ...]
    checks: tuple[Check, ...]
    missing: tuple[str, ...] = ()
