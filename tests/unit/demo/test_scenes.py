import numpy as np
import pytest

from demo.backgrounds import COLOURS, KINDS, Background, paint
from demo.glyphs import picture
from demo.holdout import held_out
from demo.masks import bounding_box
from demo.scenes import AREA_RANGES, Scene, draw, make_scene, pick_background, sample_spec, training_spec

NAMES = ("owl", "bus", "pizza", "castle", "umbrella")


def scene(seed: int, count: int) -> Scene:
    rng = np.random.default_rng(seed)
    return make_scene(rng, NAMES[:count], pick_background(rng), side=256)


def test_the_same_seed_gives_the_same_scene() -> None:
    first, second, other = scene(1, 3), scene(1, 3), scene(2, 3)
    assert first.image.tobytes() == second.image.tobytes()
    assert first.caption == second.caption
    assert first.objects == second.objects
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_boxes_areas_and_masks_agree(count: int) -> None:
    drawn = scene(count, count)
    assert {item.name for item in drawn.objects} == set(NAMES[:count])
    for item in drawn.objects:
        mask = item.mask.to_array()
        assert mask.shape == (drawn.image.height, drawn.image.width)
        assert item.box == bounding_box(mask)
        assert item.area_fraction == mask.mean()
        assert 0 < item.area_fraction < AREA_RANGES[1][1] * 1.2
        assert all(0 <= value <= 1 for value in item.box)


def test_masks_are_visible_parts_that_never_share_a_pixel() -> None:
    rng = np.random.default_rng(5)
    for _ in range(10):
        spec = sample_spec(rng, NAMES, pick_background(rng))
        _, masks = draw(spec, 256)
        assert np.stack(masks).sum(axis=0).max() == 1


def test_every_object_keeps_most_of_itself() -> None:
    rng = np.random.default_rng(6)
    for _ in range(20):
        spec = sample_spec(rng, NAMES, pick_background(rng))
        _, masks = draw(spec, 200)
        for placement, mask in zip(spec.placements, masks, strict=True):
            alpha = np.asarray(picture(placement.name).getchannel("A")) > 127
            whole = alpha.sum() * (placement.length * 200 / max(alpha.shape)) ** 2
            assert mask.sum() >= 0.7 * whole


def test_a_picture_is_what_its_masks_say() -> None:
    rng = np.random.default_rng(7)
    spec = sample_spec(rng, ["owl"], Background("green", "plain", 3))
    image, (mask,) = draw(spec, 128)
    ground = np.asarray(image, np.float32)[~mask].mean(axis=0)
    assert np.abs(ground / spec.brightness - COLOURS["green"]).max() < 30


@pytest.mark.parametrize("kind", list(KINDS))
def test_backgrounds_keep_their_colour(kind: str) -> None:
    for colour, rgb in COLOURS.items():
        pixels = np.asarray(paint(Background(colour, kind, 1), 40, 30), np.float32)
        assert pixels.shape == (30, 40, 3)
        assert np.abs(pixels.mean(axis=(0, 1)) - rgb).max() < 45


def test_training_scenes_have_one_to_five_different_objects() -> None:
    rng = np.random.default_rng(8)
    specs = [training_spec(rng, held_out()) for _ in range(60)]
    counts = {len(spec.placements) for spec in specs}
    assert counts == {1, 2, 3, 4, 5}
    assert all(len(spec.centres) == len(spec.placements) for spec in specs)
