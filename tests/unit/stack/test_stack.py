import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from services.stack.processes import HOST, Process, ProcessError, free_port, wait_until
from services.stack.settings import StackSettings
from services.stack.stack import PortBusy, Stack


def settings_of(data: Path, **given: Any) -> StackSettings:
    return StackSettings.model_validate({"data": data, "milvus_port": free_port(), **given})


def test_a_busy_port_names_its_setting(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        address = f"{HOST}:{taken.getsockname()[1]}"
        for setting in ("embedder_listen", "gateway_metrics_listen"):
            stack = Stack(settings_of(tmp_path, **{setting: address}), {})
            with pytest.raises(PortBusy, match=f"{address} is in use; stop what listens there, or set SACCADE_"):
                stack.start()
    # Nothing is left of the attempt: the lock is free again.
    Stack(settings_of(tmp_path), {}).stop()


def test_where_it_listens_and_where_it_is_reached(tmp_path: Path) -> None:
    stack = Stack(settings_of(tmp_path, gateway_listen="0.0.0.0:8080", query_listen="127.0.0.1:7000"), {})
    assert (stack.gateway_url, stack.query) == ("http://127.0.0.1:8080", "127.0.0.1:7000")
    public = settings_of(tmp_path, public_url="https://pictures.example.org")
    assert Stack(public, {}).gateway_url == "https://pictures.example.org"


def test_what_a_process_writes_is_shown_and_kept() -> None:
    shown: list[tuple[str, str]] = []
    program = "import sys; print('one'); print('two', file=sys.stderr, flush=True); sys.stdin.read(); input()"
    process = Process(
        [sys.executable, "-u", "-c", program],
        name="talker",
        ready=lambda: False,
        show=lambda name, line: shown.append((name, line)),
    )
    with pytest.raises(ProcessError, match=r"(?s)talker ended before it was ready.*EOFError"):
        process.start()
    assert set(shown[:2]) == {("talker", "one"), ("talker", "two")}
    assert process.last_lines(1).startswith("EOFError")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_bound_process_ends_with_its_parent(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    parent = (
        "import sys, time\nfrom services.stack.processes import Process\n"
        "sleep = [sys.executable, '-S', '-c', 'import time; time.sleep(600)']\n"
        "child = Process(sleep, ready=lambda: True, bound=True)\n"
        "child.start()\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    process = Process([sys.executable, "-c", parent], ready=lambda: note.exists() and note.read_text() != "")
    process.start()
    child = int(note.read_text())
    os.kill(process.pid, signal.SIGKILL)
    try:
        assert wait_until(lambda: not alive(child), timeout_s=10)
    finally:
        process.stop()


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
