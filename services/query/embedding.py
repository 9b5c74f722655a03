"""Parts of a query -> vectors, by the embedder or from what is stored."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from services.common.domain import Analysis, Lane, Vector
from services.common.embedder_client import EmbedderClient
from services.common.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    SaccadeError,
    Unavailable,
)
from services.common.fetch import ImageFetcher
from services.common.images import ImageLimits, probe
from services.common.objects import ObjectMissing, ObjectStore
from services.common.records import CollectionRecord, ImageRecord, ImageState, original_key, record_key
from services.common.vectors import Consistency, Generation, VectorStore
from services.query.concurrency import together
from services.query.degrading import needs_segments
from services.query.domain import (
    Address,
    OwnVector,
    Picture,
    QueryPart,
    Region,
    Stored,
    StoredSegment,
    Text,
    Upload,
)
from services.query.ranking import PartVectors

__all__ = ["Embedded", "PartEmbedder", "only_result"]

# A query picture is taken apart into as many segments as ingest keeps of an image by default.
_QUERY_SEGMENTS: Final = 10
_NO_SEGMENTER: Final = "NO_SEGMENTER"

_T = TypeVar("_T")
_Picture = tuple[Vector, list[tuple[Vector, float]]]
"""A picture's whole vector, and vector and area of each of its segments."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A query's parts as vectors, in their order, and what had to be left out."""

    parts: tuple[PartVectors, ...]
    degraded: tuple[str, ...]


_Made = tuple[int, PartVectors, str]
"""A part's place among the parts, its vectors, and what was left out; empty: nothing."""


class PartEmbedder:
    """Makes vectors of parts. Safe for concurrent use."""

    def __init__(
        self,
        embedder: EmbedderClient,
        vectors: VectorStore,
        objects: ObjectStore,
        fetcher: ImageFetcher,
        limits: ImageLimits,
    ) -> None:
        """Ask these; `limits` hold for pictures from addresses."""
        self._embedder = embedder
        self._vectors = vectors
        self._objects = objects
        self._fetcher = fetcher
        self._limits = limits

    async def embed(
        self,
        parts: Sequence[QueryPart],
        collection: CollectionRecord,
        consistency: Consistency,
        *,
        with_segments: bool,
        lane: Lane = Lane.INTERACTIVE,
    ) -> Embedded:
        """Embed all parts at the same time.

        Args:
            parts: The query's parts.
            collection: Whose model made the vectors that they are compared with.
            consistency: Which writes are seen where a part names what is stored.
            with_segments: Whether whole pictures are taken apart too.
            lane: In which the embedder is asked.

        Raises:
            InvalidArgument: a picture can not be used, a vector does not fit; the part's field is named.
            NotFound: a stored image or segment is not there.
            FailedPrecondition: texts for a model without text tower, an embedder with another model, or a stored image
                that is not indexed, yet or ever.
        """
        numbered = list(enumerate(parts))
        texts = [(at, part, part.content) for at, part in numbered if isinstance(part.content, Text)]
        others = [(at, part) for at, part in numbered if not isinstance(part.content, Text)]
        made = await together(
            [
                self._texts(texts, collection, lane),
                *(self._other(at, part, collection, consistency, with_segments, lane=lane) for at, part in others),
            ]
        )
        by_place = {at: vectors for group in made for at, vectors, _ in group}
        degraded = [note for group in made for _, _, note in group if note]
        return Embedded(tuple(by_place[at] for at in range(len(parts))), tuple(degraded))

    async def _texts(
        self, texts: Sequence[tuple[int, QueryPart, Text]], collection: CollectionRecord, lane: Lane
    ) -> list[_Made]:
        if not texts:
            return []
        first = texts[0][2].field
        if not collection.has_text:
            raise FailedPrecondition(
                f"the collection's model {collection.model} has no text tower; search by image, region or vector",
                field=first,
                reason="NO_TEXT_TOWER",
            )
        fields = {f"texts[{i}]": text.field for i, (_, _, text) in enumerate(texts)}
        try:
            with _needs_embedder(*fields.values()):
                rows = await self._embedder.embed_texts(
                    [text.text for _, _, text in texts],
                    model=collection.model,
                    lane=lane,
                    fingerprint=collection.fingerprint,
                )
        except InvalidArgument as exc:
            raise _renamed(exc, fields.get(exc.field, first)) from exc
        return [
            (at, PartVectors.single(part.weight, row, is_text=True), "")
            for (at, part, _), row in zip(texts, rows, strict=True)
        ]

    async def _other(
        self,
        at: int,
        part: QueryPart,
        collection: CollectionRecord,
        consistency: Consistency,
        with_segments: bool,
        *,
        lane: Lane,
    ) -> list[_Made]:
        note = ""
        match part.content:
            case OwnVector(field=field, vector=vector):
                if len(vector) != collection.dimension:
                    raise InvalidArgument(
                        f"has {len(vector)} numbers; the collection's vectors have {collection.dimension}",
                        field=field,
                        reason="VECTOR_DIMENSION",
                    )
                made = PartVectors.single(part.weight, vector)
            case StoredSegment() as segment:
                made = PartVectors.single(part.weight, await self._stored_segment(segment, collection, consistency))
            case Region() as region:
                made = PartVectors.single(part.weight, await self._region(region, collection, lane))
            case Stored() as stored:
                vector, segments = await self._stored(stored, collection, consistency, with_segments)
                made = PartVectors.picture(part.weight, vector, segments)
            case Upload() | Address() as picture:
                vector, segments, note = await self._picture(picture, collection, with_segments, lane)
                made = PartVectors.picture(part.weight, vector, segments)
            case Text():
                raise Internal("texts are embedded together")
        return [(at, made, note)]

    async def _stored(
        self, stored: Stored, collection: CollectionRecord, consistency: Consistency, with_segments: bool
    ) -> _Picture:
        generation, ids = Generation.of(collection), [stored.image_id]
        vectors = await self._vectors.get_image_vectors(generation, ids, consistency=consistency)
        if stored.image_id not in vectors:
            await self._check_indexable(stored.field, stored.image_id, collection)
            raise _not_indexed(stored.field, stored.image_id)
        if not with_segments:
            return vectors[stored.image_id], []
        with needs_segments():
            segments = await self._vectors.get_segment_vectors(generation, ids, consistency=consistency)
        found = segments.get(stored.image_id, [])[:_QUERY_SEGMENTS]
        return vectors[stored.image_id], [(segment.vector, segment.area) for segment in found]

    async def _stored_segment(
        self, segment: StoredSegment, collection: CollectionRecord, consistency: Consistency
    ) -> Vector:
        with needs_segments():
            found = await self._vectors.get_segment_vectors(
                Generation.of(collection), [segment.image_id], consistency=consistency
            )
        for row in found.get(segment.image_id, ()):
            if row.index == segment.index:
                return row.vector
        field = f"{segment.field}.image_id"
        if await self._check_indexable(field, segment.image_id, collection) is not ImageState.SEGMENTED:
            raise _not_indexed(field, segment.image_id)
        raise NotFound(
            f"image {segment.image_id!r} has no segment with index {segment.index}",
            field=f"{segment.field}.segment_index",
            reason="SEGMENT_NOT_FOUND",
        )

    async def _region(self, region: Region, collection: CollectionRecord, lane: Lane) -> Vector:
        data = await self._bytes(region.picture, collection)
        try:
            with _needs_embedder(region.field):
                segment = await self._embedder.segment_at(
                    data,
                    points=region.points,
                    box=region.box,
                    model=collection.model,
                    lane=lane,
                    fingerprint=collection.fingerprint,
                )
        except InvalidArgument as exc:
            if exc.reason.startswith("IMAGE_"):
                raise _renamed(exc, region.picture.field) from exc
            raise exc.at(region.field) from exc
        if segment.vector is None:
            raise Internal("the embedder gave a region without its vector")
        return segment.vector

    async def _picture(
        self, picture: Upload | Address, collection: CollectionRecord, with_segments: bool, lane: Lane
    ) -> tuple[Vector, list[tuple[Vector, float]], str]:
        """Whole vector, segments, and what had to be left out."""
        data = await self._bytes(picture, collection)
        if with_segments:
            try:
                analysis = await self._analysis(data, picture.field, collection, lane)
            except FailedPrecondition as exc:
                if exc.reason != _NO_SEGMENTER:
                    raise
                vector = await self._whole(data, picture.field, collection, lane)
                return vector, [], f"segments of {picture.field}: the embedder has no segmenter"
            segments = [(s.vector, s.area_fraction) for s in analysis.segments if s.vector is not None]
            return analysis.vector, segments, ""
        return await self._whole(data, picture.field, collection, lane), [], ""

    async def _analysis(self, data: bytes, field: str, collection: CollectionRecord, lane: Lane) -> Analysis:
        with _needs_embedder(field):
            made = await self._embedder.analyze_images(
                [data],
                model=collection.model,
                lane=lane,
                max_segments=_QUERY_SEGMENTS,
                fingerprint=collection.fingerprint,
            )
        return only_result(made, field)

    async def _whole(self, data: bytes, field: str, collection: CollectionRecord, lane: Lane) -> Vector:
        with _needs_embedder(field):
            made = await self._embedder.embed_images(
                [data], model=collection.model, lane=lane, fingerprint=collection.fingerprint
            )
        return only_result(made, field)

    async def _bytes(self, picture: Picture, collection: CollectionRecord) -> bytes:
        match picture:
            case Upload(data=data):
                return data
            case Address(field=field, url=url):
                data = await self._fetcher.fetch(url, field=field)
                await asyncio.to_thread(probe, data, self._limits, field)
                return data
            case Stored(field=field, image_id=image_id):
                try:
                    return await self._objects.get(original_key(collection.name, image_id))
                except ObjectMissing as exc:
                    raise _no_image(field, image_id) from exc

    async def _check_indexable(self, field: str, image_id: str, collection: CollectionRecord) -> ImageState:
        """How far a stored image has come; NotFound if it is not there, FailedPrecondition if it never gets further."""
        try:
            data = await self._objects.get(record_key(collection.name, image_id))
        except ObjectMissing as exc:
            raise _no_image(field, image_id) from exc
        record = ImageRecord.model_validate_json(data)
        if record.state is ImageState.FAILED:
            raise FailedPrecondition(
                f"image {image_id!r} could not be indexed: {record.failure}", field=field, reason="IMAGE_FAILED"
            )
        return record.state


@contextmanager
def _needs_embedder(*fields: str) -> Iterator[None]:
    """Around calls to the embedder: where it is away, the error says which parts need it."""
    try:
        yield
    except Unavailable as exc:
        raise Unavailable(
            f"{exc.message} ({', '.join(fields)} can not be embedded without; stored images and segments, vectors, "
            "tags and titles can be searched)",
            reason=exc.reason,
            retry_after_s=exc.retry_after_s,
        ) from exc


def only_result(made: Sequence[_T | SaccadeError], field: str) -> _T:
    """The one result of a call with one image; its error names the part's field."""
    (result,) = made
    if isinstance(result, SaccadeError):
        # Only bad input is about a field of the request.
        raise _renamed(result, field if isinstance(result, InvalidArgument) else "")
    return result


def _renamed(error: SaccadeError, field: str) -> SaccadeError:
    return type(error)(error.message, reason=error.reason, field=field, retry_after_s=error.retry_after_s)


def _no_image(field: str, image_id: str) -> NotFound:
    return NotFound(f"the collection has no image {image_id!r}", field=field, reason="IMAGE_NOT_FOUND")


def _not_indexed(field: str, image_id: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"image {image_id!r} is stored, but what is asked for is not indexed yet; try again in a moment",
        field=field,
        reason="IMAGE_NOT_INDEXED",
    )
