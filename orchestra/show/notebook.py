"""How each type shows itself in a notebook."""

from __future__ import annotations

from typing import Any


def bundle(value: Any) -> dict[str, Any]:
    """The formats a notebook can choose from."""
    return {"text/plain": repr(value)}
