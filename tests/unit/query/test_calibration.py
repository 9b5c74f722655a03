import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import FailedPrecondition
from services.query.calibration import UNMEASURED, Calibrations, Comparison, Curve, probability

numbers = st.floats(-1e6, 1e6)
DEMO = "8a0af503fa622b8bfeb0d82eb81a1796"


def contents(**changes: Any) -> dict[str, Any]:
    curves = {kind.value: {"slope": 2.0, "middle": 0.5} for kind in Comparison}
    return {"fingerprint": "f1", "model": "m", "measured_on": "10 images", "curves": curves} | changes


def written(folder: Path, record: object, name: str = "f1.json") -> str:
    (folder / name).write_text(record if isinstance(record, str) else json.dumps(record))
    return str(folder)


@given(st.floats(1e-3, 1e6), st.floats(-2, 2), numbers, numbers)
def test_log_odds_rise_within_bounds(slope: float, middle: float, one: float, other: float) -> None:
    low, high = Curve(slope=slope, middle=middle).log_odds(np.array(sorted((one, other))))
    assert -30 <= low <= high <= 30


@given(st.floats(1e-3, 100), st.floats(-1, 1))
def test_in_the_middle_a_match_is_as_likely_as_not(slope: float, middle: float) -> None:
    assert probability(Curve(slope=slope, middle=middle).log_odds(np.array(middle))) == pytest.approx(0.5)


@given(st.floats(allow_nan=False))
def test_a_probability_is_one(log_odds: float) -> None:
    found = float(probability(np.array(log_odds)))
    assert 0 <= found <= 1
    assert found + float(probability(np.array(-log_odds))) == pytest.approx(1)


@pytest.mark.parametrize("slope", [0, -1, float("inf"), float("nan")])
def test_a_curve_rises(slope: float) -> None:
    with pytest.raises(ValueError, match="slope"):
        Curve(slope=slope, middle=0)


def test_every_kind_has_a_common_curve() -> None:
    assert set(UNMEASURED.curves) == set(Comparison)
    assert not UNMEASURED.measured
    assert Calibrations().of("nobody knows") is UNMEASURED


def test_the_shipped_model_is_measured() -> None:
    assert Calibrations().of(DEMO).measured


def test_a_folder_adds_to_what_is_shipped_and_goes_first(tmp_path: Path) -> None:
    written(tmp_path, contents())
    written(tmp_path, contents(fingerprint=DEMO), "mine.json")
    written(tmp_path, "no calibration", "notes.txt")
    known = Calibrations(str(tmp_path))
    assert known.of("f1").measured
    assert known.of("f1").log_odds(Comparison.TAGS, np.array(1.0)) == pytest.approx(1.0)
    assert known.of(DEMO).curves[Comparison.TAGS] == Curve(slope=2.0, middle=0.5)


def without_tags() -> dict[str, Any]:
    record = contents()
    del record["curves"]["tags"]
    return record


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("{", "JSON"),
        (contents(fingerprint=""), "fingerprint"),
        (contents(more=1), "more"),
        (without_tags(), "lacks tags"),
        (contents(curves={"whales": {"slope": 1, "middle": 0}}), "whales"),
        (contents(curves=contents()["curves"] | {"tags": {"slope": 0, "middle": 0}}), "tags.slope"),
    ],
)
def test_a_file_that_is_no_calibration_is_named(tmp_path: Path, record: object, words: str) -> None:
    folder = written(tmp_path, record)
    with pytest.raises(FailedPrecondition, match=r"f1\.json in calibrations_dir") as caught:
        Calibrations(folder)
    assert words in caught.value.message


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="no folder"):
        Calibrations(str(tmp_path / "missing"))
