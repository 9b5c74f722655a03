import pytest

from services.common.records import IndexSpec
from services.common.vectors import Consistency, Generation, Of, PlannedSearch, QueryKind, RowEstimate, SearchParams
from services.query.domain import Mode
from services.query.planning import IndexPlan, MadeSearch

GENERATION = Generation("owls", 1, 4, "f", IndexSpec(nlist=128))
FEW = PlannedSearch(True, 0, "few rows")
MANY = PlannedSearch(False, 12, "measured")


def plan(
    images: RowEstimate | None = None,
    segments: RowEstimate | None = None,
    plans: dict[tuple[Of, QueryKind], PlannedSearch] | None = None,
) -> IndexPlan:
    return IndexPlan(GENERATION, images, segments, plans or {}, SearchParams(consistency=Consistency.STRONG))


def test_each_search_has_its_own_parameters() -> None:
    made = plan(plans={("images", QueryKind.TEXT): FEW, ("segments", QueryKind.IMAGE): MANY})
    assert made.params("images", QueryKind.TEXT) == SearchParams(0, True, Consistency.STRONG)
    assert made.params("segments", QueryKind.IMAGE) == SearchParams(12, False, Consistency.STRONG)


def test_searches_are_told_for_people() -> None:
    made = plan(
        RowEstimate(100, 7),
        RowEstimate(5_000, None),
        {("images", QueryKind.TEXT): FEW, ("segments", QueryKind.TEXT): MANY},
    )
    assert made.made() == [
        MadeSearch("images by text", "IVF_FLAT", True, 0, 100, 7, "few rows"),
        MadeSearch("segments by text", "IVF_FLAT", False, 12, 5_000, None, "measured"),
    ]


@pytest.mark.parametrize(
    ("images", "segments", "mode", "share"),
    [
        (RowEstimate(100, 25), None, Mode.WHOLE, 0.25),
        (RowEstimate(100, 25), RowEstimate(400, 40), Mode.HYBRID, 0.25),
        (RowEstimate(100, 25), RowEstimate(400, 40), Mode.SEGMENT, 0.1),
        (RowEstimate(100, 0), None, Mode.TAGS, 0.0),
        (RowEstimate(0, 0), None, Mode.WHOLE, 1.0),
        (RowEstimate(100, 101), None, Mode.WHOLE, 1.0),
        (RowEstimate(100, None), None, Mode.WHOLE, None),
        (None, None, Mode.WHOLE, None),
    ],
)
def test_the_share_that_passes(
    images: RowEstimate | None, segments: RowEstimate | None, mode: Mode, share: float | None
) -> None:
    assert plan(images, segments).selectivity(mode) == share
