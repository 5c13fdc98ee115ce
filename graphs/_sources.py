"""From a request in plain text to two products with their passages; everything that can be wrong is said here.

The grammar of a request is in `GRAMMAR`, which is also what a user reads when a request has no sources.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from graphs._markup import Block, html_blocks, is_clean, markdown_blocks, squeeze
from graphs._rst import rst_blocks
from graphs._text import sentences
from graphs._types import Passage, PassageKind, Product, Side
from orchestra import RequestError

GRAMMAR = """\
Name exactly two sources in the request. A source is
  dist:NAME            the documentation that an installed Python package carries in its metadata
  path/to/file.md      a file: .md, .markdown, .rst, .txt, .html, .htm
  path/to/folder/      a folder with such files
Put a path with spaces in quotes; a bare word is a path only if it holds a slash or one of these endings.
Which is which: a source is ours after "our", "ours", "we", "ours:" or "competitor of"; it is the competitor after
"competitor" or "competitor:". Without such words the first source is the competitor, the second is ours.
Example: Analyze dist:requests as a competitor of dist:httpx and draft a response strategy"""

READERS: dict[str, Callable[[str], list[Block]]] = {
    ".md": markdown_blocks,
    ".markdown": markdown_blocks,
    ".rst": rst_blocks,
    ".txt": lambda text: rst_blocks(text, plain=True),
    ".html": html_blocks,
    ".htm": html_blocks,
}
MAX_PASSAGES = 6000  # of one product; ranking and matching stay within seconds below this
MAX_BYTES = 4_000_000  # of one product's documents
_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "site-packages", "dist", "build"})
_DIST = r"dist:(?P<dist>[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9]|[A-Za-z0-9])"
_SOURCE = re.compile(
    rf"(?:(?<=[\s(:=,])|^)(?:{_DIST}|(?P<q>[\"'`])(?P<quoted>[^\"'`\n]+)(?P=q)|“(?P<curly>[^”\n]+)”|(?P<bare>[^\s\"'`“”,;()]+))"
)
_OURS = re.compile(
    r"\b(?:(?:our|ours|us|we|my|mine)(?:\s+(?:product|package|library))?|(?:competitors?|rivals?|alternatives?)\s+(?:of|to|for))\s*[:=]?\s*$",
    re.IGNORECASE,
)
_THEIRS = re.compile(
    r"\b(?:competitors?|rivals?|competing)(?:\s+(?:product|package|library))?\s*[:=]?\s*$", re.IGNORECASE
)
_ASIDE = re.compile(
    r"\b(install|contribut|changelog|change ?log|changes|release|what'?s (new|changed)|history|sponsor|backer|credit|"
    r"acknowledg|thank|licen[cs]|author|maintainer|table of contents|contents|cloning|development|developing|building|"
    r"packaging|documentation|links|resources|dependenc|security polic|code of conduct|citation|citing|support us|"
    r"donat|enterprise|fund|^support \w+$|get(ting)? help|community|contact|roadmap|todo|v?\d+\.\d+)",
    re.IGNORECASE,
)
_KINDS: dict[str, PassageKind] = {
    "paragraph": "sentence",
    "item": "item",
    "row": "row",
    "heading": "other",
    "code": "other",
}
_PRIVATE_FIELDS = frozenset({"author", "author-email", "maintainer", "maintainer-email", "description"})


@dataclass(frozen=True)
class Source:
    """A source as the request names it: a package (`dist`) or a path."""

    text: str
    dist: str = ""

    @property
    def identity(self) -> str:
        """Equal for two spellings of the same source."""
        if self.dist:
            return "dist:" + re.sub(r"[-_.]+", "-", self.dist).lower()
        return str(Path(self.text).expanduser().resolve())


def parse(request: str) -> dict[Side, Source]:
    """The two sources that a request names.

    Raises:
        RequestError: there are not exactly two different ones, or their sides contradict.
    """
    found: list[tuple[Source, Side | None]] = []
    for match in _SOURCE.finditer(request):
        source = _source(match)
        if source is None:
            continue
        before = request[: match.start()]
        found.append((source, "ours" if _OURS.search(before) else "competitor" if _THEIRS.search(before) else None))
    names = ", ".join(source.text for source, _ in found) or "none"
    if len(found) != 2:
        raise RequestError(f"The request must name two sources; found {len(found)}: {names}.\n{GRAMMAR}")
    (first, first_side), (second, second_side) = found
    if first.identity == second.identity:
        raise RequestError(f"{first.text} is named twice: name our product's source and the competitor's.\n{GRAMMAR}")
    if first_side and first_side == second_side:
        raise RequestError(f"Both {names} are marked as {first_side}: mark at most one.\n{GRAMMAR}")
    if first_side == "ours" or second_side == "competitor":
        return {"ours": first, "competitor": second}
    return {"ours": second, "competitor": first}


def _source(match: re.Match[str]) -> Source | None:
    if match["dist"]:
        return Source(f"dist:{match['dist']}", match["dist"])
    text = match["quoted"] or match["curly"]
    if text:
        return Source(text, text[5:]) if text.startswith("dist:") else Source(text)
    bare = match["bare"].rstrip(".,:;!?")
    looks_like_path = "/" in bare or Path(bare).suffix.lower() in READERS
    return Source(bare) if looks_like_path and "://" not in bare and bare.strip("/.") else None


def load(request: str) -> tuple[tuple[Product, Product], tuple[Passage, ...]]:
    """Read both products: (ours, competitor) and the passages of both.

    Raises:
        RequestError: a source is missing, empty, unreadable or too large. Says which one and what to do.
    """
    sources = parse(request)
    ours, our_passages = read_product("ours", sources["ours"])
    theirs, their_passages = read_product("competitor", sources["competitor"])
    if ours.name.lower() == theirs.name.lower():
        ours, theirs = (p.model_copy(update={"name": f"{p.name} ({p.source})"}) for p in (ours, theirs))
    return (ours, theirs), (*our_passages, *their_passages)


def read_product(side: Side, source: Source, *, fields_only: bool = False) -> tuple[Product, list[Passage]]:
    """Read one product.

    Args:
        side: which one it is.
        source: where its documents are.
        fields_only: accept a package without a long description.

    Raises:
        RequestError: as for `load`.
    """
    if source.dist:
        product, documents, fields = _read_dist(side, source, fields_only=fields_only)
    else:
        product, documents = _read_path(side, source)
        fields = []
    passages = [*fields, *(p for name, blocks in documents for p in _passages(side, name, blocks))]
    if not fields_only and not any(p.kind not in {"field", "other"} for p in passages):
        raise RequestError(f"{source.text} holds no readable sentence or list: name documents with running text.")
    if len(passages) > MAX_PASSAGES:
        raise RequestError(
            f"{source.text} holds {len(passages)} passages, more than the {MAX_PASSAGES} this analysis reads: "
            "name the folder or file that describes the product."
        )
    prefix = "PO" if side == "ours" else "PC"
    return product, [p.model_copy(update={"id": f"{prefix}{i}"}) for i, p in enumerate(passages, 1)]


def _read_dist(
    side: Side, source: Source, *, fields_only: bool
) -> tuple[Product, list[tuple[str, list[Block]]], list[Passage]]:
    try:
        dist = metadata.distribution(source.dist)
    except (metadata.PackageNotFoundError, ValueError):
        raise RequestError(
            f"{source.text}: no package {source.dist!r} is installed here. Install it into this environment, "
            "or name a file or folder with its documentation."
        ) from None
    info = dist.metadata
    name, version = field(info, "Name") or source.dist, field(info, "Version")
    raw = dist.read_text("METADATA") or dist.read_text("PKG-INFO") or ""
    body = field(info, "Description")
    if not body.strip() and not fields_only:
        raise RequestError(
            f"{source.text} carries no documentation in its metadata. "
            "Name a file or folder with its documentation instead."
        )
    kind = (field(info, "Description-Content-Type") or "text/x-rst").split(";")[0].strip()
    reader = {"text/markdown": READERS[".md"], "text/plain": READERS[".txt"]}.get(kind, rst_blocks)
    product = Product(side=side, name=name, version=version, source=source.text)
    return product, [("README", reader(body))], _fields(side, raw)


def field(info: metadata.PackageMetadata, key: str) -> str:
    """A field of a package's metadata, empty if there is none. `Description` is the long one, wherever it stands."""
    return (info.get_all(key) or [""])[0]


def _fields(side: Side, raw: str) -> list[Passage]:
    """The header lines of a METADATA file. People's names and addresses stay out of the analysis."""
    fields: list[Passage] = []
    for number, line in enumerate(raw.splitlines(), 1):
        if not line.strip():
            break
        key, colon, value = line.partition(":")
        if not colon or line[0].isspace() or key.lower() in _PRIVATE_FIELDS or not value.strip():
            continue
        text = f"{key}: {value.strip()}"
        fields.append(
            Passage(id="", side=side, document="metadata", headings=(key,), line=number, kind="field", text=text)
        )
    return fields


def _read_path(side: Side, source: Source) -> tuple[Product, list[tuple[str, list[Block]]]]:
    path = Path(source.text).expanduser()
    if not path.exists():
        raise RequestError(f"{source.text}: there is no such file or folder (looked in {Path.cwd()}). Check the path.")
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in READERS and _wanted(p, path))
        if not files:
            raise RequestError(f"{source.text}: no {', '.join(READERS)} file in this folder. Name one with documents.")
        # README and index first: a product introduces itself there, and early sentences weigh more.
        files.sort(key=lambda p: (p.stem.lower() not in {"readme", "index"}, len(p.parts), p))
    elif path.suffix.lower() not in READERS:
        raise RequestError(f"{source.text}: can't read this kind of file. Readable are {', '.join(READERS)}.")
    else:
        files = [path]
    if (size := sum(p.stat().st_size for p in files)) > MAX_BYTES:
        raise RequestError(
            f"{source.text} holds {size / 1e6:.1f} MB of documents, more than the {MAX_BYTES / 1e6:.0f} MB this "
            "analysis reads: name the folder or file that describes the product."
        )
    root = path if path.is_dir() else path.parent
    documents = [(p.relative_to(root).as_posix(), READERS[p.suffix.lower()](read_text(p))) for p in files]
    return Product(side=side, name=_title(path, documents), source=source.text), documents


def _wanted(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return not any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in parts)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or UTF-16 with a byte order mark.

    Raises:
        RequestError: the file is binary or in another encoding.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: can't be read ({error.strerror}). Check its permissions.") from error
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    if b"\0" in data and not utf16:
        raise RequestError(
            f"{path} is a binary file in spite of its name. Name text documents, or remove it from the folder."
        )
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RequestError(
            f"{path} is not UTF-8 text (line {line}). Convert it, for example: iconv -f latin1 -t utf-8 {path.name}"
        ) from error


def _title(path: Path, documents: list[tuple[str, list[Block]]]) -> str:
    """A product's name: the first heading of its first document if that is short, else the file's or folder's name."""
    first = documents[0][1][0] if documents and documents[0][1] else None
    if first and first.kind == "heading" and len(first.text.split()) <= 3:
        return first.text
    return path.resolve().name if path.is_dir() else path.stem


def _passages(side: Side, document: str, blocks: list[Block]) -> list[Passage]:
    """Sentences of paragraphs, whole list items, whole table rows; what still looks like markup is not quotable."""
    found: list[Passage] = []
    for block in blocks:
        path = block.headings
        # A list of links is a table of contents, unless the section says that it lists features.
        hidden = block.only_links and not re.search("feature", " ".join(path), re.IGNORECASE)
        if block.kind == "paragraph":
            # What is left of a paragraph that isn't a sentence (a lead-in) stays searchable as a whole.
            pieces = [(block.line + block.text[:at].count("\n"), squeeze(s)) for at, s in sentences(block.text)]
            pieces = pieces or [(block.line, squeeze(block.text))]
            hidden = hidden or not sentences(block.text)
        else:
            pieces = [(block.line, squeeze(block.text))]
        aside = any(_ASIDE.search(heading) for heading in path[-2:])
        for line, text in pieces:
            quotable = is_clean(text) and 2 < len(text) <= 600 and not hidden
            found.append(
                Passage(
                    id="", side=side, document=document, headings=path, line=line, text=text, lead=block.lead,
                    aside=aside, kind=_KINDS[block.kind] if quotable else "other",
                )
            )  # fmt: skip
    return found


def place(product: Product, passage: Passage) -> str:
    """Where a passage stands, for people."""
    heading = f" > {passage.headings[-1]}" if passage.headings else ""
    return f"{product.label}, {passage.document}{heading}, line {passage.line}"
