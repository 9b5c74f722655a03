"""Binary masks as run lengths, and the boxes and areas that follow from them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BoolMask", "Box", "Rle", "area_fraction", "bounding_box", "decode", "encode", "iou"]

BoolMask = npt.NDArray[np.bool_]
"""Shape (height, width), True where the object is visible."""
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as fractions of the image's width and height, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Rle:
    """Uncompressed COCO run lengths: column-major, beginning with a run of zeros (possibly of length 0).

    The counts sum to height x width.
    """

    height: int
    width: int
    counts: tuple[int, ...]


def encode(mask: BoolMask) -> Rle:
    """Run lengths of a (height, width) mask."""
    height, width = mask.shape
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate(([0], edges, [flat.size]))).tolist()
    counts = [0, *runs] if flat.size and flat[0] else runs
    return Rle(height, width, tuple(counts))


def decode(rle: Rle) -> BoolMask:
    """The (height, width) mask of some run lengths."""
    values = np.arange(len(rle.counts)) % 2 == 1
    return np.repeat(values, rle.counts).reshape((rle.height, rle.width), order="F")


def bounding_box(mask: BoolMask) -> Box:
    """The tight box of a mask as fractions of its sides. ValueError for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        raise ValueError("an empty mask has no box")
    height, width = mask.shape
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )


def area_fraction(mask: BoolMask) -> float:
    """The part of the image that a mask covers, in [0, 1]."""
    return float(mask.mean())


def iou(a: BoolMask, b: BoolMask) -> float:
    """Intersection over union of two masks of one shape, in [0, 1]; 0 when both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0
