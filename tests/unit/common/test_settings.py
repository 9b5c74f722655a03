from pathlib import Path
from typing import Self

import pytest
from pydantic import Field, model_validator

from services.common.settings import (
    Address,
    CommonSettings,
    EmbedderPeer,
    GrpcSettings,
    load_settings,
    settings_config,
)
from services.embedder.settings import EmbedderSettings


class Sample(GrpcSettings):
    model_config = settings_config("sample")

    listen: Address = "127.0.0.1:1"
    workers: int = Field(2, ge=1, description="How many")


def test_a_services_own_variable_goes_before_the_shared_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SACCADE_LOG_LEVEL", "WARNING")
    assert load_settings(Sample, "sample").log_level == "WARNING"
    monkeypatch.setenv("SACCADE_SAMPLE_LOG_LEVEL", "DEBUG")
    assert load_settings(Sample, "sample").log_level == "DEBUG"


def test_settings_can_not_be_changed() -> None:
    settings = load_settings(Sample, "sample")
    with pytest.raises(ValueError, match="frozen"):
        settings.workers = 3


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SACCADE_SAMPLE_WORKERS", "0", "greater than or equal to 1"),
        ("SACCADE_SAMPLE_LISTEN", "50051", "host:port"),
        ("SACCADE_SAMPLE_LISTEN", "localhost:99999", "host:port"),
        ("SACCADE_SAMPLE_WORKER", "3", "did you mean SACCADE_SAMPLE_WORKERS?"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=said.replace("?", r"\?")) as caught:
        load_settings(Sample, "sample")
    assert name in str(caught.value)


def test_what_is_wrong_with_several_settings_stops_the_start_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pair(CommonSettings):
        model_config = settings_config("pair")

        @model_validator(mode="after")
        def _check(self) -> Self:
            raise ValueError("one needs the other")

    with pytest.raises(SystemExit, match="one needs the other"):
        load_settings(Pair, "pair")


def test_where_a_service_is_concerns_its_peers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SACCADE_SAMPLE_ADDRESS", "dns:///sample:1")
    load_settings(Sample, "sample")


def test_what_peers_are_told_of_the_embedder_does_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EmbedderPeer.model_fields:
        monkeypatch.setenv(f"SACCADE_{name.upper()}", "60")
    load_settings(EmbedderSettings, "embedder")


def test_a_secret_comes_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "saccade_log_level").write_text("ERROR")
    monkeypatch.setenv("SACCADE_SECRETS_DIR", str(tmp_path))

    class Filed(CommonSettings):
        model_config = settings_config("filed")

    assert load_settings(Filed, "filed").log_level == "ERROR"


def test_help_lists_every_setting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["services.sample", "--help"])
    with pytest.raises(SystemExit) as caught:
        load_settings(Sample, "sample")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "SACCADE_WORKERS\n      How many (default 2)" in text
    assert all(f"SACCADE_{name.upper()}" in text for name in Sample.model_fields)
