"""Errors over HTTP: `application/problem+json` (RFC 9457), and the one table from gRPC codes to HTTP statuses."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Final

import grpc
import structlog
from starlette.responses import Response

from saccade.errors import api_error
from services.common.errors import SaccadeError
from services.common.status import code_of, public
from services.common.telemetry import trace_id

__all__ = ["HTTP_TABLE", "MEDIA_TYPE", "Problem", "problem_of", "respond"]

MEDIA_TYPE: Final = "application/problem+json"

CLIENT_CLOSED_REQUEST: Final = 499
"""Nobody reads this answer; the access log and the metrics tell it from failures by it."""

HTTP_TABLE: Final[dict[grpc.StatusCode, int]] = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: CLIENT_CLOSED_REQUEST,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}

_DEFAULT_RETRY_S: Final = 1.0


# Not frozen: Python itself sets an exception's traceback and context.
@dataclass(eq=False)
class Problem(Exception):
    """What went wrong with one request; raise it, or build it from any error with `problem_of`.

    Attributes:
        status: HTTP status.
        reason: UPPER_SNAKE_CASE constant for programs.
        detail: Sentence for people.
        errors: Field path -> what is wrong with it.
        retry_after_s: Seconds after which a retry makes sense; 0: no advice.
        headers: More response headers, such as Allow.
        code: What gRPC calls it, where it is the outcome of one item of a stream.
    """

    status: int
    reason: str
    detail: str
    errors: tuple[tuple[str, str], ...] = ()
    retry_after_s: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT

    def below(self, prefix: str) -> "Problem":
        """The same, for callers who sent the message `prefix` alone: `image.title` becomes `title`."""
        head = f"{prefix}."
        return replace(self, errors=tuple((path.removeprefix(head), text) for path, text in self.errors))

    def document(self) -> dict[str, Any]:
        """The members of the problem document."""
        members: dict[str, Any] = {
            "type": "about:blank",
            "title": _title(self.status),
            "status": self.status,
            "detail": self.detail,
            "reason": self.reason,
        }
        if self.errors:
            members["field"] = self.errors[0][0]
            members["errors"] = [{"field": path, "detail": text} for path, text in self.errors]
        if current := trace_id():
            members["trace_id"] = current
        if request_id := structlog.contextvars.get_contextvars().get("request_id"):
            members["request_id"] = request_id
        if self.wait_s:
            members["retry_after"] = self.wait_s
        return members

    @property
    def wait_s(self) -> int:
        """Whole seconds for Retry-After; 429 and 503 always advise some."""
        advised = self.retry_after_s or (_DEFAULT_RETRY_S if self.status in (429, 503) else 0.0)
        return math.ceil(advised)


def problem_of(error: BaseException, *, what: str = "service") -> Problem:
    """The problem that any error becomes; `what` names the service that was called."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, grpc.RpcError):
        return _from_call(error, what)
    shown: SaccadeError = public(error)
    errors = ((shown.field, shown.message),) if shown.field else ()
    code = code_of(error)
    return Problem(HTTP_TABLE[code], shown.reason, shown.message, errors, shown.retry_after_s, code=code)


def respond(problem: Problem) -> Response:
    """The response that carries a problem."""
    headers = dict(problem.headers)
    if problem.wait_s:
        headers["Retry-After"] = str(problem.wait_s)
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers.setdefault("WWW-Authenticate", "Bearer")
    body = json.dumps(problem.document(), ensure_ascii=False).encode(errors="replace")
    return Response(body, status_code=problem.status, headers=headers, media_type=MEDIA_TYPE)


def _from_call(error: grpc.RpcError, what: str) -> Problem:
    told = api_error(error)
    detail = told.message
    # Without a reason the answer is not one of ours but gRPC's own, which speaks of sockets.
    if not told.reason:
        if told.code == grpc.StatusCode.UNAVAILABLE:
            detail = f"the {what} does not answer; try again in a moment"
        elif told.code == grpc.StatusCode.DEADLINE_EXCEEDED:
            detail = f"the {what} did not answer within the request's deadline"
    reason = told.reason or told.code.name
    return Problem(HTTP_TABLE[told.code], reason, detail, told.fields, told.retry_after_s, code=told.code)


def _title(status: int) -> str:
    return "Client Closed Request" if status == CLIENT_CLOSED_REQUEST else HTTPStatus(status).phrase
