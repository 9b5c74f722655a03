"""Commands that start long work, and look after it: `reindex`, `retag`, `jobs`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import grpc
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from saccade.cli.app import JsonOption, app, client_of
from saccade.cli.output import note, show_table, time_of, to_dict, write_json
from saccade.client import Client
from saccade.errors import ApiError
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from saccade.requests import make_index

__all__ = ["CollectionArgument", "WaitOption", "ended", "follow"]

_LOOK_S = 0.5
_PATIENCE_S = 60.0
_FAILURES_SHOWN = 20

WaitOption = Annotated[
    bool, typer.Option("--wait", help="Stay until the job has ended; exit code 1 unless it is well.")
]
CollectionArgument = Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection's name.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]

jobs = typer.Typer(help="List the latest jobs, or look after one.", invoke_without_command=True)
app.add_typer(jobs, name="jobs")


@app.command()
def reindex(
    context: typer.Context,
    *,
    collection: CollectionArgument,
    model: Annotated[str, typer.Option(help="Model to embed with; without it: the present one.")] = "",
    index: Annotated[str, typer.Option(help="Kind of index: ivf_flat, hnsw, flat or lsh.")] = "",
    metric: Annotated[str, typer.Option(help="Comparison: cosine, l2 or ip.")] = "",
    target_recall: Annotated[float, typer.Option(min=0, max=1, help="Recall@10 to aim for; 0: 0.95.")] = 0.0,
    nlist: Annotated[int, typer.Option(min=0, help="Lists of ivf_flat; 0: as many as the rows want.")] = 0,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of sampled searches whose best result must stay; 0: 0.9.")
    ] = 0.0,
    rollback: Annotated[bool, typer.Option("--rollback", help="Go back to the generation before.")] = False,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build a collection's index anew beside the present one, which answers until the next one is whole."""
    client = client_of(context)
    spec = None
    if index or metric or target_recall or nlist:
        # What is not named stays as it is.
        spec = client.get_collection(collection).index
        spec.MergeFrom(make_index(index, metric=metric, target_recall=target_recall, nlist=nlist))  # type: ignore[arg-type]
    job = client.reindex_collection(collection, model=model, index=spec, min_agreement=min_agreement, rollback=rollback)
    follow(client, job, wait=wait, as_json=as_json)


@app.command()
def retag(
    context: typer.Context,
    *,
    collection: CollectionArgument,
    vocabulary: Annotated[str, typer.Option(help="Vocabulary to choose from; without it: the present one.")] = "",
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Choose the model's tags of all images anew, without looking at the images again. Tags that people gave stay."""
    client = client_of(context)
    follow(client, client.retag_collection(collection, vocabulary=vocabulary), wait=wait, as_json=as_json)


@jobs.callback()
def list_jobs(
    context: typer.Context,
    *,
    collection: Annotated[str, typer.Option("--collection", "-c", help="Only jobs of this collection.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most jobs.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the latest jobs, or look after one."""
    if context.invoked_subcommand is not None:
        return
    listed = client_of(context).list_jobs(collection=collection, page_size=min(limit, 1000))
    taken = [job for job, _ in zip(listed, range(limit), strict=False)]
    if as_json:
        write_json([to_dict(job) for job in taken])
        return
    rows = [
        [
            job.id,
            job.kind,
            job.collection,
            _state(job),
            _progress(job),
            time_of(job.create_time),
            job.failure or job.detail,
        ]
        for job in taken
    ]
    show_table(["job", "kind", "collection", "state", "done", "started", ""], rows, empty="no jobs")


@jobs.command()
def show(context: typer.Context, job_id: JobArgument, wait: WaitOption = False, as_json: JsonOption = False) -> None:
    """Show a job; with --wait, follow it to its end."""
    client = client_of(context)
    job = client.get_job(job_id)
    if wait or as_json:
        follow(client, job, wait=wait, as_json=as_json)
    else:
        _show(job)


@jobs.command()
def cancel(context: typer.Context, job_id: JobArgument, as_json: JsonOption = False) -> None:
    """Stop a job. A reindex that is not live yet takes away what it built; other work stays."""
    job = client_of(context).cancel_job(job_id)
    if as_json:
        write_json(to_dict(job))
    else:
        note(f"{job.id}: {_state(job)}" + ("; it stops in a moment" if _runs(job) else ""))


def follow(client: Client, job: ingest.Job, *, wait: bool, as_json: bool) -> None:
    """Show a job that was started; with `wait`, when it has ended. Exit code 1 where it, or any image of it, failed."""
    if wait:
        job = ended(client, job)
    if as_json:
        write_json(to_dict(job))
    elif wait:
        _show(job)
    else:
        note(f"started {job.id}; `saccade jobs show {job.id} --wait` follows it")
    if wait and (job.state != ingest.Job.STATE_SUCCEEDED or job.failed):
        raise typer.Exit(1)


def ended(client: Client, job: ingest.Job) -> ingest.Job:
    """The job when it has ended. It goes on while ingest is away for a moment, and so does this."""
    silent_since = 0.0
    with _bar() as bar:
        task = bar.add_task(job.kind, total=None)
        while _runs(job):
            time.sleep(_LOOK_S)
            try:
                job = client.get_job(job.id)
                silent_since = 0.0
            except ApiError as exc:
                silent_since = silent_since or time.monotonic()
                if exc.code != grpc.StatusCode.UNAVAILABLE or time.monotonic() - silent_since > _PATIENCE_S:
                    raise
            words = Text(job.detail).plain
            bar.update(task, total=job.total or None, completed=job.done + job.failed, description=words)
    return job


@contextmanager
def _bar() -> Iterator[Progress]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar


def _show(job: ingest.Job) -> None:
    rows: list[list[object]] = [
        ["job", job.id],
        ["kind", job.kind],
        ["collection", job.collection],
        ["state", _state(job)],
        ["failure", job.failure],
        ["done", _progress(job)],
        ["failed", job.failed or ""],
        ["detail", job.detail],
        ["started", time_of(job.create_time)],
        ["ended", time_of(job.end_time)],
    ]
    rows += [[error.field, f"{error.reason} {error.message}"] for error in job.errors[-_FAILURES_SHOWN:]]
    show_table(["", ""], [row for row in rows if row[1]], empty="")


def _state(job: ingest.Job) -> str:
    return ingest.Job.State.Name(job.state).removeprefix("STATE_").lower()


def _runs(job: ingest.Job) -> bool:
    return job.state == ingest.Job.STATE_RUNNING


def _progress(job: ingest.Job) -> str:
    return f"{job.done} of {job.total}"
