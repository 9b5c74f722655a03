"""Settings that services share, and how every service's settings are read.

A service's settings are one frozen object, built once in its `__main__`. The field `listen` of the embedder comes from
`SACCADE_EMBEDDER_LISTEN`, or, where all services may share a value, from `SACCADE_LISTEN`; or from a file of that name
(lower case) in the folder that `SACCADE_SECRETS_DIR` names. Nothing else in the code reads the environment.
"""

import difflib
import os
import sys
from collections.abc import Mapping
from typing import Annotated, Final, Literal, NoReturn, TypeVar

from pydantic import AfterValidator, AliasChoices, AliasGenerator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.common.access.settings import AccessSettings, PeerSettings, TlsSettings
from services.common.fetch import FetchLimits
from services.common.images import ImageLimits

__all__ = [
    "Address",
    "CommonSettings",
    "EmbedderPeer",
    "FetchSettings",
    "GrpcSettings",
    "ImageSettings",
    "ObjectSettings",
    "VectorSettings",
    "load_settings",
    "settings_config",
    "split_address",
]

PREFIX: Final = "SACCADE_"
_MIB: Final = 1024 * 1024
# Names under a service's own prefix that its peers read: where it is, and how long they wait for it.
_PEER_FIELDS: Final = frozenset({"address", "timeout_s"})


def split_address(address: str) -> tuple[str, int]:
    """`host:port` as a pair; ValueError says what is wrong."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"needs host:port, such as 127.0.0.1:50051, not {address!r}")
    return host.strip("[]"), int(port)


def _checked_address(address: str) -> str:
    if address:
        split_address(address)
    return address


Address = Annotated[str, AfterValidator(_checked_address)]
"""`host:port`."""


def settings_config(service: str) -> SettingsConfigDict:
    """The reading rules above, for one service."""

    def names(field: str) -> AliasChoices:
        own, shared = f"{PREFIX}{service}_{field}".upper(), f"{PREFIX}{field}".upper()
        return AliasChoices(own, shared)

    return SettingsConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=AliasGenerator(validation_alias=names),
        populate_by_name=True,
        secrets_dir=os.environ.get(f"{PREFIX}SECRETS_DIR") or None,
        protected_namespaces=(),
    )


class CommonSettings(BaseSettings):
    """What every service has."""

    metrics_listen: Address = Field("", description="host:port of /metrics; empty: none")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe line logged")
    log_format: Literal["json", "console"] = Field("json", description="One JSON object a line, or lines for people")
    otlp_endpoint: str = Field("", description="OTLP/gRPC collector, such as http://collector:4317; empty: none")
    trace_ratio: float = Field(1.0, ge=0, le=1, description="Share of new traces that is recorded")


class GrpcSettings(CommonSettings, AccessSettings, TlsSettings):
    """What every gRPC service has."""

    listen: Address = Field(description="host:port that calls come to")
    reflection: bool = Field(True, description="Whether the contracts can be read from the server")
    max_call_s: float = Field(120.0, gt=0, description="Longest that a unary call may take, in seconds")
    max_streams: int = Field(
        256, ge=1, description="Most calls of one connection at a time; a client waits with more until others end"
    )
    drain_s: float = Field(20.0, ge=0, description="How long calls in flight may go on after SIGTERM, in seconds")
    max_connection_age_s: float = Field(300.0, gt=0, description="Clients connect anew after this, in seconds")


class EmbedderPeer(PeerSettings):
    """Where the embedder is."""

    embedder_address: str = Field("dns:///127.0.0.1:50051", description="gRPC target of the embedder")
    embedder_timeout_s: float = Field(60.0, gt=0, description="Longest wait for one embedder call, in seconds")


class ImageSettings(BaseSettings):
    """What an image may be."""

    max_image_bytes: int = Field(32 * _MIB, ge=1, le=64 * _MIB, description="Most bytes in one image")
    max_image_pixels: int = Field(100_000_000, ge=64, description="Most pixels in one image")
    max_image_frames: int = Field(1_000, ge=1, description="Most frames in one image; only the first is used")

    @property
    def image_limits(self) -> ImageLimits:
        """The same, for those who read images."""
        return ImageLimits(
            max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels, max_frames=self.max_image_frames
        )


class FetchSettings(ImageSettings):
    """What fetching an image from an address may cost."""

    allow_private_urls: bool = Field(
        False, description="Whether addresses in private networks are fetched; only where every caller is trusted"
    )
    fetch_timeout_s: float = Field(20.0, gt=0, description="Longest that fetching one address may take")
    fetch_redirects: int = Field(5, ge=0, le=20, description="Most redirects that are followed")
    fetch_ports: str = Field(
        "80,443",
        pattern=r"^\d{1,5}(,\d{1,5})*$",
        description="Ports that addresses are fetched from, divided by commas; any where private addresses are fetched",
    )

    @property
    def fetch_limits(self) -> FetchLimits:
        """The same, for those who fetch."""
        return FetchLimits(
            max_bytes=self.max_image_bytes,
            timeout_s=self.fetch_timeout_s,
            max_redirects=self.fetch_redirects,
            ports=None if self.allow_private_urls else frozenset(map(int, self.fetch_ports.split(","))),
        )


class VectorSettings(BaseSettings):
    """Where Milvus is."""

    milvus_uri: str = Field("http://127.0.0.1:19530", description="Address of Milvus or of milvus-lite's server")
    milvus_token: SecretStr = Field(SecretStr(""), description="user:password or an API key; empty: none")
    milvus_timeout_s: float = Field(20.0, gt=0, description="Longest wait for one Milvus call, in seconds")
    milvus_concurrency: int = Field(16, ge=1, description="Most Milvus calls at a time; more wait their turn")


class ObjectSettings(BaseSettings):
    """Where the images are kept."""

    objects_url: str = Field(
        description="s3://bucket[/prefix] for an S3-compatible store, or file:///folder for a local one"
    )
    s3_endpoint: str = Field("http://127.0.0.1:9000", description="http(s)://host:port of the S3-compatible store")
    s3_public_endpoint: str = Field("", description="The same as browsers reach it, for presigned URLs; empty: alike")
    s3_region: str = Field("us-east-1", description="Its region")
    s3_access_key: SecretStr = Field(SecretStr(""), description="Its access key")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="Its secret key")
    s3_create_bucket: bool = Field(False, description="Whether to make the bucket if it is not there")
    objects_timeout_s: float = Field(20.0, gt=0, description="Longest wait for one object, in seconds")
    objects_concurrency: int = Field(32, ge=1, description="Most object calls at a time; more wait their turn")
    public_url: str = Field("http://127.0.0.1:8080", description="The gateway's address for people; local objects only")
    url_expiry_s: int = Field(3600, ge=1, le=604_800, description="How long a presigned URL is good, in seconds")


_S = TypeVar("_S", bound=BaseSettings)


def load_settings(kind: type[_S], service: str, environ: Mapping[str, str] | None = None) -> _S:
    """Build a service's settings, or stop the process with a sentence for each thing that is wrong.

    With `--help` among the process's arguments, list every setting and stop.
    """
    if "--help" in sys.argv[1:]:
        sys.stdout.write(_help(kind, service))
        sys.exit(0)
    try:
        settings = kind()
    except ValidationError as exc:
        # What is wrong with several together stands nowhere.
        lines = [f"  {': '.join([*map(str, error['loc'][:1]), error['msg']])}" for error in exc.errors()]
        _stop(service, lines)
    unknown = _unknown(type(settings), service, os.environ if environ is None else environ)
    if unknown:
        _stop(service, unknown)
    return settings


def _help(kind: type[BaseSettings], service: str) -> str:
    lines = [f"python -m services.{service}: settings, from the environment or from files in SACCADE_SECRETS_DIR", ""]
    for name, field in sorted(kind.model_fields.items()):
        default = "needed" if field.is_required() else f"default {field.get_default(call_default_factory=True)!s}"
        lines.append(f"  {PREFIX}{name.upper()}\n      {field.description or ''} ({default.strip()})")
    lines += [
        "",
        f"Each can also be set for this service alone, as {PREFIX}{service.upper()}_...; that one goes first.",
    ]
    return "\n".join([*lines, ""])


def _unknown(kind: type[BaseSettings], service: str, environ: Mapping[str, str]) -> list[str]:
    own = f"{PREFIX}{service}_".upper()
    known = {f"{own}{field}".upper() for field in {*kind.model_fields, *_PEER_FIELDS}}
    lines = []
    for name in sorted(environ):
        if name.startswith(own) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            lines.append(f"  {name}: no such setting{hint}")
    return lines


def _stop(service: str, lines: list[str]) -> NoReturn:
    sys.exit("\n".join([f"saccade {service}: settings are wrong or missing:", *lines]))
