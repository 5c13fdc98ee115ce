"""What the tests of the saver share."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from checkpoints import SQLAlchemySaver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def url(any_url: str) -> str:
    return any_url


@pytest.fixture
def saver(url: str) -> Iterator[SQLAlchemySaver]:
    with SQLAlchemySaver(url) as opened:
        yield opened


class Kit:
    """Makes configs and checkpoints."""

    @staticmethod
    def config(thread_id: str = "t", checkpoint_ns: str = "", checkpoint_id: str | None = None) -> Any:
        configurable = {"thread_id": thread_id, "checkpoint_ns": checkpoint_ns}
        if checkpoint_id is not None:
            configurable["checkpoint_id"] = checkpoint_id
        return {"configurable": configurable}

    @staticmethod
    def checkpoint(saver: SQLAlchemySaver, values: dict[str, Any] | None = None, **fields: Any) -> Any:
        values = values or {}
        versions = {channel: saver.get_next_version(None, None) for channel in values}
        return {**empty_checkpoint(), "channel_values": values, "channel_versions": versions, **fields}

    @classmethod
    def put(
        cls,
        saver: SQLAlchemySaver,
        values: dict[str, Any] | None = None,
        *,
        config: Any = None,
        metadata: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Any:
        checkpoint = cls.checkpoint(saver, values, **fields)
        metadata = {"source": "loop", "step": 0, "parents": {}, **(metadata or {})}
        return saver.put(config or cls.config(), checkpoint, metadata, checkpoint["channel_versions"])

    @staticmethod
    @contextmanager
    def locked(path: Path) -> Iterator[None]:
        """While another connection holds the write lock, whatever the saver gets stays in its queue."""
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit
