"""One stack whose embedder has two models: the demo's, and an image-only one."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import timm
import torch
from safetensors.torch import save_file

from saccade import ApiError, Client, make_region
from saccade.labels import Label
from saccade.requests import Mode
from services.stack import gallery
from services.stack.settings import StackSettings
from services.stack.stack import Stack, temporary_stack

pytestmark = pytest.mark.timeout(300)

COUNT = 12


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a model with random weights: what looks alike is near even so."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("timm") / "resnet18.safetensors"
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), path)
    return f"timm:resnet18/{path}"


@pytest.fixture(scope="module")
def stack_of_two(resnet: str) -> Iterator[Stack]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SACCADE_")}
    with temporary_stack(env | {"SACCADE_MODEL": f"demo,{resnet}"}, inherit=True) as running:
        yield running


@pytest.fixture(scope="module")
def client(stack_of_two: Stack, resnet: str, few: list[Label]) -> Iterator[Client]:
    """A client of it; the same scenes are stored under each model."""
    with stack_of_two.client() as client:
        client.create_collection("by_default")
        client.create_collection("by_name", model="demo")
        client.create_collection("eyes", model=resnet)
        for collection in ("by_default", "eyes"):
            gallery.load(client, few, collection, wait="segmented")
        yield client


@pytest.fixture(scope="module")
def few(labels: list[Label]) -> list[Label]:
    return labels[:COUNT]


def first(client: Client, collection: str, label: Label, mode: Mode) -> str:
    answer = client.search(collection, image=label.path, mode=mode, consistency="strong", top_k=3)
    return str(answer.results[0].image.id)


def test_each_collection_has_its_model(client: Client, resnet: str) -> None:
    models = {collection.name: collection.model for collection in client.list_collections()}
    assert models == {"by_default": "demo", "by_name": "demo", "eyes": resnet}
    assert client.get_model().models == ["demo", resnet]
    kept = client.get_collection("eyes")
    model = client.get_model(resnet)
    assert (model.dimension, model.fingerprint) == (512, kept.fingerprint)
    assert kept.fingerprint != client.get_collection("by_default").fingerprint


@pytest.mark.parametrize("collection", ["by_default", "eyes"])
def test_both_are_searched_by_their_own_vectors(client: Client, few: list[Label], collection: str) -> None:
    modes: tuple[Mode, ...] = ("whole", "segment", "hybrid")
    for mode in modes:
        assert [first(client, collection, label, mode) for label in few[:4]] == [label.id for label in few[:4]]
    for label in few[:3]:
        region = make_region(image=label.path, box=label.objects[0].box)
        answer = client.search(collection, region=region, mode="segment", consistency="strong")
        assert answer.results[0].image.id == label.id
        assert client.search(collection, like=label.id, consistency="strong").results[0].image.id != label.id
    assert client.segment_image(collection, few[0].path)


def test_words_find_where_the_model_has_words_and_are_refused_where_not(client: Client, few: list[Label]) -> None:
    for label in few[:4]:
        answer = client.search("by_default", text=label.caption, consistency="strong")
        assert label.id in [result.image.id for result in answer.results[:3]]
    with pytest.raises(ApiError) as error:
        client.search("eyes", text="an owl")
    assert (error.value.code, error.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_TEXT_TOWER")
    assert "no text tower; search by image, region or vector" in error.value.message


def test_a_model_that_is_not_loaded_makes_no_collection(client: Client, resnet: str) -> None:
    with pytest.raises(ApiError) as error:
        client.create_collection("ears", model="ViT-B-32/openai")
    assert (error.value.code, error.value.fields[0][0]) == (grpc.StatusCode.NOT_FOUND, "collection.model")
    assert f"this embedder runs 'demo', {resnet!r}" in error.value.message
    assert "ears" not in {collection.name for collection in client.list_collections()}


def compared(stack: Stack, labels: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`saccade compare` as a person runs it."""
    addresses = {"EMBEDDER": stack.embedder, "INGEST": stack.ingest, "QUERY": stack.query}
    env = os.environ | {f"SACCADE_{name}_ADDRESS": address for name, address in addresses.items()}
    command = [str(Path(sys.executable).parent / "saccade"), "compare", str(labels), *options]
    return subprocess.run(command, env=env, timeout=280, capture_output=True, text=True, check=False)


def test_models_are_compared_in_one_table(stack_of_two: Stack, client: Client, resnet: str, tmp_path: Path) -> None:
    before = [collection.name for collection in client.list_collections()]
    labels, out = StackSettings().demo_dir / "gallery" / "labels.jsonl", tmp_path / "compared.json"
    done = compared(stack_of_two, labels, "--limit", "12", "--queries", "8", "--json", str(out))
    assert done.returncode == 0, done.stderr
    header, by_demo, by_resnet = [line.split() for line in done.stdout.splitlines()]
    assert header[:2] == ["model", "dim"]
    assert (by_demo[0], by_resnet[0], by_resnet[1]) == ("demo", resnet, "512")
    assert by_resnet[-2:] == ["-", "-"]
    report = json.loads(out.read_text(encoding="utf-8"))
    assert (report["images"], report["mode"]) == (12, "hybrid")
    demo, eyes = report["models"]
    assert (demo["model"], eyes["model"], eyes["dimension"]) == ("demo", resnet, 512)
    assert (demo["images"], demo["failed"], eyes["images"]) == (12, 0, 12)
    for one in (demo, eyes):
        assert one["searchable_per_s"] >= one["segmented_per_s"] > 0
        assert one["search_p50_ms"] > 0
        assert 0 < one["image_map_at_10"] <= 1
        assert 0 < one["region_map_at_10"] <= 1
    # The one was trained on such scenes, the other on nothing.
    assert demo["region_map_at_10"] > eyes["region_map_at_10"]
    assert demo["text_recall_at_10"] >= 0.9
    assert demo["text_recall_at_1"] <= demo["text_recall_at_10"]
    assert eyes["text_recall_at_1"] is eyes["text_recall_at_10"] is None
    assert [collection.name for collection in client.list_collections()] == before


def test_comparing_leaves_nothing_behind_when_it_fails(stack_of_two: Stack, client: Client, tmp_path: Path) -> None:
    before = [collection.name for collection in client.list_collections()]
    labels = tmp_path / "labels.jsonl"
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    labels.write_text('{"file": "a.jpg", "caption": "nothing"}\n')
    done = compared(stack_of_two, labels, "--model", "demo")
    assert done.returncode == 2
    assert "no image could be stored; a.jpg" in done.stderr
    unknown = compared(stack_of_two, labels, "--model", "demo", "--model", "ears")
    assert unknown.returncode == 3
    assert "'ears' is not loaded" in unknown.stderr
    assert [collection.name for collection in client.list_collections()] == before
