"""Many images through one call: a window of them at work, results as they come."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
import structlog

from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.budget import ByteBudget, Share
from services.common.status import code_of, to_item_error

__all__ = ["stream_images"]

_log = structlog.get_logger(__name__)


async def stream_images(
    requests: AsyncIterator[pb.StreamImagesRequest],
    create: Callable[[pb.CreateImageRequest], Awaitable[pb.CreateImageResponse]],
    *,
    window: int,
    budget: ByteBudget,
) -> AsyncGenerator[pb.StreamImagesResponse, None]:
    """A result for each request, in any order.

    No more than `window` requests are ahead of their results: a caller who does not read its results is not read from
    either. An image that fails has its error as its result. When the caller goes away, images that are being stored
    are stored to the end; the others are dropped.

    Args:
        requests: What the caller sends.
        create: Stores one image; raises why it could not.
        window: Most requests without a result that the caller has taken.
        budget: Of the bytes of all streams' requests; a stream is not read from while its last one waits for them.
    """
    slots = asyncio.Semaphore(window)
    results: asyncio.Queue[pb.StreamImagesResponse | None] = asyncio.Queue()

    async def one(request: pb.StreamImagesRequest) -> None:
        try:
            response = pb.StreamImagesResponse(key=request.key, created=await create(request.create))
        # Whatever one image fails with is its own result.
        except Exception as exc:
            if code_of(exc) == grpc.StatusCode.INTERNAL:
                _log.error("image failed", exc_info=exc)
            response = pb.StreamImagesResponse(key=request.key, error=to_item_error(exc))
        results.put_nowait(response)

    async def read() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                await slots.acquire()
                async for request in requests:
                    share = await budget.take(request.ByteSize())
                    # Not by the task itself, which never begins where it is cancelled at once.
                    group.create_task(one(request)).add_done_callback(partial(_release, share))
                    await slots.acquire()
        finally:
            results.put_nowait(None)

    reading = asyncio.create_task(read())
    try:
        while (response := await results.get()) is not None:
            yield response
            slots.release()
        await reading
    finally:
        reading.cancel()
        await asyncio.wait([reading])


def _release(share: Share, _task: asyncio.Task[Any]) -> None:
    share.release()
