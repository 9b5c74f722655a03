"""The batcher under good and bad weather."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.domain import Lane
from services.common.errors import DeadlineExceeded, Unavailable
from services.embedder.batcher import Batcher, Kind
from services.embedder.owner import OwnerThread
from services.embedder.people import People

POISON = -1


class Model:
    """Doubles numbers; can be held back, and fails on POISON."""

    def __init__(self, *, max_batch: int = 4) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.stacked: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.kind: Kind[int, int] = Kind("number", self._stack, self._run, max_batch)

    def _stack(self, items: Sequence[int]) -> list[int]:
        self.stacked.append(threading.get_ident())
        return list(items)

    def _run(self, batch: list[int]) -> list[int]:
        self.batches.append(batch)
        self.threads.add(threading.get_ident())
        self.entered.set()
        assert self.gate.wait(10)
        if POISON in batch:
            raise ValueError("poison")
        return [2 * item for item in batch]


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Batcher]:
    with ThreadPoolExecutor(2) as pool:
        batcher = Batcher("test", OwnerThread("test"), pool, **options)
        batcher.start()
        try:
            yield batcher
        finally:
            async with asyncio.timeout(5):
                await batcher.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - conditions of threads, which have no event
            await asyncio.sleep(0.001)


async def held(batcher: Batcher, model: Model, item: int = 0) -> asyncio.Task[int]:
    """A computation that does not end before the gate opens."""
    model.gate.clear()
    model.entered.clear()
    task = asyncio.create_task(batcher.submit(model.kind, item, Lane.INTERACTIVE))
    await until(model.entered.is_set)
    return task


async def queued(*waits: Awaitable[Any]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.sleep(0)
    return tasks


async def test_each_waiter_gets_its_own_result_from_one_thread() -> None:
    model = Model()
    async with running() as batcher:
        results = await asyncio.gather(*(batcher.submit(model.kind, i, Lane.BULK) for i in range(50)))
    assert results == [2 * i for i in range(50)]
    assert len(model.threads) == 1
    assert max(map(len, model.batches)) == 4


async def test_nothing_waits_for_a_batch_to_fill() -> None:
    model = Model()
    async with running() as batcher, asyncio.timeout(5):
        assert await batcher.submit(model.kind, 7, Lane.INTERACTIVE) == 14
    assert model.batches == [[7]]


async def test_what_waits_while_the_model_computes_becomes_one_batch() -> None:
    model = Model()
    async with running() as batcher:
        first = await held(batcher, model)
        rest = await queued(*(batcher.submit(model.kind, i, Lane.INTERACTIVE) for i in (1, 2, 3)))
        model.gate.set()
        await asyncio.gather(first, *rest)
    assert model.batches == [[0], [1, 2, 3]]


async def test_interactive_goes_first_and_lanes_do_not_mix() -> None:
    model = Model()
    async with running() as batcher:
        first = await held(batcher, model)
        bulk = await queued(*(batcher.submit(model.kind, i, Lane.BULK) for i in (10, 11)))
        quick = await queued(*(batcher.submit(model.kind, i, Lane.INTERACTIVE) for i in (1, 2)))
        model.gate.set()
        await asyncio.gather(first, *bulk, *quick)
    assert model.batches == [[0], [1, 2], [10, 11]]


async def test_interactive_overtakes_a_bulk_batch_that_is_already_put_together() -> None:
    model = Model()
    async with running() as batcher:
        first = await held(batcher, model)
        bulk = await queued(*(batcher.submit(model.kind, i, Lane.BULK) for i in range(10, 14)))
        await until(lambda: len(model.stacked) == 2)
        quick = await queued(batcher.submit(model.kind, 1, Lane.INTERACTIVE))
        model.gate.set()
        await asyncio.gather(first, *bulk, *quick)
    assert model.batches == [[0], [1], [10, 11, 12, 13]]


async def test_bulk_is_not_starved() -> None:
    model = Model(max_batch=1)
    async with running(bulk_every=3) as batcher:
        first = await held(batcher, model)
        quick = await queued(*(batcher.submit(model.kind, i, Lane.INTERACTIVE) for i in range(1, 9)))
        bulk = await queued(*(batcher.submit(model.kind, i, Lane.BULK) for i in (100, 101)))
        model.gate.set()
        await asyncio.gather(first, *quick, *bulk)
    order = [batch[0] for batch in model.batches]
    # The batch held ahead may have been chosen before the bulk items came; then every third is theirs.
    assert order.index(100) <= 3
    assert order.index(101) == order.index(100) + 3


async def test_a_full_batch_is_put_together_while_another_computes() -> None:
    model = Model(max_batch=3)
    async with running() as batcher:
        first = await held(batcher, model)
        rest = await queued(*(batcher.submit(model.kind, i, Lane.INTERACTIVE) for i in (1, 2, 3)))
        await until(lambda: len(model.stacked) == 2)
        assert model.stacked[1] not in model.threads
        assert len(model.batches) == 1
        model.gate.set()
        assert await asyncio.gather(first, *rest) == [0, 2, 4, 6]


async def test_kinds_do_not_mix_and_the_older_goes_first() -> None:
    model, other = Model(), Model()
    async with running() as batcher:
        first = await held(batcher, model)
        waits = await queued(
            batcher.submit(other.kind, 1, Lane.BULK),
            batcher.submit(model.kind, 2, Lane.BULK),
            batcher.submit(other.kind, 3, Lane.BULK),
        )
        model.gate.set()
        assert await asyncio.gather(first, *waits) == [0, 2, 4, 6]
    assert other.batches == [[1, 3]]
    assert model.batches == [[0], [2]]


async def test_the_one_at_fault_gets_the_error_and_its_neighbours_their_results() -> None:
    model = Model(max_batch=8)
    async with running() as batcher:
        first = await held(batcher, model)
        items = [1, 2, POISON, 3, 4, 5, POISON, 6]
        rest = await queued(*(batcher.submit(model.kind, i, Lane.INTERACTIVE) for i in items))
        model.gate.set()
        results = await asyncio.gather(first, *rest, return_exceptions=True)
        assert await batcher.submit(model.kind, 9, Lane.BULK) == 18
    for item, result in zip(items, results[1:], strict=True):
        assert isinstance(result, ValueError) if item == POISON else result == 2 * item


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), StopIteration(), GeneratorExit(), MemoryError()])
async def test_no_way_to_fail_leaves_a_waiter_behind(error: BaseException) -> None:
    def run(batch: list[int]) -> list[int]:
        raise error

    kind: Kind[int, int] = Kind("bad", list, run, 4)
    good = Model()
    async with running() as batcher, asyncio.timeout(5):
        with pytest.raises(Exception):  # noqa: B017 - whichever it is, it comes
            await batcher.submit(kind, 1, Lane.INTERACTIVE)
        assert await batcher.submit(good.kind, 2, Lane.INTERACTIVE) == 4


async def test_too_few_results_are_an_error_for_all() -> None:
    kind: Kind[int, int] = Kind("short", list, lambda batch: batch[:-1], 4)
    async with running() as batcher, asyncio.timeout(5):
        with pytest.raises(Exception, match="0 results for 1 items"):
            await batcher.submit(kind, 1, Lane.INTERACTIVE)


async def test_stacking_that_fails_ahead_of_time_is_an_error_like_any() -> None:
    def stack(items: Sequence[int]) -> list[int]:
        if POISON in items:
            raise TypeError("shapes differ")
        return list(items)

    model = Model()
    kind: Kind[int, int] = Kind("ragged", stack, lambda batch: batch, 3)
    async with running() as batcher:
        first = await held(batcher, model)
        rest = await queued(*(batcher.submit(kind, i, Lane.INTERACTIVE) for i in (1, POISON, 3)))
        model.gate.set()
        results = await asyncio.gather(first, *rest, return_exceptions=True)
    assert (results[1], results[3]) == (1, 3)
    assert isinstance(results[2], TypeError)


async def test_cancelled_while_queued_is_never_computed() -> None:
    model = Model()
    async with running() as batcher:
        first = await held(batcher, model)
        gone, stays = await queued(*(batcher.submit(model.kind, i, Lane.INTERACTIVE) for i in (1, 2)))
        gone.cancel()
        await until(gone.done)
        model.gate.set()
        assert list(await asyncio.gather(first, stays)) == [0, 4]
    assert model.batches == [[0], [2]]


async def test_cancelled_while_computed_harms_nobody() -> None:
    model = Model()
    async with running() as batcher:
        first = await held(batcher, model)
        first.cancel()
        await until(first.done)
        later = await queued(batcher.submit(model.kind, 5, Lane.INTERACTIVE))
        model.gate.set()
        assert await later[0] == 10


async def test_cancelled_after_being_put_together() -> None:
    model = Model(max_batch=2)
    async with running() as batcher:
        first = await held(batcher, model)
        gone, stays = await queued(*(batcher.submit(model.kind, i, Lane.INTERACTIVE) for i in (1, 2)))
        await until(lambda: len(model.stacked) == 2)
        gone.cancel()
        await until(gone.done)
        model.gate.set()
        assert list(await asyncio.gather(first, stays)) == [0, 4]


async def test_expired_is_dropped_when_its_turn_comes() -> None:
    model = Model()
    async with running() as batcher:
        first = await held(batcher, model)
        late, stays = await queued(
            batcher.submit(model.kind, 1, Lane.INTERACTIVE, time_left_s=0.0),
            batcher.submit(model.kind, 2, Lane.INTERACTIVE, time_left_s=60),
        )
        model.gate.set()
        assert list(await asyncio.gather(first, stays)) == [0, 4]
        with pytest.raises(DeadlineExceeded):
            await late
    assert model.batches == [[0], [2]]


async def test_all_expired_behind_a_batch_put_together_leaves_none_waiting() -> None:
    model = Model(max_batch=2)
    async with running() as batcher:
        first = await held(batcher, model)
        bulk = await queued(*(batcher.submit(model.kind, i, Lane.BULK) for i in (1, 2)))
        await until(lambda: len(model.stacked) == 2)
        late = await queued(batcher.submit(model.kind, 3, Lane.INTERACTIVE, time_left_s=0.0))
        model.gate.set()
        async with asyncio.timeout(5):
            assert await asyncio.gather(first, *bulk) == [0, 2, 4]
            with pytest.raises(DeadlineExceeded):
                await late[0]


async def test_closing_answers_everybody() -> None:
    model = Model(max_batch=2)
    async with running() as batcher:
        first = await held(batcher, model)
        waits = await queued(*(batcher.submit(model.kind, i, lane) for i in range(5) for lane in Lane))
        async with asyncio.timeout(5):
            await batcher.close()
            for wait in (first, *waits):
                with pytest.raises(Unavailable):
                    await wait
        with pytest.raises(Unavailable):
            await batcher.submit(model.kind, 1, Lane.INTERACTIVE)
        model.gate.set()


async def test_speed_and_success_are_known() -> None:
    model = Model()
    async with running() as batcher:
        assert batcher.since_success_s == float("inf")
        first = await held(batcher, model)
        await until(lambda: batcher.busy_s > 0.01)
        model.gate.set()
        await first
        assert batcher.item_seconds >= 0.01
        assert batcher.since_success_s < 5
        await until(lambda: batcher.busy_s == 0)


async def test_failures_are_no_success() -> None:
    model = Model()
    async with running() as batcher:
        with pytest.raises(ValueError, match="poison"):
            await batcher.submit(model.kind, POISON, Lane.INTERACTIVE)
        assert batcher.since_success_s == float("inf")


steps = st.lists(
    st.tuples(st.sampled_from(["good", "poison", "expired", "cancelled"]), st.sampled_from(list(Lane)), st.booleans()),
    max_size=30,
)


@settings(max_examples=15, deadline=None)
@given(steps=steps, max_batch=st.integers(1, 9), bulk_every=st.integers(2, 5))
def test_whatever_comes_every_waiter_is_answered(
    steps: list[tuple[str, Lane, bool]], max_batch: int, bulk_every: int
) -> None:
    asyncio.run(_storm(steps, max_batch, bulk_every))


async def _storm(steps: list[tuple[str, Lane, bool]], max_batch: int, bulk_every: int) -> None:
    model = Model(max_batch=max_batch)
    async with running(bulk_every=bulk_every) as batcher, asyncio.timeout(20):
        tasks = []
        for number, (what, lane, pause) in enumerate(steps):
            item = POISON if what == "poison" else number
            time_left_s = 0.0 if what == "expired" else 60.0
            tasks.append(asyncio.create_task(batcher.submit(model.kind, item, lane, time_left_s=time_left_s)))
            await asyncio.sleep(0)
            if what == "cancelled":
                tasks[-1].cancel()
            if pause:
                await asyncio.sleep(0.0005)
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for number, ((what, _, _), result) in enumerate(zip(steps, results, strict=True)):
        if what == "good" or (what == "cancelled" and isinstance(result, int)):
            assert result == 2 * number
        else:
            error = {"poison": ValueError, "expired": DeadlineExceeded, "cancelled": asyncio.CancelledError}[what]
            assert isinstance(result, error)


class Crowd(People):
    """People who are always there, or never."""

    def __init__(self, *, here: bool, rest: float) -> None:
        super().__init__(rest=rest)
        self._here = here

    @property
    def are_here(self) -> bool:
        return self._here


@pytest.mark.parametrize("here", [True, False])
async def test_bulk_work_makes_way_while_people_are_there(here: bool) -> None:
    model = Model(max_batch=8)
    # A rest that outlasts the test.
    async with running(people=Crowd(here=here, rest=1e6)) as batcher:
        first = await held(batcher, model)
        bulk = [asyncio.create_task(batcher.submit(model.kind, i, Lane.BULK)) for i in range(1, 5)]
        await asyncio.sleep(0)
        model.gate.set()
        await first
        await asyncio.wait(bulk, return_when=asyncio.FIRST_COMPLETED)
        assert await batcher.submit(model.kind, 9, Lane.INTERACTIVE) == 18
        if not here:
            await asyncio.gather(*bulk)
    if here:
        # A small batch, and then none while they are there; who comes meanwhile has the model alone.
        assert model.batches == [[0], [1, 2], [9]]
        await asyncio.gather(*bulk, return_exceptions=True)
    else:
        assert model.batches == [[0], [1, 2, 3, 4], [9]]


async def test_bulk_work_goes_on_after_its_rest() -> None:
    model = Model(max_batch=4)
    async with running(people=Crowd(here=True, rest=1.0)) as batcher:
        done = await asyncio.gather(*(batcher.submit(model.kind, i, Lane.BULK) for i in range(12)))
    assert done == [2 * i for i in range(12)]
    assert max(map(len, model.batches)) == 1
