import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade.cli import main
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from saccade.keys import read_keys
from tests.unit.saccade.fakes import FakeServices

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("SACCADE_KEYS_FILE", str(tmp_path / "keys.json"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["saccade", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code if isinstance(ended.value.code, int) else 0

    return run


def test_a_key_from_its_making_to_its_end(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "create", "up", "--scope", "write", "-c", "a", "-c", "b*", "--days", "30", "--rate", "5") == 0
    key = capsys.readouterr().out.strip()
    (entry,) = read_keys(tmp_path / "keys.json")
    assert entry.fits(key)
    assert (entry.scope, entry.collections, entry.calls_per_second) == ("write", ("a", "b*"), 5.0)
    assert entry.expires is not None

    assert run("keys", "list") == 0
    listed = capsys.readouterr().out
    assert "up" in listed
    assert key not in listed
    assert entry.hash not in listed

    assert run("keys", "revoke", "up", "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "revoked"
    assert run("keys", "revoke", "up") == 2
    assert "no key 'up'" in capsys.readouterr().err


def test_a_key_in_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "create", "up", "--scope", "read", "-c", "*", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["key"].startswith(f"sk_{made['id']}_")
    assert "hash" not in made


def test_what_is_wrong_is_said_and_nothing_is_made(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("keys", "create", "up", "--scope", "root", "-c", "*") == 2
    assert "scope" in capsys.readouterr().err
    assert not (tmp_path / "keys.json").exists()


def test_commands_show_the_key_of_the_variable_or_of_a_file(
    run: Run, services: FakeServices, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    services.will("GetCollection", ingest.GetCollectionResponse())
    monkeypatch.setenv("SACCADE_INGEST_ADDRESS", services.address)
    monkeypatch.setenv("SACCADE_API_KEY", "sk_variable")
    assert run("get", "-c", "a") == 0
    (tmp_path / "key").write_text("sk_file\n")
    assert run("--key", f"@{tmp_path / 'key'}", "get", "-c", "a") == 0
    assert services.shown == ["Bearer sk_variable", "Bearer sk_file"]
