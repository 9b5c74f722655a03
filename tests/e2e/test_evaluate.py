"""The evaluation against running services: of the demo's scenes, and of a labelled folder of one's own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.stack.stack import Stack

REPOSITORY = Path(__file__).parents[2]


def evaluated(stack: Stack, out: Path, *options: str) -> dict[str, Any]:
    """The report of a run."""
    command = [sys.executable, "-m", "benchmarks.evaluate", "--running", "--out", str(out), *options]
    addresses = {"EMBEDDER": stack.embedder, "INGEST": stack.ingest, "QUERY": stack.query}
    env = os.environ | {f"SACCADE_{name}_ADDRESS": address for name, address in addresses.items()}
    subprocess.run(command, check=True, timeout=240, cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL)
    report: dict[str, Any] = json.loads(out.read_text())
    return report


@pytest.mark.timeout(300)
@pytest.mark.parametrize("options", [(), ("--labels", "demo/gallery/labels.jsonl")], ids=["demo", "own"])
def test_a_report_of_a_few_scenes(stack: Stack, tmp_path: Path, options: tuple[str, ...]) -> None:
    report = evaluated(stack, tmp_path / "eval.json", "--limit", "8", "--queries", "4", *options)
    assert report["images"] == 8
    # Among eight, each caption finds its scene.
    assert report["text_to_image.recall_at_10"] == 1
    for mode in ("whole", "segment", "hybrid"):
        assert 0 < report[f"text_to_image.{mode}.recall_at_10"] <= 1
        assert 0 < report[f"image_to_image.{mode}.recall_at_10"] <= 1
    assert report["segmentation.iou"] > 0.5
    if not options:
        assert report["relations.queries"] == 4
        assert report["relations.accuracy_at_1"] > report["relations.plain_text.accuracy_at_1"]
    assert 0 < report["tags.recall"] <= 1
    with stack.client() as client:
        assert "evaluation" not in {collection.name for collection in client.list_collections()}
