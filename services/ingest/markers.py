"""Intent markers: what ingest has promised and not yet finished, one small object for each such image.

A marker stands from before an image's record is written until all its rows are in the index, so whatever dies, what is
left to do can be read from the object store. A lease by time says who is at work on it; where the lease has run out,
any replica's reconciler takes it over. The lease keeps replicas from doing work twice; it does not keep the work
right: that is every step's own business, for each may be repeated by anybody.
"""

import time
import uuid
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, ValidationError

from services.common.objects import ObjectMissing, ObjectStore
from services.common.records import ImageRecord, pending_key, pending_prefix

__all__ = ["Marker", "MarkerStore", "Op", "now_ms"]

_COUNT_PAGE = 1_000
_COUNT_LIMIT = 10_000


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Op(StrEnum):
    """What is to be done."""

    INDEX = "index"
    """Bring record, segments and rows in line with the original."""
    DELETE = "delete"
    """Remove the image and everything of it."""


class Marker(BaseModel):
    """A promise about one image. Times are milliseconds since the epoch.

    Attributes:
        op: What is to be done.
        lease_owner: Replica at work; empty where nobody is.
        lease_until_ms: Before this nobody else touches the image: its worker lives, or a failure is to rest.
        attempts: How often the work has failed.
        last_error: Why, the last time; for people who look into the object store.
        lost: How often the embedder was lost while it was asked about the image.
        lost_alone: How often of these it was asked about nothing else.
        stale: Whether vectors and segments of other bytes may stand for the image; they go before it is indexed.
        intent: The record that is about to be written. It tells apart an original that was already exchanged from one
            that was not, where a crash came between the two.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    op: Op = Op.INDEX
    lease_owner: str = ""
    lease_until_ms: int = 0
    attempts: int = 0
    last_error: str = ""
    lost: int = 0
    lost_alone: int = 0
    stale: bool = False
    intent: ImageRecord | None = None

    def replaces(self, record: ImageRecord | None) -> bool:
        """Whether other bytes than the record's are being stored, so that those that lie there may be either."""
        return self.intent is not None and (record is None or self.intent.sha256 != record.sha256)

    @property
    def leased(self) -> bool:
        """Whether others have to leave it alone now."""
        return self.lease_until_ms > now_ms()


class MarkerStore:
    """Reads and writes markers in this replica's name.

    It locks nothing: two replicas that take over the same marker at once both believe that they hold it. Callers write
    a marker only while they hold the image's lock of this process, and are not cancelled on the way.
    """

    def __init__(self, objects: ObjectStore, *, lease_s: float) -> None:
        """Leases given and renewed here last `lease_s`."""
        self._objects = objects
        self._lease_ms = int(lease_s * 1000)
        self.owner = uuid.uuid4().hex

    async def get(self, collection: str, image_id: str) -> Marker | None:
        """The marker, if there is one. One that can not be read is taken as an index marker free to take."""
        try:
            data = await self._objects.get(pending_key(collection, image_id))
        except ObjectMissing:
            return None
        try:
            return Marker.model_validate_json(data)
        except ValidationError:
            return Marker()

    async def hold(self, collection: str, image_id: str, marker: Marker) -> Marker:
        """Write the marker with a fresh lease of this replica; as written."""
        held = marker.model_copy(update={"lease_owner": self.owner, "lease_until_ms": now_ms() + self._lease_ms})
        await self._put(collection, image_id, held)
        return held

    async def release(self, collection: str, image_id: str, marker: Marker) -> None:
        """Write the marker free to take at once."""
        await self._put(collection, image_id, marker.model_copy(update={"lease_owner": "", "lease_until_ms": 0}))

    async def fail(self, collection: str, image_id: str, marker: Marker, error: str, *, rest_s: float) -> None:
        """Write down a failure; nobody takes the marker before `rest_s` are over."""
        failed = {
            "lease_owner": "",
            "lease_until_ms": now_ms() + int(rest_s * 1000),
            "attempts": marker.attempts + 1,
            "last_error": error[:500],
        }
        await self._put(collection, image_id, marker.model_copy(update=failed))

    async def remove(self, collection: str, image_id: str) -> None:
        """The work is done."""
        await self._objects.delete(pending_key(collection, image_id))

    async def ids(self, collection: str, *, start_after: str = "", limit: int) -> list[str]:
        """Ids of marked images, in order, from behind `start_after`."""
        return [image_id for image_id, _ in await self.listed(collection, start_after=start_after, limit=limit)]

    async def listed(self, collection: str, *, start_after: str = "", limit: int) -> list[tuple[str, int]]:
        """The same, each with the time at which its marker was last written."""
        prefix = pending_prefix(collection)
        after = pending_key(collection, start_after) if start_after else ""
        found = await self._objects.list(prefix, start_after=after, limit=limit)
        return [(info.key.removeprefix(prefix), info.modified_at_ms) for info in found]

    async def count(self, collection: str) -> int:
        """How many images are marked, counted up to 10,000."""
        total, after = 0, ""
        while total < _COUNT_LIMIT:
            page = await self.ids(collection, start_after=after, limit=_COUNT_PAGE)
            total += len(page)
            if len(page) < _COUNT_PAGE:
                break
            after = page[-1]
        return total

    async def _put(self, collection: str, image_id: str, marker: Marker) -> None:
        data = marker.model_dump_json().encode()
        await self._objects.put(pending_key(collection, image_id), data, content_type="application/json")
