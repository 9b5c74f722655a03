import asyncio
import threading
import time

import pytest

from services.common.deadline import call_deadline
from services.common.errors import DeadlineExceeded, Overloaded
from services.common.threads import MAX_WAITING_PER_THREAD, Workers


async def test_results_and_errors_come_through() -> None:
    workers = Workers("test", 1, timeout_s=5)
    assert 4 < await workers.run(lambda left_s: left_s) <= 5
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda _left_s: 1 // 0)
    workers.close()


async def test_a_call_that_takes_too_long_is_given_up() -> None:
    workers = Workers("test", 1, timeout_s=0.3)
    release = threading.Event()
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="test"):
        await workers.run(lambda _left_s: release.wait(5))
    with pytest.raises(DeadlineExceeded), call_deadline(0.01):
        await workers.run(lambda _left_s: release.wait(5))
    assert time.monotonic() - started < 4
    release.set()
    workers.close()


async def test_a_call_that_was_given_up_while_it_waited_never_starts() -> None:
    workers = Workers("test", 1, timeout_s=5)
    release = threading.Event()
    begun: list[int] = []
    first = asyncio.create_task(workers.run(lambda _left_s: release.wait(5)))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded), call_deadline(0.01):
        await workers.run(lambda _left_s: begun.append(1))
    release.set()
    await first
    await workers.run(lambda _left_s: None)
    assert begun == []
    workers.close()


async def test_more_than_may_wait_are_refused() -> None:
    workers = Workers("test", 1, timeout_s=5)
    release = threading.Event()
    limit = 1 + MAX_WAITING_PER_THREAD
    tasks = [asyncio.create_task(workers.run(lambda _left_s: release.wait(5))) for _ in range(limit)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await workers.run(lambda _left_s: None)
    assert caught.value.retry_after_s > 0
    release.set()
    assert await asyncio.gather(*tasks) == [True] * limit
    await workers.run(lambda _left_s: None)
    workers.close()


async def test_a_cancellation_is_never_lost() -> None:
    workers = Workers("test", 1, timeout_s=5)
    for _ in range(200):
        answered = asyncio.Event()
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(workers.run(lambda _left_s: loop.call_soon_threadsafe(answered.set)))  # noqa: B023 - awaited within
        await answered.wait()
        # The result and the cancellation come in the same turn of the loop, or nearly.
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
    workers.close()
