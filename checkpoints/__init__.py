"""Checkpoints of LangGraph threads in SQL: one saver, sync and async, for runs that survive a crash."""

from __future__ import annotations

from checkpoints.encryption import Encryption
from checkpoints.errors import (
    CheckpointsError,
    CorruptCheckpoint,
    CorruptItem,
    DatabaseBusy,
    Fenced,
    InvalidKey,
    LeaseError,
    LeaseHeld,
    LeaseLost,
    ReadFailed,
    SaverClosed,
    SchemaTooNew,
    SchemaTooOld,
    ThreadExists,
    UnreadableType,
    UnsupportedDatabase,
    WriteFailed,
)
from checkpoints.leases import Lease, process_owner
from checkpoints.retention import Pruned
from checkpoints.saver import SQLAlchemySaver
from checkpoints.store import SQLAlchemyStore
from checkpoints.survey import Problem, Statistics

__all__ = [
    "CheckpointsError",
    "CorruptCheckpoint",
    "CorruptItem",
    "DatabaseBusy",
    "Encryption",
    "Fenced",
    "InvalidKey",
    "Lease",
    "LeaseError",
    "LeaseHeld",
    "LeaseLost",
    "Problem",
    "Pruned",
    "ReadFailed",
    "SQLAlchemySaver",
    "SQLAlchemyStore",
    "SaverClosed",
    "SchemaTooNew",
    "SchemaTooOld",
    "Statistics",
    "ThreadExists",
    "UnreadableType",
    "UnsupportedDatabase",
    "WriteFailed",
    "process_owner",
]
