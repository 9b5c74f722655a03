"""Reads and writes of the vector index."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from pymilvus import MilvusClient

from services.common.errors import InvalidArgument
from services.common.settings import VectorSettings
from services.common.vectors.catalog import Catalog
from services.common.vectors.codec import (
    Entity,
    check_vectors,
    image_entity,
    image_hit,
    image_row,
    segment_entity,
    segment_hit,
    segment_ids,
    segment_row,
)
from services.common.vectors.engine import Engine
from services.common.vectors.index import index_nlist, index_nprobe
from services.common.vectors.literals import one_of, quote
from services.common.vectors.rows import (
    Consistency,
    Generation,
    ImageHit,
    ImageRow,
    SearchParams,
    SegmentHit,
    SegmentRow,
)
from services.common.vectors.schema import IMAGE_FIELDS, MAX_SEGMENTS, SEGMENT_FIELDS, images_name, segments_name

__all__ = ["VectorStore"]

# Milvus' most rows in one answer.
MAX_LIMIT: Final = 16_384
# Rows in one write: about 4 MB at 1,024 dimensions, well under Milvus' limit of 64 MB for a message.
WRITE_BATCH: Final = 1_000
# Images whose segments are read whole in one query: 4,096 rows, 17 MB at 1,024 dimensions.
SEGMENT_READ_BATCH: Final = 64
# Images whose segments' ids are read in one query.
IMAGE_BATCH: Final = MAX_LIMIT // MAX_SEGMENTS
# Ids in one query or delete.
ID_BATCH: Final = 2_000
# Query vectors in one search.
MAX_VECTORS: Final = 256

_BOX_FIELDS: Final = ("x0", "y0", "x1", "y1", "area")
_DEFAULT: Final = SearchParams()
# What pymilvus' own iterator asks with: rows in the order of their ids, the first ones of all segments.
_NO_OPTIONS: Final[Mapping[str, str]] = {}
_BY_ID: Final = {"iterator": "True", "reduce_stop_for_best": "True"}

_T = TypeVar("_T")


class VectorStore:
    """The vector index of all collections. Safe for concurrent use.

    Every call raises Unavailable, DeadlineExceeded or Overloaded as Milvus has it, NotFound where the generation has
    not been created (or Milvus lost it), and Internal where Milvus refuses for a reason of its own.
    """

    def __init__(self, settings: VectorSettings) -> None:
        """Connect when first used."""
        self._engine = Engine(settings)
        self._catalog = Catalog(self._engine)

    async def create_generation(self, generation: Generation) -> None:
        """Make the generation's two collections, with index, ready to be searched; what is there already stays.

        Raises:
            FailedPrecondition: one stands there whose vectors come from another model.
            Unimplemented: this kind of index is not built.
        """
        await self._catalog.create_generation(generation)

    async def activate(self, generation: Generation) -> None:
        """Let the collection's aliases name this generation."""
        await self._catalog.activate(generation)

    async def drop_collection(self, collection: str) -> None:
        """Remove the collection's aliases and every generation; a missing one is no error."""
        await self._catalog.drop_collection(collection)

    async def upsert_images(self, generation: Generation, rows: Sequence[ImageRow]) -> None:
        """Write image rows; rows of the same id are replaced. Either all rows fit, or none is written."""
        entities = [image_entity(row, generation, f"rows[{i}]") for i, row in enumerate(rows)]
        await self._upsert(images_name(generation), entities)

    async def replace_segments(self, generation: Generation, image_id: str, rows: Sequence[SegmentRow]) -> None:
        """Write an image's segments; afterwards it has these and no others. At no time are all of them missing."""
        for i, row in enumerate(rows):
            if row.image_id != image_id:
                raise InvalidArgument(f"the row belongs to image {row.image_id!r}", field=f"rows[{i}].image_id")
        entities = [segment_entity(row, generation, f"rows[{i}]") for i, row in enumerate(rows)]
        name = segments_name(generation)
        await self._upsert(name, entities)
        kept = {row.id for row in rows}
        others = [row_id for row_id in segment_ids(image_id) if row_id not in kept]
        await self._delete_existing(name, "id", others, ID_BATCH)

    async def delete_images(self, generation: Generation, image_ids: Sequence[str]) -> None:
        """Remove image rows and their segments; missing ones are no error."""
        await self._delete_existing(images_name(generation), "id", image_ids, ID_BATCH)
        await self._delete_existing(segments_name(generation), "image_id", image_ids, IMAGE_BATCH)

    async def get_images(
        self, generation: Generation, ids: Sequence[str], *, consistency: Consistency = Consistency.BOUNDED
    ) -> dict[str, ImageRow]:
        """The rows of these images; missing ones are left out."""
        rows: dict[str, ImageRow] = {}
        for batch in _batches(list(dict.fromkeys(ids)), ID_BATCH):
            found = await self._query(images_name(generation), one_of("id", batch), IMAGE_FIELDS, consistency)
            rows.update({entity["id"]: image_row(entity) for entity in found})
        return rows

    async def get_segments(
        self,
        generation: Generation,
        image_ids: Sequence[str],
        *,
        where: str = "",
        consistency: Consistency = Consistency.BOUNDED,
    ) -> dict[str, list[SegmentRow]]:
        """The segments of these images that pass `where`, by index; images without any are left out."""
        rows: dict[str, list[SegmentRow]] = {}
        fields = ("id", *SEGMENT_FIELDS)
        for batch in _batches(list(dict.fromkeys(image_ids)), SEGMENT_READ_BATCH):
            named = one_of("image_id", batch)
            expression = f"{named} and ({where})" if where else named
            found = await self._query(segments_name(generation), expression, fields, consistency)
            for entity in found:
                row = segment_row(entity)
                rows.setdefault(row.image_id, []).append(row)
        for segments in rows.values():
            segments.sort(key=lambda row: row.index)
        return rows

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
        found = await self._search(
            generation, images_name(generation), vectors, limit=limit, where=where, params=params, fields=("id",)
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
        found = await self._search(
            generation, segments_name(generation), vectors, limit=limit, where=where, params=params, fields=_BOX_FIELDS
        )
        return [[segment_hit(hit) for hit in hits] for hits in found]

    async def list_image_ids(
        self, generation: Generation, *, where: str, start_after: str = "", limit: int = 100
    ) -> list[str]:
        """The first `limit` ids, sorted, of images that pass `where` and come after `start_after`."""
        check_limit(limit)
        name = images_name(generation)
        after = f"id > {quote(start_after)}" if start_after else ""
        expression = " and ".join(f"({part})" for part in (where, after) if part)
        found = await self._query(name, expression, ("id",), Consistency.STRONG, limit=limit, options=_BY_ID)
        return [entity["id"] for entity in found]

    async def count(
        self,
        generation: Generation,
        *,
        where: str = "",
        segments_where: str = "",
        consistency: Consistency = Consistency.STRONG,
    ) -> tuple[int, int]:
        """How many images pass `where` and how many segments pass `segments_where`; STRONG sees every write."""
        images, segments = await asyncio.gather(
            self._count(images_name(generation), where, consistency),
            self._count(segments_name(generation), segments_where, consistency),
        )
        return images, segments

    def nprobe(self, generation: Generation, params: SearchParams = _DEFAULT) -> int:
        """How many lists of the index a search with these parameters looks into; 0 if it compares with every row."""
        if params.exact:
            return 0
        if params.nprobe:
            return min(params.nprobe, index_nlist(generation.index))
        return index_nprobe(generation.index)

    async def check(self) -> None:
        """Return if Milvus answers, raise otherwise."""
        await self._engine.run(lambda client, left_s: client.list_collections(timeout=left_s))

    async def close(self) -> None:
        """Close the connection."""
        await self._engine.close()

    async def _upsert(self, name: str, entities: Sequence[Entity]) -> None:
        for batch in _batches(entities, WRITE_BATCH):
            await self._engine.run(
                lambda client, left_s, batch=batch: client.upsert(name, batch, timeout=left_s)  # type: ignore[misc]
            )

    async def _delete_existing(self, name: str, field: str, values: Sequence[str], size: int) -> None:
        """Delete the rows whose field has one of these values, `size` values at a time.

        Looks first: the engine would keep a tombstone for every row that is not there.
        """
        for batch in _batches(values, size):
            found = await self._query(name, one_of(field, batch), ("id",), Consistency.STRONG)
            for doomed in _batches([entity["id"] for entity in found], ID_BATCH):
                await self._engine.run(
                    lambda client, left_s, doomed=doomed: client.delete(name, ids=doomed, timeout=left_s)  # type: ignore[misc]
                )

    async def _query(
        self,
        name: str,
        where: str,
        fields: Sequence[str],
        consistency: Consistency,
        *,
        limit: int = MAX_LIMIT,
        options: Mapping[str, str] = _NO_OPTIONS,
    ) -> list[Entity]:
        def query(client: MilvusClient, left_s: float) -> list[Entity]:
            return list(
                client.query(
                    name,
                    filter=where,
                    output_fields=list(fields),
                    limit=limit,
                    consistency_level=consistency.value,
                    timeout=left_s,
                    **options,
                )
            )

        return await self._engine.run(query, reads=name)

    async def _count(self, name: str, where: str, consistency: Consistency) -> int:
        def count(client: MilvusClient, left_s: float) -> int:
            found = client.query(
                name,
                filter=where,
                output_fields=["count(*)"],
                consistency_level=consistency.value,
                timeout=left_s,
            )
            return int(found[0]["count(*)"])

        return await self._engine.run(count, reads=name)

    async def _search(
        self,
        generation: Generation,
        name: str,
        vectors: NDArray[np.float32],
        *,
        limit: int,
        where: str,
        params: SearchParams,
        fields: Sequence[str],
    ) -> list[list[Entity]]:
        array = check_vectors(vectors, generation.dimension)
        check_limit(limit)
        if not 1 <= len(array) <= MAX_VECTORS:
            raise InvalidArgument(f"a search has 1 to {MAX_VECTORS} vectors, not {len(array)}", field="vectors")
        nprobe = self.nprobe(generation, params) or index_nlist(generation.index)
        search_params: dict[str, Any] = {
            "metric_type": generation.index.metric.value,
            "params": {"nprobe": nprobe},
        }

        def search(client: MilvusClient, left_s: float) -> list[list[Entity]]:
            found = client.search(
                name,
                data=list(array),
                filter=where,
                limit=limit,
                output_fields=list(fields),
                search_params=search_params,
                consistency_level=params.consistency.value,
                timeout=left_s,
            )
            return [list(hits) for hits in found]

        return await self._engine.run(search, reads=name)


def check_limit(limit: int) -> None:
    """InvalidArgument if so many rows can not be asked for at once."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidArgument(f"a limit is 1 to {MAX_LIMIT}, not {limit}", field="limit")


def _batches(items: Sequence[_T], size: int) -> Iterator[list[_T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
