import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.breaker import FAILURES, State
from services.common.deadline import call_deadline
from services.common.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Overloaded,
    SaccadeError,
    Unavailable,
)
from services.common.retry import ATTEMPTS, MOST_RETRIES, RETRY_SHARE, Guard, RetryBudget

AWAY = Unavailable("away", reason="AWAY", retry_after_s=1.0)


def guard() -> Guard:
    return Guard("test", where="the test", reason="AWAY")


class Dependency:
    """Fails so often with an error, and then answers."""

    def __init__(self, error: BaseException, times: int = 10**6) -> None:
        self.error = error
        self.times = times
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        if self.asked <= self.times:
            raise self.error
        return "answer"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), max_size=400))
def test_retries_are_a_share_of_the_calls(calls: list[bool]) -> None:
    budget = RetryBudget()
    spent = 0
    for count, wanted in enumerate(calls, start=1):
        budget.earn()
        spent += wanted and budget.spend()
        assert spent <= MOST_RETRIES + RETRY_SHARE * count + 1e-6


async def test_what_may_be_repeated_is() -> None:
    hiccup = Dependency(AWAY, times=ATTEMPTS - 1)
    assert await guard().call(hiccup, again=True) == "answer"
    assert hiccup.asked == ATTEMPTS


@pytest.mark.parametrize("error", [InvalidArgument("no"), Overloaded("no"), DeadlineExceeded("late"), NotFound("no")])
async def test_nothing_else_is_repeated(error: SaccadeError) -> None:
    dependency = Dependency(error)
    with pytest.raises(type(error)):
        await guard().call(dependency, again=True)
    assert dependency.asked == 1


async def test_a_write_is_made_once() -> None:
    dependency = Dependency(AWAY)
    with pytest.raises(Unavailable):
        await guard().call(dependency)
    assert dependency.asked == 1


async def test_retries_end_with_the_callers_time() -> None:
    dependency = Dependency(AWAY)
    with pytest.raises(Unavailable), call_deadline(0.0001):
        await guard().call(dependency, again=True)
    assert dependency.asked < ATTEMPTS


async def test_a_spent_budget_allows_no_retry() -> None:
    guarded = guard()
    asked = []
    for _ in range(2 * int(MOST_RETRIES)):
        # A hiccup in every call, so that the breaker stays closed.
        hiccup = Dependency(AWAY, times=1)
        with contextlib.suppress(Unavailable):
            await guarded.call(hiccup, again=True)
        asked.append(hiccup.asked)
        await guarded.call(Dependency(AWAY, times=0))
    assert asked[0] == 2
    assert asked[-1] == 1
    assert sum(count - 1 for count in asked) <= MOST_RETRIES + RETRY_SHARE * 2 * len(asked)


async def test_one_that_is_down_is_not_asked() -> None:
    guarded, down = guard(), Dependency(AWAY)
    for _ in range(20):
        with pytest.raises(Unavailable):
            await guarded.call(down, again=True)
    # Each second one caller tries.
    assert FAILURES <= down.asked < 2 * FAILURES
    assert guarded.breaker.state is State.OPEN


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("a field"),
        NotFound("nothing"),
        FailedPrecondition("not so"),
        Overloaded("too much"),
        DeadlineExceeded("in a hurry"),
        Unavailable("the disk is full", reason="FULL"),
    ],
)
async def test_what_it_is_not_to_blame_for_does_not_count(error: SaccadeError) -> None:
    guarded = guard()
    for _ in range(3 * FAILURES):
        with pytest.raises(type(error)):
            await guarded.call(Dependency(error))
    assert guarded.breaker.state is State.CLOSED


async def test_silence_counts_once_it_has_lasted() -> None:
    guarded = guard()
    for _ in range(FAILURES):
        with pytest.raises(DeadlineExceeded):
            await guarded.call(Dependency(DeadlineExceeded("silence")), fair_s=0.0)
    assert guarded.breaker.state is State.OPEN


@pytest.mark.parametrize(("fair_s", "state"), [(5.0, State.CLOSED), (0.0, State.OPEN)])
async def test_a_caller_that_leaves_says_something_only_after_a_while(fair_s: float, state: State) -> None:
    guarded = guard()

    async def hang() -> None:
        await asyncio.Event().wait()

    for _ in range(FAILURES):
        task = asyncio.create_task(guarded.call(hang, fair_s=fair_s))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert guarded.breaker.state is state
