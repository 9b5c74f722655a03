"""How many lists an index is built with."""

from services.common.records import IndexSpec, IndexType
from services.common.vectors import nlist_for

__all__ = ["lists_for"]


def lists_for(spec: IndexSpec, images: int, segments: int) -> int:
    """Lists to build with; 0 for kinds that have none. Of images and segments, those count that are more."""
    if spec.type is not IndexType.IVF_FLAT:
        return 0
    return spec.nlist or nlist_for(max(images, segments))
