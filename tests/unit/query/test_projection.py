import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.domain import Vector
from services.common.errors import FailedPrecondition
from services.query.projection import Method, flatten, sampled

NONE = np.zeros((0, 6), dtype=np.float32)


def cloud(count: int, seed: int = 0) -> Vector:
    """Unit vectors that spread along two axes more than along the others."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, 6)) * np.array([3, 2, 0.3, 0.2, 0.1, 0.1])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def test_two_axes_say_most_of_it_and_distances_stay() -> None:
    vectors = cloud(200)
    made = flatten(vectors, NONE, Method.PCA)
    assert made.images.shape == (200, 2)
    assert sum(made.explained) > 0.9
    assert made.explained[0] >= made.explained[1]
    there = np.linalg.norm(vectors[:20, np.newaxis] - vectors[np.newaxis, :20], axis=2)
    here = np.linalg.norm(made.images[:20, np.newaxis] - made.images[np.newaxis, :20], axis=2)
    assert np.corrcoef(there.ravel(), here.ravel())[0, 1] > 0.95


def test_others_lie_where_an_equal_image_lies() -> None:
    vectors = cloud(50)
    made = flatten(vectors, vectors[3:5], Method.PCA)
    np.testing.assert_allclose(made.others, made.images[3:5], atol=1e-5)


@given(st.integers(0, 4), st.integers(0, 2))
def test_few_images(count: int, others: int) -> None:
    made = flatten(cloud(count) if count else NONE, cloud(others, 1) if others else NONE, Method.PCA)
    assert made.images.shape == (count, 2)
    assert made.others.shape == (others, 2)
    assert np.isfinite(made.images).all()


def test_the_map_does_not_turn_over() -> None:
    vectors = cloud(80)
    order = np.random.default_rng(3).permutation(80)
    np.testing.assert_allclose(
        flatten(vectors[order], NONE, Method.PCA).images, flatten(vectors, NONE, Method.PCA).images[order], atol=1e-4
    )


def test_umap_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(FailedPrecondition) as caught:
        flatten(cloud(5), NONE, Method.UMAP)
    assert (caught.value.field, caught.value.reason) == ("method", "METHOD_NOT_INSTALLED")


def test_umap_is_given_cosines_and_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    class Umap:
        def __init__(self, **options: object) -> None:
            given.update(options)

        def fit_transform(self, vectors: Vector) -> Vector:
            return vectors[:, :2]

        transform = fit_transform

    library = types.ModuleType("umap")
    library.UMAP = Umap  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", library)
    vectors = cloud(5)
    made = flatten(vectors, vectors[:1], Method.UMAP)
    np.testing.assert_array_equal(made.images, vectors[:, :2])
    np.testing.assert_array_equal(made.others, vectors[:1, :2])
    assert (given["metric"], given["random_state"], given["n_neighbors"]) == ("cosine", 0, 4)


@given(st.sets(st.text(min_size=1, max_size=8), max_size=40), st.integers(1, 20))
def test_a_sample_is_always_the_same_and_sorted(names: set[str], most: int) -> None:
    chosen = sampled(list(names), most)
    assert chosen == sampled(sorted(names, reverse=True), most) == sorted(chosen)
    assert len(chosen) == min(most, len(names))
    assert set(chosen) <= names
