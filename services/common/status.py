"""Errors on the wire: the one table from exceptions to gRPC status codes, and the way back."""

from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from saccade.common.v1 import types_pb2
from saccade.errors import api_error
from services.common.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    Overloaded,
    PermissionDenied,
    SaccadeError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

__all__ = ["STATUS_TABLE", "code_of", "from_item_error", "from_rpc_error", "to_item_error", "to_status"]

DOMAIN: Final = "saccade"

# Matched from the top by isinstance.
STATUS_TABLE: Final[tuple[tuple[type[BaseException], grpc.StatusCode], ...]] = (
    (InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (FailedPrecondition, grpc.StatusCode.FAILED_PRECONDITION),
    (Aborted, grpc.StatusCode.ABORTED),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (PermissionDenied, grpc.StatusCode.PERMISSION_DENIED),
    (Unimplemented, grpc.StatusCode.UNIMPLEMENTED),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (Exception, grpc.StatusCode.INTERNAL),
)

_ERRORS: Final[dict[grpc.StatusCode, type[SaccadeError]]] = {
    code: error for error, code in STATUS_TABLE if issubclass(error, SaccadeError)
}


def code_of(error: BaseException) -> grpc.StatusCode:
    """The status code that the table gives an error."""
    return next(code for kind, code in STATUS_TABLE if isinstance(error, kind))


def public(error: BaseException) -> SaccadeError:
    """What a caller may know of an error: ours as it is, all else without its text."""
    if isinstance(error, SaccadeError):
        return error
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("the call's time ran out; allow it more, or ask for less")
    return Internal("an error on our side; the service's log has it under this call's trace id")


def to_status(error: BaseException) -> status_pb2.Status:
    """The `google.rpc.Status` of an error: ErrorInfo, BadRequest where a field is named, RetryInfo where advised."""
    shown = public(error)
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=shown.reason, domain=DOMAIN)]
    if shown.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=shown.field, description=shown.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if shown.retry_after_s > 0:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(shown.retry_after_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code_of(error).value[0], message=shown.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def to_item_error(error: BaseException, field: str = "") -> types_pb2.ItemError:
    """An error as one item's outcome; `field` is the item's path, such as `images[3]`."""
    shown = public(error)
    path = ".".join(part for part in (field, shown.field) if part)
    return types_pb2.ItemError(code=code_of(error).value[0], reason=shown.reason, message=shown.message, field=path)


def from_item_error(item: types_pb2.ItemError) -> SaccadeError:
    """One item's error, as another service of ours wrote it."""
    code = next((code for code in grpc.StatusCode if code.value[0] == item.code), grpc.StatusCode.INTERNAL)
    return _ERRORS.get(code, Internal)(item.message, reason=item.reason, field=item.field)


def from_rpc_error(error: grpc.RpcError, dependency: str) -> SaccadeError:
    """What a call to another service of ours failed with, to raise `from error`.

    What the caller could have caused passes through as it is; what it could not, names the dependency. A credential of
    our own that is refused is no matter of the caller's: to it the dependency is not there.
    """
    told = api_error(error)
    if told.code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
        return Unavailable(f"the {dependency} does not know this service; its operator sets SACCADE_PEER_KEY for both")
    kind = _ERRORS.get(told.code, Internal)
    message = told.message
    if told.code == grpc.StatusCode.UNAVAILABLE and not told.reason:
        message = f"the {dependency} does not answer; try again in a moment"
    elif told.code == grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"the {dependency} did not answer in time"
    elif told.code == grpc.StatusCode.CANCELLED:
        # Not by us, or nobody would read this: a server with too many calls that it has not begun drops some.
        kind, message = Unavailable, f"the {dependency} dropped the call; try again in a moment"
    field = told.fields[0][0] if told.fields else ""
    return kind(message, reason=told.reason, field=field, retry_after_s=told.retry_after_s)
