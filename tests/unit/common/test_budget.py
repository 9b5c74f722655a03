import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.budget import ByteBudget, Share


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_who_would_take_too_much_waits_for_its_turn() -> None:
    budget = ByteBudget("test", 100)
    first = await budget.take(60)
    large = asyncio.create_task(budget.take(80))
    small = asyncio.create_task(budget.take(10))
    await settled()
    # In order: what is small does not overtake what is large for ever.
    assert not large.done()
    assert not small.done()
    first.shrink(20)
    await settled()
    assert large.done()
    (await large).release()
    assert (await small).size == 10
    first.release()
    first.release()
    assert budget.held_bytes == 10


async def test_more_than_all_is_all() -> None:
    budget = ByteBudget("test", 100)
    share = await budget.take(1_000)
    assert budget.held_bytes == 100
    share.release()
    assert budget.held_bytes == 0


async def test_who_gives_up_keeps_nobody_waiting() -> None:
    budget = ByteBudget("test", 100)
    first = await budget.take(60)
    large = asyncio.create_task(budget.take(80))
    small = asyncio.create_task(budget.take(10))
    await settled()
    large.cancel()
    with pytest.raises(asyncio.CancelledError):
        await large
    assert (await small).size == 10
    first.release()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["take", "release", "shrink", "cancel"]), st.integers(0, 150)), max_size=60))
async def test_it_adds_up(steps: list[tuple[str, int]]) -> None:
    budget = ByteBudget("test", 100)
    tasks: list[asyncio.Task[Share]] = []
    for step, number in steps:
        if step == "take":
            tasks.append(asyncio.create_task(budget.take(number)))
        elif tasks:
            task = tasks[number % len(tasks)]
            if step == "cancel":
                task.cancel()
            elif task.done() and not task.cancelled():
                task.result().shrink(0 if step == "release" else number)
        await settled()
        held = sum(task.result().size for task in tasks if task.done() and not task.cancelled())
        assert held == budget.held_bytes <= 100
    for task in tasks:
        task.cancel()
        await settled()
        if not task.cancelled():
            task.result().release()
    assert budget.held_bytes == 0
