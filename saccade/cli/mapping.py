"""`saccade map`: a collection on a plane, as a page to look at or as numbers."""

import html
from collections import Counter
from pathlib import Path
from typing import Annotated, Final

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
from saccade.requests import Method, make_part

__all__ = ["draw_map"]

_SIZE: Final = 900
_MARGIN: Final = 40
# Told apart by people who see few colours, too (Okabe and Ito, 2008); what carries other tags is grey.
_COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442")
_REST: Final = "#999999"


@app.command("map")
def map_(
    context: typer.Context,
    *,
    collection: CollectionOption = DEFAULT_COLLECTION,
    out: Annotated[Path | None, typer.Option(help="Write a page with the map to this file, such as map.html.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="Words to place on the map too.")] = None,
    like: Annotated[list[str] | None, typer.Option(help="Id of a stored image to mark.")] = None,
    method: Annotated[str, typer.Option(help="pca, or umap where its library is beside the query service.")] = "pca",
    max_images: Annotated[int, typer.Option(min=1, max=20_000, help="Most images; more are sampled.")] = 2_000,
    filter_json: FilterOption = "",
    tag: TagOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lay a collection on a plane, near images near each other; the same from call to call."""
    known: tuple[Method, ...] = ("pca", "umap")
    wanted = next((name for name in known if name == method), None)
    if wanted is None:
        raise typer.BadParameter(f"--method needs pca or umap, not {method}", ctx=context)
    names = [*(text or []), *(like or [])]
    answer = client_of(context).project_images(
        collection,
        filter=combined_filter(filter_json, tag),
        max_images=max_images,
        method=wanted,
        parts=[*(make_part(text=words) for words in text or []), *(make_part(like=name) for name in like or [])],
    )
    if out:
        out.write_text(draw_map(answer, collection, names), encoding="utf-8")
        note(f"{len(answer.images):,} images on {out}")
    if as_json:
        write_json(to_dict(answer))
    elif not out:
        rows = [[image.image_id, image.tag, f"{image.x:.3f}", f"{image.y:.3f}"] for image in answer.images]
        rows += [[name, "looked for", f"{part.x:.3f}", f"{part.y:.3f}"] for name, part in _named(answer, names)]
        show_table(["id", "tag", "x", "y"], rows, empty="no images")


def draw_map(answer: query.ProjectImagesResponse, collection: str, names: list[str]) -> str:
    """A page that needs nothing else: a point for each image, coloured by its tag, and a cross for each of `names`."""
    places = [*answer.images, *answer.parts]
    low_x, high_x = min((p.x for p in places), default=0.0), max((p.x for p in places), default=1.0)
    low_y, high_y = min((p.y for p in places), default=0.0), max((p.y for p in places), default=1.0)
    # The same for both axes: a map that is stretched shows false distances.
    scale = (_SIZE - 2 * _MARGIN) / max(high_x - low_x, high_y - low_y, 1e-9)

    def at(place: query.ProjectedImage) -> tuple[float, float]:
        return _MARGIN + (place.x - low_x) * scale, _MARGIN + (high_y - place.y) * scale

    counts = Counter(image.tag for image in answer.images if image.tag).most_common(len(_COLOURS))
    colours = {tag: colour for (tag, _), colour in zip(counts, _COLOURS, strict=False)}
    shapes = []
    for image in answer.images:
        x, y = at(image)
        words = html.escape(f"{image.image_id} {image.tag}".strip())
        colour = colours.get(image.tag, _REST)
        shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"><title>{words}</title></circle>')
    for name, part in _named(answer, names):
        x, y = at(part)
        shapes.append(f'<path d="M{x - 8:.1f} {y:.1f}h16M{x:.1f} {y - 8:.1f}v16"/>')
        shapes.append(f'<text x="{x + 11:.1f}" y="{y + 5:.1f}">{html.escape(name)}</text>')
    title = html.escape(f"{collection}: {len(answer.images):,} images")
    legend = "".join(
        f'<li><i style="background:{colour}"></i>{html.escape(tag)}</li>'
        for tag, colour in [*colours.items(), ("other or no tag", _REST)]
    )
    explained = ", ".join(f"{share:.0%}" for share in answer.explained_variance)
    hint = f"<p>Share of the variance along each axis: {explained}.</p>" if explained else ""
    return _PAGE.format(title=title, legend=legend, hint=hint, size=_SIZE, shapes="\n".join(shapes))


def _named(answer: query.ProjectImagesResponse, names: list[str]) -> list[tuple[str, query.ProjectedImage]]:
    return list(zip(names, answer.parts, strict=False))


_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 24px auto; max-width: 960px; padding: 0 16px; font: 15px/1.5 system-ui, sans-serif; }}
svg {{ width: 100%; height: auto; border: 1px solid #8884; border-radius: 12px; }}
circle {{ opacity: .75; }}
circle:hover {{ opacity: 1; stroke: currentColor; stroke-width: 2; }}
path {{ stroke: currentColor; stroke-width: 3; }}
text {{ fill: currentColor; font-weight: 600; }}
ul {{ display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; list-style: none; }}
i {{ display: inline-block; width: 11px; height: 11px; margin-right: 6px; border-radius: 50%; }}
</style>
</head>
<body>
<h1>{title}</h1>
<ul>{legend}</ul>
<svg viewBox="0 0 {size} {size}" role="img" aria-label="{title}">
{shapes}
</svg>
{hint}
</body>
</html>
"""
