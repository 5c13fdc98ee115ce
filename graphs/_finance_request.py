"""What a request for financial operations says: where the transactions are, where to post, and how careful to be."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from graphs._finance_types import Fallback
from orchestra import RequestError

EXAMPLE = "Process 5000 sample transactions, seed 7"
GRAMMAR = (
    "Name a CSV file, a database with its table, or a sample: Process transactions.csv; "
    "Process sqlite:///bank.db table payments; "
    f"{EXAMPLE}. Options: ledger URL, sanctions FILE, without fraud: hold or flag, threshold 10000. "
    "A URL with a password belongs into an environment variable: write $NAME for it."
)
LEDGER, SANCTIONS, WITHOUT_FRAUD, THRESHOLD = (
    "FINANCE_LEDGER",
    "FINANCE_SANCTIONS",
    "FINANCE_WITHOUT_FRAUD",
    "FINANCE_REPORTING_THRESHOLD",
)
MOST_SAMPLES = 1_000_000
_NAME = r"(?:\"([^\"\n]+)\"|'([^'\n]+)'|“([^”\n]+)”|(\$?[^\s\"'“,;]*[^\s\"'“,;.]))"
_QUOTED = re.compile(r"\"([^\"\n]+)\"|'([^'\n]+)'|“([^”\n]+)”")
_BARE = re.compile(r"(?<![\w/.~-])[~./\w-]+\.(?:csv|tsv|txt)\b", re.IGNORECASE)
_SAMPLE = re.compile(r"(\d[\d,_]*)\s+(?:sample|generated|example)\b", re.IGNORECASE)
_URL = re.compile(r"(?<![\w:/])(\$\w+|[a-z][\w+]*://\S*[^\s,;.])", re.IGNORECASE)


@dataclass(frozen=True)
class Wanted:
    """A request, read.

    Attributes:
        source: a file's path, a database URL, or `$NAME`; empty for a sample.
        size: how many transactions to generate; 0 for real data.
    """

    source: str = ""
    table: str = ""
    size: int = 0
    seed: int = 7
    ledger: str = ""
    sanctions: str = ""
    without_fraud: Fallback = "flag"
    threshold: int = 10_000


def read_request(request: str) -> Wanted:
    """Read a request, with the environment for what it leaves open.

    Raises:
        RequestError: it names no data, or more than one source, or an option can't be what it says.
    """
    sample = bool(_SAMPLE.search(request))  # it has a list of its own, and stays out of the real ledger
    ledger, rest = _option(request, r"ledger|into", "" if sample else LEDGER)
    sanctions, rest = _option(rest, r"sanctions", "" if sample else SANCTIONS)
    fallback, rest = _option(rest, r"without\s+fraud(?:\s+check\w*)?", WITHOUT_FRAUD)
    threshold, rest = _option(rest, r"(?:reporting\s+)?threshold", THRESHOLD)
    if fallback not in ("", *get_args(Fallback)):
        raise RequestError(
            f"without fraud: {fallback!r}: write hold (nothing that was not fully checked is posted) or flag (it is "
            f"posted and flagged); the default comes from {WITHOUT_FRAUD}."
        )
    if ledger and "://" not in ledger and not ledger.startswith("$"):
        raise RequestError(
            f"ledger {ledger}: write a database URL, such as sqlite:///ledger.db, or $NAME of a variable."
        )
    if threshold and not re.fullmatch(r"[1-9][\d_]{0,11}", threshold):
        raise RequestError(f"threshold {threshold!r}: write a whole number above zero, such as 10000.")
    options = {
        "ledger": ledger,
        "sanctions": sanctions,
        "without_fraud": fallback or "flag",
        "threshold": int(threshold or 10_000),
    }
    if sanctions and not Path(sanctions).expanduser().is_file():
        raise RequestError(f"sanctions {sanctions}: there is no such file. It has one name a line.")
    return Wanted(**_data(rest), **options)  # type: ignore[arg-type]


def _option(text: str, words: str, variable: str) -> tuple[str, str]:
    """What the request, or else the environment, says; and the request without it."""
    found = re.search(rf"\b(?:{words})\b\s*[:=]?\s*{_NAME}", text, re.IGNORECASE)
    if found is None:
        return os.environ.get(variable, "").strip(), text
    value = next(group for group in found.groups() if group)
    return value, text[: found.start()] + text[found.end() :]


def _data(text: str) -> dict[str, object]:
    """Where the transactions are."""
    sample = _SAMPLE.search(text)
    urls: list[str] = _URL.findall(text)
    files = _files(text)
    if bool(sample) + len(urls) + (0 if urls else len(files)) != 1:
        named = [*([sample[0]] if sample else []), *urls, *files]
        found = f"found {', '.join(named)}" if named else "found none"
        raise RequestError(f"The request must name one source of transactions; {found}. {GRAMMAR}")
    if sample:
        size = int(re.sub(r"[,_]", "", sample[1]))
        seed = re.search(r"\bseed\s*[:=]?\s*(\d{1,9})", text, re.IGNORECASE)
        if not 100 <= size <= MOST_SAMPLES:
            raise RequestError(f"{size:,} sample transactions: ask for 100 to {MOST_SAMPLES:,}.")
        return {"size": size, "seed": int(seed[1]) if seed else 7}
    if urls:
        table = re.search(rf"\btable\s*[:=]?\s*{_NAME}", text, re.IGNORECASE)
        if table is None:
            raise RequestError(f"{urls[0]}: say which table, for example: Process {urls[0]} table payments")
        return {"source": urls[0], "table": next(group for group in table.groups() if group)}
    return {"source": files[0]}


def _files(text: str) -> list[str]:
    """Names that look like files of data, with or without quotes."""
    quoted: list[str] = [next(filter(None, groups)) for groups in _QUOTED.findall(text)]
    bare: list[str] = _BARE.findall(_QUOTED.sub(" ", text))
    return list(dict.fromkeys([*quoted, *bare]))
