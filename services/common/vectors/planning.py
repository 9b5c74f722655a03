"""How an index is searched so that enough of the nearest rows are found: how many lists, or all of them."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from services.common.records import IndexSpec, IndexType, RecallPoint, TuningRecord
from services.common.vectors.index import choose_nprobe, default_candidates, default_ef, max_candidates

__all__ = ["Of", "PlannedSearch", "QueryKind", "RowEstimate", "plan_search"]

Of = Literal["images", "segments"]

EXACT_ROWS: Final = 2_000
"""So few rows that pass are all compared: that costs less than choosing among lists."""
EXACT_TEXT_ROWS: Final = 20_000
"""The same for texts, whose neighbours lie in many lists: their vectors lie apart from those of images."""
TEXT_FACTOR: Final = 4
"""How many times as many lists a text looks into where nothing was measured."""
NARROW: Final = 0.02
"""A filter that passes less is narrow: a graph or a few lists then hold too few rows that pass."""


_MANY_ROWS: Final = 10**9


class QueryKind(Enum):
    """What looks for rows."""

    IMAGE = "image"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class RowEstimate:
    """Rows in an index, and how many of them a filter passes; None: not known, since counting took too long."""

    rows: int
    passing: int | None


@dataclass(frozen=True, slots=True)
class PlannedSearch:
    """How to search: every row that passes, or `nprobe` lists (IVF_FLAT), ef (HNSW), candidates (LSH); and why."""

    exact: bool
    nprobe: int
    reason: str


def plan_search(
    index: IndexSpec,
    *,
    kind: QueryKind,
    of: Of,
    rows: int,
    passing: int | None,
    target_recall: float,
    tuning: TuningRecord | None,
    nprobe_asked: int = 0,
    exact_asked: bool = False,
) -> PlannedSearch:
    """How to search so that recall@10 reaches `target_recall`.

    Args:
        index: As built, with its nlist.
        kind: What looks for rows.
        of: Which rows.
        rows: How many there are.
        passing: How many of them the filter passes; None where that is not known, which is taken as few.
        target_recall: In (0, 1].
        tuning: What was measured of the index; None: nothing.
        nprobe_asked: The caller's own choice; 0: none.
        exact_asked: Whether the caller wants every row compared.
    """
    if exact_asked or index.type is IndexType.FLAT:
        return PlannedSearch(True, 0, "asked for" if exact_asked else "the index is FLAT")
    if nprobe_asked:
        return PlannedSearch(False, nprobe_asked, "asked for")
    if why := _why_exact(index, kind, rows, passing, target_recall):
        return PlannedSearch(True, 0, why)
    passing = rows if passing is None else passing
    nprobe, reason = _chosen(index, kind, of, target_recall, tuning)
    if index.type is IndexType.LSH:
        return _by_signs(nprobe, reason, passing)
    share = min(1.0, passing / max(rows, 1))
    if index.type is IndexType.IVF_FLAT and share < 1:
        # The rows that pass lie as if the lists were thinner: their nearest are behind more borders.
        nprobe = math.ceil(nprobe / math.sqrt(share))
        reason = f"{reason}; raised for a filter that passes {share:.1%} of the rows"
    if index.type is IndexType.IVF_FLAT and nprobe >= index.nlist:
        return PlannedSearch(True, 0, f"{reason}: all {index.nlist} lists")
    return PlannedSearch(False, nprobe, reason)


def _why_exact(index: IndexSpec, kind: QueryKind, rows: int, passing: int | None, target_recall: float) -> str:
    """Why every row that passes is to be compared; empty: it need not be."""
    if target_recall >= 1:
        return "a recall of 1 is every row"
    if passing is None:
        return "how many rows the filter passes is not known"
    # An LSH index compares 5 % at most, whatever asks.
    text = kind is QueryKind.TEXT and index.type is not IndexType.LSH
    limit = EXACT_TEXT_ROWS if text else EXACT_ROWS
    if passing <= limit:
        return f"{passing:,} rows are few enough to compare them all (up to {limit:,} for {kind.value} queries)"
    if index.type is IndexType.HNSW and passing < NARROW * rows:
        return f"the filter passes {passing:,} of {rows:,} rows, too few for the graph"
    return ""


def _by_signs(candidates: int, reason: str, passing: int) -> PlannedSearch:
    most = max_candidates(passing)
    if candidates <= most:
        return PlannedSearch(False, candidates, reason)
    return PlannedSearch(False, most, f"{reason}; 5 % of the rows that pass at most")


def _chosen(
    index: IndexSpec, kind: QueryKind, of: Of, target_recall: float, tuning: TuningRecord | None
) -> tuple[int, str]:
    """Measured or common, for no filter."""
    if index.nprobe:
        return index.nprobe, "as the collection says"
    measured = _measured(kind, of, target_recall, tuning)
    if measured is not None:
        return measured, f"measured for a recall of {target_recall:g}"
    common = f"common for a recall of {target_recall:g}; not measured yet"
    if index.type is IndexType.HNSW:
        return default_ef(target_recall), common
    if index.type is IndexType.LSH:
        return default_candidates(_MANY_ROWS), common
    factor = TEXT_FACTOR if kind is QueryKind.TEXT else 1
    return min(index.nlist, factor * choose_nprobe(index.nlist, target_recall)), common


def _measured(kind: QueryKind, of: Of, target_recall: float, tuning: TuningRecord | None) -> int | None:
    """The least that reached the recall, and half of what is left above it, as the sample was small; else the most."""
    if tuning is None:
        return None
    points: tuple[RecallPoint, ...] = getattr(tuning, f"{of}_by_{kind.value}")
    if not points:
        return None
    wanted = (1 + target_recall) / 2
    reached = [point.nprobe for point in points if point.recall >= wanted]
    return min(reached) if reached else max(point.nprobe for point in points)
