"""Which generations there are: made, named by aliases, removed."""

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Final

from pymilvus import CollectionSchema, MilvusClient
from pymilvus.exceptions import MilvusException
from pymilvus.milvus_client.index import IndexParams

from services.common.errors import FailedPrecondition
from services.common.records import IndexType
from services.common.vectors.engine import ALIAS_NOT_FOUND, COLLECTION_NOT_FOUND, Engine
from services.common.vectors.rows import Consistency, Generation, IndexSurvey
from services.common.vectors.schema import (
    FINGERPRINT_PROPERTY,
    TEXT_FIELD,
    aliases,
    belongs_to,
    bits_index_params,
    bits_name,
    images_name,
    images_schema,
    index_params,
    number_of,
    segments_name,
    segments_schema,
)
from services.common.vectors.signs import sign_count

__all__ = ["Catalog"]

_FULL_TEXT_FROM: Final = (2, 5)


@dataclass(frozen=True, slots=True)
class _Table:
    """A physical collection as it is made."""

    name: str
    schema: CollectionSchema
    indexes: IndexParams
    dimension: int


class Catalog:
    """The collections that Milvus holds for us."""

    def __init__(self, engine: Engine) -> None:
        """Work through `engine`."""
        self._engine = engine
        self._with_text: dict[str, bool] = {}

    async def create_generation(self, generation: Generation) -> None:
        """See VectorStore."""
        await self.check_index(generation)
        # What was known of one that stood here before, on another engine perhaps, holds no more.
        self._with_text.pop(images_name(generation), None)
        with_text = await self._engine.run(_indexes_text)
        # Milvus takes 3 s for each.
        made = await asyncio.gather(
            *[self._create(generation, table) for table in _tables(generation, with_text)],
            return_exceptions=True,
        )
        # All have ended before any one's error is told: nothing goes on behind the caller's back.
        for error in made:
            if error is not None:
                raise error

    async def check_index(self, generation: Generation) -> None:
        """See VectorStore."""
        if generation.index.type is IndexType.LSH and not await self._engine.run(_has_binary_vectors):
            raise FailedPrecondition(
                "an LSH index needs binary vectors, which milvus-lite lacks; choose another index, or run Milvus",
                field="index.type",
                reason="INDEX_UNAVAILABLE",
            )

    async def indexes_text(self, generation: Generation) -> bool:
        """Whether the generation's images can be found by the words of their titles."""
        name = images_name(generation)
        if name not in self._with_text:
            described = await self._engine.run(
                lambda client, left_s: client.describe_collection(name, timeout=left_s), again=True
            )
            self._with_text[name] = any(field["name"] == TEXT_FIELD for field in described["fields"])
        return self._with_text[name]

    async def _create(self, generation: Generation, table: _Table) -> None:
        name, indexes = table.name, table.indexes

        def create(client: MilvusClient, left_s: float) -> None:
            if not client.has_collection(name, timeout=left_s):
                try:
                    client.create_collection(
                        name,
                        schema=table.schema,
                        index_params=indexes,
                        # Calls say theirs, but pymilvus leaves it out where it asks for rows in order.
                        consistency_level=Consistency.STRONG.value,
                        properties={FINGERPRINT_PROPERTY: generation.fingerprint},
                        timeout=left_s,
                    )
                except MilvusException:
                    # Another replica may have been faster; what stands there now is checked below.
                    if not client.has_collection(name, timeout=left_s):
                        raise
            _check(client.describe_collection(name, timeout=left_s), generation, table)
            if not client.list_indexes(name, timeout=left_s):
                try:
                    client.create_index(name, indexes, timeout=left_s)
                except MilvusException:
                    # As above: another replica was faster.
                    if not client.list_indexes(name, timeout=left_s):
                        raise
            client.load_collection(name, timeout=left_s)

        # milvus-lite is between two states while another replica makes it, and says that it is not ready.
        await self._engine.run(create, again=True)

    async def activate(self, generation: Generation) -> None:
        """See VectorStore."""
        names = (images_name(generation), segments_name(generation))
        for alias, name in zip(aliases(generation.collection), names, strict=True):
            await self._point(alias, name)

    async def _point(self, alias: str, name: str) -> None:
        def point(client: MilvusClient, left_s: float) -> None:
            try:
                client.alter_alias(name, alias, timeout=left_s)
            except MilvusException:
                if not client.has_collection(name, timeout=left_s) or _alias_target(client, alias, left_s):
                    raise
                client.create_alias(name, alias, timeout=left_s)

        await self._engine.run(point)

    async def survey(self, generation: Generation) -> IndexSurvey:
        """See VectorStore."""

        def look(client: MilvusClient, left_s: float) -> IndexSurvey:
            names = set(client.list_collections(timeout=left_s))
            wanted = _tables(generation, with_text=False)
            there = [table for table in wanted if table.name in names]
            fits = [_fits(client.describe_collection(table.name, timeout=left_s), generation, table) for table in there]
            targets = (images_name(generation), segments_name(generation))
            named = [_alias_target(client, alias, left_s) for alias in aliases(generation.collection)]
            return IndexSurvey(
                complete=len(there) == len(wanted),
                of_this_model=all(fits),
                active=tuple(named) == targets,
                numbers=frozenset(n for name in names if (n := number_of(name, generation.collection))),
            )

        return await self._engine.run(look)

    async def deactivate(self, collection: str) -> None:
        """See VectorStore."""

        def drop(client: MilvusClient, left_s: float) -> None:
            for alias in aliases(collection):
                if _alias_target(client, alias, left_s):
                    client.drop_alias(alias, timeout=left_s)

        await self._engine.run(drop)

    async def drop_generation(self, generation: Generation) -> None:
        """See VectorStore."""

        def drop(client: MilvusClient, left_s: float) -> None:
            for name in _names(generation):
                if client.has_collection(name, timeout=left_s):
                    client.drop_collection(name, timeout=left_s)

        await self._engine.run(drop)

    async def drop_collection(self, collection: str) -> None:
        """See VectorStore."""

        await self.deactivate(collection)

        def drop(client: MilvusClient, left_s: float) -> None:
            for name in client.list_collections(timeout=left_s):
                if belongs_to(name, collection):
                    client.drop_collection(name, timeout=left_s)

        await self._engine.run(drop)


def _names(generation: Generation) -> tuple[str, ...]:
    """Every physical name that a generation can have."""
    names = (images_name(generation), segments_name(generation))
    return (*names, *map(bits_name, names))


def _tables(generation: Generation, with_text: bool) -> list[_Table]:
    images, segments, dimension = images_name(generation), segments_name(generation), generation.dimension
    tables = [
        _Table(
            images,
            images_schema(dimension, with_text=with_text),
            index_params(generation, with_text=with_text),
            dimension,
        ),
        _Table(segments, segments_schema(dimension), index_params(generation), dimension),
    ]
    if generation.index.type is IndexType.LSH:
        signs = [
            (images, images_schema(dimension, with_text=False, signs=True)),
            (segments, segments_schema(dimension, signs=True)),
        ]
        tables += [
            _Table(bits_name(name), schema, bits_index_params(), sign_count(dimension)) for name, schema in signs
        ]
    return tables


def _has_binary_vectors(client: MilvusClient, left_s: float) -> bool:
    return not client.get_server_version(timeout=left_s).startswith("milvus_lite")


def _indexes_text(client: MilvusClient, left_s: float) -> bool:
    """Whether the engine has full-text search: milvus-lite from 3.0, Milvus from 2.5 on."""
    version = client.get_server_version(timeout=left_s)
    match = re.search(r"(\d+)\.(\d+)", version)
    return match is not None and (int(match[1]), int(match[2])) >= _FULL_TEXT_FROM


def _alias_target(client: MilvusClient, alias: str, left_s: float) -> str:
    try:
        return str(client.describe_alias(alias, timeout=left_s).get("collection_name", ""))
    except MilvusException as exc:
        if exc.code in {ALIAS_NOT_FOUND, COLLECTION_NOT_FOUND}:
            return ""
        raise


def _model_of(description: dict[str, Any]) -> tuple[str, int]:
    """Fingerprint and dimension of what a physical collection holds."""
    fingerprint = description["properties"].get(FINGERPRINT_PROPERTY, "")
    dimension = next(field["params"]["dim"] for field in description["fields"] if field["name"] == "vector")
    return str(fingerprint), int(dimension)


def _fits(description: dict[str, Any], generation: Generation, table: _Table) -> bool:
    return _model_of(description) == (generation.fingerprint, table.dimension)


def _check(description: dict[str, Any], generation: Generation, table: _Table) -> None:
    if not _fits(description, generation, table):
        fingerprint, dimension = _model_of(description)
        raise FailedPrecondition(
            f"Milvus has a collection {table.name} of dimension {dimension} for the model {fingerprint or 'unknown'}, "
            f"not of dimension {table.dimension} for the model {generation.fingerprint}; take another collection",
            reason="MODEL_MISMATCH",
        )
