"""The whole of Saccade on one machine: the engines, the three services and the gateway, as processes on loopback."""

import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from saccade.client import Client
from services.common.settings import split_address
from services.stack.access import StackAccess, open_access
from services.stack.engines import ObjectEngine, Options, VectorEngine, milvus, milvus_lite, minio
from services.stack.lock import DataLock
from services.stack.processes import HOST, POLL_S, Process, ProcessError, free_ports, grpc_serving, http_ok
from services.stack.settings import SERVICES, GivenSettings, StackSettings

__all__ = ["PortBusy", "Stack", "override", "temporary_settings", "temporary_stack"]

# A stack on one machine is stopped by a person who waits: less patience than in production.
DRAIN_S: Final = 5.0
GRACE_S: Final = 15.0
BUCKET: Final = "saccade"

Engines = Literal["lite", "real"]
Progress = Callable[[dict[str, bool], float], None]
"""Gets which processes are ready, by name, and the seconds since the start."""


class PortBusy(Exception):
    """Something else listens where the stack would; the message names every such address and its setting."""


class Stack:
    """The processes of one stack. Use it in a `with`, or call `start` and `stop`.

    Owned by one thread, which must outlive it: on Linux the processes end when that thread does.

    Attributes:
        embedder: host:port.
        ingest: host:port.
        query: host:port.
        gateway_url: Address of REST and of the web page.
        key: API key that may do everything, while the stack runs; empty where none is needed.
        processes: By name: milvus, minio if there is one, embedder, ingest, query, gateway. A test may kill and start
            single ones.
    """

    def __init__(
        self,
        settings: StackSettings,
        environ: Mapping[str, str],
        *,
        engines: Engines = "lite",
        show: Callable[[str, str], None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Describe a stack; nothing is started yet.

        Args:
            settings: Where it listens and keeps its data.
            environ: Environment of the services: their own settings, as far as the stack does not decide them.
            engines: lite: milvus-lite and local objects; real: Milvus and MinIO from the tools folder.
            show: Gets the process's name and each line that it writes.
            progress: Called again and again while the stack starts.
        """
        self._settings = settings
        self._environ = environ
        self._engines: Engines = engines
        self._show = show
        self._progress = progress
        self._lock: DataLock | None = None
        self._access = StackAccess()
        self.processes: dict[str, Process] = {}
        listens = {name: str(getattr(settings, f"{name}_listen")) for name in SERVICES}
        self._addresses = {name: _reachable(listen) for name, listen in listens.items()}
        self.embedder = self._addresses["embedder"]
        self.ingest = self._addresses["ingest"]
        self.query = self._addresses["query"]
        self.gateway_url = settings.public_url or f"http://{self._addresses['gateway']}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def client(self, timeout_s: float = 60.0) -> Client:
        """A client of the running stack, to be closed by the caller."""
        return Client(embedder=self.embedder, ingest=self.ingest, query=self.query, key=self.key, timeout_s=timeout_s)

    @property
    def key(self) -> str:
        """The API key."""
        return self._access.key

    def start(self) -> None:
        """Start everything and wait until it answers.

        Raises:
            DataInUse: another stack works on the data folder.
            PortBusy: something else listens on a port.
            EngineMissing: an engine is not installed.
            KeyFileError: the file of API keys is not one.
            ProcessError: a process ended, or was not ready in time; shows its last lines.
        """
        data = self._settings.data.resolve()
        self._lock = DataLock(data)
        try:
            self._check_ports()
            self._access = open_access(self._settings, data)
            self.processes = self._describe(data)
            # All at once: services wait for what they need, and loading a model takes longest.
            for process in self.processes.values():
                process.launch()
            self._lock.note(self.gateway_url, {name: process.pid for name, process in self.processes.items()})
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything, those first that others do not need; what does not end in time is killed."""
        engines = [process for name, process in self.processes.items() if name not in SERVICES]
        callers = [self.processes[name] for name in ("gateway", "query", "ingest") if name in self.processes]
        embedder = [self.processes["embedder"]] if "embedder" in self.processes else []
        for group in (callers, embedder, engines):
            for process in group:
                process.ask_to_end()
            for process in group:
                process.stop()
        if self._lock:
            self._lock.release()
            self._lock = None

    def failed(self) -> Process | None:
        """A process that was started, was not stopped, and has ended by itself; None: all run."""
        ended = (process for process in self.processes.values() if process.started and not process.running)
        return next(ended, None)

    def _check_ports(self) -> None:
        wanted = {"SACCADE_MILVUS_PORT": (HOST, self._settings.milvus_port)}
        if self._engines == "real":
            wanted["SACCADE_S3_PORT"] = (HOST, self._settings.s3_port)
        for name in SERVICES:
            wanted[f"SACCADE_{name.upper()}_LISTEN"] = split_address(getattr(self._settings, f"{name}_listen"))
            if metrics := getattr(self._settings, f"{name}_metrics_listen"):
                wanted[f"SACCADE_{name.upper()}_METRICS_LISTEN"] = split_address(metrics)
        busy = [f"{_join_address(*where)} ({setting})" for setting, where in wanted.items() if _busy(*where)]
        if busy:
            them = ("is", "the setting") if len(busy) == 1 else ("are", "the settings")
            raise PortBusy(f"{', '.join(busy)} {them[0]} in use; stop what listens there, or change {them[1]}")

    def _describe(self, data: Path) -> dict[str, Process]:
        vectors, objects = self._engine_processes(data)
        env = self._environment(data, vectors, objects)
        processes = {"milvus": vectors.process}
        if objects:
            processes["minio"] = objects.process
        for name in SERVICES:
            processes[name] = Process(
                [sys.executable, "-m", f"services.{name}"],
                name=name,
                ready=self._readiness(name),
                env=env,
                ready_s=self._settings.start_s,
                grace_s=GRACE_S,
                **self._options(),
            )
        return processes

    def _engine_processes(self, data: Path) -> tuple[VectorEngine, ObjectEngine | None]:
        settings, options = self._settings, self._options()
        if self._engines == "lite":
            return milvus_lite(data / "milvus", settings.milvus_port, **options), None
        return (
            milvus(data / "milvus-real", settings.milvus_port, settings.tools, **options),
            minio(data / "minio", settings.s3_port, settings.tools, **options),
        )

    def _options(self) -> Options:
        return {"show": self._show, "keep_open": [self._lock.fd] if self._lock else [], "bound": True}

    def _environment(self, data: Path, vectors: VectorEngine, objects: ObjectEngine | None) -> dict[str, str]:
        """What the stack decides goes over what the environment says; drain times and log format do not."""
        settings = self._settings
        defaults = {"SACCADE_LOG_FORMAT": "console", "SACCADE_DRAIN_S": f"{DRAIN_S:g}", "PYTHONUNBUFFERED": "1"}
        decided = {"SACCADE_MILVUS_URI": vectors.uri, "SACCADE_PUBLIC_URL": self.gateway_url}
        decided |= {"SACCADE_DEMO_DIR": str(settings.demo_dir), "SACCADE_OBJECTS_URL": (data / "objects").as_uri()}
        if objects:
            decided |= {
                "SACCADE_OBJECTS_URL": f"s3://{BUCKET}",
                "SACCADE_S3_ENDPOINT": f"http://{objects.endpoint}",
                "SACCADE_S3_ACCESS_KEY": objects.access_key,
                "SACCADE_S3_SECRET_KEY": objects.secret_key,
                "SACCADE_S3_CREATE_BUCKET": "true",
            }
        for name in SERVICES:
            decided[f"SACCADE_{name.upper()}_LISTEN"] = getattr(settings, f"{name}_listen")
            decided[f"SACCADE_{name.upper()}_METRICS_LISTEN"] = getattr(settings, f"{name}_metrics_listen")
            if name != "gateway":
                decided[f"SACCADE_{name.upper()}_ADDRESS"] = f"dns:///{self._addresses[name]}"
        return override(defaults | dict(self._environ), decided | dict(self._access.environment))

    def _readiness(self, name: str) -> Callable[[], bool]:
        address = self._addresses[name]
        if name == "gateway":
            host, port = split_address(address)
            return lambda: http_ok(port, "/readyz", host)
        return lambda: grpc_serving(address)

    def _wait_until_ready(self) -> None:
        started = time.monotonic()
        ready = dict.fromkeys(self.processes, False)
        while not all(ready.values()):
            for name, process in self.processes.items():
                ready[name] = ready[name] or process.is_ready()
            seconds = time.monotonic() - started
            if self._progress:
                self._progress(dict(ready), seconds)
            if seconds > self._settings.start_s:
                missing = [self.processes[name] for name in ready if not ready[name]]
                words = "\n".join(f"{process.name}: {process.last_words()}" for process in missing)
                raise ProcessError(f"not ready after {self._settings.start_s:g} s (SACCADE_START_S):\n{words}")
            time.sleep(POLL_S)


@contextlib.contextmanager
def temporary_stack(
    environ: Mapping[str, str],
    *,
    engines: Engines = "lite",
    model: str = "",
    inherit: bool = False,
    show: Callable[[str, str], None] | None = None,
    progress: Progress | None = None,
    data: Path | None = None,
    auth: Literal["none", "keys"] = "none",
) -> Iterator[Stack]:
    """A running stack on free ports, in a temporary folder or in `data`.

    Args:
        environ: The environment to begin with.
        engines: As in Stack.
        model: Model and segmenter, demo or toy; empty: what the settings say.
        inherit: Whether settings of the services in `environ` reach it; without, it is the same stack wherever it runs.
        show: As in Stack.
        progress: As in Stack.
        data: Where it keeps its data; None: a folder that is removed with it.
        auth: keys: callers need an API key, such as the stack's own.
    """
    env = {name: value for name, value in environ.items() if inherit or not name.upper().startswith("SACCADE_")}
    if model:
        env |= {"SACCADE_MODEL": model, "SACCADE_SEGMENTER": model}
    with contextlib.ExitStack() as cleanup:
        folder = data or Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="saccade-")))
        stack = Stack(temporary_settings(folder, auth=auth), env, engines=engines, show=show, progress=progress)
        yield cleanup.enter_context(stack)


def temporary_settings(data: Path, *, auth: Literal["none", "keys"] = "none") -> StackSettings:
    """Settings of a stack on free loopback ports, with its data in a folder.

    The environment has a say only in what is so of this machine: where engines and demo are, how long a start takes.
    """
    ports = iter(free_ports(2 + 2 * len(SERVICES)))
    kinds = ("listen", "metrics_listen")
    listens = {f"{name}_{kind}": f"{HOST}:{next(ports)}" for name in SERVICES for kind in kinds}
    machine = StackSettings()
    own = {"tools": machine.tools, "demo_dir": machine.demo_dir, "start_s": machine.start_s}
    return GivenSettings.model_validate(
        listens | own | {"auth": auth, "data": data, "milvus_port": next(ports), "s3_port": next(ports)}
    )


def override(environ: Mapping[str, str], decided: Mapping[str, str]) -> dict[str, str]:
    """An environment in which what was decided holds for every service.

    A service takes SACCADE_<SERVICE>_<FIELD> before SACCADE_<FIELD>, and names in upper and in lower case alike.
    """
    fields = [name.removeprefix("SACCADE_") for name in decided]
    gone = {*decided, *(f"SACCADE_{service.upper()}_{field}" for service in SERVICES for field in fields)}
    return {name: value for name, value in environ.items() if name.upper() not in gone} | dict(decided)


def _reachable(listen: str) -> str:
    """The address that processes on this machine reach a listener at."""
    host, port = split_address(listen)
    return _join_address(HOST if host in {"0.0.0.0", "::"} else host, port)  # noqa: S104 - compared, not listened on


def _join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _busy(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
