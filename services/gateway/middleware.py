"""What happens to every request besides its answer: headers, admission, metrics, access log."""

import re
from collections.abc import Mapping, MutableMapping
from ipaddress import ip_address
from time import perf_counter
from typing import Any, Final

import structlog
from prometheus_client import Counter, Gauge, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.errors import Overloaded
from services.common.telemetry import trace_id
from services.gateway.problems import CLIENT_CLOSED_REQUEST, Problem, problem_of, respond

__all__ = ["Guard", "Observe"]

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
"""Route label of requests that no route takes; their paths are the callers' own and would never end."""

_QUIET: Final = frozenset({"/healthz", "/readyz"})
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_PORT: Final = re.compile(r":[0-9]*$")

_SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Observe:
    """Counts, times and logs each request, gives every response the security headers, and ends what went wrong."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = perf_counter(), 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message)
            await send(message)

        _ACTIVE.inc()
        try:
            await self._app(scope, receive, observed_send)
        except Exception as exc:
            _log.error("request failed", exc_info=exc)
            if not status:
                await respond(problem_of(exc))(scope, receive, observed_send)
        finally:
            _ACTIVE.dec()
            _record(scope, status or CLIENT_CLOSED_REQUEST, perf_counter() - started)


class Guard:
    """Admits requests that name us; API requests up to a number at a time, and none that another site's page sends."""

    def __init__(self, app: ASGIApp, *, max_requests: int, hosts: frozenset[str]) -> None:
        """Wrap an application that is reached by IP addresses and by the names `hosts`; `*` is any name."""
        self._app = app
        self._free = max_requests
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal:
            await respond(refusal)(scope, receive, send)
            return
        if not _is_call(scope):
            await self._app(scope, receive, send)
            return
        self._free -= 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._free += 1

    def _is_ours(self, host: str | None) -> bool:
        """Whether a request means us: a name of their own that leads here would make others' pages ours (rebinding).

        Addresses are no names, and a request without a host comes from no browser.
        """
        if host is None or "*" in self._hosts:
            return True
        name = _PORT.sub("", host).lower().removesuffix(".")
        return name in self._hosts or _is_address(name.removeprefix("[").removesuffix("]"))

    def _refusal(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        if not self._is_ours(headers.get("host")):
            detail = "Host is no name of this gateway; SACCADE_PUBLIC_URL or SACCADE_ALLOWED_HOSTS tells it its names"
            return Problem(421, "UNKNOWN_HOST", detail, (("host", detail),))
        if not _is_call(scope):
            return None
        if scope["method"] not in _SAFE_METHODS and _is_cross_site(headers):
            return Problem(403, "CROSS_SITE", "requests from other sites' pages are refused")
        if self._free <= 0:
            return problem_of(Overloaded("too many requests at a time; send it again in a moment", retry_after_s=1))
        return None


def _is_call(scope: Scope) -> bool:
    return bool(scope["path"].startswith("/v1/"))


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_cross_site(headers: Mapping[str, str]) -> bool:
    """Browsers send forms anywhere without asking; only they send these headers, and no page can forge them."""
    origin = headers.get("origin")
    if "sec-fetch-site" in headers:
        return headers["sec-fetch-site"] not in ("same-origin", "none")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def _add_headers(message: MutableMapping[str, Any]) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in _SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    if current := trace_id():
        headers["X-Trace-Id"] = current


def _record(scope: Scope, status: int, seconds: float) -> None:
    # A mounted folder has no route, only a root.
    route = getattr(scope.get("route"), "path", "") or scope.get("root_path") or UNMATCHED
    method = scope["method"] if scope["method"] in _METHODS else "other"
    _REQUESTS.labels(method, route, status).inc()
    _SECONDS.labels(method, route).observe(seconds)
    if route not in _QUIET:
        # Not the query string: it may hold a signature or what somebody looks for.
        _log.info("request", method=method, path=scope["path"], status=status, duration_ms=round(seconds * 1000, 1))
