"""Which words of a question name tables, columns and values of a database.

A word counts once: what was read is marked, and what is left over at the end nobody understood.
"""

# ruff: noqa: RUF001 -- questions come with typographic quotes

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from graphs._service_build import CannotAnswer
from graphs._service_database import Database, QueryFailed
from graphs._service_gate import QueryRefused
from graphs._service_schema import Column, Role, Schema, Table, singular
from graphs._text import word_set

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|‘([^’]+)’|(?<!\w)'([^']+)'(?!\w)")
_SYNONYMS: dict[str, Role] = {
    "customer": "customers", "client": "customers", "buyer": "customers", "shopper": "customers",
    "order": "orders", "purchase": "orders", "ordered": "orders", "bought": "orders", "buy": "orders",
    "purchased": "orders",
    "product": "products", "article": "products", "ticket": "tickets", "complaint": "tickets", "item": "items",
}  # fmt: skip
# Words that carry nothing of their own in a question about data. "not" and "except" are not among them.
FILLERS = word_set(
    """
    a about all also am an and any are as at be been being can could database did do does each from for give gave get
    got had has have having how i in into is it its made make many me much my of on only or our out overall place placed
    please show tell than that the their them there these they this those to us was we were what when where which who
    whom whose will with would you your list find look up name names data rows entries currently still right now here
    come came belong go went live lives living based euro euros eur one ones so far ever were had each our count
    """
)
MAX_WORDS = 5  # of a value


class Mention(NamedTuple):
    """Words that name a table, or columns that share a name."""

    span: tuple[int, int]
    table: Table | None
    columns: tuple[Column, ...]


class Value(NamedTuple):
    """Words that are a value of columns."""

    span: tuple[int, int]
    text: str
    columns: tuple[Column, ...]


class Text:
    """A question, and how much of it has been read."""

    def __init__(self, question: str) -> None:
        self.said = " ".join(question.split())
        self.low = "".join(c.lower() if len(c.lower()) == 1 else c for c in self.said)
        self._read = [False] * len(self.said)

    def mark(self, span: tuple[int, int]) -> None:
        """Mark as read."""
        self._read[span[0] : span[1]] = [True] * (span[1] - span[0])

    def is_free(self, span: tuple[int, int]) -> bool:
        """Whether none of it has been read yet."""
        return not any(self._read[span[0] : span[1]])

    def take(self, pattern: str) -> re.Match[str] | None:
        """Find a pattern in what has not been read yet, and mark it."""
        for match in re.finditer(pattern, self.low):
            if self.is_free(match.span()):
                self.mark(match.span())
                return match
        return None

    def words(self) -> list[tuple[str, tuple[int, int]]]:
        """The words that have not been read yet."""
        return [(m[0], m.span()) for m in _WORD.finditer(self.low) if self.is_free(m.span())]

    def left(self) -> list[str]:
        """The words that nobody understood."""
        return [word for word, _ in self.words() if word.removesuffix("'s").removesuffix("’s") not in FILLERS]


def mentions(text: Text, schema: Schema) -> list[Mention]:
    """Tables and columns by their names, the longest first, in the order of the text. They are not marked."""
    found: list[Mention] = []
    words = text.words()
    number = 0
    while number < len(words):
        for length in (3, 2, 1):
            part = words[number : number + length]
            if len(part) < length:
                continue
            span = (part[0][1][0], part[-1][1][1])
            if not text.is_free(span):
                continue
            if mention := _mention(tuple(word for word, _ in part), span, schema):
                found.append(mention)
                number += length - 1
                break
        number += 1
    return found


def _mention(words: tuple[str, ...], span: tuple[int, int], schema: Schema) -> Mention | None:
    wanted = tuple(singular(word.removesuffix("'s").removesuffix("’s")) for word in words)
    table = next((table for table in schema.tables if _words_of(table) == wanted), None)
    if table is None and len(wanted) == 1 and wanted[0] in _SYNONYMS:
        table = schema.role(_SYNONYMS[wanted[0]])
    columns = [column for each in schema.tables for column in each.columns if not each.is_link(column.name)]
    exact = tuple(column for column in columns if column.words == wanted)
    if not exact and not table:
        exact = tuple(column for column in columns if _short(column.words) == wanted and wanted[0] not in FILLERS)
    return Mention(span, table, exact) if table or exact else None


def _words_of(table: Table) -> tuple[str, ...]:
    return table.columns[0].words_of_table if table.columns else ()


def _short(words: tuple[str, ...]) -> tuple[str, ...]:
    """A column's words as people say them: `ordered_on` is "ordered"."""
    return words[:-1] if len(words) > 1 and words[-1] in {"on", "at", "date", "time"} else words


def values(text: Text, schema: Schema, database: Database, grammar: Iterable[str]) -> list[Value]:
    """Stretches of the question that are values of text columns, the longest first; they are marked.

    Args:
        text: the question.
        schema: the tables.
        database: where to look.
        grammar: words that mean something else if they stand alone.

    Raises:
        CannotAnswer: a text in quotes is nowhere in the data.
    """
    quoted = [(m.span(), next(filter(None, m.groups()))) for m in _QUOTED.finditer(text.said) if text.is_free(m.span())]
    for span, _ in quoted:
        text.mark(span)
    stretches = _stretches(text, {*grammar}, schema)
    wanted = {each for _, said in [*stretches, *quoted] for each in _variants(said)}
    where = _found(schema, database, sorted(wanted))
    found: list[Value] = []
    for span, said in quoted:
        if not (columns := where.get(said.lower())):
            raise CannotAnswer(f"“{said}” is not a value of any text column")
        found.append(Value(span, columns[0][1], tuple(column for column, _ in columns)))
    for span, said in stretches:
        there = next((where[each] for each in _variants(said) if each in where), None)
        if there and text.is_free(span):
            text.mark(span)
            found.append(Value(span, there[0][1], tuple(column for column, _ in there)))
    return found


def _stretches(text: Text, grammar: set[str], schema: Schema) -> list[tuple[tuple[int, int], str]]:
    words = text.words()
    found: list[tuple[tuple[int, int], str]] = []
    for length in range(min(MAX_WORDS, len(words)), 0, -1):
        for start in range(len(words) - length + 1):
            part = words[start : start + length]
            span = (part[0][1][0], part[-1][1][1])
            alone = length == 1 and _means_more(part[0], text, grammar, schema)
            if text.is_free(span) and not alone and len(text.said[slice(*span)]) > 1:
                found.append((span, text.said[slice(*span)]))
    return found


def _means_more(part: tuple[str, tuple[int, int]], text: Text, grammar: set[str], schema: Schema) -> bool:
    """Whether a single word is more than a value: a table, a column, or "delivered" just before "last week"."""
    word, span = part
    mention = _mention((word,), span, schema)
    named = mention is not None and (mention.table is not None or mention.columns[0].words == (singular(word),))
    before_time = not text.is_free((span[1], span[1] + 2))
    return word in grammar or word in FILLERS or named or (mention is not None and before_time)


def _variants(said: str) -> Sequence[str]:
    """How a value may be written in the data: as said, in the singular, in the plural."""
    low = said.lower().removesuffix("'s").removesuffix("’s")
    return tuple(dict.fromkeys((said.lower(), low, singular(low), low + "s", low + "es")))


def _found(schema: Schema, database: Database, wanted: Sequence[str]) -> dict[str, list[tuple[Column, str]]]:
    """Which of some texts, in lower case, are values of which columns, and how they are written there."""
    found: dict[str, list[tuple[Column, str]]] = {}
    literals: list[str] = []
    for each in wanted:
        try:
            literals.append(database.literal(each))
        except QueryRefused:  # a backslash: no value that could be looked for
            continue
    for column in [column for table in schema.tables for column in table.columns if column.kind == "text"]:
        name = f"{database.named(column.table)}.{database.named(column.name)}"
        sql = f"SELECT DISTINCT {name} FROM {database.named(column.table)} WHERE lower({name}) IN"  # noqa: S608
        for start in range(0, len(literals), 100):
            some = ", ".join(literals[start : start + 100])
            try:
                rows = database.query(f"{sql} ({some})", limit=50, seconds=1.0).rows
            except QueryFailed:  # a type that has no lower(), or a table too large to look through
                continue
            for (value,) in rows:
                if isinstance(value, str):
                    found.setdefault(value.lower(), []).append((column, value))
    return found
