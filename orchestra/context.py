"""What agents see of a turn besides their inputs: the conversation, earlier turns, the user's own state, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.store.base import BaseStore

from orchestra.blueprint import Blueprint
from orchestra.memory import Memory
from orchestra.state import answer_id


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
        cut = len(history) - blueprint.history
        messages = _since(messages, history[:cut])
        history = history[cut:]
    return {
        "messages": messages,
        "history": history,
        "state": {key: values[key] for key in blueprint.own if key in values},
        "memory": await Memory(store, user).all() if store is not None and user else (),
    }


def _since(messages: Sequence[Any], before: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
    """The messages after the last answer of the turns before. A turn that was dropped has none."""
    answers = {answer_id(turn["asked"]) for turn in before}
    last = max((i for i, message in enumerate(messages) if message.id in answers), default=-1)
    return messages[last + 1 :]
