"""SVG pictures: text that fits, the document around a drawing, and how both become a file.

A picture needs nothing besides itself: no script, no font file, no reference. It brings its ground and follows the
reader's preference for light or dark, also inside an `<img>`. Colours are literal in its styles, because converters to
PNG know no CSS variables and skip the media query. There are no ids, and every rule is below `svg.orchestra`, so
pictures can share a page.
"""

from __future__ import annotations

import base64
import importlib
import math
import os
import re
import shutil
import subprocess
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

from orchestra.errors import OrchestraError
from orchestra.show.theme import COLOURS, escape, one_line

NAME, SMALL = 13.0, 11.0
"""The two sizes of text, in pixels."""

_FONT = "Arial,Helvetica,'Liberation Sans','Noto Sans','DejaVu Sans',sans-serif"
"""Arial first: it, or a font with the same widths, is on most machines, so texts can be fitted without asking it."""
_MARGIN = 20.0
_MOST_PIXELS = 16_000
"""No side of a PNG gets longer: beyond it, some converters fail."""
_SECONDS = 60
"""How long a converter may take."""

_MAGICK = "-background none -density {dpi} {source} {target}"
_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
_CHROME = ("--no-sandbox " if _ROOT else "") + (  # Chromium refuses to run with its sandbox as root, as in containers
    "--headless --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars "
    "--user-data-dir={folder} --force-device-scale-factor={scale} --window-size={width},{height} "
    "--screenshot={target} {source}"
)
_CONVERTERS = {
    "rsvg-convert": "--zoom {scale} --output {target} {source}",
    "inkscape": "--export-type=png --export-dpi={dpi} --export-filename={target} {source}",
    "magick": _MAGICK,
    "convert": _MAGICK,
    "chromium": _CHROME,
    "google-chrome": _CHROME,
}
"""Programs that make a PNG of an SVG, by preference, and their arguments."""

# Text

_OVERRIDES = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that turn the order of letters around: they could make a name read as another."""


class _Widths(dict[str, float]):
    """How wide characters are in Arial, rounded up, in units of the text's size."""

    def __missing__(self, char: str) -> float:
        if unicodedata.category(char) in ("Mn", "Me", "Cf"):
            width = 0.0
        else:
            width = 1.25 if unicodedata.east_asian_width(char) in "WF" else 0.72
        self[char] = width
        return width


_WIDTHS = _Widths(
    {
        **dict.fromkeys("abdeghnopqu0123456789_#$?+<>=~L", 0.58),
        **dict.fromkeys("ckvsxyzJ", 0.53),
        **dict.fromkeys("ijlI.,:;'|!/\\ft[] ·", 0.3),
        **dict.fromkeys('r()-{}*"`', 0.38),
        **dict.fromkeys("wCDHNRUGOQ&", 0.76),
        **dict.fromkeys("mMW@%…", 0.95),
    }
)


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """About how wide a text is, in pixels."""
    return sum([_WIDTHS[char] for char in text]) * size * (1.08 if bold else 1.0)


def fit(text: str, width: float, size: float, *, bold: bool = False) -> str:
    """The text in one line, cut with an ellipsis where it is wider than `width`."""
    text = _OVERRIDES.sub("", one_line(text, 400))
    if text_width(text, size, bold=bold) <= width:
        return text
    room = width - text_width("…", size, bold=bold)
    kept = 0
    for char in text:
        room -= text_width(char, size, bold=bold)
        if room < 0:
            break
        kept += 1
    return text[:kept].rstrip(" \u200d") + "…"


def label(x: float, y: float, text: str, colour: str, size: float = SMALL, *, css: str = "") -> str:
    """A text at a place, in a colour of the theme; `css` may be "o-name" (bold) and "o-end" (ends at `x`)."""
    if not text:
        return ""
    classes = " ".join(filter(None, (f"o-{colour}", css)))
    return f'<text class="{classes}" x="{x:g}" y="{y:g}" font-size="{size:g}">{escape(text)}</text>'


# The document


def document(title: str, said: str, width: float, height: float, body: str) -> str:
    """The picture around a drawing of the given size.

    Args:
        title: What it shows; its tooltip and its name for screen readers.
        said: The same in words, for those who can't see it.
        width: Of the drawing; margins are added.
        height: Of the drawing.
        body: The drawing. Class `o-NAME` fills, and `o-s-NAME` strokes, with the theme's colour of that name.
    """
    w, h = math.ceil(width + 2 * _MARGIN), math.ceil(height + 2 * _MARGIN)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="orchestra" role="img" width="{w}" height="{h}" '
        f'viewBox="0 0 {w} {h}" style="max-width:100%;height:auto" font-family="{_FONT}">'
        f"<title>{escape(title)}</title><desc>{escape(said)}</desc><style>{_style(body)}</style>"
        f'<rect class="o-ground" width="{w}" height="{h}"/>'
        f'<g transform="translate({_MARGIN:g} {_MARGIN:g})">{body}</g></svg>\n'
    )


def _style(body: str) -> str:
    """The rules for the colours that a drawing uses."""
    used = {"o-ground", *(name for names in re.findall(r'class="([^"]*)"', body) for name in names.split())}
    sheets: list[str] = []
    for dark in (False, True):
        rules = [
            f"svg.orchestra .o-{kind}{name}{{{attribute}:{pair[dark]}}}"
            for name, pair in COLOURS.items()
            for kind, attribute in (("", "fill"), ("s-", "stroke"))
            if f"o-{kind}{name}" in used
        ]
        sheets.append("".join(rules))
    return (
        f"{sheets[0]}svg.orchestra path{{stroke-width:1.4;stroke-linecap:round}}"
        "svg.orchestra .o-open{fill:none}svg.orchestra .o-dashed{stroke-dasharray:6 4}"
        "svg.orchestra .o-spare{stroke-dasharray:5 3}svg.orchestra .o-dotted{stroke-dasharray:1 4}"
        "svg.orchestra .o-name{font-weight:600}svg.orchestra .o-end{text-anchor:end}"
        f"@media (prefers-color-scheme:dark){{{sheets[1]}}}"
    )


# Files


def data_uri(svg: str) -> str:
    """The picture as the `src` of an `<img>`."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def write_picture(svg: str, path: Path, scale: float = 2) -> None:
    """Write a picture as `.svg`, or convert it to `.png` with the first converter that is installed and works.

    Args:
        svg: The picture.
        path: Where to.
        scale: Pixels of a PNG per pixel of the picture; less for one that would become too large for converters.

    Raises:
        OrchestraError: The suffix is neither, or nothing that converts is installed; the message says what would do.
    """
    if path.suffix.lower() == ".svg":
        path.write_text(svg, encoding="utf-8")
        return
    if path.suffix.lower() != ".png":
        raise OrchestraError(f"{path.name!r}: a picture is written as .svg or .png.")
    with tempfile.TemporaryDirectory() as folder:
        path.write_bytes(_png(svg, Path(folder), scale))


def _png(svg: str, folder: Path, scale: float) -> bytes:
    """The picture as PNG, by the first converter that is installed and works."""
    size = re.search(r'width="(\d+)" height="(\d+)"', svg)
    width, height = (int(size[1]), int(size[2])) if size else (1000, 1000)
    scale = min(scale, _MOST_PIXELS / max(width, height))
    source, target = folder / "picture.svg", folder / "picture.png"
    source.write_text(svg, encoding="utf-8")
    values = {"source": source, "target": target, "scale": scale, "dpi": round(96 * scale), "folder": folder}
    values |= {"width": width, "height": height}
    failed: list[str] = []
    for program, arguments in _CONVERTERS.items():
        if (found := shutil.which(program)) is None:
            continue
        command = [found, *(argument.format(**values) for argument in arguments.split())]
        try:
            subprocess.run(command, capture_output=True, check=True, timeout=_SECONDS)  # noqa: S603 -- no shell
            if (png := target.read_bytes()).startswith(b"\x89PNG"):
                return png
            failed.append(f"{program} made no PNG")
        except (OSError, subprocess.SubprocessError) as error:
            failed.append(f"{program}: {type(error).__name__}")
    try:
        cairosvg: Any = importlib.import_module("cairosvg")
        return cairosvg.svg2png(bytestring=svg.encode(), scale=scale)
    except (ImportError, OSError):  # not installed, or its library cairo is not
        tried = f" ({'; '.join(failed)})" if failed else ""
        raise OrchestraError(
            f"No program that makes a PNG is installed and works{tried}. Install rsvg-convert (librsvg), Inkscape, "
            "ImageMagick or Chromium, or the Python package cairosvg; a name that ends in .svg works without."
        ) from None
