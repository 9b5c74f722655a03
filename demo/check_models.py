"""Measure the demo models on the evaluation scenes, without services: `python -m demo.check_models`."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import numpy as np
import open_clip
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from demo.automatic_masks import FoundMask, GridSettings, find_masks, load_sam
from demo.crops import cut_out
from demo.labels import GALLERY_FOLDER, SceneLabel, read_labels
from demo.masks import bounding_box, decode, iou
from demo.queries import RegionQuery, query_variant, region_queries, relevant_ids

__all__ = ["Encoder", "main"]

HERE: Final = Path(__file__).parent
BATCH: Final = 64
TOP_K: Final = 10
SEED: Final = 3
T = TypeVar("T")


class Encoder:
    """A CLIP loaded by open_clip's `local-dir:` loader; unit vectors out, shape (n, dim)."""

    def __init__(self, folder: Path) -> None:
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Vectors of pictures of any size."""
        parts = [
            self.model.encode_image(
                torch.stack([self.preprocess(image) for image in images[i : i + BATCH]]), normalize=True
            )
            for i in range(0, len(images), BATCH)
        ]
        return torch.cat(parts)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Vectors of texts."""
        vectors: Tensor = self.model.encode_text(self.tokenizer(list(texts)), normalize=True)
        return vectors

    def tags(self, vocabulary: dict[str, Any]) -> tuple[list[str], Tensor]:
        """Names of a vocabulary and the mean vector of each over all prompt templates, unit length again."""
        names = [entry["name"] for entry in vocabulary["entries"]]
        prompts = [self.texts([template.format(name) for name in names]) for template in vocabulary["prompt_templates"]]
        return names, torch.nn.functional.normalize(torch.stack(prompts).mean(dim=0), dim=-1)


def ranks(scores: Tensor) -> Tensor:
    """For square scores (queries x items) how many items come before each query's own."""
    return (scores > scores.diagonal()[:, None]).sum(dim=1)


def recall_of_relevant(scores: Tensor, labels: Sequence[SceneLabel], queries: Sequence[RegionQuery]) -> float:
    """Mean part of the scenes that show the sought object which are among the first `TOP_K`."""
    found = []
    for row, query in zip(scores, queries, strict=True):
        wanted = relevant_ids(labels, query.target.name)
        first = {labels[i].id for i in row.topk(TOP_K).indices.tolist()}
        found.append(len(first & wanted) / min(TOP_K, len(wanted)))
    return float(np.mean(found))


def best_per_scene(scores: Tensor, owners: Tensor, scenes: int) -> Tensor:
    """From scores (queries x segments) the best segment of each scene: (queries x scenes)."""
    best = torch.full((len(scores), scenes), -1.0)
    return best.scatter_reduce(1, owners.expand(len(scores), -1), scores, "amax")


def crops_of(label: SceneLabel, image: Image.Image) -> list[Image.Image]:
    """The cut-out of every labelled object."""
    return [cut_out(image, decode(item.mask), item.box) for item in label.objects]


def check_text(encoder: Encoder, labels: Sequence[SceneLabel], wholes: Tensor) -> dict[str, float]:
    """Recall of the own scene by caption, and of the scenes that show an object by "a photo of an owl"."""
    found = ranks(encoder.texts([label.caption for label in labels]) @ wholes.T)
    return {f"text to image recall@{k}": float((found < k).float().mean()) for k in (1, 5, 10)}


def check_variants(encoder: Encoder, labels: Sequence[SceneLabel], wholes: Tensor) -> dict[str, float]:
    """Recall of the scene with the same objects by a fresh picture of them."""
    vectors = encoder.images([query_variant(label, SEED).image for label in labels])
    found = ranks(vectors @ wholes.T)
    return {f"image to image recall@{k}": float((found < k).float().mean()) for k in (1, 10)}


def check_regions(
    encoder: Encoder, labels: Sequence[SceneLabel], wholes: Tensor, segments: dict[str, list[list[Image.Image]]]
) -> dict[str, float]:
    """Recall@10 for small query objects: over whole vectors and over each kind of segments."""
    queries = region_queries(100, SEED, among={name for label in labels for name in label.names})
    sought = encoder.images([cut_out(q.scene.image, decode(q.target.mask), q.target.box) for q in queries])
    figures = {"small region recall@10, whole vectors": recall_of_relevant(sought @ wholes.T, labels, queries)}
    for kind, crops in segments.items():
        owners = torch.tensor([i for i, some in enumerate(crops) for _ in some])
        vectors = encoder.images([crop for some in crops for crop in some])
        scores = best_per_scene(sought @ vectors.T, owners, len(labels))
        figures[f"small region recall@10, {kind}"] = recall_of_relevant(scores, labels, queries)
    return figures


def check_tags(encoder: Encoder, names: Sequence[str], crops: Sequence[Image.Image]) -> dict[str, float]:
    """The part of true cut-outs whose best tag of the demo's vocabulary is their name."""
    vocabulary = json.loads((HERE / "vocabulary.json").read_text(encoding="utf-8"))
    words, vectors = encoder.tags(vocabulary)
    best = (encoder.images(crops) @ vectors.T).argmax(dim=1).tolist()
    return {"tag accuracy, true cut-outs": float(np.mean([words[i] == n for i, n in zip(best, names, strict=True)]))}


def check_masks(labels: Sequence[SceneLabel], found: Sequence[Sequence[FoundMask]]) -> dict[str, float]:
    """Mean IoU of the best found mask of each true object, and how many masks were found."""
    best = [
        max((iou(decode(item.mask), mask.mask) for mask in masks), default=0.0)
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


def measure(clip: Path, sam: Path | None, settings: GridSettings) -> dict[str, float]:
    """All figures over the evaluation split."""
    labels = [label for label in read_labels() if label.split == "eval"]
    images = [Image.open(GALLERY_FOLDER / label.file).convert("RGB") for label in labels]
    encoder, figures = Encoder(clip), dict[str, float]()
    wholes = encoder.images(images)
    figures |= check_text(encoder, labels, wholes) | check_variants(encoder, labels, wholes)
    segments = {"true cut-outs": [crops_of(*pair) for pair in zip(labels, images, strict=True)]}
    figures |= check_tags(
        encoder,
        [name for label in labels for name in label.names],
        [crop for some in segments["true cut-outs"] for crop in some],
    )
    if sam is not None:
        model = load_sam(sam)
        found = timed(figures, "segmentation, s for all", lambda: [find_masks(model, i, settings) for i in images])
        figures |= check_masks(labels, found)
        segments["found segments"] = [
            [cut_out(image, one.mask, bounding_box(one.mask)) for one in masks if one.mask.any()]
            for image, masks in zip(images, found, strict=True)
        ]
    return figures | check_regions(encoder, labels, wholes, segments)


def main(
    *,
    clip: Annotated[Path, typer.Option(help="Folder of the CLIP.")] = HERE / "models" / "clip",
    sam: Annotated[Path, typer.Option(help="Folder of the SAM.")] = HERE / "models" / "sam",
    predicted_iou: Annotated[float, typer.Option(help="Lowest predicted IoU of a mask.")] = 0.3,
    stability: Annotated[float, typer.Option(help="Lowest stability of a mask.")] = 0.3,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
) -> None:
    """Print a table of figures."""
    torch.set_num_threads(threads)
    settings = GridSettings(predicted_iou=predicted_iou, stability=stability)
    has_sam = (sam / "model.safetensors").exists()
    table = Table("figure", "value", title="Demo models on 200 evaluation scenes")
    for name, value in measure(clip, sam if has_sam else None, settings).items():
        table.add_row(name, f"{value:.3f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
