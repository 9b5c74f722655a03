"""What a service shows to the services that it calls."""

from dataclasses import dataclass, field
from pathlib import Path

import grpc

from services.common.errors import FailedPrecondition

__all__ = ["PLAIN", "PeerCredentials"]


@dataclass(frozen=True, kw_only=True)
class PeerCredentials:
    """How other services of ours are called. Files are read when a channel is opened.

    Attributes:
        key: Shown where a call carries no credential of its own; empty: none.
        ca: PEM file of the authorities that servers are known by; empty: no TLS.
        cert: PEM file of the client certificate to show; empty: none.
        cert_key: PEM file of its private key.
    """

    key: str = field(default="", repr=False)
    ca: str = ""
    cert: str = ""
    cert_key: str = ""

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """For a channel; None: plain text.

        Raises:
            FailedPrecondition: a file can not be read, or one is missing beside the others.
        """
        if not self.ca:
            if self.cert or self.cert_key:
                raise FailedPrecondition("SACCADE_PEER_CERT needs SACCADE_PEER_CA", reason="TLS_FILES")
            return None
        if bool(self.cert) != bool(self.cert_key):
            raise FailedPrecondition("SACCADE_PEER_CERT and SACCADE_PEER_CERT_KEY need each other", reason="TLS_FILES")
        try:
            return grpc.ssl_channel_credentials(
                Path(self.ca).read_bytes(),
                Path(self.cert_key).read_bytes() if self.cert else None,
                Path(self.cert).read_bytes() if self.cert else None,
            )
        except OSError as exc:
            raise FailedPrecondition(f"a certificate can not be read: {exc}", reason="TLS_FILES") from exc


PLAIN = PeerCredentials()
"""Plain text, and no key."""
