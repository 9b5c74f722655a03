"""`saccade search`."""

from collections.abc import Callable, Sequence
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
from saccade.cli.output import note, show_table, to_dict, write_json
from saccade.query.v1 import query_service_pb2 as query
from saccade.requests import Box, Mode, Point, make_part, make_region

__all__ = ["search"]

_NEGATIVE_WEIGHT = -0.5


# Words without --text are taken so that the complaint can say where they belong.
@app.command(context_settings={"allow_extra_args": True})
def search(
    context: typer.Context,
    *,
    collection: CollectionOption = DEFAULT_COLLECTION,
    text: Annotated[
        list[str] | None, typer.Option(help='Words to look for: "an owl", "two dogs", "an owl above a ball".')
    ] = None,
    literal: Annotated[
        bool, typer.Option("--literal", help="Take words as written: read no place, relation or count from them.")
    ] = False,
    without: Annotated[list[str] | None, typer.Option("--not", help="Words to move away from (weight -0.5).")] = None,
    image: Annotated[list[str] | None, typer.Option(help="A picture to look for: a file or an address.")] = None,
    like: Annotated[list[str] | None, typer.Option(help="Id of a stored image to look for.")] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(help="Part of a picture: FILE@x0,y0,x1,y1 (a box), FILE@x,y (a point) or id:ID@... ."),
    ] = None,
    box: Annotated[str, typer.Option(help="Only this box of the one --image or --like: x0,y0,x1,y1.")] = "",
    point: Annotated[
        list[str] | None, typer.Option(help="Only what lies at this point of the one --image or --like: x,y.")
    ] = None,
    modifier: Annotated[
        str, typer.Option(help='Words that change what --image, --like and --region look for: "in the snow".')
    ] = "",
    title: Annotated[str, typer.Option(help="Words to find in titles and descriptions, alone or beside others.")] = "",
    mode: Annotated[str, typer.Option(help="whole, segment, hybrid, or tags (by tags alone).")] = "hybrid",
    tag_weight: Annotated[
        float | None, typer.Option(min=0, help="What tags count in hybrid mode, beside whole and segment (sum 1).")
    ] = None,
    filter_json: FilterOption = "",
    tag: TagOption = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=100, help="Most results.")] = 10,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Lowest score; 0.5: as likely a match as not.")] = 0.0,
    fold: Annotated[bool, typer.Option("--fold", help="Fold near-duplicates into their best one.")] = False,
    diversity: Annotated[float, typer.Option(min=0, max=1, help="Variety among results; 0: none.")] = 0.0,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector.")] = False,
    target_recall: Annotated[
        float, typer.Option(min=0, max=1, help="Recall@10 to aim for; 0: the collection's.")
    ] = 0.0,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say how each score came about, and how the index was searched.")
    ] = False,
    page_token: Annotated[str, typer.Option(help="For the next page, as the page before says.")] = "",
    bulk: Annotated[
        bool, typer.Option("--bulk", help="One of many by a program: let the searches of persons go first.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Find images by words, pictures, stored images, and regions of pictures, in any mix.

    Several of them are parts of one query; ::WEIGHT after a part makes it count more, less, or against:
    --text "owl::2" --like abc::0.5. Coordinates are fractions of the picture's sides, 0,0 top left.
    """
    if context.args:
        words = " ".join(context.args)
        raise typer.BadParameter(f'words go with --text: saccade search --text "{words}"', ctx=context)
    if modifier and not (image or like or region):
        raise typer.BadParameter("--modifier changes what --image, --like or --region look for", ctx=context)
    changed = {"modifier": modifier}
    parts = _region_parts(image or [], like or [], box, point or [], changed)
    parts += [_weighted(item, lambda words: {"text": words}) for item in text or []]
    parts += [_weighted(item, lambda words: {"text": words}, _NEGATIVE_WEIGHT) for item in without or []]
    parts += [_weighted(item, lambda value: {"region": _region(value)} | changed) for item in region or []]
    known: Sequence[Mode] = ("whole", "segment", "hybrid", "tags")
    wanted = next((name for name in known if name == mode), None)
    if wanted is None:
        raise typer.BadParameter(f"--mode needs whole, segment, hybrid or tags, not {mode}", ctx=context)
    if not parts and not title and not (wanted == "tags" and (tag or filter_json)):
        raise typer.BadParameter(
            "needs --text, --image, --like, --region or --title, or --mode tags with --tag or --filter", ctx=context
        )
    answer = client_of(context).search(
        collection,
        parts=parts,
        literal_text=literal,
        mode=wanted,
        filter=combined_filter(filter_json, tag),
        top_k=top_k,
        page_token=page_token,
        min_score=min_score,
        fold_duplicates=fold,
        diversity=diversity,
        exact=exact,
        weights={} if tag_weight is None else {"tag": tag_weight},
        title_text=title,
        target_recall=target_recall,
        explain=explain,
        bulk=bulk,
    )
    if as_json:
        write_json(to_dict(answer))
        return
    columns = ["#", "file", "title", "id", "score", "matched segments"]
    rows: list[list[object]] = [
        [rank, result.image.source, result.image.title, result.image.id, f"{result.score:.3f}", _matched(result)]
        for rank, result in enumerate(answer.results, start=1)
    ]
    if explain:
        columns.append("part, kind: raw, calibrated, weight")
        rows = [[*row, _why(result)] for row, result in zip(rows, answer.results, strict=True)]
    show_table(columns, rows, empty="nothing found")
    _describe(answer)
    if explain:
        _describe_plan(answer.plan)


def _why(result: query.SearchResult) -> str:
    """How a score came about."""
    rows = []
    for score in result.score_parts:
        what = f"{score.part + 1}, {score.kind}" if score.HasField("part") else score.kind
        rows.append(f"{what}: {score.raw:.2f}, {score.calibrated:.2f}, {score.weight:.2f}")
    return "; ".join(rows)


def _describe_plan(plan: query.SearchPlan) -> None:
    """How the query was read, and how the index was searched."""
    note(f"read as: {plan.reading}")
    for made in plan.searches:
        how = "every row" if made.exact else f"nprobe {made.nprobe}"
        note(f"{made.what}: {made.index}, {how}, {made.passing:,} of {made.rows:,} rows pass; {made.reason}")
    if not plan.calibrated:
        note("scores: no figures were measured for this model; common ones were taken")
    note(f"generation {plan.generation}, model {plan.fingerprint}")


def _describe(answer: query.SearchResponse) -> None:
    milliseconds = sum(timing.duration.ToMilliseconds() for timing in answer.plan.timings)
    stages = ", ".join(f"{timing.stage} {timing.duration.ToMilliseconds()}" for timing in answer.plan.timings)
    note(f"{milliseconds} ms ({stages}); {answer.plan.candidates} candidates")
    for missing in answer.plan.degraded:
        note(f"without {missing}")
    if answer.next_page_token:
        note(f"more: --page-token {answer.next_page_token}")


def _matched(result: query.SearchResult) -> str:
    lines = []
    for match in result.matched_segments:
        box, tags = match.segment.box, match.segment.tags
        name = f"{tags[0].name} " if tags else ""
        lines.append(f"{name}{match.similarity:.2f} at {box.x0:.2f},{box.y0:.2f},{box.x1:.2f},{box.y1:.2f}")
    return "; ".join(lines)


def _region_parts(
    images: list[str], likes: list[str], box: str, points: list[str], changed: dict[str, str]
) -> list[query.Part]:
    """The parts of --image and --like: whole pictures, or with --box and --point the one picture's region."""
    if not box and not points:
        parts = [_weighted(item, lambda value: {"image": value} | changed) for item in images]
        return parts + [_weighted(item, lambda value: {"like": value} | changed) for item in likes]
    if len(images) + len(likes) != 1:
        raise typer.BadParameter("--box and --point need exactly one --image or --like; use --region for more")

    def content(value: str) -> dict[str, Any]:
        region = make_region(
            image=value if images else None,
            like="" if images else value,
            box=_box(_numbers(box, 4, "--box")) if box else None,
            points=[_point(item) for item in points],
        )
        return {"region": region} | changed

    return [_weighted((images or likes)[0], content)]


def _region(value: str) -> query.Region:
    picture, separator, numbers = value.rpartition("@")
    if not separator or not picture:
        raise typer.BadParameter(f"--region needs FILE@x0,y0,x1,y1, FILE@x,y or id:ID@..., not {value!r}")
    coordinates = _numbers(numbers, 0, "--region")
    stored = picture.startswith("id:")
    whole_box = len(coordinates) == 4
    return make_region(
        image=None if stored else picture,
        like=picture.removeprefix("id:") if stored else "",
        box=_box(coordinates) if whole_box else None,
        points=[] if whole_box else [(coordinates[0], coordinates[1])],
    )


def _box(numbers: list[float]) -> Box:
    x0, y0, x1, y1 = numbers
    return x0, y0, x1, y1


def _point(text: str) -> Point:
    x, y = _numbers(text, 2, "--point")
    return x, y


def _numbers(text: str, count: int, option: str) -> list[float]:
    """`count` numbers between commas; 0: two or four."""
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in ({count} if count else {2, 4}):
        wanted = {2: "x,y", 4: "x0,y0,x1,y1", 0: "x,y or x0,y0,x1,y1"}[count]
        raise typer.BadParameter(f"{option} needs {wanted} as fractions of the picture's sides, not {text!r}")
    return numbers


def _weighted(item: str, content: Callable[[str], dict[str, Any]], weight: float | None = None) -> query.Part:
    """A part from VALUE or VALUE::WEIGHT."""
    value, separator, number = item.rpartition("::")
    if separator:
        try:
            return make_part(**content(value), weight=float(number))
        except ValueError as exc:
            if not number.replace(".", "").replace("-", "").isdigit():
                raise typer.BadParameter(f"after :: there must be a weight such as 0.5, not {number!r}") from exc
            raise
    return make_part(**content(item), weight=weight)
