"""Hostile connections and messages to a running service."""

from collections.abc import AsyncIterator

import pytest

from tests.fuzz.server_runs import TOY, attack_with_frames, attack_with_messages
from tests.integration.embedder_process import EmbedderProcess, embedder

CONNECTIONS = 2_000
MESSAGES = 10_000


@pytest.fixture
async def server() -> AsyncIterator[EmbedderProcess]:
    async with embedder(**TOY) as running:
        yield running


@pytest.mark.thorough
async def test_a_server_outlives_hostile_connections(server: EmbedderProcess) -> None:
    await attack_with_frames(server, 0, CONNECTIONS)


@pytest.mark.thorough
async def test_a_server_outlives_hostile_messages(server: EmbedderProcess) -> None:
    await attack_with_messages(server, 0, MESSAGES)
