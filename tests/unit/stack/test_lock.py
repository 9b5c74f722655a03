import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.stack.lock import DataInUse, DataLock


@contextmanager
def sleeper(*inherited: int) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=inherited)
    try:
        yield child
    finally:
        child.communicate(b"\n", timeout=10)


def test_one_stack_for_one_folder(tmp_path: Path) -> None:
    data = tmp_path / "deep" / "data"
    lock = DataLock(data)
    lock.note("http://127.0.0.1:8080", {"embedder": 1})
    with pytest.raises(DataInUse, match=rf"in use by another stack at http://127.0.0.1:8080 \(process {os.getpid()}\)"):
        DataLock(data)
    lock.release()
    DataLock(data).release()


def test_what_outlives_a_killed_stack_is_named(tmp_path: Path) -> None:
    with sleeper() as gone:
        dead = gone.pid
    lock = DataLock(tmp_path)
    with sleeper(lock.fd) as left:
        lock.note("", {"milvus": left.pid, "query": dead})
        notes = json.loads((tmp_path / "stack.lock").read_text(encoding="utf-8"))
        (tmp_path / "stack.lock").write_text(json.dumps(notes | {"pid": dead}), encoding="utf-8")
        lock.release()
        with pytest.raises(DataInUse, match=rf"left milvus \({left.pid}\) behind.* end them first: kill {left.pid}$"):
            DataLock(tmp_path)
    DataLock(tmp_path).release()


def test_a_lock_that_says_nothing_is_a_lock(tmp_path: Path) -> None:
    lock = DataLock(tmp_path)
    (tmp_path / "stack.lock").write_text("?", encoding="utf-8")
    with pytest.raises(DataInUse, match="set SACCADE_DATA to another folder"):
        DataLock(tmp_path)
    lock.release()
