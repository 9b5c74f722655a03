from pathlib import Path
from typing import Any

import pytest

from saccade.keys import KeyFileError, create_key, read_keys
from saccade.labels import Label, LabelledObject
from services.stack import __main__ as program
from services.stack.access import open_access
from services.stack.settings import GivenSettings, StackSettings
from services.stack.stack import Stack


def settings(data: Path, **given: Any) -> StackSettings:
    return GivenSettings.model_validate({"data": data, **given})


def test_without_keys_nobody_is_asked(tmp_path: Path) -> None:
    access = open_access(settings(tmp_path), tmp_path)
    assert access.key == ""
    assert access.environment["SACCADE_AUTH"] == "none"
    assert list(tmp_path.iterdir()) == []


def test_each_run_has_a_key_of_its_own_beside_those_of_people(tmp_path: Path) -> None:
    first = open_access(settings(tmp_path, auth="keys"), tmp_path)
    path = tmp_path / "keys.json"
    create_key(path, "ada", scope="read", collections=["*"])
    second = open_access(settings(tmp_path, auth="keys"), tmp_path)
    assert [entry.name for entry in read_keys(path)] == ["ada", "stack"]
    (entry,) = (entry for entry in read_keys(path) if entry.name == "stack")
    assert entry.fits(second.key)
    assert not entry.fits(first.key)
    assert (entry.scope, entry.collections) == ("admin", ("*",))
    assert second.environment["SACCADE_KEYS_FILE"] == str(path)
    assert len(second.environment["SACCADE_PEER_KEY"]) >= 32
    assert second.environment["SACCADE_PEER_KEY"] != first.environment["SACCADE_PEER_KEY"]
    assert second.key not in repr(second)


def test_the_file_of_keys_can_be_another(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "mine.json"
    access = open_access(settings(tmp_path, auth="keys+oidc", keys_file=path), tmp_path)
    assert access.environment["SACCADE_AUTH"] == "keys+oidc"
    assert access.environment["SACCADE_KEYS_FILE"] == str(path)
    assert read_keys(path)
    path.write_text("[]")
    with pytest.raises(KeyFileError):
        open_access(settings(tmp_path, auth="keys", keys_file=path), tmp_path)


def test_samples_hand_the_key_to_the_command(tmp_path: Path) -> None:
    boxes = {"owl": (0.1, 0.2, 0.4, 0.6), "bus": (0.5, 0.5, 0.9, 0.9)}
    objects = tuple(LabelledObject(name, box=box) for name, box in boxes.items())
    labels = [Label("a.jpg", tmp_path / "a.jpg", id="a", objects=objects)]
    stack = Stack(settings(tmp_path, auth="keys"), {})
    assert "SACCADE_API_KEY" not in program.samples(stack, labels)
    stack._access = open_access(settings(tmp_path, auth="keys"), tmp_path)
    assert f"export SACCADE_API_KEY={stack.key}" in program.samples(stack, labels)
