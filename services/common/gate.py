"""Who may come in: a number of calls at work, a short queue in front of them, and a quick refusal for the rest.

What keeps a service useful when ten times as many calls come as it can answer:

- While calls are refused the queue holds little and waits briefly: one that stands only makes answers late.
- Bulk calls have a share of the places, and wait behind all interactive ones.
- The number of places follows the event loop: it falls by a fifth while the loop is late, and grows by one at a time.
- Who could not be answered in time anyway is not let in.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import Counter, Gauge

from services.common.domain import Lane
from services.common.errors import Overloaded

__all__ = ["RETRY_AFTER_S", "Gate"]

RETRY_AFTER_S: Final = 1.0
"""When refused callers are told to come back."""
CALM_S: Final = 1.0
"""Where none was refused for so long, those that wait are a burst: they may fill all of the room, and wait for so long;
where calls usually take more than a quarter of it, four times as long as they do."""
PRESSED_S: Final = 0.05
"""How long a call waits while others are refused, or as long as calls usually take."""
LATE_S: Final = 0.025
"""An event loop that is so late has more work than it can do."""
SHRINK: Final = 0.8
# Weight of the newest call in the running average of the time that a call takes.
_NEWEST: Final = 0.1

_PLACES = Gauge("saccade_admission_places", "Calls that may be at work at a time.", ["gate"])
_INSIDE = Gauge("saccade_admission_inside", "Calls at work.", ["gate", "lane"])
_REFUSED = Counter("saccade_admission_refused_total", "Calls refused because of too many others.", ["gate", "lane"])


class Gate:
    """Lets calls in, lets a few wait, and refuses the rest. Used from one event loop."""

    def __init__(
        self,
        name: str,
        *,
        places: int,
        waiting: int,
        least: int = 2,
        bulk_share: float = 0.5,
        bulk_beside_people: int = 1,
        yields: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make an empty one.

        Args:
            name: For metrics, and for those who are refused: what they wanted to do.
            places: Most calls at work at a time.
            waiting: Most calls that wait, in each lane.
            least: Places that are left however late the event loop is.
            bulk_share: Share of the places that bulk calls may have, at least one place.
            bulk_beside_people: Places that bulk calls may have while `yields` is true.
            yields: Whether people wait elsewhere for what these calls need too.
        """
        self._name = name
        self._most = places
        self._least = min(least, places)
        self._room = waiting
        self._bulk_share = bulk_share
        self._bulk_beside_people = bulk_beside_people
        self._yields = yields
        self._inside = dict.fromkeys(Lane, 0)
        self._queues: dict[Lane, deque[asyncio.Future[None]]] = {lane: deque() for lane in Lane}
        self._refused_at = dict.fromkeys(Lane, -math.inf)
        self._usual_s = 0.0
        self._was_full = False
        self._refusals = {lane: _REFUSED.labels(name, lane.value) for lane in Lane}
        self._gauges = {lane: _INSIDE.labels(name, lane.value) for lane in Lane}
        self._set_places(places)

    @property
    def places(self) -> int:
        """Calls that may be at work at a time now."""
        return self._places

    @property
    def busy(self) -> bool:
        """Whether a call that came now would wait."""
        return not self._free(Lane.INTERACTIVE) or bool(self._queues[Lane.INTERACTIVE])

    def full(self, lane: Lane) -> bool:
        """Whether a call that came now would be refused."""
        if self._free(lane) and not self._queues[lane]:
            return False
        if lane is Lane.BULK and self._queues[Lane.INTERACTIVE]:
            return True
        room = max(2, self._places // 2) if self._pressed(lane) else self._room
        return len(self._queues[lane]) >= min(room, self._room)

    def refused(self, lane: Lane) -> Overloaded:
        """The error for a call that is not let in; counts it."""
        self._refusals[lane].inc()
        self._refused_at[lane] = asyncio.get_running_loop().time()
        return Overloaded(
            f"there are more calls than can be answered ({self._name}, {lane.value}); try again in {RETRY_AFTER_S:g} s",
            retry_after_s=RETRY_AFTER_S,
        )

    @asynccontextmanager
    async def entered(self, lane: Lane, *, left_s: float | None = None, patient: bool = False) -> AsyncIterator[None]:
        """Hold a place.

        Args:
            lane: Whose.
            left_s: Time that the call has left; None: any.
            patient: Whether it waits for its turn however long that takes, as one of a bounded number of streams.

        Raises:
            Overloaded: there is no room to wait in, or it waited for as long as is sensible.
        """
        await self._enter(lane, left_s, patient=patient)
        began = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            took_s = asyncio.get_running_loop().time() - began
            self._usual_s += (took_s - self._usual_s) * (_NEWEST if self._usual_s else 1)
            self._leave(lane)

    def adapt(self, late_s: float) -> None:
        """Take the event loop's lateness over the last moments into account."""
        inside = sum(self._inside.values())
        if late_s > LATE_S and inside >= self._least:
            # Never above what is at work: places that nobody uses change nothing by going.
            self._set_places(max(self._least, int(min(self._places, inside) * SHRINK)))
        elif self._was_full and self._places < self._most:
            self._set_places(self._places + 1)
        self._admit()
        self._was_full = not self._free(Lane.INTERACTIVE)

    async def _enter(self, lane: Lane, left_s: float | None, *, patient: bool) -> None:
        loop = asyncio.get_running_loop()
        queue = self._queues[lane]
        if self._free(lane) and not queue and not (lane is Lane.BULK and self._queues[Lane.INTERACTIVE]):
            self._take(lane)
            return
        self._was_full = True
        hopeless = left_s is not None and left_s < self._usual_s
        if not patient and (hopeless or self.full(lane)):
            raise self.refused(lane)
        turn: asyncio.Future[None] = loop.create_future()
        queue.append(turn)
        try:
            async with asyncio.timeout(None if patient else self._patience(lane, left_s)):
                await turn
        except BaseException as exc:
            if turn.done() and not turn.cancelled():
                self._leave(lane)
            elif turn in queue:
                queue.remove(turn)
            if isinstance(exc, TimeoutError):
                raise self.refused(lane) from exc
            raise

    def _patience(self, lane: Lane, left_s: float | None) -> float:
        longest = max(PRESSED_S, self._usual_s) if self._pressed(lane) else self._calm_s
        # One that comes in with less than a call usually takes would be late all the same.
        return longest if left_s is None else min(longest, left_s - self._usual_s)

    def _pressed(self, lane: Lane) -> bool:
        return asyncio.get_running_loop().time() - self._refused_at[lane] < self._calm_s

    @property
    def _calm_s(self) -> float:
        return max(CALM_S, 4 * self._usual_s)

    def _free(self, lane: Lane) -> bool:
        if sum(self._inside.values()) >= self._places:
            return False
        if lane is Lane.INTERACTIVE:
            return True
        share = max(1, int(self._places * self._bulk_share))
        return self._inside[lane] < (min(share, self._bulk_beside_people) if self._yields() else share)

    def _take(self, lane: Lane) -> None:
        self._inside[lane] += 1
        self._gauges[lane].set(self._inside[lane])

    def _leave(self, lane: Lane) -> None:
        self._inside[lane] -= 1
        self._gauges[lane].set(self._inside[lane])
        self._admit()

    def _admit(self) -> None:
        """Let those in whose turn it is: interactive ones first, in each lane the one that waits longest."""
        for lane in (Lane.INTERACTIVE, Lane.BULK):
            queue = self._queues[lane]
            while queue and self._free(lane):
                turn = queue.popleft()
                if not turn.done():
                    self._take(lane)
                    turn.set_result(None)
            if queue:
                return

    def _set_places(self, places: int) -> None:
        self._places = places
        _PLACES.labels(self._name).set(places)
