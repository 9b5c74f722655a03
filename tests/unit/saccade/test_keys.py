import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from saccade.keys import KeyEntry, KeyFileError, create_key, key_id, parse_keys, read_keys, revoke_key


def make(path: Path, name: str = "someone", **options: Any) -> tuple[str, KeyEntry]:
    return create_key(path, name, **({"scope": "read", "collections": ["*"]} | options))


def test_the_file_holds_no_secret_and_is_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key, entry = make(path)
    assert key_id(key) == entry.id
    assert entry.fits(key)
    assert key.rpartition("_")[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_keys(path) == (entry,)
    assert sorted(each.name for each in tmp_path.iterdir()) == [".keys.json.lock", "keys.json"]


def test_two_keys_have_nothing_in_common(tmp_path: Path) -> None:
    (one, first), (other, second) = make(tmp_path / "k", "one"), make(tmp_path / "k", "other")
    assert one.split("_")[1:] != other.split("_")[1:]
    assert first.salt != second.salt
    assert not first.fits(other)
    assert len(one.rpartition("_")[2]) == 64


def test_a_name_has_one_good_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    make(path)
    with pytest.raises(KeyFileError, match="already"):
        make(path)
    revoked = revoke_key(path, "someone")
    assert revoked.revoked_at
    make(path)
    assert [bool(each.revoked_at) for each in read_keys(path)] == [True, False]
    with pytest.raises(KeyFileError, match="no key"):
        revoke_key(path, revoked.id)
    _, entry = make(path, replace_same_name=True)
    assert [each.id for each in read_keys(path) if each.revoked_at is None] == [entry.id]


def test_a_change_at_the_same_time_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: make(path, f"n{number}"), range(24)))
    assert {each.name for each in read_keys(path)} == {f"n{number}" for number in range(24)}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_the_file_stays_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    make(path)
    os.chown(path, 12_345, 12_345)
    make(path, "other")
    assert (path.stat().st_uid, path.stat().st_gid) == (12_345, 12_345)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_is_kept(tmp_path: Path) -> None:
    make(tmp_path / "real.json")
    (tmp_path / "link.json").symlink_to("real.json")
    make(tmp_path / "link.json", "other")
    assert (tmp_path / "link.json").is_symlink()
    assert len(read_keys(tmp_path / "real.json")) == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"scope": "root"}, "scope"),
        ({"collections": []}, "collections"),
        ({"collections": ["A"]}, "collections"),
        ({"collections": ["a?"]}, "collections"),
        ({"calls_per_second": -1}, "calls_per_second"),
        ({"calls_per_second": float("nan")}, "calls_per_second"),
    ],
)
def test_a_wrong_key_is_not_made(tmp_path: Path, options: dict[str, Any], named: str) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(KeyFileError, match=named):
        make(path, **options)
    assert not path.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"id": "x"},
        {"hash": "zz"},
        {"hash": 5},
        {"scope": None},
        {"collections": "*"},
        {"collections": None},
        {"expires_at": "tomorrow"},
        {"expires_at": "2027-01-01T00:00:00"},
        {"expires_at": 5},
        {"revoked_at": "?"},
        {"calls_per_second": "5"},
        {"calls_per_second": True},
        {"colections": ["*"]},
    ],
)
def test_a_wrong_entry_makes_the_whole_file_wrong(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "keys.json"
    make(path)
    document = json.loads(path.read_text())
    document["keys"][0] |= change
    with pytest.raises(KeyFileError, match=r"keys\[0\]"):
        parse_keys(json.dumps(document))


@pytest.mark.parametrize("text", ["", "null", "[]", '{"keys": []}', '{"version": 1}', "[" * 100_000, b"\xff"])
def test_what_is_no_file_of_keys(text: str | bytes) -> None:
    with pytest.raises(KeyFileError):
        parse_keys(text)


def test_two_entries_of_one_id_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    make(path)
    document = json.loads(path.read_text())
    with pytest.raises(KeyFileError, match="one id"):
        parse_keys(json.dumps(document | {"keys": document["keys"] * 2}))
