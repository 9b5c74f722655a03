"""One embedder process with several models: what operators and other services meet."""

import asyncio
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from services.common.domain import VocabularyEntry
from services.common.errors import FailedPrecondition
from services.stack.settings import StackSettings
from tests.integration.embedder_process import embedder, environment

pytestmark = pytest.mark.timeout(240)

DEMO = StackSettings().demo_dir
SCENES = [(DEMO / "gallery" / f"scene-{number:04}.jpg").read_bytes() for number in range(4)]
WORDS = [VocabularyEntry(entry["name"]) for entry in json.loads((DEMO / "vocabulary.json").read_text())["entries"]]


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the published form."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("timm") / "resnet18.safetensors"
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), path)
    return path


async def test_three_models_answer_side_by_side(resnet18: Path) -> None:
    features, logits = f"timm:resnet18/{resnet18}", f"timm:resnet18/logits/{resnet18}"
    sha256 = hashlib.sha256(await asyncio.to_thread(resnet18.read_bytes)).hexdigest()
    settings = {"SACCADE_MODEL": f"demo,{features},{logits}", "SACCADE_EMBEDDER_MODEL_SHA256": f",{sha256},{sha256}"}
    async with embedder(**settings) as running:
        client = running.client
        infos = [await client.get_model(name) for name in ("demo", features, logits)]
        assert [info.model for info in infos] == ["demo", features, logits]
        assert [(info.dimension, info.has_text) for info in infos[1:]] == [(512, False), (1000, False)]
        assert all(info.models == ("demo", features, logits) for info in infos)
        assert len({info.fingerprint for info in infos}) == 3
        metrics = running.metrics()
        for name in ("demo", features, logits, "segmenter"):
            assert f'saccade_embedder_model_ready{{model="{name}"}} 1.0' in metrics

        with pytest.raises(FailedPrecondition, match="has no text tower") as refused:
            await client.embed_texts(["an owl"], model=logits)
        assert refused.value.reason == "NO_TEXT_TOWER"

        for info in infos:
            for data in SCENES:
                (analysis,) = await client.analyze_images([data], model=info.model, vocabulary=WORDS)
                assert not isinstance(analysis, Exception)
                masks = [segment.mask for segment in analysis.segments if segment.mask is not None]
                stored = np.stack([segment.vector for segment in analysis.segments if segment.vector is not None])
                vector, regions = await client.embed_regions(
                    data, masks, model=info.model, fingerprint=info.fingerprint
                )
                assert vector @ analysis.vector >= 0.999
                assert (regions * stored).sum(axis=1).min() >= 0.999
                if info.has_text:
                    areas = [segment.area_fraction for segment in analysis.segments]
                    chosen = await client.choose_tags(stored, areas, WORDS, model=info.model)
                    assert chosen == [segment.tags for segment in analysis.segments]
                    assert any(chosen)


async def test_another_file_than_its_hash_says_stops_the_start(resnet18: Path) -> None:
    settings = {"SACCADE_MODEL": f"demo,timm:resnet18/{resnet18}", "SACCADE_EMBEDDER_MODEL_SHA256": f",{'0' * 64}"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.embedder",
        env=environment({"SACCADE_LISTEN": "127.0.0.1:0", "SACCADE_METRICS_LISTEN": "", **settings}),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, errors = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode != 0
    assert "it is another file" in errors.decode()
    assert "Traceback" not in errors.decode()
