"""The file of API keys: what is in it, how keys are made, and how one is checked.

A key is `sk_ID_SECRET`. The file keeps the id, to find the entry by, and a salted SHA-256 of the whole key. A slow
password hash would protect guessable secrets; these have 256 random bits, which nobody guesses however fast the hash
is, and a fast one keeps a flood of wrong keys from costing the service its time.

    {"version": 1, "keys": [{"id": "4f1c0a9be2d7", "name": "uploader", "salt": "...", "hash": "...", "scope": "write",
      "collections": ["holiday", "team_*"], "created_at": "2026-01-02T03:04:05Z", "expires_at": null,
      "calls_per_second": 0, "revoked_at": null}]}
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

try:
    import fcntl
except ImportError:  # Windows has none: there, two who change one file at the same time are not kept apart.
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "SCOPES",
    "KeyEntry",
    "KeyFileError",
    "check_patterns",
    "create_key",
    "key_id",
    "parse_keys",
    "read_keys",
    "revoke_key",
]

SCOPES: Final = ("read", "write", "admin")
_VERSION: Final = 1
_ID: Final = re.compile(r"[0-9a-f]{12}")
_KEY: Final = re.compile(r"sk_([0-9a-f]{12})_[0-9a-f]{64}")
_HEX: Final = re.compile(r"[0-9a-f]{32,128}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_PATTERN: Final = re.compile(r"[a-z0-9_*]{1,48}")
_MAX_KEYS: Final = 10_000


class KeyFileError(ValueError):
    """The file is not one of keys, or what should go into it is wrong; the message says what."""


@dataclass(frozen=True, kw_only=True)
class KeyEntry:
    """One key, without its secret.

    Attributes:
        id: Part of the key itself, by which its entry is found.
        name: Who has it; stands in the audit log.
        salt: 128 random bits, in hexadecimal.
        hash: SHA-256 of the salt's bytes and the key, in hexadecimal.
        scope: read, write or admin.
        collections: Names, or patterns with `*`, of the collections where it is good; never empty.
        created_at: When it was made, RFC 3339.
        expires_at: From when on it is not good any more; None: it does not end.
        calls_per_second: Calls a second that it may make; 0: what the service allows everyone.
        revoked_at: When it was revoked; None: it was not.
    """

    id: str
    name: str
    salt: str
    hash: str
    scope: str
    collections: tuple[str, ...]
    created_at: str
    expires_at: str | None = None
    calls_per_second: float = 0.0
    revoked_at: str | None = None

    def fits(self, key: str) -> bool:
        """Whether this is the entry's key; takes as long for a wrong one as for the right one."""
        return hmac.compare_digest(_hash(self.salt, key), self.hash)

    @property
    def expires(self) -> float | None:
        """The end in seconds since the epoch."""
        return None if self.expires_at is None else _time(self.expires_at, "expires_at")


def key_id(key: str) -> str:
    """The id in a key; empty where this is no key of ours."""
    match = _KEY.fullmatch(key)
    return match[1] if match else ""


def parse_keys(text: str | bytes) -> tuple[KeyEntry, ...]:
    """The entries of a file; KeyFileError where anything in it is not as it must be."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise KeyFileError(f"is no JSON: {exc}") from exc
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise KeyFileError(f'needs "version": {_VERSION} at its top')
    listed = document.get("keys")
    if not isinstance(listed, list) or len(listed) > _MAX_KEYS:
        raise KeyFileError(f'needs "keys", a list of at most {_MAX_KEYS:,}')
    entries = tuple(_entry(each, f"keys[{index}]") for index, each in enumerate(listed))
    ids = [entry.id for entry in entries]
    if len(set(ids)) != len(ids):
        raise KeyFileError("has two keys of one id")
    return entries


def check_patterns(value: Any, where: str = "collections") -> tuple[str, ...]:
    """Collection names and patterns as they are; KeyFileError where one is neither."""
    if not isinstance(value, list) or not all(isinstance(each, str) and _PATTERN.fullmatch(each) for each in value):
        raise KeyFileError(f"{where} are names of a-z, 0-9 and '_', in which '*' fits anything")
    return tuple(value)


def read_keys(path: Path) -> tuple[KeyEntry, ...]:
    """The entries of a file; KeyFileError as `parse_keys`, OSError where it can not be read."""
    try:
        return parse_keys(path.read_bytes())
    except KeyFileError as exc:
        raise KeyFileError(f"{path} {exc}") from exc


def create_key(
    path: Path,
    name: str,
    *,
    scope: str,
    collections: Sequence[str],
    expires_at: datetime | None = None,
    calls_per_second: float = 0.0,
    replace_same_name: bool = False,
) -> tuple[str, KeyEntry]:
    """Make a key and add it to a file, which is made where it is missing.

    Args:
        path: The file.
        name: Who gets it; one good key for each name.
        scope: read, write or admin.
        collections: Names or patterns; at least one.
        expires_at: When it ends; None: never.
        calls_per_second: Calls a second that it may make; 0: what the service allows everyone.
        replace_same_name: Take out a key that has this name, instead of refusing.

    Returns:
        The key, which is kept nowhere, and its entry.

    Raises:
        KeyFileError: the file, or an argument, is wrong.
    """
    id_, salt = secrets.token_hex(6), secrets.token_hex(16)
    key = f"sk_{id_}_{secrets.token_hex(32)}"
    entry = KeyEntry(
        id=id_,
        name=name,
        salt=salt,
        hash=_hash(salt, key),
        scope=scope,
        collections=tuple(collections),
        created_at=_stamp(datetime.now(UTC)),
        expires_at=None if expires_at is None else _stamp(expires_at),
        calls_per_second=calls_per_second,
    )
    _entry(_plain(entry), "the key")
    with _changing(path) as entries:
        same = [each for each in entries if each.name == name and each.revoked_at is None]
        if same and not replace_same_name:
            raise KeyFileError(f"{path} has a key {name!r} already, {same[0].id}; revoke it, or take another name")
        entries[:] = [each for each in entries if each not in same]
        entries.append(entry)
    return key, entry


def revoke_key(path: Path, name_or_id: str) -> KeyEntry:
    """Mark a key as revoked; KeyFileError where no good key has this name or id."""
    with _changing(path) as entries:
        for index, each in enumerate(entries):
            if each.revoked_at is None and name_or_id in {each.id, each.name}:
                entries[index] = revoked = replace(each, revoked_at=_stamp(datetime.now(UTC)))
                return revoked
        raise KeyFileError(f"{path} has no key {name_or_id!r} that could be revoked")


@contextmanager
def _changing(path: Path) -> Iterator[list[KeyEntry]]:
    """The entries, to be changed by one process at a time; written in one step, for its owner's eyes only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("a") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        entries = list(read_keys(path)) if path.exists() else []
        yield entries
        text = json.dumps({"version": _VERSION, "keys": [_plain(each) for each in entries]}, indent=2) + "\n"
        # Where the file is a link, what it leads to is replaced. mkstemp makes it with mode 0600.
        target = path.resolve()
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w") as file:
                if target.exists():
                    # The services may run as somebody else than whoever makes keys.
                    with suppress(OSError, AttributeError):
                        os.chown(handle, target.stat().st_uid, target.stat().st_gid)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise


def _entry(each: Any, where: str) -> KeyEntry:
    if not isinstance(each, dict):
        raise KeyFileError(f"{where} is no object")
    unknown = set(each) - set(KeyEntry.__dataclass_fields__)
    if unknown:
        raise KeyFileError(f"{where} has the unknown field {min(unknown)!r}")
    rate, ends, revoked = each.get("calls_per_second", 0.0), each.get("expires_at"), each.get("revoked_at")
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate <= 1_000_000:
        raise KeyFileError(f"{where}.calls_per_second is 0 to 1,000,000")
    for field, value in (("expires_at", ends), ("revoked_at", revoked)):
        if value is not None:
            _time(value, f"{where}.{field}")
    patterns = check_patterns(each.get("collections"), f"{where}.collections")
    if not patterns:
        raise KeyFileError(f"{where}.collections needs at least one name or pattern")
    return KeyEntry(
        id=_text(each, "id", _ID, where, "12 hexadecimal digits"),
        name=_text(each, "name", _NAME, where, "1 to 64 letters, digits, '.', '_', '-' and '@'"),
        salt=_text(each, "salt", _HEX, where, "hexadecimal digits"),
        hash=_text(each, "hash", _HEX, where, "hexadecimal digits"),
        scope=_text(each, "scope", re.compile("|".join(SCOPES)), where, "read, write or admin"),
        collections=patterns,
        created_at=str(each.get("created_at", "")),
        expires_at=ends,
        calls_per_second=float(rate),
        revoked_at=revoked,
    )


def _text(each: Mapping[str, Any], field: str, form: re.Pattern[str], where: str, wanted: str) -> str:
    value = each.get(field)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise KeyFileError(f"{where}.{field} is {wanted}")
    return value


def _plain(entry: KeyEntry) -> dict[str, Any]:
    return asdict(entry) | {"collections": list(entry.collections)}


def _hash(salt: str, key: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + key.encode()).hexdigest()


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(text: Any, where: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError) as exc:
        raise KeyFileError(f"{where} is a time such as 2027-01-31T00:00:00Z") from exc
    if moment.tzinfo is None:
        raise KeyFileError(f"{where} needs a time zone, such as the Z of 2027-01-31T00:00:00Z")
    return moment.timestamp()
