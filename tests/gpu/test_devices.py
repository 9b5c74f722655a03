"""A CUDA device gives what the processor gives."""

import numpy as np
import pytest
import torch
from PIL import Image

from demo.labels import GALLERY_FOLDER, read_labels
from services.embedder.models.registry import load_encoder, load_segmenter
from services.embedder.settings import EmbedderSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="there is no CUDA device; run `make test-gpu` where one is"
    ),
]


def settings(device: str, precision: str) -> EmbedderSettings:
    return EmbedderSettings.model_validate(
        {"model": "demo", "segmenter": "demo", "device": device, "precision": precision}
    )


def pictures(count: int) -> list[Image.Image]:
    return [Image.open(GALLERY_FOLDER / label.file).convert("RGB") for label in read_labels()[:count]]


@pytest.mark.parametrize(("precision", "least_cosine"), [("float32", 0.9999), ("bfloat16", 0.99)])
def test_vectors_agree_with_the_processors(precision: str, least_cosine: float) -> None:
    here, there = load_encoder(settings("cpu", "float32")), load_encoder(settings("cuda", precision))
    assert here.fingerprint == there.fingerprint
    ours, theirs = (
        encoder.embed_images(encoder.stack([encoder.preprocess(picture) for picture in pictures(8)]))
        for encoder in (here, there)
    )
    cosines = [float(np.dot(one, other)) for one, other in zip(ours, theirs, strict=True)]
    assert min(cosines) >= least_cosine


def test_segments_agree_with_the_processors() -> None:
    here, there = load_segmenter(settings("cpu", "float32")), load_segmenter(settings("cuda", "float32"))
    assert here is not None
    assert there is not None
    for picture in pictures(3):
        ours, theirs = (
            segmenter.segment_all(picture, max_segments=10, min_area_fraction=0.01) for segmenter in (here, there)
        )
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert (one.mask & other.mask).sum() / (one.mask | other.mask).sum() > 0.95
