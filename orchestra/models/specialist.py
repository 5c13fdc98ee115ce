"""A specialist that is a language model: it gets an assignment as a prompt, and answers in its declared type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import BaseTool

from orchestra.assignments import Assignment
from orchestra.metering import current_scope
from orchestra.models.asking import Conversation, is_too_long
from orchestra.models.profiles import names_of
from orchestra.models.prompts import CHARACTERS_PER_TOKEN, SPECIALIST, briefing
from orchestra.tasks import text_of


@dataclass(frozen=True, slots=True)
class Specialist:
    """What `Agent.from_model` runs; see there for the attributes."""

    name: str
    model: BaseChatModel
    instructions: str
    output: Any
    tools: Sequence[BaseTool] = ()
    max_input_tokens: int | None = None
    max_tokens: int | None = None
    repairs: int = 2
    may_decline: bool = False
    may_delegate: bool = False

    @property
    def model_name(self) -> str:
        """The model's name, as price tables have it."""
        return names_of(self.model)[1]

    async def __call__(self, task: Assignment) -> Any:
        """Do a task."""
        limit = self._room()
        try:
            return await self._ask(task, limit)
        except Exception as error:
            if not is_too_long(error):
                raise
            inputs = sum(len(text_of(output)) for output in task.inputs.values())
            half = (min(limit, inputs) if limit is not None else inputs) // 2
            current_scope().note("the prompt was too long for the model; asked again with half of it")
            return await self._ask(task, half)

    async def _ask(self, task: Assignment, limit: int | None) -> Any:
        shown = {name: text_of(output) for name, output in task.inputs.items()}
        prompt, left_out = briefing(task, shown, limit)
        for what in left_out:
            current_scope().note(what)
        system = SPECIALIST.format(instructions=self.instructions.strip(), name=self.name)
        return await Conversation(
            self.model,
            [SystemMessage(system), HumanMessage(prompt)],
            output=self.output,
            tools=self.tools,
            max_tokens=self.max_tokens,
            repairs=self.repairs,
            may_decline=self.may_decline,
            may_delegate=self.may_delegate,
        ).run()

    def _room(self) -> int | None:
        """Characters that a prompt may have."""
        listed = cast("dict[str, Any]", getattr(self.model, "profile", None) or {})
        tokens = self.max_input_tokens or listed.get("max_input_tokens")
        return None if tokens is None else tokens * CHARACTERS_PER_TOKEN
