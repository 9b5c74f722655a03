import json
from pathlib import Path

import pytest

from benchmarks import tune_ranking
from services.embedder.models.registry import load_encoders
from services.embedder.settings import EmbedderSettings
from services.query.calibration import CalibrationRecord, Calibrations, Comparison


def test_a_run_calibrates_every_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "SEGMENTER"):
        monkeypatch.setenv(f"SACCADE_{name}", "toy")
    monkeypatch.setattr(tune_ranking, "GRID", tune_ranking.GRID[:2])
    out = tmp_path / "tuning.json"
    tune_ranking.main(limit=6, queries=3, write=tmp_path / "calibrations", out=out)
    report = json.loads(out.read_text())
    [file] = (tmp_path / "calibrations").iterdir()
    record = CalibrationRecord.model_validate_json(file.read_bytes())
    assert file.name == f"{record.fingerprint}.json"
    assert report["fingerprint"] == record.fingerprint
    assert set(record.curves) == set(Comparison)
    assert 0 <= report["hybrid.pictures"] <= 1
    assert Calibrations(str(tmp_path / "calibrations")).of(record.fingerprint).measured


def test_the_demo_model_comes_with_its_calibration() -> None:
    [encoder] = load_encoders(EmbedderSettings())
    assert Calibrations().of(encoder.fingerprint).measured
