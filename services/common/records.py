"""What the object store holds for a collection, and under which keys.

    collections/{c}/collection.json
    collections/{c}/images/{id}/original         the bytes, without places in their metadata
    collections/{c}/images/{id}/thumbnail.webp
    collections/{c}/images/{id}/record.json      ImageRecord
    collections/{c}/images/{id}/segments.json    SegmentsRecord
    collections/{c}/pending/{id}                 intent marker: work that is not finished
    collections/{c}/dirty/{mark}                 an image that changed while the next generation was being built
    vocabularies/{name}.json                     VocabularyRecord
    jobs/{id}.json                               what a job is about, and how far it has come
    active_jobs/{id}/lease, .../cancel           jobs that have not ended: who is at work, and whether to stop

Ingest writes; query and the gateway only read.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from services.common.domain import Box, Mask, Segment, Tag
from services.common.errors import InvalidArgument

__all__ = [
    "CollectionRecord",
    "GenerationRecord",
    "ImageRecord",
    "ImageState",
    "IndexSpec",
    "IndexType",
    "Metric",
    "RecallPoint",
    "SegmentRecord",
    "SegmentsRecord",
    "TagRecord",
    "TuningRecord",
    "VocabularyEntryRecord",
    "VocabularyRecord",
    "check_collection_name",
    "check_image_id",
    "collection_key",
    "dirty_prefix",
    "image_key",
    "image_prefix",
    "original_key",
    "pending_key",
    "pending_prefix",
    "record_key",
    "segments_key",
    "thumbnail_key",
    "tuning_key",
    "tuning_prefix",
    "vocabulary_key",
]

COLLECTIONS: Final = "collections/"
_COLLECTION_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,47}", re.ASCII)
_IMAGE_ID: Final = re.compile(r"[a-z0-9_-][a-z0-9_.-]{0,63}", re.ASCII)


def check_collection_name(name: str, field: str = "collection") -> str:
    """The name itself, or InvalidArgument."""
    if not _COLLECTION_NAME.fullmatch(name):
        raise InvalidArgument(
            "a collection's name has 1 to 48 of a-z, 0-9 and '_', beginning with a letter",
            field=field,
            reason="COLLECTION_NAME",
        )
    return name


def check_image_id(image_id: str, field: str = "id") -> str:
    """The id itself, or InvalidArgument."""
    if not _IMAGE_ID.fullmatch(image_id):
        raise InvalidArgument(
            "an image's id has 1 to 64 of a-z, 0-9, '-', '_' and '.', and does not begin with '.'",
            field=field,
            reason="IMAGE_ID",
        )
    return image_id


def collection_key(collection: str) -> str:
    """Key of the collection's record."""
    return f"{COLLECTIONS}{collection}/collection.json"


def tuning_prefix(collection: str) -> str:
    """What the keys of all that was measured of the collection's indexes begin with."""
    return f"{COLLECTIONS}{collection}/tuning/"


def tuning_key(collection: str, generation: int) -> str:
    """Key of what was measured of a generation's index."""
    return f"{tuning_prefix(collection)}G{generation}.json"


def image_prefix(collection: str) -> str:
    """What the keys of all the collection's images begin with."""
    return f"{COLLECTIONS}{collection}/images/"


def image_key(collection: str, image_id: str) -> str:
    """What the keys of one image begin with; ends in '/'."""
    return f"{image_prefix(collection)}{image_id}/"


def original_key(collection: str, image_id: str) -> str:
    """Key of the image's bytes."""
    return f"{image_key(collection, image_id)}original"


def thumbnail_key(collection: str, image_id: str) -> str:
    """Key of the small WebP."""
    return f"{image_key(collection, image_id)}thumbnail.webp"


def record_key(collection: str, image_id: str) -> str:
    """Key of the ImageRecord."""
    return f"{image_key(collection, image_id)}record.json"


def segments_key(collection: str, image_id: str) -> str:
    """Key of the SegmentsRecord."""
    return f"{image_key(collection, image_id)}segments.json"


def pending_prefix(collection: str) -> str:
    """What the keys of all the collection's intent markers begin with."""
    return f"{COLLECTIONS}{collection}/pending/"


def pending_key(collection: str, image_id: str) -> str:
    """Key of the image's intent marker."""
    return f"{pending_prefix(collection)}{image_id}"


def dirty_prefix(collection: str) -> str:
    """What the keys of the collection's dirty marks begin with."""
    return f"{COLLECTIONS}{collection}/dirty/"


def vocabulary_key(name: str) -> str:
    """Key of a vocabulary."""
    return f"vocabularies/{name}.json"


class _Record(BaseModel):
    # Unknown keys are kept out of the model but are no error: an older replica reads what a newer one wrote.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")

    def to_bytes(self) -> bytes:
        """As JSON in UTF-8."""
        return self.model_dump_json().encode()


class IndexType(StrEnum):
    """How vectors are found; see the contract."""

    IVF_FLAT = "IVF_FLAT"
    HNSW = "HNSW"
    FLAT = "FLAT"
    LSH = "LSH"


class Metric(StrEnum):
    """How two vectors are compared."""

    COSINE = "COSINE"
    L2 = "L2"
    IP = "IP"


class IndexSpec(_Record):
    """How a collection is indexed; nlist 0: 128 lists, nprobe 0: as many as target_recall needs."""

    type: IndexType = IndexType.IVF_FLAT
    metric: Metric = Metric.COSINE
    target_recall: float = Field(0.95, gt=0, le=1)
    nlist: int = Field(0, ge=0, le=65_536)
    nprobe: int = Field(0, ge=0, le=65_536)


class GenerationRecord(_Record):
    """One build of a collection's index, live or not: its model, and the IVF lists that it was built with (0: 128)."""

    number: int
    model: str
    fingerprint: str
    dimension: int
    has_text: bool = True
    index: IndexSpec = IndexSpec()
    built_nlist: int = 0


class RecallPoint(_Record):
    """Lists searched (IVF_FLAT) or ef (HNSW), and the recall@10 against exact search that it gave."""

    nprobe: int
    recall: float


class TuningRecord(_Record):
    """What was measured of one generation's index: rows then, and recall by how much was searched, rising.

    Empty where there were too few rows to choose among, or no texts.
    """

    generation: int
    image_rows: int
    segment_rows: int
    images_by_image: tuple[RecallPoint, ...] = ()
    images_by_text: tuple[RecallPoint, ...] = ()
    segments_by_image: tuple[RecallPoint, ...] = ()
    segments_by_text: tuple[RecallPoint, ...] = ()
    measured_at_ms: int = 0


class CollectionRecord(_Record):
    """A collection. Times are milliseconds since the epoch.

    `model` to `built_nlist` and `generation` say what is live: a search uses one record throughout, so that no answer
    mixes generations. `building` is the one being made beside it, `previous` the one before, kept to roll back to; it
    stopped being live at `swapped_at_ms`. Numbers up to `last_generation` are used up. `job` is the latest job that
    changes the collection; it may have ended.

    Where `deleting` is set it is gone for callers; `delete_forced` says that its images go with it.
    """

    name: str
    description: str = ""
    model: str
    fingerprint: str
    dimension: int
    has_text: bool = True
    index: IndexSpec = IndexSpec()
    built_nlist: int = 0
    generation: int = 1
    building: GenerationRecord | None = None
    previous: GenerationRecord | None = None
    swapped_at_ms: int = 0
    last_generation: int = 0
    job: str = ""
    vocabulary: str = ""
    created_at_ms: int
    deleting: bool = False
    delete_forced: bool = False

    @property
    def live(self) -> GenerationRecord:
        """The generation that searches use."""
        return GenerationRecord(
            number=self.generation,
            model=self.model,
            fingerprint=self.fingerprint,
            dimension=self.dimension,
            has_text=self.has_text,
            index=self.index,
            built_nlist=self.built_nlist,
        )

    @property
    def next_number(self) -> int:
        """A generation number that was never used."""
        kept = (self.building, self.previous)
        return max(self.generation, self.last_generation, *(other.number for other in kept if other)) + 1

    def under(self, generation: GenerationRecord) -> "CollectionRecord":
        """The record as it is where that generation is live."""
        return self.model_copy(
            update={
                "generation": generation.number,
                "model": generation.model,
                "fingerprint": generation.fingerprint,
                "dimension": generation.dimension,
                "has_text": generation.has_text,
                "index": generation.index,
                "built_nlist": generation.built_nlist,
            }
        )


class ImageState(StrEnum):
    """How far an image has come; see the contract."""

    DURABLE = "DURABLE"
    SEARCHABLE = "SEARCHABLE"
    SEGMENTED = "SEGMENTED"
    FAILED = "FAILED"


class TagRecord(_Record):
    """A tag that the model gave."""

    name: str
    category: str = ""
    confidence: float


class ImageRecord(_Record):
    """An image. Times are milliseconds since the epoch; width and height pixels after EXIF orientation.

    `fingerprint` and `generation` say what it was indexed under, at `indexed_at_ms`; a later reindex changes neither.
    `failure_reason` is for programs: IMAGE_CRASHES and ORIGINAL_LOST may pass, and are tried again by a repair.
    """

    id: str
    state: ImageState
    failure: str = ""
    failure_reason: str = ""
    content_type: str
    size_bytes: int
    width: int
    height: int
    sha256: str
    stored_sha256: str = ""
    source: str = ""
    title: str = ""
    metadata: dict[str, Any] = {}
    user_tags: tuple[str, ...] = ()
    model_tags: tuple[TagRecord, ...] = ()
    segment_count: int = 0
    fingerprint: str = ""
    generation: int = 0
    indexed_at_ms: int = 0
    created_at_ms: int
    updated_at_ms: int
    etag: str

    @property
    def original_sha256(self) -> str:
        """Hash of the bytes that are kept; `sha256` is that of those that came, which may have told a place."""
        return self.stored_sha256 or self.sha256

    @property
    def tags(self) -> tuple[Tag, ...]:
        """A person's first, then the model's by confidence, no name twice."""
        own = [Tag(name) for name in self.user_tags]
        model = [Tag(t.name, t.category, t.confidence) for t in self.model_tags if t.name not in self.user_tags]
        return (*own, *sorted(model, key=lambda tag: -tag.confidence))


class SegmentRecord(_Record):
    """A segment; the box is (x0, y0, x1, y1)."""

    index: int
    box: tuple[float, float, float, float]
    area_fraction: float
    predicted_iou: float
    stability: float
    mask_size: tuple[int, int]
    mask_counts: tuple[int, ...]
    tags: tuple[TagRecord, ...] = ()


class SegmentsRecord(_Record):
    """All segments of one image, in their order."""

    segments: tuple[SegmentRecord, ...] = ()

    @classmethod
    def of(cls, segments: tuple[Segment, ...]) -> "SegmentsRecord":
        """From an analysis; every segment needs its mask."""
        return cls(segments=tuple(_segment_record(segment) for segment in segments))

    def to_segments(self) -> tuple[Segment, ...]:
        """As domain objects, without vectors."""
        return tuple(
            Segment(
                index=record.index,
                box=Box(*record.box),
                area_fraction=record.area_fraction,
                predicted_iou=record.predicted_iou,
                stability=record.stability,
                mask=Mask(*record.mask_size, record.mask_counts),
                tags=tuple(Tag(tag.name, tag.category, tag.confidence) for tag in record.tags),
            )
            for record in self.segments
        )


def _segment_record(segment: Segment) -> SegmentRecord:
    if segment.mask is None:
        raise ValueError("a stored segment needs its mask")
    return SegmentRecord(
        index=segment.index,
        box=(segment.box.x0, segment.box.y0, segment.box.x1, segment.box.y1),
        area_fraction=segment.area_fraction,
        predicted_iou=segment.predicted_iou,
        stability=segment.stability,
        mask_size=(segment.mask.height, segment.mask.width),
        mask_counts=segment.mask.counts,
        tags=tuple(TagRecord(name=t.name, category=t.category, confidence=t.confidence) for t in segment.tags),
    )


class VocabularyEntryRecord(_Record):
    """A word that may become a tag."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    category: Annotated[str, Field(max_length=64)] = ""


class VocabularyRecord(_Record):
    """A named set of words that tags are chosen from, and the sentences that they are put into."""

    name: str
    prompt_templates: tuple[str, ...] = ()
    entries: tuple[VocabularyEntryRecord, ...] = Field(min_length=1, max_length=2_000)
