"""Any saver, from any event loop: its sync methods, each in a thread.

A sync run gets an event loop of its own. Savers with async methods are mostly bound to the loop they were made in, and
savers without have nothing to offer there; the sync methods of both work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

from orchestra.places import in_thread


class ThreadedSaver(BaseCheckpointSaver[Any]):
    """A saver whose async methods are the sync methods of another.

    Args:
        inner: The saver that does the work.
    """

    def __init__(self, inner: BaseCheckpointSaver[Any]) -> None:
        super().__init__(serde=inner.serde)
        self.inner = inner

    def get_next_version(self, current: Any, channel: None) -> Any:
        """As the inner saver counts."""
        return self.inner.get_next_version(current, channel)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As of the inner saver."""
        return self.inner.get_tuple(config)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The sync method in a thread."""
        return await in_thread(partial(self.inner.get_tuple, config))

    def list(self, config: RunnableConfig | None, **options: Any) -> Iterator[CheckpointTuple]:
        """As of the inner saver."""
        return self.inner.list(config, **options)

    async def alist(self, config: RunnableConfig | None, **options: Any) -> AsyncIterator[CheckpointTuple]:
        """The sync method in a thread."""
        for found in await in_thread(lambda: [*self.inner.list(config, **options)]):
            yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """The sync method in a thread."""
        return await in_thread(partial(self.inner.put, config, checkpoint, metadata, new_versions))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """The sync method in a thread."""
        await in_thread(partial(self.inner.put_writes, config, writes, task_id, task_path))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """The sync method in a thread."""
        return await in_thread(partial(self.inner.get_delta_channel_history, config=config, channels=channels))
