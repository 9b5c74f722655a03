import json
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from demo.build_gallery import build
from demo.labels import GALLERY_FOLDER, read_labels
from demo.masks import bounding_box

LABELS = read_labels()


def test_there_are_400_scenes_half_of_them_for_evaluation() -> None:
    assert [label.id for label in LABELS] == [f"scene-{n:04d}" for n in range(400)]
    assert [label.split for label in LABELS] == ["eval"] * 200 + ["gallery"] * 200


def test_every_label_has_its_picture_and_no_picture_is_over() -> None:
    assert {label.file for label in LABELS} == {file.name for file in GALLERY_FOLDER.glob("*.jpg")}


def test_everything_together_is_small() -> None:
    assert sum(file.stat().st_size for file in GALLERY_FOLDER.iterdir()) <= 12e6


def test_labels_agree_with_themselves_and_with_the_pictures() -> None:
    for label in LABELS[::10]:
        with Image.open(GALLERY_FOLDER / label.file) as image:
            size = image.size
        for item in label.objects:
            assert (item.mask.width, item.mask.height) == size
            assert sum(item.mask.counts) == size[0] * size[1]
            mask = item.mask.to_array()
            assert np.allclose(item.box, bounding_box(mask), atol=1e-5)
            assert abs(item.area_fraction - mask.mean()) < 1e-5


def test_captions_name_every_object_and_are_distinct() -> None:
    assert all(name in label.caption for label in LABELS for name in label.names)
    assert len({label.caption for label in LABELS}) == len(LABELS)
    assert all(label.background in label.caption for label in LABELS if len(label.names) == 1)


def test_no_scene_of_several_objects_is_part_of_another() -> None:
    sets = [frozenset(label.names) for label in LABELS if len(label.names) > 1]
    assert not [1 for a, b in combinations(sets, 2) if a <= b or b <= a]


def test_most_scenes_have_two_to_four_objects_and_most_objects_are_small() -> None:
    counts = [len(label.names) for label in LABELS]
    assert sum(2 <= count <= 4 for count in counts) > 0.75 * len(counts)
    assert {1, 5} <= set(counts)
    areas = [item.area_fraction for label in LABELS for item in label.objects]
    assert 0.4 < float(np.mean(np.array(areas) < 0.08)) < 0.9


def test_the_gallery_can_be_drawn_again(tmp_path: Path) -> None:
    assert [json.dumps(a.caption) for a in build(tmp_path, 3)] == [json.dumps(b.caption) for b in LABELS[:3]]
    assert read_labels(tmp_path) == LABELS[:3]
