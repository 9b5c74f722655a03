"""Commands that bring images and indexes where they should be: `import`, `doctor`, `rebuild`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from saccade.cli.app import JsonOption, app, client_of
from saccade.cli.jobs import CollectionArgument, WaitOption, ended, follow
from saccade.cli.output import complain, note, show_table, to_dict, write_json
from saccade.client import Client
from saccade.ingest.v1 import ingest_service_pb2 as ingest

__all__: list[str] = []

_SHOWN: Final = 20

CollectionsArgument = Annotated[list[str] | None, typer.Argument(metavar="COLLECTION", help="Their names.")]


@app.command("import")
def import_images(
    context: typer.Context,
    *,
    collection: CollectionArgument,
    source: Annotated[
        list[str], typer.Argument(help="s3://bucket/prefix, file:///folder, or http(s) addresses of images.")
    ],
    listed: Annotated[bool, typer.Option("--listed", help="SOURCE is a file with an address in each line.")] = False,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag for every image; may be repeated.")] = None,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Have the service store images that it can reach itself.

    It goes on after a crash. Started again it stores only what is new.
    """
    client = client_of(context)
    follow(client, _start(client, collection, source, tag or [], listed=listed), wait=wait, as_json=as_json)


@app.command()
def doctor(
    context: typer.Context,
    *,
    collections: CollectionsArgument = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what differs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare what is stored with the index, of all collections or of those named; with --repair, mend it.

    Exit code 1 where a difference is left. docs/recovery.md says what each kind of difference means.
    """
    client = client_of(context)
    names = collections or [collection.name for collection in client.list_collections()]
    _repair(client, names, dry_run=not repair, as_json=as_json)


@app.command()
def rebuild(
    context: typer.Context,
    *,
    collections: CollectionsArgument = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All collections, whether the index has them or not.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Restore the index from what is stored: of the collections that it has lost, or of those named.

    It may be stopped and started again: what is there already is not made a second time.
    """
    client = client_of(context)
    names = collections or [c.name for c in client.list_collections() if everything or c.index_missing]
    if not names:
        note("the index has lost no collection; `saccade rebuild --all` looks at each one's rows")
    _repair(client, names, dry_run=False, as_json=as_json)


def _start(client: Client, collection: str, source: list[str], tags: list[str], *, listed: bool) -> ingest.Job:
    if listed:
        lines = [line.strip() for path in source for line in Path(path).read_text().splitlines()]
        return client.import_images(collection, urls=[line for line in lines if line], tags=tags)
    schemes = {urlsplit(one).scheme for one in source}
    if schemes <= {"http", "https"}:
        return client.import_images(collection, urls=source, tags=tags)
    if len(source) > 1:
        raise ValueError("one s3:// or file:// source is imported at a time")
    if schemes == {"file"}:
        return client.import_images(collection, folder=source[0], tags=tags)
    if schemes == {"s3"}:
        parts = urlsplit(source[0])
        return client.import_images(collection, bucket=parts.netloc, prefix=parts.path.lstrip("/"), tags=tags)
    raise ValueError(
        f"{source[0]!r} is none of s3://bucket/prefix, file:///folder and http(s) addresses; `saccade ingest` sends "
        "files of this machine"
    )


def _repair(client: Client, names: Iterable[str], *, dry_run: bool, as_json: bool) -> None:
    """Repair one collection after the other; exit code 1 where a difference is left."""
    jobs = [ended(client, client.repair_collection(name, dry_run=dry_run)) for name in names]
    if as_json:
        write_json([to_dict(job) for job in jobs])
    else:
        _show(jobs)
    if any(job.state != ingest.Job.STATE_SUCCEEDED or job.failed for job in jobs):
        raise typer.Exit(1)


def _show(jobs: Sequence[ingest.Job]) -> None:
    rows: list[list[object]] = []
    for job in jobs:
        rows += [[job.collection, finding.kind, finding.found, finding.repaired] for finding in job.findings]
        if job.state != ingest.Job.STATE_SUCCEEDED:
            complain(f"{job.collection}: {job.failure or job.detail}")
        elif not job.findings:
            note(f"{job.collection}: {job.detail}")
    if rows:
        show_table(["collection", "difference", "found", "mended"], rows, empty="")
    for job in jobs:
        for error in job.errors[-_SHOWN:]:
            note(f"{job.collection}: {error.field or '-'}: {error.reason}: {error.message}")
