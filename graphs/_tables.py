"""A data file as a table: its columns, what kind of values they hold, and from where to where they go."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Any

from graphs._types import Frozen

SAMPLE = 5  # rows of a table that are kept to be shown

_WHOLE = re.compile(r"[+-]?(?:0|[1-9]\d*)")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d+,\d+")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?")
_DOTTED = re.compile(r"(\d\d?)\.(\d\d?)\.(\d{4})")
_SLASHED = re.compile(r"(\d\d?)/(\d\d?)/(\d{4})")


class Table(Frozen):
    """A data file.

    Attributes:
        file: relative to the folder.
        columns: their names; made up (`column 1`) where the file has none, which `note` says then.
        rows: how many there are below the header.
        sample: the first of them.
        kinds: `integer`, `number`, `percentage`, `date`, `true/false`, `text` or `empty` per column, with what a
            program has to know beside it: `number with decimal comma`, `date (DD.MM.YYYY)`.
        ranges: from where to where the values go, or which there are, and what doesn't fit.
        note: what is unusual about the file as a whole.
        separator: what separates the columns; empty for JSON.
        above: how many lines of the file stand above the first row.
    """

    file: str
    columns: tuple[str, ...]
    rows: int
    sample: tuple[tuple[str, ...], ...] = ()
    kinds: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    note: str = ""
    separator: str = ""
    above: int = 0


def read_table(name: str, text: str) -> Table | str:
    """A data file as a table, or for JSON that is no table, a note why it is read as text (empty: nothing unusual).

    Raises:
        ValueError: CSV that can't be taken apart.
    """
    if name.lower().endswith(".json"):
        return _json_table(name, text)
    delimiter = _delimiter(text, preferred="\t" if name.lower().endswith(".tsv") else ",")
    try:
        read = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [(read.line_num, row) for row in read if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"can't be taken apart as a table ({error})") from None
    if not rows:
        raise ValueError("holds no rows")
    width = Counter(len(row) for _, row in rows[:50]).most_common(1)[0][0]
    # A title above the header is narrower than the table.
    top = next((i for i, (_, row) in enumerate(rows[:10]) if len(row) == width), 0)
    notes = [f"the header is line {rows[top][0]} of the file"] if top else []
    if delimiter != ",":
        notes.append(f"columns are separated by {'tabs' if delimiter == chr(9) else repr(delimiter)}")
    header, body, above = [cell.strip() for cell in rows[top][1]], [row for _, row in rows[top + 1 :]], rows[top][0]
    if any(_kind(cell) not in {"text", ""} for cell in header):
        notes.append("there is no header: the columns' names are made up")
        header, body = [""] * len(header), [row for _, row in rows[top:]]
        above = rows[top - 1][0] if top else 0
    ragged = sum(len(row) != len(header) for row in body)
    if ragged:
        notes.append(f"more or fewer cells than the header in {_rows(ragged)}")
    return _described(name, header, body, notes).model_copy(update={"separator": delimiter, "above": above})


def _delimiter(text: str, preferred: str) -> str:
    """What separates the columns: that which cuts most of the first rows into equally many cells, more than one."""
    head = text[:65536].split("\n")[:40]
    best, chosen = (0.0, 0), preferred
    for delimiter in dict.fromkeys((preferred, ",", ";", "\t", "|")):
        try:
            widths = Counter(len(row) for row in csv.reader(head, delimiter=delimiter) if row)
        except csv.Error:
            continue
        width, count = widths.most_common(1)[0] if widths else (1, 0)
        score = (round(count / widths.total(), 2), width) if width > 1 else (0.0, 0)
        if score > best:
            best, chosen = score, delimiter
    return chosen


def _json_table(name: str, text: str) -> Table | str:
    """JSON that is a list of flat records, also as the only list in an object, as a table."""
    try:
        data = json.loads(text)
    except ValueError as error:
        return f"not valid JSON ({error}), read as text"
    except RecursionError:
        return "nested too deeply, read as text"
    lists = [(key, value) for key, value in data.items() if isinstance(value, list)] if isinstance(data, dict) else []
    notes: list[str] = []
    if len(lists) == 1:
        data, notes = lists[0][1], [f"JSON: an object whose key {lists[0][0]!r} holds the list of records"]
    elif isinstance(data, list):
        notes = ["JSON: a list of records"]
    if not isinstance(data, list) or not data or not all(isinstance(row, dict) and row for row in data):
        return ""
    columns = list(dict.fromkeys(key for row in data for key in row))
    nested = sum(isinstance(value, (dict, list)) for row in data for value in row.values())
    if nested * 2 > sum(map(len, data)):
        return ""
    body = [[_cell(row.get(column)) for column in columns] for row in data]
    return _described(name, columns, body, notes)


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return (value or "").encode(errors="replace").decode()  # "\ud800" is JSON, but no text
    return json.dumps(value)


def _described(name: str, header: list[str], body: list[list[str]], notes: list[str]) -> Table:
    columns: list[str] = []
    for i, given in enumerate(header, 1):
        column = given.encode(errors="replace").decode() or f"column {i}"
        same = sum(other == given for other in header[: i - 1]) if given else 0
        columns.append(f"{column} ({same + 1})" if same else column)
    looks = [_look([row[i].strip() for row in body if i < len(row)], len(body)) for i in range(len(columns))]
    return Table(
        file=name,
        columns=tuple(columns),
        rows=len(body),
        sample=tuple(tuple(_short(cell, 80) for cell in row) for row in body[:SAMPLE]),
        kinds=tuple(kind for kind, _ in looks),
        ranges=tuple(values for _, values in looks),
        note="; ".join(notes),
    )


def _kind(value: str) -> str:
    """What a single value looks like; empty for no value."""
    if not value:
        return ""
    if value[-1] == "%":
        return "percentage" if _NUMBER.fullmatch(value[:-1].strip()) else "text"
    if value[0] not in "+-.0123456789":
        return "true/false" if value.lower() in {"true", "false", "yes", "no"} else "text"
    for kind, pattern in (
        ("integer", _WHOLE), ("number with thousands comma", _THOUSANDS), ("number with decimal comma", _COMMA),
        ("date", _DATE), ("date (DD.MM.YYYY)", _DOTTED), ("date (with slashes)", _SLASHED), ("number", _NUMBER),
    ):  # fmt: skip
        if pattern.fullmatch(value):
            leading_zero = kind == "number" and re.match(r"0\d", value)  # a code or a telephone number
            return "text" if leading_zero or (kind == "date" and not _is_date(value)) else kind
    return "text"


def _is_date(value: str) -> bool:
    try:
        date.fromisoformat(value[:10])
    except ValueError:
        return False
    return True


# A column of the first kind may hold values of the others.
_WIDER = (
    ("number", ("integer",)),
    ("number with decimal comma", ("integer", "number with thousands comma")),
    ("number with thousands comma", ("integer", "number")),
    ("percentage", ()),
    ("integer", ()),
    ("date", ()),
    ("date (DD.MM.YYYY)", ()),
    ("date (with slashes)", ()),
    ("true/false", ()),
)


def _look(values: Sequence[str], rows: int) -> tuple[str, str]:
    """The kind of a column and what its values are; a few that don't fit don't change the kind, but are named."""
    counts = Counter(values)
    present = sum(count for value, count in counts.items() if value)
    missing = f"empty in {_rows(rows - present)}" if rows > present else ""
    if not present:
        return "empty", missing
    kinds = {value: _kind(value) for value in counts if value}
    totals = Counter[str]()
    for value, kind in kinds.items():
        totals[kind] += counts[value]
    found = "text"
    for kind, others in _WIDER:
        fitting = totals[kind] + sum(totals[other] for other in others)
        if totals[kind] and fitting >= 0.9 * present and (kind == "integer" or fitting > totals["integer"]):
            found = kind
            break
    fits = {found, *dict(_WIDER).get(found, ())}
    odd = sorted(value for value, kind in kinds.items() if kind not in fits) if found != "text" else []
    said = _range(found, {value: count for value, count in counts.items() if value and value not in odd})
    if odd:
        named = ", ".join(repr(_short(value, 20)) for value in odd[:3])
        missing = "; ".join(filter(None, (missing, f"otherwise in {_rows(sum(counts[v] for v in odd))}: {named}")))
    return found, "; ".join(filter(None, (said, missing)))


def _range(kind: str, counts: dict[str, int]) -> str:
    if kind in {"text", "true/false", "date (with slashes)"}:  # whether 3/4 is in March or April, nobody knows
        ordered = sorted(counts, key=lambda value: (-counts[value], value))
        shown = ", ".join(_short(value, 30) for value in ordered[: 8 if len(ordered) <= 8 else 3])
        plural = "values" if len(ordered) > 1 else "value"
        return f"{len(ordered)} {plural}: {shown}" if len(ordered) <= 8 else f"{len(ordered)} values, such as {shown}"
    ordered = sorted(counts, key=lambda value: _sortable(kind, value))
    return f"{ordered[0]} to {ordered[-1]}" if len(ordered) > 1 else f"always {ordered[0]}"


def _sortable(kind: str, value: str) -> tuple[float, str]:
    if kind == "date":
        return 0.0, value
    if match := _DOTTED.fullmatch(value):
        return 0.0, f"{match[3]}{match[2]:0>2}{match[1]:0>2}"
    plain = value.replace(",", ".") if kind.endswith("decimal comma") and _COMMA.fullmatch(value) else value
    return float(plain.replace(",", "").rstrip("% ")), value


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _short(text: str, length: int) -> str:
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= length else text[: length - 1] + "…"


def describe(table: Table) -> str:
    """A table in a few lines for a model's prompt: file, number of rows, columns with kinds and ranges."""
    lines = [f"{table.file}: {_rows(table.rows)}" + (f" ({table.note})" if table.note else "")]
    for name, kind, values in list(zip(table.columns, table.kinds, table.ranges, strict=True))[:40]:
        lines.append(f"  {_short(name, 60)}: {kind}" + (f", {values}" if values else ""))
    if len(table.columns) > 40:
        lines.append(f"  … and {len(table.columns) - 40} more columns")
    return "\n".join(lines)
