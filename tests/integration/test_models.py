"""Published architectures in full size, with random weights in files of the published form."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from services.common.domain import Point
from services.common.errors import FailedPrecondition
from services.embedder.masks import tight_box
from services.embedder.models.clip import load_clip
from services.embedder.models.sam import load_sam
from services.embedder.models.sam_architecture import SAM_CONFIGS, build_sam
from services.embedder.models.timm import load_timm
from services.embedder.settings import EmbedderSettings
from tests.unit.embedder.pictures import picture

PICTURES = [picture(a, b, size=(300, 200)) for a in ("red", "blue", "white") for b in ("green", "pink", "black")]


@pytest.mark.timeout(300)
def test_open_clip_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "clip.pt"
    torch.save(open_clip.create_model("ViT-S-32-alt", pretrained_text=False).state_dict(), path)
    encoder = load_clip(EmbedderSettings(model=f"ViT-S-32-alt/{path}"))
    pixels = [encoder.preprocess(image) for image in PICTURES]
    together = encoder.embed_images(encoder.stack(pixels[:8]))
    alone = np.concatenate([encoder.embed_images(encoder.stack([one])) for one in pixels[:8]])
    assert (together * alone).sum(axis=1).min() >= 0.9999
    assert together.shape == (8, encoder.dimension)
    texts = ["a red disc on blue", "a photo of a cat"]
    words = encoder.embed_texts(encoder.tokenize(texts))
    for text, row in zip(texts, words, strict=True):
        assert encoder.embed_texts(encoder.tokenize([text]))[0] @ row >= 0.9999


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "dimension"), [("resnet18", 512), ("vit_base_patch16_224", 768), ("resnet18/logits", 1000)]
)
def test_timm_from_a_file(tmp_path: Path, name: str, dimension: int) -> None:
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    save_file(timm.create_model(name.partition("/")[0], pretrained=False).state_dict(), path)
    encoder = load_timm(EmbedderSettings(model=f"timm:{name}/{path}"))
    assert (encoder.name, encoder.dimension, encoder.image_px) == (f"timm:{name}/{path}", dimension, 224)
    rows = encoder.embed_images(encoder.stack([encoder.preprocess(image) for image in PICTURES[:2]]))
    assert rows.shape == (2, dimension)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    alone = encoder.embed_images(encoder.stack([encoder.preprocess(PICTURES[1])]))[0]
    assert rows[1] @ alone >= 0.9999
    with pytest.raises(FailedPrecondition, match="no text tower"):
        encoder.embed_texts(["a disc"])


@pytest.mark.timeout(300)
def test_sam_vit_b_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "sam_vit_b.pth"
    torch.save(build_sam(SAM_CONFIGS["vit_b"]).state_dict(), path)
    settings = EmbedderSettings(segmenter=f"vit_b:{path}", points_per_side=2, min_predicted_iou=0, min_stability=0)
    segmenter = load_sam(settings)
    found = segmenter.segment_all(PICTURES[0], max_segments=3, min_area_fraction=0.01)
    assert 1 <= len(found) <= 3
    assert all(one.mask.shape == (200, 300) for one in found)
    one = segmenter.segment_at(PICTURES[0], [Point(0.25, 0.3)], None)
    assert one.mask.shape == (200, 300)
    assert tight_box(one.mask).area > 0
