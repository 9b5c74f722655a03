"""Every error that a service raises on purpose.

SaccadeError
├── InvalidArgument      a field of the request is wrong; `field` names it
│   └── InvalidImage     the bytes are no image that can be used
├── NotFound             what the request names does not exist
├── AlreadyExists        what the request would make exists with other content
├── FailedPrecondition   right in itself, but not in the system's present state
├── Aborted              somebody else changed the thing meanwhile
├── Unauthenticated      nobody knows who calls: no credential, or one that is not good
├── PermissionDenied     the caller is known, and may not do this
├── Unimplemented        part of the contract that this version does not offer
├── Overloaded           refused to keep the service alive; `retry_after_s` says when to come back
├── Unavailable          a dependency does not answer
├── DeadlineExceeded     the caller's time, or our own limit, ran out
└── Internal             our own mistake, or data that contradicts itself

`reason` is a constant for programs, the message a sentence for people: what is wrong and what would be right.
"""

__all__ = [
    "Aborted",
    "AlreadyExists",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "InvalidImage",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "SaccadeError",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]


class SaccadeError(Exception):
    """Base of the tree; never raised itself."""

    default_reason = "UNKNOWN"

    def __init__(self, message: str, *, reason: str = "", field: str = "", retry_after_s: float = 0.0) -> None:
        """Make an error.

        Args:
            message: Sentence for people.
            reason: UPPER_SNAKE_CASE constant; empty takes the class's own.
            field: Path of the field at fault, such as `parts[2].weight`.
            retry_after_s: Seconds after which a retry makes sense; 0: no advice.
        """
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.field = field
        self.retry_after_s = retry_after_s

    def at(self, field: str) -> "SaccadeError":
        """The same error, its field put under `field`: `box` at `parts[0]` is `parts[0].box`."""
        path = f"{field}.{self.field}" if self.field else field
        return type(self)(self.message, reason=self.reason, field=path, retry_after_s=self.retry_after_s)


class InvalidArgument(SaccadeError):
    """A field of the request is wrong."""

    default_reason = "INVALID_FIELD"


class InvalidImage(InvalidArgument):
    """The bytes are no image that can be used."""

    default_reason = "IMAGE_UNREADABLE"


class NotFound(SaccadeError):
    """What the request names does not exist."""

    default_reason = "NOT_FOUND"


class AlreadyExists(SaccadeError):
    """What the request would make exists with other content."""

    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(SaccadeError):
    """Right in itself, but not in the system's present state."""

    default_reason = "FAILED_PRECONDITION"


class Aborted(SaccadeError):
    """Somebody else changed the thing meanwhile."""

    default_reason = "ETAG_MISMATCH"


class Unauthenticated(SaccadeError):
    """Nobody knows who calls: no credential, or one that is not good."""

    default_reason = "CREDENTIAL_INVALID"


class PermissionDenied(SaccadeError):
    """The caller is known, and may not do this."""

    default_reason = "PERMISSION_DENIED"


class Unimplemented(SaccadeError):
    """Part of the contract that this version does not offer."""

    default_reason = "UNIMPLEMENTED"


class Overloaded(SaccadeError):
    """Refused to keep the service alive."""

    default_reason = "OVERLOADED"


class Unavailable(SaccadeError):
    """A dependency does not answer."""

    default_reason = "UNAVAILABLE"


class DeadlineExceeded(SaccadeError):
    """The caller's time, or our own limit, ran out."""

    default_reason = "DEADLINE_EXCEEDED"


class Internal(SaccadeError):
    """Our own mistake, or data that contradicts itself."""

    default_reason = "INTERNAL"
