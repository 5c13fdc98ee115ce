"""Questions to a person: typed, with a deadline, answered one by one, and checked before anything goes on.

An agent asks with `ask`. The engine asks for a `Decision` where nobody can do a task, where a workflow declares an
approval, where claims contradict each other, or where a budget is used up. Both end up as LangGraph's interrupts.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn, cast

import pydantic_core
from jsonschema import Draft202012Validator, ValidationError
from langgraph.errors import GraphInterrupt
from langgraph.types import Interrupt, interrupt
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic import ValidationError as PydanticError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from orchestra.decisions import Deed, Kind
from orchestra.errors import RequestError
from orchestra.metering import attempt_scope
from orchestra.shown import Shown
from orchestra.tasks import now, text_of
from orchestra.timers import QUESTION, due_of, is_timer, ours

DECISIONS = ("approval", "unable", "budget")
"""The kinds of questions that a `Decision` answers."""


class Question(Shown, BaseModel):
    """A question that is open.

    Attributes:
        id: What an answer names.
        kind: "question" (an agent asks), "approval", "unable" (nobody could do a task), "conflict" or "budget".
        value: What is asked, as the agent passed it; text where the engine asks.
        known: What is known: inputs, the output to approve, what was tried and why it failed, as JSON.
        options: The answers to choose from, if there is a choice; of a decision, its words.
        answers: JSON Schema of the answer; `None` for any.
        task: The task it belongs to, and `path` the teams around that one; empty if an agent asked by LangGraph's own
            `interrupt`.
        agent: Who asks.
        due: When it is over by itself; `None` if never.
        otherwise: The answer it then has.
    """

    model_config = ConfigDict(frozen=True)

    id: str = ""
    kind: Kind = "question"
    value: Any
    known: Mapping[str, Any] = {}
    options: tuple[Any, ...] = ()
    answers: Mapping[str, Any] | None = None
    path: tuple[str, ...] = ()
    task: str = ""
    agent: str = ""
    due: datetime | None = None
    otherwise: Any = None

    def late(self, at: datetime) -> tuple[Any, ...]:
        """The answer that the passing of time has given; empty if there is none yet."""
        return () if self.due is None or self.due > at else (self.otherwise,)

    @property
    def text(self) -> str:
        """What is asked, as a person can read it."""
        return text_of(self.value)

    @property
    def place(self) -> str:
        """The task it belongs to, with the teams around it: `operations/fraud/scorer`."""
        return "/".join((*self.path, self.task)) if self.task else ""

    def check(self, answer: Any) -> Any:
        """Return an answer as it is to be given.

        Raises:
            RequestError: It is none that was asked for; the message says what is.
        """
        given: Any = pydantic_core.to_jsonable_python(answer, fallback=str)
        none = f"{_short(given)} is no answer to {self._named}"
        if self.kind in DECISIONS:
            given = self._decision(given, none)
        elif self.kind == "conflict":
            given = self._side(given, none)
        elif self.kind == "question" and self.options:
            # As text, so that 42 from a terminal chooses "42", and `True` does not choose 1.
            alike = [option for option in self.options if plain(option) == plain(given)]
            chosen = alike or [option for option in self.options if option == given and isinstance(given, dict)]
            if not chosen:
                raise RequestError(f"{none}: choose one of {self._choice}.")
            given = chosen[0]
        if self.answers is not None:
            checker = Draft202012Validator(dict(self.answers), format_checker=Draft202012Validator.FORMAT_CHECKER)
            try:
                checker.validate(given)
            except ValidationError as error:
                where = "/".join(str(part) for part in error.absolute_path)
                raise RequestError(f"{none}: {where + ': ' if where else ''}{error.message[:200]}.") from error
        return given

    def _side(self, given: Any, none: str) -> Any:
        """A side of a conflict, by its text; or another value, as `{"value": …}`; or `None`, to leave it open."""
        if isinstance(given, dict):
            said = cast("dict[str, Any]", given)
            given = {"value": said["do"], "why": said.get("why") or ""} if "do" in said else said
        elif given is not None and plain(given) in self.options:
            given = plain(given)
        elif given is not None:
            own = 'give a value of your own as {"value": …}, or null to leave it open'
            raise RequestError(f"{none}: choose one of {self._choice}, {own}.")
        return given

    def _decision(self, given: Any, none: str) -> Any:
        """A decision in full, given so or by its word alone; what it lacks is told with an example."""
        given = {"do": given} if isinstance(given, str) else given
        if not isinstance(given, dict) or given.get("do") not in self.options:
            raise RequestError(f"{none}: choose one of {self._choice}.")
        full = cast("dict[str, Any]", given)
        needed = {"edit": "output", "supply": "output", "raise": "output", "reassign": "agent"}.get(full["do"])
        if needed is not None and needed not in full:
            example = {"do": full["do"], needed: "…" if self.kind != "budget" else self._amounts}
            raise RequestError(f"{none}: it says nothing of {needed!r}; write {plain(example)}.")
        return full

    @property
    def _amounts(self) -> Any:
        """The limits that a person can raise, with an amount each."""
        return dict.fromkeys((self.answers or {})["properties"]["output"]["properties"], 1)

    @property
    def _choice(self) -> str:
        return ", ".join(map(plain, self.options))

    @property
    def _named(self) -> str:
        where = f" ({self.place})" if self.place else ""
        return f"question {self.id}{where}" if self.id else "this question"


def plain(value: Any) -> str:
    """A value in one line."""
    return value if isinstance(value, str) else pydantic_core.to_json(value, fallback=str).decode()


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else plain(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def ask(
    question: Any,
    *,
    options: Iterable[Any] = (),
    answer: Any = None,
    known: Mapping[str, Any] | None = None,
    within: timedelta | None = None,
    otherwise: Any = None,
) -> Any:
    """Ask a person, and return the answer. Call it inside an agent.

    The run works on what does not depend on the answer, then ends as waiting and holds nothing. When it goes on, the
    agent runs again from its beginning, and the call returns.

    Args:
        question: What to ask; what JSON can hold.
        options: The answers to choose from.
        answer: The type that the answer is to be of; it is returned as that type. Any JSON by default.
        known: What a person should know to decide; what JSON can hold.
        within: How long to wait for the answer. After it, `orchestra runs tick` or the next `resume` goes on.
        otherwise: What is answered then.

    Raises:
        ValueError: The options or `otherwise` are no answer of that type, or there is no JSON Schema for it.
    """
    adapter, schema = _schema(answer)
    scope = attempt_scope()
    asked = Question(
        value=question,
        known=known or {},
        options=tuple(pydantic_core.to_jsonable_python([*options])),
        answers=schema,
        task=scope.task if scope else "",
        agent=scope.agent if scope else "",
        path=scope.path if scope else (),
    )
    if within is not None:
        try:
            otherwise = asked.check(otherwise)
            _read(adapter, otherwise)
        except (RequestError, PydanticError) as error:
            raise ValueError(f"otherwise is no answer itself: {error}") from error
        asked = asked.model_copy(update={"due": now() + within, "otherwise": otherwise})
    while True:
        given = interrupt(_value(asked), response_schema=schema)
        try:
            return _read(adapter, given)
        except PydanticError as error:  # a schema can't tell all: the person is asked again, and told why
            refused = {"refused": given, "why": error.errors()[0]["msg"]}
            asked = asked.model_copy(update={"known": {**asked.known, **refused}})


def _read(adapter: TypeAdapter[Any] | None, given: Any) -> Any:
    return given if adapter is None else adapter.validate_json(pydantic_core.to_json(given))


def _schema(kind: Any) -> tuple[TypeAdapter[Any] | None, dict[str, Any] | None]:
    if kind is None or kind is Any:
        return None, None
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        return adapter, adapter.json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise ValueError(f"{kind!r} can't be the type of an answer: {str(error).splitlines()[0]}") from error


def decision_schema(options: Iterable[Deed], output: Any = Any, agents: Iterable[str] = ()) -> dict[str, Any]:
    """The JSON Schema of a `Decision`.

    Args:
        options: What may be done.
        output: The type that an output put in is to be of.
        agents: Whom the task may be given to.
    """
    try:
        shape: dict[str, Any] = {} if output is Any else TypeAdapter(output).json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError):  # it is validated again where it is used
        shape = {}
    needs = [
        {"if": {"properties": {"do": {"enum": deeds}}}, "then": {"required": [field]}}
        for deeds, field in ((["edit", "supply"], "output"), (["reassign"], "agent"))
    ]
    properties = {
        "do": {"enum": [*options]},
        "output": {key: value for key, value in shape.items() if key != "$defs"},
        "agent": {"enum": [*agents]},
        "why": {"type": "string"},
    }
    schema = {"type": "object", "properties": properties, "required": ["do"], "allOf": needs}
    return {**schema, "additionalProperties": False, **({"$defs": shape["$defs"]} if "$defs" in shape else {})}


def id_of(*place: str) -> str:
    """The id of a question that the engine asks, the same however often it comes to it; in LangGraph's form."""
    return uuid.uuid5(uuid.NAMESPACE_OID, "\n".join(place)).hex


def put(question: Question) -> NoReturn:
    """Leave the node with a question that the engine asks. Whoever has its answer does not call this."""
    raise GraphInterrupt(
        (Interrupt(value=_value(question), id=question.id, response_schema=cast("Any", question.answers)),)
    )


def ask_plainly(question: Question) -> Any:
    """Ask, or return the answer, by LangGraph's own count of a node's questions."""
    return interrupt(_value(question), response_schema=cast("Any", question.answers))


def _value(question: Question) -> dict[str, Any]:
    about = question.model_dump(
        mode="json", include={"known", "options", "path", "task", "agent"}, exclude_defaults=True
    )
    late = {} if question.due is None else {"due": question.due.isoformat(), "otherwise": question.otherwise}
    asks = {} if question.kind == "question" else {"asks": question.kind}
    return {"kind": QUESTION, "question": question.value, **asks, **about, **late}


def question_of(asked: Interrupt[Any]) -> Question:
    """An interrupt as a question."""
    value = ours(asked)
    schema: Any = asked.response_schema
    answers = cast("dict[str, Any]", schema) if isinstance(schema, dict) else None
    if not value:
        return Question(id=asked.id, value=asked.value, answers=answers)
    about = {key: value[key] for key in ("known", "options", "path", "task", "agent") if key in value}
    return Question(
        id=asked.id,
        kind=value.get("asks", "question"),
        value=value.get("question"),
        answers=answers,
        due=due_of(asked),
        otherwise=value.get("otherwise"),
        **about,
    )


def pick(asked: Sequence[Question], named: str, where: str) -> Question:
    """The question that is meant.

    Args:
        asked: The open questions.
        named: An id, the beginning of one, or a task's place; may be empty if only one is open.
        where: Whose questions, for messages.

    Raises:
        RequestError: There is none, or more than one.
    """
    at = [one for one in asked if named and one.place == named]  # ids look like words: "d" may begin one
    found = at or [one for one in asked if one.id.startswith(named)]
    if len(found) == 1:
        return found[0]
    there = "; ".join(f"{one.id} {one.place}".strip() for one in asked) or "none"
    what = (
        f"{named!r} names {f'{len(found)} open questions' if found else 'no open question'}"
        if named
        else f"{len(found)} questions are open: say which"
        if found
        else "no question is open"
    )
    raise RequestError(f"On {where} {what}; open: {there}.")


def by_name(asked: Interrupt[Any], answer: Any) -> bool:
    """Whether an answer must name its question.

    Without a name LangGraph stores it before it is used. But what the engine asks it hands out itself, by name; what a
    team asks LangGraph might give to another; and `None` is no answer to it.
    """
    value = ours(asked)
    return "asks" in value or bool(value.get("path")) or answer is None


def checked(asked: Iterable[Interrupt[Any]], answers: Mapping[str, Any]) -> dict[str, Any]:
    """Answers to open questions, by their ids, as they are to be given; those to nothing that is open stay as they are.

    Raises:
        RequestError: One of them is no answer to its question. All questions stay open.
    """
    by_id = {one.id: question_of(one) for one in asked if not is_timer(one)}
    return {id_: by_id[id_].check(answer) if id_ in by_id else answer for id_, answer in answers.items()}
