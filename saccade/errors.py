"""What a failed call raises at a caller.

ApiError     a Saccade service answered with an error, or could not be reached
"""

from dataclasses import dataclass
from typing import cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from saccade.common.v1 import types_pb2

__all__ = ["ApiError", "api_error", "item_error"]


# Not frozen: Python itself writes an exception's traceback and cause.
@dataclass(eq=False)
class ApiError(Exception):
    """A failed call, unpacked from its `google.rpc.Status`.

    Attributes:
        code: gRPC status code.
        reason: Constant for programs, such as IMAGE_TRUNCATED; empty where the service could not say.
        message: Sentence for people.
        fields: Field path -> what is wrong with it.
        retry_after_s: Seconds after which a retry makes sense; 0: no advice.
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    retry_after_s: float = 0.0

    def __str__(self) -> str:
        """Code and sentence, with the field at fault in front of the sentence where there is one."""
        where = f"{self.fields[0][0]}: " if self.fields else ""
        return f"{self.code.name}: {where}{self.message}"


def api_error(error: grpc.RpcError) -> ApiError:
    """Unpack what grpc (aio or not) raised."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return ApiError(grpc.StatusCode.UNKNOWN, str(error))
    code, message = error.code(), error.details() or ""
    # An AioRpcError is no Call by type, but has all of one that `from_call` reads.
    status = rpc_status.from_call(cast("grpc.Call", error))
    reason, fields, retry_after_s = "", [], 0.0
    for detail in status.details if status else ():
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            fields = [(violation.field, violation.description) for violation in bad.field_violations]
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return ApiError(code, message, reason, tuple(fields), retry_after_s)


def item_error(item: types_pb2.ItemError) -> ApiError:
    """Unpack why one item of a call has no result."""
    code = next((code for code in grpc.StatusCode if code.value[0] == item.code), grpc.StatusCode.UNKNOWN)
    fields = ((item.field, item.message),) if item.field else ()
    return ApiError(code, item.message, item.reason, fields)
