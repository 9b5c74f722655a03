"""Request bodies: read with limits on size, memory and waiting, whole, by line, or by part."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from services.common.errors import InvalidArgument, Overloaded
from services.gateway.problems import CLIENT_CLOSED_REQUEST, Problem

__all__ = ["JSON", "MULTIPART", "NDJSON", "Bodies", "FormPart", "Hold", "content_type"]

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
MULTIPART: Final = "multipart/form-data"

MAX_PARTS: Final = 256
"""Parts of one form where the form is held as a whole; more are refused with 413."""

FORM_OVERHEAD_BYTES: Final = 1024 * 1024
"""What boundaries and headers of a form's parts may come to."""


@dataclass
class FormPart:
    """One part of a form.

    Attributes:
        name: Field name.
        filename: As the sender named the file; None where the part is no file.
        data: Its bytes.
    """

    name: str
    filename: str | None
    data: bytes


class Bodies:
    """Reads bodies under one budget of memory. Raises Problem 408, 413 and 429, and InvalidArgument, while it reads."""

    def __init__(
        self,
        *,
        max_body_bytes: int,
        max_buffered_bytes: int,
        idle_timeout_s: float,
        body_timeout_s: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Set the limits.

        Args:
            max_body_bytes: Bytes of one body, or of one item of a stream.
            max_buffered_bytes: Bytes of all bodies that are held at a time.
            idle_timeout_s: Longest wait for the next bytes.
            body_timeout_s: Longest wait for all of a body, or for one item of a stream from its first byte.
            clock: Seconds.
        """
        self._max_body_bytes = max_body_bytes
        self._max_buffered_bytes = max_buffered_bytes
        self._idle_timeout_s = idle_timeout_s
        self._body_timeout_s = body_timeout_s
        self._clock = clock
        self._buffered_bytes = 0

    @contextmanager
    def hold(self) -> Iterator["Hold"]:
        """Room for what is read inside; given back at the end, after which nothing more can be read."""
        held = Hold(self._take)
        try:
            yield held
        finally:
            held.close()

    async def whole(self, request: Request, hold: "Hold") -> bytes:
        """The body."""
        self._check_length(request, self._max_body_bytes)
        body = io.BytesIO()
        async for chunk in self._chunks(request, _Pace()):
            self._grow(body, chunk, hold)
        return body.getvalue()

    async def lines(self, request: Request, hold: "Hold") -> AsyncIterator[bytes]:
        """Its lines without their ends, empty ones left out; each line may be as long as a body."""
        rest, pace = io.BytesIO(), _Pace()
        async for chunk in self._chunks(request, pace):
            *lines, last = chunk.split(b"\n")
            for line in lines:
                self._grow(rest, line, hold)
                held, rest = rest, io.BytesIO()
                if text := held.getvalue().strip():
                    yield text
                hold.shrink(held.tell())
                pace.restart()
            self._grow(rest, last, hold)
        if text := rest.getvalue().strip():
            yield text

    async def form(self, request: Request, hold: "Hold") -> list[FormPart]:
        """Every part of a multipart form whose parts together are no longer than a body may be."""
        self._check_length(request, self._max_body_bytes + FORM_OVERHEAD_BYTES)
        parts: list[FormPart] = []
        total = 0
        async for part in self.parts(request, hold, keep=True):
            parts.append(part)
            total += len(part.data)
            if total > self._max_body_bytes or len(parts) > MAX_PARTS:
                raise self._too_large()
        return parts

    async def parts(self, request: Request, hold: "Hold", *, keep: bool = False) -> AsyncIterator[FormPart]:
        """The parts of a multipart form one by one; each may be as long as a body.

        Room for a part is given back when the next one is asked for, unless `keep`.
        """
        _, options = parse_options_header(request.headers.get("content-type", ""))
        boundary = options.get(b"boundary")
        if not boundary:
            raise InvalidArgument("multipart/form-data needs a boundary parameter", field="content-type")
        reader = _FormReader(lambda part, data: self._grow(part, data, hold))
        try:
            parser, pace = MultipartParser(boundary, reader.callbacks()), _Pace()  # type: ignore[arg-type]
            limit = self._max_body_bytes + FORM_OVERHEAD_BYTES if keep else inf
            async for chunk in self._chunks(request, pace, limit):
                parser.write(chunk)
                for part in reader.take():
                    size = len(part.data)
                    yield part
                    if not keep:
                        hold.shrink(size)
                        pace.restart()
                if reader.ended:
                    break
        except FormParserError as exc:
            raise InvalidArgument(f"the body is no valid multipart form: {exc}", reason="FORM_SYNTAX") from exc
        if not reader.ended:
            raise InvalidArgument("the form breaks off before its last boundary", reason="FORM_SYNTAX")

    async def _chunks(self, request: Request, pace: "_Pace", limit: float = inf) -> AsyncIterator[bytes]:
        chunks = request.stream()
        while True:
            started = self._clock()
            try:
                async with asyncio.timeout(self._idle_timeout_s):
                    chunk = await anext(chunks, None)
            except TimeoutError as exc:
                detail = f"no bytes of the body came for {self._idle_timeout_s:g} s"
                raise Problem(408, "BODY_TIMEOUT", detail) from exc
            except ClientDisconnect as exc:
                raise Problem(CLIENT_CLOSED_REQUEST, "CANCELLED", "the caller went away") from exc
            if chunk is None:
                return
            # Only waiting counts: what those who work on the body take is not the caller's fault.
            pace.add(self._clock() - started, len(chunk))
            if pace.waited_s > self._body_timeout_s:
                detail = f"the body, or one item of it, took longer than {self._body_timeout_s:g} s to come"
                raise Problem(408, "BODY_TOO_SLOW", detail)
            if pace.total > limit:
                raise self._too_large()
            yield chunk

    def _check_length(self, request: Request, limit: int) -> None:
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise self._too_large()

    def _grow(self, body: io.BytesIO, chunk: bytes, hold: "Hold") -> None:
        if body.tell() + len(chunk) > self._max_body_bytes:
            raise self._too_large()
        hold.grow(len(chunk))
        body.write(chunk)

    def _take(self, count: int) -> None:
        if self._buffered_bytes + count > self._max_buffered_bytes:
            raise Overloaded("too many large requests at a time; send it again in a moment", retry_after_s=2)
        self._buffered_bytes += count

    def _too_large(self) -> Problem:
        detail = f"the body may have {self._max_body_bytes} bytes at most, in {MAX_PARTS} parts if it is a form"
        return Problem(413, "BODY_TOO_LARGE", detail)


@dataclass
class _Pace:
    """How a body comes.

    Attributes:
        waited_s: Time that its caller let us wait, since the first byte of the present item.
        total: Bytes of all items.
    """

    waited_s: float = 0.0
    total: int = 0
    _begun: bool = False

    def add(self, waited_s: float, count: int) -> None:
        """So many more bytes came after a wait."""
        # Before its first byte an item is not slow, only late.
        self.waited_s += waited_s if self._begun else 0.0
        self.total += count
        self._begun = True

    def restart(self) -> None:
        """The next item begins."""
        self.waited_s, self._begun = 0.0, False


class Hold:
    """Bytes that one request holds."""

    def __init__(self, take: Callable[[int], None]) -> None:
        self._take = take
        self._count = 0
        self._closed = False

    def grow(self, count: int) -> None:
        """Take room; Overloaded if there is none, RuntimeError after `close`."""
        if self._closed:
            # gRPC may read on for a call that is over; what it took now, nobody would give back.
            raise RuntimeError("the request is over; nobody needs the rest of its body")
        self._take(count)
        self._count += count

    def shrink(self, count: int) -> None:
        """Give room back; after `close` there is none to give."""
        if not self._closed:
            self._take(-count)
            self._count -= count

    def close(self) -> None:
        """Give all of it back."""
        self.shrink(self._count)
        self._closed = True


@dataclass
class _FormReader:
    """Collects what the parser calls out into parts."""

    grow: Callable[[io.BytesIO, bytes], None]
    ended: bool = False
    _done: list[FormPart] = field(default_factory=list)
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _name: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _data: io.BytesIO = field(default_factory=io.BytesIO)

    def take(self) -> list[FormPart]:
        done, self._done = self._done, []
        return done

    def callbacks(self) -> dict[str, Callable[..., Any]]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._headers, self._data = {}, io.BytesIO()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self.grow(self._data, data[start:end])

    def _part_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode(errors="replace")
        if not name:
            raise InvalidArgument("every part of the form needs a name", reason="FORM_SYNTAX")
        filename = options[b"filename"].decode(errors="replace") if b"filename" in options else None
        self._done.append(FormPart(name, filename, self._data.getvalue()))
        self._data = io.BytesIO()

    def _end(self) -> None:
        self.ended = True


def content_type(request: Request, *allowed: str) -> str:
    """The request's media type; Problem 415 unless it is one of `allowed`. A JSON suffix counts as JSON."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given.endswith("+json"):
        given = JSON
    if given not in allowed:
        detail = f"Content-Type must be {' or '.join(allowed)}, not {given or 'missing'}"
        raise Problem(415, "UNSUPPORTED_MEDIA_TYPE", detail, (("content-type", detail),))
    return given
