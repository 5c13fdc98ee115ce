"""Customer service by rules: a draft of a reply from the handbook, the customer's own orders and tickets, and wishes.

Nothing is sent: the desk writes drafts. What neither the handbook nor the database tells is not said.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from graphs._service_customer import Customer, Files, order_numbers, people, status_of
from graphs._service_database import Rows
from graphs._service_desk import Work, as_source
from graphs._service_handbook import Section, about
from graphs._service_schema import Table
from graphs._service_wishes import complaint, stated, who, wishes_of
from graphs._types import Frozen
from orchestra import Assignment

MOST_LETTERS = 3
_OWN = re.compile(r"\b(?:my|mine|i|we|me)\b", re.IGNORECASE)
_ORDER = re.compile(r"\b(?:orders?|parcel|package|delivery|deliver|arrive\w*|ship\w*|purchase)\b", re.IGNORECASE)
_APOLOGY = re.compile(r"\b(?:apolog\w*|sorry)\b", re.IGNORECASE)
_LABELS = {"name_to_use": "to be called", "tone": "tone", "language": "language", "channel": "contact by",
           "do_not_contact": "no messages from sales"}  # fmt: skip


class Dossier(Frozen):
    """What a reply may rest on.

    Attributes:
        asked: the part of the request.
        customer: who is written to; `None` if nobody is known.
        wishes: how.
        lines: facts from the database, a sentence each.
        late: whether one of the orders is late.
        sections: of the handbook.
        rows: what was asked of the database.
        last: the last complaint.
        notes: for the reader, not the customer.
    """

    asked: str
    customer: Customer | None
    wishes: dict[str, Any]
    lines: tuple[str, ...] = ()
    late: bool = False
    sections: tuple[Section, ...] = ()
    rows: tuple[Rows, ...] = ()
    last: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def gather(task: Assignment, asked: str, files: Files, day: date) -> Dossier:
    """Look up what a reply may rest on; remembers wishes, and a complaint."""
    user = files.user(task)
    wishes = wishes_of(task)
    named = files.named_in(asked)
    customer = named[0] if named and user is None else user
    lines: list[str] = []
    notes: list[str] = []
    late = False
    numbers = order_numbers(asked)
    orders = files.schema.role("orders")
    if named and user and all(one.id != user.id for one in named):
        notes.append(f"{named[0].name} is another customer than you: only your own orders and tickets are shown")
    found: list[dict[str, Any]] = []
    for number in numbers:
        there = files.orders(user, number)
        if not there:
            lines.append(f"Order {number} is not among your orders." if user else f"There is no order {number}.")
        found += there
    about_orders = _ORDER.search(asked) and (_OWN.search(asked) or named)
    if not numbers and customer and about_orders and not re.search(r"\bhow long\b|\bhow do\b", asked, re.IGNORECASE):
        newest = files.orders(customer)
        states = [status_of(each, orders, day) if orders else ("", False) for each in newest]
        found = [row for row, (said, _) in zip(newest, states, strict=True) if "delivered on" not in said] or newest[:1]
    for row in found:
        said, is_late = status_of(row, orders, day) if orders else ("", False)
        lines.append(said)
        late = late or is_late
        if customer is None and (owner := files.find(str(row["customer_name"]))):
            customer = owner[0]
    if customer and (found or "ticket" in asked.lower()):
        for ticket in files.open_tickets(customer):
            topic = f" about {ticket['topic']}" if ticket.get("topic") else ""
            lines.append(f"Your ticket{topic} is open, and a colleague is working on it.")
    if new := stated(asked):
        notes.append(noted(new).rstrip("."))
    last = complaint(task, asked, day.isoformat(), numbers[0] if numbers else None)
    concerns = last and last.get("order") in {None, *numbers, *_numbers(found, orders)}
    return Dossier(
        asked=asked, customer=customer, wishes=wishes if customer is None or customer == user else {},
        lines=tuple(lines), late=late, sections=tuple(_sections(asked, late=late)),
        rows=tuple(rows for rows in files.asked if rows.rows), last=dict(last) if last and concerns else None,
        notes=tuple(notes),
    )  # fmt: skip


def _numbers(found: Sequence[Mapping[str, Any]], orders: Table | None) -> list[Any]:
    return [row.get(orders.key or "") for row in found] if orders else []


def _sections(asked: str, *, late: bool) -> list[Section]:
    found = about(asked)
    if late and all(section.id != "H3" for section in found):
        found = [*about("late"), *(section for section in found if section.id != "H2")]
    return found[:2]


def reply(task: Assignment, asked: str, files: Files, day: date) -> Work:
    """Draft a reply, or a letter to each customer that an analysis found; or note wishes."""
    analysed = [rows for work in task.inputs.values() if isinstance(work, Work) for rows in work.rows]
    letters = people(analysed)
    if letters:
        wishes = wishes_of(task)
        user = files.user(task)
        return _letters(asked, letters, files, day, {user.name: wishes} if user else {})
    dossier = gather(task, asked, files, day)
    if stated(asked) and not dossier.lines and not dossier.sections:
        return Work(asked=asked, text=noted(stated(asked)))
    if analysed and not dossier.lines and all(not rows.rows for rows in analysed):
        return Work(asked=asked, text="The data show nobody to write to, so nothing was drafted.")
    if (said := who(asked)) and not dossier.lines and not dossier.sections:
        taken = f"From now on I take you for the customer {dossier.customer.name}." if dossier.customer else ""
        return Work(asked=asked, text=taken or f"I find no customer “{said}”, or more than one.", rows=dossier.rows)
    if not dossier.lines and not dossier.sections:
        text = "Neither the handbook nor your data tells anything about this, so a colleague has to answer it."
        if dossier.customer is None:
            text += " Say who you are (“I am NAME”, or “my email is …”), or name an order by its number."
        return Work(asked=asked, text=text, rows=dossier.rows)
    body = [] if dossier.wishes.get("tone") == "brief" else ["Thank you for your message."]
    body += ([apology(asked)] if dossier.late or _APOLOGY.search(asked) else []) + [*dossier.lines]
    if dossier.last:
        of = f" about order {dossier.last['order']}" if dossier.last.get("order") else ""
        body.append(
            f"You wrote to us on {dossier.last['on']}{of}: “{dossier.last['about']}”. We have not forgotten it."
        )
    told = [f"{section.text} [{section.id}]" for section in dossier.sections]
    return finished(dossier, letter(dossier.customer, dossier.wishes, [" ".join(body), *told]))


def finished(dossier: Dossier, text: str, made_by: str = "rules") -> Work:
    """A draft with what it rests on."""
    to = dossier.customer.name if dossier.customer else "the customer"
    by = f", by {dossier.wishes['channel']}" if dossier.wishes.get("channel") else ""
    head = f"Draft of a reply to {to}{by}; nothing was sent."
    notes = [*dossier.notes]
    language = dossier.wishes.get("language")
    if language and language != "English" and made_by == "rules":
        notes.append(f"{to} prefers {language}: without a language model this desk writes English only")
    tail = "".join(f"\n\nNote: {note}." for note in notes)
    sources = [f"[{section.id}] sample handbook, {section.title}: “{section.text}”" for section in dossier.sections]
    sources += [as_source(rows) for rows in dossier.rows]
    return Work(asked=dossier.asked, text=f"{head}\n\n{text}{tail}", rows=dossier.rows, sources=tuple(sources),
                made_by=made_by)  # fmt: skip


def _letters(
    asked: str, letters: Sequence[tuple[str, list[dict[str, Any]]]], files: Files, day: date,
    wishes: Mapping[str, Mapping[str, Any]],
) -> Work:  # fmt: skip
    """A letter to each customer of an analysis, the first of them."""
    orders = files.schema.role("orders")
    due = orders.having("due", "promised", "expected", kind="date") if orders else None
    texts: list[str] = []
    used: dict[str, Section] = {}
    for name, rows in letters[:MOST_LETTERS]:
        states = [status_of(row, orders, day) for row in rows if orders and due and {orders.key, due.name} <= {*row}]
        late = any(is_late for _, is_late in states)
        sections = _sections(asked, late=late)
        used.update({section.id: section for section in sections})
        body = ([apology(asked)] if late or _APOLOGY.search(asked) else []) + [said for said, _ in states[:5]]
        if len(states) > 5:
            body.append(f"This also concerns {len(states) - 5} more of your orders.")
        body = [" ".join(body), *(f"{section.text} [{section.id}]" for section in sections)]
        own = wishes.get(name, {})
        by = f", by {own['channel']}" if own.get("channel") else ""
        texts.append(f"Draft to {name}{by}; nothing was sent.\n\n" + letter_to(name, own, body))
    if len(letters) > MOST_LETTERS:
        texts.append(
            f"{len(letters) - MOST_LETTERS} more customers are concerned; drafts are made for the first "
            f"{MOST_LETTERS}. Ask for fewer, for example by country or by a stretch of time."
        )
    sources = tuple(f"[{s.id}] sample handbook, {s.title}: “{s.text}”" for s in used.values())
    return Work(asked=asked, text="\n\n".join(texts), sources=sources)


def apology(asked: str) -> str:
    """A sentence that apologises, for lateness if that is the matter."""
    return (
        "We are sorry for the trouble."
        if re.search(r"damag|broken|defect|scratch", asked)
        else "We are sorry to have kept you waiting."
    )


def letter(customer: Customer | None, wishes: Mapping[str, Any], body: Sequence[str]) -> str:
    """A letter in the tone that the customer wants."""
    return letter_to(customer.name if customer else "", wishes, body)


def letter_to(name: str, wishes: Mapping[str, Any], body: Sequence[str]) -> str:
    """A letter of these paragraphs, as a quotation."""
    tone = wishes.get("tone")
    called = str(wishes.get("name_to_use") or (name if tone != "friendly" else name.partition(" ")[0]) or "customer")
    hello, bye = {"friendly": ("Hi", "Best wishes,"), "brief": ("Hello", "Regards,")}.get(
        str(tone), ("Dear", "Yours sincerely,")
    )
    lines = [f"{hello} {called},", *filter(None, body), f"{bye} your service desk"]
    return "\n>\n".join(f"> {line}" for line in lines)


def noted(wishes: Mapping[str, Any]) -> str:
    """Say what was noted."""
    kept = [f"{_LABELS[key]}: {value}" if value is not True else _LABELS[key]
            for key, value in wishes.items() if value is not None]  # fmt: skip
    gone = [_LABELS[key] for key, value in wishes.items() if value is None]
    parts = [f"Noted for this and later conversations: {'; '.join(kept)}."] if kept else []
    return " ".join([*parts, *([f"Forgotten: {'; '.join(gone)}."] if gone else [])])
