"""An encoder and a segmenter without weights: colours and their layout. For tests; deterministic, needs no torch.

An image's vector holds how much of it each named colour covers and where its colours lie. The vector of a text that
names colours is that of a picture filled with them, so that "red" finds red pictures.
"""

import hashlib
import re
from collections import deque
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.common.domain import Box, Point
from services.common.errors import InvalidArgument
from services.embedder import crops, masks
from services.embedder.models.base import Candidate

__all__ = ["COLOURS", "ToyEncoder", "ToySegmenter"]

COLOURS: Final = {
    "red": (220, 30, 30),
    "orange": (245, 140, 20),
    "yellow": (245, 225, 40),
    "green": (40, 160, 60),
    "cyan": (40, 200, 210),
    "blue": (40, 70, 210),
    "purple": (130, 50, 170),
    "pink": (245, 150, 190),
    "brown": (120, 75, 40),
    "black": (15, 15, 15),
    "gray": (127, 127, 127),
    "white": (250, 250, 250),
}
_PALETTE: Final = np.array(list(COLOURS.values()), dtype=np.float32)
_NAMES: Final = {name: i for i, name in enumerate(COLOURS)} | {"grey": list(COLOURS).index("gray")}
_PX: Final = 32
_CELLS: Final = 4
# Layout tells apart pictures of the same colours; the colours themselves weigh more.
_LAYOUT_WEIGHT: Final = 0.35
_GRID_PX: Final = 64


class ToyEncoder:
    """See the module; implements Encoder."""

    name = "toy"
    fingerprint = "toy-1"
    dimension = len(COLOURS) + 3 * _CELLS * _CELLS
    has_text = True
    logit_scale = 20.0
    device = "cpu"
    precision = "float32"
    image_px = _PX
    max_batch = 16

    def preprocess(self, image: Image.Image) -> NDArray[np.uint8]:
        """Shape [32, 32, 3]; squeezed, not cropped."""
        return np.asarray(image.resize((_PX, _PX), Image.Resampling.BOX), dtype=np.uint8)

    def stack(self, pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Shape [n, 32, 32, 3]."""
        return np.stack(pixels)

    def embed_images(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit rows, shape [n, dimension]."""
        return np.stack([_vector(pixels) for pixels in batch])

    def tokenize(self, texts: Sequence[str]) -> list[str]:
        """The texts themselves."""
        return list(texts)

    def embed_texts(self, batch: Sequence[str]) -> NDArray[np.float32]:
        """Unit rows, shape [n, dimension]."""
        return np.stack([_text_vector(text) for text in batch])


class ToySegmenter:
    """Connected patches of one named colour; implements Segmenter."""

    name = "toy"
    device = "cpu"
    precision = "float32"

    def segment_all(self, image: Image.Image, *, max_segments: int, min_area_fraction: float) -> list[Candidate]:
        """The patches, chosen and ordered by `masks.best`."""
        labels = _patches(image)
        grids = np.stack([labels == label for label in range(labels.max() + 1)])
        quality = np.full(len(grids), 0.9, dtype=np.float32)
        chosen = masks.best(grids, quality, max_masks=max_segments, min_area_fraction=min_area_fraction)
        return [_candidate(grids[i], image.size) for i in chosen]

    def segment_at(self, image: Image.Image, points: Sequence[Point], box: Box | None) -> Candidate:
        """The patches under the foreground points, or the one most like the box, cut to the box."""
        labels = _patches(image)
        height, width = labels.shape
        wanted = {
            background: {
                int(labels[min(int(p.y * height), height - 1), min(int(p.x * width), width - 1)])
                for p in points
                if p.background is background
            }
            for background in (True, False)
        }
        inside = np.ones_like(labels, dtype=np.bool_)
        if box is not None:
            inside[:] = False
            inside[
                int(box.y0 * height) : max(int(np.ceil(box.y1 * height)), int(box.y0 * height) + 1),
                int(box.x0 * width) : max(int(np.ceil(box.x1 * width)), int(box.x0 * width) + 1),
            ] = True
            if not wanted[False]:
                scores = [
                    ((labels == label) & inside).sum() / ((labels == label) | inside).sum()
                    for label in range(labels.max() + 1)
                ]
                wanted[False] = {int(np.argmax(scores))}
        grid = np.isin(labels, list(wanted[False] - wanted[True])) & inside
        if not grid.any():
            raise InvalidArgument(
                "the points mean no region; move one onto the thing", field="points", reason="NO_REGION"
            )
        return _candidate(grid, image.size)


def _vector(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    flat = pixels.reshape(-1, 3).astype(np.float32)
    drawn = (flat != np.array(crops.FILL, np.float32)).any(axis=1)
    counted = flat[drawn] if drawn.any() else flat
    shares = np.bincount(_nearest(counted), minlength=len(COLOURS)).astype(np.float32) / len(counted)
    side = _PX // _CELLS
    cells = pixels.astype(np.float32).reshape(_CELLS, side, _CELLS, side, 3).mean(axis=(1, 3))
    return _join(np.sqrt(shares), cells / 255 - 0.5)


def _text_vector(text: str) -> NDArray[np.float32]:
    named = [_NAMES[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _NAMES]
    if named:
        shares = np.bincount(named, minlength=len(COLOURS)).astype(np.float32) / len(named)
        cells = np.broadcast_to(_PALETTE[named].mean(axis=0) / 255 - 0.5, (_CELLS, _CELLS, 3))
        return _join(np.sqrt(shares), cells)
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    noise = np.random.default_rng(seed).normal(size=ToyEncoder.dimension).astype(np.float32)
    return _join(noise[: len(COLOURS)], noise[len(COLOURS) :])


def _join(shares: NDArray[np.float32], layout: NDArray[np.float32]) -> NDArray[np.float32]:
    vector = np.concatenate([shares.ravel(), _LAYOUT_WEIGHT * layout.ravel() / _CELLS]).astype(np.float32)
    return vector / np.float32(np.linalg.norm(vector))


def _nearest(colours: NDArray[np.float32]) -> NDArray[np.int64]:
    """Index of the nearest named colour for each row of shape [n, 3]."""
    distances = ((colours[:, None, :] - _PALETTE[None, :, :]) ** 2).sum(axis=2)
    nearest: NDArray[np.int64] = np.argmin(distances, axis=1)
    return nearest


def _patches(image: Image.Image) -> NDArray[np.int64]:
    """Labels of the connected patches, from 0, on a grid of at most 64 on a side."""
    scale = min(1.0, _GRID_PX / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = np.asarray(image.resize(size, Image.Resampling.NEAREST), dtype=np.float32)
    names = _nearest(small.reshape(-1, 3)).reshape(small.shape[:2])
    labels = np.full(names.shape, -1, dtype=np.int64)
    count = 0
    for y, x in np.ndindex(names.shape):
        if labels[y, x] < 0:
            _flood(names, labels, y, x, count)
            count += 1
    return labels


def _flood(names: NDArray[np.int64], labels: NDArray[np.int64], y: int, x: int, label: int) -> None:
    height, width = names.shape
    labels[y, x] = label
    edge = deque([(y, x)])
    while edge:
        row, column = edge.popleft()
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= r < height and 0 <= c < width and labels[r, c] < 0 and names[r, c] == names[y, x]:
                labels[r, c] = label
                edge.append((r, c))


def _candidate(grid: NDArray[np.bool_], size: tuple[int, int]) -> Candidate:
    picture = Image.fromarray(grid.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
    return Candidate(np.asarray(picture) > 127, predicted_iou=0.9, stability=0.95)
