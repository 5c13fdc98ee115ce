"""What a person can decide of a task."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Deed = Literal["approve", "edit", "reject", "supply", "retry", "reassign", "skip", "abort", "stop", "raise"]

Kind = Literal["question", "approval", "unable", "conflict", "budget"]
"""Why a person is asked: an agent asks; a workflow declares an approval; nobody could do a task; claims contradict each
other; a budget is used up."""


class Decision(BaseModel):
    """What a person decides of a task.

    Attributes:
        do: "approve" the work, or that it begins; "edit" it, "supply" the output where there is none; "reject" it with
            a reason, which goes back to the author; "retry" with the same agents; "reassign" it to an agent; "skip" the
            task, and with it what can't do without; "abort" the run: what has not begun is skipped; "stop" here, as if
            nobody had been asked; "raise" a budget.
        output: The output, for "edit" and "supply"; by how much, for "raise".
        agent: Whom to give the task to, for "reassign".
        why: The reason, in words.
        kind: What was asked; filled in by the engine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    do: Deed
    output: Any = None
    agent: str | None = None
    why: str = ""
    kind: Kind | None = None
