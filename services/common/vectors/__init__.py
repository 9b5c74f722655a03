"""The vector index: the only code that knows Milvus."""

from services.common.vectors.filters import FilterTarget, compile_filter
from services.common.vectors.rows import (
    Consistency,
    Generation,
    ImageHit,
    ImageRow,
    SearchParams,
    SegmentHit,
    SegmentRow,
)
from services.common.vectors.store import VectorStore

__all__ = [
    "Consistency",
    "FilterTarget",
    "Generation",
    "ImageHit",
    "ImageRow",
    "SearchParams",
    "SegmentHit",
    "SegmentRow",
    "VectorStore",
    "compile_filter",
]
