"""Who sent a request, as the guard found out, for those who answer it."""

from dataclasses import dataclass
from typing import Final, cast

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from starlette.types import Scope

from services.common.access.audit import audited
from services.common.access.guard import authorize, authorize_call, cut
from services.common.access.principal import Principal

__all__ = ["AUTHORIZATION", "Caller", "caller_of", "set_caller"]

AUTHORIZATION: Final = "authorization"
_KEY: Final = "saccade.caller"


@dataclass(frozen=True)
class Caller:
    """The sender of one request.

    Attributes:
        principal: Who it is; None where the gateway asks for no credentials.
        authorization: The request's own header, which the services look at again; may be empty.
    """

    principal: Principal | None = None
    authorization: str = ""

    def check(self, method: MethodDescriptor, request: Message | None = None) -> None:
        """PermissionDenied unless the caller may make this call, or such calls at all where no request is given.

        What would have changed something and was refused gets a line in the audit log, as in the services.
        """
        if self.principal is None:
            return
        with audited(self.principal, method, refusals_only=True) as saw:
            if request is None:
                authorize_call(self.principal, method)
            else:
                saw(request)
                authorize(self.principal, method, request)

    def visible(self, method: MethodDescriptor, answer: Message) -> Message:
        """The answer without what the caller may not see."""
        return cut(self.principal, method, answer) if self.principal else answer

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What to send along with a call made for it."""
        return ((AUTHORIZATION, self.authorization),) if self.authorization else ()


ANYONE: Final = Caller()


def set_caller(scope: Scope, caller: Caller) -> None:
    """Note who sent a request."""
    scope[_KEY] = caller


def caller_of(scope: Scope) -> Caller:
    """Who sent it; anyone, where nothing was noted."""
    return cast(Caller, scope.get(_KEY, ANYONE))
