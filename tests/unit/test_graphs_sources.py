"""Reading: requests, sources, markup. What comes out must be the source's words, without its markup."""

import re
from importlib import metadata
from pathlib import Path

import pytest

from graphs import _sources, _text
from graphs._markup import html_blocks, is_clean, markdown_blocks
from graphs._rst import rst_blocks
from orchestra import RequestError

PACKAGES = ["httpx", "requests", "orjson", "ormsgpack", "SQLAlchemy", "pytest", "rich", "pydantic", "regex", "anyio"]
GARBAGE = re.compile(r"\]\(|!\[|</?[a-z]+[ >]|shields\.io|:target:|\.\. \w+::|```|={4,}|\|-+\||\ufffc")


@pytest.mark.parametrize(
    ("request_text", "ours", "competitor"),
    [
        ("Analyze dist:requests as a competitor of dist:httpx", "dist:httpx", "dist:requests"),
        ("dist:a.b dist:c", "dist:c", "dist:a.b"),
        ("Compare our dist:httpx with dist:requests.", "dist:httpx", "dist:requests"),
        ("ours: docs/a.md competitor: 'their docs/b c.md'", "docs/a.md", "their docs/b c.md"),
        ("competitor: dist:x, ours: dist:y", "dist:y", "dist:x"),
        ("Take “my docs/” against our product README.md, please", "README.md", "my docs/"),
        ("dist:httpx and its competitor dist:requests; see https://example.org/x", "dist:httpx", "dist:requests"),
    ],
)
def test_which_source_is_whose(request_text, ours, competitor):
    sources = _sources.parse(request_text)
    assert (sources["ours"].text, sources["competitor"].text) == (ours, competitor)


@pytest.mark.parametrize(
    ("request_text", "said"),
    [
        ("Analyze our competitor", "found 0"),
        ("Analyze dist:httpx", "found 1: dist:httpx"),
        ("dist:a dist:b dist:c", "found 3"),
        ("dist:charset-normalizer dist:charset_normalizer", "named twice"),
        ("ours: dist:a ours: dist:b", "marked as ours"),
    ],
)
def test_a_request_without_two_sources_is_refused_with_the_grammar(request_text, said):
    with pytest.raises(RequestError, match=re.escape(said)) as error:
        _sources.parse(request_text)
    assert "Example: Analyze dist:requests" in str(error.value)


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def _binary(folder: Path) -> Path:
    (folder / "b.md").write_bytes(b"PK\x03\x04\0\0\0")
    return folder / "b.md"


def _latin(folder: Path) -> Path:
    (folder / "l.md").write_bytes("one\nGr\xf6\xdfe".encode("latin1"))
    return folder / "l.md"


def _only_markup(folder: Path) -> Path:
    (folder / "m.md").write_text("![badge](https://img.shields.io/x.svg)\n\n```\ncode\n```\n")
    return folder / "m.md"


def _unreadable_kind(folder: Path) -> Path:
    (folder / "x.pdf").write_bytes(b"%PDF")
    return folder / "x.pdf"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "gone.md", "no such file or folder"),
        (_empty, "no .md, .markdown, .rst, .txt, .html, .htm file in this folder"),
        (_binary, "binary file"),
        (_latin, "not UTF-8 text (line 2)"),
        (_only_markup, "no readable sentence"),
        (_unreadable_kind, "can't read this kind of file"),
    ],
)
def test_a_bad_source_is_named_with_a_remedy(tmp_path, make, said):
    path = make(tmp_path)
    with pytest.raises(RequestError, match=re.escape(said)) as error:
        _sources.load(f"'{path}' dist:httpx")
    assert str(path) in str(error.value)


def test_an_unknown_package_is_named():
    with pytest.raises(RequestError, match=r"no package 'no-such-package-here' is installed"):
        _sources.load("dist:no-such-package-here dist:httpx")


def test_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(_sources, "MAX_BYTES", 100)
    (tmp_path / "a.md").write_text("A sentence with five words. " * 20)
    with pytest.raises(RequestError, match="name the folder or file"):
        _sources.load(f"'{tmp_path}' dist:httpx")


def test_utf16_and_a_byte_order_mark_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("Größe is what it is about.", encoding="utf-16")
    (tmp_path / "b.txt").write_text("Größe is what it is about.", encoding="utf-8-sig")
    for name in ("a.txt", "b.txt"):
        assert _sources.read_text(tmp_path / name) == "Größe is what it is about."


@pytest.mark.parametrize("package", PACKAGES)
def test_quotable_passages_of_real_packages_are_clean_and_verbatim(package):
    _, passages = _sources.read_product("ours", _sources.Source(f"dist:{package}", package))
    body = metadata.metadata(package)["Description"]
    lines = body.replace("\r\n", "\n").split("\n")
    quotable = [p for p in passages if p.kind not in {"field", "other"}]
    assert len(quotable) > 3
    for p in quotable:
        assert not GARBAGE.search(p.text), p
        assert is_clean(p.text)
        # Word for word: every word stands in the source, in order, from the stated line on.
        here = "\n".join(lines[p.line - 1 : p.line + 40])
        position = 0
        for word in re.findall(r"\w+", p.text):
            found = here.find(word, position)
            assert found >= 0, (word, p)
            position = found + len(word)
        first = re.findall(r"\w+", p.text)[0]
        assert any(first in line for line in lines[p.line - 1 : p.line + 1]), p


def test_private_metadata_stays_out():
    _, passages = _sources.read_product("ours", _sources.Source("dist:httpx", "httpx"))
    assert not any("@" in p.text for p in passages if p.kind == "field")


MARKDOWN = """\
---
title: x
---
<p align="center"><a href="u"><img src="b.svg" alt="build passing"></a></p>

[![CI](https://img.shields.io/x.svg)](https://ci)

# Tool

Tool is *fast* and `small`, e.g. 3 kB.
It has [docs](https://d)[^1].

!!! note "Mind"
    Tool needs no server.

## Features

- :rocket: **Cache**: keeps [answers](u) on disk
  - nested item
- [x] done thing
- [ ] planned thing

| Feature | Free |
|---|---|
| Audit | yes |
"""


def test_markdown_becomes_text_with_places():
    blocks = {b.text: b for b in markdown_blocks(MARKDOWN)}
    assert "Tool is fast and `small`, e.g. 3 kB.\nIt has docs." in blocks
    assert blocks["Tool needs no server."].kind == "paragraph"
    assert blocks["nested item"].lead == "Cache: keeps answers on disk"
    assert blocks["done thing"].headings == ("Tool", "Features")
    assert "planned thing" not in blocks
    assert blocks["Audit | yes"].lead == "Feature | Free"
    assert blocks["Audit | yes"].line == MARKDOWN.split("\n").index("| Audit | yes |") + 1
    assert not any("badge" in text or "passing" in text or "title" in text for text in blocks)


def test_html_becomes_text():
    blocks = html_blocks(
        "<nav>Home</nav><h2>Top</h2><p>One <b>two</b>&amp;three.</p><ul><li>item<li>more</ul><pre>x</pre>"
    )
    assert [(b.kind, b.text) for b in blocks] == [
        ("heading", "Top"), ("paragraph", "One two&three."), ("item", "item"), ("item", "more"), ("code", "x"),
    ]  # fmt: skip


def test_rst_becomes_text():
    text = """\
Tool
====

.. image:: https://img.shields.io/x.svg
   :target: x

Tool is |version| now. It has `docs <https://d>`_ and ``code``.

.. note::

   Mind the gap, please.

* one
  more
* :class:`two`

Example::

    x = 1
"""
    blocks = rst_blocks(text)
    texts = [(b.kind, b.text) for b in blocks]
    assert ("heading", "Tool") in texts
    assert ("paragraph", "Mind the gap, please.") in texts
    assert ("item", "one\nmore") in texts
    assert ("item", "`two`") in texts
    assert ("code", "x = 1") in texts
    substituted = next(b.text for b in blocks if "now" in b.text)
    assert [is_clean(s) for _, s in _text.sentences(substituted)] == [False, True]
    assert not any("shields" in b.text for b in blocks)


def test_sentences_are_whole():
    text = "It runs on e.g. Linux and Python 3. orjson is fast, v1.2 too... really. See below:\nA title"
    assert [s for _, s in _text.sentences(text)] == [
        "It runs on e.g. Linux and Python 3.",
        "orjson is fast, v1.2 too... really.",
    ]
