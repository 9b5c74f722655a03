"""Jobs put together."""

from dataclasses import dataclass

from services.common.embedder_client import EmbedderClient
from services.common.objects import ObjectStore
from services.common.vectors import VectorStore
from services.ingest.collections import Collections
from services.ingest.dirt import DirtyMarks
from services.ingest.files import ImageFiles
from services.ingest.jobs.copying import Copier
from services.ingest.jobs.following import Following
from services.ingest.jobs.growth import Growth
from services.ingest.jobs.measuring import Measuring
from services.ingest.jobs.owning import Owning
from services.ingest.jobs.reindex import Reindex
from services.ingest.jobs.retag import Retag
from services.ingest.jobs.runner import JobRunner
from services.ingest.jobs.service import Jobs
from services.ingest.jobs.store import JobStore
from services.ingest.locks import KeyedLocks
from services.ingest.markers import MarkerStore
from services.ingest.pipeline import Pipeline
from services.ingest.settings import IngestSettings
from services.ingest.uninterrupted import Uninterrupted
from services.ingest.vocabulary import Vocabularies

__all__ = ["JobParts", "job_parts"]


@dataclass(frozen=True, slots=True)
class JobParts:
    """What the rest of the service needs of jobs."""

    jobs: Jobs
    runner: JobRunner
    following: Following
    growth: Growth


def job_parts(
    *,
    objects: ObjectStore,
    vectors: VectorStore,
    embedder: EmbedderClient,
    vocabularies: Vocabularies,
    collections: Collections,
    files: ImageFiles,
    markers: MarkerStore,
    dirt: DirtyMarks,
    pipeline: Pipeline,
    locks: KeyedLocks,
    steps: Uninterrupted,
    settings: IngestSettings,
) -> JobParts:
    """Put jobs together; `locks` and `steps` are shared with all that changes images."""
    store = JobStore(objects, lease_s=settings.lease_s)
    owning = Owning(collections, store)
    following = Following(
        collections=collections, files=files, vectors=vectors, markers=markers, dirt=dirt, locks=locks, steps=steps
    )
    measuring = Measuring(objects, vectors, embedder, vocabularies)
    reindex = Reindex(
        files=files,
        vectors=vectors,
        copier=Copier(files, vectors, embedder, steps),
        collections=collections,
        dirt=dirt,
        following=following,
        measuring=measuring,
        owning=owning,
        retire_s=settings.retire_s,
    )
    retag = Retag(
        collections=collections,
        files=files,
        vectors=vectors,
        embedder=embedder,
        vocabularies=vocabularies,
        pipeline=pipeline,
        markers=markers,
        locks=locks,
        steps=steps,
        owning=owning,
    )
    runner = JobRunner(
        store,
        {"reindex": reindex, "retag": retag},
        at_once=settings.jobs_at_once,
        lease_s=settings.lease_s,
        scan_s=settings.scan_s,
    )
    jobs = Jobs(
        store=store,
        runner=runner,
        owning=owning,
        collections=collections,
        vocabularies=vocabularies,
        embedder=embedder,
        vectors=vectors,
    )
    return JobParts(jobs, runner, following, Growth(jobs, vectors, measuring, settings))
