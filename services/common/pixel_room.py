"""Room for the pixels of pictures that are being decoded, so that a few large ones do not fill the memory.

A file of some hundred kilobytes may be a picture of 100 million pixels. What decoders need for one is bounded by its
pixels, some 10 bytes for each and 22 in animations; what all threads of a process need together is bounded here.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from services.common.errors import Overloaded

__all__ = ["PIXELS_AT_ONCE", "PixelRoom"]

PIXELS_AT_ONCE: Final = 150_000_000
"""Most pixels decoded at a time in one process; a picture with more is decoded alone."""

_WAIT_S: Final = 60.0
_RETRY_AFTER_S: Final = 2.0


class PixelRoom:
    """Pixels that may be in memory at a time; threads that want more wait for others to finish."""

    def __init__(self, pixels: int = PIXELS_AT_ONCE, *, wait_s: float = _WAIT_S) -> None:
        """Make room for so many pixels, for which a thread waits at most `wait_s`."""
        self._pixels = pixels
        self._wait_s = wait_s
        self._used = 0
        self._freed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Hold room for a picture; Overloaded where none came free in time. A thread holds one picture at a time."""
        with self._freed:
            if not self._freed.wait_for(lambda: self._fits(pixels), self._wait_s):
                raise Overloaded(
                    "too many large images at a time; send it again in a moment", retry_after_s=_RETRY_AFTER_S
                )
            self._used += pixels
        try:
            yield
        finally:
            with self._freed:
                self._used -= pixels
                self._freed.notify_all()

    def _fits(self, pixels: int) -> bool:
        return self._used == 0 or self._used + pixels <= self._pixels
