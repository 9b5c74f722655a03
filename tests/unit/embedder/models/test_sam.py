"""Our use of segment_anything's network against its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from services.common.domain import Box, Point
from services.embedder.models.base import ModelError
from services.embedder.models.sam import SamSegmenter, load_sam, load_sam_file
from services.embedder.models.sam_architecture import SamConfig, build_sam
from services.embedder.settings import EmbedderSettings
from tests.unit.embedder.pictures import picture

TINY = SamConfig(
    encoder_dim=32,
    encoder_depth=2,
    encoder_heads=2,
    global_attention_indexes=(1,),
    image_size=128,
    patch_size=16,
    window_size=3,
    prompt_embed_dim=32,
    decoder_heads=2,
    decoder_mlp_dim=64,
    iou_head_hidden_dim=32,
)
SETTINGS = EmbedderSettings(min_predicted_iou=0, min_stability=0, points_per_side=5, device="cpu", threads=1)


def tiny() -> Sam:
    """Random, but with position biases that are not zero, so that they count."""
    torch.manual_seed(5)
    sam = build_sam(TINY)
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if "rel_pos" in name or name == "image_encoder.pos_embed":
                parameter.normal_(0, 0.3)
            if name.startswith("mask_decoder.output_hypernetworks") and name.endswith("weight"):
                parameter.mul_(3)
    return sam


def upstream(image: Image.Image, points: Sequence[Point], box: Box | None, *, multimask: bool) -> tuple[Any, Any]:
    predictor = SamPredictor(tiny())
    predictor.set_image(np.asarray(image))
    scale = np.array([image.width, image.height], np.float32)
    masks, scores, _ = predictor.predict(
        point_coords=np.array([(p.x, p.y) for p in points]) * scale if points else None,
        point_labels=np.array([int(not p.background) for p in points]) if points else None,
        box=np.array([box.x0, box.y0, box.x1, box.y1]) * np.tile(scale, 2) if box else None,
        multimask_output=multimask,
    )
    return masks, scores


@pytest.mark.parametrize("size", [(128, 96), (60, 90), (300, 200)])
@pytest.mark.parametrize(
    ("points", "box"),
    [
        ([Point(0.3, 0.3)], None),
        ([Point(0.3, 0.3), Point(0.8, 0.8, background=True)], None),
        ([], Box(0.1, 0.1, 0.5, 0.6)),
        ([Point(0.3, 0.3)], Box(0.1, 0.1, 0.5, 0.6)),
    ],
)
def test_a_prompt_gives_what_the_library_gives(size: tuple[int, int], points: list[Point], box: Box | None) -> None:
    image = picture(size=size)
    ambiguous = len(points) == 1 and box is None
    masks, scores = upstream(image, points, box, multimask=ambiguous)
    found = SamSegmenter("tiny", tiny(), SETTINGS).segment_at(image, points, box)
    expected = masks[scores.argmax()]
    assert found.mask.shape == expected.shape
    assert (found.mask & expected).sum() / (found.mask | expected).sum() > 0.97
    assert found.predicted_iou == pytest.approx(float(np.clip(scores.max(), 0, 1)), abs=2e-3)
    assert 0 <= found.stability <= 1


def test_automatic_segments_are_within_the_picture_and_apart() -> None:
    image = picture(size=(90, 60))
    found = SamSegmenter("tiny", tiny(), SETTINGS).segment_all(image, max_segments=4, min_area_fraction=0.05)
    assert 1 <= len(found) <= 4
    for one in found:
        assert one.mask.shape == (60, 90)
        assert one.mask.dtype == np.bool_
        assert 0 <= one.predicted_iou <= 1
    for i, a in enumerate(found):
        for b in found[i + 1 :]:
            assert (a.mask & b.mask).sum() / (a.mask | b.mask).sum() < 0.8


def test_no_state_is_left_between_pictures() -> None:
    segmenter = SamSegmenter("tiny", tiny(), SETTINGS)
    first = segmenter.segment_all(picture(), max_segments=4, min_area_fraction=0.01)
    segmenter.segment_all(picture("green", "white", size=(50, 120)), max_segments=4, min_area_fraction=0.01)
    again = segmenter.segment_all(picture(), max_segments=4, min_area_fraction=0.01)
    assert [a.mask.tobytes() for a in first] == [b.mask.tobytes() for b in again]


def test_nothing_good_is_an_empty_list() -> None:
    strict = EmbedderSettings(min_predicted_iou=1.0, points_per_side=2, device="cpu", threads=1)
    segmenter = SamSegmenter("tiny", tiny(), strict)
    assert segmenter.segment_all(picture(), max_segments=4, min_area_fraction=0.01) == []


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_from_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"sam{suffix}"
    state = tiny().state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    loaded = load_sam_file("tiny", TINY, path, SETTINGS)
    made = SamSegmenter("tiny", tiny(), SETTINGS)
    point = [Point(0.3, 0.3)]
    assert (loaded.segment_at(picture(), point, None).mask == made.segment_at(picture(), point, None).mask).all()


@pytest.mark.parametrize(
    ("segmenter", "message"),
    [
        ("vit_x:/a", "names no segmenter"),
        ("vit_b", "names no segmenter"),
        ("vit_b:/no/such.pth", "there is no file /no/such.pth"),
    ],
)
def test_names_that_do_not_load(segmenter: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_sam(EmbedderSettings(segmenter=segmenter))


def test_the_hash_of_the_weights_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "sam.safetensors"
    save_file(tiny().state_dict(), path)
    with pytest.raises(ModelError, match="it is another file"):
        load_sam_file("tiny", TINY, path, SETTINGS.model_copy(update={"segmenter_sha256": "0" * 64}))


def test_weights_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="do not fit the segmenter"):
        load_sam_file("tiny", TINY, path, SETTINGS)
