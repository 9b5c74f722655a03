"""Measure the demo models on labelled scenes, without services: `python -m demo.check_models`."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from demo.build_vocabulary import FILE as VOCABULARY
from demo.labels import GALLERY_FOLDER, SceneLabel, read_labels
from demo.masks import BoolMask, iou
from demo.queries import RegionQuery, query_variant, region_queries, relevant_ids
from services.embedder.crops import cut_out
from services.embedder.models.base import Encoder, Segmenter
from services.embedder.models.clip import load_clip_folder
from services.embedder.models.demo import load_sam_folder
from services.embedder.settings import EmbedderSettings

__all__ = ["best_per_scene", "check_masks", "crops_of", "embed_images", "embed_texts", "find_masks", "main", "ranks"]

HERE: Final = Path(__file__).parent
TOP_K: Final = 10
SEED: Final = 3
T = TypeVar("T")
Rows = NDArray[np.float32]
"""Unit vectors or scores, one row each."""


def embed_images(encoder: Encoder, images: Sequence[Image.Image]) -> Rows:
    """Unit vectors of pictures of any size, shape (n, dim)."""
    size = encoder.max_batch
    batches = [[encoder.preprocess(image) for image in images[i : i + size]] for i in range(0, len(images), size)]
    return np.concatenate([encoder.embed_images(encoder.stack(batch)) for batch in batches])


def embed_texts(encoder: Encoder, texts: Sequence[str]) -> Rows:
    """Unit vectors of texts, shape (n, dim)."""
    return encoder.embed_texts(encoder.tokenize(texts))


def ranks(scores: Rows) -> NDArray[np.int64]:
    """For square scores (queries x items) how many items come before each query's own."""
    before: NDArray[np.int64] = (scores > scores.diagonal()[:, None]).sum(axis=1)
    return before


def recall_of_relevant(scores: Rows, labels: Sequence[SceneLabel], queries: Sequence[RegionQuery]) -> float:
    """Mean part of the scenes that show the sought object which are among the first `TOP_K`."""
    found = []
    for row, query in zip(scores, queries, strict=True):
        wanted = relevant_ids(labels, query.target.name)
        first = {labels[i].id for i in np.argsort(-row, kind="stable")[:TOP_K]}
        found.append(len(first & wanted) / min(TOP_K, len(wanted)))
    return float(np.mean(found))


def best_per_scene(scores: Rows, owners: Sequence[int], scenes: int) -> Rows:
    """From scores (queries x segments) the best segment of each scene: (queries x scenes), -1 where there is none."""
    best = np.full((scenes, len(scores)), -1.0, np.float32)
    np.maximum.at(best, list(owners), scores.T)
    return best.T


def crops_of(label: SceneLabel, image: Image.Image) -> list[Image.Image]:
    """The cut-out of every labelled object."""
    return [cut_out(image, item.mask.to_array()) for item in label.objects]


def check_text(encoder: Encoder, labels: Sequence[SceneLabel], wholes: Rows) -> dict[str, float]:
    """Recall of the own scene by caption."""
    found = ranks(embed_texts(encoder, [label.caption for label in labels]) @ wholes.T)
    return {f"text to image recall@{k}": float((found < k).mean()) for k in (1, 5, 10)}


def check_variants(encoder: Encoder, labels: Sequence[SceneLabel], wholes: Rows) -> dict[str, float]:
    """Recall of the scene with the same objects by a fresh picture of them."""
    vectors = embed_images(encoder, [query_variant(label, SEED).image for label in labels])
    found = ranks(vectors @ wholes.T)
    return {f"image to image recall@{k}": float((found < k).mean()) for k in (1, 10)}


def check_regions(
    encoder: Encoder, labels: Sequence[SceneLabel], wholes: Rows, segments: dict[str, list[list[Image.Image]]]
) -> dict[str, float]:
    """Recall@10 for small query objects: over whole vectors and over each kind of segments."""
    queries = region_queries(100, SEED, among={name for label in labels for name in label.names})
    sought = embed_images(encoder, [cut_out(q.scene.image, q.target.mask.to_array()) for q in queries])
    figures = {"small region recall@10, whole vectors": recall_of_relevant(sought @ wholes.T, labels, queries)}
    for kind, crops in segments.items():
        owners = [i for i, some in enumerate(crops) for _ in some]
        vectors = embed_images(encoder, [crop for some in crops for crop in some])
        scores = best_per_scene(sought @ vectors.T, owners, len(labels))
        figures[f"small region recall@10, {kind}"] = recall_of_relevant(scores, labels, queries)
    return figures


def check_tags(encoder: Encoder, names: Sequence[str], crops: Sequence[Image.Image]) -> dict[str, float]:
    """The part of true cut-outs whose best tag of the demo's vocabulary is their name."""
    vocabulary = json.loads(VOCABULARY.read_text(encoding="utf-8"))
    words = [entry["name"] for entry in vocabulary["entries"]]
    prompts = [embed_texts(encoder, [t.format(word) for word in words]) for t in vocabulary["prompt_templates"]]
    means = np.mean(prompts, axis=0)
    vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
    best = (embed_images(encoder, crops) @ vectors.T).argmax(axis=1)
    return {"tag accuracy, true cut-outs": float(np.mean([words[i] == n for i, n in zip(best, names, strict=True)]))}


def find_masks(segmenter: Segmenter, image: Image.Image, settings: EmbedderSettings) -> list[BoolMask]:
    """The masks that the embedder would store, best first."""
    found = segmenter.segment_all(
        image, max_segments=settings.default_segments, min_area_fraction=settings.default_min_area_fraction
    )
    return [candidate.mask for candidate in found]


def check_masks(labels: Sequence[SceneLabel], found: Sequence[Sequence[BoolMask]]) -> dict[str, float]:
    """Mean IoU of the best found mask of each true object, and how many masks were found."""
    best = [
        max((iou(item.mask.to_array(), mask) for mask in masks), default=0.0)
        for label, masks in zip(labels, found, strict=True)
        for item in label.objects
    ]
    return {
        "segmentation mean IoU": float(np.mean(best)),
        "segmentation, objects above IoU 0.5": float(np.mean(np.array(best) > 0.5)),
        "segments per scene": float(np.mean([len(masks) for masks in found])),
    }


def timed(figures: dict[str, float], name: str, work: Callable[[], T]) -> T:
    """The result of `work`, whose seconds are noted under `name`."""
    start = time.monotonic()
    result = work()
    figures[name] = time.monotonic() - start
    return result


def measure(clip: Path, sam: Path, split: str) -> dict[str, float]:
    """All figures over one split of the gallery, by the models as the embedder loads them by default."""
    labels = [label for label in read_labels() if label.split == split]
    images = [Image.open(GALLERY_FOLDER / label.file).convert("RGB") for label in labels]
    settings = EmbedderSettings(device="cpu")
    encoder, segmenter = load_clip_folder("demo", clip, settings), load_sam_folder(sam, settings)
    wholes = embed_images(encoder, images)
    figures = check_text(encoder, labels, wholes) | check_variants(encoder, labels, wholes)
    true_crops = [crops_of(*pair) for pair in zip(labels, images, strict=True)]
    names = [name for label in labels for name in label.names]
    figures |= check_tags(encoder, names, [crop for some in true_crops for crop in some])
    found = timed(
        figures, "segmentation, s for all", lambda: [find_masks(segmenter, image, settings) for image in images]
    )
    figures |= check_masks(labels, found)
    found_crops = [[cut_out(image, mask) for mask in masks] for image, masks in zip(images, found, strict=True)]
    return figures | check_regions(
        encoder, labels, wholes, {"true cut-outs": true_crops, "found segments": found_crops}
    )


def main(
    *,
    clip: Annotated[Path, typer.Option(help="Folder of the CLIP.")] = HERE / "models" / "clip",
    sam: Annotated[Path, typer.Option(help="Folder of the SAM.")] = HERE / "models" / "sam",
    split: Annotated[Literal["eval", "gallery"], typer.Option(help="Which half of the gallery.")] = "eval",
) -> None:
    """Print a table of figures. Thresholds are chosen on `gallery`, and reported on `eval`."""
    table = Table("figure", "value", title=f"Demo models on 200 scenes of the split {split!r}")
    for name, value in measure(clip, sam, split).items():
        table.add_row(name, f"{value:.3f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
