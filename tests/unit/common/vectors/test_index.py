import pytest

from services.common.records import IndexSpec
from services.common.vectors.index import (
    choose_nprobe,
    default_candidates,
    default_ef,
    index_nlist,
    index_nprobe,
    nlist_for,
)


@pytest.mark.parametrize(("recall", "nprobe"), [(0.9, 32), (0.95, 32), (0.99, 96), (0.999, 192), (1.0, 1024)])
def test_nprobe_at_the_measured_size(recall: float, nprobe: int) -> None:
    assert choose_nprobe(1024, recall) == nprobe


def test_nprobe_never_falls_with_the_target() -> None:
    for nlist in (1, 16, 128, 4096, 65_536):
        chosen = [choose_nprobe(nlist, step / 100) for step in range(1, 101)]
        assert chosen == sorted(chosen)
        assert chosen[-1] == nlist
        assert chosen[0] >= min(32, nlist)


def test_a_spec_may_say_its_own() -> None:
    assert index_nlist(IndexSpec()) == 128
    assert index_nprobe(IndexSpec()) == 32
    assert index_nlist(IndexSpec(nlist=64)) == 64
    assert index_nprobe(IndexSpec(nlist=64, nprobe=5)) == 5
    assert index_nprobe(IndexSpec(nlist=64, nprobe=500)) == 64


@pytest.mark.parametrize(
    ("rows", "nlist"), [(0, 128), (1_000, 128), (10_000, 512), (100_000, 1024), (300_000, 2048), (10**9, 16_384)]
)
def test_lists_grow_with_the_square_root_of_the_rows(rows: int, nlist: int) -> None:
    assert nlist_for(rows) == nlist


def test_a_graph_is_searched_as_far_as_the_target_needs() -> None:
    assert [default_ef(recall) for recall in (0.5, 0.95, 0.96, 1.0)] == [64, 128, 256, 512]


def test_at_most_one_in_twenty_is_compared_after_signs() -> None:
    assert [default_candidates(rows) for rows in (0, 100, 10_000, 1_000_000)] == [1, 5, 500, 2_000]
