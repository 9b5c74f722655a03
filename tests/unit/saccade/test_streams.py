import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest

from saccade import ApiError, AsyncClient, Client, NewImage
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from tests.unit.saccade.fakes import FakeServices, created, failed

Requests = Iterator[ingest.StreamImagesRequest]
Responses = Iterator[ingest.StreamImagesResponse]


def images(count: int) -> list[NewImage]:
    return [NewImage(b"%d" % i, id=str(i)) for i in range(count)]


def test_every_image_has_its_own_result(services: FakeServices, client: Client, tmp_path: Path) -> None:
    def stream(requests: Requests) -> Responses:
        for request in requests:
            yield failed(request, 3, "IMAGE_EMPTY") if request.create.image.id == "2" else created(request)

    services.stream = stream
    items = [*images(5), NewImage(tmp_path / "missing.jpg", id="gone")]
    results = {result.item.id: result for result in client.stream_images(items, collection="demo", wait_for="durable")}
    assert set(results) == {"0", "1", "2", "3", "4", "gone"}
    assert {name for name, result in results.items() if result.image} == {"0", "1", "3", "4"}
    bad = results["2"].error
    assert bad
    assert bad.reason == "IMAGE_EMPTY"
    gone = results["gone"].error
    assert gone
    assert gone.reason == "FILE_UNREADABLE"


def test_no_images_are_no_error(client: Client) -> None:
    assert list(client.stream_images([], collection="demo")) == []


def test_only_files_that_can_not_be_read(client: Client, tmp_path: Path) -> None:
    results = list(client.stream_images([NewImage(tmp_path / "a"), NewImage(tmp_path / "b")], collection="demo"))
    assert [result.error and result.error.reason for result in results] == ["FILE_UNREADABLE"] * 2


def test_files_that_can_not_be_read_are_told_as_they_come(client: Client, tmp_path: Path) -> None:
    told = threading.Event()

    def source() -> Iterator[NewImage]:
        yield NewImage(tmp_path / "missing")
        assert told.wait(10)

    for result in client.stream_images(source(), collection="demo"):
        assert result.error
        told.set()
    assert told.is_set()


def test_results_that_nobody_takes_hold_back_the_source(client: Client, tmp_path: Path) -> None:
    taken: list[int] = []

    def source() -> Iterator[NewImage]:
        for i in range(50):
            taken.append(i)
            yield NewImage(tmp_path / "missing") if i % 2 else NewImage(b"here")

    seen = 0
    for _ in client.stream_images(source(), collection="demo", max_in_flight=4):
        seen += 1
        assert len(taken) - seen <= 4
    assert seen == 50


def test_no_more_than_max_in_flight_are_taken(services: FakeServices, client: Client) -> None:
    taken: list[int] = []
    seen: list[int] = []
    release = threading.Event()

    def stream(requests: Requests) -> Responses:
        first = [next(requests) for _ in range(4)]
        assert release.wait(10)
        for request in first:
            yield created(request)
        for request in requests:
            yield created(request)

    def source() -> Iterator[NewImage]:
        for i, image in enumerate(images(20)):
            taken.append(i)
            if len(taken) == 4:
                release.set()
            yield image

    services.stream = stream
    for _ in client.stream_images(source(), collection="demo", max_in_flight=4):
        seen.append(1)
        assert len(taken) - len(seen) <= 4
    assert len(seen) == 20


def test_a_broken_connection_is_taken_up_again(services: FakeServices, client: Client) -> None:
    connections = 0

    def stream(requests: Requests) -> Responses:
        nonlocal connections
        connections += 1
        for count, request in enumerate(requests):
            # The first connection ends early with results owed, as when a server is taken away.
            if connections == 1 and count == 3:
                return
            if connections > 1 or count < 2:
                yield created(request)

    services.stream = stream
    results = list(client.stream_images(images(10), collection="demo", max_in_flight=4))
    assert sorted(int(result.item.id) for result in results) == list(range(10))
    assert all(result.image for result in results)
    assert connections == 2


def test_a_server_that_comes_back_is_found_again() -> None:
    fake, given = FakeServices(), []

    def source() -> Iterator[NewImage]:
        for image in images(30):
            given.append(image)
            yield image

    with fake.serve():
        port = fake.port
        client = Client(ingest=fake.address)
        results = client.stream_images(source(), collection="demo", max_in_flight=4, give_up_s=20)
        done = [next(results).item.id for _ in range(5)]
    with client, fake.serve(port):
        done += [result.item.id for result in results]
    assert sorted(map(int, done)) == list(range(30))


def test_a_service_that_stays_away_is_given_up() -> None:
    with Client(ingest="127.0.0.1:1") as client, pytest.raises(ApiError) as caught:
        list(client.stream_images(images(3), collection="demo", give_up_s=0.5))
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE


def test_a_passing_error_of_one_image_is_tried_again(services: FakeServices, client: Client) -> None:
    tries: list[str] = []

    def stream(requests: Requests) -> Responses:
        for request in requests:
            tries.append(request.create.image.id)
            first = tries.count(request.create.image.id) == 1
            yield failed(request, 14, "UNAVAILABLE") if first else created(request)

    services.stream = stream
    (result,) = client.stream_images(images(1), collection="demo")
    assert result.image
    assert tries == ["0", "0"]


def test_what_the_source_raises_comes_to_the_caller(client: Client) -> None:
    def source() -> Iterator[NewImage]:
        yield from images(2)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(client.stream_images(source(), collection="demo"))


def test_a_generator_closed_early_ends_the_call(services: FakeServices, client: Client) -> None:
    ended = threading.Event()

    def stream(requests: Requests) -> Responses:
        try:
            for request in requests:
                yield created(request)
        finally:
            ended.set()

    services.stream = stream
    results = client.stream_images(images(1000), collection="demo", max_in_flight=2)
    next(results)
    results.close()  # type: ignore[attr-defined] # it is a generator
    assert ended.wait(10)


async def test_async_streams_resume_too(services: FakeServices, async_client: AsyncClient) -> None:
    connections = 0

    def stream(requests: Requests) -> Responses:
        nonlocal connections
        connections += 1
        for count, request in enumerate(requests):
            # Several end early: what is being sent at that moment must not matter.
            if connections <= 4 and count == 3:
                return
            if connections > 4 or count < 2:
                yield failed(request, 3, "IMAGE_EMPTY") if request.create.image.id == "7" else created(request)

    async def source() -> AsyncIterator[NewImage]:
        for image in images(20):
            yield image

    services.stream = stream
    found = [result async for result in async_client.stream_images(source(), collection="demo", max_in_flight=4)]
    assert sorted(int(result.item.id) for result in found) == list(range(20))
    assert [result.item.id for result in found if result.error] == ["7"]
    assert connections == 5


async def test_async_files_that_can_not_be_read_are_told_as_they_come(
    async_client: AsyncClient, tmp_path: Path
) -> None:
    told = asyncio.Event()

    async def source() -> AsyncIterator[NewImage]:
        yield NewImage(tmp_path / "missing")
        async with asyncio.timeout(10):
            await told.wait()

    async for result in async_client.stream_images(source(), collection="demo"):
        assert result.error
        told.set()
    assert told.is_set()


async def test_an_async_generator_closed_early_ends_the_call(services: FakeServices, async_client: AsyncClient) -> None:
    ended = threading.Event()

    def stream(requests: Requests) -> Responses:
        try:
            for request in requests:
                yield created(request)
        finally:
            ended.set()

    services.stream = stream
    async with aclosing(async_client.stream_images(images(1000), collection="demo", max_in_flight=2)) as results:  # type: ignore[type-var] # it is a generator
        await anext(results)
    assert await asyncio.to_thread(ended.wait, 10)


async def test_async_streams_take_plain_iterables(async_client: AsyncClient) -> None:
    found = [result async for result in async_client.stream_images(images(3), collection="demo")]
    assert len(found) == 3


async def test_what_an_async_source_raises_comes_to_the_caller(async_client: AsyncClient) -> None:
    async def source() -> AsyncIterator[NewImage]:
        yield images(1)[0]
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        async for _ in async_client.stream_images(source(), collection="demo"):
            pass
