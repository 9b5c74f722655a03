"""What an index finds of what exact search finds, measured and kept where the query service plans by it."""

import random
from typing import Final, TypeAlias

import numpy as np
import structlog
from numpy.typing import NDArray
from pydantic import ValidationError

from services.common.domain import Lane
from services.common.embedder_client import EmbedderClient
from services.common.errors import FailedPrecondition, NotFound
from services.common.objects import ObjectMissing, ObjectStore
from services.common.records import CollectionRecord, IndexSpec, IndexType, TuningRecord, tuning_key
from services.common.vectors import Generation, VectorStore
from services.common.vectors.tuning import MIN_TUNED_ROWS, SAMPLE, measure
from services.ingest.vocabulary import Vocabularies

__all__ = ["Measuring", "recall_words"]

_log = structlog.get_logger(__name__)

Vectors: TypeAlias = NDArray[np.float32]

_DRAWN_FROM: Final = 10_000
_TEXTS_AT_ONCE: Final = 50
_TABLES: Final = ("images_by_image", "images_by_text", "segments_by_image", "segments_by_text")


class Measuring:
    """Measures generations, live or not."""

    def __init__(
        self, objects: ObjectStore, vectors: VectorStore, embedder: EmbedderClient, vocabularies: Vocabularies
    ) -> None:
        """Measure these; words of vocabularies stand for the texts that people search by."""
        self._objects = objects
        self._vectors = vectors
        self._embedder = embedder
        self._vocabularies = vocabularies

    async def known(self, collection: str, generation: int) -> TuningRecord | None:
        """What was measured of a generation; None: nothing that can be read."""
        try:
            return TuningRecord.model_validate_json(await self._objects.get(tuning_key(collection, generation)))
        except (ObjectMissing, ValidationError):
            return None

    async def measure(self, record: CollectionRecord) -> TuningRecord:
        """Measure the generation that is live under this record, and keep what was found. Takes up to minutes."""
        generation = Generation.of(record)
        images, texts = await self._pictures(generation), await self._texts(record)
        found = await measure(self._vectors, generation, images, texts)
        if max(found.image_rows, found.segment_rows) >= MIN_TUNED_ROWS and not _has_any(found, generation.index):
            # The index was not in force in time; what is not known is better tried again than kept.
            return found
        await self._objects.put(
            tuning_key(record.name, record.generation), found.to_bytes(), content_type="application/json"
        )
        return found

    async def _pictures(self, generation: Generation) -> Vectors:
        """Vectors of stored images, and of a segment of each: people search by pictures and by parts of them."""
        ids = await self._vectors.list_image_ids(generation, where="", limit=_DRAWN_FROM)
        # The same sample each time, so that figures can be compared.
        sample = random.Random(len(ids)).sample(ids, min(SAMPLE, len(ids)))  # noqa: S311 - no secret
        whole = await self._vectors.get_image_vectors(generation, sample)
        parts = await self._vectors.get_segment_vectors(generation, sample[: SAMPLE // 2])
        vectors = [found[0].vector for found in parts.values()]
        vectors += [whole[name] for name in sample if name in whole and name not in parts]
        return np.stack(vectors[:SAMPLE]) if vectors else np.zeros((0, generation.dimension), np.float32)

    async def _texts(self, record: CollectionRecord) -> Vectors:
        """Vectors of words; none where the model has no text tower, or is away."""
        none = np.zeros((0, record.dimension), np.float32)
        if not record.has_text:
            return none
        try:
            words = await self._vocabularies.get(record.vocabulary)
            asked = [f"a photo of a {entry.name}" for entry in words.entries]
            asked = random.Random(len(asked)).sample(asked, min(SAMPLE, len(asked)))  # noqa: S311 - no secret
            rows = [
                await self._embedder.embed_texts(
                    asked[start : start + _TEXTS_AT_ONCE],
                    model=record.model,
                    lane=Lane.BULK,
                    fingerprint=record.fingerprint,
                )
                for start in range(0, len(asked), _TEXTS_AT_ONCE)
            ]
        except (FailedPrecondition, NotFound) as exc:
            _log.info("index measured without texts", collection=record.name, why=exc.message)
            return none
        return np.concatenate(rows)

    async def forget(self, collection: str, generation: int) -> None:
        """What was measured of a generation that is gone."""
        await self._objects.delete(tuning_key(collection, generation))


def _has_any(found: TuningRecord, index: IndexSpec) -> bool:
    return index.type is IndexType.FLAT or any(getattr(found, table) for table in _TABLES)


def recall_words(found: TuningRecord, target_recall: float) -> str:
    """What was measured, in words: the recall at the least effort that reaches the target, or at the most there is."""
    parts = []
    for table in _TABLES:
        points = getattr(found, table)
        if points:
            enough = [point for point in points if point.recall >= target_recall]
            point = enough[0] if enough else points[-1]
            parts.append(f"{table.replace('_', ' ')} {point.recall:.3f} at {point.nprobe}")
    rows = f"{found.image_rows:,} images and {found.segment_rows:,} segments"
    if not parts:
        return f"recall not measured: {rows} are compared one by one"
    return f"recall@10 against exact search among {rows}: {', '.join(parts)}"
