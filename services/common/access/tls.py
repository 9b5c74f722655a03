"""TLS of a server, by files that are read anew when they change."""

import threading
from pathlib import Path
from typing import Final

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from services.common.access.settings import TlsSettings
from services.common.errors import FailedPrecondition

__all__ = ["server_credentials"]

_log = structlog.get_logger(__name__)

_Signature = tuple[tuple[int, int, int], ...]


def server_credentials(settings: TlsSettings) -> grpc.ServerCredentials | None:
    """What a gRPC server listens with; None: plain text.

    Before each handshake the files are looked at. Changed ones count from then on, for new connections; where they do
    not fit each other (half of a renewal has arrived) or can not be read, the certificate from before stays.

    Raises:
        FailedPrecondition: a file is missing, can not be read, or does not fit the others.
    """
    if not settings.tls_cert and not settings.tls_key:
        if settings.tls_client_ca or settings.peer_names:
            raise FailedPrecondition("SACCADE_TLS_CLIENT_CA needs SACCADE_TLS_CERT and _KEY", reason="TLS_FILES")
        return None
    if not settings.tls_cert or not settings.tls_key:
        raise FailedPrecondition("SACCADE_TLS_CERT and SACCADE_TLS_KEY need each other", reason="TLS_FILES")
    if settings.peer_names and not settings.tls_client_ca:
        raise FailedPrecondition("SACCADE_TLS_PEER_NAMES needs SACCADE_TLS_CLIENT_CA", reason="TLS_FILES")
    files = _Files([Path(settings.tls_cert), Path(settings.tls_key)], settings.tls_client_ca)
    try:
        first = files.load()
    except (OSError, ValueError) as exc:
        raise FailedPrecondition(f"TLS: {exc}", reason="TLS_FILES") from exc
    credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
        first,
        files.changed,  # type: ignore[arg-type]  # None, which the stubs do not know, says that nothing has changed
        require_client_authentication=bool(settings.tls_client_ca),
    )
    return credentials


class _Files:
    """Certificate, key, and the clients' authorities. gRPC asks from threads of its own."""

    def __init__(self, pair: list[Path], client_ca: str) -> None:
        self._paths: Final = [*pair, *([Path(client_ca)] if client_ca else [])]
        self._lock = threading.Lock()
        self._seen: _Signature = ()

    def load(self) -> grpc.ServerCertificateConfiguration:
        """What the files hold; OSError or ValueError where that is not good."""
        self._seen = self._signature()
        chain, key, *roots = (path.read_bytes() for path in self._paths)
        leaf = x509.load_pem_x509_certificates(chain)[0]
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        try:
            own = load_pem_private_key(key, None).public_key()
        except TypeError as exc:
            raise ValueError(f"{self._paths[1]} is encrypted; it needs to be readable without a password") from exc
        if own.public_bytes(*form) != leaf.public_key().public_bytes(*form):
            raise ValueError(f"the key in {self._paths[1]} is not that of the certificate in {self._paths[0]}")
        if roots and not x509.load_pem_x509_certificates(roots[0]):
            raise ValueError(f"{self._paths[2]} holds no certificate")
        configuration: grpc.ServerCertificateConfiguration = grpc.ssl_server_certificate_configuration(
            [(key, chain)], roots[0] if roots else None
        )
        return configuration

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """New contents for a handshake; None: as before."""
        with self._lock:
            try:
                if self._signature() == self._seen:
                    return None
                fresh = self.load()
            except (OSError, ValueError) as exc:
                _log.error("the TLS files are broken; the certificate from before stays", why=str(exc))
                return None
            _log.info("the TLS files have changed")
            return fresh

    def _signature(self) -> _Signature:
        found = [path.stat() for path in self._paths]
        return tuple((each.st_mtime_ns, each.st_ino, each.st_size) for each in found)
