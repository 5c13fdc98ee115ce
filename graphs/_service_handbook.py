"""The handbook of the sample shop, and how the desk finds in it what a request is about.

Replace `HANDBOOK` by the rules of your own shop: a section begins with `## ID Title`, and is cited by its id.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from graphs._text import all_stems, stem

HANDBOOK = """\
## H1 Returns
Unused goods can be returned within 30 days of delivery. Return shipping is free within the country of the order.
The money is paid back within 14 days after the goods have arrived with us, the way they were paid for.
Words: return, refund, back, money, withdraw, exchange

## H2 Delivery
Goods in stock leave us within two working days. The date of delivery that was promised stands in the order.
Words: delivery, deliver, shipping, ship, arrive, parcel, where

## H3 Late delivery
We write as soon as we know the new date of a late order. An order that is more than 14 days late can be cancelled at
no cost, also if it is on its way.
Words: late, overdue, delay, delayed, waiting, apology, apologise

## H4 Damage
Damage in transit is to be reported within 7 days, with a photo. We replace the part or the goods, or pay the price
back; the customer chooses.
Words: damage, damaged, broken, scratch, scratched, crack, defect, faulty

## H5 Warranty
The warranty on all goods is 24 months from delivery. Wear and improper use are not covered.
Words: warranty, guarantee, repair, covered

## H6 Invoices
An invoice is sent by email when an order leaves us. An address on an invoice can be corrected within 30 days.
Words: invoice, bill, receipt, billing, vat

## H7 Cancelling
An order that has not left us can be cancelled at any time at no cost.
Words: cancel, cancelling, cancellation

## H8 Complaints
Every complaint gets an answer within two working days, by the way of contact that the customer prefers.
Words: complaint, complain, unhappy, unsatisfied, disappointed
"""


class Section(NamedTuple):
    """A section of the handbook: its id, its title, its text, and the stems of the words that lead to it."""

    id: str
    title: str
    text: str
    words: frozenset[str]


@lru_cache(maxsize=1)
def sections() -> tuple[Section, ...]:
    """All sections, in order."""
    found: list[Section] = []
    for block in re.split(r"^## ", HANDBOOK, flags=re.MULTILINE)[1:]:
        head, _, body = block.partition("\n")
        text, _, words = body.partition("Words:")
        id_, _, title = head.partition(" ")
        found.append(Section(id_, title, " ".join(text.split()), all_stems(words)))
    return tuple(found)


def about(text: str, limit: int = 2) -> list[Section]:
    """The sections that a text is about, the most telling first; none if it is about nothing in the handbook."""
    said = {stem(word) for word in re.findall(r"[^\W\d_]+", text.lower())}
    scored = [(len(said & section.words), section) for section in sections()]
    return [section for score, section in sorted(scored, key=lambda each: -each[0]) if score][:limit]
