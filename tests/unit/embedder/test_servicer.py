"""The contract over a real server, with the toy models."""

import asyncio
import threading
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from saccade.common.v1 import types_pb2
from saccade.embedder.v1 import embedder_service_pb2 as pb
from saccade.errors import ApiError, api_error
from services.common.domain import Mask
from services.common.tensors import from_tensor
from services.embedder.models.toy import ToyEncoder, ToySegmenter
from tests.unit.embedder.conftest import Served, serving
from tests.unit.embedder.pictures import encoded, picture

RED_ON_BLUE = encoded(picture())
CODES = grpc.StatusCode


async def refused(call: Any) -> ApiError:
    with pytest.raises(grpc.RpcError) as error:
        await call
    return api_error(error.value)


async def test_get_model(served: Served) -> None:
    answer = await served.stub.GetModel(pb.GetModelRequest())
    assert (answer.model, answer.segmenter, answer.has_text) == ("toy", "toy", True)
    assert (answer.dimension, answer.max_items, answer.device) == (ToyEncoder.dimension, 64, "cpu")
    assert answer.fingerprint
    assert await served.stub.GetModel(pb.GetModelRequest(model="toy")) == answer


async def test_texts_and_images_share_a_space(served: Served) -> None:
    texts = await served.stub.EmbedTexts(pb.EmbedTextsRequest(texts=["red", "blue", "green"]))
    images = await served.stub.EmbedImages(
        pb.EmbedImagesRequest(images=[encoded(picture(c, c)) for c in ("green", "red")], lane=pb.LANE_BULK)
    )
    rows = from_tensor(texts.vectors)
    vectors = np.stack([from_tensor(result.vector) for result in images.results])
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([rows, vectors]), axis=1), 1, rtol=1e-5)
    assert (vectors @ rows.T).argmax(axis=1).tolist() == [2, 0]
    assert texts.fingerprint == images.fingerprint


async def test_a_bad_image_fails_alone(served: Served) -> None:
    images = [RED_ON_BLUE, b"", b"no image", RED_ON_BLUE[:-40], RED_ON_BLUE]
    answer = await served.stub.EmbedImages(pb.EmbedImagesRequest(images=images))
    kinds = [result.WhichOneof("outcome") for result in answer.results]
    assert kinds == ["vector", "error", "error", "error", "vector"]
    errors = [answer.results[i].error for i in (1, 2, 3)]
    assert [error.reason for error in errors] == ["IMAGE_EMPTY", "IMAGE_FORMAT", "IMAGE_TRUNCATED"]
    assert [error.field for error in errors] == ["images[1]", "images[2]", "images[3]"]
    assert {error.code for error in errors} == {CODES.INVALID_ARGUMENT.value[0]}


async def test_analysis(served: Served) -> None:
    request = pb.AnalyzeImagesRequest(
        images=[RED_ON_BLUE, b"x"],
        vocabulary=[pb.VocabularyEntry(name=name, category="colours") for name in ("red", "blue", "green")],
        include_masks=True,
    )
    answer = await served.stub.AnalyzeImages(request)
    assert answer.results[1].error.field == "images[1]"
    analysis = answer.results[0].analysis
    assert (analysis.width, analysis.height) == (200, 150)
    ground, disc = analysis.segments
    assert (ground.index, disc.index) == (0, 1)
    assert [tag.name for tag in disc.tags] == ["red"]
    assert disc.tags[0].category == "colours"
    assert [tag.name for tag in analysis.tags] == ["blue"]
    box = disc.box
    np.testing.assert_allclose((box.x0, box.y0, box.x1, box.y1), (0.1, 0.1, 0.4, 0.5), atol=0.03)
    mask = Mask(disc.mask.height, disc.mask.width, tuple(disc.mask.counts)).to_array()
    assert mask.shape == (150, 200)
    assert mask.mean() == pytest.approx(disc.area_fraction, abs=1e-4)
    alone = await served.stub.EmbedImages(pb.EmbedImagesRequest(images=[RED_ON_BLUE]))
    assert alone.results[0].vector == analysis.vector
    assert from_tensor(disc.vector).shape == (ToyEncoder.dimension,)


async def test_analysis_options(served: Served) -> None:
    def request(**options: Any) -> pb.AnalyzeImagesRequest:
        return pb.AnalyzeImagesRequest(images=[RED_ON_BLUE], **options)

    one = (await served.stub.AnalyzeImages(request(max_segments=1))).results[0].analysis
    assert len(one.segments) == 1
    assert not one.segments[0].HasField("mask")
    assert not one.tags
    large = (await served.stub.AnalyzeImages(request(min_area_fraction=0.5))).results[0].analysis
    assert [segment.area_fraction > 0.5 for segment in large.segments] == [True]


async def test_large_pictures_give_small_masks() -> None:
    async with serving(segmenter=ToySegmenter(), working_px=100) as served:
        request = pb.AnalyzeImagesRequest(images=[encoded(picture(size=(400, 200)))], include_masks=True)
        analysis = (await served.stub.AnalyzeImages(request)).results[0].analysis
    assert (analysis.width, analysis.height) == (400, 200)
    assert (analysis.segments[0].mask.width, analysis.segments[0].mask.height) == (100, 50)


@pytest.mark.parametrize(
    "prompt",
    [
        {"points": [types_pb2.Point(x=0.25, y=0.3)]},
        {"box": types_pb2.BoundingBox(x0=0.08, y0=0.08, x1=0.42, y1=0.52)},
        {"points": [types_pb2.Point(x=0.25, y=0.3), types_pb2.Point(x=0.9, y=0.9, background=True)]},
    ],
)
async def test_segment_at(served: Served, prompt: dict[str, Any]) -> None:
    answer = await served.stub.SegmentAt(pb.SegmentAtRequest(image=RED_ON_BLUE, **prompt))
    box = answer.segment.box
    np.testing.assert_allclose((box.x0, box.y0, box.x1, box.y1), (0.1, 0.1, 0.4, 0.5), atol=0.03)
    assert answer.segment.HasField("mask")
    texts = await served.stub.EmbedTexts(pb.EmbedTextsRequest(texts=["red", "blue"]))
    scores = from_tensor(texts.vectors) @ from_tensor(answer.segment.vector)
    assert scores.argmax() == 0


NAN = float("nan")
BAD_CALLS: list[tuple[str, Any, str]] = [
    ("EmbedTexts", pb.EmbedTextsRequest(), "texts"),
    ("EmbedTexts", pb.EmbedTextsRequest(texts=["a"] * 65), "texts"),
    ("EmbedTexts", pb.EmbedTextsRequest(texts=["a", "b", " \n\t"]), "texts[2]"),
    ("EmbedTexts", pb.EmbedTextsRequest(texts=["a", "b" * 2001]), "texts[1]"),
    ("EmbedTexts", pb.EmbedTextsRequest(texts=["a"], lane=9), "lane"),  # type: ignore[arg-type]
    ("EmbedImages", pb.EmbedImagesRequest(), "images"),
    ("EmbedImages", pb.EmbedImagesRequest(images=[RED_ON_BLUE] * 65), "images"),
    ("AnalyzeImages", pb.AnalyzeImagesRequest(), "images"),
    ("AnalyzeImages", pb.AnalyzeImagesRequest(images=[b"x"], max_segments=65), "max_segments"),
    ("AnalyzeImages", pb.AnalyzeImagesRequest(images=[b"x"], min_area_fraction=NAN), "min_area_fraction"),
    ("AnalyzeImages", pb.AnalyzeImagesRequest(images=[b"x"], min_area_fraction=-1), "min_area_fraction"),
    ("AnalyzeImages", pb.AnalyzeImagesRequest(images=[b"x"], min_area_fraction=1), "min_area_fraction"),
    (
        "AnalyzeImages",
        pb.AnalyzeImagesRequest(images=[b"x"], vocabulary=[pb.VocabularyEntry(name="a"), pb.VocabularyEntry()]),
        "vocabulary[1].name",
    ),
    (
        "AnalyzeImages",
        pb.AnalyzeImagesRequest(images=[b"x"], prompt_templates=["a {}", "no hole"]),
        "prompt_templates[1]",
    ),
    ("SegmentAt", pb.SegmentAtRequest(image=RED_ON_BLUE), "points"),
    ("SegmentAt", pb.SegmentAtRequest(image=RED_ON_BLUE, points=[types_pb2.Point(x=0.5, background=True)]), "points"),
    ("SegmentAt", pb.SegmentAtRequest(image=RED_ON_BLUE, points=[types_pb2.Point(x=0.5, y=1.5)]), "points[0]"),
    ("SegmentAt", pb.SegmentAtRequest(image=RED_ON_BLUE, points=[types_pb2.Point(x=NAN, y=0.5)]), "points[0]"),
    ("SegmentAt", pb.SegmentAtRequest(image=RED_ON_BLUE, box=types_pb2.BoundingBox(x0=0.5, x1=0.2, y1=1)), "box"),
    ("SegmentAt", pb.SegmentAtRequest(image=b"junk", points=[types_pb2.Point(x=0.5, y=0.5)]), "image"),
]


@pytest.mark.parametrize(("call", "request_", "field"), BAD_CALLS)
async def test_bad_fields_are_named(served: Served, call: str, request_: Any, field: str) -> None:
    error = await refused(getattr(served.stub, call)(request_))
    assert error.code == CODES.INVALID_ARGUMENT
    assert [path for path, _ in error.fields] == [field]


async def test_another_model_is_not_found(served: Served) -> None:
    error = await refused(served.stub.EmbedTexts(pb.EmbedTextsRequest(texts=["a"], model="ViT-B-32/openai")))
    assert (error.code, error.fields[0][0]) == (CODES.NOT_FOUND, "model")
    assert "'toy'" in error.message


async def test_without_a_segmenter() -> None:
    async with serving() as served:
        assert (await served.stub.GetModel(pb.GetModelRequest())).segmenter == ""
        error = await refused(served.stub.AnalyzeImages(pb.AnalyzeImagesRequest(images=[RED_ON_BLUE])))
        assert (error.code, error.reason) == (CODES.FAILED_PRECONDITION, "NO_SEGMENTER")


class Wordless(ToyEncoder):
    has_text = False


async def test_without_a_text_tower() -> None:
    async with serving(Wordless(), ToySegmenter()) as served:
        error = await refused(served.stub.EmbedTexts(pb.EmbedTextsRequest(texts=["a"])))
        assert (error.code, error.reason) == (CODES.FAILED_PRECONDITION, "NO_TEXT_TOWER")
        request = pb.AnalyzeImagesRequest(images=[RED_ON_BLUE], vocabulary=[pb.VocabularyEntry(name="red")])
        analysis = (await served.stub.AnalyzeImages(request)).results[0].analysis
        assert len(analysis.segments) == 2
        assert not analysis.tags


async def test_while_the_model_loads() -> None:
    async with serving(loaded=False) as served:
        error = await refused(served.stub.GetModel(pb.GetModelRequest(), timeout=10))
        assert (error.code, error.reason) == (CODES.UNAVAILABLE, "MODEL_LOADING")


class Held(ToyEncoder):
    """Waits at a gate before it computes."""

    max_batch = 1

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def embed_images(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.entered.set()
        assert self.gate.wait(10)
        return super().embed_images(batch)


async def test_overload_is_refused_with_advice_and_passes() -> None:
    encoder = Held()
    async with serving(encoder, max_items=3, max_waiting_items=4, max_waiting_analyses=4) as served:
        encoder.gate.clear()
        encoder.entered.clear()
        request = pb.EmbedImagesRequest(images=[RED_ON_BLUE] * 3)
        first = asyncio.ensure_future(served.stub.EmbedImages(request))
        await asyncio.to_thread(encoder.entered.wait, 5)
        error = await refused(served.stub.EmbedImages(request))
        assert error.code == CODES.RESOURCE_EXHAUSTED
        assert error.retry_after_s > 0
        encoder.gate.set()
        assert len((await first).results) == 3
        assert len((await served.stub.EmbedImages(request)).results) == 3


async def test_a_deadline_ends_the_wait_and_frees_the_room() -> None:
    encoder = Held()
    async with serving(encoder, max_items=3, max_waiting_items=4, max_waiting_analyses=4) as served:
        encoder.gate.clear()
        request = pb.EmbedImagesRequest(images=[RED_ON_BLUE] * 3)
        error = await refused(served.stub.EmbedImages(request, timeout=0.3))
        assert error.code == CODES.DEADLINE_EXCEEDED
        encoder.gate.set()
        async with asyncio.timeout(10):
            while True:
                try:
                    await served.stub.EmbedImages(request)
                    break
                except grpc.RpcError:
                    await asyncio.sleep(0.01)


class Fragile(ToyEncoder):
    """Fails, or gives no finite numbers, where a picture is brown."""

    def embed_images(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = super().embed_images(batch)
        brown = rows @ self.embed_texts(["brown"])[0] > 0.99
        rows[brown] = np.nan
        pink = rows @ self.embed_texts(["pink"])[0] > 0.99
        if pink.any():
            raise RuntimeError("secret: weights at /srv/models")
        return rows


async def test_a_model_that_fails_on_one_image_fails_for_it_alone() -> None:
    async with serving(Fragile()) as served:
        images = [encoded(picture(c, c)) for c in ("red", "pink", "blue", "brown", "green")]
        answer = await served.stub.EmbedImages(pb.EmbedImagesRequest(images=images))
        kinds = [result.WhichOneof("outcome") for result in answer.results]
        assert kinds == ["vector", "error", "vector", "error", "vector"]
        for i in (1, 3):
            assert answer.results[i].error.code == CODES.INTERNAL.value[0]
            assert "secret" not in answer.results[i].error.message


async def test_good_images_among_corrupt_ones_from_many_callers(served: Served) -> None:
    """200 good and 40 corrupt images from 16 callers: each gets its own answer, the same as alone."""
    names = ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"]
    good = [encoded(picture(a, b, size=(48, 40)), "JPEG") for a in names for b in names if a != b]
    alone = []
    for data in good:
        answer = await served.stub.EmbedImages(pb.EmbedImagesRequest(images=[data]))
        alone.append(from_tensor(answer.results[0].vector))
    corrupt = [b"", b"junk", good[0][:200], b"\xff\xd8\xff" + b"x" * 300]
    jobs = [(i % len(good), good[i % len(good)]) for i in range(200)] + [(-1, corrupt[i % 4]) for i in range(40)]
    np.random.default_rng(3).shuffle(jobs)
    waiting = iter(range(0, len(jobs), 5))
    outcomes: list[tuple[int, pb.EmbedImageResult]] = []

    async def caller() -> None:
        for start in waiting:
            part = jobs[start : start + 5]
            answer = await served.stub.EmbedImages(pb.EmbedImagesRequest(images=[data for _, data in part]))
            outcomes.extend((number, result) for (number, _), result in zip(part, answer.results, strict=True))

    await asyncio.gather(*(caller() for _ in range(16)))
    assert len(outcomes) == 240
    for number, result in outcomes:
        if number < 0:
            assert result.error.reason.startswith("IMAGE_")
        else:
            assert from_tensor(result.vector) @ alone[number] >= 0.9999
