"""Settings of the gateway; the docstring of `services.common.settings` says how they are read."""

import re
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from services.common.access.settings import AccessSettings, PeerSettings
from services.common.settings import Address, CommonSettings, ObjectSettings, settings_config, split_address

__all__ = ["GatewaySettings"]

KIB: Final = 1024
MIB: Final = 1024 * KIB

_HOST: Final = re.compile(r"\*|[a-z0-9_]+([.-]+[a-z0-9_]+)*")


def _names(hosts: str) -> list[str]:
    return [name for each in hosts.split(",") if (name := each.strip().lower())]


def _checked_hosts(hosts: str) -> str:
    for name in _names(hosts):
        if not _HOST.fullmatch(name):
            raise ValueError(f"needs names without scheme and port, such as pictures.example.org, not {name!r}")
    return hosts


class GatewaySettings(CommonSettings, ObjectSettings, AccessSettings, PeerSettings):
    """Where the gateway listens, whom it calls, and how much it takes."""

    model_config = settings_config("gateway")

    listen: Address = Field("127.0.0.1:8080", description="host:port of REST and of the web page")
    public_url: str = Field(
        "http://127.0.0.1:8080", description="The gateway's address for people, and in links to local objects"
    )
    allowed_hosts: Annotated[str, AfterValidator(_checked_hosts)] = Field(
        "",
        description="More names that it is reached by, joined by commas; requests by others than these, localhost, "
        "an IP address, and the hosts of listen and public_url get 421; *: any name",
    )
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
    idle_timeout_s: float = Field(
        60.0, gt=0, description="Longest wait for the next bytes of a body, or for an answer to be read on, in seconds"
    )
    body_timeout_s: float = Field(
        300.0, gt=0, description="Longest wait for all of a body; of images:stream, for one item; in seconds"
    )
    head_timeout_s: float = Field(20.0, gt=0, description="Longest wait for a request's line and headers, in seconds")
    keep_alive_s: float = Field(75.0, ge=1, description="How long an idle connection is kept, in seconds")
    max_head_bytes: int = Field(64 * KIB, ge=KIB, description="Longest line and headers of a request; more get 431")
    max_headers: int = Field(100, ge=16, description="Most headers of a request; more get 431")
    max_body_bytes: int = Field(64 * MIB, ge=1, description="Longest request body; of images:stream, one item's part")
    max_buffered_bytes: int = Field(
        512 * MIB, ge=1, description="Most bytes of bodies and local objects held at a time; more get 429"
    )
    max_connections: int = Field(
        1000, ge=1, description="Most connections at a time; idle ones are closed for new ones, then more get 503"
    )
    max_requests: int = Field(128, ge=1, description="Most API requests at a time; more get 429")
    max_requests_per_key: int = Field(
        64, ge=1, description="Most API requests at a time by one key or token; more get 429"
    )
    max_downloads: int = Field(128, ge=1, description="Most local objects sent at a time; more get 429")
    https_cert: str = Field(
        "", description="PEM file of the certificate and its chain that browsers see; empty: http. Read anew on change"
    )
    https_key: str = Field("", description="PEM file of its private key")
    drain_s: float = Field(20.0, ge=0, description="How long requests in flight may go on after SIGTERM, in seconds")

    @model_validator(mode="after")
    def _check_https(self) -> Self:
        if bool(self.https_cert) != bool(self.https_key):
            raise ValueError("https_cert and https_key need each other")
        return self

    @property
    def hosts(self) -> frozenset[str]:
        """The names that requests may be addressed to, in lower case; `*`: any."""
        own = (split_address(self.listen)[0], urlsplit(self.public_url).hostname or "", "localhost")
        return frozenset({*(name.lower() for name in own if name), *_names(self.allowed_hosts)})
