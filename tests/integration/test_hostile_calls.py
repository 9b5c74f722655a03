"""Hostile connections and messages to a running service: a slice of tests/faults/hostile."""

from tests.fuzz.server_runs import TOY, attack_with_frames, attack_with_messages
from tests.integration.embedder_process import embedder


async def test_a_server_outlives_hostile_connections_and_messages() -> None:
    async with embedder(**TOY) as server:
        await attack_with_frames(server, 100_000, 40)
        await attack_with_messages(server, 100_000, 120)
