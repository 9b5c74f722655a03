from pathlib import Path

import pytest
from pydantic import SecretStr

from saccade.keys import create_key
from services.common.access.authenticator import PEER, Authenticator, build_authenticator
from services.common.access.keys import KeyRing
from services.common.access.settings import AccessSettings
from services.common.errors import FailedPrecondition, Unauthenticated

PEER_KEYS = ("n" * 40, "o" * 40)


@pytest.fixture
def key(tmp_path: Path) -> str:
    return create_key(tmp_path / "keys.json", "someone", scope="read", collections=["birds"])[0]


@pytest.fixture
def authenticator(tmp_path: Path, key: str) -> Authenticator:
    return Authenticator(keys=KeyRing(str(tmp_path / "keys.json")), peer_keys=PEER_KEYS)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_key_is_known(authenticator: Authenticator, key: str, scheme: str) -> None:
    assert (await authenticator.authenticate(f"{scheme} {key}")).name == "someone"


@pytest.mark.parametrize("shown", PEER_KEYS)
async def test_other_services_are_known_by_the_new_secret_and_the_old(authenticator: Authenticator, shown: str) -> None:
    assert await authenticator.authenticate(f"Bearer {shown}") is PEER
    assert PEER.collections == (), "who steals it can look into no collection"


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("", "CREDENTIAL_MISSING"),
        ("Bearer", "CREDENTIAL_MALFORMED"),
        ("Bearer ", "CREDENTIAL_MALFORMED"),
        ("Basic dXNlcjpwYXNz", "CREDENTIAL_MALFORMED"),
        ("sk_without_scheme", "CREDENTIAL_MALFORMED"),
        ("Bearer two words", "CREDENTIAL_MALFORMED"),
        ("Bearer " + "x" * 9000, "CREDENTIAL_MALFORMED"),
        ("Bearer é", "CREDENTIAL_MALFORMED"),
        ("Bearer something", "CREDENTIAL_INVALID"),
        ("Bearer sk_", "CREDENTIAL_INVALID"),
        ("Bearer sk_000000000000_" + "0" * 64, "CREDENTIAL_INVALID"),
        ("Bearer a.b.c", "CREDENTIAL_INVALID"),
        ("Bearer " + "n" * 39, "CREDENTIAL_INVALID"),
    ],
)
async def test_anything_else_is_not(authenticator: Authenticator, authorization: str, reason: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await authenticator.authenticate(authorization)
    assert caught.value.reason == reason
    shown = authorization.partition(" ")[2]
    assert len(shown) < 3 or shown not in caught.value.message


def test_settings_that_can_not_work_say_what_to_set(tmp_path: Path) -> None:
    assert build_authenticator(AccessSettings()) is None
    keys_file = str(tmp_path / "keys.json")
    create_key(Path(keys_file), "someone", scope="read", collections=["*"])
    for settings, named in (
        (AccessSettings(auth="keys"), "SACCADE_KEYS_FILE"),
        (AccessSettings(auth="keys", keys_file=str(tmp_path / "none")), "SACCADE_KEYS_FILE"),
        (AccessSettings(auth="oidc"), "SACCADE_OIDC_ISSUER"),
        (AccessSettings(auth="oidc", oidc_issuer="https://id.example.org"), "SACCADE_OIDC_AUDIENCE"),
        (AccessSettings(auth="oidc", oidc_issuer="http://id.example.org", oidc_audience="a"), "https"),
        (AccessSettings(auth="keys", keys_file=keys_file, peer_key=SecretStr("short")), "SACCADE_PEER_KEY"),
        (AccessSettings(auth="keys", keys_file=keys_file, peer_key=SecretStr("ü" * 40)), "SACCADE_PEER_KEY"),
    ):
        with pytest.raises(FailedPrecondition, match=named):
            build_authenticator(settings)
