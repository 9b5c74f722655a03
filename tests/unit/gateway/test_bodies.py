import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.common.errors import Overloaded
from services.gateway.bodies import Bodies

from .conftest import running_gateway

SEARCH = "/v1/collections/c/search"
JSON = {"content-type": "application/json"}


async def pieces(count: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b" " * size


async def test_a_body_that_says_it_is_too_long_is_not_read(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, max_body_bytes=1000) as gateway:
        response = await gateway.http.post(SEARCH, content=b" " * 1001, headers=JSON)
    assert (response.status_code, response.json()["reason"]) == (413, "BODY_TOO_LARGE")


async def test_a_body_of_unknown_length_is_counted_while_it_comes(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, max_body_bytes=1000) as gateway:
        long = await gateway.http.post(SEARCH, content=pieces(11, 100), headers=JSON)
        form = await gateway.http.post(SEARCH, files={"file": ("a", bytes(1001))})
        files = await gateway.http.post(SEARCH, files=[("file", ("a", bytes(600))), ("image", ("b", bytes(600)))])
    assert [answer.status_code for answer in (long, form, files)] == [413, 413, 413]


async def test_bodies_share_one_budget_and_give_it_back(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, max_body_bytes=1000, max_buffered_bytes=1500) as gateway:
        started, release = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b" " * 900
            started.set()
            await release.wait()
            yield b"{}"

        first = asyncio.ensure_future(gateway.http.post(SEARCH, content=slowly(), headers=JSON))
        await asyncio.wait_for(started.wait(), 5)
        refused = await gateway.http.post(SEARCH, content=b" " * 890, headers=JSON)
        release.set()
        assert (await first).status_code == 200
        again = await gateway.http.post(SEARCH, content=b" " * 898 + b"{}", headers=JSON)
    assert refused.headers["retry-after"] == "2"
    assert again.status_code == 200


def test_who_reads_on_after_the_end_takes_nothing() -> None:
    """gRPC asks a failed call's caller for one more request, and that reads what it is made of."""
    bodies = Bodies(max_body_bytes=10, max_buffered_bytes=10, idle_timeout_s=1)
    with bodies.hold() as first:
        first.grow(10)
    with pytest.raises(RuntimeError, match="the request is over"):
        first.grow(1)
    first.shrink(10)
    with bodies.hold() as second:
        second.grow(10)
        with pytest.raises(Overloaded):
            second.grow(1)


async def test_a_body_that_stops_coming_is_given_up(tmp_path: Path) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with running_gateway(tmp_path, idle_timeout_s=0.1) as gateway:
        response = await gateway.http.post(SEARCH, content=stuck(), headers=JSON)
    assert (response.status_code, response.json()["reason"]) == (408, "BODY_TIMEOUT")


async def test_broken_forms_are_refused(tmp_path: Path) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
    nameless = b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n"
    kind = {"content-type": "multipart/form-data; boundary=x"}
    async with running_gateway(tmp_path) as gateway:
        short = await gateway.http.post(SEARCH, content=form, headers=kind)
        garbled = await gateway.http.post(SEARCH, content=b"nonsense", headers=kind)
        unnamed = await gateway.http.post(SEARCH, content=nameless, headers=kind)
        unbound = await gateway.http.post(SEARCH, content=form, headers={"content-type": "multipart/form-data"})
    assert [answer.status_code for answer in (short, garbled, unnamed, unbound)] == [400] * 4
    assert "breaks off" in short.json()["detail"]
    assert unbound.json()["field"] == "content-type"
