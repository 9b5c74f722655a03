"""The labels of the shipped gallery: one JSON object a line in `demo/gallery/labels.jsonl`."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from demo.masks import Box
from demo.scenes import Scene, SceneObject
from services.common.domain import Mask

__all__ = ["GALLERY_FOLDER", "SceneLabel", "read_labels", "write_labels"]

GALLERY_FOLDER: Final = Path(__file__).parent / "gallery"
LABELS_FILE: Final = "labels.jsonl"


@dataclass(frozen=True, slots=True)
class SceneLabel:
    """One gallery picture. `split` is "eval" for the 200 scenes of the evaluation, else "gallery"."""

    file: str
    id: str
    split: str
    caption: str
    title: str
    background: str
    objects: tuple[SceneObject, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the objects, which are all different."""
        return tuple(item.name for item in self.objects)

    @classmethod
    def of(cls, scene: Scene, number: int, split: str) -> "SceneLabel":
        """The label of a drawn scene as picture `number` of the gallery."""
        identifier = f"scene-{number:04d}"
        names = [item.name for item in scene.objects]
        listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        return cls(
            f"{identifier}.jpg",
            identifier,
            split,
            scene.caption,
            listed.capitalize(),
            scene.background,
            scene.objects,
        )


def _object(fields: dict[str, Any]) -> SceneObject:
    x0, y0, x1, y1 = fields["box"]
    box: Box = (x0, y0, x1, y1)
    mask = fields["mask"]
    shape = Mask(mask["height"], mask["width"], tuple(mask["counts"]))
    return SceneObject(fields["name"], fields["category"], box, fields["area_fraction"], shape)


def read_labels(folder: Path = GALLERY_FOLDER) -> list[SceneLabel]:
    """All labels of a gallery folder, in the order of the scenes' numbers."""
    labels = []
    for line in (folder / LABELS_FILE).read_text(encoding="utf-8").split("\n")[:-1]:
        fields: dict[str, Any] = json.loads(line)
        objects = tuple(_object(item) for item in fields.pop("objects"))
        labels.append(SceneLabel(**fields, objects=objects))
    return labels


def write_labels(labels: Iterable[SceneLabel], folder: Path) -> None:
    """Write `labels.jsonl`; boxes and areas with six decimals."""
    lines = []
    for label in labels:
        fields = asdict(label)
        for item in fields["objects"]:
            item["box"] = [round(value, 6) for value in item["box"]]
            item["area_fraction"] = round(item["area_fraction"], 6)
        lines.append(json.dumps(fields, separators=(",", ":")))
    (folder / LABELS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
