"""The vector index: the only code that knows Milvus."""

from services.common.vectors.codec import split_segment_id
from services.common.vectors.engine import IndexMissing
from services.common.vectors.filters import FilterTarget, carries_any, compile_filter, join_filters
from services.common.vectors.index import nlist_for
from services.common.vectors.metadata import MAX_METADATA_BYTES, indexed_size_bytes
from services.common.vectors.planning import Of, PlannedSearch, QueryKind, RowEstimate, plan_search
from services.common.vectors.rows import (
    Consistency,
    FoundSegment,
    Generation,
    ImageHit,
    ImageRow,
    IndexSurvey,
    SearchParams,
    SegmentHit,
    SegmentRow,
    TitleHit,
)
from services.common.vectors.store import VectorStore
from services.common.vectors.tuning import MIN_TUNED_ROWS, measure

__all__ = [
    "MAX_METADATA_BYTES",
    "MIN_TUNED_ROWS",
    "Consistency",
    "FilterTarget",
    "FoundSegment",
    "Generation",
    "ImageHit",
    "ImageRow",
    "IndexMissing",
    "IndexSurvey",
    "Of",
    "PlannedSearch",
    "QueryKind",
    "RowEstimate",
    "SearchParams",
    "SegmentHit",
    "SegmentRow",
    "TitleHit",
    "VectorStore",
    "carries_any",
    "compile_filter",
    "indexed_size_bytes",
    "join_filters",
    "measure",
    "nlist_for",
    "plan_search",
    "split_segment_id",
]
