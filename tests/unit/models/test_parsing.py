from __future__ import annotations

import dataclasses
import enum
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from typing_extensions import TypedDict

from orchestra.models.flaws import Flaw
from orchestra.models.parsing import Answer, Reading, looks_like_tool_call, read
from tests.models_corpus import KINDS, malformed


class Offer(BaseModel):
    name: str
    price: float
    count: int = 1
    note: str | None = None


class Node(BaseModel):
    name: str = ""
    child: Node | None = None
    kids: list[Node] = []


class Colour(enum.Enum):
    RED = "red"
    NOTHING = "null"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Allows(BaseModel):
    model_config = ConfigDict(extra="allow")

    a: int = 0


class Ignores(BaseModel):
    model_config = ConfigDict(extra="ignore")

    a: int = 0


class Outer(BaseModel):
    inner: Ignores
    plain: Offer | None = None


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Typed(TypedDict):
    a: int


def reading(kind: Any, text: str, finish: str | None = "stop", refusal: str = "") -> Reading:
    return read(Answer(text, finish, refusal), TypeAdapter(kind), is_text=kind is str)


def flaw(kind: Any, text: str, finish: str | None = "stop", refusal: str = "") -> Flaw:
    got = reading(kind, text, finish, refusal)
    assert got.flaw is not None, got
    assert got.value is None
    assert got.problem
    assert "\n" not in got.problem
    return got.flaw


GOOD = Offer(name="chair", price=2.5)
PLAIN = '{"name": "chair", "price": 2.5}'
FENCE, PROSE = "taken out of fenced code", "taken out of prose"
JSON5, PYTHON = "read as JSON5 (trailing commas, quotes, comments)", "read as a Python literal"
LINES, BARE = "read with line breaks inside strings", "read as a bare word"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (PLAIN, ""),
        (f"\ufeff\u200b{PLAIN}\r\n", ""),
        (json.dumps(json.loads(PLAIN), indent=2).replace("\n", "\r\n"), ""),
        (f"<think>Perhaps {PLAIN.replace('2.5', '9')}?</think>\n{PLAIN}", ""),
        (f"Perhaps {PLAIN.replace('2.5', '9')}?\n</think>\n\n{PLAIN}", ""),
        (f"```json\n{PLAIN}\n```", FENCE),
        (f"```json {PLAIN}```", FENCE),
        (f"Sure, here's the \"offer\":\n\n```\n{PLAIN}\n```\nIsn't it good?", FENCE),
        (f"json\n{PLAIN}", PROSE),
        (f"The answer is: {PLAIN}. Done!", PROSE),
        (f"<answer>\n{PLAIN}\n</answer>", PROSE),
        (f"See [1] and the {{offer}} template:\n{PLAIN}", PROSE),
        (f"{PLAIN}\n\nAgain:\n{PLAIN.replace('2.5', '2.50')}", PROSE),
        ("{'name': 'chair', \"price\": 2.5,}", JSON5),
        ("{name: 'chair', // it is\n price: 2.5 /* EUR */}", JSON5),
        ("{'name': 'chair', 'price': 2.5, 'note': None}", PYTHON),
        ("```python\n{'name': 'chair', 'price': 2.5, 'note': None}\n```", f"{FENCE}; {PYTHON}"),
        (f"I'd say {PLAIN[:-1]},}}", f"{PROSE}; {JSON5}"),
        ('{"name": "chair", "price": "2.5", "count": 1.0}', ""),
        ('{"name": "chair", "price": 2.5, "price": 2.5}', ""),
    ],
)
def test_what_can_be_read_in_one_way_only_is_read(text: str, cleaned: str) -> None:
    assert reading(Offer, text) == Reading(value=GOOD, cleaned=cleaned)


def test_line_breaks_in_strings_are_kept() -> None:
    assert reading(Offer, '{"name": "a\n\tb", "price": 1}') == Reading(Offer(name="a\n\tb", price=1), cleaned=LINES)


@pytest.mark.parametrize(
    ("kind", "text", "value", "cleaned"),
    [
        (int, "42", 42, ""),
        (int, " 42.0\n", 42, ""),
        (int, '"42"', 42, ""),
        (int, "```\n42\n```", 42, FENCE),
        (int, "It is:\n```json\n42\n```\nIs it?", 42, FENCE),
        (float, "1", 1.0, ""),
        (bool, "true", True, ""),
        (bool, "True", True, PYTHON),
        (bool, '"False"', False, ""),
        (Colour, "red", Colour.RED, BARE),
        (Colour, '"red"', Colour.RED, ""),
        (Colour, "'red'", Colour.RED, JSON5),
        (Colour, "null", Colour.NOTHING, BARE),
        (Colour | None, "null", None, ""),
        (Literal["yes", "no"], "```\nno\n```", "no", f"{FENCE}; {BARE}"),
        (Literal["1", "2"], "1", "1", BARE),
        (Level, "2", Level.HIGH, ""),
        (int | None, "None", None, PYTHON),
        (date, "2024-01-05", date(2024, 1, 5), BARE),
        (date, '"2024-01-05T00:00:00"', date(2024, 1, 5), ""),
        (timedelta, '"PT5M"', timedelta(minutes=5), ""),
        (Decimal, "0.1", Decimal("0.1"), ""),
        (Decimal, '"12345678901234567890.123"', Decimal("12345678901234567890.123"), ""),
        (list[str], "['a', \"b\"]", ["a", "b"], JSON5),
        (tuple[int, str], "(1, 'a')", (1, "a"), PYTHON),
        (set[int], "[1, 2]", {1, 2}, ""),
        (dict[int, str], "{1: 'a', 2: None}", None, None),
        (dict[int, str], "{1: 'a', 2: 'b'}", {1: "a", 2: "b"}, PYTHON),
        (Point, '{"x": 1}', Point(1), ""),
        (Typed, '{"a": 1}', {"a": 1}, ""),
        (RootModel[list[int]], "[1]", RootModel[list[int]]([1]), ""),
        (Annotated[str, Field(max_length=9)], '"hello"', "hello", ""),
        (Any, '{"a": [1, true, null]}', {"a": [1, True, None]}, ""),
        (Node, '{"name": "```json\\n{}\\n```", "child": {}}', Node(name="```json\n{}\n```", child=Node()), ""),
        (float, "0.333333333333333333333333", 1 / 3, ""),
    ],
)
def test_every_type_is_read_as_json_has_it(kind: Any, text: str, value: Any, cleaned: str | None) -> None:
    if cleaned is None:
        assert flaw(kind, text) is Flaw.WRONG
    else:
        got = reading(kind, text)
        assert (got.value, got.cleaned, got.flaw) == (value, cleaned, None), got.problem
        assert type(got.value) is type(value)


@pytest.mark.parametrize(
    ("text", "finish", "refusal", "expected"),
    [
        (PLAIN, "stop", "I can't.", Flaw.REFUSED),
        (PLAIN, "content_filter", "", Flaw.REFUSED),
        ("", "length", "", Flaw.EMPTY),
        (" \ufeff\n", "stop", "", Flaw.EMPTY),
        ("<think>so</think>\n", "stop", "", Flaw.EMPTY),
        ("<think>so", "stop", "", Flaw.EMPTY),
        ("so\n</think>\n", "stop", "", Flaw.EMPTY),
        ("<think>so", "length", "", Flaw.CUT),
        (PLAIN, "length", "", Flaw.CUT),
        (PLAIN, None, "", Flaw.TRUNCATED),
        ("42", None, "", Flaw.TRUNCATED),
        (PLAIN, "abort", "", Flaw.TRUNCATED),
    ],
)
def test_an_answer_that_did_not_end_well_is_not_read(text: str, finish: str, refusal: str, expected: Flaw) -> None:
    assert flaw(Offer, text, finish, refusal) is expected


def test_the_words_of_a_refusal_are_told() -> None:
    assert reading(Offer, "", refusal="I can't\nhelp.").problem == "the model declined: I can't help."


def test_text_is_its_words() -> None:
    assert reading(str, " \ufeffIt's {fine} [1]\n") == Reading("It's {fine} [1]")
    assert reading(str, "<think>a</think>\n<thinking>b</thinking> c <think>d</think>").value == "c <think>d</think>"
    assert flaw(str, "a", "length") is Flaw.CUT
    assert flaw(str, "a", None) is Flaw.TRUNCATED
    assert flaw(str, "a", "content_filter") is Flaw.REFUSED
    assert flaw(str, "a", refusal="no") is Flaw.REFUSED
    assert flaw(str, " \n") is Flaw.EMPTY


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Offer, PLAIN[:-1]),
        (Offer, PLAIN[1:]),
        (Offer, PLAIN + "}"),
        (Offer, "{" + PLAIN),
        (Offer, f"```json\n{PLAIN[:-1]}"),
        (Offer, PLAIN.replace(",", "")),
        (Offer, "{\u201cname\u201d: \u201cchair\u201d}"),
        (Offer, '{"name": "chair" "table", "price": 1}'),
        (Offer, "{'name': 'it''s', 'price': 1}"),
        (Offer, '{"name": "C:\\data", "price": 1}'),
        (Offer, "{'name': 'C:\\data', 'price': 1}"),
        (Offer, '{"name": "chair", "price": (500)}'),
        (Offer, '{"name": "chair", "price": 1,200.50}'),
        (Offer, '{"name": "chair", "price": 1.}'),
        (Offer, '{"name": "chair", "price": 007}'),
        (Offer, '{"name": "chair", "price": 0x10}'),
        (Offer, '{"name": "chair", "price": NaN}'),
        (Offer, '{"name": "chair", "price": -Infinity}'),
        (Offer, '{"name": "chair", "price": 1e999}'),
        (Offer, '{"name": "\\ud800", "price": 1}'),
        (Offer, '{"name": "a\x00", "price": 1}'),
        (Offer, '{"name": "chair", "price": 1 // ... and so on\n}'),
        (Offer, '{"name": "chair", "price": 1, // "count": 2\n}'),
        (Offer, f"offer = {PLAIN}"),
        (Offer, f"Offer(**{PLAIN})"),
        (Offer, f"{PLAIN}, as JSON"),
        (Offer, f"<a>1</a><b>{PLAIN}</b>"),
        (Offer, "I'm sorry, I can't help with that."),
        (Offer, "Offer(name='chair', price=2.5)"),
        (Node, '"name": "x", "child": {"name": "y"}'),
        (Node, 'name: x\nchild: {"name": "y"}'),
        (Node, '- **Name:** x\n- **Child:** {"name": "y"}'),
        (Node, "Node(name='x', child={'name': 'y'})"),
        (Node, '{\u201cname\u201d: \u201c}\u201d, \u201cchild\u201d: {"name": "y"}}'),
        (dict[str, Any], '{"code": "```json\n{}\n```" "x": 1}'),
        (Any, "\"# {'a': 1}"),
        (Any, 'He said "use {"a": 1}" then'),
        (Any, '"x </think>{"a": 1}'),
        (Any, "It is:\n```\n\"x </think>{'a': 1}\n```"),
        (dict[str, Any], 'It is {"a": "", "b": "</think>{}'),
        (dict[str, Any], "It is {a: [</think>{}"),
        (list[str], '["a" "b"]'),
        (list[str], '[\n""#b"\n]'),
        (list[int], "[1 2]"),
        (list[int], "[00]"),
        (list[int], "1, 2"),
        (list[int], "{1, 2}"),
        (list[int], "[1, 2)"),
        (int, "The answer is 42."),
        (int, "1,234"),
        (int, "(5)"),
        (int, "0x10"),
        (int, "9" * 5000),
        (float, "NaN"),
        (bool, "yes"),
        (Colour, "Red"),
        (Colour, "red or blue"),
        (Annotated[str, Field(max_length=99)], "Prose is no JSON."),
        (str | Offer, PLAIN[:-1]),
    ],
)
def test_what_is_not_json_is_broken(kind: Any, text: str) -> None:
    assert flaw(kind, text) is Flaw.BROKEN


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        (Offer, '{"name": "chair", "price": "two"}', "price: Input should be a valid number"),
        (list[Offer], f'[{PLAIN}, {{"name": "a", "price": []}}]', "1.price: Input should be a valid number"),
        (Offer, '{"price": 2.5}', "name: Field required"),
        (Offer, '{"name": "a", "price": 1, "notes": "x"}', "notes: Extra inputs are not permitted"),
        (Offer, f'{{"answer": {PLAIN}}}', "answer: Extra"),
        (Offer, f"[{PLAIN}]", "the answer: Input should be an object"),
        (list[Offer], PLAIN, "the answer: Input should be a valid"),
        (list[Offer], f"{PLAIN}\n{PLAIN.replace('chair', 'b')}", "the answer: Input should be a valid"),
        (Offer, json.dumps(PLAIN), "the answer: Input should be an object"),
        (Offer, "null", "the answer: Input should be an object"),
        (Offer, '{"name": "a", "price": true}', "price: "),
        (Offer, '{"name": "a", "price": "nan"}', "price: "),
        (Offer, '{"name": 5, "price": 1}', "name: Input should be a valid string"),
        (Offer, '{"name": "a", "price": 1, "count": 1.5}', "count: "),
        (Offer, '{"name": "a", "price": 1, "count": true}', "count: "),
        (Offer, '{"name": "a", "price": 1, "count": "007"}', "count: "),
        (list[int], "[1e20]", "0: "),
        (list[int], "[123456789012345678.0]", "0: "),
        (bool, "1", "the answer: "),
        (Level, "true", "true is not 1"),
        (Literal[True], "1", "1 is not true"),
        (datetime, '"20240105"', "2024-01-31"),
        (datetime, "20240105", "2024-01-31"),
        (date, "1704067200", "the answer: "),
        (date, '"1704067200"', "2024-01-31"),
        (set[date], '["1704067200"]', "0: "),
        (dict[datetime, int], '{"20240105": 1}', "20240105: "),
        (timedelta, "5", "the answer: "),
        (Decimal, "12345678901234567890.123", "more digits"),
        (set[Decimal], "[12345678901234567890.123]", "more digits"),
        (Colour, '"blue"', "'red'"),
        (Point, '{"x": 1, "z": 2}', "z: "),
        (Typed, '{"a": 1, "b": 2}', "b: "),
        (Outer, '{"inner": {}, "plain": {"name": "a", "price": 1, "x": 1}}', "plain.x: "),
        (Outer, '{"inner": {"x": 1}, "plain": {"name": "a", "price": 1, "x": 1}}', "plain.x: "),
        (Allows, '{"answer": {"a": 1}}', "answer: "),
        (dict[str, Any], json.dumps(TypeAdapter(dict[str, Any]).json_schema()), "JSON schema"),
        (Allows, json.dumps(Allows.model_json_schema()), "JSON schema"),
        (Offer, json.dumps({"json_schema": {"schema": Offer.model_json_schema()}}), "JSON schema"),
        (Node, json.dumps(Node.model_json_schema()), "JSON schema"),
        (Offer, json.dumps({"properties": json.loads(PLAIN)}), "properties: "),
    ],
)
def test_what_is_not_of_the_type_is_wrong_and_the_field_is_named(kind: Any, text: str, problem: str) -> None:
    assert flaw(kind, text) is Flaw.WRONG
    assert problem in reading(kind, text).problem


def test_only_the_first_problems_are_told() -> None:
    problem = reading(list[int], json.dumps(["x"] * 99)).problem
    assert problem.startswith("0: ")
    assert problem.endswith("; and 94 more")


OTHER = PLAIN.replace("2.5", "3")


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "chair", "price": 1, "price": 2}',
        "{'name': 'chair', 'price': 1, 'price': 2}",
        "{'name': 'chair', 'price': 1, 'price': None}",
        '{"name": "chair", "price": 1, "price": true}',
        f"{PLAIN}\n{OTHER}",
        f"First {PLAIN}, no: {OTHER}".replace("},", "}."),
        f"```json\n{PLAIN}\n```\nor\n```json\n{OTHER}\n```",
        f"For example:\n{PLAIN}\nMine:\n{OTHER.replace('3', 'three')}",
        f"For example:\n{PLAIN}\nMine:\n{OTHER.replace('3', '[3]')}",
        f"The schema {json.dumps(Offer.model_json_schema())}\nmeans\n{PLAIN}",
        f"{PLAIN}\n{{}}",
        "[]" * 999,
    ],
)
def test_what_says_more_than_one_thing_is_ambiguous(text: str) -> None:
    assert flaw(Offer, text) is Flaw.AMBIGUOUS


def test_an_example_beside_an_answer_is_told_apart_from_two_answers() -> None:
    assert "and not all are an answer (price: " in reading(Offer, f"{PLAIN}\n{OTHER.replace('3', '[3]')}").problem
    assert "2 answers that differ" in reading(Offer, f"{PLAIN}\n{OTHER}").problem


def test_keys_that_mean_the_same_are_ambiguous() -> None:
    assert flaw(dict[int, str], '{"1": "a", "01": "b"}') is Flaw.AMBIGUOUS
    assert flaw(dict[int, str], "{1: 'a', '1': 'b'}") is Flaw.AMBIGUOUS
    assert reading(dict[str, str], '{"1": "a", "01": "b"}').value == {"1": "a", "01": "b"}


def test_an_example_before_an_answer_that_never_ends_is_not_the_answer() -> None:
    assert flaw(Offer, f"For example {PLAIN}. Mine: {OTHER[:-1]}") is Flaw.BROKEN


def test_notes_in_brackets_count_where_lists_are_wanted() -> None:
    assert flaw(list[int], "As [1] says:\n[1, 2]") is Flaw.AMBIGUOUS


def test_a_type_may_take_keys_that_it_does_not_know() -> None:
    assert reading(Allows, '{"a": 1, "b": [2]}').value == Allows.model_validate({"a": 1, "b": [2]})
    assert reading(Ignores, '{"b": 1}').value == Ignores()
    value = reading(Outer, '{"inner": {"a": 2, "b": 1}, "plain": {"name": "a", "price": "1"}}').value
    assert value == Outer(inner=Ignores(a=2), plain=Offer(name="a", price=1))


def _digits(value: Any) -> Any:
    return datetime.strptime(value, "%Y%m%d").date() if isinstance(value, str) else value


def _length(value: Any) -> Any:
    return len(value)


class Own(BaseModel):
    day: Annotated[date, BeforeValidator(_digits)]
    words: Annotated[Any, AfterValidator(str.split)] = ""
    many: Annotated[int, BeforeValidator(_length)] = 0

    @model_validator(mode="before")
    @classmethod
    def rename(cls, data: Any) -> Any:
        return {"day": data.pop("date"), **data}


def test_validators_of_the_type_have_their_say() -> None:
    value = reading(Own, '{"date": "20240105", "words": "a b", "many": [1, 2]}').value
    assert (value.day, value.words, value.many) == (date(2024, 1, 5), ["a", "b"], 2)


def test_a_validator_that_fails_otherwise_makes_the_answer_wrong() -> None:
    assert "KeyError" in reading(Own, '{"day": "20240105"}').problem
    assert "AttributeError" in reading(Own, "5").problem


# Whatever is done to an answer, what is read is what was meant or nothing.

WORDS = st.text(alphabet="abé01 ,:{}[]\"'\\/#`<>-.=()\n“”", max_size=8)
ODD = st.sampled_from(
    ["//", "...", "```\n{}\n```", '", "a": "', "', 'a': '", '{"name": "y"}', "None", "</think>", "<b>"]
)
TEXTS = WORDS | ODD
NUMBERS = st.integers(-(2**40), 2**40)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
PLAIN_KINDS: dict[Any, st.SearchStrategy[Any]] = {
    int: NUMBERS,
    float: FLOATS,
    bool: st.booleans(),
    str: TEXTS,
    date: st.dates(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False, places=2),
    Literal["red", "a b"]: st.sampled_from(["red", "a b"]),
    Colour: st.sampled_from([*Colour]),
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("name", "b", "some_key")


@st.composite
def schemas(draw: st.DrawFn, depth: int = 2) -> tuple[Any, st.SearchStrategy[Any]]:
    """A type, and its values."""
    shape = draw(st.sampled_from(["plain", "list", "dict", "optional", "model", "model"] if depth else ["plain"]))
    if shape == "plain":
        kind = draw(st.sampled_from([*PLAIN_KINDS]))
        return kind, PLAIN_KINDS[kind]
    if shape == "model":
        fields: dict[str, Any] = {}
        values: dict[str, st.SearchStrategy[Any]] = {}
        for name in draw(st.lists(st.sampled_from(FIELDS), min_size=1, unique=True)):
            inner, values[name] = draw(schemas(depth - 1))
            fields[name] = (inner, ...) if draw(st.booleans()) else (inner | None, None)
        model = create_model("Drawn", **fields)
        return model, st.fixed_dictionaries(values).map(lambda given: model(**given))
    inner, value = draw(schemas(depth - 1))
    if shape == "list":
        return list[inner], st.lists(value, max_size=3)
    if shape == "dict":
        return dict[str, inner], st.dictionaries(TEXTS, value, max_size=3)
    return inner | None, st.none() | value


def nodes() -> st.SearchStrategy[Node]:
    return st.recursive(
        st.builds(Node, name=TEXTS),
        lambda inner: st.builds(Node, name=TEXTS, child=st.none() | inner, kids=st.lists(inner, max_size=2)),
        max_leaves=4,
    )


@st.composite
def meant(draw: st.DrawFn) -> tuple[TypeAdapter[Any], Any, Any]:
    """A type, a value of it, and that value as JSON holds it."""
    kinds = schemas() | st.sampled_from(
        [(Node, nodes()), (dict[str, Any], st.dictionaries(TEXTS, ANYTHING, max_size=3))]
    )
    kind, values = draw(kinds | st.just((Any, ANYTHING)))
    assume(kind is not str)
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    data = adapter.dump_python(draw(values), mode="json")
    try:
        return adapter, adapter.validate_json(json.dumps(data)), data
    except ValidationError:  # such as an optional list of optional lists: None may not come back
        assume(False)
        raise


Draw = Callable[[st.SearchStrategy[Any]], Any]


def written(draw: Draw, data: Any) -> str:
    return draw(
        st.sampled_from(
            [
                json.dumps(data),
                json.dumps(data, indent=2, ensure_ascii=False),
                json.dumps(data, separators=(",", ":")),
                repr(data),
            ]
        )
    )


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'', re.DOTALL)


def structure(text: str) -> list[int]:
    """Where an answer is written, and not what it says: brackets, quotes, commas, colons, white space."""
    inside = {place for found in _STRING.finditer(text) for place in range(found.start() + 1, found.end() - 1)}
    return [
        n for n, character in enumerate(text) if n not in inside and not character.isalnum() and character not in "+-."
    ]


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def dropped(draw: Draw, text: str) -> str:
    places = structure(text)
    assume(places)
    place = draw(st.sampled_from(places))
    return text[:place] + text[place + 1 :]


def inserted(draw: Draw, text: str) -> str:
    ends = {found.end() - 1 for found in _STRING.finditer(text)}  # before a closing quote it would be said
    numbers = {n for n in range(1, len(text)) if text[n - 1] in "0123456789.-+e" and text[n] in "0123456789.-+e"}
    places = [n for n in structure(text) if n not in ends and n not in numbers]
    assume(places)
    place = draw(st.sampled_from(places))
    return text[:place] + draw(st.sampled_from("{}[]:,\"'()")) + text[place:]


def replaced(draw: Draw, text: str) -> str:
    places = structure(text)
    assume(places)
    place = draw(st.sampled_from(places))
    return text[:place] + draw(st.sampled_from("{}[]:,\"'()")) + text[place + 1 :]


def begun(draw: Draw, text: str) -> str:
    return text[: draw(st.integers(0, len(text) - 1))]


def ended(draw: Draw, text: str) -> str:
    return text[draw(st.integers(1, len(text))) :]


def trailing(draw: Draw, text: str) -> str:
    return re.sub(r"([\]}])\Z", r",\1", text)


def commented(draw: Draw, text: str) -> str:
    return re.sub(r"\A([\[{])", rf"\1{draw(st.sampled_from(['// it is', '/* it is */ ', '# it is']))}\n", text)


def curly(draw: Draw, text: str) -> str:
    return _STRING.sub(lambda found: f"\u201c{found[0][1:-1]}\u201d", text)


EDITS = [dropped, inserted, replaced, begun, ended, trailing, commented, curly]
WRAPPERS: list[Callable[[str], str]] = [
    lambda text: text,
    lambda text: f"```json\n{text}\n```",
    lambda text: f"Here's the answer:\n\n```\n{text}\n```\nIt's good.",
    lambda text: f"The answer is {text}\nDone.",
    lambda text: f"\ufeff{text}\r\n",
    lambda text: f"<think>Perhaps {{}} or {text[:3]}</think>{text}",
]


def agrees(answer: Answer, adapter: TypeAdapter[Any], value: Any) -> Reading:
    """It is read as what was meant, or not at all."""
    got = read(answer, adapter, is_text=False)
    if got.flaw is None:
        assert got.value == value
        assert repr(got.value) == repr(value)
    else:
        assert got.value is None
        assert got.problem
        assert "\n" not in got.problem
    return got


quick = settings(  # a few examples, but others each time that the tests run
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@quick
@given(st.data())
def test_a_damaged_answer_is_never_read_as_another_value(data: st.DataObject) -> None:
    """What says something, letters and digits, stays as it was: another one would be another valid answer."""
    adapter, value, meant_data = data.draw(meant())
    text = written(data.draw, meant_data)
    damaged = data.draw(st.sampled_from(EDITS))(data.draw, text)
    assume(not is_json(damaged))
    agrees(Answer(data.draw(st.sampled_from(WRAPPERS))(damaged), "stop"), adapter, value)


@quick
@given(st.data())
def test_an_answer_that_ends_without_a_word_is_never_read(data: st.DataObject) -> None:
    adapter, _, meant_data = data.draw(meant())
    text = json.dumps(meant_data)
    for length in range(1, len(text) + 1):
        for finish, expected in ((None, Flaw.TRUNCATED), ("length", Flaw.CUT)):
            got = read(Answer(text[:length], finish), adapter, is_text=False)
            assert got.flaw in (expected, Flaw.EMPTY)


@quick
@given(meant())
def test_plain_json_is_read_and_wrapped_as_well(drawn: tuple[TypeAdapter[Any], Any, Any]) -> None:
    adapter, value, data = drawn
    text = json.dumps(data)
    assert agrees(Answer(text, "stop"), adapter, value) == Reading(value)
    assert agrees(Answer(f"```json\n{text}\n```", "stop"), adapter, value) == Reading(value, cleaned=FENCE)
    if text[0] in "{[":
        got = agrees(Answer(f"It's this:\n{text}\nYes?", "stop"), adapter, value)
        assert got == Reading(value, cleaned=PROSE) or "</think>" in text
        assert agrees(Answer(f"{text[:-1]} {text[-1]}\n\n{text}", "stop"), adapter, value).flaw is None


@quick
@given(meant(), meant())
def test_two_answers_are_read_only_if_they_are_the_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    adapter, value, data = one
    second = other[2]
    assume(isinstance(data, dict | list) and isinstance(second, dict | list))
    got = read(Answer(f"{json.dumps(data)}\nOr:\n{json.dumps(second)}", "stop"), adapter, is_text=False)
    if got.flaw is None:
        assert got.value == value
        note = "{" not in json.dumps(second)  # beside an object it is none of the answers
        assert note or value == adapter.validate_json(json.dumps(second))


@quick
@given(st.data())
def test_a_changed_shape_is_never_read(data: st.DataObject) -> None:
    kind, values = data.draw(
        schemas().filter(lambda drawn: isinstance(drawn[0], type) and issubclass(drawn[0], BaseModel))
    )
    adapter = TypeAdapter(kind)
    plain = adapter.dump_python(data.draw(values), mode="json")
    needed = [name for name, field in kind.model_fields.items() if field.is_required()]
    changed = [{"answer": plain}, {"result": plain}, [plain], {**plain, "nmae": 1}, json.dumps(plain)]
    changed += [{key: given for key, given in plain.items() if key != name} for name in needed]
    changed += [{**plain, name: {"\0": [None]}} for name in needed if kind.model_fields[name].annotation in PLAIN_KINDS]
    changed += [kind.model_json_schema(), {"properties": plain}]
    for each in changed:
        got = read(Answer(json.dumps(each), "stop"), adapter, is_text=False)
        assert got.flaw in (Flaw.WRONG, Flaw.BROKEN), (each, got)
    key, given = next(iter(plain.items()))
    twice = json.dumps(plain)[:-1] + f", {json.dumps(key)}: {json.dumps([given])}}}"
    assert read(Answer(twice, "stop"), adapter, is_text=False).flaw is Flaw.AMBIGUOUS


# The corpus, junk, and calls of tools.


def test_no_answer_of_the_corpus_is_read_wrongly() -> None:
    outcomes: Counter[str] = Counter()
    for sample in malformed(300):
        got = read(sample.answer, TypeAdapter(sample.schema), is_text=sample.is_text)
        outcomes["read" if got.flaw is None else got.flaw.value] += 1
        assert got.flaw is not None or (got.value, repr(got.value)) == (sample.intended, repr(sample.intended)), sample
    assert outcomes["read"] > 80
    assert outcomes.keys() == {"read", *Flaw}


def test_the_corpus_holds_every_kind_equally_often_and_is_the_same_each_time() -> None:
    samples = malformed(len(KINDS) * 2, seed=5)
    assert set(Counter(sample.kind for sample in samples).values()) == {2}
    assert samples == malformed(len(KINDS) * 2, seed=5)
    assert samples != malformed(len(KINDS) * 2, seed=6)


# Long enough that what takes the square of a length takes far more than the bound.
JUNK = {
    "brackets": "[" * 150_000,
    "objects": '{"a":' * 60_000,
    "fences": "```\n" * 75_000,
    "empty lists": "[]" * 150_000,
    "comments": "[/*" * 100_000,
    "quotes": '["' + "'\"" * 100_000,
    "a quote": "[" * 50 + '"' * 199_999,
    "thinking": "<think>" * 40_000,
    "thoughts": "</think>" * 40_000,
    "tags": "<a>" * 100_000 + PLAIN,
    "angles": "<" * 299_999 + PLAIN,
    "dashes": "- " * 150_000 + PLAIN,
    "lines": "x" + "\n" * 299_999 + PLAIN,
    "keys": "a:\n" * 100_000 + "b:" + PLAIN,
    "digits": "1" * 299_999,
    "a fraction": "1." + "1" * 299_999,
    "commas": '{"a":1' + "," * 299_999 + "}",
    "backslashes": '{"a":"' + "\\" * 299_999 + '"}',
    "escapes": '{"a":"' + "\\u" * 150_000 + '"}',
    "unknown keys": "{" + ",".join(f'"k{n}":{n}' for n in range(15_000)) + "}",
    "a string": '{"name": "' + "x" * 299_999 + '", "price": 1,}',
    "placeholders": "{x}" * 100_000,
    "a number": '{"price": 1e' + "9" * 299_999 + "}",
    "no words": "\u200b" * 299_999 + "x",
}
RELAXED = {
    "white space": "{name: 'chair'," + " \n" * 20_000 + "price: 2.5}",
    "dense JSON5": "{" + "a:1," * 1_990 + "b:}",
    "loose JSON5": "{'a':'" + "x" * 49_900 + "',,}",
    "deep JSON5": "{a:" * 20 + "[1,,]" + "}" * 20,
    "sums": '{"a":' + "1+" * 3_900 + "1}",
    "signs": '{"a":' + "-" * 7_900 + "1}",
}


@pytest.mark.parametrize("name", [*JUNK])
def test_much_junk_takes_no_time(name: str) -> None:
    before = time.process_time()
    assert reading(Offer, JUNK[name]).value in (None, GOOD)
    looks_like_tool_call(JUNK[name], {"search"})
    assert time.process_time() - before < 4  # under a second each; the machine may be slow


@pytest.mark.parametrize("name", [*RELAXED])
def test_what_is_read_by_slow_grammars_takes_no_time(name: str) -> None:
    before = time.process_time()
    assert reading(Offer, RELAXED[name]).value in (None, GOOD)
    assert time.process_time() - before < 4  # under a second each; the machine may be slow


def test_a_long_answer_takes_no_time() -> None:
    before = time.process_time()
    value = reading(set[str], json.dumps([f"x{n}" for n in range(30_000)])).value
    assert len(value) == 30_000
    assert flaw(set[date], json.dumps(["1704067200"] * 20_000)) is Flaw.WRONG
    assert len(reading(list[Node], json.dumps([{"name": "a"}] * 15_000)).value) == 15_000
    assert time.process_time() - before < 10


def test_nesting_has_a_bound() -> None:
    def nested(depth: int, quote: str) -> str:
        return f"{{{quote}a{quote}: " * depth + "1" + "}" * depth

    assert reading(Any, nested(100, '"')).flaw is None
    assert "deeper than 100" in reading(Any, nested(101, '"')).problem
    assert reading(Any, nested(20, "'")).cleaned == JSON5
    assert flaw(Any, nested(21, "'")) is Flaw.BROKEN


def test_what_json5_takes_long_to_read_has_a_bound() -> None:
    assert reading(list[int], f"[{'1,' * 500}]").cleaned == JSON5
    assert flaw(list[int], f"[{'1,' * 9_000}]") is Flaw.BROKEN
    assert reading(list[str], f"['{'x' * 12_000}',]").cleaned == JSON5
    assert flaw(list[str], f"['{'x' * 60_000}',]") is Flaw.BROKEN


CALL = '{"name": "search", "arguments": {"query": "x"}}'


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        f"```json\n{CALL}\n```",
        f"<think>I need a tool</think><tool_call>\n{CALL}\n</tool_call>",
        f"I need a tool\n</think>\n<tool_call>{CALL}</tool_call>",
        f"[TOOL_CALLS][{CALL}]",
        f"I'll search first.\n\n{CALL}",
        CALL.replace("arguments", "parameters"),
        f'{{"type": "function", "function": {CALL}}}',
        f'{{"tool_calls": [{{"id": "1", "type": "function", "function": {CALL}}}]}}',
        json.dumps({"function": {"name": "search", "arguments": '{"query": "x"}'}}),
        "{'name': 'search', 'arguments': {'query': 'x'}}",
    ],
)
def test_a_call_that_is_written_as_text_is_found(text: str) -> None:
    assert looks_like_tool_call(text, {"search", "read"}) == ("search", {"query": "x"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "search(query='x')",
        PLAIN,
        CALL.replace("search", "delete"),
        f"{CALL}\n{CALL}",
        f"[{CALL}, {CALL}]",
        CALL[:-1],
        f"{CALL}}}",
        '{"name": "search"}',
        '{"name": "search", "arguments": "x"}',
        '{"name": "search", "arguments": [1]}',
        '{"name": ["search"], "arguments": {}}',
        '{"name": "search", "arguments": {}, "parameters": {}}',
        '{"name": "search", "arguments": {"query": 1, "query": 2}}',
        '{"name": "search", "arguments": {}, "price": 1}',
        '{"function": "search", "arguments": {}}',
        "<think>" + CALL,
    ],
)
def test_what_is_no_single_call_is_none(text: str) -> None:
    assert looks_like_tool_call(text, {"search", "read"}) is None
