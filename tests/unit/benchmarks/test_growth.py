import random

import pytest

from benchmarks.growth import grown, theil_sen


def test_the_slope_of_a_line_whatever_a_quarter_of_the_points_say() -> None:
    times = [float(i) for i in range(100)]
    values = [2 * t + 5 for t in times]
    assert theil_sen(times, values) == pytest.approx(2)
    wild = [1e6 if i % 4 == 0 else value for i, value in enumerate(values)]
    assert theil_sen(times, wild) == pytest.approx(2, abs=0.1)


def test_too_few_points_have_no_slope() -> None:
    assert theil_sen([], []) == 0
    assert theil_sen([1.0], [5.0]) == 0
    assert theil_sen([1.0, 1.0], [5.0, 9.0]) == 0


def test_many_points_are_thinned_and_give_the_same() -> None:
    times = [i / 10 for i in range(5_000)]
    assert theil_sen(times, [3 * t for t in times]) == pytest.approx(3)


def test_noise_is_no_growth_and_a_leak_is() -> None:
    rng = random.Random(1)  # noqa: S311 - noise
    times = [5.0 * i for i in range(240)]
    level = [300 + rng.gauss(0, 10) for _ in times]
    fine = grown(times, level, fraction=0.05, least=2)
    assert fine.is_fine
    assert fine.allowed == pytest.approx(15, rel=0.05)
    leak = grown(times, [value + t / 20 for t, value in zip(times, level, strict=True)], fraction=0.05, least=2)
    assert not leak.is_fine
    assert leak.grown == pytest.approx(60, abs=10)


def test_what_shrinks_or_was_never_seen_is_fine() -> None:
    assert grown([0.0, 1.0], [9.0, 1.0], fraction=0.1, least=1).is_fine
    nothing = grown([], [], fraction=0.1, least=1)
    assert (nothing.grown, nothing.is_fine) == (0, True)
    # Few threads: a share of them would be less than one.
    assert grown([0.0, 1.0], [4.0, 5.0], fraction=0.1, least=2).is_fine
