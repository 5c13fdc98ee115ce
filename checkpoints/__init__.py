"""Checkpoints of LangGraph threads in SQL: one saver, sync and async, for runs that survive a crash."""

from __future__ import annotations

from checkpoints.errors import (
    CheckpointsError,
    DatabaseBusy,
    LeaseError,
    LeaseHeld,
    LeaseLost,
    ReadFailed,
    SaverClosed,
    SchemaTooNew,
    ThreadExists,
    UnsupportedDatabase,
    WriteFailed,
)
from checkpoints.leases import Lease, process_owner
from checkpoints.saver import SQLAlchemySaver

__all__ = [
    "CheckpointsError",
    "DatabaseBusy",
    "Lease",
    "LeaseError",
    "LeaseHeld",
    "LeaseLost",
    "ReadFailed",
    "SQLAlchemySaver",
    "SaverClosed",
    "SchemaTooNew",
    "ThreadExists",
    "UnsupportedDatabase",
    "WriteFailed",
    "process_owner",
]
