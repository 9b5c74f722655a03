"""A small run of the benchmark of the index's recall, on a Milvus that it starts."""

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from benchmarks.recall import main
from tests.engines import not_installed, tools_dir


@pytest.mark.timeout(600)
def test_a_small_run_reports_every_case(tmp_path: Path) -> None:
    if not (tools_dir() / "milvus").is_dir():
        not_installed("Milvus is not installed: run `make tools`")
    app, out = Typer(), tmp_path / "build" / "recall.json"
    app.command()(main)
    options = ["--sizes", "1000", "--lsh-sizes", "4000", "--queries", "20", "--tools", str(tools_dir())]
    result = CliRunner().invoke(app, [*options, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())
    assert figures["min_recall_at_10"] >= 0.95
    for name in ("all", "50pct", "10pct", "1pct", "0.1pct"):
        for kind in ("image", "text"):
            assert figures[f"cases.1000.{name}.{kind}.recall_at_10"] >= 0.95
    assert figures["lsh.recall_at_10"] >= 0.9
    assert figures["lsh.compared_fraction"] <= 0.05
    assert "1,000" in result.output
