"""In which form a model is asked to reply, and what it may reply other than an answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableBinding, RunnableSequence
from langchain_core.tools import BaseTool
from pydantic import ConfigDict, Field, TypeAdapter, create_model

from orchestra.tasks import Delegate, OutOfScope

HAND_BACK, HAND_ON = "out_of_scope", "delegate"
"""Names under which a model that calls tools hands a task back, or hands work on."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A model wants a tool called.

    Attributes:
        name: The tool.
        arguments: What to call it with.
        id: The model's id of this call; empty on endpoints that don't call tools.
    """

    name: str
    arguments: Any
    id: str = ""


class Form:
    """The form of a reply: the answer itself, or an object that says which kind of reply it is.

    Args:
        output: The type of the answer.
        tools: What may be called in place of an answer, on endpoints that don't call tools.
        may_decline: Whether the task may be handed back.
        may_delegate: Whether work may be handed on.
    """

    def __init__(
        self, output: Any, tools: Sequence[BaseTool] = (), *, may_decline: bool = False, may_delegate: bool = False
    ) -> None:
        choice = bool(tools or may_decline or may_delegate)
        self.is_text = output is str and not choice
        self._wrapped = choice
        kind: Any = output
        if choice:
            kind = _choice(output, tools, may_decline=may_decline, may_delegate=may_delegate)
        elif not self.is_text and TypeAdapter(output).json_schema().get("type") != "object":
            kind, self._wrapped = create_model("Answer", __config__=_STRICT, answer=(output, ...)), True
        self.adapter: TypeAdapter[Any] = TypeAdapter(kind)
        self.schema: dict[str, Any] = {} if self.is_text else {"title": "Reply", **self.adapter.json_schema()}
        self.schema.setdefault("description", "The reply.")

    def told(self) -> str:
        """The form in words, for a model whose endpoint does not enforce it."""
        if self.is_text:
            return ""
        schema = json.dumps(self.schema, ensure_ascii=False)
        return f"Reply with one JSON object and nothing else. It must fit this JSON schema:\n{schema}"

    def open(self, value: Any) -> Any:
        """What a validated reply says: the answer, `OutOfScope`, `Delegate` or `ToolUse`."""
        if not self._wrapped:
            return value
        reply: Any = getattr(value, "reply", value)
        if hasattr(reply, "answer"):
            return reply.answer
        if hasattr(reply, "out_of_scope"):
            return OutOfScope(reason=reply.out_of_scope)
        if hasattr(reply, "delegate"):
            return reply.delegate
        arguments: Any = reply.arguments
        return ToolUse(reply.tool, arguments if isinstance(arguments, dict) else arguments.model_dump())


_STRICT = ConfigDict(extra="forbid")


def _choice(output: Any, tools: Sequence[BaseTool], *, may_decline: bool, may_delegate: bool) -> Any:
    make: Any = create_model  # the fields are known at run time only
    kinds: list[Any] = [make("Answer", __config__=_STRICT, answer=(output, Field(description="The result.")))]
    for tool in tools:
        arguments: Any = tool.tool_call_schema
        kinds.append(
            make(
                f"Use_{tool.name}",
                __config__=_STRICT,
                __doc__=tool.description,
                tool=(Literal[tool.name], ...),
                arguments=(arguments if isinstance(arguments, type) else dict[str, Any], ...),
            )
        )
    if may_decline:
        reason = Field(description="Why the task is beyond you.", max_length=500)
        kinds.append(make("OutOfScope", __config__=_STRICT, out_of_scope=(str, reason)))
    if may_delegate:
        kinds.append(make("HandOn", __config__=_STRICT, delegate=(Delegate, ...)))
    return make("Reply", __config__=_STRICT, reply=(Union[tuple(kinds)], ...))  # noqa: UP007 -- built at run time


def enforced(model: BaseChatModel, form: Form) -> dict[str, Any] | None:
    """What to pass to a model so that its endpoint enforces a form; `None` if its client knows no way."""
    try:
        bound = model.with_structured_output(form.schema, method="json_schema")
    except (NotImplementedError, TypeError, ValueError):
        return None
    first: Any = bound.first if isinstance(bound, RunnableSequence) else bound
    if not isinstance(first, RunnableBinding):
        return None
    options: dict[str, Any] = {**first.kwargs}
    return {key: value for key, value in options.items() if not key.startswith("ls_")} or None


def callable_tools(
    model: BaseChatModel, tools: Sequence[BaseTool], *, may_decline: bool, may_delegate: bool
) -> dict[str, Any] | None:
    """What to pass to a model so that it can call tools; `None` if its client knows no way."""
    offered: list[Any] = [*tools]
    if may_decline:
        offered.append(_function(HAND_BACK, "The task is beyond you: hand it back.", OutOfScope))
    if may_delegate:
        offered.append(_function(HAND_ON, "Have a specialist do a part of the work for you.", Delegate))
    try:
        bound = model.bind_tools(offered)
    except (NotImplementedError, TypeError, ValueError):
        return None
    return {**bound.kwargs} if isinstance(bound, RunnableBinding) else None


def _function(name: str, description: str, arguments: type[Any]) -> dict[str, Any]:
    parameters = TypeAdapter(arguments).json_schema()
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}
