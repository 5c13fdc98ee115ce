"""What a process of the ledger's kill test does: process a file of transactions, or go on with that.

Batches are small and slow, so that most kills come between the two halves of one.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sqlalchemy import Engine, event

from graphs import financial_operations
from orchestra import Orchestra, ThreadNotFound

BATCH = 40


def process(database: str, request: str, slowly: float) -> None:
    """Start the run, or resume it where the database has it.

    Args:
        database: Of the runs.
        request: What to process.
        slowly: Seconds between a batch's transactions and their entries.
    """
    financial_operations.BATCH = BATCH

    @event.listens_for(Engine, "before_cursor_execute")
    def _wait(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO finance_entries"):
            time.sleep(slowly)

    asyncio.run(_run(database, request))


async def _run(database: str, request: str) -> None:
    async with Orchestra(database) as orchestra:
        try:
            run = await orchestra.resume("killed", workflow=financial_operations.flow)
        except ThreadNotFound:
            run = await orchestra.start(financial_operations.flow, request, thread_id="killed")
        outcome = await run
    books = outcome.results["transactions"].output
    assert all(check.good for check in books.checks), outcome.answer
