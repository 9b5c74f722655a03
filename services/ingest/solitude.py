"""Asking the embedder so that one image can not take it down for ever.

An image may make the embedder's process end each time that it is looked at. What was asked at the same moment can not
be told apart from it; so an image whose calls were lost again and again is asked about alone, and only what is lost
then counts against it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from services.common.embedder_client import EmbedderClient
from services.common.errors import InvalidImage, Unavailable
from services.ingest.patience import Patience

__all__ = ["IMAGE_CRASHES", "LOST_ALONE", "LOST_TOGETHER", "EmbedderLost", "LostAlone", "Solitude", "crashes"]

_T = TypeVar("_T")

LOST_TOGETHER: Final = 2
"""An image whose calls were lost so often is asked for alone."""
LOST_ALONE: Final = 3
"""An image whose calls were lost so often, alone, is set aside."""
IMAGE_CRASHES: Final = "IMAGE_CRASHES"
# Of what a call needs beside the embedder.
_OTHERS: Final = ("OBJECTS_", "MILVUS_")


class EmbedderLost(Unavailable):
    """The embedder went away while it was asked about an image, or was away."""


class LostAlone(EmbedderLost):
    """It was there, was asked about this image alone, and went away."""


def crashes() -> InvalidImage:
    """What is told of an image that is set aside."""
    return InvalidImage(
        f"the embedder went away each of the {LOST_ALONE} times that it was asked about this image alone; the image is "
        "set aside, and tried again when it is changed, stored again or repaired",
        reason=IMAGE_CRASHES,
    )


class Solitude:
    """Calls to the embedder about single images: many together, or one alone. Used from one event loop."""

    def __init__(self, embedder: EmbedderClient) -> None:
        """Ask this embedder whether it is there."""
        self._embedder = embedder
        self._gate = asyncio.Lock()
        self._together = 0
        self._empty = asyncio.Event()
        self._empty.set()

    async def ask(self, call: Callable[[], Awaitable[_T]], *, alone: bool, model: str, patience: Patience) -> _T:
        """The result of `call`, which asks the embedder's `model` about one image.

        Args:
            call: What to ask; patience repeats it, unless it goes alone.
            alone: Whether no other image may be asked about meanwhile.
            model: The model that has to be there first, where the image goes alone.
            patience: How long to go on asking.

        Raises:
            LostAlone: as it says; only where the embedder answered just before.
            EmbedderLost: the embedder is away.
        """
        try:
            if not alone:
                return await patience.ask(lambda: self._with_others(call))
            async with self._alone():
                # Away already: that says nothing about the image.
                await self._embedder.get_model(model)
                return await self._by_itself(call)
        except EmbedderLost:
            raise
        except Unavailable as exc:
            if exc.reason.startswith(_OTHERS):
                raise
            raise EmbedderLost(exc.message, reason=exc.reason, retry_after_s=exc.retry_after_s) from exc

    async def _with_others(self, call: Callable[[], Awaitable[_T]]) -> _T:
        async with self._gate:
            self._together += 1
            self._empty.clear()
        try:
            return await call()
        finally:
            self._together -= 1
            if not self._together:
                self._empty.set()

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self._gate:
            await self._empty.wait()
            yield

    async def _by_itself(self, call: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await call()
        except Unavailable as exc:
            if exc.reason.startswith(_OTHERS):
                raise
            raise LostAlone(exc.message, reason=exc.reason, retry_after_s=exc.retry_after_s) from exc
