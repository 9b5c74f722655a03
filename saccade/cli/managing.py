"""Commands that look after collections and single images."""

from typing import Annotated, Any

import typer

from saccade.cli.app import (
    DEFAULT_COLLECTION,
    CollectionOption,
    FilterOption,
    JsonOption,
    TagOption,
    app,
    client_of,
    combined_filter,
)
from saccade.cli.output import (
    START_HINT,
    note,
    parse_json,
    show_table,
    state_of,
    time_of,
    to_dict,
    unanswered,
    write_json,
)
from saccade.client import SERVICES
from saccade.common.v1 import types_pb2
from saccade.errors import ApiError
from saccade.ingest.v1 import ingest_service_pb2 as ingest

__all__: list[str] = []


@app.command()
def status(context: typer.Context, as_json: JsonOption = False) -> None:
    """Which services are ready, which model is loaded, and what is stored. Exit code 1 where one is not ready."""
    client = client_of(context).with_timeout(5)
    errors = {service: client.check(service) for service in SERVICES}
    report: dict[str, Any] = {service: error.message if error else "ready" for service, error in errors.items()}
    if not errors["embedder"]:
        report["model"] = to_dict(client.get_model())
    stored, why = None, "ingest could not be asked"
    if not errors["ingest"]:
        try:
            stored = list(client.list_collections())
        except ApiError as exc:
            why = exc.message
    if as_json:
        listed = None if stored is None else [to_dict(collection) for collection in stored]
        write_json(report | {"collections": listed})
    else:
        states = [[service, _state(errors[service])] for service in SERVICES]
        show_table(["service", "state"], states, empty="")
        if "model" in report:
            model = report["model"]
            segmenter = model["segmenter"] or "none"
            note(f"model {model['model']} on {model['device']} in {model['precision']}; segmenter {segmenter}")
            if len(model["models"]) > 1:
                note(f"also loaded: {', '.join(model['models'][1:])}")
        if stored is None:
            note(f"collections: unknown, because {why}")
        else:
            _show_collections(stored)
        if any(error and unanswered(error) for error in errors.values()):
            note(START_HINT)
    if any(errors.values()) or stored is None:
        raise typer.Exit(1)


@app.command()
def collections(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the collections."""
    found = list(client_of(context).list_collections())
    if as_json:
        write_json([to_dict(collection) for collection in found])
    else:
        _show_collections(found)


@app.command()
def create(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Argument(help="1 to 48 of a-z, 0-9 and '_', beginning with a letter.")],
    description: Annotated[str, typer.Option(help="For people.")] = "",
    model: Annotated[str, typer.Option(help="One of the embedder's models; without it: its default one.")] = "",
    vocabulary: Annotated[str, typer.Option(help="The vocabulary that tags are chosen from.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Make a collection."""
    made = client_of(context).create_collection(name, description=description, model=model, vocabulary=vocabulary)
    if as_json:
        write_json(to_dict(made))
    else:
        note(f"made {made.name} under the model {made.model}")


@app.command()
def get(
    context: typer.Context,
    *,
    collection: CollectionOption = DEFAULT_COLLECTION,
    image_id: Annotated[str, typer.Argument(metavar="[ID]", help="An image; without it: the collection.")] = "",
    masks: Annotated[bool, typer.Option("--masks", help="With the segments' masks; only in JSON.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show an image with its segments, or a collection."""
    client = client_of(context)
    if not image_id:
        found = client.get_collection(collection)
        if as_json:
            write_json(to_dict(found))
        else:
            _show_collections([found])
        return
    image = client.get_image(collection, image_id, include_masks=masks)
    if as_json:
        write_json(to_dict(image))
    else:
        _show_image(image)


@app.command("list")
def list_(
    context: typer.Context,
    *,
    collection: CollectionOption = DEFAULT_COLLECTION,
    filter_json: FilterOption = "",
    tag: TagOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Most images.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List a collection's images by id; with --json one object on each line."""
    images = client_of(context).list_images(
        collection, filter=combined_filter(filter_json, tag), page_size=min(limit, 1000)
    )
    taken = (image for image, _ in zip(images, range(limit), strict=False))
    if as_json:
        for image in taken:
            write_json(to_dict(image))
        return
    show_table(
        ["id", "file", "title", "size", "state", "tags", "stored"],
        [
            [
                image.id,
                image.source,
                image.title,
                f"{image.width}x{image.height}",
                state_of(image),
                ", ".join(t.name for t in image.tags),
                time_of(image.create_time),
            ]
            for image in taken
        ],
        empty="no images",
    )


@app.command()
def tags(
    context: typer.Context,
    *,
    collection: CollectionOption = DEFAULT_COLLECTION,
    filter_json: FilterOption = "",
    tag: TagOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Most tags.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List a collection's tags with how many images carry them; with --tag, of the images that carry that one."""
    found = client_of(context).list_tags(
        collection, filter=combined_filter(filter_json, tag), page_size=min(limit, 1000)
    )
    taken = [count for count, _ in zip(found, range(limit), strict=False)]
    if as_json:
        write_json([to_dict(count) for count in taken])
    else:
        rows = [[count.name, count.category, str(count.image_count)] for count in taken]
        show_table(["tag", "category", "images"], rows, empty="no tags")


@app.command()
def update(
    context: typer.Context,
    *,
    collection: CollectionOption = DEFAULT_COLLECTION,
    image_id: Annotated[str, typer.Argument(metavar="ID")],
    title: Annotated[str | None, typer.Option(help="New title.")] = None,
    metadata: Annotated[str | None, typer.Option(help="New metadata, a JSON object.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="A tag, in place of all that people gave; may be repeated.")
    ] = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Remove a person's tags.")] = False,
    etag: Annotated[str, typer.Option(help="Only if the image still has this etag.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Change an image's title, metadata or tags.

    What is given replaces what was there: to add a tag, give the others again. Tags from the model stay.
    """
    image = client_of(context).update_image(
        collection,
        image_id,
        title=title,
        metadata=None if metadata is None else parse_json(metadata, "--metadata"),
        tags=[] if no_tags else tag,
        etag=etag,
    )
    if as_json:
        write_json(to_dict(image))
    else:
        _show_image(image)


@app.command()
def delete(
    context: typer.Context,
    *,
    collection: CollectionOption,
    image_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Images.")] = None,
    whole: Annotated[bool, typer.Option("--all", help="The collection itself, with all that is in it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove images, or with --all the whole collection."""
    if bool(image_ids) == whole:
        raise typer.BadParameter("needs either ids of images, or --all for the whole collection", ctx=context)
    what = f"the collection {collection} with all its images" if whole else _counted(image_ids or [])
    if not yes:
        typer.confirm(f"Remove {what}?", abort=True, err=True)
    client = client_of(context)
    if whole:
        client.delete_collection(collection, force=True)
    for image_id in image_ids or []:
        client.delete_image(collection, image_id)
    if as_json:
        write_json({"collection": collection, "removed": image_ids or []} | ({"all": True} if whole else {}))
    else:
        note(f"removed {what}")


def _counted(image_ids: list[str]) -> str:
    return f"the image {image_ids[0]}" if len(image_ids) == 1 else f"{len(image_ids)} images"


def _state(error: ApiError | None) -> str:
    """A service's state in a table; what gRPC says of a connection, in brackets at the end, is left to --json."""
    if error is None:
        return "ready"
    return error.message.partition(" (")[0] if unanswered(error) else error.message


def _show_collections(found: list[ingest.Collection]) -> None:
    show_table(
        ["collection", "images", "segments", "pending", "model", "generation", "vocabulary", "job", "made"],
        [
            [
                c.name,
                c.image_count,
                c.segment_count,
                c.pending_count,
                c.model,
                c.generation,
                c.vocabulary,
                c.job,
                time_of(c.create_time),
            ]
            for c in found
        ],
        empty="no collections",
    )
    lost = [c.name for c in found if c.index_missing]
    if lost:
        note(f"the index has lost {', '.join(lost)}; `saccade rebuild` restores what it had")


def _show_image(image: types_pb2.Image) -> None:
    rows: list[list[object]] = [
        ["id", image.id],
        ["file", image.source],
        ["title", image.title],
        ["state", f"{state_of(image)} {image.failure}".strip()],
        ["size", f"{image.width} x {image.height}, {image.size_bytes} bytes, {image.content_type}"],
        ["tags", ", ".join(f"{tag.name} {tag.confidence:.2f}" for tag in image.tags)],
        ["metadata", to_dict(image.metadata) if image.metadata else ""],
        ["stored", time_of(image.create_time)],
        ["changed", time_of(image.update_time)],
        ["etag", image.etag],
        ["original", image.original_url],
        ["thumbnail", image.thumbnail_url],
    ]
    for segment in image.segments:
        box, tags = segment.box, ", ".join(tag.name for tag in segment.tags)
        where = f"{box.x0:.2f},{box.y0:.2f},{box.x1:.2f},{box.y1:.2f}"
        rows.append([f"segment {segment.index}", f"{where}, {segment.area_fraction:.1%} of the image; {tags}"])
    show_table(["", ""], [row for row in rows if row[1]], empty="")
