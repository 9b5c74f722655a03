"""The picture of one segment, as the encoder gets to see it."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["FILL", "MARGIN", "cut_out"]

FILL: Final = (127, 127, 127)
"""The neutral grey around a segment."""
MARGIN: Final = 0.1
"""What is added on each side of the tight box, in parts of its longer side."""


def cut_out(image: Image.Image, mask: NDArray[np.bool_], *, margin: float = MARGIN) -> Image.Image:
    """The masked object alone on grey: its tight box with a margin, as a centred square.

    Args:
        image: RGB.
        mask: Shape [height, width] of the image, at least one pixel set.
        margin: In parts of the box's longer side.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    half = max(x1 - x0, y1 - y0) * (0.5 + margin)
    left, top = round((x0 + x1) / 2 - half), round((y0 + y1) / 2 - half)
    side = max(1, round(2 * half))
    square = Image.new("RGB", (side, side), FILL)
    alone = Image.fromarray(mask[y0:y1, x0:x1].astype(np.uint8) * 255)
    square.paste(image.crop((x0, y0, x1, y1)), (x0 - left, y0 - top), alone)
    return square
