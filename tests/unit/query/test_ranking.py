import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.domain import Vector
from services.query.calibration import Comparison
from services.query.ranking import Candidates, Fusion, PartVectors, Scores, interleave
from tests.unit.query.ranking_support import (
    CALIBRATION,
    DIMENSION,
    WHOLE,
    candidates,
    score,
    unit,
)

# No deadline: a busy machine is no failure of the ranking.
few_examples = settings(max_examples=40, deadline=None)
NAMES = "abc"


def drawn_vector(random: np.random.Generator) -> Vector:
    """One of few directions, so that equal ones meet."""
    while not (values := random.integers(-2, 3, DIMENSION)).any():
        pass
    return unit(*values.tolist())


def drawn_images(seed: int, count: int) -> Candidates:
    random = np.random.default_rng(seed)
    images = [
        (f"i{name}", drawn_vector(random), [drawn_vector(random) for _ in range(random.integers(4))])
        for name in random.permutation(count)
    ]
    tags = [
        {name: float(random.uniform(0.1, 1)) for name in random.permutation(list(NAMES))[: random.integers(3)]}
        for _ in images
    ]
    return candidates(images, tags=tags)


def drawn_part(random: np.random.Generator, weight: float) -> PartVectors:
    vector = drawn_vector(random)
    if random.random() < 0.5:
        part = PartVectors.single(weight, vector, is_text=random.random() < 0.5)
    else:
        areas = [float(random.uniform(0.01, 1)) for _ in range(random.integers(4))]
        part = PartVectors.picture(weight, vector, [(drawn_vector(random), area) for area in areas])
    named = random.permutation(list(NAMES))[: random.integers(3)]
    return replace(part, tags={str(n): (float(random.uniform(0.1, 1)), float(random.uniform(0.1, 3))) for n in named})


def drawn_query(seed: int, count: int) -> list[PartVectors]:
    random = np.random.default_rng(seed)
    # One of the weights is positive.
    weights = [1.0, *random.choice([-3.0, -1.0, -0.25, 0.0, 0.5, 2.0], count - 1)]
    return [drawn_part(random, float(weight)) for weight in weights]


seeds = st.integers(0, 2**32 - 1)
vectors = st.builds(lambda seed: drawn_vector(np.random.default_rng(seed)), seeds)
image_sets = st.builds(drawn_images, seeds, st.integers(0, 6))
queries = st.builds(drawn_query, seeds, st.integers(1, 4))
fusions = st.builds(
    Fusion, st.floats(0.01, 2), st.floats(0, 2), st.floats(0, 2), st.floats(0, 2), st.sampled_from([1.0, 2.0])
)


def log_odds(kind: Comparison, raw: float) -> float:
    curve = CALIBRATION.curves[kind]
    return min(30.0, max(-30.0, curve.slope * (raw - curve.middle)))


def chance(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))


def mean_odds(weighted: Sequence[tuple[float, float]], sharpness: float) -> float:
    """Log of the power mean of odds, of (weight, log odds)."""
    total = sum(weight for weight, _ in weighted)
    return math.log(sum(weight * math.exp(sharpness * odds) for weight, odds in weighted) / total) / sharpness


def wanted_odds(parts: Sequence[PartVectors], segment: Vector) -> float:
    """How far a segment is what one of the positive parts looks for."""
    return max(
        log_odds(
            Comparison.TEXT_SEGMENT if part.is_text else Comparison.IMAGE_SEGMENT,
            max(float(segment @ row) for row in part.segments),
        )
        for part in parts
        if part.weight > 0
    )


def segment_odds(
    parts: Sequence[PartVectors], part: PartVectors, own: Sequence[Vector], counts: Sequence[float], fusion: Fusion
) -> float:
    if not part.is_picture:
        kind = Comparison.TEXT_SEGMENT if part.is_text else Comparison.IMAGE_SEGMENT
        odds = [log_odds(kind, float(segment @ part.vector)) for segment in own]
        if part.weight < 0:
            odds = [o - max(0.0, wanted_odds(parts, segment) - o) for o, segment in zip(odds, own, strict=True)]
        return max(odds)
    there = zip(part.segments, part.counts, strict=True)
    found = sum(count * max(float(row @ segment) for row in own) for segment, count in there)
    back = zip(own, counts, strict=True)
    known = sum(count * max(float(row @ segment) for segment in part.segments) for row, count in back) / sum(counts)
    by_segments = log_odds(Comparison.PICTURE_SEGMENTS, float(found + known) / 2)
    as_thing = log_odds(Comparison.PICTURE_THING, max(float(row @ part.vector) for row in own))
    return mean_odds([(1, by_segments), (fusion.thing, as_thing)], fusion.sharpness)


def tag_odds(part: PartVectors, carried: dict[str, float]) -> float:
    total = sum(confidence * rarity for confidence, rarity in part.tags.values())
    there = sum(min(c, carried.get(name, 0)) * rarity for name, (c, rarity) in part.tags.items())
    return log_odds(Comparison.TAGS, there / total)


def naive_scores(parts: Sequence[PartVectors], images: Candidates, fusion: Fusion) -> list[float]:
    """The definition, one number at a time."""
    assert images.whole is not None
    assert images.tags is not None
    found = []
    for at in range(len(images.ids)):
        own = list(images.segments[images.owners == at])
        counts = images.counts[images.owners == at].tolist()
        wanted = spared = 0.0
        for part in parts:
            kind = Comparison.TEXT_WHOLE if part.is_text else Comparison.IMAGE_WHOLE
            compared = [(fusion.whole, log_odds(kind, float(images.whole[at] @ part.vector)))]
            if own:
                compared.append((fusion.segment, segment_odds(parts, part, own, counts, fusion)))
            if part.tags:
                compared.append((fusion.tag, tag_odds(part, dict(images.tags[at]))))
            fit = mean_odds(compared, fusion.sharpness)
            if part.weight > 0:
                wanted += part.weight * fit
            else:
                spared += -part.weight * math.log(max(1 - chance(fit), 1e-300))
        positive = sum(part.weight for part in parts if part.weight > 0)
        found.append(chance(wanted / positive) * math.exp(spared))
    return found


@few_examples
@given(queries, image_sets, fusions)
def test_scores_are_what_the_definition_says(parts: list[PartVectors], images: Candidates, fusion: Fusion) -> None:
    scores = score(parts, images, fusion).scores
    assert scores.tolist() == pytest.approx(naive_scores(parts, images, fusion), abs=1e-4)
    assert ((scores >= 0) & (scores <= 1)).all()


def rebuilt(scores: Scores, candidate: int, parts: Sequence[PartVectors]) -> float:
    """The score, from its explanation alone, as `explain` says."""
    rows = scores.explain(candidate)
    wanted, spared = 0.0, 1.0
    for index, part in enumerate(parts):
        own = [row for row in rows if row.part == index]
        if part.weight == 0:
            continue
        odds = sum(row.weight / part.weight * row.calibrated / max(1 - row.calibrated, 1e-300) for row in own)
        if part.weight > 0:
            wanted += part.weight * math.log(odds)
        else:
            spared *= (1 / (1 + odds)) ** -part.weight
    return chance(wanted / sum(part.weight for part in parts if part.weight > 0)) * spared


@few_examples
@given(queries, image_sets, st.builds(Fusion, st.floats(0.01, 2), st.floats(0, 2), st.floats(0, 2)))
def test_explanations_make_the_score(parts: list[PartVectors], images: Candidates, fusion: Fusion) -> None:
    scores = score(parts, images, fusion)
    for at in range(len(images.ids)):
        assert rebuilt(scores, at, parts) == pytest.approx(scores.scores[at], abs=1e-6)
        for index, part in enumerate(parts):
            rows = [row for row in scores.explain(at) if row.part == index]
            assert sum(row.weight for row in rows) == pytest.approx(part.weight)
            assert {row.kind for row in rows} <= {"whole", "segment", "tag"}
            assert all(0 <= row.calibrated <= 1 for row in rows)


@few_examples
@given(queries, image_sets, fusions, st.floats(0, 1))
def test_order_is_by_score_then_id_and_keeps_to_the_least_score(
    parts: list[PartVectors], images: Candidates, fusion: Fusion, min_score: float
) -> None:
    scores = score(parts, images, fusion)
    order = scores.order(min_score)
    assert order == sorted(order, key=lambda at: (-scores.scores[at], images.ids[at]))
    assert set(order) == {at for at, found in enumerate(scores.scores) if np.float32(found) >= np.float32(min_score)}


@few_examples
@given(queries, image_sets, fusions)
def test_a_score_sent_back_as_the_least_one_passes_its_own_result(
    parts: list[PartVectors], images: Candidates, fusion: Fusion
) -> None:
    scores = score(parts, images, fusion)
    for at in range(len(images.ids)):
        assert at in scores.order(float(np.float32(scores.scores[at])))


@few_examples
@given(queries, image_sets, fusions, st.floats(0.25, 4))
def test_only_the_ratio_of_positive_weights_counts(
    parts: list[PartVectors], images: Candidates, fusion: Fusion, factor: float
) -> None:
    scaled = [replace(part, weight=part.weight * factor) if part.weight > 0 else part for part in parts]
    expected = score(parts, images, fusion).scores
    assert score(scaled, images, fusion).scores == pytest.approx(expected, abs=1e-9)


@few_examples
@given(queries, image_sets, fusions, st.integers(0, 5))
def test_what_a_candidate_scores_depends_on_no_other_candidate(
    parts: list[PartVectors], images: Candidates, fusion: Fusion, at: int
) -> None:
    assert images.whole is not None
    assert images.tags is not None
    if at >= len(images.ids):
        return
    own = images.owners == at
    alone = Candidates(
        (images.ids[at],),
        images.whole[at : at + 1],
        images.segments[own],
        np.zeros(int(own.sum()), dtype=np.intp),
        images.counts[own],
        images.boxes[own],
        (images.tags[at],),
    )
    # Matrix products of other shapes may differ in the last place, which a cosine's rounding shows.
    assert score(parts, alone, fusion).scores[0] == pytest.approx(score(parts, images, fusion).scores[at], abs=1e-4)


@few_examples
@given(image_sets, vectors, vectors, st.floats(0.25, 3))
def test_a_negative_part_is_a_gate(images: Candidates, wanted: Vector, unwanted: Vector, weight: float) -> None:
    """The more an image fits it the less remains of what it scored; nothing gains."""
    none = score([PartVectors.single(1, wanted)], images, WHOLE).scores
    fit = score([PartVectors.single(1, unwanted)], images, WHOLE).scores
    pushed = score([PartVectors.single(1, wanted), PartVectors.single(-weight, unwanted)], images, WHOLE).scores
    assert pushed == pytest.approx(none * (1 - fit) ** weight, abs=1e-8)


@few_examples
@given(queries, image_sets, fusions, seeds)
def test_something_unwanted_never_raises_a_score(
    parts: list[PartVectors], images: Candidates, fusion: Fusion, seed: int
) -> None:
    unwanted = drawn_part(np.random.default_rng(seed), -1.0)
    before = score(parts, images, fusion).scores
    assert (score([*parts, unwanted], images, fusion).scores <= before + 1e-9).all()


@few_examples
@given(image_sets, queries)
def test_matches_are_segments_of_their_image_best_first(images: Candidates, parts: list[PartVectors]) -> None:
    scores = score(parts, images)
    for at in range(len(images.ids)):
        found = scores.matches(at)
        assert all(images.owners[match.row] == at for match in found)
        assert all(parts[match.part].weight > 0 for match in found)
        assert [match.similarity for match in found] == sorted((m.similarity for m in found), reverse=True)
        if (images.owners == at).any():
            assert {match.part for match in found} == {i for i, part in enumerate(parts) if part.weight > 0}


@few_examples
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=4), st.integers(1, 10))
def test_interleaving_keeps_each_name_once_and_takes_from_all_lists(lists: list[list[str]], limit: int) -> None:
    merged = interleave(lists, limit)
    everything = set().union(*lists)
    assert len(merged) == len(set(merged)) == min(limit, len(everything))
    best = {name: min(found.index(name) for found in lists if name in found) for name in everything}
    assert [best[name] for name in merged] == sorted(best.values())[: len(merged)]
