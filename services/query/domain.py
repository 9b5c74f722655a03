"""A query as the service understands it: checked, frozen, free of protobuf.

Every content carries `field`, the path in the request that an error about it names.
"""

from dataclasses import dataclass
from enum import Enum

from services.common.domain import Box, Lane, Point, Vector
from services.common.vectors import SearchParams

__all__ = [
    "Address",
    "Content",
    "Mode",
    "OwnVector",
    "Picture",
    "Place",
    "Placement",
    "QueryPart",
    "Region",
    "Relation",
    "RelationKind",
    "SearchQuery",
    "Stored",
    "StoredSegment",
    "Text",
    "Upload",
]


class Place(Enum):
    """A third of a picture."""

    LEFT = "left"
    RIGHT = "right"
    TOP = "top"
    BOTTOM = "bottom"
    CENTER = "center"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where something should be: a named place, or a box; exactly one is there."""

    place: Place = Place.CENTER
    box: Box | None = None


class RelationKind(Enum):
    """How one thing should stand to another."""

    LEFT_OF = "left of"
    RIGHT_OF = "right of"
    ABOVE = "above"
    BELOW = "below"
    NEAR = "near"
    INSIDE = "inside"


@dataclass(frozen=True, slots=True)
class Relation:
    """How the first part should stand to the second; both are indices into `SearchQuery.parts`, and differ."""

    first: int
    kind: RelationKind
    second: int


class Mode(Enum):
    """Which vectors answer."""

    WHOLE = "whole"
    SEGMENT = "segment"
    HYBRID = "hybrid"
    TAGS = "tags"


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
    """One element of a query.

    Attributes:
        index: Of the part in the request that it comes from; a text may be read as two, and a modifier is one more.
        content: What to look for.
        weight: Finite; negative: away from it.
        placement: Where it should be; None: anywhere.
        count: How many of it there should be; 0: any number.
    """

    index: int
    content: Content
    weight: float
    placement: Placement | None = None
    count: int = 0


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A query.

    Attributes:
        collection: Its name.
        parts: What to look for; at least one weight is positive. None: by title alone, or by tags and a filter.
        relations: How parts should stand to each other.
        mode: Which vectors answer.
        whole_weight: What whole-image similarity counts, >= 0; 0 in SEGMENT and TAGS mode.
        segment_weight: What segment similarity counts, >= 0; 0 in WHOLE and TAGS mode.
        tag_weight: What tag agreement counts, >= 0; 0 in WHOLE and SEGMENT mode. Never all three 0.
        title_text: Words to find in titles and descriptions; empty: none.
        target_recall: Recall@10 to aim for, in (0, 1]; 0: the collection's.
        image_where: Filter expression over rows of images; empty: all.
        segment_where: Filter expression over rows of segments; empty: all.
        top_k: Most results, 1 to 100.
        shown: Digests of the images that earlier pages showed.
        position_weight: What place, relation and count weigh in a score where they are asked for, in [0, 1].
        min_score: Lowest score, in [0, 1].
        fold_duplicates: Whether near-duplicates are folded into their best one.
        diversity: Variety among results, in [0, 1]; 0: none.
        params: How the engine searches.
        explain: Whether results say how their score came about.
        include_masks: Whether matched segments carry their masks.
        digest: Of the request without page_token, top_k and lane.
        lane: How urgent it is.
    """

    collection: str
    parts: tuple[QueryPart, ...]
    relations: tuple[Relation, ...]
    mode: Mode
    whole_weight: float
    segment_weight: float
    tag_weight: float
    title_text: str
    target_recall: float
    image_where: str
    segment_where: str
    top_k: int
    shown: frozenset[bytes]
    position_weight: float
    min_score: float
    fold_duplicates: bool
    diversity: float
    params: SearchParams
    explain: bool
    include_masks: bool
    digest: bytes
    lane: Lane = Lane.INTERACTIVE

    @property
    def compares_results(self) -> bool:
        """Whether results are compared with each other, for which whole vectors are needed in every mode."""
        return self.fold_duplicates or self.diversity > 0

    @property
    def named_images(self) -> frozenset[str]:
        """Stored images that the query itself names: they are no answer to it."""
        contents = [part.content for part in self.parts]
        pictures = [content.picture if isinstance(content, Region) else content for content in contents]
        return frozenset(picture.image_id for picture in pictures if isinstance(picture, Stored | StoredSegment))
