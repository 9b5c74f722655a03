"""A service without authentication is for the machine that it runs on."""

import ipaddress

import structlog

from services.common.access.settings import AccessSettings
from services.common.errors import FailedPrecondition

__all__ = ["check_exposure", "is_loopback", "warn_of_plain_text"]

_log = structlog.get_logger(__name__)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener at this host; any name but localhost may be anything."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(listen: str, settings: AccessSettings) -> None:
    """Refuse to let anyone in from anywhere, unless that was said twice.

    Args:
        listen: host:port that the service would listen at.
        settings: What it knows of its callers.

    Raises:
        FailedPrecondition: says what to set.
    """
    if settings.auth != "none" or is_loopback(listen.rpartition(":")[0]):
        return
    if settings.allow_open and settings.allow_open_confirm == listen:
        return
    raise FailedPrecondition(
        f"without authentication (SACCADE_AUTH=none) anyone who reaches {listen} may read and delete every image. Set "
        "SACCADE_AUTH=keys and SACCADE_KEYS_FILE (docs/security.md), or listen on 127.0.0.1. Where every network that "
        f"leads here is trusted: SACCADE_ALLOW_OPEN=true and SACCADE_ALLOW_OPEN_CONFIRM={listen}",
        reason="OPEN_TO_ALL",
    )


def warn_of_plain_text(listen: str, settings: AccessSettings, *, tls: bool) -> None:
    """Log a line where callers' credentials can be read on the network: right only where something else encrypts."""
    if settings.auth != "none" and not tls and not is_loopback(listen.rpartition(":")[0]):
        _log.warning("credentials come in plain text, without TLS", address=listen)
