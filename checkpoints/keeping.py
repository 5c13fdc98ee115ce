"""The saver's methods that keep its database in order: pruning, statistics, checks, upgrades."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from checkpoints import retention, survey, upkeep
from checkpoints.retention import Keep, Pruned

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from datetime import timedelta

    from checkpoints.codec import Codec
    from checkpoints.database import Database, Step
    from checkpoints.survey import Problem, Statistics


@dataclass(frozen=True, slots=True)
class Limits:
    """What `Keeping.clean` deletes."""

    max_age: timedelta | None
    max_checkpoints: int | None
    max_idle: timedelta | None


class Keeping:
    """`SQLAlchemySaver` has all of these."""

    _database: Database

    @property
    def _codec(self) -> Codec:
        raise NotImplementedError

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete the past of threads, in batches; a run may be on them.

        Args:
            thread_ids: The threads.
            strategy: ``"keep_latest"`` keeps the newest checkpoint of each namespace, and the older ones that
                its delta channels are rebuilt from; these serve nothing else, and what else their own
                delta channels would need may be gone. ``"delete"`` keeps nothing.

        Raises:
            ValueError: Another strategy.
        """
        self._database.run(self._prune(thread_ids, strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """`prune` without blocking the event loop."""
        await self._database.arun(self._prune(thread_ids, strategy))

    def clean(
        self,
        *,
        max_age: timedelta | None = None,
        max_checkpoints: int | None = None,
        max_idle: timedelta | None = None,
        thread_ids: Sequence[str] | None = None,
    ) -> Pruned:
        """Delete what is too old, too much or long unused, in batches; runs may go on meanwhile.

        The newest checkpoint of a thread, and what its delta channels are rebuilt from, goes only with the thread.

        Args:
            max_age: Delete checkpoints that were stored longer ago.
            max_checkpoints: Keep so many of each namespace of a thread.
            max_idle: Delete threads whole that have no newer checkpoint; also one that waits for a person.
            thread_ids: Only these threads; None for all.

        Returns:
            How much was deleted.

        Raises:
            ValueError: Nothing is asked for, or a limit is negative.
        """
        return self._database.run(self._clean(Limits(max_age, max_checkpoints, max_idle), thread_ids))

    async def aclean(
        self,
        *,
        max_age: timedelta | None = None,
        max_checkpoints: int | None = None,
        max_idle: timedelta | None = None,
        thread_ids: Sequence[str] | None = None,
    ) -> Pruned:
        """`clean` without blocking the event loop."""
        return await self._database.arun(self._clean(Limits(max_age, max_checkpoints, max_idle), thread_ids))

    def statistics(self, thread_id: str | None = None) -> Sequence[Statistics]:
        """What is stored, by thread: the largest first.

        Args:
            thread_id: Only this one.
        """
        return self._database.read(partial(survey.statistics, self._codec, thread_id))

    async def astatistics(self, thread_id: str | None = None) -> Sequence[Statistics]:
        """`statistics` without blocking the event loop."""
        return await self._database.aread(partial(survey.statistics, self._codec, thread_id))

    def check(self, thread_id: str | None = None) -> Sequence[Problem]:
        """Read everything and say what is damaged; an empty sequence means that all is well.

        Args:
            thread_id: Only this thread.
        """
        return self._database.run(self._check(thread_id))

    async def acheck(self, thread_id: str | None = None) -> Sequence[Problem]:
        """`check` without blocking the event loop."""
        return await self._database.arun(self._check(thread_id))

    def upgrade(self) -> tuple[int, int]:
        """Bring tables that an older version of this package made to the version that this one needs.

        Make a backup first, and stop the processes that use the older version.

        Returns:
            The version the tables had, and the version they have now.

        Raises:
            SchemaTooNew: They were made by a newer version of this package.
            SchemaTooOld: There is no way from their version.
        """
        return self._database.schema.upgrade(self._database.engine)

    def schema_version(self) -> int | None:
        """The version of the tables; None if there are none yet."""
        return self._database.schema.found(self._database.engine)

    # Each of these is written once, as steps, and driven by either face.

    def _prune(self, thread_ids: Sequence[str], strategy: str) -> Generator[Step, Any, None]:
        if strategy not in {"keep_latest", "delete"}:
            raise ValueError(f"prune strategy {strategy!r}: use 'keep_latest' or 'delete'")
        for thread_id in thread_ids:
            if strategy == "delete":
                yield "write", partial(upkeep.delete_thread, self._codec, str(thread_id))
            else:
                yield from self._prune_thread(str(thread_id), Keep(newest=1))

    def _prune_thread(self, thread_id: str, keep: Keep) -> Generator[Step, Any, int]:
        deleted, more = 0, True
        while more:
            count, more = yield "write", partial(retention.prune_thread, self._codec, thread_id, keep)
            deleted += count
        return deleted

    def _clean(self, limits: Limits, thread_ids: Sequence[str] | None) -> Generator[Step, Any, Pruned]:
        asked = [limits.max_age, limits.max_checkpoints, limits.max_idle]
        if all(limit is None for limit in asked):
            raise ValueError("nothing to clean: give max_age, max_checkpoints or max_idle")
        if limits.max_checkpoints is not None and limits.max_checkpoints < 1:
            raise ValueError(f"max_checkpoints={limits.max_checkpoints}: at least 1, the newest, is kept")
        since = _before(limits.max_age, "max_age")
        idle_since = _before(limits.max_idle, "max_idle")
        done = Pruned()
        if idle_since is not None:
            idle = yield "read", partial(retention.idle_threads, self._codec, idle_since)
            for thread_id in idle:
                if thread_ids is None or thread_id in thread_ids:
                    gone = yield "write", partial(retention.delete_idle, self._codec, thread_id, idle_since)
                    done += Pruned(threads=int(gone))
        if since is None and limits.max_checkpoints is None:
            return done
        threads = thread_ids
        if threads is None:
            threads = yield "read", partial(retention.all_threads, self._codec)
        for thread_id in threads:
            deleted = yield from self._prune_thread(thread_id, Keep(limits.max_checkpoints, since))
            done += Pruned(checkpoints=deleted)
        return done

    def _check(self, thread_id: str | None) -> Generator[Step, Any, Sequence[Problem]]:
        survey_of_all = survey.Check(self._codec, thread_id)
        while not survey_of_all.done:
            yield "snapshot", survey_of_all.page
        return survey_of_all.problems


def _before(limit: timedelta | None, name: str) -> int | None:
    """Milliseconds since 1970 (UTC): that long ago."""
    if limit is None:
        return None
    if limit.total_seconds() < 0:
        raise ValueError(f"{name}={limit}: it can't be negative")
    return int((time.time() - limit.total_seconds()) * 1000)
