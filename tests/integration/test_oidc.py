"""Tokens against a real HTTP server that publishes keys as an OpenID provider does."""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.warnings import InsecureKeyLengthWarning

from saccade.errors import api_error
from services.common.access.authenticator import build_authenticator
from services.common.access.jwks import KeySet
from services.common.access.oidc import OidcVerifier
from services.common.access.principal import Principal, Scope
from services.common.access.settings import AccessSettings
from services.common.errors import FailedPrecondition, Unauthenticated, Unavailable
from services.common.settings import GrpcSettings
from tests.integration.access_support import METHODS, serving
from tests.unit.common.access.test_policy import EXPECTED

AUDIENCE: Final = "saccade"
RSA: Final = rsa.generate_private_key(65537, 2048)
EC: Final = ec.generate_private_key(ec.SECP256R1())
ED: Final = ed25519.Ed25519PrivateKey.generate()
KEYS: Final[dict[str, tuple[Any, str]]] = {"rsa": (RSA, "RS256"), "ec": (EC, "ES256"), "ed": (ED, "EdDSA")}


def public(kid: str, key: Any, algorithm: str, **more: Any) -> dict[str, Any]:
    """A key as its issuer publishes it."""
    made: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return made | {"kid": kid, "use": "sig"} | more


class Provider:
    """An OpenID provider on loopback."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [public(kid, key, alg) for kid, (key, alg) in KEYS.items()]
        self.paths: list[str] = []
        self.status = 200
        self.body: bytes | None = None
        self.claimed_issuer = ""
        self.moves = False
        self.hang = threading.Event()
        self.hang.set()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.paths.append(self.path)
                provider.hang.wait(60)
                moves = provider.moves and self.path.startswith("/.well-known/")
                body = provider.body if provider.body is not None else provider.document(self.path)
                self.send_response(302 if moves else provider.status)
                self.send_header("Content-Length", str(len(body)))
                if moves:
                    self.send_header("Location", f"{provider.issuer}/moved")
                # Who asked may have seen enough.
                with suppress(OSError):
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def document(self, path: str) -> bytes:
        """What it answers."""
        if path in {"/.well-known/openid-configuration", "/moved"}:
            issuer = self.claimed_issuer or self.issuer
            return json.dumps({"issuer": issuer, "jwks_uri": f"{self.issuer}/keys"}).encode()
        return json.dumps({"keys": self.keys}).encode()

    @property
    def fetches(self) -> int:
        """How often its keys were asked for."""
        return self.paths.count("/keys")

    def token(self, kid: str = "rsa", *, key: Any = None, algorithm: str = "", **claims: Any) -> str:
        """A good token, but for what is changed; a claim that is None is left out."""
        own, own_algorithm = KEYS.get(kid, KEYS["rsa"])
        now = int(time.time())
        all_claims = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "ada",
            "iat": now,
            "exp": now + 600,
            "scope": "openid saccade:write",
            "saccade_collections": ["c", "team_*"],
        } | claims
        kept = {name: value for name, value in all_claims.items() if value is not None}
        return jwt.encode(kept, key or own, algorithm or own_algorithm, headers={"kid": kid})

    def close(self) -> None:
        """End."""
        self.hang.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


@pytest.fixture
def provider() -> Iterator[Provider]:
    running = Provider()
    yield running
    running.close()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def verifier(provider: Provider, **options: Any) -> OidcVerifier:
    keys = KeySet(issuer=provider.issuer, **options)
    return OidcVerifier(keys, issuer=provider.issuer, audience=AUDIENCE)


async def known(provider: Provider, token: str, **options: Any) -> Principal:
    checking = verifier(provider, **options)
    try:
        return await checking.principal(token)
    finally:
        await checking.close()


async def test_a_good_token_of_each_algorithm(provider: Provider) -> None:
    checking = verifier(provider)
    for kid in KEYS:
        found = await checking.principal(provider.token(kid))
        assert (found.name, found.kind, found.scope) == ("ada", "token", Scope.WRITE)
        assert found.collections == ("c", "team_*")
        assert found.expires_at is not None
        assert found.expires_at > time.time()
    await checking.close()


async def test_claims_become_scope_and_collections(provider: Provider) -> None:
    usual = ("c", "team_*")
    expected: list[tuple[dict[str, Any], Scope, tuple[str, ...]]] = [
        ({"scope": "saccade:read saccade:admin"}, Scope.ADMIN, usual),
        ({"scope": ["saccade:read"]}, Scope.READ, usual),
        ({"scope": None}, Scope.NONE, usual),
        ({"scope": "saccade:root admin saccade:READ"}, Scope.NONE, usual),
        ({"scope": 5}, Scope.NONE, usual),
        ({"saccade_collections": "a b*"}, Scope.WRITE, ("a", "b*")),
        ({"saccade_collections": None}, Scope.WRITE, ()),
        ({"sub": "a\nb\u2028"}, Scope.WRITE, usual),
        ({"saccade_collections": ["A", "ok", 5, "[a]"]}, Scope.WRITE, ("ok",)),
    ]
    checking = verifier(provider)
    for claims, scope, collections in expected:
        found = await checking.principal(provider.token(**claims))
        assert (found.scope, found.collections) == (scope, collections), claims
        assert found.name.isprintable()
    await checking.close()


async def test_tokens_with_wrong_claims(provider: Provider) -> None:
    wrong: list[dict[str, Any]] = [
        {"exp": 1_000_000},
        {"exp": None},
        {"exp": "never"},
        {"nbf": 9_999_999_999},
        {"iat": 9_999_999_999},
        {"iss": "https://id.example.org"},
        {"iss": None},
        {"aud": "somebody-else"},
        {"aud": ["a", "b"]},
        {"aud": None},
        {"sub": None},
        {"sub": 5},
    ]
    checking = verifier(provider)
    passed = []
    for claims in wrong:
        # By hand: the library would not make some of them.
        body = json.loads(base64.urlsafe_b64decode(provider.token().split(".")[1] + "==")) | claims
        kept = {name: value for name, value in body.items() if value is not None}
        try:
            await checking.principal(signed({}, part(kept)))
        except Unauthenticated:
            continue
        passed.append(claims)
    await checking.close()
    assert passed == []


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def signed(header: dict[str, Any], body: str) -> str:
    """A token with any header, signed with the issuer's RSA key."""
    text = f"{part({'alg': 'RS256', 'kid': 'rsa'} | header)}.{body}"
    signature = RSA.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


async def test_forged_tokens(provider: Provider) -> None:
    good = provider.token()
    head, body, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    confused = f"{part({'alg': 'HS256', 'kid': 'rsa', 'typ': 'JWT'})}.{body}"
    mac = base64.urlsafe_b64encode(hmac.new(pem, confused.encode(), hashlib.sha256).digest()).decode().rstrip("=")
    stranger = rsa.generate_private_key(65537, 2048)
    own_key = public("rsa", stranger, "RS256")
    forged = {
        "no signature": f"{head}.{body}.",
        "none": f"{part({'alg': 'none', 'kid': 'rsa'})}.{body}.",
        "None": f"{part({'alg': 'None', 'kid': 'rsa'})}.{body}.{signature}",
        "public key as a shared secret": f"{confused}.{mac}",
        "changed claims": f"{head}.{part(claims | {'scope': 'saccade:admin'})}.{signature}",
        "signed by a stranger": provider.token(key=stranger),
        "key in the token": jwt.encode(claims, stranger, "RS256", headers={"kid": "rsa", "jwk": own_key}),
        "address in the token": jwt.encode(claims, stranger, "RS256", headers={"kid": "x", "jku": "https://evil/keys"}),
        "algorithm of another key": provider.token("ec", key=RSA, algorithm="RS256"),
        "an algorithm that is not taken": provider.token(algorithm="RS512"),
        "PSS": provider.token(algorithm="PS256"),
        "unknown kid": provider.token("nobody"),
        "no kid": jwt.encode(claims, RSA, "RS256"),
        "crit": signed({"crit": ["x"], "x": 1}, body),
        "no JSON": "a.b.c",
        "deep": f"{base64.urlsafe_b64encode(b'[' * 3000).decode().rstrip('=')}.{body}.{signature}",
        "empty": "..",
    }
    checking = verifier(provider, pause_s=0)
    assert (await checking.principal(good)).name == "ada"
    assert (await checking.principal(signed({}, body))).name == "ada"
    passed = []
    for name, token in forged.items():
        try:
            await checking.principal(token)
        except Unauthenticated:
            continue
        passed.append(name)
    await checking.close()
    assert passed == []


async def test_keys_that_should_not_be_published(provider: Provider) -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - which is the point
    secret = base64.urlsafe_b64encode(b"k" * 32).decode().rstrip("=")
    provider.keys = [
        public("weak", weak, "RS256"),
        public("encrypts", RSA, "RS256", use="enc"),
        public("other", RSA, "RS256", alg="RS512"),
        {"kty": "oct", "kid": "shared", "k": secret},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "RSA", "kid": "empty"},
        {"kid": 5},
        "no key",  # type: ignore[list-item]
    ]
    with pytest.warns(InsecureKeyLengthWarning):
        tokens = {"weak": provider.token("weak", key=weak)}
    tokens |= {kid: provider.token(kid, key=RSA) for kid in ("encrypts", "other", "broken", "empty", "shared")}
    checking = verifier(provider)
    told = {}
    for kid, token in tokens.items():
        with pytest.raises(Unauthenticated) as caught:
            await checking.principal(token)
        told[kid] = caught.value.message
    await checking.close()
    assert "2,048 bits" in told["weak"]
    assert all("is not one for RS256" in told[kid] for kid in ("encrypts", "other", "shared"))
    assert all("can not be read" in told[kid] for kid in ("broken", "empty"))


async def test_keys_are_fetched_once_for_many_and_anew_for_a_new_one(provider: Provider) -> None:
    clock = Clock()
    checking = verifier(provider, pause_s=30, fresh_s=600, clock=clock)
    await asyncio.gather(*(checking.principal(provider.token()) for _ in range(20)))
    assert provider.fetches == 1
    clock.now += 31
    await checking.principal(provider.token())
    assert provider.fetches == 1, "a known key needs no look"

    # The issuer changes its keys.
    provider.keys.append(public("next", RSA, "RS256"))
    await checking.principal(provider.token("next", key=RSA))
    assert provider.fetches == 2
    for number in range(20):
        with pytest.raises(Unauthenticated):
            await checking.principal(provider.token(f"made-up-{number}", key=RSA))
    assert provider.fetches == 2, "made-up ids are not passed on"

    # A key that is withdrawn is not good any more once the others were fetched anew.
    provider.keys = [key for key in provider.keys if key["kid"] != "rsa"]
    clock.now += 601
    with pytest.raises(Unauthenticated):
        await checking.principal(provider.token())
    assert provider.fetches == 3
    await checking.close()


async def test_an_outage_of_the_issuer_is_bridged_for_a_while(provider: Provider) -> None:
    clock = Clock()
    checking = verifier(provider, fresh_s=600, stale_s=3600, clock=clock)
    await checking.principal(provider.token())
    provider.status = 503
    clock.now += 700
    assert (await checking.principal(provider.token())).name == "ada"
    clock.now += 3000
    with pytest.raises(Unavailable) as caught:
        await checking.principal(provider.token())
    assert caught.value.retry_after_s > 0
    provider.status = 200
    clock.now += 5
    assert (await checking.principal(provider.token())).name == "ada"
    await checking.close()


@pytest.mark.parametrize("fault", ["hangs", "redirects", "no JSON", "a list", "deep", "endless", "another issuer"])
async def test_an_issuer_that_misbehaves(provider: Provider, fault: str) -> None:
    if fault == "hangs":
        provider.hang.clear()
    elif fault == "redirects":
        provider.moves = True
    elif fault == "another issuer":
        provider.claimed_issuer = "https://id.example.org"
    else:
        bodies = {"no JSON": b"<html>", "a list": b"[]", "deep": b"[" * 100_000, "endless": b" " * 2_000_000}
        provider.body = bodies[fault]
    with pytest.raises(Unavailable):
        await known(provider, provider.token(), fetch_s=0.5 if fault == "hangs" else 30)


async def test_where_the_keys_are_can_be_said(provider: Provider) -> None:
    assert (await known(provider, provider.token(), url=f"{provider.issuer}/other")).name == "ada"
    assert provider.paths == ["/other"]
    with pytest.raises(FailedPrecondition, match="SACCADE_OIDC_JWKS_URL"):
        KeySet(issuer=provider.issuer, url="http://keys.example.org")


async def test_settings_name_claims_and_collections(provider: Provider) -> None:
    settings = AccessSettings(
        auth="oidc",
        oidc_issuer=provider.issuer,
        oidc_audience=AUDIENCE,
        oidc_scope_claim="roles",
        oidc_collections_claim="where",
        oidc_default_collections="a b*",
    )
    authenticator = build_authenticator(settings)
    assert authenticator is not None
    found = await authenticator.authenticate(f"Bearer {provider.token(roles=['saccade:read'])}")
    assert (found.scope, found.collections) == (Scope.READ, ("a", "b*"))
    found = await authenticator.authenticate(f"Bearer {provider.token(where='x')}")
    assert (found.scope, found.collections) == (Scope.NONE, ("x",))
    await authenticator.close()


async def test_a_server_takes_tokens(provider: Provider) -> None:
    def settings() -> GrpcSettings:
        return GrpcSettings(
            listen="127.0.0.1:0", drain_s=1, auth="oidc", oidc_issuer=provider.issuer, oidc_audience=AUDIENCE
        )

    async with serving(settings) as services:

        async def code(name: str, token: str) -> grpc.StatusCode:
            method = next(each for each in METHODS if each.name == name)
            try:
                await services.call(method, EXPECTED[name][1], (f"Bearer {token}",))
            except grpc.aio.AioRpcError as exc:
                assert api_error(exc).reason
                return exc.code()
            return grpc.StatusCode.OK

        denied, unknown = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
        for name in ("CreateImage", "StreamImages", "Search", "GetModel"):
            assert await code(name, provider.token()) == grpc.StatusCode.OK
            assert await code(name, provider.token(exp=1_000_000)) == unknown
            assert await code(name, provider.token(scope="openid")) == denied
        assert await code("DeleteCollection", provider.token()) == denied
        assert await code("Search", provider.token(saccade_collections="d")) == denied
