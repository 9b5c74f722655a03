import json
from pathlib import Path
from typing import Any

import pytest

from saccade.labels import LabelsError, read_labels

OBJECT = {"name": "owl", "box": [0.0, 0.0, 0.5, 0.5]}


def write(folder: Path, *entries: Any) -> Path:
    (folder / "a.jpg").write_bytes(b"a")
    (folder / "b.jpg").write_bytes(b"b")
    path = folder / "labels.jsonl"
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries), encoding="utf-8")
    return path


def test_labels_are_read(tmp_path: Path) -> None:
    mask = {"height": 2, "width": 4, "counts": [2, 2, 4]}
    full = {
        "file": "a.jpg",
        "id": "one",
        "title": "An owl",
        "caption": "an owl",
        "objects": [OBJECT, OBJECT | {"mask": mask}, {"name": "bus", "box": [0.5, 0, 1, 1]}],
        "year": 2020,
    }
    first, second = read_labels(write(tmp_path, full, {"file": "b.jpg"}))
    assert (first.id, first.caption, first.names) == ("one", "an owl", ("owl", "bus"))
    assert [labelled.area_fraction for labelled in first.objects] == [0.25, 0.25, 0.5]
    image = first.to_image(["tag"])
    assert (image.content, image.id, image.source, image.title) == (tmp_path / "a.jpg", "one", "a.jpg", "An owl")
    assert image.metadata == {"year": 2020, "objects": ["owl", "bus"], "object_count": 3}
    assert (second.id, second.objects, second.to_image().title) == ("", (), "")


def test_only_line_feeds_end_lines(tmp_path: Path) -> None:
    path = write(tmp_path)
    captions = ["an owl\u2028and\x85a bus", "two"]
    entries = [{"file": file, "caption": caption} for file, caption in zip(("a.jpg", "b.jpg"), captions, strict=True)]
    text = "\r\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    path.write_bytes(f"{text}\r\n\r\n".encode())
    assert [label.caption for label in read_labels(path)] == captions


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["a.jpg"], "needs a JSON object"),
        ({"caption": "an owl"}, '"file" must be'),
        ({"file": "gone.jpg"}, "'gone.jpg', which is not there"),
        ({"file": "a.jpg"}, "labels in an earlier line"),
        ({"file": "b.jpg", "caption": 3}, '"caption" must be a string'),
        ({"file": "b.jpg", "objects": {}}, '"objects" must be a list'),
        ({"file": "b.jpg", "objects": [{}]}, r'"objects\[0\]" must be an object with a "name"'),
        ({"file": "b.jpg", "objects": [{"name": "owl"}]}, r'"objects\[0\].box" must be four numbers'),
        ({"file": "b.jpg", "objects": [{"name": "owl", "box": [0, 0, 2, 1]}]}, "0 <= x0 < x1 <= 1"),
        ({"file": "b.jpg", "objects": [OBJECT | {"mask": []}]}, "must be an object"),
        ({"file": "b.jpg", "objects": [OBJECT | {"mask": {"height": 2}}]}, '"height" and "width", whole numbers'),
        (
            {"file": "b.jpg", "objects": [OBJECT | {"mask": {"height": 0, "width": 2, "counts": []}}]},
            "at least 1",
        ),
        (
            {"file": "b.jpg", "objects": [OBJECT | {"mask": {"height": 2, "width": 2, "counts": [5]}}]},
            "add up to height x width",
        ),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, wrong: Any, sentence: str) -> None:
    path = write(tmp_path, {"file": "a.jpg"}, wrong)
    with pytest.raises(LabelsError, match=f"labels.jsonl, line 2: .*{sentence}"):
        read_labels(path)


def test_a_file_that_is_no_json_missing_or_empty(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    with pytest.raises(LabelsError, match="No such file"):
        read_labels(path)
    path.write_text("\n\n")
    with pytest.raises(LabelsError, match="no labels in it"):
        read_labels(path)
    path.write_text("{'file'}\n")
    with pytest.raises(LabelsError, match="line 1: "):
        read_labels(path)
