"""Calibrates scores for a model and chooses the weights of the ranking: `python -m benchmarks.tune_ranking`.

Without options: the demo's model, on the 200 gallery scenes that are not for evaluation. `--labels FILE` takes a folder
of one's own (saccade.labels says how its labels look), with the model that SACCADE_MODEL names. The model is run in
this process; no service and no engine is needed.

First a logistic curve is fitted for every kind of comparison (services.query.calibration), matches and others weighing
the same; `--write FOLDER` keeps them as a file for the query service's calibrations_dir. Then the weights of whole,
segment and tag, the weight of a picture as one thing and the sharpness of the mean are searched on a grid. Of the
settings with which hybrid mode loses the least to the better of whole and segment mode in any class of queries (within
0.01 of the best) the one with the greatest mean over all classes is taken. The report is in build/tuning.json.
"""

import asyncio
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measures import mean, recall_at
from benchmarks.plan import demo_plan, own_plan
from benchmarks.tuning_data import Asked, Exclusion, Query, QueryClass, embed_plan
from services.common.domain import ModelInfo
from services.embedder.engines import Engines
from services.embedder.models.registry import load_encoders, load_segmenter
from services.embedder.settings import EmbedderSettings
from services.query.calibration import UNMEASURED, Calibration, CalibrationRecord, Comparison, Curve, Floats
from services.query.ranking import Fusion, PartVectors, Scores

__all__ = ["choose", "curve_of", "fitted"]

SHIPPED: Final = Path("services/query/calibrations")
GRID: Final = tuple(
    Fusion(whole, 1 - whole, tag, thing, sharpness)
    for whole, tag, thing, sharpness in itertools.product(
        (0.05, 0.1, 0.15, 0.25), (0.0, 0.1), (0.0, 0.2, 0.4, 0.7), (1.0, 1.4, 2.0)
    )
)
# Keeps curves of classes that hardly overlap from becoming steps.
RIDGE: Final = 3e-4
NEAR_BEST: Final = 0.01
# What kind of comparison is fitted on which classes of queries.
_FITS: Final[Mapping[Comparison, tuple[str, ...]]] = {
    Comparison.TEXT_WHOLE: ("captions", "names"),
    Comparison.TEXT_SEGMENT: ("names",),
    Comparison.IMAGE_WHOLE: ("pictures",),
    Comparison.IMAGE_SEGMENT: ("regions",),
    Comparison.PICTURE_SEGMENTS: ("pictures",),
    Comparison.PICTURE_THING: ("close_ups",),
    Comparison.TAGS: ("names", "pictures"),
}
_PROBES: Final = {
    Comparison.TEXT_WHOLE: Fusion(1, 0, 0),
    Comparison.IMAGE_WHOLE: Fusion(1, 0, 0),
    Comparison.TEXT_SEGMENT: Fusion(0, 1, 0),
    Comparison.IMAGE_SEGMENT: Fusion(0, 1, 0),
    Comparison.PICTURE_SEGMENTS: Fusion(0, 1, 0, thing=0),
    Comparison.PICTURE_THING: Fusion(0, 1, 0),
    Comparison.TAGS: Fusion(0, 0, 1),
}


@dataclass(frozen=True)
class Result:
    """What a setting gives: each class's measure, and what hybrid loses at most to the better of the other modes."""

    fusion: Fusion
    values: Mapping[str, float]
    loss: float

    @property
    def mean(self) -> float:
        """Over all classes."""
        return mean(list(self.values.values()))


def curve_of(matches: Floats, others: Floats) -> Curve:
    """The logistic curve that tells matches from others, both weighing the same; Newton's method."""
    x = np.concatenate([matches, others])
    y = np.concatenate([np.ones(len(matches)), np.zeros(len(others))])
    weight = np.where(y > 0, 0.5 / len(matches), 0.5 / len(others))
    design, ridge, beta = np.stack([x, np.ones_like(x)], axis=1), np.diag([RIDGE, 1e-9]), np.zeros(2)
    for _ in range(60):
        p = 1 / (1 + np.exp(-design @ beta))
        gradient = design.T @ (weight * (p - y)) + ridge @ beta
        beta = beta - np.linalg.solve((design * (weight * p * (1 - p))[:, np.newaxis]).T @ design + ridge, gradient)
    return Curve(slope=float(beta[0]), middle=float(-beta[1] / beta[0]))


def fitted(asked: Asked) -> Calibration:
    """Curves for every comparison that the queries have; the common one for the others."""
    classes = {made.name: made for made in asked.classes}
    curves = dict(UNMEASURED.curves)
    for kind, names in _FITS.items():
        matches, others = _raw_values(asked, [classes[name] for name in names if name in classes], kind)
        if len(matches) and len(others):
            curves[kind] = curve_of(matches, others)
    return Calibration(curves, measured=True)


def choose(results: Sequence[Result]) -> Result:
    """The best mean among those that lose the least; ties: the first."""
    least = min(result.loss for result in results)
    return max((result for result in results if result.loss <= least + NEAR_BEST), key=lambda result: result.mean)


def _raw_values(asked: Asked, classes: Sequence[QueryClass], kind: Comparison) -> tuple[Floats, Floats]:
    """Raw values of one comparison: of matches, and of others."""
    matches: list[float] = []
    others: list[float] = []
    for query in (query for made in classes for query in made.queries):
        part = query.part
        if kind is Comparison.PICTURE_THING:
            # As one thing it is compared as a region is.
            part = PartVectors.single(1.0, part.vector)
        raw = Scores([part], asked.candidates, _PROBES[kind], UNMEASURED).raw(0, _name_of(kind))
        if kind is Comparison.TAGS and not part.tags:
            continue
        for name, value in zip(asked.candidates.ids, raw.tolist(), strict=True):
            if name not in query.left_out:
                (matches if name in query.relevant else others).append(value)
    return np.array(matches), np.array(others)


def _name_of(kind: Comparison) -> str:
    if kind is Comparison.TAGS:
        return "tag"
    return "whole" if kind in {Comparison.TEXT_WHOLE, Comparison.IMAGE_WHOLE} else "segment"


def measure(asked: Asked, calibration: Calibration, fusion: Fusion) -> dict[str, float]:
    """Each class's measure with these weights."""

    def order(query: Query) -> list[str]:
        scores = Scores([query.part], asked.candidates, fusion, calibration)
        return [asked.candidates.ids[at] for at in scores.order()]

    return {made.name: made.value(order) for made in asked.classes}


def excluded(asked: Asked, calibration: Calibration, fusion: Fusion) -> dict[str, float]:
    """What a negative part of weight -1 removes from the first ten, and what it costs of what is wanted."""

    def first(query: Exclusion, parts: Sequence[PartVectors]) -> list[str]:
        scores = Scores(parts, asked.candidates, fusion, calibration)
        return [asked.candidates.ids[at] for at in scores.order()[:10]]

    there = still = 0
    before, after = [], []
    for query in asked.exclusions:
        plain, pushed = first(query, [query.wanted]), first(query, [query.wanted, query.unwanted])
        there += len(query.holding & set(plain))
        still += len(query.holding & set(pushed))
        before.append(recall_at(plain, query.relevant, 10))
        after.append(recall_at(pushed, query.relevant, 10))
    return {
        "removed_fraction": 1 - still / there if there else 1.0,
        "recall_at_10": mean(after),
        "recall_at_10_before": mean(before),
    }


def _search(
    asked: Asked, calibration: Calibration, console: Console
) -> tuple[list[Result], dict[str, float], dict[str, float]]:
    """What every setting of the grid gives, and whole and segment mode by themselves."""
    whole, segment = (measure(asked, calibration, fusion) for fusion in (Fusion(1, 0, 0), Fusion(0, 1, 0)))
    results = []
    alone: dict[tuple[float, float], dict[str, float]] = {}
    with console.status("searching") as status:
        for number, fusion in enumerate(GRID):
            status.update(f"searching: {number} of {len(GRID)}")
            values = measure(asked, calibration, fusion)
            # Segment mode as it is with the same weight of a picture as one thing.
            key = (fusion.thing, fusion.sharpness)
            if key not in alone:
                alone[key] = measure(asked, calibration, Fusion(0, 1, 0, *key))
            loss = max(max(whole[name], alone[key][name]) - value for name, value in values.items())
            results.append(Result(fusion, values, loss))
    return results, whole, segment


async def _embedded(
    labels: Path | None, demo_dir: Path, *, limit: int, queries: int, console: Console
) -> tuple[Asked, ModelInfo]:
    settings = EmbedderSettings(demo_dir=demo_dir, max_waiting_analyses=4096, max_waiting_items=4096)
    engines = Engines(settings, load_encoders(settings)[:1], load_segmenter(settings))
    await engines.start()
    try:
        plan = own_plan(labels, limit, queries) if labels else demo_plan(demo_dir, limit, queries, split="gallery")
        with console.status("embedding") as status:
            return await embed_plan(engines.named(), plan, status.update), engines.named().info
    finally:
        await engines.close()


def main(  # noqa: PLR0917 - typer's options come by name
    labels: Annotated[Path | None, typer.Option(help="A labels file of your own")] = None,
    demo_dir: Annotated[Path, typer.Option(help="The demo's folder")] = Path("demo"),
    limit: Annotated[int, typer.Option(help="Most images; 0: all")] = 0,
    queries: Annotated[int, typer.Option(help="Most queries of a kind")] = 300,
    write: Annotated[Path | None, typer.Option(help=f"Folder to keep the calibration in, such as {SHIPPED}")] = None,
    out: Annotated[Path, typer.Option(help="The report")] = Path("build/tuning.json"),
) -> None:
    """Calibrate scores for a model and choose the weights of the ranking."""
    console = Console()
    asked, info = asyncio.run(_embedded(labels, demo_dir, limit=limit, queries=queries, console=console))
    calibration = fitted(asked)
    results, whole, segment = _search(asked, calibration, console)
    best = choose(results)
    default = next((result for result in results if result.fusion == Fusion()), best)
    table = Table("queries", "whole", "segment", "hybrid, default", "hybrid, best", box=None, header_style="bold")
    for name in whole:
        cells = (whole[name], segment[name], default.values[name], best.values[name])
        table.add_row(name, *(f"{value:.3f}" for value in cells))
    console.print(table)
    console.print(f"best: {best.fusion}, mean {best.mean:.4f}, loses at most {best.loss:.3f}")
    console.print(f"default: {default.fusion}, mean {default.mean:.4f}, loses at most {default.loss:.3f}")
    away = excluded(asked, calibration, default.fusion)
    console.print("a negative part: " + ", ".join(f"{name} {value:.3f}" for name, value in away.items()))
    record = CalibrationRecord(
        fingerprint=info.fingerprint,
        model=info.model,
        measured_on=f"{len(asked.candidates.ids)} images of {labels or 'the demo gallery'}",
        curves=dict(calibration.curves),
    )
    if write is not None:
        write.mkdir(parents=True, exist_ok=True)
        (write / f"{record.fingerprint}.json").write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        console.print(f"calibration written to {write / record.fingerprint}.json")
    report = {
        "model": record.model,
        "fingerprint": record.fingerprint,
        **{
            f"{mode}.{name}": value
            for mode, got in (("whole", whole), ("segment", segment))
            for name, value in got.items()
        },
        **{f"hybrid.{name}": value for name, value in default.values.items()},
        **{f"best.{name}": value for name, value in asdict(best.fusion).items()},
        **{f"exclusion.{name}": value for name, value in away.items()},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
