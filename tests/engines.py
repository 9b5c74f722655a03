"""The real engines that integration and fault tests run against, as context managers.

Each starts a server of its own on free loopback ports, waits until it answers, and leaves no process behind:

    milvus_lite(data_dir)    milvus-lite's server, from the test environment
    milvus_real(data_dir)    Milvus 2.3.5, from `make tools`
    minio_server(data_dir)   MinIO, from `make tools`

What they give can be killed and restarted with the same data and ports. A server that is not installed skips the
test that asks for it, and fails it where the variable CI is `true`.
"""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn, TypeVar

import pytest

from services.stack import engines
from services.stack.processes import Process, ProcessError, free_port, free_ports, http_ok, port_open, wait_until

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
    "not_installed",
    "port_open",
    "tools_dir",
    "wait_until",
]

EngineError: Final = ProcessError
"""An engine is not installed, did not start or did not end; the message says which and shows its last words."""

_Engine = TypeVar("_Engine", engines.VectorEngine, engines.ObjectEngine)


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


def tools_dir() -> Path:
    """The folder that `make tools` fills: `.tools` of the repository, or the one that SACCADE_TOOLS names."""
    return Path(os.environ.get("SACCADE_TOOLS") or Path(__file__).resolve().parent.parent / ".tools")


@contextlib.contextmanager
def milvus_lite(data_dir: Path) -> Iterator[MilvusServer]:
    """Run milvus-lite's server on a data folder; see services.stack.engines."""
    if importlib.util.find_spec("milvus_lite") is None:
        not_installed("milvus-lite is not installed: run `make install`, and `make tools` for the other engines")
    with _running(lambda: engines.milvus_lite(data_dir, free_port())) as engine:
        yield _milvus(engine)


@contextlib.contextmanager
def milvus_real(data_dir: Path) -> Iterator[MilvusServer]:
    """Run Milvus on a data folder; see services.stack.engines."""
    with _running(lambda: engines.milvus(data_dir, free_port(), tools_dir())) as engine:
        yield _milvus(engine)


@contextlib.contextmanager
def minio_server(data_dir: Path) -> Iterator[S3Server]:
    """Run MinIO on a data folder, with credentials of its own; see services.stack.engines."""
    with _running(lambda: engines.minio(data_dir, free_port(), tools_dir())) as engine:
        yield S3Server(
            process=engine.process,
            data_dir=engine.data_dir,
            port=engine.port,
            endpoint=engine.endpoint,
            access_key=engine.access_key,
            secret_key=engine.secret_key,
        )


@contextlib.contextmanager
def _running(describe: Callable[[], _Engine]) -> Iterator[_Engine]:
    try:
        engine = describe()
    except engines.EngineMissing as exc:
        not_installed(str(exc))
    with engine.process:
        yield engine


def _milvus(engine: engines.VectorEngine) -> MilvusServer:
    return MilvusServer(process=engine.process, data_dir=engine.data_dir, port=engine.port, uri=engine.uri)


def not_installed(sentence: str) -> NoReturn:
    """Skip the test that needs it; in CI, fail it."""
    if os.environ.get("CI") == "true":
        raise EngineError(sentence)
    pytest.skip(sentence)
