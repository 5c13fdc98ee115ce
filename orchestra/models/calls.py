"""One call of a model: leave is asked for, the answer is streamed, counted and recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any, cast

from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    InvalidToolCall,
    ToolCall,
    message_to_dict,
    messages_from_dict,
)
from langchain_core.messages.ai import UsageMetadata
from pydantic import ValidationError

from orchestra.errors import BudgetExceeded, MalformedOutput
from orchestra.metering import UNBOUNDED_OUTPUT, USED, Leave, Scope, Ticker, counted, size_of
from orchestra.models.parsing import Answer
from orchestra.models.profiles import names_of
from orchestra.tasks import Usage


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        message: The message, to be shown to the model again.
        answer: Its text, why it ended, and a refusal if it is one.
    """

    message: AIMessage
    answer: Answer

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The tools it wants called: `name`, `args` and `id`; `args` is a text where they are not valid JSON."""
        good = [dict(call) for call in self.message.tool_calls]
        return good + [dict(call) for call in self.message.invalid_tool_calls if call.get("name")]


async def call(
    model: BaseChatModel, messages: Sequence[BaseMessage], scope: Scope, *, whole: bool = False, **options: Any
) -> Reply:
    """Call a model once.

    Args:
        model: The model.
        messages: What it is asked.
        scope: Whose call it is.
        whole: Whether the answer is taken in one piece instead of streamed.
        options: As its `bind` takes them: `max_tokens`, `response_format`, `tools`, …

    Raises:
        BudgetExceeded: A budget does not allow it.
        MalformedOutput: The endpoint did not speak its own protocol.
        Exception: What the model's client raises.
    """
    request = {"messages": [_shown(message) for message in messages], "options": options}

    async def make() -> dict[str, Any]:
        message, usage = await _asked(model, messages, scope, options, whole=whole)
        return {"message": message_to_dict(message), "usage": usage.model_dump()}

    replayed = scope.tape is not None and scope.tape.replaying
    try:
        raw = await scope.step("model", request, make)
    except Exception as error:
        if replayed:
            scope.book(Usage.model_validate(getattr(error, USED, {})))
        raise
    (message,) = messages_from_dict([raw["message"]])
    if replayed:
        scope.book(Usage.model_validate(raw["usage"]))
    return _read(cast("AIMessage", message))


def _shown(message: BaseMessage) -> dict[str, Any]:
    """What of a message a model gets to see; the rest, such as ids, differs from run to run."""
    told: dict[str, Any] = {"type": message.type, "content": message.content}
    for name in ("tool_calls", "tool_call_id"):
        if value := getattr(message, name, None):
            told[name] = value
    return told


async def _asked(
    model: BaseChatModel, messages: Sequence[BaseMessage], scope: Scope, options: Mapping[str, Any], *, whole: bool
) -> tuple[AIMessage, Usage]:
    leave, options = await _leave(model, scope, size_of(messages, options), options)
    await scope.opened(leave)
    try:
        with counted():
            message = await _answered(model, messages, scope, options, whole=whole or leave.by_bill)
    except BaseException as error:
        used = leave.failed(error)
        scope.closed(leave, used)
        setattr(error, USED, used.model_dump())
        await scope.settle()
        if isinstance(error, JSONDecodeError | UnicodeDecodeError | ValidationError):
            malformed = MalformedOutput(f"the endpoint sent something that is no answer ({error})")
            setattr(malformed, USED, used.model_dump())
            raise malformed from error
        raise
    used = leave.settle(message)
    scope.closed(leave, used)
    await scope.settle()
    return message, used


async def _leave(
    model: BaseChatModel, scope: Scope, size: int, options: Mapping[str, Any]
) -> tuple[Leave, Mapping[str, Any]]:
    """Wait for leave to make a call. One without a limit gets what is usual, or what its budget has left by then."""
    endpoint, name = names_of(model)
    output = options.get("max_tokens") or limit_of(model)
    room = scope.account.room().tokens
    if output is not None or room is None:
        return await scope.leave(endpoint, name, size, output), options
    while True:
        output = max(1, min(UNBOUNDED_OUTPUT, room - size))
        try:
            leave = await scope.leave(endpoint, name, size, output)
        except BudgetExceeded:
            before, room = room, scope.account.room().tokens or 0
            if room >= before or room <= size:
                raise
        else:
            return leave, {**options, "max_tokens": output}


def limit_of(model: BaseChatModel) -> int | None:
    """The limit of output tokens that a model was made with."""
    told: Any = model
    return getattr(told, "max_tokens", None) or getattr(told, "max_completion_tokens", None)


async def _answered(
    model: BaseChatModel, messages: Sequence[BaseMessage], scope: Scope, options: Mapping[str, Any], *, whole: bool
) -> AIMessage:
    """Ask. LangChain's caches don't know streams, and its streams drop what an endpoint bills."""
    config: Any = {"metadata": {"task": scope.task, "agent": scope.agent}}
    cache: Any = getattr(model, "cache", None)
    whole = whole or bool(cache) or (cache is None and get_llm_cache() is not None)

    async def ask() -> AIMessage:
        if whole:
            return await model.ainvoke([*messages], config, **options)
        return await _streamed(model, messages, scope, options, config)

    try:
        return await ask()
    except RuntimeError as error:
        if str(error) != "Event loop is closed":
            raise
    # Clients share connections between event loops; one whose loop has ended is found only by using it. It is gone now.
    return await ask()


async def _streamed(
    model: BaseChatModel, messages: Sequence[BaseMessage], scope: Scope, options: Mapping[str, Any], config: Any
) -> AIMessage:
    """Ask, and tell of the answer while it comes. A stream that does not say why it ended has lost something."""
    if hasattr(model, "stream_usage"):
        options = {**options, "stream_usage": True}
    ticker = Ticker(scope)
    whole: AIMessageChunk | None = None
    broken: Exception | None = None
    try:
        async for chunk in model.astream([*messages], config, **options):
            whole = chunk if whole is None else cast("AIMessageChunk", whole + chunk)
            ticker.add(chunk.text)
    except Exception as error:
        broken = error
        if type(error).__name__ not in _ENDS and not isinstance(
            error, JSONDecodeError | UnicodeDecodeError | ValidationError
        ):
            raise
    finally:
        ticker.flush()
    finish = _ENDS.get(type(broken).__name__) if broken is not None else None
    if broken is None and not hasattr(model, "openai_api_base"):
        finish = "stop"  # other clients don't all say why a stream ended
    return _whole(whole, broken, finish)


_ENDS = {"LengthFinishReasonError": "length", "ContentFilterFinishReasonError": "content_filter"}
"""What OpenAI's client raises instead of ending the stream of an answer that is held to a schema."""


def _whole(chunk: AIMessageChunk | None, broken: Exception | None, finish: str | None) -> AIMessage:
    """The message that a stream made, or as much of it as came."""
    if chunk is None:
        return AIMessage("", response_metadata={"finish_reason": finish})
    calls, invalid = _strict_calls(chunk)
    completion: Any = getattr(broken, "completion", None)
    usage = chunk.usage_metadata or _usage(getattr(completion, "usage", None))
    told = {**chunk.response_metadata, "finish_reason": finish}
    if broken is None:
        told = {**told, **chunk.response_metadata}
    return AIMessage(
        content=chunk.content,
        additional_kwargs={key: value for key, value in chunk.additional_kwargs.items() if key == "refusal"},
        response_metadata=told,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=usage,
    )


def _strict_calls(chunk: AIMessageChunk) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """The tools that a streamed message calls. LangChain itself would complete arguments that were cut off."""
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for each in chunk.tool_call_chunks:
        name, text, id_ = each["name"] or "", each["args"] or "", each["id"]
        try:
            arguments = json.loads(text)
        except ValueError:
            arguments = None
        if isinstance(arguments, dict):
            calls.append(ToolCall(name=name, args=cast("dict[str, Any]", arguments), id=id_))
        else:
            problem = "the arguments are not a JSON object"
            invalid.append(InvalidToolCall(name=name, args=text, id=id_, error=problem, type="invalid_tool_call"))
    return calls, invalid


def _usage(told: Any) -> UsageMetadata | None:
    if told is None:
        return None
    return UsageMetadata(
        input_tokens=told.prompt_tokens, output_tokens=told.completion_tokens, total_tokens=told.total_tokens
    )


def _read(message: AIMessage) -> Reply:
    told = cast("dict[str, str | None]", message.response_metadata)
    finish = told.get("stop_reason") or told.get("done_reason") or told.get("finish_reason")
    if not told:
        finish = "stop"  # a model that runs in this process has no reason to give
    refusal = message.additional_kwargs.get("refusal") or ""
    return Reply(
        message,
        Answer(
            text=message.text, finish=_FINISH.get(finish.lower(), finish.lower()) if finish else None, refusal=refusal
        ),
    )


_FINISH = {
    "end_turn": "stop",
    "function_call": "tool_calls",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
}
"""What other endpoints than OpenAI's call the same."""
