import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.common.domain import Box
from services.embedder.masks import MAX_AREA_FRACTION, NMS_IOU, best, tight_box


def square(y0: int, x0: int, y1: int, x1: int, side: int = 50) -> np.ndarray:
    mask = np.zeros((side, side), np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def choose(masks: list[np.ndarray], quality: list[float], *, max_masks: int = 10, least: float = 0.01) -> list[int]:
    array = np.stack(masks) if masks else np.zeros((0, 50, 50), np.bool_)
    return best(array, np.array(quality, np.float32), max_masks=max_masks, min_area_fraction=least)


def test_tight_box() -> None:
    assert tight_box(square(10, 20, 30, 50)) == Box(0.4, 0.2, 1.0, 0.6)


def test_of_two_alike_the_better_stays() -> None:
    masks = [square(0, 0, 20, 20), square(0, 0, 20, 21), square(30, 30, 45, 45)]
    assert choose(masks, [0.8, 0.9, 0.7]) == [1, 2]


def test_a_part_is_not_like_the_whole() -> None:
    assert sorted(choose([square(0, 0, 20, 20), square(0, 0, 10, 10)], [0.9, 0.9])) == [0, 1]


def test_area_and_quality_both_count() -> None:
    large, small = square(0, 0, 20, 20), square(30, 30, 38, 38)
    assert choose([small, large], [0.9, 0.9]) == [1, 0]
    assert choose([small, large], [0.95, 0.5]) == [0, 1]


def test_too_small_too_large_and_empty_are_left_out() -> None:
    masks = [square(0, 0, 4, 4), np.ones((50, 50), np.bool_), np.zeros((50, 50), np.bool_), square(0, 0, 5, 5)]
    assert choose(masks, [0.9] * 4) == [3]
    assert choose(masks[2:3], [0.9], least=0.0) == []


def test_the_number_is_limited() -> None:
    masks = [square(10 * i, 10 * j, 10 * i + 8, 10 * j + 8) for i in range(5) for j in range(5)]
    assert len(choose(masks, [0.9] * 25, max_masks=7)) == 7
    assert choose([], []) == []


@given(seed=st.integers(0, 10_000), count=st.integers(0, 12), shape=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_choice_keeps_its_promises(seed: int, count: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((count, *shape)) < rng.random((count, 1, 1))
    quality = rng.random(count).astype(np.float32)
    kept = best(masks, quality, max_masks=5, min_area_fraction=0.1)
    assert len(kept) <= 5
    assert len(set(kept)) == len(kept)
    for i in kept:
        assert 0.1 <= masks[i].mean() <= MAX_AREA_FRACTION
        for j in kept:
            if i != j:
                assert (masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum() <= NMS_IOU
