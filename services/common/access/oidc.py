"""Tokens of an OpenID provider: who they are of, and what they allow.

A token is good if it is signed by one of the issuer's published keys, with an algorithm that fits the key and is one of
RS256, ES256 and EdDSA, names the issuer and the audience, and its time has begun and is not over. `none` and the
algorithms of shared secrets are never taken, and nothing in a token says where its key is to be found.
"""

from collections.abc import Mapping
from typing import Any, Final

import jwt

from saccade.keys import KeyFileError, check_patterns
from services.common.access.jwks import KeySet
from services.common.access.principal import Principal, Scope
from services.common.access.settings import AccessSettings
from services.common.errors import FailedPrecondition, Unauthenticated

__all__ = ["ALGORITHMS", "OidcVerifier"]

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
_LEEWAY_S: Final = 30
_MAX_NAME: Final = 200
_SCOPES: Final = {f"saccade:{scope.name.lower()}": scope for scope in (Scope.READ, Scope.WRITE, Scope.ADMIN)}


class OidcVerifier:
    """Checks tokens. Safe for concurrent use in one event loop."""

    def __init__(
        self,
        keys: KeySet,
        *,
        issuer: str,
        audience: str,
        scope_claim: str = "scope",
        collections_claim: str = "saccade_collections",
        default_collections: tuple[str, ...] = (),
    ) -> None:
        """Accept tokens of `issuer` for `audience`, signed by one of its keys; the claims as in AccessSettings."""
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._scope_claim = scope_claim
        self._collections_claim = collections_claim
        self._default_collections = default_collections

    @classmethod
    def of(cls, settings: AccessSettings) -> "OidcVerifier":
        """What the settings describe; FailedPrecondition says which is missing or wrong."""
        for name in ("oidc_issuer", "oidc_audience"):
            if not getattr(settings, name):
                raise FailedPrecondition(f"SACCADE_AUTH={settings.auth} needs SACCADE_{name.upper()}", reason="OIDC")
        try:
            default = check_patterns(settings.oidc_default_collections.split())
        except KeyFileError as exc:
            raise FailedPrecondition(f"SACCADE_OIDC_DEFAULT_COLLECTIONS: {exc}", reason="OIDC") from exc
        return cls(
            KeySet(issuer=settings.oidc_issuer, url=settings.oidc_jwks_url),
            issuer=settings.oidc_issuer,
            audience=settings.oidc_audience,
            scope_claim=settings.oidc_scope_claim,
            collections_claim=settings.oidc_collections_claim,
            default_collections=default,
        )

    async def principal(self, token: str) -> Principal:
        """The token's owner; one without a scope of ours may do nothing.

        Raises:
            Unauthenticated: the token is not good.
            Unavailable: the issuer's keys can not be had.
        """
        header = _header(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise Unauthenticated(f"the token is not signed with one of {', '.join(ALGORITHMS)}")
        if not isinstance(key_id, str) or "crit" in header:
            raise Unauthenticated("the token's header needs a kid, and no crit")
        key = await self._keys.find(key_id, algorithm)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError as exc:
            raise Unauthenticated("the token's time is over; get a new one", reason="CREDENTIAL_EXPIRED") from exc
        except jwt.PyJWTError as exc:
            raise Unauthenticated(f"the token is not good: {exc}") from exc
        return self._principal(claims)

    async def close(self) -> None:
        """Let go of connections."""
        await self._keys.close()

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        granted = [_SCOPES[each] for each in _words(claims.get(self._scope_claim)) if each in _SCOPES]
        collections = self._default_collections
        if self._collections_claim in claims:
            collections = tuple(each for each in _words(claims[self._collections_claim]) if _is_pattern(each))
        return Principal(
            # Others chose it: it must not begin a new line in a log.
            name="".join(each if each.isprintable() else "?" for each in claims["sub"][:_MAX_NAME]),
            kind="token",
            scope=max(granted, default=Scope.NONE),
            collections=collections,
            expires_at=float(claims["exp"]) + _LEEWAY_S,
        )


def _header(token: str) -> Mapping[str, Any]:
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as exc:
        raise Unauthenticated("the token is no signed JWT", reason="CREDENTIAL_MALFORMED") from exc
    return header


def _words(value: Any) -> list[str]:
    """A claim as a list: it may be one, or a string divided by spaces."""
    if isinstance(value, str):
        return value.split()
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _is_pattern(text: str) -> bool:
    try:
        check_patterns([text])
    except KeyFileError:
        return False
    return True
