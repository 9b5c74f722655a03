"""A whole Saccade as processes on loopback, every one of which can be killed and started again by itself.

Milvus and MinIO are real ones, from `make tools`; models are the toy ones, since what is looked at is what is kept,
not what is seen. Everything is on free ports and in one folder.
"""

import os
import shutil
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pydantic import SecretStr

from benchmarks.proxy import Proxy
from saccade import Client
from services.common.settings import ObjectSettings, VectorSettings
from services.stack import engines
from services.stack.processes import (
    HOST,
    Process,
    ProcessError,
    free_port,
    free_ports,
    grpc_serving,
    http_ok,
    wait_until,
)
from services.stack.settings import SERVICES

__all__ = ["ENGINES", "Cluster", "tools_dir"]

ENGINES: Final = ("milvus", "minio")
BUCKET: Final = "saccade"
READY_S: Final = 180.0
GRACE_S: Final = 60.0
DRAIN_S: Final = 10.0


def tools_dir() -> Path:
    """The folder that `make tools` fills."""
    return Path(os.environ.get("SACCADE_TOOLS") or Path(__file__).resolve().parent.parent / ".tools")


class Cluster:
    """The processes of one Saccade. Use it in a `with`: entering starts it and waits until it answers.

    Attributes:
        processes: By name: milvus, minio, and each service; with several replicas `ingest-1`, `ingest-2` and so on.
        links: Relays by the name of the engine or service that they lead to; see `proxied`.
        gateways: Addresses of the gateway's replicas.
    """

    def __init__(
        self,
        folder: Path,
        *,
        replicas: int = 1,
        settings: Mapping[str, str] | None = None,
        proxied: Collection[str] = (),
        objects_dir: Path | None = None,
        milvus_dir: Path | None = None,
        logs: Path = Path("build/logs"),
    ) -> None:
        """Describe it; nothing is started yet.

        Args:
            folder: Where engines keep their data.
            replicas: Processes of each service.
            settings: Of the services, named as in the environment, over the defaults here.
            proxied: Engines and services that are reached through a relay of `links`; services with one replica only.
            objects_dir: Where MinIO keeps its data; None: in the folder.
            milvus_dir: The same of Milvus.
            logs: Where what the processes wrote is kept if the block fails.

        Raises:
            EngineMissing: Milvus or MinIO is not installed.
        """
        tools = tools_dir().resolve()
        self._logs = logs
        self.vectors = engines.milvus(milvus_dir or folder / "milvus", free_port(), tools)
        self.objects = engines.minio(objects_dir or folder / "minio", free_port(), tools)
        ports = iter(free_ports(replicas * len(SERVICES)))
        self._ports = {name: [next(ports) for _ in range(replicas)] for name in SERVICES}
        targets = {"milvus": self.vectors.port, "minio": self.objects.port}
        targets |= {name: numbers[0] for name, numbers in self._ports.items() if replicas == 1}
        self.links = {name: Proxy(targets[name]) for name in proxied}
        self.gateways = [f"http://{HOST}:{port}" for port in self._ports["gateway"]]
        self.processes = {"milvus": self.vectors.process, "minio": self.objects.process}
        environment = self._environment() | dict(settings or {})
        for name, numbers in self._ports.items():
            for number, port in enumerate(numbers, 1):
                full = name if replicas == 1 else f"{name}-{number}"
                self.processes[full] = _service(name, full, port, environment)

    def __enter__(self) -> Self:
        try:
            for link in self.links.values():
                link.start()
            for process in self.processes.values():
                process.launch()
            self.wait_until_ready()
        except BaseException:
            self.keep_logs()
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.keep_logs()
        self._stop()

    def address(self, service: str) -> str:
        """The gRPC target of a service: all its replicas, or its relay."""
        if service in self.links:
            return f"dns:///{self.links[service].address}"
        return "ipv4:" + ",".join(f"{HOST}:{port}" for port in self._ports[service])

    def client(self, timeout_s: float = 30.0) -> Client:
        """A client of it, to be closed by the caller."""
        return Client(
            embedder=self.address("embedder"),
            ingest=self.address("ingest"),
            query=self.address("query"),
            timeout_s=timeout_s,
        )

    def vector_settings(self) -> VectorSettings:
        """How to reach its Milvus, past any relay."""
        return VectorSettings(milvus_uri=self.vectors.uri, milvus_timeout_s=60)

    def object_settings(self) -> ObjectSettings:
        """How to reach its object store, past any relay."""
        return ObjectSettings(
            objects_url=f"s3://{BUCKET}",
            s3_endpoint=f"http://{self.objects.endpoint}",
            s3_access_key=SecretStr(self.objects.access_key),
            s3_secret_key=SecretStr(self.objects.secret_key),
        )

    def kill(self, name: str) -> None:
        """End a process at once, as a power cut would (SIGKILL)."""
        self.processes[name].kill()

    def start(self, name: str) -> None:
        """Start a process that was killed or stopped, on the same port and data, and wait until it is ready."""
        self.processes[name].start()

    def replace(self, name: str, process: Process) -> None:
        """Kill a process and start another one in its place, on the same port and data; waits until it is ready."""
        self.processes[name].kill()
        self.processes[name] = process
        process.start()

    def wait_until_ready(self) -> None:
        """Wait until every process is ready; ProcessError with its last lines for one that is not in time."""
        for process in self.processes.values():
            if not wait_until(process.is_ready, timeout_s=READY_S):
                raise ProcessError(f"{process.name} was not ready after {READY_S:g} s. {process.last_words()}")

    def keep_logs(self) -> None:
        """Write what the processes wrote, a file each; what earlier runs kept goes."""
        shutil.rmtree(self._logs, ignore_errors=True)
        self._logs.mkdir(parents=True)
        for name, process in self.processes.items():
            (self._logs / f"{name}.log").write_text(process.output + "\n")

    def _stop(self) -> None:
        services = [process for name, process in self.processes.items() if name not in ENGINES]
        for group in (services, [self.processes[name] for name in ENGINES]):
            for process in group:
                process.ask_to_end()
            for process in group:
                process.stop()
        for link in self.links.values():
            link.stop()

    def _environment(self) -> dict[str, str]:
        # A developer's own settings must not reach what is measured.
        clean = {name: value for name, value in os.environ.items() if not name.upper().startswith("SACCADE_")}
        milvus, minio = (self.links.get(name) for name in ENGINES)
        return clean | {
            "PYTHONUNBUFFERED": "1",
            "SACCADE_MODEL": "toy",
            "SACCADE_SEGMENTER": "toy",
            "SACCADE_MILVUS_URI": f"http://{milvus.address}" if milvus else self.vectors.uri,
            "SACCADE_OBJECTS_URL": f"s3://{BUCKET}",
            "SACCADE_S3_ENDPOINT": f"http://{minio.address if minio else self.objects.endpoint}",
            "SACCADE_S3_ACCESS_KEY": self.objects.access_key,
            "SACCADE_S3_SECRET_KEY": self.objects.secret_key,
            "SACCADE_S3_CREATE_BUCKET": "true",
            "SACCADE_DRAIN_S": f"{DRAIN_S:g}",
            **{f"SACCADE_{name.upper()}_ADDRESS": self.address(name) for name in ("embedder", "ingest", "query")},
        }


def _service(service: str, name: str, port: int, environment: Mapping[str, str]) -> Process:
    prefix = f"SACCADE_{service.upper()}"
    own = {f"{prefix}_LISTEN": f"{HOST}:{port}", f"{prefix}_METRICS_LISTEN": ""}
    address = f"{HOST}:{port}"
    return Process(
        [sys.executable, "-m", f"services.{service}"],
        name=name,
        ready=(lambda: http_ok(port, "/readyz")) if service == "gateway" else (lambda: grpc_serving(address)),
        env={**environment, **own},
        ready_s=READY_S,
        grace_s=GRACE_S,
    )
