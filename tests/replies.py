"""What a fake endpoint can say (`tests/fakes.py`), and how that can go wrong on the way."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool. Arguments that are a string go out as they are, JSON or not."""

    name: str
    arguments: dict[str, Any] | str = field(default_factory=dict)

    @property
    def wire(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the endpoint does about a request: a completion or an error, and what goes wrong on the way."""

    content: str | None = None
    calls: tuple[ToolCall, ...] = ()
    refusal: str | None = None
    finish: str = "stop"
    usage: bool = True
    cost: float | None = None  # as `usage.cost`, which some routers of models report

    status: int = 200
    error: str = ""
    code: str | None = None
    retry_after: float | None = None

    delay: float = 0  # seconds before the first byte
    breaks: Literal["close", "drop", "truncate", "stall", "garble"] | None = None
    after: int = 1  # chunks that arrive before it breaks; an answer that is not streamed breaks in its middle
    stall: float = 0  # seconds


Reply = str | dict[str, Any] | ToolCall | tuple[ToolCall, ...] | Answer


class Fault:
    """Answers that go wrong. `says` is what the model says meanwhile."""

    @staticmethod
    def rate_limit(retry_after: float | None = None) -> Answer:
        return Answer(status=429, error="Rate limit reached", code="rate_limit_exceeded", retry_after=retry_after)

    @staticmethod
    def server_error(status: int = 500) -> Answer:
        return Answer(status=status, error="The server had an error")

    @staticmethod
    def unauthorized() -> Answer:
        """An endpoint that repeats the key that it got, as some do."""
        return Answer(status=401, error="Incorrect API key provided: {authorization}", code="invalid_api_key")

    @staticmethod
    def unsupported(parameter: str) -> Answer:
        """Such as `response_format` or `tools`."""
        return Answer(status=400, error=f"'{parameter}' is not supported by this model", code="unsupported_parameter")

    @staticmethod
    def delay(seconds: float, says: Reply = "late") -> Answer:
        return replace(answer(says), delay=seconds)

    @staticmethod
    def stall(seconds: float, says: Reply = "one two three four", *, after: int = 1) -> Answer:
        """Silence in the middle, then the rest."""
        return replace(answer(says), breaks="stall", after=after, stall=seconds)

    @staticmethod
    def drop(says: Reply = "one two three four", *, after: int | None = None) -> Answer:
        """The connection closes: before any byte, or after some chunks."""
        return replace(answer(says), breaks="close" if after is None else "drop", after=after or 0)

    @staticmethod
    def truncate(says: Reply = "one two three four", *, after: int = 1) -> Answer:
        """The response ends early as if it were whole, without `finish_reason` and `[DONE]`."""
        return replace(answer(says), breaks="truncate", after=after)

    @staticmethod
    def garble(says: Reply = "one two three four", *, after: int = 1) -> Answer:
        """A chunk, or the whole body, is not JSON."""
        return replace(answer(says), breaks="garble", after=after)

    @staticmethod
    def refuse(says: str = "I can't help with that.") -> Answer:
        return Answer(refusal=says)

    @staticmethod
    def cut(says: str | dict[str, Any], words: int) -> Answer:
        """Cut by a limit that is the endpoint's own."""
        return cut(answer(says), words)

    @staticmethod
    def filtered(says: str = "") -> Answer:
        return Answer(content=says, finish="content_filter")

    @staticmethod
    def prose(says: str | dict[str, Any]) -> Answer:
        return Answer(content=f"Sure! Here is what you asked for:\n\n{answer(says).content}\n\nI hope that helps.")

    @staticmethod
    def fenced(says: str | dict[str, Any]) -> Answer:
        return Answer(content=f"Here it is:\n\n```json\n{answer(says).content}\n```\n")


def answer(reply: Reply) -> Answer:
    """A reply in full."""
    match reply:
        case Answer():
            return reply
        case ToolCall():
            return Answer(calls=(reply,), finish="tool_calls")
        case tuple():
            return Answer(calls=reply, finish="tool_calls")
        case str():
            return Answer(content=reply)
        case _:
            return Answer(content=json.dumps(reply))


def tokens(text: str | None) -> list[str]:
    """The words of a text, each with the white space before it."""
    return re.findall(r"\s*\S+|\s+\Z", text or "")


def cut(whole: Answer, limit: int) -> Answer:
    words = tokens(whole.content)
    return replace(whole, content="".join(words[:limit]), finish="length") if len(words) > limit else whole
