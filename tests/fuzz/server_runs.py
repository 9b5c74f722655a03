"""Attacks on a running embedder, with good calls between them."""

import asyncio
from typing import Any, Final

import grpc

from saccade.embedder.v1 import embedder_service_pb2 as pb
from services.common.errors import Unavailable
from tests.fuzz.frames import INTERNALS, attack, forged_message
from tests.fuzz.pictures import forged
from tests.integration.embedder_process import EmbedderProcess

__all__ = ["TOY", "attack_with_frames", "attack_with_messages"]

TOY: Final = {"SACCADE_MODEL": "toy", "SACCADE_SEGMENTER": "toy"}
_BETWEEN: Final = 25
_CALL_S: Final = 60.0
_PAUSE_S: Final = 0.1
# Nobody knows how much a library holds on to; a leak per connection would be far more.
_GROWTH_MIB: Final = 400.0
_TOLD: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
_UNREADABLE: Final = "deserializ"


async def attack_with_frames(server: EmbedderProcess, first: int, count: int) -> None:
    """AssertionError where the server ends, tells of its inside, grows, or leaves a good call unanswered."""
    await _good_call(server)
    before = server.memory_mib()
    for start in range(first, first + count, _BETWEEN):
        seeds = range(start, min(start + _BETWEEN, first + count))
        answers = await asyncio.gather(*[asyncio.to_thread(attack, server.port, seed) for seed in seeds])
        for seed, answer in zip(seeds, answers, strict=True):
            assert not [word for word in INTERNALS if word in answer], (seed, answer)
        await _good_call(server)
    assert server.process.returncode is None
    assert server.memory_mib() < before + _GROWTH_MIB


async def attack_with_messages(server: EmbedderProcess, first: int, count: int) -> None:
    """AssertionError where a damaged message is neither answered nor refused with what is wrong."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        for seed in range(first, first + count):
            method, message = _request(seed)
            call: Any = channel.unary_unary(f"/saccade.embedder.v1.EmbedderService/{method}")
            try:
                await call(forged_message(message, seed), timeout=_CALL_S)
            except grpc.aio.AioRpcError as exc:
                said = exc.details() or ""
                assert exc.code() in _TOLD or (exc.code() is grpc.StatusCode.INTERNAL and _UNREADABLE in said), exc
                assert not [word for word in INTERNALS if word in said.encode()], (seed, said)
    await _good_call(server)


def _request(seed: int) -> tuple[str, bytes]:
    match seed % 4:
        case 0:
            return "EmbedTexts", pb.EmbedTextsRequest(texts=["a cat", "x" * 100], model="toy").SerializeToString()
        case 1:
            return "EmbedImages", pb.EmbedImagesRequest(images=[forged(seed), forged(seed + 1)]).SerializeToString()
        case 2:
            return "AnalyzeImages", pb.AnalyzeImagesRequest(images=[forged(seed)]).SerializeToString()
        case _:
            return "GetModel", pb.GetModelRequest(model="toy").SerializeToString()


async def _good_call(server: EmbedderProcess) -> None:
    """A call of somebody else, answered as soon as what the attackers have begun is out of the way."""
    async with asyncio.timeout(_CALL_S):
        while True:
            try:
                [vector] = await server.client.embed_texts(["still here"])
                break
            except Unavailable:
                await asyncio.sleep(_PAUSE_S)
    assert len(vector)
