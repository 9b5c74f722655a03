"""Masks as arrays: their boxes, their likeness, and the choice of the best."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.common.domain import Box, Mask
from services.common.errors import InvalidArgument

__all__ = ["best", "fit_mask", "tight_box"]

MAX_AREA_FRACTION: Final = 0.95
"""A mask that covers more than this is the picture itself, which has its own vector."""
NMS_IOU: Final = 0.6
"""Of two masks with a higher IoU only the better stays."""
AREA_EXPONENT: Final = 0.25
"""How much area counts beside quality: 16 times the area is worth twice the quality."""


def tight_box(mask: NDArray[np.bool_]) -> Box:
    """The smallest box around a mask of shape [height, width] with at least one pixel set."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    return Box(
        float(columns[0]) / width,
        float(rows[0]) / height,
        float(columns[-1] + 1) / width,
        float(rows[-1] + 1) / height,
    )


def fit_mask(mask: Mask, size: tuple[int, int], field: str) -> NDArray[np.bool_]:
    """A mask over a picture as an array over that picture at another size, at least one pixel of it set.

    Args:
        mask: With at least one pixel set.
        size: Width and height wanted.
        field: For errors.

    Raises:
        InvalidArgument: the mask is not in the proportions of `size`.
    """
    width, height = size
    # Both may be roundings of another size: a side of either may be off by a pixel.
    if abs(mask.width * height - mask.height * width) > max(width, height) + max(mask.width, mask.height):
        raise InvalidArgument(
            f"the mask is {mask.width} x {mask.height}, which is not in the proportions of the image, "
            f"{width} x {height}",
            field=field,
            reason="MASK_PROPORTIONS",
        )
    array = mask.to_array()
    if array.shape == (height, width):
        return array
    picture = Image.fromarray(array.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
    fitted = np.array(picture) > 127
    if not fitted.any():
        # Thinner than a pixel of the picture: what it touches.
        rows, columns = np.nonzero(array)
        fitted[rows * height // mask.height, columns * width // mask.width] = True
    return fitted


def best(
    masks: NDArray[np.bool_],
    quality: NDArray[np.float32],
    *,
    max_masks: int,
    min_area_fraction: float,
    nms_iou: float = NMS_IOU,
) -> list[int]:
    """Indices of the masks worth keeping, best first.

    A mask counts if its area is at least `min_area_fraction` and at most MAX_AREA_FRACTION of the picture. Of masks
    that are nearly alike the one of higher quality stays (non-maximum suppression on masks). The rest is ordered by
    quality * area ** AREA_EXPONENT.

    Args:
        masks: Shape [n, height, width].
        quality: Shape [n], in [0, 1].
        max_masks: Most indices.
        min_area_fraction: As a share of the picture.
        nms_iou: IoU above which two masks are alike.
    """
    bits = _packed(masks)
    pixels = np.bitwise_count(bits).sum(axis=1, dtype=np.int64)
    areas = pixels / max(masks[0].size if len(masks) else 1, 1)
    # A mask of no pixels is none, whatever the limit.
    fits = np.flatnonzero((areas >= min_area_fraction) & (areas <= MAX_AREA_FRACTION) & (pixels > 0))
    kept: list[int] = []
    for i in fits[np.argsort(-quality[fits], kind="stable")]:
        shared = np.bitwise_count(bits[kept] & bits[i]).sum(axis=1, dtype=np.int64)
        # IoU above the limit, without a division.
        if not (shared > nms_iou * (pixels[kept] + pixels[i] - shared)).any():
            kept.append(int(i))
    score = quality[kept] * areas[kept] ** AREA_EXPONENT
    return [kept[rank] for rank in np.argsort(-score, kind="stable")[:max_masks]]


def _packed(masks: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Masks [n, height, width] as rows of bits in 64-bit words, the last one filled up with zeros."""
    flat = masks.reshape(len(masks), masks.shape[1] * masks.shape[2])
    bits = np.packbits(flat, axis=1)
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)
