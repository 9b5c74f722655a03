import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

import pytest

from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.budget import ByteBudget
from services.common.errors import InvalidArgument
from services.ingest.stream import stream_images


def budget() -> ByteBudget:
    return ByteBudget("test", 1_000)


async def asked(keys: Iterable[str]) -> AsyncIterator[pb.StreamImagesRequest]:
    for key in keys:
        yield pb.StreamImagesRequest(key=key)


async def stored(_: pb.CreateImageRequest) -> pb.CreateImageResponse:
    await asyncio.sleep(0)
    return pb.CreateImageResponse(existed=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - a count has no event
            await asyncio.sleep(0.001)


async def test_a_result_for_each() -> None:
    keys = [str(i) for i in range(50)]
    found = [response async for response in stream_images(asked(keys), stored, window=4, budget=budget())]
    assert sorted(response.key for response in found) == sorted(keys)
    assert all(response.created.existed for response in found)


async def test_an_empty_stream_ends() -> None:
    assert [response async for response in stream_images(asked([]), stored, window=4, budget=budget())] == []


async def test_one_that_fails_leaves_the_others_alone() -> None:
    count = 0

    async def every_third_fails(request: pb.CreateImageRequest) -> pb.CreateImageResponse:
        nonlocal count
        count += 1
        if count % 3 == 0:
            raise InvalidArgument("is no image", field="image.data", reason="IMAGE_FORMAT")
        if count % 3 == 1:
            raise ZeroDivisionError("our own secret")
        return await stored(request)

    found = [
        response async for response in stream_images(asked("abcdef"), every_third_fails, window=2, budget=budget())
    ]
    errors = [response.error for response in found if response.HasField("error")]
    assert len(found) == 6
    assert sorted((error.code, error.reason, error.field) for error in errors) == [
        (3, "IMAGE_FORMAT", "image.data"),
        (3, "IMAGE_FORMAT", "image.data"),
        (13, "INTERNAL", ""),
        (13, "INTERNAL", ""),
    ]
    assert not any("secret" in error.message for error in errors)


async def test_no_more_are_read_than_results_are_taken() -> None:
    read = 0
    running = most = 0

    async def requests() -> AsyncIterator[pb.StreamImagesRequest]:
        nonlocal read
        for i in range(100):
            read += 1
            yield pb.StreamImagesRequest(key=str(i))

    async def create(request: pb.CreateImageRequest) -> pb.CreateImageResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return pb.CreateImageResponse()

    results = stream_images(requests(), create, window=5, budget=budget())
    await anext(results)
    await until(lambda: read >= 5)
    # The one that was taken counts until the next is asked for.
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert read <= 6
    taken = 1
    async for _ in results:
        taken += 1
    assert (taken, most) == (100, 5)


async def test_a_caller_who_goes_away_ends_everything() -> None:
    started, cancelled = 0, 0

    async def create(_: pb.CreateImageRequest) -> pb.CreateImageResponse:
        nonlocal started, cancelled
        started += 1
        if started == 1:
            return pb.CreateImageResponse()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise
        raise AssertionError

    results = stream_images(asked(str(i) for i in range(100)), create, window=4, budget=budget())
    await anext(results)
    await until(lambda: started >= 4)
    await results.aclose()
    assert cancelled == started - 1
    assert len(asyncio.all_tasks()) == 1


async def test_a_caller_whose_stream_breaks_is_told() -> None:
    async def broken() -> AsyncIterator[pb.StreamImagesRequest]:
        yield pb.StreamImagesRequest(key="a")
        raise ConnectionResetError

    with pytest.raises(ExceptionGroup):
        async for _ in stream_images(broken(), stored, window=4, budget=budget()):
            pass
