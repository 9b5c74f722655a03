import json
from typing import Any

import pytest
from google.protobuf import struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.vectors import MAX_METADATA_BYTES
from services.ingest.check import check_metadata, check_tags, new_image


def struct(fields: dict[str, Any]) -> struct_pb2.Struct:
    message = struct_pb2.Struct()
    message.update(fields)
    return message


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"end": 1}
    for _ in range(levels - 1):
        value = {"in": value}
    return value


def test_an_image_is_read_whole() -> None:
    message = pb.NewImage(
        id="a-1", data=b"x", source="a.png", title="A", metadata=struct({"n": 1}), tags=[" cat ", "dog"]
    )
    image = new_image(message)
    assert (image.id, image.data, image.url, image.source, image.title) == ("a-1", b"x", "", "a.png", "A")
    assert (image.metadata, image.tags) == ({"n": 1}, ("cat", "dog"))


def test_an_address_is_its_own_source() -> None:
    assert new_image(pb.NewImage(url="https://example.com/a.png")).source == "https://example.com/a.png"
    assert new_image(pb.NewImage(url="https://example.com/a.png", source="mine")).source == "mine"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.NewImage(), "image"),
        (pb.NewImage(id="a"), "image"),
        (pb.NewImage(url=""), "image.url"),
        (pb.NewImage(data=b"x", id="A"), "image.id"),
        (pb.NewImage(data=b"x", id="a/b"), "image.id"),
        (pb.NewImage(data=b"x", id=".."), "image.id"),
        (pb.NewImage(data=b"x", id="a" * 65), "image.id"),
        (pb.NewImage(data=b"x", source="s" * 4_097), "image.source"),
        (pb.NewImage(data=b"x", title="t" * 2_001), "image.title"),
        (pb.NewImage(data=b"x", tags=["ok", " "]), "image.tags[1]"),
        (pb.NewImage(data=b"x", tags=["t" * 65]), "image.tags[0]"),
        (pb.NewImage(data=b"x", tags=[str(i) for i in range(65)]), "image.tags"),
        (pb.NewImage(data=b"x", metadata=struct({"a": {"b": [1, float("nan")]}})), "image.metadata.a.b[1]"),
        (pb.NewImage(data=b"x", metadata=struct({"a": float("inf")})), "image.metadata.a"),
        (pb.NewImage(data=b"x", metadata=struct({"a": "x" * MAX_METADATA_BYTES})), "image.metadata"),
        (pb.NewImage(data=b"x", metadata=struct(nested(17))), "image.metadata" + ".in" * 16 + ".end"),
    ],
)
def test_what_is_wrong_is_named(message: pb.NewImage, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        new_image(message)
    assert caught.value.field == field


def test_tags_count_once() -> None:
    assert check_tags(["b", "a", "b ", " a"]) == ("b", "a")
    assert len(check_tags([str(i % 64) for i in range(1_000)])) == 64


def test_metadata_may_be_as_deep_and_as_large_as_said() -> None:
    assert check_metadata(struct(nested(16))) == nested(16)
    text = "x" * (MAX_METADATA_BYTES - len('{"a":""}'))
    assert check_metadata(struct({"a": text})) == {"a": text}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"a": "x" * MAX_METADATA_BYTES}, "as JSON"),
        # Small enough as JSON, but each truth value is an object in the index.
        ({str(i): True for i in range(4_500)}, "in the index"),
        # Not looked through: that would take long, and find what is wrong inside.
        ({"a": [float("nan")] * 50_000}, "far more than"),
        ({"k" * MAX_METADATA_BYTES: {"k" * MAX_METADATA_BYTES * 8: float("nan")}}, "far more than"),
    ],
)
def test_metadata_that_is_too_large(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        check_metadata(struct(fields), "image.metadata")
    assert (caught.value.field, caught.value.reason) == ("image.metadata", "METADATA_SIZE")


def test_the_most_that_a_message_takes_for_its_json_is_taken() -> None:
    digits = {"a": [1] * ((MAX_METADATA_BYTES - len('{"a":{"$":[]}}')) // 2)}
    assert struct(digits).ByteSize() > 5 * MAX_METADATA_BYTES
    assert check_metadata(struct(digits)) == digits


def test_the_field_of_a_long_key_is_cut() -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_metadata(struct({"k" * 50_000: [{"in": float("nan")}]}))
    assert caught.value.field == ("metadata." + "k" * 50_000)[:200]


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=4), _JSON, max_size=4))
def test_metadata_stays_what_it_is(fields: dict[str, Any]) -> None:
    found = check_metadata(struct(fields))
    assert found == fields
    assert json.loads(json.dumps(found)) == found


def test_whole_numbers_stay_whole() -> None:
    found = check_metadata(struct({"year": 2026, "share": 0.5, "large": 1e300}))
    assert json.dumps(found, sort_keys=True) == '{"large": 1e+300, "share": 0.5, "year": 2026}'
