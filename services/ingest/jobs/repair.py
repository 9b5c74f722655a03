"""`RepairCollection`: objects, records, image rows and segment rows compared, and what differs mended.

    index     the generations that the record names are in the index, under their model and aliases, and no others
    markers   markers that nobody has taken for a while
    images    each stored image, in the order of keys, against its record, its segments and its rows
    rows      rows that stand for nothing stored, where their number is not what the images account for
    drafts    what killed writers left in the store

An index that was lost is made anew under its own number, and every image's rows are then among those that are missing.
What has a marker, or changes while it is looked at, is the reconciler's.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from services.common.deadline import call_deadline
from services.common.embedder_client import EmbedderClient
from services.common.errors import SaccadeError
from services.common.objects import ObjectStore
from services.common.records import CollectionRecord, ImageRecord
from services.common.vectors import Generation, VectorStore, split_segment_id
from services.ingest.files import ImageFiles
from services.ingest.jobs.findings import Facts, Kind, differences
from services.ingest.jobs.generations import Generations
from services.ingest.jobs.idle import IdleMarkers
from services.ingest.jobs.inspecting import Inspector
from services.ingest.jobs.mending import Mender
from services.ingest.jobs.owning import Owning
from services.ingest.jobs.record import JobRecord
from services.ingest.jobs.run import Run
from services.ingest.jobs.told import Told

__all__ = ["Repair"]

_ROWS_AT_ONCE: Final = 5_000
_LOOKS_AT_ONCE: Final = 16
_RESTORED_AT_ONCE: Final = 32
_COUNTED_AT_ONCE: Final = 10_000
# Phases: images are compared with an index that is there, or by themselves, or all have been.
_IMAGES: Final = "images"
_IMAGES_ALONE: Final = "images without an index"
_COMPARED: Final = "compared"
# How long the embedder is asked what it can do.
_ASKED_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Pass:
    """One way through a collection.

    Attributes:
        told: Its job.
        record: The collection, which the job holds.
        indexed: Whether its live generation is there.
        segmenter: Whether the embedder takes images apart now.
    """

    told: Told
    record: CollectionRecord
    indexed: bool
    segmenter: bool


class Repair:
    """The body of repair jobs; see the module."""

    def __init__(
        self,
        *,
        objects: ObjectStore,
        files: ImageFiles,
        vectors: VectorStore,
        embedder: EmbedderClient,
        generations: Generations,
        inspector: Inspector,
        mender: Mender,
        idle: IdleMarkers,
        owning: Owning,
    ) -> None:
        """Work on these."""
        self._objects = objects
        self._files = files
        self._vectors = vectors
        self._embedder = embedder
        self._generations = generations
        self._inspector = inspector
        self._mender = mender
        self._idle = idle
        self._owning = owning

    async def run(self, run: Run) -> str:
        """Compare, and mend unless it is a dry run; see JobBody."""
        await self._owning.claim(run)
        told = Told(run, mend=not run.job.params.get("dry_run"))
        told.go_on()
        segmenter = await self._has_segmenter()
        if run.job.phase == "":
            run.update(detail="looking at the generations of the index")
            indexed = await self._generations.compare(told)
            await self._settle_markers(_Pass(told, await self._owning.look(run), indexed, segmenter))
            await told.come_to(phase=_IMAGES if indexed else _IMAGES_ALONE)
        way = _Pass(told, await self._owning.look(run), run.job.phase != _IMAGES_ALONE, segmenter)
        accounted = await self._compare_images(way)
        if way.indexed:
            await self._find_strangers(way, *accounted)
        drafts = await run.ask(self._objects.drafts, remove=told.mend)
        if drafts:
            told.found(Kind.DRAFTS_STRAY, "", drafts)
            told.mended(Kind.DRAFTS_STRAY, drafts)
        return _summary(run)

    async def abort(self, run: Run) -> None:
        """What was mended stays; see JobBody."""

    async def ended(self, job: JobRecord) -> None:
        """See JobBody."""
        await self._owning.release(job)

    async def _has_segmenter(self) -> bool:
        """Where the embedder is away nobody can tell, and images without segments are no finding."""
        try:
            with call_deadline(_ASKED_S):
                return bool((await self._embedder.get_model()).segmenter)
        except SaccadeError:
            return False

    async def _settle_markers(self, way: _Pass) -> None:
        run = way.told.run
        run.update(detail="looking at markers that nobody takes")
        async for image_id, kind, marker in self._idle.find(
            run, way.record, indexed=way.indexed, segmenter=way.segmenter
        ):
            await way.told.one(kind, image_id, partial(self._mender.settle_marker, way.record, image_id, kind, marker))

    async def _compare_images(self, way: _Pass) -> tuple[int, int]:
        """Go through what is stored; the image and segment rows that it accounts for, -1 where that is not known."""
        told, run, name = way.told, way.told.run, way.record.name
        if run.job.phase == _COMPARED:
            return -1, -1
        whole, images, segments = not run.job.cursor, 0, 0
        if not run.job.total:
            run.update(total=await self._count(run, name))
        while listed := await run.ask(self._files.listed, name, start_after=run.job.cursor):
            await self._owning.look(run)
            run.update(detail="comparing what is stored with the index")
            found = await run.ask(self._inspector.gather, way.record, listed, indexed=way.indexed)
            images += sum(facts.row is not None for facts in found)
            segments += sum(len(facts.indices) for facts in found)
            differing = [facts.stored.id for facts in found if differences(facts, segmenter=way.segmenter)]
            await self._look_again(way, differing)
            for image_id in [facts.stored.id for facts in found if facts.retried and way.told.mend]:
                await run.ask(self._mender.try_again, way.record, image_id)
            done = run.job.done + len(listed)
            fields = {"done": done, "total": max(run.job.total, done), "cursor": listed[-1].id}
            if differing:
                await told.come_to(**fields)
            else:
                run.update(**fields)
        if way.indexed:
            await told.come_to(phase=_COMPARED, cursor="", total=run.job.done)
        # What was mended has other rows by now.
        return (images, segments) if whole and not run.job.findings else (-1, -1)

    async def _count(self, run: Run, name: str) -> int:
        total, after = 0, ""
        while ids := await run.ask(self._files.ids, name, start_after=after, limit=_COUNTED_AT_ONCE):
            total, after = total + len(ids), ids[-1]
        return total

    async def _look_again(self, way: _Pass, ids: Sequence[str]) -> None:
        """Look again at images that seem to differ; count those that do, and mend them."""
        slots = asyncio.Semaphore(_LOOKS_AT_ONCE)

        async def look(image_id: str) -> Facts | None:
            async with slots:
                return await way.told.run.ask(self._inspector.look_again, way.record, image_id, indexed=way.indexed)

        without_rows: list[ImageRecord] = []
        for facts in _present(await asyncio.gather(*map(look, ids))):
            for kind in differences(facts, segmenter=way.segmenter):
                if kind is Kind.ROWS_MISSING and facts.record is not None:
                    without_rows.append(facts.record)
                    continue
                mend = partial(self._mender.mend, way.record, facts.stored.id, kind, segmenter=way.segmenter)
                await way.told.one(kind, facts.stored.id, mend)
        for start in range(0, len(without_rows), _RESTORED_AT_ONCE):
            await self._restore(way, without_rows[start : start + _RESTORED_AT_ONCE])

    async def _restore(self, way: _Pass, records: Sequence[ImageRecord]) -> None:
        for record in records:
            way.told.found(Kind.ROWS_MISSING, record.id)
        if way.told.mend:
            way.told.run.update(detail="making rows that are missing")
            await self._mender.restore_rows(way.told.run, way.record, records)
            way.told.mended(Kind.ROWS_MISSING, len(records))

    async def _find_strangers(self, way: _Pass, images: int, segments: int) -> None:
        """Rows of what is not stored; looked for where there are other numbers of rows than are accounted for."""
        run, live = way.told.run, Generation.of(way.record)
        run.update(detail="looking for rows that stand for nothing stored")
        after = ""
        if await run.ask(self._vectors.count_images, live) != images:
            while ids := await run.ask(
                self._vectors.list_image_ids, live, where="", start_after=after, limit=_ROWS_AT_ONCE
            ):
                await self._remove_strangers(way, ids)
                after = ids[-1]
        after = ""
        if await run.ask(self._vectors.count_segments, live) != segments:
            while rows := await run.ask(self._vectors.list_segment_ids, live, start_after=after, limit=_ROWS_AT_ONCE):
                # An image's segments follow each other, over the end of a page too. Those with a row were counted.
                owners = dict.fromkeys(split_segment_id(row)[0] for row in rows)
                owners.pop(split_segment_id(after)[0] if after else "", None)
                standing = await run.ask(self._vectors.standing_images, live, list(owners)) if owners else set()
                await self._remove_strangers(way, [image_id for image_id in owners if image_id not in standing])
                after = rows[-1]

    async def _remove_strangers(self, way: _Pass, ids: Sequence[str]) -> None:
        run = way.told.run
        slots = asyncio.Semaphore(_LOOKS_AT_ONCE)

        async def is_there(image_id: str) -> bool:
            async with slots:
                return await run.ask(self._inspector.is_there, way.record.name, image_id)

        there = await asyncio.gather(*map(is_there, ids))
        for image_id in [image_id for image_id, stored in zip(ids, there, strict=True) if not stored]:
            await way.told.one(Kind.ROWS_ORPHANED, image_id, partial(self._mender.remove_rows, way.record, image_id))


def _present(found: Iterable[Facts | None]) -> list[Facts]:
    return [facts for facts in found if facts is not None]


def _summary(run: Run) -> str:
    job = run.job
    found = sum(count for count, _ in job.findings.values())
    mended = sum(count for _, count in job.findings.values())
    run.update(failed=found - mended)
    if not found:
        return f"{job.done:,} images compared, no difference"
    kinds = ", ".join(f"{count:,} {kind}" for kind, (count, _) in sorted(job.findings.items()))
    return f"{job.done:,} images compared, {found:,} differences, {mended:,} of them mended: {kinds}"
