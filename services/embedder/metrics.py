"""What the embedder counts and times."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

__all__ = [
    "BATCH_SIZE",
    "BATCH_WAIT_SECONDS",
    "COMPUTE_SECONDS",
    "DECODE_SECONDS",
    "ITEM_ERRORS",
    "MODEL_READY",
    "QUEUE_DEPTH",
    "REFUSED",
]

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

QUEUE_DEPTH: Final = Gauge("saccade_embedder_queue_depth", "Items that wait for a model.", ["model", "lane"])
BATCH_SIZE: Final = Histogram(
    "saccade_embedder_batch_size", "Items computed at a time.", ["model", "kind"], buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
BATCH_WAIT_SECONDS: Final = Histogram(
    "saccade_embedder_batch_wait_seconds",
    "Time from an item's entry into a queue to the start of its computation.",
    ["model", "lane"],
    buckets=_SECONDS,
)
COMPUTE_SECONDS: Final = Histogram(
    "saccade_embedder_compute_seconds", "Time that a batch took in the model.", ["model", "kind"], buckets=_SECONDS
)
DECODE_SECONDS: Final = Histogram(
    "saccade_embedder_decode_seconds", "Time to decode and preprocess an image.", buckets=_SECONDS
)
ITEM_ERRORS: Final = Counter("saccade_embedder_item_errors_total", "Items that ended in an error.", ["reason"])
REFUSED: Final = Counter("saccade_embedder_refused_items_total", "Items refused because too many waited.", ["lane"])
MODEL_READY: Final = Gauge(
    "saccade_embedder_model_ready", "1 while the model answers its self-inference, else 0.", ["model"]
)
