import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.domain import Vector
from services.query.variety import SAME_PICTURE, diversified, folded


def rows(*angles: float) -> Vector:
    """Unit vectors on a plane, by their angles in degrees."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_near_duplicates_stand_under_the_best_one() -> None:
    vectors = rows(0, 90, 5, 95, 40)
    assert folded([0, 1, 2, 3, 4], vectors) == {0: [2], 1: [3], 4: []}
    assert folded([2, 0, 3, 1, 4], vectors) == {2: [0], 3: [1], 4: []}


def test_what_is_alike_something_shown_is_left_out() -> None:
    assert folded([1, 2], rows(0, 5, 90), shown=[0]) == {2: []}


@given(st.lists(st.floats(0, 360), min_size=1, max_size=12))
def test_no_two_that_stay_are_alike_and_none_is_lost(angles: list[float]) -> None:
    vectors = rows(*angles)
    stay = folded(range(len(angles)), vectors)
    kept = list(stay)
    assert sorted(index for index, others in stay.items() for index in (index, *others)) == list(range(len(angles)))
    alike = vectors[kept] @ vectors[kept].T - 2 * np.eye(len(kept))
    assert alike.max(initial=-1) < SAME_PICTURE


def test_variety_comes_before_more_of_the_same() -> None:
    vectors, scores = rows(0, 10, 90), np.array([0.9, 0.89, 0.8])
    assert diversified([0, 1, 2], scores, vectors, 0.0) == [0, 1, 2]
    assert diversified([0, 1, 2], scores, vectors, 0.5) == [0, 2, 1]
    assert diversified([1, 2], scores, vectors, 0.5, shown=[0]) == [2, 1]


@given(st.lists(st.tuples(st.floats(0, 360), st.floats(0, 1)), max_size=10), st.floats(0, 1))
def test_every_result_stays_and_the_best_is_first(images: list[tuple[float, float]], diversity: float) -> None:
    vectors = rows(*(angle for angle, _ in images))
    scores = np.array([score for _, score in images])
    order = sorted(range(len(images)), key=lambda index: -scores[index])
    found = diversified(order, scores, vectors, diversity)
    assert sorted(found) == sorted(order)
    if found and diversity < 1:
        assert scores[found[0]] == pytest.approx(scores[order[0]])
