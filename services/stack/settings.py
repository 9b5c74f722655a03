"""Settings of a stack on one machine: where it listens and where its data is.

Everything else (models, limits) is a setting of the services themselves, which inherit the environment.
"""

from pathlib import Path
from typing import Final, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from services.common.settings import Address, settings_config

__all__ = ["SERVICES", "GivenSettings", "StackSettings"]

SERVICES: Final = ("embedder", "ingest", "query", "gateway")

_ROOT: Final = Path(__file__).parents[2]


class StackSettings(BaseSettings):
    """Each is read from `SACCADE_<NAME>`."""

    model_config = settings_config("stack")

    data: Path = Field(Path(".saccade"), description="Folder of the stack's data")
    demo_dir: Path = Field(_ROOT / "demo", description="Folder of the gallery and the demo models")
    tools: Path = Field(_ROOT / ".tools", description="Folder that `make tools` fills")

    embedder_listen: Address = Field("127.0.0.1:50051", description="host:port of the embedder")
    ingest_listen: Address = Field("127.0.0.1:50052", description="host:port of ingest")
    query_listen: Address = Field("127.0.0.1:50053", description="host:port of query")
    gateway_listen: Address = Field("127.0.0.1:8080", description="host:port of REST and of the web page")
    embedder_metrics_listen: Address = Field("127.0.0.1:9101", description="host:port of its /metrics; empty: none")
    ingest_metrics_listen: Address = Field("127.0.0.1:9102", description="The same of ingest")
    query_metrics_listen: Address = Field("127.0.0.1:9103", description="The same of query")
    gateway_metrics_listen: Address = Field("127.0.0.1:9104", description="The same of the gateway")
    milvus_port: int = Field(19530, ge=1, le=65_535, description="Loopback port of the Milvus that is started")
    s3_port: int = Field(9000, ge=1, le=65_535, description="Loopback port of the MinIO that is started")
    auth: Literal["none", "keys", "keys+oidc"] = Field(
        "none", description="keys: only who has an API key may call; the stack makes one, and shows it"
    )
    keys_file: Path | None = Field(None, description="File of API keys; not set: keys.json in the data folder")
    public_url: str = Field("", description="The gateway's address for people; empty: made from gateway_listen")

    start_s: float = Field(120.0, gt=0, description="How long the stack may take to answer, in seconds")
    smoke_engines: Literal["lite", "real"] = Field(
        "lite",
        validation_alias="SMOKE_ENGINES",
        description="Of the smoke test. lite: milvus-lite and local objects; real: Milvus, MinIO",
    )


class GivenSettings(StackSettings):
    """The same from arguments and defaults alone: neither the environment nor files have a say."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the arguments."""
        return (init_settings,)
