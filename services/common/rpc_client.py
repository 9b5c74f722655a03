"""What every channel to another service of ours wraps around its calls."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from opentelemetry.instrumentation.grpc import aio_client_interceptors

__all__ = ["client_interceptors"]


class _EndWithCaller(grpc.aio.UnaryUnaryClientInterceptor):
    """Ends a call whose caller is cancelled: the tracing around it waits in a way that leaves it running otherwise."""

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        call = await continuation(client_call_details, request)
        try:
            await call.code()
        except asyncio.CancelledError:
            call.cancel()
            raise
        return call


def client_interceptors() -> list[grpc.aio.ClientInterceptor]:
    """Interceptors for an aio channel: traces go on in the service called, and calls end when their callers do."""
    # The last one is the innermost.
    return [*aio_client_interceptors(), _EndWithCaller()]
