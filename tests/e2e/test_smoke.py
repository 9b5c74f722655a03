import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from saccade import Client
from saccade.labels import Label
from services.stack.lock import DataInUse, DataLock
from services.stack.processes import free_ports, port_open, wait_until
from services.stack.smoke import cases, run_cases
from services.stack.stack import Stack

PORTS = ["EMBEDDER_LISTEN", "INGEST_LISTEN", "QUERY_LISTEN", "GATEWAY_LISTEN"]
METRICS = ["EMBEDDER_METRICS_LISTEN", "INGEST_METRICS_LISTEN", "QUERY_METRICS_LISTEN", "GATEWAY_METRICS_LISTEN"]


def test_every_kind_of_search_is_answered_rightly(stack: Stack, client: Client, labels: list[Label]) -> None:
    outcomes = run_cases(stack, client, labels)
    assert len(outcomes) == 2 * len(cases(labels))
    assert [outcome for outcome in outcomes if outcome.wrong] == []


class Run:
    """`python -m services.stack run` as a person starts it; what it writes is read on a thread."""

    def __init__(self, env: dict[str, str]) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "services.stack", "run"],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stdout
        with self.child.stdout as output:
            self.lines.extend(line.rstrip() for line in output)

    def wait_for(self, condition: Callable[[str], object], timeout_s: float = 90) -> str:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for line in list(self.lines):
                if condition(line):
                    return line
            if self.child.poll() is not None:
                break
            time.sleep(0.05)
        pytest.fail("not seen:\n" + "\n".join(self.lines))

    def end(self, timeout_s: float = 40) -> int:
        code = self.child.wait(timeout_s)
        self._reader.join(10)
        return code


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SACCADE_")}
    names = [*PORTS, *METRICS]
    ports = free_ports(len(names) + 1)
    chosen = {f"SACCADE_{name}": f"127.0.0.1:{port}" for name, port in zip(names, ports[1:], strict=True)}
    return (
        clean
        | chosen
        | {
            "SACCADE_DATA": str(tmp_path / "data"),
            "SACCADE_MODEL": "toy",
            "SACCADE_SEGMENTER": "toy",
            "SACCADE_MILVUS_PORT": str(ports[0]),
            # A service's own name for what the stack decides: nothing may come of it.
            "SACCADE_INGEST_OBJECTS_URL": (tmp_path / "elsewhere").as_uri(),
        }
    )


@pytest.mark.timeout(300)
def test_run_stays_until_a_signal_and_finds_its_data_again(environment: dict[str, str], labels: list[Label]) -> None:
    if sys.platform == "linux":  # where loopback has more than one address
        environment["SACCADE_GATEWAY_LISTEN"] = environment["SACCADE_GATEWAY_LISTEN"].replace("127.0.0.1", "127.0.0.2")
    first = Run(environment)
    first.wait_for(lambda line: "Saccade is at" in line)
    addresses = {name.lower(): environment[f"SACCADE_{name}_LISTEN"] for name in ("INGEST", "QUERY")}
    with Client(ingest=addresses["ingest"], query=addresses["query"]) as client:
        client.create_collection("mine")
        client.create_image("mine", labels[0].to_image(), wait_for="segmented")
    assert httpx.get(f"http://{environment['SACCADE_GATEWAY_LISTEN']}/readyz").status_code == httpx.codes.OK
    assert (Path(environment["SACCADE_DATA"]) / "objects").is_dir()
    assert not (Path(environment["SACCADE_DATA"]).parent / "elsewhere").exists()

    # The data folder is taken, and so are the ports.
    second = Run(environment)
    assert second.end() == 1
    assert any("is in use by another stack" in line and "SACCADE_DATA" in line for line in second.lines)
    elsewhere = environment | {"SACCADE_DATA": f"{environment['SACCADE_DATA']}-2"}
    third = Run(elsewhere)
    assert third.end() == 1
    told = next(line for line in third.lines if "are in use; stop what listens there" in line)
    assert all(f"{environment[f'SACCADE_{name}']} (SACCADE_{name})" in told for name in [*PORTS, *METRICS])

    first.child.send_signal(signal.SIGINT)
    assert first.end() == 0
    assert first.lines[-1] == "stopped"

    again = Run(environment)
    again.wait_for(lambda line: "Saccade is at" in line)
    with Client(ingest=addresses["ingest"], query=addresses["query"]) as client:
        found = client.search("mine", image=labels[0].path, mode="whole", consistency="strong")
        assert [result.image.id for result in found.results] == [labels[0].id]
    again.child.send_signal(signal.SIGTERM)
    assert again.end() == 0
    for name in PORTS:
        host, _, port = environment[f"SACCADE_{name}"].rpartition(":")
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(port))) != 0


@pytest.mark.timeout(300)
def test_a_process_that_dies_stops_all_and_says_so(environment: dict[str, str]) -> None:
    run = Run(environment)
    run.wait_for(lambda line: "Saccade is at" in line)
    notes = (Path(environment["SACCADE_DATA"]) / "stack.lock").read_text(encoding="utf-8")
    found = re.search(r'"query": (\d+)', notes)
    assert found
    os.kill(int(found[1]), signal.SIGKILL)
    assert run.end() == 1
    assert any("query has ended by itself; everything is stopped" in line for line in run.lines)


@pytest.mark.timeout(300)
def test_a_killed_stack_leaves_nothing_behind(environment: dict[str, str]) -> None:
    run = Run(environment)
    run.wait_for(lambda line: "Saccade is at" in line)
    run.child.kill()
    run.end()
    ports = [int(environment[f"SACCADE_{name}"].rpartition(":")[2]) for name in PORTS]
    ports.append(int(environment["SACCADE_MILVUS_PORT"]))
    assert wait_until(lambda: not any(port_open(port) for port in ports), timeout_s=40)
    assert wait_until(lambda: lock_is_free(Path(environment["SACCADE_DATA"])), timeout_s=20)


def lock_is_free(data: Path) -> bool:
    try:
        DataLock(data).release()
    except DataInUse:
        return False
    return True
