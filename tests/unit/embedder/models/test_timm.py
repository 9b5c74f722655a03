"""Image-only models."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform

from services.common.errors import FailedPrecondition
from services.embedder.models.base import ModelError
from services.embedder.models.timm import TimmEncoder, load_timm
from services.embedder.settings import EmbedderSettings
from tests.unit.embedder.pictures import picture

NAME = "test_vit"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As published: with a classifier."""
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("timm") / "model.safetensors"
    save_file(timm.create_model(NAME, pretrained=False).state_dict(), path)
    return path


def load(weights: Path | str) -> TimmEncoder:
    return load_timm(EmbedderSettings(model=f"timm:{NAME}/{weights}", device="cpu", threads=1))


def test_pooled_features(weights: Path) -> None:
    encoder = load(weights)
    assert not encoder.has_text
    assert encoder.logit_scale == 0
    assert encoder.dimension == 64
    pixels = [encoder.preprocess(picture(size=size)) for size in ((300, 200), (50, 90))]
    rows = encoder.embed_images(encoder.stack(pixels))
    assert rows.shape == (2, 64)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    alone = encoder.embed_images(encoder.stack(pixels[1:]))[0]
    assert alone @ rows[1] >= 0.9999
    assert load(weights).fingerprint == encoder.fingerprint


def test_features_are_timms_own(weights: Path) -> None:
    encoder = load(weights)
    model = timm.create_model(NAME, pretrained=False, num_classes=0)
    model.load_state_dict(load_file(weights), strict=False)
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    image = picture(size=(300, 200))
    pixels = create_transform(**config, is_training=False)(image)[None]
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(model.eval()(pixels))[0].numpy()
    np.testing.assert_allclose(encoder.embed_images(encoder.stack([encoder.preprocess(image)]))[0], expected, atol=1e-5)


def test_logits_are_the_classifiers(weights: Path) -> None:
    encoder = load_timm(EmbedderSettings(model=f"timm:{NAME}/logits/{weights}", device="cpu", threads=1))
    model = timm.create_model(NAME, pretrained=False)
    model.load_state_dict(load_file(weights))
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    image = picture(size=(300, 200))
    with torch.inference_mode():
        logits = model.eval()(create_transform(**config, is_training=False)(image)[None])
    expected = torch.nn.functional.normalize(logits)[0].numpy()
    vector = encoder.embed_images(encoder.stack([encoder.preprocess(image)]))[0]
    np.testing.assert_allclose(vector, expected, atol=1e-5)
    assert encoder.dimension == 1000
    assert encoder.fingerprint != load(weights).fingerprint


def test_logits_need_a_classifier(tmp_path: Path) -> None:
    features = tmp_path / "features.safetensors"
    save_file(timm.create_model(NAME, pretrained=False, num_classes=0).state_dict(), features)
    with pytest.raises(ModelError, match="are of another model"):
        load(f"logits/{features}")
    assert load(features).dimension == 64


def test_texts_are_refused(weights: Path) -> None:
    encoder = load(weights)
    with pytest.raises(FailedPrecondition, match="no text tower"):
        encoder.tokenize(["a"])
    with pytest.raises(FailedPrecondition, match="no text tower"):
        encoder.embed_texts(["a"])


def test_names_and_files_that_do_not_load(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="timm has no model 'no_such_net'"):
        load_timm(EmbedderSettings(model="timm:no_such_net", device="cpu", threads=1))
    with pytest.raises(ModelError, match="there is no file /nowhere"):
        load("/nowhere")
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(ModelError, match="are of another model"):
        load(other)
    with pytest.raises(ModelError, match="leaves no file to hash; give its file, as in timm:test_vit/logits//path"):
        load_timm(EmbedderSettings(model=f"timm:{NAME}/logits", model_sha256="00", device="cpu", threads=1))
