"""A TCP relay on loopback whose traffic can be hurt, as networks hurt it."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from services.stack.processes import HOST, free_port

__all__ = ["Fault", "Proxy"]

CHUNK_BYTES: Final = 64 * 1024
CONTROL_S: Final = 10.0
# SO_LINGER with no time: closing sends RST instead of FIN.
_RESET: Final = struct.pack("ii", 1, 0)

_T = TypeVar("_T")


class Fault(StrEnum):
    """What a network does to the bytes between a caller and a server.

    STALL      connections are made and stay, no byte passes; what was sent passes when the fault is over
    RESET      every connection is reset, those that are made too
    HALF_OPEN  connections that stand are dead without either side being told; new ones work
    LATENCY    every piece of data takes LATENCY_S longer, each way
    SLOW       SLOW_BYTES_PER_S pass, each way and connection
    """

    STALL = "stall"
    RESET = "reset"
    HALF_OPEN = "half-open"
    LATENCY = "latency"
    SLOW = "slow"


LATENCY_S: Final = 0.1
SLOW_BYTES_PER_S: Final = 64 * 1024


class _Connection:
    """A caller's connection and the one to the server."""

    def __init__(self, caller: asyncio.StreamWriter) -> None:
        self.caller = caller
        self.server: asyncio.StreamWriter | None = None
        self.dead = False

    def reset(self) -> None:
        for writer in (self.caller, self.server):
            if writer is not None and not writer.is_closing():
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()


class Proxy:
    """Relays from a port of its own to another one, on a thread of its own. Use it in a `with`, or start and stop it.

    Attributes:
        port: The loopback port that callers connect to.
    """

    def __init__(self, target: int) -> None:
        """Relay to a loopback port, which nothing needs to listen on yet."""
        self.port = free_port()
        self._target = target
        self._fault: Fault | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy to {target}", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Its host:port."""
        return f"{HOST}:{self.port}"

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        self._do(self._listen())

    def stop(self) -> None:
        """Close every connection and end; does nothing where it was not started."""
        if not self._thread.is_alive():
            return
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=CONTROL_S)
        self._loop.close()

    def hurt(self, fault: Fault) -> None:
        """Let a fault begin, in place of any other."""
        self._do(self._set(fault))

    def heal(self) -> None:
        """Relay as usual; connections that are dead stay so."""
        self._do(self._set(None))

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=CONTROL_S)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, self.port)

    async def _close(self) -> None:
        if self._server:
            self._server.close()
        for connection in list(self._connections):
            connection.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _set(self, fault: Fault | None) -> None:
        self._fault = fault
        if fault is Fault.STALL:
            self._open.clear()
        else:
            self._open.set()
        for connection in list(self._connections):
            if fault is Fault.RESET:
                connection.reset()
            elif fault is Fault.HALF_OPEN:
                connection.dead = True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        connection = _Connection(writer)
        if self._fault is Fault.RESET:
            connection.reset()
            return
        self._connections.add(connection)
        try:
            answers, connection.server = await asyncio.open_connection(HOST, self._target)
            ways = (self._relay(reader, connection.server, connection), self._relay(answers, writer, connection))
            await asyncio.gather(*ways)
        except OSError:
            connection.reset()
        finally:
            self._connections.discard(connection)
            for side in (writer, connection.server):
                if side is not None:
                    side.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._open.wait()
            if self._fault is Fault.LATENCY:
                await asyncio.sleep(LATENCY_S)
            elif self._fault is Fault.SLOW:
                await asyncio.sleep(len(data) / SLOW_BYTES_PER_S)
            if connection.dead:
                continue
            writer.write(data)
            await writer.drain()
        await self._open.wait()
        if not connection.dead and not writer.is_closing() and writer.can_write_eof():
            writer.write_eof()
