"""The listener's certificate, which may be renewed while the gateway runs."""

import asyncio
import ssl
from pathlib import Path
from typing import Final

import structlog

from services.common.errors import FailedPrecondition

__all__ = ["Certificate"]

LOOK_S: Final = 10.0
"""How often the files are looked at, in seconds."""

_log = structlog.get_logger(__name__)


class Certificate:
    """A TLS context from two PEM files, for new connections always with what they hold now."""

    def __init__(self, cert: str, key: str, *, look_s: float = LOOK_S) -> None:
        """Read the files.

        Raises:
            FailedPrecondition: they can not be read, or do not belong together.
        """
        self._files = (cert, key)
        self._look_s = look_s
        self._seen = self._times()
        try:
            self.context = self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        except (OSError, ValueError) as exc:
            raise FailedPrecondition(
                f"https_cert and https_key must be PEM files that belong together: {exc}", reason="TLS_FILES"
            ) from exc
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2

    async def watch(self) -> None:
        """Read the files again whenever they changed, until cancelled. Broken ones leave everything as it was."""
        while True:
            await asyncio.sleep(self._look_s)
            times = self._times()
            if times == self._seen:
                continue
            self._seen = times
            try:
                # First into a context that nobody uses: of a pair that does not fit, one half would be taken.
                self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
                self._load(self.context)
            except (OSError, ValueError) as exc:
                _log.error("the new certificate can not be used; the one from before stays", why=str(exc))
            else:
                _log.info("the certificate was renewed")

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.load_cert_chain(*self._files)
        return context

    def _times(self) -> list[tuple[int, int]]:
        found = []
        for file in self._files:
            try:
                stat = Path(file).stat()
            except OSError:
                found.append((0, 0))
            else:
                found.append((stat.st_mtime_ns, stat.st_ino))
        return found
