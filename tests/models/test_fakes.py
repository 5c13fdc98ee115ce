"""What the fakes do wrong arrives at a client as what it is: LangChain's ChatOpenAI, streamed and not.

Some of what is held here is a weakness of the client that our code has to know of; these tests say when it goes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from llmock.pytest_plugin import LLMock
from pydantic import BaseModel

from tests import smollm
from tests.fakes import Fake, Fault, ToolCall

TEXT = "one two three four"
HOWS = ["whole", "streamed"]
PATIENCE = 0.8  # seconds, where a timeout is what a test waits for
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "size": {"enum": ["small", "large"]}},
    "required": ["city", "size"],
    "additionalProperties": False,
}


class Weather(BaseModel):
    """Tell the weather."""

    city: str


# Each client of its own would read the machine's certificates, 50 ms that loopback does without.
CLIENTS = {
    "http_client": openai.DefaultHttpxClient(verify=False),
    "http_async_client": openai.DefaultAsyncHttpxClient(verify=False),
}


def chat(url: str, **options: Any) -> ChatOpenAI:
    defaults = {"base_url": url, "api_key": "sk-secret", "model": "m", "max_retries": 0, "timeout": 5}
    return ChatOpenAI(**defaults | CLIENTS | options)


def ask(model: Runnable[Any, Any], how: str = "whole") -> tuple[Any, Exception | None]:
    """What came, and how it ended."""
    came = None
    try:
        if how == "whole":
            return model.invoke("hello"), None
        for chunk in model.stream("hello"):
            came = chunk if came is None else came + chunk
    except Exception as error:
        return came, error
    return came, None


def said(model: Runnable[Any, Any], how: str = "whole") -> AIMessage:
    message, error = ask(model, how)
    assert error is None, error
    return message


# What is said


@pytest.mark.parametrize("how", HOWS)
class TestAnswers:
    def test_a_text(self, fake, how):
        fake.when("hell", TEXT)
        message = said(chat(fake.url, stream_usage=True), how)
        assert (message.content, message.response_metadata["finish_reason"]) == (TEXT, "stop")
        assert message.usage_metadata["input_tokens"] == 5  # 4 and a word
        assert message.usage_metadata["output_tokens"] == 4

    def test_usage_is_left_out(self, fake, how):
        fake.when("hello", TEXT, usage=False)
        assert said(chat(fake.url, stream_usage=True), how).usage_metadata is None

    def test_a_cost_does_not_survive_a_stream(self, fake, how):
        fake.when("hello", TEXT, cost=0.25)
        usage = said(chat(fake.url, stream_usage=True), how).response_metadata.get("token_usage", {})
        assert usage.get("cost") == (0.25 if how == "whole" else None)

    def test_calls_of_tools(self, fake, how):
        fake.when("hello", (ToolCall("weather", {"city": "New York"}), ToolCall("weather", {"city": "Rome"})))
        message = said(chat(fake.url), how)
        assert [call["args"] for call in message.tool_calls] == [{"city": "New York"}, {"city": "Rome"}]
        assert len({call["id"] for call in message.tool_calls}) == 2
        assert message.response_metadata["finish_reason"] == "tool_calls"

    def test_an_unknown_tool(self, fake, how):
        fake.when("hello", ToolCall("no_such_tool"))
        assert said(chat(fake.url), how).tool_calls[0]["name"] == "no_such_tool"

    def test_a_stream_makes_a_whole_call_of_a_malformed_one(self, fake, how):
        fake.when("hello", ToolCall("weather", '{"city": "Par'))
        message = said(chat(fake.url), how)
        if how == "whole":
            assert [call["args"] for call in message.invalid_tool_calls] == ['{"city": "Par']
        else:
            assert [call["args"] for call in message.tool_calls] == [{"city": "Par"}]

    def test_a_stream_loses_a_refusal(self, fake, how):
        fake.when("hello", Fault.refuse("No."))
        message = said(chat(fake.url), how)
        assert (message.content, message.response_metadata["finish_reason"]) == ("", "stop")
        assert message.additional_kwargs.get("refusal") == ("No." if how == "whole" else None)

    @pytest.mark.parametrize(
        ("reply", "content", "finish"),
        [
            ("", "", "stop"),
            (Fault.cut(TEXT, 2), "one two", "length"),
            (Fault.filtered("one"), "one", "content_filter"),
        ],
        ids=["empty", "cut", "filtered"],
    )
    def test_less_than_an_answer(self, fake, how, reply, content, finish):
        fake.when("hello", reply)
        message = said(chat(fake.url), how)
        assert (message.content, message.response_metadata["finish_reason"]) == (content, finish)

    def test_max_tokens(self, fake, how):
        fake.when("hello", TEXT)
        message = said(chat(fake.url, max_tokens=3), how)
        assert (message.content, message.response_metadata["finish_reason"]) == ("one two three", "length")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ({"city": "Rome"}, None),
        ({"town": "Rome"}, ValueError),
        (Fault.prose({"city": "Rome"}), ValueError),
        (Fault.fenced({"city": "Rome"}), ValueError),
        (Fault.cut({"city": "New York"}, 2), openai.LengthFinishReasonError),
        (Fault.filtered(), openai.ContentFilterFinishReasonError),
        (Fault.truncate({"city": "New York"}), ValueError),
        ("", ValueError),
    ],
    ids=["right", "wrong shape", "prose", "fenced", "cut", "filtered", "truncated", "empty"],
)
def test_structured_output(fake, reply, error):
    fake.when("hello", reply)
    model = chat(fake.url).with_structured_output(Weather, method="json_schema")
    came, caught = ask(model)
    assert isinstance(caught, error) if error else came == Weather(city="Rome")


# What goes wrong on the way


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Fault.rate_limit(retry_after=2), openai.RateLimitError),
        (Fault.server_error(), openai.InternalServerError),
        (Fault.server_error(503), openai.InternalServerError),
        (Fault.unauthorized(), openai.AuthenticationError),
        (Fault.unsupported("response_format"), openai.BadRequestError),
        (Fault.unsupported("tools"), openai.BadRequestError),
        (Fault.delay(30), openai.APITimeoutError),
        (Fault.drop(), openai.APIConnectionError),
    ],
    ids=["429", "500", "503", "401", "no response_format", "no tools", "delay", "drop"],
)
def test_nothing_arrives(fake, how, reply, error):
    fake.when("hello", reply)
    came, caught = ask(chat(fake.url, timeout=PATIENCE if reply.delay else 5), how)
    assert came is None
    assert isinstance(caught, error)
    if reply.status != 200:
        assert caught.status_code == reply.status
        assert caught.response.headers.get("retry-after") == ("2" if reply.status == 429 else None)
        assert reply.status != 401 or "Bearer sk-secret" in str(caught)
        assert reply.status != 400 or reply.error in str(caught)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("reply", "whole", "streamed"),
    [
        (Fault.stall(30), openai.APITimeoutError, openai.APITimeoutError),
        (Fault.drop(after=1), openai.APIConnectionError, openai.APIConnectionError),
        (Fault.garble(), json.JSONDecodeError, json.JSONDecodeError),
        (Fault.truncate(), json.JSONDecodeError, None),  # nobody tells that there was more
    ],
    ids=["stall", "drop", "garble", "truncate"],
)
def test_a_part_arrives(fake, how, reply, whole, streamed):
    fake.when("hello", reply)
    came, caught = ask(chat(fake.url, timeout=PATIENCE if reply.stall else 5), how)
    if how == "whole":
        assert isinstance(caught, whole)
    else:
        assert came.content == "one"
        assert isinstance(caught, streamed or type(None))
        assert "finish_reason" not in came.response_metadata


@pytest.mark.parametrize("how", HOWS)
def test_a_stall_ends(fake, how):
    fake.when("hello", Fault.stall(0.2, TEXT))
    assert said(chat(fake.url), how).content == TEXT


IN_A_STREAM = {
    "drop": (Fault.drop(TEXT, after=1), lambda llmock: llmock.reply(TEXT).disconnect(after_chunks=2)),
    "garble": (Fault.garble(TEXT, after=1), lambda llmock: llmock.reply(TEXT).corrupt(after_chunks=2)),
    "truncate": (Fault.truncate(TEXT, after=1), lambda llmock: llmock.reply(TEXT).truncate(after_chunks=2)),
}
ANYWHERE = {
    "429": (Fault.rate_limit(retry_after=2), lambda llmock: llmock.rate_limit(retry_after=2)),
    "500": (Fault.server_error(), lambda llmock: llmock.fail(500)),
    "delay": (Fault.delay(1.2, TEXT), lambda llmock: llmock.delay(1.2)),
    "half JSON": ('{"city": "Ro', lambda llmock: llmock.reply('{"city": "Ro')),
    "malformed call": (ToolCall("Weather", "{"), lambda llmock: llmock.call_tool("Weather", {}).break_tool_call()),
    "unknown tool": (ToolCall("llmock_unknown_tool"), lambda llmock: llmock.call_tool("llmock_unknown_tool")),
}


@pytest.mark.parametrize(
    ("how", "fault"), [*itertools.product(HOWS, ANYWHERE), *itertools.product(["streamed"], IN_A_STREAM)]
)
def test_llmock_fails_alike(fake: Fake, llmock: LLMock, how: str, fault: str):
    ours, theirs = (ANYWHERE | IN_A_STREAM)[fault]
    fake.when("hello", ours)
    theirs(llmock)

    def outcome(url: str) -> tuple[Any, ...]:
        came, caught = ask(chat(url, timeout=PATIENCE if fault == "delay" else 5).bind_tools([Weather]), how)
        header = caught.response.headers.get("retry-after") if isinstance(caught, openai.RateLimitError) else None
        if came is None:
            return type(caught), header
        calls = [(call["name"], call["args"]) for call in (*came.tool_calls, *came.invalid_tool_calls)]
        return type(caught), header, came.content.strip(), calls, came.response_metadata.get("finish_reason")

    assert outcome(fake.url) == outcome(llmock.base_url())


# Which answer, and what was asked


def test_the_first_rule_that_fits_answers(fake):
    fake.when("bye", "Bye.")
    fake.when(lambda body: body["model"] == "other", "I am the other.")
    fake.when("hello", ["First.", "Then."], times=3)
    fake.when("", "Nothing else fits.")
    model = chat(fake.url)
    assert [model.invoke("hello").content for _ in range(4)] == ["First.", "Then.", "Then.", "Nothing else fits."]
    assert chat(fake.url, model="other").invoke("hello").content == "I am the other."
    assert model.invoke([("system", "Say bye."), ("user", "hello")]).content == "Bye."
    assert [request.texts[-1] for request in fake.requests] == ["hello"] * 6


def test_what_no_rule_fits_is_the_tests_mistake(fake):
    with pytest.raises(openai.UnprocessableEntityError, match="no rule of the fake fits"):
        chat(fake.url).invoke("hello")
    fake.when(lambda body: body["nothing"], "")
    with pytest.raises(openai.UnprocessableEntityError, match="KeyError"):
        chat(fake.url).invoke("hello")
    fake.reset()
    assert fake.requests == []


def test_requests_are_kept(fake):
    fake.when("hello", TEXT)
    before = time.monotonic()
    chat(fake.url, temperature=0.5).invoke("hello")
    [request] = fake.requests
    assert request.body["temperature"] == 0.5
    assert request.headers["authorization"] == "Bearer sk-secret"
    assert before < request.at < time.monotonic()


def test_a_client_that_leaves(fake):
    fake.when("hello", Fault.delay(0.4))
    ask(chat(fake.url, timeout=0.1))
    deadline = time.monotonic() + 5
    while not fake.requests[0].left and time.monotonic() < deadline:
        time.sleep(0.01)
    assert fake.requests[0].left


def test_an_endpoint_that_ignores_parameters(fake):
    fake.ignores = {"tools", "response_format"}
    fake.when("hello", [ToolCall("Weather", {"city": "Rome"}), {"city": "Rome"}])
    message = chat(fake.url).bind_tools([Weather]).invoke("hello")
    assert message.tool_calls == []
    assert '```json\n{"name": "Weather", "arguments": {"city": "Rome"}}\n```' in message.content
    message = chat(fake.url).bind(response_format={"type": "json_object"}).invoke("hello")
    assert message.content.startswith("Sure!")
    assert '{"city": "Rome"}' in message.content


def test_an_endpoint_that_rejects_parameters(fake):
    fake.rejects = {"tools"}
    fake.when("hello", TEXT)
    with pytest.raises(openai.BadRequestError, match="'tools' is not supported"):
        chat(fake.url).bind_tools([Weather]).invoke("hello")
    assert chat(fake.url).invoke("hello").content == TEXT


# When


async def test_a_hundred_streams_arrive_when_they_are_due(fake):
    fake.when("question", " ".join(["word"] * 20))
    fake.latency(first_token=(0.1, 0.3), per_token=(0.01, 0.3), seed=7, chunk=5)

    async def took(client: httpx.AsyncClient, number: int, how: str) -> float:
        body = {"messages": [{"role": "user", "content": f"question {number}"}], "stream": how == "streamed"}
        start = time.monotonic()
        text = (await client.post(f"{fake.url}/chat/completions", json=body)).text
        assert ("[DONE]" in text) == (how == "streamed")
        return time.monotonic() - start

    async with httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=None), timeout=30) as client:
        start = time.monotonic()
        streamed = await asyncio.gather(*[took(client, number, "streamed") for number in range(100)])
        all_of_them = time.monotonic() - start
        whole = [await took(client, number, "whole") for number in (99, 3)]
    due = {request.texts[0]: list(itertools.islice(fake.due(request), 20))[-1] for request in fake.requests}
    late = [seconds - due[f"question {number}"] for number, seconds in enumerate(streamed)]
    late += [seconds - due[question] for seconds, question in zip(whole, ("question 99", "question 3"), strict=True)]
    assert len(set(due.values())) == 100
    assert min(late) > -0.01  # never early, and late by what a busy machine takes
    assert sorted(late)[50] < 2
    assert all_of_them < max(due.values()) + 4


# A real model


def test_a_small_model_keeps_to_a_schema(small_model):
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
    model = chat(small_model, model=smollm.MODEL, temperature=0, max_tokens=80, timeout=120)
    answer = json.loads(model.bind(response_format=form).invoke("Name a city and say how large it is.").content)
    assert answer.keys() == {"city", "size"}
    assert answer["size"] in {"small", "large"}


def test_a_small_model_calls_no_tools(small_model):
    model = chat(small_model, model=smollm.MODEL, temperature=0, max_tokens=40, timeout=120)
    message = model.bind_tools([Weather], tool_choice="required").invoke("What is the weather in Rome?")
    assert message.content
    assert message.tool_calls == []
