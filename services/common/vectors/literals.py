"""Constants and paths in Milvus' expression language, as Milvus 2.3 and milvus-lite both read them.

The two differ in which escapes they know; those used here are common to both.
"""

from collections.abc import Iterable
from typing import Final

from services.common.vectors.metadata import encode_key

__all__ = ["metadata_path", "number", "one_of", "quote"]

_ESCAPES: Final = str.maketrans({'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
# Beyond it a double no longer tells neighbouring integers apart.
_MAX_EXACT_INTEGER: Final = 2**53


def quote(text: str) -> str:
    """A string literal that means exactly `text`."""
    return f'"{text.translate(_ESCAPES)}"'


def number(value: float) -> str:
    """A literal that means exactly this finite number."""
    if value.is_integer() and abs(value) < _MAX_EXACT_INTEGER:
        return str(int(value))
    return repr(value)


def one_of(field: str, values: Iterable[str]) -> str:
    """Whether a string field has one of these values."""
    return f"{field} in [{', '.join(quote(value) for value in values)}]"


def metadata_path(path: Iterable[str]) -> str:
    """A place inside `metadata`."""
    return "metadata" + "".join(f"[{quote(encode_key(key))}]" for key in path)
