"""A query as the service understands it: checked, frozen, free of protobuf.

Every content carries `field`, the path in the request that an error about it names.
"""

from dataclasses import dataclass
from enum import Enum

from services.common.domain import Box, Point, Vector
from services.common.vectors import SearchParams

__all__ = [
    "Address",
    "Content",
    "Mode",
    "OwnVector",
    "Picture",
    "QueryPart",
    "Region",
    "SearchQuery",
    "Stored",
    "StoredSegment",
    "Text",
    "Upload",
]


class Mode(Enum):
    """Which vectors answer."""

    WHOLE = "whole"
    SEGMENT = "segment"
    HYBRID = "hybrid"


@dataclass(frozen=True, slots=True)
class Text:
    """Words."""

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class Upload:
    """An encoded image that came with the request."""

    field: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Address:
    """An encoded image somewhere else."""

    field: str
    url: str


@dataclass(frozen=True, slots=True)
class Stored:
    """An image of the collection."""

    field: str
    image_id: str


Picture = Upload | Address | Stored
"""Where an image comes from."""


@dataclass(frozen=True, slots=True)
class Region:
    """What points (at least one in the foreground) or a box mean on a picture."""

    field: str
    picture: Picture
    points: tuple[Point, ...]
    box: Box | None


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A segment of an image of the collection."""

    field: str
    image_id: str
    index: int


@dataclass(frozen=True, slots=True)
class OwnVector:
    """The caller's own vector, unit-length."""

    field: str
    vector: Vector


Content = Text | Picture | Region | StoredSegment | OwnVector
"""What one part looks for."""


@dataclass(frozen=True, slots=True)
class QueryPart:
    """One element of a query; weight finite, negative: away from it."""

    index: int
    content: Content
    weight: float


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A query.

    Attributes:
        collection: Its name.
        parts: 1 to 16; at least one weight is positive.
        mode: Which vectors answer.
        whole_weight: What whole-image similarity counts, >= 0; 0 in SEGMENT mode.
        segment_weight: What segment similarity counts, >= 0; 0 in WHOLE mode. Never both 0.
        image_where: Filter expression over rows of images; empty: all.
        segment_where: Filter expression over rows of segments; empty: all.
        top_k: Most results, 1 to 100.
        shown: Digests of the images that earlier pages showed.
        min_score: Lowest score, in [0, 1].
        params: How the engine searches.
        explain: Whether results say how their score came about.
        include_masks: Whether matched segments carry their masks.
        digest: Of the request without page_token and top_k.
    """

    collection: str
    parts: tuple[QueryPart, ...]
    mode: Mode
    whole_weight: float
    segment_weight: float
    image_where: str
    segment_where: str
    top_k: int
    shown: frozenset[bytes]
    min_score: float
    params: SearchParams
    explain: bool
    include_masks: bool
    digest: bytes

    @property
    def named_images(self) -> frozenset[str]:
        """Stored images that the query itself names: they are no answer to it."""
        contents = [part.content for part in self.parts]
        pictures = [content.picture if isinstance(content, Region) else content for content in contents]
        return frozenset(picture.image_id for picture in pictures if isinstance(picture, Stored | StoredSegment))
