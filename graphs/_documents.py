"""A folder of a user's documents and data files: passages with their places, tables with their columns, a search.

A passage of a text file is a run of its lines, word for word, and its id says which: `notes.md:12-18`. So a quote can
be looked up by anyone with an editor. Of HTML, whose lines are markup, the text is kept and its lines are said.

What is not read is named with its reason in `Folder.skipped`: nothing is left out silently. What was read with a
reservation (a guessed encoding, JSON that is none) is in `Folder.notes`.
"""

import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from pydantic import Field

from graphs._markup import html_blocks
from graphs._tables import Table, read_table
from graphs._text import word_set
from graphs._types import Frozen
from orchestra import RequestError

KINDS = (".csv", ".htm", ".html", ".json", ".markdown", ".md", ".rst", ".tsv", ".txt")
MAX_FILE = 10 * 2**20  # bytes of one file
MAX_TOTAL = 40 * 2**20  # of all files of a folder
MAX_FILES = 500  # that are read
MAX_SEEN = 20_000  # that are looked at before we say that this is not a folder of documents
MAX_PASSAGES = 10_000
MAX_PASSAGE = 1_200  # characters: about what a person would quote, and a search result should hold one matter
MAX_NAMED = 200  # skipped files that are named one by one

_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "site-packages"})
# Words that every text has: a question made of nothing else finds nothing.
_STOPWORDS = word_set(
    """a an the and or but nor so if then than that this these those it its they them their we our us you your i me my
    of in on at by for from to with without into over under out up down as is are was were be been being am do does
    did have has had can could may might must shall should will would not no yes what which who whom whose when where
    why how there here about any some all each s t"""
)


class Passage(Frozen):
    """Some lines of a document.

    Attributes:
        id: the file and its lines, `notes.md:12-18`; a part of a very long line ends in `#2`, `#3`.
        file: relative to the folder.
        line: the first of them, counted from 1.
        text: the lines as they stand in the file.
        heading: the headings above, outermost first: `Maintenance > Brakes`.
    """

    id: str
    file: str
    line: int
    text: str
    heading: str = ""


class Folder(Frozen):
    """What was read from a folder, and what was not.

    Attributes:
        path: the folder.
        passages: in the order of the files' names, then of their lines.
        tables: in the order of the files' names.
        skipped: file or folder: why it was not read.
        notes: file: what to know about how it was read.
    """

    path: str
    passages: tuple[Passage, ...] = ()
    tables: tuple[Table, ...] = ()
    skipped: dict[str, str] = Field(default_factory=dict)
    notes: dict[str, str] = Field(default_factory=dict)


# ----------------------------------------------------------------------------------------------------------- files


def files(path: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The files of a folder that are read, by name, and the others with the reason why not.

    Hidden files, other kinds than `KINDS`, links that lead out of the folder and what exceeds the bounds are not read.

    Args:
        path: a folder, or one file.

    Raises:
        RequestError: the path is missing or can't be read, or holds too much to be a folder of documents.
    """
    try:
        root = path.expanduser()
        root.stat()
        if root.is_file():
            names, skipped = [root.name], {}
            root = root.parent
        else:
            os.scandir(root).close()
            names, skipped = _walk(root)
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such folder (looked in {Path.cwd()}). Check the path.") from None
    except (OSError, ValueError, RuntimeError) as error:  # the last: nobody has this home
        why = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"{path}: can't be read ({why}). Check the path and its permissions.") from error
    found: dict[str, Path] = {}
    total, inside, seen = 0, root.resolve(), dict[Path, str]()
    for name in sorted(names):
        file = root / name
        why = _unreadable(file, inside, seen)
        if not why:
            size = file.stat().st_size
            if len(found) == MAX_FILES:
                why = f"more than {MAX_FILES} files: this one was not reached"
            elif total + size > MAX_TOTAL:
                why = f"more than {MAX_TOTAL // 2**20} MB in all: this one was not reached"
        if why:
            skipped[name] = why
        else:
            total += size
            found[name] = file
            seen[file.resolve()] = name
    return found, _bounded(skipped)


def _walk(root: Path) -> tuple[list[str], dict[str, str]]:
    """The names of all files below a folder; folders that are not entered, with the reason."""
    names: list[str] = []
    skipped: dict[str, str] = {}

    def unreadable(error: OSError) -> None:
        skipped[_name(Path(error.filename), root) + "/"] = f"can't be read ({error.strerror})"

    for folder, folders, files_ in os.walk(root, onerror=unreadable):
        for name in list(folders):
            inner = Path(folder, name)
            why = (
                "hidden" if name.startswith(".")
                else "holds no documents of yours" if name in _SKIPPED_FOLDERS
                else "a link to a folder" if inner.is_symlink()
                else ""
            )  # fmt: skip
            if why:
                folders.remove(name)
                skipped[_name(inner, root) + "/"] = why
        for name in files_:
            if _name(Path(name), Path()) == name:
                names.append(_name(Path(folder, name), root))
            else:
                skipped[_name(Path(folder, name), root)] = "its name is not text in this system's encoding"
        if len(names) + len(skipped) > MAX_SEEN:
            raise RequestError(f"{root} holds more than {MAX_SEEN} files: name the folder with the documents.")
    return names, skipped


def _name(path: Path, root: Path) -> str:
    """A path as seen from the folder, in characters that can be stored: names on disk may be any bytes."""
    return path.relative_to(root).as_posix().encode(errors="replace").decode()


def _unreadable(file: Path, inside: Path, seen: dict[Path, str]) -> str:
    """Why a file is not read, as far as can be said without opening it; empty if it is."""
    if file.name.startswith("."):
        return "hidden"
    if file.suffix.lower() not in KINDS:
        return f"not a kind that is read: {', '.join(KINDS)}"
    try:
        target = file.resolve(strict=True)
        size = target.stat().st_size
    except (OSError, RuntimeError):  # a loop of links
        return "a link that leads nowhere"
    if not target.is_relative_to(inside):
        return "a link that leads out of the folder"
    if target in seen:
        return f"the same file as {seen[target]}"
    if not target.is_file():  # a pipe would keep its reader waiting
        return "not a regular file"
    return "empty" if not size else f"larger than {MAX_FILE // 2**20} MB" if size > MAX_FILE else ""


def _bounded(skipped: dict[str, str]) -> dict[str, str]:
    """Name the first of many: a folder of photographs should not fill the state of a run."""
    kept = dict(sorted(skipped.items())[:MAX_NAMED])
    return {**kept, "…": f"{len(skipped) - MAX_NAMED} more"} if len(skipped) > MAX_NAMED else kept


def load(path: Path) -> Folder:
    """Read the documents and tables of a folder.

    Read are `KINDS`, in UTF-8, UTF-16 with a byte order mark, or else as Latin-1 with a note; up to 10 MB a file,
    40 MB, 500 files and 10,000 passages in all. JSON that is a list of flat records is a table, other JSON is text.

    Args:
        path: a folder, or one file.

    Raises:
        RequestError: the folder is missing, can't be read, or holds nothing of this. Says what to do.
    """
    found, skipped = files(path)
    passages: list[Passage] = []
    tables: list[Table] = []
    notes: dict[str, str] = {}
    for name, file in found.items():
        try:
            text, note = _decode(file.read_bytes())
            table = read_table(name, text) if file.suffix.lower() in {".csv", ".tsv", ".json"} else None
        except OSError as error:
            skipped[name] = f"can't be read ({error.strerror})"
            continue
        except ValueError as error:
            skipped[name] = str(error)
            continue
        if isinstance(table, Table):
            tables.append(table)
        else:
            read = _passages(name, text)
            if len(passages) + len(read) > MAX_PASSAGES:
                skipped[name] = f"more than {MAX_PASSAGES} passages in all: this one was not reached"
                continue
            if not read:
                skipped[name] = "holds no text"
            passages += read
            note = "; ".join(filter(None, (note, table)))
        if note:
            notes[name] = note
    if not passages and not tables:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:5])
        raise RequestError(
            f"{path}: nothing to read in it{f' ({why})' if why else ', it is empty'}. "
            f"Name a folder with documents or data: {', '.join(KINDS)}."
        )
    return Folder(
        path=str(path), passages=tuple(passages), tables=tuple(tables), skipped=_bounded(skipped), notes=notes
    )


def _decode(data: bytes) -> tuple[str, str]:
    """The text of a file with plain line ends, and a note if its encoding is a guess.

    Raises:
        ValueError: it is binary.
    """
    note = ""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16", errors="replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            text = data.decode("latin-1")
            note = f"not UTF-8 (line {data[: error.start].count(10) + 1}), read as Latin-1: accents may be wrong"
    # Counted in a part of the file: enough to tell a picture from a text.
    control = len(re.findall(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", text[:65536]))
    if "\0" in text or control > len(text[:65536]) / 50:
        raise ValueError("binary, in spite of its name")
    return text.replace("\r\n", "\n").replace("\r", "\n"), note


# -------------------------------------------------------------------------------------------------------- passages

_ADORNMENT = re.compile(r"([=\-~^\"'#*+.:_`])\1{2,}\s*")
_Span = tuple[int, int]  # lines from 0, the second not included
_Headings = dict[int, tuple[int, str, int]]  # by first line: level, text, the line after


def _passages(name: str, text: str) -> list[Passage]:
    if name.lower().endswith((".html", ".htm")):
        return _html_passages(name, text)
    lines = text.split("\n")
    markdown = name.lower().endswith((".md", ".markdown"))
    spans, headings = _markdown(lines) if markdown else _plain(lines, titled=not name.lower().endswith(".json"))
    found: list[Passage] = []
    path: list[tuple[int, str]] = []
    for first, last in _merged(_filled(spans, lines), headings, lines):
        for start in range(first, last):
            if start in headings:
                level, title, _ = headings[start]
                path = [*(above for above in path if above[0] < level), (level, title)]
        heading = " > ".join(title for _, title in path)
        for start, end, piece, part in _pieces(lines, first, last):
            place = f"{name}:{start + 1}-{end}" + (f"#{part}" if part else "")
            found.append(Passage(id=place, file=name, line=start + 1, text=piece, heading=heading))
    return found


def _markdown(lines: list[str]) -> tuple[list[_Span], _Headings]:
    """The top blocks of a Markdown document, and its headings by line with level and text."""
    spans: list[_Span] = []
    headings: _Headings = {}
    matter = 0  # YAML between two lines of dashes, which Markdown takes for a heading
    if lines[0].strip() == "---":
        matter = next((i + 1 for i, line in enumerate(lines[1:80], 1) if line.strip() == "---"), 0)
        spans += [(0, matter)] if matter else []
    tokens = MarkdownIt("commonmark").enable("table").parse("\n".join([""] * matter + lines[matter:]))
    for token, following in pairwise([*tokens, None]):
        if token is None or token.level or not token.map or token.nesting < 0:
            continue
        first, last = token.map
        spans.append((first, last))
        if token.type == "heading_open" and following is not None:
            headings[first] = int(token.tag[1]), following.content, last
    return spans, headings


def _plain(lines: list[str], *, titled: bool) -> tuple[list[_Span], _Headings]:
    """The paragraphs of a plain text, and what is underlined in it: a heading, its level by the order of styles."""
    spans: list[_Span] = []
    headings: _Headings = {}
    styles: list[str] = []
    start = None
    for i, line in enumerate([*lines, ""]):
        if line.strip() and start is None:
            start = i
        elif not line.strip() and start is not None:
            spans.append((start, i))
            start = None
    for first, last in spans if titled else ():
        over = last - first > 2 and _ADORNMENT.fullmatch(lines[first])
        title, under = first + bool(over), first + bool(over) + 1
        if under < last and _ADORNMENT.fullmatch(lines[under]) and not _ADORNMENT.fullmatch(lines[title]):
            style = lines[under][0] + ("o" if over else "")
            styles += [style] if style not in styles else []
            headings[first] = styles.index(style) + 1, lines[title].strip(), under + 1
    return spans, headings


def _filled(spans: list[_Span], lines: list[str]) -> list[_Span]:
    """Add what lies between: the targets of Markdown's links, for one, stand in no block."""
    found: list[_Span] = []
    end = 0
    for first, last in [*spans, (len(lines), len(lines))]:
        rest = [i for i in range(end, first) if lines[i].strip()]
        found += [(rest[0], rest[-1] + 1)] if rest else []
        found += [(first, last)] if last > first else []
        end = max(end, last)
    return found


def _merged(spans: list[_Span], headings: _Headings, lines: list[str]) -> Iterator[_Span]:
    """Join neighbours to passages: a heading goes with what follows it, up to the next heading or the full length."""
    current: _Span | None = None
    bare = False  # whether the current passage has nothing but headings so far
    for first, last in spans:
        heading = first in headings and headings[first][2] >= last
        full = current and sum(len(line) + 1 for line in lines[current[0] : last]) > MAX_PASSAGE
        if current and not full and (bare or first not in headings):
            current, bare = (current[0], last), bare and heading
            continue
        if current:
            yield current
        current, bare = (first, last), heading
    if current:
        yield current


def _pieces(lines: list[str], first: int, last: int) -> Iterator[tuple[int, int, str, int]]:
    """Cut a block that is too long between lines, and a line that is too long between sentences or words."""
    while last > first and not lines[last - 1].strip():
        last -= 1
    start, length = first, 0
    for i in range(first, last):
        if i > start and length + len(lines[i]) > MAX_PASSAGE:
            yield start, i, "\n".join(lines[start:i]), 0
            start, length = i, 0
        if len(lines[i]) > MAX_PASSAGE:
            for part, text in enumerate(_cut(lines[i]), 1):
                yield i, i + 1, text, part
            start, length = i + 1, 0
        length += len(lines[i]) + 1
    if start < last:
        yield start, last, "\n".join(lines[start:last]), 0


def _cut(line: str) -> Iterator[str]:
    while len(line) > MAX_PASSAGE:
        head = line[:MAX_PASSAGE]
        at = max(head.rfind(". "), head.rfind("! "), head.rfind("? ")) + 1
        at = at if at > MAX_PASSAGE // 2 else head.rfind(" ")
        at = at if at > MAX_PASSAGE // 2 else MAX_PASSAGE
        yield line[:at].strip()
        line = line[at:].lstrip()
    if line.strip():
        yield line.strip()


def _html_passages(name: str, text: str) -> list[Passage]:
    """The text of a page's blocks, neighbours under one heading joined."""
    groups: list[tuple[str, int, int, list[str]]] = []  # heading, first line, last line, texts
    for block in html_blocks(text):
        heading, end = " > ".join(block.headings), block.line + block.text.count("\n")
        last = groups[-1] if groups else None
        if last and last[0] == heading and sum(map(len, last[3])) + len(block.text) <= MAX_PASSAGE:
            groups[-1] = (heading, last[1], max(last[2], end), [*last[3], block.text])
        else:
            groups.append((heading, block.line, end, [block.text]))
    found: list[Passage] = []
    used: Counter[str] = Counter()
    for heading, first, end, texts in groups:
        for piece in _cut("\n".join(texts)):
            place = f"{name}:{first}-{end}"
            used[place] += 1  # a page may stand on a single line
            place += f"#{used[place]}" if used[place] > 1 else ""
            found.append(Passage(id=place, file=name, line=first, text=piece, heading=heading))
    return found


# ---------------------------------------------------------------------------------------------------------- search


def search(folder: Folder, query: str, limit: int = 8) -> list[Passage]:
    """The passages that fit a query best, by BM25 over stemmed words; none if no word of it occurs.

    A passage need not hold all words. Rare words count for more, words that stand side by side as in the query count
    again, and words of the headings above a passage count half. The query is words, whatever signs it holds.
    """
    words = [word for word in re.findall(r"[^\W_]+", query) if word.lower() not in _STOPWORDS][:32]
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    wanted = " OR ".join(f'"{phrase}"' for phrase in dict.fromkeys([*words, *pairs]))
    if not wanted or limit < 1:
        return []
    database = sqlite3.connect(":memory:")
    try:
        database.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(text, heading, file, "
            "tokenize = 'porter unicode61 remove_diacritics 2')"
        )
        rows = ((i, p.text, p.heading, Path(p.file).stem) for i, p in enumerate(folder.passages))
        database.executemany("INSERT INTO passages (rowid, text, heading, file) VALUES (?, ?, ?, ?)", rows)
        sql = "SELECT rowid FROM passages WHERE passages MATCH ? ORDER BY bm25(passages, 1, 0.5, 0.5), rowid LIMIT ?"
        return [folder.passages[i] for (i,) in database.execute(sql, (wanted, limit))]
    finally:
        database.close()
