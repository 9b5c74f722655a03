"""`saccade ingest`."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from saccade import filters
from saccade.cli.app import CollectionOption, JsonOption, app, client_of
from saccade.cli.output import note, show_table, state_of, write_json
from saccade.client import Client
from saccade.common.v1 import types_pb2
from saccade.errors import ApiError
from saccade.labels import read_labels
from saccade.requests import NewImage, Wait, content_id, is_url, read_picture
from saccade.upload import StreamResult

__all__ = ["ingest"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Files with these endings are taken from folders; a file named by itself is always taken."""

_LOOK_UP = 200
_FAILURES_SHOWN = 20
_REACHED: dict[str, int] = {
    "durable": types_pb2.IMAGE_STATE_DURABLE,
    "searchable": types_pb2.IMAGE_STATE_SEARCHABLE,
    "segmented": types_pb2.IMAGE_STATE_SEGMENTED,
}


@app.command()
def ingest(
    context: typer.Context,
    *,
    sources: Annotated[list[str], typer.Argument(metavar="DIR|FILE|URL...", help="Folders: all below them.")],
    collection: CollectionOption,
    create: Annotated[bool, typer.Option(help="Make the collection if it is not there.")] = True,
    model: Annotated[str, typer.Option(help="Model of a collection that is made.")] = "",
    vocabulary: Annotated[str, typer.Option(help="Vocabulary of a collection that is made.")] = "",
    tags: Annotated[str, typer.Option(help="Tags for every image, with commas between them.")] = "",
    labels: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Labels: titles, ids and metadata for the files that they name."
        ),
    ] = None,
    wait: Annotated[str, typer.Option(help="How far to wait: durable, searchable or segmented.")] = "searchable",
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Most images under way at a time.")] = 16,
    as_json: JsonOption = False,
) -> None:
    """Store images: folders, files and addresses. Run it again to go on where it was interrupted.

    An image's id is made from its content, and what is stored already is not sent again. With --json there is
    one object for each image ("result": stored, existed, skipped or failed) and a last one with the counts.
    """
    wanted: Sequence[Wait] = ("durable", "searchable", "segmented")
    state = next((name for name in wanted if name == wait), None)
    if state is None:
        raise typer.BadParameter(f"--wait needs durable, searchable or segmented, not {wait}", ctx=context)
    client = client_of(context)
    images = _described(_find(sources), labels, [tag.strip() for tag in tags.split(",") if tag.strip()])
    if not images:
        raise ValueError(f"no images found; in folders, files with these endings count: {', '.join(sorted(SUFFIXES))}")
    if create:
        _create(client, collection, model, vocabulary)
    run = _Run(client, collection, state, as_json=as_json)
    try:
        run.store(images, concurrency)
    finally:
        run.summarise(len(images))
    if run.failures:
        raise typer.Exit(1)


class _Run:
    """One upload: what it skips, stores and fails at."""

    def __init__(self, client: Client, collection: str, wait: Wait, *, as_json: bool) -> None:
        self._client = client
        self._collection = collection
        self._wait: Wait = wait
        self._as_json = as_json
        self._counts: Counter[str] = Counter(stored=0, existed=0, skipped=0, failed=0)
        self._started = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.failures: list[tuple[str, ApiError]] = []

    def store(self, images: Sequence[NewImage], concurrency: int) -> None:
        """Send what is not there yet; ApiError if the service is gone for good."""
        with self._progress as progress:
            task = progress.add_task("images", total=len(images))
            results = self._client.stream_images(
                self._missing(images, lambda count: progress.advance(task, count)),
                collection=self._collection,
                wait_for=self._wait,
                max_in_flight=concurrency,
            )
            for result in results:
                self._take(result)
                progress.advance(task)

    def _missing(self, images: Iterable[NewImage], skip: Any) -> Iterator[NewImage]:
        """The images whose content is not stored yet, as far as waited for; runs on the upload's own thread."""
        remaining = iter(images)
        while chunk := list(islice(remaining, _LOOK_UP)):
            # By position: files of several folders may go by the same source.
            known = [(image, _identity(image)) for image in chunk]
            stored = self._stored([identity[0] for _, identity in known if identity])
            for image, identity in known:
                if identity and stored.get(identity[0]) == identity[1]:
                    self._report("skipped", image, {"id": identity[0]})
                    skip(1)
                else:
                    yield image

    def _stored(self, ids: list[str]) -> dict[str, str]:
        """Id -> SHA-256 of those that are stored and have come as far as is waited for."""
        if not ids:
            return {}
        enough = {state for state in _REACHED.values() if state >= _REACHED[self._wait]}
        try:
            found = list(self._client.list_images(self._collection, filter=filters.ids(*ids), page_size=len(ids)))
        except ApiError as exc:
            if not _index_is_away(exc):
                raise
            # Images are taken all the same; what is stored already is seen when it comes.
            return {}
        return {image.id: image.sha256 for image in found if image.state in enough}

    def _take(self, result: StreamResult) -> None:
        if result.image is not None:
            kind = "existed" if result.existed else "stored"
            self._report(kind, result.item, {"id": result.image.id, "state": state_of(result.image)})
            return
        error = result.error or ApiError(grpc.StatusCode.UNKNOWN, "no reason was given")
        self.failures.append((result.item.source, error))
        details = {"code": error.code.name, "reason": error.reason, "message": error.message}
        self._report("failed", result.item, details)

    def _report(self, kind: str, image: NewImage, details: dict[str, str]) -> None:
        self._counts[kind] += 1
        if self._as_json:
            write_json({"result": kind, "source": image.source, **details})

    def summarise(self, total: int) -> None:
        """Say what became of the images."""
        seconds = round(time.monotonic() - self._started, 1)
        open_ = total - self._counts.total()
        if self._as_json:
            write_json({"result": "summary", "total": total, **self._counts, "unfinished": open_, "seconds": seconds})
            return
        already = self._counts["skipped"] + self._counts["existed"]
        # A stored image's segments are made in the background, unless the run has waited for them.
        more = "; segments follow" if self._counts["stored"] and self._wait != "segmented" else ""
        counts = f"{self._counts['stored']} stored, {already} there already, {self._counts['failed']} failed"
        note(f"{counts}, {seconds} s{more}")
        if self.failures:
            rows = [[source, error.reason, error.message] for source, error in self.failures[:_FAILURES_SHOWN]]
            show_table(["failed", "reason", "why"], rows, empty="")
            if len(self.failures) > _FAILURES_SHOWN:
                note(f"and {len(self.failures) - _FAILURES_SHOWN} more; --json names them all")
        if open_:
            note(f"{open_} not finished; the same command goes on from here")


def _find(sources: Sequence[str]) -> list[NewImage]:
    """What the arguments name, folders in order of their paths; each file once."""
    found: dict[str, NewImage] = {}
    for source in sources:
        if is_url(source):
            found[source] = NewImage(source, source=source)
            continue
        path = Path(source)
        if not path.exists():
            raise ValueError(f"there is no {source}")
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file == path or (file.suffix.lower() in SUFFIXES and file.is_file() and not _hidden(file, path)):
                name = str(file.relative_to(path)) if file != path else file.name
                found[str(file.resolve())] = NewImage(file, source=name)
    return list(found.values())


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _described(images: list[NewImage], labels: Path | None, tags: list[str]) -> list[NewImage]:
    """The images with the tags given for all, and with what the labels say of each."""
    known = {label.path.resolve(): label for label in read_labels(labels)} if labels else {}
    described = []
    for image in images:
        label = known.get(image.content.resolve()) if isinstance(image.content, Path) else None
        described.append(label.to_image(tags) if label else replace(image, tags=tags))
    return described


def _identity(image: NewImage) -> tuple[str, str] | None:
    """The image's id and SHA-256; None for an address, or where it can not be read, which the upload then reports."""
    if is_url(image.content):
        return None
    try:
        data = read_picture(image.content)
    except (OSError, ValueError):
        return None
    return image.id or content_id(data), hashlib.sha256(data).hexdigest()


def _index_is_away(error: ApiError) -> bool:
    """Whether ingest answers, but without the index: it was lost, or does not answer."""
    if error.code == grpc.StatusCode.NOT_FOUND:
        return error.reason == "INDEX_MISSING"
    return bool(error.reason) and error.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def _create(client: Client, collection: str, model: str, vocabulary: str) -> None:
    try:
        client.get_collection(collection)
    except ApiError as exc:
        if _index_is_away(exc):
            # Whether it is there shows when the first image is stored.
            return
        if exc.code != grpc.StatusCode.NOT_FOUND:
            raise
        client.create_collection(collection, model=model, vocabulary=vocabulary)
        note(f"made the collection {collection}")
