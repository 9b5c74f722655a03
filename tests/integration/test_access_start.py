"""What a service's process says of its callers before it serves any."""

import os
import subprocess
import sys
from pathlib import Path

from services.stack.processes import free_port


def start(service: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a service that is to end by itself, for its settings are not good."""
    env = {name: value for name, value in os.environ.items() if not name.upper().startswith("SACCADE_")}
    env |= {f"SACCADE_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", f"services.{service}"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)


def test_a_service_does_not_open_itself_to_all(tmp_path: Path) -> None:
    listen = f"0.0.0.0:{free_port()}"
    ended = start("ingest", listen=listen, metrics_listen="", objects_url=tmp_path.as_uri(), allow_open="true")
    assert ended.returncode == 1
    assert f"SACCADE_ALLOW_OPEN_CONFIRM={listen}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_service_does_not_start_without_its_keys(tmp_path: Path) -> None:
    ended = start(
        "ingest",
        listen=f"127.0.0.1:{free_port()}",
        metrics_listen="",
        objects_url=tmp_path.as_uri(),
        auth="keys",
        keys_file=tmp_path / "none.json",
    )
    assert ended.returncode == 1
    assert "SACCADE_KEYS_FILE" in ended.stderr
    assert "none.json" in ended.stderr
    assert "Traceback" not in ended.stderr
