"""The audit log: one line for each call that changes something, whatever became of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from services.common.access.policy import collections_of, rule_of
from services.common.access.principal import Principal, Scope
from services.common.status import code_of

__all__ = ["audited"]

# Not filtered by SACCADE_LOG_LEVEL: a service that logs only errors still says who changed what.
_log: Final[Any] = structlog.wrap_logger(None, wrapper_class=structlog.BoundLogger)

_MAX_NAMED: Final = 10
_SHOWN_CHARS: Final = 64


@contextmanager
def audited(
    principal: Principal, method: MethodDescriptor, *, refusals_only: bool = False
) -> Iterator[Callable[[Message], None]]:
    """Write a line at the end of this block: who, which call, where, how many images or other requests, the outcome.

    Calls that only read write none. The block gets a function to hand each request to; of what was sent the line holds
    the names of collections and nothing else. The trace id is in it as in every line of the log. With `refusals_only`
    the block is a check before the call itself, which is worth a line only where it refuses.
    """
    if rule_of(method).scope <= Scope.READ:
        yield lambda _: None
        return
    collections: dict[str, None] = {}
    requests, outcome = 0, grpc.StatusCode.OK

    def saw(request: Message) -> None:
        nonlocal requests
        requests += 1
        if len(collections) < _MAX_NAMED:
            collections.update((name[:_SHOWN_CHARS], None) for _, name in collections_of(request) if name)

    try:
        yield saw
    except Exception as exc:
        outcome = code_of(exc)
        raise
    except BaseException:
        outcome = grpc.StatusCode.CANCELLED
        raise
    finally:
        if not refusals_only or outcome is not grpc.StatusCode.OK:
            _log.info(
                "audit",
                principal=principal.name,
                kind=principal.kind,
                call=method.full_name,
                collections=list(collections),
                requests=requests,
                outcome=outcome.name,
            )
