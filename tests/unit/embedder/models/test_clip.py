"""open_clip models: from a folder, and what goes wrong."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from services.embedder.models.base import ModelError
from services.embedder.models.clip import ClipEncoder, load_clip, load_clip_folder
from services.embedder.settings import EmbedderSettings
from tests.unit.embedder.pictures import picture

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25], "resize_mode": "squash"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    (path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(1)
    model = open_clip.CLIP(**CONFIG["model_cfg"])
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path / "model.safetensors")
    return path


def load(folder: Path, **settings: Any) -> ClipEncoder:
    return load_clip_folder("tiny", folder, EmbedderSettings(device="cpu", **({"threads": 1} | settings)))


def test_vectors_are_open_clips_own(folder: Path) -> None:
    encoder = load(folder)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    image = picture(size=(90, 60))
    with torch.inference_mode():
        expected = model.encode_image(transform(image)[None], normalize=True)[0].numpy()
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a red car"])
        words = model.encode_text(tokens, normalize=True)[0].numpy()
    vector = encoder.embed_images(encoder.stack([encoder.preprocess(image)]))[0]
    np.testing.assert_allclose(vector, expected, atol=1e-5)
    np.testing.assert_allclose(encoder.embed_texts(encoder.tokenize(["a red car"]))[0], words, atol=1e-5)
    assert (encoder.dimension, encoder.image_px, encoder.has_text) == (16, 32, True)
    assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_neighbours_do_not_matter(folder: Path, precision: str) -> None:
    encoder = load(folder, precision=precision)
    assert encoder.precision == precision
    pixels = [encoder.preprocess(picture(a, b)) for a in ("red", "blue", "white") for b in ("green", "pink", "black")]
    together = encoder.embed_images(encoder.stack(pixels))
    alone = np.concatenate([encoder.embed_images(encoder.stack([one])) for one in pixels])
    assert (together * alone).sum(axis=1).min() >= 0.9999
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)


def test_small_models_compute_in_float32(folder: Path) -> None:
    assert load(folder).precision == "float32"


def test_the_fingerprint_is_of_weights_and_preprocessing_alone(folder: Path, tmp_path: Path) -> None:
    print_ = load(folder).fingerprint
    assert load(folder, precision="bfloat16", threads=1, max_batch=3).fingerprint == print_
    for change in ("config", "weights", "activation"):
        other = tmp_path / change
        other.mkdir()
        config = json.loads((folder / "open_clip_config.json").read_text())
        state = open_clip.factory.load_state_dict(str(folder / "model.safetensors"))
        if change == "config":
            config["preprocess_cfg"]["resize_mode"] = "shortest"
        elif change == "activation":
            config["model_cfg"]["quick_gelu"] = True
        else:
            state["logit_scale"] += 0.001
        (other / "open_clip_config.json").write_text(json.dumps(config))
        save_file(state, other / "model.safetensors")
        assert load(other).fingerprint != print_


def test_the_hash_of_the_weights_is_checked(folder: Path) -> None:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert load(folder, model_sha256=digest.upper()).dimension == 16
    with pytest.raises(ModelError, match="it is another file"):
        load(folder, model_sha256="0" * 64)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no open_clip_config"):
        load(tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ModelError, match="file, but holds 0"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match="can not be loaded"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("ViT-Z-99/openai", "no architecture 'ViT-Z-99'"),
        ("ViT-B-32", "names no weights"),
        ("ViT-B-32/nonsense", "neither a tag of ViT-B-32"),
        ("ViT-B-32//no/such/file.pt", "'/no/such/file.pt' is neither"),
    ],
)
def test_names_that_do_not_load(model: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_clip(EmbedderSettings(model=model, device="cpu", threads=1))


def test_weights_trained_with_quick_gelu_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def create(architecture: str, **options: Any) -> None:
        asked.append(options["force_quick_gelu"])
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "create_model", create)
    for tag in ("openai", "laion2b_s34b_b79k"):
        with pytest.raises(ModelError, match="can not be loaded: no network"):
            load_clip(EmbedderSettings(model=f"ViT-B-32/{tag}", device="cpu", threads=1))
    assert asked == [True, False]


def test_devices_that_are_not_there(folder: Path) -> None:
    for device in ("cuda:99", "tpu", "mps"):
        with pytest.raises(ModelError, match="SACCADE_EMBEDDER_DEVICE"):
            load_clip_folder("tiny", folder, EmbedderSettings(device=device))
