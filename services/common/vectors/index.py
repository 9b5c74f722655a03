"""How an index is built and searched: nlist and nprobe, ef, candidates."""

import math
from typing import Final

from services.common.records import IndexSpec

__all__ = [
    "DEFAULT_NLIST",
    "choose_nprobe",
    "default_candidates",
    "default_ef",
    "index_nlist",
    "index_nprobe",
    "max_candidates",
    "nlist_for",
]

# A collection starts with no rows: what it is built with until it is built anew.
DEFAULT_NLIST: Final = 128
# Fewer lists than this are never searched: in a small index they cost next to nothing.
MIN_NPROBE: Final = 32


def nlist_for(rows: int) -> int:
    """Lists for so many rows: about 4 * sqrt(rows), a power of two in [128, 16,384]."""
    wanted = 4 * math.sqrt(max(rows, 1))
    return int(min(16_384, max(DEFAULT_NLIST, 2 ** round(math.log2(wanted)))))


def choose_nprobe(nlist: int, target_recall: float) -> int:
    """Lists to search so that recall@10 reaches `target_recall`, in [32, nlist].

    Which recall a number of lists gives depends on the data. Measured on overlapping clusters, recall@10 at nprobe 8,
    16, 32 and 64 was 0.934, 0.968, 0.991 and 0.998 with 3,000 vectors in 128 lists, 0.772, 0.932, 0.970 and 0.980 with
    20,000 in 1,024 lists, and 0.963, 0.991, 0.997 and 1.000 with 100,000 in 1,024 lists. For a target of 0.95 the
    choice is enough in all three; it grows with sqrt(nlist), since small lists put neighbours behind more borders.
    """
    if target_recall >= 1:
        return nlist
    factor = next(factor for recall, factor in _FACTORS if target_recall <= recall)
    return min(nlist, max(MIN_NPROBE, math.ceil(factor * math.sqrt(nlist))))


# (recall, nprobe / sqrt(nlist) that reaches it)
_FACTORS: Final = ((0.9, 0.5), (0.96, 1.0), (0.99, 3.0), (1.0, 6.0))


# (recall, search list of a graph that reaches it)
_EF: Final = ((0.9, 64), (0.95, 128), (0.99, 256), (1.0, 512))
# Rows of an LSH index that are compared exactly: at most unless told otherwise, at most ever, and their share of all.
_DEFAULT_CANDIDATES: Final = 2_000
_MOST_IN_ANSWER: Final = 16_384
_CANDIDATES_PART: Final = 20


def default_ef(target_recall: float) -> int:
    """Search list of a graph for this recall@10, where nothing was measured."""
    return next(ef for recall, ef in _EF if target_recall <= recall)


def max_candidates(rows: int) -> int:
    """Most rows of an LSH index that are compared exactly: 5 % of them, as many as one answer holds."""
    return max(1, min(_MOST_IN_ANSWER, rows // _CANDIDATES_PART))


def default_candidates(rows: int) -> int:
    """Rows of an LSH index that are compared exactly where nothing was measured: 5 % of them, at most 2,000."""
    return min(_DEFAULT_CANDIDATES, max_candidates(rows))


def index_nlist(spec: IndexSpec) -> int:
    """Lists that the index is built with."""
    return spec.nlist or DEFAULT_NLIST


def index_nprobe(spec: IndexSpec) -> int:
    """Lists that a search looks into unless it says otherwise."""
    nlist = index_nlist(spec)
    return min(spec.nprobe, nlist) if spec.nprobe else choose_nprobe(nlist, spec.target_recall)
