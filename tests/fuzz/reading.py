"""Reads forged pictures as ingest and the embedder do, in a process of its own: `python -m tests.fuzz.reading 0 500`.

It prints a line for each number before its picture is read, so that the last line names the one that ended it, and at
the end how many were pictures and how many were none.
"""

import resource
import signal
import sys
from typing import Final

from services.common.errors import InvalidImage
from services.common.images import ImageLimits, decode, probe, thumbnail
from services.common.location import without_location
from tests.fuzz.pictures import forged

__all__ = ["LIMIT_S", "MEMORY_BYTES"]

LIMIT_S: Final = 60
"""A picture of some kilobytes that takes longer hangs, on any machine."""

MEMORY_BYTES: Final = 4 << 30
"""Addresses that the process may use, of which its libraries take the better part."""

_LIMITS: Final = ImageLimits(max_pixels=2_000_000)


def read(data: bytes) -> bool:
    """Whether it is a picture; InvalidImage is the only error that may say no."""
    try:
        info = probe(data, _LIMITS)
        kept = without_location(data)
        thumbnail(kept, _LIMITS, side_px=32)
        for target_px in (0, 32):
            decode(kept, _LIMITS, target_px=target_px)
        whole = decode(data, _LIMITS)
    except InvalidImage:
        return False
    if whole.size != (info.width, info.height):
        raise AssertionError(f"{whole.size} is not what the header said: {info}")
    return True


def main() -> None:
    """Read the pictures of a range of numbers."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    first, count = int(sys.argv[1]), int(sys.argv[2])
    pictures = 0
    for seed in range(first, first + count):
        sys.stdout.write(f"{seed}\n")
        sys.stdout.flush()
        # Nobody handles it: it ends the process.
        signal.alarm(LIMIT_S)
        pictures += read(forged(seed))
    sys.stdout.write(f"pictures {pictures} of {count}\n")


if __name__ == "__main__":
    main()
