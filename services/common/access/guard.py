"""Whether a caller may make a call, and what of the answer it may see."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from services.common.access.policy import Rule, collections_in, collections_of, naming_fields, rule_of
from services.common.access.principal import Principal, Scope
from services.common.errors import PermissionDenied

__all__ = ["acting", "authorize", "authorize_call", "cut", "require", "visible"]

_M = TypeVar("_M", bound=Message)

_acting: ContextVar[Principal | None] = ContextVar("principal", default=None)

_VERBS: Final = {Scope.NONE: "call", Scope.READ: "read", Scope.WRITE: "write", Scope.ADMIN: "administer"}


def authorize_call(principal: Principal, method: MethodDescriptor) -> Rule:
    """What the call asks of its caller, before its request is read.

    Raises:
        PermissionDenied: the caller's scope is too small, or the call is for those who are bound to no collections.
    """
    rule = rule_of(method)
    if rule.scope is Scope.NONE or not principal.may(rule.scope):
        raise PermissionDenied(
            f"{method.name} needs the scope {rule.scope.name.lower()}; "
            f"the {principal} has {principal.scope.name.lower()}",
            reason="SCOPE_TOO_SMALL",
        )
    if rule.shared and not principal.everywhere:
        raise PermissionDenied(
            f"{method.name} changes what all collections share; the {principal} is bound to some of them",
            reason="COLLECTION_DENIED",
        )
    return rule


def authorize(principal: Principal, method: MethodDescriptor, request: Message) -> None:
    """Let the call pass, or raise.

    Raises:
        PermissionDenied: the caller may not make this call, or not in a collection that the request names.
    """
    rule = authorize_call(principal, method)
    if not rule.names or principal.everywhere:
        return
    named = list(collections_of(request))
    for path, name in named:
        # Reading, no name means all that the caller may see; see `cut`.
        if name or rule.scope > Scope.READ:
            _in_collection(principal, rule.scope, name, path)
    if not named and rule.scope > Scope.READ:
        raise PermissionDenied(
            f"{method.name} names no collection, and the {principal} is bound to some", reason="COLLECTION_DENIED"
        )


def cut(principal: Principal, method: MethodDescriptor, answer: _M) -> _M:
    """The answer without what the caller may not see: lists are made shorter.

    Raises:
        PermissionDenied: the answer is about one thing, which lies in a collection of others.
    """
    if principal.everywhere or not rule_of(method).answers or _sees_all(principal, collections_of(answer)):
        return answer
    # The service may hand out one message again and again.
    shorter = type(answer)()
    shorter.CopyFrom(answer)
    for field in naming_fields(answer.DESCRIPTOR):
        value: Any = getattr(shorter, field.name)
        if field.is_repeated and field.message_type is not None and not isinstance(value, Mapping):
            kept = [item for item in value if _sees_all(principal, collections_of(item))]
            del value[:]
            value.extend(kept)
        elif not _sees_all(principal, collections_in(shorter, field)):
            raise PermissionDenied(
                f"this belongs to a collection that the {principal} may not see", reason="COLLECTION_DENIED"
            )
    return shorter


@contextmanager
def acting(principal: Principal) -> Iterator[None]:
    """Everything inside is done for this caller; see `require`."""
    token = _acting.set(principal)
    try:
        yield
    finally:
        # A stream whose caller left may be closed by another task than the one that served it, and that ends with it.
        with suppress(ValueError):
            _acting.reset(token)


def visible(collection: str) -> bool:
    """Whether the caller may see a collection; so is every one where no caller is known."""
    principal = _acting.get()
    return principal is None or principal.sees(collection)


def require(scope: Scope, collection: str, field: str) -> None:
    """For calls whose request does not name the collection that they touch: PermissionDenied unless the caller may.

    Does nothing where no caller is known, which is so where the service runs without authentication.
    """
    principal = _acting.get()
    if principal is not None:
        _in_collection(principal, scope, collection, field)


def _in_collection(principal: Principal, scope: Scope, collection: str, field: str) -> None:
    if not principal.may(scope, collection):
        raise PermissionDenied(
            f"the {principal} may not {_VERBS[scope]} this collection", reason="COLLECTION_DENIED", field=field
        )


def _sees_all(principal: Principal, named: Iterable[tuple[str, str]]) -> bool:
    return all(not name or principal.sees(name) for _, name in named)
