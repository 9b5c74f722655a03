"""The project's own small CLIP and SAM, loaded by the code that loads the large ones."""

import json
from pathlib import Path
from typing import Final

from services.embedder.models.base import ModelError
from services.embedder.models.clip import ClipEncoder, load_clip_folder
from services.embedder.models.sam import Quality, SamSegmenter, load_sam_file
from services.embedder.models.sam_architecture import SamConfig
from services.embedder.settings import EmbedderSettings

__all__ = ["load_demo_clip", "load_demo_sam", "load_sam_folder"]

# The small model thinks less of its masks than the published ones do: with what suits those it would give few.
QUALITY: Final = Quality(min_predicted_iou=0.5, min_stability=0.5)


def load_demo_clip(settings: EmbedderSettings) -> ClipEncoder:
    """Load `models/clip` of the demo's folder; ModelError says what is wrong."""
    return load_clip_folder("demo", settings.demo_dir / "models" / "clip", settings)


def load_demo_sam(settings: EmbedderSettings) -> SamSegmenter:
    """Load `models/sam` of the demo's folder; ModelError says what is wrong."""
    return load_sam_folder(settings.demo_dir / "models" / "sam", settings)


def load_sam_folder(folder: Path, settings: EmbedderSettings, quality: Quality = QUALITY) -> SamSegmenter:
    """Load a SAM from a folder with config.json and model.safetensors; ModelError says what is wrong."""
    return load_sam_file("demo", _config(folder / "config.json"), folder / "model.safetensors", settings, quality)


def _config(path: Path) -> SamConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["global_attention_indexes"] = tuple(values["global_attention_indexes"])
        return SamConfig(**values)
    except FileNotFoundError as exc:
        raise ModelError(f"there is no {path}; set SACCADE_DEMO_DIR, or another SACCADE_SEGMENTER") from exc
    except (ValueError, TypeError, KeyError) as exc:
        raise ModelError(f"{path} does not describe a SAM: {exc}") from exc
