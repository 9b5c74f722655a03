"""The engines that a stack runs on, as processes on loopback: milvus-lite, Milvus and MinIO.

milvus-lite comes with the installation; Milvus and MinIO are what `make tools` puts into a folder.
"""

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypedDict, Unpack

import grpc

from services.stack.processes import HOST, Process, free_ports, http_ok

__all__ = ["EngineMissing", "ObjectEngine", "VectorEngine", "milvus", "milvus_lite", "minio"]

# Milvus finds out that its predecessor was killed when that one's session expires. Its default is 30 s, for which
# long a restarted server answers "collection not loaded". Below this, a stalled machine ends a healthy server.
MILVUS_SESSION_TTL_S: Final = 10
MILVUS_COMPONENTS: Final = ("ROOTCOORD", "PROXY", "QUERYCOORD", "QUERYNODE", "INDEXNODE", "DATACOORD", "DATANODE")


class EngineMissing(Exception):
    """A program that is not installed; the message says how to install it."""


class Options(TypedDict, total=False):
    """What every engine's process may be given; see Process."""

    show: Callable[[str, str], None] | None
    keep_open: Sequence[int]
    bound: bool


@dataclass(frozen=True, kw_only=True)
class VectorEngine:
    """A Milvus, not started; `uri` is what its clients take. Its data and port stay the same when it is restarted."""

    process: Process
    data_dir: Path
    port: int

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class ObjectEngine:
    """An S3-compatible store, not started; spoken to without TLS."""

    process: Process
    data_dir: Path
    port: int
    access_key: str
    secret_key: str = field(repr=False)

    @property
    def endpoint(self) -> str:
        """Its host:port."""
        return f"{HOST}:{self.port}"


def milvus_lite(data_dir: Path, port: int, **options: Unpack[Options]) -> VectorEngine:
    """milvus-lite's server on a data folder, which is made where it is missing. Ready in about 2 s."""
    where = [f"--data-dir={data_dir}", f"--host={HOST}", f"--port={port}"]
    process = Process(
        [sys.executable, "-m", "milvus_lite", "server", *where],
        name="milvus",
        ready=lambda: _milvus_answers(port),
        **options,
    )
    return VectorEngine(process=process, data_dir=data_dir, port=port)


def milvus(data_dir: Path, port: int, tools: Path, **options: Unpack[Options]) -> VectorEngine:
    """Milvus 2.3.5 on a data folder, which is made where it is missing and takes 270 MB. Ready in about 3 s.

    It is ready some seconds later after a restart, and searches of collections that were loaded before say "collection
    not loaded" for up to MILVUS_SESSION_TTL_S more. It listens on all interfaces: its ports have no setting for that.
    Raises EngineMissing.
    """
    home = tools / "milvus" / "server"
    program = _installed(home / "bin" / "milvus")
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    etcd, etcd_peer, metrics, proxy_internal, *components = free_ports(4 + len(MILVUS_COMPONENTS))
    ports = dict(zip(MILVUS_COMPONENTS, components, strict=True)) | {"PROXY": port}
    env = _bare_environment(data_dir) | {
        "LD_LIBRARY_PATH": str(home / "bin"),
        "MILVUSCONF": str(home / "configs"),
        "DEPLOY_MODE": "STANDALONE",
        "METRICS_PORT": str(metrics),
        "ETCD_CONFIG_PATH": str(_write_etcd_config(data_dir, etcd, etcd_peer)),
        "ETCD_ENDPOINTS": f"{HOST}:{etcd}",
        "ETCD_DATA_DIR": str(data_dir / "etcd"),
        "LOCALSTORAGE_PATH": str(data_dir / "files"),
        "ROCKSMQ_PATH": str(data_dir / "rocksmq"),
        "LOG_FILE_ROOTPATH": "",
        "LOG_LEVEL": "warn",
        "COMMON_SESSION_TTL": str(MILVUS_SESSION_TTL_S),
        "PROXY_INTERNALPORT": str(proxy_internal),
    }
    env |= {f"{name}_PORT": str(number) for name, number in ports.items()}
    env |= {f"{name}_IP": HOST for name in ports}
    process = Process(
        [program, "run", "standalone"],
        name="milvus",
        ready=lambda: http_ok(metrics, "/healthz") and _milvus_answers(port),
        env=env,
        cwd=data_dir,
        grace_s=2,  # its own way down takes up to half an hour while a collection is loaded
        **options,
    )
    return VectorEngine(process=process, data_dir=data_dir, port=port)


def minio(data_dir: Path, port: int, tools: Path, **options: Unpack[Options]) -> ObjectEngine:
    """MinIO on a data folder, which is made where it is missing, with credentials of its own. Ready in 0.4 s.

    Raises EngineMissing.
    """
    program = _installed(tools / "bin" / "minio")
    access_key, secret_key = secrets.token_hex(8), secrets.token_hex(16)
    env = _bare_environment(data_dir) | {
        "MINIO_ROOT_USER": access_key,
        "MINIO_ROOT_PASSWORD": secret_key,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    listen = [f"--address={HOST}:{port}", f"--console-address={HOST}:{free_ports(1)[0]}"]
    process = Process(
        [program, "server", *listen, data_dir],
        name="minio",
        ready=lambda: http_ok(port, "/minio/health/ready"),
        env=env,
        **options,
    )
    return ObjectEngine(process=process, data_dir=data_dir, port=port, access_key=access_key, secret_key=secret_key)


def _installed(program: Path) -> Path:
    if not os.access(program, os.X_OK):
        raise EngineMissing(f"{program.name} is not at {program}: run `make tools`")
    return program


def _bare_environment(home: Path) -> dict[str, str]:
    # Both servers read settings from variables: those of the developer's shell must not reach them.
    return {"PATH": os.defpath, "HOME": str(home)}


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
