import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.engines import free_ports


def test_the_process_serves_and_ends_well_on_sigterm(tmp_path: Path) -> None:
    port, metrics_port = free_ports(2)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SACCADE_")}
    environment |= {
        "SACCADE_GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "SACCADE_GATEWAY_METRICS_LISTEN": f"127.0.0.1:{metrics_port}",
        "SACCADE_OBJECTS_URL": f"file://{tmp_path}",
        "SACCADE_PUBLIC_URL": "https://pictures.test",
        "SACCADE_GATEWAY_ALLOWED_HOSTS": "inside.test, proxy.test",
    }
    command = [sys.executable, "-m", "services.gateway"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until_it_answers(f"http://127.0.0.1:{port}/healthz", process)
            assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
            statuses = {
                host: httpx.get(f"http://127.0.0.1:{port}/healthz", headers={"host": host}).status_code
                for host in ("pictures.test", "proxy.test:443", "10.0.0.7:8080", "evil.test")
            }
            metrics = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0, log
    assert statuses == {"pictures.test": 200, "proxy.test:443": 200, "10.0.0.7:8080": 200, "evil.test": 421}
    assert 'route="/healthz"' in metrics
    assert '"event": "stopped"' in log


def test_a_wrong_setting_stops_the_start_with_a_sentence() -> None:
    environment = os.environ | {"SACCADE_GATEWAY_LISTENS": "x"}
    command = [sys.executable, "-m", "services.gateway"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "SACCADE_GATEWAY_LISTENS: no such setting; did you mean SACCADE_GATEWAY_LISTEN?" in done.stderr


def wait_until_it_answers(url: str, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    with httpx.Client() as http:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                http.get(url)
            except httpx.TransportError:
                time.sleep(0.1)
            else:
                return
    raise AssertionError("the gateway does not answer")
