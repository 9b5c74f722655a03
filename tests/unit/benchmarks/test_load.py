import threading

import grpc
import pytest

from benchmarks.load import Crew, Kept, Ledger, Sample, offer, patiently, picture, tally
from saccade import ApiError

AWAY = ApiError(grpc.StatusCode.UNAVAILABLE, "away")


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def failing(*errors: ApiError) -> tuple[list[ApiError], "Clock"]:
    return list(errors), Clock()


def ask(left: list[ApiError], clock: Clock, patience_s: float = 60) -> str:
    def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return patiently(call, patience_s=patience_s, sleep=clock.sleep, clock=clock)


def test_what_passes_is_tried_again_and_advice_is_kept() -> None:
    full = ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", retry_after_s=3)
    late = ApiError(grpc.StatusCode.DEADLINE_EXCEEDED, "late")
    errors, clock = failing(AWAY, full, late)
    assert ask(errors, clock) == "done"
    assert clock.slept[0] <= 0.2
    assert 3 <= clock.slept[1] <= 3.4
    assert clock.slept[2] <= 0.8


def test_what_does_not_pass_is_raised_at_once() -> None:
    refusal = ApiError(grpc.StatusCode.INVALID_ARGUMENT, "wrong")
    no_advice = ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large")
    for error in (refusal, no_advice):
        errors, clock = failing(error)
        with pytest.raises(ApiError) as caught:
            ask(errors, clock)
        assert caught.value is error
        assert clock.slept == []


def test_patience_ends() -> None:
    errors, clock = failing(*[AWAY] * 1_000)
    with pytest.raises(ApiError):
        ask(errors, clock, patience_s=20)
    assert 20 <= clock.now <= 25
    assert max(clock.slept) <= 5


def test_a_ledger_knows_what_is_promised() -> None:
    ledger = Ledger()
    ledger.promise("a", Kept("1", "first"))
    ledger.promise("a", Kept("1", "second"))
    ledger.promise("b", Kept("2", "b"))
    ledger.promise("c", Kept("3", "c"))
    ledger.remove("b")
    ledger.doubt("c")
    assert ledger.kept == {"a": Kept("1", "second")}
    assert (ledger.removed, ledger.unsure) == ({"b"}, {"c"})


def test_calls_are_noted_with_their_codes_and_those_that_do_not_end_too() -> None:
    ledger = Ledger()
    assert ledger.call("get", 5, lambda: 1) == 1

    def fail() -> None:
        raise AWAY

    with pytest.raises(ApiError):
        ledger.call("get", 5, fail)
    assert [sample.code for sample in ledger.all_samples()] == ["OK", "UNAVAILABLE"]

    release = threading.Event()

    def stuck(_: int) -> None:
        # Its deadline was long ago when it began.
        ledger.call("stuck", -60, release.wait)

    with Crew() as crew:
        crew.add(stuck, 1, "stuck")
        while not (hung := [sample for sample in ledger.all_samples() if sample.code == "UNANSWERED"]):
            pass
        release.set()
    assert [(sample.kind, sample.hung) for sample in hung] == [("stuck", True)]


def test_a_tally_counts_by_kind_and_code() -> None:
    samples = [Sample("get", 0, seconds / 100, 1, "OK") for seconds in range(1, 101)]
    samples += [Sample("get", 0, 9, 1, "DEADLINE_EXCEEDED"), Sample("put", 0, 3.1, 1, "UNAVAILABLE")]
    report = tally(samples)
    assert report["get"] == {
        "count": 101,
        "ok": 100,
        "hung": 1,
        "p50_ms": 505,
        "p99_ms": 990.1,
        "slowest_s": 9,
        "failed.DEADLINE_EXCEEDED": 1,
    }
    assert report["put"]["p50_ms"] == 0
    assert report["put"]["hung"] == 1
    assert tally([]) == {}


def test_what_a_caller_raises_is_raised_when_joined() -> None:
    def work(number: int) -> None:
        if number == 1:
            raise ValueError("one")

    crew = Crew()
    crew.add(work, 3, "caller")
    with pytest.raises(BaseExceptionGroup) as caught:
        crew.join(timeout_s=10)
    assert [str(error) for error in caught.value.exceptions] == ["one"]


def test_each_number_is_done_once() -> None:
    done: list[int] = []
    stop = threading.Event()

    def do(number: int) -> None:
        done.append(number)
        if number == 30:
            stop.set()

    offer(do, rate=500, seconds=60, callers=4, stop=stop)
    assert len(set(done)) == len(done)
    assert 30 in done


def test_no_more_is_done_than_offered() -> None:
    done: list[int] = []
    offer(done.append, rate=1_000, seconds=0.02, callers=4, stop=threading.Event())
    assert len(done) <= 20


def test_nothing_is_offered_once_it_is_to_stop() -> None:
    stop = threading.Event()
    stop.set()
    done: list[int] = []
    offer(done.append, rate=float("inf"), seconds=5, callers=2, stop=stop)
    assert done == []


def test_pictures_are_the_same_for_a_seed_and_others_for_each() -> None:
    assert picture(5) == picture(5)
    assert len({picture(seed) for seed in range(200)}) == 200
