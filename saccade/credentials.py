"""What a caller shows to the services: an API key or a token, and certificates."""

import re
from pathlib import Path
from typing import Final

import grpc

__all__ = ["bearer", "tls_credentials"]

_CREDENTIAL: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    """Metadata that show an API key or a token with a call; none for an empty one.

    Raises:
        ValueError: it has characters that no key and no token has.
    """
    if not key:
        return ()
    if not _CREDENTIAL.fullmatch(key):
        raise ValueError("the API key has characters that no key has; was more copied than the key?")
    return (("authorization", f"Bearer {key}"),)


def tls_credentials(
    ca: str | Path = "", *, cert: str | Path = "", cert_key: str | Path = "", tls: bool = False
) -> grpc.ChannelCredentials | None:
    """For a client, from PEM files; None: plain text.

    Args:
        ca: Authorities that the services' certificates are from; empty: those that gRPC comes with.
        cert: Client certificate, where the services ask for one.
        cert_key: Its private key.
        tls: Use TLS even where none of these is given.

    Raises:
        ValueError: a certificate without its key, or a key without its certificate.
        OSError: a file can not be read.
    """
    if bool(cert) != bool(cert_key):
        raise ValueError("a client certificate and its private key need each other (--cert and --cert-key)")
    if not (tls or ca or cert):
        return None
    return grpc.ssl_channel_credentials(
        Path(ca).read_bytes() if ca else None,
        Path(cert_key).read_bytes() if cert_key else None,
        Path(cert).read_bytes() if cert else None,
    )
