"""What an agent receives with its task, and what it has remembered of a user."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from orchestra.claims import Resolution
from orchestra.tasks import Result, Review, Task

MOST_MEMOS = 1000
"""Memos of one user at most: all of them reach every agent."""


class Memo(BaseModel):
    """One thing that is remembered of a user.

    Attributes:
        key: What it is found by.
        value: What it is, as JSON can hold it; to write `None` is to forget.
        kind: "preference", a wish that agents should follow, or "fact", anything else that is true of the user.
        by: Who wrote it: a task, or "user".
        at: When it was written.
    """

    model_config = ConfigDict(frozen=True)

    key: str = Field(min_length=1, max_length=200)
    value: JsonValue
    kind: Literal["preference", "fact"] = "preference"
    by: str = "user"
    at: datetime | None = None

    @field_validator("key", "value", mode="before")
    @classmethod
    def _can_be_stored(cls, value: Any) -> Any:
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, RecursionError) as error:  # what else it raises is a ValueError
            raise ValueError(str(error)) from error
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What an agent receives.

    Attributes:
        task: The task to do.
        request: The request that the run works on.
        inputs: Outputs of the needed tasks, by task id. A task that is optional and failed is not in it.
        messages: The conversation so far, oldest first.
        history: Earlier turns, oldest first: `turn`, `request`, `answer`, `ended` and `results`, as JSON. How many,
            and with them how many messages, is what the workflow declares.
        state: The keys of the workflow's own `state_schema`, with the updates of all that this task depends on.
        preferences: What is known of the user's wishes, by key.
        facts: What else is known of the user, by key.
        user: Whose preferences and facts these are; empty if the run is nobody's.
        resolutions: How contradictions among the inputs were settled; the inputs carry what holds.
        rejections: Reviews of earlier drafts of this task, oldest first.
        idempotency_key: The same at every attempt of this task in this turn, also after a crash.
        attempt: The number of this try on this agent, from 1.
        delegated: What came of what this task handed on before, in order; see `Delegate`.
        notes: What this try wants remembered or forgotten so far; see `remember`.
    """

    task: Task
    request: str
    idempotency_key: str
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    messages: Sequence[Any] = ()
    history: Sequence[Mapping[str, Any]] = ()
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    preferences: Mapping[str, Any] = field(default_factory=dict[str, Any])
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    user: str = ""
    resolutions: tuple[Resolution, ...] = ()
    rejections: tuple[Review, ...] = ()
    attempt: int = 1
    delegated: tuple[Result, ...] = ()
    notes: list[Memo] = field(default_factory=list["Memo"], repr=False)

    def remember(self, key: str, value: Any, *, kind: Literal["preference", "fact"] = "preference") -> None:
        """Have something remembered of the user, for all later turns on all threads, once this attempt succeeds.

        Args:
            key: What to find it by; what was remembered under it before is replaced.
            value: What JSON can hold.
            kind: A wish that agents should follow, or anything else that is true of the user.

        Raises:
            ValueError: The run has no user; the value can't be stored; the key is empty; a thousand things are
                remembered already.
        """
        self._note(Memo(key=key, value=value, kind=kind, by=self.task.id))

    def forget(self, key: str) -> None:
        """Have what is remembered of the user under a key deleted, once this attempt succeeds.

        Raises:
            ValueError: The run has no user; the key is empty.
        """
        self._note(Memo(key=key, value=None, by=self.task.id))

    def _note(self, memo: Memo) -> None:
        if not self.user:
            raise ValueError(
                f"Nothing can be remembered under {memo.key!r}: this run has no user. Name one: start(..., user=...), "
                'or --user; in plain LangGraph, compile with a store and put "user_id" into the configurable config.'
            )
        known = {*self.preferences, *self.facts, *(other.key for other in self.notes)}
        if memo.value is not None and memo.key not in known and len(known) >= MOST_MEMOS:
            raise ValueError(f"{MOST_MEMOS} things are remembered of {self.user!r} already; forget some first.")
        self.notes.append(memo)
