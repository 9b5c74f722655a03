"""Identity in front of a gRPC server: who calls before the request is read, what they may do when it is."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from services.common.access.audit import audited
from services.common.access.authenticator import PEER, Authenticator, build_authenticator
from services.common.access.guard import acting, authorize, authorize_call, cut
from services.common.access.limits import RateLimiter
from services.common.access.principal import Principal
from services.common.access.settings import AccessSettings
from services.common.errors import PermissionDenied, SaccadeError, Unauthenticated
from services.common.status import code_of, to_status

__all__ = ["AccessInterceptor", "build_interceptor"]

_Context = grpc.aio.ServicerContext[Any, Any]
_HEADER: Final = "authorization"
_HEALTH: Final = "/grpc.health.v1.Health/"
_OURS: Final = "/saccade."


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Lets a call reach its handler when its caller is known and may make it.

    Health checks need no credential; reflection does, of any scope. A call without a good credential is refused before
    anything of its request is read. What a request names is looked at when it is there, in streams message by message:
    a message that may not be is the last one taken, results of those before it are still sent, and then the stream ends
    with PERMISSION_DENIED. A credential that ends or is revoked meanwhile ends its stream in the same way.
    """

    def __init__(self, authenticator: Authenticator, limiter: RateLimiter, *, peer_names: Sequence[str] = ()) -> None:
        """Know callers by `authenticator`; `peer_names` stand in client certificates of other services of ours."""
        self._authenticator = authenticator
        self._limiter = limiter
        self._peer_names = frozenset(name.encode() for name in peer_names)
        self._methods: dict[str, MethodDescriptor] = {}

    def serve(self, descriptor: ServiceDescriptor) -> None:
        """Know the calls of a contract; of ours, others are refused."""
        for method in descriptor.methods:
            self._methods[f"/{descriptor.full_name}/{method.name}"] = method

    async def close(self) -> None:
        """Let go of connections."""
        await self._authenticator.close()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The call's handler with its checks around it, or one that refuses the call."""
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or path.startswith(_HEALTH):
            return handler
        method, call = self._methods.get(path), None
        shown = [str(value) for name, value in handler_call_details.invocation_metadata or () if name == _HEADER]
        try:
            if method is None:
                await self.authenticate(shown)
                # Ours are all known. What is left is reflection, which tells what the repository does.
                if path.startswith(_OURS):
                    raise PermissionDenied("the call is part of no contract")
                return handler
            call = _Call(self, method, shown)
            # By a certificate, of which only the handler's context knows, and which the handshake has found good.
            if shown or not self._peer_names:
                await call.begin()
        except SaccadeError as exc:
            return _refusing(path, exc, call)
        forms = (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(call.unary(handler.unary_unary), *forms)
        return grpc.stream_stream_rpc_method_handler(call.stream(handler.stream_stream), *forms)

    async def authenticate(self, shown: Sequence[str]) -> Principal:
        """Who shows these headers; Unauthenticated for more than one."""
        if len(shown) > 1:
            raise Unauthenticated("more than one authorization header", reason="CREDENTIAL_MALFORMED")
        return await self._authenticator.authenticate(shown[0] if shown else "")

    def count(self, principal: Principal) -> None:
        """Count a call; Overloaded where its caller has made too many."""
        self._limiter.take(principal)

    def by_certificate(self, context: _Context) -> Principal:
        """Who the connection's certificate is of; Unauthenticated unless that is another service of ours."""
        names = context.auth_context().get("x509_subject_alternative_name") or ()
        if self._peer_names.isdisjoint(names):
            raise Unauthenticated(
                "this service needs a credential: an API key or a token, as `authorization: Bearer ...`, or the "
                "certificate of one of its peers",
                reason="CREDENTIAL_MISSING",
            )
        return PEER


class _Call:
    """One call on its way to its handler."""

    def __init__(self, access: AccessInterceptor, method: MethodDescriptor, shown: Sequence[str]) -> None:
        self._access = access
        self._method = method
        self._shown = shown
        self._principal: Principal | None = None

    async def begin(self) -> None:
        """Find out who calls, and whether they may make such calls at all."""
        self._principal = principal = await self._access.authenticate(self._shown)
        authorize_call(principal, self._method)
        self._access.count(principal)

    def refuse(self, error: SaccadeError) -> NoReturn:
        """Raise the error; where the caller is known, the refused change stands in the audit log."""
        if self._principal is None:
            raise error
        with audited(self._principal, self._method):
            raise error

    def unary(self, handler: Callable[..., Awaitable[Message]]) -> Callable[..., Awaitable[Message]]:
        async def behaviour(request: Message, context: _Context) -> Message:
            principal = self._principal or self._access.by_certificate(context)
            with audited(principal, self._method) as saw:
                saw(request)
                authorize(principal, self._method, request)
                with acting(principal):
                    return cut(principal, self._method, await handler(request, context))

        return behaviour

    def stream(self, handler: Callable[..., AsyncGenerator[Message, None]]) -> Callable[..., AsyncIterator[Message]]:
        async def behaviour(requests: AsyncIterator[Message], context: _Context) -> AsyncGenerator[Message, None]:
            principal = self._principal or self._access.by_certificate(context)
            refused: list[SaccadeError] = []

            async def allowed(saw: Callable[[Message], None]) -> AsyncIterator[Message]:
                async for request in requests:
                    saw(request)
                    try:
                        if self._shown:
                            await self._access.authenticate(self._shown)
                        authorize(principal, self._method, request)
                    except SaccadeError as exc:
                        refused.append(exc)
                        return
                    yield request

            with audited(principal, self._method) as saw, acting(principal):
                async with aclosing(handler(allowed(saw), context)) as responses:
                    async for response in responses:
                        yield cut(principal, self._method, response)
                if refused:
                    raise refused[0]

        return behaviour


def build_interceptor(settings: AccessSettings, peer_names: Sequence[str] = ()) -> AccessInterceptor | None:
    """What the settings describe; None where anyone may call, which then costs nothing.

    Raises:
        FailedPrecondition: a setting or a file is missing or wrong; says which.
    """
    authenticator = build_authenticator(settings)
    if authenticator is None:
        return None
    return AccessInterceptor(authenticator, RateLimiter(settings.calls_per_second), peer_names=peer_names)


def _refusing(path: str, error: SaccadeError, call: _Call | None) -> Any:
    """A handler that refuses without reading what was sent, whatever kind of call it is."""
    nothing: list[Message] = []

    async def behaviour(_: AsyncIterator[bytes], context: _Context) -> AsyncIterator[Message]:
        for answer in nothing:
            yield answer
        # Becomes a status, a log line and a number in the metrics around us, as with all errors of ours.
        if call is not None:
            call.refuse(error)
        if path.startswith(_OURS):
            raise error
        status = to_status(error)
        trailing = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(code_of(error), status.message, trailing)

    return grpc.stream_stream_rpc_method_handler(behaviour)
