import asyncio

import pytest

from services.common.errors import NotFound
from services.query.concurrency import both, together


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
