"""Single calls on Milvus' collections: rows written, removed, read, counted and searched, a batch at a time."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

from pymilvus import MilvusClient

from services.common.errors import InvalidArgument
from services.common.vectors.codec import Entity
from services.common.vectors.engine import Engine
from services.common.vectors.literals import one_of
from services.common.vectors.rows import Consistency

__all__ = ["ID_BATCH", "MAX_LIMIT", "Tables", "batches", "check_limit"]

# Milvus' most rows in one answer.
MAX_LIMIT: Final = 16_384
# Rows in one write: at most 34 MB at 1,024 dimensions and with all the metadata that rows may have. Milvus takes 64 MB.
WRITE_BATCH: Final = 500
# Ids in one query or delete.
ID_BATCH: Final = 2_000

_NO_OPTIONS: Final[Mapping[str, str]] = {}

_T = TypeVar("_T")


class Tables:
    """Milvus' collections by their physical names. Safe for concurrent use."""

    def __init__(self, engine: Engine) -> None:
        """Work through `engine`."""
        self._engine = engine

    async def upsert(self, name: str, entities: Sequence[Entity]) -> None:
        """Write rows; rows of the same id are replaced."""
        for batch in batches(entities, WRITE_BATCH):
            await self._engine.run(
                lambda client, left_s, batch=batch: client.upsert(name, batch, timeout=left_s),  # type: ignore[misc]
                again=True,
            )

    async def delete_existing(self, name: str, field: str, values: Sequence[str], size: int) -> None:
        """Delete the rows whose field has one of these values, `size` values at a time.

        Looks first: the engine would keep a tombstone for every row that is not there.
        """
        for batch in batches(values, size):
            found = await self.query(name, one_of(field, batch), ("id",), Consistency.STRONG)
            for doomed in batches([entity["id"] for entity in found], ID_BATCH):
                await self._engine.run(
                    lambda client, left_s, doomed=doomed: client.delete(name, ids=doomed, timeout=left_s),  # type: ignore[misc]
                    again=True,
                )

    async def query(
        self,
        name: str,
        where: str,
        fields: Sequence[str],
        consistency: Consistency,
        *,
        limit: int = MAX_LIMIT,
        options: Mapping[str, str] = _NO_OPTIONS,
    ) -> list[Entity]:
        """The fields of at most `limit` rows that pass `where`."""

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

    async def count(self, name: str, where: str, consistency: Consistency) -> int:
        """How many rows pass `where`."""

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

    async def search(
        self,
        name: str,
        data: Sequence[Any],
        *,
        field: str,
        metric: str,
        options: Mapping[str, int],
        where: str,
        limit: int,
        consistency: Consistency,
    ) -> list[list[Entity]]:
        """For each of `data` the `limit` rows nearest to it in `field`: "id" and Milvus' own "distance", best first."""

        def search(client: MilvusClient, left_s: float) -> list[list[Entity]]:
            found = client.search(
                name,
                data=list(data),
                anns_field=field,
                filter=where,
                limit=limit,
                output_fields=["id"],
                search_params={"metric_type": metric, "params": dict(options)},
                consistency_level=consistency.value,
                timeout=left_s,
            )
            return [list(hits) for hits in found]

        return await self._engine.run(search, reads=name)


def check_limit(limit: int) -> None:
    """InvalidArgument if so many rows can not be asked for at once."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidArgument(f"a limit is 1 to {MAX_LIMIT}, not {limit}", field="limit")


def batches(items: Sequence[_T], size: int) -> Iterator[list[_T]]:
    """The items in lists of `size`, the last one shorter."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
