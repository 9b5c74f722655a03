"""The keys that an OpenID provider publishes, fetched and kept."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import jwt
import structlog

from services.common.access.exposure import is_loopback
from services.common.errors import FailedPrecondition, SaccadeError, Unauthenticated, Unavailable

__all__ = ["KeySet"]

_log = structlog.get_logger(__name__)

_FETCH_S: Final = 5.0
_RETRY_S: Final = 2.0
_MAX_BYTES: Final = 1024 * 1024
_MAX_KEYS: Final = 100
# Which key types and curves an algorithm is of; a key says nothing of secrets shared with us.
_FITTING: Final = {"RS256": ("RSA", None), "ES256": ("EC", "P-256"), "EdDSA": ("OKP", "Ed25519")}
_MIN_RSA_BITS: Final = 2_048


class KeySet:
    """The published keys, by id. Safe for concurrent use in one event loop; one fetch at a time.

    Keys are fetched when they are `fresh_s` old, and when a token names one that is not there, but no more than once in
    `pause_s`: made-up ids do not become requests to the provider. While it does not answer, keys stay good until they
    are `stale_s` old.
    """

    def __init__(
        self,
        *,
        issuer: str,
        url: str = "",
        fresh_s: float = 600.0,
        stale_s: float = 3_600.0,
        pause_s: float = 30.0,
        fetch_s: float = _FETCH_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Fetch nothing yet.

        Args:
            issuer: The provider; its metadata are below it.
            url: Where the keys are; empty: where the metadata say.
            fresh_s: Age from which on keys are fetched anew.
            stale_s: Age from which on keys are not trusted any more.
            pause_s: Shortest time between two fetches; less after one that failed.
            fetch_s: Longest that a fetch may take.
            clock: Seconds that never go back.

        Raises:
            FailedPrecondition: an address is neither https nor on this machine.
        """
        _check_address(issuer, "SACCADE_OIDC_ISSUER")
        if url:
            _check_address(url, "SACCADE_OIDC_JWKS_URL")
        self._issuer = issuer
        self._url = url
        self._fresh_s = fresh_s
        self._stale_s = stale_s
        self._pause_s = pause_s
        self._fetch_s = fetch_s
        self._clock = clock
        self._client: httpx.AsyncClient | None = None
        self._lock = asyncio.Lock()
        self._keys: dict[str, dict[str, Any]] = {}
        self._fetched = -float("inf")
        self._next = -float("inf")

    async def find(self, key_id: str, algorithm: str) -> jwt.PyJWK:
        """The key of this id for this algorithm.

        Raises:
            Unauthenticated: there is none.
            Unavailable: the provider does not answer, and there are no keys from before that are still trusted.
        """
        if key_id not in self._keys or self._age() >= self._fresh_s:
            await self._refresh(key_id)
        if self._age() >= self._stale_s:
            raise Unavailable("the tokens' issuer does not answer; try again in a moment", retry_after_s=_RETRY_S)
        found = self._keys.get(key_id)
        if found is None:
            raise Unauthenticated("the token is signed with a key that its issuer does not publish")
        return _usable(found, algorithm)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def _age(self) -> float:
        return self._clock() - self._fetched

    async def _refresh(self, key_id: str) -> None:
        async with self._lock:
            # Somebody else may have fetched while we waited.
            wanted = key_id not in self._keys or self._age() >= self._fresh_s
            if not wanted or self._clock() < self._next:
                return
            self._next = self._clock() + min(_RETRY_S, self._pause_s)
            try:
                async with asyncio.timeout(self._fetch_s):
                    self._keys = await self._fetch()
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, SaccadeError) as exc:
                _log.error("the issuer's keys could not be fetched", issuer=self._issuer, why=repr(exc))
            else:
                self._fetched = self._clock()
                self._next = self._fetched + self._pause_s

    async def _fetch(self) -> dict[str, dict[str, Any]]:
        url = self._url
        if not url:
            metadata = await self._json(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            url = str(metadata.get("jwks_uri", ""))
            if metadata.get("issuer") != self._issuer:
                raise ValueError(f"the metadata are those of {metadata.get('issuer')!r}, not of {self._issuer!r}")
            _check_address(url, "jwks_uri")
        listed = (await self._json(url)).get("keys")
        if not isinstance(listed, list):
            raise ValueError(f"{url} holds no keys")
        keys = [key for key in listed[:_MAX_KEYS] if isinstance(key, dict) and isinstance(key.get("kid"), str)]
        return {key["kid"]: key for key in keys}

    async def _json(self, url: str) -> dict[str, Any]:
        # Made here: a client belongs to the event loop that it is first used in. Redirects are not followed.
        self._client = self._client or httpx.AsyncClient(timeout=self._fetch_s, follow_redirects=False)
        body = bytearray()
        async with self._client.stream("GET", url, headers={"accept": "application/json"}) as answer:
            if answer.status_code != httpx.codes.OK:
                raise ValueError(f"{url} answers {answer.status_code}")
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise ValueError(f"{url} has more than {_MAX_BYTES:,} bytes")
        try:
            document = json.loads(bytes(body))
        except RecursionError as exc:
            raise ValueError(f"{url} is nested too deep") from exc
        if not isinstance(document, dict):
            raise ValueError(f"{url} is no object")
        return document


def _usable(key: dict[str, Any], algorithm: str) -> jwt.PyJWK:
    kind, curve = _FITTING[algorithm]
    fits = key.get("kty") == kind and (curve is None or key.get("crv") == curve)
    if not fits or key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
        raise Unauthenticated(f"the token's key is not one for {algorithm}")
    try:
        made = jwt.PyJWK(key, algorithm=algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as exc:
        raise Unauthenticated("the token's key, as its issuer publishes it, can not be read") from exc
    if kind == "RSA" and made.key.key_size < _MIN_RSA_BITS:
        raise Unauthenticated(f"the token's key has less than {_MIN_RSA_BITS:,} bits")
    return made


def _check_address(url: str, name: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and is_loopback(parts.hostname or ""):
        return
    raise FailedPrecondition(f"{name} is an https address, or an http one on this machine, not {url!r}", reason="OIDC")
