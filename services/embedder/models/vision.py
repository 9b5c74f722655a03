"""The picture's way into a torch encoder: the library's own resizing on the processor, scaling on the device."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from services.embedder.models.torch_support import Placement

__all__ = ["PictureInput", "unit_rows"]


class PictureInput:
    """Turns pictures into the tensors that one model looks at."""

    def __init__(
        self,
        resize: Callable[[Image.Image], Image.Image],
        mean: Sequence[float],
        std: Sequence[float],
        placement: Placement,
    ) -> None:
        """Make one.

        Args:
            resize: RGB picture to one of the model's own size.
            mean: Of red, green and blue in [0, 1].
            std: Likewise.
            placement: Where the model is.
        """
        self._resize = resize
        self._placement = placement
        shape = (1, 3, 1, 1)
        # (pixel / 255 - mean) / std as one multiplication and one addition.
        self._scale = (1 / (255 * torch.tensor(std))).reshape(shape).to(placement.device)
        self._shift = (-torch.tensor(mean) / torch.tensor(std)).reshape(shape).to(placement.device)

    def preprocess(self, image: Image.Image) -> NDArray[np.uint8]:
        """Shape [height, width, 3] of the model's input."""
        return np.asarray(self._resize(image), dtype=np.uint8)

    def stack(self, pixels: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """uint8, shape [n, height, width, 3], in memory that a GPU can fetch from where there is one."""
        batch = torch.from_numpy(np.stack(pixels))
        return batch.pin_memory() if self._placement.on_cuda else batch

    def normalized(self, batch: torch.Tensor) -> torch.Tensor:
        """What `stack` made, on the device: shape [n, 3, height, width], scaled in float32, in the model's dtype."""
        pixels = batch.to(self._placement.device, non_blocking=True).permute(0, 3, 1, 2).float()
        return (pixels * self._scale + self._shift).to(self._placement.dtype).contiguous()


def unit_rows(features: torch.Tensor) -> NDArray[np.float32]:
    """Rows of length 1 in float32, whatever the model computes in."""
    rows: Any = functional.normalize(features.float(), dim=-1).cpu().numpy()
    out: NDArray[np.float32] = rows
    return out
