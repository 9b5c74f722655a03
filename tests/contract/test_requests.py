"""Everything else that a caller may get wrong: each refused with a clear status that names the field."""

import math
from typing import Any, Final

import grpc
import httpx
import pytest

from saccade import Client, NewImage, calls, filters, make_part, make_region
from saccade.common.v1 import types_pb2
from saccade.query.v1 import query_service_pb2 as query
from tests.contract.conftest import COLLECTION, NASTY, NASTY_TAG, refused, refused_over_http
from tests.contract.pictures import good

INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT
SEARCH: Final = f"/v1/collections/{COLLECTION}/search"


def box_part(box: types_pb2.BoundingBox) -> query.Part:
    return query.Part(region=query.Region(image=good(), box=box))


def point_part(x: float, y: float) -> query.Part:
    return query.Part(region=query.Region(image=good(), points=[types_pb2.Point(x=x, y=y)]))


# What is wrong -> the request, and the field that must be named.
SEARCHES: Final[dict[str, tuple[query.SearchRequest, str]]] = {
    "no parts": (query.SearchRequest(), "parts"),
    "17 parts": (query.SearchRequest(parts=[query.Part(text="red")] * 17), "parts"),
    "empty part": (query.SearchRequest(parts=[query.Part(text="red"), query.Part()]), "parts[1]"),
    "empty text": (query.SearchRequest(parts=[query.Part(text="")]), "parts[0].text"),
    "blank text": (query.SearchRequest(parts=[query.Part(text=" \n ")]), "parts[0].text"),
    "10,000 characters": (query.SearchRequest(parts=[query.Part(text="a" * 10_000)]), "parts[0].text"),
    "top_k of a million": (query.SearchRequest(parts=[query.Part(text="red")], top_k=10**6), "top_k"),
    "min_score of 2": (query.SearchRequest(parts=[query.Part(text="red")], min_score=2), "min_score"),
    "min_score NaN": (query.SearchRequest(parts=[query.Part(text="red")], min_score=math.nan), "min_score"),
    "NaN weight": (query.SearchRequest(parts=[query.Part(text="red", weight=math.nan)]), "parts[0].weight"),
    "infinite weight": (query.SearchRequest(parts=[query.Part(text="red", weight=math.inf)]), "parts[0].weight"),
    "NaN in weights": (
        query.SearchRequest(parts=[query.Part(text="red")], weights=query.Weights(whole=math.nan)),
        "weights.whole",
    ),
    "box outside": (
        query.SearchRequest(parts=[box_part(types_pb2.BoundingBox(x0=0.5, y0=0.5, x1=1.5, y1=1))]),
        "parts[0].region.box",
    ),
    "box inside out": (
        query.SearchRequest(parts=[box_part(types_pb2.BoundingBox(x0=0.5, y0=0.1, x1=0.2, y1=0.4))]),
        "parts[0].region.box",
    ),
    "box NaN": (
        query.SearchRequest(parts=[box_part(types_pb2.BoundingBox(x0=math.nan, y0=0.1, x1=0.2, y1=0.4))]),
        "parts[0].region.box",
    ),
    "nothing but mode TAGS": (query.SearchRequest(mode=query.SEARCH_MODE_TAGS), "parts"),
    "blank title": (query.SearchRequest(title_text=" \n "), "title_text"),
    "title of 10,000 characters": (query.SearchRequest(title_text="a" * 10_000), "title_text"),
    "title by segments": (
        query.SearchRequest(title_text="a", parts=[query.Part(text="red")], mode=query.SEARCH_MODE_SEGMENT),
        "title_text",
    ),
    "modifier of a text": (query.SearchRequest(parts=[query.Part(text="red", modifier="blue")]), "parts[0].modifier"),
    "blank modifier": (
        query.SearchRequest(parts=[query.Part(image=good(), modifier=" \t")]),
        "parts[0].modifier",
    ),
    "target_recall of 2": (query.SearchRequest(parts=[query.Part(text="red")], target_recall=2), "target_recall"),
    "target_recall NaN": (
        query.SearchRequest(parts=[query.Part(text="red")], target_recall=math.nan),
        "target_recall",
    ),
    "negative tag weight": (
        query.SearchRequest(parts=[query.Part(text="red")], weights=query.Weights(tag=-1)),
        "weights.tag",
    ),
    "variety among tags": (
        query.SearchRequest(parts=[query.Part(text="red")], mode=query.SEARCH_MODE_TAGS, diversity=0.5),
        "diversity",
    ),
    "confidence of 2": (
        query.SearchRequest(parts=[query.Part(text="red")], filter=filters.tags("red", min_confidence=2)),
        "filter.tags.min_confidence",
    ),
    "place of a segment in whole images": (
        query.SearchRequest(
            parts=[query.Part(text="red")],
            filter=filters.segment_within(0, 0, 0.5, 0.5),
            mode=query.SEARCH_MODE_WHOLE,
        ),
        "filter.segment_within",
    ),
    "place of a segment outside": (
        query.SearchRequest(
            parts=[query.Part(text="red")],
            filter=filters.segment_within(0, 0, 0.5, 1.5),
            mode=query.SEARCH_MODE_SEGMENT,
        ),
        "filter.segment_within",
    ),
    "point outside": (query.SearchRequest(parts=[point_part(0.5, -0.1)]), "parts[0].region.points[0]"),
    "region of nothing": (
        query.SearchRequest(parts=[query.Part(region=query.Region(image=good()))]),
        "parts[0].region",
    ),
    "region without picture": (
        query.SearchRequest(parts=[query.Part(region=query.Region(box=types_pb2.BoundingBox(x1=1, y1=1)))]),
        "parts[0].region",
    ),
    "vector of another length": (
        query.SearchRequest(parts=[make_part(vector=[1.0, 0.0])]),
        "parts[0].vector",
    ),
    "a page token of one's own": (
        query.SearchRequest(parts=[query.Part(text="red")], page_token="../../etc"),
        "page_token",
    ),
    "filter without a kind": (
        query.SearchRequest(
            parts=[query.Part(text="red")], filter=filters.all_of(types_pb2.Filter(), filters.tags("a"))
        ),
        "filter.all.filters[0]",
    ),
    "filter by no tags": (query.SearchRequest(parts=[query.Part(text="red")], filter=filters.tags()), "filter.tags"),
    "range of NaN": (
        query.SearchRequest(parts=[query.Part(text="red")], filter=filters.width(min_px=math.nan)),
        "filter.width",
    ),
    "metadata without a path": (
        query.SearchRequest(parts=[query.Part(text="red")], filter=filters.metadata([], equals=1)),
        "filter.metadata.path",
    ),
    "collection's name": (query.SearchRequest(collection="Shapes; drop", parts=[query.Part(text="a")]), "collection"),
}


def search_call(request: query.SearchRequest) -> calls.Call[query.SearchResponse]:
    full = query.SearchRequest()
    full.CopyFrom(request)
    full.collection = request.collection or COLLECTION
    return calls.Call("query", "Search", full, lambda answer: answer)


@pytest.mark.parametrize("wrong", SEARCHES)
def test_grpc_names_the_field(client: Client, wrong: str) -> None:
    request, field = SEARCHES[wrong]
    refusal = refused(client, search_call(request))
    assert refusal.code == INVALID
    assert refusal.field.startswith(field), refusal


# The same in JSON, and what only JSON can get wrong.
BODIES: Final[dict[str, tuple[Any, str]]] = {
    "empty text": ({"parts": [{"text": ""}]}, "parts[0].text"),
    "10,000 characters": ({"parts": [{"text": "a" * 10_000}]}, "parts[0].text"),
    "top_k of a million": ({"parts": [{"text": "red"}], "top_k": 10**6}, "top_k"),
    "top_k below zero": ({"parts": [{"text": "red"}], "top_k": -1}, "top_k"),
    "top_k of words": ({"parts": [{"text": "red"}], "top_k": "many"}, "top_k"),
    "min_score of 400 digits": ({"parts": [{"text": "red"}], "min_score": 10**400}, "min_score"),
    "NaN weight": ({"parts": [{"text": "red", "weight": "NaN"}]}, "parts[0].weight"),
    "infinite weight": ({"parts": [{"text": "red", "weight": "-Infinity"}]}, "parts[0].weight"),
    "title of words": ({"title_text": ["a"]}, "title_text"),
    "modifier of a text": ({"parts": [{"text": "red", "modifier": "blue"}]}, "parts[0].modifier"),
    "target_recall of 2": ({"parts": [{"text": "red"}], "target_recall": 2}, "target_recall"),
    "unknown field": ({"parts": [{"text": "red", "wieght": 1}]}, "parts[0].wieght"),
    "unknown field at the top": ({"parts": [{"text": "red"}], "top": 3}, "top"),
    "two contents": ({"parts": [{"text": "red", "image_id": "red"}]}, "parts[0]"),
    "unknown mode": ({"parts": [{"text": "red"}], "mode": "SIDEWAYS"}, "mode"),
    "parts that are no list": ({"parts": {"text": "red"}}, "parts"),
    "box outside": (
        {"parts": [{"region": {"image_id": "red", "box": {"x0": 0, "y0": 0, "x1": 2, "y1": 1}}}]},
        "parts[0].region.box",
    ),
    "image that is no base64": ({"parts": [{"image": "***"}]}, "parts[0].image"),
    "unknown field in a filter": (
        {"parts": [{"text": "red"}], "filter": {"all": {"filters": [{"tag": {}}]}}},
        "filter.all.filters[0].tag",
    ),
}


@pytest.mark.parametrize("wrong", BODIES)
def test_http_names_the_field(http: httpx.Client, wrong: str) -> None:
    body, field = BODIES[wrong]
    refusal = refused_over_http(http.post(SEARCH, json=body))
    assert refusal.code == INVALID
    assert refusal.field.startswith(field), refusal


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"parts": [{"text": "red", "weight": NaN}]}', "NaN"),
        (b'{"parts": [{"text": "red"}], "top_k": %s}' % (b"9" * 5000), "too many digits"),
        (b'{"parts": [{"text": "red"}], "\\ud800": 1}', "there is no field"),
        (b'{"parts": [{"text": "red"}], "mode": "\\ud800"}', "mode needs one of"),
        (b'{"parts": [{"text": "red", "text": "blue"}]}', "given twice"),
    ],
    ids=["NaN", "5,000 digits", "half a character as a name", "half a character as a mode", "a name twice"],
)
def test_json_that_other_readers_may_take_is_refused(http: httpx.Client, body: bytes, says: str) -> None:
    refusal = refused_over_http(http.post(SEARCH, content=body, headers={"content-type": "application/json"}))
    assert refusal.code == INVALID
    assert says in refusal.message


def test_top_k_of_0_is_10(client: Client, http: httpx.Client) -> None:
    answer = client.search(COLLECTION, text="red", top_k=0, consistency="strong")
    assert 3 <= len(answer.results) <= 10
    assert http.post(SEARCH, json={"parts": [{"text": "red"}], "top_k": 0}).status_code == httpx.codes.OK


UNKNOWN_COLLECTION: Final[dict[str, calls.Call[Any]]] = {
    "Search": calls.search("nowhere", text="red"),
    "SegmentImage": calls.segment_image("nowhere", good()),
    "CreateImage": calls.create_image("nowhere", good()),
    "GetImage": calls.get_image("nowhere", "red"),
    "ListImages": calls.list_images("nowhere").page(""),
    "UpdateImage": calls.update_image("nowhere", "red", title="a"),
    "DeleteImage": calls.delete_image("nowhere", "red"),
    "GetCollection": calls.get_collection("nowhere"),
    "DeleteCollection": calls.delete_collection("nowhere"),
}


@pytest.mark.parametrize("name", UNKNOWN_COLLECTION)
def test_an_unknown_collection_is_not_found(client: Client, name: str) -> None:
    refusal = refused(client, UNKNOWN_COLLECTION[name])
    assert refusal.code == grpc.StatusCode.NOT_FOUND
    assert "nowhere" in refusal.message
    assert refusal.field


def test_an_unknown_collection_in_a_stream_fails_its_images_alone(client: Client) -> None:
    results = list(client.stream_images([NewImage(good()), NewImage(good())], collection="nowhere"))
    assert [result.error and result.error.code for result in results] == [grpc.StatusCode.NOT_FOUND] * 2


UNKNOWN_ID: Final[dict[str, calls.Call[Any]]] = {
    "GetImage": calls.get_image(COLLECTION, "ghost"),
    "UpdateImage": calls.update_image(COLLECTION, "ghost", title="a"),
    "DeleteImage": calls.delete_image(COLLECTION, "ghost"),
    "Search": calls.search(COLLECTION, like="ghost"),
    "Search, region": calls.search(COLLECTION, region=make_region(like="ghost", box=(0, 0, 1, 1))),
}


@pytest.mark.parametrize("name", UNKNOWN_ID)
def test_an_unknown_image_is_not_found(client: Client, name: str) -> None:
    refusal = refused(client, UNKNOWN_ID[name])
    assert refusal.code == grpc.StatusCode.NOT_FOUND
    assert "ghost" in refusal.message
    assert refusal.field


@pytest.mark.parametrize("image_id", ["../../../etc/passwd", "a/b", "A", "..", "a\0b", "é" * 10, "a" * 65])
def test_an_impossible_id_is_refused(client: Client, image_id: str) -> None:
    assert refused(client, calls.get_image(COLLECTION, image_id)).field == "id"
    refusal = refused(client, calls.create_image(COLLECTION, NewImage(good(), id=image_id)))
    assert (refusal.code, refusal.field) == (INVALID, "image.id")


def test_http_knows_no_such_things(http: httpx.Client) -> None:
    for path, field in (
        ("/v1/collections/nowhere", "name"),
        ("/v1/collections/nowhere/images/red", "collection"),
        (f"/v1/collections/{COLLECTION}/images/ghost", "id"),
        ("/v1/vocabularies/nowhere", "name"),
    ):
        refusal = refused_over_http(http.get(path))
        assert (refusal.code, refusal.field) == (grpc.StatusCode.NOT_FOUND, field)
    assert refused_over_http(http.get("/v1/nothing")).code == grpc.StatusCode.NOT_FOUND
    assert refused_over_http(http.get(f"{SEARCH}?txt=red")).field == "txt"


def test_an_unknown_tag_finds_nothing(client: Client) -> None:
    assert not client.search(COLLECTION, text="red", filter=filters.tags("ghost")).results


def found(client: Client, wanted: types_pb2.Filter) -> set[str]:
    answer = client.search(COLLECTION, text="red", mode="whole", filter=wanted, consistency="strong", top_k=100)
    return {result.image.id for result in answer.results}


def test_nasty_strings_mean_themselves(client: Client) -> None:
    """They find what carries them and nothing else, in every place where a filter has a string."""
    assert found(client, filters.tags(NASTY_TAG)) == {"nasty"}
    assert found(client, filters.metadata("note", equals=NASTY)) == {"nasty"}
    assert found(client, filters.metadata("note", any_of=[NASTY, "'"])) == {"nasty"}
    assert found(client, filters.metadata([NASTY], equals="x")) == {"nasty"}
    assert found(client, filters.negated(filters.metadata("note", equals=NASTY))) == {"red", "blue"}
    assert found(client, filters.metadata(["note", NASTY], equals="x")) == set()
    assert [image.id for image in client.list_images(COLLECTION, filter=filters.tags(NASTY_TAG))] == ["nasty"]


@pytest.mark.parametrize(
    "text", ['"', "'", "\\", '\\"', "\n", "%", "' or 1 == 1 or '", '" || true || "', "{}", "é\u2028"]
)
def test_pieces_of_syntax_find_nothing(client: Client, text: str) -> None:
    for wanted in (
        filters.tags(text),
        filters.tags(text, all=True),
        filters.metadata("note", equals=text),
        filters.metadata("note", any_of=[text]),
        filters.metadata([text], equals="plain"),
        filters.metadata([text], exists=True),
        filters.metadata(["note", text], equals="plain"),
    ):
        assert found(client, wanted) == set(), wanted


@pytest.mark.parametrize("text", ['"', "'", "\\", "\n", "' or 1 == 1 or '"])
def test_ids_in_a_filter_are_ids(client: Client, text: str) -> None:
    refusal = refused(client, calls.search(COLLECTION, text="red", filter=filters.ids("red", text)))
    assert (refusal.code, refusal.field) == (INVALID, "filter.ids.ids[1]")


def test_texts_in_a_batch_are_named(client: Client) -> None:
    assert refused(client, calls.embed_texts(["red", ""])).field == "texts[1]"
    assert refused(client, calls.embed_texts(["a" * 10_000])).field == "texts[0]"
    assert refused(client, calls.embed_texts([])).field == "texts"


@pytest.mark.parametrize("text", [NASTY, '"', "\\", "' or 1 == 1 or '", "%", "{}", "é\u2028"])
def test_words_of_tags_and_titles_are_no_code(client: Client, text: str) -> None:
    answer = client.search(COLLECTION, text=text, mode="tags", consistency="strong")
    assert {result.image.id for result in answer.results} <= {"nasty"}
    answer = client.search(COLLECTION, title_text=text, consistency="strong")
    assert len(answer.results) <= 3


def test_tags_and_titles_over_http(http: httpx.Client) -> None:
    assert http.get(SEARCH, params={"text": "red", "mode": "tags"}).status_code == httpx.codes.OK
    assert http.get(SEARCH, params={"title_text": "red"}).json()["plan"]["reading"] == 'title "red"'
