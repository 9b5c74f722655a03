"""CLIP models of open_clip: any architecture with a pretrained tag, a file of weights, or a local folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image

from services.embedder.models.base import ModelError
from services.embedder.models.torch_support import (
    Placement,
    check_sha256,
    choose_placement,
    fingerprint,
    parameter_count,
)
from services.embedder.models.vision import PictureInput, unit_rows
from services.embedder.settings import EmbedderSettings

__all__ = ["ClipEncoder", "load_clip", "load_clip_folder"]

_CPU_BATCH: Final = 8
_CUDA_BATCH: Final = 64


class ClipEncoder:
    """An open_clip model; implements Encoder. Texts longer than its context are cut, as CLIP does."""

    has_text = True

    def __init__(
        self, name: str, model: Any, tokenizer: Callable[[list[str]], torch.Tensor], settings: EmbedderSettings
    ) -> None:
        """Take over a loaded model on the processor in float32, and place it.

        Args:
            name: As in the configuration.
            model: Of open_clip's classes, with its `preprocess_cfg`.
            tokenizer: Texts to tokens, shape [n, context].
            settings: Device, precision and batch size.
        """
        config = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
        self.name = name
        # The activation is the one thing that changes vectors and shows neither in the weights nor in their names.
        activations = sorted({type(part).__name__ for part in model.modules() if "GELU" in type(part).__name__})
        self.fingerprint = fingerprint(model, {"preprocess": model.visual.preprocess_cfg, "activations": activations})
        self._placement = choose_placement(settings, parameter_count(model))
        self._tokenizer = tokenizer
        self._input = PictureInput(_resize(config), config.mean, config.std, self._placement)
        self.logit_scale = float(model.logit_scale.detach().exp())
        self.image_px = max(config.size) if isinstance(config.size, tuple | list) else int(config.size)
        self.max_batch = settings.max_batch or (_CUDA_BATCH if self._placement.on_cuda else _CPU_BATCH)
        self._model = model.eval().requires_grad_(False).to(self._placement.device, self._placement.dtype)
        self.dimension = self.embed_texts(self.tokenize(["a"])).shape[1]

    @property
    def device(self) -> str:
        """Where it computes, for people."""
        return self._placement.device_name

    @property
    def precision(self) -> str:
        """Such as bfloat16."""
        return self._placement.precision

    @property
    def placement(self) -> Placement:
        """Where and in what it computes."""
        return self._placement

    def preprocess(self, image: Image.Image) -> NDArray[np.uint8]:
        """See Encoder."""
        return self._input.preprocess(image)

    def stack(self, pixels: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """See Encoder."""
        return self._input.stack(pixels)

    @torch.inference_mode()
    def embed_images(self, batch: torch.Tensor) -> NDArray[np.float32]:
        """See Encoder."""
        return unit_rows(self._model.encode_image(self._input.normalized(batch)))

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """See Encoder."""
        return self._tokenizer(list(texts))

    @torch.inference_mode()
    def embed_texts(self, batch: torch.Tensor) -> NDArray[np.float32]:
        """See Encoder."""
        return unit_rows(self._model.encode_text(batch.to(self._placement.device)))


def load_clip(settings: EmbedderSettings) -> ClipEncoder:
    """Load `ARCH/TAG` or `ARCH//path/to/file`; ModelError says what is wrong."""
    name = settings.model
    architecture, _, source = name.partition("/")
    if architecture not in open_clip.list_models():
        raise ModelError(
            f"SACCADE_MODEL={name!r}: open_clip has no architecture {architecture!r}; see open_clip.list_models()"
        )
    if not source:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise ModelError(f"SACCADE_MODEL={name!r} names no weights; give {architecture}/TAG (tags: {tags}) or a file")
    quick_gelu = _check_source(architecture, source, settings)
    return _create(name, architecture, source, settings, quick_gelu=quick_gelu)


def load_clip_folder(name: str, folder: Path, settings: EmbedderSettings) -> ClipEncoder:
    """Load a folder in open_clip's `local-dir` form; ModelError says what is wrong."""
    if not (folder / "open_clip_config.json").is_file():
        raise ModelError(f"{folder} holds no open_clip_config.json; set SACCADE_DEMO_DIR, or another SACCADE_MODEL")
    weights = sorted(folder.glob("*.safetensors"))
    if len(weights) != 1:
        raise ModelError(f"{folder} needs exactly one .safetensors file, but holds {len(weights)}")
    check_sha256(weights[0], settings.model_sha256)
    return _create(name, f"local-dir:{folder}", None, settings, quick_gelu=False)


def _check_source(architecture: str, source: str, settings: EmbedderSettings) -> bool:
    """Check the weights' hash, and tell whether they were trained with QuickGELU, of which open_clip only warns."""
    tag = open_clip.pretrained.get_pretrained_cfg(architecture, source)
    if not tag:
        path = Path(source)
        if not path.is_file():
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
            raise ModelError(
                f"SACCADE_MODEL={settings.model!r}: {source!r} is neither a tag of {architecture} ({tags}) nor a file"
            )
        check_sha256(path, settings.model_sha256)
        return False
    if settings.model_sha256:
        try:
            path = Path(open_clip.pretrained.download_pretrained(tag, cache_dir=settings.model_cache or None))
        except Exception as exc:
            raise ModelError(f"the weights of {settings.model!r} can not be fetched: {exc}") from exc
        check_sha256(path, settings.model_sha256)
    return bool(tag.get("quick_gelu", False))


def _create(
    name: str, architecture: str, source: str | None, settings: EmbedderSettings, *, quick_gelu: bool
) -> ClipEncoder:
    try:
        model = open_clip.create_model(
            architecture,
            pretrained=source,
            require_pretrained=True,
            force_quick_gelu=quick_gelu,
            cache_dir=settings.model_cache or None,
            weights_only=True,
        )
        tokenizer = open_clip.get_tokenizer(architecture, cache_dir=settings.model_cache or None)
    # open_clip, torch and the hub's client raise nearly anything: no network, no memory, another architecture's file.
    except Exception as exc:
        raise ModelError(f"the model {name!r} can not be loaded: {exc}") from exc
    return ClipEncoder(name, model, tokenizer, settings)


def _resize(config: Any) -> Callable[[Image.Image], Image.Image]:
    """open_clip's own steps for inference up to the tensor: everything that happens to the picture as a picture."""
    steps = open_clip.transform.image_transform_v2(config, is_train=False).transforms[:-2]

    def resize(image: Image.Image) -> Image.Image:
        for step in steps:
            image = step(image)
        return image

    return resize
