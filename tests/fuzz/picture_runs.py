"""Runs of `reading` side by side."""

import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final

__all__ = ["read_forged"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_SHOWN: Final = 3_000


def read_forged(first: int, count: int, *, processes: int) -> int:
    """How many of the forged pictures from number `first` on can be read; AssertionError names one that harms."""
    each = -(-count // processes)
    pictures = 0
    with ExitStack() as files:
        running = []
        for at in range(first, first + count, each):
            # Files, for a process would wait where nobody reads its pipe.
            out = files.enter_context(tempfile.TemporaryFile("w+"))
            running.append((_start(at, min(each, first + count - at), out), out))
        for process, out in running:
            process.wait()
            out.seek(0)
            said = out.read()
            assert process.returncode == 0, f"ended with {process.returncode}:\n{said[-_SHOWN:]}"
            found = re.search(r"^pictures (\d+) of \d+$", said, re.MULTILINE)
            assert found, said[-_SHOWN:]
            pictures += int(found[1])
    return pictures


def _start(first: int, count: int, out: IO[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-X", "faulthandler", "-W", "ignore", "-m", "tests.fuzz.reading", str(first), str(count)]
    return subprocess.Popen(command, cwd=_ROOT, stdout=out, stderr=subprocess.STDOUT)
