"""The gateway's FastAPI application, put together from its parts."""

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from services.common.errors import SaccadeError
from services.common.objects import LocalObjects
from services.gateway.backends import Backends
from services.gateway.bodies import Bodies
from services.gateway.guard import Admission, Authenticates, Guard
from services.gateway.middleware import Observe
from services.gateway.pages import Static, api_page_files, pages_router, picture_origins, static_folder
from services.gateway.problems import Problem, problem_of, respond
from services.gateway.rest import Rest, Timeouts
from services.gateway.settings import GatewaySettings

__all__ = ["create_app", "routed"]


def create_app(
    settings: GatewaySettings,
    backends: Backends,
    objects: LocalObjects | None,
    authenticator: Authenticates | None = None,
) -> ASGIApp:
    """The application; who gives it these parts closes them.

    Args:
        settings: Limits, deadlines, and where pictures come from.
        backends: The services.
        objects: Local objects to serve; None where an S3-compatible store serves them itself.
        authenticator: Knows callers; None where anyone may ask.
    """
    app = routed(settings, backends, objects)
    FastAPIInstrumentor.instrument_app(app, excluded_urls="healthz,readyz", exclude_spans=["receive", "send"])
    # What is refused costs no trace and no routing.
    return Observe(Guard(app, _admission(settings), authenticator), secure=bool(settings.https_cert))


def routed(settings: GatewaySettings, backends: Backends, objects: LocalObjects | None) -> FastAPI:
    """What answers at which address, for those who may ask."""
    app = FastAPI(title="Saccade", docs_url=None, redoc_url=None, openapi_url=None)
    bodies = Bodies(
        max_body_bytes=settings.max_body_bytes,
        max_buffered_bytes=settings.max_buffered_bytes,
        idle_timeout_s=settings.idle_timeout_s,
        body_timeout_s=settings.body_timeout_s,
    )
    timeouts = Timeouts(settings.default_timeout_s, settings.max_timeout_s, settings.stream_timeout_s)
    app.include_router(Rest(backends, bodies, timeouts).router())
    app.include_router(pages_router(backends, objects, _origins(settings), bodies))
    app.mount("/static", Static(directory=static_folder()), name="static")
    app.mount("/docs/ui", Static(directory=api_page_files()), name="api-page")
    for kind in (SaccadeError, Problem, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _on_error)
    return app


def _admission(settings: GatewaySettings) -> Admission:
    return Admission(
        hosts=settings.hosts,
        max_requests=settings.max_requests,
        max_requests_per_key=settings.max_requests_per_key,
        max_downloads=settings.max_downloads,
        max_head_bytes=settings.max_head_bytes,
        max_headers=settings.max_headers,
        calls_per_second=settings.calls_per_second,
    )


def _origins(settings: GatewaySettings) -> tuple[str, ...]:
    """Where presigned addresses lead."""
    if settings.objects_url.startswith("file:"):
        return picture_origins(settings.public_url)
    return picture_origins(settings.s3_public_endpoint or settings.s3_endpoint)


async def _on_error(request: Request, error: Exception) -> Response:
    match error:
        case RequestValidationError():
            errors = tuple((".".join(str(step) for step in each["loc"][1:]), each["msg"]) for each in error.errors())
            detail = "; ".join(f"{field}: {text}" for field, text in errors)
            return respond(Problem(400, "INVALID_FIELD", detail, errors))
        case HTTPException(status_code=404):
            return respond(Problem(404, "NO_SUCH_ADDRESS", f"there is nothing at {request.url.path}; /docs lists all"))
        case HTTPException(status_code=405):
            detail = f"{request.url.path} does not take {request.method}; /docs lists what it takes"
            return respond(Problem(405, "METHOD_NOT_ALLOWED", detail, headers=dict(error.headers or {})))
        case HTTPException():
            return respond(Problem(error.status_code, "HTTP_ERROR", str(error.detail)))
        case _:
            return respond(problem_of(error))
