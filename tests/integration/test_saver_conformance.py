"""LangGraph's own suite for savers, on every database, through the async methods and through the sync ones."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from checkpoints import Encryption, SQLAlchemySaver


class SyncFace(BaseCheckpointSaver[str]):
    """Offers a saver's sync methods under the names of the async ones."""

    def __init__(self, saver: SQLAlchemySaver) -> None:
        super().__init__(serde=saver.serde)
        self.saver = saver

    async def aget_tuple(self, *args: Any, **named: Any) -> Any:
        return await asyncio.to_thread(self.saver.get_tuple, *args, **named)

    async def alist(self, *args: Any, **named: Any) -> Any:
        for found in await asyncio.to_thread(lambda: list(self.saver.list(*args, **named))):
            yield found

    async def aput(self, *args: Any, **named: Any) -> Any:
        return await asyncio.to_thread(self.saver.put, *args, **named)

    async def aput_writes(self, *args: Any, **named: Any) -> Any:
        return await asyncio.to_thread(self.saver.put_writes, *args, **named)

    async def adelete_thread(self, *args: Any, **named: Any) -> Any:
        return await asyncio.to_thread(self.saver.delete_thread, *args, **named)

    async def adelete_for_runs(self, *args: Any, **named: Any) -> Any:
        return await asyncio.to_thread(self.saver.delete_for_runs, *args, **named)

    async def acopy_thread(self, *args: Any, **named: Any) -> Any:
        return await asyncio.to_thread(self.saver.copy_thread, *args, **named)

    async def aprune(self, *args: Any, **named: Any) -> Any:
        return await asyncio.to_thread(self.saver.prune, *args, **named)


@pytest.mark.parametrize("face", ["async", "sync"])
async def test_every_capability_passes(face: str, any_url: str):
    await passes(face, any_url)


@pytest.mark.parametrize("face", ["async", "sync"])
async def test_every_capability_passes_in_memory(face: str):
    await passes(face, "sqlite://")


async def test_every_capability_passes_encrypted(any_url: str):
    await passes("async", any_url, encryption=Encryption(bytes(32)))


async def passes(face: str, url: str, **options: Any) -> None:
    opened = 0

    @checkpointer_test(name=f"SQLAlchemySaver-{face}")
    async def registered():
        nonlocal opened
        opened += 1
        async with SQLAlchemySaver(url, prefix=f"suite_{opened}_", **options) as saver:
            for one in await saver.astatistics():
                await saver.adelete_thread(one.thread_id)
            yield saver if face == "async" else SyncFace(saver)

    report = await validate(registered)

    assert opened == 8
    assert set(report.results) == {capability.value for capability in Capability}
    for name, result in report.results.items():
        assert result.passed is True, (name, result.failures)
        assert not result.tests_skipped, name
        assert result.tests_passed > 0, name
