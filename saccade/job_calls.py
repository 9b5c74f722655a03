"""The calls about jobs, as saccade.calls has the others."""

from collections.abc import Iterable
from typing import Any

from saccade.calls import Call, Pages
from saccade.ingest.v1 import ingest_service_pb2 as ingest

__all__ = [
    "cancel_job",
    "get_job",
    "import_images",
    "list_jobs",
    "reindex_collection",
    "repair_collection",
    "retag_collection",
]


def reindex_collection(
    name: str,
    *,
    model: str = "",
    index: ingest.IndexSpec | None = None,
    min_agreement: float = 0.0,
    rollback: bool = False,
) -> Call[ingest.Job]:
    """Start building the next generation of a collection's index; until it is whole, searches use the present one.

    Args:
        name: The collection.
        model: Model to embed with ("": the present one, whose vectors are taken over).
        index: From `make_index`; None: the present one.
        min_agreement: Share of sampled searches whose best result must stay where the model does; 0 for 0.9.
        rollback: Go back to the generation before instead, brought up to date.
    """
    request = ingest.ReindexCollectionRequest(
        collection=name, model=model, index=index, min_agreement=min_agreement, rollback=rollback
    )
    return Call("ingest", "ReindexCollection", request, _job)


def retag_collection(name: str, *, vocabulary: str = "") -> Call[ingest.Job]:
    """Start choosing the model's tags anew; `vocabulary` becomes the collection's ("": its present one)."""
    request = ingest.RetagCollectionRequest(collection=name, vocabulary=vocabulary)
    return Call("ingest", "RetagCollection", request, _job)


def import_images(
    name: str,
    *,
    bucket: str = "",
    prefix: str = "",
    folder: str = "",
    urls: Iterable[str] = (),
    tags: Iterable[str] = (),
) -> Call[ingest.Job]:
    """Start storing images that the service can reach itself; what is stored already stays as it is.

    Args:
        name: The collection.
        bucket: Bucket of the store that the service uses, if it may import from there.
        prefix: Where keys in the bucket begin; "": all.
        folder: file:///folder on the service's machine instead, below the one that it may import from.
        urls: Web addresses instead, up to 10,000.
        tags: Tags for every image.
    """
    addresses = list(urls)
    if [bool(bucket), bool(folder), bool(addresses)].count(True) != 1:
        raise ValueError("import_images needs one of bucket, folder and urls")
    request = ingest.ImportImagesRequest(collection=name, tags=tags)
    if bucket:
        request.bucket.bucket, request.bucket.prefix = bucket, prefix
    elif folder:
        request.folder = folder
    else:
        request.urls.urls.extend(addresses)
    return Call("ingest", "ImportImages", request, _job)


def repair_collection(name: str, *, dry_run: bool = False) -> Call[ingest.Job]:
    """Start comparing what is stored with the index, and mending what differs; with `dry_run` only report.

    An index that was lost is built anew. The job's `findings` say what was found and mended, by kind.
    """
    request = ingest.RepairCollectionRequest(collection=name, dry_run=dry_run)
    return Call("ingest", "RepairCollection", request, _job)


def get_job(id: str) -> Call[ingest.Job]:
    """One job: where it stands, and what came out of it."""
    return Call("ingest", "GetJob", ingest.GetJobRequest(id=id), _job)


def list_jobs(*, collection: str = "", page_size: int = 0) -> Pages[ingest.Job]:
    """Jobs of a collection ("": of all), newest first."""
    request = ingest.ListJobsRequest(collection=collection, page_size=page_size)
    return Pages("ingest", "ListJobs", request, lambda answer: answer.jobs)


def cancel_job(id: str) -> Call[ingest.Job]:
    """Stop a job, and wait for that some seconds; one that has ended stays as it is."""
    return Call("ingest", "CancelJob", ingest.CancelJobRequest(id=id), _job)


def _job(answer: Any) -> ingest.Job:
    job: ingest.Job = answer.job
    return job
