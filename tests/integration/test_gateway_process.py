import os
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from saccade.keys import create_key
from tests.engines import free_ports
from tests.integration.access_support import Authority


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


def test_it_serves_https_to_those_whose_key_it_knows(tmp_path: Path) -> None:
    authority = Authority()
    authority.write(tmp_path, "gateway")
    key, _ = create_key(tmp_path / "keys.json", "reader", scope="read", collections=["*"])
    port = free_ports(1)[0]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SACCADE_")}
    environment |= {
        # More than loopback is no wonder where callers are known.
        "SACCADE_GATEWAY_LISTEN": f"0.0.0.0:{port}",
        "SACCADE_GATEWAY_METRICS_LISTEN": "",
        "SACCADE_GATEWAY_HTTPS_CERT": str(tmp_path / "gateway.pem"),
        "SACCADE_GATEWAY_HTTPS_KEY": str(tmp_path / "gateway.key"),
        "SACCADE_AUTH": "keys",
        "SACCADE_KEYS_FILE": str(tmp_path / "keys.json"),
        # Nobody is there: whoever is let in is told so.
        "SACCADE_EMBEDDER_ADDRESS": "dns:///127.0.0.1:1",
    }
    command = [sys.executable, "-m", "services.gateway"]
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    with (
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process,
        httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context, timeout=60) as http,
    ):
        try:
            wait_until_it_answers(f"https://127.0.0.1:{port}/healthz", process, verify=context)
            health = http.get("/healthz")
            unknown = http.get("/v1/model")
            known = http.get("/v1/model", headers={"authorization": f"Bearer {key}"})
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, log
    assert (health.status_code, unknown.status_code, known.status_code) == (200, 401, 503)
    assert health.headers["strict-transport-security"].startswith("max-age=")
    assert "server" not in health.headers
    assert unknown.headers["www-authenticate"] == "Bearer"
    assert key not in log
    assert '"caller": "key \'reader\'"' in log


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"SACCADE_GATEWAY_LISTEN": "0.0.0.0:1"}, "SACCADE_ALLOW_OPEN_CONFIRM=0.0.0.0:1"),
        ({"SACCADE_AUTH": "keys"}, "SACCADE_KEYS_FILE"),
        ({"SACCADE_GATEWAY_HTTPS_CERT": "/none", "SACCADE_GATEWAY_HTTPS_KEY": "/none"}, "belong together"),
    ],
)
def test_what_would_not_be_safe_stops_the_start_with_a_sentence(settings: dict[str, str], word: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SACCADE_")}
    environment |= {"SACCADE_GATEWAY_METRICS_LISTEN": "", **settings}
    command = [sys.executable, "-m", "services.gateway"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def wait_until_it_answers(url: str, process: "subprocess.Popen[str]", verify: ssl.SSLContext | bool = True) -> None:
    deadline = time.monotonic() + 60
    with httpx.Client(verify=verify) as http:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                http.get(url)
            except httpx.TransportError:
                time.sleep(0.1)
            else:
                return
    raise AssertionError("the gateway does not answer")
