"""Each part of Saccade installs and starts without what only others need."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MODELS = {"torch", "torchvision", "open-clip-torch", "timm", "segment-anything"}
ENGINES = {"pymilvus", "milvus-lite"}
WEB = {"fastapi", "uvicorn"}
STORE = {"minio"}


def needed(requirement: Requirement, found: set[tuple[str, str]]) -> None:
    """Add what a requirement brings, as (name, extra) pairs, read from what is installed here."""
    name = canonicalize_name(requirement.name)
    for extra in {"", *requirement.extras} - {extra for known, extra in found if known == name}:
        found.add((name, extra))
        try:
            children = map(Requirement, requires(name) or ())
        except PackageNotFoundError:  # needed on other systems only
            continue
        for child in children:
            if child.marker is None or child.marker.evaluate({"extra": extra}):
                needed(child, found)


@pytest.mark.parametrize(
    ("extra", "absent"),
    [
        ("", MODELS | ENGINES | WEB | STORE | {"numpy", "pillow"}),
        ("embedder", ENGINES | WEB | STORE),
        ("ingest", MODELS | WEB | {"milvus-lite"}),
        ("query", MODELS | WEB | {"milvus-lite"}),
        ("gateway", MODELS | ENGINES),
    ],
)
def test_an_extra_brings_nothing_that_only_others_need(extra: str, absent: set[str]) -> None:
    found: set[tuple[str, str]] = set()
    needed(Requirement(f"saccade[{extra}]" if extra else "saccade"), found)
    names = {name for name, _ in found}
    assert "grpcio" in names
    assert not names & absent


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("saccade.cli", ["torch", "numpy", "PIL", "pymilvus", "minio", "fastapi", "services"]),
        ("services.embedder.__main__", ["pymilvus", "minio", "fastapi"]),
        ("services.ingest.__main__", ["torch", "open_clip", "timm", "fastapi"]),
        ("services.query.__main__", ["torch", "open_clip", "timm", "fastapi"]),
        ("services.gateway.__main__", ["torch", "open_clip", "timm", "pymilvus"]),
    ],
)
def test_a_part_starts_without_what_only_others_need(module: str, absent: list[str]) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import {module}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
