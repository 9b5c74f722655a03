"""Vectors and rows for tests of the vector index, and what they ask of it."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.domain import Box, Vector
from services.common.settings import VectorSettings
from services.common.vectors import Consistency, Generation, ImageRow, SearchParams, SegmentRow, VectorStore
from tests.engines import MilvusServer
from tests.unit.common.vectors.filter_model import DIMENSION

STRONG: Final = SearchParams(consistency=Consistency.STRONG)


class StartMilvus(Protocol):
    def __call__(self, data_dir: Path) -> AbstractContextManager[MilvusServer]: ...


def settings_for(engine: MilvusServer) -> VectorSettings:
    # Patient: what is shown here is what the answers are, on machines that do other work too.
    return VectorSettings(milvus_uri=engine.uri, milvus_timeout_s=60)


def vectors_of(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors, shape [count, DIMENSION]."""
    array = np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)
    return np.asarray(array / np.linalg.norm(array, axis=1, keepdims=True), dtype=np.float32)


def image(image_id: str, vector: Vector, *, width: int = 640) -> ImageRow:
    return ImageRow(image_id, vector, {"cat": 1.0, "Käse": 0.25}, {"n": 1.5, "deep": {"flag": True}}, width, 480, 1_000)


def segment(image_id: str, index: int, vector: Vector) -> SegmentRow:
    box = Box(0.0, 0.25, 0.5, 1.0)
    return SegmentRow(image_id, index, vector, box, 0.25, 0.5, {"ear": 0.5}, {"cat": 1.0}, {"n": 1.5}, 640, 480, 1_000)


async def counts(store: VectorStore, generation: Generation) -> tuple[int, int]:
    """How many images and segments there are."""
    return await store.count_images(generation), await store.count_segments(generation)
