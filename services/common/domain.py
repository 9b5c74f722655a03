"""The things that services speak of among themselves, free of protobuf: boxes, masks, tags, segments, models.

Coordinates are fractions of the image's width and height after its EXIF orientation is applied: (0, 0) is the top
left corner, (1, 1) the bottom right one.
"""

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidArgument

__all__ = ["Analysis", "Box", "Lane", "Mask", "ModelInfo", "Point", "Segment", "Tag", "Vector", "VocabularyEntry"]

Vector = NDArray[np.float32]
"""Unit-length, shape [dimension]."""


class Lane(Enum):
    """Which queue a call waits in."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned box with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def area(self) -> float:
        """Share of the image that the box covers, in (0, 1]."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    @property
    def center(self) -> tuple[float, float]:
        """(x, y) of the middle."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def checked(self, field: str = "box") -> "Box":
        """The box itself, or InvalidArgument if it is empty, not finite, or reaches outside the image."""
        for name, low, high in (("x", self.x0, self.x1), ("y", self.y0, self.y1)):
            # Written so that NaN fails too.
            if not 0 <= low < high <= 1:
                raise InvalidArgument(
                    f"needs 0 <= {name}0 < {name}1 <= 1 as fractions of the image, not {low:g} and {high:g}",
                    field=field,
                    reason="BOX_OUTSIDE_IMAGE",
                )
        return self


@dataclass(frozen=True, slots=True)
class Point:
    """A prompt point; `background` where it lies outside the wanted region."""

    x: float
    y: float
    background: bool = False

    def checked(self, field: str = "point") -> "Point":
        """The point itself, or InvalidArgument if it is not finite or outside the image."""
        if not (0 <= self.x <= 1 and 0 <= self.y <= 1):
            raise InvalidArgument(
                f"needs x and y in [0, 1] as fractions of the image, not {self.x:g} and {self.y:g}",
                field=field,
                reason="POINT_OUTSIDE_IMAGE",
            )
        return self


@dataclass(frozen=True, slots=True)
class Mask:
    """A binary mask as run lengths down the columns, beginning with a run of zeros (uncompressed COCO RLE)."""

    height: int
    width: int
    counts: tuple[int, ...]

    @classmethod
    def from_array(cls, array: NDArray[np.bool_]) -> "Mask":
        """Encode a boolean array of shape [height, width]."""
        flat = array.ravel(order="F")
        edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        bounds = np.concatenate(([0], edges, [flat.size]))
        counts = [int(run) for run in np.diff(bounds)]
        if flat.size and flat[0]:
            counts.insert(0, 0)
        height, width = array.shape
        return cls(height, width, tuple(counts))

    def to_array(self) -> NDArray[np.bool_]:
        """Decode to a boolean array of shape [height, width]."""
        values = np.arange(len(self.counts)) % 2 == 1
        flat = np.repeat(values, np.asarray(self.counts, dtype=np.int64))
        return flat.reshape((self.height, self.width), order="F")


@dataclass(frozen=True, slots=True)
class Tag:
    """A word for an image or a segment; confidence in [0, 1], 1 where a person set it."""

    name: str
    category: str = ""
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class VocabularyEntry:
    """A word that may become a tag."""

    name: str
    category: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """A region of an image; see the contract's Segment for the meaning of each number."""

    index: int
    box: Box
    area_fraction: float
    predicted_iou: float
    stability: float
    mask: Mask | None = None
    tags: tuple[Tag, ...] = ()
    vector: Vector | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Analysis:
    """An image taken apart; width and height in pixels after EXIF orientation."""

    vector: Vector
    segments: tuple[Segment, ...]
    tags: tuple[Tag, ...]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What an embedder has loaded; see the contract's GetModelResponse."""

    model: str
    fingerprint: str
    dimension: int
    has_text: bool
    logit_scale: float
    segmenter: str
    device: str
    precision: str
    max_items: int
    max_image_bytes: int
    max_image_pixels: int
    models: tuple[str, ...]
