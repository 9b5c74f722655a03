"""What an evaluation asks: pictures and regions, and which stored images are the right answers."""

import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import inflect
from PIL import Image, ImageEnhance

from demo.arrangements import arrangements
from demo.labels import GALLERY_FOLDER
from demo.labels import read_labels as read_scene_labels
from demo.queries import query_variant, region_queries
from saccade.labels import Label, LabelledObject
from saccade.requests import Box

__all__ = [
    "SMALL_AREA",
    "ArrangementQuery",
    "ExclusionQuery",
    "ModifiedQuery",
    "ObjectQuery",
    "PictureQuery",
    "RegionQuery",
    "demo_arrangements",
    "demo_pictures",
    "demo_regions",
    "exclusion_queries",
    "modified_queries",
    "object_queries",
    "own_pictures",
    "own_regions",
]

SMALL_AREA: Final = 0.08
"""An object that covers less of its image than this is small."""

SEED: Final = 3


@dataclass(frozen=True)
class PictureQuery:
    """A picture (made when asked for) and the one image that it was made from."""

    picture: Callable[[], bytes]
    wanted: str


@dataclass(frozen=True)
class RegionQuery:
    """A box on a picture, and the images that show the same object; `left_out` is the stored image that it is from."""

    picture: Callable[[], bytes]
    box: Box
    area_fraction: float
    relevant: frozenset[str]
    left_out: str = ""


@dataclass(frozen=True)
class ArrangementQuery:
    """A text that says how things stand, `images` (id -> JPEG) of the same things, and the one that stands so."""

    kind: str
    text: str
    images: Mapping[str, bytes]
    wanted: str


@dataclass(frozen=True)
class ObjectQuery:
    """One object, in words and as a picture cut from the image `source`; `relevant` show it, `source` among them."""

    text: str
    picture: Callable[[], bytes]
    source: str
    relevant: frozenset[str]


@dataclass(frozen=True)
class ModifiedQuery:
    """A close-up cut from the image `source`, and words for something else; `relevant` images show both."""

    picture: Callable[[], bytes]
    modifier: str
    source: str
    relevant: frozenset[str]


@dataclass(frozen=True)
class ExclusionQuery:
    """An object that is wanted without another one: `relevant` images hold the first alone, `holding` the second."""

    wanted: str
    unwanted: str
    relevant: frozenset[str]
    holding: frozenset[str]


def object_queries(labels: Sequence[Label]) -> list[ObjectQuery]:
    """For each name that stands in two images or more; the picture is the box of the largest one."""
    queries = []
    for name, shown in _by_name(labels).items():
        label, thing = max(shown, key=lambda pair: pair[1].area_fraction)
        relevant = frozenset(other.id for other, _ in shown)
        if len(relevant) > 1:
            crop = partial(_crop, label.path, thing.box)
            queries.append(ObjectQuery(f"a photo of {_with_article(name)}", crop, label.id, relevant))
    return queries


def exclusion_queries(labels: Sequence[Label]) -> list[ExclusionQuery]:
    """For each name the other one that stands with it most often, where there are images of the first alone."""
    by_name = {name: frozenset(label.id for label, _ in shown) for name, shown in _by_name(labels).items()}
    queries = []
    for wanted, images in by_name.items():
        unwanted, shared = max(
            ((other, images & holding) for other, holding in by_name.items() if other != wanted),
            key=lambda pair: len(pair[1]),
            default=("", frozenset[str]()),
        )
        if shared and images - shared:
            text, without = (f"a photo of {_with_article(name)}" for name in (wanted, unwanted))
            queries.append(ExclusionQuery(text, without, images - shared, by_name[unwanted]))
    return queries


def modified_queries(labels: Sequence[Label]) -> list[ModifiedQuery]:
    """For each name in an image, cut out, the other one that stands with it most often elsewhere, in words."""
    queries = []
    by_name = _by_name(labels)
    holders = {name: frozenset(label.id for label, _ in shown) for name, shown in by_name.items()}
    for name, shown in by_name.items():
        label, thing = max(shown, key=lambda pair: pair[1].area_fraction)
        other, relevant = max(
            ((other, (holders[name] & holding) - {label.id}) for other, holding in holders.items() if other != name),
            key=lambda pair: len(pair[1]),
            default=("", frozenset[str]()),
        )
        if relevant and other not in label.names:
            crop = partial(_crop, label.path, thing.box)
            queries.append(ModifiedQuery(crop, f"a photo of {_with_article(other)}", label.id, relevant))
    return queries


def _by_name(labels: Sequence[Label]) -> dict[str, list[tuple[Label, LabelledObject]]]:
    found: dict[str, list[tuple[Label, LabelledObject]]] = {}
    for label in labels:
        for thing in label.objects:
            found.setdefault(thing.name, []).append((label, thing))
    return dict(sorted(found.items()))


def _with_article(name: str) -> str:
    return str(inflect.engine().a(name))


def _crop(path: Path, box: Box) -> bytes:
    """The part of a picture in a box (fractions of its sides)."""
    with Image.open(path) as image:
        sides = (image.width, image.height) * 2
        edges = [round(edge * side) for edge, side in zip(box, sides, strict=True)]
        return _jpeg(image.convert("RGB").crop((edges[0], edges[1], edges[2], edges[3])))


def demo_arrangements(count: int) -> list[ArrangementQuery]:
    """At most `count` texts, with two or three scenes each."""
    queries = []
    for number, made in enumerate(arrangements(SEED, limit=-(-count // 3))[:count]):
        images = {f"{made.kind}-{number}-{i}": _jpeg(scene.image) for i, scene in enumerate(made.scenes)}
        queries.append(ArrangementQuery(made.kind, made.text, images, f"{made.kind}-{number}-0"))
    return queries


def demo_pictures(labels: Sequence[Label]) -> list[PictureQuery]:
    """For each scene of the gallery its objects at other places and sizes, on another background."""
    scenes = {scene.id: scene for scene in read_scene_labels(GALLERY_FOLDER)}
    return [
        PictureQuery(lambda scene=scenes[label.id]: _jpeg(query_variant(scene, SEED).image), label.id)  # type: ignore[misc]
        for label in labels
    ]


def demo_regions(labels: Sequence[Label], count: int) -> list[RegionQuery]:
    """Small objects in scenes that are not in the gallery."""
    queries = region_queries(count, SEED, among={name for label in labels for name in label.names})
    return [
        RegionQuery(
            lambda image=query.scene.image: _jpeg(image),  # type: ignore[misc]
            query.target.box,
            query.target.area_fraction,
            _holders(labels, query.target.name),
        )
        for query in queries
    ]


def own_pictures(labels: Sequence[Label]) -> list[PictureQuery]:
    """Each image itself, cropped, scaled down, brightened and compressed harder."""
    return [PictureQuery(lambda label=label: _altered(label), label.id) for label in labels]  # type: ignore[misc]


def own_regions(labels: Sequence[Label], count: int) -> list[RegionQuery]:
    """Labelled boxes of the images themselves, each image left out of its own answer; a seeded sample of them."""
    queries = []
    for label in labels:
        for labelled in label.objects:
            others = _holders(labels, labelled.name) - {label.id}
            if others:
                queries.append(_region_of(label, labelled, others))
    random.Random(SEED).shuffle(queries)  # noqa: S311 - a sample, no secret
    return queries[:count]


def _region_of(label: Label, labelled: LabelledObject, relevant: frozenset[str]) -> RegionQuery:
    return RegionQuery(label.path.read_bytes, labelled.box, labelled.area_fraction, relevant, label.id)


def _holders(labels: Sequence[Label], name: str) -> frozenset[str]:
    return frozenset(label.id for label in labels if name in label.names)


def _altered(label: Label) -> bytes:
    with Image.open(label.path) as image:
        rgb = image.convert("RGB")
    left, top = rgb.width * 0.05, rgb.height * 0.05
    cropped = rgb.crop((round(left), round(top), round(rgb.width - left), round(rgb.height - top)))
    small = cropped.resize((max(16, round(cropped.width * 0.7)), max(16, round(cropped.height * 0.7))))
    return _jpeg(ImageEnhance.Brightness(small).enhance(1.1), quality=60)


def _jpeg(image: Image.Image, quality: int = 85) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
