"""From single items to batches and back.

Continuous: when the model is free it takes what waits, up to the batch size, and nothing waits for a clock. All state
lives in the event loop; only `stack` (in a pool) and `run` (in the thread that owns the model) run elsewhere.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, Generic, TypeVar

import structlog

from services.common.domain import Lane
from services.common.errors import DeadlineExceeded, Internal, SaccadeError, Unavailable
from services.embedder import metrics
from services.embedder.owner import OwnerThread
from services.embedder.people import People

__all__ = ["Batcher", "Kind"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_log = structlog.get_logger(__name__)

BULK_EVERY: Final = 4
"""While both lanes wait, one batch in so many is a bulk one."""
# Weight of the newest batch in the running average of seconds per item.
_SPEED_WEIGHT: Final = 0.2


@dataclass(frozen=True, eq=False)
class Kind(Generic[_In, _Out]):
    """One sort of work that a model does; batches hold items of one kind.

    Attributes:
        name: For metrics.
        stack: Items to what `run` takes; any thread.
        run: To one result for each item, in order; the owner's thread only.
        max_batch: Most items at a time.
    """

    name: str
    stack: Callable[[Sequence[_In]], Any]
    run: Callable[[Any], Sequence[_Out]]
    max_batch: int


@dataclass(slots=True, eq=False)
class _Entry:
    item: Any
    future: asyncio.Future[Any]
    queued_at: float
    expires_at: float


@dataclass(slots=True, eq=False)
class _Batch:
    kind: Kind[Any, Any]
    lane: Lane
    entries: list[_Entry]
    # Where the batch was put together ahead of time.
    stacked: asyncio.Future[Any] | None = field(default=None)


class Batcher:
    """Feeds one model. Interactive items go first, bulk ones are never starved for good.

    An item whose waiter is gone leaves the queue at once, one whose time is up when its turn comes. A batch that fails
    is split until the item at fault is alone: it gets the error, its neighbours their results. While one batch computes
    the next one is put together, if enough waits to fill it.
    """

    def __init__(
        self,
        model: str,
        owner: OwnerThread,
        pool: Executor,
        *,
        bulk_every: int = BULK_EVERY,
        people: People | None = None,
    ) -> None:
        """Make a batcher; `start` it in the running loop.

        Args:
            model: For metrics and logs.
            owner: The model's thread; closed with the batcher.
            pool: Where batches are put together ahead of time.
            bulk_every: While both lanes wait, one batch in so many is a bulk one.
            people: While they are there, bulk batches are small, with pauses between them; None: nobody looks.
        """
        self._people = people or People()
        self._watches = people is not None
        self._bulk_at = -math.inf
        self._model = model
        self._owner = owner
        self._pool = pool
        self._bulk_every = bulk_every
        self._waiting: dict[Lane, dict[Kind[Any, Any], deque[_Entry]]] = {lane: {} for lane in Lane}
        self._wake = asyncio.Event()
        self._held: _Batch | None = None
        self._current: _Batch | None = None
        self._since_bulk = 0
        self._task: asyncio.Task[None] | None = None
        self._ended: SaccadeError | None = None
        self._busy_since: float | None = None
        self._last_success = -math.inf
        self._failing_since: float | None = None
        self._item_seconds = 0.0

    def start(self) -> None:
        """Begin to serve."""
        self._task = asyncio.get_running_loop().create_task(self._serve(), name=f"batcher-{self._model}")
        self._task.add_done_callback(self._after)

    @property
    def item_seconds(self) -> float:
        """Seconds that one item took in the model lately; 0 before the first."""
        return self._item_seconds

    @property
    def busy_s(self) -> float:
        """Seconds since the present computation began; 0 if there is none."""
        return perf_counter() - self._busy_since if self._busy_since is not None else 0.0

    @property
    def since_success_s(self) -> float:
        """Seconds since the model last gave a result; infinite before the first."""
        return perf_counter() - self._last_success

    @property
    def failing_s(self) -> float:
        """Seconds since the model began to fail whatever it is given; 0 if the last batch had a result."""
        return perf_counter() - self._failing_since if self._failing_since is not None else 0.0

    async def submit(self, kind: Kind[_In, _Out], item: _In, lane: Lane, *, time_left_s: float = math.inf) -> _Out:
        """Wait for one item's result.

        Raises:
            DeadlineExceeded: `time_left_s` was over before the item's turn came.
            Unavailable: the batcher was closed.
            Exception: what the model raised for this very item.
        """
        if self._ended is not None:
            raise self._ended
        if self._watches and lane is Lane.INTERACTIVE:
            self._people.seen()
        now = perf_counter()
        entry = _Entry(item, asyncio.get_running_loop().create_future(), now, now + time_left_s)
        queue = self._waiting[lane].setdefault(kind, deque())
        queue.append(entry)
        metrics.QUEUE_DEPTH.labels(self._model, lane.value).inc()
        self._wake.set()
        if self._current is not None:
            self._hold_if_full()
        try:
            result: _Out = await entry.future
        except asyncio.CancelledError:
            # Behind a stalled model those who gave up would pile up otherwise.
            if entry in queue:
                queue.remove(entry)
                metrics.QUEUE_DEPTH.labels(self._model, lane.value).dec()
            raise
        return result

    async def close(self) -> None:
        """Stop; whoever still waits gets Unavailable. Computations that run are left to the owner's thread."""
        self._end(Unavailable("the embedder is shutting down; another replica can answer"))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._owner.close()

    async def _serve(self) -> None:
        while True:
            batch = self._next()
            if batch is None:
                self._wake.clear()
                # Bulk work that rests comes back by itself.
                rest_s = self._bulk_at - perf_counter() if self._waits(Lane.BULK) else None
                with suppress(TimeoutError):
                    async with asyncio.timeout(rest_s):
                        await self._wake.wait()
                continue
            self._current, self._busy_since = batch, perf_counter()
            self._hold_if_full()
            outcomes = await self._outcomes(batch.kind, [entry.item for entry in batch.entries], batch.stacked)
            self._record(batch, outcomes)
            for entry, outcome in zip(batch.entries, outcomes, strict=True):
                _settle(entry, outcome)
            self._current = self._busy_since = None

    def _next(self) -> _Batch | None:
        """The batch whose turn it is: the one put together ahead of time, unless interactive work came meanwhile."""
        while (lane := self._lane()) is not None:
            batch: _Batch | None
            if self._held is not None and lane is self._held.lane:
                batch, self._held = self._held, None
            else:
                batch = self._pop(lane, self._oldest(lane))
            if batch is not None:
                self._since_bulk = 0 if lane is Lane.BULK else self._since_bulk + 1
                now = perf_counter()
                for entry in batch.entries:
                    metrics.BATCH_WAIT_SECONDS.labels(self._model, lane.value).observe(now - entry.queued_at)
                return batch
        return None

    def _lane(self) -> Lane | None:
        """The lane whose turn it is, by what waits; the held batch waits too."""
        bulk = self._waits(Lane.BULK) and perf_counter() >= self._bulk_at
        if self._waits(Lane.INTERACTIVE) and not (bulk and self._since_bulk >= self._bulk_every - 1):
            return Lane.INTERACTIVE
        return Lane.BULK if bulk else None

    def _waits(self, lane: Lane) -> bool:
        return any(self._waiting[lane].values()) or (self._held is not None and self._held.lane is lane)

    def _most(self, kind: Kind[Any, Any], lane: Lane) -> int:
        return kind.max_batch if lane is Lane.INTERACTIVE else self._people.bulk_batch(kind.max_batch)

    def _oldest(self, lane: Lane) -> Kind[Any, Any]:
        """The kind whose first item waits longest; something must wait in the lane."""
        queues = self._waiting[lane]
        return min((kind for kind in queues if queues[kind]), key=lambda kind: queues[kind][0].queued_at)

    def _pop(self, lane: Lane, kind: Kind[Any, Any]) -> _Batch | None:
        """Take a batch of live items from a queue; None if no item in it was alive."""
        queue = self._waiting[lane][kind]
        live: list[_Entry] = []
        now = perf_counter()
        most = self._most(kind, lane)
        while queue and len(live) < most:
            entry = queue.popleft()
            metrics.QUEUE_DEPTH.labels(self._model, lane.value).dec()
            if entry.expires_at <= now:
                _settle(entry, DeadlineExceeded("the call's time ran out before the model was free"))
            if not entry.future.done():
                live.append(entry)
        return _Batch(kind, lane, live) if live else None

    def _hold_if_full(self) -> None:
        """Put the next batch together now if it would be full; a smaller one may still grow."""
        lane = self._lane()
        if self._held is not None or lane is None:
            return
        kind = self._oldest(lane)
        if len(self._waiting[lane][kind]) < self._most(kind, lane):
            return
        self._held = self._pop(lane, kind)
        if self._held is not None:
            items = [entry.item for entry in self._held.entries]
            self._held.stacked = asyncio.get_running_loop().run_in_executor(self._pool, kind.stack, items)

    async def _outcomes(
        self, kind: Kind[_In, _Out], items: list[_In], stacked: asyncio.Future[Any] | None = None
    ) -> list[_Out | Exception]:
        """A result or an error for each item; a failing batch is split until the item at fault is alone."""
        try:
            if stacked is not None:
                batch = await stacked
                results = await self._owner.call(lambda: kind.run(batch))
            else:
                results = await self._owner.call(lambda: kind.run(kind.stack(items)))
            if len(results) != len(items):
                raise Internal(f"the model gave {len(results)} results for {len(items)} items")
        except Exception as exc:
            if len(items) == 1:
                # What the caller can mend is no failure of the model.
                if isinstance(exc, SaccadeError) and not isinstance(exc, Internal):
                    return [exc]
                _log.warning("model failed", model=self._model, kind=kind.name, error=repr(exc), exc_info=exc)
                return [exc]
            _log.warning("batch failed; splitting it", model=self._model, kind=kind.name, items=len(items))
            middle = len(items) // 2
            return [*await self._outcomes(kind, items[:middle]), *await self._outcomes(kind, items[middle:])]
        return list(results)

    def _record(self, batch: _Batch, outcomes: Sequence[object]) -> None:
        now = perf_counter()
        seconds = self.busy_s
        if batch.lane is Lane.BULK and self._people.are_here:
            self._bulk_at = now + self._people.rest * seconds
        metrics.BATCH_SIZE.labels(self._model, batch.kind.name).observe(len(batch.entries))
        metrics.COMPUTE_SECONDS.labels(self._model, batch.kind.name).observe(seconds)
        if all(isinstance(outcome, Exception) for outcome in outcomes):
            if not all(isinstance(outcome, SaccadeError) for outcome in outcomes):
                self._failing_since = self._failing_since or now
            return
        self._last_success, self._failing_since = now, None
        each = seconds / len(batch.entries)
        self._item_seconds += (each - self._item_seconds) * (_SPEED_WEIGHT if self._item_seconds else 1)

    def _after(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("batcher ended", model=self._model, exc_info=error)
            self._end(Internal("the embedder's queue has ended; the service must be started anew"))

    def _end(self, error: SaccadeError) -> None:
        """Refuse what comes from now on, and tell everybody who waits."""
        self._ended = error
        batches = [batch.entries for batch in (self._current, self._held) if batch is not None]
        queues = [queue for kinds in self._waiting.values() for queue in kinds.values()]
        for entry in [entry for entries in (*batches, *queues) for entry in entries]:
            _settle(entry, error)
        for lane, kinds in self._waiting.items():
            kinds.clear()
            metrics.QUEUE_DEPTH.labels(self._model, lane.value).set(0)
        self._held = None


def _settle(entry: _Entry, outcome: object) -> None:
    if entry.future.done():
        return
    if isinstance(outcome, Exception):
        entry.future.set_exception(outcome)
    else:
        entry.future.set_result(outcome)
