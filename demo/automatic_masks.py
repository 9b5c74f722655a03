"""Segment everything with a grid of points: the plain reference that `check_models` measures with."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional

from demo.masks import BoolMask
from demo.sam_data import fitted
from services.embedder.models.sam_architecture import SamConfig, build_sam

__all__ = ["FoundMask", "GridSettings", "consensus", "find_masks", "load_sam"]

MIN_CELLS: Final = 8
"""Masks of fewer cells of the mask grid are dropped."""


@dataclass(frozen=True, slots=True)
class GridSettings:
    """Points a side, and thresholds in the sense of `SamAutomaticMaskGenerator`; the embedder's for this SAM."""

    points_per_side: int = 12
    predicted_iou: float = 0.3
    stability: float = 0.3
    stability_offset: float = 1.0
    overlap: float = 0.6
    max_masks: int = 10
    mask_threshold: float = -0.3
    """The logit above which a cell belongs to a mask that was agreed on."""


@dataclass(frozen=True, slots=True)
class FoundMask:
    """A mask of the whole picture with its predicted IoU and stability, both in [0, 1]."""

    mask: BoolMask
    predicted_iou: float
    stability: float


def load_sam(folder: Path) -> Sam:
    """The SAM of a folder with `config.json` and `model.safetensors`, in fp32."""
    fields: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    fields["global_attention_indexes"] = tuple(fields["global_attention_indexes"])
    sam = build_sam(SamConfig(**fields))
    sam.load_state_dict(load_file(folder / "model.safetensors"))
    return sam


def _grid(width: int, height: int, side: int, points_per_side: int) -> Tensor:
    """Points (n, 1, 2) as (x, y) in pixels of the square input, in the middle of equal cells of the picture."""
    steps = (torch.arange(points_per_side) + 0.5) / points_per_side * side / max(width, height)
    return torch.cartesian_prod(steps * width, steps * height)[:, None, :]


def _suppress(masks: Tensor, order: Tensor, overlap: float, limit: int) -> list[int]:
    """Indexes of at most `limit` masks (n, cells) in `order`, none overlapping an earlier one too much."""
    flat = masks.float()
    areas = flat.sum(dim=1)
    kept: list[int] = []
    for index in order.tolist():
        common = flat[kept] @ flat[index]
        if not kept or float((common / (areas[kept] + areas[index] - common)).max()) < overlap:
            kept.append(index)
        if len(kept) == limit:
            break
    return kept


def consensus(cells: Tensor, quality: Tensor, kept: list[int], agreement: float) -> Tensor:
    """For each kept mask the mean logits of all masks that agree with it, weighted by their quality.

    Many points of the grid fall on one object, and each sees it a little differently. `cells`: logits (n, cells);
    `quality`: (n), 0 for what shall not count; `agreement`: the least IoU with the kept mask. Returns (kept, cells).
    """
    masks = (cells > 0).float()
    areas = masks.sum(dim=1)
    common = masks[kept] @ masks.T
    shared = common / (areas[kept][:, None] + areas - common).clamp(min=1)
    weights = torch.where(shared >= agreement, quality, 0.0)
    return weights @ cells / weights.sum(dim=1, keepdim=True)


@torch.inference_mode()
def find_masks(sam: Sam, image: Image.Image, settings: GridSettings) -> list[FoundMask]:
    """At most `max_masks` masks, best first by predicted IoU times stability."""
    side = sam.image_encoder.img_size
    pixels = torch.from_numpy(np.array(fitted(image, side))).permute(2, 0, 1)[None].float()
    embedding = sam.image_encoder(sam.preprocess(pixels))
    points = _grid(image.width, image.height, side, settings.points_per_side)
    sparse, dense = sam.prompt_encoder(points=(points, torch.ones(len(points), 1)), boxes=None, masks=None)
    logits, scores = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    cells, scores = logits.flatten(0, 1).flatten(1), scores.flatten()
    inner = (cells > settings.stability_offset).sum(dim=1)
    stability = inner / (cells > -settings.stability_offset).sum(dim=1).clamp(min=1)
    good = (scores > settings.predicted_iou) & (stability > settings.stability) & (inner >= MIN_CELLS)
    ranking = torch.where(good, scores * stability, -1.0)
    order = ranking.argsort(descending=True)[: int(good.sum())]
    kept = _suppress(cells > 0, order, settings.overlap, settings.max_masks)
    if not kept:
        return []
    agreed = consensus(cells, torch.where(good, scores * stability, 0.0), kept, settings.overlap)
    full = upscaled(agreed.reshape(len(kept), *logits.shape[-2:]) - settings.mask_threshold, image, side)
    return [FoundMask(mask, float(scores[i]), float(stability[i])) for mask, i in zip(full, kept, strict=True)]


def upscaled(logits: Tensor, image: Image.Image, side: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Masks (n, height, width) of the picture from logits (n, h, w) of the square input of `side` pixels."""
    scale = side / max(image.size)
    square = functional.interpolate(logits[:, None], (side, side), mode="bilinear", align_corners=False)
    inside = square[..., : round(image.height * scale), : round(image.width * scale)]
    full = functional.interpolate(inside, (image.height, image.width), mode="bilinear", align_corners=False)
    return (full[:, 0] > 0).numpy()
