import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.domain import Lane
from services.common.errors import Overloaded
from services.common.gate import LATE_S, Gate

INTERACTIVE, BULK = Lane.INTERACTIVE, Lane.BULK


class Caller:
    """Wants in, and stays until it is told to leave."""

    def __init__(self, gate: Gate, lane: Lane = INTERACTIVE, *, left_s: float | None = None, patient: bool = False):
        self.inside = False
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._call(gate, lane, left_s, patient))

    async def _call(self, gate: Gate, lane: Lane, left_s: float | None, patient: bool) -> None:
        async with gate.entered(lane, left_s=left_s, patient=patient):
            self.inside = True
            await self._leave.wait()
        self.inside = False

    async def leave(self) -> None:
        self._leave.set()
        await self.task
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def come(gate: Gate, count: int, lane: Lane = INTERACTIVE, **asked: object) -> list[Caller]:
    callers = [Caller(gate, lane, **asked) for _ in range(count)]  # type: ignore[arg-type]
    await settled()
    return callers


async def end(*callers: Caller) -> None:
    for caller in callers:
        caller.task.cancel()
    await asyncio.gather(*(caller.task for caller in callers), return_exceptions=True)


async def test_some_come_in_some_wait_and_the_rest_is_refused_at_once() -> None:
    gate = Gate("test", places=2, waiting=3)
    callers = await come(gate, 5)
    assert [caller.inside for caller in callers] == [True, True, False, False, False]
    assert gate.full(INTERACTIVE)
    with pytest.raises(Overloaded) as caught:
        async with gate.entered(INTERACTIVE):
            pass
    assert caught.value.retry_after_s > 0
    await callers[0].leave()
    assert [caller.inside for caller in callers[1:]] == [True, True, False, False]
    await end(*callers)


async def test_interactive_calls_come_before_bulk_ones() -> None:
    gate = Gate("test", places=2, waiting=4, bulk_share=0.5)
    first = await come(gate, 2)
    bulk = await come(gate, 2, BULK)
    late = await come(gate, 1)
    # While somebody waits whom a person waits for, no bulk call is even let wait.
    assert gate.full(BULK)
    await first[0].leave()
    assert late[0].inside
    assert not any(caller.inside for caller in bulk)
    await first[1].leave()
    assert [caller.inside for caller in bulk] == [True, False]
    await late[0].leave()
    # One half of the places is theirs, and no more.
    assert [caller.inside for caller in bulk] == [True, False]
    await end(*bulk)


async def test_bulk_calls_keep_to_one_place_while_people_are_at_work() -> None:
    people = True
    gate = Gate("test", places=4, waiting=4, yields=lambda: people)
    bulk = await come(gate, 3, BULK)
    assert [caller.inside for caller in bulk] == [True, False, False]
    people = False
    gate.adapt(0.0)
    await settled()
    assert [caller.inside for caller in bulk] == [True, True, False]
    await end(*bulk)


async def test_a_patient_one_waits_where_others_are_refused() -> None:
    gate = Gate("test", places=1, waiting=0)
    (inside,) = await come(gate, 1)
    (patient,) = await come(gate, 1, BULK, patient=True)
    assert gate.full(INTERACTIVE)
    await inside.leave()
    assert patient.inside
    await end(patient)


async def test_who_leaves_as_its_turn_comes_gives_the_place_back() -> None:
    gate = Gate("test", places=1, waiting=4)
    async with AsyncExitStack() as inside:
        await inside.enter_async_context(gate.entered(INTERACTIVE))
        first, second = await come(gate, 2)
    # It has its place by now, and does not know yet.
    first.task.cancel()
    await settled()
    assert (first.inside, second.inside) == (False, True)
    await end(first, second)
    assert sum(gate._inside.values()) == 0


async def test_who_waits_too_long_is_refused() -> None:
    gate = Gate("test", places=1, waiting=4)
    (inside,) = await come(gate, 1)
    async with asyncio.timeout(30):
        with pytest.raises(Overloaded):
            async with gate.entered(INTERACTIVE):
                pass
    assert inside.inside
    await end(inside)


async def test_who_could_not_be_answered_in_time_does_not_wait() -> None:
    gate = Gate("test", places=1, waiting=4)
    gate._usual_s = 0.5
    (inside,) = await come(gate, 1)
    (hopeless,) = await come(gate, 1, left_s=0.4)
    with pytest.raises(Overloaded):
        await hopeless.task
    (hopeful,) = await come(gate, 1, left_s=5.0)
    assert not hopeful.task.done()
    await end(inside, hopeful)
    # Where there is a place, it may try.
    (lucky,) = await come(gate, 1, left_s=0.4)
    assert lucky.inside
    await end(lucky)


async def test_a_queue_that_stands_is_cut_short() -> None:
    gate = Gate("test", places=4, waiting=64)
    callers = await come(gate, 4 + 10)
    assert not gate.full(INTERACTIVE)
    gate.refused(INTERACTIVE)
    assert gate.full(INTERACTIVE)
    # A few may wait all the same, so that no place stays empty.
    await end(*callers[5:])
    assert not gate.full(INTERACTIVE)
    callers += await come(gate, 1)
    assert gate.full(INTERACTIVE)
    # As if that were long ago.
    gate._refused_at[INTERACTIVE] -= 1_000
    assert not gate.full(INTERACTIVE)
    await end(*callers)


async def test_places_follow_the_event_loop() -> None:
    gate = Gate("test", places=10, waiting=0, least=3)
    callers = await come(gate, 10)
    for _ in range(20):
        gate.adapt(2 * LATE_S)
    assert gate.places == 3
    for caller in callers[:9]:
        await caller.leave()
    # One is at work now, and places come back only where they are wanted.
    gate.adapt(0.0)
    gate.adapt(0.0)
    before = gate.places
    more = await come(gate, before)
    gate.adapt(0.0)
    gate.adapt(0.0)
    assert gate.places > before
    await end(*callers[9:], *more)


async def test_an_idle_gate_keeps_its_places() -> None:
    gate = Gate("test", places=10, waiting=0)
    gate.adapt(10 * LATE_S)
    assert gate.places == 10


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["come", "bulk", "patient", "leave", "cancel", "late", "quick"]), st.integers(0, 99)),
        max_size=60,
    )
)
async def test_no_place_is_ever_lost_or_given_twice(steps: list[tuple[str, int]]) -> None:
    gate = Gate("test", places=4, waiting=3)
    callers: list[Caller] = []
    for step, number in steps:
        match step:
            case "come" | "bulk" | "patient":
                lane = INTERACTIVE if step == "come" else BULK
                callers += await come(gate, 1, lane, patient=step == "patient")
            case "late" | "quick":
                gate.adapt(2 * LATE_S if step == "late" else 0.0)
            case _ if callers:
                caller = callers.pop(number % len(callers))
                if step == "leave" and caller.inside:
                    await caller.leave()
                else:
                    await end(caller)
        await settled()
        inside = sum(caller.inside for caller in callers)
        assert inside == sum(gate._inside.values())
        assert inside <= 4
        assert gate._inside[BULK] <= 2
    await end(*callers)
    await settled()
    assert sum(gate._inside.values()) == 0
    assert not any(gate._queues.values())
    async with AsyncExitStack() as all_of_it:
        for _ in range(gate.places):
            await all_of_it.enter_async_context(gate.entered(INTERACTIVE))
