import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from services.common.deadline import call_deadline
from services.common.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, SaccadeError, Unavailable
from services.common.objects import ObjectStore, open_object_store
from services.common.retry import ATTEMPTS
from services.common.settings import ObjectSettings

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def opened(port: int, *, timeout_s: float = 5) -> ObjectStore:
    return open_object_store(
        ObjectSettings.model_validate(
            {
                "objects_url": "s3://bucket",
                "s3_endpoint": f"http://127.0.0.1:{port}",
                "s3_access_key": "key",
                "s3_secret_key": "secret",
                "objects_timeout_s": timeout_s,
            }
        )
    )


@contextlib.asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[int]:
    """A server on a free port that answers each connection so; leaving ends all of them."""
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await answer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await server.wait_closed()


async def test_a_store_that_is_down_is_unavailable() -> None:
    async with served(lambda _reader, _writer: asyncio.sleep(0)) as port:
        pass
    store = opened(port)
    started = time.monotonic()
    outcomes = await asyncio.gather(
        store.get("a"), store.put("a", b"1"), store.list(""), store.check(), return_exceptions=True
    )
    assert time.monotonic() - started < 5
    for outcome in outcomes:
        assert isinstance(outcome, Unavailable)
        assert str(port) in outcome.message
        assert outcome.retry_after_s > 0
    assert any(outcome.__cause__ for outcome in outcomes if isinstance(outcome, Unavailable))
    await store.close()


async def test_a_store_that_stalls_is_given_up_in_time() -> None:
    async def stall(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the other side hangs up

    async with served(stall) as port:
        store = opened(port, timeout_s=0.5)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await store.get("a")
        with pytest.raises(DeadlineExceeded), call_deadline(0.2):
            await store.put("a", b"1")
        assert time.monotonic() - started < 5
        await store.close()


async def test_a_body_that_drips_is_given_up_in_time() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with served(drip) as port:
        store = opened(port, timeout_s=0.5)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await store.get("a")
        assert time.monotonic() - started < 5
        await store.close()


async def answers(status: str, body: bytes, content_type: str = "application/xml") -> tuple[SaccadeError, int]:
    """The error that a store's answer becomes, and how often it was asked."""
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        head = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
        writer.write("\r\n".join([*head, "Connection: close", "", ""]).encode() + body)
        await writer.drain()

    async with served(answer) as port:
        store = opened(port, timeout_s=20)
        with pytest.raises(SaccadeError) as caught:
            await store.get("a")
        await store.close()
    return caught.value, asked


def xml(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>because</Message><Key>a</Key></Error>".encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason", "asked"),
    [
        ("503 Slow Down", xml("SlowDown"), Unavailable, "OBJECTS_UNAVAILABLE", ATTEMPTS),
        ("500 Oh", xml("InternalError"), Unavailable, "OBJECTS_UNAVAILABLE", ATTEMPTS),
        ("507 Full", xml("XMinioStorageFull"), Unavailable, "OBJECTS_FULL", ATTEMPTS),
        ("403 No", xml("SignatureDoesNotMatch"), FailedPrecondition, "OBJECTS_REFUSED", 1),
        ("403 No", xml("InvalidAccessKeyId"), FailedPrecondition, "OBJECTS_REFUSED", 1),
        ("404 No", xml("NoSuchBucket"), FailedPrecondition, "BUCKET_MISSING", 1),
        ("404 No", xml("NoSuchKey"), SaccadeError, "OBJECT_MISSING", 1),
        ("400 No", xml("InvalidRequest"), SaccadeError, "INTERNAL", 1),
    ],
)
async def test_answers_become_our_errors(
    status: str, body: bytes, kind: type[SaccadeError], reason: str, asked: int
) -> None:
    error, count = await answers(status, body)
    assert isinstance(error, kind)
    assert (error.reason, count) == (reason, asked)


async def test_a_server_that_is_no_store_is_said_so() -> None:
    error, _ = await answers("404 Not Found", b"<html>hello</html>", "text/html")
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "OBJECTS_REFUSED"


async def test_addresses_are_signed_without_asking() -> None:
    store = open_object_store(
        ObjectSettings.model_validate(
            {
                "objects_url": "s3://bucket/some/prefix",
                "s3_endpoint": "http://127.0.0.1:1",
                "s3_public_endpoint": "https://images.example.org",
                "s3_access_key": "key",
                "s3_secret_key": "secret",
                "url_expiry_s": 60,
            }
        )
    )
    url = await store.presign("a/b c")
    assert url.startswith("https://images.example.org/bucket/some/prefix/a/b%20c?")
    assert "X-Amz-Expires=60" in url
    with pytest.raises(InvalidArgument):
        await store.presign("../x")
    await store.close()
