from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.domain import Vector
from services.query.ranking import Candidates, Fusion, PartVectors, Scores, calibrate, interleave

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


def calibrated(value: float) -> float:
    return calibrate(np.array([value])).item()


def naive_scores(parts: Sequence[PartVectors], images: Candidates, fusion: Fusion) -> list[float]:
    """The definition, one number at a time."""
    assert images.whole is not None
    scores = []
    for at in range(len(images.ids)):
        own = [row for row, owner in zip(images.segments, images.owners, strict=True) if owner == at]
        total = 0.0
        for part in parts:
            value = calibrated(float(images.whole[at] @ part.vector))
            if own:
                agreement = sum(
                    area * max(float(row @ segment) for row in own)
                    for segment, area in zip(part.segments, part.areas, strict=True)
                )
                segment_value = calibrated(agreement)
                value = (fusion.whole * value + fusion.segment * segment_value) / (fusion.whole + fusion.segment)
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
        rows = scores.explain(at)
        terms = [abs(row.weight) * (row.calibrated if row.weight >= 0 else 1 - row.calibrated) for row in rows]
        assert sum(terms) / sum(abs(part.weight) for part in parts) == pytest.approx(scores.scores[at], abs=2e-6)


@few_examples
@given(queries, image_sets, fusions, st.floats(0, 1))
def test_order_is_by_score_then_id_and_keeps_to_the_least_score(
    parts: list[PartVectors], images: Candidates, fusion: Fusion, min_score: float
) -> None:
    scores = Scores(parts, images, fusion)
    order = scores.order(min_score)
    assert order == sorted(order, key=lambda at: (-scores.scores[at], images.ids[at]))
    assert set(order) == {at for at, score in enumerate(scores.scores) if score >= min_score}


@few_examples
@given(queries, image_sets, fusions, st.floats(0.25, 4))
def test_only_the_ratio_of_weights_counts(
    parts: list[PartVectors], images: Candidates, fusion: Fusion, factor: float
) -> None:
    scaled = [PartVectors(part.weight * factor, part.vector, part.segments, part.areas) for part in parts]
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


def test_a_pictures_segments_count_by_their_area() -> None:
    picture = PartVectors.picture(1, X, [(X, 0.3), (Y, 0.1)])
    images = candidates([("x", X, [X, Z]), ("y", X, [Y, Z])], whole=False)
    raw = [Scores([picture], images, Fusion(0, 1)).explain(at)[0].raw for at in (0, 1)]
    assert raw == pytest.approx([0.75, 0.25], abs=1e-6)


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
