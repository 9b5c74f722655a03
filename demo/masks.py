"""Binary masks of demo scenes: their boxes and their likeness. `services.common.domain.Mask` holds run lengths."""

import numpy as np
import numpy.typing as npt

from services.embedder.masks import tight_box

__all__ = ["BoolMask", "Box", "bounding_box", "iou"]

BoolMask = npt.NDArray[np.bool_]
"""Shape (height, width), True where the object is visible."""
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as fractions of the image's width and height, in [0, 1]."""


def bounding_box(mask: BoolMask) -> Box:
    """The tight box of a mask with at least one pixel set, as fractions of its sides."""
    box = tight_box(mask)
    return box.x0, box.y0, box.x1, box.y1


def iou(a: BoolMask, b: BoolMask) -> float:
    """Intersection over union of two masks of one shape, in [0, 1]; 0 when both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0
