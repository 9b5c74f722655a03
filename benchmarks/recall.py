"""Recall of the vector index at the default setting, on a Milvus started for it: `python -m benchmarks.recall`.

Vectors of overlapping clusters are stored through VectorStore with as many lists as the service builds for so many
rows; once the index is in force it is measured as the ingest service measures it. Each query is then planned as the
query service plans it (VectorStore.estimate, plan_search) and made alone. What was found is compared with the 10 most
similar vectors by numpy. The report is printed, and written as one flat JSON object:

cases.ROWS.FILTER.KIND.recall_at_10   share of the true 10 that were found; FILTER: all, or what passes (50pct, 10pct,
                                      1pct, 0.1pct), KIND: image (near stored vectors) or text (beyond a gap)
cases.ROWS.FILTER.KIND.p50_ms         median time of a search, its estimate left out, one after another
cases.ROWS.FILTER.KIND.nprobe         lists searched at first; 0: all
cases.ROWS.FILTER.KIND.estimate_ms    median time of the first count of what a filter passes
min_recall_at_10                      the least of all cases
lsh.ROWS.KIND.recall_at_10            the same of an LSH index, unfiltered; .compared_fraction: share of the vectors
                                      that were compared exactly; .p50_ms
lsh.recall_at_10, lsh.compared_fraction   the worst of each
"""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.recall_cases import Case, Report, measure_ivf, measure_lsh
from services.common.settings import VectorSettings
from services.common.vectors import VectorStore
from services.stack import engines
from services.stack.processes import free_port

SIZES: Final = "1000,10000,100000,300000"
LSH_SIZES: Final = "10000,100000"


async def run(uri: str, sizes: list[int], lsh_sizes: list[int], *, queries: int, console: Console, out: Path) -> Report:
    """All cases of all sizes; the report is written after each size, so that what is measured is not lost."""
    store = VectorStore(VectorSettings(milvus_uri=uri, milvus_timeout_s=120))
    report = Report()
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        for rows in sizes:
            report.cases += await measure_ivf(store, rows, queries, console.print)
            _write(report, out)
        for rows in lsh_sizes:
            report.lsh += await measure_lsh(store, rows, queries, console.print)
            _write(report, out)
    finally:
        await store.close()
    return report


def _write(report: Report, out: Path) -> None:
    out.write_text(json.dumps(report.figures(), indent=2) + "\n")


def table_of(cases: list[Case]) -> Table:
    """The cases, for people."""
    table = Table("rows", "lists", "filter", "query", "recall@10", "searched", "p50 ms", "why")
    for case in cases:
        searched = "exact" if case.exact else str(case.nprobe)
        row = (case.filter, case.kind, f"{case.recall:.3f}", searched, f"{case.p50_ms:.1f}", case.reason)
        table.add_row(f"{case.rows:,}", str(case.nlist or ""), *row)
    return table


def main(
    sizes: Annotated[str, typer.Option(help="Rows of the collections with an IVF_FLAT index.")] = SIZES,
    lsh_sizes: Annotated[str, typer.Option(help="Rows of those with an LSH index.")] = LSH_SIZES,
    queries: Annotated[int, typer.Option(help="Queries of each case.")] = 100,
    tools: Annotated[Path, typer.Option(envvar="SACCADE_TOOLS", help="Where `make tools` put Milvus.")] = Path(
        ".tools"
    ),
    out: Annotated[Path, typer.Option(help="Where the report is written as JSON.")] = Path("build/recall.json"),
) -> None:
    """Measure the recall of the vector index on Milvus."""
    console = Console(width=160)
    with tempfile.TemporaryDirectory(prefix="saccade-recall-") as folder:
        try:
            engine = engines.milvus(Path(folder), free_port(), tools.resolve())
        except engines.EngineMissing as exc:
            console.print(str(exc))
            raise typer.Exit(2) from exc
        with engine.process:
            report = asyncio.run(
                run(engine.uri, _numbers(sizes), _numbers(lsh_sizes), queries=queries, console=console, out=out)
            )
    console.print(table_of(report.cases))
    if report.lsh:
        console.print("LSH: signs of random projections, candidates compared exactly")
        console.print(table_of(report.lsh))
    figures = report.figures()
    for name in ("min_recall_at_10", "lsh.recall_at_10", "lsh.compared_fraction"):
        if name in figures:
            console.print(f"{name}: {figures[name]}")
    console.print(f"written: {out}")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    typer.run(main)
