"""What callers may say about an image: checked, and brought into the service's own form."""

import json
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from google.protobuf import struct_pb2

from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.records import check_image_id
from services.common.vectors import MAX_METADATA_BYTES, indexed_size_bytes

__all__ = [
    "MAX_METADATA_DEPTH",
    "NewImage",
    "check_metadata",
    "check_tags",
    "check_text",
    "check_visible",
    "new_image",
]

MAX_METADATA_DEPTH: Final = 16
MAX_SOURCE_CHARS: Final = 4_096
MAX_TITLE_CHARS: Final = 2_000
MAX_TAGS: Final = 64
MAX_TAG_CHARS: Final = 64
MAX_TAGS_GIVEN: Final = 4_096
# Control characters, marks of direction and of no width, halves of characters, and lines' ends.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Without these some scripts, and some emoji, are not written right.
_JOINERS: Final = "\u200c\u200d"
_MAX_PATH_CHARS: Final = 200
# A message this much larger than the JSON that is allowed can not become so small: the worst, a digit in a list, takes
# 11 bytes in the message and 2 in JSON.
_MAX_MESSAGE_BYTES: Final = 8 * MAX_METADATA_BYTES
# Whole numbers up to here are exact as doubles, which is what the contract's Struct carries.
_MAX_EXACT: Final = 2**53


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image to store, checked; `data` or `url` is set, and an empty id is made from the content."""

    id: str = ""
    data: bytes = b""
    url: str = ""
    source: str = ""
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


def new_image(message: pb.NewImage, path: str = "image") -> NewImage:
    """Read and check a message; InvalidArgument names the field below `path`."""
    content = message.WhichOneof("content")
    if content is None:
        raise InvalidArgument("give the image's bytes in data, or its address in url", field=path)
    if content == "url" and not message.url:
        raise InvalidArgument(
            "is empty; give an http or https address, or the image's bytes in data", field=f"{path}.url"
        )
    return NewImage(
        id=check_image_id(message.id, f"{path}.id") if message.id else "",
        data=message.data,
        url=message.url,
        source=check_text(message.source, MAX_SOURCE_CHARS, f"{path}.source") or message.url[:MAX_SOURCE_CHARS],
        title=check_text(message.title, MAX_TITLE_CHARS, f"{path}.title"),
        metadata=check_metadata(message.metadata, f"{path}.metadata"),
        tags=check_tags(message.tags, f"{path}.tags"),
    )


def check_text(text: str, limit: int, path: str) -> str:
    """The text itself, if it has at most `limit` characters."""
    if len(text) > limit:
        raise InvalidArgument(f"has {len(text):,} characters; at most {limit:,} are taken", field=path)
    return text


def check_tags(tags: Iterable[str], path: str = "tags") -> tuple[str, ...]:
    """A person's words, stripped, each once, in their order."""
    given = list(islice(tags, MAX_TAGS_GIVEN + 1))
    if len(given) > MAX_TAGS_GIVEN:
        raise InvalidArgument(f"has more than {MAX_TAGS_GIVEN:,} tags; at most {MAX_TAGS} are taken", field=path)
    words: Sequence[str] = [tag.strip() for tag in given]
    for i, word in enumerate(words):
        check_visible(word, f"{path}[{i}]")
        if not 1 <= len(word) <= MAX_TAG_CHARS:
            raise InvalidArgument(
                f"a tag has 1 to {MAX_TAG_CHARS} characters, this one has {len(word)}", field=f"{path}[{i}]"
            )
    unique = tuple(dict.fromkeys(words))
    if len(unique) > MAX_TAGS:
        raise InvalidArgument(f"has {len(unique)} tags; at most {MAX_TAGS} are taken", field=path)
    return unique


def check_visible(word: str, path: str) -> str:
    """The word itself, unless it holds what nobody sees: two such words would look like one, or be read backwards."""
    for character in word:
        if unicodedata.category(character) in _UNSEEN and character not in _JOINERS:
            raise InvalidArgument(
                f"holds the invisible character U+{ord(character):04X}; leave it out", field=path, reason="INVISIBLE"
            )
    return word


def check_metadata(metadata: struct_pb2.Struct, path: str = "metadata") -> dict[str, Any]:
    """The caller's fields as JSON values; whole numbers as integers."""
    # First, for what is larger by far would hold up all other calls while it is looked through.
    if metadata.ByteSize() > _MAX_MESSAGE_BYTES:
        raise _too_large(f"has far more than {MAX_METADATA_BYTES:,} bytes as JSON, the most that are taken", path)
    found = {key: _value(value, _below(path, key), 1) for key, value in metadata.fields.items()}
    size = len(json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_METADATA_BYTES:
        raise _too_large(f"has {size:,} bytes as JSON; at most {MAX_METADATA_BYTES:,} are taken", path)
    indexed = indexed_size_bytes(found)
    if indexed > MAX_METADATA_BYTES:
        raise _too_large(
            f"takes {indexed:,} bytes in the index, which marks truth values, lists, objects and unusual keys; at most "
            f"{MAX_METADATA_BYTES:,} fit: leave something out",
            path,
        )
    return found


def _too_large(message: str, path: str) -> InvalidArgument:
    return InvalidArgument(message, field=path, reason="METADATA_SIZE")


def _below(path: str, key: str) -> str:
    """The path of a key, cut to what an error shows, so that long keys are not copied at each level."""
    return f"{path}.{key[:_MAX_PATH_CHARS]}"[:_MAX_PATH_CHARS]


def _value(value: struct_pb2.Value, path: str, depth: int) -> Any:
    if depth > MAX_METADATA_DEPTH:
        raise InvalidArgument(
            f"is nested more than {MAX_METADATA_DEPTH} levels deep", field=path, reason="METADATA_DEPTH"
        )
    match value.WhichOneof("kind"):
        case "number_value":
            return _number(value.number_value, path)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return {key: _value(item, _below(path, key), depth + 1) for key, item in value.struct_value.fields.items()}
        case "list_value":
            items = enumerate(value.list_value.values)
            return [_value(item, f"{path}[{i}]"[:_MAX_PATH_CHARS], depth + 1) for i, item in items]
        case _:
            return None


def _number(number: float, path: str) -> int | float:
    if not math.isfinite(number):
        raise InvalidArgument(f"must be a finite number, not {number}", field=path, reason="METADATA_NUMBER")
    return int(number) if number.is_integer() and abs(number) < _MAX_EXACT else number
