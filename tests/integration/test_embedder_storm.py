"""Many callers with good and corrupt images at the embedder with the demo models."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from numpy.typing import NDArray

from demo.labels import GALLERY_FOLDER
from services.common.errors import Overloaded, SaccadeError
from tests.integration.embedder_process import EmbedderProcess, embedder

GOOD = 1_000
CORRUPT = 200
CALLERS = 32
MAX_MEMORY_GROWTH_MIB = 400


@pytest.fixture(scope="module")
def gallery() -> list[bytes]:
    return [path.read_bytes() for path in sorted(GALLERY_FOLDER.glob("*.jpg"))]


@pytest.fixture
async def running() -> AsyncIterator[EmbedderProcess]:
    async with embedder(SACCADE_MODEL="demo", SACCADE_SEGMENTER="") as process:
        yield process


def corrupt(gallery: list[bytes], number: int) -> bytes:
    """Cut short, no image, empty, or with a header that promises what does not follow."""
    data = gallery[number % len(gallery)]
    return (data[: len(data) // 2], b"not an image " * 9, b"", data[:24] + bytes(400))[number % 4]


async def embed(running: EmbedderProcess, data: bytes) -> NDArray[np.float32] | SaccadeError:
    """One image's outcome; comes back when told to."""
    while True:
        try:
            return (await running.client.embed_images([data]))[0]
        except Overloaded as exc:
            await asyncio.sleep(exc.retry_after_s)


@pytest.mark.timeout(300)
async def test_a_thousand_right_answers_among_corrupt_images(running: EmbedderProcess, gallery: list[bytes]) -> None:
    alone = [await embed(running, data) for data in gallery]
    before = running.memory_mib()
    jobs = [(i % len(gallery), gallery[i % len(gallery)]) for i in range(GOOD)]
    jobs += [(-1, corrupt(gallery, i)) for i in range(CORRUPT)]
    order = iter(np.random.default_rng(11).permutation(len(jobs)))
    right = clear_errors = 0

    async def caller() -> None:
        nonlocal right, clear_errors
        for at in order:
            number, data = jobs[at]
            outcome = await embed(running, data)
            if number < 0:
                assert isinstance(outcome, SaccadeError)
                assert outcome.reason.startswith("IMAGE_")
                clear_errors += 1
            else:
                expected = alone[number]
                assert isinstance(outcome, np.ndarray)
                assert isinstance(expected, np.ndarray)
                assert float(outcome @ expected) >= 0.9999
                right += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    assert (right, clear_errors) == (GOOD, CORRUPT)
    assert running.process.returncode is None
    assert running.memory_mib() - before < MAX_MEMORY_GROWTH_MIB
