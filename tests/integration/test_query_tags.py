"""Searches by tags and by titles, what changes a picture, and how the plan tells what was done."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from saccade.common.v1 import types_pb2
from saccade.query.v1 import query_service_pb2 as pb
from saccade.query.v1.query_service_pb2_grpc import QueryServiceStub
from services.common.records import CollectionRecord, collection_key
from services.common.settings import VectorSettings
from services.common.vectors import Generation, VectorStore
from tests.engines import milvus_real
from tests.integration.query_gallery import (
    GHOST,
    MIDDLE,
    NEW,
    OLD,
    PICTURES,
    Stack,
    box,
    connected,
    ids,
    picture,
    refused,
    scores,
    search,
    start_process,
    text,
)

WHOLE, SEGMENT, HYBRID, TAGS = (
    pb.SEARCH_MODE_WHOLE,
    pb.SEARCH_MODE_SEGMENT,
    pb.SEARCH_MODE_HYBRID,
    pb.SEARCH_MODE_TAGS,
)
STORED = {*PICTURES, NEW}
# Its name's words are a picture's own tags, beside those that the model gives it.
NAMED = {word: {name for name in STORED if word in name.split("-")} for word in ("red", "blue", "corner", "middle")}


def with_tags(*names: str, every: bool = True, min_confidence: float = 0) -> types_pb2.Filter:
    return types_pb2.Filter(tags=types_pb2.Filter.Tags(names=names, all=every, min_confidence=min_confidence))


def test_a_word_finds_what_carries_it(query: QueryServiceStub) -> None:
    response = search(query, text("corner"), mode=TAGS, top_k=20, explain=True)
    assert ids(response) == ["red-corner"]
    (row,) = response.results[0].score_parts
    assert (row.part, row.kind, row.raw, row.weight) == (0, "tag", 1.0, 1.0)
    assert response.results[0].score == pytest.approx(row.calibrated)
    assert not response.results[0].matched_segments
    assert not response.plan.searches
    assert response.plan.generation == 1


def test_a_sentence_finds_by_the_words_of_the_vocabulary_in_it(query: QueryServiceStub) -> None:
    found = scores(search(query, text("a Red thing on the left, and something blue"), mode=TAGS, top_k=20))
    assert max(found, key=lambda name: found[name]) == "red-blue"
    assert NAMED["red"] | NAMED["blue"] <= set(found)


def test_a_word_that_nothing_carries(query: QueryServiceStub) -> None:
    assert ids(search(query, text("zebra"), mode=TAGS)) == []


def test_a_stored_picture_finds_what_shares_its_tags(query: QueryServiceStub) -> None:
    found = ids(search(query, pb.Part(image_id="red-middle"), mode=TAGS, top_k=20))
    assert "red-middle" not in found
    assert set(found) >= (NAMED["red"] | NAMED["middle"]) - {"red-middle"}
    assert GHOST not in found


def test_pictures_have_the_tags_that_the_embedder_chooses(query: QueryServiceStub) -> None:
    assert "red" in ids(search(query, pb.Part(image=picture("red")), mode=TAGS))
    region = pb.Region(image=picture("white", (("blue", MIDDLE),)), box=box(*MIDDLE))
    assert "blue" in ids(search(query, pb.Part(region=region), mode=TAGS, top_k=20))


def test_an_unwanted_tag(query: QueryServiceStub) -> None:
    found = ids(search(query, text("red"), text("corner", -1), mode=TAGS, top_k=20))
    assert found[-1] == "red-corner"
    assert set(found) >= NAMED["red"]


def test_a_filter_alone(query: QueryServiceStub) -> None:
    response = search(query, mode=TAGS, filter=with_tags("middle"), top_k=20)
    assert ids(response) == sorted(NAMED["middle"])
    assert {result.score for result in response.results} == {1.0}
    assert response.plan.filter_selectivity == pytest.approx(len(NAMED["middle"]) / (len(STORED) + 1))
    assert refused(query, mode=TAGS)[1] == "parts"


def test_a_filter_beside_words(query: QueryServiceStub) -> None:
    found = search(query, text("red"), mode=TAGS, filter=with_tags("middle"), top_k=20)
    assert "red-middle" in ids(found)
    assert set(ids(found)) <= NAMED["middle"]


def test_pages_by_tags(query: QueryServiceStub) -> None:
    everything = ids(search(query, text("red"), mode=TAGS, top_k=50))
    seen, token = list[str](), ""
    while True:
        page = search(query, text("red"), mode=TAGS, top_k=3, page_token=token)
        seen += ids(page)
        token = page.next_page_token
        if not token:
            break
    assert seen == everything
    assert len(set(seen)) == len(seen) > 3


def test_tags_weigh_as_the_request_says(query: QueryServiceStub) -> None:
    found = {
        weight: search(query, text("corner"), weights=pb.Weights(tag=weight), explain=True, top_k=20)
        for weight in (0, 1, 50)
    }
    # The word looks like nothing: only its tag tells.
    one, two, three = (scores(response)["red-corner"] for response in found.values())
    assert one < two < three
    kinds = {row.kind for result in found[0].results for row in result.score_parts}
    assert kinds == {"whole", "segment"}
    shares = [row.weight for result in found[1].results for row in result.score_parts if row.kind == "tag"]
    assert min(shares) == pytest.approx(0.5)


def test_how_sure_a_tag_must_be(query: QueryServiceStub) -> None:
    names = ("white", "red")

    def found(min_confidence: float) -> dict[str, float]:
        wanted = with_tags(*names, every=False, min_confidence=min_confidence)
        response = search(query, text("red"), filter=wanted, top_k=20)
        return {
            result.image.id: max(tag.confidence for tag in result.image.tags if tag.name in names)
            for result in response.results
        }

    everything = found(0)
    assert set(everything) >= NAMED["red"]
    assert len(set(everything.values())) > 1
    for limit in sorted(set(everything.values())):
        expected = {name for name, confidence in everything.items() if confidence >= limit - 1e-5}
        assert set(found(limit - 1e-5)) == expected
    assert refused(query, text("x"), filter=with_tags("red", min_confidence=1.5))[1] == "filter.tags.min_confidence"


def test_where_a_segment_lies(query: QueryServiceStub) -> None:
    corner = types_pb2.Filter(segment_within=box(0, 0, 0.4, 0.4))
    found = search(query, text("red"), mode=SEGMENT, filter=corner, top_k=20)
    assert ids(found) == ["red-corner"]
    assert found.results[0].matched_segments[0].segment.box.x1 <= 0.4
    assert refused(query, text("red"), mode=WHOLE, filter=corner)[1] == "filter.segment_within"


def test_titles_alone(query: QueryServiceStub) -> None:
    response = search(query, title_text="old", explain=True)
    assert set(ids(response)) == OLD
    assert response.plan.reading == 'title "old"'
    assert [row.kind for row in response.results[0].score_parts] == ["title"]
    assert response.results[0].score == 1.0
    assert response.results[0].score_parts[0].raw > 0
    both = search(query, title_text="old", filter=with_tags("middle"))
    assert ids(both) == ["blue-middle"]
    assert ids(search(query, title_text="zebra")) == []


def test_titles_are_fused_with_what_pictures_show(query: QueryServiceStub) -> None:
    plain = ids(search(query, text("blue"), top_k=20))
    response = search(query, text("blue"), title_text="old", top_k=20, explain=True)
    fused = ids(response)
    assert fused[0] == "blue-middle"
    assert set(fused) == set(plain)
    assert fused.index("green") < plain.index("green")
    kinds = {result.image.id: {row.kind for row in result.score_parts} for result in response.results}
    assert "title" in kinds["green"]
    assert "title" not in kinds["red"]


def test_titles_fold_and_page(query: QueryServiceStub) -> None:
    response = search(query, title_text="painting of red", top_k=20, fold_duplicates=True)
    assert {name for result in response.results for name in result.duplicate_ids} & {"red", NEW}
    first = search(query, title_text="painting", top_k=5)
    rest = search(query, title_text="painting", top_k=20, page_token=first.next_page_token)
    assert sorted(ids(first) + ids(rest)) == sorted(STORED)


@pytest.fixture(scope="module")
def old_engine(gallery: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueryServiceStub]:
    """A query service with an empty collection on Milvus 2.3.5, which has no full-text index."""
    folder: Path = tmp_path_factory.mktemp("real")
    with milvus_real(folder / "milvus") as milvus:
        stack = Stack(milvus.uri, gallery.embedder, folder / "objects")
        record = CollectionRecord(name="toys", model="toy", fingerprint="f", dimension=60, created_at_ms=1)

        async def make() -> None:
            vectors, objects = VectorStore(VectorSettings(milvus_uri=milvus.uri)), stack.object_store()
            await vectors.create_generation(Generation.of(record))
            await vectors.activate(Generation.of(record))
            await objects.put(collection_key("toys"), record.to_bytes())
            await vectors.close()
            await objects.close()

        asyncio.run(make())
        with start_process("services.query", stack.environment) as (_, address), connected(address) as stub:
            yield stub


def test_where_the_engine_has_no_full_text_index_titles_are_refused(old_engine: QueryServiceStub) -> None:
    expected = (grpc.StatusCode.FAILED_PRECONDITION, "title_text", "TITLE_SEARCH_UNAVAILABLE")
    assert refused(old_engine, title_text="old") == expected
    assert ids(search(old_engine, text("red"), mode=TAGS)) == []


def test_words_that_change_a_picture(query: QueryServiceStub) -> None:
    """Like a red picture, but with blue in it."""
    red = picture("red")
    plain = ids(search(query, pb.Part(image=red), top_k=13))
    response = search(query, pb.Part(image=red, modifier="blue"), top_k=13, explain=True)
    changed = ids(response)
    assert changed.index("red-blue") < plain.index("red-blue")
    assert changed.index("red-blue") < changed.index("red-green")
    assert {row.part for row in response.results[0].score_parts} == {0}
    assert response.plan.reading == '0.5 x the picture sent + 0.5 x text "blue"'
    deaf = refused(query, pb.Part(image=red, modifier="blue"), collection="deaf")
    assert deaf == (grpc.StatusCode.FAILED_PRECONDITION, "parts[0].modifier", "NO_TEXT_TOWER")


def test_the_plan_tells_each_search(query: QueryServiceStub) -> None:
    response = search(query, text("red"), pb.Part(image_id="blue"))
    plan = response.plan
    assert [made.what for made in plan.searches] == [
        "images by image",
        "images by text",
        "segments by image",
        "segments by text",
    ]
    for made in plan.searches:
        assert made.index == "IVF_FLAT"
        assert made.exact
        assert made.nprobe == 0
        assert made.rows == made.passing > 0
        assert made.reason
    assert plan.generation == 1
    assert plan.fingerprint == "toy-1"
    # Nobody has measured the toy model.
    assert not plan.calibrated
    (whole,) = search(query, text("red"), mode=WHOLE).plan.searches
    assert whole.what == "images by text"
    (narrow,) = search(query, text("red"), mode=WHOLE, filter=with_tags("middle")).plan.searches
    assert narrow.passing < narrow.rows


def test_what_is_asked_of_the_index(query: QueryServiceStub) -> None:
    (all_,) = search(query, text("red"), mode=WHOLE, target_recall=1.0).plan.searches
    assert all_.exact
    (three,) = search(query, text("red"), mode=WHOLE, nprobe=3).plan.searches
    assert (three.exact, three.nprobe, three.reason) == (False, 3, "asked for")
    assert refused(query, text("red"), target_recall=2)[1] == "target_recall"


@pytest.mark.parametrize("mode", [WHOLE, SEGMENT, HYBRID, TAGS])
def test_the_least_score_is_on_the_calibrated_scale(query: QueryServiceStub, mode: pb.SearchMode.ValueType) -> None:
    every = search(query, text("red"), top_k=50, mode=mode)
    half = [result.image.id for result in every.results if result.score >= 0.5]
    assert len(half) > 0
    assert ids(search(query, text("red"), top_k=50, mode=mode, min_score=0.5)) == half
    best = every.results[0]
    assert best.image.id in ids(search(query, text("red"), top_k=50, mode=mode, min_score=best.score))
