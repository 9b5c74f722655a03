"""Labelled scenes and queries as vectors, made by the embedder's own code: what rankings are tuned on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.measures import average_precision_at, mean, rank_of, recall_at
from benchmarks.plan import Plan
from services.common.domain import Analysis, Box, Lane, Tag, VocabularyEntry
from services.embedder.engine import AnalysisOptions, Engine
from services.query.position import as_array
from services.query.ranking import Candidates, PartVectors, salience

__all__ = ["Asked", "Exclusion", "Query", "QueryClass", "embed_plan"]

_BATCH = 8
_K = 10
# Every tag as rare as any other: rarity is the running service's matter.
_RARITY = 1.0


@dataclass(frozen=True)
class Query:
    """One query: its part, the images that are right, and those that do not take part."""

    part: PartVectors
    relevant: frozenset[str]
    left_out: frozenset[str] = frozenset()


@dataclass(frozen=True)
class QueryClass:
    """Queries of one kind, and how they are measured."""

    name: str
    measure: Literal["recall_at_1", "map_at_10", "recall_at_10"]
    queries: tuple[Query, ...]

    def value(self, order: Callable[[Query], Sequence[str]]) -> float:
        """The measure's mean, where `order` names the images best first."""
        found = []
        for query in self.queries:
            names = [name for name in order(query) if name not in query.left_out][:_K]
            if self.measure == "recall_at_1":
                found.append(float(rank_of(names, next(iter(query.relevant))) == 1))
            elif self.measure == "map_at_10":
                found.append(average_precision_at(names, query.relevant, _K))
            else:
                found.append(recall_at(names, query.relevant, _K))
        return mean(found)


@dataclass(frozen=True)
class Exclusion:
    """Something wanted without something else; see query_sets.ExclusionQuery."""

    wanted: PartVectors
    unwanted: PartVectors
    relevant: frozenset[str]
    holding: frozenset[str]


@dataclass(frozen=True)
class Asked:
    """All that is tuned on."""

    candidates: Candidates
    classes: tuple[QueryClass, ...]
    exclusions: tuple[Exclusion, ...]


async def embed_plan(engine: Engine, plan: Plan, say: Callable[[str], None]) -> Asked:
    """Embed a plan's images and queries."""
    vocabulary = tuple(VocabularyEntry(name, category) for name, category in plan.vocabulary.items())
    options = AnalysisOptions(vocabulary=vocabulary, prompt_templates=tuple(plan.templates))

    async def analysed(pictures: Sequence[Callable[[], bytes]], what: str) -> list[Analysis]:
        found: list[Analysis] = []
        for at in range(0, len(pictures), _BATCH):
            say(f"{what}: {at} of {len(pictures)}")
            batch = [picture() for picture in pictures[at : at + _BATCH]]
            for result in await engine.analyze(batch, options, Lane.INTERACTIVE):
                if isinstance(result, Exception):
                    raise result
                found.append(result)
        return found

    async def texts(words: Sequence[str]) -> list[PartVectors]:
        rows: list[PartVectors] = []
        for at in range(0, len(words), engine.info.max_items):
            batch = words[at : at + engine.info.max_items]
            vectors = await engine.embed_texts(batch, Lane.INTERACTIVE)
            rows += [
                replace(PartVectors.single(1.0, vector, is_text=True), tags=_named(word, plan))
                for word, vector in zip(batch, vectors, strict=True)
            ]
        return rows

    images = await analysed([label.path.read_bytes for label in plan.labels], "images")
    pictures = [_part(made) for made in await analysed([query.picture for query in plan.pictures], "pictures")]
    crops = [_part(made) for made in await analysed([query.picture for query in plan.objects], "close-ups")]
    classes = [
        QueryClass("pictures", "recall_at_1", _queries(pictures, [{query.wanted} for query in plan.pictures])),
        QueryClass(
            "close_ups",
            "map_at_10",
            tuple(
                Query(part, query.relevant - {query.source}, frozenset({query.source}))
                for part, query in zip(crops, plan.objects, strict=True)
            ),
        ),
    ]
    for name, regions in (("small_regions", plan.small), ("regions", plan.regions)):
        found = []
        for number, query in enumerate(regions):
            say(f"{name}: {number} of {len(regions)}")
            segment = await engine.segment_at(query.picture(), (), Box(*query.box), Lane.INTERACTIVE)
            if segment.vector is not None:
                left_out = frozenset({query.left_out} - {""})
                found.append(Query(PartVectors.single(1.0, segment.vector), query.relevant, left_out))
        classes.append(QueryClass(name, "recall_at_10", tuple(found)))
    exclusions: tuple[Exclusion, ...] = ()
    if engine.info.has_text:
        captioned = [label for label in plan.labels if label.caption]
        captions = await texts([label.caption for label in captioned])
        classes.append(QueryClass("captions", "recall_at_1", _queries(captions, [{lab.id} for lab in captioned])))
        names = await texts([query.text for query in plan.objects])
        classes.append(QueryClass("names", "map_at_10", _queries(names, [query.relevant for query in plan.objects])))
        pairs = zip(
            await texts([query.wanted for query in plan.exclusions]),
            await texts([query.unwanted for query in plan.exclusions]),
            plan.exclusions,
            strict=True,
        )
        exclusions = tuple(
            Exclusion(wanted, replace(unwanted, weight=-1.0), query.relevant, query.holding)
            for wanted, unwanted, query in pairs
        )
    return Asked(
        _candidates([label.id for label in plan.labels], images),
        tuple(made for made in classes if made.queries),
        exclusions,
    )


def _queries(parts: Sequence[PartVectors], relevant: Sequence[set[str] | frozenset[str]]) -> tuple[Query, ...]:
    return tuple(Query(part, frozenset(right)) for part, right in zip(parts, relevant, strict=True))


def _named(text: str, plan: Plan) -> dict[str, tuple[float, float]]:
    """Words of the vocabulary that a text names."""
    padded = f" {text.lower()} ".replace(",", " ")
    return {name: (1.0, _RARITY) for name in plan.vocabulary if f" {name.lower()} " in padded}


def _part(analysis: Analysis) -> PartVectors:
    segments = [(s.vector, s.area_fraction) for s in analysis.segments if s.vector is not None]
    part = PartVectors.picture(1.0, analysis.vector, segments)
    return replace(part, tags={name: (confidence, _RARITY) for name, confidence in _tags(analysis).items()})


def _tags(analysis: Analysis) -> dict[str, float]:
    """The segments' tags, each with its best confidence; the whole image's where no segment has any."""
    groups: list[tuple[Tag, ...]] = [s.tags for s in analysis.segments if s.tags] or [analysis.tags]
    best: dict[str, float] = {}
    for tag in (tag for group in groups for tag in group):
        best[tag.name] = max(best.get(tag.name, 0.0), tag.confidence)
    return best


def _candidates(ids: Sequence[str], images: Sequence[Analysis]) -> Candidates:
    segments = [s for image in images for s in image.segments if s.vector is not None]
    owners: NDArray[np.intp] = np.array(
        [at for at, image in enumerate(images) for s in image.segments if s.vector is not None], dtype=np.intp
    )
    return Candidates(
        ids=tuple(ids),
        whole=np.stack([image.vector for image in images]),
        segments=np.stack([s.vector for s in segments if s.vector is not None]),
        owners=owners,
        counts=salience(np.array([s.area_fraction for s in segments])),
        boxes=as_array([s.box for s in segments]),
        tags=tuple(_tags(image) for image in images),
    )
