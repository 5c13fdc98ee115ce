"""Markdown that agents wrote, as HTML that does nothing: no raw HTML, no images, links only to the web and to mail."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from orchestra.show.theme import clean, escape

_HARMLESS = re.compile(r"(https?|mailto):", re.IGNORECASE)


def markdown(text: str, *, below: int = 2) -> str:
    """Lay out Markdown.

    Args:
        text: The Markdown. Raw HTML in it is shown as text, an image as its description and address: to show it would
            tell somebody that the page was opened.
        below: The level of the heading above it. Its own headings follow from there, and none leaves out a level.
    """
    tokens = _PARSER.parse(clean(text.replace("\r\n", "\n")))
    level = below
    for token in tokens:
        if token.type == "heading_open":
            level = min(below + int(token.tag[1]), level + 1, 6)
        if token.type.startswith("heading_"):
            token.tag = f"h{level}"
        elif token.type == "th_open":
            token.attrSet("scope", "col")
    return _PARSER.renderer.render(tokens, _PARSER.options, {})


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    # A link to a place in the page, or to a file beside it, is not the agent's to make.
    parser.validateLink = lambda url: _HARMLESS.match(url) is not None  # pyright: ignore[reportAttributeAccessIssue]
    parser.add_render_rule("image", _image)
    parser.add_render_rule("link_open", _link)
    parser.add_render_rule("table_open", lambda *_: '<div class="wide"><table><caption class="unseen">Table</caption>')
    parser.add_render_rule("table_close", lambda *_: "</table></div>")
    return parser


def _image(_: Any, tokens: Sequence[Token], at: int, *__: Any) -> str:
    source = tokens[at].attrGet("src")
    return f'<span class="muted">[image: {escape(tokens[at].content)} {escape(source)}]</span>'


def _link(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    tokens[at].attrSet("rel", "noreferrer noopener")
    return renderer.renderToken(tokens, at, options, env)


_PARSER = _parser()
