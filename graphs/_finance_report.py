"""The report for whoever runs operations: what happened, what to do, and what nobody checked."""

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from graphs._finance_ledger import HELD, POSTED, REJECTED
from graphs._finance_rows import OPTIONAL, money
from graphs._finance_types import Batch, Books, ComplianceVerdict, FraudVerdict, Line, Order

_SHOWN = 10


def report(batch: Batch, fraud: FraudVerdict | None, compliance: ComplianceVerdict | None, books: Books | None) -> str:
    """Write the report in Markdown; what is `None` comes from a team that failed."""
    parts = [_head(batch, books), *_to_do(fraud, compliance, books)]
    if books is not None:
        parts += [*_totals(books), *_held(books, fraud), *_rejected(books)]
    if compliance is not None:
        parts += _compliance(compliance, batch)
    parts += _missing(batch, fraud, compliance, books)
    if books is not None:
        parts += _books(books, batch)
    return "\n".join(parts) + "\n"


def _head(batch: Batch, books: Books | None) -> str:
    source = batch.sample or f"{_cell(_shown(batch.source))} {_cell(batch.table)}".rstrip()
    about = f"Source: {source}, {batch.first} to {batch.last}."
    if books is None:
        title = f"# Financial operations: none of {batch.rows:,} transactions is known to be posted"
        return f"{title}\n\n{about} The transaction team failed. What it had posted stays posted."
    posted, held, rejected = (_count(books, status) for status in (POSTED, HELD, REJECTED))
    sound = all(check.good for check in books.checks)
    verdict = "The books are right to the cent." if sound else "**The books are not right: see the end.**"
    notes = ""
    if books.flagged:
        notes += f" **{books.flagged:,} of the posted ones are flagged: they were not fully checked for fraud.**"
    if books.earlier:
        notes += f" {books.earlier:,} had been posted by an earlier run and were not posted again."
    title = f"# Financial operations: {posted:,} posted, {held:,} held, {rejected:,} rejected"
    return f"{title}\n\n{about} {verdict}{notes}"


def _to_do(fraud: FraudVerdict | None, compliance: ComplianceVerdict | None, books: Books | None) -> list[str]:
    """What a person should do now, the most pressing first."""
    todo: list[str] = []
    if books is None:
        todo.append("Find out why the transaction team failed (`orchestra runs show` tells), and run again.")
    if books is not None and not all(check.good for check in books.checks):
        todo.append("Find out why the books are not right, before anything else.")
    if compliance is None or compliance.failed:
        todo.append("Repair the compliance checks and run again: nothing is posted without them.")
    if fraud is None or fraud.failed:
        todo.append("Repair the fraud checks that failed; look at what was held or flagged for want of them.")
    if compliance is not None and compliance.held:
        todo.append(f"Decide on {_many(len(compliance.held), 'payment')} that may go to sanctioned persons.")
    if compliance is not None and compliance.structuring:
        todo.append(f"File {_many(len(compliance.structuring), 'report')} of suspected structuring.")
    if compliance is not None and compliance.large:
        todo.append(f"Report {_many(len(compliance.large), 'cash deposit')} at or above the threshold.")
    if fraud is not None and fraud.held:
        todo.append(f"Look at {_many(len(fraud.held), 'transaction')} held for suspected fraud, the largest first.")
    if books is not None and (own := sum(n for by, n in books.reasons.items() if by.startswith("transactions"))):
        todo.append(f"Clear {_many(own, 'payment')} that may be booked twice, or don't fit the balance.")
    if books is not None and (bad := _count(books, REJECTED)):
        todo.append(f"Have {_many(bad, 'rejected row')} corrected and sent again.")
    return ["", "## To do", "", *(f"{n}. {what}" for n, what in enumerate(todo, 1))] if todo else []


def _totals(books: Books) -> list[str]:
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    for total in books.totals:
        if total.currency:
            amount = money(total.minor, total.currency).removesuffix(f" {total.currency}")
            rows[total.currency][total.status] = f"{amount} ({total.count:,})"
    lines = ["", "## Totals", "", "| Currency | Posted | Held | Rejected |", "|---|---:|---:|---:|"]
    for currency, by_status in sorted(rows.items()):
        cells = [by_status.get(status, "-") for status in (POSTED, HELD, REJECTED)]
        lines.append(f"| {currency} | {' | '.join(cells)} |")
    return [*lines, "", "Amounts in and out together; the number of transactions in brackets."]


def _held(books: Books, fraud: FraudVerdict | None) -> list[str]:
    if not (held := _count(books, HELD)):
        return []
    teams: dict[str, int] = defaultdict(int)
    for by, count in books.reasons.items():
        if by not in {"intake", "transactions (ledger)"}:
            teams[by if by.startswith(("operations", "transactions", "compliance")) else "fraud"] += count
    who = "; ".join(f"{_cell(team)}: {count:,}" for team, count in sorted(teams.items(), key=lambda item: -item[1]))
    lines = ["", "## Held, and who decided", "", f"{who}."]
    if fraud is not None and fraud.counts:
        by_check = sorted(fraud.counts.items(), key=lambda item: -item[1])
        lines[-1] += f" Part in fraud cases: {', '.join(f'{check} {count:,}' for check, count in by_check)}."
    lines += ["", *_table(books.held)]
    if held > len(books.held):
        lines += ["", f"These are the {len(books.held)} largest of {held:,}. All of them, in the ledger:", "", _QUERY]
    return lines


_QUERY = "    SELECT id, customer, minor, currency, why, decided_by FROM finance_transactions WHERE status = 'held'"


def _table(lines: Sequence[Line]) -> list[str]:
    return [
        "| Transaction | Customer | Amount | Why | Decided by |",
        "|---|---|---:|---|---|",
        *(
            f"| {_cell(line.id)} | {_cell(line.customer)} | {money(line.minor, line.currency)} "
            f"| {_cell(line.why)} | {_cell(line.by)} |"
            for line in lines
        ),
    ]


def _rejected(books: Books) -> list[str]:
    if not (count := _count(books, REJECTED)):
        return []
    lines = ["", "## Rejected", "", *(f"- {_cell(line.why)}" for line in books.rejected)]
    return [*lines, f"- and {count - len(books.rejected):,} more"] if count > len(books.rejected) else lines


def _compliance(compliance: ComplianceVerdict, batch: Batch) -> list[str]:
    lines = ["", "## Compliance", ""]
    if compliance.held:
        lines += [f"**Sanctions** ({len(compliance.held)}, held):", "", *_orders(compliance.held)]
    elif batch.sanctions and not compliance.failed:
        lines.append("**Sanctions**: no name is like one on the list.")
    else:
        lines.append("**Sanctions**: not checked.")
    lines.append("")
    if compliance.structuring:
        lines += [f"**Structuring** ({len(compliance.structuring)}, to be reported):", ""]
        lines += ["| Customer | Deposits | Sum | From | To |", "|---|---:|---:|---|---|"]
        for one in compliance.structuring[:_SHOWN]:
            cells = (_cell(one.customer), len(one.deposits), money(one.minor, one.currency), one.first, one.last)
            lines.append(f"| {' | '.join(map(str, cells))} |")
        if (more := len(compliance.structuring) - _SHOWN) > 0:
            lines.append(f"| and {more} more | | | | |")
    else:
        lines.append(f"**Structuring**: no series of deposits just below {batch.threshold:,}.")
    if compliance.large:
        some = ", ".join(map(_cell, compliance.large[:_SHOWN]))
        more = f" and {len(compliance.large) - _SHOWN} more" if len(compliance.large) > _SHOWN else ""
        lines += ["", f"**Cash deposits of {batch.threshold:,} or more** ({len(compliance.large)}): {some}{more}."]
    return lines


def _orders(orders: Sequence[Order]) -> list[str]:
    lines = [f"- {_cell(order.id)}: {_cell(order.why)}" for order in orders[:_SHOWN]]
    return [*lines, f"- and {len(orders) - _SHOWN} more"] if len(orders) > _SHOWN else lines


def _missing(
    batch: Batch, fraud: FraudVerdict | None, compliance: ComplianceVerdict | None, books: Books | None
) -> list[str]:
    policy = "held" if batch.without_fraud == "hold" else "posted and flagged"
    missing: list[str] = []
    if fraud is None:
        missing.append(f"The fraud team failed: no fraud checks. As declared, the transactions were {policy}.")
    elif fraud.failed:
        missing.append(f"Fraud checks that failed: {', '.join(fraud.failed)}. As declared, the others were {policy}.")
    if compliance is None:
        missing.append("The compliance team failed: no names were screened, no structuring was looked for.")
    elif compliance.failed:
        missing.append(f"Compliance checks that failed: {', '.join(compliance.failed)}.")
    if books is None:
        missing.append("The transaction team failed: no totals, no audit.")
    told = [what for each in (fraud, compliance, books) if each for what in each.missing]
    missing += [what[0].upper() + what[1:] + "." for what in dict.fromkeys(told)]
    by_reason: dict[str, list[str]] = defaultdict(list)
    for column in batch.absent:
        by_reason[OPTIONAL[column]].append(column)
    missing += [f"No column {' and '.join(columns)}: {reason}." for reason, columns in by_reason.items()]
    missing.append("Exchange rates: amounts are compared within a currency only, and so is the threshold.")
    return ["", "## Not checked", "", *(f"- {_cell(what)}" for what in missing)]


def _books(books: Books, batch: Batch) -> list[str]:
    checks = [f"- {'✓' if check.good else '✗ **wrong**'} {check.what}: {check.says}." for check in books.checks]
    return ["", "## Books", "", *checks, "", f"Ledger: `{_shown(batch.ledger)}`"]


def _count(books: Books, status: str) -> int:
    return sum(total.count for total in books.totals if total.status == status)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _cell(text: str) -> str:
    """Text from the data, which can't break out of a line, a table or into HTML."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    for letter in "\\`*_[]<>|":
        plain = plain.replace(letter, f"\\{letter}")
    return plain


def _shown(url: str) -> str:
    """A place without a password."""
    try:
        return make_url(url).render_as_string() if "://" in url else url
    except ArgumentError:
        return url.partition("://")[0] + "://…"
