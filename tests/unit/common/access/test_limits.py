import pytest

from services.common.access import limits
from services.common.access.limits import RateLimiter
from services.common.access.principal import Principal, Scope
from services.common.errors import Overloaded


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def caller(name: str = "a", rate: float = 0.0) -> Principal:
    return Principal(name=name, kind="key", scope=Scope.READ, rate=rate)


def test_a_bucket_empties_and_fills_again() -> None:
    clock = Clock()
    limiter = RateLimiter(clock=clock)
    for _ in range(5):
        limiter.take(caller(rate=5))
    with pytest.raises(Overloaded) as caught:
        limiter.take(caller(rate=5))
    assert caught.value.reason == "RATE_LIMITED"
    assert caught.value.retry_after_s == pytest.approx(0.2)
    limiter.take(caller("b", rate=5))
    clock.now = 0.21
    limiter.take(caller(rate=5))
    with pytest.raises(Overloaded):
        limiter.take(caller(rate=5))


def test_a_slow_rate_lets_one_call_pass() -> None:
    clock = Clock()
    limiter = RateLimiter(clock=clock)
    limiter.take(caller(rate=0.1))
    with pytest.raises(Overloaded) as caught:
        limiter.take(caller(rate=0.1))
    assert caught.value.retry_after_s == pytest.approx(10)


def test_the_default_holds_for_those_without_a_rate_and_not_for_peers() -> None:
    limiter = RateLimiter(1, clock=Clock())
    limiter.take(caller())
    with pytest.raises(Overloaded):
        limiter.take(caller())
    peer = Principal(name="service", kind="peer", scope=Scope.READ)
    for _ in range(3):
        limiter.take(peer)
    unlimited = RateLimiter(clock=Clock())
    for _ in range(3):
        unlimited.take(caller())


def test_callers_without_end_take_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_CALLERS", 10)
    limiter = RateLimiter(1, clock=Clock())
    for number in range(100):
        limiter.take(caller(str(number)))
    assert len(limiter._buckets) == 10
