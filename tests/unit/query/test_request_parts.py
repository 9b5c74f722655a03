import pytest

from saccade.common.v1 import types_pb2
from saccade.query.v1 import query_service_pb2 as pb
from services.common.images import ImageLimits
from services.query.domain import Place, Placement, QueryPart, Relation, RelationKind, SearchQuery, Stored, Text
from services.query.ranking import Fusion
from services.query.request import read_search

OWLS = types_pb2.Filter(tags=types_pb2.Filter.Tags(names=["owl"]))
LEFT = pb.Placement(place=pb.Placement.PLACE_LEFT)


def request(*parts: pb.Part, **fields: object) -> pb.SearchRequest:
    return pb.SearchRequest(collection="owls", parts=parts or [pb.Part(text="an owl")], **fields)  # type: ignore[arg-type]


def read(message: pb.SearchRequest) -> SearchQuery:
    return read_search(message, ImageLimits())


def above(first: int, second: int) -> pb.Relation:
    return pb.Relation(first=first, kind=pb.Relation.KIND_ABOVE, second=second)


@pytest.mark.parametrize(
    ("mode", "weights", "expected"),
    [
        (pb.SEARCH_MODE_WHOLE, pb.Weights(segment=9, tag=9), (1, 0, 0)),
        (pb.SEARCH_MODE_SEGMENT, pb.Weights(tag=9), (0, 1, 0)),
        (pb.SEARCH_MODE_TAGS, pb.Weights(tag=9), (0, 0, 1)),
        (pb.SEARCH_MODE_HYBRID, pb.Weights(whole=2, segment=0.5), (2, 0.5, Fusion().tag)),
        (pb.SEARCH_MODE_UNSPECIFIED, pb.Weights(whole=0.5, segment=0, tag=0.25), (0.5, 0, 0.25)),
    ],
)
def test_what_kinds_count(
    mode: pb.SearchMode.ValueType, weights: pb.Weights, expected: tuple[float, float, float]
) -> None:
    query = read(request(mode=mode, weights=weights))
    assert (query.whole_weight, query.segment_weight, query.tag_weight) == expected


def test_without_parts() -> None:
    by_title = read(pb.SearchRequest(collection="owls", title_text=" snowy owl "))
    assert (by_title.parts, by_title.title_text) == ((), "snowy owl")
    by_filter = read(pb.SearchRequest(collection="owls", mode=pb.SEARCH_MODE_TAGS, filter=OWLS))
    assert by_filter.parts == ()
    assert by_filter.image_where


def test_in_mode_tags_a_text_is_taken_as_written() -> None:
    (part,) = read(request(pb.Part(text="an owl above a dog"), mode=pb.SEARCH_MODE_TAGS)).parts
    assert part.content == Text("parts[0].text", "an owl above a dog")


def test_a_modifier_is_one_more_part_of_half_the_weight() -> None:
    parts = read(request(pb.Part(text="an owl"), pb.Part(image_id="a", weight=3, modifier="in the snow"))).parts
    assert parts == (
        QueryPart(0, Text("parts[0].text", "an owl"), 1.0),
        QueryPart(1, Stored("parts[1].image_id", "a"), 1.5),
        QueryPart(1, Text("parts[1].modifier", "in the snow"), 1.5),
    )


def test_relations_name_the_parts_that_modifiers_change() -> None:
    changed = pb.Part(image_id="a", modifier="in the snow", placement=LEFT)
    query = read(request(changed, pb.Part(text="an owl above a dog"), pb.Part(text="x"), relations=[above(0, 2)]))
    words = [part.content.text for part in query.parts if isinstance(part.content, Text)]
    assert words == ["an owl", "x", "a dog", "in the snow"]
    assert query.relations == (Relation(0, RelationKind.ABOVE, 2), Relation(1, RelationKind.ABOVE, 3))
    assert [part.placement for part in query.parts] == [Placement(Place.LEFT), None, None, None, None]


@pytest.mark.parametrize("recall", [0.9, 0.95, 1.0])
def test_the_recall_to_aim_for(recall: float) -> None:
    assert read(request(target_recall=recall)).target_recall == recall
