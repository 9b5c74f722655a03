import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client import REGISTRY

from services.common.breaker import FAILURES, REST_S, Breaker, State
from services.common.errors import Unavailable


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock) -> Breaker:
    return Breaker("test", where="the test", reason="TEST_UNAVAILABLE", now=clock)


def opened(clock: Clock) -> Breaker:
    breaker = made(clock)
    for _ in range(FAILURES):
        breaker.leave(breaker.enter(), False)
    return breaker


def test_an_open_breaker_says_who_is_away_and_when_to_come_back() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += REST_S / 4
    with pytest.raises(Unavailable, match="the test does not answer") as caught:
        breaker.enter()
    assert caught.value.reason == "TEST_UNAVAILABLE"
    assert caught.value.retry_after_s == pytest.approx(REST_S * 3 / 4)
    assert REGISTRY.get_sample_value("saccade_breaker_state", {"dependency": "test"}) == State.OPEN.value


def test_one_caller_tries_and_closes_it_for_all() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += REST_S
    probe = breaker.enter()
    assert probe > 0
    with pytest.raises(Unavailable):
        breaker.enter()
    breaker.leave(probe, True)
    assert breaker.enter() == breaker.enter() == 0
    assert REGISTRY.get_sample_value("saccade_breaker_state", {"dependency": "test"}) == State.CLOSED.value


def test_a_trial_that_hangs_keeps_nobody_from_the_next() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += REST_S
    hanging = breaker.enter()
    clock.now += REST_S
    second = breaker.enter()
    assert second not in {0, hanging}
    # What the first one says by now is old.
    breaker.leave(hanging, False)
    states = [breaker.state]
    breaker.leave(second, True)
    assert [*states, breaker.state] == [State.PROBING, State.CLOSED]


def test_who_leaves_early_hands_the_trial_on() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += REST_S
    breaker.leave(breaker.enter(), None)
    assert breaker.enter() > 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([True, False, None]), max_size=40))
def test_only_failures_in_a_row_open_it(outcomes: list[bool | None]) -> None:
    breaker = made(Clock())
    in_a_row = 0
    for outcome in outcomes:
        breaker.leave(breaker.enter(), outcome)
        if outcome is not None:
            in_a_row = 0 if outcome else in_a_row + 1
        assert (breaker.state is State.OPEN) == (in_a_row >= FAILURES)
        if breaker.state is State.OPEN:
            break


class Calls(RuleBasedStateMachine):
    """Calls that overlap in any way."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = made(self.clock)
        self.under_way: list[int] = []
        self.last_probe_at = float("-inf")
        self.lucky = False

    @rule(seconds=st.floats(0.0, 2 * REST_S))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def begin(self) -> None:
        before = self.breaker.state
        try:
            probe = self.breaker.enter()
        except Unavailable as exc:
            assert before is not State.CLOSED
            assert 0 < exc.retry_after_s <= REST_S
            return
        assert (probe == 0) == (before is State.CLOSED)
        if probe:
            # One at a time, unless the one before left without knowing.
            assert self.lucky or self.clock.now - self.last_probe_at >= REST_S
            self.last_probe_at, self.lucky = self.clock.now, False
        self.under_way.append(probe)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), outcome=st.sampled_from([True, False, None]))
    def end(self, data: st.DataObject, outcome: bool | None) -> None:
        probe = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        before = self.breaker.state
        self.breaker.leave(probe, outcome)
        after = self.breaker.state
        if before is not State.CLOSED and after is State.CLOSED:
            assert outcome is True
            assert probe > 0
        if before is State.CLOSED and after is not State.CLOSED:
            assert outcome is False
            self.lucky = True  # it was never open before, so nothing is known of the last probe
        if probe and outcome is None:
            self.lucky = True

    @invariant()
    def it_never_stays_shut(self) -> None:
        # Whatever has happened, a rest later somebody may go.
        assert self.breaker.state is State.CLOSED or self.breaker._until <= self.clock.now + REST_S


Calls.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestCalls = Calls.TestCase
