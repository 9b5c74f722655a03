import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from saccade.common.v1 import types_pb2
from saccade.query.v1 import query_service_pb2 as pb
from services.common.domain import Box, Point
from services.common.errors import InvalidArgument
from services.common.images import ImageLimits
from services.common.tensors import to_tensor
from services.common.vectors import Consistency
from services.query.domain import (
    Address,
    Mode,
    OwnVector,
    Place,
    Placement,
    QueryPart,
    Region,
    Relation,
    RelationKind,
    SearchQuery,
    Stored,
    StoredSegment,
    Text,
    Upload,
)
from services.query.paging import image_digest, write_token
from services.query.ranking import Fusion
from services.query.request import read_search

LIMITS = ImageLimits(max_bytes=10_000)
BOX = types_pb2.BoundingBox(x0=0.25, y0=0.25, x1=0.5, y1=0.75)


def png(side: int = 16) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(out, "PNG")
    return out.getvalue()


PNG = png()


def request(*parts: pb.Part, **fields: object) -> pb.SearchRequest:
    return pb.SearchRequest(collection="owls", parts=parts or [pb.Part(text="an owl")], **fields)  # type: ignore[arg-type]


def read(message: pb.SearchRequest) -> SearchQuery:
    return read_search(message, LIMITS)


def region(**fields: object) -> pb.SearchRequest:
    return request(pb.Part(region=pb.Region(**fields)))  # type: ignore[arg-type]


def own(*values: float, shape: tuple[int, ...] | None = None) -> pb.SearchRequest:
    return request(pb.Part(vector=to_tensor(np.array(values, dtype=np.float32).reshape(shape or (-1,)))))


OWLS = types_pb2.Filter(tags=types_pb2.Filter.Tags(names=["owl"]))
LEFT = pb.Placement(place=pb.Placement.PLACE_LEFT)
TWO = (pb.Part(text="x"), pb.Part(text="y"))


def above(first: int, second: int) -> pb.Relation:
    return pb.Relation(first=first, kind=pb.Relation.KIND_ABOVE, second=second)


BAD: dict[str, tuple[pb.SearchRequest, str, str]] = {
    "collection unset": (pb.SearchRequest(parts=[pb.Part(text="x")]), "collection", "a letter"),
    "collection with syntax": (pb.SearchRequest(collection='o"; drop'), "collection", "a letter"),
    "no parts": (pb.SearchRequest(collection="owls"), "parts", "1 to 16"),
    "17 parts": (request(*[pb.Part(text="x")] * 17), "parts", "1 to 16"),
    "part without content": (request(pb.Part(text="x"), pb.Part(weight=1)), "parts[1]", "needs one of"),
    "text empty": (request(pb.Part(text="")), "parts[0].text", "empty"),
    "text of blanks": (request(pb.Part(text=" \n\t")), "parts[0].text", "empty"),
    "text of 2,001": (request(pb.Part(text="x" * 2_001)), "parts[0].text", "2000"),
    "weight NaN": (request(pb.Part(text="x"), pb.Part(text="y", weight=math.nan)), "parts[1].weight", "finite"),
    "weight infinite": (request(pb.Part(text="x", weight=math.inf)), "parts[0].weight", "finite"),
    "all weights 0": (request(pb.Part(text="x", weight=0)), "parts", "other than 0"),
    "no positive weight": (request(pb.Part(text="x", weight=-1), pb.Part(text="y", weight=0)), "parts", "positive"),
    "image empty": (request(pb.Part(image=b"")), "parts[0].image", "empty"),
    "image of text": (request(pb.Part(image=b"hello there")), "parts[0].image", "no JPEG"),
    "image too large": (request(pb.Part(image=PNG + bytes(10_000))), "parts[0].image", "10,000"),
    "image 1x1": (request(pb.Part(image=png(1))), "parts[0].image", "at least 8"),
    "image_id empty": (request(pb.Part(image_id="")), "parts[0].image_id", "1 to 64"),
    "image_id with syntax": (request(pb.Part(text="x"), pb.Part(image_id='" or 1')), "parts[1].image_id", "1 to 64"),
    "image_url empty": (request(pb.Part(image_url="")), "parts[0].image_url", "http"),
    "vector of no type": (request(pb.Part(vector=types_pb2.Tensor())), "parts[0].vector.data_type", "FLOAT32"),
    "vector of two axes": (own(1, 2, shape=(1, 2)), "parts[0].vector.shape", "[dimension]"),
    "vector of zeros": (own(0, 0), "parts[0].vector", "zeros"),
    "vector with NaN": (own(math.nan, 1), "parts[0].vector.data", "finite"),
    "vector empty": (own(), "parts[0].vector.shape", "[dimension]"),
    "region without picture": (region(box=BOX), "parts[0].region", "needs a picture"),
    "region without place": (region(image=PNG), "parts[0].region", "points"),
    "region of background only": (
        region(image=PNG, points=[types_pb2.Point(x=0.5, y=0.5, background=True)]),
        "parts[0].region",
        "not background",
    ),
    "region picture broken": (region(image=b"x", box=BOX), "parts[0].region.image", "no JPEG"),
    "region image_id": (region(image_id="A", box=BOX), "parts[0].region.image_id", "1 to 64"),
    "region image_id and index": (region(image_id="A", segment_index=1), "parts[0].region.image_id", "1 to 64"),
    "region image_url": (region(image_url="", box=BOX), "parts[0].region.image_url", "http"),
    "box outside": (
        region(image=PNG, box=types_pb2.BoundingBox(x0=0.5, y0=0, x1=1.5, y1=1)),
        "parts[0].region.box",
        "x1 <= 1",
    ),
    "box empty": (region(image=PNG, box=types_pb2.BoundingBox()), "parts[0].region.box", "x0 < x1"),
    "box NaN": (region(image=PNG, box=types_pb2.BoundingBox(x0=math.nan, x1=1, y1=1)), "parts[0].region.box", "x0"),
    "point outside": (
        region(image=PNG, points=[types_pb2.Point(x=0.5, y=0.5), types_pb2.Point(x=2, y=0)]),
        "parts[0].region.points[1]",
        "[0, 1]",
    ),
    "65 points": (region(image=PNG, points=[types_pb2.Point(x=0.5, y=0.5)] * 65), "parts[0].region.points", "64"),
    "segment of a picture sent": (region(image=PNG, segment_index=1), "parts[0].region.segment_index", "image_id"),
    "segment and box": (region(image_id="a", segment_index=1, box=BOX), "parts[0].region.segment_index", "without"),
    "mode unknown": (request(mode=9), "mode", "none of"),
    "place in mode TAGS": (
        request(pb.Part(text="x", placement=LEFT), mode=pb.SEARCH_MODE_TAGS),
        "parts[0].placement",
        "segments",
    ),
    "no parts and no filter in mode TAGS": (
        pb.SearchRequest(collection="owls", mode=pb.SEARCH_MODE_TAGS),
        "parts",
        "1 to 16",
    ),
    "no parts, only a filter": (pb.SearchRequest(collection="owls", filter=OWLS), "parts", "1 to 16"),
    "title of blanks": (request(title_text=" \n"), "title_text", "blank"),
    "title of 2,001": (request(title_text="x" * 2_001), "title_text", "2000"),
    "title of segments": (request(title_text="owl", mode=pb.SEARCH_MODE_SEGMENT), "title_text", "WHOLE or HYBRID"),
    "title of tags": (request(title_text="owl", mode=pb.SEARCH_MODE_TAGS), "title_text", "WHOLE or HYBRID"),
    "modifier of a text": (request(pb.Part(text="x", modifier="y")), "parts[0].modifier", "one text"),
    "modifier of blanks": (request(pb.Part(image_id="a", modifier=" ")), "parts[0].modifier", "empty"),
    "modifier of 2,001": (request(pb.Part(image_id="a", modifier="x" * 2_001)), "parts[0].modifier", "2000"),
    "modifier of what is unwanted": (
        request(pb.Part(text="x"), pb.Part(image_id="a", modifier="y", weight=-1)),
        "parts[1].modifier",
        "positive",
    ),
    "target_recall above 1": (request(target_recall=1.1), "target_recall", "[0, 1]"),
    "target_recall negative": (request(target_recall=-0.1), "target_recall", "[0, 1]"),
    "target_recall NaN": (request(target_recall=math.nan), "target_recall", "[0, 1]"),
    "top_k a million": (request(top_k=1_000_000), "top_k", "at most 100"),
    "top_k 101": (request(top_k=101), "top_k", "at most 100"),
    "min_score NaN": (request(min_score=math.nan), "min_score", "[0, 1]"),
    "min_score 1.5": (request(min_score=1.5), "min_score", "[0, 1]"),
    "min_score negative": (request(min_score=-0.1), "min_score", "[0, 1]"),
    "nprobe 65,537": (request(nprobe=65_537), "nprobe", "65536"),
    "consistency unknown": (request(consistency=7), "consistency", "none of"),
    "page_token": (request(page_token="2"), "page_token", "no token"),
    "weights.whole negative": (request(weights=pb.Weights(whole=-1)), "weights.whole", ">= 0"),
    "weights.segment NaN": (request(weights=pb.Weights(segment=math.nan)), "weights.segment", "finite"),
    "weights both 0": (request(weights=pb.Weights(whole=0, segment=0, tag=1)), "weights", "both be 0"),
    "weights.tag negative": (request(weights=pb.Weights(tag=-0.1)), "weights.tag", ">= 0"),
    "weights.tag infinite": (request(weights=pb.Weights(tag=math.inf)), "weights.tag", "finite"),
    "weights.position": (request(weights=pb.Weights(position=1.1)), "weights.position", "[0, 1]"),
    "weights.position NaN": (request(weights=pb.Weights(position=math.nan)), "weights.position", "[0, 1]"),
    "relation without a kind": (request(*TWO, relations=[pb.Relation(second=1)]), "relations[0].kind", "LEFT_OF"),
    "relation to no part": (request(*TWO, relations=[above(0, 2)]), "relations[0].second", "there are 2"),
    "relation to itself": (request(*TWO, relations=[above(1, 1)]), "relations[0].second", "itself"),
    "relation to what is unwanted": (
        request(pb.Part(text="x"), pb.Part(text="y", weight=-1), relations=[above(0, 1)]),
        "relations[0].second",
        "positive",
    ),
    "17 relations": (request(*TWO, relations=[above(0, 1)] * 17), "relations", "16"),
    "relation of whole images": (
        request(*TWO, relations=[above(0, 1)], mode=pb.SEARCH_MODE_WHOLE),
        "relations",
        "segments",
    ),
    "diversity above 1": (request(diversity=1.5), "diversity", "[0, 1]"),
    "diversity negative": (request(diversity=-0.5), "diversity", "[0, 1]"),
    "diversity by tags": (request(diversity=0.5, mode=pb.SEARCH_MODE_TAGS), "diversity", "TAGS"),
    "duplicates by tags": (request(fold_duplicates=True, mode=pb.SEARCH_MODE_TAGS), "fold_duplicates", "TAGS"),
    "diversity NaN": (request(diversity=math.nan), "diversity", "[0, 1]"),
    "placement nowhere": (
        request(pb.Part(text="x"), pb.Part(text="x", placement=pb.Placement())),
        "parts[1].placement",
        "LEFT",
    ),
    "placement in no box": (
        request(pb.Part(text="x", placement=pb.Placement(box=types_pb2.BoundingBox(x0=1)))),
        "parts[0].placement.box",
        "x0",
    ),
    "placement of what is unwanted": (
        request(pb.Part(text="x"), pb.Part(text="y", weight=-1, placement=LEFT)),
        "parts[1].placement",
        "positive",
    ),
    "placement in whole images": (
        request(pb.Part(text="x", placement=LEFT), mode=pb.SEARCH_MODE_WHOLE),
        "parts[0].placement",
        "segments",
    ),
    "65 of them": (request(pb.Part(text="x", count=65)), "parts[0].count", "64"),
    "count without segments": (
        request(pb.Part(text="x", count=2), weights=pb.Weights(segment=0)),
        "parts[0].count",
        "segments",
    ),
    "filter without a kind": (request(filter=types_pb2.Filter(all=types_pb2.Filter.All())), "filter.all.filters", ""),
    "segment area outside segment search": (
        request(
            mode=pb.SEARCH_MODE_WHOLE,
            filter=types_pb2.Filter(segment_area_fraction=types_pb2.Filter.Range(min=0.5)),
        ),
        "filter.segment_area_fraction",
        "segment",
    ),
    "segment area in hybrid": (
        request(filter=types_pb2.Filter(segment_area_fraction=types_pb2.Filter.Range(min=0.5))),
        "filter.segment_area_fraction",
        "segment",
    ),
}


def wishes(message: pb.SearchRequest) -> tuple[list[tuple[str, Placement | None, int]], tuple[Relation, ...]]:
    """Of a query of texts: words, place and count of each part, and the relations."""
    query = read(message)
    texts = [part.content.text for part in query.parts if isinstance(part.content, Text)]
    return [(text, part.placement, part.count) for text, part in zip(texts, query.parts, strict=True)], query.relations


def test_texts_are_read() -> None:
    at_the_left = Placement(Place.LEFT)
    assert wishes(request(pb.Part(text="two owls on the left"))) == ([("an owl", at_the_left, 2)], ())
    parts, relations = wishes(request(pb.Part(text="a bus"), pb.Part(text="an owl above two dogs")))
    assert parts == [("a bus", None, 0), ("an owl", None, 0), ("a dog", None, 2)]
    assert relations == (Relation(1, RelationKind.ABOVE, 2),)
    assert [part.index for part in read(request(pb.Part(text="an owl above a dog"))).parts] == [0, 0]


@pytest.mark.parametrize(
    "message",
    [
        request(pb.Part(text="an owl above a dog"), literal_text=True),
        request(pb.Part(text="an owl above a dog"), mode=pb.SEARCH_MODE_WHOLE),
        request(pb.Part(text="x"), pb.Part(text="an owl above a dog", weight=-1)),
        request(pb.Part(text="an owl above a dog", placement=LEFT)),
        request(pb.Part(text="an owl above a dog", count=2)),
        request(pb.Part(text="an owl above a dog"), pb.Part(text="x"), relations=[above(0, 1)]),
    ],
)
def test_texts_are_taken_as_written(message: pb.SearchRequest) -> None:
    parts, relations = wishes(message)
    assert "an owl above a dog" in [text for text, _, _ in parts]
    assert len(parts) == len(message.parts)
    assert len(relations) == len(message.relations)


@pytest.mark.parametrize(("message", "field", "words"), BAD.values(), ids=BAD.keys())
def test_a_wrong_field_is_named(message: pb.SearchRequest, field: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(message)
    assert caught.value.field == field
    assert words in caught.value.message


def test_defaults() -> None:
    query = read(request())
    assert query.mode is Mode.HYBRID
    standard = Fusion()
    assert (query.whole_weight, query.segment_weight) == (standard.whole, standard.segment)
    assert (query.tag_weight, query.title_text, query.target_recall) == (standard.tag, "", 0.0)
    assert (query.top_k, query.min_score, query.shown) == (10, 0.0, frozenset())
    assert (query.image_where, query.segment_where) == ("", "")
    assert query.params.consistency is Consistency.BOUNDED
    assert (query.params.exact, query.params.nprobe) == (False, 0)
    assert query.parts == (QueryPart(0, Text("parts[0].text", "an owl"), 1.0),)


@pytest.mark.parametrize(
    ("part", "content"),
    [
        (pb.Part(text="an owl"), Text("parts[0].text", "an owl")),
        (pb.Part(text="é" * 2_000), Text("parts[0].text", "é" * 2_000)),
        (pb.Part(image=PNG), Upload("parts[0].image", PNG)),
        (pb.Part(image_id="a.1-b_2"), Stored("parts[0].image_id", "a.1-b_2")),
        (pb.Part(image_url="http://x/y"), Address("parts[0].image_url", "http://x/y")),
        (
            pb.Part(region=pb.Region(image_id="a", segment_index=0)),
            StoredSegment("parts[0].region", "a", 0),
        ),
        (
            pb.Part(region=pb.Region(image=PNG, box=BOX)),
            Region("parts[0].region", Upload("parts[0].region.image", PNG), (), Box(0.25, 0.25, 0.5, 0.75)),
        ),
        (
            pb.Part(
                region=pb.Region(
                    image_url="http://x",
                    points=[types_pb2.Point(x=0.5, y=0.25), types_pb2.Point(x=0, y=0, background=True)],
                )
            ),
            Region(
                "parts[0].region",
                Address("parts[0].region.image_url", "http://x"),
                (Point(0.5, 0.25), Point(0, 0, background=True)),
                None,
            ),
        ),
    ],
    ids=["text", "long", "image", "id", "url", "segment", "box", "points"],
)
def test_each_content(part: pb.Part, content: object) -> None:
    assert read(request(part)).parts[0].content == content


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_vector_comes_out_with_length_one(scale: float) -> None:
    content = read(own(3 * scale, 4 * scale)).parts[0].content
    assert isinstance(content, OwnVector)
    assert content.vector.dtype == np.float32
    assert content.vector.tolist() == pytest.approx([0.6, 0.8])


def test_the_filter_speaks_of_what_the_mode_searches() -> None:
    owls = types_pb2.Filter(tags=types_pb2.Filter.Tags(names=["owl"]))
    whole = read(request(filter=owls, mode=pb.SEARCH_MODE_WHOLE))
    segment = read(request(filter=owls, mode=pb.SEARCH_MODE_SEGMENT))
    hybrid = read(request(filter=owls))
    assert whole.image_where == hybrid.image_where != ""
    assert whole.segment_where == segment.image_where == ""
    assert segment.segment_where != ""
    assert hybrid.segment_where not in {"", segment.segment_where}


def test_stored_pictures_that_a_query_names() -> None:
    parts = [
        pb.Part(image_id="a"),
        pb.Part(region=pb.Region(image_id="b", box=BOX)),
        pb.Part(region=pb.Region(image_id="c", segment_index=1)),
        pb.Part(text="x"),
        pb.Part(image=PNG),
    ]
    assert read(request(*parts)).named_images == {"a", "b", "c"}


TURNS: dict[str, Callable[[pb.SearchRequest], None]] = {
    "top_k": lambda message: setattr(message, "top_k", 50),
    "page_token": lambda message: message.ClearField("page_token"),
}


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS.keys())
def test_page_size_and_token_are_no_part_of_the_query(turn: Callable[[pb.SearchRequest], None]) -> None:
    digest = read(request()).digest
    message = request(page_token=write_token(digest, {image_digest("a")}))
    turn(message)
    assert read(message).digest == digest


def test_a_token_goes_with_its_query_only() -> None:
    token = write_token(read(request()).digest, {image_digest("a")})
    assert read(request(page_token=token)).shown == {image_digest("a")}
    with pytest.raises(InvalidArgument):
        read(request(page_token=token, min_score=0.5))


def test_the_last_page_ends_at_the_greatest_depth() -> None:
    digest = read(request()).digest
    token = write_token(digest, {image_digest(str(number)) for number in range(995)})
    assert read(request(page_token=token, top_k=100)).top_k == 5
