"""How values show themselves in a notebook, without knowing how they are drawn."""

from __future__ import annotations

import importlib
from typing import Any


def renderer() -> Any:
    """The module that draws. It knows every type here, so it is imported when something is shown, and not before."""
    return importlib.import_module("orchestra.show.notebook")


class Shown:
    """Shows itself in a notebook as HTML or a picture, with text for where neither is wanted."""

    __slots__ = ()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """What Jupyter asks for: the same thing in several formats."""
        return renderer().bundle(self)
