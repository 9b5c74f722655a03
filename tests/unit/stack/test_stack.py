import os
import re
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from saccade.labels import Label, LabelledObject
from services.ingest.settings import IngestSettings
from services.stack import __main__ as program
from services.stack.processes import HOST, Process, ProcessError, free_port, http_ok, wait_until
from services.stack.settings import SERVICES, GivenSettings, StackSettings
from services.stack.stack import PortBusy, Stack, override, temporary_settings


def settings_of(data: Path, **given: Any) -> StackSettings:
    return GivenSettings.model_validate({"data": data, "milvus_port": free_port(), **given})


def test_busy_ports_are_named_at_once_with_their_settings(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as one, socket.create_server((HOST, 0)) as two:
        first, second = (f"{HOST}:{taken.getsockname()[1]}" for taken in (one, two))
        free = {f"{name}_{kind}": f"{HOST}:{free_port()}" for name in SERVICES for kind in ("listen", "metrics_listen")}
        for given, told in (
            ({"query_listen": first}, f"{first} (SACCADE_QUERY_LISTEN) is in use; "),
            (
                {"embedder_listen": first, "gateway_metrics_listen": second},
                f"{first} (SACCADE_EMBEDDER_LISTEN), {second} (SACCADE_GATEWAY_METRICS_LISTEN) are in use; ",
            ),
        ):
            stack = Stack(settings_of(tmp_path, **free | given), {})
            with pytest.raises(PortBusy, match=f"^{re.escape(told)}stop what listens there"):
                stack.start()
    # Nothing is left of the attempt: the lock is free again.
    Stack(settings_of(tmp_path), {}).stop()


def test_where_it_listens_and_where_it_is_reached(tmp_path: Path) -> None:
    stack = Stack(settings_of(tmp_path, gateway_listen="0.0.0.0:8080", query_listen="127.0.0.1:7000"), {})
    assert (stack.gateway_url, stack.query) == ("http://127.0.0.1:8080", "127.0.0.1:7000")
    public = settings_of(tmp_path, public_url="https://pictures.example.org")
    assert Stack(public, {}).gateway_url == "https://pictures.example.org"
    sixth = Stack(settings_of(tmp_path, gateway_listen="[::1]:8080", query_listen="[::]:7000"), {})
    assert (sixth.gateway_url, sixth.query) == ("http://[::1]:8080", "127.0.0.1:7000")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, loopback has one address alone")
def test_http_is_asked_where_it_listens() -> None:
    with HTTPServer(("127.0.0.2", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert http_ok(server.server_port, "/", "127.0.0.2")
            assert not http_ok(server.server_port, "/")
        finally:
            server.shutdown()
            thread.join(10)


class Page(BaseHTTPRequestHandler):
    """An empty page, without a log."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_temporary_stack_is_the_same_wherever_it_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "PUBLIC_URL": "https://production.example.org",
        "STACK_PUBLIC_URL": "https://production.example.org",
        "GATEWAY_LISTEN": "192.0.2.1:80",
        "DATA": "/production",
        "TOOLS": str(tmp_path / "tools"),
        "DEMO_DIR": str(tmp_path / "demo"),
        "START_S": "7",
    }.items():
        monkeypatch.setenv(f"SACCADE_{name}", value)
    settings = temporary_settings(tmp_path)
    assert Stack(settings, {}).gateway_url == f"http://{settings.gateway_listen}"
    assert settings.gateway_listen.startswith(f"{HOST}:")
    assert settings.data == tmp_path
    # What is so of the machine is so of every stack on it.
    assert (settings.tools, settings.demo_dir, settings.start_s) == (tmp_path / "tools", tmp_path / "demo", 7)


def test_sample_searches_find_their_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = Path(program.__file__).parents[2]
    monkeypatch.chdir(root)
    boxes = {"owl": (0.1, 0.2, 0.4, 0.6), "bus": (0.5, 0.5, 0.9, 0.9)}
    objects = tuple(LabelledObject(name, box=box) for name, box in boxes.items())
    labels = [Label("a.jpg", root / "a.jpg", id="a", objects=objects)]
    stack = Stack(settings_of(tmp_path), {})
    for environment, activated in ((root / ".venv", True), (tmp_path / "environment", False)):
        monkeypatch.setattr(sys, "prefix", str(environment))
        lines = [line.strip() for line in program.samples(stack, labels).splitlines()]
        assert ("source .venv/bin/activate" in lines) is activated
        assert 'saccade search -c demo --text "owl and bus"' in lines


def test_what_a_stack_decides_holds_for_every_service(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {
        "SACCADE_OBJECTS_URL": "s3://production",
        "SACCADE_INGEST_OBJECTS_URL": "s3://production",
        "saccade_ingest_objects_url": "s3://production",
        "SACCADE_QUERY_MILVUS_URI": "http://production:19530",
        "SACCADE_GATEWAY_QUERY_ADDRESS": "dns:///production:50053",
        "SACCADE_INGEST_MILVUS_TIMEOUT_S": "3",
        "LANG": "C",
    }
    decided = {
        "SACCADE_OBJECTS_URL": "file:///here",
        "SACCADE_MILVUS_URI": "http://here",
        "SACCADE_QUERY_ADDRESS": "dns:///here",
    }
    result = override(environ, decided)
    assert result == decided | {"SACCADE_INGEST_MILVUS_TIMEOUT_S": "3", "LANG": "C"}
    for name in environ:
        monkeypatch.delenv(name, raising=False)
    for name, value in result.items():
        monkeypatch.setenv(name, value)
    ingest = IngestSettings()
    assert (ingest.objects_url, ingest.milvus_timeout_s) == ("file:///here", 3)


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
