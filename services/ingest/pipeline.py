"""The steps by which an image becomes searchable, each of which may be repeated by anybody at any time.

Nothing here locks, schedules or retries; `indexer` does. The object store is the truth and the index follows it, so a
step writes rows first and only then says in the record that they are there.

A step ends with a look at the collection's record. Where the next generation is being built, the image gets a dirty
mark; where another one went live meanwhile, the rows are written there too, or, if it has another model, `Moved` is
raised. So it is where tags were chosen from a vocabulary that is not the collection's any more.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from services.common.domain import Analysis, Lane, Segment, Tag, Vector, VocabularyEntry
from services.common.embedder_client import EmbedderClient
from services.common.errors import Internal, InvalidArgument, SaccadeError
from services.common.records import CollectionRecord, ImageRecord, ImageState, TagRecord
from services.common.vectors import Consistency, Generation, ImageRow, SegmentRow, VectorStore
from services.ingest.collections import Collections
from services.ingest.dirt import DirtyMarks
from services.ingest.files import ImageFiles
from services.ingest.markers import now_ms
from services.ingest.vocabulary import Vocabularies

__all__ = ["Moved", "Pipeline", "Refused", "best_tags", "image_row", "model_tags", "segment_row"]

_T = TypeVar("_T")
MAX_MODEL_TAGS: Final = 64


class Refused(Exception):
    """The embedder will never take this image; `error` is what it said."""

    def __init__(self, error: SaccadeError) -> None:
        super().__init__(error.message)
        self.error = error


class Moved(Exception):
    """The collection has another model or vocabulary by now; what was made of the image has to be made anew."""


class Pipeline:
    """Steps on one image. Each raises Unavailable, Overloaded or DeadlineExceeded as its dependency does."""

    def __init__(
        self,
        *,
        files: ImageFiles,
        vectors: VectorStore,
        embedder: EmbedderClient,
        vocabularies: Vocabularies,
        collections: Collections,
        dirt: DirtyMarks,
    ) -> None:
        """Work on these stores with this embedder."""
        self._collections = collections
        self._dirt = dirt
        self._files = files
        self._vectors = vectors
        self._embedder = embedder
        self._vocabularies = vocabularies

    async def embed(self, collection: CollectionRecord, data: bytes, lane: Lane) -> Vector:
        """The whole image's vector; Refused where there can be none."""
        [result] = await self._embedder.embed_images(
            [data], model=collection.model, lane=lane, fingerprint=collection.fingerprint
        )
        if isinstance(result, SaccadeError):
            raise _as_refusal(result)
        return result

    async def analyze(self, collection: CollectionRecord, data: bytes, lane: Lane) -> Analysis:
        """The image taken apart; Refused where that can not be."""
        entries: list[VocabularyEntry] = []
        templates: tuple[str, ...] = ()
        # A model without texts can compare an image with no word.
        if collection.has_text:
            words = await self._vocabularies.get(collection.vocabulary)
            entries = [VocabularyEntry(entry.name, entry.category) for entry in words.entries]
            templates = words.prompt_templates
        [result] = await self._embedder.analyze_images(
            [data],
            model=collection.model,
            lane=lane,
            vocabulary=entries,
            prompt_templates=templates,
            fingerprint=collection.fingerprint,
        )
        if isinstance(result, SaccadeError):
            raise _as_refusal(result)
        return result

    async def make_searchable(self, collection: CollectionRecord, record: ImageRecord, vector: Vector) -> ImageRecord:
        """Let whole-image searches see the image; the record as written. Moved as the module says."""

        async def write(owner: CollectionRecord) -> ImageRecord:
            done = record.model_copy(update={"state": ImageState.SEARCHABLE, **_indexed_under(owner)})
            await self._vectors.upsert_images(Generation.of(owner), [image_row(done, vector)])
            await self._files.write(owner.name, done)
            return done

        return await self._in_live_generation(collection, record.id, write, vectors=True)

    async def make_segmented(
        self, collection: CollectionRecord, record: ImageRecord, analysis: Analysis
    ) -> ImageRecord:
        """Let segment searches see the image too, and give it the model's tags; the record as written.

        Moved as the module says.
        """

        async def write(owner: CollectionRecord) -> ImageRecord:
            done = record.model_copy(
                update={
                    "state": ImageState.SEGMENTED,
                    "model_tags": model_tags(analysis),
                    "segment_count": len(analysis.segments),
                    **_indexed_under(owner),
                }
            )
            generation = Generation.of(owner)
            await self._files.write_segments(owner.name, record.id, analysis.segments)
            rows = [segment_row(done, segment) for segment in analysis.segments]
            await self._vectors.replace_segments(generation, record.id, rows)
            await self._vectors.upsert_images(generation, [image_row(done, analysis.vector)])
            await self._files.write(owner.name, done)
            return done

        return await self._in_live_generation(collection, record.id, write, vectors=True, tags=True)

    async def make_failed(self, collection: str, record: ImageRecord, error: SaccadeError) -> ImageRecord:
        """Write down that the image can not be indexed; the record as written."""
        failed = {"state": ImageState.FAILED, "failure": error.message, "failure_reason": error.reason}
        done = record.model_copy(update=failed)
        await self._files.write(collection, done)
        return done

    async def refresh(self, collection: CollectionRecord, record: ImageRecord) -> bool:
        """Bring the fields of the rows that stand in line with the record, their vectors untouched.

        Returns:
            Whether all the rows are there that the record promises.
        """

        async def write(owner: CollectionRecord) -> bool:
            generation = Generation.of(owner)
            images = await self._vectors.get_images(generation, [record.id], consistency=Consistency.STRONG)
            segments = await self._vectors.get_segments(generation, record.id, consistency=Consistency.STRONG)
            if (row := images.get(record.id)) is not None:
                await self._vectors.upsert_images(generation, [image_row(record, row.vector)])
            if segments:
                rows = [_with_fields_of(record, segment) for segment in segments]
                await self._vectors.replace_segments(generation, record.id, rows)
            complete = record.state is not ImageState.SEGMENTED or len(segments) == record.segment_count
            return row is not None and complete

        return await self._in_live_generation(collection, record.id, write)

    async def retag(self, collection: CollectionRecord, record: ImageRecord, segments: tuple[Segment, ...]) -> None:
        """Keep an image's segments under other tags, and bring the rows that stand in line with them and the record."""
        tags = {segment.index: segment for segment in segments}

        async def write(owner: CollectionRecord) -> None:
            generation = Generation.of(owner)
            await self._files.write_segments(owner.name, record.id, segments)
            images = await self._vectors.get_images(generation, [record.id], consistency=Consistency.STRONG)
            rows = await self._vectors.get_segments(generation, record.id, consistency=Consistency.STRONG)
            known = [row for row in rows if row.index in tags]
            whole = [segment_row(record, replace(tags[row.index], vector=row.vector)) for row in known]
            await self._vectors.replace_segments(generation, record.id, whole)
            await self._vectors.upsert_images(generation, [image_row(record, row.vector) for row in images.values()])

        await self._in_live_generation(collection, record.id, write)

    async def clear(self, collection: CollectionRecord, image_id: str) -> None:
        """Remove the image's rows and segments, which are of other bytes than it has now."""

        async def write(owner: CollectionRecord) -> None:
            await self._vectors.delete_images(Generation.of(owner), [image_id])
            await self._files.delete_segments(owner.name, image_id)

        await self._in_live_generation(collection, image_id, write)

    async def erase(self, collection: CollectionRecord, image_id: str) -> None:
        """Remove the image's rows and objects; the record goes with the objects."""

        async def write(owner: CollectionRecord) -> None:
            await self._vectors.delete_images(Generation.of(owner), [image_id])
            await self._files.delete(owner.name, image_id)

        await self._in_live_generation(collection, image_id, write)

    async def _in_live_generation(
        self,
        used: CollectionRecord,
        image_id: str,
        write: Callable[[CollectionRecord], Awaitable[_T]],
        *,
        vectors: bool = False,
        tags: bool = False,
    ) -> _T:
        """Write an image's rows, and once more where another generation is live by then.

        Args:
            used: The collection as the caller knows it.
            image_id: The image.
            write: Writes rows under a record of the collection.
            vectors: Whether `write` brings vectors of `used`'s model: no other generation may have them.
            tags: Whether it brings tags from `used`'s vocabulary. A retag job that changes it has looked at all images
                that were there; this one may have come after.
        """
        while True:
            written = await write(used)
            now = await self._collections.peek(used.name) or used
            if now.building is not None:
                # After all that was written: whoever reads the mark finds it.
                await self._dirt.leave(now.name, image_id, generation=now.generation)
            if tags and now.vocabulary != used.vocabulary:
                raise Moved
            if now.generation == used.generation:
                return written
            if vectors and now.fingerprint != used.fingerprint:
                raise Moved
            used = now


def _indexed_under(collection: CollectionRecord) -> dict[str, object]:
    return {
        "fingerprint": collection.fingerprint,
        "generation": collection.generation,
        "indexed_at_ms": now_ms(),
    }


def _as_refusal(error: SaccadeError) -> Exception:
    """One item's error: for good where the image is at fault, to be tried again otherwise."""
    return Refused(error) if isinstance(error, InvalidArgument) else error


def model_tags(analysis: Analysis) -> tuple[TagRecord, ...]:
    """An analysis' tags for the image as a whole; see best_tags."""
    best = best_tags([segment.tags for segment in analysis.segments], analysis.tags)
    return tuple(TagRecord(name=tag.name, category=tag.category, confidence=tag.confidence) for tag in best)


def best_tags(segments: Sequence[tuple[Tag, ...]], whole: tuple[Tag, ...]) -> tuple[Tag, ...]:
    """The segments' tags, each name with its best confidence; the whole image's where no segment has any."""
    best: dict[str, Tag] = {}
    groups = [tags for tags in segments if tags] or [whole]
    for tag in (tag for group in groups for tag in group):
        if tag.name not in best or tag.confidence > best[tag.name].confidence:
            best[tag.name] = tag
    return tuple(sorted(best.values(), key=lambda tag: (-tag.confidence, tag.name))[:MAX_MODEL_TAGS])


def image_row(record: ImageRecord, vector: Vector) -> ImageRow:
    """The image's row."""
    return ImageRow(
        id=record.id,
        vector=vector,
        tags=_confidences(record.tags),
        metadata=record.metadata,
        width=record.width,
        height=record.height,
        created_at_ms=record.created_at_ms,
        text=searchable_text(record),
    )


def searchable_text(record: ImageRecord) -> str:
    """What searches by title look through: the title, and `metadata.description` where it is a text."""
    description = record.metadata.get("description", "")
    return "\n".join(filter(None, (record.title, description if isinstance(description, str) else "")))


def _confidences(tags: Sequence[Tag]) -> dict[str, float]:
    return {tag.name: tag.confidence for tag in tags}


def segment_row(record: ImageRecord, segment: Segment) -> SegmentRow:
    """A segment's row, with what filters ask of its image."""
    if segment.vector is None:
        raise Internal("the embedder sent a segment without its vector")
    return SegmentRow(
        image_id=record.id,
        index=segment.index,
        vector=segment.vector,
        box=segment.box,
        area=segment.area_fraction,
        stability=segment.stability,
        tags=_confidences(segment.tags),
        image_tags=_confidences(record.tags),
        metadata=record.metadata,
        width=record.width,
        height=record.height,
        created_at_ms=record.created_at_ms,
    )


def _with_fields_of(record: ImageRecord, row: SegmentRow) -> SegmentRow:
    """A segment's row that stands, with what filters ask of its image now."""
    return replace(row, image_tags=_confidences(record.tags), metadata=record.metadata)
