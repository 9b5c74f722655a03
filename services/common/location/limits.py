"""How much besides pixels a picture may carry."""

from typing import Final

from services.common.errors import InvalidImage

__all__ = ["MAX_BLOCKS", "MAX_EXTENSION_BYTES", "too_much"]

MAX_BLOCKS: Final = 65_536
"""Segments, chunks or fields in one file; decoders take microseconds for each, so millions would take minutes."""

MAX_EXTENSION_BYTES: Final = 1024 * 1024
"""Comments and the like in one GIF; Pillow copies all that came before for every 255 bytes of them."""


def too_much() -> InvalidImage:
    """The error for a file made to exhaust its reader."""
    return InvalidImage(
        "the image carries far more blocks of metadata than pictures do; save it again without them",
        reason="IMAGE_METADATA",
    )
