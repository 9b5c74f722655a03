"""An upload over a connection to the ingest service, for callers with and without an event loop.

Both faces do the same: they send what is due, take on more while there is room, hand out results as they come, and
connect anew when the connection breaks. They differ only in how they wait. Answers are read beside the loop that hands
out results: those of files that can not be read do not wait for an answer.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from contextlib import aclosing, suppress
from typing import Any, Final

import grpc

from saccade.errors import ApiError, api_error
from saccade.ingest.v1.ingest_service_pb2 import StreamImagesRequest
from saccade.requests import NewImage
from saccade.upload import StreamResult, Upload

__all__ = ["upload_async", "upload_sync"]

# A connection is replaced after this; one on which nothing at all came back by then is a failure.
_CONNECTION_S: Final = 300.0
# Waits end by being woken; this bounds what a missed wake-up could cost.
_LONGEST_NAP_S: Final = 1.0

# What grpc.aio makes of a request that was sent just when the connection ended, whatever ended it.
_CORE_ERROR: Final = "Internal error from Core"

_ENDED_EARLY: Final = ApiError(grpc.StatusCode.UNAVAILABLE, "the service ended the stream before its time")


def upload_sync(method: Any, upload: Upload, items: Iterable[NewImage]) -> Iterator[StreamResult]:
    """Run an upload over a sync stub's StreamImages; a generator, which may be closed early."""
    return _SyncUpload(method, upload, iter(items)).results()


async def upload_async(
    method: Any, upload: Upload, items: Iterable[NewImage] | AsyncIterable[NewImage]
) -> AsyncIterator[StreamResult]:
    """Run an upload over an aio stub's StreamImages; a generator, which may be closed early."""
    source = aiter(items) if isinstance(items, AsyncIterable) else _to_async(items)
    async with aclosing(_AsyncUpload(method, upload, source).results()) as results:
        async for result in results:
            yield result


class _SyncUpload:
    """grpc consumes the requests on a thread of its own, so the upload's state is used under one lock."""

    def __init__(self, method: Any, upload: Upload, items: Iterator[NewImage]) -> None:
        self._method = method
        self._upload = upload
        self._items = items
        self._changed = threading.Condition()
        # Held while the caller's iterator runs: an iterator can not be entered twice.
        self._pulling = threading.Lock()
        self._connection = 0
        # Why the present connection has ended; None: it stands.
        self._ended: ApiError | None = None
        self._failure: BaseException | None = None

    def results(self) -> Iterator[StreamResult]:
        wait_s = 0.0
        try:
            while not self._done():
                time.sleep(wait_s)
                wait_s = yield from self._connect()
        finally:
            self._next_connection()
        if self._failure:
            raise self._failure

    def _connect(self) -> Generator[StreamResult, None, float]:
        """Hand out results until the connection ends; returns the seconds to wait before the next."""
        self._ended = None
        call = self._method(self._requests(self._next_connection()), timeout=_CONNECTION_S)
        reader = threading.Thread(target=self._read, args=(call,), daemon=True)
        reader.start()
        try:
            while (result := self._next_result()) is not None:
                yield result
        finally:
            call.cancel()
            reader.join(_LONGEST_NAP_S)
        self._next_connection()
        with self._changed:
            return 0.0 if self._done() else self._upload.broken(self._ended or _ENDED_EARLY, time.monotonic())

    def _read(self, call: Any) -> None:
        """Take the answers until the connection ends; runs on a thread of its own."""
        ended = _ENDED_EARLY
        try:
            for response in call:
                with self._changed:
                    self._upload.answer(response, time.monotonic())
                    self._changed.notify_all()
        except grpc.RpcError as exc:
            ended = api_error(exc)
        finally:
            with self._changed:
                self._ended = ended
                self._changed.notify_all()

    def _next_result(self) -> StreamResult | None:
        """Wait for a result; None when the connection has ended and all of its results are handed out."""
        with self._changed:
            while (result := self._upload.take_result()) is None and self._ended is None:
                self._changed.wait(_LONGEST_NAP_S)
            # It made room.
            self._changed.notify_all()
            return result

    def _requests(self, connection: int) -> Iterator[StreamImagesRequest]:
        while (due := self._claim(connection)) is not None:
            try:
                request = self._upload.request(*due)
            except (OSError, ValueError) as exc:
                with self._changed:
                    self._upload.unreadable(due[0], exc)
                    self._changed.notify_all()
            else:
                yield request

    def _claim(self, connection: int) -> tuple[str, NewImage] | None:
        """Wait for something to send; None when this connection has nothing more to send."""
        while True:
            with self._changed:
                if connection != self._connection or self._failure or self._upload.finished:
                    return None
                due = self._upload.due(time.monotonic())
                if due is not None:
                    return due
                if not self._upload.room:
                    self._changed.wait(min(self._upload.next_due_in(time.monotonic()), _LONGEST_NAP_S))
                    continue
            self._pull()

    def _pull(self) -> None:
        """Take one more item from the caller; what its iterator raises goes to the caller."""
        with self._pulling:
            with self._changed:
                if not self._upload.room:
                    return
            item, failure = None, None
            try:
                item = next(self._items, None)
            except Exception as exc:
                failure = exc
            with self._changed:
                if item is not None:
                    self._upload.add(item, time.monotonic())
                else:
                    self._failure, self._upload.exhausted = failure, failure is None
                self._changed.notify_all()

    def _done(self) -> bool:
        return self._failure is not None or self._upload.finished

    def _next_connection(self) -> int:
        with self._changed:
            self._connection += 1
            self._changed.notify_all()
            return self._connection


class _AsyncUpload:
    """The same on one event loop."""

    def __init__(self, method: Any, upload: Upload, items: AsyncIterator[NewImage]) -> None:
        self._method = method
        self._upload = upload
        self._items = items
        # For those who send, and for the one who hands out results: each waits for its own.
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._connection = 0
        # Outlives a connection: cancelling it would end the caller's iterator.
        self._pulling: asyncio.Task[NewImage | None] | None = None
        self._failure: BaseException | None = None

    async def results(self) -> AsyncGenerator[StreamResult, None]:
        wait_s = 0.0
        try:
            while not self._done():
                await asyncio.sleep(wait_s)
                self._connection += 1
                call = self._method(self._requests(self._connection), timeout=_CONNECTION_S)
                reading = asyncio.create_task(self._read(call))
                reading.add_done_callback(lambda _: self._settled.set())
                try:
                    while (result := await self._next_result(reading)) is not None:
                        yield result
                finally:
                    call.cancel()
                    # grpc goes on asking the requests of a call that has ended for more.
                    self._connection += 1
                    self._changed.set()
                    await asyncio.wait({reading}, timeout=_LONGEST_NAP_S)
                if not self._done():
                    wait_s = self._upload.broken(reading.result(), _now())
        finally:
            if self._pulling:
                self._pulling.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await self._pulling
        if self._failure:
            raise self._failure

    async def _read(self, call: Any) -> ApiError:
        """Take the answers until the connection ends; why it did."""
        try:
            async for response in call:
                self._upload.answer(response, _now())
                self._changed.set()
                self._settled.set()
        except grpc.RpcError as exc:
            error = api_error(exc)
            if error.message != _CORE_ERROR:
                return error
        return _ENDED_EARLY

    async def _next_result(self, reading: asyncio.Task[ApiError]) -> StreamResult | None:
        """Wait for a result; None when the connection has ended and all of its results are handed out."""
        while (result := self._upload.take_result()) is None and not reading.done():
            self._settled.clear()
            await self._settled.wait()
        # It made room.
        self._changed.set()
        return result

    async def _requests(self, connection: int) -> AsyncIterator[StreamImagesRequest]:
        while connection == self._connection and not self._done():
            self._changed.clear()
            due = self._upload.due(_now())
            if due is None:
                await self._wait()
                continue
            try:
                request = await asyncio.to_thread(self._upload.request, *due)
            except (OSError, ValueError) as exc:
                self._upload.unreadable(due[0], exc)
                self._settled.set()
            else:
                yield request

    async def _wait(self) -> None:
        """Until something changed, something is due, or one more item was taken from the caller."""
        if self._pulling is None and self._upload.room:
            self._pulling = asyncio.ensure_future(anext(self._items, None))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait(
                {changed, self._pulling} if self._pulling else {changed},
                timeout=min(self._upload.next_due_in(_now()), _LONGEST_NAP_S),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            changed.cancel()
        if self._pulling and self._pulling.done():
            pulled, self._pulling = self._pulling, None
            try:
                item = pulled.result()
            except Exception as exc:
                self._failure = exc
                return
            if item is None:
                self._upload.exhausted = True
            else:
                self._upload.add(item, _now())

    def _done(self) -> bool:
        return self._failure is not None or self._upload.finished


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _to_async(items: Iterable[NewImage]) -> AsyncIterator[NewImage]:
    """A plain iterable, run on a thread: it may read files or wait for a network."""
    iterator = iter(items)
    while (item := await asyncio.to_thread(next, iterator, None)) is not None:
        yield item
