"""Admission in front of everything else that a server does: before tracing, and before a request has been read.

A refusal has to cost little, or refusing alone keeps a server busy. So it is made where a call arrives: nothing is
read, traced or logged, and the status is written once for all. What is let in waits for its place before its request
is taken from the connection, so calls that wait hold no memory but the connection's own window.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from saccade.channel import BYTES_KEY, LANE_KEY
from services.common.budget import ByteBudget
from services.common.domain import Lane
from services.common.errors import InvalidArgument, Overloaded
from services.common.gate import Gate
from services.common.status import code_of, to_status

__all__ = ["Admission", "AdmissionInterceptor"]

# Of a number that may be meant; Python takes long to read a very long one.
_DIGITS: Final = 20
# A request that finds no room for its bytes for so long is refused, in seconds.
_ROOM_S: Final = 30.0
# A request that has not arrived after so long holds its place no longer, in seconds.
_READ_S: Final = 30.0
# How often the event loop's lateness is looked at, and how often gates are told, in seconds.
_TICK_S: Final = 0.02
_TOLD_S: Final = 0.2

_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Admission:
    """How calls of some methods come in.

    Attributes:
        gate: Theirs; several methods may share one.
        budget: Of the bytes of requests in hand; None: they are small.
        largest: Most bytes of a request where there is a budget; it is taken to have so many, or as many as its
            metadata say, until it is read.
        is_bulk: Whether a request says of itself that it is bulk work; those whose metadata does not.
    """

    gate: Gate
    budget: ByteBudget | None = None
    largest: int = 0
    is_bulk: Callable[[Any], bool] = lambda _request: False


class AdmissionInterceptor(grpc.aio.ServerInterceptor):
    """Admits calls of the methods it knows, and leaves the others alone. The first of a server's interceptors."""

    def __init__(self) -> None:
        """Know none; start it in the running loop."""
        self._admissions: dict[str, Admission] = {}
        self._refusal: Any = grpc.stream_unary_rpc_method_handler(_refuse)
        self._watching: asyncio.Task[None] | None = None

    def admit(self, service: ServiceDescriptor, admission: Admission, *methods: str) -> None:
        """Admit calls of these methods so; none: of all of a service's that take one request and are not named yet."""
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            if method.name in methods or (not methods and not method.client_streaming):
                self._admissions.setdefault(path, admission)

    def start(self) -> None:
        """Begin to watch how late the event loop is."""
        self._watching = asyncio.create_task(self._watch())

    def close(self) -> None:
        """Watch no more."""
        if self._watching is not None:
            self._watching.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Refuse at once, or let the call through its gate."""
        admission = self._admissions.get(handler_call_details.method)
        if admission is None:
            return await continuation(handler_call_details)
        lane = _lane(handler_call_details)
        if admission.gate.full(lane):
            admission.gate.refused(lane)
            return self._refusal
        handler = await continuation(handler_call_details)
        # No such call, or a refusal of those further in, which take no request.
        if handler is None or not handler.unary_unary:
            return handler
        # On the wire a call with one request is a stream of one; so it is ours to say when it is read.
        longest = _longest(handler_call_details, admission.largest)
        return grpc.stream_unary_rpc_method_handler(
            _admitted(admission, lane, longest, handler), response_serializer=handler.response_serializer
        )

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        latest, told_at = 0.0, loop.time()
        while True:
            due = loop.time() + _TICK_S
            await asyncio.sleep(_TICK_S)
            now = loop.time()
            latest = max(latest, now - due)
            if now - told_at >= _TOLD_S:
                for gate in {admission.gate for admission in self._admissions.values()}:
                    gate.adapt(latest)
                latest, told_at = 0.0, now


def _admitted(admission: Admission, lane: Lane, longest: int, handler: Any) -> Callable[..., Awaitable[Any]]:
    async def behaviour(_requests: object, context: _Context) -> Any:
        try:
            async with AsyncExitStack() as held:
                left_s = context.time_remaining()
                await held.enter_async_context(admission.gate.entered(lane, left_s=left_s))
                request = await _read(admission, longest, handler, context, held)
                if lane is Lane.INTERACTIVE and admission.is_bulk(request):
                    await held.aclose()
                    left_s = context.time_remaining()
                    await held.enter_async_context(admission.gate.entered(Lane.BULK, left_s=left_s))
                return await handler.unary_unary(request, context)
        # What the call itself fails with is told further in.
        except (Overloaded, InvalidArgument, TimeoutError) as exc:
            status = to_status(exc)
            trailing = (("grpc-status-details-bin", status.SerializeToString()),)
            await context.abort(code_of(exc), status.message, trailing)

    return behaviour


async def _read(admission: Admission, longest: int, handler: Any, context: _Context, held: AsyncExitStack) -> Any:
    if admission.budget is not None:
        try:
            async with asyncio.timeout(_ROOM_S):
                share = await admission.budget.take(longest)
        except TimeoutError as exc:
            raise Overloaded("too many bytes are in hand; try again in a second", retry_after_s=1.0) from exc
        held.callback(share.release)
    async with asyncio.timeout(_READ_S):
        data = await context.read()
    if data is grpc.aio.EOF:
        raise InvalidArgument("the call has no request")
    if admission.budget is not None:
        # One that is too long by right is told so further in.
        if longest < min(len(data), admission.largest):
            raise InvalidArgument(f"the request has {len(data)} bytes, and its metadata say {longest}")
        share.shrink(len(data))
    try:
        return handler.request_deserializer(data)
    # Whatever a parser says to bytes of a stranger.
    except Exception as exc:
        raise InvalidArgument("the request can not be read: it is no message of this call") from exc


def _longest(details: grpc.HandlerCallDetails, largest: int) -> int:
    told = next((value for key, value in details.invocation_metadata or () if key == BYTES_KEY), "")
    return min(int(told), largest) if isinstance(told, str) and told.isdecimal() and len(told) < _DIGITS else largest


def _lane(details: grpc.HandlerCallDetails) -> Lane:
    metadata = details.invocation_metadata or ()
    return (
        Lane.BULK if any(key == LANE_KEY and value == Lane.BULK.value for key, value in metadata) else Lane.INTERACTIVE
    )


_OVERLOADED: Final = to_status(
    Overloaded("there are more calls than can be answered; try again in a second", retry_after_s=1.0)
)
_TRAILING: Final = (("grpc-status-details-bin", _OVERLOADED.SerializeToString()),)


async def _refuse(_requests: object, context: _Context) -> None:
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, _OVERLOADED.message, _TRAILING)
