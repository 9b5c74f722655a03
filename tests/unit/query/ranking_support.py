"""Small queries and candidates in four dimensions, for tests of the ranking."""

from collections.abc import Sequence

import numpy as np

from services.common.domain import Vector
from services.query.calibration import Calibration, Comparison, Curve
from services.query.ranking import Candidates, Fusion, PartVectors, Scores

DIMENSION = 4
HYBRID = Fusion(0.4, 0.6, 0.2)
WHOLE, SEGMENT, TAGS = Fusion(1, 0, 0), Fusion(0, 1, 0), Fusion(0, 0, 1)
# Every kind has its own, so that none can be mistaken for another.
CALIBRATION = Calibration(
    {kind: Curve(slope=4 + 2 * at, middle=0.25 + at / 16) for at, kind in enumerate(Comparison)}, measured=True
)


def unit(*values: float) -> Vector:
    vector = np.array(values, dtype=np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


X, Y, Z = unit(1, 0, 0, 0), unit(0, 1, 0, 0), unit(0, 0, 1, 0)


def candidates(
    images: Sequence[tuple[str, Vector, Sequence[Vector]]],
    *,
    whole: bool = True,
    tags: Sequence[dict[str, float]] | None = None,
) -> Candidates:
    rows = [segment for _, _, segments in images for segment in segments]
    owners = [at for at, (_, _, segments) in enumerate(images) for _ in segments]
    vectors = [vector for _, vector, _ in images]
    empty = np.zeros((0, DIMENSION), dtype=np.float32)
    return Candidates(
        ids=tuple(name for name, _, _ in images),
        whole=(np.stack(vectors) if vectors else empty) if whole else None,
        segments=np.stack(rows) if rows else empty,
        owners=np.array(owners, dtype=np.intp),
        counts=np.linspace(0.2, 1, len(rows)),
        boxes=np.tile([0.0, 0.0, 1.0, 1.0], (len(rows), 1)),
        tags=None if tags is None else tuple(tags),
    )


def score(
    parts: Sequence[PartVectors], images: Candidates, fusion: Fusion = HYBRID, calibration: Calibration = CALIBRATION
) -> Scores:
    return Scores(parts, images, fusion, calibration)
