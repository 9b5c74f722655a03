"""`images:stream`: many images in one request, a line of JSON for each as its result comes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from saccade.common.v1 import types_pb2
from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.errors import InvalidArgument, SaccadeError
from services.common.status import to_item_error
from services.gateway.backends import INGEST, Backends
from services.gateway.bodies import MULTIPART, NDJSON, Bodies, Hold, content_type
from services.gateway.callers import caller_of
from services.gateway.problems import Problem, problem_of
from services.gateway.transcode import fill, parse_json, set_text, to_json

__all__ = ["ImageStream"]

_log = structlog.get_logger(__name__)

_METHOD: Final = INGEST.methods_by_name["StreamImages"]

# A caller may send many images before it reads the first result; when so many results wait unread, reading stops.
UNREAD_RESULTS: Final = 1024


class _Lines(StreamingResponse):
    """A streamed response that leaves the request's messages to those who read its body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_response(send)


class ImageStream:
    """Reads items from the body, sends them on as fast as ingest takes them, and writes results as they come."""

    def __init__(self, backends: Backends, bodies: Bodies, timeout_s: float) -> None:
        """Stream to ingest, for at most `timeout_s`."""
        self._backends = backends
        self._bodies = bodies
        self._timeout_s = timeout_s

    async def handle(self, request: Request) -> Response:
        """The response: NDJSON of StreamImagesResponse."""
        kind = content_type(request, NDJSON, MULTIPART)
        template = pb.CreateImageRequest()
        given: set[str] = set()
        for name, value in request.query_params.multi_items():
            if name not in ("wait_for", "replace"):
                raise InvalidArgument(
                    f"there is no query parameter {name!r}; this address takes wait_for, replace", field=name
                )
            set_text(template, name, value, given=given)
        template.collection = request.path_params["collection"]
        caller_of(request.scope).check(_METHOD, pb.StreamImagesRequest(create=template))
        return _Lines(self._results(request, kind, template), media_type=NDJSON)

    async def _results(self, request: Request, kind: str, template: pb.CreateImageRequest) -> AsyncIterator[bytes]:
        results: asyncio.Queue[pb.StreamImagesResponse | Exception | None] = asyncio.Queue(UNREAD_RESULTS)
        exchange = asyncio.ensure_future(self._exchange(request, kind, template, results))
        try:
            while (result := await results.get()) is not None:
                if isinstance(result, Exception):
                    _log_if_unforeseen(result, "stream failed")
                    # The status line is long gone, so what ended the stream is its last line, without a key.
                    yield _line(pb.StreamImagesResponse(error=_item_error(result)))
                    return
                yield _line(result)
        finally:
            exchange.cancel()
            await asyncio.wait({exchange})

    async def _exchange(
        self,
        request: Request,
        kind: str,
        template: pb.CreateImageRequest,
        results: "asyncio.Queue[pb.StreamImagesResponse | Exception | None]",
    ) -> None:
        failure: list[Exception] = []

        async def requests(hold: Hold) -> AsyncIterator[pb.StreamImagesRequest]:
            items = self._from_form if kind == MULTIPART else self._from_lines
            try:
                async for item in items(request, template, hold):
                    if isinstance(item, pb.StreamImagesRequest):
                        yield item
                    else:
                        await results.put(item)
            except Exception as exc:
                # It ends the body; what came before goes on to its end, where gRPC would cancel the call.
                failure.append(exc)

        with self._bodies.hold() as hold:
            try:
                metadata = caller_of(request.scope).metadata
                made = self._backends.stream(INGEST, "StreamImages", requests(hold), self._timeout_s, metadata)
                async for answer in made:
                    if isinstance(answer, pb.StreamImagesResponse):
                        await results.put(answer)
            except Exception as exc:
                failure.append(exc)
        await results.put(failure[0] if failure else None)

    async def _from_lines(
        self, request: Request, template: pb.CreateImageRequest, hold: Hold
    ) -> AsyncIterator[pb.StreamImagesRequest | pb.StreamImagesResponse]:
        number = 0
        async for line in self._bodies.lines(request, hold):
            number += 1
            item = pb.StreamImagesRequest()
            try:
                # One line may be as long as a body.
                await asyncio.to_thread(_fill_from_line, item, line)
                if item.create.collection not in ("", template.collection):
                    raise InvalidArgument(
                        f"create.collection must be {template.collection!r}, as in the address",
                        field="create.collection",
                    )
            except Exception as exc:
                _log_if_unforeseen(exc, "line failed")
                yield pb.StreamImagesResponse(key=item.key or f"line {number}", error=to_item_error(exc))
                continue
            item.key = item.key or f"line {number}"
            item.create.collection = template.collection
            item.create.wait_for = item.create.wait_for or template.wait_for
            item.create.replace = item.create.replace or template.replace
            yield item

    async def _from_form(
        self, request: Request, template: pb.CreateImageRequest, hold: Hold
    ) -> AsyncIterator[pb.StreamImagesRequest | pb.StreamImagesResponse]:
        number = 0
        async for part in self._bodies.parts(request, hold):
            number += 1
            if part.filename is None:
                error = InvalidArgument("every part of this form is a file; wait_for and replace go into the address")
                yield pb.StreamImagesResponse(key=part.name, error=to_item_error(error.at(part.name)))
                continue
            item = pb.StreamImagesRequest(key=part.filename or f"part {number}", create=template)
            # Not held twice: what is sent on is what counts against the budget.
            item.create.image.data, part.data = part.data, b""
            item.create.image.source = part.filename
            yield item


def _fill_from_line(item: pb.StreamImagesRequest, line: bytes) -> None:
    fill(item, parse_json(line))


def _log_if_unforeseen(error: Exception, event: str) -> None:
    if not isinstance(error, Problem | SaccadeError):
        _log.error(event, exc_info=error)


def _line(result: pb.StreamImagesResponse) -> bytes:
    return to_json(result) + b"\n"


def _item_error(error: Exception) -> types_pb2.ItemError:
    problem = problem_of(error)
    field = problem.errors[0][0] if problem.errors else ""
    return types_pb2.ItemError(code=problem.code.value[0], reason=problem.reason, message=problem.detail, field=field)
