"""What the services ask of an object store: small, and the same for S3 and for a local folder.

A key is a path of parts divided by `/`. A part is never empty, never begins with `.`, and is no longer than 255 bytes
in UTF-8; a key is no longer than 1,024. No key is the folder of another one: beside `a/b` there is no object `a`.
"""

from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from services.common.errors import InvalidArgument, NotFound

__all__ = [
    "DELETE_BATCH",
    "MAX_LIST",
    "FolderNames",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectStore",
    "check_key",
    "check_limit",
    "check_prefix",
]

# Inside a class that has a method `list`, the type needs another name.
FolderNames: TypeAlias = list[str]

MAX_KEY_BYTES: Final = 1024
MAX_PART_BYTES: Final = 255
# Most entries that one listing returns.
MAX_LIST: Final = 10_000
# Keys that are deleted in one call to the engine.
DELETE_BATCH: Final = 1_000


class ObjectMissing(NotFound):
    """There is no object under the key."""

    default_reason = "OBJECT_MISSING"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object in a listing; the time is milliseconds since the epoch."""

    key: str
    size_bytes: int
    modified_at_ms: int


class ObjectStore(Protocol):
    """Objects by key. Safe for concurrent use.

    Every call raises Unavailable where the store does not answer, DeadlineExceeded where it takes too long,
    FailedPrecondition where it refuses us or the bucket is missing, and InvalidArgument for a key that is none.
    """

    async def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> None:
        """Write an object, or write it anew. Readers see the old bytes or the new ones; it is durable on return."""
        ...

    async def get(self, key: str) -> bytes:
        """All of an object; ObjectMissing if there is none."""
        ...

    async def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        ...

    async def delete_prefix(self, prefix: str) -> int:
        """Remove every object whose key begins with `prefix`, and say how many they were."""
        ...

    async def list(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[ObjectInfo]:
        """The first `limit` objects whose key begins with `prefix` and comes after `start_after`, sorted by key.

        Keys are in the order of their UTF-8 bytes. `limit` is 1 to 10,000.
        """
        ...

    async def list_folders(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> FolderNames:
        """The first `limit` names of folders right below `prefix`, which ends in `/`, that come after `start_after`.

        Names are in the order of their keys, which is that of the names with a `/` behind them: `a-b` before `a`.
        """
        ...

    async def presign(self, key: str) -> str:
        """An address that anyone may GET the object from until it expires. Asks nobody, not even whether it exists."""
        ...

    async def drafts(self, *, remove: bool) -> int:
        """How many half-written objects of killed writers lie there, which nobody will finish; removed if so asked."""
        ...

    async def check(self) -> None:
        """Return if the store is there and readable, raise otherwise."""
        ...

    async def close(self) -> None:
        """Let go of threads and connections."""
        ...


def check_key(key: str) -> str:
    """The key itself, or InvalidArgument."""
    parts = key.split("/")
    if len(key.encode("utf-8", "replace")) > MAX_KEY_BYTES or not all(_is_part(part) for part in parts):
        raise InvalidArgument(
            f"a key has at most {MAX_KEY_BYTES} bytes, and parts of 1 to {MAX_PART_BYTES} bytes divided by '/' that do "
            "not begin with '.' and hold no control character",
            field="key",
            reason="OBJECT_KEY",
        )
    return key


def check_prefix(prefix: str, *, folder: bool = False) -> str:
    """The prefix itself, or InvalidArgument; where it names a folder, it is empty or ends in '/'."""
    folders, _, rest = prefix.rpartition("/")
    if folders:
        check_key(folders)
    elif prefix.startswith("/"):
        check_key(prefix)
    if rest:
        check_key(rest)
        if folder:
            raise InvalidArgument("the prefix of folders ends in '/'", field="prefix", reason="OBJECT_KEY")
    return prefix


def check_limit(limit: int) -> int:
    """The limit itself, or InvalidArgument."""
    if not 1 <= limit <= MAX_LIST:
        raise InvalidArgument(f"a listing's limit is 1 to {MAX_LIST}, not {limit}", field="limit")
    return limit


def _is_part(part: str) -> bool:
    if not part or part.startswith(".") or any(char < " " or char == "\x7f" for char in part):
        return False
    try:
        return len(part.encode()) <= MAX_PART_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False
