"""Markers that nobody has taken for a while: unfinished deletions, and markers of work that there is none of."""

from collections.abc import AsyncIterator
from typing import Final

from services.common.records import CollectionRecord
from services.ingest.files import ImageFiles, RecordDamaged
from services.ingest.jobs.findings import Kind, differences
from services.ingest.jobs.inspecting import Inspector
from services.ingest.jobs.run import Run
from services.ingest.markers import Marker, MarkerStore, Op, now_ms

__all__ = ["IdleMarkers"]

_AT_ONCE: Final = 1_000


class IdleMarkers:
    """Looks through markers. Changes nothing."""

    def __init__(self, markers: MarkerStore, files: ImageFiles, inspector: Inspector, *, grace_s: float) -> None:
        """Look there; a marker that was written in the last `grace_s` is left alone."""
        self._markers = markers
        self._files = files
        self._inspector = inspector
        self._grace_ms = int(grace_s * 1000)

    async def find(
        self, run: Run, owner: CollectionRecord, *, indexed: bool, segmenter: bool
    ) -> AsyncIterator[tuple[str, Kind, Marker]]:
        """Images whose markers are idle and should not be there, why, and the markers as they were read."""
        after = ""
        while listed := await run.ask(self._markers.listed, owner.name, start_after=after, limit=_AT_ONCE):
            for image_id, written_at_ms in listed:
                run.check()
                if written_at_ms > now_ms() - self._grace_ms:
                    continue
                marker = await run.ask(self._markers.get, owner.name, image_id)
                if marker is None or marker.lease_until_ms > now_ms() - self._grace_ms:
                    continue
                kind = await run.ask(self._kind, owner, image_id, marker, indexed=indexed, segmenter=segmenter)
                if kind is not None:
                    yield image_id, kind, marker
            after = listed[-1][0]

    async def _kind(
        self, owner: CollectionRecord, image_id: str, marker: Marker, *, indexed: bool, segmenter: bool
    ) -> Kind | None:
        if marker.op is Op.DELETE:
            return Kind.TOMBSTONE_UNFINISHED
        try:
            record = await self._files.read(owner.name, image_id)
        except RecordDamaged:
            # Nobody can do what it asks for; without it, the image itself is looked at.
            return Kind.MARKER_WITHOUT_NEED
        if marker.intent is not None and marker.replaces(record):
            stored = await self._files.content(owner.name, image_id, marker.intent.original_sha256) is not None
            return None if stored or record is not None else Kind.MARKER_WITHOUT_NEED
        if record is None:
            return Kind.MARKER_WITHOUT_NEED
        if not indexed:
            return None
        [facts] = await self._inspector.gather(
            owner, [await self._files.listed_one(owner.name, image_id)], indexed=indexed
        )
        return None if differences(facts, segmenter=segmenter) else Kind.MARKER_WITHOUT_NEED
