"""Structured logs, traces and the metrics endpoint of one process."""

import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from prometheus_client import start_http_server

from services.common.settings import CommonSettings, split_address

__all__ = ["start_telemetry", "trace_id"]


def start_telemetry(service: str, settings: CommonSettings) -> None:
    """Set up logs, traces and `/metrics` for this process; once, in the composition root."""
    _start_logs(service, settings)
    _start_traces(service, settings)
    if settings.metrics_listen:
        host, port = split_address(settings.metrics_listen)
        start_http_server(port, host)


def trace_id() -> str:
    """The present trace, 32 hexadecimal digits; empty outside one."""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else ""


def _start_logs(service: str, settings: CommonSettings) -> None:
    renderer = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        # Plain: the default shows every local variable, secrets among them.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_service(service),
        _add_trace_id,
    ]
    if settings.log_format == "json":
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Stderr())),
    )
    # Libraries log through the standard library; they come out in the same form.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    # A stream whose caller left is closed by another task than the one that opened its span. The span ends even so.
    logging.getLogger("opentelemetry.context").setLevel(logging.CRITICAL)
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, _number(settings.log_level)), force=True)


class _Stderr:
    """Standard error where a line may be lost but none fails its writer: a service outlives whoever read its logs."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level]


def _add_service(service: str) -> structlog.typing.Processor:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    return add


def _add_trace_id(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if current := trace_id():
        event["trace_id"] = current
    return event


def _start_traces(service: str, settings: CommonSettings) -> None:
    """Trace ids exist always, for logs and responses; spans leave the process only where an endpoint is set."""
    provider = TracerProvider(
        resource=Resource.create({"service.name": f"saccade-{service}"}),
        sampler=ParentBasedTraceIdRatio(settings.trace_ratio),
    )
    if settings.otlp_endpoint:
        insecure = not settings.otlp_endpoint.startswith("https://")
        provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=insecure))
        )
    trace.set_tracer_provider(provider)
