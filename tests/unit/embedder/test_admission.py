import pytest

from services.common.domain import Lane
from services.common.errors import Overloaded
from services.embedder.admission import Admission


def room(seconds: float = 0.5) -> Admission:
    return Admission(max_items=100, max_bytes=1000, item_seconds=lambda: seconds)


def test_refused_beyond_the_limit_with_a_time_to_come_back() -> None:
    admission = room()
    with admission.admit(60, 10, Lane.INTERACTIVE):
        with pytest.raises(Overloaded) as error, admission.admit(41, 10, Lane.INTERACTIVE):
            pass
        assert error.value.retry_after_s == pytest.approx(15)
        with admission.admit(40, 10, Lane.INTERACTIVE):
            assert admission.items == 100
    assert admission.items == 0


def test_bulk_leaves_room_for_people() -> None:
    admission = room()
    with admission.admit(75, 10, Lane.BULK):
        with pytest.raises(Overloaded), admission.admit(1, 10, Lane.BULK):
            pass
        with admission.admit(25, 10, Lane.INTERACTIVE):
            pass


def test_bytes_count_too_but_one_call_may_always_come_in() -> None:
    admission = room()
    with (
        admission.admit(1, 5000, Lane.BULK),
        pytest.raises(Overloaded),
        admission.admit(1, 1, Lane.INTERACTIVE),
    ):
        pass
    with admission.admit(1, 600, Lane.INTERACTIVE), admission.admit(1, 400, Lane.INTERACTIVE):
        pass


def test_an_error_inside_gives_the_room_back() -> None:
    admission = room()
    with pytest.raises(ValueError, match="x"), admission.admit(100, 1, Lane.INTERACTIVE):
        raise ValueError("x")
    assert admission.items == 0


@pytest.mark.parametrize(("seconds", "wait"), [(0.0, 0.1), (60.0, 30.0)])
def test_the_advice_is_bounded(seconds: float, wait: float) -> None:
    admission = room(seconds)
    with (
        admission.admit(100, 1, Lane.INTERACTIVE),
        pytest.raises(Overloaded) as error,
        admission.admit(1, 1, Lane.INTERACTIVE),
    ):
        pass
    assert error.value.retry_after_s == wait
