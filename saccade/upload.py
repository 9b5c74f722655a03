"""A stream of images as a state machine: what waits, what is under way, what has come back. No transport, no clock.

Storing is idempotent, so whatever was under way when a connection broke is simply sent again.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass
from typing import Final

import grpc

from saccade.calls import create_request
from saccade.common.v1 import types_pb2
from saccade.errors import ApiError, item_error
from saccade.ingest.v1 import ingest_service_pb2
from saccade.requests import NewImage, Wait

__all__ = ["StreamResult", "Upload"]

ITEM_ATTEMPTS: Final = 5
"""How often one image is tried whose error is a passing one; its retries wait 0.5, 1, 2 and 4 s."""

_PASSING: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})
_RECONNECT_FIRST_S: Final = 0.2
_RECONNECT_MOST_S: Final = 5.0


@dataclass(frozen=True)
class StreamResult:
    """What became of one image of a stream: `image`, or the `error`.

    Attributes:
        item: What was given.
        image: As stored.
        existed: The same content stood under this id already.
        error: Why it was not stored.
    """

    item: NewImage
    image: types_pb2.Image | None = None
    existed: bool = False
    error: ApiError | None = None


@dataclass
class _Entry:
    item: NewImage
    attempts: int = 0


class Upload:
    """The state of one upload over any number of connections; times are seconds of any one clock that goes forward.

    Owned by one thread, or by several that take turns under the owner's lock.
    """

    def __init__(self, collection: str, *, wait_for: Wait, replace: bool, max_in_flight: int, give_up_s: float) -> None:
        """Begin an upload.

        Args:
            collection: Where the images go.
            wait_for: How far each result waits.
            replace: Whether other content under the same id is replaced.
            max_in_flight: Most images that were added and whose results were not taken; at least 1.
            give_up_s: How long to go on connecting anew without any answer.
        """
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, not {max_in_flight}")
        self._collection = collection
        self._wait_for: Wait = wait_for
        self._replace = replace
        self._max_in_flight = max_in_flight
        self._give_up_s = give_up_s
        self._entries: dict[str, _Entry] = {}
        # When each was sent over the present connection.
        self._sent: dict[str, float] = {}
        self._waiting: list[tuple[float, int, str]] = []
        self._settled: deque[StreamResult] = deque()
        self._added = 0
        self._broken = 0
        self._broken_since: float | None = None
        self._answered = False
        self.exhausted = False
        """Set by the owner when there is nothing more to add."""

    @property
    def finished(self) -> bool:
        """The result of every image added was taken, and no more will come."""
        return self.exhausted and not self._entries and not self._settled

    @property
    def room(self) -> bool:
        """Whether one more image may be added."""
        return not self.exhausted and len(self._entries) + len(self._settled) < self._max_in_flight

    def add(self, item: NewImage, now: float) -> None:
        """Take on one more image."""
        key = str(self._added)
        self._entries[key] = _Entry(item)
        heapq.heappush(self._waiting, (now, self._added, key))
        self._added += 1

    def due(self, now: float) -> tuple[str, NewImage] | None:
        """An image to send now, with its key, from here on counted as sent; None: none."""
        if not self._waiting or self._waiting[0][0] > now:
            return None
        key = heapq.heappop(self._waiting)[2]
        self._sent[key] = now
        return key, self._entries[key].item

    def next_due_in(self, now: float) -> float:
        """Seconds until `due` may have something without anything else happening; infinite if never."""
        return max(0.0, self._waiting[0][0] - now) if self._waiting else math.inf

    def request(self, key: str, item: NewImage) -> ingest_service_pb2.StreamImagesRequest:
        """The message for an image that is due; OSError or ValueError where it can not be read. Needs no lock."""
        create = create_request(self._collection, item, wait_for=self._wait_for, replace=self._replace)
        return ingest_service_pb2.StreamImagesRequest(key=key, create=create)

    def unreadable(self, key: str, error: Exception) -> None:
        """An image that is due can not be sent at all."""
        if key not in self._sent:
            return
        told = ApiError(grpc.StatusCode.INVALID_ARGUMENT, f"can not be read: {error}", reason="FILE_UNREADABLE")
        self._settle(key, error=told)

    def answer(self, response: ingest_service_pb2.StreamImagesResponse, now: float) -> None:
        """The service's result for an image; a passing error sends it again later."""
        self._broken = 0
        self._broken_since = None
        self._answered = True
        entry = self._entries.get(response.key)
        if entry is None or response.key not in self._sent:
            return
        if not response.HasField("error"):
            self._settle(response.key, image=response.created.image, existed=response.created.existed)
            return
        error = item_error(response.error)
        entry.attempts += 1
        if error.code in _PASSING and entry.attempts < ITEM_ATTEMPTS:
            del self._sent[response.key]
            later = now + 0.25 * 2**entry.attempts
            heapq.heappush(self._waiting, (later, int(response.key), response.key))
        else:
            self._settle(response.key, error=error)

    def take_result(self) -> StreamResult | None:
        """The oldest result that was not taken yet, which makes room for another image; None: there is none."""
        return self._settled.popleft() if self._settled else None

    def broken(self, error: ApiError, now: float) -> float:
        """The connection ended early: everything sent waits again. Seconds after which to connect anew.

        Raises:
            ApiError: the error itself, if connecting anew is no use, or was none for `give_up_s`.
        """
        late = error.code == grpc.StatusCode.DEADLINE_EXCEEDED
        if late and (self._answered or not self._sent):
            # Its own deadline ends a connection now and then: no failure if it was of use, or had nothing to do.
            self._broken, self._broken_since = 0, None
        else:
            if self._broken_since is None:
                # A connection that stood without an answer has been of no use since something was sent over it.
                self._broken_since = min(self._sent.values()) if late else now
            passing = late or error.code == grpc.StatusCode.UNAVAILABLE or error.retry_after_s > 0
            if not passing or now - self._broken_since > self._give_up_s:
                raise error
        for key in self._sent:
            heapq.heappush(self._waiting, (now, int(key), key))
        self._sent.clear()
        self._answered = False
        backoff_s = min(_RECONNECT_FIRST_S * 2.0**self._broken, _RECONNECT_MOST_S)
        self._broken += 1
        return max(error.retry_after_s, backoff_s)

    def _settle(
        self,
        key: str,
        *,
        image: types_pb2.Image | None = None,
        existed: bool = False,
        error: ApiError | None = None,
    ) -> None:
        del self._sent[key]
        self._settled.append(StreamResult(self._entries.pop(key).item, image, existed, error))
