"""Labels of a folder of images: what is in each, where. One JSON object on each line of a file such as labels.jsonl.

    {"file": "a.jpg", "caption": "an owl and a bus", "objects": [{"name": "owl", "box": [0.1, 0.2, 0.4, 0.6]}]}

`file` is the image's path, relative to the labels file. All else may be missing: `caption`, a sentence that says what
the picture shows; `objects`, each with a `name`, a `box` (x0, y0, x1, y1 as fractions of the image's sides) and, if
known, a `mask` ({"height", "width", "counts"}: uncompressed COCO run lengths, column by column, beginning with zeros);
`id` and `title`, for where the image is stored under them. Further keys are kept.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saccade.requests import Box, NewImage

__all__ = ["Label", "LabelledObject", "LabelsError", "read_labels"]


class LabelsError(ValueError):
    """A labels file that can not be used; says in which line and why."""


@dataclass(frozen=True)
class LabelledObject:
    """One thing in an image; `mask` as the file has it: height, width, counts."""

    name: str
    box: Box
    mask: Mapping[str, Any] | None = None

    @property
    def area_fraction(self) -> float:
        """Share of the image that the mask covers, or, where none is known, the box; in (0, 1]."""
        if self.mask:
            return float(sum(self.mask["counts"][1::2]) / (self.mask["height"] * self.mask["width"]))
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


@dataclass(frozen=True)
class Label:
    """One image's labels; `path` is the file's full path, `extra` holds the keys that mean nothing here."""

    file: str
    path: Path
    id: str = ""
    title: str = ""
    caption: str = ""
    objects: tuple[LabelledObject, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_image(self, tags: Sequence[str] = ()) -> NewImage:
        """The image to store; its metadata are the further keys, and the names and number of its objects."""
        metadata = {**self.extra, "objects": list(self.names), "object_count": len(self.objects)}
        return NewImage(self.path, self.id, self.file, self.title or self.caption, metadata, tags)

    @property
    def names(self) -> tuple[str, ...]:
        """What is in the image, no name twice."""
        return tuple(dict.fromkeys(labelled.name for labelled in self.objects))


def read_labels(path: Path) -> list[Label]:
    """All labels of a file, in its order; LabelsError names the first line that is wrong."""
    labels: dict[str, Label] = {}
    try:
        # Not splitlines: it also cuts at characters such as U+2028, which JSON may hold as they are.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise LabelsError(f"{path}: {exc}") from exc
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            label = _label(json.loads(line), path.parent)
            if label.file in labels:
                raise ValueError(f"{label.file!r} has labels in an earlier line")
        except ValueError as exc:
            raise LabelsError(f"{path}, line {number}: {exc}") from exc
        labels[label.file] = label
    if not labels:
        raise LabelsError(f"{path}: there are no labels in it")
    return list(labels.values())


def _label(entry: Any, folder: Path) -> Label:
    if not isinstance(entry, dict):
        raise ValueError('needs a JSON object, such as {"file": "a.jpg", "caption": "an owl", "objects": []}')
    rest = dict(entry)
    file, objects = rest.pop("file", None), rest.pop("objects", [])
    texts = {key: rest.pop(key, "") for key in ("id", "title", "caption")}
    if not isinstance(file, str) or not file:
        raise ValueError('"file" must be the path of an image, relative to the labels')
    path = folder / file
    if not path.is_file():
        raise ValueError(f'"file" names {file!r}, which is not there')
    for key, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f'"{key}" must be a string')
    if not isinstance(objects, list):
        raise ValueError('"objects" must be a list')
    found = tuple(_object(item, f"objects[{i}]") for i, item in enumerate(objects))
    return Label(file, path, **texts, objects=found, extra=rest)


def _object(item: Any, where: str) -> LabelledObject:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str) or not item["name"]:
        raise ValueError(f'"{where}" must be an object with a "name"')
    box = item.get("box")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, int | float) for side in box):
        raise ValueError(f'"{where}.box" must be four numbers: x0, y0, x1, y1')
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(f'"{where}.box" needs 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, as fractions of the image')
    mask = item.get("mask")
    if mask is not None:
        _check_mask(mask, f"{where}.mask")
    return LabelledObject(item["name"], (x0, y0, x1, y1), mask)


def _check_mask(mask: Any, where: str) -> None:
    if not isinstance(mask, dict):
        raise ValueError(f'"{where}" must be an object with "height", "width" and "counts"')
    height, width, counts = mask.get("height"), mask.get("width"), mask.get("counts")
    if not isinstance(height, int) or not isinstance(width, int) or not isinstance(counts, list):
        raise ValueError(f'"{where}" needs "height" and "width", whole numbers, and "counts", a list of them')
    if height < 1 or width < 1 or not all(isinstance(run, int) and run >= 0 for run in counts):
        raise ValueError(f'"{where}" needs a height and width of at least 1, and counts of at least 0')
    if sum(counts) != height * width:
        raise ValueError(f'"{where}.counts" must add up to height x width')
