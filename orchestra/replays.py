"""Playing a recorded turn back: the same agents and the same graph, on a scratch database, without a single call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple

from checkpoints import SQLAlchemySaver, SQLAlchemyStore
from orchestra.errors import ReplayDiverged, RequestError
from orchestra.graph import TAPE
from orchestra.memory import Memory
from orchestra.recording import Player, as_json, recorded
from orchestra.run import Run
from orchestra.shown import Shown
from orchestra.snapshots import Outcome, RunInfo, RunState
from orchestra.state import answer_id
from orchestra.tasks import Result
from orchestra.workflow import Workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed(Shown):
    """What playing a turn back came to.

    Attributes:
        outcome: How the replay ended.
        calls: How many calls of models were answered from the recording.
        different: Tasks that came to another end than in the recorded run, although models and tools said the same:
            code has changed, or depends on the time, on chance, or on the world outside.
    """

    outcome: Outcome
    calls: int
    different: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether it was the same run."""
        return not self.different


async def replay(
    info: RunInfo, head: CheckpointTuple, base: CheckpointTuple, workflow: Workflow, store: Any
) -> Replayed:
    """Play a turn back.

    Args:
        info: The turn, with its teams.
        head: Its newest checkpoint.
        base: The checkpoint before it.
        workflow: Its workflow.
        store: Where it was recorded.

    Raises:
        RequestError: It was not recorded, or is a branch.
        ReplayDiverged: It asks something else than the recorded run did.
    """
    values: Mapping[str, Any] = head.checkpoint["channel_values"]
    if values.get("branch"):
        raise RequestError(f"The newest turn of {info.thread_id!r} is a branch, which is not recorded.")
    entries = await recorded(store, info.thread_id, values["asked"])
    if not entries and not info.recorded:
        raise RequestError(
            f"The newest turn of {info.thread_id!r} was not recorded: start it with record=True, or --record."
        )
    ended = info.state in (RunState.DONE, RunState.FAILED)
    player = Player(entries, dict(_results(info, ())), whole=ended)
    with SQLAlchemySaver("sqlite:///:memory:") as scratch:
        aside = SQLAlchemyStore(scratch)
        if info.user:
            await Memory(aside, info.user).write(await Memory(store, info.user).all())
        graph: Any = workflow.compile(checkpointer=scratch, store=aside)
        place: dict[str, Any] = {"thread_id": info.thread_id, "checkpoint_ns": ""}
        await graph.checkpointer.aput(
            cast("RunnableConfig", {"configurable": place}),
            base.checkpoint,
            base.metadata,
            base.checkpoint["channel_versions"],
        )
        configurable = {"thread_id": info.thread_id, "user_id": info.user or None, TAPE: player, "supersede": True}
        run = Run(graph, _given(values), {"configurable": configurable}, on_end=lambda _: None)
        outcome = await run
    if player.diverged is not None:
        raise ReplayDiverged(f"The replay of {info.thread_id!r} differs at {player.diverged}.")
    then, now = info.results, outcome.results
    # What is compared is as far as both came: the one may have been stopped, the other wait for a person's answer.
    reached = {**then, **now} if ended and outcome.state is not RunState.WAITING else then if not ended else now
    different = [task for task in reached if not _same(then.get(task), now.get(task))]
    return Replayed(outcome=outcome, calls=player.played, different=tuple(different))


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The turn's input, out of its state."""
    messages: Sequence[BaseMessage] = values["messages"]
    first = next((i for i, message in enumerate(messages) if message.id == values["opening"]), len(messages) - 1)
    mine = [message for message in messages[first:] if message.id != answer_id(values["asked"])]
    return {"request": values["request"], "messages": mine}


def _results(info: RunInfo, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for task, raw in info.raw.items():
        yield (*path, task), raw
    for task, team in info.teams.items():
        yield from _results(team, (*path, task))


def _same(one: Result | None, other: Result | None) -> bool:
    return (
        one is not None
        and other is not None
        and (one.status, one.agent, as_json(one.output)) == (other.status, other.agent, as_json(other.output))
    )
