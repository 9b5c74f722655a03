from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import demo
from demo.check_models import best_per_scene, check_masks, crops_of, embed_images, embed_texts, find_masks, ranks
from demo.glyphs import glyph_names
from demo.labels import GALLERY_FOLDER, SceneLabel, read_labels
from services.embedder.models.base import Encoder
from services.embedder.models.demo import load_demo_clip, load_demo_sam
from services.embedder.settings import EmbedderSettings

MODELS = Path(demo.__file__).parent / "models"
LABELS = read_labels()[:6]
SETTINGS = EmbedderSettings(device="cpu")


def picture(label: SceneLabel) -> Image.Image:
    with Image.open(GALLERY_FOLDER / label.file) as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_demo_clip(SETTINGS)


def test_both_models_together_are_small() -> None:
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) <= 20e6


def test_the_clip_knows_cut_outs(encoder: Encoder) -> None:
    crops = [crop for label in LABELS for crop in crops_of(label, picture(label))]
    names = [name for label in LABELS for name in label.names]
    vectors = embed_images(encoder, crops)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    words = embed_texts(encoder, [f"a photo of a {name}" for name in glyph_names()])
    best = (vectors @ words.T).argmax(axis=1)
    assert np.mean([glyph_names()[i] == name for i, name in zip(best, names, strict=True)]) > 0.8


def test_captions_find_their_scenes(encoder: Encoder) -> None:
    wholes = embed_images(encoder, [picture(label) for label in LABELS])
    found = ranks(embed_texts(encoder, [label.caption for label in LABELS]) @ wholes.T)
    assert (found == 0).mean() > 0.6


def test_the_sam_finds_the_objects_of_a_scene() -> None:
    sam = load_demo_sam(SETTINGS)
    found = [find_masks(sam, picture(label), SETTINGS) for label in LABELS[:2]]
    assert all(0 < len(masks) <= SETTINGS.default_segments for masks in found)
    assert check_masks(LABELS[:2], found)["segmentation mean IoU"] > 0.6


def test_true_masks_score_one() -> None:
    found = [[item.mask.to_array() for item in label.objects] for label in LABELS]
    assert check_masks(LABELS, found)["segmentation mean IoU"] == pytest.approx(1)
    assert check_masks(LABELS, [[] for _ in LABELS])["segmentation mean IoU"] == 0


def test_best_per_scene_takes_the_best_segment() -> None:
    scores = np.array([[0.1, 0.7, 0.3]], np.float32)
    assert best_per_scene(scores, [0, 0, 2], 3).tolist()[0] == pytest.approx([0.7, -1.0, 0.3])
