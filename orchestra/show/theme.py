"""Signs, colours and small texts that all pictures share.

A state has a sign and a word besides its colour: colour alone tells some people nothing. Colours are CSS variables
with a light and a dark set; a picture brings its own background, so it is readable on any page.
"""

from __future__ import annotations

import re
from datetime import datetime
from html import escape as _escape

SIGNS = {
    "pending": "·",
    "running": "▶",
    "retrying": "↻",
    "waiting": "?",
    "deferred": "‖",
    "stopped": "‖",
    "succeeded": "✓",
    "done": "✓",
    "failed": "✗",
    "skipped": "-",
}
"""The sign of each state of a task or a run."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that steer terminals, or that XML can't hold; tab and newline stay."""


def clean(text: str) -> str:
    """Text without control characters: what agents and documents wrote must steer nothing."""
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


def escape(text: object) -> str:
    """Text for HTML and SVG, in elements and in quoted attributes."""
    return _escape(clean(str(text)), quote=True)


def one_line(text: str, width: int = 110) -> str:
    """Text in one line of at most `width` characters."""
    text = " ".join(clean(text).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def duration(seconds: float | None) -> str:
    """A duration as a person says it; empty for `None`."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds >= 0.1 or seconds == 0 else f"{seconds * 1000:.0f} ms"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def when(at: datetime | None) -> str:
    """A moment in UTC, to the second; empty for `None`. Not local time: pictures are read elsewhere."""
    return at.strftime("%Y-%m-%d %H:%M:%S UTC") if at is not None else ""


COLOURS = {
    # name: (light, dark); contrast of text to its ground is at least 4.5 (WCAG 2.2 AA)
    "ground": ("#ffffff", "#14171c"),
    "panel": ("#f5f7fa", "#1d2229"),
    "text": ("#1b1f24", "#e8ebef"),
    "muted": ("#57606a", "#a5afba"),
    "line": ("#8c959f", "#6e7781"),
    "faint": ("#d0d7de", "#363d46"),
    "pending": ("#57606a", "#a5afba"),
    "running": ("#0a5cc2", "#6cb2ff"),
    "retrying": ("#8a5a00", "#e3b341"),
    "waiting": ("#7a3fc4", "#c7a0ff"),
    "deferred": ("#8a5a00", "#e3b341"),
    "stopped": ("#8a5a00", "#e3b341"),
    "succeeded": ("#12703a", "#5fd08a"),
    "done": ("#12703a", "#5fd08a"),
    "failed": ("#b3261e", "#ff8f87"),
    "skipped": ("#8a5a00", "#e3b341"),
}
"""The colours by name: on light ground, on dark ground."""


def style() -> str:
    """The colours as CSS variables, `--ground` and so on, following the reader's preference for light or dark."""
    light = "".join(f"--{name}:{pair[0]};" for name, pair in COLOURS.items())
    dark = "".join(f"--{name}:{pair[1]};" for name, pair in COLOURS.items())
    return f":root{{{light}color-scheme:light dark}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
