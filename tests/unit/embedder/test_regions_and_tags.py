"""Vectors of regions that are known, and tags for vectors that are known, against what an analysis gives."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from saccade.common.v1 import types_pb2
from saccade.embedder.v1 import embedder_service_pb2 as pb
from services.common.domain import Analysis, Mask, VocabularyEntry
from services.common.embedder_client import EmbedderClient
from services.common.errors import InvalidArgument
from services.common.messages import mask_to_message
from services.common.tensors import to_tensor
from services.embedder.models.toy import COLOURS, ToyEncoder, ToySegmenter
from tests.unit.embedder.conftest import Served, serving
from tests.unit.embedder.pictures import encoded, picture
from tests.unit.embedder.test_servicer import refused

WORDS = [VocabularyEntry(name, "colours") for name in ("red", "blue", "green", "white", "black")]
SCENE = picture("white", "red", size=(320, 200))
ImageDraw.Draw(SCENE).rectangle((190, 110, 300, 190), fill=COLOURS["green"])
DATA = encoded(SCENE)


async def analysed(client: EmbedderClient, data: bytes = DATA) -> Analysis:
    (analysis,) = await client.analyze_images([data], vocabulary=WORDS)
    assert not isinstance(analysis, Exception)
    return analysis


def masks_and_vectors(analysis: Analysis) -> tuple[list[Mask], np.ndarray]:
    masks = [segment.mask for segment in analysis.segments if segment.mask is not None]
    vectors = np.stack([segment.vector for segment in analysis.segments if segment.vector is not None])
    assert len(masks) == len(vectors) >= 3
    return masks, vectors


@pytest.mark.parametrize("data", [DATA, encoded(SCENE.resize((2000, 1250)), "JPEG")], ids=["small", "large"])
async def test_regions_get_the_vectors_that_an_analysis_gives_them(data: bytes) -> None:
    async with serving(segmenter=ToySegmenter()) as served, serving() as plain:
        client = EmbedderClient(f"dns:///{served.address}", timeout_s=20)
        # The other one has no segmenter, and needs none.
        other = EmbedderClient(f"dns:///{plain.address}", timeout_s=20)
        try:
            analysis = await analysed(client, data)
            masks, vectors = masks_and_vectors(analysis)
            vector, regions = await other.embed_regions(data, masks, fingerprint="toy-1")
            np.testing.assert_array_equal(vector, analysis.vector)
            np.testing.assert_array_equal(regions, vectors)
            vector, none = await other.embed_regions(data, [])
            assert none.shape == (0, ToyEncoder.dimension)
        finally:
            await client.close()
            await other.close()


async def test_masks_of_another_size_are_scaled() -> None:
    """Segments may have been cut out of a working picture of another size."""
    async with serving(segmenter=ToySegmenter(), working_px=160) as small, serving(working_px=640) as large:
        client = EmbedderClient(f"dns:///{small.address}", timeout_s=20)
        other = EmbedderClient(f"dns:///{large.address}", timeout_s=20)
        try:
            masks, vectors = masks_and_vectors(await analysed(client))
            assert (masks[0].width, masks[0].height) == (160, 100)
            _, regions = await other.embed_regions(DATA, masks)
            assert (regions * vectors).sum(axis=1).min() > 0.98
            thin = np.zeros((1250, 2000), np.bool_)
            thin[700, 1300] = True
            _, (dot,) = await other.embed_regions(DATA, [Mask.from_array(thin)])
            words = await other.embed_texts(["green", "white", "red"])
            assert (words @ dot).argmax() == 0
        finally:
            await client.close()
            await other.close()


async def test_tags_are_those_of_an_analysis(served: Served) -> None:
    client = EmbedderClient(f"dns:///{served.address}", timeout_s=20)
    try:
        analysis = await analysed(client)
        ground = analysis.segments[0]
        assert ground.area_fraction > 0.5
        assert not ground.tags
        _, vectors = masks_and_vectors(analysis)
        rows = np.vstack([vectors, analysis.vector])
        areas = [*(segment.area_fraction for segment in analysis.segments), 1.0]
        chosen = await client.choose_tags(rows, areas, WORDS, fingerprint="toy-1")
        assert chosen == [*(segment.tags for segment in analysis.segments), analysis.tags]
        assert chosen[0] == ()
        assert sorted(tags[0].name for tags in chosen[1:3]) == ["green", "red"]
        assert analysis.tags
        assert await client.choose_tags(rows[:0], [], WORDS) == []
        # Other sentences are another space.
        (analysis_2,) = await client.analyze_images([DATA], vocabulary=WORDS, prompt_templates=["{}", "{} thing"])
        assert isinstance(analysis_2, Analysis)
        again = await client.choose_tags(rows[:-1], areas[:-1], WORDS, ["{}", "{} thing"])
        assert again == [segment.tags for segment in analysis_2.segments]
    finally:
        await client.close()


def region(mask: types_pb2.Mask | Mask, count: int = 1) -> pb.EmbedRegionsRequest:
    message = mask_to_message(mask) if isinstance(mask, Mask) else mask
    return pb.EmbedRegionsRequest(image=DATA, masks=[message] * count)


def tags(*, rows: int = 2, dimension: int = ToyEncoder.dimension, **fields: Any) -> pb.ChooseTagsRequest:
    given: dict[str, Any] = {
        "vectors": to_tensor(np.eye(rows, dimension, dtype=np.float32)),
        "area_fractions": [0.5] * rows,
        "vocabulary": [pb.VocabularyEntry(name="red")],
    }
    return pb.ChooseTagsRequest(**(given | fields))


FULL = Mask.from_array(np.ones((20, 32), np.bool_))
BAD: list[tuple[str, Any, str]] = [
    ("EmbedRegions", region(FULL, 65), "masks"),
    ("EmbedRegions", region(Mask(20, 32, (640,))), "masks[0]"),
    ("EmbedRegions", region(Mask(20, 32, ())), "masks[0].counts"),
    ("EmbedRegions", region(Mask(20, 32, (0, 600))), "masks[0].counts"),
    ("EmbedRegions", region(Mask(0, 0, ())), "masks[0]"),
    ("EmbedRegions", region(Mask(100_000, 100_000, (0, 4_000_000_000))), "masks[0]"),
    ("EmbedRegions", region(Mask.from_array(np.ones((32, 20), np.bool_))), "masks[0]"),
    ("EmbedRegions", pb.EmbedRegionsRequest(image=b""), "image"),
    ("EmbedRegions", pb.EmbedRegionsRequest(image=DATA, lane=9), "lane"),  # type: ignore[arg-type]
    ("ChooseTags", tags(dimension=7), "vectors.shape"),
    ("ChooseTags", tags(rows=0), "vectors.shape"),
    ("ChooseTags", tags(vectors=to_tensor(np.eye(1, ToyEncoder.dimension)[0])), "vectors.shape"),
    ("ChooseTags", tags(vectors=to_tensor(np.eye(2, ToyEncoder.dimension) * 2)), "vectors"),
    ("ChooseTags", tags(vectors=types_pb2.Tensor()), "vectors.data_type"),
    ("ChooseTags", tags(area_fractions=[0.5]), "area_fractions"),
    ("ChooseTags", tags(area_fractions=[0.5, 0.0]), "area_fractions[1]"),
    ("ChooseTags", tags(area_fractions=[float("nan"), 0.5]), "area_fractions[0]"),
    ("ChooseTags", tags(area_fractions=[0.5, 1.5]), "area_fractions[1]"),
    ("ChooseTags", tags(vocabulary=[]), "vocabulary"),
    ("ChooseTags", tags(vocabulary=[pb.VocabularyEntry()]), "vocabulary[0].name"),
    ("ChooseTags", tags(prompt_templates=["no hole"]), "prompt_templates[0]"),
]


@pytest.mark.parametrize(("call", "request_", "field"), BAD)
async def test_bad_fields_are_named(served: Served, call: str, request_: Any, field: str) -> None:
    error = await refused(getattr(served.stub, call)(request_))
    assert [path for path, _ in error.fields] == [field]


async def test_an_image_that_can_not_be_used_is_an_invalid_argument(served: Served) -> None:
    client = EmbedderClient(f"dns:///{served.address}", timeout_s=20)
    try:
        with pytest.raises(InvalidArgument) as error:
            await client.embed_regions(DATA[:60], [FULL])
        assert (error.value.field, error.value.reason) == ("image", "IMAGE_TRUNCATED")
    finally:
        await client.close()


async def test_a_photograph_that_lies_on_its_side_is_turned_first() -> None:
    """Masks lie over the picture as people see it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    SCENE.rotate(90, expand=True).save(out, "PNG", exif=exif)
    data = out.getvalue()
    async with serving(segmenter=ToySegmenter()) as served:
        client = EmbedderClient(f"dns:///{served.address}", timeout_s=20)
        try:
            analysis = await analysed(client, data)
            masks, vectors = masks_and_vectors(analysis)
            assert (masks[0].width, masks[0].height) == SCENE.size
            _, regions = await client.embed_regions(data, masks)
            np.testing.assert_array_equal(regions, vectors)
        finally:
            await client.close()
