import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as st_numpy

from services.common.domain import Box, Mask, Point
from services.common.errors import InvalidArgument


@given(st_numpy.arrays(np.bool_, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_a_mask_comes_back_as_it_was(array: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> None:
    mask = Mask.from_array(array)
    np.testing.assert_array_equal(mask.to_array(), array)
    assert sum(mask.counts) == array.size
    assert all(run > 0 for run in mask.counts[1:])


def test_a_mask_runs_down_the_columns_and_begins_with_zeros() -> None:
    array = np.array([[True, False], [True, True]])
    assert Mask.from_array(array).counts == (0, 2, 1, 1)


@pytest.mark.parametrize(
    "box",
    [
        Box(0.5, 0, 0.5, 1),
        Box(0, 0.6, 1, 0.2),
        Box(-0.1, 0, 1, 1),
        Box(0, 0, 1, 1.01),
        Box(math.nan, 0, 1, 1),
        Box(0, 0, 1, math.inf),
    ],
)
def test_a_box_outside_the_image_is_refused_by_name(box: Box) -> None:
    with pytest.raises(InvalidArgument) as caught:
        box.checked("parts[0].region.box")
    assert caught.value.field == "parts[0].region.box"


def test_a_box_in_the_image_passes() -> None:
    box = Box(0, 0, 1, 1)
    assert box.checked() is box
    assert box.area == 1


@pytest.mark.parametrize("point", [Point(-0.1, 0.5), Point(0.5, 1.5), Point(math.nan, 0)])
def test_a_point_outside_the_image_is_refused(point: Point) -> None:
    with pytest.raises(InvalidArgument):
        point.checked("points[0]")
