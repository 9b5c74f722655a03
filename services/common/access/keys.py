"""The API keys of a mounted file, read anew when it changes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from saccade.keys import KeyEntry, key_id, parse_keys
from services.common.access.principal import Principal, Scope
from services.common.errors import FailedPrecondition, Unauthenticated

__all__ = ["KeyRing"]

_log = structlog.get_logger(__name__)

_LOOK_EVERY_S: Final = 1.0
_MAX_BYTES: Final = 16 * 1024 * 1024


class KeyRing:
    """Knows the keys of a file. Owned by the event loop.

    The file is looked at no more than once in `look_every_s`. It counts as changed when its time, size or inode did:
    the last is how the links of a mounted Kubernetes secret change. A changed file that can not be read leaves the
    keys as they were, and is logged once.
    """

    def __init__(
        self, path: str, *, look_every_s: float = _LOOK_EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the file.

        Raises:
            FailedPrecondition: it is not there, or is no file of keys.
        """
        self._path = Path(path)
        self._look_every_s = look_every_s
        self._clock = clock
        try:
            self._seen = self._signature()
            self._keys = self._read()
        except (OSError, ValueError) as exc:
            raise FailedPrecondition(f"SACCADE_KEYS_FILE={path}: {exc}", reason="KEYS_FILE") from exc
        self._looked = clock()
        self._complaint = ""

    def principal(self, key: str) -> Principal:
        """The key's owner.

        Raises:
            Unauthenticated: there is no such key, it was revoked, or its time is over.
        """
        self._look()
        entry = self._keys.get(key_id(key))
        if entry is None or not entry.fits(key):
            raise Unauthenticated("the API key is not known here; see `saccade keys list`")
        if entry.revoked_at is not None:
            raise Unauthenticated("the API key was revoked", reason="CREDENTIAL_REVOKED")
        if entry.expires is not None and time.time() >= entry.expires:
            raise Unauthenticated(f"the API key ended at {entry.expires_at}", reason="CREDENTIAL_EXPIRED")
        return Principal(
            name=entry.name,
            kind="key",
            scope=Scope[entry.scope.upper()],
            collections=entry.collections,
            expires_at=entry.expires,
            rate=entry.calls_per_second,
        )

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked < self._look_every_s:
            return
        self._looked = now
        try:
            signature = self._signature()
            if signature == self._seen:
                return
            self._seen = signature
            self._keys = self._read()
        except (OSError, ValueError) as exc:
            if str(exc) != self._complaint:
                _log.error("the keys file is broken; the keys from before stay", path=str(self._path), why=str(exc))
            self._complaint = str(exc)
        else:
            self._complaint = ""
            _log.info("the keys file has changed", keys=len(self._keys))

    def _signature(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> dict[str, KeyEntry]:
        with self._path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ValueError(f"has more than {_MAX_BYTES:,} bytes")
        return {entry.id: entry for entry in parse_keys(text)}
