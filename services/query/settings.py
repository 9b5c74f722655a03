"""Every setting of query, with its meaning, unit and default."""

from typing import Annotated

from pydantic import Field

from services.common.fetch import FetchLimits
from services.common.images import ImageLimits
from services.common.settings import (
    Address,
    EmbedderPeer,
    GrpcSettings,
    ObjectSettings,
    VectorSettings,
    settings_config,
)

__all__ = ["QuerySettings"]

_PositiveInt = Annotated[int, Field(ge=1)]
_PositiveSeconds = Annotated[float, Field(gt=0)]


class QuerySettings(GrpcSettings, EmbedderPeer, VectorSettings, ObjectSettings):
    """Settings of the query service; `SACCADE_QUERY_<FIELD>` or `SACCADE_<FIELD>`."""

    model_config = settings_config("query")

    listen: Address = Field("127.0.0.1:50053", description="host:port that calls come to")
    metrics_listen: Address = Field("127.0.0.1:9103", description="host:port of /metrics; empty: none")

    vocabulary: str = Field("general", description="Vocabulary of collections that name none")

    max_image_bytes: _PositiveInt = Field(32 * 1024 * 1024, le=64 * 1024 * 1024, description="Most bytes in one image")
    max_image_pixels: _PositiveInt = Field(100_000_000, description="Most pixels in one image")
    max_image_frames: _PositiveInt = Field(1_000, description="Most frames in one animation")

    allow_private_urls: bool = Field(
        False, description="Whether addresses in private networks are fetched; only where every caller is trusted"
    )
    fetch_timeout_s: _PositiveSeconds = Field(20.0, description="Longest that fetching one address may take")
    fetch_redirects: int = Field(5, ge=0, le=20, description="Most redirects that are followed")

    max_searches: _PositiveInt = Field(16, description="Calls worked on at a time; more wait their turn")
    max_waiting: int = Field(64, ge=0, description="Calls that wait for their turn; more are refused for the moment")
    count_patience_s: _PositiveSeconds = Field(
        0.5, description="How long counting what a filter passes may take; beyond, the plan says that it is not known"
    )
    collection_ttl_s: _PositiveSeconds = Field(2.0, description="How long what is known of a collection is trusted")

    @property
    def image_limits(self) -> ImageLimits:
        """What an image may be."""
        return ImageLimits(
            max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels, max_frames=self.max_image_frames
        )

    @property
    def fetch_limits(self) -> FetchLimits:
        """What fetching one address may cost."""
        return FetchLimits(
            max_bytes=self.max_image_bytes, timeout_s=self.fetch_timeout_s, max_redirects=self.fetch_redirects
        )
