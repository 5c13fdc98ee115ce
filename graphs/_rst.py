"""reStructuredText and plain text to clean blocks: a modest reader, not docutils.

It knows sections, paragraphs, bullet and numbered lists, notes, code blocks, simple and grid tables with one-
line cells, and inline markup. Directives it doesn't know disappear with their body; a substitution inside a
sentence leaves a gap, which keeps that sentence out of every quote.
"""

import re

from graphs import _text
from graphs._markup import GAP, Block, Outline, squeeze

_RULE = re.compile(r"([=\-~^\"'`#*+:.<>_])\1{2,}\s*$")
_BULLET = re.compile(r"(\s*)(?:[-*+•]|\d{1,3}[.)]|#\.)\s+(?=\S)")
_DIRECTIVE = re.compile(r"\.\. ([\w:-]+)::\s*(.*)$")
_READABLE = _text.word_set("note tip warning important caution danger attention hint admonition seealso")
_INLINE = (
    (re.compile(r":[\w:+.-]+:`([^`<]*?)\s*<[^`>]*>`"), r"\1"),
    (
        re.compile(r":(?:code|func|class|meth|mod|attr|data|py:\w+|command|option|file):`~?([^`]+)`"),
        r"``\1``",
    ),
    (re.compile(r":[\w:+.-]+:`([^`]+)`"), r"\1"),
    (re.compile(r"(?<!`)`([^`<]+?)\s*<[^`>]+>`__?"), r"\1"),
    (re.compile(r"(?<!`)`([^`]+)`__?(?!\w)"), r"\1"),
    (re.compile(r"\[[\w#*]+\]_"), ""),
    (re.compile(r"\|[^|\s][^|\n]*\|_{0,2}"), GAP),
    (re.compile(r"\*\*([^*]+)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*([^*\s][^*]*)\*(?!\w)"), r"\1"),
    (re.compile(r"(?<=[A-Za-z0-9])__?(?=[\s.,;:)]|$)"), ""),
    (re.compile(r"``([^`]+)``"), r"`\1`"),
)


def rst_blocks(text: str, *, plain: bool = False) -> list[Block]:
    """The blocks of a reStructuredText document.

    Args:
        text: the document.
        plain: read it as plain text: same layout rules, but no inline markup and no directives.
    """
    reader = _Reader(plain=plain)
    reader.read([line.rstrip().expandtabs(4) for line in text.split("\n")], 0)
    return reader.outline.blocks


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


class _Reader:
    """Walks the lines; each method consumes one construct and returns the index of the line after it."""

    def __init__(self, *, plain: bool) -> None:
        self.outline = Outline()
        self._plain = plain
        self._levels: list[str] = []

    def read(self, lines: list[str], offset: int) -> None:
        """Read `lines`, whose first one is line `offset + 1` of the document."""
        i = 0
        while i < len(lines):
            line = lines[i]
            if not line.strip():
                i += 1
            elif not _indent(line) and (after := self._title(lines, i, offset)):
                i = after
            elif not self._plain and line.startswith(".."):
                i = self._explicit(lines, i, offset)
            elif line.startswith((">>>", "$ ")) or (not self._plain and re.match(r":[\w -]+:(\s|$)", line)):
                i = self._until_blank(lines, i)
            elif re.match(r"\+[-=+]+\+$|[=]{2,}( +[=]{2,})+$|\|", line):
                i = self._table(lines, i, offset)
            elif _BULLET.match(line):
                i = self._item(lines, i, offset)
            elif _indent(line):
                i = self._indented(lines, i, offset)
            else:
                i = self._paragraph(lines, i, offset)

    def _title(self, lines: list[str], i: int, offset: int) -> int:
        """A section title (with or without a line above), a transition, or nothing (0)."""
        if over := _RULE.match(lines[i]):
            under = lines[i + 2] if i + 2 < len(lines) else ""
            if lines[i + 1 : i + 2] != [""] and under.startswith(over[1] * 3) and _RULE.match(under):
                return self._section("over" + over[1], lines[i + 1], offset + i + 2, i + 3)
            return i + 1
        under = lines[i + 1] if i + 1 < len(lines) else ""
        match = _RULE.match(under)
        if match and len(under) >= len(lines[i].strip()) - 1:
            return self._section(match[1], lines[i], offset + i + 1, i + 2)
        return 0

    def _section(self, style: str, title: str, line: int, after: int) -> int:
        if style not in self._levels:
            self._levels.append(style)
        self.outline.heading(self._levels.index(style) + 1, self._clean(title).replace(GAP, ""), line)
        return after

    def _explicit(self, lines: list[str], i: int, offset: int) -> int:
        """A directive, target, substitution or comment, with its indented body."""
        end = self._block_end(lines, i + 1, 1)
        match = _DIRECTIVE.match(lines[i])
        if match and match[1].lower() in _READABLE:
            body = lines[i + 1 : end]
            width = min((_indent(line) for line in body if line.strip()), default=0)
            self.read([line[width:] for line in body], offset + i + 1)
        elif match and match[1] in {"code", "code-block", "sourcecode"}:
            self.outline.add("code", "\n".join(lines[i + 1 : end]), offset + i + 1)
        return end

    def _item(self, lines: list[str], i: int, offset: int) -> int:
        match = _BULLET.match(lines[i])
        width = match.end() if match else 2
        end = i + 1
        while (
            end < len(lines) and lines[end].strip() and _indent(lines[end]) >= width and not _BULLET.match(lines[end])
        ):
            end += 1
        text = "\n".join([lines[i][width:], *(line.strip() for line in lines[i + 1 : end])])
        only_link = bool(re.fullmatch(r"`[^`]+`__?|https?://\S+", text.strip()))
        self.outline.add("item", self._clean(text), offset + i + 1, links=only_link)
        return end

    def _indented(self, lines: list[str], i: int, offset: int) -> int:
        """A quotation, or what a list item or term has below it: read as if it were not indented."""
        width = _indent(lines[i])
        end = self._block_end(lines, i, width)
        self.read([line[width:] for line in lines[i:end]], offset + i)
        return end

    def _paragraph(self, lines: list[str], i: int, offset: int) -> int:
        end = i
        while end < len(lines) and lines[end].strip() and not (end > i and _indent(lines[end])):
            end += 1
        text = "\n".join(lines[i:end])
        code_follows = text.endswith("::")
        text = re.sub(r"\s*::$", ":", text) if code_follows else text
        links = bool(re.fullmatch(r"`[^`]+`__?\.?|https?://\S+", text.strip()))
        self.outline.add("paragraph", self._clean(text), offset + i + 1, links=links)
        if not code_follows:
            return end
        start = next((k for k in range(end, len(lines)) if lines[k].strip()), len(lines))
        if start == len(lines) or not _indent(lines[start]):
            return end
        after = self._block_end(lines, start, 1)
        self.outline.add("code", "\n".join(lines[start:after]), offset + start + 1)
        return after

    def _table(self, lines: list[str], i: int, offset: int) -> int:
        """Grid and simple tables, where a row is one line."""
        end = self._until_blank(lines, i)
        grid = lines[i].startswith(("+", "|"))
        spans = [match.span() for match in re.finditer(r"=+", lines[i])]
        header = ""
        for k in range(i, end):
            if re.match(r"[+=|\-\s]+$", lines[k]):
                continue
            if grid:
                cells = [cell.strip() for cell in lines[k].strip("|").split("|")]
            else:
                stops = [start for start, _ in spans[1:]] + [None]
                cells = [lines[k][start:stop].strip() for (start, _), stop in zip(spans, stops, strict=True)]
            row = " | ".join(squeeze(self._clean(cell)) for cell in cells)
            if header:
                self.outline.add("row", row, offset + k + 1, lead=header)
            elif len(cells) > 1:
                header = row
        return end

    def _clean(self, text: str) -> str:
        if self._plain:
            return text
        for pattern, replacement in _INLINE:
            text = pattern.sub(replacement, text)
        # A backslash is an escape in text, but itself in code.
        parts = re.split(r"(`[^`]*`)", text)
        return "".join(part if part.startswith("`") else re.sub(r"\\(\S)", r"\1", part) for part in parts)

    @staticmethod
    def _until_blank(lines: list[str], i: int) -> int:
        while i < len(lines) and lines[i].strip():
            i += 1
        return i

    @staticmethod
    def _block_end(lines: list[str], i: int, width: int) -> int:
        """The index after the last line that is blank or indented by at least `width`."""
        last = i
        for k in range(i, len(lines)):
            if lines[k].strip():
                if _indent(lines[k]) < width:
                    break
                last = k + 1
        return max(last, i)
