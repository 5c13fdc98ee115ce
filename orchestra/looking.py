"""Looking at what is stored, and keeping house: the half of `Orchestra` that starts nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import INTERRUPT

from checkpoints import SQLAlchemySaver, SQLAlchemyStore
from orchestra.clinic import Checkup, Clinic
from orchestra.errors import ThreadNotFound, WorkflowNotFound
from orchestra.events import Event
from orchestra.leases import hold
from orchestra.memory import Memory, users
from orchestra.past import SHOWN, Past, info_of, is_same_turn, lineage, parent_id, with_teams
from orchestra.references import workflow_of
from orchestra.run import Run, known
from orchestra.snapshots import Comparison, History, Moment, RunInfo, RunList, RunState, past_events
from orchestra.standing import Standing, standing_from
from orchestra.workflow import Workflow

_PAGE = 500
"""Threads that are read at once where a filter looks into their state."""


class Looking:
    """Reads what is stored of runs.

    Args:
        database: A SQLAlchemy URL, or a saver.
    """

    def __init__(self, database: str | SQLAlchemySaver) -> None:
        self._owns = not isinstance(database, SQLAlchemySaver)
        self.saver = database if isinstance(database, SQLAlchemySaver) else SQLAlchemySaver(database)
        self.store = SQLAlchemyStore(self.saver)
        self._running: set[Run] = set()

    async def runs(
        self,
        *,
        state: RunState | str | None = None,
        workflow: str | None = None,
        user: str | None = None,
        limit: int | None = None,
    ) -> RunList:
        """List the newest turn of each thread, most recently changed first.

        Args:
            state: Only those that stand so.
            workflow: Only those of the workflow with this name.
            user: Only those of this user; empty for those of nobody.
            limit: How many at most.
        """
        wanted: dict[str, Any] = {} if workflow is None else {"workflow": workflow}
        if user is not None:
            wanted["user_id"] = user or None  # None also stands for a missing key
        busy = {lease.thread_id for lease in await self.saver.aleases()}
        written = INTERRUPT if state == RunState.WAITING else None  # the database tells who may be waiting
        found: list[RunInfo] = []
        before: CheckpointTuple | None = None
        while limit is None or len(found) < limit:
            size = _PAGE if state is not None or limit is None else min(_PAGE, limit - len(found))
            heads = await self.saver.aheads(limit=size, filter=wanted, before=before, written=written, channels=SHOWN)
            infos = (info_of(head, busy=_thread_of(head) in busy) for head in heads)
            found += [info for info in infos if state is None or info.state == state]
            if len(heads) < size:
                break
            before = heads[-1]
        return RunList(found[:limit])

    async def status(self, thread_id: str, *, workflow: Workflow | None = None) -> Standing:
        """How a run stands, also one of another process: its tasks, its agents, how far it is, and what is left.

        Args:
            thread_id: The thread.
            workflow: Its workflow, for the health of its agents; by default the one that is recorded with the thread
                is imported, and where that fails nothing is said of health.

        Raises:
            ThreadNotFound: Nothing is stored under this name.
        """
        info = await self.info(thread_id)
        try:
            workflow = workflow_of(info, workflow)
        except WorkflowNotFound:
            return standing_from(info)
        await Clinic(workflow, self.store).read()
        notes, typical = known(workflow)
        return standing_from(info, agents=notes, typical=typical)

    async def check(self, workflow: Workflow) -> list[Checkup]:
        """Probe every agent of a workflow and of its teams that has a probe; what comes of it is shared in the store.

        Args:
            workflow: The workflow; how its agents are then stands in their `health`.
        """
        return await Clinic(workflow, self.store).check()

    async def info(self, thread_id: str) -> RunInfo:
        """Tell how the newest turn of a thread stands, with its teams.

        Raises:
            ThreadNotFound: Nothing is stored under this name.
        """
        steps: list[CheckpointTuple] = []
        before: str | None = None
        async for step in self.saver.asteps(thread_id, channels=SHOWN):
            steps.append(step)
            if before in (None, step.checkpoint["id"]):  # the others are on other branches
                before = parent_id(step)
                if not before or not is_same_turn(steps[0], step):
                    break
        if not steps:
            raise _not_found(thread_id)
        busy = await self.saver.alease_of(thread_id) is not None
        info = info_of(steps[0], busy=busy, since=lineage(steps)[-1])
        return with_teams(info, steps, await self.saver.aheads(thread_id=thread_id, nested=True, channels=SHOWN))

    async def events(self, thread_id: str) -> list[Event]:
        """Tell again what has happened in the newest turn of a thread.

        Attempts that were cut off by a crash left no trace, so they are not among it.

        Raises:
            ThreadNotFound: Nothing is stored under this name.
        """
        return past_events(await self.info(thread_id))

    async def history(self, thread_id: str) -> History:
        """Tell by which moments a thread came where it is, on all its branches.

        Raises:
            ThreadNotFound: Nothing is stored under this name.
        """
        return Past(thread_id, await self._steps(self.saver.asteps(thread_id, channels=SHOWN), thread_id)).history

    async def compare(self, thread_id: str, before: Moment | int, after: Moment | int) -> Comparison:
        """Hold two moments of a thread against each other, task by task; for branches, take their last moments.

        What is "kept" is the very same result; "same" ran again to the same end, "changed" to another; "added" and
        "removed" tasks have a result at one of the moments only.

        Raises:
            ThreadNotFound: Nothing is stored under this name.
            ThreadError: There is no such moment.
        """
        past = Past(thread_id, await self._steps(self.saver.asteps(thread_id, lenient=True), thread_id))
        return past.compare(past.pick(before), past.pick(after))

    async def turns(self, thread_id: str) -> list[dict[str, Any]]:
        """The earlier turns of a thread, oldest first, as `state["history"]` has them.

        Raises:
            ThreadNotFound: Nothing is stored under this name.
        """
        heads = await self.saver.aheads(thread_id=thread_id, channels=["history"])
        if not heads:
            raise _not_found(thread_id)
        return list(heads[0].checkpoint["channel_values"].get("history") or ())

    async def _newest(self, thread_id: str) -> CheckpointTuple:
        heads = await self.saver.aheads(thread_id=thread_id, channels=SHOWN)
        if not heads:
            raise _not_found(thread_id)
        return heads[0]

    async def _head(self, thread_id: str) -> RunInfo:
        return info_of(await self._newest(thread_id), busy=False)

    async def _steps(self, read: AsyncIterator[CheckpointTuple], thread_id: str) -> list[CheckpointTuple]:
        steps = [step async for step in read]
        if not steps:
            raise _not_found(thread_id)
        return steps

    # Keeping house

    def memory(self, user: str) -> Memory:
        """What is remembered of a user.

        Raises:
            RequestError: The user's name is empty.
        """
        return Memory(self.store, user)

    async def users(self) -> Sequence[str]:
        """Everyone of whom something is remembered."""
        return await users(self.store)

    async def delete(self, thread_id: str) -> None:
        """Delete a thread with all its turns and branches. What is remembered of its user stays.

        Raises:
            ThreadNotFound: Nothing is stored under this name.
            ThreadBusy: A run is on this thread.
        """
        await self._head(thread_id)
        async with hold(self.saver, thread_id):
            await self.saver.adelete_thread(thread_id)


def _thread_of(head: CheckpointTuple) -> str:
    return head.config.get("configurable", {})["thread_id"]


def _not_found(thread_id: str) -> ThreadNotFound:
    return ThreadNotFound(f"There is no thread {thread_id!r} in this database.")
