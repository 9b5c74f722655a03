"""What ingest counts and times."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import Counter, Gauge, Histogram

__all__ = ["IMAGES", "IN_FLIGHT", "JOBS", "PENDING", "stage"]

PENDING = Gauge(
    "saccade_ingest_pending_images", "Images acknowledged and not yet fully indexed, up to 10,000.", ["collection"]
)
IN_FLIGHT = Gauge("saccade_ingest_in_flight_images", "Images that this replica is indexing.")
JOBS = Gauge("saccade_ingest_jobs", "Jobs that this replica works on.")
IMAGES = Counter("saccade_ingest_images_total", "Images, by what became of them.", ["outcome"])
_STAGE_SECONDS = Histogram(
    "saccade_ingest_stage_seconds",
    "Time that one image spends in a stage, waits for a turn included.",
    ["stage"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time what happens inside."""
    started = perf_counter()
    try:
        yield
    finally:
        _STAGE_SECONDS.labels(name).observe(perf_counter() - started)
