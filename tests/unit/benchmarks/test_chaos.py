from collections import Counter
from typing import Any

import pytest

from benchmarks.chaos import VICTIMS, lines_of, plan_for, schedule


def test_the_same_seed_kills_the_same() -> None:
    assert schedule(7, 25) == schedule(7, 25)
    assert schedule(7, 25) != schedule(8, 25)


@pytest.mark.parametrize("kills", [0, 1, 8, 25])
def test_kills_come_in_order_before_the_end_and_reach_everything_alike(kills: int) -> None:
    plan = schedule(3, kills)
    assert len(plan) == kills
    assert [kill.at for kill in plan] == sorted(kill.at for kill in plan)
    assert all(0 <= kill.at <= 0.95 and 0 < kill.away_s <= 4 for kill in plan)
    counts = Counter(kill.victim for kill in plan)
    assert set(counts) <= set(VICTIMS)
    assert {counts[victim] for victim in VICTIMS} <= {kills // len(VICTIMS), -(-kills // len(VICTIMS))}


def test_sizes_of_quick_and_full_runs() -> None:
    quick = plan_for(quick=True, images=0, kills=0, callers=0, seed=1)
    full = plan_for(quick=False, images=0, kills=0, callers=0, seed=1)
    assert (quick.images, quick.kills) == (300, 8)
    assert (full.images, full.callers) == (5_000, 16)
    assert full.kills >= 20
    assert plan_for(quick=True, images=7, kills=2, callers=3, seed=4).images == 7


GOOD: dict[str, Any] = {
    "images": 10,
    "acknowledged": 10,
    "lost": 0,
    "duplicates": 0,
    "returned": 0,
    "hung": 0,
    "settled_s": 3.5,
    "settle_limit_s": 120.0,
    "searches": 9,
    "searches_failed": 4,
    "unexplained": 0,
}


def test_all_lines_of_a_good_run_hold() -> None:
    assert all(holds for _, _, holds in lines_of(GOOD))


@pytest.mark.parametrize(
    "bad",
    [
        {"acknowledged": 9},
        {"lost": 1},
        {"duplicates": 1},
        {"returned": 1},
        {"hung": 1},
        {"settled_s": -1.0},
        {"settled_s": 121.0},
        {"searches_failed": 9},
        {"unexplained": 1},
    ],
)
def test_each_fault_fails_one_line(bad: dict[str, Any]) -> None:
    assert sum(not holds for _, _, holds in lines_of(GOOD | bad)) == 1
