"""Several models in one embedder, with a real server."""

import asyncio
import threading

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from saccade.embedder.v1 import embedder_service_pb2 as pb
from services.common.domain import VocabularyEntry
from services.common.embedder_client import EmbedderClient
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.common.tensors import from_tensor
from services.embedder.models.base import Candidate
from services.embedder.models.registry import load_encoders
from services.embedder.models.toy import ToyEncoder, ToySegmenter
from services.embedder.settings import EmbedderSettings
from tests.unit.embedder.conftest import serving
from tests.unit.embedder.pictures import encoded, picture

RED_ON_BLUE = encoded(picture())
WORDS = [VocabularyEntry("red"), VocabularyEntry("blue")]


class Eyes(ToyEncoder):
    """Colours alone, no words; can be held back."""

    name = "eyes"
    fingerprint = "eyes-1"
    dimension = 12
    has_text = False
    logit_scale = 0.0

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def embed_images(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.entered.set()
        assert self.gate.wait(10)
        rows = super().embed_images(batch)[:, : self.dimension]
        unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


class Counted(ToySegmenter):
    calls = 0

    def segment_all(self, image: Image.Image, *, max_segments: int, min_area_fraction: float) -> list[Candidate]:
        self.calls += 1
        return super().segment_all(image, max_segments=max_segments, min_area_fraction=min_area_fraction)


async def test_each_call_chooses_its_model() -> None:
    segmenter = Counted()
    async with serving(ToyEncoder(), segmenter, Eyes()) as served:
        client = EmbedderClient(f"dns:///{served.address}", timeout_s=20)
        try:
            default, toy, eyes = [await client.get_model(name) for name in ("", "toy", "eyes")]
            assert default == toy
            assert (toy.fingerprint, toy.dimension, toy.has_text) == ("toy-1", ToyEncoder.dimension, True)
            assert (eyes.model, eyes.fingerprint, eyes.dimension, eyes.has_text) == ("eyes", "eyes-1", 12, False)
            assert toy.models == eyes.models == ("toy", "eyes")
            assert toy.segmenter == eyes.segmenter == "toy"

            (plain,) = await client.embed_images([RED_ON_BLUE], fingerprint="toy-1")
            (seen,) = await client.embed_images([RED_ON_BLUE], model="eyes", fingerprint="eyes-1")
            assert isinstance(plain, np.ndarray)
            assert isinstance(seen, np.ndarray)
            assert (plain.shape, seen.shape) == ((ToyEncoder.dimension,), (12,))

            before = segmenter.calls
            (by_toy,) = await client.analyze_images([RED_ON_BLUE], vocabulary=WORDS, fingerprint="toy-1")
            (by_eyes,) = await client.analyze_images([RED_ON_BLUE], model="eyes", vocabulary=WORDS)
            assert segmenter.calls == before + 2
            assert not isinstance(by_toy, Exception)
            assert not isinstance(by_eyes, Exception)
            assert [segment.mask for segment in by_toy.segments] == [segment.mask for segment in by_eyes.segments]
            assert [tag.name for tag in by_toy.segments[1].tags] == ["red"]
            assert not by_eyes.segments[1].tags
            assert [len(s.vector) for s in by_eyes.segments if s.vector is not None] == [12, 12]

            with pytest.raises(FailedPrecondition, match="eyes has no text tower"):
                await client.embed_texts(["red"], model="eyes")
            with pytest.raises(NotFound, match="this embedder runs 'toy', 'eyes'") as unknown:
                await client.embed_images([RED_ON_BLUE], model="ears")
            assert unknown.value.field == "model"
            # Of a collection: its model is not what the caller named.
            with pytest.raises(FailedPrecondition, match="add the collection's model") as missing:
                await client.embed_images([RED_ON_BLUE], model="ears", fingerprint="ears-1")
            assert (missing.value.reason, missing.value.field) == ("MODEL_MISMATCH", "")
            with pytest.raises(FailedPrecondition, match="eyes-1"):
                await client.embed_images([RED_ON_BLUE], model="eyes", fingerprint="toy-1")
        finally:
            await client.close()


async def test_a_model_that_hangs_keeps_no_other_from_answering() -> None:
    eyes = Eyes()
    async with serving(ToyEncoder(), None, eyes) as served:
        eyes.gate.clear()
        eyes.entered.clear()
        held = asyncio.ensure_future(served.stub.EmbedImages(pb.EmbedImagesRequest(images=[RED_ON_BLUE], model="eyes")))
        await asyncio.to_thread(eyes.entered.wait, 5)
        answer = await served.stub.EmbedImages(pb.EmbedImagesRequest(images=[RED_ON_BLUE]), timeout=5)
        assert answer.fingerprint == "toy-1"
        assert not held.done()
        eyes.gate.set()
        assert (await held).fingerprint == "eyes-1"


async def test_room_is_shared() -> None:
    eyes = Eyes()
    async with serving(ToyEncoder(), None, eyes, max_items=3, max_waiting_items=4, max_waiting_analyses=4) as served:
        eyes.gate.clear()
        eyes.entered.clear()
        images = [RED_ON_BLUE] * 3
        held = asyncio.ensure_future(served.stub.EmbedImages(pb.EmbedImagesRequest(images=images, model="eyes")))
        await asyncio.to_thread(eyes.entered.wait, 5)
        with pytest.raises(grpc.RpcError) as refused:
            await served.stub.EmbedImages(pb.EmbedImagesRequest(images=images))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        eyes.gate.set()
        await held


async def test_of_several_from_the_settings_the_first_is_the_default_one() -> None:
    settings = EmbedderSettings(model=" toy , demo ", segmenter="", device="cpu", threads=1, warm_up=False)
    encoders = load_encoders(settings)
    assert [encoder.name for encoder in encoders] == ["toy", "demo"]
    async with serving(encoders[0], None, encoders[1], warm_up=False) as served:
        answer = await served.stub.GetModel(pb.GetModelRequest())
        assert (answer.model, list(answer.models)) == ("toy", ["toy", "demo"])
        texts = await served.stub.EmbedTexts(pb.EmbedTextsRequest(texts=["an owl"], model="demo"))
        assert from_tensor(texts.vectors).shape == (1, encoders[1].dimension)


async def test_tags_need_words_and_regions_a_picture() -> None:
    async with serving(Eyes(), None) as served:
        client = EmbedderClient(f"dns:///{served.address}", timeout_s=20)
        try:
            with pytest.raises(FailedPrecondition, match="eyes has no text tower"):
                await client.choose_tags(np.eye(1, 12, dtype=np.float32), [0.5], WORDS)
            with pytest.raises(InvalidArgument) as error:
                await client.embed_regions(b"junk", [])
            assert (error.value.field, error.value.reason) == ("image", "IMAGE_FORMAT")
        finally:
            await client.close()
