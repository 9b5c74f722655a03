import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from saccade.keys import create_key, revoke_key
from services.common.access.keys import KeyRing
from services.common.access.principal import Scope
from services.common.errors import FailedPrecondition, Unauthenticated


def ring(path: Path) -> KeyRing:
    return KeyRing(str(path), look_every_s=0)


def reason(keys: KeyRing, key: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        keys.principal(key)
    return caught.value.reason


def test_a_key_has_what_its_entry_says(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ends = datetime.now(UTC) + timedelta(days=1)
    key, entry = create_key(path, "up", scope="write", collections=["a", "b*"], expires_at=ends, calls_per_second=5)
    found = ring(path).principal(key)
    assert (found.name, found.kind, found.scope, found.collections) == ("up", "key", Scope.WRITE, ("a", "b*"))
    assert (found.rate, found.expires_at) == (5, entry.expires)


def test_keys_that_are_not_good(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    good, _ = create_key(path, "good", scope="read", collections=["*"])
    over, _ = create_key(path, "over", scope="read", collections=["*"], expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    gone, _ = create_key(path, "gone", scope="read", collections=["*"])
    revoke_key(path, "gone")
    keys = ring(path)
    assert reason(keys, over) == "CREDENTIAL_EXPIRED"
    assert reason(keys, gone) == "CREDENTIAL_REVOKED"
    wrong = good[:-1] + ("0" if good[-1] != "0" else "1")
    # Who has only the id of a key does not learn what became of it.
    for made_up in (wrong, over[:-4] + "0000", gone[:-4] + "ffff", good.upper(), f"{good}0", "sk_", ""):
        assert reason(keys, made_up) == "CREDENTIAL_INVALID"


def test_a_changed_file_counts_at_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first, _ = create_key(path, "first", scope="read", collections=["*"])
    keys = ring(path)
    second, _ = create_key(path, "second", scope="read", collections=["*"])
    assert keys.principal(second).name == "second"
    revoke_key(path, "first")
    assert reason(keys, first) == "CREDENTIAL_REVOKED"


def test_the_links_of_a_mounted_secret_are_followed(tmp_path: Path) -> None:
    keys_of = {}
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        keys_of[version], _ = create_key(tmp_path / version / "keys.json", version, scope="read", collections=["*"])
        # As Kubernetes writes them: of one age.
        os.utime(tmp_path / version / "keys.json", ns=(1, 1))
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "keys.json").symlink_to("..data/keys.json")
    keys = ring(tmp_path / "keys.json")
    assert keys.principal(keys_of["v1"]).name == "v1"
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").rename(tmp_path / "..data")
    assert keys.principal(keys_of["v2"]).name == "v2"
    assert reason(keys, keys_of["v1"]) == "CREDENTIAL_INVALID"


@pytest.mark.parametrize("broken", ["", "{", '{"version": 1, "keys": [{}]}', '{"version": 2, "keys": []}', None])
def test_a_broken_file_leaves_the_keys_as_they_were(tmp_path: Path, broken: str | None) -> None:
    path = tmp_path / "keys.json"
    key, _ = create_key(path, "someone", scope="read", collections=["*"])
    keys = ring(path)
    whole = path.read_text()
    if broken is None:
        path.unlink()
    else:
        path.write_text(broken)
    with capture_logs() as logs:
        for _ in range(3):
            assert keys.principal(key).name == "someone"
    assert [log["log_level"] for log in logs] == ["error"], "once, not with every call"
    path.write_text(whole)
    other, _ = create_key(path, "other", scope="read", collections=["*"])
    assert keys.principal(other).name == "other"


def test_a_service_does_not_start_with_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("[]")
    with pytest.raises(FailedPrecondition, match=r"keys\.json"):
        ring(tmp_path / "keys.json")


def test_the_file_is_not_looked_at_with_every_call(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    create_key(path, "first", scope="read", collections=["*"])
    now = 0.0
    keys = KeyRing(str(path), look_every_s=1, clock=lambda: now)
    second, _ = create_key(path, "second", scope="read", collections=["*"])
    now = 0.9
    assert reason(keys, second) == "CREDENTIAL_INVALID"
    now = 1.1
    assert keys.principal(second).name == "second"
