"""What the gallery takes from environment variables: the chat model that plays its specialists, if there is one."""

import os
from typing import Any

from orchestra import WorkflowError


def model_from_environment() -> Any:
    """A chat model if `ORCHESTRA_MODEL`, and `OPENAI_API_KEY` or `OPENAI_BASE_URL`, are set; else `None`."""
    name = os.environ.get("ORCHESTRA_MODEL")
    if not name or not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
        return None
    from langchain_openai import ChatOpenAI  # noqa: PLC0415 -- half a second that offline use does without

    # A server of one's own often wants no key, but the client insists on one. Retries are the engine's business.
    key = os.environ.get("OPENAI_API_KEY") or "not-needed"
    return ChatOpenAI(model=name, api_key=key, temperature=0, timeout=120, max_retries=0)  # type: ignore[arg-type]


def number_from_environment(name: str, default: int) -> int:
    """A whole number above zero.

    Raises:
        WorkflowError: it is something else.
    """
    given = os.environ.get(name) or str(default)
    if not given.replace("_", "").isdecimal() or int(given) < 1:
        raise WorkflowError(f"{name} must be a whole number above zero, not {given!r}.")
    return int(given)
