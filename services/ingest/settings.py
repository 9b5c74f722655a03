"""Every setting of ingest, with its meaning, unit and default."""

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

__all__ = ["IngestSettings"]

_PositiveInt = Annotated[int, Field(ge=1)]
_PositiveSeconds = Annotated[float, Field(gt=0)]


class IngestSettings(GrpcSettings, EmbedderPeer, VectorSettings, ObjectSettings):
    """Settings of the ingest service; `SACCADE_INGEST_<FIELD>` or `SACCADE_<FIELD>`."""

    model_config = settings_config("ingest")

    listen: Address = Field("127.0.0.1:50052", description="host:port that calls come to")
    metrics_listen: Address = Field("127.0.0.1:9102", description="host:port of /metrics; empty: none")

    vocabulary: str = Field("general", description="Vocabulary of collections that name none")
    thumbnail_px: int = Field(320, ge=32, le=2_048, description="Longer side of a thumbnail, in pixels")

    max_image_bytes: _PositiveInt = Field(32 * 1024 * 1024, le=64 * 1024 * 1024, description="Most bytes in one image")
    max_image_pixels: _PositiveInt = Field(100_000_000, description="Most pixels in one image")
    max_image_frames: _PositiveInt = Field(1_000, description="Most frames in one animation")

    allow_private_urls: bool = Field(
        False, description="Whether addresses in private networks are fetched; only where every caller is trusted"
    )
    fetch_timeout_s: _PositiveSeconds = Field(20.0, description="Longest that fetching one address may take")
    fetch_redirects: int = Field(5, ge=0, le=20, description="Most redirects that are followed")

    max_creates: _PositiveInt = Field(
        64, description="Images being stored or waited for at a time; single calls beyond are refused, streams wait"
    )
    stream_window: _PositiveInt = Field(16, description="Images of one stream at work at a time")
    decode_workers: _PositiveInt = Field(2, description="Threads that decode images for checks and thumbnails")
    max_in_flight: _PositiveInt = Field(
        64, description="Images on the way to be searchable with nobody waiting; more stay marked until there is room"
    )
    max_segmenting: _PositiveInt = Field(
        32, description="Images on the way to their segments with nobody waiting; more stay marked until there is room"
    )
    embed_concurrency: _PositiveInt = Field(16, description="Embedding calls at a time, in each lane")
    analyze_concurrency: _PositiveInt = Field(4, description="Segmenting calls at a time, in each lane")
    patience_s: _PositiveSeconds = Field(
        30.0, description="How long an overloaded dependency is retried before the image is put back"
    )
    outage_patience_s: _PositiveSeconds = Field(
        5.0, description="How long a dependency that does not answer is retried before the image is put back"
    )

    lease_s: _PositiveSeconds = Field(15.0, description="After this without renewal others take over an image")
    scan_s: _PositiveSeconds = Field(3.0, description="Pause between two looks for interrupted work")
    backoff_s: _PositiveSeconds = Field(2.0, description="Pause before an image's second attempt; it doubles")
    max_backoff_s: _PositiveSeconds = Field(300.0, description="Longest pause between two attempts")
    index_drain_s: float = Field(10.0, ge=0, description="How long images in flight may go on after the last call")
    collection_ttl_s: _PositiveSeconds = Field(1.0, description="How long what is known of a collection is trusted")

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
