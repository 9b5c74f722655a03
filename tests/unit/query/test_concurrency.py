import asyncio

import pytest

from services.common.errors import NotFound, Overloaded
from services.query.concurrency import Gate, both, together


async def give(value: int) -> int:
    return value


async def fail() -> int:
    raise NotFound("no such thing", field="parts[1]")


async def test_results_come_in_order() -> None:
    assert await together([give(1), give(2), give(3)]) == [1, 2, 3]
    assert await both(give(1), give(2)) == (1, 2)
    assert await together([]) == []


async def test_an_error_comes_as_it_is_and_ends_the_others() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> int:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return 0

    async def fail_later() -> int:
        await started.wait()
        return await fail()

    with pytest.raises(NotFound) as caught:
        await together([wait(), fail_later()])
    assert caught.value.field == "parts[1]"
    assert ended.is_set()


async def test_of_several_errors_one_is_raised() -> None:
    with pytest.raises(NotFound):
        await together([fail(), together([fail(), fail()])])


async def test_a_full_gate_refuses_and_says_when_to_come_back() -> None:
    gate = Gate(1, 1)
    leave, entered = asyncio.Event(), asyncio.Event()
    inside: list[int] = []

    async def enter(number: int) -> None:
        async with gate.entered():
            inside.append(number)
            entered.set()
            await leave.wait()

    first, second = asyncio.create_task(enter(1)), asyncio.create_task(enter(2))
    await entered.wait()
    with pytest.raises(Overloaded) as caught:
        await enter(3)
    assert caught.value.retry_after_s > 0
    assert inside == [1]
    leave.set()
    await asyncio.gather(first, second)
    assert inside == [1, 2]
    await enter(4)


async def test_a_place_is_given_back_when_the_call_is_cancelled() -> None:
    gate = Gate(1, 0)

    async def stay() -> None:
        async with gate.entered():
            await asyncio.Event().wait()

    task = asyncio.create_task(stay())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with gate.entered():
        pass
