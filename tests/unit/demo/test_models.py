from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import demo
from demo.automatic_masks import FoundMask, GridSettings, find_masks, load_sam
from demo.check_models import Encoder, best_per_scene, check_masks, crops_of, ranks
from demo.glyphs import glyph_names
from demo.labels import GALLERY_FOLDER, SceneLabel, read_labels
from demo.masks import decode

MODELS = Path(demo.__file__).parent / "models"
LABELS = read_labels()[:6]


def picture(label: SceneLabel) -> Image.Image:
    with Image.open(GALLERY_FOLDER / label.file) as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(MODELS / "clip")


def test_both_models_together_are_small() -> None:
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) <= 20e6


def test_the_clip_is_of_open_clips_class_and_knows_cut_outs(encoder: Encoder) -> None:
    assert isinstance(encoder.model, open_clip.CLIP)
    crops = [crop for label in LABELS for crop in crops_of(label, picture(label))]
    names = [name for label in LABELS for name in label.names]
    vectors = encoder.images(crops)
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(len(crops)), atol=1e-4)
    words = encoder.texts([f"a photo of a {name}" for name in glyph_names()])
    best = (vectors @ words.T).argmax(dim=1).tolist()
    assert np.mean([glyph_names()[i] == name for i, name in zip(best, names, strict=True)]) > 0.8


def test_captions_find_their_scenes(encoder: Encoder) -> None:
    wholes = encoder.images([picture(label) for label in LABELS])
    found = ranks(encoder.texts([label.caption for label in LABELS]) @ wholes.T)
    assert float((found == 0).float().mean()) > 0.6


def test_the_sam_finds_the_objects_of_a_scene() -> None:
    sam = load_sam(MODELS / "sam")
    settings = GridSettings()
    found = [find_masks(sam, picture(label), settings) for label in LABELS[:2]]
    assert all(0 < len(masks) <= settings.max_masks for masks in found)
    assert check_masks(LABELS[:2], found)["segmentation mean IoU"] > 0.6


def test_true_masks_score_one() -> None:
    found = [[FoundMask(decode(item.mask), 1.0, 1.0) for item in label.objects] for label in LABELS]
    assert check_masks(LABELS, found)["segmentation mean IoU"] == pytest.approx(1)
    assert check_masks(LABELS, [[] for _ in LABELS])["segmentation mean IoU"] == 0


def test_best_per_scene_takes_the_best_segment() -> None:
    scores = torch.tensor([[0.1, 0.7, 0.3]])
    assert best_per_scene(scores, torch.tensor([0, 0, 2]), 3).tolist()[0] == pytest.approx([0.7, -1.0, 0.3])
