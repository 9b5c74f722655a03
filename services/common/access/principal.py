"""Who calls, and what they may do."""

from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import Final, Literal

__all__ = ["EVERYWHERE", "Principal", "Scope"]

EVERYWHERE: Final = "*"
"""The pattern that every collection fits."""

# No collection has a longer name: what a caller made up to be long is not looked at.
_MAX_NAME: Final = 64


class Scope(IntEnum):
    """What a caller may do; each includes those before it. The numbers are those of `saccade.common.v1.Access`."""

    NONE = 0
    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose credential was good.

    Attributes:
        name: The key's name, the token's subject or the certificate's name; stands in the audit log.
        kind: What it was known by. A peer is another service of ours.
        scope: The most that it may do.
        collections: Names or patterns (`team_*`) of the collections where it may; none: calls that touch no collection.
        expires_at: Seconds since the epoch from which on the credential is not good any more; None: it does not end.
        rate: Calls a second that it may make; 0: as many as the service allows everyone.
    """

    name: str
    kind: Literal["key", "token", "peer"]
    scope: Scope
    collections: tuple[str, ...] = ()
    expires_at: float | None = None
    rate: float = 0.0

    def may(self, scope: Scope, collection: str | None = None) -> bool:
        """Whether it may do this much, in a collection where one is named."""
        return scope <= self.scope and (collection is None or self.sees(collection))

    def sees(self, collection: str) -> bool:
        """Whether a collection is one of those where it may do anything."""
        if self.everywhere:
            return True
        return len(collection) <= _MAX_NAME and any(fnmatchcase(collection, each) for each in self.collections)

    @property
    def everywhere(self) -> bool:
        """Whether it is bound to no collections."""
        return EVERYWHERE in self.collections

    def __str__(self) -> str:
        """How messages and the audit log name it."""
        return f"{self.kind} {self.name!r}"
