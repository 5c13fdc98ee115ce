"""Plans as a language model drafts them: what is wrong with one, in words for the model, and a repair where it is safe.

Models leave ids out or use them twice, need agents where they mean tasks, need in circles, invent agents, and repeat
themselves without end. `complaints` and `repair` come of one `Reading`, so whatever is repaired could also have been
complained of. Spelling is not worth a word: case, blanks, underscores and hyphens of names make no difference.

A repair takes away or makes plain; it never adds a task and never words an instruction. A need that is taken away lets
a task run without that input, which may be worse than asking the model again: that choice is the caller's.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from orchestra.agents import Agent
from orchestra.draftreading import Reading, Row
from orchestra.tasks import Plan, Task

_MOST_ITEMS = 500
"""The longest list that a schema states: llama.cpp refuses grammars with repetitions of about 2,000."""


def _as_text(value: Any) -> Any:
    """A number or null as text. Half a surrogate pair, which JSON can escape but nobody can store, is replaced."""
    if value is None:
        return ""
    if isinstance(value, int | float):
        return str(value)
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _as_list(value: Any) -> Any:
    return [] if value is None else [value] if isinstance(value, str | int | float) else value


_Text = Annotated[str, BeforeValidator(_as_text)]
_Name = Annotated[str | None, BeforeValidator(lambda value: None if value is None else _as_text(value))]


class DraftTask(BaseModel):
    """A task as a model may write it: loose on purpose, so that whatever can be understood is.

    Numbers are taken as text, null as nothing said, one need as a list of one; what else there is, is ignored.

    Attributes:
        id: What other tasks need it by.
        instruction: What is to be done.
        agent: Who does it, by name.
        capability: What whoever does it must be capable of, by name.
        needs: Ids of the tasks whose outputs it receives.
    """

    model_config = ConfigDict(frozen=True)

    id: _Text = ""
    instruction: _Text = ""
    agent: _Name = None
    capability: _Name = None
    needs: Annotated[list[_Text], BeforeValidator(_as_list)] = []


class Draft(BaseModel):
    """A plan as a model may write it; the bare list of tasks will do.

    Attributes:
        tasks: The tasks, in the order in which the model would do them.
    """

    model_config = ConfigDict(frozen=True)

    tasks: list[DraftTask]

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"tasks": cast("list[Any]", value)} if isinstance(value, list) else value


def draft_type(agents: Sequence[Agent], *, limit: int) -> type[Draft]:
    """Make the type of drafts for a roster: its JSON schema holds a model that decodes by it to names that exist.

    Only the schema is strict. What an endpoint that does not enforce it lets through is read as any `Draft` is, so that
    the model hears `complaints` in plain words and not those of a validator.

    A capability is offered only where agents share it: for all others, naming the agent says the same. Then one of the
    two may be null. All fields are required, in the order in which small models write them best: what, then who.

    Args:
        agents: The roster.
        limit: How many tasks a plan may have.
    """
    names = sorted({agent.name for agent in agents})
    held = Counter(capability for agent in agents for capability in {c.name for c in agent.capabilities})
    shared = sorted(capability for capability, holders in held.items() if holders > 1)
    most = min(limit, _MOST_ITEMS)
    fields: dict[str, Any] = {
        "id": {"type": "string", "maxLength": 60, "description": "A short name that no other task has."},
        "instruction": {"type": "string", "maxLength": 1000, "description": "What is to be done, in full sentences."},
    }
    if shared:
        fields["agent"] = _enum(names, "The agent that does it; null to let any with the capability do it.", null=True)
        fields["capability"] = _enum(shared, "What it takes, where several agents can do it; else null.", null=True)
    elif names:
        fields["agent"] = _enum(names, "The agent that does it.")
    fields["needs"] = {
        "type": "array",
        "items": {"type": "string", "maxLength": 60},
        "maxItems": most,
        "description": "Ids of the tasks before this one whose results it uses. Never names of agents.",
    }
    task = {"type": "object", "properties": fields, "required": [*fields], "additionalProperties": False}
    tasks = {"type": "array", "items": task, "minItems": 1, "maxItems": most, "description": "In the order of doing."}
    schema: JsonSchemaValue = {
        "title": "Plan",
        "description": "The tasks that together answer the request.",
        "type": "object",
        "properties": {"tasks": tasks},
        "required": ["tasks"],
        "additionalProperties": False,
    }

    class RosterDraft(Draft):
        @classmethod
        def __get_pydantic_json_schema__(
            cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
        ) -> JsonSchemaValue:
            return copy.deepcopy(schema)  # callers may add to what they get

    return RosterDraft


def _enum(names: Sequence[str], description: str, *, null: bool = False) -> dict[str, Any]:
    kind = {"type": "string", "enum": [*names]}
    return {**({"anyOf": [kind, {"type": "null"}]} if null else kind), "description": description}


def complaints(draft: Draft, agents: Sequence[Agent], *, limit: int) -> tuple[str, ...]:
    """Say what is wrong with a draft, in words that a model can act on, one line each; nothing if it will do."""
    return tuple(_read(draft, agents, limit=limit, request="").complaints)


def repair(draft: Draft, agents: Sequence[Agent], *, limit: int, request: str) -> tuple[Plan, tuple[str, ...]] | None:
    """Make a plan of a draft, deterministically.

    Without saying so, a task without an instruction takes its agent's description, which is its default.

    Args:
        draft: The draft.
        agents: The roster.
        limit: How many tasks a plan may have.
        request: What the user asked for: the instruction of a task whose agent does not describe itself.

    Returns:
        The plan, which passes `check_plan`, and what was done to the draft, one line each; `None` if nothing of the
        draft is left, or more than twice as much as a plan may have.
    """
    reading = _read(draft, agents, limit=limit, request=request)
    if not reading.rows:
        return None
    return Plan(tasks=tuple(Task(**asdict(row)) for row in reading.rows)), tuple(reading.repairs)


def _read(draft: Draft, agents: Sequence[Agent], *, limit: int, request: str) -> Reading:
    return Reading([Row(**task.model_dump()) for task in draft.tasks], agents, limit=limit, request=request)
