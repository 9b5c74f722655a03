"""From what a caller shows to who it is."""

import hmac
import re
from typing import Final

from services.common.access.keys import KeyRing
from services.common.access.oidc import OidcVerifier
from services.common.access.principal import Principal, Scope
from services.common.access.settings import AccessSettings
from services.common.errors import FailedPrecondition, Unauthenticated

__all__ = ["PEER", "Authenticator", "build_authenticator"]

_MAX_CREDENTIAL: Final = 8_192
_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/=-]+) *", re.IGNORECASE)
_MIN_PEER_KEY: Final = 32

PEER: Final = Principal(name="service", kind="peer", scope=Scope.READ)
"""Another service of ours, which only ever embeds: it may look into no collection."""


class Authenticator:
    """Knows callers by API key, by token or as another service of ours. Safe for concurrent use in one event loop."""

    def __init__(
        self, *, keys: KeyRing | None = None, oidc: OidcVerifier | None = None, peer_keys: tuple[str, ...] = ()
    ) -> None:
        """Accept whatever is given here; the first of `peer_keys` is no better than the others."""
        self._keys = keys
        self._oidc = oidc
        self._peer_keys = tuple(key.encode() for key in peer_keys)

    async def authenticate(self, authorization: str) -> Principal:
        """Who shows this.

        Args:
            authorization: The header's value, `Bearer` and a key or token; empty where there is none.

        Raises:
            Unauthenticated: nobody is known by it.
            Unavailable: it is a token whose issuer does not answer.
        """
        if not authorization:
            raise Unauthenticated(
                "this service needs a credential: an API key or a token, as `authorization: Bearer ...`",
                reason="CREDENTIAL_MISSING",
            )
        match = _BEARER.fullmatch(authorization) if len(authorization) <= _MAX_CREDENTIAL else None
        if match is None:
            raise Unauthenticated(
                f"needs `authorization: Bearer` and one key or token of at most {_MAX_CREDENTIAL:,} characters",
                reason="CREDENTIAL_MALFORMED",
            )
        credential = match[1]
        if any([hmac.compare_digest(credential.encode(), key) for key in self._peer_keys]):
            return PEER
        if credential.startswith("sk_") and self._keys is not None:
            return self._keys.principal(credential)
        if credential.count(".") == 2 and self._oidc is not None:
            return await self._oidc.principal(credential)
        raise Unauthenticated("the credential is of no kind that is accepted here")

    async def close(self) -> None:
        """Let go of connections."""
        if self._oidc is not None:
            await self._oidc.close()


def build_authenticator(settings: AccessSettings) -> Authenticator | None:
    """What the settings describe; None where anyone may call.

    Raises:
        FailedPrecondition: a setting or a file is missing or wrong; says which.
    """
    if settings.auth == "none":
        return None
    peer_keys = tuple(key for each in settings.peer_key.get_secret_value().split(",") if (key := each.strip()))
    if any(len(key) < _MIN_PEER_KEY or not _BEARER.fullmatch(f"Bearer {key}") for key in peer_keys):
        raise FailedPrecondition(
            f"SACCADE_PEER_KEY needs at least {_MIN_PEER_KEY} characters, letters, digits and any of ._~+/=-; make one "
            "with `openssl rand -hex 32`",
            reason="PEER_KEY",
        )
    keys = oidc = None
    if "keys" in settings.auth:
        if not settings.keys_file:
            raise FailedPrecondition(
                "SACCADE_AUTH=keys needs SACCADE_KEYS_FILE, a file that `saccade keys create` makes", reason="KEYS_FILE"
            )
        keys = KeyRing(settings.keys_file)
    if "oidc" in settings.auth:
        oidc = OidcVerifier.of(settings)
    return Authenticator(keys=keys, oidc=oidc, peer_keys=peer_keys)
