"""What the benchmarks with language models share: an endpoint that keeps books, clients for it, and made-up texts."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import openai
from langchain_openai import ChatOpenAI

from tests.fakes import Answer, Fake, Request
from tests.replies import tokens

_WORDS = """the a of and to in for with on by from at as is are was has it its this that price report table figure
market reader source result measure claim study growth demand supply season region factor method sample model year
small large early late clear rough open common local recent stable likely total mean daily common"""


@dataclass
class Served:
    """One call, as the endpoint's own books have it."""

    model: str
    text: str  # of the whole prompt
    input_tokens: int
    output_tokens: int
    at: float  # when it arrived
    planned: float  # seconds that were drawn for it
    delivered: float = 0.0  # seconds until its last byte was written

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


_SERVING: ContextVar[Served] = ContextVar("serving")  # a connection is a task of its own


class _Watched:
    """A stream's writer; the time of each write is taken."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def write(self, data: bytes) -> None:
        self._writer.write(data)
        if (served := _SERVING.get(None)) is not None:
            served.delivered = time.monotonic() - served.at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


class BookedFake(Fake):
    """A fake endpoint that writes down what it bills, also for answers that nobody waited for."""

    def reset(self) -> None:
        super().reset()
        self.served: list[Served] = []

    async def _connected(self, reader: Any, writer: Any) -> None:
        await super()._connected(reader, _Watched(writer))

    def _choose(self, request: Request) -> Answer:
        said = super()._choose(request)
        # As `_Exchange` counts; an error is not billed.
        size = len(tokens(said.content)) + len(tokens(said.refusal))
        size += sum(len(tokens(call.wire)) or 1 for call in said.calls)
        prompt = sum(4 + len(tokens(text)) for text in request.texts)
        last = max(1, size)
        planned = said.delay + next(itertools.islice(self.due(request), last - 1, None))
        billed = (prompt, size) if said.status == 200 else (0, 0)
        served = Served(request.body.get("model", ""), "\n".join(request.texts), *billed, request.at, planned)
        self.served.append(served)
        _SERVING.set(served)
        return said


class Apart:
    """A fake endpoint in a process of its own, as real ones are: it does not wait for the client's Python."""

    def __init__(self, url: str, pipe: Connection) -> None:
        self.url = url
        self._pipe = pipe

    def books(self) -> list[Served]:
        """What was served so far."""
        self._pipe.send("books")
        return self._pipe.recv()


@contextlib.contextmanager
def apart(prepare: Callable[[Fake], None]) -> Iterator[Apart]:
    """Serve in another process until `with` ends.

    Args:
        prepare: Gives the endpoint its rules and latencies; a function of a module, or a partial of one.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(prepare, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Apart(ours.recv(), ours)
    finally:
        ours.close()
        process.join()


def _serve(prepare: Callable[[Fake], None], pipe: Connection) -> None:
    with BookedFake() as fake, contextlib.suppress(EOFError):
        prepare(fake)
        pipe.send(fake.url)
        while pipe.recv():
            pipe.send(fake.served)


# Each client of its own would read the machine's certificates, which loopback does without.
_CLIENTS = {
    "http_client": openai.DefaultHttpxClient(verify=False),
    "http_async_client": openai.DefaultAsyncHttpxClient(verify=False),
}


def chat(url: str, model: str = "m", **options: Any) -> ChatOpenAI:
    """A client for a fake endpoint."""
    return ChatOpenAI(base_url=url, api_key="x", model=model, max_retries=0, timeout=120, **_CLIENTS, **options)


def words(about: str, least: int, most: int | None = None) -> str:
    """A text of so many words, the same for the same `about`."""
    chance = random.Random(about)
    return " ".join(chance.choices(_WORDS.split(), k=chance.randint(least, most or least)))


def longest(needs: Mapping[str, Iterable[str]], took: Mapping[str, float]) -> float:
    """The length of the critical path.

    Args:
        needs: What each step needs, in topological order.
        took: How long each took; all must be there.
    """
    ends: dict[str, float] = {}
    for step, before in needs.items():
        ends[step] = took[step] + max((ends[need] for need in before), default=0.0)
    return max(ends.values())


def verdict(target: str, met: bool) -> None:
    print(f"target: {target}: {'met' if met else 'missed'}")


def spread(values: list[float], form: str) -> str:
    """Median and worst, which is the highest."""
    return f"{statistics.median(values):{form}} {max(values):{form}}"


def machine() -> str:
    """What was measured on, and how busy it is now."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}"
