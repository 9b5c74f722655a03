import json

import grpc
import pytest

from benchmarks.offering import NUMBER, Offer, Outcome, decode, encode
from benchmarks.overload import Load, growth, percentile
from services.common.records import check_image_id


def test_an_offer_survives_its_way_to_another_process() -> None:
    offer = Offer("127.0.0.1:1", "/s/M", (b"\x00\xff", b"b"), "open", 1.5, rate=3.0, first=7, metadata=(("a", "b"),))
    assert decode(encode(offer)) == offer


def test_outcomes_of_callers_at_the_same_time_add_up() -> None:
    total = Outcome(answered=[1.0], seconds=5.0)
    total.add(Outcome(answered=[2.0], refused=[0.1], seconds=5.0))
    other = Outcome(seconds=5.0)
    other.failed[grpc.StatusCode.UNAVAILABLE.name] += 2
    # As it comes from another process.
    total.add(Outcome(**json.loads(json.dumps(vars(other)))))
    assert (total.answered, total.refused, total.failed, total.seconds) == ([1.0, 2.0], [0.1], {"UNAVAILABLE": 2}, 5.0)


def test_a_number_is_part_of_an_id() -> None:
    assert check_image_id(NUMBER.decode())
    assert len(b"%0*d" % (len(NUMBER), 20_000_001)) == len(NUMBER)


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 3.0), (0.99, 4.0)])
def test_percentiles(share: float, value: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], share) == value
    assert percentile([], share) == 0.0


def test_growth_is_that_after_warming_up() -> None:
    assert growth([1.0, 10.0, 10.0, 10.0]) == 0.0
    assert growth([10.0, 10.0, 10.0, 11.0]) == pytest.approx(0.1)
    assert growth([1.0]) == 0.0


def test_a_load_is_held_by_all_of_its_targets() -> None:
    good = Load(10.0, 100.0, 9.5, 0.95, 0.1, 0.2, 900, 0.01, {}, {"query": 0.01})
    assert good.held
    for wrong in ({"goodput_share": 0.8}, {"refused_p50_s": 0.2}, {"memory_growth": {"query": 0.5}}):
        assert not Load(**(good.__dict__ | wrong)).held
