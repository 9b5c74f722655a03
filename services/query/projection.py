"""A collection on a plane: near images near each other."""

import asyncio
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.common.domain import Vector
from services.common.errors import FailedPrecondition
from services.common.vectors import Consistency, Generation, VectorStore

__all__ = ["Flattened", "Method", "Placed", "Projector", "flatten", "sampled"]

_NEIGHBOURS: Final = 15


class Method(Enum):
    """How vectors become places."""

    PCA = "pca"
    UMAP = "umap"


@dataclass(frozen=True, slots=True)
class Placed:
    """An image's name and first tag; empty: it has none."""

    id: str
    tag: str


@dataclass(frozen=True, slots=True, eq=False)
class Flattened:
    """Places on a plane.

    Attributes:
        images: Shape [n, 2].
        others: Places of what was to be shown too, shape [m, 2].
        explained: Share of the variance along each axis; none where the method has no such thing.
    """

    images: NDArray[np.float32]
    others: NDArray[np.float32]
    explained: tuple[float, ...]


class Projector:
    """Maps collections. Safe for concurrent use."""

    def __init__(self, vectors: VectorStore) -> None:
        """Read from `vectors`."""
        self._vectors = vectors

    async def sample(self, generation: Generation, where: str, most: int) -> tuple[list[Placed], Vector]:
        """At most `most` of the images that pass `where`, the same ones at each call, and their vectors [n, d]."""
        tags: dict[str, str] = {}
        after = ""
        while rows := await self._vectors.list_image_tags(
            generation, where=where, start_after=after, consistency=Consistency.BOUNDED
        ):
            tags |= {name: next(iter(some), "") for name, some in rows}
            after = rows[-1][0]
        # Hashing every name of a large collection would hold up all other calls.
        chosen = await asyncio.to_thread(sampled, list(tags), most)
        vectors = await self._vectors.get_image_vectors(generation, chosen)
        names = sorted(vectors)
        stacked = np.array([vectors[name] for name in names], dtype=np.float32)
        return [Placed(name, tags[name]) for name in names], stacked.reshape(len(names), generation.dimension)


def sampled(names: Sequence[str], most: int) -> list[str]:
    """At most `most` names, as if drawn at random, but always the same ones; sorted."""
    if len(names) <= most:
        return sorted(names)
    return sorted(sorted(names, key=lambda name: blake2b(name.encode(), digest_size=8).digest())[:most])


def flatten(vectors: Vector, others: Vector, method: Method) -> Flattened:
    """Lay unit-length vectors [n, d] and others [m, d] on one plane.

    Raises:
        FailedPrecondition: the method's library is not installed.
    """
    if len(vectors) < 2:
        # One image lies in the middle of the map, and there is nothing to lay others by.
        return Flattened(_origin(len(vectors)), _origin(len(others)), ())
    if method is Method.UMAP:
        return _umap(vectors, others)
    return _pca(vectors, others)


def _pca(vectors: Vector, others: Vector) -> Flattened:
    middle = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - middle
    variances, axes = np.linalg.eigh(centred.T @ centred)
    first = axes[:, ::-1][:, :2]
    # An axis and its reverse are the same; the map must not turn over from call to call.
    largest = np.abs(first).argmax(axis=0)
    first = first * np.sign(first[largest, np.arange(first.shape[1])])
    total = max(float(variances.sum()), 1e-12)
    explained = tuple(float(max(value, 0.0)) / total for value in variances[::-1][:2])
    return Flattened(_plane(centred @ first), _plane((others - middle) @ first), explained)


def _umap(vectors: Vector, others: Vector) -> Flattened:
    try:
        umap: Any = importlib.import_module("umap")
    except ImportError as exc:
        raise FailedPrecondition(
            "UMAP needs the package umap-learn, which is not installed beside the query service; use PCA",
            field="method",
            reason="METHOD_NOT_INSTALLED",
        ) from exc
    neighbours = min(_NEIGHBOURS, len(vectors) - 1)
    reducer = umap.UMAP(n_components=2, n_neighbors=neighbours, metric="cosine", random_state=0)
    images = reducer.fit_transform(vectors)
    return Flattened(_plane(images), _plane(reducer.transform(others)) if len(others) else _origin(0), ())


def _plane(places: NDArray[Any]) -> NDArray[np.float32]:
    """Places as float32 [n, 2]; vectors of one number have one axis only."""
    flat = np.zeros((len(places), 2), dtype=np.float32)
    flat[:, : places.shape[1]] = places
    return flat


def _origin(count: int) -> NDArray[np.float32]:
    return np.zeros((count, 2), dtype=np.float32)
