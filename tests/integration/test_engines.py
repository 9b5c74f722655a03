import os
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from minio import Minio
from pymilvus import MilvusClient, MilvusException

from tests import engines
from tests.engines import (
    EngineError,
    MilvusServer,
    Process,
    S3Server,
    free_port,
    free_ports,
    milvus_lite,
    milvus_real,
    minio_server,
    port_open,
    wait_until,
)

DIM = 4
ROWS = [{"id": i, "vector": [float(i), 1.0, 0.0, 0.0]} for i in range(5)]


class StartMilvus(Protocol):
    def __call__(self, data_dir: Path) -> AbstractContextManager[MilvusServer]: ...


@pytest.fixture(params=[milvus_lite, milvus_real], ids=["lite", "real"])
def start_milvus(request: pytest.FixtureRequest) -> StartMilvus:
    start: StartMilvus = request.param
    return start


@pytest.fixture
def store(tmp_path: Path) -> Iterator[S3Server]:
    with minio_server(tmp_path / "objects") as server:
        yield server


def connect(server: S3Server) -> Minio:
    return Minio(server.endpoint, access_key=server.access_key, secret_key=server.secret_key, secure=False)


def nearest(client: MilvusClient) -> list[Any]:
    hits = client.search("pictures", [ROWS[3]["vector"]], limit=1, consistency_level="Strong")
    return [hit["id"] for hit in hits[0]]


def searchable(client: MilvusClient) -> bool:
    try:
        return nearest(client) == [3]
    except MilvusException:
        return False


@pytest.mark.timeout(240)
def test_milvus_answers_survives_a_kill_and_leaves_nothing(start_milvus: StartMilvus, tmp_path: Path) -> None:
    with start_milvus(tmp_path / "vectors") as server:
        client = MilvusClient(server.uri)
        client.create_collection("pictures", dimension=DIM, metric_type="COSINE")
        client.insert("pictures", ROWS)
        assert nearest(client) == [3]
        client.close()

        first_pid = server.process.pid
        server.kill()
        assert not port_open(server.port)
        server.restart()
        assert server.process.pid != first_pid

        client = MilvusClient(server.uri)
        client.load_collection("pictures")
        assert wait_until(lambda: searchable(client), timeout_s=60)
        client.close()
        last_pid = server.process.pid
    assert_gone(first_pid, server.port)
    assert_gone(last_pid, server.port)


@pytest.mark.timeout(240)
def test_two_real_milvus_run_side_by_side(tmp_path: Path) -> None:
    with milvus_real(tmp_path / "one") as one, milvus_real(tmp_path / "two") as two:
        first, second = MilvusClient(one.uri), MilvusClient(two.uri)
        first.create_collection("only_in_one", dimension=DIM)
        assert first.list_collections() == ["only_in_one"]
        assert second.list_collections() == []
        first.close()
        second.close()


def test_minio_answers_survives_a_kill_and_leaves_nothing(tmp_path: Path) -> None:
    with minio_server(tmp_path / "objects") as server:
        client = connect(server)
        client.make_bucket("pictures")
        client.put_object("pictures", "one.bin", BytesIO(b"retina"), length=6)

        server.kill()
        assert not port_open(server.port)
        server.restart()

        with client.get_object("pictures", "one.bin") as response:
            assert response.read() == b"retina"
        pid = server.process.pid
    assert_gone(pid, server.port)


def test_minio_checks_presigned_urls(store: S3Server) -> None:
    client = connect(store)
    client.make_bucket("pictures")
    client.put_object("pictures", "one.bin", BytesIO(b"retina"), length=6)
    url = client.presigned_get_object("pictures", "one.bin")
    tampered = urllib.parse.urlsplit(url)._replace(path="/pictures/two.bin").geturl()

    assert httpx.get(url).content == b"retina"
    assert httpx.get(tampered).status_code == httpx.codes.FORBIDDEN
    assert httpx.get(f"http://{store.endpoint}/pictures/one.bin").status_code == httpx.codes.FORBIDDEN


def test_ports_are_distinct_free_and_below_the_ephemeral_range() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert not any(port_open(port) for port in ports)
    assert max(ports) < 32_768


def test_a_process_takes_its_children_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "child"
    stubborn = f"trap '' TERM; sleep 600 & echo $! > {pid_file}; wait; sleep 600"
    with Process(["/bin/sh", "-c", stubborn], ready=pid_file.exists, grace_s=0.2) as process:
        parent = process.pid
        assert wait_until(lambda: bool(pid_file.read_text().strip()), timeout_s=5)
        child = int(pid_file.read_text())
    assert wait_until(lambda: not alive(parent) and not alive(child), timeout_s=5)


def test_a_process_that_ends_early_says_what_it_wrote() -> None:
    command = [sys.executable, "-c", "print('no disk for me'); raise SystemExit(3)"]
    with (
        pytest.raises(EngineError, match=r"(?s)ended before it was ready.*no disk for me"),
        Process(command, ready=lambda: False),
    ):
        pass


def test_a_process_that_never_gets_ready_is_ended() -> None:
    port = free_port()
    process = Process(["/bin/sleep", "600"], ready=lambda: port_open(port), ready_s=0.2)
    with pytest.raises(EngineError, match=r"was not ready after 0\.2 s"), process:
        pass
    assert not process.running


def test_a_missing_tool_skips_here_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SACCADE_TOOLS", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="make tools"), minio_server(tmp_path):
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(EngineError, match="make tools"), engines.milvus_real(tmp_path):
        pass


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def assert_gone(pid: int, port: int) -> None:
    assert not alive(pid)
    assert not port_open(port)
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)
