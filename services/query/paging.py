"""Page tokens of searches.

A token says which images earlier pages showed, so that no later page repeats one, whatever was stored or deleted in
between; and which query it belongs to. It is a checksum and then a short digest for each image shown.
"""

import base64
import binascii
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from services.common.errors import InvalidArgument

__all__ = ["MAX_DEPTH", "image_digest", "read_token", "write_token"]

MAX_DEPTH: Final = 1_000
"""Most results that the pages of one query show together."""

# Two among 1,000 images shown and 1,000 candidates share a digest of 5 bytes once in a million queries.
_DIGEST_BYTES: Final = 5
_CHECK_BYTES: Final = 8


def image_digest(image_id: str) -> bytes:
    """What stands for an image in a token."""
    return blake2b(image_id.encode(), digest_size=_DIGEST_BYTES).digest()


def write_token(query_digest: bytes, shown: Iterable[bytes]) -> str:
    """The token of the page after those that showed `shown`."""
    body = b"".join(sorted(shown))
    return base64.urlsafe_b64encode(_check(query_digest, body) + body).decode()


def read_token(query_digest: bytes, token: str, field: str = "page_token") -> frozenset[bytes]:
    """Digests of the images that earlier pages showed; none for the empty token.

    Raises:
        InvalidArgument: the token was changed, or belongs to another query.
    """
    if not token:
        return frozenset()
    try:
        raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    check, body = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
    if len(body) % _DIGEST_BYTES or check != _check(query_digest, body):
        raise InvalidArgument(
            "is no token of this query; send next_page_token as it came, with the request otherwise unchanged",
            field=field,
            reason="PAGE_TOKEN",
        )
    return frozenset(body[at : at + _DIGEST_BYTES] for at in range(0, len(body), _DIGEST_BYTES))


def _check(query_digest: bytes, body: bytes) -> bytes:
    return blake2b(body, key=query_digest, digest_size=_CHECK_BYTES).digest()
