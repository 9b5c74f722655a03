"""`saccade compare`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status

from saccade.cli.app import app, client_of
from saccade.cli.output import note, show_table
from saccade.client import Client
from saccade.comparison import Comparison, ComparisonError, ModelReport
from saccade.labels import read_labels
from saccade.requests import Mode

__all__ = ["compare"]

_UNKNOWN = "-"


@app.command()
def compare(
    context: typer.Context,
    *,
    labels_file: Annotated[
        Path, typer.Argument(metavar="LABELS", exists=True, dir_okay=False, help="Labels of images, one on each line.")
    ],
    model: Annotated[
        list[str] | None, typer.Option(help="One of the embedder's models; may be repeated. Without it: all of them.")
    ] = None,
    mode: Annotated[str, typer.Option(help="How to search: whole, segment or hybrid.")] = "hybrid",
    limit: Annotated[int, typer.Option(min=2, help="Only the first images.")] = 10_000,
    queries: Annotated[int, typer.Option(min=1, help="Most queries of each kind, evenly spread.")] = 200,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to this file too.")
    ] = None,
) -> None:
    """Compare models on labelled images: how fast they are, and how well they find.

    For each model the images are stored in a temporary collection, searched, and removed again. Relevant are images
    that share a named object; a text should find its own image. Without captions, objects or a text tower there is
    a dash. Compare rates on an idle machine: segmenting goes on beside storing.
    """
    known: Sequence[Mode] = ("whole", "segment", "hybrid")
    wanted = next((name for name in known if name == mode), None)
    if wanted is None:
        raise typer.BadParameter(f"--mode needs whole, segment or hybrid, not {mode}", ctx=context)
    labels = read_labels(labels_file)[:limit]
    client = client_of(context)
    if json_file and not json_file.absolute().parent.is_dir():
        raise ValueError(f"--json {json_file}: there is no such folder")
    reports: list[ModelReport] = []
    try:
        with _Live() as live:
            comparison = Comparison(
                client, labels, mode=wanted, max_queries=queries, progress=live.progress, warn=live.warn
            )
            for name in _models(client, model or []):
                live.begin(name)
                reports.append(comparison.run(name))
    except ComparisonError as exc:
        raise ValueError(str(exc)) from exc
    finally:
        # What was measured before something went wrong took its time.
        if reports:
            _show(reports)
    for report in reports:
        if report.failed:
            note(f"{report.model}: {report.failed} of {len(labels)} images could not be stored, and do not count")
    if json_file:
        measured = [report.to_dict() for report in reports]
        found = {"labels": str(labels_file), "images": len(labels), "mode": wanted, "models": measured}
        json_file.write_text(json.dumps(found, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _models(client: Client, given: Sequence[str]) -> list[str]:
    """The names to compare, each once; ApiError, before anything is stored, if the embedder has no such model."""
    default = client.get_model()
    names = list(dict.fromkeys(given or default.models or [default.model]))
    for name in names:
        client.get_model(name)
    return names


class _Live:
    """A live line on a terminal; elsewhere a line for each model."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._status = Status("", console=self._console)
        self._model = ""

    def __enter__(self) -> "_Live":
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def begin(self, model: str) -> None:
        """What comes is about this model."""
        self._model = model
        if not self._console.is_terminal:
            note(f"measuring {model}")

    def progress(self, what: str, done: int, total: int) -> None:
        """How far it is."""
        self._status.update(f"{_escaped(self._model)}: {what} {done}/{total}")

    def warn(self, sentence: str) -> None:
        """Something that stays on the screen."""
        note(sentence)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


def _show(reports: Sequence[ModelReport]) -> None:
    columns = [
        "model",
        "dim",
        "stored/s",
        "segm./s",
        "search ms",
        "image mAP@10",
        "region mAP@10",
        "text R@1",
        "text R@10",
    ]
    rows = [
        [
            report.model,
            report.dimension,
            _number(report.searchable_per_s, 1),
            _number(report.segmented_per_s, 1),
            _number(report.search_p50_ms, 1),
            _number(report.image_map_at_10, 3),
            _number(report.region_map_at_10, 3),
            _number(report.text_recall_at_1, 3),
            _number(report.text_recall_at_10, 3),
        ]
        for report in reports
    ]
    show_table(columns, rows, empty="no models")


def _number(value: float | None, digits: int) -> str:
    return _UNKNOWN if value is None else f"{value:.{digits}f}"
