"""Page tokens: where a listing goes on, good for the same question only."""

import base64
import binascii
import hashlib
import json
from typing import Final

from services.common.errors import InvalidArgument

__all__ = ["DEFAULT_PAGE_SIZE", "MAX_PAGE_SIZE", "page_size", "read_token", "write_token"]

DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1_000
# Ours have at most some 1,100, for a tag of 64 characters that JSON spells with 12 each; much longer ones could be
# nested deeper than the reader goes.
_MAX_TOKEN_CHARS: Final = 2_000


def page_size(asked: int) -> int:
    """How many a page has; 0 for 100. InvalidArgument outside 0 to 1,000."""
    if not 0 <= asked <= MAX_PAGE_SIZE:
        raise InvalidArgument(f"is 0 (for {DEFAULT_PAGE_SIZE}) to {MAX_PAGE_SIZE:,}, not {asked}", field="page_size")
    return asked or DEFAULT_PAGE_SIZE


def write_token(question: bytes, after: str) -> str:
    """The token with which `question` goes on behind `after`; empty where that is empty."""
    if not after:
        return ""
    return base64.urlsafe_b64encode(json.dumps([_digest(question), after]).encode()).decode().rstrip("=")


def read_token(question: bytes, token: str) -> str:
    """Where `question` goes on; empty for no token. InvalidArgument for a token that was not made for it."""
    if not token:
        return ""
    if len(token) > _MAX_TOKEN_CHARS:
        raise _wrong()
    try:
        digest, after = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, TypeError, RecursionError, binascii.Error) as exc:
        raise _wrong() from exc
    if digest != _digest(question) or not isinstance(after, str) or not after:
        raise _wrong()
    return after


def _digest(question: bytes) -> str:
    return hashlib.sha256(question).hexdigest()[:16]


def _wrong() -> InvalidArgument:
    return InvalidArgument(
        "is not a token that this listing gave; pass next_page_token on as it came, with the same collection and "
        "filter, or leave it empty",
        field="page_token",
        reason="PAGE_TOKEN",
    )
