"""Segment Anything (arXiv:2304.02643) with segment_anything's own network, and a mask generator that spares work.

`SamPredictor` keeps a picture's state on the object, and `SamAutomaticMaskGenerator` enlarges every mask before it
drops most of them. Here a call keeps its state to itself, and masks are judged at the network's own low resolution:
only those that are kept are enlarged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import Sam
from segment_anything.modeling.image_encoder import Attention as ImageAttention
from segment_anything.modeling.image_encoder import get_rel_pos
from segment_anything.modeling.transformer import Attention as PromptAttention
from torch.nn import functional

from services.common.domain import Box, Point
from services.common.errors import InvalidArgument
from services.embedder import masks
from services.embedder.models.base import Candidate, ModelError
from services.embedder.models.sam_architecture import SAM_CONFIGS, SamConfig, build_sam
from services.embedder.models.torch_support import check_sha256, choose_placement, load_state, parameter_count
from services.embedder.settings import EmbedderSettings

__all__ = ["PUBLISHED_QUALITY", "Quality", "SamSegmenter", "load_sam", "load_sam_file"]

STABILITY_OFFSET: Final = 1.0
"""Logits above and below the threshold between which a stable mask does not change; SAM's own."""
# On processors few points at a time are fastest, as long as their activations stay in the caches: 4 for the published
# models with their 64 x 64 image tokens, more for smaller ones.
_CPU_TOKENS: Final = 16_384
_MIN_POINTS: Final = 4
_MAX_POINTS: Final = 64


@dataclass(frozen=True, slots=True)
class Quality:
    """What a mask from the automatic grid must have to count; how models rate themselves differs between them."""

    min_predicted_iou: float
    min_stability: float


PUBLISHED_QUALITY: Final = Quality(0.8, 0.85)
"""For Meta's models; a little below the library's defaults (0.88, 0.95), since only the best masks are kept anyway."""


@dataclass(frozen=True, slots=True, eq=False)
class _Embedded:
    """A picture inside the network: its embedding, and its (width, height) before and after fitting into the input."""

    embedding: torch.Tensor
    original: tuple[int, int]
    fitted: tuple[int, int]


class SamSegmenter:
    """A SAM; implements Segmenter. Its image encoder computes in the chosen precision, all else in float32."""

    def __init__(self, name: str, sam: Sam, settings: EmbedderSettings, quality: Quality = PUBLISHED_QUALITY) -> None:
        """Take over a loaded model on the processor in float32, and place it; `quality` holds where no setting does."""
        self.name = name
        self._placement = choose_placement(settings, parameter_count(sam))
        self._side = int(sam.image_encoder.img_size)
        self._min_iou = _first(settings.min_predicted_iou, quality.min_predicted_iou)
        self._min_stability = _first(settings.min_stability, quality.min_stability)
        self._points_per_side = settings.points_per_side
        height, width = sam.prompt_encoder.image_embedding_size
        few = min(max(_CPU_TOKENS // (height * width), _MIN_POINTS), _MAX_POINTS)
        self._points_at_once = _MAX_POINTS if self._placement.on_cuda else few
        self._sam = sam.eval().requires_grad_(False).to(self._placement.device)
        for module in self._sam.modules():
            if type(module) in _FUSED:
                module.__class__ = _FUSED[type(module)]
        self._sam.image_encoder.to(self._placement.dtype)
        self._positions = self._sam.prompt_encoder.get_dense_pe()

    @property
    def device(self) -> str:
        """Where it computes, for people."""
        return self._placement.device_name

    @property
    def precision(self) -> str:
        """Such as bfloat16."""
        return self._placement.precision

    @torch.inference_mode()
    def segment_all(self, image: Image.Image, *, max_segments: int, min_area_fraction: float) -> list[Candidate]:
        """See Segmenter. Prompts are the points of a regular grid over the picture."""
        embedded = self._embed(image)
        width, height = embedded.fitted
        steps = (np.arange(self._points_per_side, dtype=np.float32) + 0.5) / self._points_per_side
        grid = np.stack(np.meshgrid(steps * width, steps * height), axis=-1).reshape(-1, 1, 2).astype(np.float32)
        found = [
            self._good(*self._decode(embedded, grid[start : start + self._points_at_once]))
            for start in range(0, len(grid), self._points_at_once)
        ]
        logits, iou, stability = (torch.cat(parts) for parts in zip(*found, strict=True))
        visible = self._visible(logits, embedded) > 0
        kept = masks.best(
            visible.cpu().numpy(),
            (iou * stability).cpu().numpy(),
            max_masks=max_segments,
            min_area_fraction=min_area_fraction,
        )
        return self._candidates(logits[kept], iou[kept], stability[kept], embedded)

    @torch.inference_mode()
    def segment_at(self, image: Image.Image, points: Sequence[Point], box: Box | None) -> Candidate:
        """See Segmenter. One point alone may mean a part or the whole: the mask that the model trusts most is taken."""
        embedded = self._embed(image)
        width, height = embedded.fitted
        coordinates = np.array([[(p.x * width, p.y * height) for p in points]], np.float32) if points else None
        labels = np.array([[0 if p.background else 1 for p in points]], np.float32)
        corners = (
            np.array([[box.x0 * width, box.y0 * height, box.x1 * width, box.y1 * height]], np.float32) if box else None
        )
        logits, iou = self._decode(embedded, coordinates, labels, corners, ambiguous=len(points) == 1 and box is None)
        best = int(iou[0].argmax())
        chosen, trust = logits[:, best], iou[:, best].clamp(0, 1)
        found = self._candidates(chosen, trust, _stability(chosen), embedded)
        if not found:
            raise InvalidArgument(
                "there is nothing to cut out here; move the points or the box onto the thing",
                field="points" if points else "box",
                reason="NO_REGION",
            )
        return found[0]

    def _embed(self, image: Image.Image) -> _Embedded:
        scale = self._side / max(image.size)
        fitted = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        # A copy: torch wants memory that it may write to.
        pixels = torch.from_numpy(np.array(image.resize(fitted, Image.Resampling.BILINEAR)))
        batch = pixels.to(self._placement.device).permute(2, 0, 1).float().unsqueeze(0)
        embedding = self._sam.image_encoder(self._sam.preprocess(batch).to(self._placement.dtype))
        return _Embedded(embedding.float(), image.size, fitted)

    def _decode(
        self,
        embedded: _Embedded,
        points: NDArray[np.float32] | None,
        labels: NDArray[np.float32] | None = None,
        boxes: NDArray[np.float32] | None = None,
        *,
        ambiguous: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks for n prompts, whose coordinates are pixels of the fitted picture.

        Args:
            embedded: The picture.
            points: Shape [n, p, 2], x and y.
            labels: Shape [n, p], 1 in the region and 0 outside it; none: all 1.
            boxes: Shape [n, 4].
            ambiguous: Three masks (whole, part, part of a part) for each prompt instead of one.

        Returns:
            Low-resolution logits [n, 3 or 1, side / 4, side / 4], and predicted IoU [n, 3 or 1].
        """
        device = self._placement.device
        prompt_points = None
        if points is not None:
            given = np.ones(points.shape[:2], np.float32) if labels is None else labels
            prompt_points = (torch.from_numpy(points).to(device), torch.from_numpy(given).to(device))
        sparse, dense = self._sam.prompt_encoder(
            points=prompt_points, boxes=None if boxes is None else torch.from_numpy(boxes).to(device), masks=None
        )
        logits, iou = self._sam.mask_decoder(
            image_embeddings=embedded.embedding,
            image_pe=self._positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=ambiguous,
        )
        return logits, iou

    def _good(self, logits: torch.Tensor, iou: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of masks [n, m, h, w] those that the model trusts and that are stable: [k, h, w], IoU [k], stability [k]."""
        trusted = iou >= self._min_iou
        logits, iou = logits[trusted], iou[trusted].clamp(0, 1)
        stability = _stability(logits)
        stable = stability >= self._min_stability
        return logits[stable], iou[stable], stability[stable]

    def _visible(self, logits: torch.Tensor, embedded: _Embedded) -> torch.Tensor:
        """The part of low-resolution masks that shows the picture, without the padding beside it."""
        width, height = embedded.fitted
        cells = logits.shape[-1]
        rows, columns = max(1, round(height * cells / self._side)), max(1, round(width * cells / self._side))
        return logits[..., :rows, :columns]

    def _candidates(
        self, logits: torch.Tensor, iou: torch.Tensor, stability: torch.Tensor, embedded: _Embedded
    ) -> list[Candidate]:
        """Masks [k, h, w] enlarged to the picture; those that are empty there are left out."""
        if not len(logits):
            return []
        width, height = embedded.original
        fitted_width, fitted_height = embedded.fitted
        side = (self._side, self._side)
        large = functional.interpolate(logits[:, None], side, mode="bilinear", align_corners=False)
        cut = large[..., :fitted_height, :fitted_width]
        full = functional.interpolate(cut, (height, width), mode="bilinear", align_corners=False)[:, 0] > 0
        return [
            Candidate(mask, float(quality), float(steady))
            for mask, quality, steady in zip(full.cpu().numpy(), iou, stability, strict=True)
            if mask.any()
        ]


class _FusedImageAttention(ImageAttention):  # type: ignore[misc]
    """The image encoder's attention by torch's fused kernel: the same numbers up to rounding, in half the time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the base class: shape [b, h, w, c] to the same."""
        b, h, w, _ = x.shape
        qkv = self.qkv(x).reshape(b, h * w, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        bias = None
        if self.use_rel_pos:
            grid = q.reshape(b * self.num_heads, h, w, -1)
            rows = torch.einsum("bhwc,hkc->bhwk", grid, get_rel_pos(h, h, self.rel_pos_h)).contiguous()
            columns = torch.einsum("bhwc,wkc->bhwk", grid, get_rel_pos(w, w, self.rel_pos_w)).contiguous()
            bias = (rows[..., :, None] + columns[..., None, :]).reshape(b, self.num_heads, h * w, h * w)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        projected: torch.Tensor = self.proj(out.transpose(1, 2).reshape(b, h, w, -1))
        return projected


class _FusedPromptAttention(PromptAttention):  # type: ignore[misc]
    """The mask decoder's attention likewise."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """As the base class: shapes [b, n, c], [b, m, c] and [b, m, c] to [b, n, c]."""
        q = self._separate_heads(self.q_proj(q), self.num_heads)
        k = self._separate_heads(self.k_proj(k), self.num_heads)
        v = self._separate_heads(self.v_proj(v), self.num_heads)
        out: torch.Tensor = self.out_proj(self._recombine_heads(functional.scaled_dot_product_attention(q, k, v)))
        return out


_FUSED: Final[dict[type[Any], type[Any]]] = {
    ImageAttention: _FusedImageAttention,
    PromptAttention: _FusedPromptAttention,
}


def load_sam(settings: EmbedderSettings) -> SamSegmenter:
    """Load `vit_b:/path/to/file`, or vit_l or vit_h; ModelError says what is wrong."""
    name = settings.segmenter
    architecture, _, source = name.partition(":")
    if architecture not in SAM_CONFIGS or not source:
        raise ModelError(
            f"SACCADE_SEGMENTER={name!r} names no segmenter; use demo, toy, nothing, or one of "
            f"{', '.join(SAM_CONFIGS)} with a file, such as vit_b:/models/sam_vit_b_01ec64.pth"
        )
    return load_sam_file(name, SAM_CONFIGS[architecture], Path(source), settings)


def load_sam_file(
    name: str, config: SamConfig, path: Path, settings: EmbedderSettings, quality: Quality = PUBLISHED_QUALITY
) -> SamSegmenter:
    """Load weights for a SAM of the given sizes from a .pth or .safetensors file; ModelError says what is wrong."""
    check_sha256(path, settings.segmenter_sha256)
    state = load_state(path)
    sam: Any = build_sam(config)
    try:
        sam.load_state_dict(state)
    except RuntimeError as exc:
        raise ModelError(f"the weights in {path} do not fit the segmenter {name!r}: {exc}") from exc
    return SamSegmenter(name, sam, settings, quality)


def _first(value: float | None, default: float) -> float:
    return default if value is None else value


def _stability(logits: torch.Tensor) -> torch.Tensor:
    """IoU of each mask [k, h, w] with itself between a high and a low threshold; 0 for empty ones."""
    inner = (logits > STABILITY_OFFSET).flatten(1).sum(1)
    outer = (logits > -STABILITY_OFFSET).flatten(1).sum(1)
    return inner / outer.clamp(min=1)
