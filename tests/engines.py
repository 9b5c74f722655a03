"""The real engines that integration and fault tests run against, as context managers.

Each starts a server of its own on free loopback ports, waits until it answers, and leaves no process behind:

    milvus_lite(data_dir)    milvus-lite's server, from the test environment
    milvus_real(data_dir)    Milvus 2.3.5, from `make tools`
    minio_server(data_dir)   MinIO, from `make tools`

What they give can be killed and restarted with the same data and ports. A server that is not installed skips the
test that asks for it, and fails it where the variable CI is `true`.
"""

import contextlib
import functools
import http.client
import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

import grpc
import pytest

__all__ = [
    "EngineError",
    "MilvusServer",
    "Process",
    "S3Server",
    "Server",
    "free_port",
    "free_ports",
    "http_ok",
    "milvus_lite",
    "milvus_real",
    "minio_server",
    "port_open",
    "require_tool",
    "tools_dir",
    "wait_until",
]

HOST: Final = "127.0.0.1"
# Below the ports that Linux gives to outgoing connections (32768 and up): a client that reconnects while its server is
# down can otherwise be given the server's own port, and then talks to itself.
PORTS: Final = range(15_000, 32_000)
POLL_S: Final = 0.05
LOG_LINES_SHOWN: Final = 30
# Milvus finds out that its predecessor was killed when that one's session expires. Its default is 30 s, for which
# long a restarted server answers "collection not loaded". Below this, a stalled machine ends a healthy server.
MILVUS_SESSION_TTL_S: Final = 10
MILVUS_COMPONENTS: Final = ("ROOTCOORD", "PROXY", "QUERYCOORD", "QUERYNODE", "INDEXNODE", "DATACOORD", "DATANODE")


class EngineError(Exception):
    """An engine is not installed, did not start or did not end; the message says which and shows its last words."""


def tools_dir() -> Path:
    """The folder that `make tools` fills: `.tools` of the repository, or the one that SACCADE_TOOLS names."""
    return Path(os.environ.get("SACCADE_TOOLS") or Path(__file__).resolve().parent.parent / ".tools")


def require_tool(program: Path) -> Path:
    """Return the program's path; where it is not installed, skip the test, or raise EngineError in CI."""
    if os.access(program, os.X_OK):
        return program
    _not_installed(f"{program.name} is not at {program}: run `make tools`")


def _not_installed(sentence: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        raise EngineError(sentence)
    pytest.skip(sentence)


def free_ports(count: int) -> list[int]:
    """Return distinct TCP ports that nothing listens on, all held open together while they are chosen."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        while len(ports) < count:
            port = secrets.choice(PORTS)
            candidate = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with contextlib.suppress(OSError):
                candidate.bind(("", port))
                ports.append(port)
    return ports


def free_port() -> int:
    """Return a TCP port that nothing listens on."""
    return free_ports(1)[0]


def port_open(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def http_ok(port: int, path: str) -> bool:
    """Whether a GET on a loopback port answers 200 within 2 s."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    """Poll until the condition holds; return whether it did before the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


class Process:
    """A program that runs in a process group of its own and writes to a log file of its own.

    Use it in a `with`: entering starts it and waits until `ready()` holds; leaving ends it and whatever it started,
    and removes its log.

    Args:
        command: the program and its arguments.
        ready: says whether the program does its work by now; called again and again, so it must be quick.
        env: the whole environment of the program; None hands down this one.
        cwd: the folder that it runs in.
        ready_s: how long it may take to become ready.
        grace_s: how long it may take to end after SIGTERM, before SIGKILL.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready_s: float = 60,
        grace_s: float = 10,
    ) -> None:
        self.command = [str(part) for part in command]
        self._ready = ready
        self._env = env
        self._cwd = cwd
        self._ready_s = ready_s
        self._grace_s = grace_s
        self._child: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix=f"{Path(self.command[0]).name}-")
        self.log = Path(self._folder.name) / "log"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """The process id, which is also its group's.

        Raises:
            EngineError: it is not running.
        """
        if self._child is None:
            raise EngineError(f"{self.command[0]} is not running")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it was started, was not stopped and has not ended by itself."""
        # WNOWAIT leaves an ended process to `_reap`: until then its id, and so its group's, cannot be given to another.
        return (
            self._child is not None
            and os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        )

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            EngineError: it ended first, or was not ready in time; the message has the log's last lines.
        """
        if self._child is not None:
            raise EngineError(f"{self.command[0]} is running as {self.pid}")
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End it and whatever it started: SIGTERM, and SIGKILL after the grace. Does nothing when it is not running."""
        if self._child is None:
            return
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        wait_until(lambda: not self.running, timeout_s=self._grace_s)
        self.kill()

    def kill(self) -> None:
        """End it and whatever it started with SIGKILL. Does nothing when it is not running."""
        if self._child is None:
            return
        self.signal(signal.SIGKILL)
        self._child.wait()
        self._child = None

    def restart(self) -> None:
        """Start it again as it was started before, after SIGKILL where it still runs."""
        self.kill()
        self.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and whatever it started; SIGSTOP makes it hang and SIGCONT wakes it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def last_lines(self, count: int = LOG_LINES_SHOWN) -> str:
        """Return the last lines of what it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def _wait_until_ready(self) -> None:
        ready = wait_until(lambda: not self.running or self._ready(), timeout_s=self._ready_s)
        if not self.running:
            outcome = "ended before it was ready"
        elif not ready:
            outcome = f"was not ready after {self._ready_s:g} s"
        else:
            return
        raise EngineError(f"{' '.join(self.command)}\n{outcome}. Its last lines:\n{self.last_lines()}")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running engine. Its data and ports stay the same through `kill` and `restart`."""

    process: Process
    data_dir: Path
    port: int

    def kill(self) -> None:
        """End the server at once, as a power cut would (SIGKILL)."""
        self.process.kill()

    def restart(self) -> None:
        """Start the server again, after SIGKILL where it still runs, and wait until it answers."""
        self.process.restart()


@dataclass(frozen=True, kw_only=True)
class MilvusServer(Server):
    """A running Milvus; `uri` is what pymilvus takes."""

    uri: str


@dataclass(frozen=True, kw_only=True)
class S3Server(Server):
    """A running object store; `endpoint` is `host:port`, spoken to without TLS."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)


@contextlib.contextmanager
def milvus_lite(data_dir: Path) -> Iterator[MilvusServer]:
    """Run milvus-lite's server on a data folder, which is made where it is missing. Ready in about 2 s."""
    if importlib.util.find_spec("milvus_lite") is None:
        _not_installed("milvus-lite is not installed: run `make install`, and `make tools` for the other engines")
    port = free_port()
    where = [f"--data-dir={data_dir}", f"--host={HOST}", f"--port={port}"]
    command = [sys.executable, "-m", "milvus_lite", "server", *where]
    with Process(command, ready=functools.partial(_milvus_answers, port)) as process:
        yield MilvusServer(process=process, data_dir=data_dir, port=port, uri=f"http://{HOST}:{port}")


@contextlib.contextmanager
def milvus_real(data_dir: Path) -> Iterator[MilvusServer]:
    """Run Milvus on a data folder, which is made where it is missing and takes 270 MB. Ready in about 3 s.

    It is ready some seconds later after a restart, and searches of collections that were loaded before say "collection
    not loaded" for up to MILVUS_SESSION_TTL_S more. It listens on all interfaces: its ports have no setting for that.
    """
    home = tools_dir() / "milvus" / "server"
    program = require_tool(home / "bin" / "milvus")
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    etcd, etcd_peer, metrics, proxy_internal, *components = free_ports(4 + len(MILVUS_COMPONENTS))
    ports = dict(zip(MILVUS_COMPONENTS, components, strict=True))
    etcd_config = _write_etcd_config(data_dir, etcd, etcd_peer)
    env = _bare_environment(data_dir) | {
        "LD_LIBRARY_PATH": str(home / "bin"),
        "MILVUSCONF": str(home / "configs"),
        "DEPLOY_MODE": "STANDALONE",
        "METRICS_PORT": str(metrics),
        "ETCD_CONFIG_PATH": str(etcd_config),
        "ETCD_ENDPOINTS": f"{HOST}:{etcd}",
        "ETCD_DATA_DIR": str(data_dir / "etcd"),
        "LOCALSTORAGE_PATH": str(data_dir / "files"),
        "ROCKSMQ_PATH": str(data_dir / "rocksmq"),
        "LOG_FILE_ROOTPATH": "",
        "LOG_LEVEL": "warn",
        "COMMON_SESSION_TTL": str(MILVUS_SESSION_TTL_S),
        "PROXY_INTERNALPORT": str(proxy_internal),
    }
    env |= {f"{name}_PORT": str(port) for name, port in ports.items()}
    env |= {f"{name}_IP": HOST for name in ports}
    port = ports["PROXY"]
    with Process(
        [program, "run", "standalone"],
        ready=lambda: http_ok(metrics, "/healthz") and _milvus_answers(port),
        env=env,
        cwd=data_dir,
        grace_s=2,  # its own way down takes up to half an hour while a collection is loaded
    ) as process:
        yield MilvusServer(process=process, data_dir=data_dir, port=port, uri=f"http://{HOST}:{port}")


@contextlib.contextmanager
def minio_server(data_dir: Path) -> Iterator[S3Server]:
    """Run MinIO on a data folder, which is made where it is missing, with credentials of its own. Ready in 0.4 s."""
    program = require_tool(tools_dir() / "bin" / "minio")
    port, console = free_ports(2)
    endpoint = f"{HOST}:{port}"
    access_key, secret_key = secrets.token_hex(8), secrets.token_hex(16)
    env = _bare_environment(data_dir) | {
        "MINIO_ROOT_USER": access_key,
        "MINIO_ROOT_PASSWORD": secret_key,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    command = [str(program), "server", f"--address={endpoint}", f"--console-address={HOST}:{console}"]
    # `health/ready` says yes too early: the next request may get 503 with `Retry-After: 60`, which the client sits out.
    with Process([*command, str(data_dir)], ready=lambda: http_ok(port, "/minio/health/cluster"), env=env) as process:
        yield S3Server(
            process=process,
            data_dir=data_dir,
            port=port,
            endpoint=endpoint,
            access_key=access_key,
            secret_key=secret_key,
        )


def _bare_environment(home: Path) -> dict[str, str]:
    # Both servers read settings from variables: those of the developer's shell must not reach them.
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home)}


def _milvus_answers(port: int) -> bool:
    """Whether a server on a loopback port answers Milvus's own GetVersion, or says that it does not have it."""
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        get_version = channel.unary_unary(
            "/milvus.proto.milvus.MilvusService/GetVersion",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        try:
            get_version(b"", timeout=2)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNIMPLEMENTED
        return True


def _write_etcd_config(data_dir: Path, client_port: int, peer_port: int) -> Path:
    # Without a file of its own, the etcd inside Milvus takes ports 2379 and 2380.
    client, peer = f"http://{HOST}:{client_port}", f"http://{HOST}:{peer_port}"
    settings = {
        "name": "default",
        "data-dir": data_dir / "etcd",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
        "log-level": "warn",
    }
    path = data_dir / "etcd.yaml"
    path.write_text("".join(f'{name}: "{value}"\n' for name, value in settings.items()))
    return path
