"""Sales outreach by rules: a short, honest message from what a customer bought, or a reason why there is none.

It names products that the customer never bought, with the prices that stand in the database. It promises no discount,
since none is on record, and it writes to nobody who does not want that.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from graphs._service_customer import Customer, Files, people
from graphs._service_database import Rows, Value
from graphs._service_desk import Work, as_source, shown
from graphs._service_replies import letter_to
from graphs._service_wishes import wishes_of
from graphs._types import Frozen
from orchestra import Assignment

MOST_MESSAGES = 3
_DISCOUNT = re.compile(r"\b(?:discounts?|rebates?|coupons?|vouchers?|special price|% off|reduced)", re.IGNORECASE)


class Pitch(Frozen):
    """What a message to a customer may rest on, or why there is none."""

    customer: Customer
    wishes: dict[str, Any]
    bought: tuple[dict[str, Value], ...] = ()
    offered: tuple[dict[str, Value], ...] = ()
    rows: tuple[Rows, ...] = ()
    declined: str = ""


def pitches(task: Assignment, asked: str, files: Files) -> list[Pitch]:
    """For each customer that is named, or was found by an analysis, or is the user: what a message may say."""
    wishes = wishes_of(task)
    user = files.user(task)
    analysed = [rows for work in task.inputs.values() if isinstance(work, Work) for rows in work.rows]
    found = files.named_in(asked)
    if not found:
        found = [one for name, _ in people(analysed)[:MOST_MESSAGES] for one in files.find(name)[:1]]
    refused = {str(name).lower() for name in task.facts.get("not_to_contact", ())}
    refused |= {memo.lower() for note in task.notes if note.key == "not_to_contact" for memo in _names(note.value)}
    made: list[Pitch] = []
    for customer in (found or ([user] if user else []))[:MOST_MESSAGES]:
        own = wishes if user and customer.id == user.id else {}
        made.append(_pitch(customer, own, files, forbidden=customer.name.lower() in refused))
    return made


def _names(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, Sequence) and not isinstance(value, str) else []


def _pitch(customer: Customer, wishes: Mapping[str, Any], files: Files, *, forbidden: bool) -> Pitch:
    own = dict(wishes)
    if own.get("do_not_contact") or forbidden:
        return Pitch(
            customer=customer, wishes=own, declined="this customer asked not to be contacted, which is remembered"
        )
    if not customer.may_be_written_to():
        return Pitch(customer=customer, wishes=own, declined="the database says that this customer wants no messages")
    before = len(files.asked)
    bought = files.bought(customer)
    if not bought:
        return Pitch(
            customer=customer, wishes=own, declined="this customer bought nothing that a message could rest on"
        )
    offered = files.never_bought(customer, bought[0].get("category")) or files.never_bought(customer, None)
    declined = "" if offered else "this customer has bought every product already"
    return Pitch(customer=customer, wishes=own, bought=tuple(bought[:3]), offered=tuple(offered),
                 rows=tuple(files.asked[before:]), declined=declined)  # fmt: skip


def outreach(task: Assignment, asked: str, files: Files) -> Work:
    """Write the messages, or say why not."""
    return written(asked, pitches(task, asked, files), {})


def written(asked: str, made: Sequence[Pitch], messages: Mapping[Value, str], made_by: str = "rules") -> Work:
    """The messages as a part of the answer.

    Args:
        asked: the part of the request.
        made: what each rests on.
        messages: by customer, what somebody else wrote; the others are written here.
        made_by: who.
    """
    if not made:
        text = "I don't see which customer to write to. Name one in full, or say who you are (“I am NAME”)."
        return Work(asked=asked, text=text)
    parts = [_part(pitch, messages.get(pitch.customer.id) or message(pitch)) for pitch in made]
    if _DISCOUNT.search(asked):
        parts.append("No discount is promised: none is on record, and this desk does not invent any.")
    rows = tuple(rows for pitch in made for rows in pitch.rows)
    return Work(asked=asked, text="\n\n".join(parts), rows=rows, sources=tuple(map(as_source, rows)), made_by=made_by)


def _part(pitch: Pitch, text: str) -> str:
    name = pitch.customer.name
    if pitch.declined:
        return f"No message to {name}: {pitch.declined}."
    by = f", by {pitch.wishes['channel']}" if pitch.wishes.get("channel") else ""
    language = pitch.wishes.get("language")
    note = f"\n\nNote: {name} prefers {language}." if language and language != "English" else ""
    return f"Draft of a message to {name}{by}; nothing was sent.\n\n{text}{note}"


def message(pitch: Pitch) -> str:
    """The message in words of our own."""
    if pitch.declined:
        return ""
    had = " and ".join(str(row["product"]) for row in pitch.bought[:2])
    offers = " and ".join(offer(row) for row in pitch.offered)
    body = [
        f"Thank you for being our customer: we remember your {had}.",
        f"You have not tried yet: {offers}. These are our current prices.",
        "If you would rather not hear from us, say so and we stop.",
    ]
    return letter_to(pitch.customer.name, {"tone": "brief", **pitch.wishes}, [" ".join(body)])


def offer(row: Mapping[str, Value]) -> str:
    """A product with its price, as the database has them."""
    price = row["price"]
    said = shown(float(price)) if isinstance(price, int | float) else shown(price)
    currency = f" {row['currency']}" if row.get("currency") else ""
    return f"the {row['product']} ({said}{currency})"
