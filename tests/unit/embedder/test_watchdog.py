import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from services.common.domain import Lane
from services.embedder.batcher import Batcher, Kind
from services.embedder.owner import OwnerThread
from services.embedder.watchdog import Watchdog, Watched
from tests.unit.embedder.test_batcher import Model, until


@asynccontextmanager
async def watching(model: Model, changes: list[bool]) -> AsyncIterator[Batcher]:
    async def set_ready(ready: bool) -> None:
        changes.append(ready)

    async def check() -> None:
        await batcher.submit(model.kind, 1, Lane.INTERACTIVE)

    with ThreadPoolExecutor(1) as pool:
        batcher = Batcher("watched", OwnerThread("watched"), pool)
        batcher.start()
        watchdog = Watchdog([Watched("m", batcher, check, every_s=0.02, limit_s=0.1)], set_ready)
        watchdog.start()
        try:
            yield batcher
        finally:
            model.gate.set()
            await watchdog.close()
            await batcher.close()


async def test_an_idle_model_is_asked_again_and_again() -> None:
    model, changes = Model(), list[bool]()
    async with watching(model, changes):
        await until(lambda: len(model.batches) >= 3)
    assert changes == []


async def test_a_model_that_hangs_is_not_ready_until_it_answers() -> None:
    model, changes = Model(), list[bool]()
    async with watching(model, changes):
        await until(model.entered.is_set)
        model.gate.clear()
        await until(lambda: changes == [False])
        model.gate.set()
        await until(lambda: changes == [False, True])


async def test_a_model_that_fails_is_not_ready() -> None:
    model, changes = Model(), list[bool]()
    broken = True

    def run(batch: list[int]) -> list[int]:
        if broken:
            raise RuntimeError("device lost")
        return batch

    model.kind = Kind("broken", list, run, 4)
    async with watching(model, changes):
        await until(lambda: changes == [False])
        broken = False
        await until(lambda: changes == [False, True])


async def test_a_model_that_fails_whatever_it_gets_is_not_ready_under_load_either() -> None:
    model, changes = Model(), list[bool]()
    broken = True

    def run(batch: list[int]) -> list[int]:
        if broken:
            time.sleep(0.01)
            raise RuntimeError("device lost")
        return batch

    model.kind = Kind("broken", list, run, 1)
    async with watching(model, changes) as batcher:

        async def call() -> None:
            while True:
                with contextlib.suppress(RuntimeError):
                    await batcher.submit(model.kind, 1, Lane.BULK)

        callers = [asyncio.create_task(call()) for _ in range(4)]
        await until(lambda: changes == [False])
        broken = False
        await until(lambda: changes == [False, True])
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


async def test_one_of_several_models_that_hangs_is_enough() -> None:
    good, bad, changes = Model(), Model(), list[bool]()

    async def set_ready(ready: bool) -> None:
        changes.append(ready)

    with ThreadPoolExecutor(1) as pool:
        batchers = [Batcher(name, OwnerThread(name), pool) for name in ("good", "bad")]

        def check(batcher: Batcher, model: Model) -> Callable[[], Awaitable[None]]:
            async def ask() -> None:
                await batcher.submit(model.kind, 1, Lane.INTERACTIVE)

            return ask

        watched = [
            Watched(name, batcher, check(batcher, model), every_s=0.02, limit_s=0.1)
            for name, batcher, model in zip(("good", "bad"), batchers, (good, bad), strict=True)
        ]
        for batcher in batchers:
            batcher.start()
        watchdog = Watchdog(watched, set_ready)
        watchdog.start()
        try:
            await until(bad.entered.is_set)
            bad.gate.clear()
            await until(lambda: changes == [False])
            answered = len(good.batches)
            await until(lambda: len(good.batches) > answered)
            assert changes == [False]
            bad.gate.set()
            await until(lambda: changes == [False, True])
        finally:
            bad.gate.set()
            await watchdog.close()
            for batcher in batchers:
                await batcher.close()
