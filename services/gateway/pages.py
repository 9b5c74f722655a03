"""The web page, the API page, local objects and probes: everything but the calls."""

import json
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import swagger_ui_bundle
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from services.common.errors import NotFound
from services.common.objects import LocalObjects
from services.gateway.backends import Backends
from services.gateway.bodies import Bodies
from services.gateway.openapi import openapi_document

__all__ = ["Static", "api_page_files", "pages_router", "picture_origins", "static_folder"]

# Answers may be kept by the browser that fetched them, not by what lies between: their addresses are secrets.
_OBJECT_HEADERS: Final = {
    "Cache-Control": "private, max-age=3600, immutable",
    # What somebody stored never runs, whatever it is.
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
    # The page may be open under another name of ours than the one in these addresses.
    "Cross-Origin-Resource-Policy": "cross-origin",
}

# Its own styles stand in style attributes, which it sets through markup.
_API_PAGE_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_API_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Saccade API</title>
<link rel="stylesheet" href="/docs/ui/swagger-ui.css">
<link rel="icon" href="/static/icon.svg" type="image/svg+xml">
</head>
<body>
<div id="page"></div>
<script src="/docs/ui/swagger-ui-bundle.js"></script>
<script src="/static/docs.js"></script>
</body>
</html>
"""


class Static(StaticFiles):
    """Files that a browser may keep if it asks each time whether they changed."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file's response."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def static_folder() -> Path:
    """The folder of the web page's files."""
    with as_file(files("services.gateway") / "static") as folder:
        return folder


def api_page_files() -> Path:
    """The folder of the API page's files."""
    return Path(swagger_ui_bundle.swagger_ui_path)


def picture_origins(*urls: str) -> tuple[str, ...]:
    """Origins of those addresses that are http or https."""
    split = (urlsplit(url) for url in urls)
    return tuple(dict.fromkeys(f"{url.scheme}://{url.netloc}" for url in split if url.scheme in ("http", "https")))


@cache
def _document() -> bytes:
    return json.dumps(openapi_document(), ensure_ascii=False).encode()


class _Held(Response):
    """A response whose body counts among those that are held in memory, until its reader has all of it."""

    bodies: Bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.bodies.hold() as hold:
            hold.grow(len(self.body))
            await super().__call__(scope, receive, send)


def pages_router(
    backends: Backends, objects: LocalObjects | None, origins: tuple[str, ...], bodies: Bodies
) -> APIRouter:
    """Their routes; pictures on the web page may come from `origins`, and local ones are held as `bodies` allow."""
    router = APIRouter(include_in_schema=False)
    sources = ("'self'", "data:", "blob:", *origins)
    page_csp = (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        f"img-src {' '.join(sources)}; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    index = static_folder() / "index.html"

    async def page(_request: Request) -> Response:
        return FileResponse(index, headers={"Content-Security-Policy": page_csp, "Cache-Control": "no-cache"})

    async def api_page(_request: Request) -> Response:
        return HTMLResponse(_API_PAGE, headers={"Content-Security-Policy": _API_PAGE_CSP})

    async def document(_request: Request) -> Response:
        return Response(_document(), media_type="application/json", headers={"Cache-Control": "no-cache"})

    async def alive(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_request: Request) -> Response:
        services: dict[str, Any] = await backends.readiness()
        good = all(services.values())
        return JSONResponse({"ready": good, "services": services}, status_code=200 if good else 503)

    async def stored_object(request: Request) -> Response:
        if objects is None:
            raise NotFound("objects are not served here: the store's own addresses lead to them")
        query = request.query_params
        data, media_type = await objects.read_presigned(
            request.path_params["key"], query.get("expires", ""), query.get("signature", "")
        )
        shown = "inline" if media_type.startswith("image/") else "attachment"
        response = _Held(data, media_type=media_type, headers=_OBJECT_HEADERS | {"Content-Disposition": shown})
        response.bodies = bodies
        return response

    for path, endpoint in (
        ("/", page),
        ("/docs", api_page),
        ("/openapi.json", document),
        ("/healthz", alive),
        ("/readyz", ready),
        ("/objects/{key:path}", stored_object),
    ):
        router.add_api_route(path, endpoint, methods=["GET", "HEAD"], response_model=None)
    return router
