import asyncio

import pytest

from services.common.cache import TtlCache
from services.common.errors import InvalidArgument, NotFound, SaccadeError, Unavailable


class Shelf:
    """Has a value, or an error instead."""

    def __init__(self) -> None:
        self.value = 1
        self.error: SaccadeError | None = None
        self.asked = 0

    async def __call__(self, _key: str) -> int:
        self.asked += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return self.value


async def test_an_old_value_is_used_while_nobody_answers_and_said_to_be_old() -> None:
    shelf = Shelf()
    cache = TtlCache(shelf, ttl_s=0.0, size=2, stale_s=60.0)
    assert await cache.get("a") == 1
    shelf.error = Unavailable("away")
    assert await asyncio.gather(*(cache.get("a") for _ in range(4))) == [1] * 4
    assert cache.is_stale("a")
    with pytest.raises(Unavailable):
        await cache.get("b")
    shelf.error, shelf.value = None, 2
    assert await cache.get("a") == 2
    assert not cache.is_stale("a")


async def test_what_is_known_to_be_gone_is_not_used() -> None:
    shelf = Shelf()
    cache = TtlCache(shelf, ttl_s=0.0, size=2, stale_s=60.0)
    await cache.get("a")
    shelf.error = NotFound("gone")
    with pytest.raises(NotFound):
        await cache.get("a")
    shelf.error = Unavailable("away")
    with pytest.raises(Unavailable):
        await cache.get("a")


async def test_without_leave_no_old_value_is_used() -> None:
    shelf = Shelf()
    cache = TtlCache(shelf, ttl_s=0.0, size=2)
    await cache.get("a")
    shelf.error = Unavailable("away")
    with pytest.raises(Unavailable):
        await cache.get("a")


async def test_fresh_values_are_kept_up_to_a_number() -> None:
    shelf = Shelf()
    cache = TtlCache(shelf, ttl_s=60.0, size=2)
    for key in "abab":
        await cache.get(key)
    assert shelf.asked == 2
    await cache.get("c")
    await cache.get("a")
    assert shelf.asked == 4
    shelf.error = InvalidArgument("no")
    cache.forget("a")
    with pytest.raises(InvalidArgument):
        await cache.get("a")
