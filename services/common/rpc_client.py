"""Channels to other services of ours: health-checked, traced, over TLS where that is set, with a credential of ours."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from opentelemetry.instrumentation.grpc import aio_client_interceptors

from saccade.channel import channel_options
from services.common.access.credentials import PLAIN, PeerCredentials

__all__ = ["open_channel", "open_probe"]

_HEADER: Final = "authorization"


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


class _ShowKey(grpc.aio.UnaryUnaryClientInterceptor):
    """Shows our own key with calls that carry no credential."""

    def __init__(self, key: str) -> None:
        self._value = f"Bearer {key}"

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        carried = list(client_call_details.metadata or ())
        if not any(name == _HEADER for name, _ in carried):
            client_call_details = grpc.aio.ClientCallDetails(
                client_call_details.method,
                client_call_details.timeout,
                grpc.aio.Metadata(*carried, (_HEADER, self._value)),
                client_call_details.credentials,
                client_call_details.wait_for_ready,
            )
        return await continuation(client_call_details, request)


def open_channel(target: str, peer: PeerCredentials = PLAIN) -> grpc.aio.Channel:
    """A channel to a target such as `dns:///embedder:50051`; made in a running event loop, connects in the background.

    Traces go on in the service called, and unary calls end when their callers do. A unary call without an
    `authorization` of its own shows `peer.key`, where there is one.

    Raises:
        FailedPrecondition: a file of `peer` can not be read.
    """
    # The last one is the innermost.
    interceptors = [*aio_client_interceptors(), *([_ShowKey(peer.key)] if peer.key else []), _EndWithCaller()]
    return _open(target, peer, channel_options(), interceptors)


def open_probe(target: str, peer: PeerCredentials = PLAIN) -> grpc.aio.Channel:
    """A channel to ask a service about its health, which does not turn away from one that says it is not ready."""
    return _open(target, peer, [], [])


def _open(
    target: str,
    peer: PeerCredentials,
    options: list[tuple[str, str | int]],
    interceptors: list[grpc.aio.ClientInterceptor],
) -> grpc.aio.Channel:
    credentials = peer.channel_credentials()
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)
    return grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors)
