"""Malformed answers of language models: what was meant is known, and what was written instead is drawn from a seed.

The kinds are those that models and endpoints really produce. `malformed` gives every kind equally often, each on every
schema that it can befall, so that a benchmark over them says how many answers are read at once, how many are corrected
by asking again, and how many are read wrongly.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal, NamedTuple, cast

from pydantic import BaseModel, TypeAdapter

from orchestra.models.parsing import Answer


class Customer(BaseModel):
    name: str
    email: str | None = None


class Item(BaseModel):
    description: str
    quantity: int
    price: Decimal
    discount: float = 0.0


class Invoice(BaseModel):
    number: str
    issued: date
    due: date | None = None
    customer: Customer
    items: list[Item]
    currency: Literal["EUR", "USD", "JPY"]
    paid: bool


class Severity(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Finding(BaseModel):
    title: str
    severity: Severity
    confidence: float
    evidence: str | None = None
    line: int | None = None
    tags: list[str] = []


class Action(StrEnum):
    SEARCH = "search"
    READ = "read"
    WRITE = "write"


class Step(BaseModel):
    id: str
    action: Action
    needs: list[str]
    minutes: int
    note: str | None = None
    substeps: list[Step] = []


class Plan(BaseModel):
    goal: str
    risk: Literal["none", "some", "high"]
    start: datetime
    steps: list[Step]


class Translation(BaseModel):
    language: str
    text: str
    notes: dict[str, str]


class Sample(NamedTuple):
    """One malformed answer.

    Attributes:
        schema: The declared type.
        intended: The value that the model meant.
        answer: What came instead.
        kind: In what way it is malformed.
    """

    schema: Any
    intended: Any
    answer: Answer
    kind: str

    @property
    def is_text(self) -> bool:
        """Whether the declared type is `str`."""
        return self.schema is str


@dataclass
class _Draft:
    """What is corrupted: a value as data, and ways to write it."""

    random: random.Random
    schema: Any
    value: Any

    @property
    def data(self) -> Any:
        """As JSON holds it, anew each time."""
        return TypeAdapter(self.schema).dump_python(self.value, mode="json")

    @property
    def json(self) -> str:
        return self.written(self.data)

    def written(self, data: Any) -> str:
        indent = self.random.choice([None, 2, 4])
        return json.dumps(data, indent=indent, ensure_ascii=self.random.random() < 0.3)

    def tell(self, text: str) -> None:
        """Let the value hold a text."""
        match self.data:
            case {"customer": _} as data:
                data["customer"]["name"] = text
            case {"goal": _} as data:
                data["goal"] = text
            case {"text": _} as data:
                data["text"] = text
            case [str(), *rest]:
                data = [text, *rest]
            case [dict(), *_] as data:
                data[0]["title"] = text
            case data:
                pass
        self.value = TypeAdapter(self.schema).validate_python(data)

    def objects(self, data: Any) -> list[dict[str, Any]]:
        """Every object in the data whose keys are fields."""
        inner = cast("Any", data.values() if isinstance(data, dict) else data if isinstance(data, list) else ())
        mine: list[dict[str, Any]] = [data] if isinstance(data, dict) and data.keys() & _FIELDS else []
        return [*mine, *(found for each in inner for found in self.objects(each))]

    def other(self) -> Any:
        """Another value of the type."""
        while True:
            value = _VALUES[self.schema](self.random)
            if value != self.value:
                return TypeAdapter(self.schema).dump_python(value, mode="json")


_FIELDS = {name for model in (Invoice, Customer, Item, Finding, Step, Plan, Translation) for name in model.model_fields}
_TEXTS = [
    "Garden chairs, oak",
    "Größe: 3½ m / 2 m — “extra”",
    "配送料 (東京)",
    'He said: "don\'t"',
    'C:\\temp\\new "file".txt',
    "a {draft}, see [1]",
    "https://example.org/a?b=1#c",
    "line one\nline two",
    "👩‍🔬 naïve façade",
    "100 % // or more",
    "```json\n{}\n```",
    "it's 'quoted', twice",
    "",
]


def _text(r: random.Random) -> str:
    return r.choice(_TEXTS)


def _maybe(r: random.Random, value: Any) -> Any:
    return value if r.random() < 0.6 else None


def _day(r: random.Random) -> date:
    return date(r.randint(2019, 2027), r.randint(1, 12), r.randint(1, 28))


def _invoice(r: random.Random) -> Invoice:
    return Invoice(
        number=f"R-{r.randint(1, 9999):04}",
        issued=_day(r),
        due=_maybe(r, _day(r)),
        customer=Customer(name=_text(r), email=_maybe(r, "ada@example.org")),
        items=[
            Item(
                description=_text(r),
                quantity=r.randint(1, 400),
                price=Decimal(r.randint(1, 10**7)) / 100,
                discount=r.choice([0.0, 0.05, 12.5]),
            )
            for _ in range(r.randint(1, 4))
        ],
        currency=r.choice(["EUR", "USD", "JPY"]),
        paid=r.random() < 0.5,
    )


def _findings(r: random.Random) -> list[Finding]:
    return [
        Finding(
            title=_text(r),
            severity=r.choice([*Severity]),
            confidence=r.randint(0, 100) / 100,
            evidence=_maybe(r, _text(r)),
            line=_maybe(r, r.randint(1, 900)),
            tags=r.sample(["api", "docs", "größe", "x-y"], r.randint(0, 3)),
        )
        for _ in range(r.randint(1, 4))
    ]


def _step(r: random.Random, number: int, depth: int) -> Step:
    return Step(
        id=f"s{number}",
        action=r.choice([*Action]),
        needs=[f"s{n}" for n in range(1, number) if r.random() < 0.4],
        minutes=r.randint(0, 90),
        note=_maybe(r, _text(r)),
        substeps=[_step(r, n, depth - 1) for n in range(1, r.randint(1, 3))] if depth else [],
    )


def _plan(r: random.Random) -> Plan:
    steps = [_step(r, number, 1) for number in range(1, r.randint(3, 5))]
    start = datetime.fromisoformat(f"{_day(r)}T0{r.randint(0, 9)}:30:00+00:00")
    return Plan(goal=_text(r), risk=r.choice(["none", "some", "high"]), start=start, steps=steps)


def _translation(r: random.Random) -> Translation:
    notes = {r.choice(["größe", "a b", "名", "x"]): _text(r) for _ in range(r.randint(0, 3))}
    return Translation(language=r.choice(["de", "ja", "fr"]), text=_text(r), notes=notes)


_WHOLE: list[Any] = [Invoice, list[Finding], Plan, Translation]
_SCALARS: list[Any] = [int, float, bool, date, Severity, Literal["yes", "no", "unsure"], list[str]]
_VALUES: dict[Any, Callable[[random.Random], Any]] = {
    Invoice: _invoice,
    list[Finding]: _findings,
    Plan: _plan,
    Translation: _translation,
    int: lambda r: r.randint(-5, 10**6),
    float: lambda r: r.randint(-500, 10**5) / 8,
    bool: lambda r: r.random() < 0.5,
    date: _day,
    Severity: lambda r: r.choice([*Severity]),
    _SCALARS[5]: lambda r: r.choice(["yes", "no", "unsure"]),
    list[str]: lambda r: [f"{_text(r)}{number}" for number in range(r.randint(1, 4))],
    str: lambda r: r.choice(
        ["The garden chairs are the best offer.", "Größe: 3½ m.", "東京です。", "{not} [json]: 'text'"]
    ),
}
_ANY = [*_WHOLE, *_SCALARS]
_ANY_OR_TEXT = [*_ANY, str]
_BRACKETED = [*_WHOLE, list[str]]

_Made = str | Answer
_KINDS: dict[str, tuple[list[Any], Callable[[_Draft], _Made]]] = {}


def _kind(schemas: list[Any]) -> Callable[[Callable[[_Draft], _Made]], Callable[[_Draft], _Made]]:
    def add(make: Callable[[_Draft], _Made]) -> Callable[[_Draft], _Made]:
        _KINDS[make.__name__.strip("_").replace("_", " ")] = (schemas, make)
        return make

    return add


def _words(d: _Draft) -> str:
    return d.value if d.schema is str else d.json


@_kind(_ANY)
def _fenced(d: _Draft) -> str:
    return f"```{d.random.choice(['json', 'JSON', '', 'json5'])}\n{d.json}\n```"


@_kind(_BRACKETED)
def _fenced_in_prose(d: _Draft) -> str:
    return f"Sure! Here's what you asked for:\n\n```json\n{d.json}\n```\n\nLet me know if it's what you need."


@_kind(_BRACKETED)
def _prose_around(d: _Draft) -> str:
    before = d.random.choice(["Here is the answer: ", "I'd say:\n\n", "Answer (as JSON):\n", "json\n"])
    return f"{before}{d.json}{d.random.choice(['', chr(10) + 'Hope this helps!', ' That is all.'])}"


@_kind(_WHOLE)
def _prose_with_notes(d: _Draft) -> str:
    return f"According to the page [1] and the {{customer}} template:\n{d.json}\n"


@_kind(_ANY_OR_TEXT)
def _thinking_with_drafts(d: _Draft) -> str:
    draft = "a better answer" if d.schema is str else json.dumps(d.other())
    return f"<think>\nPerhaps {draft}? No: \n</think>\n\n{_words(d)}"


@_kind(_BRACKETED)
def _thinking_begun_by_the_template(d: _Draft) -> str:
    return f"Let me see. A draft: {json.dumps(d.other())}\n</think>\n{d.json}"


@_kind(_BRACKETED)
def _python_literal(d: _Draft) -> str:
    return repr(d.data)


@_kind(_BRACKETED)
def _trailing_commas(d: _Draft) -> str:
    return _outside_strings(d.json, lambda part: re.sub(r"(?<=[^\s\[{,])(\s*)([\]}])", r",\1\2", part))


@_kind(_WHOLE)
def _unquoted_keys(d: _Draft) -> str:
    return re.sub(r'"([a-z]+)":', r"\1:", json.dumps(d.data, indent=2))


@_kind(_WHOLE)
def _comments(d: _Draft) -> str:
    first, *lines = json.dumps(d.data, indent=2, ensure_ascii=False).split("\n")
    return "\n".join(
        [f"{first} // done", *(f"{line}  {d.random.choice(['// as told', '/* sure */', ''])}" for line in lines)]
    )


@_kind(_BRACKETED)
def _comment_for_the_rest(d: _Draft) -> str:
    text = json.dumps(d.data, indent=2)
    return re.sub(r"\n( *)([\]}])$", r"\n\1  // ... and so on\n\1\2", text)


@_kind(_BRACKETED)
def _line_breaks_in_strings(d: _Draft) -> str:
    d.tell("first line\n\n  second line")
    text = json.dumps(d.data, ensure_ascii=False)
    return re.sub(r"\\(.)", lambda escape: "\n" if escape[1] == "n" else escape[0], text)


@_kind(_ANY)
def _byte_order_mark_and_crlf(d: _Draft) -> str:
    return "\ufeff" + d.json.replace("\n", "\r\n") + "\r\n\u200b"


@_kind(_WHOLE)
def _smart_quotes(d: _Draft) -> str:
    return re.sub(r'"([a-z]+)":', "\u201c\\1\u201d:", d.json)


@_kind(_BRACKETED)
def _naive_single_quotes(d: _Draft) -> str:
    return re.sub(r'(?<!\\)"', "'", json.dumps(d.data, ensure_ascii=False))


@_kind(_BRACKETED)
def _bracket_never_closed(d: _Draft) -> str:
    text = d.json
    return text[: text.rindex(text.rstrip()[-1])]


@_kind(_BRACKETED)
def _bracket_too_many(d: _Draft) -> str:
    return d.json + d.random.choice("]}")


@_kind(_BRACKETED)
def _first_bracket_missing(d: _Draft) -> str:
    return d.json[1:]


@_kind(_BRACKETED)
def _comma_or_colon_missing(d: _Draft) -> str:
    text = json.dumps(d.data)
    parts = _split(text)
    places = [n for n, part in enumerate(parts) if part in (", ", ": ")]
    if not places:
        return text[1:]
    del parts[d.random.choice(places)]
    return "".join(parts)


@_kind(_BRACKETED)
def _quote_missing(d: _Draft) -> str:
    text = json.dumps(d.data)
    edges = [edge for part in re.finditer(r'"(?:[^"\\]|\\.)*"', text) for edge in (part.start(), part.end() - 1)]
    if not edges:
        return text[:-1]
    gone = d.random.choice(edges)
    return text[:gone] + text[gone + 1 :]


@_kind(_BRACKETED)
def _backslashes_not_escaped(d: _Draft) -> str:
    d.tell(r"D:\data\q.txt")
    return d.json.replace("\\\\", "\\")


@_kind(_ANY_OR_TEXT)
def _cut_at_the_limit(d: _Draft) -> Answer:
    text = _words(d)
    return Answer(text[: d.random.randint(1, len(text))], "length")


@_kind(_ANY_OR_TEXT)
def _stream_ended(d: _Draft) -> Answer:
    text = _words(d)
    return Answer(text[: d.random.randint(1, len(text))], None)


@_kind(_BRACKETED)
def _cut_and_called_complete(d: _Draft) -> str:
    text = d.json
    return text[: d.random.randint(1, len(text) - 1)]


@_kind(_ANY_OR_TEXT)
def _empty(d: _Draft) -> str:
    return d.random.choice(["", " \n", "\ufeff", "<think>What is asked? </think>\n", "<think>I wonder whether"])


@_kind(_ANY_OR_TEXT)
def _refused(d: _Draft) -> Answer:
    if d.random.random() < 0.5:
        return Answer("", "stop", refusal="I can't help with that.")
    return Answer(_words(d)[:20], "content_filter")


@_kind(_ANY)
def _refused_in_prose(d: _Draft) -> str:
    return "I'm sorry, but I can't help with that."


@_kind(_ANY)
def _only_prose(d: _Draft) -> str:
    return f"It depends, but {d.random.randint(2, 99)} would be a good guess."


@_kind(_WHOLE)
def _key_twice(d: _Draft) -> str:
    data = d.data
    target = d.random.choice(d.objects(data))
    key = d.random.choice([*target])
    target["\0"] = "another"
    return json.dumps(data).replace('"\\u0000"', json.dumps(key))


@_kind([Invoice, list[Finding], Plan])
def _key_missing(d: _Draft) -> str:
    return d.written(_changed(d, lambda r, o: o.pop(r.choice([k for k in o if k in _NEEDED]))))


@_kind(_WHOLE)
def _key_unknown(d: _Draft) -> str:
    return d.written(_changed(d, lambda r, o: o.update({r.choice(["extra", "comment", "id2"]): "x"})))


@_kind([Invoice, list[Finding], Plan])
def _optional_key_misspelt(d: _Draft) -> str:
    pairs = {"due": "due_date", "email": "mail", "evidence": "evidences", "line": "lines", "note": "notes"}

    def misspell(r: random.Random, o: dict[str, Any]) -> None:
        for key in o.keys() & pairs.keys():
            o[pairs[key]] = o.pop(key) or "x"

    return d.written(_changed(d, misspell))


@_kind([Invoice, list[Finding], Plan, int, float, bool, date])
def _wrong_type(d: _Draft) -> str:
    if d.schema in (int, float, bool, date):
        return d.random.choice(['"many"', "[]", "{}", "null", '"12 EUR"'])

    def spoil(r: random.Random, o: dict[str, Any]) -> None:
        key = r.choice([k for k in o if k in _NEEDED])
        o[key] = r.choice([{"value": o[key]}, [[o[key]]], False if isinstance(o[key], str) else "about ten"])

    return d.written(_changed(d, spoil))


@_kind([Invoice, Plan, date])
def _date_as_a_number(d: _Draft) -> str:
    if d.schema is date:
        return d.value.strftime(d.random.choice(["%Y%m%d", '"%Y%m%d"', "%Y"]))
    data = d.data
    key = "issued" if d.schema is Invoice else "start"
    data[key] = d.random.choice([1700000000, "1699920000", "20231114", 20231114])
    return d.written(data)


@_kind([Invoice, list[Finding], Plan, Severity, _SCALARS[5]])
def _no_member_of_the_enumeration(d: _Draft) -> str:
    if d.schema in (Severity, _SCALARS[5]):
        return d.random.choice(['"maybe"', "Perhaps", '"HIGH"', "low or high", "1"])

    def invent(r: random.Random, o: dict[str, Any]) -> None:
        for key in o.keys() & {"currency", "severity", "risk", "action"}:
            o[key] = o[key].upper() if o[key].islower() else "CHF"

    return d.written(_changed(d, invent))


@_kind([*_WHOLE, int, bool, Severity])
def _wrapped_in_an_object(d: _Draft) -> str:
    return json.dumps({d.random.choice(["answer", "result", "output", "properties", "data"]): d.data})


@_kind([Invoice, list[Finding], Plan, Translation])
def _wrapped_in_a_list_or_not(d: _Draft) -> str:
    return json.dumps(d.data[0] if isinstance(d.data, list) else [d.data])


@_kind(_BRACKETED)
def _json_in_a_string(d: _Draft) -> str:
    return json.dumps(d.json)


@_kind(_WHOLE)
def _schema_echoed(d: _Draft) -> str:
    schema = TypeAdapter(d.schema).json_schema()
    return d.random.choice(["{}", "```json\n{}\n```", "The schema:\n{}"]).replace("{}", json.dumps(schema))


@_kind(_WHOLE)
def _schema_quoted_first(d: _Draft) -> str:
    return f"The schema is {json.dumps(TypeAdapter(d.schema).json_schema())}\nso the answer is:\n{d.json}"


@_kind(_BRACKETED)
def _two_answers(d: _Draft) -> str:
    return f"{d.json}\n{d.random.choice(['', 'Or rather: ', '---' + chr(10)])}{json.dumps(d.other())}"


@_kind(_BRACKETED)
def _example_then_a_broken_answer(d: _Draft) -> str:
    return f"For example:\n```json\n{json.dumps(d.other())}\n```\nMine:\n```json\n{d.json[:-1]},,\n```"


@_kind(_BRACKETED)
def _answered_twice_alike(d: _Draft) -> str:
    return f"{d.json}\n\nAs said:\n\n```json\n{d.json}\n```"


@_kind(_BRACKETED)
def _a_call_in_python(d: _Draft) -> str:
    return d.random.choice([f"answer = {d.data!r}", f"submit({d.data!r})", f"print(json.dumps({d.data!r}))"])


@_kind([Plan, Translation, Invoice])
def _yaml(d: _Draft) -> str:
    return "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in d.data.items())


@_kind([int, float, date, Severity, _SCALARS[5]])
def _scalar_in_a_sentence(d: _Draft) -> str:
    return d.random.choice(["The answer is {}.", "{}, I think", "**{}** of them"]).format(d.json.strip('"'))


@_kind([date, Severity, _SCALARS[5]])
def _scalar_without_its_quotes(d: _Draft) -> str:
    return f"{d.json.strip(chr(34))}\n"


@_kind([float, list[Finding], Invoice])
def _not_a_number(d: _Draft) -> str:
    if d.schema is float:
        return d.random.choice(["NaN", "Infinity", '"nan"', "1e999", "-Infinity"])
    return re.sub(r'("(?:confidence|discount)": )[0-9.]+', lambda m: m[1] + d.random.choice(["NaN", "1e999"]), d.json)


@_kind([Invoice, list[Finding], float])
def _decimal_comma(d: _Draft) -> str:
    return _outside_strings(d.json, lambda part: re.sub(r"([0-9])\.([0-9])", r"\1,\2", part))


@_kind([*_WHOLE, int, bool])
def _a_call_of_a_tool(d: _Draft) -> str:
    call = json.dumps({"name": "search", "arguments": {"query": _text(d.random)}})
    return d.random.choice(["{}", "```json\n{}\n```", "<tool_call>\n{}\n</tool_call>"]).replace("{}", call)


_NEEDED = {"number", "issued", "customer", "items", "currency", "paid", "description", "quantity", "price"} | {
    *("title", "severity", "confidence", "id", "action", "needs", "minutes", "goal", "risk", "start", "steps")
}


def _changed(d: _Draft, change: Callable[[random.Random, dict[str, Any]], Any]) -> Any:
    """The data with one of its objects changed; if that changes nothing, the first one where it does."""
    data: Any = d.data
    for target in (d.random.choice(d.objects(data)), *d.objects(data)):
        before = json.dumps(target)
        if target.keys() & _NEEDED:
            change(d.random, target)
        if json.dumps(target) != before:
            return data
    d.objects(data)[0]["unheard_of"] = True
    return data


def _split(text: str) -> list[str]:
    """JSON in strings and what is between them, with separators of their own."""
    return [part for part in re.split(r'("(?:[^"\\]|\\.)*"|, |: )', text) if part]


def _outside_strings(text: str, change: Callable[[str], str]) -> str:
    """Change JSON where it is no string: strings stand in for themselves as a character of private use."""
    strings: list[str] = []

    def keep(match: re.Match[str]) -> str:
        strings.append(match[0])
        return "\ue000"

    changed = change(re.sub(r'"(?:[^"\\]|\\.)*"', keep, text))
    return re.sub("\ue000", lambda _: strings.pop(0), changed)


KINDS = tuple(_KINDS)


def malformed(n: int = 300, seed: int = 20260101) -> list[Sample]:
    """Malformed answers, the same ones for the same seed; every kind equally often (n a multiple of their number)."""
    samples: list[Sample] = []
    for number in range(n):
        kind = KINDS[number % len(KINDS)]
        schemas, make = _KINDS[kind]
        # Each kind goes through its schemas, from one that the seed says, so that few samples cover many.
        r = random.Random(f"{seed} {number}")
        first = random.Random(f"{seed} {kind}").randrange(len(schemas))
        schema = schemas[(first + number // len(KINDS)) % len(schemas)]
        adapter = TypeAdapter(schema)
        draft = _Draft(r, schema, adapter.validate_json(adapter.dump_json(_VALUES[schema](r))))
        made = make(draft)
        answer = made if isinstance(made, Answer) else Answer(made, "stop")
        samples.append(Sample(schema, draft.value, answer, kind))
    return samples
