"""Markdown and HTML to clean blocks of text, each with its line, headings and kind.

`_rst` does the same for reStructuredText. Nothing here guesses: images, badges, comments and raw tags disappear; link
syntax becomes the link's text; inline code keeps its backticks; code blocks are kept apart, to be searched but not
quoted. What can't be turned into plain text is marked with `GAP`, and `is_clean` refuses any sentence that holds one.
"""

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

from graphs import _text

GAP = "\ufffc"  # stands where something unprintable (a substitution, an image inside a sentence) was

_LEFTOVERS = re.compile(
    r"\]\(|!\[|<[A-Za-z/!]|\{\{|\}\}|\{%|\|--|--\||^\.\. |:target:|:alt:|~~~|```|===|https?://img\.|" + GAP
)
_EMOJI = re.compile(
    r"[\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\ufe0f\u200d\U0001f000-\U0001faff]+|(?<!\w):[a-z0-9_+-]{2,30}:(?!\w)"
)
_ADMONITION = re.compile(r"^(\s*)(?:!!!|\?\?\?\+?)\s+\w+.*$")


Kind = Literal["heading", "paragraph", "item", "row", "code"]


@dataclass(frozen=True)
class Block:
    """A heading, paragraph, list item, table row or code example; `text` keeps its line breaks, to find places."""

    kind: Kind
    text: str
    line: int
    headings: tuple[str, ...] = ()
    lead: str = ""
    only_links: bool = False


def is_clean(text: str) -> bool:
    """Whether no markup was left in `text` and its brackets and backticks come in pairs."""
    if _LEFTOVERS.search(text) or text.count("`") % 2:
        return False
    plain = re.sub(r"`[^`]*`", "", text)
    return all(plain.count(a) == plain.count(b) for a, b in ("()", "[]"))


def squeeze(text: str) -> str:
    """One line, single spaces, no emoji, no space left before punctuation by something that was removed."""
    text = re.sub(r"\s+", " ", _EMOJI.sub("", text)).strip()
    return re.sub(r" ([,.;:!?])(?=\s|$)", r"\1", text)


class Outline:
    """The headings above the current line, and the paragraph above the current list."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._stack: list[tuple[int, str]] = []
        self._lead = ""

    def heading(self, level: int, text: str, line: int) -> None:
        """Open a section; sections of the same or a deeper level end."""
        text = squeeze(text)
        while self._stack and self._stack[-1][0] >= level:
            self._stack.pop()
        if text:
            self._stack.append((level, text))
            self.blocks.append(Block("heading", text, line, self.path))
        self._lead = ""

    def add(self, kind: Kind, text: str, line: int, *, lead: str = "", links: bool = False) -> None:
        """Add a block below the current headings, unless nothing readable is left of it."""
        if not re.search(r"\w", text):
            return
        # Leading line breaks would shift the line that a quote is said to stand on.
        line += len(text[: len(text) - len(text.lstrip())].split("\n")) - 1
        if kind == "paragraph":
            self._lead = squeeze(text)
        lead = lead or (self._lead if kind == "item" else "")
        self.blocks.append(Block(kind, text.strip(), line, self.path, lead, links))

    @property
    def path(self) -> tuple[str, ...]:
        """The open headings, outermost first."""
        return tuple(text for _, text in self._stack)


def markdown_blocks(text: str) -> list[Block]:
    """The blocks of a Markdown document (CommonMark with tables and embedded HTML)."""
    outline = Outline()
    _MarkdownReader(outline, 0).run(_prepare(text))
    return outline.blocks


def html_blocks(text: str) -> list[Block]:
    """The blocks of an HTML page or fragment."""
    outline = Outline()
    _HtmlReader(outline, 0).run(text)
    return outline.blocks


def _prepare(text: str) -> str:
    """Blank out front matter and unwrap admonitions, keeping every line where it is."""
    lines = text.split("\n")
    if lines and lines[0].strip() == "---":
        end = next((i for i, line in enumerate(lines[1:80], 1) if line.strip() == "---"), 0)
        lines[: end + 1] = [""] * (end + 1) if end else lines[:1]
    dedent = ""
    for i, line in enumerate(lines):
        if match := _ADMONITION.match(line):
            lines[i], dedent = "", match[1] + "    "
        elif line.strip().startswith(":::"):
            lines[i] = ""
        elif dedent and line.startswith(dedent):
            lines[i] = line[len(dedent) :]
        elif line.strip():
            dedent = ""
    return "\n".join(lines)


class _MarkdownReader:
    """Walks the tokens of markdown-it."""

    _CALLOUT = re.compile(r"\{(note|tip|warning|important|admonition|hint)\}")

    def __init__(self, outline: Outline, offset: int) -> None:
        self._outline, self._offset = outline, offset
        self._items: list[str] = []  # the items that are open, outermost first
        self._starts_item = False
        self._cells: list[str] = []
        self._header = ""
        self._in_header = False

    def run(self, text: str) -> None:
        parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
        tokens = parser.parse(text)
        for i, token in enumerate(tokens):
            line = self._offset + (token.map[0] if token.map else 0) + 1
            match token.type:
                case "list_item_open":
                    self._starts_item = True
                    self._items.append("")
                case "list_item_close":
                    self._items.pop()
                case "thead_open":
                    self._in_header = True
                case "tr_open":
                    self._cells = []
                case "tr_close":
                    self._end_row(self._offset + _row_line(tokens, i))
                case "inline":
                    self._inline(token, tokens[i - 1], line)
                case _:
                    self._other(token, line)

    def _other(self, token: Token, line: int) -> None:
        """Embedded HTML, callouts written as fenced blocks, and code."""
        if token.type == "html_block":
            _HtmlReader(self._outline, line - 1).run(token.content)
        elif token.type == "fence" and self._CALLOUT.match(token.info):
            _MarkdownReader(self._outline, line).run(token.content)
        elif token.type in {"fence", "code_block"}:
            self._outline.add("code", token.content, line)

    def _end_row(self, line: int) -> None:
        joined = " | ".join(self._cells)
        if self._in_header:
            self._header = joined
        elif any(self._cells):
            self._outline.add("row", joined, line, lead=self._header)
        self._in_header = False

    def _inline(self, token: Token, opener: Token, line: int) -> None:
        content, only_links = _inline(token)
        if opener.type == "heading_open":
            self._outline.heading(int(opener.tag[1]), content, line)
        elif opener.type in {"td_open", "th_open"}:
            self._cells.append(squeeze(content))
        elif self._starts_item:
            self._items[-1] = squeeze(content)
            lead = self._items[-2] if len(self._items) > 1 else ""
            self._outline.add("item", _unmark(content), line, lead=lead, links=only_links)
        else:
            self._outline.add("paragraph", _unmark(content), line, links=only_links)
        self._starts_item = False


def _row_line(tokens: list[Token], close: int) -> int:
    """The line (from 1) of the table row that ends at token `close`."""
    for token in reversed(tokens[:close]):
        if token.type == "tr_open" and token.map:
            return token.map[0] + 1
    return 1


def _unmark(text: str) -> str:
    """Drop what Markdown dialects put at the start of a block: callout names and ticked boxes."""
    text = re.sub(r"^\[!\w+\]\s*", "", text)
    if text.startswith("[ ]"):  # not done yet: a plan, not something the product has
        return ""
    return re.sub(r"^\[[xX]\]\s+", "", text)


def _inline(token: Token) -> tuple[str, bool]:
    """The text of an inline token, and whether all of it is link text."""
    out: list[str] = []
    depth, loose = 0, False
    for child in token.children or []:
        if child.type == "link_open":
            depth += 1
        elif child.type == "link_close":
            depth -= 1
        elif child.type in {"softbreak", "hardbreak"}:
            out.append("\n")
        elif child.type == "html_inline":
            out.append(" " if re.match(r"<(br|/?p|/?div|img)\b", child.content, re.IGNORECASE) else "")
        elif child.type in {"text", "code_inline", "text_special"}:
            loose |= depth == 0 and bool(re.search(r"\w", child.content))
            content = child.content if child.type != "code_inline" else f"`{child.content}`"
            out.append(re.sub(r"\[\^[^\]]+\]", "", content))
    return "".join(out), not loose


class _HtmlReader(HTMLParser):
    """Collects text between block-level tags."""

    _SKIP = frozenset({"script", "style", "pre", "nav", "noscript", "template", "svg", "head", "button", "form"})
    _BLOCK = _text.word_set(
        """p div section article main header footer aside blockquote ul ol dl dt dd summary details table
        thead tbody figure figcaption center hr"""
    )

    def __init__(self, outline: Outline, offset: int) -> None:
        super().__init__(convert_charrefs=True)
        self._outline, self._offset = outline, offset
        self._skipping = self._links = 0
        self._text: list[str] = []
        self._code: list[str] = []
        self._line = 0
        self._loose = False
        self._kind: Literal["paragraph", "item"] = "paragraph"
        self._level = 0
        self._cells: list[str] | None = None
        self._header = ""

    def run(self, text: str) -> None:
        self.feed(text)
        self.close()
        self._flush()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in self._SKIP:
            self._flush()
            self._skipping += 1
        elif tag == "a":
            self._links += 1
        elif tag == "br":
            self._text.append(" ")
        elif tag == "code":
            self._text.append("`")
        elif tag == "tr":
            self._flush()
            self._cells = []
        elif tag in {"td", "th"}:
            self._text.clear()
        elif re.fullmatch(r"h[1-6]", tag):
            self._flush()
            self._level = int(tag[1])
        elif tag == "li":
            self._flush()
            self._kind = "item"
        elif tag in self._BLOCK and not (tag == "p" and self._kind == "item" and not self._text):
            self._flush()

    def handle_endtag(self, tag: str) -> None:
        if tag in self._SKIP:
            self._skipping = max(0, self._skipping - 1)
            if tag == "pre" and self._code:
                self._outline.add("code", "".join(self._code), self._offset + self.getpos()[0])
            self._code.clear()
        elif tag == "a":
            self._links = max(0, self._links - 1)
        elif tag == "code":
            self._text.append("`")
        elif tag in {"td", "th"} and self._cells is not None:
            self._cells.append(squeeze("".join(self._text)))
            self._text.clear()
        elif tag == "tr" and self._cells is not None:
            self._outline.add("row", " | ".join(self._cells), self._offset + self.getpos()[0], lead=self._header)
            self._cells = None
        elif re.fullmatch(r"h[1-6]", tag) or tag == "li" or tag in self._BLOCK:
            self._flush()

    def handle_data(self, data: str) -> None:
        if self._skipping:
            self._code.append(data)
            return
        if not any(part.strip() for part in self._text):
            self._line = self.getpos()[0]
        self._loose |= not self._links and bool(re.search(r"\w", data))
        self._text.append(data)

    def _flush(self) -> None:
        text = "".join(self._text)
        if self._cells is None and text.strip(" `\n"):
            if self._level:
                self._outline.heading(self._level, text, self._offset + self._line)
            else:
                self._outline.add(self._kind, text, self._offset + self._line, links=not self._loose)
        if self._cells is None:
            self._text.clear()
        self._loose, self._level, self._kind = False, 0, "paragraph"
