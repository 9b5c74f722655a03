"""The embedder as operators meet it: start, refusal to start, and drain."""

import asyncio
import sys

import pytest

from services.common.domain import VocabularyEntry
from services.common.errors import SaccadeError
from tests.integration.embedder_process import embedder, environment
from tests.unit.embedder.pictures import encoded, picture

TOY = {"SACCADE_MODEL": "toy", "SACCADE_SEGMENTER": "toy"}


async def test_calls_in_flight_are_answered_when_it_stops() -> None:
    async with embedder(**TOY) as running:
        images = [encoded(picture(size=(900, 700)), "JPEG")] * 16
        calls = [asyncio.create_task(running.client.embed_images(images)) for _ in range(8)]
        await asyncio.sleep(0)
        while "saccade_embedder_decode_seconds_count 0.0" in running.metrics():  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(running.stop())
        answers = await asyncio.gather(*calls)
        assert all(not isinstance(one, SaccadeError) for answer in answers for one in answer)
        assert await stopping == 0


async def test_metrics_tell_of_the_work() -> None:
    async with embedder(**TOY) as running:
        words = [VocabularyEntry("red"), VocabularyEntry("blue")]
        await running.client.analyze_images([encoded(picture()), b"junk"], vocabulary=words)
        text = running.metrics()
    for line in (
        'saccade_embedder_queue_depth{lane="interactive",model="toy"} 0.0',
        'saccade_embedder_item_errors_total{reason="IMAGE_FORMAT"} 1.0',
        'saccade_embedder_compute_seconds_count{kind="segment_all",model="segmenter"}',
        'saccade_embedder_batch_size_bucket{kind="image",le="16.0",model="toy"}',
        'saccade_embedder_batch_wait_seconds_count{lane="interactive",model="toy"}',
        'saccade_embedder_model_ready{model="toy"} 1.0',
    ):
        assert line in text


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"SACCADE_MODEL": "ViT-B-32/nonsense"}, "'nonsense' is neither a tag of ViT-B-32"),
        ({"SACCADE_MODEL": "toy", "SACCADE_SEGMENTER": "vit_b:/nowhere.pth"}, "there is no file /nowhere.pth"),
        ({"SACCADE_DEMO_DIR": "/nowhere"}, "/nowhere/models/clip holds no open_clip_config.json"),
        ({"SACCADE_EMBEDDER_MODLE": "toy"}, "did you mean SACCADE_EMBEDDER_MODEL?"),
        ({"SACCADE_EMBEDDER_MAX_ITEMS": "9999"}, "less than or equal to 1024"),
    ],
)
async def test_it_does_not_start_with_what_it_can_not_load(settings: dict[str, str], sentence: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.embedder",
        env=environment({"SACCADE_LISTEN": "127.0.0.1:0", "SACCADE_METRICS_LISTEN": "", **settings}),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, errors = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode != 0
    last = errors.decode()
    assert sentence in last
    assert "Traceback" not in last
