"""What a repair finds of one image: kinds of differences, and how they are told from what is stored and indexed."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.common.domain import Segment
from services.common.records import ImageRecord, ImageState
from services.common.vectors import ImageRow
from services.common.vectors.metadata import encode
from services.ingest.files import StoredImage
from services.ingest.pipeline import image_row

__all__ = ["MEANINGS", "RETRIED", "Facts", "Kind", "differences"]


class Kind(StrEnum):
    """A kind of difference; docs/recovery.md says of each how it comes about and what a repair does."""

    INDEX_MISSING = "INDEX_MISSING"
    INDEX_OF_OTHER_MODEL = "INDEX_OF_OTHER_MODEL"
    ALIAS_WRONG = "ALIAS_WRONG"
    PREVIOUS_MISSING = "PREVIOUS_MISSING"
    GENERATION_ABANDONED = "GENERATION_ABANDONED"
    RECORD_MISSING = "RECORD_MISSING"
    RECORD_UNREADABLE = "RECORD_UNREADABLE"
    ORIGINAL_MISSING = "ORIGINAL_MISSING"
    SEGMENTS_UNREADABLE = "SEGMENTS_UNREADABLE"
    THUMBNAIL_MISSING = "THUMBNAIL_MISSING"
    OBJECTS_STRAY = "OBJECTS_STRAY"
    UNFINISHED = "UNFINISHED"
    ROWS_MISSING = "ROWS_MISSING"
    ROWS_DIFFER = "ROWS_DIFFER"
    ROWS_ORPHANED = "ROWS_ORPHANED"
    TOMBSTONE_UNFINISHED = "TOMBSTONE_UNFINISHED"
    MARKER_WITHOUT_NEED = "MARKER_WITHOUT_NEED"
    DRAFTS_STRAY = "DRAFTS_STRAY"


MEANINGS: Final[Mapping[Kind, str]] = {
    Kind.INDEX_MISSING: "the index has nothing of the live generation",
    Kind.INDEX_OF_OTHER_MODEL: "the index has vectors of another model under the live generation's name",
    Kind.ALIAS_WRONG: "the collection's aliases do not name the live generation",
    Kind.PREVIOUS_MISSING: "the generation to roll back to is not in the index",
    Kind.GENERATION_ABANDONED: "a generation that nobody builds or keeps",
    Kind.RECORD_MISSING: "an original without a record",
    Kind.RECORD_UNREADABLE: "the record can not be read",
    Kind.ORIGINAL_MISSING: "a record without its original",
    Kind.SEGMENTS_UNREADABLE: "the segments are missing or can not be read",
    Kind.THUMBNAIL_MISSING: "the thumbnail is missing",
    Kind.OBJECTS_STRAY: "objects of an image that is not there",
    Kind.UNFINISHED: "not fully indexed, and nobody is to do it",
    Kind.ROWS_MISSING: "rows are missing in the index",
    Kind.ROWS_DIFFER: "the rows say other things than the record",
    Kind.ROWS_ORPHANED: "rows in the index that stand for nothing stored",
    Kind.TOMBSTONE_UNFINISHED: "a deletion that nobody goes on with",
    Kind.MARKER_WITHOUT_NEED: "a marker of work that there is none of",
    Kind.DRAFTS_STRAY: "half-written objects of processes that were killed",
}

RETRIED: Final = frozenset({"IMAGE_CRASHES", "ORIGINAL_LOST"})
"""Reasons of failures that may have passed: a repair has such images tried again."""

_ORIGINAL: Final = "original"
_THUMBNAIL: Final = "thumbnail.webp"


@dataclass(frozen=True, slots=True)
class Facts:
    """One image as it is stored and indexed at one moment.

    Attributes:
        stored: What the store lists of it.
        record: Its record; None where there is none that can be read.
        segments: Its stored segments; None where they can not be read. Only of a segmented image.
        row: Its row in the live generation.
        indices: Its segments' rows there.
        indexed: Whether the live generation is there at all; otherwise nothing is said of rows.
    """

    stored: StoredImage
    record: ImageRecord | None
    segments: tuple[Segment, ...] | None = ()
    row: ImageRow | None = None
    indices: frozenset[int] = frozenset()
    indexed: bool = True

    @property
    def has_original(self) -> bool:
        """Whether the bytes are there, as many as the record says."""
        size = self.stored.sizes.get(_ORIGINAL)
        return size is not None and (self.record is None or size == self.record.size_bytes)

    @property
    def retried(self) -> bool:
        """Whether it was set aside for a reason that may have passed."""
        record = self.record
        return record is not None and record.failure_reason in RETRIED and self.has_original


def differences(facts: Facts, *, segmenter: bool) -> tuple[Kind, ...]:
    """How an image that nobody works on differs from what it should be, the most basic first.

    Args:
        facts: The image. It has no marker.
        segmenter: Whether images can be taken apart here, so that one that is not is unfinished.
    """
    record, sizes = facts.record, facts.stored.sizes
    if record is None:
        return (_without_record(facts.stored),)
    if record.state is ImageState.FAILED:
        # Set aside already, with what there is of it.
        return ()
    if not facts.has_original:
        return (Kind.ORIGINAL_MISSING,)
    found = () if _THUMBNAIL in sizes else (Kind.THUMBNAIL_MISSING,)
    if record.state is ImageState.DURABLE or (record.state is ImageState.SEARCHABLE and segmenter):
        return (*found, Kind.UNFINISHED)
    segments = facts.segments
    if record.state is ImageState.SEGMENTED and (segments is None or len(segments) != record.segment_count):
        return (*found, Kind.SEGMENTS_UNREADABLE)
    return (*found, *_rows(facts, record, frozenset(segment.index for segment in segments or ())))


def _without_record(stored: StoredImage) -> Kind:
    if stored.holds_record:
        return Kind.RECORD_UNREADABLE
    return Kind.RECORD_MISSING if _ORIGINAL in stored.sizes else Kind.OBJECTS_STRAY


def _rows(facts: Facts, record: ImageRecord, wanted: frozenset[int]) -> tuple[Kind, ...]:
    if not facts.indexed:
        return ()
    if facts.row is None or wanted - facts.indices:
        return (Kind.ROWS_MISSING,)
    found = []
    if not _says(facts.row, record):
        found.append(Kind.ROWS_DIFFER)
    if facts.indices - wanted:
        found.append(Kind.ROWS_ORPHANED)
    return tuple(found)


def _says(row: ImageRow, record: ImageRecord) -> bool:
    """Whether the row's fields are those of the record; confidences are kept with fewer digits there."""
    wanted = image_row(record, row.vector)
    sizes = (row.width, row.height, row.created_at_ms) == (wanted.width, wanted.height, wanted.created_at_ms)
    # As they stand in the index, where null is no value.
    return sizes and set(row.tags) == set(wanted.tags) and encode(row.metadata) == encode(wanted.metadata)
