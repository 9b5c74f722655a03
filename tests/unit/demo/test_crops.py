import numpy as np
from PIL import Image

from demo.crops import imprecise, padded_square
from demo.masks import BoolMask
from services.embedder.crops import FILL


def disc() -> BoolMask:
    rows, columns = np.mgrid[:80, :120]
    inside: BoolMask = (rows - 30) ** 2 + (columns - 40) ** 2 < 400
    return inside


def test_a_box_at_the_edge_is_padded() -> None:
    square = padded_square(Image.new("RGB", (100, 50), (0, 0, 255)), (0.0, 0.0, 0.5, 1.0), margin=0.1)
    assert square.size == (60, 60)
    assert square.getpixel((0, 0)) == FILL
    assert square.getpixel((30, 30)) == (0, 0, 255)


def test_imprecise_masks_stay_near_the_object() -> None:
    rng = np.random.default_rng(0)
    mask = disc()
    for _ in range(40):
        other = imprecise(rng, mask)
        assert other.shape == mask.shape
        assert (other & mask).sum() > 0.5 * mask.sum()
        assert other.sum() < 1.6 * mask.sum()
