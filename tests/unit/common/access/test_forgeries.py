"""Whatever a caller shows, and whatever lies in the keys file, it is taken or refused: nothing else comes of it."""

import base64
import json
import math
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saccade.keys import KeyFileError, create_key, parse_keys
from services.common.access.authenticator import Authenticator
from services.common.access.keys import KeyRing
from services.common.access.oidc import OidcVerifier
from services.common.errors import Unauthenticated, Unavailable

QUICK = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_FIELDS = (
    "id",
    "name",
    "salt",
    "hash",
    "scope",
    "collections",
    "created_at",
    "expires_at",
    "calls_per_second",
    "revoked_at",
)


class NoKeys:
    """A provider that publishes nothing."""

    async def find(self, _id: str, _algorithm: str) -> Any:
        raise Unauthenticated("there is no such key")

    async def close(self) -> None:
        pass


@QUICK
@given(st.text(max_size=200) | st.from_regex(r"(?i)bearer [A-Za-z0-9._~+/=-]{1,80}", fullmatch=True))
async def test_no_header_does_more_than_being_refused(tmp_path: Path, authorization: str) -> None:
    path = tmp_path / "keys.json"
    if not path.exists():
        create_key(path, "someone", scope="admin", collections=["*"])
    oidc = OidcVerifier(NoKeys(), issuer="https://id.example.org", audience="a")  # type: ignore[arg-type]
    authenticator = Authenticator(keys=KeyRing(str(path)), oidc=oidc, peer_keys=("p" * 40,))
    try:
        await authenticator.authenticate(authorization)
    except (Unauthenticated, Unavailable) as exc:
        assert exc.message
    else:
        raise AssertionError(f"taken: {authorization!r}")


@QUICK
@given(header=_JSON, body=_JSON, signature=st.binary(max_size=40))
async def test_no_token_does_more_than_being_refused(header: Any, body: Any, signature: bytes) -> None:
    oidc = OidcVerifier(NoKeys(), issuer="https://id.example.org", audience="a")  # type: ignore[arg-type]
    parts = (json.dumps(header).encode(), json.dumps(body).encode(), signature)
    token = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    try:
        await oidc.principal(token)
    except Unauthenticated:
        return
    raise AssertionError(f"taken: {token}")


@QUICK
@given(st.binary(max_size=60) | st.text(max_size=60) | _JSON.map(json.dumps))
def test_no_file_does_more_than_being_refused(text: str | bytes) -> None:
    try:
        parse_keys(text)
    except KeyFileError as exc:
        assert str(exc)
    else:
        raise AssertionError(f"taken: {text!r}")


@QUICK
@given(st.sampled_from(_FIELDS), _JSON)
def test_an_entry_with_anything_in_a_field_is_whole_or_refused(field: str, value: Any) -> None:
    entry = {"id": "0" * 12, "name": "n", "salt": "0" * 32, "hash": "0" * 64, "scope": "read", "collections": ["*"]}
    try:
        (kept,) = parse_keys(json.dumps({"version": 1, "keys": [entry | {field: value}]}))
    except KeyFileError as exc:
        assert "keys[0]" in str(exc)
        return
    assert kept.scope in {"read", "write", "admin"}
    assert kept.collections
    assert kept.expires is None or math.isfinite(kept.expires)
    assert not kept.fits("")
