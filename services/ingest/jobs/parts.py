"""Jobs put together."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.common.embedder_client import EmbedderClient
from services.common.fetch import ImageFetcher
from services.common.objects import ObjectStore
from services.common.vectors import VectorStore
from services.ingest.collections import Collections
from services.ingest.dirt import DirtyMarks
from services.ingest.files import ImageFiles
from services.ingest.intake import Intake
from services.ingest.jobs.copying import Copier
from services.ingest.jobs.following import Following
from services.ingest.jobs.generations import Generations
from services.ingest.jobs.growth import Growth
from services.ingest.jobs.idle import IdleMarkers
from services.ingest.jobs.importing import Import
from services.ingest.jobs.inspecting import Inspector
from services.ingest.jobs.measuring import Measuring
from services.ingest.jobs.mending import Mender
from services.ingest.jobs.owning import Owning
from services.ingest.jobs.reindex import Reindex
from services.ingest.jobs.repair import Repair
from services.ingest.jobs.retag import Retag
from services.ingest.jobs.run import JobBody
from services.ingest.jobs.runner import JobRunner
from services.ingest.jobs.service import Jobs
from services.ingest.jobs.store import JobStore
from services.ingest.library import Library
from services.ingest.locks import KeyedLocks
from services.ingest.markers import MarkerStore
from services.ingest.pipeline import Pipeline
from services.ingest.settings import IngestSettings
from services.ingest.solitude import Solitude
from services.ingest.uninterrupted import Uninterrupted
from services.ingest.vocabulary import Vocabularies

__all__ = ["JobParts", "job_parts"]


@dataclass(frozen=True, slots=True)
class JobParts:
    """What the rest of the service needs of jobs."""

    jobs: Jobs
    store: JobStore
    bodies: Mapping[str, JobBody]
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
    library: Library,
    fetcher: ImageFetcher,
    intake: Intake,
    solitude: Solitude,
    locks: KeyedLocks,
    steps: Uninterrupted,
    settings: IngestSettings,
) -> JobParts:
    """Put jobs together; `solitude`, `locks` and `steps` are shared with all that changes images."""
    store = JobStore(objects, lease_s=settings.lease_s)
    owning = Owning(collections, store)
    following = Following(
        collections=collections, files=files, vectors=vectors, markers=markers, dirt=dirt, locks=locks, steps=steps
    )
    measuring = Measuring(objects, vectors, embedder, vocabularies)
    copier = Copier(files, vectors, embedder, steps, solitude)
    reindex = Reindex(
        files=files,
        vectors=vectors,
        copier=copier,
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
    inspector = Inspector(files, vectors, markers)
    repair = Repair(
        objects=objects,
        files=files,
        vectors=vectors,
        embedder=embedder,
        generations=Generations(vectors, owning),
        inspector=inspector,
        mender=Mender(
            inspector=inspector,
            files=files,
            vectors=vectors,
            markers=markers,
            intake=intake,
            pipeline=pipeline,
            copier=copier,
            collections=collections,
            locks=locks,
            steps=steps,
        ),
        idle=IdleMarkers(markers, files, inspector, grace_s=settings.repair_grace_s),
        owning=owning,
    )
    importing = Import(library=library, markers=markers, fetcher=fetcher, store=store, settings=settings)
    bodies: dict[str, JobBody] = {"import": importing, "reindex": reindex, "repair": repair, "retag": retag}
    runner = JobRunner(
        store,
        bodies,
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
        settings=settings,
    )
    return JobParts(jobs, store, bodies, runner, following, Growth(jobs, vectors, measuring, settings))
