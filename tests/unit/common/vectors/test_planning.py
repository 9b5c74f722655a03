from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.records import IndexSpec, IndexType, RecallPoint, TuningRecord
from services.common.vectors import Of, PlannedSearch, QueryKind, nlist_for, plan_search

MANY = 300_000
OFS: tuple[Of, ...] = ("images", "segments")
POINTS = tuple(RecallPoint(nprobe=nprobe, recall=recall) for nprobe, recall in ((8, 0.8), (16, 0.92), (64, 0.97)))


def ivf(rows: int = MANY, **fields: Any) -> IndexSpec:
    return IndexSpec(nlist=nlist_for(rows), **fields)


def plan(index: IndexSpec | None = None, **fields: Any) -> PlannedSearch:
    rows = fields.setdefault("rows", MANY)
    common: dict[str, Any] = {
        "kind": QueryKind.IMAGE,
        "of": "images",
        "passing": rows,
        "target_recall": 0.95,
        "tuning": None,
    }
    return plan_search(index or ivf(rows), **(common | fields))


def measured(**points: tuple[RecallPoint, ...]) -> TuningRecord:
    return TuningRecord(generation=1, image_rows=MANY, segment_rows=MANY, **points)  # type: ignore[arg-type]


indexes = st.sampled_from([IndexType.IVF_FLAT, IndexType.HNSW, IndexType.FLAT])
kinds = st.sampled_from(list(QueryKind))
ofs = st.sampled_from(OFS)
counts = st.integers(0, 10_000_000)
recalls = st.floats(0.01, 1, exclude_min=True)
tunings = st.sampled_from([None, measured(), measured(images_by_image=POINTS, segments_by_text=POINTS)])


@given(
    type_=indexes,
    kind=kinds,
    of=ofs,
    rows=counts,
    share=st.none() | st.floats(0, 1),
    recall=recalls,
    tuning=tunings,
)
def test_every_plan_can_be_carried_out(
    *,
    type_: IndexType,
    kind: QueryKind,
    of: Of,
    rows: int,
    share: float | None,
    recall: float,
    tuning: TuningRecord | None,
) -> None:
    passing = None if share is None else round(rows * share)
    index = ivf(rows, type=type_)
    made = plan(index, kind=kind, of=of, rows=rows, passing=passing, target_recall=recall, tuning=tuning)
    assert made.reason
    assert (made.nprobe == 0) == made.exact
    if type_ is IndexType.IVF_FLAT:
        assert 0 <= made.nprobe <= index.nlist


def work(made: PlannedSearch, index: IndexSpec) -> int:
    """Lists looked into; all of them where every row is compared."""
    return index.nlist if made.exact else made.nprobe


@given(kinds, ofs, st.integers(1, 10_000_000), recalls, recalls)
def test_more_recall_never_looks_into_fewer_lists(kind: QueryKind, of: Of, rows: int, one: float, other: float) -> None:
    index = ivf(rows)
    less, more = (plan(index, kind=kind, of=of, rows=rows, target_recall=r) for r in sorted((one, other)))
    assert work(less, index) <= work(more, index)


@given(kinds, ofs, st.integers(1, 10_000_000), st.tuples(st.floats(0, 1), st.floats(0, 1)), recalls)
def test_a_narrower_filter_never_looks_into_fewer_lists(
    kind: QueryKind, of: Of, rows: int, shares: tuple[float, float], recall: float
) -> None:
    index = ivf(rows)
    narrow, wide = (
        plan(index, kind=kind, of=of, rows=rows, passing=round(rows * share), target_recall=recall)
        for share in sorted(shares)
    )
    assert work(wide, index) <= work(narrow, index)


@given(ofs, counts, recalls)
def test_a_text_never_looks_into_fewer_lists_than_a_picture(of: Of, rows: int, recall: float) -> None:
    """Its neighbours lie apart from it, in many lists."""
    index = ivf(rows)
    image, text = (plan(index, kind=kind, of=of, rows=rows, target_recall=recall) for kind in QueryKind)
    assert work(image, index) <= work(text, index)


@pytest.mark.parametrize("passing", [0, 1, 500])
@pytest.mark.parametrize("kind", list(QueryKind))
@pytest.mark.parametrize("type_", [IndexType.IVF_FLAT, IndexType.HNSW, IndexType.LSH])
def test_few_rows_are_all_compared(passing: int, kind: QueryKind, type_: IndexType) -> None:
    assert plan(ivf(type=type_), kind=kind, passing=passing).exact
    assert plan(ivf(passing, type=type_), kind=kind, rows=passing).exact


def test_where_nothing_is_known_of_a_filter_every_row_is_compared() -> None:
    assert plan(passing=None).exact


def test_a_recall_of_one_is_every_row() -> None:
    assert plan(target_recall=1.0).exact
    assert plan(IndexSpec(type=IndexType.HNSW), target_recall=1.0).exact


def test_many_rows_are_not_all_compared() -> None:
    for kind in QueryKind:
        for type_ in (IndexType.IVF_FLAT, IndexType.HNSW, IndexType.LSH):
            assert not plan(ivf(type=type_), kind=kind).exact


def test_flat_is_exact() -> None:
    assert plan(IndexSpec(type=IndexType.FLAT), nprobe_asked=7).exact


@pytest.mark.parametrize("passing", [None, 3, MANY])
def test_what_the_caller_asks_for(passing: int | None) -> None:
    assert plan(passing=passing, nprobe_asked=7) == PlannedSearch(False, 7, "asked for")
    assert plan(passing=passing, exact_asked=True, nprobe_asked=7) == PlannedSearch(True, 0, "asked for")


def test_what_the_collection_says() -> None:
    assert plan(ivf(nprobe=5), tuning=measured(images_by_image=POINTS)).nprobe == 5


@pytest.mark.parametrize(("recall", "least"), [(0.5, 8), (0.8, 8), (0.9, 16), (0.95, 64)])
def test_what_was_measured_counts(recall: float, least: int) -> None:
    made = plan(target_recall=recall, tuning=measured(images_by_image=POINTS))
    assert made.nprobe >= least
    assert "measured" in made.reason
    assert "not measured" not in made.reason
    # Of other rows, and of texts, it says nothing.
    for fields in ({"of": "segments"}, {"kind": QueryKind.TEXT}):
        other = plan(target_recall=recall, tuning=measured(images_by_image=POINTS), **fields)
        assert other == plan(target_recall=recall, **fields)


def test_a_recall_that_nothing_measured_reached_takes_at_least_the_most() -> None:
    index = ivf()
    assert work(plan(index, target_recall=0.99, tuning=measured(images_by_image=POINTS)), index) >= 64


def test_lsh_compares_at_most_a_twentieth_exactly() -> None:
    for passing in (50_000, MANY):
        made = plan(IndexSpec(type=IndexType.LSH), passing=passing)
        assert 0 < made.nprobe <= passing / 20


def test_a_plan_leaves_room_above_the_target() -> None:
    """A sample says nearly what the recall is."""
    points = (RecallPoint(nprobe=8, recall=0.951), RecallPoint(nprobe=16, recall=0.98))
    assert plan(tuning=measured(images_by_image=points)).nprobe == 16


def test_signs_compare_what_was_measured_and_at_most_one_row_in_twenty() -> None:
    index = IndexSpec(type=IndexType.LSH)
    points = (RecallPoint(nprobe=500, recall=0.99), RecallPoint(nprobe=1_000, recall=0.999))
    assert plan(index, tuning=measured(images_by_image=points)).nprobe == 500
    assert plan(index).nprobe == 2_000
    assert plan(index, passing=4_000).nprobe == 200


def test_the_fewer_rows_a_filter_passes_the_more_lists_are_searched() -> None:
    tuning = measured(images_by_image=POINTS)
    wide, half, tenth = (
        plan(tuning=tuning, passing=passing, target_recall=0.9) for passing in (MANY, MANY // 2, MANY // 10)
    )
    assert not (wide.exact or half.exact or tenth.exact)
    assert wide.nprobe < half.nprobe < tenth.nprobe
