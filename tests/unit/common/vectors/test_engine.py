import asyncio
import socket
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from pymilvus.exceptions import MilvusException

from services.common.deadline import call_deadline
from services.common.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    Overloaded,
    SaccadeError,
    Unavailable,
)
from services.common.settings import VectorSettings
from services.common.vectors import Generation, VectorStore
from services.common.vectors.engine import Engine, IndexMissing


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.UNAUTHENTICATED, FailedPrecondition),
        (grpc.StatusCode.PERMISSION_DENIED, FailedPrecondition),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.INTERNAL, Internal),
        (2, Unavailable),
        (503, Unavailable),
        (8, Overloaded),
        (9, Overloaded),
        (100, IndexMissing),
        (1100, Internal),
        (65535, Internal),
    ],
)
async def test_milvus_errors_become_ours(code: int | grpc.StatusCode, kind: type[SaccadeError]) -> None:
    engine = Engine(VectorSettings(milvus_uri="http://127.0.0.1:1"))
    error = engine.wrapped(MilvusException(code=code, message="because"))
    assert type(error) is kind
    await engine.close()


async def test_an_engine_that_is_down_is_unavailable_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    store = VectorStore(VectorSettings(milvus_uri=f"http://127.0.0.1:{port}"))
    started = time.monotonic()
    outcomes = await asyncio.gather(*[store.check() for _ in range(20)], return_exceptions=True)
    assert time.monotonic() - started < 5
    for outcome in outcomes:
        assert isinstance(outcome, Unavailable)
        assert str(port) in outcome.message
        assert outcome.retry_after_s > 0
    await store.close()


async def test_an_engine_that_says_nothing_is_given_up_in_time(silent_port: int) -> None:
    store = VectorStore(VectorSettings(milvus_uri=f"http://127.0.0.1:{silent_port}", milvus_timeout_s=0.6))
    started = time.monotonic()
    with pytest.raises((Unavailable, DeadlineExceeded)), call_deadline(0.4):
        await store.check()
    assert time.monotonic() - started < 4
    with pytest.raises((Unavailable, DeadlineExceeded)):
        await store.check()
    assert time.monotonic() - started < 8
    await store.close()


async def test_an_address_that_is_none_is_said_so() -> None:
    store = VectorStore(VectorSettings(milvus_uri="nonsense"))
    with pytest.raises(FailedPrecondition, match="nonsense"):
        await store.check()
    await store.close()


async def test_vectors_are_checked_before_anyone_is_asked() -> None:
    store = VectorStore(VectorSettings(milvus_uri="http://127.0.0.1:1"))
    generation = Generation("a", 1, 4, "f")
    with pytest.raises(SaccadeError, match="dimension 4"):
        await store.search_images(generation, np.zeros((1, 5), dtype=np.float32), limit=1)
    await store.close()
