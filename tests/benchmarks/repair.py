"""Malformed answers: how many become a valid value, after how many calls, and how many a wrong one.

    python tests/benchmarks/repair.py [--samples 300]

Claimed: of 300 malformed answers of 50 kinds (`tests/models_corpus.py`; each is known by what the model meant), none
is read as another value than was meant; what can't be read is asked for again, and fails honestly if that does not
help. The endpoint is the tests' fake: it gives the malformed answer first and, whenever it is asked again, the right
one, but a third of the times the malformed one anew. An agent asks thrice at most (`repairs=2`).

- Orchestra, by schema: `Agent.from_model` on an endpoint that takes `response_format` and does not keep to it.
- Orchestra, in words: the same on an endpoint that does not know the option, so that the form is told in the prompt.
- LangChain: `with_structured_output(method="json_schema", include_raw=True)` on the same first answers.
- Orchestra, not asking: what is read of the first answers alone, for comparison with
- json-repair: `json_repair.loads` and pydantic on the same texts, if it is installed.

An API wants an object, so where a list or a scalar is declared Orchestra asks for `{"answer": ...}`, and so does the
LangChain row here. The corpus has them bare, so those are malformed in one more way, except to the two last rows.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from _models import BookedFake, chat, machine, verdict
from pydantic import TypeAdapter, create_model

from orchestra import Agent, Workflow
from orchestra.models.parsing import read
from tests.models_corpus import KINDS, Sample, malformed
from tests.replies import Answer

SEED = 20260101


@dataclass(frozen=True)
class Outcome:
    end: str  # "right", "wrong", "none", or "raised" and what
    calls: int = 1  # of the model


def group(sample: Sample) -> str:
    if sample.is_text:
        return "text"
    return "objects" if is_object(sample.schema) else "lists, scalars"


def is_object(schema: Any) -> bool:
    return TypeAdapter(schema).json_schema().get("type") == "object"


def script(fake: BookedFake, samples: Sequence[Sample]) -> None:
    for number, sample in enumerate(samples):
        said = sample.answer
        bad = Answer(content=said.text, finish=said.finish, refusal=said.refusal or None)
        meant = TypeAdapter(sample.schema).dump_python(sample.intended, mode="json")
        good = meant if sample.is_text or is_object(sample.schema) else {"answer": meant}
        chance = random.Random(f"{SEED} again {number}")
        again = [bad if chance.random() < 1 / 3 else Answer(content=_json(good)) for _ in range(2)]
        fake.when(mark(number), [bad, *again])


def _json(value: Any) -> str:
    return value if isinstance(value, str) else TypeAdapter(Any).dump_json(value).decode()


def mark(number: int) -> str:
    return f"<sample {number}>"


def judged(sample: Sample, value: Any) -> str:
    return "right" if value == sample.intended else "wrong"


# The contestants: each says what it makes of a sample

Way = Callable[[BookedFake, int, Sample], Awaitable[Outcome]]


async def orchestra(fake: BookedFake, number: int, sample: Sample, model: str = "") -> Outcome:
    client = chat(fake.url, model or f"m{number}")  # a new name is a new endpoint, of which nothing is known yet
    reader = Agent.from_model("reader", client, "Answer.", output=sample.schema, max_tokens=4000)
    state = await Workflow("repair", agents=[reader]).compile().ainvoke({"request": mark(number)})
    result = state["results"]["reader"]
    calls = sum(mark(number) in each.text for each in fake.served if each.input_tokens)  # what got an answer
    return Outcome(judged(sample, result.output) if result.ok else "none", calls)


async def in_words(fake: BookedFake, number: int, sample: Sample) -> Outcome:
    fake.rejects = {"response_format"}
    return await orchestra(fake, number, sample, "m")


async def reading(fake: BookedFake, number: int, sample: Sample) -> Outcome:
    found = read(sample.answer, TypeAdapter(sample.schema), is_text=sample.is_text)
    return Outcome("none" if found.flaw else judged(sample, found.value), 0)


async def langchain(fake: BookedFake, number: int, sample: Sample) -> Outcome:
    kind = sample.schema if is_object(sample.schema) else create_model("Reply", answer=(sample.schema, ...))
    asker = chat(fake.url).with_structured_output(kind, method="json_schema", include_raw=True)
    try:
        found = (await asker.ainvoke(mark(number)))["parsed"]
    except Exception as error:
        return Outcome(f"raised {type(error).__name__}")
    if found is None:
        return Outcome("none")
    return Outcome(judged(sample, found if kind is sample.schema else found.answer))


async def json_repair(fake: BookedFake, number: int, sample: Sample) -> Outcome:
    import json_repair as library

    try:
        value = TypeAdapter(sample.schema).validate_python(library.loads(sample.answer.text))
    except Exception:
        return Outcome("none", 0)
    return Outcome(judged(sample, value), 0)


WAYS: dict[str, Way] = {
    "Orchestra, by schema": orchestra,
    "Orchestra, in words": in_words,
    "LangChain": langchain,
    "Orchestra, not asking": reading,
    "json-repair": json_repair,
}
PEERS = {"LangChain", "json-repair"}  # which know nothing of plain text
ONCE = {"Orchestra, not asking", *PEERS}


async def outcomes(way: Way, samples: Sequence[Sample]) -> list[Outcome]:
    with BookedFake() as fake:
        script(fake, samples)
        return [await way(fake, number, sample) for number, sample in enumerate(samples)]


def row(name: str, of: str, found: Sequence[Outcome]) -> None:
    right = Counter(each.calls for each in found if each.end == "right")
    ends = Counter(each.end.split()[0] for each in found)
    after = [f"{right[calls]:>5}" for calls in (1, 2, 3)] if name not in ONCE else ["    -"] * 3
    calls = sum(each.calls for each in found) / len(found)
    print(
        f"{name:<22} {of:<15} {len(found):>5} {''.join(after)} {ends['right']:>7} {ends['right'] / len(found):>6.1%}"
        f" {ends['wrong']:>6} {ends['none'] + ends['raised']:>9} {calls:>7.2f}",
        flush=True,
    )


def astray(name: str, samples: Sequence[Sample], found: Sequence[Outcome]) -> None:
    for what in ("wrong", "raised"):
        told = Counter(
            sample.kind if what == "wrong" else each.end.removeprefix("raised ")
            for sample, each in zip(samples, found, strict=True)
            if each.end.startswith(what)
        )
        if told:
            print(f"  {name}, {what}: {', '.join(f'{kind} {count}' for kind, count in told.most_common())}")


async def compare(samples: Sequence[Sample]) -> int:
    """Print the table; return how many values of ours were wrong."""
    ours, told = 0, []
    for name, way in WAYS.items():
        if name == "json-repair" and importlib.util.find_spec("json_repair") is None:
            print("json-repair is not installed here: that peer is left out (pip install json-repair).")
            continue
        mine = [sample for sample in samples if name not in PEERS or not sample.is_text]
        found = await outcomes(way, mine)
        for of in dict.fromkeys(map(group, samples)):
            if part := [each for sample, each in zip(mine, found, strict=True) if group(sample) == of]:
                row(name, of, part)
        row(name, "all", found)
        told.append((name, mine, found))
        ours += sum(each.end == "wrong" for each in found) if name not in PEERS else 0
    for each in told:
        astray(*each)
    return ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=300)
    args = parser.parse_args()
    samples = malformed(args.samples, SEED)
    print(f"{machine()}; {len(samples)} malformed answers of {len(KINDS)} kinds")
    print(
        f"{'':<22} {'':<15} {'':>5}  right after call {'right':>7} {'':>6} {'wrong':>6} {'no value,':>9} {'calls':>7}"
    )
    print(
        f"{'':<22} {'declared':<15} {'of':>5}{1:>6}{2:>5}{3:>5} {'in all':>7} {'value':>13} {'says so':>9} {'each':>7}"
    )
    wrong = asyncio.run(compare(samples))
    verdict(f"no wrong value ({wrong})", not wrong)
    print(machine())


if __name__ == "__main__":
    main()
