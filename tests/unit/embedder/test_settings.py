import pytest
from pydantic import ValidationError

from services.common.settings import load_settings
from services.embedder.settings import EmbedderSettings


def test_defaults() -> None:
    settings = EmbedderSettings()
    assert (settings.listen, settings.metrics_listen) == ("127.0.0.1:50051", "127.0.0.1:9101")
    assert (settings.model, settings.segmenter) == ("demo", "demo")
    assert (settings.default_segments, settings.default_min_area_fraction) == (10, 0.01)
    assert (settings.demo_dir / "__init__.py").exists()


def test_shared_and_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SACCADE_MODEL", "ViT-B-32/laion2b_s34b_b79k")
    monkeypatch.setenv("SACCADE_SEGMENTER", "toy")
    monkeypatch.setenv("SACCADE_EMBEDDER_SEGMENTER", "")
    settings = load_settings(EmbedderSettings, "embedder")
    assert (settings.model, settings.segmenter) == ("ViT-B-32/laion2b_s34b_b79k", "")


def test_the_largest_bulk_call_must_fit() -> None:
    with pytest.raises(ValidationError, match="max_waiting_items must be at least"):
        EmbedderSettings(max_items=64, max_waiting_items=64)


def test_several_models() -> None:
    settings = EmbedderSettings(model="demo, timm:resnet18//w.pth,toy", model_sha256=" ab,,cd")
    assert settings.models == ("demo", "timm:resnet18//w.pth", "toy")
    each = [(one.model, one.model_sha256) for one in settings.each_model()]
    assert each == [("demo", "ab"), ("timm:resnet18//w.pth", ""), ("toy", "cd")]
    assert [one.model_sha256 for one in EmbedderSettings(model="demo,toy").each_model()] == ["", ""]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model": "demo,toy,demo"}, "names 'demo' more than once"),
        ({"model": "demo, demo"}, "names 'demo' more than once"),
        ({"model": "demo,,toy"}, "empty name in 'demo,,toy'"),
        ({"model": ""}, "empty name"),
        ({"model": "demo,toy", "model_sha256": "ab"}, "one hash for each of the 2 models"),
        ({"model": "demo", "model_sha256": "ab,cd"}, "one hash for each of the 1 models"),
    ],
)
def test_models_that_can_not_be_told_apart_are_refused(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        EmbedderSettings(**settings)  # type: ignore[arg-type]
