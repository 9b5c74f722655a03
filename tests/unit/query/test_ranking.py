from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.domain import Vector
from services.query.ranking import Candidates, Fusion, PartVectors, Scores, calibrate, interleave, salience

DIMENSION = 4
# No deadline: a busy machine is no failure of the ranking.
few_examples = settings(max_examples=40, deadline=None)
HYBRID = Fusion(0.4, 0.6)


def unit(*values: float) -> Vector:
    vector = np.array(values, dtype=np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


X, Y, Z = unit(1, 0, 0, 0), unit(0, 1, 0, 0), unit(0, 0, 1, 0)


def candidates(images: Sequence[tuple[str, Vector, Sequence[Vector]]], *, whole: bool = True) -> Candidates:
    rows = [segment for _, _, segments in images for segment in segments]
    owners = [at for at, (_, _, segments) in enumerate(images) for _ in segments]
    vectors = [vector for _, vector, _ in images]
    empty = np.zeros((0, DIMENSION), dtype=np.float32)
    return Candidates(
        ids=tuple(name for name, _, _ in images),
        whole=(np.stack(vectors) if vectors else empty) if whole else None,
        segments=np.stack(rows) if rows else empty,
        owners=np.array(owners, dtype=np.intp),
        counts=np.linspace(0.2, 1, len(rows)),
        boxes=np.tile([0.0, 0.0, 1.0, 1.0], (len(rows), 1)),
    )


def drawn_vector(random: np.random.Generator) -> Vector:
    """One of few directions, so that equal ones meet."""
    while not (values := random.integers(-2, 3, DIMENSION)).any():
        pass
    return unit(*values.tolist())


def drawn_images(seed: int, count: int) -> Candidates:
    random = np.random.default_rng(seed)
    names = random.permutation(count)
    return candidates(
        [
            (f"i{name}", drawn_vector(random), [drawn_vector(random) for _ in range(random.integers(4))])
            for name in names
        ]
    )


def drawn_query(seed: int, count: int) -> list[PartVectors]:
    random = np.random.default_rng(seed)
    # One of the weights is positive.
    weights = [1.0, *random.choice([-3.0, -1.0, -0.25, 0.0, 0.5, 2.0], count - 1)]
    return [
        PartVectors.picture(
            float(weight),
            drawn_vector(random),
            [(drawn_vector(random), float(random.uniform(0.01, 1))) for _ in range(random.integers(4))],
        )
        for weight in weights
    ]


seeds = st.integers(0, 2**32 - 1)
vectors = st.builds(lambda seed: drawn_vector(np.random.default_rng(seed)), seeds)
image_sets = st.builds(drawn_images, seeds, st.integers(0, 6))
queries = st.builds(drawn_query, seeds, st.integers(1, 4))
fusions = st.builds(Fusion, st.floats(0.01, 2), st.floats(0, 2))


def fit(weighted: Sequence[tuple[float, float]]) -> float:
    """The power mean that decision 4 names."""
    total = sum(abs(weight) for weight, _ in weighted)
    return float((sum(abs(weight) * value**32 for weight, value in weighted) / total) ** (1 / 32)) if total else 0.0


def calibrated(value: float) -> float:
    return calibrate(np.array([value])).item()


def naive_agreement(part: PartVectors, own: Sequence[Vector], counts: Sequence[float]) -> float:
    """Best matches of the part's segments in the image's, and for pictures of the image's in the part's too."""
    there = zip(part.segments, part.counts, strict=True)
    found = sum(count * max(float(row @ segment) for row in own) for segment, count in there)
    if not part.is_picture:
        return float(found)
    back = zip(own, counts, strict=True)
    known = sum(count * max(float(row @ segment) for segment in part.segments) for row, count in back) / sum(counts)
    return float(found + known) / 2


def naive_scores(parts: Sequence[PartVectors], images: Candidates, fusion: Fusion) -> list[float]:
    """The definition, one number at a time."""
    assert images.whole is not None
    scores = []
    for at in range(len(images.ids)):
        own = images.segments[images.owners == at]
        total = 0.0
        for part in parts:
            value = calibrated(float(images.whole[at] @ part.vector))
            if len(own):
                agreement = naive_agreement(part, list(own), images.counts[images.owners == at].tolist())
                value = fit([(fusion.whole, value), (fusion.segment, calibrated(agreement))])
            total += abs(part.weight) * (value if part.weight >= 0 else 1 - value)
        scores.append(total / sum(abs(part.weight) for part in parts))
    return scores


@few_examples
@given(queries, image_sets, fusions)
def test_scores_are_what_the_definition_says(parts: list[PartVectors], images: Candidates, fusion: Fusion) -> None:
    scores = Scores(parts, images, fusion).scores
    assert scores.tolist() == pytest.approx(naive_scores(parts, images, fusion), abs=2e-6)
    assert ((scores >= 0) & (scores <= 1)).all()


@few_examples
@given(queries, image_sets, fusions)
def test_explanations_add_up_to_the_score(parts: list[PartVectors], images: Candidates, fusion: Fusion) -> None:
    scores = Scores(parts, images, fusion)
    for at in range(len(images.ids)):
        total = 0.0
        for index, part in enumerate(parts):
            value = fit([(row.weight, row.calibrated) for row in scores.explain(at) if row.part == index])
            total += abs(part.weight) * (value if part.weight >= 0 else 1 - value)
        assert total / sum(abs(part.weight) for part in parts) == pytest.approx(scores.scores[at], abs=2e-6)


@few_examples
@given(queries, image_sets, fusions, st.floats(0, 1))
def test_order_is_by_score_then_id_and_keeps_to_the_least_score(
    parts: list[PartVectors], images: Candidates, fusion: Fusion, min_score: float
) -> None:
    scores = Scores(parts, images, fusion)
    order = scores.order(min_score)
    assert order == sorted(order, key=lambda at: (-scores.scores[at], images.ids[at]))
    assert set(order) == {at for at, score in enumerate(scores.scores) if np.float32(score) >= np.float32(min_score)}


@few_examples
@given(queries, image_sets, fusions, st.floats(0.25, 4))
def test_only_the_ratio_of_weights_counts(
    parts: list[PartVectors], images: Candidates, fusion: Fusion, factor: float
) -> None:
    scaled = [replace(part, weight=part.weight * factor) for part in parts]
    expected = Scores(parts, images, fusion).scores
    assert Scores(scaled, images, fusion).scores == pytest.approx(expected, abs=2e-6)


@few_examples
@given(image_sets, vectors, vectors)
def test_a_negative_part_turns_its_own_order_around(images: Candidates, wanted: Vector, unwanted: Vector) -> None:
    pulled = Scores([PartVectors.single(1, unwanted)], images, Fusion(1, 0)).scores
    none = Scores([PartVectors.single(1, wanted)], images, Fusion(1, 0)).scores
    pushed = Scores([PartVectors.single(1, wanted), PartVectors.single(-1, unwanted)], images, Fusion(1, 0)).scores
    assert pushed == pytest.approx((none + (1 - pulled)) / 2, abs=2e-6)


@few_examples
@given(image_sets, queries)
def test_matches_are_segments_of_their_image_best_first(images: Candidates, parts: list[PartVectors]) -> None:
    scores = Scores(parts, images, HYBRID)
    for at in range(len(images.ids)):
        found = scores.matches(at)
        assert all(images.owners[match.row] == at for match in found)
        assert all(parts[match.part].weight > 0 for match in found)
        assert [match.similarity for match in found] == sorted((m.similarity for m in found), reverse=True)
        if (images.owners == at).any():
            assert {match.part for match in found} == {i for i, part in enumerate(parts) if part.weight > 0}


def test_a_small_object_wins_by_its_segment() -> None:
    images = candidates([("whole", unit(1, 0.6, 0, 0), [Y]), ("part", unit(0.2, 1, 0, 0), [Y, X])])
    part = [PartVectors.single(1, X)]
    whole, hybrid = Scores(part, images, Fusion(1, 0)), Scores(part, images, HYBRID)
    assert whole.order() == [0, 1]
    assert hybrid.order() == [1, 0]
    assert [(match.row, round(match.similarity, 3)) for match in hybrid.matches(1)] == [(2, 1.0)]


def test_an_image_without_segments_is_judged_by_its_whole_vector() -> None:
    images = candidates([("new", X, []), ("old", X, [X])])
    scores = Scores([PartVectors.single(1, X)], images, HYBRID)
    assert scores.scores.tolist() == [1.0, 1.0]
    assert [(row.kind, row.weight) for row in scores.explain(0)] == [("whole", 1.0)]
    assert [row.kind for row in scores.explain(1)] == ["whole", "segment"]
    assert scores.matches(0) == []


def test_where_only_segments_count_an_image_without_them_is_no_result() -> None:
    images = candidates([("new", X, []), ("old", Y, [X])], whole=False)
    assert Scores([PartVectors.single(1, X)], images, Fusion(0, 1)).order() == [1]


def test_what_covers_most_of_a_picture_hardly_counts() -> None:
    """Two pictures of the same thing on unlike grounds are nearer than two grounds alike with unlike things."""
    picture = PartVectors.picture(1, unit(1, 1, 0, 0), [(X, 0.8), (Y, 0.1)])
    images = candidates([("ground", X, [X, Z]), ("thing", Z, [Z, Y])], whole=False)
    images = replace(images, counts=salience(np.array([0.8, 0.1, 0.8, 0.1])))
    assert Scores([picture], images, Fusion(0, 1)).order() == [1, 0]


def test_things_that_the_query_does_not_show_count_against_an_image() -> None:
    picture = PartVectors.picture(1, X, [(X, 0.1), (Y, 0.1)])
    images = candidates([("more", X, [X, Y, Z]), ("same", X, [X, Y])], whole=False)
    assert Scores([picture], images, Fusion(0, 1)).order() == [1, 0]
    assert Scores([PartVectors.single(1, X)], images, Fusion(0, 1)).scores.tolist() == [1.0, 1.0]


def test_a_part_is_the_image_or_one_thing_in_it() -> None:
    """What fits one way only beats what fits a little both ways."""
    images = candidates([("both", unit(0.7, 0.7, 0, 0), [unit(0.7, 0.7, 0, 0)]), ("part", Y, [X]), ("whole", X, [Y])])
    scores = Scores([PartVectors.single(1, X)], images, HYBRID).scores
    assert scores[1] > scores[0]
    assert scores[2] > scores[0]


def test_equal_scores_are_ordered_by_id() -> None:
    images = candidates([("c", X, [X]), ("a", X, [X]), ("b", X, [X])])
    assert [images.ids[at] for at in Scores([PartVectors.single(1, X)], images, HYBRID).order()] == ["a", "b", "c"]


def test_nothing_to_rank() -> None:
    scores = Scores([PartVectors.single(1, X)], candidates([]), HYBRID)
    assert scores.order() == []


@few_examples
@given(st.floats(-1, 1), st.floats(-1, 1))
def test_calibration_rises_and_stays_in_range(one: float, other: float) -> None:
    low, high = (calibrated(value) for value in sorted((one, other)))
    assert 0 <= low <= high <= 1


@few_examples
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=4), st.integers(1, 10))
def test_interleaving_keeps_each_name_once_and_takes_from_all_lists(lists: list[list[str]], limit: int) -> None:
    merged = interleave(lists, limit)
    everything = set().union(*lists)
    assert len(merged) == len(set(merged)) == min(limit, len(everything))
    best = {name: min(found.index(name) for found in lists if name in found) for name in everything}
    assert [best[name] for name in merged] == sorted(best.values())[: len(merged)]
