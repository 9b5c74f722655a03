"""Dirty marks: images whose rows changed while the collection's next generation was being built.

A step that writes rows looks at the collection's record once more when it has written, and leaves a mark where a
generation is being built. Whoever builds it brings the marked images up to date, and removes the marks that it saw, by
their own names: one that is left meanwhile stays.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from services.common.objects import ObjectStore
from services.common.records import dirty_prefix
from services.ingest.markers import now_ms

__all__ = ["DirtyMark", "DirtyMarks"]


@dataclass(frozen=True, slots=True)
class DirtyMark:
    """One mark: the object that it is, the image, and the number of the generation that was live when it was left."""

    key: str
    image_id: str
    generation: int


class DirtyMarks:
    """Reads and writes dirty marks, which are empty objects; all that they say is in their names."""

    def __init__(self, objects: ObjectStore) -> None:
        """Work on this store."""
        self._objects = objects

    async def leave(self, collection: str, image_id: str, *, generation: int) -> None:
        """Mark an image; `generation` is the live one's number."""
        name = f"{now_ms():013d}.{secrets.token_hex(4)}.{generation}.{image_id}"
        await self._objects.put(f"{dirty_prefix(collection)}{name}", b"")

    async def page(self, collection: str, *, limit: int) -> list[DirtyMark]:
        """The first marks, oldest first."""
        prefix = dirty_prefix(collection)
        found = await self._objects.list(prefix, limit=limit)
        return [_mark(info.key, info.key.removeprefix(prefix)) for info in found]

    async def remove(self, marks: Iterable[DirtyMark]) -> None:
        """Remove these marks and no others."""
        for mark in marks:
            await self._objects.delete(mark.key)


def _mark(key: str, name: str) -> DirtyMark:
    # An id may hold dots, too.
    _, _, generation, image_id = name.split(".", 3)
    return DirtyMark(key, image_id, int(generation))
