"""What the embedder asks of a model. Implementations sit beside this file; none keeps the state of a request."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.common.domain import Box, Point
from services.common.errors import SaccadeError

__all__ = ["Candidate", "Encoder", "ModelError", "Segmenter"]


class ModelError(SaccadeError):
    """A model can not be loaded; the message says why and what to set. It stops the service."""

    default_reason = "MODEL_NOT_LOADED"


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A region that a segmenter found.

    Attributes:
        mask: Boolean, shape [height, width] of the image that was given; at least one pixel is set.
        predicted_iou: The model's own estimate of the mask's IoU, in [0, 1].
        stability: IoU of the mask between a high and a low threshold, in [0, 1].
    """

    mask: NDArray[np.bool_]
    predicted_iou: float
    stability: float


class Encoder(Protocol):
    """Pictures, and where `has_text` words, to unit vectors of one space.

    `preprocess`, `stack` and `tokenize` may run in any thread and at the same time. `embed_images` and `embed_texts`
    run in the one thread that owns the model. A row of their answers depends on its own input alone.
    """

    @property
    def name(self) -> str:
        """As in the configuration."""

    @property
    def fingerprint(self) -> str:
        """Hash of weights and preprocessing; the same on every device and in every precision."""

    @property
    def dimension(self) -> int:
        """Length of the vectors."""

    @property
    def has_text(self) -> bool:
        """Whether it embeds texts."""

    @property
    def logit_scale(self) -> float:
        """What turns a cosine into a logit; 0 where there is no text tower."""

    @property
    def device(self) -> str:
        """Where it computes, for people."""

    @property
    def precision(self) -> str:
        """What it computes in, such as bfloat16."""

    @property
    def image_px(self) -> int:
        """Side of the pictures that it looks at, in pixels."""

    @property
    def max_batch(self) -> int:
        """Most images or texts that it takes at a time."""

    def preprocess(self, image: Image.Image) -> NDArray[np.uint8]:
        """An RGB picture of any size as the model wants it: shape [image_px, image_px, 3]."""

    def stack(self, pixels: Sequence[NDArray[np.uint8]]) -> Any:
        """Preprocessed pictures as one batch for `embed_images`."""

    def embed_images(self, batch: Any) -> NDArray[np.float32]:
        """Unit rows, shape [n, dimension], for a batch from `stack`."""

    def tokenize(self, texts: Sequence[str]) -> Any:
        """Texts as one batch for `embed_texts`."""

    def embed_texts(self, batch: Any) -> NDArray[np.float32]:
        """Unit rows, shape [n, dimension], for a batch from `tokenize`; FailedPrecondition without a text tower."""


class Segmenter(Protocol):
    """Pictures to regions. Both methods run in the one thread that owns the model."""

    @property
    def name(self) -> str:
        """As in the configuration."""

    @property
    def device(self) -> str:
        """Where it computes, for people."""

    @property
    def precision(self) -> str:
        """What it computes in, such as bfloat16."""

    def segment_all(self, image: Image.Image, *, max_segments: int, min_area_fraction: float) -> list[Candidate]:
        """The best regions of an RGB picture, best first, no two nearly alike; see `masks.best` for the order.

        Args:
            image: The picture.
            max_segments: Most regions.
            min_area_fraction: Smallest region, as a share of the picture.
        """

    def segment_at(self, image: Image.Image, points: Sequence[Point], box: Box | None) -> Candidate:
        """The one region that the points (at least one not background) and the box, or either, mean."""
