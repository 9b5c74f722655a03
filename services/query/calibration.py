"""What a raw comparison is worth: cosines of unlike kinds as the odds that what was compared is a match.

A text's cosine of 0.3 and a picture's of 0.8 can not be added. Each kind of comparison has a logistic curve for each
model, fitted to labelled pairs (Platt, 1999) with matches and others weighing the same: at `middle` a match is as
likely as not. `python -m benchmarks.tune_ranking` fits them and writes a file, named by the model's fingerprint.
Those of the demo's model come with the service.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.common.errors import FailedPrecondition

__all__ = ["UNMEASURED", "Calibration", "CalibrationRecord", "Calibrations", "Comparison", "Curve", "probability"]

Floats = NDArray[np.float64]

# Odds beyond e^30 say nothing more, and their powers would overflow.
_MOST_LOG_ODDS: Final = 30.0


class Comparison(StrEnum):
    """What is compared with what."""

    TEXT_WHOLE = "text_whole"
    """A text with whole images."""
    TEXT_SEGMENT = "text_segment"
    """A text with an image's best segment."""
    IMAGE_WHOLE = "image_whole"
    """A picture, region or vector with whole images."""
    IMAGE_SEGMENT = "image_segment"
    """A region or vector with an image's best segment."""
    PICTURE_SEGMENTS = "picture_segments"
    """A picture's segments with an image's, both ways."""
    PICTURE_THING = "picture_thing"
    """A picture as one thing, as close-ups are, with an image's best segment."""
    TAGS = "tags"
    """Shared tags, by confidence and rarity."""


class Curve(BaseModel):
    """A logistic curve: log odds of a match are slope * (raw - middle)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slope: float = Field(gt=0, allow_inf_nan=False)
    middle: float = Field(allow_inf_nan=False)

    def log_odds(self, raw: Floats) -> Floats:
        """Of raw values of any shape, in [-30, 30]."""
        odds: Floats = np.clip(self.slope * (raw - self.middle), -_MOST_LOG_ODDS, _MOST_LOG_ODDS)
        return odds


class CalibrationRecord(BaseModel):
    """What a calibration's file holds; every comparison has its curve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str = Field(min_length=1)
    model: str
    measured_on: str
    curves: dict[Comparison, Curve]

    @model_validator(mode="after")
    def _complete(self) -> "CalibrationRecord":
        if missing := [kind.value for kind in Comparison if kind not in self.curves]:
            raise ValueError(f"curves lacks {', '.join(missing)}")
        return self


@dataclass(frozen=True, slots=True)
class Calibration:
    """A curve for every comparison; `measured` where they were fitted for the model."""

    curves: Mapping[Comparison, Curve]
    measured: bool

    def log_odds(self, kind: Comparison, raw: Floats) -> Floats:
        """Log odds of a match, of raw values of any shape."""
        return self.curves[kind].log_odds(raw)


UNMEASURED: Final = Calibration(
    {
        Comparison.TEXT_WHOLE: Curve(slope=30, middle=0.22),
        Comparison.TEXT_SEGMENT: Curve(slope=30, middle=0.24),
        Comparison.IMAGE_WHOLE: Curve(slope=14, middle=0.65),
        Comparison.IMAGE_SEGMENT: Curve(slope=14, middle=0.7),
        Comparison.PICTURE_SEGMENTS: Curve(slope=14, middle=0.7),
        Comparison.PICTURE_THING: Curve(slope=14, middle=0.7),
        Comparison.TAGS: Curve(slope=8, middle=0.5),
    },
    measured=False,
)
"""For a model that nobody has measured: where cosines of CLIP models commonly part matches from others."""


class Calibrations:
    """The calibrations that there are, by fingerprint."""

    def __init__(self, folder: str = "") -> None:
        """Read those that come with the service and those in `folder`, if it is named; the latter go first.

        Raises:
            FailedPrecondition: the folder is not there, or a file in it is no calibration.
        """
        self._known: dict[str, Calibration] = {}
        self._read(resources.files("services.query").joinpath("calibrations"))
        if folder:
            if not Path(folder).is_dir():
                raise FailedPrecondition(f"calibrations_dir names {folder!r}, which is no folder")
            self._read(Path(folder))

    def of(self, fingerprint: str) -> Calibration:
        """The model's calibration, or the common one."""
        return self._known.get(fingerprint, UNMEASURED)

    def _read(self, folder: Traversable) -> None:
        for file in folder.iterdir():
            if not file.name.endswith(".json"):
                continue
            try:
                record = CalibrationRecord.model_validate_json(file.read_bytes())
            except ValidationError as exc:
                first = exc.errors()[0]
                where = ".".join(map(str, first["loc"]))
                raise FailedPrecondition(
                    f"{file.name} in calibrations_dir is no calibration: {where} {first['msg']}"
                ) from exc
            self._known[record.fingerprint] = Calibration(record.curves, measured=True)


def probability(log_odds: Floats) -> Floats:
    """1 / (1 + exp(-log_odds)), of any shape."""
    found: Floats = 1.0 / (1.0 + np.exp(-np.clip(log_odds, -math.log(1e300), math.log(1e300))))
    return found
