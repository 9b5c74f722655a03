"""The door: what a request must be before anything is done for it. It stands outside of tracing and routing."""

import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from services.common.access.limits import RateLimiter
from services.common.access.principal import Principal
from services.common.errors import SaccadeError, Unauthenticated
from services.gateway.admission import Room
from services.gateway.callers import AUTHORIZATION, Caller, set_caller
from services.gateway.problems import Problem, problem_of, respond

__all__ = ["Admission", "Authenticates", "Guard"]

_OPEN: Final = frozenset({"/", "/docs", "/openapi.json", "/healthz", "/readyz"})
_OPEN_FOLDERS: Final = ("/static/", "/docs/ui/")
_OBJECTS: Final = "/objects/"
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_PORT: Final = re.compile(r":[0-9]*$")
# What a header's line needs besides name and value.
_LINE_BYTES: Final = 4


class Authenticates(Protocol):
    """Tells who sent a request."""

    async def authenticate(self, authorization: str) -> Principal:
        """The caller behind an authorization header; Unauthenticated if it is not good."""
        ...


@dataclass(frozen=True)
class Admission:
    """Who is let in, and how many.

    Attributes:
        hosts: Names that requests may be addressed to, in lower case; `*`: any.
        max_requests: API requests at a time.
        max_requests_per_key: The same, of one key.
        max_downloads: Local objects being sent at a time.
        max_head_bytes: Bytes of a request's line and headers.
        max_headers: Number of headers.
        calls_per_second: Calls a second of a key that says nothing else; 0: any number.
    """

    hosts: frozenset[str]
    max_requests: int
    max_requests_per_key: int
    max_downloads: int
    max_head_bytes: int
    max_headers: int
    calls_per_second: float


class Guard:
    """Admits requests that name us, whose sender we know, that no other site's page sends, and not too many of them.

    What is not listed as open needs a credential where an authenticator is given, whether or not a route takes it.
    """

    def __init__(self, app: ASGIApp, admission: Admission, authenticator: Authenticates | None) -> None:
        """Wrap an application; without an authenticator anyone may ask."""
        self._app = app
        self._admission = admission
        self._authenticator = authenticator
        self._rates = RateLimiter(admission.calls_per_second)
        self._calls = Room(admission.max_requests, per_name=admission.max_requests_per_key, what="requests")
        self._downloads = Room(admission.max_downloads, per_name=admission.max_downloads, what="downloads")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with ExitStack() as held:
            try:
                await self._admit(scope, held)
            except (Problem, SaccadeError) as exc:
                await respond(problem_of(exc))(scope, receive, send)
                return
            await self._app(scope, receive, send)

    async def _admit(self, scope: Scope, held: ExitStack) -> None:
        headers = Headers(scope=scope)
        self._check_head(scope, headers)
        path = scope["path"]
        if path in _OPEN or path.startswith(_OPEN_FOLDERS):
            return
        if path.startswith(_OBJECTS):
            # The address itself is the credential.
            held.enter_context(self._downloads.place())
            return
        if scope["method"] not in _SAFE_METHODS and _is_cross_site(headers):
            raise Problem(403, "CROSS_SITE", "requests from other sites' pages are refused")
        held.enter_context(self._calls.place())
        caller = await self._identify(headers)
        set_caller(scope, caller)
        if caller.principal:
            self._rates.take(caller.principal)
            held.enter_context(self._calls.place_of(str(caller.principal)))

    def _check_head(self, scope: Scope, headers: Headers) -> None:
        if not self._is_ours(headers.get("host")):
            detail = "Host is no name of this gateway; SACCADE_PUBLIC_URL or SACCADE_ALLOWED_HOSTS tells it its names"
            raise Problem(421, "UNKNOWN_HOST", detail, (("host", detail),))
        limits, raw = self._admission, headers.raw
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        size += sum(len(name) + len(value) + _LINE_BYTES for name, value in raw)
        if size > limits.max_head_bytes or len(raw) > limits.max_headers:
            detail = (
                f"the request's line and headers may have {limits.max_head_bytes} bytes, "
                f"in {limits.max_headers} headers at most"
            )
            raise Problem(431, "HEAD_TOO_LARGE", detail)
        if "content-length" in headers and "transfer-encoding" in headers:
            # What stands before us may read the body's end elsewhere than we do (request smuggling).
            raise Problem(400, "HTTP_SYNTAX", "Content-Length and Transfer-Encoding exclude each other")

    def _is_ours(self, host: str | None) -> bool:
        """Whether a request means us: a name of their own that leads here would make others' pages ours (rebinding).

        Addresses are no names, and a request without a host comes from no browser.
        """
        if host is None or "*" in self._admission.hosts:
            return True
        name = _PORT.sub("", host).lower().removesuffix(".")
        return name in self._admission.hosts or _is_address(name.removeprefix("[").removesuffix("]"))

    async def _identify(self, headers: Headers) -> Caller:
        given = headers.getlist(AUTHORIZATION)
        authorization = given[0] if given else ""
        if len(given) > 1 or not (authorization.isascii() and authorization.isprintable()):
            raise Unauthenticated("Authorization must be given once, as printable ASCII", reason="CREDENTIAL_MALFORMED")
        if self._authenticator is None:
            return Caller(None, authorization)
        principal = await self._authenticator.authenticate(authorization)
        if principal.kind == "peer":
            raise Unauthenticated("this key is for services among themselves, not for callers over HTTP")
        return Caller(principal, authorization)


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
