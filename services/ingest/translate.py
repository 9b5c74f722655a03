"""Messages of the ingest contract -> what the service works with, checked; and back."""

import math
from typing import Final

from saccade.common.v1 import types_pb2
from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.messages import image_to_message, segment_to_message
from services.common.records import CollectionRecord, ImageState, IndexSpec, IndexType, Metric, check_collection_name
from services.ingest.check import MAX_TITLE_CHARS, check_metadata, check_tags, check_text
from services.ingest.collections import Counts, NewCollection
from services.ingest.jobs.record import JobRecord
from services.ingest.jobs.service import NewImport, NewReindex
from services.ingest.library import Changes
from services.ingest.reader import Found

__all__ = [
    "changes",
    "collection_to_message",
    "found_to_message",
    "index_spec",
    "job_to_message",
    "new_collection",
    "new_import",
    "new_reindex",
    "wait_for",
]

MAX_DESCRIPTION_CHARS: Final = 2_000
MAX_URLS: Final = 10_000
MAX_LISTS: Final = 65_536
DEFAULT_TARGET_RECALL: Final = 0.95
_CHANGEABLE: Final = ("title", "metadata", "tags")
_WAITS: Final[dict[int, ImageState]] = {
    types_pb2.IMAGE_STATE_UNSPECIFIED: ImageState.SEARCHABLE,
    types_pb2.IMAGE_STATE_DURABLE: ImageState.DURABLE,
    types_pb2.IMAGE_STATE_SEARCHABLE: ImageState.SEARCHABLE,
    types_pb2.IMAGE_STATE_SEGMENTED: ImageState.SEGMENTED,
}


def wait_for(state: int) -> ImageState:
    """How far a call waits."""
    if state not in _WAITS:
        raise InvalidArgument(
            "is IMAGE_STATE_DURABLE, IMAGE_STATE_SEARCHABLE (the default) or IMAGE_STATE_SEGMENTED", field="wait_for"
        )
    return _WAITS[state]


def changes(request: pb.UpdateImageRequest) -> Changes:
    """What an update asks for. A tag as a list or a read gave it, with the model's confidence, stays the model's.

    Below 1 it is told by the confidence alone; at 1, which a person's tags have too, the record tells.
    """
    image = request.image
    paths = list(dict.fromkeys(request.update_mask.paths))
    for i, path in enumerate(request.update_mask.paths):
        if path not in _CHANGEABLE:
            raise InvalidArgument(
                f"{path[:100]!r} can not be changed; title, metadata and tags can", field=f"update_mask.paths[{i}]"
            )
    if not paths:
        given = {"title": bool(image.title), "metadata": image.HasField("metadata"), "tags": bool(image.tags)}
        paths = [path for path in _CHANGEABLE if given[path]]
    if not paths:
        raise InvalidArgument("name what to change: title, metadata or tags", field="update_mask")
    own_tags = [tag for tag in image.tags if not 0 < tag.confidence < 1]
    return Changes(
        title=check_text(image.title, MAX_TITLE_CHARS, "image.title") if "title" in paths else None,
        metadata=check_metadata(image.metadata, "image.metadata") if "metadata" in paths else None,
        user_tags=check_tags([tag.name for tag in own_tags], "image.tags") if "tags" in paths else None,
        confidences={tag.name.strip(): tag.confidence for tag in own_tags},
    )


def found_to_message(
    collection: str, found: Found, *, include_masks: bool = False, include_vectors: bool = False
) -> types_pb2.Image:
    """An image with its segments and addresses."""
    message = image_to_message(collection, found.record)
    message.segments.extend(
        segment_to_message(segment, include_mask=include_masks, include_vector=include_vectors)
        for segment in found.segments
    )
    message.original_url, message.thumbnail_url = found.original_url, found.thumbnail_url
    return message


def new_collection(message: pb.Collection) -> NewCollection:
    """A collection to make."""
    return NewCollection(
        name=message.name,
        description=check_text(message.description, MAX_DESCRIPTION_CHARS, "collection.description"),
        model=message.model,
        fingerprint=message.fingerprint,
        index=index_spec(message.index, "collection.index"),
        vocabulary=message.vocabulary,
    )


def collection_to_message(record: CollectionRecord, counts: Counts, *, job: str = "") -> pb.Collection:
    """A collection with its counts; `job` works on it."""
    message = pb.Collection(
        name=record.name,
        description=record.description,
        model=record.model,
        fingerprint=record.fingerprint,
        index=pb.IndexSpec(
            type=pb.IndexType.Value(f"INDEX_TYPE_{record.index.type.value}"),
            metric=pb.Metric.Value(f"METRIC_{record.index.metric.value}"),
            target_recall=record.index.target_recall,
            nlist=record.index.nlist,
            nprobe=record.index.nprobe,
        ),
        generation=record.generation,
        vocabulary=record.vocabulary,
        image_count=counts.images,
        segment_count=counts.segments,
        pending_count=counts.pending,
        previous_generation=record.previous.number if record.previous is not None else 0,
        job=job,
        index_missing=counts.index_missing,
    )
    message.create_time.FromMilliseconds(record.created_at_ms)
    return message


def new_reindex(request: pb.ReindexCollectionRequest) -> NewReindex:
    """A reindex to start."""
    return NewReindex(
        collection=check_collection_name(request.collection),
        model=request.model,
        index=index_spec(request.index, "index") if request.HasField("index") else None,
        # The message's float has seven digits.
        min_agreement=round(request.min_agreement, 6),
        rollback=request.rollback,
    )


def new_import(request: pb.ImportImagesRequest) -> NewImport:
    """An import to start."""
    source, urls = request.WhichOneof("source"), tuple(request.urls.urls)
    if source is None:
        raise InvalidArgument("say where the images are: in a bucket, in a folder or at urls", field="source")
    if source == "bucket" and not request.bucket.bucket:
        raise InvalidArgument("name the bucket", field="bucket.bucket")
    if source == "folder" and not request.folder:
        raise InvalidArgument("is file:///folder", field="folder")
    if source == "urls" and not 1 <= len(urls) <= MAX_URLS:
        raise InvalidArgument(f"1 to {MAX_URLS:,} addresses are taken, not {len(urls):,}", field="urls.urls")
    return NewImport(
        collection=check_collection_name(request.collection),
        bucket=request.bucket.bucket,
        prefix=request.bucket.prefix,
        folder=request.folder,
        urls=urls,
        tags=check_tags(request.tags),
    )


def job_to_message(job: JobRecord) -> pb.Job:
    """A job."""
    message = pb.Job(
        id=job.id,
        kind=job.kind,
        collection=job.collection,
        state=pb.Job.State.Value(f"STATE_{job.state.value}"),
        failure=job.failure,
        total=job.total,
        done=job.done,
        failed=job.failed,
        errors=[
            types_pb2.ItemError(code=e.code, reason=e.reason, message=e.message, field=e.field) for e in job.errors
        ],
        detail=job.detail,
        findings=[
            pb.Job.Finding(kind=kind, found=found, repaired=repaired)
            for kind, (found, repaired) in sorted(job.findings.items())
        ],
    )
    message.create_time.FromMilliseconds(job.created_at_ms)
    if job.ended_at_ms:
        message.end_time.FromMilliseconds(job.ended_at_ms)
    return message


def index_spec(spec: pb.IndexSpec, field: str) -> IndexSpec:
    """An index, checked; InvalidArgument names the field below `field`."""
    try:
        kind = IndexType(pb.IndexType.Name(spec.type or pb.INDEX_TYPE_IVF_FLAT).removeprefix("INDEX_TYPE_"))
    except ValueError as exc:
        raise InvalidArgument("is none of the contract's kinds of index", field=f"{field}.type") from exc
    try:
        metric = Metric(pb.Metric.Name(spec.metric or pb.METRIC_COSINE).removeprefix("METRIC_"))
    except ValueError as exc:
        raise InvalidArgument("is none of the contract's comparisons", field=f"{field}.metric") from exc
    # Written so that NaN fails too.
    if not 0 <= spec.target_recall <= 1 or math.isnan(spec.target_recall):
        raise InvalidArgument(
            f"is in (0, 1], or 0 for 0.95, not {spec.target_recall:g}", field=f"{field}.target_recall"
        )
    for name in ("nlist", "nprobe"):
        if getattr(spec, name) > MAX_LISTS:
            raise InvalidArgument(f"is at most {MAX_LISTS:,}", field=f"{field}.{name}")
    # The message's float has seven digits.
    recall = round(spec.target_recall, 6) or DEFAULT_TARGET_RECALL
    return IndexSpec(type=kind, metric=metric, target_recall=recall, nlist=spec.nlist, nprobe=spec.nprobe)
