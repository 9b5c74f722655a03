"""Settings of identity and TLS, which every service that listens shares."""

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from services.common.access.credentials import PeerCredentials

__all__ = ["AccessSettings", "PeerSettings", "TlsSettings"]


class _PeerKey(BaseSettings):
    peer_key: SecretStr = Field(
        SecretStr(""),
        description="Secret that our services show each other, at least 32 characters; while it is changed several, "
        "divided by commas, of which the first is shown and all are good",
    )


class AccessSettings(_PeerKey):
    """Who may call."""

    auth: Literal["none", "keys", "oidc", "keys+oidc"] = Field(
        "none",
        description="How callers are known: API keys, tokens of an OpenID provider, or both; none: anyone may all",
    )
    keys_file: str = Field("", description="File of API keys that `saccade keys` writes; read anew when it changes")
    oidc_issuer: str = Field("", description="Issuer of tokens, as its own metadata spell it: https://id.example.org")
    oidc_audience: str = Field("", description="Audience that a token must be for")
    oidc_jwks_url: str = Field("", description="Where the issuer's keys are; empty: where its metadata say")
    oidc_scope_claim: str = Field(
        "scope", description="Claim with saccade:read, saccade:write or saccade:admin; a list, or divided by spaces"
    )
    oidc_collections_claim: str = Field(
        "saccade_collections", description="Claim with the collections, names or patterns; a list, or divided by spaces"
    )
    oidc_default_collections: str = Field(
        "", description="Collections of tokens without that claim, divided by spaces; empty: none"
    )
    calls_per_second: float = Field(
        0.0, ge=0, description="Calls a second that a caller may make whose key says nothing else; 0: any number"
    )
    allow_open: bool = Field(
        False, description="Whether to serve anyone, without authentication, on more than loopback; see the next one"
    )
    allow_open_confirm: str = Field("", description="The listen address once more, to say that anyone is really meant")


class TlsSettings(BaseSettings):
    """How connections to the service are secured."""

    tls_cert: str = Field(
        "", description="PEM file of the certificate and its chain; empty: no TLS. Read anew on change"
    )
    tls_key: str = Field("", description="PEM file of its private key")
    tls_client_ca: str = Field(
        "", description="PEM file of the authorities whose client certificates are needed (mTLS); empty: none needed"
    )
    tls_peer_names: str = Field(
        "",
        description="Names in client certificates, divided by commas, whose owners are services of ours and need no "
        "other credential",
    )

    @property
    def peer_names(self) -> tuple[str, ...]:
        """The same, one by one."""
        return tuple(name for each in self.tls_peer_names.split(",") if (name := each.strip()))


class PeerSettings(_PeerKey):
    """How the service calls other services of ours."""

    peer_ca: str = Field("", description="PEM file of the authorities that they are known by; empty: no TLS")
    peer_cert: str = Field("", description="PEM file of the client certificate to show them; empty: none")
    peer_cert_key: str = Field("", description="PEM file of its private key")

    @property
    def peer_credentials(self) -> PeerCredentials:
        """The same, for those who open channels."""
        key = self.peer_key.get_secret_value().partition(",")[0].strip()
        return PeerCredentials(key=key, ca=self.peer_ca, cert=self.peer_cert, cert_key=self.peer_cert_key)
