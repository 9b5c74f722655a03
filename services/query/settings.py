"""Every setting of query, with its meaning, unit and default."""

from typing import Annotated

from pydantic import Field

from services.common.settings import (
    Address,
    EmbedderPeer,
    FetchSettings,
    GrpcSettings,
    ObjectSettings,
    VectorSettings,
    settings_config,
)

__all__ = ["QuerySettings"]

_PositiveInt = Annotated[int, Field(ge=1)]
_PositiveSeconds = Annotated[float, Field(gt=0)]


class QuerySettings(GrpcSettings, EmbedderPeer, VectorSettings, ObjectSettings, FetchSettings):
    """Settings of the query service; `SACCADE_QUERY_<FIELD>` or `SACCADE_<FIELD>`."""

    model_config = settings_config("query")

    listen: Address = Field("127.0.0.1:50053", description="host:port that calls come to")
    metrics_listen: Address = Field("127.0.0.1:9103", description="host:port of /metrics; empty: none")

    vocabulary: str = Field("general", description="Vocabulary of collections that name none")

    max_searches: _PositiveInt = Field(
        16, description="Most calls worked on at a time; fewer while the process is too busy"
    )
    max_waiting: int = Field(
        64,
        ge=0,
        description="Most calls that wait for their turn, in each lane; a few while the queue stands. More are refused",
    )
    calibrations_dir: str = Field(
        "", description="Folder of calibrations that benchmarks.tune_ranking wrote, beside those shipped; empty: none"
    )
    collection_ttl_s: _PositiveSeconds = Field(2.0, description="How long what is known of a collection is trusted")
