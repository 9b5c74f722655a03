"""Searches over a real stack: milvus-lite, local objects, the toy embedder and the query service as processes."""

from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import pytest

from saccade.common.v1 import types_pb2
from saccade.errors import api_error
from saccade.query.v1 import query_service_pb2 as pb
from saccade.query.v1.query_service_pb2_grpc import QueryServiceStub
from services.common.tensors import to_tensor
from tests.integration.query_gallery import (
    GHOST,
    LEFT,
    MIDDLE,
    NEW,
    PICTURES,
    RIGHT,
    Stack,
    box,
    ids,
    picture,
    refused,
    remove_collection,
    scores,
    search,
    text,
)

WHOLE, SEGMENT, HYBRID = pb.SEARCH_MODE_WHOLE, pb.SEARCH_MODE_SEGMENT, pb.SEARCH_MODE_HYBRID
STORED = {*PICTURES, NEW}
# A picture of one colour has no segments.
SEGMENTED = {name for name, (_, patches) in PICTURES.items() if patches}
HOLD_RED = {name for name in SEGMENTED if "red" in name}
HOLD_BLUE = {name for name in SEGMENTED if "blue" in name}


@pytest.mark.parametrize("mode", [WHOLE, HYBRID])
def test_words_find_the_whole_picture(query: QueryServiceStub, mode: pb.SearchMode.ValueType) -> None:
    assert set(ids(search(query, text("a red picture"), mode=mode))[:2]) == {"red", NEW}


def test_words_find_a_small_thing_by_its_segment(query: QueryServiceStub) -> None:
    whole = ids(search(query, text("red"), mode=WHOLE, top_k=13))
    segment = ids(search(query, text("red"), mode=SEGMENT, top_k=13))
    assert whole.index("red-corner") > whole.index("red-blue")
    assert set(segment[: len(HOLD_RED)]) == HOLD_RED
    assert set(segment) == SEGMENTED


def test_results_are_complete(query: QueryServiceStub) -> None:
    response = search(query, text("red"), text("green", -0.5), top_k=13, explain=True, include_masks=True)
    first = next(result for result in response.results if result.image.id == "red-blue")
    assert first.image.collection == "toys"
    assert (first.image.width, first.image.height) == (64, 64)
    assert first.image.state == types_pb2.IMAGE_STATE_SEGMENTED
    assert dict(first.image.metadata)["note"] == 'said "hi"'
    assert f"/collections/toys/images/{first.image.id}/original?" in first.image.original_url
    assert f"/collections/toys/images/{first.image.id}/thumbnail.webp?" in first.image.thumbnail_url
    matched = first.matched_segments[0]
    assert matched.part == 0
    assert -1 <= matched.similarity <= 1
    assert sum(matched.segment.mask.counts) == matched.segment.mask.height * matched.segment.mask.width > 0
    assert matched.segment.tags[0].confidence > 0
    assert matched.segment.predicted_iou > 0
    assert {(score.part, score.kind) for score in first.score_parts} == {
        (0, "whole"),
        (0, "segment"),
        (0, "tag"),
        (1, "whole"),
        (1, "segment"),
        (1, "tag"),
    }
    assert response.plan.reading == 'text "red" - 0.5 x text "green"'
    assert [timing.stage for timing in response.plan.timings] == ["embed", "candidates", "segments", "rank", "fetch"]
    assert all(timing.duration.ToNanoseconds() > 0 for timing in response.plan.timings)
    assert response.plan.candidates == len(STORED) + 1
    assert response.plan.filter_selectivity == 1
    # So few rows are all compared.
    assert response.plan.exact
    assert response.plan.nprobe == 0
    assert len(response.plan.trace_id) == 32
    assert not response.plan.degraded


def test_nothing_is_sent_that_was_not_asked_for(query: QueryServiceStub) -> None:
    for result in search(query, text("red")).results:
        assert not result.score_parts
        assert not result.image.segments
        assert not any(matched.segment.HasField("mask") for matched in result.matched_segments)
        assert not any(matched.segment.HasField("vector") for matched in result.matched_segments)


@pytest.mark.parametrize("mode", [WHOLE, SEGMENT, HYBRID])
def test_a_picture_finds_its_like(query: QueryServiceStub, mode: pb.SearchMode.ValueType) -> None:
    part = pb.Part(image=picture("white", (("blue", MIDDLE),)))
    response = search(query, part, mode=mode)
    assert ids(response)[0] == "blue-middle"
    assert response.results[0].score > 0.9
    if mode != WHOLE:
        assert response.results[0].matched_segments


@pytest.mark.parametrize("mode", [WHOLE, SEGMENT, HYBRID])
def test_a_stored_picture_finds_others(query: QueryServiceStub, mode: pb.SearchMode.ValueType) -> None:
    found = ids(search(query, pb.Part(image_id="red-middle"), mode=mode))
    assert found[0] == "red-corner"
    assert "red-middle" not in found


REGIONS = {
    "box": pb.Region(image=picture("green", (("red", MIDDLE),)), box=box(*MIDDLE)),
    "point": pb.Region(
        image=picture("green", (("red", MIDDLE),)),
        points=[types_pb2.Point(x=0.5, y=0.5), types_pb2.Point(x=0.1, y=0.1, background=True)],
    ),
    "box on a stored picture": pb.Region(image_id="red-blue", box=box(*LEFT)),
}


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS.keys())
def test_a_region_finds_pictures_that_hold_it(query: QueryServiceStub, region: pb.Region) -> None:
    found = ids(search(query, pb.Part(region=region), mode=SEGMENT, top_k=3))
    assert set(found) <= HOLD_RED - {region.image_id}
    assert ids(search(query, pb.Part(region=region), mode=WHOLE, top_k=2)) == ["red", NEW]


def test_a_stored_segment_finds_pictures_that_hold_it(query: QueryServiceStub) -> None:
    (result,) = search(query, text("blue"), filter=with_tags("yellow")).results
    index = result.matched_segments[0].segment.index
    part = pb.Part(region=pb.Region(image_id="yellow-blue", segment_index=index))
    found = search(query, part, mode=SEGMENT, top_k=3)
    assert set(ids(found)) == HOLD_BLUE - {"yellow-blue"}
    assert found.plan.reading == f'segment {index} of image "yellow-blue"'


def test_a_vector_of_ones_own(query: QueryServiceStub) -> None:
    by_words = search(query, text("red"), mode=WHOLE)
    vector = np.zeros(60, dtype=np.float32)
    vector[0] = 5.0
    assert set(ids(search(query, pb.Part(vector=to_tensor(vector)), mode=WHOLE))[:2]) == set(ids(by_words)[:2])
    wrong = pb.Part(vector=to_tensor(np.ones(3, dtype=np.float32)))
    assert refused(query, wrong) == (grpc.StatusCode.INVALID_ARGUMENT, "parts[0].vector", "VECTOR_DIMENSION")


def test_away_from_something(query: QueryServiceStub) -> None:
    towards = ids(search(query, text("green"), top_k=13))
    away = ids(search(query, text("green"), text("blue", -1), top_k=13))
    assert away.index("green-blue") > towards.index("green-blue")
    assert away.index("green") < away.index("green-blue")


def test_two_wishes(query: QueryServiceStub) -> None:
    assert ids(search(query, text("red"), text("green")))[0] == "red-green"
    assert ids(search(query, text("red"), pb.Part(image_id="blue"), mode=SEGMENT))[0] == "red-blue"


def test_weights_of_whole_and_segments(query: QueryServiceStub) -> None:
    as_whole = search(query, text("red"), weights=pb.Weights(segment=0, tag=0), top_k=13)
    assert scores(as_whole) == pytest.approx(scores(search(query, text("red"), mode=WHOLE, top_k=13)), abs=1e-5)
    as_segment = scores(search(query, text("red"), weights=pb.Weights(whole=0, tag=0), top_k=13))
    assert as_segment["red-corner"] == pytest.approx(as_segment["red-middle"], abs=1e-2)


def test_exactly_and_with_few_lists(query: QueryServiceStub) -> None:
    exact = search(query, text("red"), exact=True, consistency=pb.CONSISTENCY_STRONG)
    assert exact.plan.exact
    assert exact.plan.nprobe == 0
    assert search(query, text("red"), nprobe=3).plan.nprobe == 3


def with_tags(*names: str, every: bool = True) -> types_pb2.Filter:
    return types_pb2.Filter(tags=types_pb2.Filter.Tags(names=names, all=every))


def test_filters_speak_of_images(query: QueryServiceStub) -> None:
    for mode in (WHOLE, HYBRID):
        response = search(query, text("blue"), filter=with_tags("red", "blue"), mode=mode)
        assert ids(response) == ["red-blue"]
        assert response.plan.filter_selectivity == pytest.approx(1 / 13)
    shelf = types_pb2.Filter.Metadata(path=["shelf"], range=types_pb2.Filter.Range(max=2))
    assert set(ids(search(query, text("red"), filter=types_pb2.Filter(metadata=shelf)))) == {"red", "blue", "green"}
    low = types_pb2.Filter(metadata=types_pb2.Filter.Metadata(path=["shelf"], range=types_pb2.Filter.Range(max=4)))
    assert set(ids(search(query, text("red"), filter=low, mode=SEGMENT))) == {"red-corner", "red-middle"}
    named = types_pb2.Filter(ids=types_pb2.Filter.Ids(ids=["green", "no-such"]))
    assert ids(search(query, text("red"), filter=named)) == ["green"]


def test_in_segment_mode_filters_speak_of_segments(query: QueryServiceStub) -> None:
    small = types_pb2.Filter(segment_area_fraction=types_pb2.Filter.Range(max=0.1))
    response = search(query, text("red"), mode=SEGMENT, filter=small)
    assert set(ids(response)) == {name for name, (_, patches) in PICTURES.items() if patches and patches[0][1] != RIGHT}
    assert all(
        matched.segment.area_fraction <= 0.1 for result in response.results for matched in result.matched_segments
    )
    assert 0 < response.plan.filter_selectivity < 1
    red = search(query, text("blue"), mode=SEGMENT, filter=with_tags("red"))
    assert set(ids(red)) == HOLD_RED
    assert all(
        "red" in {tag.name for tag in matched.segment.tags}
        for result in red.results
        for matched in result.matched_segments
    )


@pytest.mark.parametrize(
    "value", ['x" or 1 == 1 or "', "\\", "a\\", "\n", "'; drop", "{}", "%", "\0", "tags", "é\u2028"]
)
@pytest.mark.parametrize("mode", [WHOLE, SEGMENT, HYBRID])
def test_a_filter_is_never_code(query: QueryServiceStub, value: str, mode: pb.SearchMode.ValueType) -> None:
    equals = types_pb2.Filter.Metadata(path=["note"])
    equals.equals.string_value = value
    path = types_pb2.Filter.Metadata(path=[value], exists=True)
    for wanted in (with_tags(value), types_pb2.Filter(metadata=equals), types_pb2.Filter(metadata=path)):
        try:
            assert ids(search(query, text("red"), filter=wanted, mode=mode)) == []
        except grpc.RpcError as exc:
            error = api_error(exc)
            assert error.code == grpc.StatusCode.INVALID_ARGUMENT
            assert error.fields[0][0].startswith("filter.")


def test_a_quote_in_a_filter_finds_a_quote(query: QueryServiceStub) -> None:
    note = types_pb2.Filter.Metadata(path=["note"])
    note.equals.string_value = 'said "hi"'
    assert len(ids(search(query, text("red"), filter=types_pb2.Filter(metadata=note), top_k=20))) == len(STORED)


def pages(query: QueryServiceStub, sizes: Sequence[int], *parts: pb.Part, **fields: Any) -> list[list[str]]:
    found, token = [], ""
    for size in sizes:
        response = search(query, *parts, top_k=size, page_token=token, **fields)
        found.append(ids(response))
        token = response.next_page_token
        if not token:
            break
    return found


@pytest.mark.parametrize("mode", [WHOLE, SEGMENT, HYBRID])
def test_pages_show_each_image_once(query: QueryServiceStub, mode: pb.SearchMode.ValueType) -> None:
    expected = SEGMENTED if mode == SEGMENT else STORED
    found = pages(query, [2, 3, 1, 2, 2, 9, 9], text("red"), text("blue", -0.5), mode=mode)
    shown = [name for page in found for name in page]
    assert sorted(shown) == sorted(expected)
    assert [len(page) for page in found[:4]] == [2, 3, 1, 2]
    everything = ids(search(query, text("red"), text("blue", -0.5), mode=mode, top_k=50))
    assert shown == everything


def test_no_page_after_the_last(query: QueryServiceStub) -> None:
    assert search(query, text("red"), top_k=50).next_page_token == ""
    assert search(query, text("red"), min_score=1).next_page_token == ""


def test_a_token_is_good_for_its_query_alone(query: QueryServiceStub) -> None:
    token = search(query, text("red"), top_k=2).next_page_token
    assert token
    expected = (grpc.StatusCode.INVALID_ARGUMENT, "page_token", "PAGE_TOKEN")
    assert refused(query, text("blue"), page_token=token) == expected
    assert refused(query, text("red"), page_token=token[:-2] + "AA") == expected


def test_what_is_gone_makes_room(query: QueryServiceStub) -> None:
    for mode in (WHOLE, SEGMENT, HYBRID):
        found = ids(search(query, text("red"), top_k=3, mode=mode))
        assert len(found) == 3
        assert GHOST not in found


def test_an_image_not_taken_apart_yet(query: QueryServiceStub) -> None:
    response = search(query, text("red"), explain=True)
    (new,) = [result for result in response.results if result.image.id == NEW]
    assert [score.kind for score in new.score_parts] == ["whole", "tag"]
    assert sum(score.weight for score in new.score_parts) == pytest.approx(1)
    assert not new.matched_segments
    assert "red" in ids(search(query, pb.Part(image_id=NEW)))


def test_min_score(query: QueryServiceStub) -> None:
    every = search(query, text("red"), top_k=50)
    least = every.results[4].score
    found = search(query, text("red"), top_k=50, min_score=least - 1e-4)
    assert ids(found) == [result.image.id for result in every.results if result.score >= least - 1e-4]


def test_an_empty_collection_has_no_answers(query: QueryServiceStub) -> None:
    for mode in (WHOLE, SEGMENT, HYBRID):
        response = search(query, text("red"), mode=mode, collection="bare", filter=with_tags("red"))
        assert ids(response) == []
        assert response.next_page_token == ""


def test_a_collection_deleted_a_moment_ago_is_not_there(gallery: Stack, query: QueryServiceStub) -> None:
    assert ids(search(query, text("red"), collection="brief")) == []
    remove_collection(gallery, "brief")
    assert refused(query, text("red"), collection="brief") == (NOT_FOUND, "collection", "COLLECTION_NOT_FOUND")


NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT
GREEN = picture("green")
REFUSED: dict[str, tuple[dict[str, Any], list[pb.Part], tuple[grpc.StatusCode, str, str]]] = {
    "collection": ({"collection": "nowhere"}, [text("x")], (NOT_FOUND, "collection", "COLLECTION_NOT_FOUND")),
    "stored image": (
        {},
        [text("x"), pb.Part(image_id="nobody")],
        (NOT_FOUND, "parts[1].image_id", "IMAGE_NOT_FOUND"),
    ),
    "stored image of a region": (
        {},
        [pb.Part(region=pb.Region(image_id="nobody", box=box(*LEFT)))],
        (NOT_FOUND, "parts[0].region.image_id", "IMAGE_NOT_FOUND"),
    ),
    "stored image of a segment": (
        {},
        [pb.Part(region=pb.Region(image_id="nobody", segment_index=0))],
        (NOT_FOUND, "parts[0].region.image_id", "IMAGE_NOT_FOUND"),
    ),
    "segment": (
        {},
        [pb.Part(region=pb.Region(image_id="red", segment_index=50))],
        (NOT_FOUND, "parts[0].region.segment_index", "SEGMENT_NOT_FOUND"),
    ),
    "segment of an image not taken apart": (
        {},
        [pb.Part(region=pb.Region(image_id=NEW, segment_index=0))],
        (grpc.StatusCode.FAILED_PRECONDITION, "parts[0].region.image_id", "IMAGE_NOT_INDEXED"),
    ),
    "damaged picture": (
        {},
        [text("x"), pb.Part(image=GREEN[:60])],
        (INVALID, "parts[1].image", "IMAGE_TRUNCATED"),
    ),
    "damaged picture of a region": (
        {},
        [pb.Part(region=pb.Region(image=GREEN[:60], box=box(*RIGHT)))],
        (INVALID, "parts[0].region.image", "IMAGE_TRUNCATED"),
    ),
    "box": (
        {},
        [pb.Part(region=pb.Region(image=GREEN, box=box(0, 0, 2, 1)))],
        (INVALID, "parts[0].region.box", "BOX_OUTSIDE_IMAGE"),
    ),
    "text without a text tower": (
        {"collection": "deaf"},
        [pb.Part(image=GREEN), text("x")],
        (grpc.StatusCode.FAILED_PRECONDITION, "parts[1].text", "NO_TEXT_TOWER"),
    ),
    "another model": (
        {"collection": "foreign"},
        [text("x")],
        (grpc.StatusCode.FAILED_PRECONDITION, "", "MODEL_MISMATCH"),
    ),
    "address": (
        {},
        [pb.Part(image_url="file:///etc/hostname")],
        (INVALID, "parts[0].image_url", "URL_MALFORMED"),
    ),
}


@pytest.mark.parametrize(("fields", "parts", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_wrong_is_named(
    query: QueryServiceStub, fields: dict[str, Any], parts: list[pb.Part], expected: tuple[grpc.StatusCode, str, str]
) -> None:
    assert refused(query, *parts, **fields) == expected
