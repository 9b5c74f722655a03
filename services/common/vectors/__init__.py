"""The vector index: the only code that knows Milvus."""

from services.common.vectors.filters import FilterTarget, compile_filter
from services.common.vectors.metadata import MAX_METADATA_BYTES, indexed_size_bytes
from services.common.vectors.rows import (
    Consistency,
    FoundSegment,
    Generation,
    ImageHit,
    ImageRow,
    SearchParams,
    SegmentHit,
    SegmentRow,
)
from services.common.vectors.store import VectorStore

__all__ = [
    "MAX_METADATA_BYTES",
    "Consistency",
    "FilterTarget",
    "FoundSegment",
    "Generation",
    "ImageHit",
    "ImageRow",
    "SearchParams",
    "SegmentHit",
    "SegmentRow",
    "VectorStore",
    "compile_filter",
    "indexed_size_bytes",
]
