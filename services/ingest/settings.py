"""Every setting of ingest, with its meaning, unit and default."""

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

__all__ = ["IngestSettings"]

_PositiveInt = Annotated[int, Field(ge=1)]
_PositiveSeconds = Annotated[float, Field(gt=0)]


class IngestSettings(GrpcSettings, EmbedderPeer, VectorSettings, ObjectSettings, FetchSettings):
    """Settings of the ingest service; `SACCADE_INGEST_<FIELD>` or `SACCADE_<FIELD>`."""

    model_config = settings_config("ingest")

    listen: Address = Field("127.0.0.1:50052", description="host:port that calls come to")
    metrics_listen: Address = Field("127.0.0.1:9102", description="host:port of /metrics; empty: none")

    vocabulary: str = Field("general", description="Vocabulary of collections that name none")
    keep_location: bool = Field(
        False,
        description="Whether originals are kept with the places that their metadata tell, and with all other metadata",
    )
    thumbnail_px: int = Field(320, ge=32, le=2_048, description="Longer side of a thumbnail, in pixels")

    max_creates: _PositiveInt = Field(
        64, description="Most images being stored or waited for at a time; fewer while the process is too busy"
    )
    max_waiting: int = Field(
        16, ge=0, description="Most single calls that wait for their turn, in each lane; more are refused. Streams wait"
    )
    max_image_streams: _PositiveInt = Field(32, description="Most streams of images at a time; more are refused")
    bulk_beside_people: int = Field(
        0,
        ge=0,
        description="Most images of streams being stored at a time while people search; 0: one for two processor cores",
    )
    max_bytes_in_hand: int = Field(
        512 * 1024 * 1024,
        ge=128 * 1024 * 1024,
        description="Most bytes of images that are being stored: half for single calls, half for streams; more wait "
        "unread",
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

    jobs_at_once: _PositiveInt = Field(2, description="Jobs that one replica works on at a time")
    retire_s: float = Field(
        10.0, ge=0, description="How long a generation stays after it was live, for searches that began before"
    )
    repair_grace_s: float = Field(
        60.0, ge=0, description="A marker that nobody takes is looked into by a repair after so long"
    )
    import_root: str = Field("", description="Folder below which images may be imported; empty: none are")
    import_buckets: str = Field(
        "", description="Buckets of the S3 store that images may be imported from, divided by commas; empty: none"
    )
    import_concurrency: _PositiveInt = Field(8, description="Images that one import fetches and stores at a time")
    import_backlog: _PositiveInt = Field(
        1_000, description="An import waits while so many images of its collection are not fully indexed"
    )
    auto_reindex: bool = Field(
        True, description="Whether an index with nlist 0 is built anew by itself as its collection grows"
    )
    reindex_growth: float = Field(
        4.0, gt=1, description="It is built anew when its rows want so many times as many lists as it has"
    )
    measure_growth: float = Field(
        2.0, gt=1, description="An index is measured anew when it has so many times as many rows as at the last time"
    )
    measure_rows: _PositiveInt = Field(2_000, description="Rows from which on an index is measured at all")
    growth_check_s: _PositiveSeconds = Field(60.0, description="Pause between two looks at one collection's growth")
