"""What the specialists of the service desk share: the database of a request, and the work that they hand on."""

import os
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime

from graphs._service_database import Database, Rows, open_database
from graphs._service_shop import sample_url
from graphs._types import RULES, Frozen
from orchestra import Assignment, RequestError

DATABASE = "SERVICE_DESK_DB"  # environment variable: the database of requests that name none
GRAMMAR = (
    "Name a database as database: URL, such as sqlite:///shop.db or postgresql://me@host/shop, or set "
    f"{DATABASE}; without one, the desk works on a sample shop."
)
_NAMED = re.compile(
    r"(?<![\w-])(?:(?:on|in|from|of|use|using) )?(?:the )?(?:database|db)\s*[:=]\s*"
    r"(?:\"(?P<a>[^\"\n]+)\"|'(?P<b>[^'\n]+)'|(?P<c>[^\s\"']+))",
    re.IGNORECASE,
)
_SHOWN = 20  # rows of a table in an answer
Today = Callable[[], date]


class Work(Frozen):
    """What a specialist did for a part of a request.

    Attributes:
        asked: the part, in the user's words.
        text: for the reader.
        rows: what the database said, with the statements.
        sources: what the text rests on, one line each.
        made_by: `rules`, or the model's name.
    """

    asked: str
    text: str
    rows: tuple[Rows, ...] = ()
    sources: tuple[str, ...] = ()
    made_by: str = RULES


def today() -> date:
    """The day it is here."""
    return datetime.now(UTC).astimezone().date()


def question_of(request: str) -> str:
    """A request without the database that it names.

    Raises:
        RequestError: it asks nothing.
    """
    question = " ".join(_NAMED.sub(" ", request).split()).strip(" ,;")
    if not re.search(r"[^\W\d_]", question):
        raise RequestError(f"The request asks nothing. {GRAMMAR}")
    return question


def database_for(requests: Sequence[str], day: date) -> Database:
    """The database of a request, or of an earlier one of the conversation, or of the environment; else the sample.

    Args:
        requests: the request and those before it, the latest first.
        day: the day that the sample is made for.

    Raises:
        RequestError: a request names two databases, or one that can't be used.
    """
    for request in requests:
        named = list(dict.fromkeys(m["a"] or m["b"] or m["c"].rstrip(".,;:!?)") for m in _NAMED.finditer(request)))
        if len(named) > 1:
            raise RequestError(f"The request names {len(named)} databases. {GRAMMAR}")
        if named:
            return open_database(named[0])
    if url := os.environ.get(DATABASE):
        return open_database(url)
    return open_database(sample_url(day), sample=True)


def database_of(task: Assignment, day: date) -> Database:
    """The database of a task's request, or of an earlier turn."""
    return database_for([task.request, *(str(turn["request"]) for turn in reversed(task.history))], day)


def shown(value: object) -> str:
    """A value for a reader: numbers with two decimals at most, nothing that breaks a table."""
    if value is None:
        return "–"  # noqa: RUF001
    if isinstance(value, float):
        return f"{value:,.2f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def table(rows: Rows) -> str:
    """Rows as a table, the first of them if there are many."""
    lines = ["| " + " | ".join(rows.columns) + " |", "|" + " --- |" * len(rows.columns)]
    lines += ["| " + " | ".join(map(shown, row)) + " |" for row in rows.rows[:_SHOWN]]
    return "\n".join(lines)


def counted(rows: Rows) -> str:
    """How many rows there are, and how many are shown."""
    number = len(rows.rows)
    text = f"{number} row{'' if number == 1 else 's'}"
    if rows.cut:
        text = f"more than {number} rows; the rest was cut off"
    return text if number <= _SHOWN else f"{text}; the first {_SHOWN} are shown"


def as_source(rows: Rows) -> str:
    """A statement and how many rows it gave, on one line."""
    return f"`{' '.join(rows.sql.split())}` ({counted(rows)})"
