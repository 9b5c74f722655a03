"""Where things should be, near-duplicates and variety, over a real stack."""

import pytest

from saccade.query.v1 import query_service_pb2 as pb
from saccade.query.v1.query_service_pb2_grpc import QueryServiceStub
from tests.integration.query_gallery import GHOST, NEW, ids, scores, search, text

WHOLE, SEGMENT, HYBRID = pb.SEARCH_MODE_WHOLE, pb.SEARCH_MODE_SEGMENT, pb.SEARCH_MODE_HYBRID


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("red in the middle", "red-middle"),
        ("blue in the middle", {"blue-middle", "yellow-blue"}),
        ("red to the left of blue", "red-blue"),
        ("blue to the right of green", "green-blue"),
    ],
)
def test_words_say_where_things_are(query: QueryServiceStub, words: str, found: str | set[str]) -> None:
    response = search(query, text(words), mode=SEGMENT, explain=True)
    assert ids(response)[0] in ({found} if isinstance(found, str) else found)
    position = next(score for score in response.results[0].score_parts if not score.HasField("part"))
    assert position.kind == "position"
    assert position.calibrated > 0.5
    assert response.plan.reading != f'text "{words}"'
    literal = search(query, text(words), mode=SEGMENT, literal_text=True)
    assert literal.plan.reading == f'text "{words}"'


def test_the_other_way_round_fits_less(query: QueryServiceStub) -> None:
    found = {}
    for kind in (pb.Relation.KIND_LEFT_OF, pb.Relation.KIND_RIGHT_OF):
        relation = pb.Relation(first=0, kind=kind, second=1)
        response = search(query, text("red"), text("blue"), mode=SEGMENT, relations=[relation])
        found[kind] = scores(response)["red-blue"]
    assert found[pb.Relation.KIND_LEFT_OF] > found[pb.Relation.KIND_RIGHT_OF] + 0.2


@pytest.mark.parametrize("mode", [WHOLE, HYBRID])
def test_near_duplicates_are_folded(query: QueryServiceStub, mode: pb.SearchMode.ValueType) -> None:
    plain = ids(search(query, text("red"), mode=mode, top_k=13))
    response = search(query, text("red"), mode=mode, top_k=13, fold_duplicates=True)
    assert {"red", NEW} <= set(plain)
    folded = {result.image.id: set(result.duplicate_ids) for result in response.results}
    assert ("red" in folded) != (NEW in folded)
    stays = "red" if "red" in folded else NEW
    assert ({"red", NEW} - {stays}) <= folded[stays]
    assert set(folded) | {name for names in folded.values() for name in names} == set(plain)
    assert GHOST not in folded[stays]


def test_what_was_folded_is_on_no_later_page(query: QueryServiceStub) -> None:
    seen: list[str] = []
    token = ""
    while True:
        response = search(query, text("red"), mode=WHOLE, top_k=2, fold_duplicates=True, page_token=token)
        seen += [name for result in response.results for name in (result.image.id, *result.duplicate_ids)]
        token = response.next_page_token
        if not token:
            break
    assert len(seen) == len(set(seen))
    assert set(seen) == set(ids(search(query, text("red"), mode=WHOLE, top_k=13)))


def test_variety(query: QueryServiceStub) -> None:
    plain = ids(search(query, text("red"), mode=SEGMENT, top_k=13))
    varied = ids(search(query, text("red"), mode=SEGMENT, top_k=13, diversity=0.7))
    assert set(varied) == set(plain)
    assert varied[0] == plain[0]
    assert varied != plain
