import numpy as np

from demo.masks import bounding_box, iou

MASK = np.array([[0, 1, 1], [0, 1, 0]], bool)


def test_the_box_is_in_parts_of_the_sides() -> None:
    assert bounding_box(MASK) == (1 / 3, 0.0, 1.0, 1.0)


def test_iou() -> None:
    assert iou(MASK, MASK) == 1
    assert iou(MASK, ~MASK) == 0
    assert iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 0
