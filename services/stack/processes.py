"""Programs that run beside this one: started together, watched, and ended with whatever they started."""

import contextlib
import copy
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = [
    "HOST",
    "Process",
    "ProcessError",
    "free_port",
    "free_ports",
    "grpc_serving",
    "http_ok",
    "port_open",
    "wait_until",
]

HOST: Final = "127.0.0.1"
# Below the ports that Linux gives to outgoing connections (32768 and up): a client that reconnects while its server is
# down can otherwise be given the server's own port, and then talks to itself.
PORTS: Final = range(15_000, 32_000)
POLL_S: Final = 0.05
# Run instead of a program: asks Linux for SIGTERM when the parent dies, however it dies, and becomes the program.
BOUND: Final = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGTERM)\n"  # PR_SET_PDEATHSIG
    "if os.getppid() != int(sys.argv[1]): sys.exit()\n"  # it died before we could ask
    "os.execvp(sys.argv[2], sys.argv[2:])"
)
LINES_KEPT: Final = 10_000
LINES_SHOWN: Final = 30


class ProcessError(Exception):
    """A program did not start or did not go on; the message says which and shows its last words."""


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that nothing listens on, all held open together while they are chosen."""
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
    """A TCP port that nothing listens on."""
    return free_ports(1)[0]


def port_open(port: int, host: str = HOST) -> bool:
    """Whether something accepts connections on a port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def http_ok(port: int, path: str, host: str = HOST) -> bool:
    """Whether a GET answers 200 within 2 s."""
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def grpc_serving(address: str) -> bool:
    """Whether a gRPC server at host:port says within 2 s that it serves."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    """Poll until the condition holds; whether it did before the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


class Process:
    """A program that runs in a process group of its own; what it writes is kept, and shown where wanted.

    In a `with`, entering starts it and waits until `ready()` holds; leaving ends it and whatever it started.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        ready: Callable[[], bool],
        name: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready_s: float = 60,
        grace_s: float = 10,
        show: Callable[[str, str], None] | None = None,
        keep_open: Sequence[int] = (),
        bound: bool = False,
    ) -> None:
        """Describe a program; nothing is started yet.

        Args:
            command: The program and its arguments.
            ready: Says whether the program does its work by now; called again and again, so it must be quick.
            name: What it is called; empty: the program's own name.
            env: The whole environment of the program; None hands down this one.
            cwd: The folder that it runs in.
            ready_s: How long it may take to become ready.
            grace_s: How long it may take to end after SIGTERM, before SIGKILL.
            show: Gets the name and each line that it writes, on a thread of its own.
            keep_open: File descriptors that it inherits.
            bound: On Linux, end it when the thread that starts it ends, so that nothing is left when this program is
                killed. Start it from a thread that stays.
        """
        self.command = [str(part) for part in command]
        self.name = name or Path(self.command[0]).name
        self._ready = ready
        self._env = env
        self._cwd = cwd
        self._ready_s = ready_s
        self._grace_s = grace_s
        self._show = show
        self._keep_open = tuple(keep_open)
        self._bound = bound and sys.platform == "linux"
        self._child: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._asked = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id, which is also its group's; ProcessError where it is not running."""
        if self._child is None:
            raise ProcessError(f"{self.name} is not running")
        return self._child.pid

    @property
    def started(self) -> bool:
        """Whether it was started and not stopped; it may have ended by itself."""
        return self._child is not None

    @property
    def running(self) -> bool:
        """Whether it was started, was not stopped and has not ended by itself."""
        # WNOWAIT leaves an ended process to `kill`: until then its id, and so its group's, cannot be given to another.
        return (
            self._child is not None
            and os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        )

    def start(self) -> None:
        """Start it and wait until it is ready; ProcessError with its last lines if it does not get there."""
        self.launch()
        try:
            wait_until(self.is_ready, timeout_s=self._ready_s)
            if not self.is_ready():
                raise ProcessError(f"{self.name} was not ready after {self._ready_s:g} s. {self.last_words()}")
        except BaseException:
            self.kill()
            raise

    def launch(self) -> None:
        """Start it and do not wait."""
        if self._child is not None:
            raise ProcessError(f"{self.name} is running as {self.pid}")
        binder = [sys.executable, "-S", "-E", "-c", BOUND, str(os.getpid())] if self._bound else []
        self._child = subprocess.Popen(  # noqa: S603 - the commands are this package's own
            [*binder, *self.command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._env,
            cwd=self._cwd,
            start_new_session=True,
            pass_fds=self._keep_open,
        )
        self._asked = False
        self._reader = threading.Thread(target=self._read, args=(self._child.stdout,), daemon=True)
        self._reader.start()

    def variant(self, env: Mapping[str, str]) -> Self:
        """The same program, not started, with these variables of its environment besides or instead."""
        other = copy.copy(self)
        other._env = {**(os.environ if self._env is None else self._env), **env}
        other._child = other._reader = None
        other._lines = deque(maxlen=LINES_KEPT)
        return other

    def is_ready(self) -> bool:
        """Whether it does its work by now; ProcessError if it has ended instead."""
        if not self.running:
            raise ProcessError(f"{self.name} ended before it was ready. {self.last_words()}")
        return self._ready()

    def stop(self) -> None:
        """End it and whatever it started: SIGTERM, and SIGKILL after the grace. Does nothing when it is not running."""
        if self._child is None:
            return
        if not self._asked:
            self.ask_to_end()
        wait_until(lambda: not self.running, timeout_s=self._grace_s)
        self.kill()

    def ask_to_end(self) -> None:
        """Send SIGTERM, also to one that was halted; `stop` waits for it. Does nothing when it is not running."""
        if self._child is not None:
            self._asked = True
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it and whatever it started with SIGKILL. Does nothing when it is not running."""
        if self._child is None:
            return
        self.signal(signal.SIGKILL)
        self._child.wait()
        self._child = None
        if self._reader:
            self._reader.join(timeout=5)

    def restart(self) -> None:
        """Start it again as it was started before, after SIGKILL where it still runs."""
        self.kill()
        self.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and whatever it started; SIGSTOP makes it hang and SIGCONT wakes it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def last_lines(self, count: int = LINES_SHOWN) -> str:
        """The last lines that it wrote."""
        return "\n".join(list(self._lines)[-count:])

    @property
    def output(self) -> str:
        """All that it wrote, or the last LINES_KEPT lines of it."""
        return self.last_lines(LINES_KEPT)

    def last_words(self) -> str:
        """How it was run and the last lines that it wrote, for a message."""
        # What it wrote at its end may still be on its way.
        if self._reader and not self.running:
            self._reader.join(timeout=1)
        return f"Its last lines:\n{self.last_lines()}\n({' '.join(self.command)})"

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            for raw in pipe:
                line = raw.decode(errors="replace").rstrip()
                self._lines.append(line)
                if self._show:
                    self._show(self.name, line)
