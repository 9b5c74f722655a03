import numpy as np
import pytest

from benchmarks.tune_ranking import Result, choose, curve_of
from benchmarks.tuning_data import Query, QueryClass
from services.query.ranking import Fusion, PartVectors

X = np.array([1, 0], dtype=np.float32)


def test_a_curve_lies_between_matches_and_others_however_many_there_are_of_each() -> None:
    random = np.random.default_rng(5)
    curve = curve_of(random.normal(0.7, 0.1, 200), random.normal(0.3, 0.1, 20_000))
    assert curve.middle == pytest.approx(0.5, abs=0.02)
    # Of two normal distributions the log odds are (m1 - m0) / s^2 times the distance; the ridge flattens a little.
    assert 15 < curve.slope < 42


def test_the_best_mean_among_those_that_lose_little_is_chosen() -> None:
    results = [
        Result(Fusion(0.1), {"a": 0.9, "b": 0.9}, loss=0.2),
        Result(Fusion(0.2), {"a": 0.7, "b": 0.7}, loss=0.0),
        Result(Fusion(0.3), {"a": 0.8, "b": 0.7}, loss=0.009),
    ]
    assert choose(results).fusion == Fusion(0.3)


@pytest.mark.parametrize(("measure", "expected"), [("recall_at_1", 1.0), ("map_at_10", 1.0), ("recall_at_10", 1.0)])
def test_images_that_do_not_take_part_are_no_answers(measure: str, expected: float) -> None:
    query = Query(PartVectors.single(1, X), frozenset({"right"}), frozenset({"source"}))
    made = QueryClass("any", measure, (query,))  # type: ignore[arg-type]
    assert made.value(lambda _: ["source", "right", "wrong"]) == expected
    assert made.value(lambda _: ["source", "wrong", "right"]) < expected or measure == "recall_at_10"
