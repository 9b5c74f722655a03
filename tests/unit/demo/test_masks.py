import numpy as np
import pytest

from demo.masks import Rle, area_fraction, bounding_box, decode, encode, iou

MASK = np.array([[0, 1, 1], [0, 1, 0]], bool)


def test_runs_go_down_the_columns_and_begin_with_zeros() -> None:
    assert encode(MASK) == Rle(2, 3, (2, 3, 1))
    assert encode(np.ones((2, 2), bool)) == Rle(2, 2, (0, 4))
    assert encode(np.zeros((2, 2), bool)) == Rle(2, 2, (4,))


def test_decode_undoes_encode() -> None:
    mask = np.random.default_rng(0).random((17, 11)) < 0.3
    rle = encode(mask)
    assert sum(rle.counts) == mask.size
    assert np.array_equal(decode(rle), mask)


def test_box_and_area() -> None:
    assert bounding_box(MASK) == (1 / 3, 0.0, 1.0, 1.0)
    assert area_fraction(MASK) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="empty"):
        bounding_box(np.zeros((2, 2), bool))


def test_iou() -> None:
    assert iou(MASK, MASK) == 1
    assert iou(MASK, ~MASK) == 0
    assert iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 0
