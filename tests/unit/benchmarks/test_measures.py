import numpy as np
import pytest

from benchmarks.measures import Counts, average_precision_at, best_iou, box_mask, mean, rank_of, recall_at, resized


def test_ranks_and_recalls() -> None:
    assert rank_of(["a", "b"], "b") == 2
    assert rank_of(["a", "b"], "c") is None
    assert recall_at(["a", "b", "c"], {"a", "c", "x"}, 10) == pytest.approx(2 / 3)
    # More are relevant than places: a full page is all that can be had.
    assert recall_at(["a", "b"], {"a", "b", "c", "d"}, 2) == 1
    assert recall_at(["x", "a"], {"a"}, 1) == 0
    assert mean([]) == 0
    assert mean([1, 2]) == 1.5


def test_the_best_overlap_counts_whatever_the_sizes() -> None:
    true = np.zeros((4, 4), dtype=np.bool_)
    true[:2, :2] = True
    same_at_double = np.repeat(np.repeat(true, 2, axis=0), 2, axis=1)
    half = true.copy()
    half[:1] = False
    assert best_iou(true, []) == 0
    assert best_iou(true, [half]) == 0.5
    assert best_iou(true, [half, same_at_double]) == 1
    assert best_iou(np.zeros_like(true), [np.zeros_like(true)]) == 0
    assert resized(same_at_double, 4, 4).tolist() == true.tolist()


def test_a_box_as_a_mask() -> None:
    assert box_mask((0, 0.5, 1, 1), side=4).sum() == 8
    # Never empty: the smallest box is a pixel.
    assert box_mask((0.5, 0.5, 0.51, 0.51), side=4).sum() == 1
    assert box_mask((0.99, 0.99, 1, 1), side=4).sum() == 1


def test_precision_and_recall_of_tags() -> None:
    counts = Counts.of({"1": ["owl", "bus"], "2": []}, {"1": ["owl", "dog"], "2": ["cat"]})
    assert (counts.right, counts.given, counts.true) == (1, 2, 3)
    assert counts.precision == 0.5
    assert counts.recall == pytest.approx(1 / 3)
    nothing = Counts.of({}, {})
    assert (nothing.precision, nothing.recall) == (0, 0)


def test_average_precision_rewards_early_answers() -> None:
    assert average_precision_at(["a", "b", "x"], {"a", "b"}, 10) == 1
    assert average_precision_at(["x", "a"], {"a"}, 10) == 0.5
    assert average_precision_at(["a", "x", "b"], {"a", "b"}, 10) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision_at(["x"] * 10 + ["a"], {"a"}, 10) == 0
    assert average_precision_at([], {"a"}, 10) == 0
