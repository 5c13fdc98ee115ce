"""Fixtures of the tests of branches."""

from collections.abc import AsyncIterator

import pytest

from orchestra import (
    Orchestra,
)
from tests.integration.desk import Desk


@pytest.fixture
async def orchestra(database: str) -> AsyncIterator[Orchestra]:
    async with Orchestra(database) as opened:
        yield opened


@pytest.fixture
def desk() -> Desk:
    return Desk()
