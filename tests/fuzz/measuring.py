"""The most memory that decoding a file takes, in a process of its own: `python -m tests.fuzz.measuring FILE`."""

import sys
from pathlib import Path

from services.common.images import ImageLimits, decode

__all__: list[str] = []


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


def main() -> None:
    """Print by how much the process grew at most."""
    data = Path(sys.argv[1]).read_bytes()
    before = _peak_bytes()
    decode(data, ImageLimits())
    sys.stdout.write(f"{_peak_bytes() - before}\n")


if __name__ == "__main__":
    main()
