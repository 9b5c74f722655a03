"""Image-only models of timm, such as vit_base_patch16_224 and resnet18: no texts.

A model's vector is its pooled features: 768 numbers of vit_base_patch16_224, 512 of resnet18. With `/logits` behind its
name it is what the classifier says, 1000 numbers for ImageNet's classes: pictures are then near that look like the same
mix of those. Either way the vector is scaled to length 1, so that of logits their proportions count, not their size.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform

from services.common.errors import FailedPrecondition
from services.embedder.models.base import ModelError
from services.embedder.models.torch_support import (
    check_sha256,
    choose_placement,
    fingerprint,
    load_state,
    parameter_count,
)
from services.embedder.models.vision import PictureInput, unit_rows
from services.embedder.settings import EmbedderSettings

__all__ = ["TimmEncoder", "load_timm"]

PREFIX: Final = "timm:"
LOGITS: Final = "logits"
_CPU_BATCH: Final = 8
_CUDA_BATCH: Final = 64


class TimmEncoder:
    """A timm model; implements Encoder."""

    has_text = False
    logit_scale = 0.0

    def __init__(self, name: str, model: Any, settings: EmbedderSettings) -> None:
        """Take over a loaded model on the processor in float32, and place it.

        Args:
            name: As in the configuration.
            model: Its output, shape [n, dimension], becomes the vectors: pooled features where it was made with
                `num_classes=0`, else logits.
            settings: Device, precision and batch size.
        """
        config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
        self.name = name
        self.fingerprint = fingerprint(
            model, {"preprocess": config, "architecture": model.pretrained_cfg.get("architecture")}
        )
        self._placement = choose_placement(settings, parameter_count(model))
        self._input = PictureInput(_resize(config), config["mean"], config["std"], self._placement)
        self.image_px = max(config["input_size"][1:])
        self.max_batch = settings.max_batch or (_CUDA_BATCH if self._placement.on_cuda else _CPU_BATCH)
        self.device = self._placement.device_name
        self.precision = self._placement.precision
        self._model = model.eval().requires_grad_(False).to(self._placement.device, self._placement.dtype)
        self.dimension = self.embed_images(self.stack([np.zeros((*config["input_size"][1:], 3), np.uint8)])).shape[1]

    def preprocess(self, image: Image.Image) -> NDArray[np.uint8]:
        """See Encoder."""
        return self._input.preprocess(image)

    def stack(self, pixels: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """See Encoder."""
        return self._input.stack(pixels)

    @torch.inference_mode()
    def embed_images(self, batch: torch.Tensor) -> NDArray[np.float32]:
        """See Encoder."""
        return unit_rows(self._model(self._input.normalized(batch)))

    def tokenize(self, texts: Sequence[str]) -> NoReturn:
        """See Encoder."""
        raise FailedPrecondition(f"the model {self.name} has no text tower", reason="NO_TEXT_TOWER")

    def embed_texts(self, batch: Any) -> NoReturn:
        """See Encoder."""
        self.tokenize(batch)


def load_timm(settings: EmbedderSettings) -> TimmEncoder:
    """Load `timm:NAME[.TAG][/logits]` or `timm:NAME[/logits]//path/to/file`; ModelError says what is wrong."""
    name = settings.model
    architecture, _, rest = name.removeprefix(PREFIX).partition("/")
    with_logits = rest == LOGITS or rest.startswith(f"{LOGITS}/")
    source = rest.removeprefix(LOGITS).removeprefix("/") if with_logits else rest
    if not timm.is_model(architecture.partition(".")[0]):
        raise ModelError(f"SACCADE_MODEL={name!r}: timm has no model {architecture!r}; see timm.list_models()")
    if settings.model_sha256 and not source:
        raise ModelError(
            f"SACCADE_MODEL={name!r} is fetched by timm, which leaves no file to hash; give its file, as in "
            f"{name}//path/to/weights, or unset SACCADE_EMBEDDER_MODEL_SHA256"
        )
    kept: dict[str, Any] = {} if with_logits else {"num_classes": 0}
    try:
        model = timm.create_model(architecture, pretrained=not source, cache_dir=settings.model_cache or None, **kept)
    # timm, torch and the hub's client raise nearly anything: no network, no such tag, no memory.
    except Exception as exc:
        raise ModelError(f"the model {name!r} can not be loaded: {exc}") from exc
    if with_logits and not model.num_classes:
        raise ModelError(f"SACCADE_MODEL={name!r}: {architecture} has no classifier; leave out /{LOGITS}")
    if source:
        _load_file(model, Path(source), settings, with_logits=with_logits)
    return TimmEncoder(name, model, settings)


def _load_file(model: Any, path: Path, settings: EmbedderSettings, *, with_logits: bool) -> None:
    check_sha256(path, settings.model_sha256)
    state = load_state(path)
    if not with_logits:
        classifier = model.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
        state = {key: value for key, value in state.items() if not key.startswith(heads or "\0")}
    try:
        model.load_state_dict(state)
    except RuntimeError as exc:
        raise ModelError(f"the weights in {path} are of another model than {settings.model!r}: {exc}") from exc


def _resize(config: dict[str, Any]) -> Callable[[Image.Image], Image.Image]:
    """timm's own steps for inference up to the tensor."""
    steps = create_transform(**config, is_training=False).transforms[:-2]

    def resize(image: Image.Image) -> Image.Image:
        for step in steps:
            image = step(image)
        return image

    return resize
