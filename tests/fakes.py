"""A chat endpoint that says what a test wants and fails the way a test wants: OpenAI's HTTP interface on loopback.

    with Fake() as fake:
        fake.when("capital of France", "Paris")
        fake.when(lambda body: "tools" in body, [ToolCall("search", {"q": "x"}), "Found."])
        fake.when("Spain", [Fault.rate_limit(retry_after=1), Fault.drop("Madrid, of course", after=1), "Madrid"])
        ChatOpenAI(base_url=fake.url, api_key="x", max_retries=0).invoke("What is the capital of France?")
        fake.requests[0].body["messages"]

The first rule that fits a request answers it, streamed or not as the request wants. A request that no rule fits gets
HTTP 422. A model's own mistakes are replies like others: `ToolCall("search", '{"q": ')` is a malformed call,
`ToolCall("no_such_tool")` an unknown one, a dict of another shape breaks the schema, and "" is an empty answer.

Tokens are words, split at white space. Usage counts 4 and its words for each message of the prompt, and the words of
the answer. An answer longer than the request's `max_tokens` is cut there, and its `finish_reason` is "length".

Why not llmock: it can't choose an answer by the text of a question, refuse, leave `usage` out, break an answer that is
not streamed, or draw a latency for each token, and each chunk that it streams takes a turn in a thread pool. So this is
a server of our own, on asyncio streams. llmock, which others wrote, is the second opinion on the faults that both have.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Self

from tests.replies import Answer, Fault, Reply, ToolCall, answer, cut, tokens

__all__ = ["Answer", "Fake", "Fault", "Request", "ToolCall"]

Body = dict[str, Any]


@dataclass
class Request:
    """A request that arrived."""

    body: Body
    headers: dict[str, str]  # names in lower case
    at: float  # by time.monotonic()
    left: bool = False  # the client hung up, as was noticed when the next byte was due

    @property
    def texts(self) -> list[str]:
        """The text of each message."""
        contents = [message.get("content") or "" for message in self.body.get("messages", [])]
        return [
            content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
            for content in contents
        ]

    @property
    def digest(self) -> str:
        """The same for the same conversation, whoever holds it and whatever else is asked for."""
        roles = [message.get("role") for message in self.body.get("messages", [])]
        return hashlib.sha256(json.dumps([roles, self.texts]).encode()).hexdigest()


@dataclass
class _Rule:
    fits: Callable[[Body], bool] | str
    replies: list[Answer]
    times: int | None
    used: int = 0

    def take(self, request: Request) -> Answer | None:
        if self.used == self.times:
            return None
        text = self.fits
        if not (any(text in each for each in request.texts) if isinstance(text, str) else text(request.body)):
            return None
        self.used += 1
        return self.replies[min(self.used, len(self.replies)) - 1]


class Fake:
    """An endpoint on a free port of loopback, in a thread, until its `with` ends.

    Attributes:
        url: Its base URL, which ends in `/v1`.
        requests: What arrived, in order.
        ignores: Parameters that it takes and does nothing about. Where `tools` are ignored, a call of a tool is
            written into the content; where `response_format` is, JSON has prose around it.
        rejects: Parameters that it answers with HTTP 400.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake", daemon=True)
        self.reset()

    def reset(self) -> None:
        """Forget requests and rules, and be an ordinary endpoint again."""
        self.requests: list[Request] = []
        self.ignores: set[str] = set()
        self.rejects: set[str] = set()
        self._rules: list[_Rule] = []
        self.latency()

    def when(
        self, fits: Callable[[Body], bool] | str, reply: Reply | list[Reply], times: int | None = None, **more: Any
    ) -> None:
        """Answer the requests that a predicate accepts, or that have a text in one of their messages.

        Args:
            fits: A text, or a predicate of the request's body.
            reply: What to say; of a list, one after the other and the last again and again.
            times: How many requests this rule answers, if not all.
            more: Fields of `Answer`, such as `usage=False` or `cost=0.01`.
        """
        replies = reply if isinstance(reply, list) else [reply]
        self._rules.append(_Rule(fits, [replace(answer(each), **more) for each in replies], times))

    def latency(
        self,
        first_token: tuple[float, float] = (0, 0),
        per_token: tuple[float, float] = (0, 0),
        *,
        seed: int = 0,
        chunk: int = 1,
    ) -> None:
        """Take time: lognormal, as (median in seconds, sigma). A chunk holds `chunk` tokens.

        What is drawn depends on the seed and the conversation alone, not on who asks, how, or in what order. An answer
        that is not streamed arrives when the last token of its stream would.
        """
        self._medians, self._seed, self.chunk = (first_token, per_token), seed, chunk

    def due(self, request: Request) -> Iterator[float]:
        """When each token of an answer is due, in seconds after the request."""
        draws, at = random.Random(f"{self._seed} {request.digest}"), 0.0
        for median, sigma in itertools.chain([self._medians[0]], itertools.repeat(self._medians[1])):
            at += median * math.exp(draws.gauss(0, sigma)) if median else 0
            yield at

    def __enter__(self) -> Self:
        self._thread.start()
        start = asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=1024)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request after the other, until the client or a fault closes the connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                top, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                fields = (line.partition(":") for line in lines if line)
                headers = {name.lower(): value.strip() for name, _, value in fields}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if not re.match("POST .*/chat/completions ", top):
                    writer.write(_error(Answer(status=404, error=f"nothing here for {top}"), headers))
                    continue
                request = Request(json.loads(body), headers, time.monotonic())
                self.requests.append(request)
                try:
                    if not await _Exchange(self, request, self._choose(request), reader, writer).run():
                        break
                except ConnectionError:
                    request.left = True
                    break
        writer.close()

    def _choose(self, request: Request) -> Answer:
        asked = {name for name, value in request.body.items() if value}
        if refused := self.rejects & asked:
            return Fault.unsupported(min(refused))
        try:
            found = next((taken for rule in self._rules if (taken := rule.take(request))), None)
        except Exception as error:
            return Answer(status=422, error=f"the predicate of a rule failed: {error!r}")
        if found is None:
            return Answer(status=422, error=f"no rule of the fake fits {request.texts}")
        if found.calls and "tools" in self.ignores & asked:
            call = json.dumps({"name": found.calls[0].name, "arguments": found.calls[0].arguments})
            found = replace(found, calls=(), content=Fault.fenced(call).content, finish="stop")
        elif (found.content or "").startswith("{") and "response_format" in self.ignores & asked:
            found = replace(found, content=Fault.prose(found.content).content)
        limit = request.body.get("max_completion_tokens") or request.body.get("max_tokens")
        return cut(found, limit) if limit else found


@dataclass
class _Exchange:
    """One request and its answer, on the wire."""

    fake: Fake
    request: Request
    answer: Answer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def run(self) -> bool:
        """Whether the connection is good for another request."""
        said, asked, self._due = self.answer, self.request.body, self.fake.due(self.request)
        await asyncio.sleep(said.delay)
        if said.breaks == "close":
            return False
        if said.status != 200:
            self.writer.write(_error(said, self.request.headers))
            return True
        self._top = {"id": f"chatcmpl-{self.request.digest[:12]}", "created": 0, "model": asked.get("model")}
        usable = await (self._stream() if asked.get("stream") else self._whole())
        await self.writer.drain()
        return usable

    async def _whole(self) -> bool:
        said, calls = self.answer, self._calls()
        message = {"role": "assistant", "content": said.content, "refusal": said.refusal}
        message |= {"tool_calls": calls} if calls else {}
        choice = {"index": 0, "message": message, "finish_reason": said.finish}
        body = json.dumps(self._top | {"object": "chat.completion", "choices": [choice]} | self._usage()).encode()
        if said.breaks == "garble":
            body = body.replace(b'"choices"', b'"choices')
        half = len(body) // 2
        await self._reach(sum(count for _, count in self._deltas()) or 1)
        self.writer.write(_head(200, "application/json", half if said.breaks == "truncate" else len(body)))
        self.writer.write(body[:half])
        if said.breaks == "stall":
            await asyncio.sleep(said.stall)
        if said.breaks not in {"drop", "truncate"}:
            self.writer.write(body[half:])
        return said.breaks != "drop"

    async def _stream(self) -> bool:
        said, top, deltas = self.answer, self._top | {"object": "chat.completion.chunk"}, self._deltas()
        breaks_at = min(said.after, len(deltas)) if said.breaks else None
        frames = [*deltas, ({}, 0 if deltas else 1)]
        frames[0][0]["role"] = "assistant"
        for number, (delta, count) in enumerate(frames):
            await self._reach(count)
            if number == 0:
                self.writer.write(_head(200, "text/event-stream"))
            choice = {"index": 0, "delta": delta, "finish_reason": None if number < len(deltas) else said.finish}
            chunk = json.dumps(top | {"choices": [choice]})
            if number == breaks_at:
                if said.breaks == "drop":
                    return False
                if said.breaks == "truncate":
                    break
                if said.breaks == "garble":
                    chunk = chunk[: len(chunk) // 2]
                await asyncio.sleep(said.stall)
            self._event(chunk)
        else:
            if (self.request.body.get("stream_options") or {}).get("include_usage") and said.usage:
                self._event(json.dumps(top | {"choices": []} | self._usage()))
            self._event("[DONE]")
        self.writer.write(b"0\r\n\r\n")
        return True

    def _event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.writer.write(b"%x\r\n%b\r\n" % (len(event), event))

    async def _reach(self, count: int) -> None:
        """Wait until so many more tokens are there."""
        for due in itertools.islice(self._due, count):
            self._at = self.request.at + self.answer.delay + due
        if (wait := self._at - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        if self.reader.at_eof() or self.writer.is_closing():
            raise ConnectionResetError

    def _deltas(self) -> list[tuple[Body, int]]:
        """What a stream says piece by piece, each with its number of tokens."""
        said, size = self.answer, self.fake.chunk
        deltas = [({"content": piece}, count) for piece, count in _pieces(said.content, size)]
        deltas += [({"refusal": piece}, count) for piece, count in _pieces(said.refusal, size)]
        for number, call in enumerate(self._calls()):
            opening = call | {"index": number}
            for piece, count in _pieces(call["function"]["arguments"], size) or [("", 1)]:
                function = opening.pop("function", {}) | {"arguments": piece}
                deltas.append(({"tool_calls": [opening | {"index": number, "function": function}]}, count))
                opening = {}
        return deltas

    def _calls(self) -> list[Body]:
        name = f"call_{self.request.digest[:12]}"
        return [
            {"id": f"{name}_{number}", "type": "function", "function": {"name": call.name, "arguments": call.wire}}
            for number, call in enumerate(self.answer.calls)
        ]

    def _usage(self) -> Body:
        if not self.answer.usage:
            return {}
        prompt = sum(4 + len(tokens(text)) for text in self.request.texts)
        said = sum(count for _, count in self._deltas())
        usage = {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}
        return {"usage": usage if self.answer.cost is None else usage | {"cost": self.answer.cost}}


def _pieces(text: str | None, size: int) -> list[tuple[str, int]]:
    words = tokens(text)
    parts = [words[start : start + size] for start in range(0, len(words), size)]
    return [("".join(part), len(part)) for part in parts]


def _error(said: Answer, headers: dict[str, str]) -> bytes:
    message = said.error.replace("{authorization}", headers.get("authorization", ""))
    body = json.dumps({"error": {"message": message, "type": "fake", "param": None, "code": said.code}}).encode()
    retry = "" if said.retry_after is None else f"Retry-After: {said.retry_after:g}\r\n"
    return _head(said.status, "application/json", len(body), retry) + body


def _head(status: int, kind: str, length: int | None = None, more: str = "") -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\n{size}\r\n{more}\r\n".encode()
