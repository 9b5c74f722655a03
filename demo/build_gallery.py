"""Draw the shipped gallery and its labels: `python -m demo.build_gallery`. The same bytes on every run."""

from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer

from demo.gallery_plan import PlannedScene, plan_scenes
from demo.labels import GALLERY_FOLDER, SceneLabel, write_labels
from demo.scenes import Scene, make_scene, pick_background

__all__ = ["build", "main", "plan_gallery"]

SEED: Final = 400
SPLIT_SIZE: Final = 200
"""Scenes in each of the two splits."""
SIDE_PX: Final = 512
JPEG_QUALITY: Final = 70


def plan_gallery() -> list[PlannedScene]:
    """The evaluation split, then as many further scenes; no scene's objects are part of another's."""
    rng = np.random.default_rng(SEED)
    evaluation = plan_scenes(rng, SPLIT_SIZE)
    return evaluation + plan_scenes(rng, SPLIT_SIZE, avoid=evaluation)


def _scene(planned: PlannedScene, number: int) -> Scene:
    rng = np.random.default_rng((SEED, number))
    background = pick_background(rng, [planned.colour]) if planned.colour else pick_background(rng)
    return make_scene(rng, planned.names, background, side=SIDE_PX)


def build(out: Path, count: int | None = None) -> list[SceneLabel]:
    """Write pictures and labels of the first `count` scenes (all of them by default); return the labels."""
    out.mkdir(parents=True, exist_ok=True)
    labels = []
    for number, planned in enumerate(plan_gallery()[:count]):
        scene = _scene(planned, number)
        label = SceneLabel.of(scene, number, "eval" if number < SPLIT_SIZE else "gallery")
        scene.image.save(out / label.file, quality=JPEG_QUALITY, optimize=True)
        labels.append(label)
    write_labels(labels, out)
    return labels


def main(
    out: Annotated[Path, typer.Option(help="Folder for pictures and labels.")] = GALLERY_FOLDER,
) -> None:
    """Write `scene-0000.jpg` to `scene-0399.jpg` and `labels.jsonl`."""
    labels = build(out)
    size = sum(file.stat().st_size for file in out.iterdir())
    typer.echo(f"{len(labels)} scenes, {size / 1e6:.1f} MB in {out}")


if __name__ == "__main__":
    typer.run(main)
