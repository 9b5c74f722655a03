"""The embedder's settings; each is read from `SACCADE_EMBEDDER_<NAME>` or `SACCADE_<NAME>`."""

from pathlib import Path
from typing import Final, Literal

from pydantic import Field, model_validator

from services.common.settings import Address, GrpcSettings, ImageSettings, settings_config
from services.embedder.admission import BULK_SHARE

__all__ = ["EmbedderSettings"]

_MIB: Final = 1024 * 1024
_DEMO_DIR: Final = Path(__file__).parents[2] / "demo"


class EmbedderSettings(GrpcSettings, ImageSettings):
    """Everything that can be set."""

    model_config = settings_config("embedder")

    listen: Address = Field("127.0.0.1:50051", description="host:port that calls come to")
    metrics_listen: Address = Field("127.0.0.1:9101", description="host:port of /metrics; empty: none")

    model: str = Field(
        "demo",
        description="demo; ARCH/TAG or ARCH//path/to/weights for open_clip, such as ViT-B-32/laion2b_s34b_b79k; "
        "timm:NAME[.TAG][/logits] or timm:NAME[/logits]//path/to/weights; or toy. Several are separated by commas, and "
        "the first is the default one",
    )
    segmenter: str = Field(
        "demo",
        description="demo; vit_b, vit_l or vit_h with a file, such as vit_b:/models/sam_vit_b.pth; toy; or empty: none",
    )
    demo_dir: Path = Field(_DEMO_DIR, description="Folder that holds the demo models in models/clip and models/sam")
    model_sha256: str = Field(
        "",
        description="SHA-256 that the model's weights file must have; empty: any. Several models: one for each, in "
        "their order, separated by commas; an empty one: any",
    )
    segmenter_sha256: str = Field("", description="SHA-256 that the segmenter's weights file must have; empty: any")
    model_cache: str = Field("", description="Folder for downloaded weights; empty: the library's own")

    device: str = Field("auto", description="auto (CUDA if there is one), cpu, cuda or cuda:N")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 for large models where the hardware computes in it"
    )
    threads: int = Field(0, ge=0, description="Processor threads for one model; 0: one for each core")
    max_batch: int = Field(0, ge=0, le=1024, description="Most items computed at a time; 0: by device")
    bulk_every: int = Field(4, ge=2, description="While both lanes wait, one batch in so many is a bulk one")
    bulk_rest: float = Field(
        3.0,
        ge=0,
        description="While people are there, the model rests from bulk work so many times as long as each batch took; "
        "0 where no service that people wait for shares the machine",
    )
    warm_up: bool = Field(True, description="Whether each size of batch is computed once before the service is ready")

    max_items: int = Field(64, ge=1, le=1024, description="Most items in one call")
    max_waiting_items: int = Field(512, ge=1, description="Most texts and images worked on at a time; more are refused")
    max_waiting_analyses: int = Field(128, ge=1, description="Most images taken apart at a time; more are refused")
    max_waiting_bytes: int = Field(512 * _MIB, ge=1, description="Most bytes of images worked on at a time")
    decode_threads: int = Field(0, ge=0, description="Images decoded at a time; 0: one for each core")

    working_px: int = Field(1024, ge=64, le=8192, description="Longer side of the picture that segments are cut from")
    default_segments: int = Field(10, ge=1, le=64, description="Segments for an image where the call names no number")
    default_min_area_fraction: float = Field(
        0.01, gt=0, lt=1, description="Smallest segment, as a share of the image, where the call names none"
    )
    points_per_side: int = Field(12, ge=1, le=64, description="Prompt points along each side of the image")
    min_predicted_iou: float | None = Field(
        None, ge=0, le=1, description="Least predicted IoU of a segment; none: what suits the segmenter"
    )
    min_stability: float | None = Field(
        None, ge=0, le=1, description="Least stability of a segment; none: what suits the segmenter"
    )
    tag_min_confidence: float = Field(0.3, ge=0, le=1, description="Least probability of a tag")
    max_vocabularies: int = Field(16, ge=1, description="Vocabularies whose vectors are kept")

    watch_every_s: float = Field(10.0, gt=0, description="An idle model answers a test this often, in seconds")
    watch_segmenter_every_s: float = Field(300.0, gt=0, description="The same for the segmenter")
    watch_limit_s: float = Field(60.0, gt=0, description="A model that does not answer for so long is not ready")

    @property
    def models(self) -> tuple[str, ...]:
        """The names in `model`, at least one, each once; the first is the default one."""
        return _items(self.model)

    def each_model(self) -> "list[EmbedderSettings]":
        """For each model the settings that have it alone."""
        hashes = _items(self.model_sha256) if self.model_sha256 else ("",) * len(self.models)
        return [
            self.model_copy(update={"model": model, "model_sha256": sha256})
            for model, sha256 in zip(self.models, hashes, strict=True)
        ]

    @model_validator(mode="after")
    def _models(self) -> "EmbedderSettings":
        models = self.models
        if not all(models):
            raise ValueError(f"model has an empty name in {self.model!r}; name each model, separated by single commas")
        twice = sorted({model for model in models if models.count(model) > 1})
        if twice:
            raise ValueError(f"model names {twice[0]!r} more than once; each model is loaded once")
        if self.model_sha256 and len(_items(self.model_sha256)) != len(models):
            raise ValueError(
                f"model_sha256 must hold one hash for each of the {len(models)} models in their order, separated by "
                f"commas, not {len(_items(self.model_sha256))}"
            )
        return self

    @model_validator(mode="after")
    def _room_for_one_call(self) -> "EmbedderSettings":
        for name in ("max_waiting_items", "max_waiting_analyses"):
            if getattr(self, name) * BULK_SHARE < self.max_items:
                raise ValueError(
                    f"{name} must be at least max_items / {BULK_SHARE:g} = {self.max_items / BULK_SHARE:g}, so that "
                    "the largest bulk call fits"
                )
        return self


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(","))
