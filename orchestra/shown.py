"""How values show themselves, without knowing how they are drawn."""

from __future__ import annotations

import importlib
from typing import Any


def drawing(part: str) -> Any:
    """A module of `orchestra.show`.

    They know every type here, so they are imported when something is shown, and not before.
    """
    return importlib.import_module(f"orchestra.show.{part}")


class Shown:
    """Shows itself in a notebook as HTML or a picture, with text for where neither is wanted."""

    __slots__ = ()

    def __str__(self) -> str:
        """A short text for people, where `repr` tells everything."""
        return drawing("notebook").bundle(self)["text/plain"]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """What Jupyter asks for: the same thing in several formats."""
        return drawing("notebook").bundle(self)
