"""The calls about jobs, as saccade.calls has the others."""

from typing import Any

from saccade.calls import Call, Pages
from saccade.ingest.v1 import ingest_service_pb2 as ingest

__all__ = ["cancel_job", "get_job", "list_jobs", "reindex_collection", "retag_collection"]


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
