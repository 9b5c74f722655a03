"""A lean caller in a process of its own: offers calls whose requests are bytes already, and counts what comes of them.

`python -m benchmarks.offering` reads an Offer as JSON from standard input and writes an Outcome to standard output. It
imports gRPC and nothing of Saccade: on a machine that it shares with the services, its own work is in the way.
"""

import asyncio
import base64
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import grpc

__all__ = ["NUMBER", "Offer", "Outcome", "decode", "encode"]

NUMBER: Final = b"number-of-it"
"""Stands in a request where each call has a number of its own, in as many digits."""
_TICK_S: Final = 0.004
# Characters of why a call failed.
_DETAILS: Final = 80
# Calls under way; an open loop waits for no answer, but it has no endless memory either.
_MOST_UNDER_WAY: Final = 20_000

Kind = Literal["closed", "open", "stream"]


@dataclass(frozen=True)
class Offer:
    """What to offer.

    Attributes:
        address: host:port.
        method: Full path of the call.
        requests: Taken in turn.
        kind: closed: `workers` callers that each wait for their answer; open: `rate` calls a second whatever becomes of
            them; stream: one call with `workers` requests ahead of their results.
        seconds: How long.
        warm_s: Calls that begin sooner do not count.
        timeout_s: Deadline of each call.
        first: The first call's number.
        metadata: Of each call.
    """

    address: str
    method: str
    requests: tuple[bytes, ...]
    kind: Kind
    seconds: float
    warm_s: float = 1.0
    workers: int = 0
    rate: float = 0.0
    timeout_s: float = 10.0
    first: int = 0
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass
class Outcome:
    """What came of it: seconds of each call that was answered or refused, the others by why, and the time."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, other: "Outcome") -> None:
        """Count another caller's beside these; it ran at the same time."""
        self.answered += other.answered
        self.refused += other.refused
        self.failed.update(other.failed)
        self.seconds = max(self.seconds, other.seconds)


def encode(offer: Offer) -> str:
    """One line of JSON."""
    plain = asdict(offer) | {"requests": [base64.b64encode(request).decode() for request in offer.requests]}
    return json.dumps(plain)


def decode(line: str) -> Offer:
    """What `encode` wrote."""
    plain = json.loads(line)
    requests = tuple(base64.b64decode(request) for request in plain["requests"])
    metadata = tuple((key, value) for key, value in plain["metadata"])
    return Offer(**(plain | {"requests": requests, "metadata": metadata}))


class _Caller:
    def __init__(self, offer: Offer, channel: grpc.aio.Channel) -> None:
        self._offer = offer
        self._channel = channel
        self._method: Callable[..., Any] = channel.unary_unary(offer.method)
        self._count = 0
        self._began = time.monotonic()
        self.outcome = Outcome()

    def _next_request(self) -> bytes:
        number = self._offer.first + self._count
        request = self._offer.requests[self._count % len(self._offer.requests)]
        self._count += 1
        return request.replace(NUMBER, b"%0*d" % (len(NUMBER), number))

    @property
    def _running_s(self) -> float:
        return time.monotonic() - self._began

    async def _one(self) -> None:
        counts = self._running_s >= self._offer.warm_s
        began = time.monotonic()
        try:
            await self._method(self._next_request(), timeout=self._offer.timeout_s, metadata=self._offer.metadata)
        except grpc.aio.AioRpcError as exc:
            if counts:
                if exc.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    self.outcome.refused.append(time.monotonic() - began)
                else:
                    self.outcome.failed[f"{exc.code().name}: {(exc.details() or '')[:_DETAILS]}"] += 1
        else:
            if counts:
                self.outcome.answered.append(time.monotonic() - began)

    async def closed(self) -> None:
        async def worker() -> None:
            while self._running_s < self._offer.seconds:
                await self._one()

        await asyncio.gather(*(worker() for _ in range(self._offer.workers)))

    async def open(self) -> None:
        under_way: set[asyncio.Task[None]] = set()
        offered = 0
        while (running_s := self._running_s) < self._offer.seconds:
            due = int(running_s * self._offer.rate) - offered
            for _ in range(due):
                offered += 1
                if len(under_way) < _MOST_UNDER_WAY:
                    task = asyncio.create_task(self._one())
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                else:
                    self.outcome.failed["NOT_OFFERED"] += 1
            await asyncio.sleep(_TICK_S)
        while under_way:
            await asyncio.wait(under_way)

    async def stream(self) -> None:
        room = asyncio.Semaphore(self._offer.workers)

        async def requests() -> AsyncIterator[Any]:
            while self._running_s < self._offer.seconds:
                await room.acquire()
                yield self._next_request()

        call: Any = self._channel.stream_stream(self._offer.method)(requests(), timeout=self._offer.seconds + 60)
        async for _ in call:
            room.release()
            self.outcome.answered.append(0.0)


async def _run(offer: Offer) -> Outcome:
    options = [("grpc.enable_retries", 0), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(offer.address, options=options) as channel:
        await asyncio.wait_for(channel.channel_ready(), 30)
        caller = _Caller(offer, channel)
        await {"closed": caller.closed, "open": caller.open, "stream": caller.stream}[offer.kind]()
    caller.outcome.seconds = offer.seconds - offer.warm_s
    return caller.outcome


def _main() -> None:
    outcome = asyncio.run(_run(decode(sys.stdin.readline())))
    json.dump(vars(outcome), sys.stdout)


if __name__ == "__main__":
    _main()
