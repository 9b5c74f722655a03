"""One HTTP connection with limits on what uvicorn itself waits for without end: heads, readers, refused bodies."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import h11
from prometheus_client import Counter
from uvicorn.protocols.http.h11_impl import H11Protocol

from services.gateway.headers import security_headers
from services.gateway.problems import Problem, respond

__all__ = ["ConnectionLimits", "connection_class"]

DISCARD_S: Final = 5.0
"""How long a caller whose request was answered early may go on to send its body, in seconds."""

MIN_READ_RATE: Final = 1024
"""Bytes a second that the reader of an answer takes at least."""

_REFUSED = Counter("http_server_connections_ended_total", "Connections ended for what their callers did.", ["reason"])

_NAMES: Final = {431: "HEAD_TOO_LARGE", 400: "HTTP_SYNTAX"}


@dataclass(frozen=True)
class ConnectionLimits:
    """How much one connection, and all of them, may ask for.

    Attributes:
        max_connections: Connections at a time; idle ones make room for new ones.
        head_timeout_s: From the first byte of a request's head, or from a connection's start, to the head's end.
        idle_timeout_s: How long the reader of an answer may take less than MIN_READ_RATE.
    """

    max_connections: int
    head_timeout_s: float
    idle_timeout_s: float


def connection_class(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """The protocol to give to uvicorn."""
    return cast(type[asyncio.Protocol], partial(_Connection, limits=limits))


class _HalfClosing:
    """A transport that is closed in two steps where its caller is still sending: our side first.

    Closed both ways at once with bytes unread, the connection would be reset, and our answer might be lost with it.
    """

    def __init__(
        self, transport: asyncio.Transport, has_all: Callable[[], bool], on_half_closed: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._has_all = has_all
        self._on_half_closed = on_half_closed
        self.half_closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.half_closed or self._transport.is_closing()

    def close(self) -> None:
        if self.half_closed or self._has_all():
            self._transport.close()
            return
        self.half_closed = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._on_half_closed()


class _Connection(H11Protocol):
    """uvicorn's connection, which answers what is wrong with problems and gives up on who keeps it waiting."""

    def __init__(self, *arguments: Any, limits: ConnectionLimits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._discard_timer: asyncio.TimerHandle | None = None
        self._quiet_since = self.loop.time()
        self._has_sent = False
        self._is_sending = False
        self._lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit it, or say why not."""
        super().connection_made(transport)
        self._half = _HalfClosing(transport, self._has_all, self._discard)
        self.transport = cast(asyncio.Transport, self._half)
        if len(self.connections) > self._limits.max_connections and not self._make_room():
            detail = f"there are {self._limits.max_connections} connections already; come back in a moment"
            self._refuse(Problem(503, "TOO_MANY_CONNECTIONS", detail, retry_after_s=1))
            return
        self._head_timer = self.loop.call_later(self._limits.head_timeout_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything."""
        self._lost = True
        for timer in (self._head_timer, self._write_timer, self._discard_timer):
            if timer:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; who has begun a head must end it in time."""
        self._has_sent = True
        if self._half.half_closed:
            return
        super().data_received(data)
        if self.conn.their_state is not h11.SEND_BODY and self._discard_timer:
            self._discard_timer.cancel()
            self._discard_timer = None
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE:
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(self._limits.head_timeout_s, self._head_is_late)
        elif self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; called while h11's error is handled, which knows what it is."""
        status = getattr(sys.exception(), "error_status_hint", 400)
        detail = "the request's head is too large" if status == 431 else f"this is no HTTP request: {sys.exception()}"
        self._refuse(Problem(status, _NAMES.get(status, _NAMES[400]), detail))

    def on_response_complete(self) -> None:
        """Wait for the next request; for the rest of this one only shortly."""
        super().on_response_complete()
        self._quiet_since = self.loop.time()
        if self.transport.is_closing():
            self._watch_reader()
        elif self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY:
            self._discard()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also where its last answer was never read."""
        super().timeout_keep_alive_handler()
        self._watch_reader()

    def pause_writing(self) -> None:
        """The reader is slower than we are."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """The reader has come after."""
        super().resume_writing()
        if self._write_timer and not self.transport.is_closing():
            self._write_timer.cancel()
            self._write_timer = None

    def _has_all(self) -> bool:
        """Whether the caller has nothing more to send."""
        return not self._is_sending and self.conn.their_state is not h11.SEND_BODY

    @property
    def _is_idle(self) -> bool:
        answered = self.cycle is None or self.cycle.response_complete
        return answered and self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest; False if none is."""
        others = (each for each in self.connections if isinstance(each, _Connection) and each is not self)
        idle = min((each for each in others if each._is_idle), key=lambda each: each._quiet_since, default=None)
        if idle is None:
            return False
        _REFUSED.labels("idle").inc()
        self.connections.discard(idle)
        idle.shutdown()
        return True

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            detail = f"the request's head did not end within {self._limits.head_timeout_s:g} s"
            self._refuse(Problem(408, "HEAD_TIMEOUT", detail))
        else:
            # A connection that was opened in advance and never used.
            _REFUSED.labels("unused").inc()
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answer with a problem, if nothing was answered yet, and close."""
        _REFUSED.labels(problem.reason.lower()).inc()
        if self.cycle and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = respond(problem)
            headers = [*answer.raw_headers, *security_headers(), (b"connection", b"close")]
            for event in (
                h11.Response(status_code=problem.status, headers=headers),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        # Where something came, more may be on its way; those whom there is no room for are not waited for.
        self._is_sending = self._has_sent
        self.transport.close()
        self._watch_reader()

    def _discard(self) -> None:
        """Read the rest of a body that nobody wants, but not for long."""
        self.flow.resume_reading()
        if self._discard_timer is None:
            self._discard_timer = self.loop.call_later(DISCARD_S, self._abort, "body_of_refused")

    def _watch_reader(self) -> None:
        """Look again and again whether the reader takes its answer."""
        if self._write_timer is None and not self._lost:
            self._look_later(self.transport.get_write_buffer_size())

    def _look_later(self, left: int) -> None:
        # Whoever sends and reads only then is slow for a reason.
        self._has_sent = False
        self._write_timer = self.loop.call_later(self._limits.idle_timeout_s, self._look, left)

    def _look(self, left: int) -> None:
        now_left = self.transport.get_write_buffer_size()
        if left - now_left < MIN_READ_RATE * self._limits.idle_timeout_s and not self._has_sent:
            self._abort("slow_reader")
        else:
            self._look_later(now_left)

    def _abort(self, reason: str) -> None:
        _REFUSED.labels(reason).inc()
        self.transport.abort()
