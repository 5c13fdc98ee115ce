"""The research desk's work without a language model: quotes by the request's words, and sums of the named columns."""

import re
from collections.abc import Iterator

from graphs import _text
from graphs._desk import Computation, Computations, Desk, Findings, finding
from graphs._documents import Folder, Passage, search
from graphs._sandbox import run_python
from graphs._tables import Table, describe

MAX_QUOTES = 8
MAX_TABLES = 6  # that are described
MAX_COLUMNS = 4  # of one table that are computed
_MAX_QUOTE = 400  # characters; a piece that is longer is a table or a list, and no quote

_BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[#|>*+-]|\d+\.)\s)|\n(?=\|)")
_MARK = re.compile(r"^\s*(?:[>*+-]|\d+\.)\s+")
_RANGE = r"\W+(\d+(?:\.\d+)?)(?:\s*(?:to|and|-|–|until|through)\s*(\d+(?:\.\d+)?))?"  # noqa: RUF001 -- a dash


# ------------------------------------------------------------------------------------------------------- documents


def research(question: str, folder: Folder) -> Findings:
    """Quote the sentences that share the most telling words with the question, from the passages that fit it best."""
    passages = search(folder, question, limit=MAX_QUOTES)
    pieces = {passage.id: list(_pieces(passage.text)) for passage in passages}
    weights = _text.inverse_frequency([piece for each in pieces.values() for piece in each])
    wanted = set(_text.terms(question))
    best: list[tuple[float, str, Passage]] = []
    for passage in passages:
        scored = [(sum(weights.get(t, 0.0) for t in wanted & _text.all_stems(p)), p) for p in pieces[passage.id]]
        best.append((*max(scored, default=(0.0, ""), key=lambda pair: pair[0]), passage))
    least = max((score for score, *_ in best), default=0.0) / 2  # what shares a common word only is left out
    quotes = (finding(piece, [passage]) for score, piece, passage in best if score and score >= least)
    return Findings(found=tuple(filter(None, quotes)))


def _pieces(text: str) -> Iterator[str]:
    """The sentences of a passage; the lines that are no sentences, such as a table's rows, as they are."""
    for block in _BLOCK.split(text):
        start = block.lstrip()[:1]
        if start == "#" or (start == "|" and not re.search(r"\d", block)):  # headings, of tables too
            continue
        plain = _MARK.sub("", block)
        whole = [sentence for _, sentence in _text.sentences(plain)]
        yield from whole or ([plain] if len(plain) <= _MAX_QUOTE else [])


# ------------------------------------------------------------------------------------------------------------ data

_PROGRAM = """\
import csv
import io
import json
from statistics import mean

# file, separator (none: JSON), lines above the first row, columns;
# the columns to sum up, then those that choose rows: column, what stands for a comma, from, to
TABLES = {tables}


def rows(file, separator, above, columns):
    raw = open("data/" + file, "rb").read()
    text = raw.decode("utf-16" if raw[:2] in (b"\\xff\\xfe", b"\\xfe\\xff") else "utf-8-sig", "replace")
    if not separator:
        data = json.loads(text)
        return data if isinstance(data, list) else next(x for x in data.values() if isinstance(x, list))
    read = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    return [dict(zip(columns, row)) for row in read if read.line_num > above]


def number(cell, comma):
    try:
        return float(str(cell).strip().rstrip("% ").replace(",", comma))
    except ValueError:
        return None


def chosen(row, column, comma, low, high):
    value = number(row.get(column), comma)
    return value is not None and low <= value <= high


for file, separator, above, columns, wanted, choices in TABLES:
    kept = [row for row in rows(file, separator, above, columns) if all(chosen(row, *each) for each in choices)]
    where = "".join(f" where {{c}} is {{low:g}} to {{high:g}}" for c, _, low, high in choices)
    for column, comma in wanted:
        values = [v for row in kept if (v := number(row.get(column), comma)) is not None]
        if values:
            print(f"{{file}}, {{column}}{{where}}: {{len(values)}} values, mean {{mean(values):.4g}},", end=" ")
            print(f"sum {{sum(values):.10g}}, smallest {{min(values):g}}, largest {{max(values):g}}")
        else:
            print(f"{{file}}, {{column}}{{where}}: no values")
"""


async def compute(desk: Desk, folder: Folder) -> Computations:
    """Describe the data files; sum up the columns that the question names, in the rows that it names."""
    tables = [_named(desk.question, table) for table in folder.tables]
    work = [each for each in tables if each[4]]
    telling = {each[0] for each in work} or {table.file for table in folder.tables}
    described = [describe(table) for table in folder.tables if table.file in telling][:MAX_TABLES]
    done = [Computation(what="what the data files hold", output="\n".join(described))] if described else []
    notes: list[str] = []
    if work:
        lines = "".join(f"    {each!r},\n" for each in work)
        ran = await run_python(_PROGRAM.format(tables=f"[\n{lines}]"), data=desk.path)
        if ran.error:
            notes.append(f"the columns could not be summed up: {ran.error}")
        else:
            done.append(Computation(what="the columns that the question names", code=ran.code, output=ran.output))
    return Computations(done=tuple(done), notes=tuple(notes))


_Work = tuple[str, str, int, list[str], list[tuple[str, str]], list[tuple[str, str, float, float]]]


def _named(question: str, table: Table) -> _Work:
    """What a question wants of a table: the columns it names, and the rows, as in “weeks 5 to 8”."""
    asked = _text.all_stems(question)
    wanted: list[tuple[float, str, str]] = []
    choices: list[tuple[str, str, float, float]] = []
    for column, kind, values in zip(table.columns, table.kinds, table.ranges, strict=True):
        if not kind.startswith(("integer", "number", "percentage")):
            continue
        comma = "." if kind == "number with decimal comma" else ""
        stems = _text.terms(column.replace("_", " "))
        if len(stems) == 1 and (limits := _limits(question, stems[0])):
            choices.append((column, comma, *limits))
        elif values != f"1 to {table.rows}":  # which is a number of the row
            wanted.append((sum(stem in asked for stem in stems) / (len(stems) or 1), column, comma))
    best = max((share for share, *_ in wanted), default=0.0)
    chosen = [(column, comma) for share, column, comma in wanted if share and share == best][:MAX_COLUMNS]
    return table.file, table.separator, table.above, list(table.columns), chosen, choices


def _limits(question: str, stem: str) -> tuple[float, float] | None:
    """From where to where the values of a column go that a question asks for, if it says so."""
    for word in re.finditer(r"[^\W\d_]+", question):
        if _text.stem(word[0]) == stem and (match := re.match(_RANGE, question[word.end() :])):
            low, high = float(match[1]), float(match[2] or match[1])
            return min(low, high), max(low, high)
    return None
