import asyncio
import gc

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from services.common.deadline import call_deadline, time_left_s
from services.common.errors import NotFound
from services.ingest.uninterrupted import Uninterrupted, detached_context


async def test_a_step_goes_on_without_its_waiter() -> None:
    steps = Uninterrupted()
    go, done = asyncio.Event(), asyncio.Event()

    async def step() -> None:
        await go.wait()
        done.set()

    waiter = asyncio.create_task(steps.run(step()))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    go.set()
    await steps.close()
    assert done.is_set()


async def test_results_and_errors_come_through() -> None:
    steps = Uninterrupted()

    async def good() -> int:
        return 3

    async def bad() -> None:
        raise NotFound("no")

    assert await steps.run(good()) == 3
    with pytest.raises(NotFound):
        await steps.run(bad())
    await steps.close()


async def test_a_failure_that_nobody_waits_for_is_no_surprise(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Uninterrupted()
    go = asyncio.Event()

    async def step() -> None:
        await go.wait()
        raise NotFound("gone meanwhile")

    surprises: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: surprises.append(context))
    waiter = asyncio.create_task(steps.run(step()))
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.wait([waiter])
    go.set()
    await steps.close()
    gc.collect()
    assert surprises == []
    assert "gone meanwhile" in capsys.readouterr().out


async def test_the_calls_deadline_stays_outside() -> None:
    async def left() -> float:
        return time_left_s(50)

    with call_deadline(0.1):
        assert await Uninterrupted().run(left()) == 50


async def test_the_trace_goes_inside() -> None:
    async def current() -> int:
        return trace.get_current_span().get_span_context().trace_id

    with TracerProvider().get_tracer("test").start_as_current_span("call") as span:
        found = await asyncio.create_task(current(), context=detached_context())
    assert found == span.get_span_context().trace_id
