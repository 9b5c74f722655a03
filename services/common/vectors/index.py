"""How an index is built and searched: nlist and nprobe."""

import math
from typing import Final

from services.common.records import IndexSpec

__all__ = ["choose_nlist", "choose_nprobe", "index_nlist", "index_nprobe"]

# A collection starts with no rows: what it is built with until it is built anew.
DEFAULT_NLIST: Final = 128
MAX_NLIST: Final = 65_536
# Fewer lists than this are never searched: in a small index they cost next to nothing.
MIN_NPROBE: Final = 16


def choose_nlist(rows: int) -> int:
    """Lists for an IVF index over `rows` vectors: a power of two near 4 * sqrt(rows), within [128, 65536].

    4 * sqrt(n) is what the authors of FAISS and of Milvus advise; a list then holds sqrt(n) / 4 vectors.
    """
    if rows <= 0:
        return DEFAULT_NLIST
    power = round(math.log2(4 * math.sqrt(rows)))
    return max(DEFAULT_NLIST, min(MAX_NLIST, 1 << power))


def choose_nprobe(nlist: int, target_recall: float) -> int:
    """Lists to search so that recall@10 reaches `target_recall`, in [16, nlist].

    Recall at a given share of probed lists depends on the data. On overlapping clusters with nlist 1024, recall@10 was
    0.907, 0.963, 0.991, 0.997 and 1.000 at nprobe 4, 8, 16, 32 and 64. The choice is twice the least that was enough
    there, and grows with sqrt(nlist), since a query's neighbours lie on the border of more lists where lists are small.
    """
    if target_recall >= 1:
        return nlist
    factor = next(factor for recall, factor in _FACTORS if target_recall <= recall)
    return min(nlist, max(MIN_NPROBE, math.ceil(factor * math.sqrt(nlist))))


# (recall, nprobe / sqrt(nlist) that reaches it with a margin)
_FACTORS: Final = ((0.9, 0.25), (0.96, 0.5), (0.99, 1.0), (0.997, 2.0), (1.0, 4.0))


def index_nlist(spec: IndexSpec) -> int:
    """Lists that the index is built with."""
    return spec.nlist or DEFAULT_NLIST


def index_nprobe(spec: IndexSpec) -> int:
    """Lists that a search looks into unless it says otherwise."""
    nlist = index_nlist(spec)
    return min(spec.nprobe, nlist) if spec.nprobe else choose_nprobe(nlist, spec.target_recall)
