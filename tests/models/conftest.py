"""Endpoints of language models on loopback: one that obeys a test, and one with a real, small model.

A third, `llmock`, is a fixture of the package of that name: where it has a fault that our fake also has, a test can
hold both against each other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import smollm
from tests.fakes import Fake


@pytest.fixture
def fake() -> Iterator[Fake]:
    """An endpoint that says what this test wants, and fails the way it wants."""
    with Fake() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def small_model() -> Iterator[str]:
    """The base URL of an endpoint with a real model: the one that ORCHESTRA_TEST_MODEL_URL names, else one of ours."""
    if url := os.environ.get("ORCHESTRA_TEST_MODEL_URL"):
        yield url
        return
    if reason := smollm.missing():
        pytest.skip(reason)
    with smollm.serve() as url:
        yield url
