from dataclasses import replace

import numpy as np
import pytest

from services.query.calibration import UNMEASURED, Calibration, Comparison, Curve
from services.query.ranking import Candidates, Fusion, PartVectors, salience
from tests.unit.query.ranking_support import (
    HYBRID,
    SEGMENT,
    TAGS,
    WHOLE,
    X,
    Y,
    Z,
    candidates,
    score,
    unit,
)


def test_a_segment_that_is_rather_what_is_wanted_is_not_unwanted() -> None:
    """An owl is a little like a cat: without cats, owls stay."""
    owl, cat = X, unit(0.7, 0.72, 0, 0)
    images = candidates([("owl", owl, [owl]), ("owl and cat", owl, [owl, cat])], whole=False)
    parts = [PartVectors.single(1, owl), PartVectors.single(-1, cat)]
    scores = score(parts, images, SEGMENT, UNMEASURED)
    plain = score(parts[:1], images, SEGMENT, UNMEASURED)
    assert scores.scores[0] > 0.8 * plain.scores[0]
    assert scores.scores[1] < 0.5 * plain.scores[1]


def test_a_small_object_wins_by_its_segment() -> None:
    images = candidates([("whole", unit(1, 0.6, 0, 0), [Y]), ("part", unit(0.2, 1, 0, 0), [Y, X])])
    part = [PartVectors.single(1, X)]
    assert score(part, images, WHOLE).order() == [0, 1]
    hybrid = score(part, images)
    assert hybrid.order() == [1, 0]
    assert [(match.row, round(match.similarity, 3)) for match in hybrid.matches(1)] == [(2, 1.0)]


def test_an_image_without_segments_is_judged_by_its_whole_vector() -> None:
    images = candidates([("new", X, []), ("old", X, [X])])
    scores = score([PartVectors.single(1, X)], images)
    assert [(row.kind, row.weight) for row in scores.explain(0)] == [("whole", 1.0)]
    assert [row.kind for row in scores.explain(1)] == ["whole", "segment"]
    assert scores.matches(0) == []
    assert set(scores.order()) == {0, 1}


def test_where_only_segments_count_an_image_without_them_is_no_result() -> None:
    images = candidates([("new", X, []), ("old", Y, [X])], whole=False)
    assert score([PartVectors.single(1, X)], images, SEGMENT).order() == [1]
    assert score([PartVectors.single(1, X)], candidates([("new", X, [])], whole=False), SEGMENT).order() == []


def test_what_covers_most_of_a_picture_hardly_counts() -> None:
    """Two pictures of the same thing on unlike grounds are nearer than two grounds alike with unlike things."""
    picture = PartVectors.picture(1, unit(1, 1, 0, 0), [(X, 0.8), (Y, 0.1)])
    images = candidates([("ground", X, [X, Z]), ("thing", Z, [Z, Y])], whole=False)
    images = replace(images, counts=salience(np.array([0.8, 0.1, 0.8, 0.1])))
    assert score([picture], images, SEGMENT).order() == [1, 0]


def test_things_that_the_query_does_not_show_count_against_an_image() -> None:
    picture = PartVectors.picture(1, X, [(X, 0.1), (Y, 0.1)])
    images = candidates([("more", X, [X, Y, Z]), ("same", X, [X, Y])], whole=False)
    assert score([picture], images, SEGMENT).order() == [1, 0]
    text = score([PartVectors.single(1, X)], images, SEGMENT).scores
    assert text[0] == text[1]


def test_a_close_up_of_a_thing_finds_where_it_is_one_of_many() -> None:
    """Its own segments are pieces that no other picture has."""
    close_up = PartVectors.picture(1, X, [(Z, 0.3), (-Z, 0.3)])
    images = candidates([("crowd", Y, [X, Y]), ("other", Y, [Y, unit(0, 1, 1, 0)])], whole=False)
    scores = score([close_up], images, SEGMENT)
    assert scores.order() == [0, 1]
    assert [(match.row, match.similarity) for match in scores.matches(0)] == [(0, 1.0)]
    assert scores.raw(0, "segment")[0] == 1.0
    ignored = score([close_up], images, Fusion(0, 1, 0, thing=0))
    assert ignored.scores[0] < scores.scores[0]
    # What counts nothing answers nothing either.
    assert ignored.raw(0, "segment")[0] < 1.0


def test_a_part_is_the_image_or_one_thing_in_it() -> None:
    """What fits one way only beats what fits a little both ways."""
    images = candidates([("both", unit(0.7, 0.7, 0, 0), [unit(0.7, 0.7, 0, 0)]), ("part", Y, [X]), ("whole", X, [Y])])
    scores = score([PartVectors.single(1, X)], images, Fusion(0.5, 0.5, 0), UNMEASURED).scores
    assert scores[1] > scores[0]
    assert scores[2] > scores[0]


def tagged(weight: float, **tags: tuple[float, float]) -> PartVectors:
    return replace(PartVectors.single(weight, X), tags=tags)


def carriers(*tags: dict[str, float]) -> Candidates:
    return candidates([(f"i{at}", X, []) for at in range(len(tags))], whole=False, tags=tags)


def test_rare_and_sure_tags_count_more() -> None:
    images = carriers({"rare": 1.0}, {"common": 1.0}, {"rare": 0.5}, {}, {"rare": 1.0, "common": 1.0})
    scores = score([tagged(1, rare=(1.0, 2.0), common=(1.0, 0.5))], images, TAGS)
    assert scores.order() == [4, 0, 2, 1, 3]
    assert scores.raw(0, "tag").tolist() == pytest.approx([0.8, 0.2, 0.4, 0.0, 1.0])


def test_a_tag_counts_no_more_than_the_query_is_sure_of_it() -> None:
    images = carriers({"owl": 1.0}, {"owl": 0.5})
    assert score([tagged(1, owl=(0.5, 1.0))], images, TAGS).raw(0, "tag").tolist() == [1.0, 1.0]


def test_where_only_tags_count_a_part_without_any_says_nothing() -> None:
    images = carriers({"owl": 1.0}, {})
    expected = score([tagged(1, owl=(1.0, 1.0))], images, TAGS).scores
    for weight in (1.0, -1.0):
        scores = score([tagged(1, owl=(1.0, 1.0)), tagged(weight)], images, TAGS)
        assert scores.scores.tolist() == expected.tolist()
        assert scores.order() == [0, 1]
    assert score([tagged(1), tagged(-1, owl=(1.0, 1.0))], images, TAGS).order() == []


def test_an_unwanted_tag() -> None:
    images = carriers({"owl": 1.0}, {"owl": 1.0, "cat": 1.0}, {"cat": 1.0})
    parts = [tagged(1, owl=(1.0, 1.0)), tagged(-1, cat=(1.0, 1.0))]
    assert score(parts, images, TAGS).order() == [0, 1, 2]


def test_equal_scores_are_ordered_by_id() -> None:
    images = candidates([("c", X, [X]), ("a", X, [X]), ("b", X, [X])])
    assert [images.ids[at] for at in score([PartVectors.single(1, X)], images).order()] == ["a", "b", "c"]


def test_nothing_to_rank() -> None:
    scores = score([PartVectors.single(1, X)], candidates([]))
    assert scores.order() == []


@pytest.mark.parametrize("steep", [1.0, 1e6])
def test_extreme_cosines_keep_scores_in_range_and_apart(steep: float) -> None:
    calibration = Calibration({kind: Curve(slope=steep, middle=0.0) for kind in Comparison}, measured=True)
    images = candidates([("same", X, [X]), ("apart", Y, [Y]), ("opposite", -X, [-X])])
    for fusion in (WHOLE, SEGMENT, HYBRID):
        for parts in ([PartVectors.single(1, X)], [PartVectors.picture(1, X, [(X, 0.1)])]):
            scores = score(parts, images, fusion, calibration)
            assert np.isfinite(scores.scores).all()
            assert scores.order() == [0, 1, 2]
            assert scores.scores[0] > scores.scores[1] > scores.scores[2] >= 0
        away = score([PartVectors.single(1, X), PartVectors.single(-9, X)], images, fusion, calibration)
        assert np.isfinite(away.scores).all()
