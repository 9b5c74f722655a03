"""How `metadata` stands in the index, so that filters mean the same on every engine.

Milvus and milvus-lite disagree on truth values (one takes 1 for true), on null (there, or missing), on `not` of a
comparison between unlike types, on numbers as keys (which reach into lists) and on which keys can be named at all. So
the index holds numbers, strings and objects only, and everything else inside an object with the key `$`:

    true            {"$": true}
    [1, "x"]        {"$": [1, "x"]}
    {"b": 1}        {"$": "", "b": 1}      but not the outermost object
    null            left out: null is no value
    keys that begin with "$", are empty, or hold brackets, quotes, backslashes or control characters: "$%" and the
    key in percent-encoding

"Neither a number nor a string" is then "has `$`".
"""

import json
from typing import Any, Final
from urllib.parse import quote, unquote

__all__ = ["MARK", "MAX_METADATA_BYTES", "decode", "encode", "encode_key", "indexed_size_bytes"]

# Milvus' own limit for one JSON value.
MAX_METADATA_BYTES: Final = 65_536

MARK: Final = "$"
_ENCODED: Final = "$%"
_OBJECT: Final = ""
_UNSAFE: Final = frozenset('[]"\\')


def encode(metadata: dict[str, Any]) -> dict[str, Any]:
    """An object as it stands in the index."""
    return {encode_key(key): _encode(value) for key, value in metadata.items() if value is not None}


def _encode(value: Any) -> Any:
    if isinstance(value, dict):
        return {MARK: _OBJECT, **encode(value)}
    if isinstance(value, bool | list | tuple):
        return {MARK: value}
    return value


def indexed_size_bytes(metadata: dict[str, Any]) -> int:
    """How much of MAX_METADATA_BYTES an object takes: its own length as compact JSON, and what the marks add."""
    return len(json.dumps(encode(metadata), ensure_ascii=False, separators=(",", ":")).encode())


def decode(indexed: dict[str, Any]) -> dict[str, Any]:
    """The object that was encoded, without what was null in it."""
    return {_decode_key(key): _decode(value) for key, value in indexed.items()}


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    mark = value.get(MARK, _OBJECT)
    if mark != _OBJECT:
        return mark
    return decode({key: item for key, item in value.items() if key != MARK})


def encode_key(key: str) -> str:
    """A key as it stands in the index."""
    if key and not key.startswith(MARK) and not any(c in _UNSAFE or c < " " or c == "\x7f" for c in key):
        return key
    return _ENCODED + quote(key, safe="")


def _decode_key(key: str) -> str:
    return unquote(key.removeprefix(_ENCODED)) if key.startswith(_ENCODED) else key
