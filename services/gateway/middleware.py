"""What happens to every request besides its answer: an id, headers, metrics, access log."""

import re
import secrets
from collections.abc import MutableMapping
from time import perf_counter
from typing import Any, Final

import structlog
from prometheus_client import Counter, Gauge, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.telemetry import trace_id
from services.gateway.callers import caller_of
from services.gateway.headers import NO_STORE, SECURITY_HEADERS, STRICT_TRANSPORT
from services.gateway.problems import CLIENT_CLOSED_REQUEST, problem_of, respond

__all__ = ["Observe"]

_log = structlog.get_logger(__name__)

_LABELS: Final = ["method", "route"]
_REQUESTS = Counter("http_server_requests_total", "Requests finished, by status.", [*_LABELS, "status"])
_ACTIVE = Gauge("http_server_active_requests", "Requests being served.")
_SECONDS = Histogram(
    "http_server_request_duration_seconds",
    "Time from a request's start to its end.",
    _LABELS,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)

UNMATCHED: Final = "unmatched"
"""Route label of requests that no route takes, or that were refused before; their paths are the callers' own."""

REQUEST_ID: Final = "x-request-id"
_GOOD_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")

_QUIET: Final = frozenset({"/healthz", "/readyz"})
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observe:
    """Counts, times and logs each request, gives every response its headers, and ends what went wrong."""

    def __init__(self, app: ASGIApp, *, secure: bool) -> None:
        """Wrap an application that is reached by https alone, if `secure`."""
        self._app = app
        self._headers = SECURITY_HEADERS | (STRICT_TRANSPORT if secure else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, trace = perf_counter(), 0, ""
        request_id = _request_id(Headers(scope=scope))

        async def observed_send(message: Message) -> None:
            nonlocal status, trace
            if message["type"] == "http.response.start":
                status, trace = message["status"], trace_id()
                self._add_headers(scope, message, request_id, trace)
            await send(message)

        _ACTIVE.inc()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, observed_send)
            except Exception as exc:
                _log.error("request failed", exc_info=exc)
                if not status:
                    await respond(problem_of(exc))(scope, receive, observed_send)
            finally:
                _ACTIVE.dec()
                _record(scope, status or CLIENT_CLOSED_REQUEST, perf_counter() - started, trace)

    def _add_headers(self, scope: Scope, message: MutableMapping[str, Any], request_id: str, trace: str) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in self._headers.items():
            headers.setdefault(name, value)
        if scope["path"].startswith("/v1/"):
            headers.setdefault(*NO_STORE)
        headers["X-Request-Id"] = request_id
        if trace:
            headers["X-Trace-Id"] = trace


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID, "")
    return given if _GOOD_ID.fullmatch(given) else secrets.token_hex(16)


def _record(scope: Scope, status: int, seconds: float, trace: str) -> None:
    # A mounted folder has no route, only a root.
    route = getattr(scope.get("route"), "path", "") or scope.get("root_path") or UNMATCHED
    method = scope["method"] if scope["method"] in _METHODS else "other"
    _REQUESTS.labels(method, route, status).inc()
    _SECONDS.labels(method, route).observe(seconds)
    if route not in _QUIET:
        told: dict[str, Any] = {"trace_id": trace} if trace else {}
        if principal := caller_of(scope).principal:
            told["caller"] = str(principal)
        # Not the query string: it may hold a signature or what somebody looks for.
        _log.info(
            "request", method=method, path=scope["path"], status=status, duration_ms=round(seconds * 1000, 1), **told
        )
