"""Who may call a stack on one machine: anyone on it, or whoever has a key."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from saccade.keys import create_key
from services.stack.settings import StackSettings

__all__ = ["StackAccess", "open_access"]

KEY_NAME: Final = "stack"
# The stack is plain text on loopback, whatever the shell says of services elsewhere.
_PLAIN: Final = dict.fromkeys(
    (
        "SACCADE_TLS_CERT",
        "SACCADE_TLS_KEY",
        "SACCADE_TLS_CLIENT_CA",
        "SACCADE_TLS_PEER_NAMES",
        "SACCADE_PEER_CA",
        "SACCADE_PEER_CERT",
        "SACCADE_PEER_CERT_KEY",
    ),
    "",
)


@dataclass(frozen=True)
class StackAccess:
    """What the services are told, and what the stack itself shows them.

    Attributes:
        key: An API key that may do everything; empty where none is needed.
        environment: Settings of the services.
    """

    key: str = field(default="", repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


def open_access(settings: StackSettings, data: Path) -> StackAccess:
    """What `settings.auth` means: with keys, a new key of the stack's own in place of that of its last run.

    The file is `settings.keys_file`, or `keys.json` in the data folder; other keys in it stay.

    Raises:
        KeyFileError: the file is not one of keys.
    """
    if settings.auth == "none":
        return StackAccess(environment=_PLAIN | {"SACCADE_AUTH": "none"})
    path = settings.keys_file or data / "keys.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    key, _ = create_key(path, KEY_NAME, scope="admin", collections=["*"], replace_same_name=True)
    return StackAccess(
        key,
        _PLAIN
        | {
            "SACCADE_AUTH": settings.auth,
            "SACCADE_KEYS_FILE": str(path.resolve()),
            "SACCADE_PEER_KEY": secrets.token_hex(32),
        },
    )
