import base64
import json
import math
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.common.v1 import types_pb2
from saccade.ingest.v1 import ingest_service_pb2 as ingest_pb
from saccade.query.v1 import query_service_pb2 as query_pb
from services.common.errors import InvalidArgument
from services.common.status import to_item_error
from services.gateway.transcode import fill, parse_json, set_text, to_json


@pytest.mark.parametrize(
    ("message", "value", "field", "says"),
    [
        (query_pb.SearchRequest(), {"foo": 1}, "foo", "there is no field"),
        (query_pb.SearchRequest(), {"parts": [{"text": "a"}, {"bar": 1}]}, "parts[1].bar", "Part has text"),
        (query_pb.SearchRequest(), {"parts": {"text": "a"}}, "parts", "needs a list"),
        (query_pb.SearchRequest(), {"parts": [3]}, "parts[0]", "needs an object"),
        (query_pb.SearchRequest(), {"parts": [None]}, "parts[0]", "needs an object"),
        (query_pb.SearchRequest(), {"weights": 3}, "weights", "needs an object"),
        (query_pb.SearchRequest(), {"top_k": -1}, "top_k", "whole number from 0"),
        (query_pb.SearchRequest(), {"top_k": 1.5}, "top_k", "whole number"),
        (query_pb.SearchRequest(), {"mode": "FAST"}, "mode", "SEARCH_MODE_HYBRID"),
        (query_pb.SearchRequest(), {"exact": "yes"}, "exact", "needs true or false"),
        (query_pb.SearchRequest(), {"parts": [{"weight": "x"}]}, "parts[0].weight", "needs a number"),
        (query_pb.SearchRequest(), {"parts": [{"text": 1}]}, "parts[0].text", "needs a string"),
        (query_pb.SearchRequest(), {"parts": [{"text": "\ud800"}]}, "parts[0].text", "Unicode characters"),
        (query_pb.SearchRequest(), {"parts": [{"image": "!!"}]}, "parts[0].image", "base64"),
        (query_pb.SearchRequest(), {"parts": [{"image": 5}]}, "parts[0].image", "base64"),
        (query_pb.SearchRequest(), {"parts": [{"text": "a", "image": "aa"}]}, "parts[0].image", "only one of text"),
        (query_pb.SearchRequest(), {"filter": {"tags": {"names": [1]}}}, "filter.tags.names[0]", "needs a string"),
        (query_pb.SearchRequest(), {"topK": 3, "top_k": 4}, "top_k", "given twice"),
        (query_pb.SearchRequest(), [], "", "needs an object"),
        (query_pb.SearchRequest(), {"\ud800": 1}, "\\ud800", "there is no field"),
        (query_pb.SearchRequest(), {"mode": "\ud800"}, "mode", "needs one of"),
        (query_pb.SearchRequest(), {"min_score": 10**400}, "min_score", "needs a number"),
        (query_pb.SearchRequest(), {"top_k": 10**400}, "top_k", "whole number"),
        (ingest_pb.NewImage(), {"metadata": {"year": 10**400}}, "metadata", "needs an object"),
        (ingest_pb.NewImage(), {"metadata": {"\ud800": "\ud800"}}, "metadata", "needs an object"),
        (ingest_pb.NewImage(), {"metadata": 3}, "metadata", "needs an object"),
    ],
)
def test_what_does_not_fit_is_named(message: Message, value: Any, field: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        fill(message, value)
    assert caught.value.field == field
    assert says in caught.value.message
    # Also what can not be encoded must be told in what can.
    assert to_item_error(caught.value).message == caught.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ('{"a": 1, "b": 2, "c": {"b": 1}, "b": 3, "a": 4}', "'b' is given twice"),
        ('{"\\ud800": 1, "\\ud800": 2}', r"'\\ud800' is given twice"),
        (f"[{'9' * 5000}]", "too many digits"),
        ("[" * 100 + "]" * 100, "30 levels deep at most"),
        ("[" * 200_000, "30 levels deep at most"),
        (b"\xff\xfe{", "not JSON"),
    ],
)
def test_json_is_read_strictly(text: str | bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        parse_json(text)


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@settings(max_examples=30)
@given(data=st.binary(max_size=64))
def test_bytes_come_in_either_alphabet_padded_or_not(encode: Any, data: bytes) -> None:
    for text in (encode(data).decode(), encode(data).decode().rstrip("=")):
        part = query_pb.Part()
        fill(part, {"image": text})
        assert part.image == data


def test_both_kinds_of_names_are_read_and_snake_case_is_written() -> None:
    request = query_pb.SearchRequest()
    fill(request, {"topK": 3, "page_token": "x", "minScore": "NaN", "weights": None})
    assert (request.top_k, request.page_token, request.HasField("weights")) == (3, "x", False)
    assert math.isnan(request.min_score)
    assert json.loads(to_json(query_pb.SearchResponse(next_page_token="x"))) == {"results": [], "next_page_token": "x"}


# The shortest digits of the largest one lie above it, and protobuf's own reader refuses them.
_FLOATS = st.floats(width=32).filter(lambda number: abs(number) != float(np.finfo(np.float32).max))
_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
_FILTERS = st.recursive(
    st.builds(lambda names: types_pb2.Filter(tags=types_pb2.Filter.Tags(names=names)), st.lists(_TEXT, max_size=3)),
    lambda inner: st.builds(
        lambda filters: types_pb2.Filter(all=types_pb2.Filter.All(filters=filters)), st.lists(inner, max_size=3)
    ),
    max_leaves=4,
)


@settings(max_examples=30)
@given(
    request=st.builds(
        query_pb.SearchRequest,
        collection=_TEXT,
        parts=st.lists(
            st.one_of(
                st.builds(query_pb.Part, text=_TEXT, weight=st.none() | _FLOATS),
                st.builds(query_pb.Part, image=st.binary(max_size=20)),
            ),
            max_size=3,
        ),
        filter=_FILTERS,
        top_k=st.integers(0, 2**32 - 1),
        mode=st.sampled_from(query_pb.SearchMode.values()),
    )
)
def test_every_message_survives_the_way_there_and_back(request: query_pb.SearchRequest) -> None:
    read = query_pb.SearchRequest()
    fill(read, json.loads(to_json(request)))
    assert read.SerializeToString(deterministic=True) == request.SerializeToString(deterministic=True)


@settings(max_examples=30)
@given(
    value=st.recursive(
        st.none() | st.booleans() | _TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    )
)
def test_metadata_of_any_form_is_read_as_protobuf_reads_it(value: Any) -> None:
    ours, theirs = ingest_pb.NewImage(), ingest_pb.NewImage()
    fill(ours, {"metadata": {"value": value}})
    json_format.ParseDict({"metadata": {"value": value}}, theirs)
    assert ours == theirs


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("parts.0.image", b"\xff", {"parts": [{"image": "/w=="}]}),
        ("parts.0.region.image", b"\xff", {"parts": [{"region": {"image": "/w=="}}]}),
        ("parts.0.region.box.x1", "0.5", {"parts": [{"region": {"box": {"x1": 0.5}}}]}),
        ("mode", "segment", {"mode": "SEARCH_MODE_SEGMENT"}),
        ("mode", "SEARCH_MODE_WHOLE", {"mode": "SEARCH_MODE_WHOLE"}),
        ("exact", "1", {"exact": True}),
        ("exact", "", {"exact": True}),
        ("top_k", "7", {"topK": 7}),
        ("filter", '{"tags": {"names": ["a"]}}', {"filter": {"tags": {"names": ["a"]}}}),
    ],
)
def test_text_sets_a_field_by_its_path(path: str, value: str | bytes, expected: dict[str, Any]) -> None:
    request = query_pb.SearchRequest()
    set_text(request, path, value)
    assert json_format.MessageToDict(request) == expected


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("parts.1.text", "a", "is no index"),
        ("parts.x.text", "a", "is no index"),
        ("parts.\u00b2.text", "a", "is no index"),
        (f"parts.{'0' * 5000}.text", "a", "is no index"),
        (f"{'filter.negated.' * 1000}ids", "{}", "30 steps at most"),
        ("nothing", "a", "there is no field"),
        ("parts.0.text.more", "a", "no fields of its own"),
        ("top_k", "many", "whole number"),
        ("exact", "maybe", "true or false"),
        ("filter", "{", "not JSON"),
        ("page_token", b"\xff", "not UTF-8"),
    ],
)
def test_text_that_does_not_fit_is_named(path: str, value: str | bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as caught:
        set_text(query_pb.SearchRequest(), path, value)
    assert path in caught.value.field or path in caught.value.message


def test_text_is_added_to_a_repeated_field() -> None:
    image = ingest_pb.NewImage()
    set_text(image, "tags", "red")
    set_text(image, "tags", "green")
    set_text(image, "metadata", '{"year": 1999}')
    assert list(image.tags) == ["red", "green"]
    assert image.metadata["year"] == 1999


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("top_k", "top_k"),
        ("top_k", "topK"),
        ("parts.0.image_id", "parts.00.imageId"),
        ("parts.0.vector", "parts.0.vector"),
        ("filter", "filter"),
    ],
)
def test_a_field_of_one_value_is_given_once(first: str, second: str) -> None:
    request, given = query_pb.SearchRequest(), set[str]()
    value = "{}" if first in ("filter", "parts.0.vector") else "0"
    set_text(request, first, value, given=given)
    with pytest.raises(InvalidArgument, match="given twice") as caught:
        set_text(request, second, value, given=given)
    assert caught.value.field == second


def test_each_place_of_a_list_is_given_once() -> None:
    image, given = ingest_pb.NewImage(), set[str]()
    set_text(image, "tags.0", "red", given=given)
    set_text(image, "tags.1", "green", given=given)
    with pytest.raises(InvalidArgument, match=r"tags\.1 is given twice"):
        set_text(image, "tags.1", "blue", given=given)
