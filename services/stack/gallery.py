"""Loads labelled images, such as the demo's gallery, into a collection of a running stack."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from saccade.client import Client
from saccade.common.v1 import types_pb2
from saccade.errors import ApiError
from saccade.labels import Label, read_labels
from saccade.requests import Wait

__all__ = ["COLLECTION", "GalleryError", "Loaded", "gallery_labels", "load", "prepare", "wait_for_segments"]

COLLECTION: Final = "demo"
"""Name of the demo's collection, and of its vocabulary."""

POLL_S: Final = 0.2


class GalleryError(Exception):
    """The gallery is not there, or not all of it could be stored."""


@dataclass(frozen=True)
class Loaded:
    """How many images were stored, how many were there before, and the seconds that it took."""

    stored: int
    existed: int
    seconds: float


def gallery_labels(demo_dir: Path, count: int | None = None, *, split: str = "") -> list[Label]:
    """The labels of the demo's gallery, in order: the first `count` of all, or of one split."""
    labels = read_labels(demo_dir / "gallery" / "labels.jsonl")
    return [label for label in labels if not split or label.extra.get("split") == split][:count]


def prepare(client: Client, demo_dir: Path, collection: str = COLLECTION) -> None:
    """Make the collection and its vocabulary; both may be there already."""
    words = json.loads((demo_dir / "vocabulary.json").read_text(encoding="utf-8"))
    entries = {entry["name"]: entry.get("category", "") for entry in words["entries"]}
    client.put_vocabulary(words["name"], entries, prompt_templates=words["prompt_templates"])
    try:
        client.get_collection(collection)
    except ApiError as exc:
        if exc.code != grpc.StatusCode.NOT_FOUND:
            raise
        client.create_collection(collection, description="Scenes drawn for the demo", vocabulary=words["name"])


def load(
    client: Client,
    labels: Sequence[Label],
    collection: str = COLLECTION,
    *,
    wait: Wait = "searchable",
    progress: Callable[[int], None] = lambda _: None,
) -> Loaded:
    """Store what is not stored yet, and wait as far as asked; `progress` gets how many are done.

    Raises:
        GalleryError: an image could not be stored.
    """
    started = time.monotonic()
    there = {image.id for image in client.list_images(collection) if _far_enough(image, wait)}
    missing = [label.to_image() for label in labels if label.id not in there]
    done = existed = len(labels) - len(missing)
    progress(done)
    for result in client.stream_images(missing, collection=collection, wait_for=wait):
        if result.error:
            raise GalleryError(f"{result.item.source}: {result.error}")
        done += 1
        progress(done)
    return Loaded(len(missing), existed, time.monotonic() - started)


def wait_for_segments(
    client: Client, collection: str = COLLECTION, *, timeout_s: float, progress: Callable[[int], None] = lambda _: None
) -> None:
    """Wait until segment searches see everything that is stored; `progress` gets how many images are still to come."""
    deadline = time.monotonic() + timeout_s
    while pending := client.get_collection(collection).pending_count:
        progress(pending)
        if time.monotonic() > deadline:
            raise GalleryError(f"{pending} images were not segmented after {timeout_s:g} s")
        time.sleep(POLL_S)
    progress(0)


def _far_enough(image: types_pb2.Image, wait: Wait) -> bool:
    least = types_pb2.ImageState.Value(f"IMAGE_STATE_{wait.upper() or 'SEARCHABLE'}")
    return least <= image.state != types_pb2.IMAGE_STATE_FAILED
