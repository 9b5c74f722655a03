"""Addresses of local objects that expire: an HMAC over key and time, with a key that the folder's processes share."""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from services.common.errors import InvalidArgument, NotFound

__all__ = ["Signer", "load_signing_key"]

KEY_BYTES: Final = 32
KEY_FILE: Final = ".signing-key"
_EXPIRES: Final = re.compile(r"[0-9]{1,12}", re.ASCII)


class Signer:
    """Makes and checks addresses `{public_url}/objects/{key}?expires={epoch seconds}&signature={hex}`."""

    def __init__(self, secret: bytes, *, public_url: str, expiry_s: int) -> None:
        """Sign with `secret` for `expiry_s` seconds."""
        self._secret = secret
        self._public_url = public_url.rstrip("/")
        self._expiry_s = expiry_s

    def url(self, key: str) -> str:
        """An address for the object."""
        expires = str(int(time.time()) + self._expiry_s)
        return f"{self._public_url}/objects/{quote(key)}?expires={expires}&signature={self._signature(key, expires)}"

    def check(self, key: str, expires: str, signature: str) -> None:
        """Return if the address is ours and has not expired.

        Raises:
            InvalidArgument: the signature does not fit, so that key or time are not as they were signed.
            NotFound: it has expired.
        """
        good = self._signature(key, expires).encode()
        if not _EXPIRES.fullmatch(expires) or not hmac.compare_digest(good, signature.encode("utf-8", "replace")):
            raise InvalidArgument(
                "the signature does not fit the address; ask for the image again", field="signature", reason="SIGNATURE"
            )
        if time.time() >= int(expires):
            raise NotFound("the address has expired; ask for the image again", reason="URL_EXPIRED")

    def _signature(self, key: str, expires: str) -> str:
        text = f"{key}\n{expires}".encode("utf-8", "replace")
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()


def load_signing_key(root: Path) -> bytes:
    """The folder's key; the first process that asks makes it, and whoever asks meanwhile gets the same one."""
    path = root / KEY_FILE
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    root.mkdir(parents=True, exist_ok=True)
    draft = root / f"{KEY_FILE}.{secrets.token_hex(8)}"
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # a link, unlike a rename, never replaces another's key
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    return path.read_bytes()
