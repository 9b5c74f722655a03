import numpy as np
import pytest

from services.common.vectors.signs import sign_bits, sign_count


@pytest.mark.parametrize(("dimension", "bits"), [(4, 512), (128, 512), (129, 520), (768, 3072)])
def test_bits_grow_with_the_dimension(dimension: int, bits: int) -> None:
    assert sign_count(dimension) == bits
    assert sign_bits(np.ones((3, dimension), dtype=np.float32)).shape == (3, bits // 8)


def test_bits_differ_in_proportion_to_the_angle() -> None:
    angles = np.linspace(0, np.pi, 9)
    vectors = np.zeros((9, 64), dtype=np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    bits = sign_bits(vectors)
    different = np.unpackbits(bits ^ bits[0], axis=1).mean(axis=1)
    np.testing.assert_allclose(different, angles / np.pi, atol=0.07)


def test_bits_are_the_same_everywhere_and_always() -> None:
    """They stand in collections: another seed or generator would find nothing there."""
    vector = np.linspace(-1, 1, 16, dtype=np.float32)[None]
    assert sign_bits(vector)[0, :6].tobytes().hex() == "9fc94662c556"
