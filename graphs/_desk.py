"""What the specialists of the research desk hand to each other, and the folder that they work on.

A `Finding` is a quote, word for word, with the passage it stands in. A `Computation` is a program with what it printed.
Nothing else is evidence.
"""

import os
import re
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from graphs import _desk_samples, _documents
from graphs._documents import Folder, Passage
from graphs._types import RULES, Frozen
from orchestra import Assignment, RequestError

FOLDER = "RESEARCH_DESK_FOLDER"  # environment variable: the folder of requests that name none
GRAMMAR = (
    "Name the folder with your documents as folder: PATH, or in PATH where it begins with ~, / or a dot; "
    'put a path with blanks in quotes. For example: What do the reports say about delays? folder: "~/my papers"'
)
_QUOTED = r"\"(?P<{0}1>[^\"\n]+)\"|'(?P<{0}2>[^'\n]+)'|“(?P<{0}3>[^”\n]+)”|(?P<{0}4>[^\s\"'“]\S*)"
_NAMED = re.compile(
    r"(?<![\w-])(?:"
    rf"folder\s*[:=]\s*(?:{_QUOTED.format('a')})"  # folder: anything
    rf"|(?:in|from)\s+(?:the\s+)?(?:folder\s+)?(?=[\"'“]?(?:~|\.{{0,2}}/))(?:{_QUOTED.format('b')})"  # in ~/papers
    r")",
    re.IGNORECASE,
)


class Finding(Frozen):
    """A quote from a document.

    Attributes:
        passage: the id of the passage that it stands in, which names file and lines.
        quote: word for word, but for line breaks.
        heading: the headings above the passage.
    """

    passage: str
    quote: str
    heading: str = ""


class Computation(Frozen):
    """A program that ran to its end, and what it printed.

    Attributes:
        what: what it computes, in words.
        code: the program; empty for what the desk saw when it read the data files.
        output: what it printed.
    """

    what: str
    code: str = ""
    output: str


class Findings(Frozen):
    """What the researcher found.

    Attributes:
        found: quotes, the most telling first.
        computed: what came of work that was handed on to the coder.
        notes: what was refused, and why; for the reader.
        made_by: `rules`, or the model's name.
    """

    found: tuple[Finding, ...] = ()
    computed: tuple[Computation, ...] = ()
    notes: tuple[str, ...] = ()
    made_by: str = RULES


class Computations(Frozen):
    """What the coder computed.

    Attributes:
        done: in the order of doing.
        notes: what failed on the way; for the reader.
        made_by: `rules`, or the model's name.
    """

    done: tuple[Computation, ...] = ()
    notes: tuple[str, ...] = ()
    made_by: str = RULES


class Desk(Frozen):
    """A question and the folder that it is about.

    Attributes:
        question: the request without the folder.
        path: the folder.
        sample: nobody named a folder, so these are the sample documents.
    """

    question: str
    path: Path
    sample: bool = False

    def read(self) -> Folder:
        """What the folder holds.

        Raises:
            RequestError: it is missing, can't be read, or holds nothing to read.
        """
        found, skipped = _documents.files(self.path)
        stamps = [(name, file.stat().st_size, file.stat().st_mtime_ns) for name, file in found.items()]
        return _read(self.path, (*stamps, *skipped.items()))


@lru_cache(maxsize=2)
def _read(path: Path, _stamps: tuple[object, ...]) -> Folder:
    """Read a folder once as long as no file in it changes."""
    return _documents.load(path)


def desk_of(task: Assignment) -> Desk:
    """The question of a task's request, and its folder: that of an earlier turn if this one names none."""
    return desk_for(task.request, *(str(turn["request"]) for turn in reversed(task.history)))


def desk_for(request: str, *earlier: str) -> Desk:
    """The question and the folder of a request.

    Args:
        request: what the user asks.
        earlier: requests of the same conversation, the latest first.

    Raises:
        RequestError: it names two folders, or asks nothing; or the samples can't be written.
    """
    question = " ".join(_NAMED.sub(" ", request).split()).lstrip(" ,;.")
    if not re.search(r"\w", question):
        raise RequestError(f"The request names a folder and asks nothing. {GRAMMAR}")
    for each in (request, *earlier):
        if len(named := _folders(each)) > 1:
            raise RequestError(f"The request names {len(named)} folders: {', '.join(named)}. {GRAMMAR}")
        if named:
            return Desk(question=question, path=Path(named[0]))
    if path := os.environ.get(FOLDER):
        return Desk(question=question, path=Path(path))
    return Desk(question=question, path=_samples(), sample=True)


def _folders(request: str) -> list[str]:
    found: list[str] = []
    for match in _NAMED.finditer(request):
        quoted = next(filter(None, (match[f"{way}{i}"] for way in "ab" for i in (1, 2, 3))), "")
        bare = match["a4"] or match["b4"] or ""
        found.append(quoted or bare.rstrip(".,;:!?)") or bare)
    return list(dict.fromkeys(found))


def _samples() -> Path:
    """The folder with the sample documents, which is written if it is not there as it should be."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(cache).expanduser() / "orchestra" / "research-desk-samples"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            _desk_samples.write(Path(scratch))
            for file in Path(scratch).iterdir():
                there = folder / file.name
                if not there.is_file() or there.read_bytes() != file.read_bytes():
                    file.replace(there)  # in one step: another run may be reading it
    except (OSError, RuntimeError) as error:
        raise RequestError(f"The sample documents can't be written ({error}). {GRAMMAR}") from error
    return folder


def flat(text: str) -> str:
    """A text on one line."""
    return " ".join(text.split())


def finding(quote: str, passages: Iterable[Passage]) -> Finding | None:
    """A quote with the first passage that it stands in, word for word but for line breaks; `None` if in none."""
    wanted = flat(quote).strip("\"'“”… ")
    if len(wanted) < 8:  # a word or two stand anywhere
        return None
    passage = next((passage for passage in passages if wanted in flat(passage.text)), None)
    return passage and Finding(passage=passage.id, quote=wanted, heading=passage.heading)
