import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.types import Message

from services.common.errors import InvalidArgument, Overloaded
from services.gateway.bodies import Bodies
from services.gateway.problems import Problem

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
    bodies = Bodies(max_body_bytes=10, max_buffered_bytes=10, idle_timeout_s=1, body_timeout_s=1)
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


class Clock:
    """Seconds that pass where a body says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def request_of(clock: Clock, chunks: Sequence[tuple[float, bytes]], kind: str = "application/x-ndjson") -> Request:
    """A request whose chunks each come after so many seconds."""
    waiting = iter(chunks)

    async def receive() -> Message:
        seconds, chunk = next(waiting, (0.0, None))
        clock.now += seconds
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    return Request({"type": "http", "headers": [(b"content-type", kind.encode())]}, receive)


def patient(clock: Clock, max_body_bytes: int = 10**6) -> Bodies:
    return Bodies(
        max_body_bytes=max_body_bytes, max_buffered_bytes=10**8, idle_timeout_s=5, body_timeout_s=10, clock=clock
    )


async def test_a_body_that_trickles_is_given_up() -> None:
    clock = Clock()
    bodies = patient(clock)
    with bodies.hold() as hold:
        assert await bodies.whole(request_of(clock, [(4, b"a"), (4, b"b"), (5, b"c")]), hold) == b"abc"
        with pytest.raises(Problem, match="longer than 10 s") as caught:
            await bodies.whole(request_of(clock, [(4, b"a")] * 5), hold)
    assert (caught.value.status, caught.value.reason) == (408, "BODY_TOO_SLOW")


@pytest.mark.parametrize("kind", ["whole", "line", "part"])
async def test_a_body_is_held_once(kind: str) -> None:
    size, piece = 16 * 2**20, 64 * 1024
    start, end = (PART.removesuffix(b"1\r\n"), b"\r\n--x--\r\n") if kind == "part" else (b"", b"")
    chunks = [(0.0, start), *[(0.0, b"a" * piece)] * (size // piece), (0.0, end)]
    clock = Clock()
    bodies = patient(clock, max_body_bytes=size)
    with bodies.hold() as hold:
        request = request_of(clock, chunks, "multipart/form-data; boundary=x")
        tracemalloc.start()
        if kind == "whole":
            assert len(await bodies.whole(request, hold)) == size
        elif kind == "line":
            assert [len(line) async for line in bodies.lines(request, hold)] == [size]
        else:
            assert [len(part.data) async for part in bodies.parts(request, hold)] == [size]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1.5 * size


async def test_a_stream_may_take_as_long_as_its_items_do() -> None:
    clock = Clock()
    bodies = patient(clock)
    with bodies.hold() as hold:
        lines = [line async for line in bodies.lines(request_of(clock, [(4, b"a"), (4, b"b\n")] * 20), hold)]
        assert lines == [b"ab"] * 20
        with pytest.raises(Problem, match="one item"):
            [line async for line in bodies.lines(request_of(clock, [(4, b"a"), (4, b"b\n")] + [(4, b"c")] * 5), hold)]


async def test_the_time_that_others_take_is_not_the_callers() -> None:
    clock = Clock()
    bodies = patient(clock)
    found = []
    with bodies.hold() as hold:
        async for line in bodies.lines(request_of(clock, [(1, b"a\nb"), (1, b"c\nd"), (1, b"e\n")]), hold):
            found.append(line)
            clock.now += 100
    assert found == [b"a", b"bc", b"de"]


PART = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'


@pytest.mark.parametrize(
    "chunks",
    [
        [b"\r\n" + b"preamble " * 1000] * 200 + [PART + b"--x--\r\n"],
        [b'--x\r\nContent-Disposition: form-data; name="a"\r\nX-A: ' + b"a" * 100_000 + b"\r\n\r\n1\r\n--x--\r\n"],
        [PART] * 300 + [b"--x--\r\n"],
    ],
    ids=["preamble", "header", "parts"],
)
async def test_what_is_no_data_of_a_form_counts_too(chunks: list[bytes]) -> None:
    clock = Clock()
    bodies = patient(clock, max_body_bytes=1000)
    request = request_of(clock, [(0, chunk) for chunk in chunks], "multipart/form-data; boundary=x")
    with bodies.hold() as hold, pytest.raises((Problem, InvalidArgument)):
        await bodies.form(request, hold)


async def test_what_comes_after_a_forms_end_is_not_read() -> None:
    clock = Clock()
    bodies = patient(clock, max_body_bytes=1000)
    chunks = [(0.0, PART + b"--x--\r\n"), *[(4.0, b"more")] * 100]
    with bodies.hold() as hold:
        parts = await bodies.form(request_of(clock, chunks, "multipart/form-data; boundary=x"), hold)
    assert [part.data for part in parts] == [b"1"]
    assert clock.now == 0


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
