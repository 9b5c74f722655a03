"""Files of weights that run a program when they are unpickled: none of the ways to load one does."""

import ast
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import services
from services.embedder.models.base import ModelError
from services.embedder.models.clip import load_clip
from services.embedder.models.sam import load_sam
from services.embedder.models.timm import load_timm
from services.embedder.models.torch_support import load_state
from services.embedder.settings import EmbedderSettings


class Harm:
    """Unpickled, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self._mark,)


@pytest.fixture(params=["torch", "plain"])
def harmful(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A file of weights, and the file that shows that it ran."""
    path, mark = tmp_path / "weights.pth", tmp_path / "ran"
    state = {"weight": torch.zeros(2), "harm": Harm(mark)}
    if request.param == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state))
    return path, mark


LOADERS: dict[str, Callable[[Path], Any]] = {
    "state": load_state,
    "sam": lambda path: load_sam(EmbedderSettings(segmenter=f"vit_b:{path}")),
    "timm": lambda path: load_timm(EmbedderSettings(model=f"timm:resnet18//{path}")),
    "clip": lambda path: load_clip(EmbedderSettings(model=f"ViT-S-32-alt//{path}")),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_no_way_to_load_weights_runs_what_is_in_them(loader: str, harmful: tuple[Path, Path]) -> None:
    path, mark = harmful
    with pytest.raises(ModelError):
        LOADERS[loader](path)
    assert not mark.exists()


def test_that_file_would_run(tmp_path: Path) -> None:
    """Otherwise the test above would show nothing."""
    mark = tmp_path / "ran"
    pickle.loads(pickle.dumps(Harm(mark)))  # noqa: S301 - its own
    assert mark.exists()


@pytest.mark.parametrize("loader", ["sam", "timm", "clip"])
def test_a_hash_is_checked_before_the_file_is_opened(
    loader: str, harmful: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, mark = harmful
    monkeypatch.setenv("SACCADE_EMBEDDER_MODEL_SHA256", "0" * 64)
    monkeypatch.setenv("SACCADE_EMBEDDER_SEGMENTER_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="SHA-256"):
        LOADERS[loader](path)
    assert not mark.exists()


def test_nobody_unpickles() -> None:
    for path in Path(services.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert [key.value for key in node.keywords if key.arg == "weights_only"], path
                assert all(ast.unparse(key.value) == "True" for key in node.keywords if key.arg == "weights_only"), path
