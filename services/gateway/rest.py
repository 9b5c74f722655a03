"""Turns requests into calls of the contracts and their answers into JSON."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from fastapi import APIRouter
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from services.common.errors import InvalidArgument
from services.gateway.backends import Backends
from services.gateway.bodies import JSON, MULTIPART, Bodies, FormPart, Hold, content_type
from services.gateway.callers import caller_of
from services.gateway.calls import CALLS, EVERYTHING, Call
from services.gateway.problems import CLIENT_CLOSED_REQUEST, Problem
from services.gateway.streaming import ImageStream
from services.gateway.transcode import fill, parse_json, set_text, to_json

__all__ = ["Rest", "Timeouts"]

TIMEOUT_HEADER: Final = "x-request-timeout"
# Longer bodies are parsed beside the event loop: a 40 MB one takes a second.
INLINE_BYTES: Final = 256 * 1024

_T = TypeVar("_T")


@dataclass(frozen=True)
class Timeouts:
    """Deadlines, in seconds.

    Attributes:
        default_s: Of a call whose request sets none.
        max_s: The longest that a request may set.
        stream_s: Of one stream.
    """

    default_s: float
    max_s: float
    stream_s: float


class Rest:
    """The routes of every call."""

    def __init__(self, backends: Backends, bodies: Bodies, timeouts: Timeouts) -> None:
        """Translate for `backends`."""
        self._backends = backends
        self._bodies = bodies
        self._timeouts = timeouts
        self._stream = ImageStream(backends, bodies, timeouts.stream_s)

    def router(self) -> APIRouter:
        """A route for each line of the table."""
        router = APIRouter()
        for call in CALLS:
            streams = call.method.client_streaming
            endpoint = self._stream.handle if streams else self._endpoint(call)
            # What the API page shows of them is made from the table too.
            router.add_api_route(call.path, endpoint, methods=[call.verb], response_model=None, include_in_schema=False)
        return router

    def _endpoint(self, call: Call) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            caller = caller_of(request.scope)
            # Before the body, which would be read for nothing.
            caller.check(call.method)
            if "collection" in call.parameters:
                caller.check(call.method, _addressed(call, request))
            timeout_s = self._timeout_s(request)
            with self._bodies.hold() as hold:
                message = call.new_request()
                if call.body:
                    await self._read_body(call, message, request, hold)
                _read_query(call, message, request)
                _read_path(call, message, request)
                caller.check(call.method, message)
                made = self._backends.call(call.service, call.rpc, message, timeout_s, caller.metadata)
                try:
                    answer = await _while_connected(made, request)
                except Problem as exc:
                    raise exc.below(call.body) from exc
                answer = caller.visible(call.method, answer)
            return Response(await _beside(answer.ByteSize(), to_json, answer), media_type=JSON)

        return endpoint

    async def _read_body(self, call: Call, message: Message, request: Request, hold: Hold) -> None:
        body = message if call.body == EVERYTHING else getattr(message, call.body)
        body.SetInParent()
        allowed = (JSON, MULTIPART) if call.has_bytes else (JSON,)
        if call.body == EVERYTHING and not _has_body(request):
            return
        if content_type(request, *allowed) == JSON:
            raw = await self._bodies.whole(request, hold)
            await _beside(len(raw), _fill_from_json, body, raw)
        else:
            parts = await self._bodies.form(request, hold)
            size = sum(len(part.data) for part in parts)
            await _beside(size, _fill_from_form, call, message, body, parts)

    def _timeout_s(self, request: Request) -> float:
        given = request.headers.get(TIMEOUT_HEADER)
        if given is None:
            return self._timeouts.default_s
        try:
            seconds = float(given)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= self._timeouts.max_s:
            raise InvalidArgument(
                f"X-Request-Timeout needs seconds above 0 and up to {self._timeouts.max_s:g}, not {given!r}",
                field="x-request-timeout",
            )
        return seconds


def _addressed(call: Call, request: Request) -> Message:
    """The request as far as its address says."""
    message = call.new_request()
    _read_path(call, message, request)
    return message


def _fill_from_json(body: Message, raw: bytes) -> None:
    fill(body, parse_json(raw))


def _fill_from_form(call: Call, message: Message, body: Message, parts: list[FormPart]) -> None:
    """A part `request` is the JSON body; `file` is the picture; others name fields of the body, or of the request."""
    given: set[str] = set()
    for part in parts:
        if part.name == "request":
            if part.name in given:
                raise InvalidArgument("request is given twice; a form has one", field="request")
            given.add(part.name)
            fill(body, parse_json(part.data, "request"))
    for part in parts:
        if part.name == "request":
            continue
        path = call.file if part.name == "file" and call.file else part.name
        if call.body != EVERYTHING and path.partition(".")[0] in body.DESCRIPTOR.fields_by_name:
            path = f"{call.body}.{path}"
        set_text(message, path, part.data, part.name, given)
        part.data = b""  # not held twice
        if part.name == "file" and part.filename and "source" in body.DESCRIPTOR.fields_by_name:
            body.source = body.source or part.filename  # type: ignore[attr-defined]


def _read_query(call: Call, message: Message, request: Request) -> None:
    known = {field.name for field in call.query_fields}
    shortcuts = _SHORTCUTS if call.rpc == "Search" and call.verb == "GET" else {}
    given: set[str] = set()
    for name, value in request.query_params.multi_items():
        if name in shortcuts:
            shortcuts[name](message, value)
        elif name in known:
            set_text(message, name, value, given=given)
        else:
            offered = ", ".join([*shortcuts, *sorted(known)]) or "none"
            raise InvalidArgument(
                f"there is no query parameter {name!r}; this address takes {offered}",
                field=name,
                reason="UNKNOWN_FIELD",
            )


def _read_path(call: Call, message: Message, request: Request) -> None:
    for parameter, path in call.parameters.items():
        value = request.path_params[parameter]
        *outer, name = path.split(".")
        target = getattr(message, outer[0]) if outer else message
        present = getattr(target, name)
        if present not in ("", value):
            raise InvalidArgument(f"the address says {value!r}, the body {present!r}; they must agree", field=name)
        setattr(target, name, value)


def _add_part(name: str) -> Callable[[Any, str], None]:
    return lambda message, value: setattr(message.parts.add(), name, value)


_SHORTCUTS: Final[dict[str, Callable[[Any, str], None]]] = {
    "text": _add_part("text"),
    "image_id": _add_part("image_id"),
    "image_url": _add_part("image_url"),
}


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


async def _beside(size: int, work: Callable[..., _T], *arguments: Any) -> _T:
    if size <= INLINE_BYTES:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


async def _while_connected(made: Awaitable[_T], request: Request) -> _T:
    """The answer; the call is cancelled when the caller goes away."""
    call = asyncio.ensure_future(made)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({call, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not call.done():
            raise Problem(CLIENT_CLOSED_REQUEST, "CANCELLED", "the caller went away")
        return call.result()
    finally:
        call.cancel()
        gone.cancel()
        await asyncio.wait({call, gone})


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
