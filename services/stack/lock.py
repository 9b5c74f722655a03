"""One stack for one data folder: a lock that lasts as long as any process of the stack."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["DataInUse", "DataLock"]


class DataInUse(Exception):
    """Another stack, or what is left of one, works on the folder; the message says what to do."""


class DataLock:
    """An exclusive lock on a data folder, with a note of who holds it.

    The lock belongs to an open file. Processes that inherit `fd` hold it too, so that engines that outlive a killed
    stack are noticed before a second set of them opens the same files.
    """

    def __init__(self, data: Path) -> None:
        """Take the lock, or raise DataInUse; the folder is made where it is missing."""
        data.mkdir(parents=True, exist_ok=True)
        self._file = (data / "stack.lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            text = self._file.read()
            self._file.close()
            raise DataInUse(_who(data, text)) from None
        self.note("", {})

    @property
    def fd(self) -> int:
        """The file descriptor that the stack's processes inherit."""
        return self._file.fileno()

    def note(self, url: str, processes: Mapping[str, int]) -> None:
        """Write down who holds the lock: our address, and our processes by name."""
        self._file.seek(0)
        self._file.truncate()
        json.dump({"pid": os.getpid(), "url": url, "processes": dict(processes)}, self._file)
        self._file.flush()

    def release(self) -> None:
        """Give the lock back; it stays held by processes that inherited it."""
        self._file.close()


def _who(data: Path, text: str) -> str:
    try:
        holder = json.loads(text)
        pid, url, processes = int(holder["pid"]), str(holder["url"]), dict(holder["processes"])
    except (ValueError, KeyError, TypeError):
        return f"{data} is in use by another stack; stop it, or set SACCADE_DATA to another folder"
    if _alive(pid):
        at = f" at {url}" if url else ""
        return f"{data} is in use by another stack{at} (process {pid}); stop it, or set SACCADE_DATA to another folder"
    left = {name: number for name, number in processes.items() if _alive(number)}
    names = ", ".join(f"{name} ({number})" for name, number in left.items())
    numbers = " ".join(str(number) for number in left.values())
    return f"a stack that was killed left {names} behind, working on {data}; end them first: kill {numbers}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
