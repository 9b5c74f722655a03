"""What an evaluation stores and asks: of the demo's gallery, or of a labelled folder of one's own."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.query_sets import (
    SMALL_AREA,
    ArrangementQuery,
    ExclusionQuery,
    ModifiedQuery,
    ObjectQuery,
    PictureQuery,
    RegionQuery,
    demo_arrangements,
    demo_pictures,
    demo_regions,
    exclusion_queries,
    modified_queries,
    object_queries,
    own_pictures,
    own_regions,
)
from saccade.labels import Label, LabelsError, read_labels
from saccade.requests import content_id
from services.stack import gallery

__all__ = ["Plan", "demo_plan", "own_plan"]


@dataclass(frozen=True)
class Plan:
    """What is stored and what is asked."""

    labels: Sequence[Label]
    pictures: Sequence[PictureQuery]
    small: Sequence[RegionQuery]
    regions: Sequence[RegionQuery]
    arrangements: Sequence[ArrangementQuery]
    objects: Sequence[ObjectQuery]
    exclusions: Sequence[ExclusionQuery]
    modified: Sequence[ModifiedQuery]
    vocabulary: Mapping[str, str]
    templates: Sequence[str]


def demo_plan(demo_dir: Path, limit: int, queries: int, *, split: str = "eval") -> Plan:
    """A split of the demo's gallery: `eval`, which nothing was chosen by, or `gallery`."""
    labels = gallery.gallery_labels(demo_dir, limit or None, split=split)
    words = json.loads((demo_dir / "vocabulary.json").read_text(encoding="utf-8"))
    return Plan(
        labels=labels,
        pictures=demo_pictures(labels),
        small=demo_regions(labels, min(queries, len(labels))),
        regions=own_regions(labels, queries),
        arrangements=demo_arrangements(min(queries, limit) if limit else queries),
        objects=object_queries(labels)[:queries],
        exclusions=exclusion_queries(labels)[:queries],
        modified=modified_queries(labels)[:queries],
        vocabulary={entry["name"]: entry.get("category", "") for entry in words["entries"]},
        templates=words["prompt_templates"],
    )


def own_plan(path: Path, limit: int, queries: int) -> Plan:
    """A labelled folder of one's own; LabelsError if its labels can not be used."""
    labels: dict[str, Label] = {}
    for label in read_labels(path)[: limit or None]:
        known = replace(label, id=label.id or content_id(label.path.read_bytes()))
        if known.id in labels:
            raise LabelsError(f"{path}: {label.file} and {labels[known.id].file} are the same picture")
        labels[known.id] = known
    found = list(labels.values())
    small = [query for query in own_regions(found, sys.maxsize) if query.area_fraction < SMALL_AREA]
    names = {name: "" for label in found for name in label.names}
    return Plan(
        labels=found,
        pictures=own_pictures(found),
        small=small[:queries],
        regions=own_regions(found, queries),
        arrangements=(),
        objects=object_queries(found)[:queries],
        exclusions=exclusion_queries(found)[:queries],
        modified=modified_queries(found)[:queries],
        vocabulary=names,
        templates=(),
    )
