import pytest

from services.common.records import IndexSpec
from services.common.vectors.index import choose_nprobe, index_nlist, index_nprobe


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
