"""What may be asked of a user's database: one SELECT, with functions that compute and nothing else.

This is the first of two locks. It reads the statement word by word and lets through what it knows; the second lock is
the database's own (`_service_database`): a read-only connection or transaction. Functions are allowed by name, so that
one that reads files or reaches out (`pg_read_file`, `load_extension`, `LOAD_FILE`, `dblink`) is refused because
nobody listed it. Comments, placeholders, backslashes, square brackets and other ways to write a name or a text are
refused, since databases disagree on what they mean.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from graphs._text import word_set

MAX_LENGTH = 10_000  # characters of a statement


class QueryRefused(ValueError):
    """The statement is not one SELECT that only reads."""


FUNCTIONS = word_set(
    """
    abs avg cast ceil ceiling char_length coalesce concat concat_ws count cume_dist current_date current_timestamp
    date date_add date_format date_part date_sub date_trunc datediff datetime day dayname dayofmonth dayofweek
    dayofyear dense_rank extract first_value floor greatest group_concat hour if ifnull iif instr julianday lag
    last_day last_value lead least left length ln log lower ltrim makedate max median min minute mod month monthname
    now nth_value ntile nullif percent_rank percentile_cont percentile_disc position power quarter rank replace right
    round row_number rtrim second sign split_part sqrt stddev stddev_pop stddev_samp strftime string_agg strpos substr
    substring sum time timediff timestampdiff to_char to_date total trim trunc unixepoch upper var_pop var_samp variance
    week weekday year yearweek
    """
)
_OPERATORS = word_set("like glob")  # SQLite tells its authorizer of these as of functions
_BEFORE_BRACKETS = word_set(
    """
    all and any as between by case char decimal distinct else except exists filter from group having in intersect
    interval is join lateral like limit materialized not numeric offset on or order over partition select some then
    union using values varchar when where with within
    """
)
_FORBIDDEN = word_set(
    """
    alter analyze attach call copy create delete detach do drop execute explain for grant insert into load lock merge
    outfile pragma prepare procedure reindex returning revoke set truncate uescape update vacuum
    """
)
_SYSTEM = re.compile(r"(?:pg_|sqlite_|pragma_)\w*|information_schema|performance_schema|dbstat")
_SYSTEM_SCHEMAS = word_set("mysql sys")
_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
    | (?P<comment>--|/\*|\#)
    | (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")+"|`(?:[^`]|``)+`)
    | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<word>[^\W\d]\w*)
    | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    kind: str
    text: str

    @property
    def name(self) -> str:
        """A word or a quoted name, as databases compare it; else nothing."""
        if self.kind == "quoted":
            return self.text[1:-1].lower()
        return self.text.lower() if self.kind == "word" else ""


def checked(sql: str) -> str:
    """The statement without a semicolon at its end, if it only reads.

    Raises:
        QueryRefused: it does not, or nobody can tell; the message names the part and the remedy.
    """
    text = sql.strip().removesuffix(";").strip()
    if len(text) > MAX_LENGTH:
        raise QueryRefused(f"the statement has {len(text)} characters; {MAX_LENGTH} are allowed")
    tokens = list(_tokens(text))
    if not tokens or tokens[0].name not in {"select", "with"} or tokens[0].kind != "word":
        first = tokens[0].text.upper() if tokens else "nothing"
        raise QueryRefused(f"only SELECT is allowed (or WITH … SELECT), not {first}")
    depth = 0
    for number, token in enumerate(tokens):
        following = tokens[number + 1].text if number + 1 < len(tokens) else ""
        depth += {"(": 1, ")": -1}.get(token.text, 0) if token.kind == "sign" else 0
        if depth < 0:
            break
        _check(token, following)
    if depth:
        raise QueryRefused("the brackets of the statement don't pair")
    return text


def _tokens(text: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "sign"
        if kind == "comment":
            raise QueryRefused(f"comments ({match[0]}) are not allowed: leave them out")
        if kind != "space":
            yield _Token(kind, match[0])


def _check(token: _Token, following: str) -> None:
    """Refuse a part of a statement.

    Raises:
        QueryRefused: it may do more than read.
    """
    name = token.name
    if token.kind == "sign":
        if token.text == ";":
            raise QueryRefused("one statement at a time: there is a semicolon inside")
        if token.text in "'\"`\\@$?{}[]\0":
            raise QueryRefused(f"the character {token.text!r} is not allowed here, or a quote is not closed")
    elif token.kind in {"string", "quoted"} and ("\\" in token.text or "\0" in token.text):
        raise QueryRefused(f"a backslash is not allowed, also not inside quotes: {token.text[:40]}")
    elif _SYSTEM.fullmatch(name) or (name in _SYSTEM_SCHEMAS and following == "."):
        raise QueryRefused(f"{token.text} belongs to the database system: only your own tables can be asked")
    elif token.kind == "word" and name in _FORBIDDEN:
        raise QueryRefused(f"{token.text.upper()} is not allowed: a query only reads")
    elif name and following == "(" and (token.kind == "quoted" or name not in FUNCTIONS | _BEFORE_BRACKETS):
        raise QueryRefused(f"the function {token.text} is not on the list of those that only compute")


def may_call(function: str) -> bool:
    """Whether a query may use a function, by SQLite's own reading of it."""
    return function.lower() in FUNCTIONS | _OPERATORS
