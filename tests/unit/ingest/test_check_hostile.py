"""Names, words and fields of somebody who means harm."""

import json
from typing import Any

import pytest
from google.protobuf import struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.objects.store import check_key
from services.common.records import check_collection_name, check_image_id, original_key
from services.ingest.check import MAX_TAGS_GIVEN, check_metadata, check_tags, new_image
from services.ingest.vocabulary import vocabulary_from_message

NAMES = [
    *(
        "",
        ".",
        "..",
        "../a",
        "a/../b",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "%2e%2e",
        "a%00",
        "a\x00",
        "a\n",
        "\na",
        "a ",
        " a",
    ),
    *(
        "A",
        "café",
        "cafe\u0301",
        "a\u200b",
        "\u202ea",
        "\uff41",
        "\u0430",
        "a\u0000.jpg",
        "con\u2024",
        "x" * 65,
        "x" * 1_000_000,
    ),
    *("a;b", "a'b", 'a"b', "a$b", "${x}", "{}", "a*", "a?", "~", "-\n", "\u0661", "ⅷ", "ß", "\u0131"),
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:20]))
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_collection_name(name)
    with pytest.raises(InvalidArgument):
        check_image_id(name)


@settings(deadline=None)
@given(st.text(max_size=12))
def test_a_name_that_is_taken_stays_in_its_place(name: str) -> None:
    try:
        key = original_key("c", check_image_id(name))
    except InvalidArgument:
        return
    assert name.isascii()
    assert check_key(key).split("/") == ["collections", "c", "images", name, "original"]


@pytest.mark.parametrize(
    "tag",
    [
        *(
            "cat\x00",
            "c\u200bat",
            "\ufeffcat",
            "cat\u202e",
            "\u2066cat\u2069",
            "c\u00adat",
            "cat\u2028x",
            "c\rat",
            "\x1b[31m",
        ),
        *("cat\u2060", "\U000e0001cat", "c\x7fat", "c\x85at"),
    ],
    ids=ascii,
)
def test_tags_with_what_nobody_sees(tag: str) -> None:
    with pytest.raises(InvalidArgument, match=r"invisible character U\+") as caught:
        check_tags(["fine", tag], "image.tags")
    assert (caught.value.field, caught.value.reason) == ("image.tags[1]", "INVISIBLE")
    with pytest.raises(InvalidArgument, match="invisible"):
        vocabulary_from_message(pb.Vocabulary(name="v", entries=[pb.Vocabulary.Entry(name=tag)]))


@pytest.mark.parametrize(
    "tag",
    [
        "Käse",
        "猫",
        "קטן",
        "می\u200cخو\u0627\u0647م",
        "👩\u200d👩\u200d👧",
        "e\u0301",
        "a b",
        "rock 'n' roll",
        '"; drop',
    ],
)
def test_tags_of_all_scripts(tag: str) -> None:
    assert check_tags([tag]) == (tag,)


def test_a_flood_of_tags_is_refused_by_their_number() -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield f"tag {taken}"

    with pytest.raises(InvalidArgument, match="more than 4,096 tags"):
        check_tags(endless())
    assert taken == MAX_TAGS_GIVEN + 1


def test_a_flood_of_words_is_refused_by_their_number() -> None:
    entry = pb.Vocabulary.Entry(name="x" * 1_000)
    with pytest.raises(InvalidArgument, match="this one has 100,000"):
        vocabulary_from_message(pb.Vocabulary(name="v", entries=[entry] * 100_000))


@pytest.mark.parametrize("field", ["title", "source", "id"])
def test_a_megabyte_of_text(field: str) -> None:
    message = pb.NewImage(data=b"x")
    setattr(message, field, "ä" * 1_000_000)
    with pytest.raises(InvalidArgument) as caught:
        new_image(message)
    assert caught.value.field == f"image.{field}"
    assert len(caught.value.message) < 200


def test_keys_of_metadata_are_only_keys() -> None:
    fields = {"__proto__": 1, "constructor": 2, "../x": 3, "a\x00b": 4, "\u202ex": 5, '"] or true': 6, "": 7}
    message = struct_pb2.Struct()
    message.update(fields)
    assert check_metadata(message) == fields
    assert json.loads(json.dumps(check_metadata(message))) == fields
