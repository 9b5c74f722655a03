"""Settings of the gateway; the docstring of `services.common.settings` says how they are read."""

from typing import Final

from pydantic import Field

from services.common.settings import Address, CommonSettings, ObjectSettings, settings_config

__all__ = ["GatewaySettings"]

MIB: Final = 1024 * 1024


class GatewaySettings(CommonSettings, ObjectSettings):
    """Where the gateway listens, whom it calls, and how much it takes."""

    model_config = settings_config("gateway")

    listen: Address = Field("127.0.0.1:8080", description="host:port of REST and of the web page")
    metrics_listen: Address = Field("127.0.0.1:9104", description="host:port of /metrics; empty: none")
    embedder_address: str = Field("dns:///127.0.0.1:50051", description="gRPC target of the embedder")
    ingest_address: str = Field("dns:///127.0.0.1:50052", description="gRPC target of ingest")
    query_address: str = Field("dns:///127.0.0.1:50053", description="gRPC target of query")
    objects_url: str = Field(
        "", description="file:///folder of local objects, which are then served under /objects; else not needed"
    )
    default_timeout_s: float = Field(60.0, gt=0, description="A request's deadline where it sets none, in seconds")
    max_timeout_s: float = Field(600.0, gt=0, description="Longest deadline that a request may set, in seconds")
    stream_timeout_s: float = Field(3600.0, gt=0, description="Longest that one images:stream may take, in seconds")
    idle_timeout_s: float = Field(60.0, gt=0, description="Longest wait for the next bytes of a body, in seconds")
    max_body_bytes: int = Field(64 * MIB, ge=1, description="Longest request body; of images:stream, one item's part")
    max_buffered_bytes: int = Field(512 * MIB, ge=1, description="Most bytes of bodies held at a time; more get 429")
    max_requests: int = Field(128, ge=1, description="Most API requests at a time; more get 429")
    drain_s: float = Field(20.0, ge=0, description="How long requests in flight may go on after SIGTERM, in seconds")
