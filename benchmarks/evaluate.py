"""Retrieval, segmentation and tags, measured through the running services: `python -m benchmarks.evaluate`.

Without options a stack of its own is started on free ports, and the 200 evaluation scenes of the demo's gallery are
stored in it. `--labels FILE` evaluates a folder of one's own; saccade.labels says how its labels look. Settings of the
services, such as SACCADE_MODEL, apply. The report is printed, and written as one flat JSON object.

text_to_image.MODE.recall_at_K       captions; share whose own image is among the first K (without MODE: hybrid)
image_to_image.MODE.recall_at_K      changed pictures (demo: the same objects elsewhere on another background)
objects.MODE.map_at_10               single objects, by "a photo of an owl" and by a picture of it (objects.text and
                                     objects.image: of one kind); images that show the same object are relevant
exclusion.removed_fraction           "an owl, without a dog": 1 - images with a dog among the first 10 over those among
                                     the first 10 for the owl alone; exclusion.recall_at_10: of owls without a dog, and
                                     before
modified.recall_at_10                a close-up of one object with another one as modifier: images that show both; and
                                     modified.picture_alone, modified.text_alone of the same
region_to_image.small.MODE.recall_at_10   a box around an object under 8 % of its picture; found relevant images out of
                                     min(10, relevant), relevant ones showing the same object
region_to_image.all.MODE.recall_at_10     the same for labelled boxes of any size, their own image left out
relations.accuracy_at_1              texts that say place, relation or count, among scenes of the same objects that
                                     stand otherwise (demo only; relations.KIND: of one kind); the right one is first
relations.plain_text.accuracy_at_1   the same texts, taken as written
segmentation.iou                     mean over the labelled objects of the best stored segment's IoU with the true mask
                                     (segmentation.box_iou: with the true box, where no masks are known)
tags.precision, tags.recall          tags that the model gave, against the names of the objects
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measures import BoolMask, Counts, average_precision_at, best_iou, box_mask, mean, rank_of, recall_at
from benchmarks.plan import Plan, demo_plan, own_plan
from benchmarks.query_sets import (
    ArrangementQuery,
    ExclusionQuery,
    ModifiedQuery,
    ObjectQuery,
    PictureQuery,
    RegionQuery,
)
from saccade import AsyncClient, Client, NewImage, filters, make_part, make_region
from saccade.common.v1 import types_pb2
from saccade.errors import ApiError
from saccade.labels import Label, LabelsError
from saccade.requests import Mode
from services.common.domain import Mask
from services.stack import gallery
from services.stack.console import Screen
from services.stack.engines import EngineMissing
from services.stack.processes import ProcessError
from services.stack.settings import StackSettings
from services.stack.stack import temporary_stack

__all__ = ["Report", "evaluate"]

COLLECTION: Final = "evaluation"
ARRANGEMENTS: Final = "evaluation_arrangements"
CONCURRENT: Final = 4
K: Final = (1, 5, 10)
MODES: Final[tuple[Mode, ...]] = ("whole", "segment", "hybrid")
DEFAULT_MODE: Final[Mode] = "hybrid"

Report = dict[str, float | int | str]
T = TypeVar("T")
R = TypeVar("R")


def evaluate(client: Client, open_client: Callable[[], AsyncClient], plan: Plan, screen: Screen) -> Report:
    """Store what the plan names in a collection of its own, ask everything, and remove the collection."""
    model = client.get_model()
    report: Report = {"model": model.model, "fingerprint": model.fingerprint, "segmenter": model.segmenter}
    report |= {"images": len(plan.labels), "objects": sum(len(label.objects) for label in plan.labels)}
    if plan.vocabulary:
        client.put_vocabulary(COLLECTION, plan.vocabulary, prompt_templates=plan.templates)
    client.create_collection(COLLECTION, vocabulary=COLLECTION if plan.vocabulary else "")
    try:
        progress = screen.counting("storing", len(plan.labels))
        loaded = gallery.load(client, plan.labels, COLLECTION, wait="segmented", progress=progress)
        report["seconds.storing"] = round(loaded.seconds, 1)
        started = time.monotonic()
        report |= asyncio.run(_ask(open_client, plan, screen))
        if plan.arrangements:
            report |= _arrangements(client, open_client, plan.arrangements, screen)
        report["seconds.asking"] = round(time.monotonic() - started, 1)
    finally:
        screen.done()
        client.delete_collection(COLLECTION, force=True)
    return report


async def _ask(open_client: Callable[[], AsyncClient], plan: Plan, screen: Screen) -> Report:
    async with open_client() as client:
        report: Report = {}
        for mode in MODES:
            report |= await _texts(client, mode, plan, screen)
            report |= await _pictures(client, mode, plan, screen)
        for mode in MODES:
            report |= await _objects(client, mode, plan.objects, screen)
        report |= await _exclusions(client, plan.exclusions, screen)
        report |= await _modified(client, plan.modified, screen)
        for name, queries in (("small", plan.small), ("all", plan.regions)):
            for mode in MODES:
                report |= await _regions(client, name, mode, queries, screen)
        report |= await _stored(client, plan, screen)
    return report


async def _texts(client: AsyncClient, mode: Mode, plan: Plan, screen: Screen) -> Report:
    asked = [label for label in plan.labels if label.caption]

    async def ask(label: Label) -> int | None:
        answer = await client.search(COLLECTION, text=label.caption, mode=mode, top_k=max(K))
        return rank_of([result.image.id for result in answer.results], label.id)

    return _ranks("text_to_image", mode, await _each(asked, ask, screen, f"captions, {mode}"))


async def _pictures(client: AsyncClient, mode: Mode, plan: Plan, screen: Screen) -> Report:
    async def ask(query: PictureQuery) -> int | None:
        picture = await asyncio.to_thread(query.picture)
        answer = await client.search(COLLECTION, image=picture, mode=mode, top_k=max(K))
        return rank_of([result.image.id for result in answer.results], query.wanted)

    return _ranks("image_to_image", mode, await _each(plan.pictures, ask, screen, f"pictures, {mode}"))


async def _objects(client: AsyncClient, mode: Mode, queries: Sequence[ObjectQuery], screen: Screen) -> Report:
    if not queries:
        return {}

    async def by_text(query: ObjectQuery) -> float:
        answer = await client.search(COLLECTION, text=query.text, mode=mode, top_k=10)
        return average_precision_at([result.image.id for result in answer.results], query.relevant, 10)

    async def by_image(query: ObjectQuery) -> float:
        picture = await asyncio.to_thread(query.picture)
        others = filters.negated(filters.ids(query.source))
        answer = await client.search(COLLECTION, image=picture, mode=mode, filter=others, top_k=10)
        found = [result.image.id for result in answer.results]
        return average_precision_at(found, query.relevant - {query.source}, 10)

    texts = await _each(queries, by_text, screen, f"objects by text, {mode}")
    images = await _each(queries, by_image, screen, f"objects by picture, {mode}")
    return {
        f"objects.{mode}.map_at_10": mean([*texts, *images]),
        f"objects.text.{mode}.map_at_10": mean(texts),
        f"objects.image.{mode}.map_at_10": mean(images),
    }


async def _exclusions(client: AsyncClient, queries: Sequence[ExclusionQuery], screen: Screen) -> Report:
    if not queries:
        return {}

    async def ask(query: ExclusionQuery) -> tuple[int, int, float, float]:
        without = [make_part(text=query.unwanted, weight=-1)]
        plain = await client.search(COLLECTION, text=query.wanted, top_k=10)
        pushed = await client.search(COLLECTION, text=query.wanted, parts=without, top_k=10)
        before, after = ([result.image.id for result in answer.results] for answer in (plain, pushed))
        return (
            len(query.holding & set(before)),
            len(query.holding & set(after)),
            recall_at(before, query.relevant, 10),
            recall_at(after, query.relevant, 10),
        )

    answers = await _each(queries, ask, screen, "exclusions")
    there, still = sum(before for before, _, _, _ in answers), sum(after for _, after, _, _ in answers)
    return {
        "exclusion.queries": len(answers),
        "exclusion.removed_fraction": 1 - still / there if there else 1.0,
        "exclusion.recall_at_10": mean([after for _, _, _, after in answers]),
        "exclusion.recall_at_10_before": mean([before for _, _, before, _ in answers]),
    }


async def _modified(client: AsyncClient, queries: Sequence[ModifiedQuery], screen: Screen) -> Report:
    if not queries:
        return {}

    async def ask(query: ModifiedQuery) -> tuple[float, float, float]:
        picture = await asyncio.to_thread(query.picture)
        both = make_part(image=picture)
        both.modifier = query.modifier
        asked = ([both], [make_part(image=picture)], [make_part(text=query.modifier)])
        others = filters.negated(filters.ids(query.source))
        answers = [await client.search(COLLECTION, parts=parts, filter=others, top_k=10) for parts in asked]
        found = [recall_at([result.image.id for result in answer.results], query.relevant, 10) for answer in answers]
        return found[0], found[1], found[2]

    answers = await _each(queries, ask, screen, "modified pictures")
    return {
        "modified.queries": len(answers),
        "modified.recall_at_10": mean([both for both, _, _ in answers]),
        "modified.picture_alone.recall_at_10": mean([picture for _, picture, _ in answers]),
        "modified.text_alone.recall_at_10": mean([text for _, _, text in answers]),
    }


async def _regions(
    client: AsyncClient, name: str, mode: Mode, queries: Sequence[RegionQuery], screen: Screen
) -> Report:
    async def ask(query: RegionQuery) -> float:
        answer = await client.search(
            COLLECTION,
            region=make_region(image=await asyncio.to_thread(query.picture), box=query.box),
            mode=mode,
            filter=filters.negated(filters.ids(query.left_out)) if query.left_out else None,
            top_k=max(K),
        )
        return recall_at([result.image.id for result in answer.results], query.relevant, max(K))

    recalls = await _each(queries, ask, screen, f"{name} regions, {mode}")
    key = f"region_to_image.{name}"
    report: Report = {f"{key}.queries": len(recalls)}
    if recalls:
        report[f"{key}.{mode}.recall_at_10"] = mean(recalls)
    return report


def _arrangements(
    client: Client, open_client: Callable[[], AsyncClient], queries: Sequence[ArrangementQuery], screen: Screen
) -> Report:
    """Store the scenes of all arrangements in a collection of their own, and ask for each by its text."""
    images = [NewImage(data, id=name) for query in queries for name, data in query.images.items()]
    client.create_collection(ARRANGEMENTS)
    try:
        progress = screen.counting("storing arrangements", len(images))
        for done, result in enumerate(client.stream_images(images, collection=ARRANGEMENTS, wait_for="segmented"), 1):
            if result.error:
                raise result.error
            progress(done)
        return asyncio.run(_ask_arrangements(open_client, queries, screen))
    finally:
        client.delete_collection(ARRANGEMENTS, force=True)


async def _ask_arrangements(
    open_client: Callable[[], AsyncClient], queries: Sequence[ArrangementQuery], screen: Screen
) -> Report:
    report: Report = {"relations.queries": len(queries)}
    async with open_client() as client:
        for prefix, literal in (("relations", False), ("relations.plain_text", True)):

            async def ask(query: ArrangementQuery, literal: bool = literal) -> float:
                answer = await client.search(ARRANGEMENTS, text=query.text, literal_text=literal, top_k=1)
                return float([result.image.id for result in answer.results] == [query.wanted])

            right = await _each(queries, ask, screen, "arrangements, as written" if literal else "arrangements")
            report[f"{prefix}.accuracy_at_1"] = mean(right)
            for kind in dict.fromkeys(query.kind for query in queries):
                report[f"{prefix}.{kind}.accuracy_at_1"] = mean(
                    [value for value, query in zip(right, queries, strict=True) if query.kind == kind]
                )
    return report


async def _stored(client: AsyncClient, plan: Plan, screen: Screen) -> Report:
    """What is stored of each image against its labels: segments and tags."""

    async def get(label: Label) -> types_pb2.Image:
        return await client.get_image(COLLECTION, label.id, include_masks=True)

    images = {image.id: image for image in await _each(plan.labels, get, screen, "segments")}
    report: Report = {}
    by_mask = all(labelled.mask for label in plan.labels for labelled in label.objects)
    overlaps = [iou for label in plan.labels for iou in _overlaps(label, images[label.id], by_mask=by_mask)]
    if overlaps:
        report["segmentation.iou" if by_mask else "segmentation.box_iou"] = mean(overlaps)
        report["segmentation.objects"] = len(overlaps)
    if any(label.objects for label in plan.labels):
        given = {image.id: [tag.name for tag in image.tags] for image in images.values()}
        counts = Counts.of(given, {label.id: label.names for label in plan.labels})
        report |= {"tags.precision": counts.precision, "tags.recall": counts.recall, "tags.given": counts.given}
    return report


def _overlaps(label: Label, image: types_pb2.Image, *, by_mask: bool) -> list[float]:
    if by_mask:
        found = [_array(segment.mask.height, segment.mask.width, segment.mask.counts) for segment in image.segments]
    else:
        boxes = [segment.box for segment in image.segments]
        found = [box_mask((box.x0, box.y0, box.x1, box.y1)) for box in boxes]
    overlaps = []
    for labelled in label.objects:
        mask = labelled.mask
        true = _array(mask["height"], mask["width"], mask["counts"]) if by_mask and mask else box_mask(labelled.box)
        overlaps.append(best_iou(true, found))
    return overlaps


def _array(height: int, width: int, counts: Sequence[int]) -> BoolMask:
    return Mask(height, width, tuple(counts)).to_array()


async def _each(items: Sequence[T], ask: Callable[[T], Awaitable[R]], screen: Screen, what: str) -> list[R]:
    """Ask for every item, a few at a time; results in the items' order."""
    slots = asyncio.Semaphore(CONCURRENT)
    progress, done = screen.counting(what, len(items)), 0

    async def one(item: T) -> R:
        nonlocal done
        async with slots:
            result = await ask(item)
        done += 1
        progress(done)
        return result

    tasks = [asyncio.create_task(one(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _ranks(name: str, mode: Mode, ranks: Sequence[int | None]) -> Report:
    if not ranks:
        return {}
    recalls = {f"recall_at_{k}": mean([float(rank is not None and rank <= k) for rank in ranks]) for k in K}
    report: Report = {f"{name}.{mode}.{key}": value for key, value in recalls.items()}
    if mode == DEFAULT_MODE:
        report |= {f"{name}.{key}": value for key, value in recalls.items()} | {f"{name}.queries": len(ranks)}
    return report


def show(report: Report) -> None:
    """Print the report as a table."""
    table = Table("measure", "value", box=None, header_style="bold", pad_edge=False)
    for key, value in report.items():
        table.add_row(key, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(table)


@contextmanager
def _services(running: bool, addresses: Mapping[str, str], screen: Screen) -> Iterator[dict[str, str]]:
    """Addresses of services: those given, or those of a stack of its own."""
    if running:
        yield dict(addresses)
        return
    with temporary_stack(os.environ, inherit=True, show=screen.show, progress=screen.starting) as stack:
        yield {"embedder": stack.embedder, "ingest": stack.ingest, "query": stack.query}


def main(
    *,
    labels: Annotated[Path | None, typer.Option(help="Labels of a folder of one's own, a JSON object a line.")] = None,
    out: Annotated[Path, typer.Option(help="Where the report is written as JSON.")] = Path("build/eval.json"),
    limit: Annotated[int, typer.Option(min=0, help="Only so many images; 0: all.")] = 0,
    queries: Annotated[int, typer.Option(min=1, help="Most region queries of each kind.")] = 200,
    running: Annotated[bool, typer.Option("--running", help="Use services that run, at the addresses below.")] = False,
    embedder_address: Annotated[str, typer.Option(envvar="SACCADE_EMBEDDER_ADDRESS")] = "127.0.0.1:50051",
    ingest_address: Annotated[str, typer.Option(envvar="SACCADE_INGEST_ADDRESS")] = "127.0.0.1:50052",
    query_address: Annotated[str, typer.Option(envvar="SACCADE_QUERY_ADDRESS")] = "127.0.0.1:50053",
) -> None:
    """Measure retrieval, segmentation and tags through the services."""
    screen = Screen(quiet=True)
    try:
        plan = own_plan(labels, limit, queries) if labels else demo_plan(StackSettings().demo_dir, limit, queries)
        given = {"embedder": embedder_address, "ingest": ingest_address, "query": query_address}
        with _services(running, given, screen) as addresses, Client(**_typed(addresses)) as client:
            report = evaluate(client, lambda: AsyncClient(**_typed(addresses)), plan, screen)
    except (ApiError, EngineMissing, LabelsError, ProcessError, gallery.GalleryError) as exc:
        screen.done()
        sys.exit(f"evaluate: {exc}")
    show(report)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    screen.say(f"written to {out}")


def _typed(addresses: Mapping[str, str]) -> dict[str, Any]:
    return {**addresses, "timeout_s": 120.0}


if __name__ == "__main__":
    typer.run(main)
