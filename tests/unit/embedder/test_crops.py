import numpy as np
from PIL import Image

from services.embedder.crops import FILL, cut_out


def test_a_segment_stands_alone_on_grey() -> None:
    image = Image.new("RGB", (100, 80), (200, 0, 0))
    mask = np.zeros((80, 100), np.bool_)
    mask[30:50, 20:60] = True
    mask[30:40, 20:40] = False
    crop = cut_out(image, mask)
    # 40 px wide with 10 % of that on each side.
    assert crop.size == (48, 48)
    pixels = np.asarray(crop)
    assert (pixels == FILL).all(axis=2).sum() == 48 * 48 - mask.sum()
    assert tuple(pixels[30, 40]) == (200, 0, 0)
    # The box is in the middle.
    rows, columns = np.nonzero((pixels != FILL).any(axis=2))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (4, 43, 14, 33)


def test_a_segment_at_the_edge_is_padded() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[:10, :10] = True
    crop = cut_out(Image.new("RGB", (20, 20), (0, 0, 200)), mask)
    assert crop.size == (12, 12)
    assert tuple(np.asarray(crop)[0, 0]) == FILL


def test_a_segment_of_one_pixel() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[5, 5] = True
    assert min(cut_out(Image.new("RGB", (20, 20)), mask).size) >= 1
