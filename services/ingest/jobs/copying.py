"""Images brought into a generation that is not live: from the live one's vectors, or embedded anew.

Rows are made of records and segments as the object store has them; only the vectors come from elsewhere. Nothing here
locks: whatever changes an image meanwhile leaves a dirty mark behind its change, and the image is brought once more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np

from services.common.domain import Lane, Segment, Vector
from services.common.embedder_client import EmbedderClient
from services.common.errors import FailedPrecondition, Internal, InvalidArgument, SaccadeError
from services.common.records import CollectionRecord, GenerationRecord, ImageRecord, ImageState
from services.common.vectors import Consistency, Generation, VectorStore
from services.ingest.files import ImageFiles
from services.ingest.jobs.run import Run
from services.ingest.patience import Patience
from services.ingest.pipeline import image_row, segment_row
from services.ingest.solitude import LOST_ALONE, LOST_TOGETHER, EmbedderLost, LostAlone, Solitude, crashes
from services.ingest.uninterrupted import Uninterrupted

__all__ = ["Copier", "Copying", "Whole"]

_T = TypeVar("_T")
_READS_AT_ONCE: Final = 16
_EMBEDS_AT_ONCE: Final = 4
_WRITES_AT_ONCE: Final = 8
# A job waits by itself.
_NO_PATIENCE: Final = Patience(0.0, 0.0)
_SEARCHED: Final = frozenset({ImageState.SEARCHABLE, ImageState.SEGMENTED})


@dataclass(frozen=True, slots=True)
class Copying:
    """From where to where.

    Attributes:
        source: The collection under its live generation.
        target: The generation to fill.
        since_ms: Images that did not change since are left as they are there; 0: none are.
        fresh: Whether the target has nothing yet of what is brought, so that nothing has to be taken away.
    """

    source: CollectionRecord
    target: GenerationRecord
    since_ms: int = 0
    fresh: bool = False

    @property
    def reuses_vectors(self) -> bool:
        """Whether both have the same model."""
        return self.source.fingerprint == self.target.fingerprint

    @property
    def generation(self) -> Generation:
        """The target, as the index knows it."""
        return Generation.of(self.source.under(self.target))


@dataclass(frozen=True, slots=True)
class Whole:
    """An image with all its vectors."""

    record: ImageRecord
    vector: Vector
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class _None:
    """An image that can have no vectors, and why; None: it is another one by now."""

    why: SaccadeError | None


class Copier:
    """Brings images into generations."""

    def __init__(
        self,
        files: ImageFiles,
        vectors: VectorStore,
        embedder: EmbedderClient,
        steps: Uninterrupted,
        solitude: Solitude,
    ) -> None:
        """Work on these."""
        self._solitude = solitude
        self._files = files
        self._vectors = vectors
        self._embedder = embedder
        self._steps = steps
        self._embedding = asyncio.Semaphore(_EMBEDS_AT_ONCE)

    async def bring(self, run: Run, copying: Copying, ids: Sequence[str]) -> None:
        """Let the target have of these images what their records say.

        Images that searches do not see are taken away from it. One that can not be brought counts as failed in `run`.
        """
        records = await run.ask(self._records, copying.source.name, ids)
        wanted: list[ImageRecord] = []
        gone: list[str] = []
        for image_id, record in zip(ids, records, strict=True):
            if isinstance(record, SaccadeError):
                run.failed(image_id, record)
            elif record is None or record.state is ImageState.DURABLE:
                gone.append(image_id)
            elif record.state not in _SEARCHED:
                # It failed under the live model; what the target had of the same bytes is right there.
                gone += [] if copying.since_ms and not _changed(record, copying.since_ms) else [image_id]
            elif _changed(record, copying.since_ms):
                wanted.append(record)
        whole, refused = await self.with_vectors(run, copying, wanted)
        gone += list(refused)
        run.check()
        await run.ask(self._written, copying, whole, gone)

    async def _records(self, collection: str, ids: Sequence[str]) -> list[ImageRecord | SaccadeError | None]:
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(image_id: str) -> ImageRecord | SaccadeError | None:
            async with slots:
                try:
                    return await self._files.read(collection, image_id)
                except Internal as exc:
                    return exc

        return await asyncio.gather(*(read(image_id) for image_id in ids))

    async def with_vectors(
        self, run: Run, copying: Copying, records: Sequence[ImageRecord]
    ) -> tuple[list[Whole], dict[str, SaccadeError | None]]:
        """Images with their vectors, and ids of those that can have none, which count as failed in `run`, with why.

        One that was replaced or removed meanwhile has none either, and that is no failure.
        """
        known: dict[str, Vector] = {}
        segments_known: dict[str, dict[int, Vector]] = {}
        if copying.reuses_vectors and records:
            known, segments_known = await run.ask(self._standing_vectors, copying, [r.id for r in records])
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def complete(record: ImageRecord) -> Whole | _None:
            async with slots:
                try:
                    segments = await self._segments(run, copying, record)
                    if record.id in known:
                        vectors = segments_known.get(record.id, {})
                        if all(segment.index in vectors for segment in segments):
                            found = tuple(replace(segment, vector=vectors[segment.index]) for segment in segments)
                            return Whole(record, known[record.id], found)
                    return await self._embedded(run, copying, record, segments)
                except (InvalidArgument, Internal) as exc:
                    now = await run.ask(self._files.read, copying.source.name, record.id)
                    # One that was replaced or removed meanwhile is no failure, and comes again by its mark.
                    if now is None or now.sha256 != record.sha256:
                        return _None(None)
                    run.failed(record.id, exc)
                    return _None(exc)

        results = await _all(complete(record) for record in records)
        whole = [result for result in results if isinstance(result, Whole)]
        pairs = zip(records, results, strict=True)
        return whole, {record.id: result.why for record, result in pairs if isinstance(result, _None)}

    async def _segments(self, run: Run, copying: Copying, record: ImageRecord) -> tuple[Segment, ...]:
        if record.state is not ImageState.SEGMENTED:
            return ()
        return await run.ask(self._files.segments, copying.source.name, record.id)

    async def _standing_vectors(
        self, copying: Copying, ids: Sequence[str]
    ) -> tuple[dict[str, Vector], dict[str, dict[int, Vector]]]:
        """Vectors of images and of their segments, as the live generation has them now."""
        live = Generation.of(copying.source)
        images, segments = await asyncio.gather(
            self._vectors.get_image_vectors(live, ids, consistency=Consistency.STRONG),
            self._vectors.get_segment_vectors(live, ids, consistency=Consistency.STRONG),
        )
        return images, {name: {row.index: row.vector for row in rows} for name, rows in segments.items()}

    async def _embedded(self, run: Run, copying: Copying, record: ImageRecord, segments: tuple[Segment, ...]) -> Whole:
        """The image and its known segments, embedded by the target's model."""
        target = copying.target
        async with self._embedding:
            run.check()
            data = await run.ask(self._files.original, copying.source.name, record)
            masks = [segment.mask for segment in segments if segment.mask is not None]
            vector, regions = await self._asked(
                run,
                target.model,
                lambda: self._embedder.embed_regions(
                    data, masks, model=target.model, lane=Lane.BULK, fingerprint=target.fingerprint
                ),
            )
        rows = np.asarray(regions).reshape(-1, target.dimension)
        if len(rows) != len(segments):
            raise FailedPrecondition(f"the embedder gave {len(rows)} vectors for {len(segments)} segments")
        found = tuple(replace(segment, vector=row) for segment, row in zip(segments, rows, strict=True))
        return Whole(record, vector, found)

    async def _asked(self, run: Run, model: str, call: Callable[[], Awaitable[_T]]) -> _T:
        """What the embedder says of an image, however long it is away; InvalidImage if it is the image's doing."""
        lost = lost_alone = 0

        async def attempt() -> _T:
            nonlocal lost, lost_alone
            try:
                return await self._solitude.ask(call, alone=lost >= LOST_TOGETHER, model=model, patience=_NO_PATIENCE)
            except EmbedderLost as exc:
                lost += 1
                lost_alone += isinstance(exc, LostAlone)
                if lost_alone >= LOST_ALONE:
                    raise crashes() from exc
                raise

        return await run.ask(attempt)

    async def _written(self, copying: Copying, whole: Sequence[Whole], gone: Sequence[str]) -> None:
        """Write as a whole, even where the service stops meanwhile: nothing may be written behind its end."""
        await self._steps.run(self._write(copying, whole, gone))

    async def _write(self, copying: Copying, whole: Sequence[Whole], gone: Sequence[str]) -> None:
        generation = copying.generation
        if gone and not copying.fresh:
            await self._vectors.delete_images(generation, gone)
        await self._vectors.upsert_images(generation, [image_row(image.record, image.vector) for image in whole])
        if copying.fresh:
            rows = [segment_row(image.record, segment) for image in whole for segment in image.segments]
            await self._vectors.upsert_segments(generation, rows)
            return
        slots = asyncio.Semaphore(_WRITES_AT_ONCE)

        async def exactly(image: Whole) -> None:
            async with slots:
                segments = [segment_row(image.record, segment) for segment in image.segments]
                await self._vectors.replace_segments(generation, image.record.id, segments)

        await _all(exactly(image) for image in whole)


async def _all(steps: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Results of all; the first error only when every one has ended, so that none goes on behind the job's back."""
    results = await asyncio.gather(*steps, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def _changed(record: ImageRecord, since_ms: int) -> bool:
    """Whether it may have changed since; what is not done always may."""
    latest = max(record.updated_at_ms, record.indexed_at_ms)
    return latest >= since_ms or record.state is ImageState.SEARCHABLE
