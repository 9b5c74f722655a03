"""Locality-sensitive hashing: the signs of a vector's products with random directions.

Two unit vectors at the angle a get different signs from a random direction with probability a / pi (Goemans and
Williamson, 1995; Charikar, 2002), so the Hamming distance of their bits grows with the angle between them.
"""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["sign_bits", "sign_count"]

MIN_BITS: Final = 512
BITS_PER_DIMENSION: Final = 4
# Part of what the index holds: another seed finds nothing in collections that stand.
_SEED: Final = 20_231
# Dimensions whose directions are kept: 4 MB for 512, 16 MB for 1,024.
_KEPT: Final = 4


def sign_count(dimension: int) -> int:
    """Bits that a vector of this dimension gets, a multiple of 8."""
    return max(MIN_BITS, BITS_PER_DIMENSION * dimension + -BITS_PER_DIMENSION * dimension % 8)


def sign_bits(vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The bits of each row of `vectors` [n, d], eight to a byte: shape [n, sign_count(d) / 8]."""
    return np.packbits(np.asarray(vectors, dtype=np.float32) @ _directions(vectors.shape[1]) > 0, axis=1)


@lru_cache(maxsize=_KEPT)
def _directions(dimension: int) -> NDArray[np.float32]:
    # The generator whose numbers numpy promises never to change.
    random = np.random.RandomState(_SEED)
    return random.standard_normal((dimension, sign_count(dimension))).astype(np.float32)
