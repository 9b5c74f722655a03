"""What goes into the vector index and what comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from services.common.domain import Box, Vector
from services.common.records import CollectionRecord, IndexSpec
from services.common.vectors.index import DEFAULT_NLIST

__all__ = [
    "Consistency",
    "FoundSegment",
    "Generation",
    "ImageHit",
    "ImageRow",
    "IndexSurvey",
    "SearchParams",
    "SegmentHit",
    "SegmentRow",
    "TitleHit",
]


@dataclass(frozen=True, slots=True)
class Generation:
    """One build of a collection's index: all its vectors come from the model with this fingerprint."""

    collection: str
    number: int
    dimension: int
    fingerprint: str
    index: IndexSpec = field(default_factory=IndexSpec)

    @classmethod
    def of(cls, record: CollectionRecord) -> "Generation":
        """The collection's live generation; its index as it was built, with its number of lists."""
        index = record.index.model_copy(update={"nlist": record.index.nlist or record.built_nlist or DEFAULT_NLIST})
        return cls(record.name, record.generation, record.dimension, record.fingerprint, index)


@dataclass(frozen=True, slots=True)
class IndexSurvey:
    """What the index has of one generation, and of its collection.

    Attributes:
        complete: Whether all of the generation's physical collections are there.
        of_this_model: Whether those that are there are for the generation's model.
        active: Whether the collection's aliases name the generation.
        numbers: Generations of the collection that the index has anything of.
    """

    complete: bool
    of_this_model: bool
    active: bool
    numbers: frozenset[int]


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A whole image; width and height in pixels after EXIF orientation, times in milliseconds since the epoch.

    `tags` are names with their confidence in [0, 1], in order; a person's have 1. `text` is its title and description.
    """

    id: str
    vector: Vector = field(compare=False)
    tags: Mapping[str, float]
    metadata: dict[str, Any]
    width: int
    height: int
    created_at_ms: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A segment, with what filters ask of its image: `image_tags`, `metadata`, `width`, `height`, `created_at_ms`.

    `area` is the share of the image that the mask covers, in (0, 1]; `stability` is in [0, 1].
    """

    image_id: str
    index: int
    vector: Vector = field(compare=False)
    box: Box
    area: float
    stability: float
    tags: Mapping[str, float]
    image_tags: Mapping[str, float]
    metadata: dict[str, Any]
    width: int
    height: int
    created_at_ms: int

    @property
    def id(self) -> str:
        """Its key in the index."""
        return f"{self.image_id}/{self.index}"


@dataclass(frozen=True, slots=True)
class FoundSegment:
    """What ranking needs of a segment: its own part of a `SegmentRow`."""

    image_id: str
    index: int
    vector: Vector = field(compare=False)
    box: Box
    area: float
    stability: float
    tags: Mapping[str, float]


class Consistency(Enum):
    """Which writes a read is sure to see."""

    EVENTUAL = "Eventually"
    """Whatever the engine has at hand; the fastest."""
    BOUNDED = "Bounded"
    """All but those of the last seconds: a row may be missing that was just written, or there that was just deleted."""
    STRONG = "Strong"
    """All that were acknowledged before it began. Milvus takes 0.2 to 0.3 s longer for it."""


@dataclass(frozen=True, slots=True)
class SearchParams:
    """How a search is made; nprobe 0: chosen. `exact` compares with every row."""

    nprobe: int = 0
    exact: bool = False
    consistency: Consistency = Consistency.BOUNDED


@dataclass(frozen=True, slots=True)
class ImageHit:
    """A found image; similarity is the cosine, in [-1, 1]."""

    id: str
    similarity: float


@dataclass(frozen=True, slots=True)
class TitleHit:
    """An image whose title or description has the words; score is BM25's, > 0."""

    id: str
    score: float


@dataclass(frozen=True, slots=True)
class SegmentHit:
    """A found segment; similarity is the cosine, in [-1, 1]."""

    image_id: str
    index: int
    similarity: float
