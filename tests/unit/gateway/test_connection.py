"""A real listener, and callers that keep it waiting."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import uvicorn
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.gateway.connection import ConnectionLimits, connection_class

LIMITS: Final = ConnectionLimits(max_connections=10, head_timeout_s=60, idle_timeout_s=60)
SHORT_S: Final = 0.2
PATIENCE_S: Final = 30
BIG: Final = bytes(16 * 1024 * 1024)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """/early answers before the body; /big with more than buffers hold; all else with the body's length."""
    if scope["path"] == "/early":
        answer = Response("no", status_code=401)
    elif scope["path"] == "/big":
        answer = Response(BIG)
    else:
        answer = Response(str(len(await Request(scope, receive).body())))
    await answer(scope, receive, send)


@dataclass
class Caller:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers, body."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        first, *lines = head.decode().strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await asyncio.wait_for(self.reader.readexactly(int(headers["content-length"])), PATIENCE_S)
        return int(first.split()[1]), headers, body

    async def refusal(self) -> tuple[int, str]:
        """Status and reason; the connection must be closed after it."""
        status, headers, body = await self.answer()
        assert headers["content-type"] == "application/problem+json"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["connection"] == "close"
        assert "server" not in headers
        await self.ended()
        return status, json.loads(body)["reason"]

    async def ended(self) -> bytes:
        """What still comes before the other side closes or resets."""
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), PATIENCE_S)
        return b""


class Listener:
    def __init__(self, port: int) -> None:
        self._port = port
        self._callers: list[Caller] = []

    async def call(self, data: bytes = b"", limit: int = 2**16) -> Caller:
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self._port, limit=limit))
        self._callers.append(caller)
        await caller.send(data)
        return caller

    async def close(self) -> None:
        for caller in self._callers:
            caller.writer.close()
            with contextlib.suppress(ConnectionError):
                await caller.writer.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


@asynccontextmanager
async def listening(**limits: Any) -> AsyncIterator[Listener]:
    config = uvicorn.Config(
        app,
        port=0,
        http=connection_class(replace(LIMITS, **limits)),
        ws="none",
        lifespan="off",
        log_config=None,
        server_header=False,
        h11_max_incomplete_event_size=4096,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    # Without the signal handlers that `serve` sets.
    serving = asyncio.ensure_future(server._serve())
    await until(lambda: server.started)
    listener = Listener(server.servers[0].sockets[0].getsockname()[1])
    try:
        yield listener
    finally:
        await listener.close()
        server.should_exit = True
        await serving


def ended(reason: str) -> float:
    return REGISTRY.get_sample_value("http_server_connections_ended_total", {"reason": reason}) or 0.0


async def test_requests_are_answered_one_after_the_other() -> None:
    async with listening() as listener:
        caller = await listener.call(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await caller.answer())[0] == 200
        await caller.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        assert (await caller.answer())[2] == b"3"


async def test_a_head_that_does_not_end_is_given_up() -> None:
    async with listening(head_timeout_s=SHORT_S) as listener:
        slow = await listener.call(b"GET / HTTP/1.1\r\nHost: a\r\n")
        assert await slow.refusal() == (408, "HEAD_TIMEOUT")
        # Also the second of a connection, where bytes keep coming.
        caller = await listener.call(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await caller.answer()
        await caller.send(b"GET / HTTP/1.1\r\nX-A: ")
        trickle = asyncio.ensure_future(drip(caller))
        assert await caller.refusal() == (408, "HEAD_TIMEOUT")
        trickle.cancel()


async def drip(caller: Caller) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            await caller.send(b"a")
            await asyncio.sleep(SHORT_S / 10)


async def test_a_connection_that_is_never_used_is_closed() -> None:
    async with listening(head_timeout_s=SHORT_S) as listener:
        assert await (await listener.call()).ended() == b""


async def test_what_is_no_http_gets_a_problem() -> None:
    async with listening() as listener:
        assert await (await listener.call(b"nonsense\r\n\r\n")).refusal() == (400, "HTTP_SYNTAX")
        assert await (await listener.call(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")).refusal() == (400, "HTTP_SYNTAX")
        long = await listener.call(b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 5000)
        assert await long.refusal() == (431, "HEAD_TOO_LARGE")
        broken = await listener.call(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert await broken.refusal() == (400, "HTTP_SYNTAX")


async def test_idle_connections_make_room_and_busy_ones_do_not() -> None:
    before = ended("idle")
    async with listening(max_connections=2) as listener:
        idle = await listener.call(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await idle.answer()
        head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        callers = []
        for _ in range(2):
            callers.append(await listener.call(head))
            # It is being served.
            assert b" 100 " in await asyncio.wait_for(callers[-1].reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        assert await idle.ended() == b""
        refused = await listener.call()
        assert await refused.refusal() == (503, "TOO_MANY_CONNECTIONS")
        for caller in callers:
            await caller.send(b"ab")
            assert (await caller.answer())[2] == b"2"
    assert ended("idle") == before + 1


async def test_the_body_of_a_refused_request_is_not_waited_for(monkeypatch: Any) -> None:
    monkeypatch.setattr("services.gateway.connection.DISCARD_S", SHORT_S)
    async with listening() as listener:
        caller = await listener.call(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        assert (await caller.answer())[0] == 401
        trickle = asyncio.ensure_future(drip(caller))
        await caller.ended()
        trickle.cancel()
        # Who ends it in time goes on.
        caller = await listener.call(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
        assert (await caller.answer())[0] == 401
        await caller.send(b"abcGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await caller.answer())[0] == 200


async def test_an_early_answer_reaches_those_who_still_send_and_want_the_connection_closed() -> None:
    """Closed both ways at once with bytes unread, the connection is reset, and the answer may be lost."""
    head = b"POST /early HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 100000000\r\n\r\n"
    async with listening() as listener:
        for _ in range(5):
            caller = await listener.call()
            caller.writer.write(head)
            for _ in range(50):
                caller.writer.write(bytes(100_000))
                await caller.writer.drain()
            assert (await caller.answer())[0] == 401
            assert await asyncio.wait_for(caller.reader.read(), PATIENCE_S) == b""


async def test_who_does_not_read_its_answer_is_given_up() -> None:
    before = ended("slow_reader")
    async with listening(idle_timeout_s=SHORT_S) as listener:
        caller = await listener.call(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n", limit=1024)
        await until(lambda: ended("slow_reader") > before)
        assert len(await caller.ended()) < len(BIG)


async def test_who_reads_gets_all_of_a_long_answer() -> None:
    async with listening(idle_timeout_s=2) as listener:
        caller = await listener.call(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await caller.answer())[2] == BIG
