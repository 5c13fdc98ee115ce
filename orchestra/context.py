"""What agents see of a turn besides their inputs: the conversation, earlier turns, the user's own state, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.store.base import BaseStore

from orchestra.blueprint import Blueprint
from orchestra.memory import Memory


async def context(
    blueprint: Blueprint, values: Mapping[str, Any], store: BaseStore | None, user: str
) -> dict[str, Any]:
    """Gather what a `Turn` needs of it, as the workflow declares it.

    Args:
        blueprint: The workflow.
        values: The state, or a checkpoint's values.
        store: Where memory is kept.
        user: Whose memory; empty for nobody's.
    """
    messages: Sequence[Any] = values.get("messages") or ()
    history: Sequence[Mapping[str, Any]] = values.get("history") or ()
    if blueprint.history is not None and len(history) > blueprint.history:
        history = history[len(history) - blueprint.history :]
        messages = _since(messages, history[0]["opening"] if history else values["opening"])
    return {
        "messages": messages,
        "history": history,
        "state": {key: values[key] for key in blueprint.own if key in values},
        "memory": await Memory(store, user).all() if store is not None and user else (),
    }


def turn_id(values: Mapping[str, Any]) -> str:
    """What tells a turn, on its branch of the thread, apart from all others: the root of idempotency keys."""
    return ".".join(filter(None, (values.get("asked"), values.get("branch"))))


def _since(messages: Sequence[Any], opening: str) -> Sequence[Any]:
    """The messages from the one with this id on; all if it is gone."""
    first = next((i for i, message in enumerate(messages) if message.id == opening), 0)
    return messages[first:]
