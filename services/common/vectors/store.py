"""Reads and writes of the vector index."""

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.common.domain import Vector
from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.records import IndexType
from services.common.settings import VectorSettings
from services.common.vectors.catalog import Catalog
from services.common.vectors.codec import (
    Entity,
    found_segment,
    image_entity,
    image_hit,
    image_row,
    image_tags,
    image_vector,
    indexed_text,
    segment_entity,
    segment_hit,
    segment_ids,
    segment_row,
    signs_entity,
    split_segment_id,
)
from services.common.vectors.counting import Counts
from services.common.vectors.engine import Engine
from services.common.vectors.literals import one_of, quote
from services.common.vectors.planning import Of, RowEstimate
from services.common.vectors.rows import (
    Consistency,
    FoundSegment,
    Generation,
    ImageHit,
    ImageRow,
    IndexSurvey,
    SearchParams,
    SegmentHit,
    SegmentRow,
    TitleHit,
)
from services.common.vectors.schema import (
    FOUND_FIELDS,
    IMAGE_FIELDS,
    MAX_SEGMENTS,
    SEGMENT_FIELDS,
    TERMS_FIELD,
    TEXT_FIELD,
    bits_name,
    images_name,
    segments_name,
)
from services.common.vectors.searching import Searcher
from services.common.vectors.settling import settle
from services.common.vectors.tables import ID_BATCH, MAX_LIMIT, Tables, batches, check_limit

__all__ = ["VectorStore"]

# Bytes of vectors in one answer to a read of segments, with every image having as many as it can.
READ_BYTES: Final = 32 * 1024 * 1024
# Images whose segments' ids are read in one query.
IMAGE_BATCH: Final = MAX_LIMIT // MAX_SEGMENTS
# Images whose tags are read in one query: with 100 tags of 20 bytes each, 20 MB.
TAG_BATCH: Final = 10_000

_DEFAULT: Final = SearchParams()
# What pymilvus' own iterator asks with: rows in the order of their ids, the first ones of all segments.
_BY_ID: Final = {"iterator": "True", "reduce_stop_for_best": "True"}


class VectorStore:
    """The vector index of all collections. Safe for concurrent use.

    Every call raises Unavailable, DeadlineExceeded or Overloaded as Milvus has it, NotFound where the generation has
    not been created (or Milvus lost it), and Internal where Milvus refuses for a reason of its own.
    """

    def __init__(self, settings: VectorSettings) -> None:
        """Connect when first used."""
        self._engine = Engine(settings)
        self._catalog = Catalog(self._engine)
        self._tables = Tables(self._engine)
        self._counts = Counts(self._tables)
        self._searcher = Searcher(self._tables, self._counts.rows)

    async def create_generation(self, generation: Generation) -> None:
        """Make the generation's two collections, with index, ready to be searched; what is there already stays.

        Raises:
            FailedPrecondition: one stands there whose vectors come from another model, or the engine can not build this
                kind of index (INDEX_UNAVAILABLE).
        """
        await self._catalog.create_generation(generation)

    async def check_index(self, generation: Generation) -> None:
        """FailedPrecondition, INDEX_UNAVAILABLE, where the engine can not build this kind of index."""
        await self._catalog.check_index(generation)

    async def activate(self, generation: Generation) -> None:
        """Let the collection's aliases name this generation."""
        await self._catalog.activate(generation)

    async def deactivate(self, collection: str) -> None:
        """Let the collection's aliases name nothing; missing ones are no error."""
        await self._catalog.deactivate(collection)

    async def survey(self, generation: Generation) -> IndexSurvey:
        """What the index has of a generation and of its collection; a missing one is no error."""
        return await self._catalog.survey(generation)

    async def drop_generation(self, generation: Generation) -> None:
        """Remove one generation that no alias names; a missing one is no error."""
        await self._catalog.drop_generation(generation)

    async def drop_collection(self, collection: str) -> None:
        """Remove the collection's aliases and every generation; a missing one is no error."""
        await self._catalog.drop_collection(collection)

    async def upsert_images(self, generation: Generation, rows: Sequence[ImageRow]) -> None:
        """Write image rows; rows of the same id are replaced. Either all rows fit, or none is written."""
        entities = [image_entity(row, generation, f"rows[{i}]") for i, row in enumerate(rows)]
        if rows and await self._catalog.indexes_text(generation):
            for entity, row in zip(entities, rows, strict=True):
                entity[TEXT_FIELD] = indexed_text(row.text)
        await self._write(generation, images_name(generation), entities)

    async def upsert_segments(self, generation: Generation, rows: Sequence[SegmentRow]) -> None:
        """Write segments of any images; others that the images have stay. Either all rows fit, or none is written."""
        entities = [segment_entity(row, generation, f"rows[{i}]") for i, row in enumerate(rows)]
        await self._write(generation, segments_name(generation), entities)

    async def replace_segments(self, generation: Generation, image_id: str, rows: Sequence[SegmentRow]) -> None:
        """Write an image's segments; afterwards it has these and no others. At no time are all of them missing."""
        for i, row in enumerate(rows):
            if row.image_id != image_id:
                raise InvalidArgument(f"the row belongs to image {row.image_id!r}", field=f"rows[{i}].image_id")
        entities = [segment_entity(row, generation, f"rows[{i}]") for i, row in enumerate(rows)]
        name = segments_name(generation)
        await self._write(generation, name, entities)
        kept = {row.id for row in rows}
        others = [row_id for row_id in segment_ids(image_id) if row_id not in kept]
        await self._delete(generation, name, "id", others, ID_BATCH)

    async def delete_images(self, generation: Generation, image_ids: Sequence[str]) -> None:
        """Remove image rows and their segments; missing ones are no error."""
        await self._delete(generation, images_name(generation), "id", image_ids, ID_BATCH)
        await self._delete(generation, segments_name(generation), "image_id", image_ids, IMAGE_BATCH)

    async def delete_segments(self, generation: Generation, image_id: str, indices: Sequence[int]) -> None:
        """Remove some of an image's segments; missing ones are no error."""
        ids = segment_ids(image_id)
        await self._delete(generation, segments_name(generation), "id", [ids[index] for index in indices], ID_BATCH)

    async def get_images(
        self, generation: Generation, ids: Sequence[str], *, consistency: Consistency = Consistency.BOUNDED
    ) -> dict[str, ImageRow]:
        """The rows of these images; missing ones are left out."""
        found = await self._images(generation, ids, IMAGE_FIELDS, consistency)
        return {entity["id"]: image_row(entity) for entity in found}

    async def get_image_vectors(
        self, generation: Generation, ids: Sequence[str], *, consistency: Consistency = Consistency.BOUNDED
    ) -> dict[str, Vector]:
        """The vectors of these images; missing ones are left out."""
        found = await self._images(generation, ids, ("id", "vector"), consistency)
        return {entity["id"]: image_vector(entity) for entity in found}

    async def get_image_tags(
        self, generation: Generation, ids: Sequence[str], *, consistency: Consistency = Consistency.BOUNDED
    ) -> dict[str, dict[str, float]]:
        """The tags of these images with their confidence; missing images are left out."""
        found = await self._images(generation, ids, ("id", "tags", "tag_confidences"), consistency)
        return {entity["id"]: image_tags(entity) for entity in found}

    async def get_segments(
        self, generation: Generation, image_id: str, *, consistency: Consistency = Consistency.BOUNDED
    ) -> list[SegmentRow]:
        """The rows of an image's segments, by index."""
        named, fields = one_of("image_id", [image_id]), ("id", *SEGMENT_FIELDS)
        found = await self._tables.query(segments_name(generation), named, fields, consistency)
        return sorted(map(segment_row, found), key=lambda row: row.index)

    async def get_segment_vectors(
        self,
        generation: Generation,
        image_ids: Sequence[str],
        *,
        where: str = "",
        consistency: Consistency = Consistency.BOUNDED,
    ) -> dict[str, list[FoundSegment]]:
        """The segments of these images that pass `where`, by index; images without any are left out."""
        size = max(1, min(IMAGE_BATCH, READ_BYTES // (4 * generation.dimension * MAX_SEGMENTS)))

        async def read(batch: Sequence[str]) -> list[Entity]:
            named = one_of("image_id", batch)
            expression = f"{named} and ({where})" if where else named
            return await self._tables.query(segments_name(generation), expression, ("id", *FOUND_FIELDS), consistency)

        answers = await asyncio.gather(*map(read, batches(list(dict.fromkeys(image_ids)), size)))
        segments: dict[str, list[FoundSegment]] = {}
        for entity in chain.from_iterable(answers):
            segment = found_segment(entity)
            segments.setdefault(segment.image_id, []).append(segment)
        for found in segments.values():
            found.sort(key=lambda segment: segment.index)
        return segments

    async def search_images(
        self,
        generation: Generation,
        vectors: NDArray[np.float32],
        *,
        limit: int,
        where: str = "",
        params: SearchParams = _DEFAULT,
    ) -> list[list[ImageHit]]:
        """For each row of `vectors` [n, d] the `limit` most similar images that pass `where`, best first."""
        found = await self._searcher.search(
            generation, images_name(generation), vectors, limit=limit, where=where, params=params
        )
        return [[image_hit(hit) for hit in hits] for hits in found]

    async def search_segments(
        self,
        generation: Generation,
        vectors: NDArray[np.float32],
        *,
        limit: int,
        where: str = "",
        params: SearchParams = _DEFAULT,
    ) -> list[list[SegmentHit]]:
        """For each row of `vectors` [n, d] the `limit` most similar segments that pass `where`, best first."""
        found = await self._searcher.search(
            generation, segments_name(generation), vectors, limit=limit, where=where, params=params
        )
        return [[segment_hit(hit) for hit in hits] for hits in found]

    async def standing_images(self, generation: Generation, ids: Sequence[str]) -> set[str]:
        """Those of these images that have a row, as of now."""
        found = await self._images(generation, ids, ("id",), Consistency.STRONG)
        return {entity["id"] for entity in found}

    async def search_titles(
        self,
        generation: Generation,
        text: str,
        *,
        limit: int,
        where: str = "",
        consistency: Consistency = Consistency.BOUNDED,
    ) -> list[TitleHit]:
        """The `limit` images that pass `where` whose title or description has words of `text`, by BM25, best first.

        Raises:
            FailedPrecondition: the engine has no full-text index, or the collection was made when it had none.
        """
        check_limit(limit)
        if not await self._catalog.indexes_text(generation):
            raise FailedPrecondition(
                "titles can not be searched in this collection: full-text indexes are in milvus-lite and in Milvus "
                "from 2.5 on; with such an engine, reindex the collection, or leave title_text out",
                field="title_text",
                reason="TITLE_SEARCH_UNAVAILABLE",
            )
        [hits] = await self._tables.search(
            images_name(generation),
            [text],
            field=TERMS_FIELD,
            metric="BM25",
            options={},
            where=where,
            limit=limit,
            consistency=consistency,
        )
        # milvus-lite gives scores as distances, the negative of what Milvus gives.
        return [TitleHit(hit["id"], abs(hit["distance"])) for hit in hits]

    async def list_image_ids(
        self, generation: Generation, *, where: str, start_after: str = "", limit: int = 100
    ) -> list[str]:
        """The first `limit` ids, sorted, of images that pass `where` and come after `start_after`."""
        found = await self._listed(
            generation, ("id",), Consistency.STRONG, where=where, start_after=start_after, limit=limit
        )
        return [entity["id"] for entity in found]

    async def segment_indices(self, generation: Generation, image_ids: Sequence[str]) -> dict[str, set[int]]:
        """Which segments these images have, as of now; images without any are left out."""
        found: dict[str, set[int]] = {}
        for batch in batches(list(dict.fromkeys(image_ids)), IMAGE_BATCH):
            named = one_of("image_id", batch)
            for entity in await self._tables.query(segments_name(generation), named, ("id",), Consistency.STRONG):
                image_id, index = split_segment_id(entity["id"])
                found.setdefault(image_id, set()).add(index)
        return found

    async def list_segment_ids(
        self, generation: Generation, *, start_after: str = "", limit: int = MAX_LIMIT
    ) -> list[str]:
        """The first `limit` ids of segments, sorted, that come after `start_after`; `split_segment_id` reads them."""
        check_limit(limit)
        where = f"id > {quote(start_after)}" if start_after else ""
        found = await self._tables.query(
            segments_name(generation), where, ("id",), Consistency.STRONG, limit=limit, options=_BY_ID
        )
        return [entity["id"] for entity in found]

    async def list_image_tags(
        self,
        generation: Generation,
        *,
        where: str = "",
        start_after: str = "",
        limit: int = TAG_BATCH,
        consistency: Consistency = Consistency.STRONG,
    ) -> list[tuple[str, tuple[str, ...]]]:
        """Id and tags of the first `limit` images, by id, that pass `where` and come after `start_after`."""
        found = await self._listed(
            generation, ("id", "tags"), consistency, where=where, start_after=start_after, limit=limit
        )
        return [(entity["id"], tuple(entity["tags"])) for entity in found]

    async def count_images(
        self, generation: Generation, *, where: str = "", consistency: Consistency = Consistency.STRONG
    ) -> int:
        """How many images pass `where`."""
        return await self._tables.count(images_name(generation), where, consistency)

    async def count_segments(
        self, generation: Generation, *, where: str = "", consistency: Consistency = Consistency.STRONG
    ) -> int:
        """How many segments pass `where`."""
        return await self._tables.count(segments_name(generation), where, consistency)

    async def estimate(self, generation: Generation, *, where: str, of: Of) -> RowEstimate:
        """Rows of images or of segments, and how many of them `where` passes; as of some seconds ago.

        `passing` is None where counting takes longer than half a second.
        """
        return await self._counts.estimate(
            images_name(generation) if of == "images" else segments_name(generation), where
        )

    async def settle(self, generation: Generation, *, limit_s: float) -> bool:
        """Have the rows written out and wait until the index is in force, at most `limit_s` seconds; whether it is."""
        names = (images_name(generation), segments_name(generation))
        return all(await asyncio.gather(*[settle(self._engine, name, limit_s=limit_s) for name in names]))

    async def check(self) -> None:
        """Return if Milvus answers, raise otherwise."""
        await self._engine.run(lambda client, left_s: client.list_collections(timeout=left_s))

    async def close(self) -> None:
        """Close the connection."""
        await self._engine.close()

    async def _write(self, generation: Generation, name: str, entities: Sequence[Entity]) -> None:
        await self._tables.upsert(name, entities)
        if generation.index.type is IndexType.LSH:
            await self._tables.upsert(bits_name(name), [signs_entity(entity) for entity in entities])

    async def _delete(self, generation: Generation, name: str, field: str, values: Sequence[str], size: int) -> None:
        if generation.index.type is IndexType.LSH:
            await self._tables.delete_existing(bits_name(name), field, values, size)
        await self._tables.delete_existing(name, field, values, size)

    async def _images(
        self, generation: Generation, ids: Sequence[str], fields: Sequence[str], consistency: Consistency
    ) -> list[Entity]:
        found: list[Entity] = []
        for batch in batches(list(dict.fromkeys(ids)), ID_BATCH):
            found += await self._tables.query(images_name(generation), one_of("id", batch), fields, consistency)
        return found

    async def _listed(
        self,
        generation: Generation,
        fields: Sequence[str],
        consistency: Consistency,
        *,
        where: str,
        start_after: str,
        limit: int,
    ) -> list[Entity]:
        check_limit(limit)
        after = f"id > {quote(start_after)}" if start_after else ""
        expression = " and ".join(f"({part})" for part in (where, after) if part)
        return await self._tables.query(
            images_name(generation), expression, fields, consistency, limit=limit, options=_BY_ID
        )
