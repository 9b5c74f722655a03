import asyncio

import pytest

from services.ingest.locks import KeyedLocks


async def test_one_at_a_time_for_a_key_and_many_for_many() -> None:
    locks = KeyedLocks()
    inside: list[str] = []
    most = {"a": 0, "b": 0}

    async def use(key: str) -> None:
        async with locks.hold(key):
            inside.append(key)
            most[key] = max(most[key], inside.count(key))
            await asyncio.sleep(0.001)
            inside.remove(key)

    await asyncio.gather(*(use(key) for key in "abab" * 5))
    assert most == {"a": 1, "b": 1}
    assert len(locks) == 0


async def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    locks = KeyedLocks()
    async with locks.hold("a"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), locks.hold("a"):
                pass
        assert len(locks) == 1
    assert len(locks) == 0
    async with asyncio.timeout(1), locks.hold("a"):
        pass
