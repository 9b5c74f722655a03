import numpy as np
import pytest

from services.common.domain import Box, Point
from services.common.errors import InvalidArgument
from services.embedder.masks import tight_box
from services.embedder.models.toy import COLOURS, ToyEncoder, ToySegmenter
from tests.unit.embedder.pictures import picture

ENCODER = ToyEncoder()


@pytest.mark.parametrize("name", [name for name in COLOURS if name != "gray"])
def test_a_colour_finds_its_picture(name: str) -> None:
    texts = ENCODER.embed_texts(ENCODER.tokenize([*COLOURS, f"a photo of a {name} thing", "grey"]))
    image = ENCODER.embed_images(ENCODER.stack([ENCODER.preprocess(picture(name, name))]))[0]
    assert list(COLOURS)[int((texts[: len(COLOURS)] @ image).argmax())] == name
    assert texts[len(COLOURS)] @ texts[list(COLOURS).index(name)] == pytest.approx(1)


def test_rows_are_unit_and_do_not_depend_on_neighbours() -> None:
    pixels = [ENCODER.preprocess(picture(a, b)) for a in ("red", "blue") for b in ("green", "pink")]
    rows = ENCODER.embed_images(ENCODER.stack(pixels))
    assert rows.shape == (4, ENCODER.dimension)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    for row, one in zip(rows, pixels, strict=True):
        np.testing.assert_array_equal(ENCODER.embed_images(ENCODER.stack([one]))[0], row)
    assert len({row.tobytes() for row in rows}) == 4


def test_words_that_name_no_colour_are_told_apart() -> None:
    rows = ENCODER.embed_texts(["hello", "world", "hello"])
    assert rows[0] @ rows[2] == pytest.approx(1)
    assert abs(rows[0] @ rows[1]) < 0.6


def test_segments() -> None:
    found = ToySegmenter().segment_all(picture(), max_segments=5, min_area_fraction=0.01)
    assert len(found) == 2
    assert found[1].mask.shape == (150, 200)
    box = tight_box(found[1].mask)
    np.testing.assert_allclose((box.x0, box.y0, box.x1, box.y1), (0.1, 0.1, 0.4, 0.5), atol=0.03)


def test_a_box_cuts() -> None:
    found = ToySegmenter().segment_at(picture(), [Point(0.25, 0.3)], Box(0, 0, 0.25, 1))
    assert tight_box(found.mask).x1 == pytest.approx(0.25, abs=0.02)


def test_points_that_mean_nothing() -> None:
    with pytest.raises(InvalidArgument):
        ToySegmenter().segment_at(picture(), [Point(0.25, 0.3), Point(0.26, 0.3, background=True)], None)
