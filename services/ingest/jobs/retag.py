"""`RetagCollection`: the model's tags of all images chosen anew, from the vectors of their segments.

Images that are taken apart while it runs get tags of the vocabulary that the collection has then. So the collection's
vocabulary changes when all images have been gone through, and those that were indexed meanwhile are gone through once
more after it.
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.common.domain import Lane, Segment, Tag, VocabularyEntry
from services.common.embedder_client import EmbedderClient
from services.common.errors import Internal, NotFound
from services.common.records import CollectionRecord, ImageRecord, ImageState, TagRecord, VocabularyRecord
from services.common.vectors import Consistency, Generation, VectorStore
from services.ingest.collections import Collections
from services.ingest.files import ImageFiles
from services.ingest.jobs.owning import Owning
from services.ingest.jobs.record import JobRecord
from services.ingest.jobs.run import JobFailed, Run
from services.ingest.locks import KeyedLocks
from services.ingest.markers import Marker, MarkerStore, now_ms
from services.ingest.pipeline import Pipeline, best_tags
from services.ingest.uninterrupted import Uninterrupted
from services.ingest.vocabulary import TRUSTED_S, Vocabularies

__all__ = ["Retag"]

# With 64 segments each, and the whole image, still within one call to the embedder.
_IMAGES_AT_ONCE: Final = 50
_MAX_ROWS: Final = 4_096
_READS_AT_ONCE: Final = 16
_WRITES_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class _Chosen:
    """An image as it was read, with its segments under their new tags, and the tags of the whole image."""

    record: ImageRecord
    segments: tuple[Segment, ...]
    whole: tuple[Tag, ...]


class Retag:
    """The body of retag jobs; see the module."""

    def __init__(
        self,
        *,
        collections: Collections,
        files: ImageFiles,
        vectors: VectorStore,
        embedder: EmbedderClient,
        vocabularies: Vocabularies,
        pipeline: Pipeline,
        markers: MarkerStore,
        locks: KeyedLocks,
        steps: Uninterrupted,
        owning: Owning,
    ) -> None:
        """Work on these; `locks` and `steps` are shared with all that changes images."""
        self._collections = collections
        self._files = files
        self._vectors = vectors
        self._embedder = embedder
        self._vocabularies = vocabularies
        self._pipeline = pipeline
        self._markers = markers
        self._locks = locks
        self._steps = steps
        self._owning = owning

    async def run(self, run: Run) -> str:
        """Choose tags; see JobBody."""
        record = await self._owning.claim(run)
        name = str(run.job.params.get("vocabulary", ""))
        try:
            words = await run.ask(self._vocabularies.get, name, anew=True)
        except NotFound as exc:
            raise JobFailed(exc.message) from exc
        if not run.job.total:
            total = await run.ask(self._vectors.count_images, Generation.of(record))
            run.update(total=total)
        run.update(detail=f"choosing tags from the vocabulary {words.name}")
        if run.job.phase == "":
            await self._through(run, words, since_ms=0)
            run.update(phase="gone through", cursor="")
            await run.save()
        if record.vocabulary != name:
            await self._owning.change(run, lambda now: now.model_copy(update={"vocabulary": name}))
        # Until then other replicas may have chosen from what they had read before.
        left_s = TRUSTED_S + 1 - (now_ms() - run.job.created_at_ms) / 1000
        if left_s > 0:
            await run.pause(left_s)
        await self._through(run, words, since_ms=run.job.created_at_ms)
        run.update(total=run.job.done + run.job.failed)
        failed = f"; {run.job.failed} could not be done" if run.job.failed else ""
        return f"tags of {run.job.done} images were chosen from the vocabulary {words.name}{failed}"

    async def abort(self, run: Run) -> None:
        """What was chosen stays; see JobBody."""

    async def ended(self, job: JobRecord) -> None:
        """See JobBody."""
        await self._owning.release(job)

    async def _through(self, run: Run, words: VocabularyRecord, *, since_ms: int) -> None:
        """Go through the images that were indexed since then, from behind the cursor."""
        while ids := await run.ask(
            self._files.ids, run.job.collection, start_after=run.job.cursor, limit=_IMAGES_AT_ONCE
        ):
            record = await self._owning.look(run)
            done = await self._choose(run, record, words, ids, since_ms)
            # The second time through, most have been counted.
            counted = run.job.done if since_ms else run.job.done + done
            run.update(done=counted, total=max(run.job.total, counted + run.job.failed), cursor=ids[-1])

    async def _choose(
        self, run: Run, owner: CollectionRecord, words: VocabularyRecord, ids: Sequence[str], since_ms: int
    ) -> int:
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(image_id: str) -> tuple[ImageRecord, tuple[Segment, ...]] | None:
            async with slots:
                try:
                    record = await run.ask(self._files.read, owner.name, image_id)
                    if record is None or record.state is not ImageState.SEGMENTED or record.indexed_at_ms < since_ms:
                        return None
                    return record, await run.ask(self._files.segments, owner.name, image_id)
                except Internal as exc:
                    run.failed(image_id, exc)
                    return None

        found = [image for image in await asyncio.gather(*map(read, ids)) if image is not None]
        if not found:
            return 0
        chosen = await self._tagged(run, owner, words, found)
        write = asyncio.Semaphore(_WRITES_AT_ONCE)

        async def keep(one: _Chosen) -> None:
            async with write:
                await run.ask(self._kept, owner, one)

        results = await asyncio.gather(*map(keep, chosen), return_exceptions=True)
        for result in results:
            # All have ended by now: none goes on behind the job's back.
            if isinstance(result, BaseException):
                raise result
        return len(found)

    async def _tagged(
        self,
        run: Run,
        owner: CollectionRecord,
        words: VocabularyRecord,
        images: Sequence[tuple[ImageRecord, tuple[Segment, ...]]],
    ) -> list[_Chosen]:
        """The images with new tags; without one that is being changed, whose vectors are not all there."""
        live = Generation.of(owner)
        names = [record.id for record, _ in images]
        whole = await run.ask(self._vectors.get_image_vectors, live, names, consistency=Consistency.STRONG)
        rows = await run.ask(self._vectors.get_segment_vectors, live, names, consistency=Consistency.STRONG)
        vectors: list[NDArray[np.float32]] = []
        areas: list[float] = []
        complete = []
        for record, segments in images:
            known = {row.index: row.vector for row in rows.get(record.id, ())}
            if record.id not in whole or any(segment.index not in known for segment in segments):
                continue
            complete.append((record, segments))
            vectors += [whole[record.id], *(known[segment.index] for segment in segments)]
            areas += [1.0, *(segment.area_fraction for segment in segments)]
        if not complete:
            return []
        tags = iter(await self._words_for(run, owner, words, np.stack(vectors), areas))
        return [
            _Chosen(
                record,
                whole=next(tags),
                segments=tuple(replace(segment, tags=next(tags)) for segment in segments),
            )
            for record, segments in complete
        ]

    async def _words_for(
        self,
        run: Run,
        owner: CollectionRecord,
        words: VocabularyRecord,
        vectors: NDArray[np.float32],
        areas: Sequence[float],
    ) -> list[tuple[Tag, ...]]:
        entries = [VocabularyEntry(entry.name, entry.category) for entry in words.entries]
        tags: list[tuple[Tag, ...]] = []
        for start in range(0, len(vectors), _MAX_ROWS):
            tags += await run.ask(
                self._embedder.choose_tags,
                vectors[start : start + _MAX_ROWS],
                areas[start : start + _MAX_ROWS],
                entries,
                words.prompt_templates,
                model=owner.model,
                lane=Lane.BULK,
                fingerprint=owner.fingerprint,
            )
        return tags

    async def _kept(self, owner: CollectionRecord, chosen: _Chosen) -> None:
        await self._steps.run(self._keep(owner, chosen))

    async def _keep(self, owner: CollectionRecord, chosen: _Chosen) -> None:
        """Write an image's new tags over what its record says by now; nothing where its bytes are others by now."""
        key = (owner.name, chosen.record.id)
        async with self._collections.use(owner.name) as now, self._locks.hold(key):
            record = await self._files.read(*key)
            if record is None or record.sha256 != chosen.record.sha256 or record.state is not ImageState.SEGMENTED:
                return
            model = tuple(TagRecord(name=t.name, category=t.category, confidence=t.confidence) for t in _best(chosen))
            if model == record.model_tags and await self._files.segments(*key) == chosen.segments:
                return
            changed = record.model_copy(
                update={"model_tags": model, "updated_at_ms": now_ms(), "etag": secrets.token_hex(8)}
            )
            standing = await self._markers.get(*key)
            # Killed in between, the image's rows are brought in line with its record by whoever finds the marker, and
            # its segments' tags by this job when it goes on.
            held = await self._markers.hold(*key, standing or Marker())
            await self._files.write(owner.name, changed)
            await self._pipeline.retag(now, changed, chosen.segments)
            if standing is None:
                await self._markers.remove(*key)
            else:
                await self._markers.release(*key, held)


def _best(chosen: _Chosen) -> tuple[Tag, ...]:
    return best_tags([segment.tags for segment in chosen.segments], chosen.whole)
