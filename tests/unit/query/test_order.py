from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from saccade.query.v1 import query_service_pb2 as pb
from services.common.domain import Vector
from services.common.images import ImageLimits
from services.common.vectors import Generation
from services.query.calibration import UNMEASURED
from services.query.candidates import Gathered, bare
from services.query.domain import SearchQuery
from services.query.order import Found, Ranking
from services.query.paging import image_digest
from services.query.ranking import PartVectors
from services.query.request import read_search
from tests.unit.query.ranking_support import X, Y, candidates, unit

GENERATION = Generation("owls", 1, 4, "f")
NEAR = unit(1, 0.5, 0, 0)
FAR = unit(0.2, 1, 0, 0)


def query(*parts: pb.Part, **fields: object) -> SearchQuery:
    return read_search(pb.SearchRequest(collection="owls", parts=parts, **fields), ImageLimits())  # type: ignore[arg-type]


def gathered(**images: Vector) -> Gathered:
    found = candidates([(name, vector, []) for name, vector in images.items()])
    return Gathered(replace(found, tags=tuple({} for _ in images)), (), np.stack(list(images.values())))


def ranking(asked: SearchQuery, found: Gathered, titles: Mapping[str, float] | None = None) -> Ranking:
    parts = tuple(PartVectors.single(part.weight, X) for part in asked.parts)
    return Ranking(asked, parts, Found(found, titles or {}), UNMEASURED)


def shown(made: Ranking) -> list[tuple[str, float]]:
    return [(made.ranked(index).id, made.ranked(index).score) for index in made.order]


def names(made: Ranking) -> list[str]:
    return [name for name, _ in shown(made)]


TEXT = pb.Part(text="x")
THREE = gathered(far=FAR, same=X, near=NEAR)


def test_by_parts_alone() -> None:
    assert names(ranking(query(TEXT), THREE)) == ["same", "near", "far"]


def test_by_title_alone_in_the_order_of_bm25() -> None:
    found = bare(["a", "b", "c"], GENERATION)
    made = ranking(query(title_text="owl", explain=True), found, {"b": 7.0, "a": 5.0, "c": 5.0})
    assert shown(made) == [("b", 1.0), ("a", pytest.approx(61 / 62)), ("c", pytest.approx(61 / 63))]
    (row,) = made.ranked(0).score_parts
    assert (row.part, row.kind, row.raw, row.weight) == (None, "title", 5.0, 1.0)
    assert row.calibrated == pytest.approx(61 / 62)


def test_titles_and_parts_are_fused_by_their_ranks() -> None:
    """Second by both is more than first by one and last by the other."""
    found = gathered(a=X, b=NEAR, c=FAR, d=Y)
    made = ranking(query(TEXT, title_text="owl", explain=True), found, {"d": 9.0, "b": 8.0})
    expected = {"a": 61 / 61, "b": 61 / 62 + 61 / 62, "c": 61 / 63, "d": 61 / 64 + 61 / 61}
    assert dict(shown(made)) == pytest.approx({name: value / 2 for name, value in expected.items()})
    assert names(made) == ["b", "d", "a", "c"]
    title = made.ranked(3).score_parts[-1]
    assert (title.kind, title.raw, title.calibrated, title.weight) == ("title", 9.0, 1.0, 0.5)
    assert [row.kind for row in made.ranked(0).score_parts] == ["whole"]


def test_what_a_title_finds_needs_no_least_score() -> None:
    found = gathered(a=X, d=-X)
    assert names(ranking(query(TEXT, min_score=0.5), found)) == ["a"]
    assert names(ranking(query(TEXT, title_text="owl", min_score=0.5), found, {"d": 1.0})) == ["a", "d"]


def test_neither_parts_nor_titles_leave_the_order_of_ids() -> None:
    owls = pb.SearchRequest(collection="owls", mode=pb.SEARCH_MODE_TAGS)
    owls.filter.tags.names.append("owl")
    asked = read_search(owls, ImageLimits())
    made = ranking(asked, bare(["c", "a", "b"], GENERATION, ({}, {}, {})))
    assert shown(made) == [("a", 1.0), ("b", 1.0), ("c", 1.0)]
    assert made.ranked(0).score_parts == ()


def test_what_the_query_names_or_earlier_pages_showed_is_left_out() -> None:
    asked = replace(query(pb.Part(image_id="near")), shown=frozenset([image_digest("same")]))
    assert names(ranking(asked, THREE)) == ["far"]


@pytest.mark.parametrize("title", ["", "owl"])
def test_near_duplicates_are_folded_under_the_best(title: str) -> None:
    found = gathered(a=NEAR, b=unit(1, 0.5, 0.01, 0), c=FAR)
    titles = {"b": 3.0} if title else {}
    made = ranking(query(TEXT, fold_duplicates=True, title_text=title), found, titles)
    first, second = (made.ranked(index) for index in made.order)
    assert (first.id, first.duplicates) == (("b", ("a",)) if title else ("a", ("b",)))
    assert second.id == "c"
    assert [made.ranked(heir).id for heir in made.heirs(made.order[0])] == list(first.duplicates)


def test_explanations_name_the_requests_own_parts() -> None:
    asked = query(pb.Part(text="a cat"), pb.Part(text="an owl above a dog"), explain=True)
    assert len(asked.parts) == 3
    rows: Sequence[object] = [
        (row.part, row.kind) for row in ranking(asked, THREE).ranked(0).score_parts if row.part is not None
    ]
    assert rows == [(0, "whole"), (1, "whole"), (1, "whole")]
