"""What an endpoint can do: found out once per endpoint and model, and remembered while the process lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from langchain_core.language_models import BaseChatModel


@dataclass(slots=True)
class Profile:
    """What is known of an endpoint and a model.

    Attributes:
        schema: Whether it keeps to a JSON schema; `None` until an answer has shown it.
        tools: Whether it calls tools; `None` until it was asked to.
    """

    schema: bool | None = None
    tools: bool | None = None


_known: dict[tuple[str, str], Profile] = {}


def names_of(model: BaseChatModel) -> tuple[str, str]:
    """The endpoint and the name of a model, as far as its client tells."""
    told: Any = model
    name = getattr(told, "model_name", None) or getattr(told, "model", None) or type(model).__name__
    endpoint = getattr(told, "openai_api_base", None) or getattr(told, "base_url", None) or type(model).__name__
    return str(endpoint), str(name)


def profile_of(model: BaseChatModel) -> Profile:
    """What is known of a model: from LangChain's own table at first, then from its answers."""
    key = names_of(model)
    if key not in _known:
        listed = cast("dict[str, Any]", getattr(model, "profile", None) or {})
        _known[key] = Profile(schema=listed.get("structured_output"), tools=listed.get("tool_calling"))
    return _known[key]


def forget_profiles() -> None:
    """Forget what was found out: an endpoint may have been replaced by another."""
    _known.clear()
